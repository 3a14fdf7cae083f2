// The plugin in Chromium: loaded by Headlamp's own loader, against a real API server.
//   node test/browser.mjs API-SERVER TOKEN-FILE HOST-FOLDER OUTPUT-FOLDER [PART...]
// Parts: `pages` (each one in both themes), `traces` (from the form to the end of one), `explain` (the same), `keyboard`, `errors` (of the API, and
// fields of a later version); all of them if none is named.
import { existsSync } from 'node:fs';
import { chromium } from 'playwright-core';
import { api, beat, fill } from './cluster.mjs';
import { explain } from './explain.mjs';
import {
  assert,
  baseline,
  changed,
  check,
  counts,
  open,
  output,
  shows,
  violations,
} from './harness.mjs';
import { AGENTS } from './objects.mjs';
import { everyPage } from './pages.mjs';
import { serve } from './server.mjs';
import { noTraces, traces } from './traces.mjs';

const host = process.argv[4];
const parts = process.argv.slice(6);
const wants = part => parts.length === 0 || parts.includes(part);
const browserPath = ['/usr/bin/chromium', '/usr/bin/chromium-browser'].find(path =>
  existsSync(path)
);

/** Whether it is worth going on: without it everything else would fail, slowly. */
async function loads(browser, server) {
  const { context, page, messages } = await open(browser, server, 'light');
  await check('Headlamp loads the plugin', async () => {
    await page.goto('/c/main/antrea');
    await shows(page, ['Antrea']).catch(error =>
      assert(false, `${error.message} ${messages.join('; ')}`)
    );
  });
  await page.screenshot({ path: `${output}/first.png` });
  await context.close();
  return counts.failed === 0;
}

async function keyboard(browser, server) {
  const { context, page } = await open(browser, server, 'light');
  await beat();
  await check('the keyboard alone leads from the list to an agent', async () => {
    await page.goto('/c/main/antrea/agents');
    await shows(page, ['7 of 7']);
    const field = page.getByLabel('Filter by name, verdict or reason');
    for (
      let tabs = 0;
      tabs < 60 && !(await field.evaluate(node => node === document.activeElement));
      tabs += 1
    ) {
      await page.keyboard.press('Tab');
    }
    await page.keyboard.type('STALE');
    await shows(page, ['1 of 7']);
    for (let tabs = 0; tabs < 20; tabs += 1) {
      await page.keyboard.press('Tab');
      if (await page.evaluate(() => document.activeElement?.textContent === 'node3')) break;
    }
    await page.keyboard.press('Enter');
    await shows(page, ['Antrea agent on node3']);
  });
  await check('the sidebar has every page', async () => {
    for (const label of [
      'Overview',
      'Controller',
      'Agents',
      'NetworkPolicies',
      'Traceflow',
      'Explain',
      'Feature gates',
      'Installation',
    ]) {
      await page
        .locator('nav a')
        .getByText(label, { exact: true })
        // Headlamp has kinds of custom resources there too, folded up.
        .filter({ visible: true })
        .first()
        .waitFor({ timeout: 5_000 });
    }
  });
  await check('a link leads to the Node', async () => {
    // Headlamp opens it beside the page, with parts that are not in this host.
    const link = page.locator('main').getByRole('link', { name: 'node3', exact: true }).first();
    const target = await link.getAttribute('href');
    assert(target === '/c/main/nodes/node3', `it leads to ${target}`);
  });
  await context.close();
}

