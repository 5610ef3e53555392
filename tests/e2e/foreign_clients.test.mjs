// The clients of docs/clients.md in other languages: the Python programs as shown there, and the requests of the Swift and
// Dart libraries.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { test } from 'node:test';
import { WebSocketServer } from 'ws';
import { atEnd, directory, freePorts, gateway, root, start, token, until } from './harness.mjs';

const [native, socketIo] = [...readFileSync(join(root, 'docs', 'clients.md'), 'utf8').matchAll(/```python\n(.*?)```/gs)].map(([, program]) => program);

/** Runs a program of the page. */
function python(t, program, folder, env) {
  const where = directory(t);
  writeFileSync(join(where, 'client.py'), program);
  const PYTHONPATH = join(root, 'tests', 'e2e', 'python', folder);
  const started = start(t, where, 'python3', [join(where, 'client.py')], { env: { ...process.env, PYTHONPATH, ...env } });
  const has = (text, times = 1) => until(`${text}: ${started.err()}`, () => started.out().split('\n').filter((line) => line.startsWith(text)).length >= times);
  return { ...started, has };
}

const publish = async (server, channel, data, event = 'filled') => {
  assert.equal((await server.admin('POST', '/api/publish', { channel, event, data })).status, 200);
};

test('the Python program for websockets recovers what it missed, over a restart of the gateway', async (t) => {
  const [port] = await freePorts(1);
  const where = directory(t);
  const options = { listen: `["127.0.0.1:${port}"]`, server: 'drain = "1s"', rest: `[state]\nsnapshot = "${join(where, 'state')}"` };
  const first = await gateway(t, options);
  const env = { TICKGATE_URL: first.url, TICKGATE_TOKEN: await token(t, '--sub', '4', '--role', 'trader') };
  const { has, out } = python(t, native, 'websockets', env);
  await until('a subscriber', async () => (await first.admin('GET', '/api/websocket/clients')).body.clients[0]?.subscriptions.length === 1);
  for (let n = 0; n < 10; n++) await publish(first, 'grid.a.order', n);
  await has('event grid.a.order filled 9');
  first.child.kill('SIGTERM');
  await first.ended;
  await has('lost 1012');
  const second = await gateway(t, options);
  for (let n = 10; n < 20; n++) await publish(second, 'grid.a.order', n);
  await has('event grid.a.order filled 19');
  const numbers = out().match(/^event .*$/gm).map((line) => Number(line.split(' ').at(-1)));
  assert.deepEqual(numbers, Array.from({ length: 20 }, (_, n) => n));
  assert.doesNotMatch(out(), /reload/);
  // Killed, the gateway begins a new epoch, and the program reloads.
  second.child.kill('SIGKILL');
  await second.ended;
  const third = await gateway(t, { ...options, rest: '' });
  await publish(third, 'grid.a.order', 20);
  await has('reload grid.a.order');
  await until('it is back', async () => (await third.admin('GET', '/api/websocket/clients')).body.clients.length === 1);
  await publish(third, 'grid.a.order', 21);
  await has('event grid.a.order filled 21');
});

test('the Python program for websockets drops what was published just before it subscribed', async (t) => {
  const server = new WebSocketServer({ host: '127.0.0.1', port: 0 });
  atEnd(t, () => { server.clients.forEach((client) => client.terminate()); server.close(); });
  await once(server, 'listening');
  const requests = [];
  server.on('connection', (socket) => socket.on('message', (text) => {
    requests.push(JSON.parse(text));
    const send = (message) => socket.send(JSON.stringify({ timestamp: 1703836800000, ...message }));
    const event = (offset, more) => send({ type: 'event', channel: 'grid.a.order', event: 'filled', data: offset, offset, ...more });
    const cursor = '9f86d081884c7d65-0bf5bcba-3';
    if (requests.length > 1) {
      send({ type: 'subscribed', cursor, data: { channels: ['grid.*'], active_subscriptions: 1, recovered: true } });
      for (const offset of [4, 5, 6]) event(offset);
      return;
    }
    // The cursor is a little older than the subscription, and the connection breaks before there is a newer one.
    const positions = { 'grid.a.order': { epoch: '9f86d081884c7d65', offset: 5 } };
    send({ type: 'subscribed', cursor, data: { channels: ['grid.*'], active_subscriptions: 1, positions } });
    event(5, { snapshot: true });
    socket.close(1012);
  }));
  const env = { TICKGATE_URL: `ws://127.0.0.1:${server.address().port}/ws`, TICKGATE_TOKEN: 'any' };
  const { has, out } = python(t, native, 'websockets', env);
  await has('event grid.a.order filled 6');
  assert.deepEqual(out().match(/^event .*$/gm), ['event grid.a.order filled 5', 'event grid.a.order filled 6']);
  assert.equal(requests[1].cursor, '9f86d081884c7d65-0bf5bcba-3');
});

