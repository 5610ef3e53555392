// What the README promises of `serve` without any configuration: the lines it prints work as they stand.
import assert from 'node:assert/strict';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { binary, directory, freePorts, root, start, until } from './harness.mjs';

/** Runs a printed line in a shell, with npm's wscat in reach. */
function paste(t, line) {
  const path = `${join(root, 'tests', 'e2e', 'node_modules', '.bin')}:${process.env.PATH}`;
  // `exec`, so that the test's end ends the program and not only the shell.
  return start(t, directory(t), 'sh', ['-c', `exec ${line}`], { env: { ...process.env, PATH: path } });
}

test('the printed lines connect, subscribe and publish', async (t) => {
  const [port, adminPort] = await freePorts(2);
  const env = {
    TICKGATE_SERVER__LISTEN: `["127.0.0.1:${port}"]`,
    TICKGATE_SERVER__ADMIN_LISTEN: `127.0.0.1:${adminPort}`,
  };
  const server = start(t, directory(t), binary, ['serve'], { env });
  const printed = await until('the lines to paste', () => {
    const lines = server.out().split('\n').map((line) => line.trim());
    const found = ['wscat ', 'curl '].map((program) => lines.find((line) => line.startsWith(program)));
    return found.every(Boolean) && found;
  });
  const [wscat, curl] = printed;
  const listener = paste(t, wscat);
  await until('the subscription', () => listener.out().includes('"type":"subscribed"'));
  const published = paste(t, curl);
  assert.deepEqual(await published.ended, { code: 0, signal: null });
  assert.deepEqual(JSON.parse(published.out()), { published: 1 });
  await until('the event', () => listener.out().includes('"channel":"grid.abc.status"'));

  // What the README shows is what is printed, but for the keys.
  const readme = readFileSync(join(root, 'README.md'), 'utf8');
  const general = (line) => line
    .replace(/token=[^']+/, 'token=eyJ0…').replace(/Bearer [0-9a-f]+/, 'Bearer 5f0c…')
    .replace(`:${port}/`, ':8080/').replace(`:${adminPort}/`, ':8081/');
  for (const line of printed) assert.ok(readme.includes(general(line)), `the README does not show: ${general(line)}`);
  const [, token] = wscat.match(/token=([^']+)/);
  assert.ok(!server.err().includes(token), 'the log shows the token');
});

test('every link within the documentation leads somewhere', () => {
  const pages = ['README.md', ...readdirSync(join(root, 'docs')).filter((name) => name.endsWith('.md')).map((name) => `docs/${name}`)];
  assert.ok(pages.length >= 5, `${pages}`);
  const broken = pages.flatMap((page) => {
    const links = [...readFileSync(join(root, page), 'utf8').matchAll(/\]\(([^)#\s]+)[^)]*\)/g)].map(([, link]) => link);
    const inside = links.filter((link) => !/^[a-z]+:/.test(link));
    return inside.filter((link) => !existsSync(join(root, dirname(page), link))).map((link) => `${page}: ${link}`);
  });
  assert.deepEqual(broken, []);
});