/** What the pages say where the API says no; a browser's own line on the console is then no fault. */
async function errors(browser, server) {
  const { context, page } = await open(browser, server, 'light');
  const status = (code, message) => route =>
    route.fulfill({ status: code, json: { kind: 'Status', status: 'Failure', code, message } });
  const none = async () =>
    assert((await violations(page, 'main')).length === 0, 'a rule of accessibility is broken');

  // What cannot be read must not be said to be none: of policies that would be a lie about security.
  const claimsNothing = async () => {
    const text = await page.locator('section[aria-label]').first().innerText();
    const claim = /there (is|are) no|no policy|no gate|has not computed/i.exec(text);
    assert(!claim, `it says "${claim}" of what cannot be read`);
  };

  await check('a cluster without Antrea is told as such', async () => {
    await page.route(
      '**/clusters/main/apis/*antrea.io/**',
      status(404, 'the server could not find the resource')
    );
    await page.goto('/c/main/antrea');
    await shows(page, [
      'AntreaAgentInfos cannot be read: this cluster does not serve them',
      'is Antrea installed?',
    ]);
    await page.goto('/c/main/antrea/installation');
    await shows(page, ['There is no AntreaInstallation']);
    await page.screenshot({ path: `${output}/without-antrea.png` });
    await none();
    await page.unrouteAll();
  });
  await check('what the user may not read is told, the rest is shown', async () => {
    await page.route('**/antreaagentinfos*', status(403, 'antreaagentinfos is forbidden'));
    await page.route('**/configmaps/antrea-config*', status(403, 'configmaps is forbidden'));
    await page.route(
      '**/networkpolicies/*/status',
      status(503, 'the server is currently unable to handle the request')
    );
    await page.goto('/c/main/antrea');
    await shows(page, [
      'AntreaAgentInfos cannot be read: antreaagentinfos is forbidden',
      'not all that tells of it can be read',
      'Connected agents',
    ]);
    await claimsNothing();
    await page.screenshot({ path: `${output}/forbidden.png` });
    await page.goto('/c/main/antrea/gates');
    await shows(page, ['configmaps is forbidden']);
    await claimsNothing();
    await page.route('**/pods?*antrea-agent*', status(403, 'pods is forbidden'));
    await page.route('**/api/v1/nodes?*', status(403, 'nodes is forbidden'));
    await page.goto('/c/main/antrea/installation');
    await shows(page, [
      /Pods of the agents cannot be read: .*pods is forbidden/,
      'failed on node3',
    ]);
    const done = await page.locator('main').getByText('Done', { exact: true }).count();
    // The head of a column is one.
    assert(done <= 1, 'it says of a node that it is done without knowing');
    await none();
    await page.goto('/c/main/antrea/policies');
    await shows(page, ['web-ingress', 'Reports of the nodes cannot be read']);
    await page.route('**/apis/controlplane.antrea.io/**', status(503, 'no endpoints'));
    for (const path of ['antrea/policies', 'pods/shop/web', 'networkpolicies/shop/web-ingress']) {
      await page.goto(`/c/main/${path}`);
      await shows(page, [/computed .* cannot be read/i]);
      await claimsNothing();
    }
    await none();
    await page.unrouteAll();
  });
  await check('fields of a later version are shown as they are', async () => {
    await changed(page, ({ status }) => {
      status.plan = { phase: 'Canary', batches: [{ nodes: ['node1', 'node2'], pause: true }] };
      status.nodes.skipped = 2;
      status.rollout.probes = 'later';
      status.conditions.push({ type: 'Later', status: 'Perhaps' });
    });
    await page.goto('/c/main/antrea/installation');
    await shows(page, [
      'plan.phase',
      'Canary',
      'node1, node2',
      'skipped',
      'probes',
      'Later',
      'Perhaps',
    ]);
    await page.screenshot({ path: `${output}/later-version.png`, fullPage: true });
    await page.unrouteAll();
  });
  await check('an agent that goes silent becomes stale by itself', async () => {
    await beat();
    // The clock of the page, not of the cluster.
    await page.clock.install();
    await page.goto('/c/main/antrea/agents/node1');
    await shows(page, ['Healthy']);
    await page.clock.fastForward('10:00');
    await shows(page, ['no heartbeat for']);
  });
  await context.close();
}

const uids = await fill();
const server = await serve({ api, host, plugin: new URL('../dist', import.meta.url).pathname });
const browser = await chromium.launch({
  executablePath: browserPath,
  // Tests run as root, where Chromium has no sandbox of its own; it opens pages of ours only.
  args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'],
});
try {
  if (await loads(browser, server)) {
    const usual = await baseline(browser, server, '/c/main/namespaces');
    for (const theme of ['light', 'dark']) {
      if (wants('pages')) await everyPage(browser, server, uids, theme, usual);
      if (wants('traces')) await traces(browser, server, theme);
      if (wants('explain')) await explain(browser, server, theme);
    }
    if (wants('traces')) await noTraces(browser, server);
    if (wants('keyboard')) await keyboard(browser, server);
    if (wants('errors')) await errors(browser, server);
  }
} finally {
  await browser.close();
  server.close();
}
assert(AGENTS.length === 7, 'the texts above say seven');
console.log(`${counts.passed} passed, ${counts.failed} failed`);
process.exitCode = counts.failed > 0 ? 1 : 0;
