// The controller and the agents, as rows.
import { AntreaAgentInfo, AntreaControllerInfo } from '../crds';
import { Condition, Health, judge } from './health';

/** A namespaced object. */
export interface ObjectName {
  namespace: string;
  name: string;
}

/** Counts of computed policy objects. */
export interface PolicyCounts {
  networkPolicies: number;
  addressGroups: number;
  appliedToGroups: number;
}

export interface ControllerRow {
  name: string;
  version: string;
  pod: ObjectName | null;
  node: string;
  service: ObjectName | null;
  connectedAgents: number;
  policies: PolicyCounts;
  heartbeat: string | null;
  health: Health;
  conditions: Condition[];
}

/** Links and MTUs; MTUs in bytes. */
export interface Network {
  interface: string;
  mtu: number;
  podMTU: number;
  addresses: string[];
}

export interface FlowTable {
  name: string;
  flows: number;
}

export interface AgentRow {
  name: string;
  version: string;
  versionDiffers: boolean;
  pod: ObjectName | null;
  node: string;
  subnets: string[];
  bridge: string;
  ovsVersion: string;
  localPods: number;
  policies: PolicyCounts;
  flowTables: FlowTable[];
  flows: number;
  network: Network | null;
  heartbeat: string | null;
  health: Health;
  conditions: Condition[];
}

interface Reported extends Partial<Condition> {
  lastHeartbeatTime?: string;
}

interface Reference {
  namespace?: string;
  name?: string;
}

/** The row of the controller; `now` in milliseconds since 1970. */
export function controllerRow(info: AntreaControllerInfo, now: number): ControllerRow {
  const reported: Reported[] = info.controllerConditions ?? [];
  const conditions = reported.map(condition);
  const heartbeat = latest(reported);
  return {
    name: info.metadata?.name ?? '',
    version: info.version ?? '',
    pod: object(info.podRef),
    node: info.nodeRef?.name ?? '',
    service: object(info.serviceRef),
    connectedAgents: info.connectedAgentNum ?? 0,
    policies: counts(info.networkPolicyControllerInfo),
    heartbeat,
    health: judge('ControllerHealthy', conditions, heartbeat, now),
    conditions,
  };
}

/** The row of an agent, beside a controller of the version `controller`. */
export function agentRow(
  info: AntreaAgentInfo,
  controller: string | undefined,
  now: number
): AgentRow {
  const reported: Reported[] = info.agentConditions ?? [];
  const conditions = reported.map(condition);
  const heartbeat = latest(reported);
  const version = info.version ?? '';
  const tables = Object.entries(info.ovsInfo?.flowTable ?? {}).map(([name, flows]) => ({
    name,
    flows: Number(flows),
  }));
  tables.sort((a, b) => compare(a.name, b.name));
  const link = info.networkInfo;
  return {
    name: info.metadata?.name ?? '',
    version,
    versionDiffers: !!controller && !!version && controller !== version,
    pod: object(info.podRef),
    node: info.nodeRef?.name ?? '',
    subnets: info.nodeSubnets ?? [],
    bridge: info.ovsInfo?.bridgeName ?? '',
    ovsVersion: info.ovsInfo?.version ?? '',
    localPods: info.localPodNum ?? 0,
    policies: counts(info.networkPolicyControllerInfo),
    flowTables: tables,
    flows: tables.reduce((sum, table) => sum + table.flows, 0),
    network: link
      ? {
          interface: link.transportInterface ?? '',
          mtu: link.transportInterfaceMTU ?? 0,
          podMTU: link.podMTU ?? 0,
          addresses: link.transportInterfaceIPs ?? [],
        }
      : null,
    heartbeat,
    health: judge('AgentHealthy', conditions, heartbeat, now),
    conditions,
  };
}

/** The order of names: by code point, the same in every locale. */
export function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}

function condition(one: Reported): Condition {
  const { type = '', status = '', reason = '', message = '' } = one;
  return { type, status, reason, message };
}

/** The newest heartbeat: a component writes all of its conditions at once. */
function latest(conditions: Reported[]): string | null {
  let newest: string | null = null;
  for (const { lastHeartbeatTime: time } of conditions) {
    if (!time || Number.isNaN(Date.parse(time))) continue;
    if (newest === null || Date.parse(time) > Date.parse(newest)) newest = time;
  }
  return newest;
}

function object(reference: Reference | undefined): ObjectName | null {
  if (!reference?.name) return null;
  return { namespace: reference.namespace ?? '', name: reference.name };
}

function counts(info: AntreaAgentInfo['networkPolicyControllerInfo']): PolicyCounts {
  return {
    networkPolicies: info?.networkPolicyNum ?? 0,
    addressGroups: info?.addressGroupNum ?? 0,
    appliedToGroups: info?.appliedToGroupNum ?? 0,
  };
}
