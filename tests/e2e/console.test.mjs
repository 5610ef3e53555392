// The console in a real browser.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Tab } from './browser.mjs';
import { adminKey, Client, gateway, token, until } from './harness.mjs';

const LOOKS = [
  { width: 1280, height: 900, dark: false }, { width: 1280, height: 900, dark: true },
  { width: 390, height: 844, dark: false }, { width: 390, height: 844, dark: true },
];

async function signIn(tab, key) {
  await tab.until('the sign-in', "document.querySelector('#key')");
  await tab.evaluate(`document.querySelector('#key').value = ${JSON.stringify(key)}; document.querySelector('form').requestSubmit()`);
}

/** Looks at the open view in every size and theme: no serious fault, and nothing wider than the window. */
async function look(tab, name) {
  // Each size and each theme once, unless somebody wants to see all pictures.
  for (const size of process.env.TICKGATE_PICTURES ? LOOKS : [LOOKS[0], LOOKS[3]]) {
    await tab.look(size);
    const where = `${name}-${size.width}-${size.dark ? 'dark' : 'light'}`;
    assert.equal(await tab.evaluate('document.documentElement.scrollWidth > innerWidth'), false, `${where} is wider than the window`);
    // On a phone no table is wider than its section, so that nothing is out of sight.
    const wide = "[...document.querySelectorAll('.scroll')].filter((box) => box.scrollWidth > box.clientWidth).map((box) => box.ariaLabel)";
    if (size.width < 600) assert.deepEqual(await tab.evaluate(wide), [], where);
    await tab.picture(where);
    assert.deepEqual(await tab.faults(), [], where);
  }
  await tab.look();
}

test('an operator signs in and sees whether all is fresh, who has trouble, and the load', async (t) => {
  const { publicAddress, adminAddress, admin } = await gateway(t);
  const jwt = await token(t, '--sub', 'u1', '--role', 'trader');
  const client = await Client.open(t, `ws://${publicAddress}/ws?token=${jwt}`);
  await client.subscribe('grid.*');
  const tab = await Tab.open(t, `http://${adminAddress}/`);
  await signIn(tab, 'not the key of this gateway');
  await tab.until('the refusal', "document.querySelector('.told')?.textContent.includes('neither the admin key')");
  await look(tab, 'sign-in');
  await signIn(tab, adminKey);

  await tab.until('the status', "document.querySelector('.status.ok')?.textContent === 'Everything is fine'");
  await tab.until('the live connection', "document.querySelector('.link.ok')?.textContent === 'live'");
  await tab.until('the report of the gateway', "document.querySelectorAll('[aria-label=\"Gateways that report\"] tbody tr').length === 1");
  assert.match(await tab.text('main'), /gateway\s+accepts connections/);
  await look(tab, 'fresh');

  // A client that is disconnected by the operator is listed with the code and whose doing it was.
  await tab.evaluate("location.hash = 'clients'");
  await tab.until('the view', "document.querySelector('h1').textContent === 'Who has trouble?'");
  for (let n = 0; n < 150; n++) client.send({ type: 'ping' });
  await tab.until('the client that sends too fast', "document.querySelector('[aria-label=\"Clients with trouble\"]').innerText.includes('u1')");
  assert.equal((await admin('DELETE', '/api/users/u1/connections')).status, 204);
  await tab.until('its ending', "document.querySelector('[aria-label=\"Last endings\"]').innerText.includes('disconnected by an operator')");
  // So is a handshake that was refused.
  await assert.rejects(new Client(`ws://${publicAddress}/ws?token=none`).opened);
  await tab.until('the refusal', "/token\\s+1\\b/.test(document.querySelector('[aria-label^=\"Refused handshakes\"]').innerText)");
  await look(tab, 'clients');

  await tab.evaluate("location.hash = 'load'");
  await tab.until('all charts', "document.querySelectorAll('figure').length >= 10");
  await tab.until('lines', "document.querySelector('figure path.line-0')?.getAttribute('d').length > 10");
  // The keyboard selects a time, and the label tells the values there.
  await tab.evaluate("const plot = document.querySelector('svg.chart'); plot.focus(); plot.dispatchEvent(new KeyboardEvent('keydown', { key: 'Home' }))");
  assert.match(await tab.evaluate("document.querySelector('svg.chart').getAttribute('aria-label')"), /^Connections, \d\d:\d\d:\d\d: open \d/);
  await look(tab, 'load');

  // After signing out, nothing is left of the session.
  await tab.evaluate("[...document.querySelectorAll('button')].find(({ textContent }) => textContent === 'Sign out').click()");
  await tab.until('the sign-in', "document.querySelector('#key')");
  assert.equal(await tab.evaluate("fetch('../api/overview').then(({ status }) => status)"), 401);
  assert.deepEqual(tab.problems, []);
});

