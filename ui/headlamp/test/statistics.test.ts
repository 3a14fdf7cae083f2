// Counters of policies, and how they are written.
import { expect, it } from 'vitest';
import { countersOf, shortNumber, statisticsOf } from '../src/model/statistics';

const row = (kind: string, namespace: string, name: string) => ({
  uid: 'u',
  kind,
  source: { namespace, name },
  generation: 1,
  ingress: 1,
  egress: 0,
});

it('finds the counters of a policy by kind, namespace and name', () => {
  const all = statisticsOf({
    NetworkPolicy: [
      {
        metadata: { namespace: 'shop', name: 'db' },
        trafficStats: { sessions: 3, packets: 45, bytes: 45_000 },
      },
    ],
    AntreaClusterNetworkPolicy: [
      {
        metadata: { name: 'db' },
        trafficStats: { packets: 7 },
        ruleTrafficStats: [{ name: 'no-sql', trafficStats: { packets: 7, bytes: 420 } }, {}],
      },
    ],
    AntreaNetworkPolicy: undefined,
  });
  expect(countersOf(all, row('NetworkPolicy', 'shop', 'db'))).toEqual({
    sessions: 3,
    packets: 45,
    bytes: 45_000,
    rules: [],
  });
  expect(countersOf(all, row('AntreaClusterNetworkPolicy', '', 'db'))?.rules).toEqual([
    { name: 'no-sql', sessions: 0, packets: 7, bytes: 420 },
    { name: '', sessions: 0, packets: 0, bytes: 0 },
  ]);
  for (const other of [
    row('NetworkPolicy', 'bank', 'db'),
    row('AntreaNetworkPolicy', 'shop', 'db'),
    row('NetworkPolicy', 'shop', 'web'),
  ]) {
    expect(countersOf(all, other)).toBeUndefined();
  }
});

it('writes numbers as antctl does', () => {
  const written = [0, 25, 999, 1_000, 1_230_000, 45_000, 99_960, 999_499, 999_500, 1.5e9, 2e18];
  expect(written.map(shortNumber)).toEqual([
    '0',
    '25',
    '999',
    '1.00k',
    '1.23M',
    '45.0k',
    '100k',
    '999k',
    '1.00M',
    '1.50G',
    '2000P',
  ]);
});
