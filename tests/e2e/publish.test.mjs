// Publishing with curl: one event, an array, an NDJSON stream, and refused requests.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { test } from 'node:test';
import { Client, adminKey, gateway, token, within } from './harness.mjs';

async function curl(server, { path = '/api/publish', type = 'application/json', key = adminKey, body }) {
  const args = ['-sS', '-w', '\n%{http_code}', '-H', `Authorization: Bearer ${key}`, '-H', `Content-Type: ${type}`];
  const child = spawn('curl', [...args, '--data-binary', '@-', `http://${server.adminAddress}${path}`]);
  child.stdin.end(body);
  const chunks = [];
  child.stdout.on('data', (chunk) => chunks.push(chunk));
  await within('curl', new Promise((resolve) => child.on('close', resolve)));
  const [text, status] = Buffer.concat(chunks).toString().split(/\n(?=\d+$)/);
  return { status: Number(status), body: text ? JSON.parse(text) : undefined };
}

const event = (n) => JSON.stringify({ channel: 'grid.a.b', event: 'e', data: { n } });

test('one event, an array and a stream of events arrive in order', async (t) => {
  const server = await gateway(t);
  const client = await Client.open(t, `${server.url}?token=${await token(t, '--sub', '4', '--role', 'trader')}`);
  await client.subscribe('grid.*');
  const list = (from, to) => Array.from({ length: to - from }, (_, n) => event(from + n));
  assert.deepEqual(await curl(server, { body: event(0) }), { status: 200, body: { published: 1 } });
  assert.deepEqual(await curl(server, { body: `[${list(1, 100)}]` }), { status: 200, body: { published: 99 } });
  const ndjson = { type: 'application/x-ndjson', body: `${list(100, 1000).join('\n')}\n` };
  assert.deepEqual(await curl(server, ndjson), { status: 200, body: { published: 900 } });
  for (let n = 0; n < 1000; n++) assert.equal((await client.next((message) => message.type === 'event')).data.n, n);
});

test('bad items are reported by index, the other items are published', async (t) => {
  const server = await gateway(t);
  const client = await Client.open(t, `${server.url}?token=${await token(t, '--sub', '4', '--role', 'trader')}`);
  await client.subscribe('grid.*');
  const body = `[${event(0)}, {"channel":"grid..b","event":"e"}, ${event(1)}, {"event":"e"}]`;
  const answer = await curl(server, { body });
  assert.equal(answer.status, 200);
  assert.equal(answer.body.published, 2);
  assert.deepEqual(answer.body.errors.map((error) => error.index), [1, 3]);
  for (let n = 0; n < 2; n++) assert.equal((await client.next((message) => message.type === 'event')).data.n, n);
});

test('an id makes a retry harmless', async (t) => {
  const server = await gateway(t);
  const client = await Client.open(t, `${server.url}?token=${await token(t, '--sub', '4', '--role', 'trader')}`);
  await client.subscribe('grid.*');
  const once = '{"channel":"grid.a.b","event":"e","id":"order-1","data":1}';
  assert.equal((await curl(server, { body: once })).body.duplicate, undefined);
  assert.equal((await curl(server, { body: once })).body.duplicate, true);
  await curl(server, { body: '{"channel":"grid.a.b","event":"e","data":2}' });
  const received = [await client.next(), await client.next()].map((message) => message.data);
  assert.deepEqual(received, [1, 2]);
});

test('a refused publish request has the right status', async (t) => {
  const server = await gateway(t, { rest: '[limits]\nevent_bytes = 1000\npublish_body_bytes = 10000' });
  const may = await token(t, '--sub', 'p', '--publish', 'grid.*');
  const mayNot = await token(t, '--sub', 'p', '--role', 'trader');
  assert.equal((await curl(server, { key: may, body: event(0) })).status, 200);
  assert.equal((await curl(server, { key: mayNot, body: event(0) })).status, 403);
  assert.equal((await curl(server, { key: 'wrong', body: event(0) })).status, 401);
  assert.equal((await curl(server, { body: '{"channel":' })).status, 400);
  assert.equal((await curl(server, { body: `"${'x'.repeat(20_000)}"` })).status, 413);
  const big = await curl(server, { body: `[{"channel":"grid.a.b","event":"e","data":"${'x'.repeat(2000)}"}]` });
  assert.equal(big.body.errors[0].error?.code ?? big.body.errors[0].code, 'MESSAGE_TOO_LARGE');
});
