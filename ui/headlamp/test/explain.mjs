// An explanation from the form to its verdict. The controller's word on policies is played; the packet is a real object.
import { api, report, TRACE_PATH } from './cluster.mjs';
import { assert, check, open, output, shows, violations } from './harness.mjs';
import { ask } from './server.mjs';
import { DELIVERED } from './traceObjects.mjs';

const EVALUATION = '**/apis/controlplane.antrea.io/v1beta2/networkpolicyevaluation';

const ISOLATED = {
  networkPolicy: { type: 'K8sNetworkPolicy', namespace: 'shop', name: 'db-ingress' },
  ruleIndex: -2147483648,
  rule: { direction: 'In' },
};

const DROPPED = {
  phase: 'Succeeded',
  results: [
    DELIVERED.results[1],
    {
      node: 'node2',
      role: 'receiver',
      observations: [
        {
          component: 'NetworkPolicy',
          componentInfo: 'IngressDefaultRule',
          action: 'Dropped',
          networkPolicy: 'K8sNetworkPolicy:shop/db-ingress',
        },
      ],
    },
  ],
};

export async function explain(browser, server, theme) {
  const { context, page } = await open(browser, server, theme);
  const traces = async () => (await ask(api, 'GET', TRACE_PATH)).items;
  const before = new Set((await traces()).map(item => item.metadata.name));
  const sent = async () => {
    for (let tries = 0; tries < 100; tries += 1) {
      const found = (await traces()).find(item => !before.has(item.metadata.name));
      if (found) return found;
      await page.waitForTimeout(100);
    }
    throw new Error('no packet is sent');
  };
  const gone = async () => {
    for (let tries = 0; tries < 100; tries += 1) {
      if ((await traces()).every(item => before.has(item.metadata.name))) return;
      await page.waitForTimeout(100);
    }
    throw new Error('its Traceflow stays');
  };
  const decides = async response => {
    await page.unrouteAll();
    await page.route(EVALUATION, route => route.fulfill({ json: { response } }));
  };
  const none = async () => {
    const found = await violations(page, 'main');
    assert(found.length === 0, found.join('; '));
  };

  await check(`${theme}: what is missing in the form is told`, async () => {
    await page.goto('/c/main/pods/shop/web');
    await page.getByRole('link', { name: 'Explain what this Pod reaches' }).click();
    await page.getByLabel('Source Pod').waitFor();
    assert((await page.getByLabel('Source Pod').inputValue()) === 'web', 'the form has no Pod');
    await page.locator('main').getByRole('button', { name: 'Explain' }).click();
    await shows(page, ['Destination Pod is missing', 'Destination port is missing']);
    await none();
  });
  await check(`${theme}: what is allowed is told, with the packet's path`, async () => {
    await decides(null);
    await page.getByLabel('Destination Pod').fill('db');
    await page.getByLabel('Destination port').fill('5432');
    await page.locator('main').getByRole('button', { name: 'Explain' }).click();
    await shows(page, ['Asking both ends']);
    await report(await sent(), DELIVERED);
    await shows(page, [
      'Allowed',
      'no rule decides about this',
      'Delivered to shop/db on node2.',
      'The packet that was sent',
    ]);
    await page.getByRole('list', { name: 'Path of the packet' }).waitFor();
    await gone();
    await none();
    await page.screenshot({ path: `${output}/explain-allowed-${theme}.png`, fullPage: true });
  });
  await check(`${theme}: what a policy denies is told, with its name`, async () => {
    await decides(ISOLATED);
    // Names of traces have seconds.
    await page.waitForTimeout(1_100);
    await page.locator('main').getByRole('button', { name: 'Explain' }).click();
    await report(await sent(), DROPPED);
    await shows(page, ['Denied', 'NetworkPolicy shop/db-ingress isolates shop/db for ingress']);
    await gone();
    await none();
    await page.screenshot({ path: `${output}/explain-denied-${theme}.png`, fullPage: true });
  });
  await check(`${theme}: what may not be asked is not known`, async () => {
    await page.unrouteAll();
    const refuse = route => route.fulfill({ status: 403, json: { message: 'forbidden here' } });
    await page.route(EVALUATION, refuse);
    await page.route('**/apis/**/traceflows', route =>
      route.request().method() === 'POST' ? refuse(route) : route.continue()
    );
    await page.locator('main').getByRole('button', { name: 'Explain' }).click();
    await shows(page, [/none was sent: .*forbidden here/]);
    await none();
    await page.unrouteAll();
  });
  await context.close();
}
