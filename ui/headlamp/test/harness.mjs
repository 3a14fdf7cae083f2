// Chromium for the browser test: pages, what they say, and whether that is well.
import { mkdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';

/** The folder for screenshots. */
export const output = process.argv[5];
mkdirSync(output, { recursive: true });
const require = createRequire(import.meta.url);
const axe = readFileSync(require.resolve('axe-core/axe.min.js'), 'utf8');
const LEVELS = ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'];

export const counts = { passed: 0, failed: 0 };

export async function check(name, test) {
  try {
    await test();
    counts.passed += 1;
    console.log(`ok    ${name}`);
  } catch (error) {
    counts.failed += 1;
    console.log(`WRONG ${name}: ${error.message}`);
  }
}

export function assert(holds, message) {
  if (!holds) throw new Error(message);
}

/** Icons that Headlamp fetches from the network, from the package instead. */
function icons(address) {
  const prefix = address.pathname.replace(/^\/|\.json$/g, '');
  const set = { prefix, icons: {} };
  for (const name of (address.searchParams.get('icons') ?? '').split(',')) {
    try {
      set.icons[name] = require(`@iconify/icons-${prefix}/${name}`).default;
    } catch {
      (set.not_found ??= []).push(name);
    }
  }
  return set;
}

export async function open(browser, server, theme) {
  const context = await browser.newContext({
    viewport: { width: 1440, height: 900 },
    baseURL: server.url,
    reducedMotion: 'reduce',
  });
  await context.addInitScript(name => (localStorage.headlampThemePreference = name), theme);
  await context.route(
    address => !address.href.startsWith(server.url),
    route => {
      const address = new URL(route.request().url());
      return address.hostname.endsWith('iconify.design') || address.pathname.endsWith('.json')
        ? route.fulfill({ json: icons(address), headers: { 'access-control-allow-origin': '*' } })
        : route.abort();
    }
  );
  const page = await context.newPage();
  const messages = [];
  page.on('console', message => {
    if (message.type() === 'error' || message.type() === 'warning') {
      messages.push(`${message.text()} (${message.location().url})`);
    }
  });
  page.on('pageerror', error => messages.push(String(error)));
  return { context, page, messages };
}

export async function settled(page, selector) {
  await page.waitForFunction(
    selector => !document.querySelector(`${selector} [role=progressbar]:not([aria-valuenow])`),
    selector
  );
}

/**
 * Whether Headlamp's own part of a page says this: that a question was refused which the plugin never asks (for metrics, for
 * what a kubelet knows), or an error in which no code of a plugin takes part; that is run by `eval`.
 */
export function isHeadlamps(message) {
  const asked = /^(Failed to load resource|Unable to parse error json).*\/clusters\/main\/api/;
  if (asked.test(message)) return !message.includes('antrea');
  return /\n\s+at .*\/assets\//.test(message) && !/eval|<anonymous>/.test(message);
}

/** What Headlamp itself says on the console, without the plugin. */
export async function baseline(browser, server, path) {
  const { context, page, messages } = await open(browser, server, 'light');
  await page.route('**/plugins', route => route.fulfill({ json: [] }));
  await page.goto(path);
  await page.waitForLoadState('networkidle');
  await page.waitForTimeout(1_500);
  await context.close();
  return new Set(messages.map(plain));
}

/** A message without what differs from run to run. */
export function plain(message) {
  return message.split('\n')[0].replace(/http:\/\/127\.0\.0\.1:\d+/g, '');
}

export async function violations(page, selector) {
  await page.evaluate(axe);
  const { violations: found } = await page.evaluate(
    ([selector, values]) => window.axe.run(selector, { runOnly: { type: 'tag', values } }),
    [selector, LEVELS]
  );
  return found.map(
    ({ id, nodes }) =>
      `${id}: ${nodes
        .map(node => node.html)
        .slice(0, 3)
        .join(' ')}`
  );
}

export async function shows(page, texts) {
  for (const text of texts) {
    await page.locator('main').getByText(text).first().waitFor({ timeout: 15_000 });
  }
}

/** Presses Tab until this has the focus. */
export async function tabTo(page, locator) {
  for (let tabs = 0; tabs < 80; tabs += 1) {
    if (await locator.evaluate(node => node === document.activeElement)) return;
    await page.keyboard.press('Tab');
  }
  throw new Error(`the keyboard does not lead to ${locator}`);
}

/** Lets a page see the installation as `change` makes it. */
export async function changed(page, change) {
  await page.route('**/antreainstallations*', async route => {
    const response = await route.fetch();
    const list = await response.json();
    list.items.forEach(change);
    await route.fulfill({ response, json: list });
  });
}
