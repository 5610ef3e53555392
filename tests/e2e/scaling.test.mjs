// Two gateways and NATS with the files of deploy/scaling: only paths, addresses and secrets are changed.
import assert from 'node:assert/strict';
import { connect } from 'node:net';
import { execFile } from 'node:child_process';
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { test } from 'node:test';
import WebSocket from 'ws';
import { Tab } from './browser.mjs';
import { Client, adminKey, atEnd, binary, directory, freePorts, root, secret, start, token, until, within } from './harness.mjs';
import { cutter, recovering, subscriber } from './socket_io_clients.mjs';

/** A file of deploy/scaling, with texts replaced that must exist. */
function deployed(where, name, changes) {
  let text = readFileSync(join(root, 'deploy', 'scaling', name), 'utf8');
  for (const [from, to] of changes) {
    assert.ok(text.includes(from), `deploy/scaling/${name} has no ${from}`);
    text = text.replaceAll(from, to);
  }
  const file = join(where, name);
  writeFileSync(file, text);
  return file;
}

const PASSWORDS = {
  NATS_GATEWAY_PASSWORD: 'of-the-gateways',
  NATS_BACKEND_PASSWORD: 'of-the-backends',
  NATS_PLATFORM_PASSWORD: 'of-the-platform',
};

async function nats(t) {
  const where = directory(t);
  const [port] = await freePorts(1);
  const file = deployed(where, 'nats.conf', [
    ['0.0.0.0:4222', `127.0.0.1:${port}`],
    ['/var/lib/nats', join(where, 'store')],
    ['max_file_store: 20GB', 'max_file_store: 2GB'],
  ]);
  const env = { ...process.env, ...PASSWORDS, PATH: `${process.env.PATH}:/usr/sbin` };
  const server = start(t, where, 'nats-server', ['-c', file], { env });
  await until('nats-server', () => server.err().includes('Server is ready'));
  return port;
}

/** Starts a gateway. With `ready` false, it is not waited for. */
async function gateway(t, node, natsPort, more = '', { program = binary, ports, ready = true } = {}) {
  const where = directory(t);
  const [listen, admin] = ports ?? await freePorts(2);
  for (const [name, text] of [['jwt-secret', secret], ['admin-key', adminKey], ['nats-password', PASSWORDS.NATS_GATEWAY_PASSWORD]]) {
    writeFileSync(join(where, name), text, { mode: 0o600 });
  }
  const file = deployed(where, 'gateway.toml', [
    ['node = "gateway-1"', `node = "${node}"`],
    ['0.0.0.0:8080', `127.0.0.1:${listen}`],
    ['0.0.0.0:8081', `127.0.0.1:${admin}`],
    ['/etc/tickgate/secrets', where],
    ['nats://nats-1:4222', `nats://127.0.0.1:${natsPort}`],
    ['url = ', 'log_bytes = 268435456\nplain_bytes = 16777216\nurl = '],
  ]);
  appendFileSync(file, more);
  const run = start(t, where, program, ['serve', '--config', file], { env: {}, signal: 'SIGKILL' });
  const request = async (method, path, body) => {
    const headers = { authorization: `Bearer ${adminKey}`, 'content-type': 'application/json' };
    const response = await fetch(`http://127.0.0.1:${admin}${path}`, { method, headers, body: body && JSON.stringify(body) });
    return { status: response.status, text: await response.text() };
  };
  if (ready) await until(`the gateway ${node}`, () => request('GET', '/readyz').then(({ status }) => status === 200, () => {
    assert.equal(run.child.exitCode, null, run.err());
    return false;
  }));
  return { run, request, ports: [listen, admin], address: `127.0.0.1:${listen}`, url: `ws://127.0.0.1:${listen}/ws` };
}

/** A client that comes back to any of the gateways, with its position, until `stop` is called. `got` is what it has got. */
function follower(t, jwt, gateways) {
  const got = [];
  let [position, client, stopped] = [undefined, undefined, false];
  const follow = async () => {
    for (let attempt = 0; !stopped; attempt++) {
      client = new Client(`${gateways()[attempt % 2].url}?token=${jwt}`);
      await client.opened.then(() => {
        client.send({ type: 'subscribe', channels: ['grid.a.order'], recover: position && { 'grid.a.order': position } });
      }, () => {});
      for (;;) {
        const message = await client.next(({ type }) => ['subscribed', 'event', 'error'].includes(type)).catch(() => undefined);
        if (!message || message.type === 'error') break;
        if (message.type === 'event') {
          got.push(message.data);
          position.offset = message.offset;
        } else if (position) {
          assert.equal(message.data.recovered['grid.a.order'], true, JSON.stringify(message));
        } else {
          position = message.data.positions['grid.a.order'];
        }
      }
      client.socket.terminate();
    }
  };
  const ended = follow();
  ended.catch(() => {});
  atEnd(t, () => client.socket.terminate());
  return {
    got,
    joined: () => position !== undefined,
    stop: () => {
      stopped = true;
      client.socket.terminate();
      return ended;
    },
  };
}

