// The typed dialect with npm `ws`: the default endpoints, and a client that was written for another service.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { test } from 'node:test';
import WebSocket from 'ws';
import { Client, atEnd, gateway, token, until, within } from './harness.mjs';

const iso = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/;

const market = [
  { channel: 'market.KOGE/USDT.price', event: 'price_update', data: { symbol: 'KOGE/USDT', price: 0.005432, change_24h: 0.025 } },
  { channel: 'market.KOGE/USDT.orderbook', event: 'orderbook_update', data: { bids: [[0.005432, 1250]], asks: [[0.005438, 980]] } },
  { channel: 'market.KOGE/USDT.trade', event: 'trade_executed', data: { side: 'buy', price: 0.005432, quantity: 1000, cost: 0.0054 } },
  { channel: 'system.status', event: 'system_status', data: { mode: 'auto', points_today: 12.5, volume_today: 8450 } },
];

// 2025-11-24T10:30:00.500Z
const at = 1763980200500;

async function publish(server, ...events) {
  const answer = await server.admin('POST', '/api/publish', events.map((event) => ({ timestamp: at, ...event })));
  assert.deepEqual([answer.status, answer.body.published], [200, events.length]);
}

/** Asserts that the next messages have these types, in this order. */
async function types(client, ...wanted) {
  const got = [];
  for (const _ of wanted) got.push(await client.next());
  assert.deepEqual(got.map((message) => message.type), wanted);
  return got;
}

// A client as written for the service with four messages. It connects to `/ws`, with or without a token, sends JSON pings
// every 30 s, never answers pings, and shows the messages.
class FourMessages {
  constructor(base, { token: jwt, pingMs = 30_000 } = {}) {
    this.state = { prices: {}, books: [], trades: [], status: undefined, connected: undefined, pongs: 0, unknown: [] };
    this.socket = new WebSocket(`${base}/ws${jwt ? `?token=${jwt}` : ''}`, { autoPong: false });
    this.timer = undefined;
    this.socket.onopen = () => {
      this.timer = setInterval(() => this.socket.send(JSON.stringify({ type: 'ping' })), pingMs);
    };
    this.socket.onmessage = ({ data }) => this.#show(JSON.parse(data));
    this.closed = new Promise((resolve) => {
      this.socket.onclose = ({ code }) => { clearInterval(this.timer); resolve(code); };
    });
  }

  #show(message) {
    if (!iso.test(message.timestamp)) throw new Error(`not a time: ${message.timestamp}`);
    switch (message.type) {
      case 'connected': this.state.connected = message.client_id; break;
      case 'pong': this.state.pongs += 1; break;
      case 'price_update': this.state.prices[message.data.symbol] = message.data.price; break;
      case 'orderbook_update': this.state.books.push(message.data.bids[0][0]); break;
      case 'trade_executed': this.state.trades.push([message.data.side, message.data.cost]); break;
      case 'system_status': this.state.status = message.data.mode; break;
      default: this.state.unknown.push(message.type);
    }
  }

  close() {
    clearInterval(this.timer);
    this.socket.terminate();
  }
}

test('a client of the four-message service works when its path is mapped to this dialect', async (t) => {
  const rest = `
[[endpoint]]
path = "/ws"
dialect = "typed"
anonymous = true
auto_subscribe = ["market.*", "system.status"]
[heartbeat]
interval = "2s"
timeout = "4s"
`;
  const server = await gateway(t, { rest });
  const base = `ws://${server.publicAddress}`;
  // The client sends nothing but pings. Here they are as frequent, relative to the timeout, as every 30 s with 60 s.
  const authenticated = new FourMessages(base, { token: await token(t, '--sub', '4', '--role', 'trader'), pingMs: 2000 });
  const anonymous = new FourMessages(base, { pingMs: 2000 });
  atEnd(t, () => { authenticated.close(); anonymous.close(); });
  for (const client of [authenticated, anonymous]) {
    await until('the greeting', () => client.state.connected);
    assert.match(client.state.connected, /^client_[0-9a-f]{16}$/);
  }
  await publish(server, ...market);
  for (const { state } of [authenticated, anonymous]) {
    await until('the last message, the status', () => state.status);
    assert.deepEqual(
      [state.prices, state.books, state.trades, state.status],
      [{ 'KOGE/USDT': 0.005432 }, [0.005432], [['buy', 0.0054]], 'auto'],
    );
  }
  // After twice the timeout the clients are still connected.
  for (const { state } of [authenticated, anonymous]) await until('pongs', () => state.pongs >= 4);
  for (const { state } of [authenticated, anonymous]) assert.deepEqual([...new Set(state.unknown)], ['ping']);
  const clients = await server.admin('GET', '/api/websocket/clients');
  assert.deepEqual(clients.body.clients.map(({ dialect, user }) => `${dialect} ${user}`).sort(), ['typed 4', 'typed null']);
  server.child.kill('SIGTERM');
  assert.deepEqual([await authenticated.closed, await anonymous.closed], [1012, 1012]);
  assert.ok(authenticated.state.unknown.includes('going_away'));
});

