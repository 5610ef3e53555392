// A gateway behind nginx, with deploy/nginx.conf: only paths and ports are changed.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync, chmodSync } from 'node:fs';
import { join } from 'node:path';
import { Client, adminKey, directory, freePorts, gateway, root, start, until } from './harness.mjs';

/** Replaces a text that must exist. */
function change(text, from, to) {
  assert.ok(text.includes(from), `deploy/nginx.conf has no ${from}`);
  return text.replaceAll(from, to);
}

/** Starts both: TLS to clients, a Unix socket to the gateway. */
export async function behindNginx(t, options = {}) {
  const where = directory(t);
  chmodSync(where, 0o755);
  const socket = join(where, 'public.sock');
  /** Starts a gateway, or the next one after its end. */
  const startGateway = async () => {
    const server = await gateway(t, { listen: JSON.stringify([`unix:${socket}`]), ...options });
    chmodSync(socket, 0o666);
    return server;
  };
  const server = await startGateway();
  const [port, internal] = await freePorts(2);
  const [certificate, key] = ['crt', 'key'].map((end) => join(where, `tls.${end}`));
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes',
    '-days', '1', '-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost', '-keyout', key, '-out', certificate],
  { stdio: 'ignore' });
  const keyFile = join(where, 'admin-key.conf');
  writeFileSync(keyFile, `proxy_set_header Authorization "Bearer ${adminKey}";\n`, { mode: 0o600 });
  let conf = readFileSync(join(root, 'deploy', 'nginx.conf'), 'utf8');
  for (const [from, to] of [
    ['user www-data;', process.getuid() === 0 ? 'user nobody nogroup;' : ''],
    ['/run/nginx.pid', join(where, 'nginx.pid')],
    ['/var/log/nginx', where],
    ['/run/tickgate/public.sock', socket],
    ['127.0.0.1:8081', server.adminAddress],
    ['listen 127.0.0.1:8090;', `listen 127.0.0.1:${internal};`],
    ['/etc/nginx/tickgate-admin-key.conf', keyFile],
    ['listen 443', `listen 127.0.0.1:${port}`],
    ['ws.example.com;', 'localhost;'],
    ['/etc/nginx/tls/ws.example.com.crt', certificate],
    ['/etc/nginx/tls/ws.example.com.key', key],
    ['worker_processes auto;', 'worker_processes 1;'],
    ['worker_rlimit_nofile 200000;', 'worker_rlimit_nofile 4096;'],
    ['worker_connections 65536;', 'worker_connections 2048;'],
    // Debian's nginx would keep bodies and proxied responses in folders that only root may write.
    ['http {', `http {\n    client_body_temp_path ${where}/b; proxy_temp_path ${where}/p; fastcgi_temp_path ${where}/f;`
      + ` uwsgi_temp_path ${where}/u; scgi_temp_path ${where}/s;`],
  ]) conf = change(conf, from, to);
  const file = join(where, 'nginx.conf');
  writeFileSync(file, conf);
  const nginx = start(t, where, 'nginx', ['-c', file, '-p', where, '-e', join(where, 'start.log'), '-g', 'daemon off;'],
    // If it were killed, its workers would stay.
    { signal: 'SIGTERM' });
  const ca = readFileSync(certificate);
  const tls = { ca, servername: 'localhost' };
  const url = `wss://localhost:${port}/ws`;
  await until('nginx', async () => {
    const probe = new Client(url, tls);
    const answered = await probe.opened.then(() => true, (error) => /Unexpected server response/.test(error.message));
    probe.socket.terminate();
    return answered;
  });
  const log = (name) => (existsSync(join(where, name)) ? readFileSync(join(where, name), 'utf8') : '');
  const https = (path, ...args) => execFileSync('curl',
    ['-sS', '--cacert', certificate, '-w', '\n%{http_code}', ...args, `https://localhost:${port}${path}`], { encoding: 'utf8' });
  const inside = (path, ...args) => execFileSync('curl',
    ['-sS', '-w', '\n%{http_code}', ...args, `http://127.0.0.1:${internal}${path}`], { encoding: 'utf8' });
  return { server, startGateway, nginx, url, tls, log, https, inside };
}