test('the line on top says what is wrong, and the page comes back after a restart of the session', async (t) => {
  const { adminAddress, child } = await gateway(t);
  const tab = await Tab.open(t, `http://${adminAddress}/console/`);
  await signIn(tab, adminKey);
  await tab.until('the status', "document.querySelector('.status.ok')");
  // The session is ended elsewhere: the page asks for the key again.
  await tab.evaluate("fetch('../api/session', { method: 'DELETE' }).then(() => { location.hash = 'load' })");
  await tab.until('the sign-in', "document.querySelector('.told')?.textContent.startsWith('The session has ended')");
  await signIn(tab, adminKey);
  await tab.until('the status', "document.querySelector('.status.ok')");
  child.kill('SIGKILL');
  await tab.until('the loss', "document.querySelector('.status.bad')?.textContent === 'the gateway does not answer'");
  await until('the state of the connection', () => tab.evaluate("!document.querySelector('.link.ok')"));
});

test('an operator looks at a user and a channel, follows them, acts, and tries a token', async (t) => {
  const { publicAddress, adminAddress, admin } = await gateway(t);
  const jwt = await token(t, '--sub', 'u1', '--role', 'trader');
  const client = await Client.open(t, `ws://${publicAddress}/ws?token=${jwt}`);
  await client.subscribe('grid.*');
  await admin('POST', '/api/publish', { channel: 'grid.abc.order', event: 'filled', data: { level: 2 } });
  // So many that the sample has some of them.
  await admin('POST', '/api/publish', Array(100).fill({ channel: 'market.BTC-USDC.trade', event: 'trade_executed', data: {} }));
  const tab = await Tab.open(t, `http://${adminAddress}/console/#user/u1`);
  await signIn(tab, adminKey);
  const fill = (selector, value) => tab.evaluate(`{ const box = document.querySelector(${JSON.stringify(selector)}); box.value = ${JSON.stringify(value)}; box.dispatchEvent(new Event('input')); box.closest('form').requestSubmit(); }`);
  const click = (text) => tab.evaluate(`[...document.querySelectorAll('button')].filter(({ textContent }) => textContent === ${JSON.stringify(text)}).at(-1).click()`);
  const reason = async (text) => {
    await tab.until('the question', "document.querySelector('dialog[open] input')");
    await fill('dialog input', text);
    await tab.until('the outcome', "!document.querySelector('dialog')");
  };

  await tab.until('the subscription and its rule', "document.querySelector('main').innerText.includes('the entry `grid.*` of `channels` covers it')");
  await fill('input[placeholder="grid.*"]', 'market.*');
  await tab.until('the explanation', "/^(Yes|No): /.test(document.querySelector('.told[role=status]').textContent)");
  await fill('form.filters select ~ input, section:last-of-type input', 'a complaint');
  await tab.until('the trace', "document.querySelector('ol.lines').textContent.includes('followed')");
  client.send({ type: 'get_status' });
  await tab.until('what the client sends', "document.querySelector('ol.lines').textContent.includes('get_status')");
  client.send({ type: 'subscribe', channels: ['user.u2.orders'] });
  await tab.until('the rule of a refusal', "document.querySelector('ol.lines li.refused')?.textContent.includes('no entry of `channels` covers it')");
  await look(tab, 'user');

  await tab.evaluate("location.hash = 'channel'");
  await tab.until('the list', "document.querySelector('[aria-label=\"Channels of which something is kept\"] a[href$=\"grid.abc.order\"]')");
  await tab.until('the busiest', "document.querySelector('[aria-label=\"Busiest channels\"]').innerText.includes('market.BTC-USDC.trade')");
  await look(tab, 'channels');
  await tab.evaluate("document.querySelector('table a[href$=\"grid.abc.order\"]').click()");
  await tab.until('the last value', "document.querySelector('pre.data')?.textContent.includes('\"level\": 2')");
  await click('Publish a test event');
  await reason('does it arrive');
  await tab.until('the event in the tail', "document.querySelector('ol.lines').textContent.includes('test')");
  await look(tab, 'channel');

  await tab.evaluate("location.hash = 'config'");
  await tab.until('the keys', "document.querySelectorAll('tbody tr').length > 100");
  await tab.evaluate("document.querySelector('input[type=checkbox]').click()");
  await tab.until('a line of the file', "document.querySelector('tbody').innerText.includes('server.listen') && /line \\d/.test(document.querySelector('tbody').innerText)");
  assert.ok(!(await tab.text('main')).includes(adminKey));
  await look(tab, 'config');

  await tab.evaluate("location.hash = 'develop'");
  await tab.until('the form', "document.querySelector('textarea')");
  await fill('textarea', jwt);
  await tab.until('the connection of the app', "document.querySelector('main .link.ok')");
  await fill('input[placeholder="grid.*"]', 'grid.*');
  await tab.until('the answer', "document.querySelector('ol.lines').textContent.includes('subscribed')");
  assert.ok(!(await tab.text('main')).includes(jwt.split('.')[2]), 'the token stands in no frame');
  await look(tab, 'develop');

  // The list of connections is searched by the gateway.
  await tab.evaluate("location.hash = 'user'");
  await tab.until('the connections', "document.querySelectorAll('tbody tr').length >= 1");
  await tab.evaluate("{ const box = [...document.querySelectorAll('input[type=search]')].at(-1); box.value = 'nobody'; box.dispatchEvent(new Event('input')); }");
  await tab.until('no connection', "document.querySelectorAll('tbody tr').length === 0 && document.querySelector('main').innerText.includes('nobody is connected')");

  // The user is disconnected, with a reason that stands in the audit trail.
  const auditor = await Client.open(t, `ws://${publicAddress}/ws?token=${await token(t, '--sub', 'boss', '--role', 'admin')}`);
  await auditor.subscribe('system.log');
  await tab.evaluate("location.hash = 'user/u1'");
  await tab.until('the connection', "document.querySelector('main').innerText.includes('127.0.0.1')");
  await click('Disconnect the user');
  await look(tab, 'reason');
  await reason('it was asked for');
  assert.equal((await client.closed).code, 4003);
  const { data } = await auditor.next((message) => message.data?.action === 'admin.disconnect_user');
  assert.equal(data.outcome, 'success');

  // Coming back does not help once the tokens are revoked.
  const back = await Client.open(t, `ws://${publicAddress}/ws?token=${jwt}`);
  await tab.evaluate("location.hash = 'revoked'");
  await tab.until('the form', "document.querySelector('main form button.danger')");
  await fill('main form input', 'u1');
  await reason('a lost phone');
  assert.equal((await back.closed).code, 4006);
  await tab.until('the revocation', "document.querySelector('table tbody').innerText.includes('all of the user')");
  await look(tab, 'revoked');
  await auditor.next((message) => message.data?.action === 'admin.revoke' && message.data.outcome === 'success');
  assert.deepEqual(tab.problems, []);
});