// TICKGATE_PREVIOUS is an older binary. Without it, gateways of the same build are replaced.
test('gateways are replaced one by one by newer ones under traffic, and nothing is lost', async (t) => {
  const program = process.env.TICKGATE_PREVIOUS ?? binary;
  const port = await nats(t);
  const running = [await gateway(t, 'gateway-1', port, '', { program }), await gateway(t, 'gateway-2', port, '', { program })];
  const jwt = await token(t, '--sub', '4', '--role', 'admin');
  const followers = [follower(t, jwt, () => running), follower(t, jwt, () => [...running].reverse())];
  await until('the followers', () => followers.every(({ joined }) => joined()));
  let [published, done] = [0, false];
  const publishing = (async () => {
    for (let attempt = 0; !done; attempt++) {
      const item = { channel: 'grid.a.order', event: 'filled', data: published, id: `of-${published}` };
      // One that fails is tried again with the same id, at the other gateway.
      const status = await running[attempt % 2].request('POST', '/api/publish', item).then(({ status }) => status, () => 0);
      if (status === 200) published += 1;
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  })();
  for (const index of [0, 1]) {
    const [enough, old] = [published + 20, running[index]];
    await until('events', () => published >= enough);
    old.run.child.kill('SIGTERM');
    await old.run.ended;
    running[index] = await gateway(t, `gateway-${index + 1}`, port, '', { ports: old.ports });
  }
  const enough = published + 20;
  await until('events', () => published >= enough);
  done = true;
  await publishing;
  const expected = Array.from({ length: published }, (_, number) => number);
  for (const { got, stop } of followers) {
    await until('all events', () => got.length >= published);
    await stop();
    assert.deepEqual(got, expected);
  }
});

test('a gateway with other classes is not ready, and says which class differs', async (t) => {
  const port = await nats(t);
  const one = await gateway(t, 'gateway-1', port);
  const more = '[[channel]]\nmatch = "quotes.*"\ncache = "last"\n';
  const two = await gateway(t, 'gateway-2', port, more, { ready: false });
  await until('the reason', () => two.run.err().includes('no class for \\"quotes.*\\"') || two.run.err().includes('no class for "quotes.*"'));
  assert.match(two.run.err(), /gateway-1/);
  const ready = await two.request('GET', '/readyz');
  assert.equal(ready.status, 503);
  const { message, detail } = JSON.parse(ready.text).error;
  assert.deepEqual([message, detail.includes('no class for "quotes.*"')], ['broker_unfit', true], ready.text);
  // Clients are not told what the configuration has.
  const told = await fetch(`http://${two.address}/readyz`);
  assert.deepEqual(await told.json(), { error: { code: 'NOT_READY', message: 'broker_unfit' } });
  // The other gateway knows it, and so does who looks at its console.
  const listed = async () => JSON.parse((await one.request('GET', '/api/gateways')).text).gateways.find(({ node }) => node === 'gateway-2');
  await until('the other gateway', async () => (await listed())?.reason?.includes('quotes.*'));
  const { checks } = JSON.parse((await one.request('GET', '/api/overview')).text);
  assert.match(checks.find(({ name }) => name === 'gateways').detail, /"gateway-2" is not ready: .*quotes/);
  const tab = await Tab.open(t, `http://127.0.0.1:${one.ports[1]}/`);
  await tab.until('the sign-in', "document.querySelector('#key')");
  await tab.evaluate(`document.querySelector('#key').value = ${JSON.stringify(adminKey)}; document.querySelector('form').requestSubmit()`);
  await tab.until('the reason', "document.querySelector('[aria-label=\"Gateways that share the broker\"]')?.innerText.includes('quotes.*')");
  // When the other one has gone, its classes count no longer.
  one.run.child.kill('SIGKILL');
  await until('the gateway', () => two.request('GET', '/readyz').then(({ status }) => status === 200, () => false));
});

/** What a NATS server says to a user who publishes, or sends it another line. */
function publishAs(port, user, password, subject, line = `PUB ${subject} 1\r\nx`) {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1');
    let heard = '';
    socket.on('error', reject);
    socket.on('data', (data) => {
      heard += data;
      if (heard.endsWith('PONG\r\n')) {
        socket.destroy();
        resolve(heard);
      }
    });
    socket.write(`CONNECT {"verbose":false,"user":"${user}","pass":"${password}"}\r\n${line}\r\nPING\r\n`);
  });
}

