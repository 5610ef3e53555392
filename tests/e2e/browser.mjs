// A tab of a headless Chromium, driven over the DevTools protocol.
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import WebSocket from 'ws';
import { atEnd, directory, start, until, within } from './harness.mjs';

const chromium = process.env.CHROMIUM_BIN ?? 'chromium';

// The source of axe-core, which runs in the page.
const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** A tab. `evaluate` runs an expression in it; `problems` collects its exceptions and console errors. */
export class Tab {
  #next = 1;
  #waiting = new Map();
  problems = [];

  /** Opens a page; `more` are further flags of the browser. */
  static async open(t, url, more = []) {
    const flags = ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--remote-debugging-port=0', `--user-data-dir=${directory(t)}`, ...more];
    // On SIGTERM the browser also ends its child processes.
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
    atEnd(t, () => tab.socket.terminate());
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

  /** Gives the page a size, and a preference for a dark or light theme. */
  async look({ width = 1280, height = 900, dark = false } = {}) {
    // A scroll bar would take a part of the width, and a page that is a little too wide would not be found.
    await this.send('Emulation.setScrollbarsHidden', { hidden: true });
    await this.send('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: 1, mobile: width < 600 });
    // Without motion, since a colour in the middle of a transition says nothing about the contrast.
    await this.send('Emulation.setEmulatedMedia', {
      features: [{ name: 'prefers-color-scheme', value: dark ? 'dark' : 'light' }, { name: 'prefers-reduced-motion', value: 'reduce' }],
    });
  }

  /** The serious faults that axe-core finds, one line each. */
  async faults() {
    await this.evaluate(`${axe}; 0`);
    return this.evaluate(`axe.run(document, { resultTypes: ['violations'] }).then(({ violations }) => violations
      .filter(({ impact }) => impact === 'serious' || impact === 'critical')
      .map(({ id, nodes }) => id + ': ' + nodes.map(({ target, any }) => target + ' ' + (any[0]?.message ?? '')).join(', ')))`);
  }

  /** Writes a picture of the page to `<TICKGATE_PICTURES>/<name>.png`, if that variable names a folder. */
  async picture(name) {
    const folder = process.env.TICKGATE_PICTURES;
    if (!folder) return;
    const { data } = await this.send('Page.captureScreenshot', { captureBeyondViewport: true });
    writeFileSync(join(folder, `${name}.png`), Buffer.from(data, 'base64'));
  }

  text(selector) {
    return this.evaluate(`document.querySelector(${JSON.stringify(selector)}).innerText`);
  }
}
