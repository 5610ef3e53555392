// The demo's page in a real browser: Debian's Chromium, headless, driven over its own DevTools protocol.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import WebSocket from 'ws';
import { binary, directory, start, until, within } from './harness.mjs';

const chromium = process.env.CHROMIUM_BIN ?? 'chromium';

/** The demo on free ports; where its page is. */
async function demo(t, ...args) {
  const env = { PATH: process.env.PATH, TICKGATE_SERVER__LISTEN: '["127.0.0.1:0"]', TICKGATE_SERVER__ADMIN_LISTEN: '127.0.0.1:0' };
  const process_ = start(t, directory(t), binary, ['demo', '--page', '127.0.0.1:0', '--seed', '7', ...args], { env });
  const ended = process_.ended.then(() => { throw new Error(`the demo ended: ${process_.err()}`); });
  ended.catch(() => {});
  const page = until("the demo's page", () => /page +(http:\S+)/.exec(process_.out())?.[1]);
  return Promise.race([page, ended]);
}

/** A tab: `evaluate` runs an expression in it, `problems` are its exceptions and console errors. */
class Tab {
  #next = 1;
  #waiting = new Map();
  problems = [];

  static async open(t, url) {
    const profile = mkdtempSync(join(tmpdir(), 'tickgate-chromium-'));
    t.after(() => rmSync(profile, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 }));
    const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--remote-debugging-port=0', `--user-data-dir=${profile}`];
    // Its own end, not a kill, ends its children too.
    const browser = start(t, directory(t), chromium, [...flags, 'about:blank'], { signal: 'SIGTERM' });
    const failed = browser.ended.then(({ error }) => { throw error ?? new Error(`${chromium} ended: ${browser.err()}`); });
    failed.catch(() => {});
    const address = until('the browser', () => /DevTools listening on (ws:\S+)/.exec(browser.err())?.[1]);
    const { host } = new URL(await Promise.race([address, failed]));
    const page = await until('a tab', async () => {
      const targets = await (await fetch(`http://${host}/json/list`)).json();
      return targets.find((target) => target.type === 'page');
    });
    const tab = new Tab();
    tab.socket = new WebSocket(page.webSocketDebuggerUrl);
    t.after(() => tab.socket.terminate());
    tab.socket.on('message', (text) => tab.#receive(JSON.parse(text)));
    await within('the tab', once(tab.socket, 'open'));
    await tab.send('Runtime.enable');
    await tab.send('Page.navigate', { url });
    return tab;
  }

  #receive({ id, result, error, method, params }) {
    if (method === 'Runtime.exceptionThrown') this.problems.push(params.exceptionDetails.exception?.description);
    if (method === 'Runtime.consoleAPICalled' && params.type === 'error') this.problems.push(params.args[0]?.value);
    this.#waiting.get(id)?.(error ? { error } : { result });
    this.#waiting.delete(id);
  }

  async send(method, params = {}) {
    const id = this.#next++;
    const answered = new Promise((resolve) => this.#waiting.set(id, resolve));
    this.socket.send(JSON.stringify({ id, method, params }));
    const { result, error } = await within(method, answered);
    if (error) throw new Error(`${method}: ${error.message}`);
    return result;
  }

  async evaluate(expression) {
    const { result, exceptionDetails } = await this.send('Runtime.evaluate', { expression, returnByValue: true, awaitPromise: true });
    if (exceptionDetails) throw new Error(`${expression}: ${exceptionDetails.exception?.description}`);
    return result.value;
  }

  /** Waits until an expression is true in the page. */
  until(what, expression) {
    return until(what, () => this.evaluate(`Boolean(${expression})`));
  }

  text(selector) {
    return this.evaluate(`document.querySelector(${JSON.stringify(selector)}).innerText`);
  }
}

const fact = (list, name) => `[...document.querySelectorAll('#${list} dt')].find((dt) => dt.textContent === '${name}')?.nextSibling?.textContent`;

test('the page shows the market, the stocks, a grid bot at work, the account and the gateway', async (t) => {
  const tab = await Tab.open(t, await demo(t));
  await tab.until('the connection', "document.querySelector('#state')?.className === 'open'");

  // Prices, and that they move.
  await tab.until('all symbols', "document.querySelectorAll('#prices tr').length === 5");
  const before = await tab.text('#prices');
  await until('a price that moves', async () => await tab.text('#prices') !== before);

  // Stocks of all boards, polled from the demo's own Redis.
  await tab.until('all stocks', "document.querySelectorAll('#stocks tr').length === 8");
  assert.match(await tab.text('#stocks'), /600519\s+Kweichow Moutai\s+[\d,]+\.\d\d\s+[+-]?[\d.]+ %/);

  // The page starts a bot by itself; it fills orders and trades.
  await tab.until('a running bot', "document.querySelector('#notice').textContent.endsWith('is running.')");
  await tab.until('a filled order', "document.querySelector('#stream').textContent.includes('order filled')");
  await tab.until('a trade', "document.querySelector('#stream').textContent.includes('trade executed')");
  await tab.until('its status', `${fact('status', 'Total')} !== undefined`);

  // The account, polled over HTTP.
  for (const name of ['Total', 'Gains', 'Orders', 'Positions']) await tab.until(name, `${fact('account', name)} !== undefined`);

  // The gateway's pulse.
  await tab.until('its own connection', `${fact('gateway', 'Connections')} === '1'`);
  await tab.until('deliveries', `parseFloat(${fact('gateway', 'Deliveries')}) > 0`);

  // Stopped by hand: no order is left, and the button says so.
  await tab.evaluate("document.querySelector('#stop').click()");
  await tab.until('the bot to stop', "document.querySelector('#stop').disabled && document.querySelector('#notice').textContent.startsWith('Stopped')");

  // The kill switch, which every user sees.
  await tab.evaluate("document.querySelector('#switch').click()");
  await tab.until('the kill switch', "document.querySelector('#switch').textContent === 'Release the kill switch'");
  assert.deepEqual(tab.problems, []);
});
