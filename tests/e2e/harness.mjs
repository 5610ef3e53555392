// A gateway process of its own for each test, on free ports in a temporary directory, and small helpers around clients.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync, openSync, closeSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { once } from 'node:events';
import WebSocket from 'ws';

export const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
export const binary = process.env.TICKGATE_BIN ?? join(root, 'target', 'debug', 'tickgate');
export const secret = '0123456789abcdef0123456789abcdef';
export const adminKey = 'end-to-end-admin-key';

// No wait lasts longer; a test that needs it has failed.
const PATIENCE_MS = 30_000;

/** Polls `condition` until it gives something. */
export async function until(what, condition) {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    const found = await condition();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`${what}: did not come`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Awaits a promise with an end. */
export function within(what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: did not come`)), PATIENCE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

const undoing = new WeakMap();

/**
 * What a test's end undoes, the last first and each whatever became of the others. `t.after` begins with the first, so that
 * a directory would go under its process, and leaves the rest when one fails: a process that stays keeps the run from ending.
 */
export function atEnd(t, undo) {
  if (undoing.has(t)) {
    undoing.get(t).push(undo);
    return;
  }
  const steps = [undo];
  undoing.set(t, steps);
  t.after(async () => {
    const failures = [];
    while (steps.length > 0) {
      try {
        await steps.pop()();
      } catch (failure) {
        failures.push(failure);
      }
    }
    if (failures.length > 0) throw new AggregateError(failures, failures.map(String).join('; '));
  });
}

/** A directory that goes when the test ends. */
export function directory(t) {
  const path = mkdtempSync(join(tmpdir(), 'tickgate-'));
  // Children of a browser write for a moment after it has ended.
  atEnd(t, () => rmSync(path, { recursive: true, force: true, maxRetries: 20, retryDelay: 100 }));
  return path;
}

/** Ports that were free a moment ago. */
export async function freePorts(count) {
  const servers = [];
  for (let n = 0; n < count; n++) {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    servers.push(server);
  }
  const ports = servers.map((server) => server.address().port);
  for (const server of servers) {
    server.close();
    await once(server, 'close');
  }
  return ports;
}

/**
 * Starts a process that the test's end ends by `signal`, or kills when that does not help; its output goes to files, its
 * input stays open and says nothing.
 */
export function start(t, where, command, args, { env = process.env, signal = 'SIGKILL' } = {}) {
  const [out, err] = ['out', 'err'].map((name) => join(where, `${name}-${Math.random().toString(36).slice(2)}`));
  const files = [openSync(out, 'w'), openSync(err, 'w')];
  const child = spawn(command, args, { env, stdio: ['pipe', ...files] });
  files.forEach(closeSync);
  const ended = new Promise((resolve) => {
    child.on('exit', (code, signal) => resolve({ code, signal }));
    child.on('error', (error) => resolve({ error }));
  });
  atEnd(t, async () => {
    child.kill(signal);
    const kill = setTimeout(() => child.kill('SIGKILL'), PATIENCE_MS);
    await ended;
    clearTimeout(kill);
  });
  return { child, ended, out: () => readFileSync(out, 'utf8'), err: () => readFileSync(err, 'utf8') };
}

/** Starts a gateway. `server` holds lines of `[server]`; `listen` its listeners. */
export async function gateway(t, { listen = '["127.0.0.1:0"]', server = '', rest = '' } = {}) {
  if (!existsSync(binary)) throw new Error(`${binary} is missing: cargo build first`);
  const where = directory(t);
  const config = join(where, 'tickgate.toml');
  const log = '[log]\nformat = "json"\n';
  writeFileSync(config, `[server]\nlisten = ${listen}\nadmin_listen = "127.0.0.1:0"\n${server}\n${rest}\n${log}`);
  const env = { TICKGATE_JWT_SECRET: secret, TICKGATE_ADMIN_KEY: adminKey };
  const process = start(t, where, binary, ['serve', '--config', config], { env });
  const address = (message) => {
    const lines = process.err().split('\n').filter((line) => line.startsWith('{')).map((line) => JSON.parse(line));
    return lines.find((line) => line.message === message)?.address;
  };
  const ended = process.ended.then(() => { throw new Error(`the gateway ended: ${process.err()}`); });
  ended.catch(() => {});
  const [publicAddress, adminAddress] = await Promise.race([
    until("the gateway's addresses", () => {
      const found = [address('listening'), address('listening for the admin API')];
      return found.every(Boolean) && found;
    }),
    ended,
  ]);
  const admin = async (method, path, body) => {
    const response = await fetch(`http://${adminAddress}${path}`, {
      method,
      headers: { authorization: `Bearer ${adminKey}`, 'content-type': 'application/json' },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    const text = await response.text();
    return { status: response.status, body: text ? JSON.parse(text) : undefined };
  };
  return { ...process, where, publicAddress, adminAddress, admin, url: `ws://${publicAddress}/ws` };
}

/** A token by `tickgate token`. */
export async function token(t, ...args) {
  const env = { TICKGATE_JWT_SECRET: secret };
  const made = start(t, directory(t), binary, ['token', ...args], { env });
  const { code } = await made.ended;
  if (code !== 0) throw new Error(made.err());
  return made.out().trim();
}

/** npm `ws` as the platform's clients use it. Messages wait in a queue until they are asked for. */
export class Client {
  #messages = [];
  #wake = () => {};
  constructor(url, ...options) {
    this.socket = new WebSocket(url, ...options);
    this.pings = 0;
    this.socket.on('ping', () => { this.pings += 1; this.#wake(); });
    this.socket.on('message', (data, isBinary) => {
      this.#messages.push(isBinary ? data : JSON.parse(data));
      this.#wake();
    });
    this.closed = new Promise((resolve) => {
      this.socket.on('close', (code, reason) => { resolve({ code, reason: String(reason) }); this.#wake(); });
    });
    this.opened = new Promise((resolve, reject) => {
      this.socket.on('open', resolve);
      this.socket.on('error', reject);
    });
    this.opened.catch(() => {});
  }

  /** Connects, with cleaning up. */
  static async open(t, url, ...options) {
    const client = new Client(url, ...options);
    atEnd(t, () => client.socket.terminate());
    await within('the connection', client.opened);
    return client;
  }

  send(message) {
    this.socket.send(typeof message === 'string' ? message : JSON.stringify(message));
  }

  /** The next message for which `wanted` holds; those before it that are not wanted stay in the queue. */
  async next(wanted = (message) => message.type !== 'ping') {
    const find = () => this.#messages.findIndex(wanted);
    await within('a message', (async () => {
      while (find() < 0) {
        if (this.socket.readyState === WebSocket.CLOSED) throw new Error('closed before the message came');
        await new Promise((resolve) => { this.#wake = resolve; });
      }
    })());
    return this.#messages.splice(find(), 1)[0];
  }

  /** Subscribes and waits for the answer. */
  async subscribe(...channels) {
    this.send({ type: 'subscribe', channels });
    return this.next((message) => message.type === 'subscribed');
  }
}
