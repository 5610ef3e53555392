// Connection state recovery with the official clients that speak it, over links that are cut at random moments.
import assert from 'node:assert/strict';
import { connect as dial, createServer } from 'node:net';
import { once } from 'node:events';
import { test } from 'node:test';
import { io as io48 } from 'socket.io-client';
import { io as io46 } from 'socket.io-client-46';
import { atEnd, gateway, token, until } from './harness.mjs';
import { connect, next, transports } from './socket_io_clients.mjs';

const recovery = (more = '') => `[[endpoint]]\npath = "/socket.io/"\ndialect = "socket_io"\nrecovery = true\n${more}`;

/** A proxy whose links are cut on request. While `refuses`, nothing gets through. */
async function cutter(t, address) {
  const [host, port] = address.split(':');
  const links = new Set();
  const proxy = { refuses: false, cut: () => [...links].forEach((end) => end()) };
  const server = createServer((client) => {
    if (proxy.refuses) return client.destroy();
    const upstream = dial(Number(port), host);
    const end = () => { client.destroy(); upstream.destroy(); links.delete(end); };
    links.add(end);
    client.pipe(upstream);
    upstream.pipe(client);
    for (const socket of [client, upstream]) socket.on('error', end).on('close', end);
  }).listen(0, '127.0.0.1');
  atEnd(t, () => { proxy.cut(); server.close(); });
  await once(server, 'listening');
  return Object.assign(proxy, { url: `http://127.0.0.1:${server.address().port}` });
}

/** A client that subscribes when its session is new, as an application does, and what it got. */
async function subscriber(t, io, url, options, patterns) {
  const client = connect(t, io, url, { reconnectionDelay: 30, reconnectionDelayMax: 60, ...options });
  Object.assign(client, { numbers: new Map(), recovered: [], args: [] });
  client.socket.on('filled', (message, ...more) => {
    client.args.push(more);
    const numbers = client.numbers.get(message.channel) ?? [];
    client.numbers.set(message.channel, [...numbers, message.data]);
  });
  client.socket.on('connect', () => client.recovered.push(Boolean(client.socket.recovered)));
  client.socket.on('connected', () => {
    if (!client.socket.recovered) client.socket.emit('subscribe', { channels: patterns });
  });
  await next(client, 'subscribed');
  return client;
}

const publisher = (server) => async (...events) => assert.equal((await server.admin('POST', '/api/publish', events)).status, 200);
const filled = (channel, data) => ({ channel, event: 'filled', data });

for (const [version, io] of [['4.6', io46], ['4.8', io48]]) {
  for (const [name, options, carrier] of transports) {
    test(`${version}, ${name}: a client that comes back has its subscriptions, and each event once`, async (t) => {
      const server = await gateway(t, { rest: recovery() });
      const proxy = await cutter(t, server.publicAddress);
      const jwt = await token(t, '--sub', '4', '--role', 'trader');
      const client = await subscriber(t, io, proxy.url, { ...options, auth: { token: jwt } }, ['grid.a.*', 'market.*']);
      await until('the transport', () => client.socket.io.engine?.transport?.name === carrier);
      const publish = publisher(server);
      let n = 0;
      for (let round = 0; round < 12; round++) {
        for (let k = 0; k < 5; k++) await publish(filled('grid.a.order', n++), filled('market.x.price', n));
        // At a random moment, and also while the client catches up.
        await new Promise((resolve) => setTimeout(resolve, Math.random() * 60));
        proxy.refuses = round % 3 === 0;
        proxy.cut();
        await publish(filled('grid.a.order', n++));
        proxy.refuses = false;
      }
      await until('all events', () => client.numbers.get('grid.a.order')?.at(-1) === n - 1 || client.recovered.slice(1).includes(false));
      const numbers = client.numbers.get('grid.a.order');
      const times = client.recovered.slice(1);
      t.diagnostic(`${times.filter(Boolean).length} of ${times.length} returns were recovered`);
      assert.ok(times.includes(true));
      if (!times.includes(false)) assert.deepEqual(numbers, Array.from({ length: n }, (_, index) => index));
      else assert.ok(numbers.every((number, index) => index === 0 || number > numbers[index - 1]), 'none comes twice');
      assert.equal(client.received.filter((event) => event.name === 'dropped').length, 0);
    });
  }
}

test('a client of another user, or after the window, or after an operator has ended it, begins anew', async (t) => {
  const server = await gateway(t, { rest: recovery('recovery_window = "1s"\n') });
  const proxy = await cutter(t, server.publicAddress);
  const [jwt, other] = [await token(t, '--sub', '4', '--role', 'trader'), await token(t, '--sub', '5', '--role', 'trader')];
  let auth = { token: jwt };
  const client = await subscriber(t, io48, proxy.url, { transports: ['websocket'], auth: (give) => give(auth) }, ['grid.a.*']);
  const publish = publisher(server);
  const returns = async (count) => {
    await until(`return ${count}`, () => client.recovered.length > count && client.socket.connected);
    return client.recovered[count];
  };
  await publish(filled('grid.a.order', 0));
  await until('the event', () => client.numbers.get('grid.a.order')?.length === 1);
  proxy.cut();
  assert.equal(await returns(1), true);
  auth = { token: other };
  proxy.cut();
  assert.equal(await returns(2), false);
  await next(client, 'subscribed', 2);
  await publish(filled('grid.a.order', 1));
  await until('the event', () => client.numbers.get('grid.a.order')?.length === 2);
  proxy.refuses = true;
  proxy.cut();
  await new Promise((resolve) => setTimeout(resolve, 1_300));
  proxy.refuses = false;
  assert.equal(await returns(3), false);
  await next(client, 'subscribed', 3);
  await publish(filled('grid.a.order', 2));
  await until('the event', () => client.numbers.get('grid.a.order')?.length === 3);
  const { body } = await server.admin('GET', '/api/websocket/clients');
  await server.admin('DELETE', `/api/websocket/clients/${body.clients[0].client_id}`);
  await until('the end', () => !client.socket.connected);
  client.socket.connect();
  assert.equal(await returns(4), false);
});

test('without the key no event has an offset, and nothing is recovered', async (t) => {
  const server = await gateway(t);
  const proxy = await cutter(t, server.publicAddress);
  const jwt = await token(t, '--sub', '4', '--role', 'trader');
  const client = await subscriber(t, io48, proxy.url, { auth: { token: jwt } }, ['grid.a.*']);
  await publisher(server)(filled('grid.a.order', 0));
  await until('the event', () => client.args.length === 1);
  assert.deepEqual(client.args, [[]]);
  proxy.cut();
  await until('the return', () => client.recovered.length === 2);
  assert.deepEqual(client.recovered, [false, false]);
});
