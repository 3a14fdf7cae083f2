// Why a Pod reaches another, or does not: what the cluster tells of both ends, of policies and of a packet that was sent, as
// findings in words, and the one that decides. `antctl explain` does the same with more: it asks the agents themselves.
import { AgentRow, compare, ObjectName } from './rows';
import { End, TraceSpec, TraceView } from './trace';

/** How it ends. A verdict outweighs those before it. */
export type Answer = 'allowed' | 'unknown' | 'denied' | 'broken';

const ORDER: Answer[] = ['allowed', 'unknown', 'denied', 'broken'];

export interface Finding {
  check: string;
  result: 'ok' | 'note' | 'unknown' | 'denied' | 'broken';
  detail: string;
  /** What to do about it. */
  advice?: string;
}

export interface Explanation {
  verdict: Answer;
  /** The finding that decides. */
  reason: string;
  findings: Finding[];
}

/** What was asked for: there, not there (null), or why it cannot be had. */
export type Asked<T> = { value: T | null; problem?: undefined } | { problem: string };

export interface PodObject {
  metadata?: { name?: string; namespace?: string; deletionTimestamp?: string };
  spec?: { nodeName?: string; hostNetwork?: boolean };
  status?: {
    phase?: string;
    podIP?: string;
    conditions?: { type?: string; status?: string; reason?: string; message?: string }[];
  };
}

export interface ServiceObject {
  spec?: { type?: string; selector?: Record<string, string> | null };
}

export interface SliceObject {
  endpoints?:
    | {
        conditions?: { ready?: boolean | null };
        targetRef?: { kind?: string; namespace?: string; name?: string } | null;
      }[]
    | null;
}

/** The answer to a NetworkPolicyEvaluation. */
export interface EvaluationObject {
  response?: {
    networkPolicy?: { type?: string; namespace?: string; name?: string };
    /** Negative: it isolates, and none of its rules allows. */
    ruleIndex?: number;
    rule?: { direction?: string; name?: string; action?: string | null };
  } | null;
}

export interface ExplainInput {
  spec: TraceSpec;
  source: Asked<PodObject>;
  /** Where the destination is a Pod. */
  pod?: Asked<PodObject>;
  /** Where it is a Service. */
  service?: Asked<ServiceObject>;
  slices?: Asked<SliceObject[]>;
  agents: Asked<AgentRow[]>;
  /** Between two Pods. */
  evaluation?: Asked<EvaluationObject>;
  /** Of the packet that was sent; null until there is one. */
  trace: Asked<TraceView>;
}

function found(check: string, result: Finding['result'], detail: string, advice?: string): Finding {
  return advice ? { check, result, detail, advice } : { check, result, detail };
}

function unknown(check: string, what: string, problem: string): Finding {
  return found(check, 'unknown', `${what} cannot be read: ${problem}`);
}

/** Who that is, for people. */
export function endText({ namespace, pod, service, ip }: End): string {
  if (service) return `Service ${namespace}/${service}`;
  return pod ? `${namespace}/${pod}` : ip ?? '';
}

/** What becomes of the packet, and why, as far as it is known yet. */
export function explanationOf(input: ExplainInput): Explanation {
  const { source = {}, destination = {} } = input.spec;
  const findings = [
    ...podFindings('source', endText(source), input.source),
    ...(input.pod ? podFindings('destination', endText(destination), input.pod) : []),
    ...serviceFindings(endText(destination), input),
    ...agentFindings(input),
    ...policyFindings(input),
    ...traceFindings(input),
  ];
  const isOf = (answer: Answer) => (one: Finding) =>
    (one.result === 'ok' || one.result === 'note' ? 'allowed' : one.result) === answer;
  const verdict = [...ORDER].reverse().find(answer => findings.some(isOf(answer))) ?? 'unknown';
  const decides = findings.find(isOf(verdict));
  const reason =
    verdict === 'allowed'
      ? 'policies allow it, and nothing is wrong that could be seen'
      : decides?.detail ?? 'nothing is known yet';
  return { verdict, reason, findings };
}

