// How far a change of the installation is, Node by Node, and what is planned: of the AntreaInstallation's status, the
// labels of Nodes and the agents' Pods. What the fields mean is told in docs/rollout.md.
import { AntreaInstallation } from '../crds';
import { compare } from './rows';

/** An agent's Pod. */
export interface AgentPod {
  node: string;
  /** Hash of the template that it was made from. */
  revision: string;
}

/** What is known; null is what could not be read. */
export interface RolloutInput {
  installation: AntreaInstallation;
  /** Labels by the name of the Node. */
  nodes: Record<string, Record<string, string>> | null;
  /** Pods that are not being deleted. */
  pods: AgentPod[] | null;
  /** Hash of the DaemonSet's template. */
  revision: string | null;
}

export const STATES = ['Failed', 'Under way', 'Waiting', 'Unknown', 'Done'] as const;
export type State = (typeof STATES)[number];

export interface NodeProgress {
  node: string;
  /** Empty where it is not known. */
  wave: string;
  state: State;
  /** Since when its agent is away. */
  since: string | null;
  why: string;
}

export interface WaveProgress {
  name: string;
  nodes: number;
  /** Null where it is not known. */
  done: number | null;
  state: State;
  /** The first of them, in order. */
  first: string[];
  /** Why they are here in the order, and what the wave waits for. */
  why: string;
}

/** A change that failed. */
export interface Failed {
  version: string;
  /** A Node, or "antrea-controller". */
  node: string;
  check: string;
  message: string;
  at: string | null;
  canary: boolean;
  /** What happens to the other nodes, in a sentence. */
  then: string;
}

/** A disruptive change that waits for a person. */
export interface Held {
  generation: number;
  /** What is acknowledged, where that is another generation. */
  acknowledged: number | null;
}

export interface FieldDiff {
  path: string;
  lines: { sign: '-' | '+'; text: string }[];
}

export interface PlannedChange {
  object: string;
  action: string;
  class: string;
  fields: FieldDiff[];
}

export interface RolloutView {
  /** In one line what is going on. */
  summary: string;
  paused: boolean;
  failed: Failed | null;
  held: Held | null;
  waves: WaveProgress[];
  nodes: NodeProgress[];
  changes: PlannedChange[];
  /** The classes of `changes`, worst first, with what they do. */
  effects: { class: string; effect: string }[];
}

/** Reasons of Progressing for which no node begins. */
const HOLDS = ['WaitingForWindow', 'CanaryMissing'];

const CANARY = 'canary';
const OTHERS = 'others';

/** What a change of a class does while it is made; the worst first. */
const EFFECTS: [class_: string, effect: string][] = [
  [
    'Disruptive',
    'Antrea restarts node by node, and traffic between changed and unchanged nodes breaks until all are changed.',
  ],
  [
    'Restart',
    'The controller restarts, then the agents node by node. While the agent of a node is away, its Pods keep what they have; none are added or removed there.',
  ],
  ['Live', 'Nothing restarts, and nothing is interrupted.'],
];

