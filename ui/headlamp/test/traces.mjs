// Traces: from the form to the end of one, and where none can be made.
import { api, report, TRACE_PATH } from './cluster.mjs';
import { assert, check, open, output, shows, tabTo, violations } from './harness.mjs';
import { ask } from './server.mjs';
import { DELIVERED, TRACES } from './traceObjects.mjs';

/** A trace from the form to its end. */
export async function traces(browser, server, theme) {
  const { context, page } = await open(browser, server, theme);
  const none = async () => {
    const found = await violations(page, 'main');
    assert(found.length === 0, found.join('; '));
  };
  const names = async () =>
    (await ask(api, 'GET', TRACE_PATH)).items.map(item => item.metadata.name);
  const before = new Set(await names());
  const made = async () => {
    const added = (await ask(api, 'GET', TRACE_PATH)).items.filter(
      item => !before.has(item.metadata.name)
    );
    assert(added.length === 1, `${added.length} traces were made`);
    before.add(added[0].metadata.name);
    return added[0];
  };

  await check(`${theme}: what is wrong in the form is told, and has the focus`, async () => {
    await page.goto('/c/main/antrea/new-traceflow');
    await page.getByLabel('Watch live traffic').check();
    await page.getByLabel('Kind of source').selectOption('Address');
    await page.getByLabel('Protocol').selectOption('TCP');
    await page.getByLabel('Source address').fill('300.1.1.1');
    await page.getByLabel('Timeout').fill('soon');
    await page.getByRole('button', { name: 'Start the trace' }).click();
    await shows(page, [
      'Source address is no IP address',
      'Destination namespace is missing',
      'Timeout is not within 1 and 300',
    ]);
    await page.waitForFunction(() => document.activeElement?.value === '300.1.1.1');
    await page.screenshot({ path: `${output}/new-trace-wrong-${theme}.png`, fullPage: true });
    await none();
    await page.getByLabel('Source address').fill('192.0.2.7');
    await page.getByText('Source address is no IP address').waitFor({ state: 'detached' });
    assert((await names()).length === before.size, 'a trace was made of it');
  });
  await check(`${theme}: the keyboard alone makes a trace from a Pod's page`, async () => {
    await page.goto('/c/main/pods/shop/web');
    const link = page.getByRole('link', { name: 'Trace from this Pod' });
    await link.waitFor();
    await link.focus();
    await page.keyboard.press('Enter');
    await shows(page, ['New trace']);
    const pod = page.getByLabel('Source Pod');
    await pod.waitFor();
    assert((await pod.inputValue()) === 'web', 'the form does not have the Pod');
    // What exists is suggested.
    await page.locator('datalist option[value=db]').first().waitFor({ state: 'attached' });
    await tabTo(page, page.getByLabel('Kind of destination'));
    await page.keyboard.type('Serv');
    await tabTo(page, page.getByLabel('Destination Service'));
    await page.keyboard.type('db');
    await tabTo(page, page.getByLabel('Destination port'));
    await page.keyboard.type('5432');
    await page.keyboard.press('Enter');
    await shows(page, [/Trace web-db-/, 'Outcome']);
    const { spec } = await made();
    const wanted = TRACES[0].spec;
    for (const part of ['source', 'destination', 'packet']) {
      const [is, should] = [spec[part], wanted[part]].map(value => JSON.stringify(value));
      assert(is.length === should.length, `${part} is ${is}, not ${should}`);
    }
    await none();
  });
  await check(`${theme}: the page of a trace follows it to its end`, async () => {
    const name = [...before].pop();
    const trace = await ask(api, 'GET', `${TRACE_PATH}/${name}`);
    await report(trace, { phase: 'Running' });
    await shows(page, ['The packet is under way']);
    await report(await ask(api, 'GET', `${TRACE_PATH}/${name}`), DELIVERED);
    await shows(page, ['Delivered to shop/db on node2.']);
    const path = await page.getByRole('list', { name: 'Path of the packet' }).ariaSnapshot();
    const order = ['node1', 'SpoofGuard', 'EndpointDNAT', 'node2', 'Classification', 'Delivered'];
    const places = order.map(text => path.indexOf(text));
    assert(
      places.every((place, number) => place > (places[number - 1] ?? -1)),
      `who listens hears ${path}`
    );
  });
  await check(`${theme}: a trace is run again, and deleted`, async () => {
    const first = [...before].pop();
    // Names have seconds.
    await page.waitForTimeout(1_100);
    await page.getByRole('button', { name: 'Run again' }).click();
    await shows(page, [/taken (it )?up/]);
    const { metadata } = await made();
    assert(metadata.name !== first, 'it has the same name');
    await page.getByRole('button', { name: 'Delete' }).click();
    const dialog = page.getByRole('dialog');
    await dialog.getByText(`Delete trace ${metadata.name}?`).waitFor();
    // It comes up slowly.
    await page.waitForFunction(
      () => getComputedStyle(document.querySelector('[role=dialog]').parentElement).opacity === '1'
    );
    await page.screenshot({ path: `${output}/trace-delete-${theme}.png` });
    const found = await violations(page, '[role=dialog]');
    assert(found.length === 0, found.join('; '));
    await dialog.getByRole('button', { name: 'Keep it' }).click();
    await dialog.waitFor({ state: 'detached' });
    await page.getByRole('button', { name: 'Delete' }).click();
    await dialog.getByRole('button', { name: 'Delete it' }).click();
    await shows(page, ['The way of one packet']);
    const left = await names();
    assert(!left.includes(metadata.name), 'it is still there');
    assert(left.includes(first), 'another one is gone');
    await ask(api, 'DELETE', `${TRACE_PATH}/${first}`);
  });
  await context.close();
}