function podFindings(check: string, name: string, asked: Asked<PodObject>): Finding[] {
  if (asked.problem !== undefined) return [unknown(check, `Pod ${name}`, asked.problem)];
  const pod = asked.value;
  if (!pod) return [found(check, 'broken', `there is no Pod ${name}`)];
  const { metadata = {}, spec = {}, status = {} } = pod;
  const describe = `kubectl -n ${metadata.namespace} describe pod ${metadata.name}`;
  if (!spec.nodeName) return [found(check, 'broken', `${name} is on no Node yet`, describe)];
  if (status.phase === 'Succeeded' || status.phase === 'Failed') {
    return [found(check, 'broken', `${name} has ended (${status.phase})`, describe)];
  }
  if (!status.podIP) {
    return [found(check, 'broken', `${name} has no address yet (${status.phase})`, describe)];
  }
  const where = `${name} (${status.podIP}) on ${spec.nodeName}`;
  const ready = status.conditions?.find(one => one.type === 'Ready');
  const isSource = check === 'source';
  const findings: Finding[] = [];
  if (ready?.status !== 'True') {
    const why = ready?.message || ready?.reason || 'nobody has said that it is';
    const text = `${where} is not ready: ${why}`;
    // Who is not ready may send all the same.
    findings.push(
      found(check, isSource ? 'note' : 'broken', text, isSource ? undefined : describe)
    );
  } else if (metadata.deletionTimestamp) {
    findings.push(found(check, 'note', `${where} is being deleted`));
  } else {
    findings.push(found(check, 'ok', `${where} is ready`));
  }
  if (spec.hostNetwork) {
    findings.push(
      found(check, 'note', `${name} uses the network of its Node: no policy selects it`)
    );
  }
  return findings;
}

function serviceFindings(name: string, { service, slices }: ExplainInput): Finding[] {
  if (!service) return [];
  if (service.problem !== undefined) return [unknown('service', name, service.problem)];
  if (!service.value) return [found('service', 'broken', `there is no ${name}`)];
  if (service.value.spec?.type === 'ExternalName') {
    return [found('service', 'note', `${name} is a name for somebody outside`)];
  }
  if (!slices) return [];
  if (slices.problem !== undefined) {
    return [unknown('service', `endpoints of ${name}`, slices.problem)];
  }
  const all = (slices.value ?? []).flatMap(slice => slice.endpoints ?? []);
  const ready = all.filter(one => one.conditions?.ready !== false).length;
  const others = all.length - ready;
  if (ready > 0) {
    return [found('service', 'ok', `${name} has ${ready} ready endpoints, ${others} others`)];
  }
  if (others > 0) {
    return [found('service', 'broken', `${name} has no ready endpoint; ${others} are not ready`)];
  }
  const selects = Object.keys(service.value.spec?.selector ?? {}).length > 0;
  return [
    selects
      ? found(
          'service',
          'broken',
          `${name} has no endpoint: its selector takes no Pod`,
          'compare the selector of the Service with the labels of Pods'
        )
      : found(
          'service',
          'broken',
          `${name} has no endpoint, and no selector that would find one`,
          'make an EndpointSlice for it, or give it a selector'
        ),
  ];
}

/** Nodes that have a part in it, as far as they are known. */
function nodesOf({ source, pod, trace }: ExplainInput): string[] {
  const ofPods = [source, pod].flatMap(asked =>
    asked && asked.problem === undefined ? asked.value?.spec?.nodeName ?? [] : []
  );
  const ofTrace = trace.problem === undefined ? trace.value?.hops.map(hop => hop.node) ?? [] : [];
  return [...new Set([...ofPods, ...ofTrace])].filter(Boolean).sort(compare);
}

function agentFindings(input: ExplainInput): Finding[] {
  const { agents } = input;
  if (agents.problem !== undefined) {
    return [unknown('agent', 'how the agents are', agents.problem)];
  }
  return nodesOf(input).map(node => {
    const row = agents.value?.find(agent => (agent.node || agent.name) === node);
    if (!row) return found('agent', 'broken', `no agent has run on ${node} yet`);
    const { verdict, reason } = row.health;
    switch (verdict) {
      case 'Healthy':
        return found('agent', 'ok', `the agent of ${node} is healthy`);
      case 'Degraded':
        return found('agent', 'note', `the agent of ${node} is degraded: ${reason}`);
      case 'Unknown':
        return found('agent', 'unknown', `how the agent of ${node} is, is not known: ${reason}`);
      default: {
        const is = verdict === 'Stale' ? 'silent' : 'not healthy';
        const advice = `kubectl -n kube-system get pods -l component=antrea-agent -o wide; see the log of that on ${node}`;
        return found('agent', 'broken', `the agent of ${node} is ${is}: ${reason}`, advice);
      }
    }
  });
}