export function rolloutView(input: RolloutInput): RolloutView {
  const { installation } = input;
  const { metadata, spec = {}, status = {} } = installation;
  const record = status.rollout ?? {};
  const policy = spec.rollout ?? {};
  const progressing = status.conditions?.find(one => one.type === 'Progressing');
  const paused = spec.managementState === 'Paused';
  const planned = status.plannedWaves ?? [];
  // A change that nobody has begun: the operator tells its waves only then.
  const idle = planned.length > 0;

  const failed = failedOf(record);
  const back = failed !== null && record.failed?.rolledBack === true;
  const order = orderOf(policy, input.nodes);
  const changed = changedOf(input);
  const away = new Map(
    (status.nodes?.replacing ?? []).map(node => [
      node,
      record.turns?.find(turn => turn.node === node)?.since ?? null,
    ])
  );
  const failing = new Map(
    (status.nodes?.failing ?? []).map(({ name = '', reason = '', message = '' }) => [
      name,
      [reason, message].filter(text => text !== '').join(': '),
    ])
  );

  const names = new Set([
    ...(input.pods ? input.pods.map(pod => pod.node) : Object.keys(input.nodes ?? {})),
    ...away.keys(),
    ...failing.keys(),
  ]);
  names.delete('');
  const stopped = failed !== null && !back;
  const pause = pauseOf(policy.pauseSeconds, record.waveEnded);
  const waitsFor = (node: string): string => {
    if (paused) return 'the installation is paused';
    if (progressing?.reason === 'AcknowledgementNeeded')
      return 'the change needs to be acknowledged';
    if (stopped) return `no other node is changed until ${failed.node} works`;
    if (progressing?.reason === 'CanaryMissing') return 'no node works that is to go first';
    if (progressing?.reason === 'WaitingForWindow') {
      return progressing.message || 'the window is closed';
    }
    if (idle) return progressing?.message ?? '';
    const own = order.names.indexOf(order.of(node));
    const current = order.names.indexOf(record.wave ?? '');
    if (own > current && current >= 0) {
      const before = order.names[own - 1];
      return before === record.wave && pause ? pause : `wave ${before} comes first`;
    }
    return away.size > 0 ? 'its turn comes' : progressing?.message ?? 'its turn comes';
  };
  const stateOf = (node: string): Omit<NodeProgress, 'node' | 'wave'> => {
    const trouble = failing.get(node);
    const since = away.get(node) ?? null;
    if (failed?.node === node && !back) {
      return { state: 'Failed', since, why: `${failed.check}: ${failed.message}` };
    }
    if (trouble !== undefined) return { state: 'Failed', since, why: trouble };
    if (away.has(node)) {
      return { state: 'Under way', since, why: 'its agent is being replaced' };
    }
    if (idle) return { state: 'Waiting', since, why: waitsFor(node) };
    if (record.done || changed?.has(node)) return { state: 'Done', since, why: '' };
    return changed
      ? { state: 'Waiting', since, why: waitsFor(node) }
      : { state: 'Unknown', since, why: 'what its agent runs is not known' };
  };
  const nodes = [...names].map(node => ({ node, wave: order.of(node), ...stateOf(node) }));
  nodes.sort(
    (a, b) =>
      STATES.indexOf(a.state) - STATES.indexOf(b.state) ||
      order.names.indexOf(a.wave) - order.names.indexOf(b.wave) ||
      compare(a.node, b.node)
  );

  const specPending =
    progressing?.observedGeneration !== undefined &&
    progressing.observedGeneration !== metadata?.generation;
  const summary = specPending
    ? 'The spec has changed since the operator looked; this is of the one before.'
    : progressing?.message || 'The operator has not said what it does.';

  const changes = changesOf(status);
  return {
    summary,
    paused,
    failed,
    held: heldOf(record, policy),
    waves: idle
      ? planned.map(wave => ({
          name: wave.name ?? '',
          nodes: wave.nodes ?? 0,
          done: 0,
          state: 'Waiting' as const,
          first: wave.first ?? [],
          why: wave.reason ?? '',
        }))
      : wavesOf(order.names, nodes, HOLDS.includes(progressing?.reason ?? '') ? '' : record.wave),
    nodes,
    changes,
    effects: effectsOf(changes),
  };
}

type Status = NonNullable<AntreaInstallation['status']>;
type Memory = NonNullable<Status['rollout']>;
type Policy = NonNullable<NonNullable<AntreaInstallation['spec']>['rollout']>;

function failedOf(record: Memory): Failed | null {
  const found = record.failed;
  if (!found?.node) return null;
  const { version = '', node, check = '', message = '', at, canary = false } = found;
  const then = !found.rolledBack
    ? 'No other node is changed until that works; then it goes on by itself.'
    : record.done
    ? 'What ran before runs again on every node. The change is not tried again until the spec changes.'
    : 'The nodes go back to what ran before.';
  return { version, node, check, message, at: at ?? null, canary, then };
}

function heldOf(record: Memory, policy: Policy): Held | null {
  const generation = record.held?.generation;
  if (!generation) return null;
  const { acknowledge } = policy;
  const another = acknowledge && acknowledge !== generation;
  return { generation, acknowledged: another ? acknowledge : null };
}

