// The form of a new trace: what was typed in becomes the specification of a Traceflow, or is said to be wrong, by field.
import { End, Flag, flagBits, Packet, TraceSpec } from './trace';

/** Seconds that a trace can have. */
const LONGEST = 300;

export const SOURCES = ['Pod', 'Address'] as const;
export const DESTINATIONS = ['Pod', 'Service', 'Address'] as const;
/** With live traffic either end may be left open, and the protocol. */
export const ANY = 'Any';
export const FAMILIES = ['IPv4', 'IPv6'] as const;
export const PROTOCOLS = ['TCP', 'UDP', 'ICMP'] as const;

/** What was typed in. */
export interface Form {
  live: boolean;
  sourceType: (typeof SOURCES)[number] | typeof ANY;
  sourceNamespace: string;
  sourcePod: string;
  sourceAddress: string;
  destinationType: (typeof DESTINATIONS)[number] | typeof ANY;
  destinationNamespace: string;
  /** Name of the Pod or the Service. */
  destinationName: string;
  destinationAddress: string;
  /** Of no account where an address is given. */
  family: (typeof FAMILIES)[number];
  protocol: (typeof PROTOCOLS)[number] | typeof ANY;
  sourcePort: string;
  destinationPort: string;
  flags: Flag[];
  droppedOnly: boolean;
  timeout: string;
}

export const EMPTY: Form = {
  live: false,
  sourceType: 'Pod',
  sourceNamespace: '',
  sourcePod: '',
  sourceAddress: '',
  destinationType: 'Pod',
  destinationNamespace: '',
  destinationName: '',
  destinationAddress: '',
  family: 'IPv4',
  protocol: 'TCP',
  sourcePort: '',
  destinationPort: '',
  flags: ['SYN'],
  droppedOnly: false,
  timeout: '',
};

/** What is wrong, by field. */
export type Problems = Partial<Record<keyof Form, string>>;

/** Reads the form: `spec` is of use only without problems. */
export function readForm(form: Form): { spec: TraceSpec; problems: Problems } {
  const problems: Problems = {};
  const name = (
    field: 'sourceNamespace' | 'sourcePod' | 'destinationNamespace' | 'destinationName'
  ) => {
    const text = form[field].trim();
    if (!text) problems[field] = 'is missing';
    else if (!isName(text)) problems[field] = 'is no name in Kubernetes';
    return text;
  };
  const address = (field: 'sourceAddress' | 'destinationAddress') => {
    const text = form[field].trim();
    if (!text) problems[field] = 'is missing';
    else if (!familyOf(text)) problems[field] = 'is no IP address';
    return text;
  };
  const number = (field: 'sourcePort' | 'destinationPort' | 'timeout', most: number) => {
    const text = form[field].trim();
    if (!text) return undefined;
    const value = /^\d{1,5}$/.test(text) ? Number(text) : 0;
    if (value < 1 || value > most) problems[field] = `is not within 1 and ${most}`;
    return value;
  };

  const { live } = form;
  const source: End =
    live && form.sourceType === ANY
      ? {}
      : live && form.sourceType === 'Address'
      ? { ip: address('sourceAddress') }
      : { namespace: name('sourceNamespace'), pod: name('sourcePod') };
  const destination: End =
    live && form.destinationType === ANY
      ? {}
      : form.destinationType === 'Address'
      ? { ip: address('destinationAddress') }
      : {
          namespace: name('destinationNamespace'),
          [form.destinationType === 'Service' ? 'service' : 'pod']: name('destinationName'),
        };
  if (live && source.pod === undefined && destination.pod === undefined) {
    problems.sourceType = 'is no Pod, and neither is the destination: one of them has to be';
  }
  const families = [familyOf(source.ip ?? ''), familyOf(destination.ip ?? '')].filter(Boolean);
  if (new Set(families).size > 1) {
    problems.sourceAddress = 'is of another family than the destination';
  }
  const packet = packetOf(form, families[0] ?? form.family, {
    srcPort: number('sourcePort', 65_535),
    dstPort: number('destinationPort', 65_535),
  });
  if (!live && hasPorts(form) && !form.destinationPort.trim())
    problems.destinationPort = 'is missing';
  const spec: TraceSpec = { source, destination, packet };
  if (live) spec.liveTraffic = true;
  if (live && form.droppedOnly) spec.droppedOnly = true;
  const timeout = number('timeout', LONGEST);
  if (timeout !== undefined) spec.timeout = timeout;
  // Fields that are not shown are not wrong.
  if (!hasPorts(form)) {
    delete problems.sourcePort;
    delete problems.destinationPort;
  }
  return { spec, problems };
}

/** Whether the chosen protocol has ports. */
export function hasPorts({ protocol }: Form): boolean {
  return protocol === 'TCP' || protocol === 'UDP';
}

interface Ports {
  srcPort?: number;
  dstPort?: number;
}

function packetOf({ protocol, live, flags }: Form, family: string, ports: Ports): Packet {
  const set: Ports = {};
  if (ports.srcPort !== undefined) set.srcPort = ports.srcPort;
  if (ports.dstPort !== undefined) set.dstPort = ports.dstPort;
  const v6 = family === 'IPv6';
  if (protocol === ANY) return v6 ? { ipv6Header: {} } : {};
  const [number, transportHeader]: [number, Packet['transportHeader']] =
    protocol === 'ICMP'
      ? [v6 ? 58 : 1, { icmp: {} }]
      : protocol === 'UDP'
      ? [17, { udp: set }]
      : // Of live traffic no flags mean any.
        [6, { tcp: live && flags.length === 0 ? set : { ...set, flags: flagBits(flags) } }];
  const header = v6 ? { ipv6Header: { nextHeader: number } } : { ipHeader: { protocol: number } };
  return { ...header, transportHeader };
}

function isName(text: string): boolean {
  return text.length <= 253 && /^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/.test(text);
}

/** The family of an address; null of what is none. */
export function familyOf(text: string): 'IPv4' | 'IPv6' | null {
  const parts = text.split('.');
  const isByte = (part: string) => /^(0|[1-9]\d{0,2})$/.test(part) && Number(part) < 256;
  if (parts.length === 4 && parts.every(isByte)) return 'IPv4';
  if (!/^[0-9a-f:.]+$/i.test(text)) return null;
  try {
    new URL(`http://[${text}]/`);
    return 'IPv6';
  } catch {
    return null;
  }
}

/** The name of a trace: SOURCE-DESTINATION-DATE-TIME in UTC, as `antrea-octant-plugin` has it too. */
export function traceName({ source, destination, liveTraffic }: TraceSpec, now: number): string {
  const part = (end: End = {}) =>
    (end.pod || end.service || end.ip || 'any')
      .slice(0, 100)
      .replace(/[^a-z0-9-]/g, '-')
      .replace(/^-+|-+$/g, '');
  const [date, time] = new Date(now).toISOString().replace(/[-:]/g, '').split(/[T.]/);
  return `${liveTraffic ? 'live-' : ''}${part(source)}-${part(destination)}-${date}-${time}`;
}