test('two gateways with the deployed files are one; a client of a killed one recovers on the other', async (t) => {
  const port = await nats(t);
  const [one, two] = [await gateway(t, 'gateway-1', port), await gateway(t, 'gateway-2', port)];
  const jwt = await token(t, '--sub', '4', '--role', 'admin');
  const client = await Client.open(t, `${one.url}?token=${jwt}`);
  await client.subscribe('grid.a.order');
  const publish = async (to, data, id) => {
    const { status, text } = await to.request('POST', '/api/publish', { channel: 'grid.a.order', event: 'filled', data, id });
    assert.equal(status, 200, text);
    return JSON.parse(text);
  };
  const first = await publish(two, 1, 'x');
  const event = await client.next((message) => message.type === 'event');
  assert.deepEqual([event.data, event.offset], [1, first.offset]);
  assert.deepEqual(await publish(one, 1, 'x').then(({ duplicate, offset }) => [duplicate, offset]), [true, first.offset]);
  one.run.child.kill('SIGKILL');
  await client.closed;
  await publish(two, 2);
  const moved = await Client.open(t, `${two.url}?token=${jwt}`);
  moved.send({ type: 'subscribe', channels: ['grid.a.order'], recover: { 'grid.a.order': { epoch: first.epoch, offset: first.offset } } });
  const subscribed = await moved.next((message) => message.type === 'subscribed');
  assert.equal(subscribed.data.recovered['grid.a.order'], true);
  assert.equal((await moved.next((message) => message.type === 'event')).data, 2);
  // Each gateway reports under its own name.
  const metrics = (await two.request('GET', '/metrics')).text;
  assert.match(metrics, /^tickgate_broker_up 1$/m);
  assert.match(metrics, /tickgate_info\{[^}]*node="gateway-2"/);
});

const endpoints = `
[[endpoint]]
path = "/ws"
dialect = "native"

[[endpoint]]
path = "/socket.io/"
dialect = "socket_io"
recovery = true
`;

test('clients that leave one gateway come back to the other: by a cursor, the TypeScript client, and Socket.IO', async (t) => {
  const { createClient } = await import('../../clients/typescript/dist/index.js');
  const port = await nats(t);
  const [one, two] = [await gateway(t, 'gateway-1', port, endpoints), await gateway(t, 'gateway-2', port, endpoints)];
  const jwt = await token(t, '--sub', '4', '--role', 'trader');
  const publish = async (data) => {
    const { status, text } = await two.request('POST', '/api/publish', { channel: 'grid.a.order', event: 'filled', data });
    assert.equal(status, 200, text);
  };
  const [, io] = recovering.at(-1);
  const proxy = await cutter(t, one.address);
  const socketIo = await subscriber(t, io, proxy.url, { auth: { token: jwt } }, ['grid.a.*']);
  const typescript = createClient({ url: `${proxy.url.replace('http', 'ws')}/ws`, WebSocket, token: jwt });
  atEnd(t, () => typescript.close());
  const events = [];
  const subscription = typescript.subscribe('grid.a.*');
  subscription.on('event', ({ data }) => events.push(data));
  subscription.on('gap', (gap) => events.push(gap));
  await within('the TypeScript client', typescript.connect());
  await within('its subscription', subscription.ready);
  const native = await Client.open(t, `${one.url}?token=${jwt}`);
  const { cursor } = await native.subscribe('grid.a.*');
  await publish(0);
  await native.next((message) => message.type === 'event');
  await until('the first event', () => events.length === 1 && socketIo.numbers.get('grid.a.order')?.length === 1);

  // All of them are away, miss something, and come back to the other gateway.
  proxy.refuses = true;
  proxy.cut();
  native.socket.terminate();
  proxy.to = two.address;
  await publish(1);
  const moved = await Client.open(t, `${two.url}?token=${jwt}`);
  moved.send({ type: 'subscribe', channels: ['grid.a.*'], cursor });
  assert.equal((await moved.next((message) => message.type === 'subscribed')).data.recovered, true);
  const isEvent = (message) => message.type === 'event';
  assert.deepEqual([(await moved.next(isEvent)).data, (await moved.next(isEvent)).data], [0, 1], 'all behind its cursor');
  proxy.refuses = false;
  await until('the TypeScript client is back', () => events.length >= 2);
  await until('Socket.IO is back', () => socketIo.recovered.length === 2);
  await publish(2);
  assert.equal((await moved.next(isEvent)).data, 2);
  await until('the last event', () => events.at(-1) === 2 && socketIo.numbers.get('grid.a.order').at(-1) === 2);
  assert.deepEqual(events, [0, 1, 2]);
  assert.deepEqual([socketIo.recovered, socketIo.numbers.get('grid.a.order')], [[false, true], [0, 1, 2]]);

  // A gateway that is killed leaves no record of its open sessions. The first gateway says so.
  proxy.to = one.address;
  two.run.child.kill('SIGKILL');
  await until('Socket.IO is new', () => socketIo.recovered.length === 3);
  assert.equal(socketIo.recovered[2], false);
});

