// The cases of the published protocol test suites (engine_io_cases.mjs) against a gateway, and CORS.
import assert from 'node:assert/strict';
import { request } from 'node:http';
import { test } from 'node:test';
import WebSocket from 'ws';
import { engineIo, socketIo } from './engine_io_cases.mjs';
import { atEnd, gateway, until, within } from './harness.mjs';

const options = {
  server: 'allowed_origins = ["https://app.example.com"]',
  rest: `[[endpoint]]\npath = "/socket.io/"\ndialect = "socket_io"\nmessage_bytes = 1000000\n[auth]\nmode = "off"\ntimeout = "2s"
[auth.anonymous]\nchannels = ["*"]\n[heartbeat]\nengine_io_interval = "1500ms"\nengine_io_timeout = "1s"`,
};

function matches(text, wanted) {
  if (wanted instanceof RegExp) assert.match(text, wanted);
  else assert.equal(text, wanted);
}

/** Runs one case. */
async function run(t, server, steps) {
  const state = { sid: '', sockets: new Map() };
  const url = (query) => `${server.publicAddress}/socket.io/?${query.replace('$', state.sid)}`;
  const http = async ([method, query, ...rest]) => {
    const [sent, status, body] = method === 'GET' ? [undefined, ...rest] : rest;
    const response = await fetch(`http://${url(query)}`, { method, body: sent });
    const text = await response.text();
    assert.equal(response.status, status, text);
    matches(text, body);
    state.sid = /"sid":"([^"]+)","upgrades":\["websocket"\]/.exec(text)?.[1] ?? state.sid;
  };
  const open = (query) => {
    const socket = new WebSocket(`ws://${url(query)}`);
    const received = [];
    socket.on('message', (data) => received.push(String(data)));
    const closed = new Promise((resolve) => { socket.on('close', resolve); });
    socket.on('error', () => {});
    atEnd(t, () => socket.terminate());
    return { socket, received, closed };
  };
  const does = {
    GET: http, POST: http, PUT: http,
    // A POST whose body is never sent. It ends with the request that is made at the same time.
    SLOW: ([, query]) => new Promise((resolve) => {
      const slow = request(`http://${url(query)}`, { method: 'POST', headers: { 'content-length': 10 } });
      slow.on('error', resolve);
      slow.on('response', (response) => { response.resume(); resolve(); });
      slow.flushHeaders();
      state.slow = slow;
    }),
    // Nothing tells that the first one has reached the gateway.
    both: ([, first, second]) => Promise.all([
      step(first),
      new Promise((resolve) => { setTimeout(resolve, 200); }).then(() => step(second)).finally(() => state.slow?.destroy()),
    ]),
    socket: async ([, name, query]) => {
      const opened = open(query);
      state.sockets.set(name, opened);
      await within('the socket', new Promise((resolve) => { opened.socket.on('open', resolve); }));
    },
    refused: async ([, query]) => {
      const { closed, received } = open(query);
      await within('the refusal', closed);
      assert.deepEqual(received, []);
    },
    send: ([, name, text]) => state.sockets.get(name).socket.send(text),
    binary: ([, name]) => state.sockets.get(name).socket.send(Uint8Array.from([1, 2, 3, 4])),
    receives: async ([, name, body]) => {
      const { received } = state.sockets.get(name);
      // A heartbeat may arrive at any time, so it is skipped unless the step waits for one.
      const isWanted = (text) => body === '2' || text !== '2';
      await until(`${name} to receive ${body}`, () => received.some(isWanted));
      matches(received.splice(0, received.findIndex(isWanted) + 1).at(-1), body);
    },
    closed: ([, name]) => within('the close', state.sockets.get(name).closed),
    open: ([, name]) => assert.equal(state.sockets.get(name).socket.readyState, WebSocket.OPEN),
    silence: ([, ms]) => new Promise((resolve) => { setTimeout(resolve, ms); }),
  };
  const step = (what) => does[what[0]](what);
  for (const what of steps) await step(what);
}

for (const [suite, cases] of Object.entries({ 'Engine.IO': engineIo, 'Socket.IO': socketIo })) {
  test(`${suite}: the protocol's own test cases`, async (t) => {
    const server = await gateway(t, options);
    for (const [name, steps] of Object.entries(cases)) await t.test(name, (t) => run(t, server, steps));
  });
}

