// The demo's page in a real browser.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Tab } from './browser.mjs';
import { binary, directory, freePorts, start, until } from './harness.mjs';

/** Starts the demo on free ports. Returns the URL of its page. */
async function demo(t, ...args) {
  const env = { PATH: process.env.PATH, TICKGATE_SERVER__LISTEN: '["127.0.0.1:0"]', TICKGATE_SERVER__ADMIN_LISTEN: '127.0.0.1:0' };
  const process_ = start(t, directory(t), binary, ['demo', '--page', '127.0.0.1:0', '--seed', '7', ...args], { env });
  const ended = process_.ended.then(() => { throw new Error(`the demo ended: ${process_.err()}`); });
  ended.catch(() => {});
  const page = until("the demo's page", () => /page +(http:\S+)/.exec(process_.out())?.[1]);
  return Promise.race([page, ended]);
}

const fact = (list, name) => `[...document.querySelectorAll('#${list} dt')].find((dt) => dt.textContent === '${name}')?.nextSibling?.textContent`;

test('the page shows the market, the stocks, a running grid bot, the account and the gateway', async (t) => {
  const tab = await Tab.open(t, await demo(t));
  await tab.until('the connection', "document.querySelector('#state')?.className === 'open'");

  // Prices appear and change.
  await tab.until('all symbols', "document.querySelectorAll('#prices tr').length === 5");
  const before = await tab.text('#prices');
  await until('a price that moves', async () => await tab.text('#prices') !== before);

  // Stocks of all boards, polled from the demo's own Redis.
  await tab.until('all stocks', "document.querySelectorAll('#stocks tr').length === 8");
  assert.match(await tab.text('#stocks'), /600519\s+Kweichow Moutai\s+[\d,]+\.\d\d\s+[+-]?[\d.]+ %/);

  // The page starts a bot by itself, which fills orders and trades.
  await tab.until('a running bot', "document.querySelector('#notice').textContent.endsWith('is running.')");
  await tab.until('a filled order', "document.querySelector('#stream').textContent.includes('order filled')");
  await tab.until('a trade', "document.querySelector('#stream').textContent.includes('trade executed')");
  await tab.until('its status', `${fact('status', 'Total')} !== undefined`);

  // The chart has candles, the bot's orders are on it, and the book has both sides.
  await tab.until('candles', "Number(document.querySelector('#chart').dataset.candles) >= 2");
  await tab.until("the bot's orders on the chart", "Number(document.querySelector('#chart').dataset.orders) >= 10");
  for (const side of ['asks', 'bids']) await tab.until(side, `document.querySelectorAll('#${side} li').length >= 5`);

  // The account, polled over HTTP.
  for (const name of ['Total', 'Gains', 'Orders', 'Positions']) await tab.until(name, `${fact('account', name)} !== undefined`);

  // The gateway's self-report.
  await tab.until('its own connection', `${fact('gateway', 'Connections')} === '1'`);
  await tab.until('deliveries', `parseFloat(${fact('gateway', 'Deliveries')}) > 0`);

  const looks = [{ width: 1280 }, { width: 390, height: 844, dark: true }, { width: 1280, dark: true }, { width: 390, height: 844 }];
  for (const size of process.env.TICKGATE_PICTURES ? looks : looks.slice(0, 2)) {
    await tab.look(size);
    const where = `demo-${size.width}-${size.dark ? 'dark' : 'light'}`;
    assert.equal(await tab.evaluate('document.documentElement.scrollWidth > innerWidth'), false, `${where} is wider than the window`);
    await tab.picture(where);
    assert.deepEqual(await tab.faults(), [], where);
  }
  await tab.look();

  // A back-test shows its progress and its result.
  await tab.evaluate("document.querySelector('#run').click()");
  await tab.until('progress', "document.querySelector('#progress').value > 0 && document.querySelector('#progress').value < 1");
  await tab.until('the result', `${fact('result', 'Return')} !== undefined`);

  // The connection is cut: the client comes back by itself, and has what the bot did meanwhile.
  await tab.evaluate("document.querySelector('#cut').click()");
  await tab.until('the loss', "document.querySelector('#state').className === ''");
  await tab.until('the recovery', "/^Back after [\\d.]+ s, with [1-9]\\d* events .* no order or trade is missing/.test(document.querySelector('#recovery').textContent)");

  // After a click on stop, no order is left and the page reports it.
  await tab.evaluate("document.querySelector('#stop').click()");
  await tab.until('the bot to stop', "document.querySelector('#stop').disabled && document.querySelector('#notice').textContent.startsWith('Stopped')");

  // The kill switch changes for every user, and stops a bot.
  await tab.evaluate("document.querySelector('#start').click()");
  await tab.until('another bot', "document.querySelector('#notice').textContent.endsWith('is running.')");
  await tab.evaluate("document.querySelector('#switch').click()");
  await tab.until('the end of the bot', "document.querySelector('#notice').textContent === 'Stopped: kill switch.'");
  await tab.until('the kill switch', "document.querySelector('#switch').textContent === 'Release the kill switch'");
  assert.deepEqual(tab.problems, []);
});

test('the page comes back by itself when the demo is started again', async (t) => {
  const [port, page] = await freePorts(2);
  const env = { PATH: process.env.PATH, TICKGATE_SERVER__LISTEN: `["127.0.0.1:${port}"]`, TICKGATE_SERVER__ADMIN_LISTEN: '127.0.0.1:0' };
  const run = () => start(t, directory(t), binary, ['demo', '--page', `127.0.0.1:${page}`, '--seed', '7'], { env });
  const printed = (demo) => until("the demo's page", () => /page +(http:\S+)/.exec(demo.out())?.[1]);
  const first = run();
  const tab = await Tab.open(t, await printed(first));
  await tab.until('the connection', "document.querySelector('#state')?.className === 'open'");
  await tab.until('a running bot', "document.querySelector('#notice').textContent.endsWith('is running.')");
  first.child.kill('SIGKILL');
  await first.ended;
  await tab.until('the loss', "document.querySelector('#state').className === ''");
  // The keys of the second demo are new, so the page has to get a new token. Its bot is gone, which the page shows.
  await printed(run());
  await tab.until('the connection', "document.querySelector('#state').className === 'open'");
  await tab.until('no bot', "document.querySelector('#stop').disabled");
  await tab.until('prices that move again', "document.querySelectorAll('#prices tr').length === 5");
});