const DIRECTIONS: Record<string, string> = { In: 'ingress', Out: 'egress' };

function policyFindings({ spec, evaluation }: ExplainInput): Finding[] {
  if (!evaluation) return [];
  if (evaluation.problem !== undefined) {
    return [unknown('policy', 'what policies decide', evaluation.problem)];
  }
  if (!evaluation.value) return [];
  const answer = evaluation.value.response;
  if (!answer?.networkPolicy) {
    return [found('policy', 'ok', 'no rule decides about this: it is allowed')];
  }
  const { type = '', namespace, name } = answer.networkPolicy;
  const kind = type.replace(/^K8s/, '').replace(/^Antrea/, '');
  const policy = `${kind} ${namespace ? `${namespace}/` : ''}${name}`;
  const direction = DIRECTIONS[answer.rule?.direction ?? ''] ?? '';
  const index = answer.ruleIndex ?? 0;
  if (index < 0) {
    const subject = endText((direction === 'egress' ? spec.source : spec.destination) ?? {});
    return [
      found(
        'policy',
        'denied',
        `${policy} isolates ${subject} for ${direction}, and no rule is about the other end`,
        `if it is meant to be allowed: a NetworkPolicy that selects ${subject} has to have an ${direction} rule for it`
      ),
    ];
  }
  const rule = `${policy}, ${direction} rule ${index}${
    answer.rule?.name ? ` (${answer.rule.name})` : ''
  },`;
  const action = answer.rule?.action ?? 'Allow';
  // Rules may be about single ports, of which the question says nothing: the packet shows.
  if (action === 'Allow' || action === 'Pass') {
    return [found('policy', 'ok', `${rule} allows it, as far as its ports are these`)];
  }
  const verb = action === 'Reject' ? 'rejects' : 'drops';
  return [found('policy', 'note', `${rule} ${verb} what is for its ports`)];
}

function traceFindings({ trace, evaluation }: ExplainInput): Finding[] {
  const check = 'packet sent';
  if (trace.problem !== undefined) {
    return [found(check, 'unknown', `none was sent: ${trace.problem}`)];
  }
  if (!trace.value) return [];
  const { outcome, ended, hops } = trace.value;
  if (!ended) return [found(check, 'unknown', outcome.text)];
  const dropped = hops.flatMap(hop => hop.steps).find(step => step.dropped);
  if (dropped?.title.startsWith('NetworkPolicy')) {
    return [
      found(check, 'denied', outcome.text, 'change that policy, or allow it by one before it'),
    ];
  }
  if (dropped) {
    const advice = 'antctl explain says more of that Node; see the log of its agent';
    return [found(check, 'broken', outcome.text, advice)];
  }
  if (outcome.status === 'success') {
    const denied =
      evaluation?.problem === undefined && (evaluation?.value?.response?.ruleIndex ?? 0) < 0;
    return denied
      ? [
          found(
            check,
            'broken',
            `${outcome.text} Policies do not allow that: the Nodes have others than the controller has computed.`,
            'see on the pages of these policies what Nodes have realized'
          ),
        ]
      : [found(check, 'ok', outcome.text)];
  }
  return [
    found(
      check,
      'broken',
      outcome.text,
      'antctl explain asks the Nodes themselves: for routes, neighbours, tunnels and rules'
    ),
  ];
}

/** Whether both ends are Pods, of which the controller can be asked. */
export function isBetweenPods({ source, destination }: TraceSpec): boolean {
  return Boolean(source?.pod && destination?.pod);
}

/** A Pod's name as an end. */
export function podName({ namespace = '', pod = '' }: End): ObjectName {
  return { namespace, name: pod };
}