test('the Python program for python-socketio subscribes again and reloads', async (t) => {
  const [port] = await freePorts(1);
  const options = { listen: `["127.0.0.1:${port}"]`, server: 'drain = "1s"' };
  const first = await gateway(t, options);
  const env = { TICKGATE_URL: `http://127.0.0.1:${port}`, TICKGATE_TOKEN: await token(t, '--sub', '4', '--role', 'trader') };
  const { has, out } = python(t, socketIo, '5', env);
  await has('ready');
  await publish(first, 'grid.a.order', 1);
  await has('event grid.a.order 1');
  assert.doesNotMatch(out(), /reload|refused/);
  first.child.kill('SIGTERM');
  await first.ended;
  const second = await gateway(t, options);
  await has('reload');
  await has('ready', 2);
  await publish(second, 'grid.a.order', 2);
  await has('event grid.a.order 2');
});

/** A TCP connection whose bytes a test writes and reads. */
async function raw(t, server) {
  const [host, port] = server.publicAddress.split(':');
  const socket = connect(Number(port), host);
  atEnd(t, () => socket.destroy());
  await once(socket, 'connect');
  let received = Buffer.alloc(0);
  socket.on('data', (bytes) => { received = Buffer.concat([received, bytes]); });
  const text = () => received.toString('latin1');
  return {
    write: (bytes) => socket.write(bytes),
    /** Waits for an HTTP response with a length; returns its status and body, and removes it. */
    async response() {
      const head = await until('a response', () => /^HTTP\/1\.1 (\d+)[^]*?\r\n\r\n/.exec(text()));
      const length = Number(/content-length: *(\d+)/i.exec(head[0])?.[1] ?? 0);
      await until('its body', () => received.length >= head[0].length + length);
      const body = received.subarray(head[0].length, head[0].length + length).toString();
      received = received.subarray(head[0].length + length);
      return { status: Number(head[1]), head: head[0], body };
    },
    /** Waits for a text frame shorter than 64 KiB; returns its text. */
    async frame() {
      const size = () => (received.length < 2 ? Infinity : received[1] < 126 ? 2 + received[1] : received.length < 4 ? Infinity : 4 + received.readUInt16BE(2));
      await until('a frame', () => received.length >= size());
      const whole = received.subarray(0, size());
      received = received.subarray(whole.length);
      assert.equal(whole[0], 0x81, 'an uncompressed text frame');
      return whole.subarray(whole[1] < 126 ? 2 : 4).toString();
    },
  };
}

/** A masked text frame. */
function frame(text) {
  const payload = Buffer.from(text);
  const mask = [1, 2, 3, 4];
  const head = payload.length < 126 ? [0x81, 0x80 | payload.length] : [0x81, 0xfe, payload.length >> 8, payload.length & 255];
  return Buffer.concat([Buffer.from([...head, ...mask]), payload.map((byte, index) => byte ^ mask[index % 4])]);
}

// What URLSession adds to each request of Socket.IO-Client-Swift.
const apple = (host) => `Host: ${host}\r\nAccept: */*\r\nUser-Agent: App/1 CFNetwork/1494.0.7 Darwin/23.4.0\r\nAccept-Language: de-DE,de;q=0.9\r\nAccept-Encoding: gzip, deflate\r\nConnection: keep-alive\r\n`;