/** What is told where no trace can be made. */
export async function noTraces(browser, server) {
  const { context, page } = await open(browser, server, 'light');
  await check('a refusal of the API server is told beside the form', async () => {
    await page.route('**/apis/**/traceflows', route =>
      route.request().method() === 'POST'
        ? route.fulfill({ status: 422, json: { message: 'spec.source: there is no such Pod' } })
        : route.continue()
    );
    await page.goto('/c/main/antrea/new-traceflow?namespace=shop&name=web');
    await page.getByLabel('Destination Pod').fill('db');
    await page.getByLabel('Destination port').fill('80');
    await page.getByRole('button', { name: 'Start the trace' }).click();
    await shows(page, [/The trace cannot be made: .*spec.source: there is no such Pod/]);
    await page.unrouteAll();
  });
  await check('a gate that is off is told where traces are', async () => {
    await page.route('**/configmaps/antrea-config*', async route => {
      const response = await route.fetch();
      const text = (await response.text()).replace('Traceflow: true', 'Traceflow: false');
      await route.fulfill({ response, body: text });
    });
    for (const path of ['traceflows', 'new-traceflow', 'traceflows/waiting']) {
      await page.goto(`/c/main/antrea/${path}`);
      await shows(page, ['The feature gate Traceflow is off for agents']);
    }
    await page.screenshot({ path: `${output}/trace-gate-off.png` });
    await page.unrouteAll();
  });
  await check('a cluster without Traceflow is told as such, by no error', async () => {
    await page.route(/\/apis\/.*\/traceflows/, route =>
      route.fulfill({ status: 404, json: { message: 'could not find the requested resource' } })
    );
    for (const path of ['traceflows', 'traceflows/delivered', 'new-traceflow']) {
      await page.goto(`/c/main/antrea/${path}`);
      await shows(page, ['This cluster does not serve Traceflows']);
      const { length } = await violations(page, 'main');
      assert(length === 0, 'a rule of accessibility is broken');
    }
    await page.screenshot({ path: `${output}/without-traceflow.png` });
    await page.unrouteAll();
  });
  await check('traces that may not be read are not said to be none', async () => {
    await page.route(/\/apis\/.*\/traceflows/, route =>
      route.fulfill({ status: 403, json: { message: 'traceflows is forbidden' } })
    );
    await page.goto('/c/main/antrea/traceflows');
    await shows(page, [/Traceflows cannot be read: .*traceflows is forbidden/]);
    assert(
      !(await page.getByText('There are no traces').isVisible()),
      'it says that there are none'
    );
    await page.unrouteAll();
  });
  await context.close();
}