test('a viewer sees no payload and no way to act', async (t) => {
  const viewerKey = 'end-to-end-viewer-key';
  const { adminAddress, admin } = await gateway(t, { rest: '[admin]\nviewer_key_env = "VIEWER_KEY"', env: { VIEWER_KEY: viewerKey } });
  await admin('POST', '/api/publish', { channel: 'grid.abc.order', event: 'filled', data: { hidden: 'payload' } });
  const tab = await Tab.open(t, `http://${adminAddress}/console/#channel/grid.abc.order`);
  await signIn(tab, viewerKey);
  await tab.until('the channel', "document.querySelector('pre.data')?.textContent === 'Only operators see it.'");
  await tab.until('the live connection', "document.querySelector('.link.ok')");
  for (const view of ['fresh', 'clients', 'user/u1', 'channel/grid.abc.order', 'develop']) {
    await tab.evaluate(`location.hash = ${JSON.stringify(view)}`);
    await until('the view', () => tab.evaluate(`document.querySelector('nav a[aria-current]').hash.slice(1) === ${JSON.stringify(view.split('/')[0])}`));
    assert.ok(!(await tab.text('main')).includes('payload'), view);
    assert.equal(await tab.evaluate("document.querySelectorAll('main .danger').length"), 0, view);
  }
  assert.equal(await tab.evaluate("fetch('../api/drain', { method: 'POST' }).then(({ status }) => status)"), 403);
});

