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
  for (const size of LOOKS) {
    await tab.look(size);
    const where = `${name}-${size.width}-${size.dark ? 'dark' : 'light'}`;
    assert.equal(await tab.evaluate('document.documentElement.scrollWidth > innerWidth'), false, `${where} is wider than the window`);
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
  await tab.until('the report of the gateway', "document.querySelectorAll('table')[1].tBodies[0].rows.length === 1");
  assert.match(await tab.text('main'), /gateway\s+accepts connections/);
  await look(tab, 'fresh');

  // A client that is disconnected by the operator is listed with the code and whose doing it was.
  await tab.evaluate("location.hash = 'clients'");
  await tab.until('the view', "document.querySelector('h1').textContent === 'Who has trouble?'");
  for (let n = 0; n < 150; n++) client.send({ type: 'ping' });
  await tab.evaluate("const box = document.querySelector('select'); box.value = 'rate_limited'; box.dispatchEvent(new Event('change'))");
  await tab.until('the client that sends too fast', "document.querySelectorAll('table')[0].innerText.includes('u1')");
  assert.equal((await admin('DELETE', '/api/users/u1/connections')).status, 204);
  await tab.until('its ending', "document.querySelectorAll('table')[2].innerText.includes('disconnected by an operator')");
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
