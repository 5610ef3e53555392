// npm `ws` with permessage-deflate next to clients without it, and a browser, which offers it by default.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Tab } from './browser.mjs';
import { Client, gateway, token } from './harness.mjs';

const CONFIG = '[[endpoint]]\npath = "/ws"\ndialect = "native"\n[[endpoint]]\npath = "/echo"\ndialect = "echo"\nanonymous = true\n';

/** One metric of /metrics, summed over all shards. */
async function metric(server, name) {
  const text = await (await fetch(`http://${server.adminAddress}/metrics`)).text();
  const lines = text.split('\n').filter((line) => line.startsWith(`${name}{`));
  return lines.reduce((sum, line) => sum + Number(line.split(' ').pop()), 0);
}

test('compressed and plain clients receive the same messages, byte for byte', async (t) => {
  const server = await gateway(t, { rest: CONFIG });
  const url = `${server.url}?token=${await token(t, '--sub', '4', '--role', 'trader')}`;
  const offers = [
    false,
    true,
    { serverMaxWindowBits: 9, clientMaxWindowBits: 9 },
    { serverMaxWindowBits: 12 },
    { serverNoContextTakeover: true, clientNoContextTakeover: true },
    // zlib has no window of this size, so the offer is declined and the client is served without compression.
    { serverMaxWindowBits: 8 },
  ];
  const clients = [];
  for (const perMessageDeflate of offers) clients.push(await Client.open(t, url, { perMessageDeflate }));
  const agreed = clients.map((client) => client.socket.extensions.includes('permessage-deflate'));
  assert.deepEqual(agreed, [false, true, true, true, true, false]);
  for (const client of clients) await client.subscribe('grid.*');
  const items = [10, 300, 600, 5_000, 100_000].map((bytes, n) => ({
    channel: 'grid.a.order', event: 'filled', timestamp: 1703836800000 + n,
    data: { text: 'grid order '.repeat(bytes / 11), n },
  }));
  assert.deepEqual(await server.admin('POST', '/api/publish', items), { status: 200, body: { published: items.length } });
  const offsets = clients.map(() => []);
  for (const [index, client] of clients.entries()) {
    for (const item of items) {
      const received = await client.next((message) => message.type === 'event');
      // Orders keep a history, so each event has an offset, which is the same for all clients.
      assert.deepEqual(received, { type: 'event', offset: received.offset, ...item }, `client ${index}`);
      offsets[index].push(received.offset);
    }
  }
  assert.ok(offsets[0].every((offset, n) => Number.isSafeInteger(offset) && (n === 0 || offset > offsets[0][n - 1])));
  for (const others of offsets) assert.deepEqual(others, offsets[0]);
  assert.equal(await metric(server, 'tickgate_compressed_connections'), 4);
  // Three of the windows hold the two long events; the window of 4096 bytes holds neither.
  assert.ok(await metric(server, 'tickgate_compressed_messages_total') >= 4 + 3 + 2 + 2);
  assert.ok(await metric(server, 'tickgate_compression_saved_bytes_total') > 200_000);
  const listed = (await server.admin('GET', '/api/websocket/clients')).body.clients;
  const bits = listed.map((client) => client.compression_window_bits).sort();
  assert.deepEqual(bits, [12, 15, 15, 9, null, null]);
});

test('compressed messages from clients are accepted, a decompression bomb is refused', async (t) => {
  const server = await gateway(t, { rest: CONFIG });
  const url = `${server.url}?token=${await token(t, '--sub', '4', '--role', 'trader')}`;
  const client = await Client.open(t, url, { perMessageDeflate: { threshold: 0 } });
  const channels = Array.from({ length: 40 }, (_, n) => `grid.grid_${n}.*`);
  assert.deepEqual((await client.subscribe(...channels)).data.channels, channels);
  assert.ok(await metric(server, 'tickgate_compressed_messages_received_total') > 0);
  client.send(JSON.stringify({ type: 'ping', pad: ' '.repeat(1024 * 1024) }));
  assert.equal((await client.closed).code, 1009);
  assert.ok(await metric(server, 'tickgate_inflated_bytes_total') < 80_000);
});

test('an echo endpoint returns fragmented and binary messages compressed', async (t) => {
  const server = await gateway(t, { rest: CONFIG });
  const client = await Client.open(t, `ws://${server.publicAddress}/echo`, { perMessageDeflate: { threshold: 0 } });
  const text = JSON.stringify('echo '.repeat(2000));
  for (let at = 0; at < text.length; at += 1000) {
    client.socket.send(text.slice(at, at + 1000), { fin: at + 1000 >= text.length });
  }
  assert.equal(await client.next(), JSON.parse(text));
  const binary = Buffer.alloc(60_000, 7);
  client.socket.send(binary);
  assert.deepEqual(await client.next(), binary);
  assert.ok(await metric(server, 'tickgate_compressed_messages_total') >= 2);
});

test('a browser compresses by default', async (t) => {
  const server = await gateway(t, { rest: CONFIG });
  // A page from the gateway's own origin may connect.
  const tab = await Tab.open(t, `http://${server.publicAddress}/healthz`);
  await tab.until('the page', "document.readyState === 'complete' && location.protocol === 'http:'");
  const text = 'echo '.repeat(12_000);
  const { extensions, echoed } = await tab.evaluate(`new Promise((resolve, reject) => {
    const socket = new WebSocket('ws://${server.publicAddress}/echo');
    socket.onerror = () => reject(new Error('no connection'));
    socket.onopen = () => socket.send('echo '.repeat(12_000));
    socket.onclose = ({ code }) => reject(new Error('closed with ' + code));
    socket.onmessage = ({ data }) => resolve({ extensions: socket.extensions, echoed: data });
  })`);
  assert.equal(extensions, 'permessage-deflate; server_no_context_takeover; client_no_context_takeover');
  assert.equal(echoed, text);
  assert.ok(await metric(server, 'tickgate_inflated_bytes_total') >= text.length);
  assert.equal(await metric(server, 'tickgate_compressed_messages_total'), 1);
});
