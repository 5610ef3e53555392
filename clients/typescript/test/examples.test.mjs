// The examples as users run them: pages in Chromium, through nginx, and a Node bot.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { cpSync, symlinkSync, mkdirSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { test } from 'node:test';
import { buildSync } from 'esbuild';
import { Tab } from '../../../tests/e2e/browser.mjs';
import { behindNginx } from '../../../tests/e2e/nginx.mjs';
import { atEnd, directory, gateway, pages, proxy, publish, root, start, token, until } from './support.mjs';

const subscriptions = async (server) => {
  const { body } = await server.admin('GET', '/api/websocket/clients');
  return body.clients.map((client) => client.subscriptions.sort().join());
};

test('the plain page in Chromium, through nginx: prices, orders, a drain of the gateway', async (t) => {
  const { server, url } = await behindNginx(t, { server: 'drain = "1s"' });
  await publish(server, 'market.BTC.price', { price: 1 });
  const jwt = await token(t, '--sub', '4', '--role', 'trader');
  const origin = await pages(t);
  const tab = await Tab.open(t, `${origin}/examples/page/index.html#${url}#${jwt}`, ['--ignore-certificate-errors']);
  await tab.until('live', "document.querySelector('#state')?.textContent === 'live'");
  await tab.until('the last value', "document.querySelector('#prices').textContent === 'market.BTC.price 1 (as of now)'");
  await publish(server, 'market.BTC.price', { price: 2 });
  await publish(server, 'grid.a.order', { n: 1 }, 'filled');
  await tab.until('the news', "document.querySelector('#prices').textContent === 'market.BTC.price 2'");
  await tab.until('an order', `document.querySelector('#log').textContent === 'grid.a.order filled {"n":1}\\n'`);
  server.child.kill('SIGTERM');
  await tab.until('waiting', "document.querySelector('#state').textContent.startsWith('waiting')");
  assert.deepEqual(tab.problems, []);
});

test('the plain page in Chromium comes back when the browser is online again', async (t) => {
  const server = await gateway(t);
  const network = await proxy(t, server.publicAddress);
  const jwt = await token(t, '--sub', '4', '--role', 'trader');
  const origin = await pages(t);
  const tab = await Tab.open(t, `${origin}/examples/page/index.html#${network.url.replace('127.0.0.1', 'localhost')}#${jwt}`);
  await tab.until('live', "document.querySelector('#state')?.textContent === 'live'");
  await publish(server, 'grid.a.order', 1);
  await tab.until('an order', "document.querySelector('#log').textContent.includes('e 1')");
  network.isRefusing = true;
  network.cut();
  await tab.until('waiting', "document.querySelector('#state').textContent.startsWith('waiting')");
  await publish(server, 'grid.a.order', 2);
  network.isRefusing = false;
  await tab.evaluate("dispatchEvent(new Event('online'))");
  await tab.until('what was missed', "document.querySelector('#log').textContent.includes('e 2')");
  assert.doesNotMatch(await tab.text('#log'), /reload/);
});