function changesOf(status: Status): PlannedChange[] {
  return (status.pendingChanges ?? []).map(change => ({
    object: change.object ?? '',
    action: change.action ?? '',
    class: change.class ?? '',
    // Operators before the fields' values told only their paths.
    fields: (change.changes ?? change.fields?.map(path => ({ path })) ?? []).map(diffOf),
  }));
}

function effectsOf(changes: PlannedChange[]): RolloutView['effects'] {
  const classes = new Set(changes.map(change => change.class));
  return EFFECTS.flatMap(([class_, effect]) =>
    classes.has(class_) ? [{ class: class_, effect }] : []
  );
}

interface Order {
  /** Waves in order. */
  names: string[];
  of(node: string): string;
}

/** The waves that follow from `spec.rollout`: the canary, then the values of the label, then everybody else. */
function orderOf(policy: Policy, nodes: RolloutInput['nodes']): Order {
  if (!nodes) return { names: [], of: () => '' };
  const canary = Object.entries(policy.canary?.nodeSelector ?? {});
  const label = policy.orderByLabel;
  const of = (node: string): string => {
    const labels = nodes[node] ?? {};
    if (canary.length > 0 && canary.every(([key, value]) => labels[key] === value)) return CANARY;
    return label && labels[label] !== undefined ? `${label}=${labels[label]}` : OTHERS;
  };
  const rank = (wave: string) => (wave === CANARY ? 0 : wave === OTHERS ? 2 : 1);
  const names = [...new Set(Object.keys(nodes).map(of))];
  names.sort((a, b) => rank(a) - rank(b) || compare(a, b));
  return { names, of };
}

/** Nodes whose agent is of the wanted revision; null where that is not known. */
function changedOf({ installation, pods, revision }: RolloutInput): Set<string> | null {
  if (!pods || revision === null) return null;
  const changed = pods.filter(pod => pod.revision === revision).map(pod => pod.node);
  const { updated = 0, desired = 0 } = installation.status?.nodes ?? {};
  // The controller is changed before the DaemonSet: until then every agent is of its revision, and none of the wanted.
  const untouched = updated < desired && changed.length === pods.length;
  return new Set(untouched ? [] : changed);
}

function pauseOf(seconds: number | undefined, ended: string | undefined): string | null {
  const since = Date.parse(ended ?? '');
  if (!seconds || Number.isNaN(since)) return null;
  const until = new Date(since + seconds * 1000);
  if (Number.isNaN(until.getTime())) return null;
  return `a pause until ${until.toISOString().replace(/\.\d+Z/, 'Z')}`;
}

/** Waves with their nodes; `current` is that which goes on now. */
function wavesOf(
  names: string[],
  nodes: NodeProgress[],
  current: string | undefined
): WaveProgress[] {
  return names.flatMap(name => {
    const own = nodes.filter(node => node.wave === name);
    if (own.length === 0) return [];
    const is = (state: State) => own.some(node => node.state === state);
    const state: State = is('Failed')
      ? 'Failed'
      : own.every(node => node.state === 'Done')
      ? 'Done'
      : is('Unknown')
      ? 'Unknown'
      : is('Under way') || current === name
      ? 'Under way'
      : 'Waiting';
    const waiting = state === 'Waiting' ? own.find(node => node.state === state) : undefined;
    return [
      {
        name,
        nodes: own.length,
        done: is('Unknown') ? null : own.filter(node => node.state === 'Done').length,
        state,
        first: own
          .map(node => node.node)
          .sort(compare)
          .slice(0, 5),
        why: waiting?.why ?? '',
      },
    ];
  });
}

function diffOf({ path = '', from, to }: { path?: string; from?: string; to?: string }): FieldDiff {
  const lines = (sign: '-' | '+', text: string | undefined) =>
    text === undefined ? [] : text.split('\n').map(line => ({ sign, text: line }));
  return { path, lines: [...lines('-', from), ...lines('+', to)] };
}
