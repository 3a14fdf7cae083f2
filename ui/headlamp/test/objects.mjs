// What the browser test puts into its API server.

/** Minutes ago, as RFC 3339. */
export const ago = minutes =>
  new Date(Date.now() - minutes * 60_000).toISOString().replace(/\.\d+Z/, 'Z');

const TABLES = {
  Classifier: 9,
  SpoofGuard: 21,
  UnSNAT: 2,
  ConntrackZone: 3,
  ConntrackState: 12,
  EgressRule: 240,
  EgressDefaultRule: 18,
  L3Forwarding: 30,
  IngressSecurityClassifier: 8,
  IngressRule: 612,
  IngressDefaultRule: 31,
  ConntrackCommit: 2,
  Output: 6,
};

function conditions(minutes, wrong = {}) {
  return [
    'AgentHealthy',
    'ControllerConnectionUp',
    'OVSDBConnectionUp',
    'OpenflowConnectionUp',
  ].map(type => ({
    type,
    status: 'True',
    lastHeartbeatTime: ago(minutes),
    ...wrong[type],
  }));
}

function agent(number, minutes, wrong, more = {}) {
  const name = `node${number}`;
  return {
    apiVersion: 'crd.antrea.io/v1beta1',
    kind: 'AntreaAgentInfo',
    metadata: { name },
    version: '0.1.0',
    podRef: { kind: 'Pod', namespace: 'kube-system', name: `antrea-agent-${number}` },
    nodeRef: { kind: 'Node', name },
    nodeSubnets: [`10.244.${number}.0/24`, `fd00:10:244:${number}::/64`],
    ovsInfo: { version: '3.5.0', bridgeName: 'br-int', flowTable: TABLES },
    localPodNum: 10 * number,
    networkInfo: {
      transportInterface: 'eth0',
      transportInterfaceMTU: 1500,
      podMTU: 1450,
      transportInterfaceIPs: [`172.30.0.1${number}/24`],
    },
    networkPolicyControllerInfo: { networkPolicyNum: 3, addressGroupNum: 5, appliedToGroupNum: 3 },
    agentConditions: conditions(minutes, wrong),
    ...more,
  };
}

export const AGENTS = [
  agent(1, 0),
  agent(2, 0, {
    ControllerConnectionUp: {
      status: 'False',
      reason: 'Disconnected',
      message:
        'connection refused since <b>12:00</b>; policies of the last known state are in force',
    },
  }),
  agent(3, 42),
  agent(4, 0, {
    AgentHealthy: {
      status: 'False',
      reason: 'FlowsMissing',
      message: '12 flows of 900 are not installed',
    },
  }),
  agent(5, 0, {}, { version: '0.2.0' }),
  agent(6, 0),
  // One that has not said anything yet.
  { apiVersion: 'crd.antrea.io/v1beta1', kind: 'AntreaAgentInfo', metadata: { name: 'node7' } },
];

const CONTROLLER = {
  apiVersion: 'crd.antrea.io/v1beta1',
  kind: 'AntreaControllerInfo',
  metadata: { name: 'antrea-controller' },
  version: '0.1.0',
  podRef: { kind: 'Pod', namespace: 'kube-system', name: 'antrea-controller-0' },
  nodeRef: { kind: 'Node', name: 'node1' },
  serviceRef: { kind: 'Service', namespace: 'kube-system', name: 'antrea' },
  connectedAgentNum: 5,
  networkPolicyControllerInfo: { networkPolicyNum: 3, addressGroupNum: 5, appliedToGroupNum: 3 },
  controllerConditions: [{ type: 'ControllerHealthy', status: 'True', lastHeartbeatTime: ago(0) }],
};

const INSTALLATION = {
  apiVersion: 'operator.antrea.io/v1alpha1',
  kind: 'AntreaInstallation',
  metadata: { name: 'default' },
  spec: {
    trafficEncapMode: 'Encap',
    tunnelType: 'Geneve',
    version: '0.2.0',
    ovs: { datapath: 'Auto' },
    rollout: {
      canary: { nodeSelector: { canary: 'yes' } },
      orderByLabel: 'topology.kubernetes.io/zone',
      pauseSeconds: 600,
    },
  },
};