// The default endpoints, open to anybody.
const open = `
[[endpoint]]
path = "/ws/stock/prices"
dialect = "typed"
anonymous = true
subscription_types = { strategy = "strategy.{target}.prices", stock = "stock.{target}.price", market = "board.{target}.prices" }
[[endpoint]]
path = "/ws/market"
dialect = "typed"
anonymous = true
auto_subscribe = ["market.*", "system.status"]
`;

test('the default endpoints need a token', async (t) => {
  const server = await gateway(t);
  for (const path of ['/ws', '/ws/market', '/ws/stock/prices']) {
    const client = await Client.open(t, `ws://${server.publicAddress}${path}`);
    // Nobody authenticates: the greeting comes, and nothing else is served.
    client.send({ type: 'subscribe', channels: ['market.*'] });
    let message;
    do message = await client.next(); while (message.type === 'connected' || message.type === 'auth_required');
    assert.deepEqual([message.type, message.error?.code], ['error', 'UNAUTHENTICATED'], path);
  }
});

test('anonymous clients of /ws/market receive only market data and the system status by default', async (t) => {
  const server = await gateway(t, { rest: open });
  const client = await Client.open(t, `ws://${server.publicAddress}/ws/market`);
  const [greeting] = await types(client, 'connected');
  assert.deepEqual(Object.keys(greeting), ['type', 'client_id', 'message', 'timestamp']);
  assert.match(greeting.timestamp, iso);
  await publish(
    server,
    { channel: 'grid.a.order', event: 'filled', data: {} },
    { channel: 'user.4.balance', event: 'balance_update', data: {} },
    ...market,
  );
  const timestamp = '2025-11-24T10:30:00Z';
  for (const { channel, event, data } of market) {
    const { offset, ...message } = await client.next();
    assert.deepEqual(message, { type: event, channel, data, timestamp });
    // Trades keep a history.
    assert.equal(typeof offset, channel.endsWith('.trade') ? 'number' : 'undefined');
  }
  client.send({ type: 'get_status', id: 1 });
  const [status] = await types(client, 'status');
  assert.deepEqual(status.subscriptions, ['market.*', 'system.status']);
  assert.equal(status.user, null);
  assert.equal(status.client_id, greeting.client_id);
  assert.ok(Math.abs(status.connected_at - Date.now() / 1000) < 60);
  // Subscribe to one symbol instead of all.
  client.send({ type: 'unsubscribe', channels: ['market.*'] });
  client.send({ type: 'subscribe', symbol: 'BTC/USDT' });
  const [, subscribed] = await types(client, 'unsubscribed', 'subscribed');
  assert.equal(subscribed.symbol, 'BTC/USDT');
  await publish(server, market[0], { ...market[0], channel: 'market.BTC/USDT.price', data: { symbol: 'BTC/USDT', price: 94000.5 } });
  assert.equal((await client.next()).data.symbol, 'BTC/USDT');
  client.send({ type: 'subscribe', channels: ['grid.*'] });
  assert.equal((await client.next()).error.code, 'FORBIDDEN');
});

test('strategies, stocks and boards on /ws/stock/prices', async (t) => {
  const server = await gateway(t, { rest: open });
  const client = await Client.open(t, `ws://${server.publicAddress}/ws/stock/prices`);
  await types(client, 'connected');
  const requests = [
    { subscription_type: 'strategy', target: 'volume_wave' },
    { target: 'value', id: 's2' },
    { subscription_type: 'stock', target: '600519' },
    { subscription_type: 'market', target: 'main' },
  ];
  for (const request of requests) {
    client.send({ type: 'subscribe', ...request });
    const { timestamp, cursor, ...answer } = await client.next();
    assert.match(timestamp, iso);
    assert.match(cursor, /^[0-9a-f-]+$/);
    assert.deepEqual(answer, { type: 'subscribed', ...request });
  }
  const data = [{ code: '600519', name: '贵州茅台', price: 1850.5, change_percent: 2.5, volume: 12345678 }, { code: '000001', price: 11.2 }];
  const channels = ['strategy.volume_wave.prices', 'strategy.value.prices', 'stock.600519.price', 'board.main.prices'];
  await publish(
    server,
    { channel: 'strategy.other.prices', event: 'price_update', data },
    ...channels.map((channel) => ({ channel, event: 'price_update', data })),
  );
  for (const channel of channels) {
    assert.deepEqual(await client.next(), { type: 'price_update', channel, data, count: 2, timestamp: '2025-11-24T10:30:00Z' });
  }
  client.send({ type: 'get_status' });
  assert.deepEqual((await client.next()).subscriptions, requests.map(({ subscription_type = 'strategy', target }) => ({ subscription_type, target })));
  client.send({ type: 'unsubscribe', ...requests[0] });
  await types(client, 'unsubscribed');
  await publish(server, { channel: channels[0], event: 'price_update', data }, { channel: channels[2], event: 'price_update', data: [] });
  const last = await client.next();
  assert.deepEqual([last.channel, last.count], [channels[2], 0]);
  client.send({ type: 'subscribe', subscription_type: 'futures', target: 'x', id: 'f' });
  const refused = await client.next();
  assert.deepEqual([refused.type, refused.id, refused.error.code], ['error', 'f', 'INVALID_MESSAGE']);
});

