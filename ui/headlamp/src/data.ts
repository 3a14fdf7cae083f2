// What the pages read, through Headlamp's connection to the cluster and with the user's own rights.
import { ApiProxy, K8s } from '@kinvolk/headlamp-plugin/lib';
import { makeCustomResourceClass } from '@kinvolk/headlamp-plugin/lib/Crd';
import { useEffect, useMemo, useState } from 'react';
import { AntreaAgentInfo, AntreaControllerInfo, AntreaInstallation } from './crds';
import { View, viewOf } from './model';
import { configuredGates, GateRow, gateRows } from './model/gates';
import { Health } from './model/health';
import {
  AppliedToGroup,
  ComputedPolicy,
  ComputedStatus,
  policiesOf,
  PolicyRow,
  policyRow,
  policyRows,
  Realization,
  realizationOf,
} from './model/realization';
import { AgentPod, RolloutView, rolloutView } from './model/rollout';
import { ObjectName } from './model/rows';
import { Kind, KINDS, Statistics, statisticsOf, StatsObject } from './model/statistics';

/** Milliseconds between two looks. Heartbeats come once a minute, and are stale after three. */
export const INTERVAL = 20_000;

/** How many objects of a kind are read at most. */
export const MOST = 5_000;

const CONTROLPLANE = '/apis/controlplane.antrea.io/v1beta2';

/** Where Antrea runs, and its configuration. */
export const NAMESPACE = 'kube-system';
export const CONFIGURATION = 'antrea-config';

function classOf(group: string, version: string, kind: string, singularName: string) {
  const pluralName = `${singularName}s`;
  const apiInfo = [{ group, version }];
  return makeCustomResourceClass({
    apiInfo,
    kind,
    singularName,
    pluralName,
    isNamespaced: false,
  });
}

const ControllerInfo = classOf(
  'crd.antrea.io',
  'v1beta1',
  'AntreaControllerInfo',
  'antreacontrollerinfo'
);
const AgentInfo = classOf('crd.antrea.io', 'v1beta1', 'AntreaAgentInfo', 'antreaagentinfo');
const Installation = classOf(
  'operator.antrea.io',
  'v1alpha1',
  'AntreaInstallation',
  'antreainstallation'
);

interface Failure {
  status?: number;
  message?: string;
}

/** What was read, with what could not be. */
export interface Read<T> {
  data: T;
  problems: string[];
  loading: boolean;
}

/** The present, in milliseconds since 1970: verdicts go by the age of heartbeats also when nothing is read. */
export function useNow(): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), INTERVAL / 2);
    return () => clearInterval(timer);
  }, []);
  return now;
}

function told(what: string, error: Failure | null): string[] {
  if (!error) return [];
  const why =
    error.status === 404 ? 'this cluster does not serve them' : error.message || 'no answer';
  return [`${what} cannot be read: ${why}`];
}

/** The objects as the API server sent them, once they are there. */
function raw<T>(list: { jsonData: unknown }[] | null): T[] {
  return (list ?? []).map(object => object.jsonData as T);
}

/** Controller, agents and installation. */
export function useView(): Read<View> {
  const now = useNow();
  const [controllers, controllerError] = ControllerInfo.useList({ refetchInterval: INTERVAL });
  const [agents, agentError] = AgentInfo.useList({ refetchInterval: INTERVAL });
  const [installations, installationError] = Installation.useList({ refetchInterval: INTERVAL });
  const data = useMemo(
    () =>
      viewOf({
        now,
        controller: raw<AntreaControllerInfo>(controllers)[0],
        agents: raw<AntreaAgentInfo>(agents),
        installation: raw<AntreaInstallation>(installations)[0],
      }),
    [now, controllers, agents, installations]
  );
  // What is not served is not there; what may not be read may well be, in whatever state.
  const isHidden = [controllerError, agentError].some(error => error && error.status !== 404);
  const isSilent = data.controller === null || data.agents.length === 0;
  const reason = 'not all that tells of it can be read';
  const health: Health = isHidden && isSilent ? { verdict: 'Unknown', reason } : data.health;
  // Antrea can be installed without the operator, whose definition is then not there.
  const ofInstallation = installationError?.status === 404 ? null : installationError;
  return {
    data: { ...data, health },
    problems: [
      ...told('AntreaControllerInfos', controllerError),
      ...told('AntreaAgentInfos', agentError),
      ...told('AntreaInstallations', ofInstallation),
    ],
    loading: (!controllers && !controllerError) || (!agents && !agentError),
  };
}

/** The installation as it is, for the fields that the view model does not have. */
export function useInstallation(): AntreaInstallation | undefined {
  const [installations] = Installation.useList({ refetchInterval: INTERVAL });
  return raw<AntreaInstallation>(installations)[0];
}