/** The wave of each node, by its number: the canary, two zones, and one that is in none. */
const LABELS = [
  { canary: 'yes' },
  ...['a', 'a', 'b', 'b', 'b'].map(zone => ({ 'topology.kubernetes.io/zone': zone })),
  {},
];

const condition = (type, status, reason, message = '') => ({
  type,
  status,
  reason,
  message,
  lastTransitionTime: ago(10),
  observedGeneration: 1,
});

/** A change that has failed in its second wave. */
export const INSTALLATION_STATUS = {
  version: '0.1.0',
  targetVersion: '0.2.0',
  operatorVersion: '0.2.0',
  observedGeneration: 1,
  message: '0.2.0 failed on node3: ImagePullBackOff: no such image',
  conditions: [
    condition('Available', 'True', 'ComponentsReady'),
    condition(
      'Progressing',
      'True',
      'Upgrading',
      'changing version to 0.2.0 (2/7 Nodes, now node3)'
    ),
    condition('Degraded', 'True', 'RolloutFailed', '0.2.0 failed on node3: ImagePullBackOff'),
  ],
  nodes: {
    desired: 7,
    updated: 2,
    ready: 6,
    summary: '6/7 (2 updated)',
    replacing: ['node3'],
    failing: [
      {
        name: 'node3',
        reason: 'ImagePullBackOff',
        message: 'registry.example/antrea-agent:v0.2.0: not found',
      },
    ],
  },
  rollout: {
    target: 'd1',
    newestVersion: '0.2.0',
    wave: 'topology.kubernetes.io/zone=a',
    turns: [{ node: 'node3', since: ago(12) }],
    stable: { version: '0.1.0', trafficEncapMode: 'Encap' },
    failed: {
      spec: 's1',
      version: '0.2.0',
      node: 'node3',
      check: 'ImagePullBackOff',
      message: 'registry.example/antrea-agent:v0.2.0: <b>not found</b>',
      at: ago(7),
      rolledBack: false,
    },
  },
  computed: {
    trafficEncapMode: 'Encap',
    tunnelType: 'Geneve',
    mtu: 1450,
    ovs: { bridge: 'br-int', datapath: 'System' },
  },
};

/** Makes of an installation one whose disruptive change waits for a person. */
export function held(installation) {
  const { status } = installation;
  installation.spec.rollout.acknowledge = 4;
  status.conditions = [
    condition('Available', 'True', 'ComponentsReady'),
    condition(
      'Progressing',
      'False',
      'AcknowledgementNeeded',
      'it is made once spec.rollout.acknowledge is 7'
    ),
    condition('Degraded', 'False', 'AsExpected', 'nothing fails'),
  ];
  status.nodes = { desired: 7, updated: 7, ready: 7, summary: '7/7' };
  status.rollout = { target: 'd0', done: true, held: { generation: 7, target: 'd2' } };
  status.plannedWaves = [
    { name: 'canary', nodes: 1, first: ['node1'], reason: 'they go first, spec.rollout.canary' },
    {
      name: 'others',
      nodes: 12,
      first: ['node2', 'node3', 'node4', 'node5', 'node6'],
      reason: 'by name',
    },
  ];
  status.pendingChanges = [
    {
      object: 'DaemonSet kube-system/antrea-agent',
      action: 'Update',
      class: 'Restart',
      fields: ['spec.template.spec.containers[0].image'],
      changes: [
        {
          path: 'spec.template.spec.containers[0].image',
          from: '"registry.example/antrea-agent:v0.1.0"',
          to: '"registry.example/antrea-agent:v0.2.0"',
        },
      ],
    },
    {
      object: 'ConfigMap kube-system/antrea-config',
      action: 'Update',
      class: 'Disruptive',
      fields: ['data.[antrea-agent.conf]'],
      changes: [
        {
          path: 'data.[antrea-agent.conf]',
          from: 'tunnelType: geneve',
          to: `tunnelType: vxlan\ntunnelPort: 4789 # ${'a long line '.repeat(20)}`,
        },
      ],
    },
    { object: 'ServiceMonitor kube-system/antrea-agent', action: 'Create', class: 'Live' },
  ];
}

