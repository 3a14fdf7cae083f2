// Counters of policies and their rules, as stats.antrea.io/v1alpha1 has them.
import { PolicyRow } from './realization';

export interface Counters {
  sessions: number;
  packets: number;
  bytes: number;
}

/** A NetworkPolicyStats, AntreaNetworkPolicyStats or AntreaClusterNetworkPolicyStats. */
export interface StatsObject {
  metadata?: { name?: string; namespace?: string };
  trafficStats?: Partial<Counters>;
  ruleTrafficStats?: { name?: string; trafficStats?: Partial<Counters> }[];
}

export interface RuleCounters extends Counters {
  name: string;
}

export interface PolicyCounters extends Counters {
  /** Of each rule of Antrea's own policies. */
  rules: RuleCounters[];
}

/** The kinds of statistics, by the kind of the policies that they are of. */
export const KINDS = {
  NetworkPolicy: 'networkpolicystats',
  AntreaNetworkPolicy: 'antreanetworkpolicystats',
  AntreaClusterNetworkPolicy: 'antreaclusternetworkpolicystats',
} as const;

export type Kind = keyof typeof KINDS;

/** By kind, namespace and name of the policy. */
export type Statistics = Map<string, PolicyCounters>;

function counters({ sessions = 0, packets = 0, bytes = 0 }: Partial<Counters> = {}): Counters {
  return { sessions, packets, bytes };
}

function key(kind: string, namespace: string, name: string): string {
  return `${kind}/${namespace}/${name}`;
}

export function statisticsOf(lists: Partial<Record<Kind, StatsObject[]>>): Statistics {
  const found: Statistics = new Map();
  for (const [kind, objects = []] of Object.entries(lists)) {
    for (const { metadata = {}, trafficStats, ruleTrafficStats = [] } of objects) {
      const rules = ruleTrafficStats.map(({ name = '', trafficStats }) => ({
        name,
        ...counters(trafficStats),
      }));
      const own = key(kind, metadata.namespace ?? '', metadata.name ?? '');
      found.set(own, { ...counters(trafficStats), rules });
    }
  }
  return found;
}

/** Those of a computed policy; undefined where nothing was counted for it. */
export function countersOf(all: Statistics, { kind, source }: PolicyRow) {
  return all.get(key(kind, source.namespace, source.name));
}

const STEPS = ['', 'k', 'M', 'G', 'T', 'P'];

/** Three digits and a step of thousands, as antctl writes them: 45.0k. */
export function shortNumber(value: number): string {
  let step = 0;
  let rest = value;
  while (rest >= 999.5 && step < STEPS.length - 1) {
    rest /= 1000;
    step += 1;
  }
  if (step === 0) return String(value);
  const digits = rest >= 99.95 ? 0 : rest >= 9.995 ? 1 : 2;
  return `${rest.toFixed(digits)}${STEPS[step]}`;
}