// The newest release, and the oldest that the hooks support.
for (const [version, folder] of [[19, 'clients/react'], [18, 'tests/e2e']]) test(`the React page under StrictMode, with React ${version}: one subscription for a pattern, none for a redraw`, async (t) => {
  const server = await gateway(t);
  await publish(server, 'market.BTC.price', { price: 1 });
  await publish(server, 'board.main.prices', [{ code: 'a', price: 1 }, { code: 'b', price: 2 }]);
  const { outputFiles } = buildSync({
    entryPoints: [join(root, 'clients/examples/react/main.jsx')], bundle: true, format: 'esm', write: false, jsx: 'automatic',
    define: { 'process.env.NODE_ENV': '"development"' }, // StrictMode acts in development only.
    alias: { ...Object.fromEntries(['react', 'react-dom'].map((name) => [name, join(root, folder, 'node_modules', name)])),
      '@tickgate/react': join(root, 'clients/react/dist/index.js'), '@tickgate/client': join(root, 'clients/typescript/dist/index.js') },
  });
  const html = '<!doctype html><link rel="icon" href="data:,"><div id="root"></div><script type="module" src="/main.js"></script>';
  const origin = await pages(t, { '/index.html': html, '/main.js': outputFiles[0].text });
  const network = await proxy(t, server.publicAddress);
  const jwt = await token(t, '--sub', '4', '--role', 'trader');
  const tab = await Tab.open(t, `${origin}/index.html#${network.url.replace('127.0.0.1', 'localhost')}#${jwt}`);
  await tab.until('the price', "document.querySelector('#price')?.textContent === 'BTC: 1'");
  await tab.until('the board', "document.querySelectorAll('#board tr').length === 2");
  await publish(server, 'board.main.prices', [{ code: 'b', price: 3 }]);
  await publish(server, 'market.BTC.price', { price: 2 });
  await tab.until('the news', "document.querySelector('#board').textContent === 'a1b3' && document.querySelector('#price').textContent === 'BTC: 2'");
  assert.deepEqual(await subscriptions(server), ['board.*.prices,market.BTC.price']);

  // Redraws send nothing: the gateway counts the messages that it gets.
  const received = async () => {
    const text = await (await fetch(`http://${server.adminAddress}/metrics`)).text();
    return text.split('\n').filter((line) => /^tickgate_messages_received_total/.test(line)).join();
  };
  const before = await received();
  assert.notEqual(before, '');
  for (let n = 0; n < 5; n++) await tab.evaluate("document.querySelector('#redraw').click()");
  await tab.until('redrawn', "document.querySelector('#redraw').textContent.includes('5')");
  assert.equal(await received(), before);

  await tab.evaluate("document.querySelector('#other').click()");
  await until('the other symbol', async () => (await subscriptions(server)).join() === 'board.*.prices,market.ETH.price');
  network.cut();
  await publish(server, 'market.ETH.price', { price: 7 });
  await tab.until('the price after a break', "document.querySelector('#price').textContent === 'ETH: 7'");
  assert.deepEqual(tab.problems, []);
});

test('the Node bot starts a grid and follows its orders', async (t) => {
  const backend = createServer((request, response) => {
    request.resume().on('end', () => response.setHeader('content-type', 'application/json').end('{"success":true,"data":{"grid_id":"g1"}}'));
  }).listen(0, '127.0.0.1');
  await once(backend, 'listening');
  atEnd(t, () => { backend.closeAllConnections(); backend.close(); });
  const server = await gateway(t, { rest: `[[command]]\nmatch = "grid.*"\nhttp = "http://127.0.0.1:${backend.address().port}/"\n` });
  // As in a project that has installed the package.
  const where = directory(t);
  mkdirSync(join(where, 'node_modules/@tickgate'), { recursive: true });
  symlinkSync(join(root, 'clients/typescript'), join(where, 'node_modules/@tickgate/client'));
  symlinkSync(join(root, 'tests/e2e/node_modules/ws'), join(where, 'node_modules/ws'));
  cpSync(join(root, 'clients/examples/bot/bot.mjs'), join(where, 'bot.mjs'));
  const env = { ...process.env, TICKGATE_URL: server.url, TICKGATE_TOKEN: await token(t, '--sub', '4', '--role', 'trader') };
  const bot = start(t, where, process.execPath, [join(where, 'bot.mjs')], { env });
  await until('the grid', () => bot.out().includes('started g1'));
  await publish(server, 'grid.g1.order', { n: 1 }, 'filled');
  await until('the order', () => /order grid\.g1\.order filled \d+ {"n":1}/.test(bot.out()));
  bot.child.kill('SIGTERM');
  assert.deepEqual(await bot.ended, { code: 0, signal: null }, bot.err());
});
