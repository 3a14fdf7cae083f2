// What is typed into the form of a new trace, and what comes of it.
import { describe, expect, it } from 'vitest';
import { ANY, EMPTY, familyOf, Form, readForm, traceName } from '../src/model/form';
import { flagBits, flagNames } from '../src/model/trace';

const GOOD: Form = {
  ...EMPTY,
  sourceNamespace: 'shop',
  sourcePod: ' web ',
  destinationNamespace: 'shop',
  destinationName: 'db',
  destinationPort: '5432',
};
const LIVE: Form = { ...GOOD, live: true, sourceType: ANY, destinationPort: '', flags: [] };
const web = { namespace: 'shop', pod: 'web' };
const db = { namespace: 'shop', pod: 'db' };

describe('the form', () => {
  const made: [string, Form, object][] = [
    [
      'a packet to a Pod is the first of a connection',
      GOOD,
      {
        source: web,
        destination: db,
        packet: {
          ipHeader: { protocol: 6 },
          transportHeader: { tcp: { dstPort: 5432, flags: 2 } },
        },
      },
    ],
    [
      'to a Service, of IPv6',
      { ...GOOD, destinationType: 'Service', family: 'IPv6', protocol: 'UDP', sourcePort: '53' },
      {
        source: web,
        destination: { namespace: 'shop', service: 'db' },
        packet: {
          ipv6Header: { nextHeader: 17 },
          transportHeader: { udp: { srcPort: 53, dstPort: 5432 } },
        },
      },
    ],
    [
      'to an address, whose family counts; ports that are not shown do not',
      {
        ...GOOD,
        destinationType: 'Address',
        destinationAddress: '2001:db8::1',
        protocol: 'ICMP',
        destinationPort: 'x',
        timeout: '30',
      },
      {
        source: web,
        destination: { ip: '2001:db8::1' },
        packet: { ipv6Header: { nextHeader: 58 }, transportHeader: { icmp: {} } },
        timeout: 30,
      },
    ],
    [
      'live traffic from anywhere, whatever its flags and ports',
      { ...LIVE, droppedOnly: true },
      {
        source: {},
        destination: db,
        packet: { ipHeader: { protocol: 6 }, transportHeader: { tcp: {} } },
        liveTraffic: true,
        droppedOnly: true,
      },
    ],
    [
      'live traffic between an address and a Pod',
      { ...LIVE, sourceType: 'Address', sourceAddress: '192.0.2.7', flags: ['SYN', 'ACK'] },
      {
        source: { ip: '192.0.2.7' },
        destination: db,
        packet: { ipHeader: { protocol: 6 }, transportHeader: { tcp: { flags: 18 } } },
        liveTraffic: true,
      },
    ],
    [
      'live traffic of any protocol, of IPv6',
      { ...LIVE, protocol: ANY, family: 'IPv6', sourcePort: 'x' },
      { source: {}, destination: db, packet: { ipv6Header: {} }, liveTraffic: true },
    ],
    [
      'what only live traffic has is not sent along without it',
      { ...LIVE, live: false, droppedOnly: true, destinationPort: '80', flags: ['SYN'] },
      {
        source: web,
        destination: db,
        packet: { ipHeader: { protocol: 6 }, transportHeader: { tcp: { dstPort: 80, flags: 2 } } },
      },
    ],
  ];
  it.each(made)('%s', (_, form, spec) => expect(readForm(form)).toEqual({ spec, problems: {} }));

  const address: Form = { ...LIVE, sourceType: 'Address', sourceAddress: '192.0.2.7' };
  const wrong: [keyof Form, Form][] = [
    ['sourceNamespace', { ...GOOD, sourceNamespace: ' ' }],
    ['sourcePod', { ...GOOD, sourcePod: '../x' }],
    ['sourcePod', { ...GOOD, sourcePod: 'a'.repeat(300) }],
    ['destinationNamespace', { ...GOOD, destinationNamespace: 'Shop' }],
    ['destinationName', { ...GOOD, destinationName: '' }],
    ['destinationPort', { ...GOOD, destinationPort: '' }],
    ['destinationPort', { ...GOOD, destinationPort: '0' }],
    ['destinationPort', { ...GOOD, destinationPort: '65536' }],
    ['destinationPort', { ...GOOD, destinationPort: '8e1' }],
    ['sourcePort', { ...GOOD, sourcePort: '-1' }],
    ['destinationAddress', { ...GOOD, destinationType: 'Address', destinationAddress: '1.2.3' }],
    ['sourceAddress', { ...LIVE, sourceType: 'Address' }],
    ['sourceType', { ...LIVE, destinationType: ANY }],
    ['sourceType', { ...LIVE, destinationType: 'Service' }],
    [
      'sourceAddress',
      { ...address, sourceType: 'Address', destinationType: 'Address', destinationAddress: '::1' },
    ],
    ['timeout', { ...LIVE, timeout: '301' }],
    ['timeout', { ...LIVE, timeout: '1 minute' }],
  ];
  it.each(wrong)('%s is named where it is wrong: %j', (field, form) =>
    expect(Object.keys(readForm(form).problems)).toContain(field)
  );
  it('finds nothing wrong with what is right', () => {
    for (const form of [GOOD, LIVE, address]) expect(readForm(form).problems).toEqual({});
  });
});

it('tells families of addresses', () => {
  expect(['10.0.0.1', '::', '2001:DB8::1', '::ffff:10.0.0.1'].map(familyOf)).toEqual([
    'IPv4',
    'IPv6',
    'IPv6',
    'IPv6',
  ]);
  for (const none of ['', '10.0.0.256', '10.0.0.01', '1', 'a:b', 'fe80::1%eth0', '::1]/x', ':::']) {
    expect(familyOf(none), none).toBe(null);
  }
});

it('names a trace by its ends and the time', () => {
  const now = Date.parse('2026-11-28T12:00:05Z');
  expect(traceName({ source: web, destination: db }, now)).toBe('web-db-20261128-120005');
  const live = { source: { ip: '192.0.2.7' }, destination: web, liveTraffic: true };
  expect(traceName(live, now)).toBe('live-192-0-2-7-web-20261128-120005');
  expect(traceName({}, now)).toBe('any-any-20261128-120005');
});

it('knows the flags of TCP by their bits', () => {
  expect(flagBits(['SYN', 'ACK'])).toBe(18);
  expect(flagNames(18)).toEqual(['SYN', 'ACK']);
  expect(flagNames(0)).toEqual([]);
});
