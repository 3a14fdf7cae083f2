// What is shown of Antrea, as plain data: the TypeScript twin of the crate ui/model. Both pass ui/model/vectors.
//
// No I/O and no clock: the time is an argument.
import { AntreaAgentInfo, AntreaControllerInfo, AntreaInstallation } from '../crds';
import { GateReport, GateRow, gateRows } from './gates';
import { Graph, graphOf } from './graph';
import { badness, Health, Verdict } from './health';
import { InstallationView, installationView } from './installation';
import { AgentRow, agentRow, compare, ControllerRow, controllerRow } from './rows';

/** What a view is made of. */
export interface Input {
  /** The present, in milliseconds since 1970. */
  now: number;
  controller?: AntreaControllerInfo | null;
  agents?: AntreaAgentInfo[];
  installation?: AntreaInstallation | null;
  gates?: GateReport[];
}

/** How many agents have which verdict. */
export type Counts = Record<Lowercase<Verdict>, number>;

export interface View {
  /** The controller and all agents in one word: the worst of them. */
  health: Health;
  counts: Counts;
  controller: ControllerRow | null;
  /** By name. */
  agents: AgentRow[];
  graph: Graph;
  installation: InstallationView | null;
  gates: GateRow[];
}

export function viewOf(input: Input): View {
  const controller = input.controller ? controllerRow(input.controller, input.now) : null;
  const agents = (input.agents ?? []).map(info => agentRow(info, controller?.version, input.now));
  agents.sort((a, b) => compare(a.name, b.name));
  const counts: Counts = { healthy: 0, degraded: 0, unhealthy: 0, stale: 0, unknown: 0 };
  for (const { health } of agents) counts[health.verdict.toLowerCase() as Lowercase<Verdict>] += 1;
  return {
    health: overall(controller, agents),
    counts,
    controller,
    agents,
    graph: graphOf(controller, agents),
    installation: input.installation ? installationView(input.installation) : null,
    gates: gateRows(input.gates ?? []),
  };
}

/** The worst verdict, and whose it is; the controller's where it is as bad as an agent's. */
function overall(controller: ControllerRow | null, agents: AgentRow[]): Health {
  if (!controller) {
    const reason = 'there is no AntreaControllerInfo: is Antrea installed?';
    return { verdict: 'Unknown', reason };
  }
  if (agents.length === 0) return { verdict: 'Unknown', reason: 'there is no AntreaAgentInfo' };
  const verdicts = agents.map(row => row.health.verdict);
  const worst = verdicts.reduce((a, b) => (badness(b) > badness(a) ? b : a));
  const own = controller.health;
  if (badness(worst) > badness(own.verdict)) {
    const ill = verdicts.filter(verdict => verdict !== 'Healthy').length;
    return { verdict: worst, reason: `${ill} of ${agents.length} agents are not healthy` };
  }
  if (own.verdict === 'Healthy') return { verdict: 'Healthy', reason: '' };
  return { verdict: own.verdict, reason: `controller: ${own.reason}` };
}
