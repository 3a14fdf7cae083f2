// Rollouts, traces and explanations against the vectors in test/vectors, and the list of traces against those of the crate ui/model.
// `UPDATE_VECTORS=1` writes what comes out into test/vectors; what changed is then for
// people to look at, and `npx prettier --write test` lays it out.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { resolve } from 'node:path';
import { describe, expect, it } from 'vitest';
import { viewOf } from '../src/model';
import { explanationOf } from '../src/model/explain';
import { rolloutView } from '../src/model/rollout';
import { traceRows, traceView } from '../src/model/trace';

const folder = resolve(__dirname, 'vectors');

function check(kind: string, least: number, view: (input: any) => unknown) {
  const names = readdirSync(folder).filter(name => name.startsWith(`${kind}-`));
  describe(kind, () => {
    it('has vectors', () => expect(names.length).toBeGreaterThanOrEqual(least));

    it.each(names)('%s', name => {
      const path = resolve(folder, name);
      const vector = JSON.parse(readFileSync(path, 'utf8'));
      const seen = view(vector.input);
      if (process.env.UPDATE_VECTORS) {
        vector.expected = seen;
        writeFileSync(path, JSON.stringify(vector, null, 2) + '\n');
      }
      expect(seen, vector.about).toEqual(vector.expected);
    });
  });
}

check('rollout', 12, rolloutView);
check('trace', 15, ({ trace, now }) => traceView(trace, Date.parse(now)));
check('explain', 25, ({ now, agents, trace, ...asked }) => {
  const time = Date.parse(now);
  return explanationOf({
    ...asked,
    agents: Array.isArray(agents) ? { value: viewOf({ now: time, agents }).agents } : agents,
    trace: trace.value ? { value: traceView(trace.value, time) } : trace,
  });
});

it('lists traces as the crate does', () => {
  const path = resolve(__dirname, '../../model/vectors/traceflows.json');
  const { input, expected } = JSON.parse(readFileSync(path, 'utf8'));
  expect(traceRows(input.traceflows)).toEqual(expected.rows);
});
