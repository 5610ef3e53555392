// The client in Chromium: what only a browser does, and every way in which a connection ends, through nginx.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { Tab } from '../../../tests/e2e/browser.mjs';
import { behindNginx } from '../../../tests/e2e/nginx.mjs';
import { directory, gateway, pages, proxy, publish, token, until, within } from './support.mjs';

// The options of the client stand behind the `#`.
const PAGE = `<!doctype html><title>client</title><link rel="icon" href="data:,"><script type="module">
  import { createClient } from '/typescript/dist/index.js';
  const { isStored, ...options } = JSON.parse(decodeURIComponent(location.hash.slice(1)));
  const getToken = async () => {
    const response = await fetch('/token.txt');
    if (!response.ok) throw new Error('the login server is away');
    return response.text();
  };
  window.make = (more) => createClient({ ...options, getToken, ...(isStored && { storage: localStorage }), ...more });
  window.seen = { states: [], events: [], gaps: [], errors: [] };
  window.tg = make();
  tg.on('state', (change) => seen.states.push({ ...change, at: Date.now() }));
  tg.on('error', (error) => seen.errors.push(String(error)));
  const orders = tg.subscribe('grid.*');
  orders.on('event', ({ data }) => seen.events.push(data));
  orders.on('gap', (gap) => seen.gaps.push(gap));
  tg.connect();
</script>`;

/** A page with a client, and the login server that gives it tokens. */
async function page(t, options) {
  const login = { isAway: false };
  const makeToken = (...args) => token(t, '--sub', '4', '--role', 'trader', ...args);
  const origin = await pages(t, {
    '/page.html': PAGE,
    '/away.html': '<!doctype html><title>away</title><link rel="icon" href="data:,">',
    '/token.txt': () => (login.isAway ? Promise.reject(new Error('away')) : makeToken()),
  });
  const url = `${origin}/page.html#${encodeURIComponent(JSON.stringify(options))}`;
  const tab = await Tab.open(t, url, ['--ignore-certificate-errors', '--disable-popup-blocking']);
  const go = (to) => tab.send('Page.navigate', { url: to });
  const has = (event) => tab.until(`event ${event}`, `window.seen?.events.at(-1) === ${event}`);
  const state = (name) => tab.until(`the state ${name}`, `window.tg?.state === '${name}'`);
  const seen = () => tab.evaluate('seen');
  return { tab, url, away: `${origin}/away.html`, login, makeToken, go, has, state, seen };
}

test('a page in Chromium, through nginx, over a drain, a kill, an offline time, the end of its token and a rate limit', async (t) => {
  const rest = `[auth]\nleeway = "0s"\n[state]\nsnapshot = "${join(directory(t), 'state')}"\n`;
  const { server: first, startGateway, url } = await behindNginx(t, { server: 'drain = "1s"', rest });
  const network = await proxy(t, new URL(url).host);
  const { tab, login, makeToken, has, state, seen } = await page(t, { url: network.url.replace('ws://127.0.0.1', 'wss://localhost') });
  const codes = async () => (await seen()).states.map(({ code }) => code);
  const order = (server, n) => publish(server, 'grid.a.order', n);
  await state('live');
  await order(first, 1);
  await has(1);

  first.child.kill('SIGTERM');
  await within('the drain', first.ended);
  const second = await startGateway();
  await order(second, 2);
  await has(2);
  assert.ok((await codes()).includes(1012));
  assert.deepEqual((await seen()).gaps, []);

  second.child.kill('SIGKILL');
  await second.ended;
  const server = await startGateway();
  await tab.until('the gap', 'seen.gaps.length === 1');
  await order(server, 3);
  await has(3);
  assert.deepEqual((await seen()).gaps, [{ reason: 'epoch', channels: ['grid.a.order'], complete: false }]);

  const offline = (isOffline) => tab.send('Network.emulateNetworkConditions', { offline: isOffline, latency: 0, downloadThroughput: -1, uploadThroughput: -1 });
  network.isRefusing = true;
  network.cut();
  await offline(true);
  await state('waiting');
  await order(server, 4);
  // A minute in the nightly run.
  await new Promise((resolve) => setTimeout(resolve, Number(process.env.TICKGATE_OFFLINE_SECONDS ?? 4) * 1000));
  network.isRefusing = false;
  await offline(false);
  await has(4);

  // No new token is to be had, so the connection ends with the old one.
  login.isAway = true;
  await tab.evaluate(`tg.setToken('${await makeToken('--ttl', '5s')}')`);
  await until('the end of the token', async () => (await codes()).includes(4001));
  await tab.until('a question without an answer', "seen.states.some(({ reason }) => reason.startsWith('getToken failed'))");
  await order(server, 5);
  login.isAway = false;
  await has(5);

  await tab.evaluate(`{
    window.fast = make({ messagesPerSecond: 1e9 });
    fast.on('state', (change) => { window.end = change.state === 'waiting' ? change : undefined; });
    const flood = setInterval(() => {
      if (fast.status.code === 4029) return clearInterval(flood);
      for (let n = 0; n < 300; n++) fast.publish('grid.a', 'e', n).catch(() => {});
    }, 300);
    void fast.connect();
  }`);
  await tab.until('the limit', 'window.end?.code === 4029');
  assert.ok(await tab.evaluate('end.retryAt - Date.now()') > 5_000, 'the rest of ten seconds');
  await order(server, 6);
  await has(6);
  const { events, gaps } = await seen();
  assert.deepEqual([events, gaps.length], [[1, 2, 3, 4, 5, 6], 1], 'nothing came twice, and nothing more is missing');
  assert.deepEqual(tab.problems, []);
});