/** Makes of an installation one that is paused, and shows the same. */
export function paused(installation) {
  held(installation);
  installation.spec.managementState = 'Paused';
  delete installation.status.rollout.held;
  installation.status.conditions[1] = condition(
    'Progressing',
    'False',
    'Paused',
    'paused; 3 objects would change'
  );
}

const GATES = {
  AntreaPolicy: true,
  AntreaProxy: false,
  Egress: false,
  NetworkPolicyStats: false,
  Traceflow: true,
};
const gates = names =>
  `featureGates:\n${names.map(name => `  ${name}: ${GATES[name]}\n`).join('')}logLevel: info\n`;

const pod = (name, node, more = {}) => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name, namespace: 'shop', labels: { app: name } },
  spec: { nodeName: node, containers: [{ name: 'main', image: 'example/web:1' }], ...more },
});

const policy = (name, spec) => ({
  apiVersion: 'networking.k8s.io/v1',
  kind: 'NetworkPolicy',
  metadata: { name, namespace: 'shop' },
  spec: { podSelector: { matchLabels: { app: 'web' } }, ...spec },
});

const REVISION = 'operator.antrea.io/revision';
const CONTAINERS = [{ name: 'antrea-agent', image: 'registry.example/antrea-agent:v0.2.0' }];
const AGENT_LABELS = { app: 'antrea', component: 'antrea-agent' };

const agentPod = (node, revision) => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: {
    name: `antrea-agent-${node}`,
    namespace: 'kube-system',
    labels: AGENT_LABELS,
    annotations: { [REVISION]: revision },
  },
  spec: { nodeName: node, hostNetwork: true, containers: CONTAINERS },
});

const DAEMON_SET = {
  apiVersion: 'apps/v1',
  kind: 'DaemonSet',
  metadata: { name: 'antrea-agent', namespace: 'kube-system' },
  spec: {
    selector: { matchLabels: AGENT_LABELS },
    template: {
      metadata: { labels: AGENT_LABELS, annotations: { [REVISION]: 'new' } },
      spec: { hostNetwork: true, containers: CONTAINERS },
    },
  },
};

/** In the order in which they can be created. */
export const OBJECTS = [
  { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'shop' } },
  ...AGENTS.map(({ metadata }, number) => ({
    apiVersion: 'v1',
    kind: 'Node',
    metadata: { ...metadata, labels: LABELS[number] },
  })),
  DAEMON_SET,
  ...AGENTS.map(({ metadata }, number) => agentPod(metadata.name, number < 3 ? 'new' : 'old')),
  pod('web', 'node1'),
  pod('db', 'node2'),
  {
    apiVersion: 'v1',
    kind: 'Service',
    metadata: { name: 'db', namespace: 'shop' },
    spec: { selector: { app: 'db' }, ports: [{ port: 5432 }] },
  },
  pod('hostnet', 'node1', { hostNetwork: true }),
  policy('web-ingress', { ingress: [{ from: [{ podSelector: {} }] }], policyTypes: ['Ingress'] }),
  policy('web-egress', { egress: [{}], policyTypes: ['Egress'] }),
  policy('not-computed', { policyTypes: ['Ingress'] }),
  {
    apiVersion: 'v1',
    kind: 'ConfigMap',
    metadata: { name: 'antrea-config', namespace: 'kube-system' },
    data: {
      'antrea-agent.conf': gates(['AntreaPolicy', 'AntreaProxy', 'Egress', 'Traceflow']),
      'antrea-controller.conf': gates(['AntreaPolicy', 'NetworkPolicyStats', 'Egress']),
    },
  },
  CONTROLLER,
  ...AGENTS,
  INSTALLATION,
];

/**
 * What the controller computes of the policies with these UIDs, as custom resources that stand in for the aggregated API:
 * the same paths and bodies. `nodeName` only makes the field selector work.
 */
