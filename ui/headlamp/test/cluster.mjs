// The API server of the browser test: what it is filled with, and how single objects are changed.
import { readFileSync } from 'node:fs';
import { computed, DEFINITIONS, INSTALLATION_STATUS, OBJECTS } from './objects.mjs';
import { ask } from './server.mjs';
import { TRACES } from './traceObjects.mjs';

const [url, tokenFile] = process.argv.slice(2);
export const api = { url, token: readFileSync(tokenFile, 'utf8').trim() };

const PLURALS = {
  AntreaAgentInfo: 'antreaagentinfos',
  AntreaClusterNetworkPolicyStats: 'antreaclusternetworkpolicystats',
  AntreaControllerInfo: 'antreacontrollerinfos',
  AntreaInstallation: 'antreainstallations',
  AppliedToGroup: 'appliedtogroups',
  ConfigMap: 'configmaps',
  CustomResourceDefinition: 'customresourcedefinitions',
  DaemonSet: 'daemonsets',
  Namespace: 'namespaces',
  NetworkPolicy: 'networkpolicies',
  NetworkPolicyStats: 'networkpolicystats',
  Node: 'nodes',
  Pod: 'pods',
  Service: 'services',
  Traceflow: 'traceflows',
};

/** Of the Pods that run. */
const POD_IPS = { web: '10.244.1.5', db: '10.244.2.7' };

function pathOf({ apiVersion, kind, metadata }) {
  const group = apiVersion.includes('/') ? `/apis/${apiVersion}` : `/api/${apiVersion}`;
  const namespace = metadata.namespace ? `/namespaces/${metadata.namespace}` : '';
  return `${group}${namespace}/${PLURALS[kind]}`;
}

const create = object => ask(api, 'POST', pathOf(object), object);

async function served(path) {
  for (let tries = 0; ; tries += 1) {
    try {
      return await ask(api, 'GET', path);
    } catch (error) {
      if (tries > 100) throw error;
      await new Promise(resolve => setTimeout(resolve, 100));
    }
  }
}

/** Writes the status of an object that is there. */
export async function report(object, status) {
  await ask(api, 'PUT', `${pathOf(object)}/${object.metadata.name}/status`, { ...object, status });
}

export const TRACE_PATH = pathOf(TRACES[0]);

export async function fill() {
  for (const definition of DEFINITIONS) await create(definition);
  await served(TRACE_PATH);
  for (const trace of TRACES) {
    const made = await create(trace);
    if (trace.status) await report(made, trace.status);
  }
  await served('/apis/controlplane.antrea.io/v1beta2/networkpolicies');
  await served('/apis/controlplane.antrea.io/v1beta2/appliedtogroups');
  for (const kind of ['networkpolicystats', 'antreaclusternetworkpolicystats'])
    await served(`/apis/stats.antrea.io/v1alpha1/${kind}`);
  const uids = {};
  for (const object of OBJECTS) {
    const made = await create(object);
    if (object.apiVersion === 'networking.k8s.io/v1') uids[made.metadata.name] = made.metadata.uid;
    const ip = POD_IPS[object.kind === 'Pod' && object.metadata.name];
    if (ip) {
      const conditions = [{ type: 'Ready', status: 'True' }];
      await report(made, { phase: 'Running', podIP: ip, podIPs: [{ ip }], conditions });
    }
    if (object.kind === 'AntreaInstallation') {
      await report(made, INSTALLATION_STATUS);
    }
  }
  for (const object of computed(uids)) await create(object);
  return uids;
}

/** New heartbeats for those that have had one lately: a run takes longer than a heartbeat lasts. */
export async function beat() {
  for (const kind of ['AntreaAgentInfo', 'AntreaControllerInfo']) {
    const path = pathOf({ apiVersion: 'crd.antrea.io/v1beta1', kind, metadata: {} });
    const { items } = await ask(api, 'GET', path);
    for (const item of items) {
      const all = item.agentConditions ?? item.controllerConditions ?? [];
      const alive = all.filter(one => Date.now() - Date.parse(one.lastHeartbeatTime) < 1_200_000);
      for (const one of alive)
        one.lastHeartbeatTime = new Date().toISOString().replace(/\.\d+Z/, 'Z');
      if (alive.length > 0) await ask(api, 'PUT', `${path}/${item.metadata.name}`, item);
    }
  }
}
