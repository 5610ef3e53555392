// The README's description of `serve` without a configuration: the printed lines and the browser page work as shown.
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, readFileSync, readdirSync } from 'node:fs';
import { createServer } from 'node:http';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { Tab } from './browser.mjs';
import { atEnd, binary, directory, freePorts, root, start, until } from './harness.mjs';

/** Runs a printed line in a shell that finds npm's wscat. */
function paste(t, line) {
  const path = `${join(root, 'tests', 'e2e', 'node_modules', '.bin')}:${process.env.PATH}`;
  // With `exec` the test's end ends the program itself, not only the shell.
  return start(t, directory(t), 'sh', ['-c', `exec ${line}`], { env: { ...process.env, PATH: path } });
}

/** Starts `serve` without a configuration on free ports. Returns the printed lines to paste. */
async function serve(t) {
  const [port, adminPort] = await freePorts(2);
  const env = {
    TICKGATE_SERVER__LISTEN: `["127.0.0.1:${port}"]`,
    TICKGATE_SERVER__ADMIN_LISTEN: `127.0.0.1:${adminPort}`,
  };
  const server = start(t, directory(t), binary, ['serve'], { env });
  const printed = await until('the lines to paste', () => {
    const lines = server.out().split('\n').map((line) => line.trim());
    const found = ['wscat ', 'curl ', 'http:'].map((program) => lines.find((line) => line.startsWith(program)));
    return found.every(Boolean) && found;
  });
  return { server, port, adminPort, printed };
}

test('the printed lines connect, subscribe and publish', async (t) => {
  const { server, port, adminPort, printed } = await serve(t);
  const [wscat, curl, console] = printed;
  const listener = paste(t, wscat);
  await until('the subscription', () => listener.out().includes('"type":"subscribed"'));
  const published = paste(t, curl);
  assert.deepEqual(await published.ended, { code: 0, signal: null });
  assert.deepEqual(JSON.parse(published.out()), { published: 1 });
  await until('the event', () => listener.out().includes('"channel":"grid.abc.status"'));

  assert.match(await (await fetch(console)).text(), /tickgate console/);

  // The README shows the printed lines with other keys.
  const readme = readFileSync(join(root, 'README.md'), 'utf8');
  const general = (line) => line
    .replace(/token=[^']+/, 'token=eyJ0…').replace(/Bearer [0-9a-f]+/, 'Bearer 5f0c…')
    .replace(`:${port}/`, ':8080/').replace(`:${adminPort}/`, ':8081/');
  for (const line of printed) assert.ok(readme.includes(general(line)), `the README does not show: ${general(line)}`);
  const [, token] = wscat.match(/token=([^']+)/);
  assert.ok(!server.err().includes(token), 'the log shows the token');
});

test('the browser page connects, subscribes and shows published events', async (t) => {
  const { port, printed: [wscat, curl] } = await serve(t);
  const [, page] = readFileSync(join(root, 'README.md'), 'utf8').match(/```html\n(.*?)```/s);
  const web = createServer((_, response) => {
    response.setHeader('Content-Type', 'text/html');
    response.end(page.replaceAll('127.0.0.1:8080', `127.0.0.1:${port}`));
  }).listen(0, '127.0.0.1');
  atEnd(t, () => web.close());
  await once(web, 'listening');
  const [, token] = wscat.match(/token=([^']+)/);
  const tab = await Tab.open(t, `http://127.0.0.1:${web.address().port}/#${token}`);
  await tab.until('the subscription', "document.querySelector('#log')?.textContent.includes('\"type\":\"subscribed\"')");
  assert.deepEqual(await paste(t, curl).ended, { code: 0, signal: null });
  await tab.until('the event', "document.querySelector('#log')?.textContent.includes('\"channel\":\"grid.abc.status\"')");
});

test('every link within the documentation has a target', () => {
  const pages = ['README.md', 'CONTRIBUTING.md', 'SECURITY.md', ...readdirSync(join(root, 'docs')).filter((name) => name.endsWith('.md')).map((name) => `docs/${name}`)];
  assert.ok(pages.length >= 5, `${pages}`);
  const broken = pages.flatMap((page) => {
    const links = [...readFileSync(join(root, page), 'utf8').matchAll(/\]\(([^)#\s]+)[^)]*\)/g)].map(([, link]) => link);
    const inside = links.filter((link) => !/^[a-z]+:/.test(link));
    return inside.filter((link) => !existsSync(join(root, dirname(page), link))).map((link) => `${page}: ${link}`);
  });
  assert.deepEqual(broken, []);
});
