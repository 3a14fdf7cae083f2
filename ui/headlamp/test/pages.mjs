// Every page in both themes: what it must show, no message on the console, no violation of axe's rules, a screenshot.
import { beat } from './cluster.mjs';
import {
  assert,
  changed,
  check,
  isHeadlamps,
  open,
  output,
  plain,
  settled,
  shows,
  violations,
} from './harness.mjs';
import { held, paused } from './objects.mjs';

/**
 * Pages: a name, the path, what must be shown; the region that is ours where the page is Headlamp's; what is changed of the
 * installation; what the console may say.
 */
function pages(uids) {
  const shop = '/c/main';
  return [
    [
      'overview',
      '/c/main/antrea',
      [
        'Antrea',
        'agents are not healthy',
        'network between nodes',
        '0.1.0 → 0.2.0',
        'Connected agents',
      ],
    ],
    [
      'controller',
      '/c/main/antrea/controller',
      ['Antrea controller', 'ControllerHealthy', 'kube-system/antrea-controller-0'],
    ],
    [
      'agents',
      '/c/main/antrea/agents',
      ['Antrea agents', 'no heartbeat for 4', 'FlowsMissing', 'no heartbeat yet', '7 of 7'],
    ],
    [
      'agent',
      '/c/main/antrea/agents/node1',
      ['Antrea agent on node1', 'OVSDBConnectionUp', 'IngressRule', '612', '1450 bytes'],
    ],
    ['agent-degraded', '/c/main/antrea/agents/node2', ['Degraded', '<b>12:00</b>', 'Disconnected']],
    [
      'agent-stale',
      '/c/main/antrea/agents/node3',
      ['Stale', 'no heartbeat for 4', 'What was told last'],
    ],
    [
      'policies',
      '/c/main/antrea/policies',
      [
        'web-egress',
        'AntreaClusterNetworkPolicy',
        '2 of 2 nodes',
        '1 of 3 nodes',
        'No reports',
        '3 sessions, 45 packets, 45.0kB',
        '3 of 3',
      ],
    ],
    [
      'policy',
      `/c/main/antrea/policies/${uids['web-egress']}`,
      ['NetworkPolicy web-egress', 'Failed', 'Behind', '4,096 matches', 'failed on 1 of 3 nodes'],
    ],
    [
      'policy-counted',
      '/c/main/antrea/policies/00000000-0000-0000-0000-000000000003',
      ['AntreaClusterNetworkPolicy', 'Statistics', '<b>no-sql</b>', '420'],
    ],
    ['explain', '/c/main/antrea/explain', ['Explain', 'Source Pod', 'antctl explain']],
    [
      'traces',
      '/c/main/antrea/traceflows',
      [
        'Traceflow',
        'New trace',
        'shop/db',
        '198.51.100.7',
        'Dropped',
        'Running',
        'Not taken up',
        '6 of 6',
      ],
    ],
    [
      'trace-delivered',
      '/c/main/antrea/traceflows/delivered',
      [
        'Trace delivered',
        'Delivered to shop/db on node2.',
        'LB, EndpointDNAT',
        'Translated destination: 10.244.2.7',
        'tunnel to 172.30.0.12',
        'NetworkPolicy: K8sNetworkPolicy:shop/db-ingress',
        'SYN',
      ],
    ],
    [
      'trace-dropped',
      '/c/main/antrea/traceflows/dropped',
      [
        'Dropped on node1 by AntreaClusterNetworkPolicy:deny-db, rule <b>no-sql</b>',
        'Rule: <b>no-sql</b>',
      ],
    ],
    [
      'trace-lost',
      '/c/main/antrea/traceflows/lost',
      ['Failed', 'traceflow timeout', 'it is lost after what is shown', '2001:db8::7'],
    ],
    [
      'trace-live',
      '/c/main/antrea/traceflows/live',
      [
        'because K8sNetworkPolicy:shop/web-ingress isolates the Pod',
        'only one that is dropped',
        'Captured packet',
        '43210',
      ],
    ],
    ['trace-running', '/c/main/antrea/traceflows/running', ['The packet is under way']],
    ['trace-waiting', '/c/main/antrea/traceflows/waiting', ['Nobody has taken it up']],
    [
      'trace-missing',
      '/c/main/antrea/traceflows/no-such',
      ['There is no Traceflow no-such'],
      undefined,
      undefined,
      /no-such/,
    ],
    ['new-trace', '/c/main/antrea/new-traceflow', ['New trace', 'TCP flags']],
    [
      'gates',
      '/c/main/antrea/gates',
      ['Feature gates', 'AntreaPolicy', 'NetworkPolicyStats', 'On', 'Off', '5 of 5'],
    ],
    [
      'installation',
      '/c/main/antrea/installation',
      [
        'Antrea installation',
        'RolloutFailed',
        'Updated: 2 of 7 nodes',
        'The change to 0.2.0 failed on node3',
        '<b>not found</b>',
        'No other node is changed until that works',
        'topology.kubernetes.io/zone=b',
        '0 of 3',
        'no other node is changed until node3 works',
        '7 of 7',
        'What ran before',
        'There are none.',
        'ovs.datapath',
      ],
    ],
    [
      'installation-held',
      '/c/main/antrea/installation',
      [
        'needs to be acknowledged',
        '{"spec":{"rollout":{"acknowledge":7}}}',
        'Acknowledged is 4',
        'they go first, spec.rollout.canary',
        'and 7 more',
        'DaemonSet kube-system/antrea-agent',
        'traffic between changed and unchanged nodes breaks until all are changed',
        'data.[antrea-agent.conf]',
        '- tunnelType: geneve',
        '+ tunnelType: vxlan',
      ],
      undefined,
      held,
    ],
    [
      'installation-paused',
      '/c/main/antrea/installation',
      ['The installation is paused', '{"spec":{"managementState":"Managed"}}', 'Nothing restarts'],
      undefined,
      paused,
    ],
    [
      'node',
      `${shop}/nodes/node2`,
      ['Antrea agent', 'Antrea conditions', 'Disconnected'],
      'Antrea',
    ],
    [
      'pod',
      `${shop}/pods/shop/web`,
      [
        'Antrea policies',
        'web-ingress',
        '1 of 3 nodes',
        'Trace from this Pod',
        'Explain what this Pod reaches',
      ],
      'Antrea',
    ],
    [
      'networkpolicy',
      `${shop}/networkpolicies/shop/web-ingress`,
      ['Realization', 'Realized', 'node1', 'Statistics', '45000'],
      'Antrea',
    ],
    [
      'networkpolicy-unknown',
      `${shop}/networkpolicies/shop/not-computed`,
      ['Realization', 'has not computed this policy'],
      'Antrea',
    ],
  ];
}

