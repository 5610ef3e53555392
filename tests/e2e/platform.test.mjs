// The platform's five applications in one gateway: deploy/platform.toml behind deploy/platform-nginx.conf, of which only paths
// and ports are changed, with a real Redis. A client of each application runs, as its own documentation shows it, all at
// once, and none hears anything of another.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHmac } from 'node:crypto';
import { once } from 'node:events';
import { chmodSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { test } from 'node:test';
import { io } from 'socket.io-client';
import WebSocket from 'ws';
import { atEnd, binary, directory, freePorts, root, start, until, within } from './harness.mjs';

const tenants = ['market', 'stock', 'manager', 'trading', 'zigquant'];
const secretOf = (name) => `${name}-0123456789abcdef0123456789abcdef`;

/** Replaces texts that must exist. */
function change(file, replacements) {
  let text = readFileSync(join(root, 'deploy', file), 'utf8');
  for (const [from, to] of replacements) {
    assert.ok(text.includes(from), `deploy/${file} has no ${from}`);
    text = text.replaceAll(from, to);
  }
  return text;
}

/** A token as the application's login service signs it. */
function token(tenant, claims) {
  const part = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const body = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({ exp: Math.floor(Date.now() / 1000) + 600, ...claims })}`;
  return `${body}.${createHmac('sha256', secretOf(`${tenant}-jwt-secret`)).update(body).digest('base64url')}`;
}

/** The backends of two applications: accounts of the trading application, commands of zigquant. */
async function backend(t) {
  const seen = { polls: [], commands: [] };
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request) body += chunk;
    response.setHeader('content-type', 'application/json');
    if (request.method === 'GET') {
      seen.polls.push(request.url);
      const kind = request.url.split('/').pop();
      return response.end(JSON.stringify(kind === 'balance' ? { total_balance: 10000.5, of: 'trading' } : []));
    }
    const command = JSON.parse(body);
    seen.commands.push(command);
    return response.end(JSON.stringify({ success: true, data: { grid_id: 'g1' } }));
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  atEnd(t, () => { server.closeAllConnections(); server.close(); });
  return { port: server.address().port, seen };
}

async function platform(t) {
  const where = directory(t);
  chmodSync(where, 0o755);
  const [redis, admin, p8000, p5000, p8080] = await freePorts(5);
  const { port, seen } = await backend(t);

  start(t, where, 'redis-server', ['--port', String(redis), '--bind', '127.0.0.1', '--save', '', '--dir', where], { signal: 'SIGTERM' });
  const cli = (...args) => execFileSync('redis-cli', ['-p', String(redis), ...args], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] });
  await until('Redis', () => { try { return cli('PING').startsWith('PONG'); } catch { return false; } });
  const record = (code, price) => JSON.stringify({ code, name: `N${code}`, price, change_percent: 2.5, volume: 1, of: 'stock' });
  cli('HSET', 'prices:volume_wave', '600519', record('600519', 1850.5), '000001', record('000001', 11.2));

  const secrets = join(where, 'secrets');
  mkdirSync(secrets);
  const names = ['operator-key', 'command-secret', ...tenants.flatMap((name) => [`${name}-key`, `${name}-jwt-secret`])];
  for (const name of names) writeFileSync(join(secrets, name), secretOf(name), { mode: 0o600 });
  const config = join(where, 'platform.toml');
  writeFileSync(config, change('platform.toml', [
    ['/etc/tickgate/secrets', secrets],
    ['/run/tickgate', where],
    ['/var/lib/tickgate', where],
    ['127.0.0.1:8081', `127.0.0.1:${admin}`],
    ['127.0.0.1:6379', `127.0.0.1:${redis}`],
    ['127.0.0.1:9000', `127.0.0.1:${port}`],
    ['127.0.0.1:9100', `127.0.0.1:${port}`],
  ]));
  const gateway = start(t, where, binary, ['serve', '--config', config], { env: {} });
  const ready = (url) => fetch(url).then(({ status }) => status === 200, () => false);
  await until('the gateway', async () => {
    if (gateway.child.exitCode !== null) throw new Error(`the gateway ended: ${gateway.err()}`);
    return await ready(`http://127.0.0.1:${admin}/readyz`);
  });
  for (const name of ['8000', '5000', '8080']) chmodSync(join(where, `${name}.sock`), 0o666);

  const keyFile = join(where, 'stock-key.conf');
  writeFileSync(keyFile, `proxy_set_header Authorization "Bearer ${secretOf('stock-key')}";\n`, { mode: 0o600 });
  const conf = join(where, 'nginx.conf');
  writeFileSync(conf, change('platform-nginx.conf', [
    ['user www-data;', process.getuid() === 0 ? 'user nobody nogroup;' : ''],
    ['/run/nginx.pid', join(where, 'nginx.pid')],
    ['/var/log/nginx', where],
    ['/run/tickgate', where],
    ['127.0.0.1:8081', `127.0.0.1:${admin}`],
    ['/etc/nginx/tickgate-stock-key.conf', keyFile],
    ['listen 8000', `listen 127.0.0.1:${p8000}`],
    ['listen 5000', `listen 127.0.0.1:${p5000}`],
    ['listen 8080', `listen 127.0.0.1:${p8080}`],
    ['worker_processes auto;', 'worker_processes 1;'],
    ['worker_rlimit_nofile 200000;', 'worker_rlimit_nofile 4096;'],
    ['worker_connections 65536;', 'worker_connections 2048;'],
    ['http {', `http {\n    client_body_temp_path ${where}/b; proxy_temp_path ${where}/p; fastcgi_temp_path ${where}/f;`
      + ` uwsgi_temp_path ${where}/u; scgi_temp_path ${where}/s;`],
  ]));
  const nginx = start(t, where, 'nginx', ['-c', conf, '-p', where, '-e', join(where, 'start.log'), '-g', 'daemon off;'], { signal: 'SIGTERM' });
  await until('nginx', async () => {
    if (nginx.child.exitCode !== null) throw new Error(`nginx ended: ${nginx.err()}`);
    return await ready(`http://127.0.0.1:${p8000}/api/websocket/stats`);
  });

  /** Publishes with the key of an application. */
  const publish = async (tenant, ...events) => {
    const response = await fetch(`http://127.0.0.1:${admin}/api/publish`, {
      method: 'POST',
      headers: { authorization: `Bearer ${secretOf(`${tenant}-key`)}`, 'content-type': 'application/json' },
      body: JSON.stringify(events),
    });
    const body = await response.text();
    assert.deepEqual([response.status, JSON.parse(body).published], [200, events.length], body);
  };
  return { p8000, p5000, p8080, publish, seen };
}