/** Annotation of a Pod template and its Pods: hash of the template. */
const REVISION = 'operator.antrea.io/revision';

interface Annotated {
  metadata?: { annotations?: Record<string, string> };
}

interface PodObject extends Annotated {
  metadata?: Annotated['metadata'] & { deletionTimestamp?: string };
  spec?: { nodeName?: string };
}

interface NodeObject {
  metadata?: { name?: string; labels?: Record<string, string> };
}

function podsOf(list: List<PodObject>): AgentPod[] {
  const kept = (list.items ?? []).filter(pod => !pod.metadata?.deletionTimestamp);
  return kept.map(({ metadata, spec }) => ({
    node: spec?.nodeName ?? '',
    revision: metadata?.annotations?.[REVISION] ?? '',
  }));
}

function labelsOf(list: List<NodeObject>): Record<string, Record<string, string>> {
  const items = list.items ?? [];
  return Object.fromEntries(
    items.map(({ metadata }) => [metadata?.name ?? '', metadata?.labels ?? {}])
  );
}

/** How far a change of this installation is, Node by Node, and what is planned. */
export function useRollout(installation: AntreaInstallation): Read<RolloutView> {
  const pods = useAnswer<List<PodObject>>(
    `/api/v1/namespaces/${NAMESPACE}/pods?labelSelector=app%3Dantrea%2Ccomponent%3Dantrea-agent&limit=${MOST}`
  );
  const set = useAnswer<{ spec?: { template?: Annotated } }>(
    `/apis/apps/v1/namespaces/${NAMESPACE}/daemonsets/antrea-agent`
  );
  const nodes = useAnswer<List<NodeObject>>(`/api/v1/nodes?limit=${MOST}`, {
    accept: METADATA_ONLY,
  });
  const data = useMemo(
    () =>
      rolloutView({
        installation,
        nodes: nodes.data && labelsOf(nodes.data),
        pods: pods.data && podsOf(pods.data),
        revision: set.data?.spec?.template?.metadata?.annotations?.[REVISION] ?? null,
      }),
    [installation, nodes.data, pods.data, set.data]
  );
  return {
    data,
    problems: [
      ...told('Nodes', nodes.error),
      ...told('Pods of the agents', pods.error),
      // Before Antrea is installed there is none, and nothing to be told of it.
      ...told('The DaemonSet of the agents', set.error?.status === 404 ? null : set.error),
      ...cutShort('Nodes', nodes.data),
      ...cutShort('Pods of the agents', pods.data),
    ],
    loading: [pods, set, nodes].some(one => !one.data && !one.error),
  };
}

/** Feature gates, as the components are configured. */
export function useGates(): Read<GateRow[]> {
  const [map, error] = K8s.ResourceClasses.ConfigMap.useGet(CONFIGURATION, NAMESPACE);
  const data = useMemo(() => {
    const files: Record<string, string> = map?.jsonData.data ?? {};
    return gateRows([
      ...configuredGates('controller', files['antrea-controller.conf'] ?? ''),
      ...configuredGates('agent', files['antrea-agent.conf'] ?? ''),
    ]);
  }, [map]);
  const why = error?.status === 404 ? 'there is none' : error?.message || 'no answer';
  return {
    data,
    problems: error ? [`ConfigMap ${NAMESPACE}/${CONFIGURATION} cannot be read: ${why}`] : [],
    loading: !map && !error,
  };
}

interface Answer<T> {
  data: T | null;
  error: Failure | null;
}

/** Of a list only the names, labels and annotations: of Nodes most is in the rest. */
const METADATA_ONLY = 'application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io';

interface Asking<T> {
  accept?: string;
  /** How long to wait after an answer. The same function every time. */
  pace?: (answer: T) => number;
}

/** Reads a path of the API again and again; null is read as not yet known. */
export function useAnswer<T>(
  path: string | null,
  { accept = 'application/json', pace }: Asking<T> = {}
): Answer<T> {
  const cluster = K8s.useCluster();
  const [answer, setAnswer] = useState<Answer<T>>({ data: null, error: null });
  useEffect(() => {
    if (path === null) return;
    let current = true;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const ask = async () => {
      let wait = INTERVAL;
      try {
        const options = { cluster: cluster ?? undefined, headers: { Accept: accept } };
        const data: T = await ApiProxy.request(path, options, false);
        if (current) setAnswer({ data, error: null });
        wait = pace?.(data) ?? INTERVAL;
      } catch (error) {
        // What was read before stays beside the error.
        if (current) setAnswer(before => ({ ...before, error: error as Failure }));
      }
      // The next question after the answer: a slow server is not asked twice at once.
      if (current) timer = setTimeout(ask, wait);
    };
    setAnswer({ data: null, error: null });
    ask();
    return () => {
      current = false;
      clearTimeout(timer);
    };
  }, [path, accept, pace, cluster]);
  return answer;
}

