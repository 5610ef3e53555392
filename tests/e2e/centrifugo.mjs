// A server of Centrifugo's JSON protocol with the commands that the load tool's adapter uses. The test checks it with the
// official client, npm `centrifuge`.
import { createServer } from 'node:http';
import { WebSocketServer } from 'ws';
import { atEnd } from './harness.mjs';

const PING_MS = 200;

/** Starts the server. Returns its address and the counts of its pings. */
export async function centrifugo(t, key) {
  const channels = new Map();
  const counts = { sent: 0, answered: 0 };
  const subscribers = (channel) => channels.get(channel) ?? channels.set(channel, new Set()).get(channel);

  const answers = (socket) => ({
    connect: () => ({ client: 'c', version: '0', ping: PING_MS / 1000, pong: true }),
    subscribe: ({ channel }) => { subscribers(channel).add(socket); return {}; },
    unsubscribe: ({ channel }) => { subscribers(channel).delete(socket); return {}; },
    rpc: ({ data }) => ({ data }),
  });

  const http = createServer((request, response) => {
    let body = '';
    request.on('data', (part) => { body += part; });
    request.on('end', () => {
      if (request.url !== '/api/batch' || request.headers['x-api-key'] !== key) {
        response.writeHead(401).end();
        return;
      }
      const pushes = JSON.parse(body).commands.map(({ publish: { channel, data } }) => ({ push: { channel, pub: { data } } }));
      for (const socket of new Set(pushes.flatMap(({ push }) => [...subscribers(push.channel)]))) {
        // As under load: several messages in one frame, one per line, and a ping among them.
        const lines = pushes.filter(({ push }) => subscribers(push.channel).has(socket)).map((push) => JSON.stringify(push));
        counts.sent += 1;
        socket.send([...lines, '{}'].join('\n'));
      }
      response.end(JSON.stringify({ replies: pushes.map(() => ({ publish: {} })) }));
    });
  });
  const server = new WebSocketServer({ server: http, path: '/connection/websocket' });
  server.on('connection', (socket) => {
    socket.on('message', (text) => {
      for (const line of String(text).split('\n')) {
        const { id, ...command } = JSON.parse(line);
        const [kind] = Object.keys(command);
        if (kind === undefined) {
          counts.answered += 1;
        } else {
          socket.send(JSON.stringify({ id, [kind]: answers(socket)[kind](command[kind]) }));
        }
      }
    });
    socket.on('close', () => channels.forEach((held) => held.delete(socket)));
  });
  const pings = setInterval(() => {
    for (const socket of server.clients) {
      counts.sent += 1;
      socket.send('{}');
    }
  }, PING_MS);
  await new Promise((resolve) => { http.listen(0, '127.0.0.1', resolve); });
  atEnd(t, () => {
    clearInterval(pings);
    server.clients.forEach((socket) => socket.terminate());
    http.close();
    http.closeAllConnections();
  });
  return { address: `127.0.0.1:${http.address().port}`, counts };
}
