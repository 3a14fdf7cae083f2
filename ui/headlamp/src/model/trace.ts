// Traceflows, crd.antrea.io/v1beta1: their list, as ui/model/src/trace.rs has it and checked by the same vectors, and the
// path of one in words and boxes.
//
// The kind is read leniently, by the fields that are shown: whoever serves it may be of another version.
import { compare } from './rows';

/** Observations that are shown at most. */
const LIMIT = 200;

/** Seconds that a trace may go without a phase before that is told as a fault. */
const TAKEN_UP = 10;

/** Seconds that a trace has if it does not say. */
export const TIMEOUT = 20;

export interface End {
  namespace?: string;
  pod?: string;
  service?: string;
  ip?: string;
}

interface Ports {
  srcPort?: number;
  dstPort?: number;
}

export interface Packet {
  srcIP?: string;
  dstIP?: string;
  length?: number;
  ipHeader?: { protocol?: number; ttl?: number; flags?: number };
  ipv6Header?: { nextHeader?: number; hopLimit?: number };
  transportHeader?: {
    icmp?: { id?: number; sequence?: number };
    udp?: Ports;
    tcp?: Ports & { flags?: number };
  };
}

export interface TraceSpec {
  source?: End;
  destination?: End;
  packet?: Packet;
  liveTraffic?: boolean;
  droppedOnly?: boolean;
  timeout?: number;
}

interface Observation {
  component?: string;
  componentInfo?: string;
  action?: string;
  pod?: string;
  networkPolicy?: string;
  networkPolicyRule?: string;
  translatedSrcIP?: string;
  translatedDstIP?: string;
  tunnelDstIP?: string;
  egress?: string;
  egressIP?: string;
  egressNode?: string;
}

interface NodeResult {
  node?: string;
  role?: string;
  observations?: Observation[];
}

export interface Traceflow {
  metadata?: { name?: string; creationTimestamp?: string };
  spec?: TraceSpec;
  status?: {
    phase?: string;
    reason?: string;
    results?: NodeResult[];
    capturedPacket?: Packet;
  };
}

export interface TraceRow {
  name: string;
  sourceNamespace: string;
  /** A Pod, or an address with live traffic. */
  source: string;
  destinationNamespace: string;
  /** "Pod", "Service", "IP", or nothing with live traffic to anywhere. */
  destinationType: string;
  destination: string;
  /** "TCP", "UDP", "ICMP", "ICMPv6", a number, or nothing. */
  protocol: string;
  phase: string;
  /** Why it failed. */
  reason: string;
  /** Whether it watches traffic rather than sends a packet. */
  live: boolean;
  created: string | null;
}

/** A trace of the list, with where its packet ended. */
export interface TraceEntry extends TraceRow {
  outcome: Outcome;
}

/** A name and a value. */
export type Line = [name: string, value: string];

/** What a node did with the packet. */
export interface Step {
  title: string;
  action: string;
  dropped: boolean;
  lines: Line[];
}

export interface Hop {
  node: string;
  /** "sender", "receiver", or empty where it is not told. */
  role: string;
  steps: Step[];
  /** Where the tunnel to the next node ends; empty where there is none. */
  tunnel: string;
}

export interface Outcome {
  status: 'success' | 'warning' | 'error' | '';
  word: string;
  text: string;
}

export interface TraceView {
  row: TraceRow;
  ended: boolean;
  outcome: Outcome;
  hops: Hop[];
  /** Observations that are left out. */
  omitted: number;
  captured: Line[];
}

/** The list, newest first. */
export function traceRows(traces: Traceflow[]): TraceRow[] {
  const time = ({ created }: TraceRow) => (created ? Date.parse(created) : -Infinity);
  return traces.map(traceRow).sort((a, b) => {
    const [first, second] = [time(a), time(b)];
    return first === second ? compare(a.name, b.name) : second - first;
  });
}

/** The same with outcomes; `now` in milliseconds since 1970. */
export function traceEntries(traces: Traceflow[], now: number): TraceEntry[] {
  const byName = new Map(traces.map(trace => [trace.metadata?.name ?? '', trace]));
  return traceRows(traces).map(row => ({
    ...row,
    outcome: outcomeOf(byName.get(row.name) ?? {}, row, now),
  }));
}