test('each user may see only its own account, and an operator reaches all', async (t) => {
  const server = await gateway(t);
  const clients = [];
  for (const sub of ['4', 'u5']) {
    const client = await Client.open(t, `ws://${server.publicAddress}/ws/stock/prices?token=${await token(t, '--sub', sub)}`);
    client.send({ type: 'subscribe', channels: [`user.${sub}.*`] });
    await types(client, 'connected', 'subscribed');
    clients.push(client);
  }
  clients[0].send({ type: 'subscribe', channels: ['user.u5.*'] });
  assert.equal((await clients[0].next()).error.code, 'FORBIDDEN');
  const balance = (id) => ({ channel: `user.${id}.balance`, event: 'balance_update', data: { total_balance: 10000.0 } });
  await publish(server, balance('u5'), balance('4'), { channel: 'user.u5.orders', event: 'orders_update', data: [] });
  assert.equal((await clients[0].next()).user_id, 4);
  const [mine, orders] = await types(clients[1], 'balance_update', 'orders_update');
  assert.deepEqual([mine.user_id, orders.user_id, orders.count], ['u5', 'u5', 0]);
  const told = await server.admin('POST', '/api/websocket/broadcast/test', {});
  assert.deepEqual([told.status, told.body.queued], [200, 2]);
  for (const client of clients) {
    const [test] = await types(client, 'test');
    assert.deepEqual([test.channel, typeof test.data.message], ['system.test', 'string']);
    assert.match(test.timestamp, iso);
  }
});

test('an anonymous endpoint refuses a bad token too', async (t) => {
  const server = await gateway(t, { rest: open });
  const url = `ws://${server.publicAddress}/ws/market?token=bad`;
  const program = new WebSocket(url);
  const [, response] = await within('the answer', once(program, 'unexpected-response'));
  assert.equal(response.statusCode, 401);
  const browser = await Client.open(t, url, { origin: 'http://127.0.0.1' });
  const [result] = await types(browser, 'auth_result');
  assert.deepEqual([result.success, result.error.code], [false, 'TOKEN_INVALID']);
  assert.match(result.timestamp, iso);
  assert.equal((await browser.closed).code, 4004);
});

test('naive times, custom subscription types, in-band authentication, and forbidden automatic subscriptions', async (t) => {
  const rest = `
[[endpoint]]
path = "/legacy"
dialect = "typed"
timestamps = "naive"
auto_subscribe = ["market.*", "system.log"]
[endpoint.subscription_types]
fund = "fund.{target}.price"
[auth.default]
channels = ["market.*", "fund.*"]
`;
  const server = await gateway(t, { rest });
  const jwt = await token(t, '--sub', '4');
  for (let n = 0; n < 2; n += 1) {
    const client = await Client.open(t, `ws://${server.publicAddress}/legacy`);
    client.send({ type: 'auth', token: jwt });
    client.send({ type: 'subscribe', subscription_type: 'fund', target: 'F1' });
    // The automatic subscription delivers the last value at once: the price published in the previous round.
    const last = n === 0 ? [] : ['price_update'];
    const first = await types(client, 'connected', 'auth_result', ...last, 'subscribed');
    for (const { timestamp } of first) assert.match(timestamp, /T\d\d:\d\d:\d\d$/);
    if (n > 0) assert.equal(first[2].channel, market[0].channel);
    await publish(server, { channel: 'system.log', event: 'info', data: {} }, { channel: 'fund.F1.price', event: 'price_update', data: 1.5 }, market[0]);
    const [fund, price] = await types(client, 'price_update', 'price_update');
    assert.deepEqual([fund.channel, fund.timestamp], ['fund.F1.price', '2025-11-24T10:30:00']);
    assert.equal(price.channel, market[0].channel);
    client.socket.terminate();
  }
  const lines = await until('the log', () => {
    const found = server.err().split('\n').filter((line) => line.includes('automatic subscriptions are not allowed'));
    return found.length > 0 && found;
  });
  assert.ok(lines.every((line) => line.includes('system.log') && JSON.parse(line).level === 'WARN'), lines.join('\n'));
});
