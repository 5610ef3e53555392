// The adapter, used as applications use the platform's class.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import WebSocket from 'ws';
import { CommandRefused } from '../dist/index.js';
import { ZigQuantWebSocket } from '../dist/zigquant.js';
import { atEnd, gateway, proxy, publish, token, until, within } from './support.mjs';

test('the six methods of ZigQuantWebSocket, over a broken connection', async (t) => {
  const server = await gateway(t);
  const network = await proxy(t, server.publicAddress);
  const ws = new ZigQuantWebSocket(undefined, { WebSocket });
  atEnd(t, () => ws.disconnect());
  const [all, exact] = [[], []];
  ws.on('grid.*', (data) => all.push(data));
  const remove = ws.on('grid.a.order', (data) => exact.push(data));
  ws.subscribe(['grid.a.*']);
  await within('connected', ws.connect(network.url, await token(t, '--sub', '4', '--role', 'trader')));
  ws.subscribe(['grid.*', 'system.health']);
  await within('ready', ws.client.subscribe('grid.*').ready);
  await publish(server, 'grid.a.order', 1);
  await until('the event', () => exact.length === 1);
  network.cut();
  await publish(server, 'grid.a.order', 2);
  await until('the next event', () => exact.length === 2);
  assert.deepEqual([all, exact], [[1, 2], [1, 2]]);
  remove();
  await publish(server, 'grid.a.order', 3);
  await until('the third event', () => all.length === 3);
  assert.equal(exact.length, 2);
  await assert.rejects(within('the refusal', ws.command('grid.start', {})), (error) => error.code === 'UNKNOWN_ACTION' && error.message.length > 0);
  ws.unsubscribe(['grid.a.*', 'grid.*']);
  ws.disconnect();
  await until('no connection', async () => (await server.admin('GET', '/api/websocket/clients')).body.clients.length === 0);
  await assert.rejects(ws.command('grid.start', {}), (error) => error instanceof CommandRefused && error.code === 'NOT_CONNECTED');
});