export interface List<T> {
  items?: T[];
  metadata?: { continue?: string };
}

function cutShort(what: string, list: List<unknown> | null): string[] {
  return list?.metadata?.continue ? [`${what}: only ${MOST} are read`] : [];
}

/** The same array every time, so that nothing is drawn anew for it. */
const NONE: never[] = [];

/** Computed objects that fit a field selector; null asks for nothing. */
function useComputed<T>(plural: string, fields: string | null): Read<T[]> {
  const selector = fields && `&fieldSelector=${encodeURIComponent(fields)}`;
  const path = selector === null ? null : `${CONTROLPLANE}/${plural}?limit=${MOST}${selector}`;
  const { data, error } = useAnswer<List<T>>(path);
  return {
    data: data?.items ?? NONE,
    problems: [...told(`Computed ${plural}`, error), ...cutShort(`Computed ${plural}`, data)],
    loading: path !== null && !data && !error,
  };
}

/** Every policy that the controller has computed. */
export function usePolicies(): Read<PolicyRow[]> {
  const computed = useComputed<ComputedPolicy>('networkpolicies', '');
  return { ...computed, data: useMemo(() => policyRows(computed.data), [computed.data]) };
}

const STATS = '/apis/stats.antrea.io/v1alpha1';

interface Counted extends Read<Statistics> {
  /** Whether the cluster counts at all; null while that is not known. */
  served: boolean | null;
}

/** What policies of these kinds, and rules of theirs, have counted. The same array every time. */
export function useStatistics(kinds: readonly Kind[]): Counted {
  const path = (kind: Kind) =>
    kinds.includes(kind) ? `${STATS}/${KINDS[kind]}?limit=${MOST}` : null;
  const ofKubernetes = useAnswer<List<StatsObject>>(path('NetworkPolicy'));
  const ofNamespaces = useAnswer<List<StatsObject>>(path('AntreaNetworkPolicy'));
  const ofCluster = useAnswer<List<StatsObject>>(path('AntreaClusterNetworkPolicy'));
  const data = useMemo(
    () =>
      statisticsOf({
        NetworkPolicy: ofKubernetes.data?.items,
        AntreaNetworkPolicy: ofNamespaces.data?.items,
        AntreaClusterNetworkPolicy: ofCluster.data?.items,
      }),
    [ofKubernetes.data, ofNamespaces.data, ofCluster.data]
  );
  const all = [ofKubernetes, ofNamespaces, ofCluster].filter(({ data, error }) => data || error);
  const errors = all.map(({ error }) => error).filter(error => error && error.status !== 404);
  return {
    data,
    problems: told('Statistics of policies', errors[0] ?? null),
    loading: all.length < kinds.length,
    served: all.some(one => one.data)
      ? true
      : all.some(one => one.error?.status === 404)
      ? false
      : null,
  };
}

/** What nodes made of a computed policy. */
export function useRealization(uid: string, generation: number): Read<Realization | null> {
  const path = `${CONTROLPLANE}/networkpolicies/${encodeURIComponent(uid)}/status`;
  const { data, error } = useAnswer<ComputedStatus>(path);
  return {
    data: data && realizationOf(generation, data),
    problems: told('Reports of the nodes', error),
    loading: !data && !error,
  };
}

/** What the controller computed of one policy; null if it has none of that UID, which is no error. */
export function usePolicy(uid: string): Read<PolicyRow | null> {
  const computed = useComputed<ComputedPolicy>('networkpolicies', `metadata.name=${uid}`);
  const policy = computed.data[0];
  return { ...computed, data: policy ? policyRow(policy) : null };
}

/** The policies that apply to a pod on a node. */
export function usePoliciesOf({ namespace, name }: ObjectName, node: string): Read<PolicyRow[]> {
  // A pod that has no node yet is selected on none.
  const fields = node ? `nodeName=${node}` : null;
  const groups = useComputed<AppliedToGroup>('appliedtogroups', fields);
  const policies = useComputed<ComputedPolicy>('networkpolicies', fields);
  return {
    data: useMemo(
      () => policiesOf({ namespace, name }, groups.data, policies.data),
      [namespace, name, groups.data, policies.data]
    ),
    problems: [...groups.problems, ...policies.problems],
    loading: groups.loading || policies.loading,
  };
}
