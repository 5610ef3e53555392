// Clients of one gateway whose process is killed: how long until all of them are live on another one, and whether one of
// them has missed an event. loadtest/gateways.sh kill runs it.
//
//   node loadtest/failover.mjs CLIENTS FROM-URL FROM-PID TO-URL PUBLISH-URL
//
// Needs npm ci in tests/e2e, and the variables TICKGATE_JWT_SECRET and TICKGATE_ADMIN_KEY.
import { createHmac } from 'node:crypto';
import WebSocket from '../tests/e2e/node_modules/ws/wrapper.mjs';

const [clients, from, pid, to, publishUrl] = process.argv.slice(2);
const count = Number(clients);
const CHANNEL = 'load.0.event';
// Handshakes at a time, before and after the end of the gateway.
const WINDOW = 200;

const base64 = (text) => Buffer.from(text).toString('base64url');
function token(user) {
  const body = `${base64('{"alg":"HS256","typ":"JWT"}')}.${base64(JSON.stringify({ sub: user, exp: Math.floor(Date.now() / 1000) + 3600 }))}`;
  return `${body}.${createHmac('sha256', process.env.TICKGATE_JWT_SECRET).update(body).digest('base64url')}`;
}

let waiting = [];
let free = WINDOW;
const acquire = () => (free > 0 ? Promise.resolve(free--) : new Promise((resolve) => waiting.push(resolve)));
const release = () => {
  const next = waiting.shift();
  if (next) next();
  else free++;
};

let lost = 0;
let doubled = 0;
let unrecovered = 0;
let ended = 0;

class Client {
  constructor(index) {
    this.token = token(`load-${index}`);
    this.next = undefined;
    this.position = undefined;
    this.live = false;
  }

  // Returns once the client is live: subscribed and, if it comes back, recovered.
  async connect(url) {
    await acquire();
    try {
      for (;;) {
        if (await this.attempt(url)) return;
        await new Promise((resolve) => setTimeout(resolve, 100 + 400 * Math.random()));
      }
    } finally {
      release();
    }
  }

  attempt(url) {
    return new Promise((resolve) => {
      const socket = new WebSocket(`${url}/ws?token=${this.token}`, { perMessageDeflate: false });
      this.socket = socket;
      socket.on('open', () => socket.send(JSON.stringify({ type: 'subscribe', channels: [CHANNEL], recover: this.position && { [CHANNEL]: this.position } })));
      socket.on('message', (data) => {
        const message = JSON.parse(data);
        if (message.type === 'subscribed') {
          if (this.position && message.data.recovered[CHANNEL] !== true) unrecovered++;
          this.position ??= message.data.positions[CHANNEL];
          this.live = true;
          resolve(true);
        } else if (message.type === 'event') {
          this.next ??= message.data;
          if (message.data > this.next) lost += message.data - this.next;
          if (message.data < this.next) doubled++;
          this.next = Math.max(this.next, message.data + 1);
          this.position.offset = message.offset;
        }
      });
      socket.on('error', () => {});
      socket.on('close', () => {
        if (this.live) ended++;
        this.live = false;
        resolve(false);
        this.gone?.();
      });
    });
  }
}

let published = 0;
let publishing = true;
async function publish() {
  for (const begun = Date.now(); publishing;) {
    const item = { channel: CHANNEL, event: 'load', data: published, id: `load-${begun}-${published}` };
    const headers = { authorization: `Bearer ${process.env.TICKGATE_ADMIN_KEY}`, 'content-type': 'application/json' };
    const response = await fetch(`${publishUrl}/api/publish`, { method: 'POST', headers, body: JSON.stringify(item) }).catch(() => undefined);
    const taken = response && (await response.arrayBuffer(), response.ok);
    if (taken) published++;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

const all = Array.from({ length: count }, (_, index) => new Client(index));
await Promise.all(all.map((client) => client.connect(from)));
console.log(`${count} clients are live on the first gateway`);
const publisher = publish();
await new Promise((resolve) => setTimeout(resolve, 2000));
const gone = all.map((client) => new Promise((resolve) => { client.gone = resolve; }));
const begun = performance.now();
process.kill(Number(pid), 'SIGKILL');
const took = [];
await Promise.all(all.map(async (client, index) => {
  await gone[index];
  client.gone = undefined;
  await client.connect(to);
  took.push((performance.now() - begun) / 1000);
}));
took.sort((a, b) => a - b);
console.log(`all are live on the other gateway after ${took.at(-1).toFixed(2)} s, half of them after ${took[count >> 1].toFixed(2)} s`);
await new Promise((resolve) => setTimeout(resolve, 2000));
publishing = false;
await publisher;
const deadline = Date.now() + 30_000;
while (all.some((client) => client.next !== published) && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 50));
const missing = all.filter((client) => client.next !== published).length;
console.log(`${published} events to each: ${lost} lost, ${doubled} twice, ${missing} clients without the last one, ${unrecovered} not recovered, ${ended - count} ended again`);
all.forEach((client) => client.socket.terminate());
process.exit(lost + doubled + missing + unrecovered > 0 ? 1 : 0);
