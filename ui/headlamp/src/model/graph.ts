// How the nodes hang together: each by its link at the network between them, and by its watch at the controller.
import { badness, Verdict } from './health';
import { AgentRow, compare, ControllerRow } from './rows';

/** Nodes that are drawn at most; beyond, those that are not well come first. */
const LIMIT = 100;

export interface Vertex {
  id: string;
  kind: 'controller' | 'node' | 'network';
  /** Lines of text. */
  label: string[];
  /** None of the network. */
  verdict: Verdict | null;
}

export interface Edge {
  from: string;
  to: string;
  label: string;
  /** Whether it works, as far as the agent said. */
  up: boolean;
}

export interface Graph {
  vertices: Vertex[];
  edges: Edge[];
  /** Nodes that are left out. */
  omitted: number;
}

export function graphOf(controller: ControllerRow | null, agents: AgentRow[]): Graph {
  let drawn = [...agents];
  if (drawn.length > LIMIT) {
    drawn.sort(
      (a, b) => badness(b.health.verdict) - badness(a.health.verdict) || compare(a.name, b.name)
    );
    drawn = drawn.slice(0, LIMIT).sort((a, b) => compare(a.name, b.name));
  }
  const graph: Graph = { vertices: [], edges: [], omitted: agents.length - drawn.length };
  if (controller) {
    graph.vertices.push({
      id: 'controller',
      kind: 'controller',
      label: lines([controller.name, controller.version]),
      verdict: controller.health.verdict,
    });
  }
  if (drawn.length > 0) {
    graph.vertices.push({
      id: 'network',
      kind: 'network',
      label: ['network between nodes'],
      verdict: null,
    });
  }
  for (const row of drawn) {
    const id = `node/${row.name}`;
    // Who is silent or unknown is not connected, whatever the last word was.
    const fresh = row.health.verdict !== 'Stale' && row.health.verdict !== 'Unknown';
    const isTrue = (type: string) =>
      row.conditions.some(one => one.type === type && one.status === 'True');
    graph.vertices.push({
      id,
      kind: 'node',
      label: lines([
        row.name,
        row.network?.addresses.join(', ') ?? '',
        row.subnets.join(', '),
        `${row.localPods} pods`,
      ]),
      verdict: row.health.verdict,
    });
    graph.edges.push({
      from: id,
      to: 'network',
      label: row.network ? `${row.network.interface}, MTU ${row.network.mtu}` : '',
      up: fresh && isTrue('AgentHealthy'),
    });
    if (controller) {
      graph.edges.push({
        from: 'controller',
        to: id,
        label: '',
        up: fresh && isTrue('ControllerConnectionUp'),
      });
    }
  }
  return graph;
}

function lines(texts: string[]): string[] {
  return texts.filter(text => text !== '');
}