export async function everyPage(browser, server, uids, theme, usual) {
  const { context, page, messages } = await open(browser, server, theme);
  for (const [name, path, texts, region, change, expected] of pages(uids)) {
    messages.length = 0;
    await beat();
    if (change) await changed(page, change);
    // Of Headlamp's own pages only what is added is ours.
    const selector = region ? `section[aria-label="${region}"]` : 'main';
    await check(`${theme}: ${name} shows what it must`, async () => {
      await page.goto(path);
      await shows(page, texts);
      await settled(page, selector);
    });
    // The whole page, not only what is in view.
    const height = await page.evaluate(() => document.documentElement.scrollHeight);
    await page.setViewportSize({ width: 1440, height: Math.min(4000, Math.max(900, height)) });
    await page.screenshot({ path: `${output}/${name}-${theme}.png` });
    await page.setViewportSize({ width: 1440, height: 900 });
    await check(`${theme}: ${name} breaks no rule of accessibility`, async () => {
      const found = await violations(page, selector);
      assert(found.length === 0, found.join('; '));
    });
    await check(`${theme}: ${name} leaves the console silent`, () => {
      const own = messages.filter(
        message =>
          !usual.has(plain(message)) &&
          !(region && isHeadlamps(message)) &&
          !expected?.test(message)
      );
      assert(own.length === 0, own.join('; '));
    });
    if (change) await page.unrouteAll({ behavior: 'ignoreErrors' });
  }
  await context.close();
}