function traceRow({ metadata, spec = {}, status = {} }: Traceflow): TraceRow {
  const { source = {}, destination = {} } = spec;
  const [type, to] = destination.pod
    ? ['Pod', destination.pod]
    : destination.service
    ? ['Service', destination.service]
    : [destination.ip ? 'IP' : '', destination.ip ?? ''];
  return {
    name: metadata?.name ?? '',
    sourceNamespace: source.namespace ?? '',
    source: source.pod || source.ip || '',
    destinationNamespace: destination.namespace ?? '',
    destinationType: type,
    destination: to,
    protocol: protocolOf(spec.packet ?? {}),
    phase: status.phase ?? '',
    reason: status.reason ?? '',
    live: spec.liveTraffic ?? false,
    created: metadata?.creationTimestamp ?? null,
  };
}

const PROTOCOLS: Record<number, string> = { 1: 'ICMP', 6: 'TCP', 17: 'UDP', 58: 'ICMPv6' };

function protocolOf({ ipHeader, ipv6Header, transportHeader = {} }: Packet): string {
  const number = ipHeader?.protocol ?? ipv6Header?.nextHeader;
  if (number !== undefined) return PROTOCOLS[number] ?? String(number);
  if (transportHeader.tcp) return 'TCP';
  if (transportHeader.udp) return 'UDP';
  return transportHeader.icmp ? 'ICMP' : '';
}

/** One trace; `now` in milliseconds since 1970. */
export function traceView(trace: Traceflow, now: number): TraceView {
  const row = traceRow(trace);
  const results = resultsOf(trace);
  const hops: Hop[] = [];
  let left = LIMIT;
  for (const result of results) {
    const seen = result.observations ?? [];
    hops.push({
      node: result.node ?? '',
      role: result.role || (isSender(result) ? 'sender' : ''),
      steps: seen.slice(0, left).map(stepOf),
      tunnel: seen.find(one => one.tunnelDstIP && !isDropped(one))?.tunnelDstIP ?? '',
    });
    left -= Math.min(left, seen.length);
  }
  const all = results.reduce((sum, result) => sum + (result.observations?.length ?? 0), 0);
  return {
    row,
    ended: isEnded(trace),
    outcome: outcomeOf(trace, row, now),
    hops: hops.filter(hop => hop.steps.length > 0),
    omitted: Math.max(0, all - LIMIT),
    captured: packetLines(trace.status?.capturedPacket),
  };
}

/** Of the packet's way the sender's node is first, in whatever order the nodes answered. */
function resultsOf({ status }: Traceflow): NodeResult[] {
  const results = [...(status?.results ?? [])];
  return results.sort((a, b) => Number(isSender(b)) - Number(isSender(a)));
}

/** Whether nothing more comes. */
export function isEnded(trace: Traceflow): boolean {
  return ['Succeeded', 'Failed'].includes(trace.status?.phase ?? '');
}

/** Whether the packet was sent on this node. */
function isSender({ role, observations }: NodeResult): boolean {
  const first = observations?.[0];
  return role
    ? role === 'sender'
    : first?.component === 'SpoofGuard' && first.action === 'Forwarded';
}

function isDropped({ action }: Observation): boolean {
  return action === 'Dropped' || action === 'Rejected';
}

function stepOf(one: Observation): Step {
  const dropped = isDropped(one);
  const lines: [string, string | undefined][] = [
    ['NetworkPolicy', one.networkPolicy],
    ['Rule', one.networkPolicyRule],
    ['To', one.pod],
  ];
  if (!dropped) {
    lines.push(
      ['Translated source', one.translatedSrcIP],
      ['Translated destination', one.translatedDstIP],
      ['Tunnel to', one.tunnelDstIP],
      ['Egress', one.egress],
      ['Egress address', one.egressIP],
      ['Egress node', one.egressNode]
    );
  }
  return {
    title: titleOf(one),
    action: one.action ?? '',
    dropped,
    lines: told(lines),
  };
}

/** A component and its table, which may be of the same name. */
function titleOf({ component, componentInfo }: Observation): string {
  return [...new Set([component, componentInfo])].filter(Boolean).join(', ');
}

function told(lines: [string, string | undefined][]): Line[] {
  return lines.flatMap(([name, value]): Line[] => (value ? [[name, value]] : []));
}

