// Starts a gateway process for each test, on free ports and in a temporary directory, with helpers for clients.
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

// The longest wait. A test that reaches it fails.
const PATIENCE_MS = 60_000;

/** Polls `condition` until it returns a truthy value, and returns that. */
export async function until(what, condition) {
  const deadline = Date.now() + PATIENCE_MS;
  for (;;) {
    const found = await condition();
    if (found) return found;
    if (Date.now() > deadline) throw new Error(`${what}: timed out`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Awaits a promise with a timeout. */
export function within(what, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: timed out`)), PATIENCE_MS);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

const undoing = new WeakMap();
let exits = false;

/**
 * Adds a clean-up step for the test's end. The last step added runs first, and a failing step does not prevent the others.
 * `t.after` alone would run the first step first, so a directory would be removed under its process. It also stops at a
 * failure, and a process that is left keeps the test run from ending.
 */
export function atEnd(t, undo) {
  if (!exits) {
    exits = true;
    // Node 20 sometimes spins for ever when a process ends by itself: it waits for a request of a handle that it closes. A
    // process that exits does not wait. The test runner has set the exit code by then.
    process.on('exit', () => process.exit());
  }
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

/** A directory that is removed when the test ends. */
export function directory(t) {
  const path = mkdtempSync(join(tmpdir(), 'tickgate-'));
  // The child processes of a browser write for a moment after it has ended. `maxRetries` of `rmSync` does not look for files
  // that are new.
  atEnd(t, () => until('an empty directory', () => {
    try {
      rmSync(path, { recursive: true, force: true });
      return true;
    } catch (error) {
      if (error.code !== 'ENOTEMPTY') throw error;
      return false;
    }
  }));
  return path;
}

/**
 * Ports that were free when this was called. They are below those that the kernel gives to outgoing connections and to other
 * tests, so that nobody takes them before a server does.
 */
export async function freePorts(count) {
  const servers = [];
  while (servers.length < count) {
    const server = createServer().listen(10_000 + Math.floor(Math.random() * 22_000), '127.0.0.1');
    const free = await once(server, 'listening').then(() => true, () => false);
    if (free) servers.push(server);
  }
  const ports = servers.map((server) => server.address().port);
  for (const server of servers) {
    server.close();
    await once(server, 'close');
  }
  return ports;
}

/**
 * Starts a process. The test's end sends it `signal`, and kills it if that does not help. Its output goes to files; its
 * input stays open and empty.
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

/**
 * Starts a gateway. `listen` is the value of `server.listen`, `server` further lines of `[server]`, `rest` other tables, `env`
 * further variables, `program` another binary.
 */
export async function gateway(t, { listen = '["127.0.0.1:0"]', server = '', rest = '', env: more = {}, program = binary } = {}) {
  if (!existsSync(binary)) throw new Error(`${binary} is missing: cargo build first`);
  const where = directory(t);
  const config = join(where, 'tickgate.toml');
  const log = '[log]\nformat = "json"\n';
  const reconfigure = (more) => {
    writeFileSync(config, `[server]\nlisten = ${listen}\nadmin_listen = "127.0.0.1:0"\n${server}\n${more}\n${log}`);
  };
  reconfigure(rest);
  const env = { TICKGATE_JWT_SECRET: secret, TICKGATE_ADMIN_KEY: adminKey, ...more };
  const process = start(t, where, program, ['serve', '--config', config], { env });
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
  return { ...process, reconfigure, where, publicAddress, adminAddress, admin, url: `ws://${publicAddress}/ws` };
}

/** A token from `tickgate token`. */
export async function token(t, ...args) {
  const env = { TICKGATE_JWT_SECRET: secret };
  const made = start(t, directory(t), binary, ['token', ...args], { env });
  const { code } = await made.ended;
  if (code !== 0) throw new Error(made.err());
  return made.out().trim();
}

/** npm `ws`, used like the platform's clients. Messages wait in a queue until a test takes them. */
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

  /** Connects, and adds the clean-up step. */
  static async open(t, url, ...options) {
    const client = new Client(url, ...options);
    atEnd(t, () => client.socket.terminate());
    await within('the connection', client.opened);
    return client;
  }

  send(message) {
    this.socket.send(typeof message === 'string' ? message : JSON.stringify(message));
  }

  /** The next message for which `wanted` holds. Messages before it stay in the queue. */
  async next(wanted = (message) => message.type !== 'ping') {
    const find = () => this.#messages.findIndex(wanted);
    await within('a message', (async () => {
      while (find() < 0) {
        if (this.socket.readyState === WebSocket.CLOSED) throw new Error('closed before the message arrived');
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
