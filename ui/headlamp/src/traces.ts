// Traceflows through Headlamp's connection: read, made and deleted, with the user's own rights.
import { ApiProxy, K8s, Router } from '@kinvolk/headlamp-plugin/lib';
import { useMemo } from 'react';
import { useHistory } from 'react-router-dom';
import { INTERVAL, List, MOST, Read, useAnswer, useGates, useNow } from './data';
import { traceName } from './model/form';
import {
  isEnded,
  traceEntries,
  TraceEntry,
  Traceflow,
  TraceSpec,
  TraceView,
  traceView,
} from './model/trace';
import { ROUTES } from './routes';

export const TRACES = '/apis/crd.antrea.io/v1beta1/traceflows';

/** Milliseconds between two looks while something is under way. */
const SOON = 1_000;

const paceOfAll = (list: List<Traceflow>) =>
  (list.items ?? []).every(isEnded) ? INTERVAL : 5 * SOON;
const paceOfOne = (trace: Traceflow) => (isEnded(trace) ? INTERVAL : SOON);

interface Traces extends Read<TraceEntry[]> {
  /** Whether the cluster has Traceflows at all; null while that is not known. */
  served: boolean | null;
}

/** All traces, newest first. */
export function useTraces(): Traces {
  const { data, error } = useAnswer<List<Traceflow>>(`${TRACES}?limit=${MOST}`, {
    pace: paceOfAll,
  });
  const now = useNow();
  const served = data ? true : error?.status === 404 ? false : null;
  return {
    data: useMemo(() => traceEntries(data?.items ?? [], now), [data, now]),
    problems: error && served !== false ? [`Traceflows cannot be read: ${error.message}`] : [],
    loading: !data && !error,
    served,
  };
}

interface Trace extends Read<TraceView | null> {
  spec: TraceSpec;
  /** What is not there: this trace, or the whole kind. */
  missing: 'trace' | 'kind' | null;
}

/** One trace, followed until it has ended. */
export function useTrace(name: string): Trace {
  const { data, error } = useAnswer<Traceflow>(`${TRACES}/${encodeURIComponent(name)}`, {
    pace: paceOfOne,
  });
  const now = useNow();
  // Of an object that is not there the API server names the kind; of a kind that is not there it does not.
  const named = error?.message?.includes('traceflows.crd.antrea.io');
  const missing = error?.status === 404 ? (named ? 'trace' : 'kind') : null;
  return {
    data: useMemo(() => (data && !missing ? traceView(data, now) : null), [data, missing, now]),
    spec: data?.spec ?? {},
    problems: error && !missing ? [`The Traceflow cannot be read: ${error.message}`] : [],
    loading: !data && !error,
    missing,
  };
}

/** Components for which the feature gate is off, as far as their configuration can be read. */
export function useGateOff(): string[] {
  const { data } = useGates();
  const row = data.find(gate => gate.name === 'Traceflow');
  const off = (name: string, on: boolean | null | undefined) => (on === false ? [name] : []);
  return [...off('controller', row?.controller), ...off('agents', row?.agent)];
}

/** Makes and deletes traces; both reject with what the API server says, and show the page that follows. */
export function useTraceActions() {
  const cluster = K8s.useCluster() ?? undefined;
  const history = useHistory();
  return {
    create: async (spec: TraceSpec) => {
      const name = traceName(spec, Date.now());
      const trace = {
        apiVersion: 'crd.antrea.io/v1beta1',
        kind: 'Traceflow',
        metadata: { name },
        spec,
      };
      await ApiProxy.post(TRACES, trace, false, { cluster });
      history.push(Router.createRouteURL(ROUTES.trace.name, { name }));
    },
    remove: async (name: string) => {
      await ApiProxy.remove(`${TRACES}/${encodeURIComponent(name)}`, { cluster });
      history.push(Router.createRouteURL(ROUTES.traces.name));
    },
  };
}

interface Named {
  metadata?: { name?: string };
}

/** Names that exist, as a help in a form: what cannot be read is not suggested. */
export function useNames(path: string | null): string[] {
  const { data } = useAnswer<List<Named>>(path && `${path}?limit=500`);
  return useMemo(() => (data?.items ?? []).flatMap(one => one.metadata?.name ?? []), [data]);
}
