// Names and paths of the pages.
export const ROUTES = {
  overview: { name: 'antrea', path: '/antrea', label: 'Overview' },
  controller: { name: 'antrea-controller', path: '/antrea/controller', label: 'Controller' },
  agents: { name: 'antrea-agents', path: '/antrea/agents', label: 'Agents' },
  agent: { name: 'antrea-agent', path: '/antrea/agents/:name', label: 'Agent' },
  policies: { name: 'antrea-policies', path: '/antrea/policies', label: 'NetworkPolicies' },
  policy: { name: 'antrea-policy', path: '/antrea/policies/:uid', label: 'NetworkPolicy' },
  traces: { name: 'antrea-traces', path: '/antrea/traceflows', label: 'Traceflow' },
  trace: { name: 'antrea-trace', path: '/antrea/traceflows/:name', label: 'Trace' },
  // Not below the list, where it would be the page of a trace of this name.
  newTrace: { name: 'antrea-new-trace', path: '/antrea/new-traceflow', label: 'New trace' },
  explain: { name: 'antrea-explain', path: '/antrea/explain', label: 'Explain' },
  gates: { name: 'antrea-gates', path: '/antrea/gates', label: 'Feature gates' },
  installation: {
    name: 'antrea-installation',
    path: '/antrea/installation',
    label: 'Installation',
  },
} as const;