/** A client of a typed endpoint: it keeps what it hears, and sends a ping every 30 s. */
function typed(t, url) {
  const heard = [];
  const socket = new WebSocket(url);
  atEnd(t, () => socket.terminate());
  socket.on('message', (data) => heard.push(JSON.parse(data)));
  const ping = setInterval(() => socket.readyState === WebSocket.OPEN && socket.send('{"type":"ping"}'), 30_000);
  socket.on('close', () => clearInterval(ping));
  const send = (message) => socket.send(JSON.stringify(message));
  const hears = (type, fits = () => true) => until(`${url}: ${type}`, () => heard.find((message) => message.type === type && fits(message)));
  return { heard, send, hears };
}

test('the five applications share a gateway, unmodified, and see nothing of each other', async (t) => {
  const { ZigQuantWebSocket } = await import('../../clients/typescript/dist/zigquant.js');
  const { p8000, p5000, p8080, publish, seen } = await platform(t);
  const heard = {};

  // The market client: no token, everything of the market after connecting.
  const market = typed(t, `ws://127.0.0.1:${p8000}/ws`);
  heard.market = market.heard;
  // The stock client: subscribes to a strategy.
  const stock = typed(t, `ws://127.0.0.1:${p8000}/ws/stock/prices`);
  heard.stock = stock.heard;
  // The client of the connection manager: symbols, and get_status.
  const manager = typed(t, `ws://127.0.0.1:${p8000}/ws/manager?token=${token('manager', { sub: '4', role: 'viewer' })}`);
  heard.manager = manager.heard;
  // The trading application: Socket.IO, `connected`, then `subscribe_trading`.
  const trading = [];
  heard.trading = trading;
  const socket = io(`http://127.0.0.1:${p5000}`, { auth: { token: token('trading', { sub: '4', role: 'trader' }) }, forceNew: true });
  atEnd(t, () => socket.disconnect());
  socket.onAny((name, message) => trading.push(message));
  const connected = new Promise((resolve) => { socket.on('connected', resolve); });
  const subscribed = new Promise((resolve) => { socket.on('subscribed', resolve); });
  socket.on('connected', () => socket.emit('subscribe_trading', { types: ['balance', 'positions'] }));
  // zigquant: the platform's class.
  const zig = new ZigQuantWebSocket(undefined, { WebSocket });
  atEnd(t, () => zig.disconnect());
  heard.zigquant = [];
  zig.on('*', (data) => heard.zigquant.push({ data }));
  zig.subscribe(['grid.*', 'market.*', 'strategy.*', 'system.*', 'user.4.*']);

  await Promise.all([
    market.hears('connected'),
    stock.hears('connected').then(() => stock.send({ type: 'subscribe', subscription_type: 'strategy', target: 'volume_wave' })),
    manager.hears('connected').then(() => manager.send({ type: 'subscribe', symbols: ['BTC/USDT'] })),
    within('Socket.IO', connected),
    within('zigquant', zig.connect(`ws://127.0.0.1:${p8080}/ws`, token('zigquant', { sub: '4', role: 'trader' }))),
  ]);
  await Promise.all([
    stock.hears('subscribed'), manager.hears('subscribed'), within('the account', subscribed),
    ...['grid.*', 'market.*', 'strategy.*', 'system.*', 'user.4.*'].map((pattern) => within(pattern, zig.client.subscribe(pattern).ready)),
  ]);

  // Each has its own texts and times.
  assert.match(market.heard[0].timestamp, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/);
  assert.match(stock.heard[0].timestamp, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d$/);
  assert.equal(stock.heard[0].message, 'Stock prices connected');
  assert.equal((await connected).user_id, 4);

  // All publish to the same channels, which somebody of every application could subscribe to.
  const channels = ['market.BTC/USDT.price', 'strategy.volume_wave.prices', 'user.4.balance', 'system.status', 'grid.g.status'];
  const eventOf = { 'user.4.balance': 'balance_update', 'system.status': 'system_status' };
  for (const of of tenants) {
    await publish(of, ...channels.map((channel) => ({ channel, event: eventOf[channel] ?? 'price_update', data: { of } })));
  }
  const own = (of) => (message) => message.data?.of === of;
  await market.hears('price_update', own('market'));
  await market.hears('system_status', own('market'));
  await manager.hears('price_update', own('manager'));
  await stock.hears('price_update', own('stock'));
  await until('the account', () => trading.find(own('trading')));
  await until('zigquant', () => channels.every(() => heard.zigquant.filter(own('zigquant')).length === channels.length));

  // The feeds: prices from Redis by the minute, accounts over HTTP.
  const prices = await stock.hears('price_update', ({ data }) => Array.isArray(data));
  assert.deepEqual(prices.data.map(({ code }) => code).sort(), ['000001', '600519']);
  await until('the balance', () => trading.find(({ type, data, user_id }) => type === 'balance_update' && user_id === 4 && data.total_balance === 10000.5));
  await until('the polls', () => ['balance', 'positions'].every((kind) => seen.polls.includes(`/users/4/${kind}`)));
  assert.ok(!seen.polls.some((url) => /pnl|orders/.test(url)), 'nobody asked for these');

  // Commands and the status.
  assert.deepEqual(await within('the command', zig.command('grid.start', { pair: 'BTC-USDC' })), { grid_id: 'g1' });
  assert.deepEqual(seen.commands.map(({ action, user, tenant }) => [action, user, tenant]), [['grid.start', '4', 'zigquant']]);
  manager.send({ type: 'get_status' });
  const status = await manager.hears('status');
  assert.deepEqual([status.subscriptions, status.user], [['BTC/USDT'], '4']);

  // The four administration calls of the stock application, on its own port and without a key.
  const call = async (method, path, headers = {}) => {
    const response = await fetch(`http://127.0.0.1:${p8000}${path}`, { method, headers });
    return [response.status, response.status === 200 ? await response.json() : await response.text()];
  };
  const [, stats] = await call('GET', '/api/websocket/stats');
  assert.deepEqual([stats.active_connections, stats.subscriptions], [1, { 'strategy:volume_wave': 1 }]);
  const [, { clients }] = await call('GET', '/api/websocket/clients');
  assert.deepEqual(clients.map(({ dialect, user }) => [dialect, user]), [['typed', null]]);
  assert.deepEqual(await call('POST', '/api/websocket/push/prices?strategy=volume_wave'), [200, { pushed: 2 }]);
  const [queued, body] = await call('POST', '/api/websocket/broadcast/test');
  assert.deepEqual([queued, body.queued], [200, 1]);
  await stock.hears('test');
  assert.equal((await call('GET', '/api/websocket/stats', { origin: 'https://evil.example' }))[0], 403);
  assert.equal((await call('GET', '/api/websocket/stats?tenant=market'))[0], 403, 'the key opens one application');

  // A token of one application opens no other, although the user is the same.
  const refused = new WebSocket(`ws://127.0.0.1:${p8080}/ws?token=${token('trading', { sub: '4', role: 'admin' })}`);
  const answer = await within('the refusal', once(refused, 'unexpected-response').then(([, response]) => response.statusCode));
  assert.equal(answer, 401);

  // What each application heard is its own. The test broadcast came after all events, and reached the stock client only.
  for (const of of tenants) {
    const foreign = heard[of].filter(({ data }) => data?.of !== undefined && data.of !== of);
    assert.deepEqual(foreign, [], `${of} heard another application`);
    assert.equal(heard[of].some(({ type }) => type === 'test'), of === 'stock', of);
  }
});

