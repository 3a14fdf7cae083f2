// What the golden vectors do not have: realization of policies, and fields that are not known.
import { describe, expect, it } from 'vitest';
import { fieldsOf } from '../src/model/fields';
import { policiesOf, policyRows, realizationOf } from '../src/model/realization';

describe('realization', () => {
  const node = (nodeName: string, generation: number, realizationFailure = false) => ({
    nodeName,
    generation,
    realizationFailure,
  });
  const verdict = (...nodes: ReturnType<typeof node>[]) => realizationOf(2, { nodes }).health;

  it('is not known before a node has reported', () => {
    expect(verdict().verdict).toBe('Unknown');
    expect(realizationOf(2, {}).nodes).toEqual([]);
  });
  it('is there when every node has the present generation', () =>
    expect(verdict(node('b', 2), node('a', 2))).toEqual({ verdict: 'Healthy', reason: '' }));
  it('is behind where a node has an older one', () =>
    expect(verdict(node('a', 2), node('b', 1))).toEqual({
      verdict: 'Degraded',
      reason: 'older on 1 of 2 nodes',
    }));
  it('fails where a node says so, whatever the others say', () =>
    expect(verdict(node('a', 1), node('b', 2, true))).toEqual({
      verdict: 'Unhealthy',
      reason: 'failed on 1 of 2 nodes',
    }));
  it('lists nodes by name, each with its state', () =>
    expect(
      realizationOf(2, { nodes: [node('c', 1), node('b', 2, true), node('a', 3), {}] }).nodes.map(
        ({ node, state }) => `${node} ${state}`
      )
    ).toEqual([' Behind', 'a Realized', 'b Failed', 'c Behind']));
});

describe('policies of a pod', () => {
  const pod = { namespace: 'shop', name: 'web' };
  const groups = [
    { metadata: { name: 'own' }, groupMembers: [{}, { pod }] },
    { metadata: { name: 'other' }, groupMembers: [{ pod: { namespace: 'prod', name: 'web' } }] },
    { metadata: { name: 'none' } },
  ];
  const policy = (name: string, appliedToGroups?: string[], ofRule?: string[]) => ({
    metadata: { name },
    appliedToGroups,
    rules: [{ direction: 'In', appliedToGroups: ofRule }],
    sourceRef: { type: 'K8sNetworkPolicy', namespace: 'shop', name },
  });

  it('are those whose groups have it, also by a rule', () => {
    const policies = [
      policy('b', ['own']),
      policy('a', undefined, ['own']),
      policy('c', ['other', 'none']),
      policy('d'),
    ];
    expect(policiesOf(pod, groups, policies).map(row => row.uid)).toEqual(['a', 'b']);
  });
});

it('shows a policy by where it comes from', () => {
  const [row] = policyRows([
    {
      metadata: { name: 'u-1', generation: 3 },
      rules: [{ direction: 'In' }, { direction: 'Out' }, { direction: 'In' }],
      sourceRef: { type: 'K8sNetworkPolicy', namespace: 'shop', name: 'p' },
    },
  ]);
  expect(row).toEqual({
    uid: 'u-1',
    kind: 'NetworkPolicy',
    source: { namespace: 'shop', name: 'p' },
    generation: 3,
    ingress: 2,
    egress: 1,
  });
  expect(policyRows([{ metadata: { name: 'bare' } }])[0].kind).toBe('');
});

describe('fields that are not known', () => {
  it('are lines with their paths', () =>
    expect(
      fieldsOf(
        { a: 1, b: { c: [true, 'x'], d: [{ e: null }] }, known: 2, empty: [], none: undefined },
        ['known']
      )
    ).toEqual([
      { name: 'a', value: '1' },
      { name: 'b.c', value: 'true, x' },
      { name: 'b.d[0].e', value: 'null' },
    ]));
  it.each([undefined, null, {}, []])('are none in %j', value =>
    expect(fieldsOf(value).filter(field => field.name !== '')).toEqual([])
  );
  it('are bounded', () =>
    expect(
      fieldsOf(Object.fromEntries(Array.from({ length: 5_000 }, (_, n) => [n, n]))).length
    ).toBe(201));
});