test('a key of a tenant opens the console for its part, and an operator chooses a tenant', async (t) => {
  const keys = { one: 'end-to-end-key-of-tenant-one', two: 'end-to-end-key-of-tenant-two' };
  const space = (name, secret) => `[[tenant]]\nname = "${name}"\n[[tenant.endpoint]]\npath = "/${name}"\ndialect = "native"\n`
    + `[[tenant.auth.key]]\nalgorithm = "HS256"\nsecret_env = "${secret}"\n[tenant.admin]\nkey_env = "KEY_${name.toUpperCase()}"\n`;
  const { adminAddress, admin } = await gateway(t, {
    rest: `[admin]\nkey_env = "TICKGATE_ADMIN_KEY"\n${space('one', 'SECRET_ONE')}${space('two', 'SECRET_TWO')}`,
    env: { KEY_ONE: keys.one, KEY_TWO: keys.two, SECRET_ONE: '1'.repeat(32), SECRET_TWO: '2'.repeat(32) },
  });
  for (const name of ['one', 'two']) await admin('POST', `/api/publish?tenant=${name}`, { channel: 'grid.abc.order', event: 'filled', data: { of: name } });
  const tab = await Tab.open(t, `http://${adminAddress}/console/#channel/grid.abc.order`);
  await signIn(tab, keys.one);
  await tab.until('the channel', "document.querySelector('pre.data')?.textContent.includes('\"one\"')");
  await tab.until('the live connection', "document.querySelector('.link.ok')?.textContent === 'live'");
  assert.equal(await tab.text('.role'), 'operator of one');
  await admin('POST', '/api/publish?tenant=two', { channel: 'grid.abc.order', event: 'filled', data: { of: 'two', nobody: 'hears' } });
  await admin('POST', '/api/publish?tenant=one', { channel: 'grid.abc.order', event: 'filled', data: { of: 'one', now: true } });
  await tab.until('the event in the tail', "document.querySelector('ol.lines').textContent.includes('now')");
  assert.ok(!(await tab.text('main')).includes('hears'));
  for (const [view, words] of [['fresh', 'accepts connections'], ['load', 'Connections'], ['config', 'tenant[0].endpoint[0].path'], ['clients', 'Why did they leave']]) {
    await tab.evaluate(`location.hash = '${view}'`);
    await tab.until(view, `document.querySelector('main').innerText.includes('${words}')`);
    await tab.until('the status', "document.querySelector('.status.ok')");
    const text = await tab.text('main');
    assert.ok(!text.includes('tenant[1]') && !text.includes('server.listen') && !text.includes('Drain this gateway'), `${view}: ${text}`);
    assert.equal(await tab.evaluate("document.querySelectorAll('select[aria-label=Tenant]').length"), 0);
  }
  await look(tab, 'tenant');
  await tab.evaluate("[...document.querySelectorAll('button')].find(({ textContent }) => textContent === 'Sign out').click()");
  await signIn(tab, adminKey);
  await tab.until('the choice', "document.querySelectorAll('select[aria-label=Tenant] option').length === 4");
  await tab.evaluate("location.hash = 'channel/grid.abc.order'");
  await tab.until('the default tenant', "document.querySelector('pre.data')?.textContent === 'There is none.'");
  await tab.evaluate("{ const box = document.querySelector('select[aria-label=Tenant]'); box.value = 'two'; box.dispatchEvent(new Event('change')); }");
  await tab.until('its channel', "document.querySelector('pre.data')?.textContent.includes('\"two\"')");
  await tab.until('its subscription', "/Subscribers\\s+1\\b/.test(document.querySelector('dl.facts').innerText)");
  await admin('POST', '/api/publish?tenant=two', { channel: 'grid.abc.order', event: 'filled', data: { of: 'two', and: 'arrives' } });
  await tab.until('its events', "document.querySelector('ol.lines').textContent.includes('arrives')");
  await look(tab, 'tenant-chosen');
  assert.deepEqual(tab.problems, []);
});