/** Where the packet ended, or why that is not known. */
function outcomeOf(trace: Traceflow, row: TraceRow, now: number): Outcome {
  const timeout = trace.spec?.timeout || TIMEOUT;
  switch (row.phase) {
    case 'Succeeded':
      return fateOf(resultsOf(trace));
    case 'Failed':
      return { status: 'error', word: 'Failed', text: failure(row, timeout) };
    case 'Running': {
      const text = row.live
        ? `Nodes look out for a packet that fits, for at most ${timeout} s.`
        : 'The packet is under way.';
      return { status: 'warning', word: 'Running', text };
    }
    case 'Pending':
      return { status: '', word: 'Pending', text: 'It waits for its turn: others run.' };
    case '': {
      const age = row.created ? Math.trunc((now - Date.parse(row.created)) / 1000) : 0;
      if (age < TAKEN_UP) return { status: '', word: 'New', text: 'It is not taken up yet.' };
      const text = `Nobody has taken it up for ${age} s: is the feature gate Traceflow on, and does the controller run?`;
      return { status: 'warning', word: 'Not taken up', text };
    }
    default:
      return { status: '', word: row.phase, text: row.reason };
  }
}

function failure({ reason, live }: TraceRow, timeout: number): string {
  if (!reason) return 'Why is not told.';
  if (!/timeout/i.test(reason)) return `${reason}.`;
  const hint = live
    ? `Within ${timeout} s no packet was seen that fits.`
    : `Within ${timeout} s no node told where the packet ended: it is lost after what is shown, or an agent does not answer.`;
  return `${reason}. ${hint}`;
}

function fateOf(results: NodeResult[]): Outcome {
  const all = results.flatMap(({ node = '', observations = [] }) =>
    observations.map(one => ({ node, one }))
  );
  const drop = all.find(({ one }) => isDropped(one));
  if (drop) {
    const text = `${drop.one.action} on ${drop.node} ${blame(drop.one)}.`;
    return { status: 'error', word: drop.one.action ?? '', text };
  }
  const last = all.filter(({ one }) => one.action === 'Delivered').pop();
  if (last) {
    const to = last.one.pod ? ` to ${last.one.pod}` : '';
    return { status: 'success', word: 'Delivered', text: `Delivered${to} on ${last.node}.` };
  }
  const out = all.find(({ one }) => one.action === 'ForwardedOutOfOverlay');
  if (out) {
    const by = out.one.egressIP ? `, as ${out.one.egressIP}` : '';
    const text = `It left the network of Pods on ${out.node}${by}.`;
    return { status: 'success', word: 'Left', text };
  }
  return { status: '', word: 'Succeeded', text: 'Where the packet ended is not told.' };
}

/** Who dropped the packet. */
function blame(one: Observation): string {
  const { component = '', componentInfo: table = '', networkPolicy: policy } = one;
  const where = table ? ` (${table})` : '';
  if (component !== 'NetworkPolicy') return `in ${titleOf(one)}`;
  // What isolates a Pod drops whatever no rule allows.
  if (/Default/.test(table)) {
    return `because ${policy || 'a policy'} isolates the Pod and no rule allows the packet${where}`;
  }
  const rule = one.networkPolicyRule ? `, rule ${one.networkPolicyRule}` : '';
  return `by ${policy || 'a policy'}${rule}${where}`;
}

export const FLAGS = ['FIN', 'SYN', 'RST', 'PSH', 'ACK', 'URG'] as const;

/** A flag of TCP. */
export type Flag = (typeof FLAGS)[number];

/** Flags as the header has them, and the other way round. */
export function flagBits(flags: readonly Flag[]): number {
  return flags.reduce((bits, flag) => bits | (1 << FLAGS.indexOf(flag)), 0);
}

export function flagNames(bits: number): Flag[] {
  return FLAGS.filter((_, bit) => bits & (1 << bit));
}

/** Of a packet what is set, for people. */
export function packetLines(packet: Packet | undefined): Line[] {
  if (!packet) return [];
  const { tcp, udp } = packet.transportHeader ?? {};
  const ports = tcp ?? udp;
  const text = (value: number | undefined) => (value === undefined ? undefined : String(value));
  return told([
    ['Source address', packet.srcIP],
    ['Destination address', packet.dstIP],
    ['Protocol', protocolOf(packet)],
    ['Source port', text(ports?.srcPort)],
    ['Destination port', text(ports?.dstPort)],
    ['TCP flags', tcp?.flags === undefined ? undefined : flagNames(tcp.flags).join(', ') || 'none'],
    ['TTL', text(packet.ipHeader?.ttl ?? packet.ipv6Header?.hopLimit)],
    ['Length', packet.length === undefined ? undefined : `${packet.length} bytes`],
  ]);
}
