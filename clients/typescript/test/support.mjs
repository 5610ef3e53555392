// What the tests of the client share: a proxy that can break connections in every way, and a client of a test's gateway.
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { createServer as createHttpServer } from 'node:http';
import { connect, createServer } from 'node:net';
import { extname, join } from 'node:path';
import WebSocket from 'ws';
import { createClient } from '../dist/index.js';
import { atEnd, root, token, until, within } from '../../../tests/e2e/harness.mjs';

export * from '../../../tests/e2e/harness.mjs';

/** A TCP proxy. `target` may be changed; `freeze` stops all bytes without a close; `cut` resets all connections. */
export async function proxy(t, target) {
  const pairs = new Set();
  const self = {
    target,
    isFrozen: false,
    isRefusing: false,
    accepted: 0,
    url: '',
    cut() {
      for (const [a, b] of pairs) { a.resetAndDestroy(); b.resetAndDestroy(); }
    },
    freeze(isFrozen) {
      self.isFrozen = isFrozen;
      for (const pair of pairs) for (const socket of pair) isFrozen ? socket.pause() : socket.resume();
    },
  };
  const server = createServer((client) => {
    if (self.isRefusing) return client.resetAndDestroy();
    self.accepted += 1;
    const [host, port] = self.target.split(':');
    const upstream = connect(Number(port), host);
    const pair = [client, upstream];
    pairs.add(pair);
    for (const [from, to] of [pair, [upstream, client]]) {
      from.on('data', (bytes) => to.write(bytes));
      from.on('end', () => to.end());
      from.on('error', () => to.destroy());
      from.on('close', () => { to.destroy(); pairs.delete(pair); });
      if (self.isFrozen) from.pause();
    }
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  self.url = `ws://127.0.0.1:${server.address().port}/ws`;
  atEnd(t, async () => { self.cut(); server.close(); await once(server, 'close'); });
  return self;
}

const TYPES = { '.html': 'text/html', '.js': 'text/javascript', '.txt': 'text/plain' };

/** Serves files of `clients/`, and texts by path; a function makes a text, or fails with status 503. Returns the origin. */
export async function pages(t, texts = {}) {
  const answer = async (path) => {
    const text = texts[path];
    return typeof text === 'function' ? text() : text ?? readFileSync(join(root, 'clients', path));
  };
  const server = createHttpServer((request, response) => {
    const { pathname } = new URL(request.url, 'http://localhost');
    const type = TYPES[extname(pathname)];
    if (!type) return response.writeHead(404).end();
    return answer(pathname).then((text) => response.setHeader('content-type', type).end(text), () => response.writeHead(503).end());
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  atEnd(t, () => { server.closeAllConnections(); server.close(); });
  return `http://localhost:${server.address().port}`;
}

/** A client with a fresh token, closed at the test's end. States and errors are collected. */
export async function client(t, url, { tokenArgs = ['--sub', '4', '--role', 'trader'], ...options } = {}) {
  const jwt = options.token === undefined && !options.getToken ? await token(t, ...tokenArgs) : options.token;
  const tg = createClient({ url, WebSocket, token: jwt ?? null, ...options });
  tg.states = [];
  tg.errors = [];
  tg.on('state', (change) => tg.states.push(change));
  tg.on('error', (error) => tg.errors.push(error));
  atEnd(t, () => tg.close());
  return tg;
}

/** Waits until a client is in a state. */
export const reached = (tg, state) => until(`the state ${state}`, () => tg.state === state);

/** Collects what a subscription tells. */
export function collect(sub) {
  const all = { events: [], gaps: [], ends: [] };
  sub.on('event', (event) => all.events.push(event));
  sub.on('gap', (gap) => all.gaps.push(gap));
  sub.on('end', (error) => all.ends.push(error));
  return all;
}

/** Publishes through the admin API. */
export async function publish(server, channel, data, event = 'e') {
  const { status, body } = await server.admin('POST', '/api/publish', { channel, event, data });
  if (status !== 200 || body.errors) throw new Error(JSON.stringify(body));
  return body;
}

export { within, until };
