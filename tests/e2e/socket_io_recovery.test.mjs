// Connection state recovery with the official clients that speak it, over links that are cut at random moments.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { Client, directory, freePorts, gateway, token, until } from './harness.mjs';
import { cutter, next, recovering, subscriber, transports } from './socket_io_clients.mjs';

const recovery = (more = '') => `[[endpoint]]\npath = "/socket.io/"\ndialect = "socket_io"\nrecovery = true\n${more}`;

const publisher = (server) => async (...events) => assert.equal((await server.admin('POST', '/api/publish', events)).status, 200);
const filled = (channel, data) => ({ channel, event: 'filled', data });

for (const [version, io] of recovering) {
  for (const [name, options, carrier] of transports) {
    test(`${version}, ${name}: a client that comes back has its subscriptions and every event`, async (t) => {
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
      // What comes twice is dropped here, and checked below.
      const numbers = [...new Set(client.numbers.get('grid.a.order'))];
      const times = client.recovered.slice(1);
      t.diagnostic(`${times.filter(Boolean).length} of ${times.length} returns were recovered`);
      assert.ok(times.includes(true));
      if (!times.includes(false)) assert.deepEqual(numbers, Array.from({ length: n }, (_, index) => index));
      else assert.ok(numbers.every((number, index) => index === 0 || number > numbers[index - 1]), 'they come in order');
      // As docs/socket_io.md says: what came in a session comes again only if that broke before the client had caught up.
      const last = new Map();
      let doubles = 0;
      for (const { event, session } of client.arrivals) {
        if (!event.startsWith('grid.') || !client.recovered.slice(1, session).every(Boolean)) continue;
        if (last.has(event)) {
          doubles += 1;
          assert.ok(!client.caughtUp.has(last.get(event)), `${event} came again in session ${session}, but session ${last.get(event)} had caught up`);
        }
        last.set(event, session);
      }
      t.diagnostic(`${doubles} events came twice`);
      assert.equal(client.received.filter((event) => event.name === 'dropped').length, 0);
    });
  }
}

const [, newest] = recovering.at(-1);

test('a client of another user, or after the window, or after an operator has ended it, begins anew', async (t) => {
  const server = await gateway(t, { rest: recovery('recovery_window = "4s"\n') });
  const proxy = await cutter(t, server.publicAddress);
  const [jwt, other] = [await token(t, '--sub', '4', '--role', 'trader'), await token(t, '--sub', '5', '--role', 'trader')];
  let auth = { token: jwt };
  const client = await subscriber(t, newest, proxy.url, { transports: ['websocket'], auth: (give) => give(auth) }, ['grid.a.*']);
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
  await new Promise((resolve) => setTimeout(resolve, 4_300));
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
  const client = await subscriber(t, newest, proxy.url, { auth: { token: jwt } }, ['grid.a.*']);
  await publisher(server)(filled('grid.a.order', 0));
  await until('the event', () => client.args.length === 1);
  assert.deepEqual(client.args, [[]]);
  proxy.cut();
  await until('the return', () => client.recovered.length === 2);
  assert.deepEqual(client.recovered, [false, false]);
});

/** Publishes over a connection of its own, as soon as a gateway listens. */
async function publishTo(t, url, channel, data) {
  const jwt = await token(t, '--sub', 'publisher', '--role', 'admin');
  const client = await until('a gateway', () => Client.open(t, `${url}?token=${jwt}`).catch(() => undefined));
  client.send({ type: 'publish', channel, event: 'filled', data, id: 1 });
  await client.next((message) => message.type === 'published');
  client.socket.close();
}

const bothEndpoints = `${recovery()}\n[[endpoint]]\npath = "/ws"\ndialect = "native"\n`;

for (const [version, library] of recovering) {
  test(`${version}: a session outlives a restart in place and a drain with a snapshot`, async (t) => {
    const [port] = await freePorts(1);
    const options = {
      listen: `["127.0.0.1:${port}"]`,
      server: 'drain = "1s"\nrestart_drain = "1s"',
      rest: `${bothEndpoints}[state]\nsnapshot = "${join(directory(t), 'state')}"\n`,
    };
    let server = await gateway(t, options);
    const proxy = await cutter(t, `127.0.0.1:${port}`);
    const jwt = await token(t, '--sub', '4', '--role', 'trader');
    const client = await subscriber(t, library, proxy.url, { auth: { token: jwt } }, ['grid.a.*']);
    await publishTo(t, server.url, 'grid.a.order', 0);
    await until('the event', () => client.numbers.get('grid.a.order')?.length === 1);
    for (const [number, restart] of [
      [1, () => server.child.kill('SIGUSR2')],
      [2, async () => {
        server.child.kill('SIGTERM');
        await server.ended;
        server = await gateway(t, options);
      }],
    ]) {
      proxy.refuses = true;
      await restart();
      await until(`the end of session ${number}`, () => client.reasons.length === number);
      // The client is away, and this is missed.
      await publishTo(t, server.url, 'grid.a.order', number);
      proxy.refuses = false;
      await until(`return ${number}`, () => client.recovered.length === number + 1);
      await until(`event ${number}`, () => client.numbers.get('grid.a.order').includes(number) || !client.recovered[number]);
    }
    assert.deepEqual(client.recovered, [false, true, true]);
    assert.deepEqual(client.numbers.get('grid.a.order'), [0, 1, 2]);
    // A gateway that is killed leaves no record.
    server.child.kill('SIGKILL');
    await server.ended;
    await gateway(t, options);
    await until('return 3', () => client.recovered.length === 4);
    assert.equal(client.recovered[3], false);
  });
}