test('only gateways can write events, and nobody else can read them', async (t) => {
  const port = await nats(t);
  const { NATS_PLATFORM_PASSWORD: platform, NATS_GATEWAY_PASSWORD: gateways } = PASSWORDS;
  for (const subject of ['tickgate.log.~.grid.a', 'tickgate.plain.~.grid.a', 'tickgate.merged.~.grid.a', 'tickgate.terms', 'tickgate.control.revocation.x', 'tickgate.sessions.x', 'tickgate.keys.x', '$JS.API.STREAM.DELETE.tickgate_LOG']) {
    assert.match(await publishAs(port, 'platform', platform, subject), /Permissions Violation/, subject);
  }
  for (const subject of ['tickgate.in.~.grid.a', 'tickgate.cmd.~.grid.start', 'tickgate.gateways.state']) {
    assert.match(await publishAs(port, 'platform', platform, subject), /Permissions Violation/, subject);
  }
  for (const subject of ['tickgate.log.~.grid.a', 'tickgate.cmd.~.grid.start', 'tickgate.gateways.state']) {
    assert.match(await publishAs(port, 'backend', PASSWORDS.NATS_BACKEND_PASSWORD, subject), /Permissions Violation/, subject);
  }
  assert.doesNotMatch(await publishAs(port, 'backend', PASSWORDS.NATS_BACKEND_PASSWORD, 'tickgate.in.~.grid.a'), /Permissions Violation/);
  assert.doesNotMatch(await publishAs(port, 'platform', platform, 'orders.new'), /Permissions Violation/);
  assert.doesNotMatch(await publishAs(port, 'gateway', gateways, 'tickgate.log.~.grid.a'), /Permissions Violation/);
  // Replies to gateways are theirs alone, and nobody can write a reply that was not asked for.
  for (const [user, password] of [['platform', platform], ['backend', PASSWORDS.NATS_BACKEND_PASSWORD]]) {
    assert.match(await publishAs(port, user, password, 'tickgate.inbox.x'), /Permissions Violation/);
    assert.match(await publishAs(port, user, password, undefined, 'SUB tickgate.inbox.> 1'), /Permissions Violation/);
  }
});

/** The code blocks of docs/nats.md in a language, with the address and the user of the server. */
function snippets(language, port) {
  const page = readFileSync(join(root, 'docs', 'nats.md'), 'utf8');
  const blocks = page.split('```').filter((block, index) => index % 2 === 1 && block.startsWith(`${language}\n`));
  const login = { python: ', user="backend", password="of-the-backends"', js: ', user: "backend", pass: "of-the-backends"' };
  return blocks.map((block) => block.slice(language.length)
    .replace('"nats://127.0.0.1:4222"', `"nats://127.0.0.1:${port}"${login[language]}`));
}

test('every snippet of docs/nats.md publishes or answers commands', async (t) => {
  const port = await nats(t);
  const [route] = snippets('toml', port);
  const one = await gateway(t, 'gateway-1', port, route);
  const client = await Client.open(t, `${one.url}?token=${await token(t, '--sub', '4', '--role', 'admin')}`);
  await client.subscribe('grid.abc.order');
  const programs = { python: ['python3', '-c'], js: ['node', '-e'] };
  const packages = { PYTHONPATH: join(root, 'tests/e2e/python/nats-py'), NODE_PATH: join(root, 'tests/e2e/node_modules') };
  const where = { env: { ...process.env, ...packages } };
  for (const [language, [program, option]] of Object.entries(programs)) {
    const [publish, answer, ...others] = snippets(language, port);
    assert.deepEqual(others, [], 'a snippet that no test runs');
    // The gateway takes requests a moment after it is ready.
    await until(`the publication from ${language}`, () => promisify(execFile)(program, [option, publish], where).then(
      ({ stdout }) => assert.match(stdout, /published/) ?? true,
      (error) => assert.match(error.stderr, /no ?responders/i) ?? false,
    ));
    assert.ok((await client.next((message) => message.type === 'event')).data.price >= 94000);
    const backend = start(t, directory(t), program, [option, answer], where);
    const command = (id, action) => {
      client.send({ type: 'command', id, action, params: {} });
      return client.next((message) => message.type === 'response' && message.id === id);
    };
    let id = 0;
    let response;
    // Until the backend subscribes, nobody is there.
    await until(`the backend in ${language}`, async () => {
      assert.equal(backend.child.exitCode, null, backend.err());
      response = await command(`${language}-${id++}`, 'grid.start');
      return response.success;
    });
    assert.deepEqual(response.data, { grid_id: 'grid_1', user: '4' });
    assert.equal((await command(`${language}-${id++}`, 'grid.dance')).error.code, 'UNKNOWN_ACTION');
    backend.child.kill('SIGKILL');
    await backend.ended;
  }
});
