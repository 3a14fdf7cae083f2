// What is asked to explain a packet, through Headlamp's connection and with the user's own rights: both ends, the controller's
// word on policies, and a packet that is sent by a Traceflow, which is deleted when it has ended.
import { ApiProxy, K8s } from '@kinvolk/headlamp-plugin/lib';
import { useEffect, useMemo, useState } from 'react';
import { List, useNow, useView } from './data';
import {
  Asked,
  EvaluationObject,
  ExplainInput,
  Explanation,
  explanationOf,
  isBetweenPods,
  podName,
  PodObject,
  ServiceObject,
  SliceObject,
} from './model/explain';
import { traceName } from './model/form';
import { isEnded, Traceflow, TraceSpec, TraceView, traceView } from './model/trace';
import { TRACES } from './traces';

const EVALUATIONS = '/apis/controlplane.antrea.io/v1beta2/networkpolicyevaluation';

/** Milliseconds between two looks at the packet, and for how long one looks. */
const SOON = 500;
const PATIENCE = 30_000;

/** Seconds that the packet has. */
const TIMEOUT = 10;

interface Failure {
  status?: number;
  message?: string;
}

/** What is known so far. */
type Facts = Pick<ExplainInput, 'source' | 'pod' | 'service' | 'slices' | 'evaluation'> & {
  trace: Asked<Traceflow>;
};

const NOTHING_YET: Facts = { source: { value: null }, trace: { value: null } };

interface Question {
  spec: TraceSpec;
  /** Each is asked anew, also the same once more. */
  number: number;
}

function problemOf(error: unknown): { problem: string } {
  return { problem: (error as Failure).message || 'no answer' };
}

async function asked<T>(answer: Promise<T>): Promise<Asked<T>> {
  try {
    return { value: await answer };
  } catch (error) {
    return (error as Failure).status === 404 ? { value: null } : problemOf(error);
  }
}

const pause = () => new Promise(resolve => setTimeout(resolve, SOON));

function usesHost(pod: Asked<PodObject> | undefined): boolean {
  return pod?.problem === undefined && pod?.value?.spec?.hostNetwork === true;
}

/** Asks all of it; `tell` gets each answer. Ends early where `isWanted` ceases to say so. */
async function inquire(
  spec: TraceSpec,
  cluster: string | undefined,
  tell: (facts: Partial<Facts>) => void,
  isWanted: () => boolean
) {
  const get = <T>(path: string) =>
    asked<T>(ApiProxy.request(path, { cluster }, false) as Promise<T>);
  const { source = {}, destination = {} } = spec;
  const core = (namespace = '') => `/api/v1/namespaces/${encodeURIComponent(namespace)}`;
  const podAt = (namespace?: string, name = '') =>
    get<PodObject>(`${core(namespace)}/pods/${encodeURIComponent(name)}`);
  const from = await podAt(source.namespace, source.pod);
  tell({ source: from });
  let to: Asked<PodObject> | undefined;
  if (destination.pod) {
    to = await podAt(destination.namespace, destination.pod);
    tell({ pod: to });
  }
  if (destination.service) {
    const { namespace = '', service } = destination;
    tell({
      service: await get<ServiceObject>(
        `${core(namespace)}/services/${encodeURIComponent(service)}`
      ),
    });
    const selector = encodeURIComponent(`kubernetes.io/service-name=${service}`);
    const slices = await get<List<SliceObject>>(
      `/apis/discovery.k8s.io/v1/namespaces/${encodeURIComponent(
        namespace
      )}/endpointslices?labelSelector=${selector}`
    );
    tell({
      slices: slices.problem !== undefined ? slices : { value: slices.value?.items ?? [] },
    });
  }
  // Of Pods in their Node's network the controller knows nothing, for no policy selects them.
  if (isBetweenPods(spec) && !usesHost(from) && !usesHost(to)) {
    const end = (pod: typeof source) => ({ pod: podName(pod) });
    const question = {
      apiVersion: 'controlplane.antrea.io/v1beta2',
      kind: 'NetworkPolicyEvaluation',
      request: { source: end(source), destination: end(destination) },
    };
    try {
      const answer = ApiProxy.post(EVALUATIONS, question, false, { cluster });
      tell({ evaluation: { value: (await answer) as EvaluationObject } });
    } catch (error) {
      tell({ evaluation: problemOf(error) });
    }
  }
  if (usesHost(from)) {
    tell({ trace: { problem: "of a Pod in its Node's network no packet is traced" } });
  } else {
    await send(spec, cluster, tell, isWanted);
  }
}