export function computed(uids) {
  const of = (name, node, more) => ({
    apiVersion: 'controlplane.antrea.io/v1beta2',
    kind: 'NetworkPolicy',
    metadata: { name: uids[name] },
    nodeName: node,
    appliedToGroups: ['group-web'],
    sourceRef: { type: 'K8sNetworkPolicy', namespace: 'shop', name, uid: uids[name] },
    ...more,
  });
  // Custom resources begin with generation 1, as policies do.
  return [
    of('web-ingress', 'node1', {
      rules: [
        { direction: 'In', from: { addressGroups: ['peers'] } },
        { direction: 'In', from: {} },
      ],
      nodes: [
        { nodeName: 'node1', generation: 1, realizationFailure: false },
        { nodeName: 'node2', generation: 1, realizationFailure: false },
      ],
    }),
    of('web-egress', 'node1', {
      rules: [{ direction: 'Out', to: { addressGroups: ['peers'] } }],
      nodes: [
        { nodeName: 'node1', generation: 1, realizationFailure: false },
        { nodeName: 'node2', generation: 0, realizationFailure: false },
        {
          nodeName: 'node4',
          generation: 1,
          realizationFailure: true,
          message: 'rule 0: 4,096 matches are not enough',
        },
      ],
    }),
    {
      ...of('elsewhere', 'node2', { rules: [], appliedToGroups: ['group-db'] }),
      metadata: { name: '00000000-0000-0000-0000-000000000003' },
      sourceRef: { type: 'AntreaClusterNetworkPolicy', name: 'elsewhere' },
    },
    {
      apiVersion: 'controlplane.antrea.io/v1beta2',
      kind: 'AppliedToGroup',
      metadata: { name: 'group-web' },
      nodeName: 'node1',
      groupMembers: [{ pod: { namespace: 'shop', name: 'web' }, ips: ['CvQBBQ=='] }],
    },
    ...STATISTICS,
  ];
}

/** Counters, as custom resources that stand in for the aggregated API. */
const STATISTICS = [
  {
    apiVersion: 'stats.antrea.io/v1alpha1',
    kind: 'NetworkPolicyStats',
    metadata: { name: 'web-ingress', namespace: 'shop' },
    trafficStats: { sessions: 3, packets: 45, bytes: 45_000 },
  },
  {
    apiVersion: 'stats.antrea.io/v1alpha1',
    kind: 'AntreaClusterNetworkPolicyStats',
    metadata: { name: 'elsewhere' },
    trafficStats: { sessions: 1, packets: 7, bytes: 420 },
    ruleTrafficStats: [
      { name: '<b>no-sql</b>', trafficStats: { sessions: 1, packets: 7, bytes: 420 } },
    ],
  },
];

const LATER = { type: 'object', 'x-kubernetes-preserve-unknown-fields': true };

const statistics = (plural, kind, scope) => ({
  apiVersion: 'apiextensions.k8s.io/v1',
  kind: 'CustomResourceDefinition',
  metadata: { name: `${plural}.stats.antrea.io` },
  spec: {
    group: 'stats.antrea.io',
    scope,
    names: { plural, singular: plural, kind },
    versions: [
      { name: 'v1alpha1', served: true, storage: true, schema: { openAPIV3Schema: LATER } },
    ],
  },
});

const definition = (plural, singular, kind) => ({
  apiVersion: 'apiextensions.k8s.io/v1',
  kind: 'CustomResourceDefinition',
  metadata: { name: `${plural}.controlplane.antrea.io` },
  spec: {
    group: 'controlplane.antrea.io',
    scope: 'Cluster',
    names: { plural, singular, kind },
    versions: [
      {
        name: 'v1beta2',
        served: true,
        storage: true,
        schema: {
          openAPIV3Schema: {
            type: 'object',
            'x-kubernetes-preserve-unknown-fields': true,
            properties: {
              nodeName: { type: 'string' },
              status: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true },
            },
          },
        },
        selectableFields: [{ jsonPath: '.nodeName' }],
        subresources: { status: {} },
      },
    ],
  },
});

export const DEFINITIONS = [
  definition('networkpolicies', 'networkpolicy', 'NetworkPolicy'),
  definition('appliedtogroups', 'appliedtogroup', 'AppliedToGroup'),
  statistics('networkpolicystats', 'NetworkPolicyStats', 'Namespaced'),
  statistics('antreanetworkpolicystats', 'AntreaNetworkPolicyStats', 'Namespaced'),
  statistics('antreaclusternetworkpolicystats', 'AntreaClusterNetworkPolicyStats', 'Cluster'),
];
