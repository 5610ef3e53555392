// The official Socket.IO clients of all major versions, and helpers for tests that use them.
import { once } from 'node:events';
import { connect as dial, createServer } from 'node:net';
import { io as io4 } from 'socket.io-client';
import { io as io46 } from 'socket.io-client-46';
import io1 from 'socket.io-client-1';
import io2 from 'socket.io-client-2';
import io3 from 'socket.io-client-3';
import { atEnd, until, within } from './harness.mjs';

const byAuth = (jwt) => ({ auth: { token: jwt } });
const byQuery = (jwt) => ({ query: { token: jwt } });

/** The version, the library, the options with a token, and the revision of Engine.IO. */
export const clients = [
  ['4.x', io4, byAuth, 4],
  ['3.x', io3, byAuth, 4],
  ['2.x', io2, byQuery, 3],
  ['1.x', io1, byQuery, 3],
];

/** Those that recover their sessions: the first and the newest. */
export const recovering = [['4.6', io46], ['4.8', io4]];

/** The name, the options, and the transport that they lead to. */
export const transports = [
  ['default options', {}, 'websocket'],
  ['WebSocket only', { transports: ['websocket'] }, 'websocket'],
  ['long polling only', { transports: ['polling'] }, 'polling'],
];

/** Connects. `received` collects the events in the order of arrival. */
export function connect(t, io, url, options) {
  const socket = io(url, { forceNew: true, reconnectionDelay: 100, reconnectionDelayMax: 300, ...options });
  atEnd(t, () => socket.disconnect());
  const received = [];
  for (const name of ['connected', 'subscribed', 'unsubscribed', 'error', 'response', 'auth_result', 'dropped', 'going_away',
    'balance_update', 'orders_update', 'update']) {
    socket.on(name, (message) => received.push({ name, ...message }));
  }
  const reasons = [];
  socket.on('disconnect', (reason) => reasons.push(reason));
  return { socket, received, reasons };
}

export const named = (name) => (event) => event.name === name;

/** Waits for the nth event with this name. */
export const next = (client, name, count = 1) => until(`${name} (${count})`, () => client.received.filter(named(name))[count - 1]);

export const emit = (client, ...args) => within(`the acknowledgement of ${args[0]}`,
  new Promise((resolve) => { client.socket.emit(...args, resolve); }));

export const transport = (client) => client.socket.io.engine.transport.name;

/** A proxy whose links are cut on request. They lead `to` an address. While `refuses`, no new link is made. */
export async function cutter(t, address) {
  const links = new Set();
  const proxy = { to: address, refuses: false, cut: () => [...links].forEach((end) => end()) };
  const server = createServer((client) => {
    if (proxy.refuses) return client.destroy();
    const [host, port] = proxy.to.split(':');
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

/**
 * A client that subscribes when its session is new, as an application does, and what it got. `caughtUp` has the sessions, counted
 * from 1, of which a break must make nothing come twice: the first one, and those that were told so.
 */
export async function subscriber(t, io, url, options, patterns) {
  const client = connect(t, io, url, { reconnectionDelay: 30, reconnectionDelayMax: 60, ...options });
  Object.assign(client, { numbers: new Map(), recovered: [], args: [], arrivals: [], caughtUp: new Set([1]) });
  client.socket.on('cursor', () => client.caughtUp.add(client.recovered.length));
  client.socket.on('filled', (message, ...more) => {
    client.args.push(more);
    client.arrivals.push({ event: `${message.channel} ${message.data}`, session: client.recovered.length });
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
