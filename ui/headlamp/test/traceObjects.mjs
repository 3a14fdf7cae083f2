// The traces that the browser test puts into its API server.
import { ago } from './objects.mjs';

const podOf = name => ({ namespace: 'shop', pod: name });
const SYN = {
  ipHeader: { protocol: 6 },
  transportHeader: { tcp: { dstPort: 5432, flags: 2 } },
};

const trace = (name, spec, status) => ({
  apiVersion: 'crd.antrea.io/v1beta1',
  kind: 'Traceflow',
  metadata: { name },
  spec,
  status,
});

const SPOOF_GUARD = { component: 'SpoofGuard', action: 'Forwarded' };

/** What the nodes tell of a packet that got to a Service behind a tunnel. */
export const DELIVERED = {
  phase: 'Succeeded',
  startTime: ago(0),
  results: [
    {
      node: 'node2',
      role: 'receiver',
      observations: [
        { component: 'Forwarding', componentInfo: 'Classification', action: 'Received' },
        {
          component: 'NetworkPolicy',
          componentInfo: 'IngressRule',
          action: 'Forwarded',
          networkPolicy: 'K8sNetworkPolicy:shop/db-ingress',
        },
        { component: 'Forwarding', componentInfo: 'Output', action: 'Delivered', pod: 'shop/db' },
      ],
    },
    {
      node: 'node1',
      role: 'sender',
      observations: [
        SPOOF_GUARD,
        {
          component: 'LB',
          componentInfo: 'EndpointDNAT',
          action: 'Forwarded',
          pod: 'shop/db',
          translatedDstIP: '10.244.2.7',
        },
        {
          component: 'Forwarding',
          componentInfo: 'Output',
          action: 'Forwarded',
          tunnelDstIP: '172.30.0.12',
        },
      ],
    },
  ],
};

/** Traces with their status, one of each kind. */
export const TRACES = [
  trace(
    'delivered',
    { source: podOf('web'), destination: { namespace: 'shop', service: 'db' }, packet: SYN },
    DELIVERED
  ),
  trace(
    'dropped',
    { source: podOf('web'), destination: podOf('db'), packet: SYN },
    {
      phase: 'Succeeded',
      results: [
        {
          node: 'node1',
          role: 'sender',
          observations: [
            SPOOF_GUARD,
            {
              component: 'NetworkPolicy',
              componentInfo: 'AntreaPolicyEgressRule',
              action: 'Dropped',
              networkPolicy: 'AntreaClusterNetworkPolicy:deny-db',
              networkPolicyRule: '<b>no-sql</b>',
            },
          ],
        },
      ],
    }
  ),
  trace(
    'lost',
    { source: podOf('web'), destination: { ip: '2001:db8::7' }, packet: { ipv6Header: {} } },
    {
      phase: 'Failed',
      reason: 'traceflow timeout: no Node saw where the packet ends; seen on node1',
      results: [{ node: 'node1', role: 'sender', observations: [SPOOF_GUARD] }],
    }
  ),
  trace(
    'live',
    {
      source: { ip: '198.51.100.7' },
      destination: podOf('web'),
      liveTraffic: true,
      droppedOnly: true,
      timeout: 60,
    },
    {
      phase: 'Succeeded',
      results: [
        {
          node: 'node1',
          role: 'receiver',
          observations: [
            { component: 'Forwarding', componentInfo: 'Classification', action: 'Received' },
            {
              component: 'NetworkPolicy',
              componentInfo: 'IngressDefaultRule',
              action: 'Dropped',
              networkPolicy: 'K8sNetworkPolicy:shop/web-ingress',
            },
          ],
        },
      ],
      capturedPacket: {
        srcIP: '198.51.100.7',
        dstIP: '10.244.1.5',
        length: 60,
        ipHeader: { protocol: 6, ttl: 63 },
        transportHeader: { tcp: { srcPort: 43210, dstPort: 80, flags: 2 } },
      },
    }
  ),
  trace('running', { source: podOf('web'), destination: podOf('db') }, { phase: 'Running' }),
  trace('waiting', { source: podOf('web'), destination: podOf('db') }),
];
