// The official Socket.IO clients of all major versions, and helpers for tests that use them.
import { io as io4 } from 'socket.io-client';
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