async function send(
  spec: TraceSpec,
  cluster: string | undefined,
  tell: (facts: Partial<Facts>) => void,
  isWanted: () => boolean
) {
  const name = traceName(spec, Date.now());
  const path = `${TRACES}/${encodeURIComponent(name)}`;
  try {
    const trace = {
      apiVersion: 'crd.antrea.io/v1beta1',
      kind: 'Traceflow',
      metadata: { name },
      spec: { ...spec, timeout: TIMEOUT },
    };
    await ApiProxy.post(TRACES, trace, false, { cluster });
  } catch (error) {
    const { status } = error as Failure;
    tell({
      trace: status === 404 ? { problem: 'this cluster has no Traceflows' } : problemOf(error),
    });
    return;
  }
  try {
    const begun = Date.now();
    while (isWanted()) {
      const found: Traceflow = await ApiProxy.request(path, { cluster }, false);
      tell({ trace: { value: found } });
      if (isEnded(found)) return;
      if (Date.now() - begun > PATIENCE) {
        const { text } = traceView(found, Date.now()).outcome;
        tell({ trace: { problem: text } });
        return;
      }
      await pause();
    }
  } catch (error) {
    tell({ trace: problemOf(error) });
  } finally {
    // It is nobody's but this page's. One that cannot be deleted ends all the same.
    await ApiProxy.remove(path, { cluster }).catch(() => undefined);
  }
}

interface Explained {
  spec: TraceSpec | null;
  explanation: Explanation | null;
  trace: TraceView | null;
  busy: boolean;
  ask: (spec: TraceSpec) => void;
}

/** The answer to what was asked last, as far as it is there. */
export function useExplanation(): Explained {
  const cluster = K8s.useCluster() ?? undefined;
  const { data: view, problems, loading } = useView();
  const now = useNow();
  const [question, setQuestion] = useState<Question | null>(null);
  const [facts, setFacts] = useState<Facts>(NOTHING_YET);
  const [busy, setBusy] = useState(false);
  useEffect(() => {
    if (!question) return;
    let current = true;
    setFacts(NOTHING_YET);
    setBusy(true);
    const tell = (more: Partial<Facts>) => {
      if (current) setFacts(before => ({ ...before, ...more }));
    };
    inquire(question.spec, cluster, tell, () => current).finally(() => {
      if (current) setBusy(false);
    });
    return () => {
      current = false;
    };
  }, [question, cluster]);
  const trace = useMemo((): Asked<TraceView> => {
    if (facts.trace.problem !== undefined) return facts.trace;
    return { value: facts.trace.value && traceView(facts.trace.value, now) };
  }, [facts.trace, now]);
  const explanation = useMemo(() => {
    if (!question || busy || loading) return null;
    const agents: ExplainInput['agents'] =
      view.agents.length === 0 && problems.length > 0
        ? { problem: problems.join('; ') }
        : { value: view.agents };
    return explanationOf({ ...facts, spec: question.spec, agents, trace });
  }, [question, busy, loading, facts, trace, view.agents, problems]);
  return {
    spec: question?.spec ?? null,
    explanation,
    trace: trace.problem === undefined ? trace.value : null,
    busy: busy || (question !== null && loading),
    ask: spec => setQuestion(before => ({ spec, number: (before?.number ?? 0) + 1 })),
  };
}