test('a page in Chromium has what it missed during a reload; another tab, also a copy of it, has positions of its own', async (t) => {
  const server = await gateway(t);
  const { tab, url, away, go, has, state, seen } = await page(t, { url: server.url.replace('127.0.0.1', 'localhost'), isStored: true });
  await state('live');
  await publish(server, 'grid.a.order', 1);
  await has(1);
  await go(away);
  await tab.until('the other page', "document.title === 'away'");
  await publish(server, 'grid.a.order', 2);
  await go(url);
  await has(2);
  assert.deepEqual([(await seen()).events, (await seen()).gaps], [[2], []]);

  // A tab that is duplicated, or opened by another, begins with a copy of its session storage.
  await tab.evaluate('{ window.twin = open(location.href); 0 }');
  await tab.until('the copy', "twin.tg?.state === 'live' && sessionStorage.getItem('tickgate tab') !== twin.sessionStorage.getItem('tickgate tab')");
  await tab.until('its subscription', 'twin.tg.stats().patterns === 1');
  await until('both in the gateway', async () => (await server.admin('GET', '/api/websocket/clients')).body.clients.filter(({ subscriptions }) => subscriptions.length === 1).length === 2);
  await publish(server, 'grid.a.order', 3);
  await has(3);
  await tab.until('the event in the copy', 'twin.seen.events.length === 1');
  assert.deepEqual(await tab.evaluate('[twin.seen.events, twin.seen.gaps]'), [[3], []]);

  await tab.evaluate("Promise.all([tg.close({ forget: true }), twin.tg.close()])");
  const keys = await tab.evaluate("Object.keys(localStorage).map((key) => key.endsWith(twin.sessionStorage.getItem('tickgate tab')))");
  assert.deepEqual(keys, [true], 'only the copy is still saved');
  assert.deepEqual(tab.problems, []);
});

test('a page in Chromium whose thread is busy raises no alarm, and comes back at once when somebody looks at it again', async (t) => {
  const server = await gateway(t);
  const network = await proxy(t, server.publicAddress);
  const { tab, state, seen } = await page(t, { url: network.url.replace('127.0.0.1', 'localhost'), pingInterval: 200, pongTimeout: 400 });
  await state('live');
  for (let n = 0; n < 3; n++) {
    await tab.evaluate('{ const end = performance.now() + 2500; while (performance.now() < end); }');
    const before = await tab.evaluate('tg.stats().roundTripMs');
    await tab.until('an answer since', `tg.stats().roundTripMs !== ${before}`);
  }
  assert.deepEqual((await seen()).states.map(({ state: name }) => name), ['connecting', 'live']);

  network.isRefusing = true;
  network.cut();
  // Until the next try is so far away that it is not what connects.
  await tab.until('a long wait', "tg.state === 'waiting' && tg.status.retryAt - Date.now() > 5000");
  const { retryAt } = await tab.evaluate('tg.status');
  network.isRefusing = false;
  await tab.evaluate("document.dispatchEvent(new Event('visibilitychange'))");
  await state('live');
  const connecting = (await seen()).states.findLast(({ state: name }) => name === 'connecting');
  assert.ok(connecting.at < retryAt, `${connecting.at} is not before ${retryAt}`);
});