test('pages of an allowed origin may poll, other pages may not', async (t) => {
  const server = await gateway(t, options);
  const url = `http://${server.publicAddress}/socket.io/?EIO=4&transport=polling`;
  const from = (origin, method = 'GET') => fetch(url, { method, headers: { origin } });
  const allowed = (response) => [response.headers.get('access-control-allow-origin'), response.headers.get('access-control-allow-credentials')];
  const good = 'https://app.example.com';

  const preflight = await from(good, 'OPTIONS');
  assert.equal(preflight.status, 204);
  assert.deepEqual(allowed(preflight), [good, 'true']);
  assert.match(preflight.headers.get('access-control-allow-methods'), /GET.*POST/);
  assert.equal(preflight.headers.get('access-control-allow-headers'), 'authorization, content-type');
  const opened = await from(good);
  assert.equal(opened.status, 200);
  assert.deepEqual(allowed(opened), [good, 'true']);
  assert.equal(opened.headers.get('vary'), 'Origin');
  const refused = await fetch(`${url}&sid=unknown`, { headers: { origin: good } });
  assert.deepEqual([refused.status, ...allowed(refused)], [400, good, 'true'], 'a page must be able to read the reason');

  for (const method of ['GET', 'OPTIONS']) {
    const stranger = await from('https://evil.example.com', method);
    assert.deepEqual([stranger.status, ...allowed(stranger)], [403, null, null]);
  }
  assert.deepEqual(await (await from('https://evil.example.com')).json(), { code: 4, message: 'Forbidden' });
  const plain = await fetch(url);
  assert.deepEqual([plain.status, ...allowed(plain)], [200, null, null]);
});

test('a session ends when its client disconnects during a poll', async (t) => {
  const server = await gateway(t, options);
  const url = `http://${server.publicAddress}/socket.io/?EIO=4&transport=polling`;
  const { sid } = JSON.parse((await (await fetch(url)).text()).slice(1));
  const abort = new AbortController();
  const waiting = fetch(`${url}&sid=${sid}`, { signal: abort.signal });
  const stats = async () => (await server.admin('GET', '/api/websocket/stats')).body;
  // From here on the response to the poll has no receiver.
  await until('the session', async () => (await stats()).active_connections === 1);
  abort.abort();
  await assert.rejects(waiting);
  await until('the end', async () => (await stats()).active_connections === 0);
  const next = await fetch(`${url}&sid=${sid}`);
  assert.deepEqual([next.status, await next.json()], [400, { code: 1, message: 'Session ID unknown' }]);
});

test('an end between the last poll and the upgrade is reported on the WebSocket', async (t) => {
  const server = await gateway(t, options);
  const base = `//${server.publicAddress}/socket.io/?EIO=4&transport=`;
  const { sid } = JSON.parse((await (await fetch(`http:${base}polling`)).text()).slice(1));
  const polling = `http:${base}polling&sid=${sid}`;
  await fetch(polling, { method: 'POST', body: '40' });
  assert.match(await (await fetch(polling)).text(), /^40.*\x1e42\["connected"/);
  const socket = new WebSocket(`ws:${base}websocket&sid=${sid}`);
  atEnd(t, () => socket.terminate());
  const received = [];
  socket.on('message', (data) => received.push(String(data)));
  const closed = new Promise((resolve) => { socket.on('close', resolve); });
  await within('the socket', new Promise((resolve) => { socket.on('open', resolve); }));
  socket.send('2probe');
  await until('the answer to the probe', () => received.length === 1);
  const [{ client_id }] = (await server.admin('GET', '/api/websocket/clients')).body.clients;
  assert.equal((await server.admin('DELETE', `/api/websocket/clients/${client_id}`)).status, 204);
  socket.send('5');
  assert.equal(await within('the close', closed), 4003);
  assert.equal(received.length, 4);
  assert.match(received[1], /^42\["error",.*"BY_OPERATOR"/);
  assert.deepEqual(received.slice(2), ['41', '1']);
});

test('a polling session holds its connection permit until it ends, also after an upgrade', async (t) => {
  const server = await gateway(t, { ...options, server: 'max_connections_per_ip = 1' });
  const url = `http://${server.publicAddress}/socket.io/?EIO=4&transport=polling`;
  const { sid } = JSON.parse((await (await fetch(url)).text()).slice(1));
  const refused = await fetch(url);
  assert.equal(refused.status, 429);
  assert.ok(Number(refused.headers.get('retry-after')) >= 1);
  const socket = new WebSocket(`ws://${server.publicAddress}/socket.io/?EIO=4&transport=websocket&sid=${sid}`);
  atEnd(t, () => socket.terminate());
  await within('the upgrade', new Promise((resolve) => { socket.on('open', resolve); }));
  socket.send('2probe');
  socket.send('5');
  socket.send('1');
  await within('the close', new Promise((resolve) => { socket.on('close', resolve); }));
  await until('a free permit', async () => (await fetch(url)).status === 200);
});

test('the path without its last slash is the same endpoint', async (t) => {
  const server = await gateway(t, options);
  const opened = await fetch(`http://${server.publicAddress}/socket.io?EIO=4&transport=polling`);
  assert.match(await opened.text(), /^0\{"sid"/);
});