// The parameters in the library's order; a session's id comes last.
const QUERY = { polling: 'transport=polling&b64=1&EIO=4', websocket: 'transport=websocket&EIO=4' };

test('the requests of Socket.IO-Client-Swift 16: polling, the connect packet, the upgrade, a subscription', async (t) => {
  const server = await gateway(t);
  const host = server.publicAddress;
  const jwt = await token(t, '--sub', '4', '--role', 'trader');
  const [polling, posting, socket] = [await raw(t, server), await raw(t, server), await raw(t, server)];
  const get = (sid = '') => polling.write(`GET /socket.io/?${QUERY.polling}${sid} HTTP/1.1\r\n${apple(host)}\r\n`);
  const post = async (sid, body) => {
    posting.write(`POST /socket.io/?${QUERY.polling}${sid} HTTP/1.1\r\n${apple(host)}Content-Type: text/plain; charset=UTF-8\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
    assert.deepEqual(await posting.response().then(({ status, body: answer }) => [status, answer.toLowerCase()]), [200, 'ok']);
  };
  get();
  const { status, body } = await polling.response();
  assert.equal(status, 200);
  const open = JSON.parse(body.slice(1));
  assert.deepEqual([body[0], open.upgrades], ['0', ['websocket']]);
  const sid = `&sid=${open.sid}`;

  // The library opens the WebSocket and polls at once. It names the namespace `/` in its connect packet.
  socket.write(`GET /socket.io/?${QUERY.websocket}${sid} HTTP/1.1\r\nOrigin: http://${host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: cXdlcnR5dWlvcGFzZGZnaA==\r\nHost: ${host}\r\n\r\n`);
  get(sid);
  await post(sid, `40/,${JSON.stringify({ token: jwt }).replaceAll('/', '\\/')}`);
  const first = await polling.response();
  assert.match(first.body, /^40\{"sid":"[^"]+"\}/);
  assert.match((await socket.response()).head, /^HTTP\/1\.1 101 /);

  // The probe; a NOOP frees the waiting poll; then the upgrade.
  get(sid);
  socket.write(frame('2probe'));
  assert.equal(await socket.frame(), '3probe');
  await polling.response();
  socket.write(frame('5'));
  socket.write(frame('42["subscribe",{"channels":["grid.*"]}]'));
  const received = [];
  await until('subscribed', async () => { received.push(await socket.frame()); return received.at(-1).startsWith('42["subscribed"'); });
  await publish(server, 'grid.a.order', { n: 1 });
  const event = JSON.parse((await socket.frame()).slice(2));
  assert.deepEqual([event[0], event[1].channel, event[1].data], ['filled', 'grid.a.order', { n: 1 }]);
});

test("the handshake of Dart's web_socket_channel: lower-case headers, a content length, an offer of compression", async (t) => {
  const server = await gateway(t);
  const jwt = await token(t, '--sub', '4', '--role', 'trader');
  const socket = await raw(t, server);
  socket.write([
    'GET /ws HTTP/1.1', 'user-agent: Dart/3.5 (dart:io)', 'connection: Upgrade', 'cache-control: no-cache', 'accept-encoding: gzip',
    'content-length: 0', 'sec-websocket-version: 13', `host: ${server.publicAddress}`,
    'sec-websocket-extensions: permessage-deflate; client_max_window_bits', `authorization: Bearer ${jwt}`,
    'sec-websocket-key: MTIzNDU2Nzg5MDEyMzQ1Ng==', 'upgrade: websocket', '', '',
  ].join('\r\n'));
  const { head } = await socket.response();
  assert.match(head, /^HTTP\/1\.1 101 /);
  assert.match(head, /permessage-deflate/i);
  socket.write(frame('{"type":"subscribe","channels":["grid.*"]}'));
  assert.match(await socket.frame(), /^\{"type":"subscribed"/);
  await publish(server, 'grid.a.order', 1);
  assert.match(await socket.frame(), /"channel":"grid\.a\.order","event":"filled"/);
});
