// The view model against the vectors that the crate ui/model keeps, and what vectors do not hold.
import { readdirSync, readFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { describe, expect, it } from 'vitest';
import { viewOf } from '../src/model';
import { configuredGates } from '../src/model/gates';

const folder = resolve(__dirname, '../../model/vectors');
const vectors = readdirSync(folder).map(name => ({
  name,
  ...JSON.parse(readFileSync(resolve(folder, name), 'utf8')),
}));
// Those of traces are read in vectors.test.ts.
const views = vectors.filter(vector => !vector.input.traceflows);

describe('vectors', () => {
  it('are there', () => expect(views.length).toBeGreaterThanOrEqual(15));

  it.each(views)('$name: $about', ({ input, expected }) => {
    // The text for Graphviz is drawn from `graph`, which is compared.
    const { dot, ...rest } = expected;
    expect(dot).toBeTypeOf('string');
    expect(viewOf({ ...input, now: Date.parse(input.now) })).toEqual(rest);
  });
});

it('draws a large cluster in part, and those that are not well in any case', () => {
  const agents = Array.from({ length: 2_000 }, (_, number) => ({
    metadata: { name: `node${String(number).padStart(4, '0')}` },
    agentConditions: [
      {
        type: 'AgentHealthy',
        status: number === 1_999 ? 'False' : 'True',
        lastHeartbeatTime: '2026-11-28T12:00:00Z',
      },
    ],
  }));
  const view = viewOf({ now: Date.parse('2026-11-28T12:00:30Z'), agents });
  expect([view.agents.length, view.counts.healthy, view.graph.omitted]).toEqual([
    2_000, 1_999, 1_900,
  ]);
  expect(view.graph.vertices.some(vertex => vertex.id === 'node/node1999')).toBe(true);
});

it('takes what it does not know for what it is', () => {
  const view = viewOf({
    now: 0,
    controller: {
      controllerConditions: [{ type: 'Later', status: 'Maybe', lastHeartbeatTime: 'yesterday' }],
      later: { a: 1 },
    },
    installation: { status: { conditions: [{ type: 'Later', status: 'True' }], plan: [{}] } },
  });
  expect(view.controller?.health).toEqual({ verdict: 'Unknown', reason: 'no heartbeat yet' });
  expect(view.installation?.conditions[0].type).toBe('Later');
});

describe('gates in a configuration file', () => {
  const read = (file: string) =>
    configuredGates('agent', file).map(({ name, status }) => `${name} ${status}`);

  it('are those of the block', () =>
    expect(
      read(
        'apiPort: 1\nfeatureGates:\n  A: true\n# a note\n  B: false # why\n#  C: true\nlogs:\n  D: true\n'
      )
    ).toEqual(['A Enabled', 'B Disabled']));

  it.each([
    '',
    'featureGates: {}',
    'featureGates:\n  A: maybe\n',
    ' featureGates:\n  A: true\n',
    '\u0000',
  ])('are none in %j', file => expect(read(file)).toEqual([]));
});
