// The AntreaInstallation.
import { AntreaInstallation } from '../crds';
import { cause, Condition, Health } from './health';

/** A node whose agent fails. */
export interface Trouble {
  node: string;
  reason: string;
  message: string;
}

/** A change that is not applied. */
export interface Pending {
  object: string;
  action: string;
  class: string;
  fields: string[];
}

/** How far a change is, in nodes. */
export interface Rollout {
  desired: number;
  updated: number;
  ready: number;
  replacing: string[];
  failing: Trouble[];
}

export interface InstallationView {
  name: string;
  version: string;
  targetVersion: string | null;
  message: string;
  health: Health;
  specPending: boolean;
  conditions: Condition[];
  rollout: Rollout;
  pending: Pending[];
}

export function installationView(object: AntreaInstallation): InstallationView {
  const status = object.status ?? {};
  const nodes = status.nodes ?? {};
  const version = status.version ?? '';
  const conditions = (status.conditions ?? []).map(
    ({ type = '', status = '', reason = '', message = '' }) => ({ type, status, reason, message })
  );
  const target = status.targetVersion ?? null;
  return {
    name: object.metadata?.name ?? '',
    version,
    targetVersion: target === version ? null : target,
    message: status.message ?? '',
    health: judge(conditions),
    specPending: status.observedGeneration !== object.metadata?.generation,
    conditions,
    rollout: {
      desired: nodes.desired ?? 0,
      updated: nodes.updated ?? 0,
      ready: nodes.ready ?? 0,
      replacing: nodes.replacing ?? [],
      failing: (nodes.failing ?? []).map(({ name = '', reason = '', message = '' }) => ({
        node: name,
        reason,
        message,
      })),
    },
    pending: (status.pendingChanges ?? []).map(one => ({
      object: one.object ?? '',
      action: one.action ?? '',
      class: one.class ?? '',
      fields: one.fields ?? [],
    })),
  };
}

/** Not available is worse than degraded. Progress is no fault, and is told. */
function judge(conditions: Condition[]): Health {
  const is = (type: string, status: string) => {
    const one = conditions.find(condition => condition.type === type);
    return one?.status === status ? one : undefined;
  };
  const unavailable = is('Available', 'False');
  if (unavailable) return { verdict: 'Unhealthy', reason: cause(unavailable) };
  const degraded = is('Degraded', 'True');
  if (degraded) return { verdict: 'Degraded', reason: cause(degraded) };
  if (!is('Available', 'True')) {
    return { verdict: 'Unknown', reason: 'the operator has not said whether it is available' };
  }
  const progress = is('Progressing', 'True');
  return { verdict: 'Healthy', reason: progress ? `in progress: ${cause(progress)}` : '' };
}
