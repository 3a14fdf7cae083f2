// What nodes made of policies: the computed policies of controlplane.antrea.io/v1beta2 and what agents report of them.
import { Health } from './health';
import { compare, ObjectName } from './rows';

/** A computed policy, by the fields that are shown. Its name is the UID of the policy that it comes from. */
export interface ComputedPolicy {
  metadata: { name: string; generation?: number };
  rules?: {
    direction?: string;
    appliedToGroups?: string[];
  }[];
  appliedToGroups?: string[];
  sourceRef?: { type?: string; namespace?: string; name?: string; uid?: string };
}

/** What agents report of a computed policy. */
export interface ComputedStatus {
  nodes?: {
    nodeName?: string;
    generation?: number;
    realizationFailure?: boolean;
    message?: string;
  }[];
}

/** Members of an AppliedToGroup. */
export interface AppliedToGroup {
  metadata: { name: string };
  groupMembers?: { pod?: { namespace?: string; name?: string } }[];
}

export interface PolicyRow {
  /** Name of the computed policy. */
  uid: string;
  /** Kind of the policy that it comes from. */
  kind: string;
  source: ObjectName;
  generation: number;
  ingress: number;
  egress: number;
}

/** What one node says. */
export interface NodeRealization {
  node: string;
  generation: number;
  state: 'Realized' | 'Behind' | 'Failed';
  message: string;
}

/** What all nodes that have reported say together. */
export interface Realization {
  health: Health;
  nodes: NodeRealization[];
}

/** How upstream calls the kinds that policies come from, and how their own API does. */
const KINDS: Record<string, string> = { K8sNetworkPolicy: 'NetworkPolicy' };

export function policyRow(policy: ComputedPolicy): PolicyRow {
  const { type = '', namespace = '', name = '' } = policy.sourceRef ?? {};
  const rules = policy.rules ?? [];
  return {
    uid: policy.metadata.name,
    kind: KINDS[type] ?? type,
    source: { namespace, name },
    generation: policy.metadata.generation ?? 0,
    ingress: rules.filter(rule => rule.direction === 'In').length,
    egress: rules.filter(rule => rule.direction === 'Out').length,
  };
}

/** By namespace and name. */
export function policyRows(policies: ComputedPolicy[]): PolicyRow[] {
  const rows = policies.map(policyRow);
  return rows.sort(
    (a, b) =>
      compare(a.source.namespace, b.source.namespace) ||
      compare(a.source.name, b.source.name) ||
      compare(a.kind, b.kind)
  );
}

/** What the nodes made of `generation` of a policy. */
export function realizationOf(generation: number, status: ComputedStatus): Realization {
  const nodes = (status.nodes ?? []).map((one): NodeRealization => {
    const own = one.generation ?? 0;
    const state = one.realizationFailure ? 'Failed' : own < generation ? 'Behind' : 'Realized';
    return { node: one.nodeName ?? '', generation: own, state, message: one.message ?? '' };
  });
  nodes.sort((a, b) => compare(a.node, b.node));
  const count = (state: NodeRealization['state']) =>
    nodes.filter(one => one.state === state).length;
  const health = ((): Health => {
    if (nodes.length === 0) {
      return { verdict: 'Unknown', reason: 'no node has reported: it may select no pods' };
    }
    if (count('Failed') > 0) {
      return {
        verdict: 'Unhealthy',
        reason: `failed on ${count('Failed')} of ${nodes.length} nodes`,
      };
    }
    if (count('Behind') > 0) {
      return {
        verdict: 'Degraded',
        reason: `older on ${count('Behind')} of ${nodes.length} nodes`,
      };
    }
    return { verdict: 'Healthy', reason: '' };
  })();
  return { health, nodes };
}

/** The policies of which some rule applies to the pod, of what the controller computed for the pod's node. */
export function policiesOf(
  pod: ObjectName,
  groups: AppliedToGroup[],
  policies: ComputedPolicy[]
): PolicyRow[] {
  const own = new Set<string>();
  for (const { metadata, groupMembers = [] } of groups) {
    const isMember = groupMembers.some(
      member => member.pod?.namespace === pod.namespace && member.pod?.name === pod.name
    );
    if (isMember) own.add(metadata.name);
  }
  return policyRows(
    policies.filter(policy => {
      const names = [policy, ...(policy.rules ?? [])].flatMap(one => one.appliedToGroups ?? []);
      return names.some(name => own.has(name));
    })
  );
}
