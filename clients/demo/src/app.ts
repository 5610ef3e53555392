// The trading screen: the market, the book, a grid bot, the account, a back-test, and the connection. All of it comes by the
// TypeScript client.

import { Candles, Orders, type Order } from "./candles.js";
import { PriceChart } from "./chart.js";
import { createClient, type TickEvent } from "./client.js";
import { Line, Recovery } from "./link.js";

const SPAN_MS = 5_000;
const CANDLES = 240;
const LINES = 200;
const CUT_MS = 3_000;
const BOOK_ROWS = 8;
const FIRST = "BTC-USDC";

type Level = [price: number, amount: number];

interface Quote {
  row: HTMLTableRowElement;
  price: number;
  candles: Candles;
  book: { bids: Level[]; asks: Level[] };
}

const $ = <T extends HTMLElement = HTMLElement>(id: string): T => document.getElementById(id) as T;
const form = $<HTMLFormElement>("grid");
const field = (name: string): HTMLInputElement => form.elements.namedItem(name) as HTMLInputElement;
const quotes = new Map<string, Quote>();
const stocks = new Map<string, HTMLTableRowElement>();
const orders = new Orders();
const recovery = new Recovery();
const line = new Line();
const chart = new PriceChart($<HTMLCanvasElement>("chart"));
let symbol = FIRST;
let grid: { id: string; pair: string } | undefined;
let backtest: string | undefined;
let halted = false;
let suggested = false;
let welcomed = false;

// -- Small helpers ------------------------------------------------------------------------------------------------------

function element(tag: string, text = "", className = ""): HTMLElement {
  const node = document.createElement(tag);
  node.textContent = text;
  if (className) node.className = className;
  return node;
}

function number(value: number, digits = 2): string {
  return value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: Math.min(digits, 2) });
}

function price(value: number): string {
  return value.toLocaleString("en", Math.abs(value) < 1 ? { minimumSignificantDigits: 4, maximumSignificantDigits: 5 } : { maximumFractionDigits: 2, minimumFractionDigits: 2 });
}

const signed = (value: number, text: string): string => `${value >= 0 ? "+" : "−"}${text.replace("-", "")}`;
const tone = (value: number): string => (value < 0 ? "down" : "up");
const time = (ms: number): string => new Date(ms).toLocaleTimeString("en-GB");

function facts(list: HTMLElement, values: [name: string, value: string | number, sign?: number][]): void {
  list.replaceChildren(...values.map(([name, value, sign]) => {
    const row = element("div");
    row.append(element("dt", name), element("dd", String(value), sign === undefined ? "" : tone(sign)));
    return row;
  }));
}

function log(list: HTMLElement, text: string, className = ""): void {
  list.prepend(element("li", text, className));
  while (list.childElementCount > LINES) list.lastElementChild!.remove();
}

function cells(row: HTMLTableRowElement, texts: string[], classes: string[] = []): void {
  while (row.cells.length < texts.length) row.insertCell();
  texts.forEach((text, index) => {
    const cell = row.cells[index]!;
    if (cell.textContent !== text) cell.textContent = text;
    cell.className = classes[index] ?? "";
  });
}

// -- The connection -----------------------------------------------------------------------------------------------------

const session = async (): Promise<{ port: number; path: string; token: string }> => (await fetch("session.json")).json();
const first = await session();
// A demo that was started again has other keys. The page asks for its new token when the old one is refused.
let token = first.token;
const tg = createClient({
  url: `ws://${location.hostname}:${first.port}${first.path}`,
  token,
  getToken: async () => (token = (await session()).token),
  WebSocket: line.WebSocket,
});
const user: string = JSON.parse(atob(token.split(".")[1]!.replaceAll("-", "+").replaceAll("_", "/"))).sub;

tg.on("state", ({ state, reason, final }) => {
  $("state").textContent = state === "live" ? "connected" : final ? `${reason}; reload the page to come back` : reason || state;
  $("state").className = state === "live" ? "open" : "";
  if (state === "live") recovery.live(Date.now());
  tellRecovery();
  // A newcomer sees a bot at work at once. One that runs already shows itself by its status, every second.
  if (state === "live" && !welcomed) setTimeout(() => { if (suggested && !grid && !halted) form.requestSubmit(); }, 2_500);
  welcomed ||= state === "live";
});
tg.on("error", (error) => log($("log"), (error as Error).message, "down"));

$("cut").onclick = () => {
  recovery.cut(Date.now());
  line.cut(CUT_MS);
  tellRecovery();
};

function tellRecovery(): void {
  $("recovery").textContent = recovery.text;
}

const patterns = ["market.*", "grid.*", "backtest.*", "system.*", "system.gateway.*", "board.main.prices", "board.growth.prices", "board.star.prices",
  // The gateway polls the backend only for accounts with a subscription by name.
  ...["balance", "positions", "pnl", "orders"].map((part) => `user.${user}.${part}`)];
for (const pattern of patterns) {
  const subscription = tg.subscribe(pattern);
  subscription.on("event", (message) => {
    const isOwn = message.channel.startsWith("system.gateway.");
    if (isOwn === (pattern === "system.gateway.*")) receive(message);
  });
  subscription.on("end", (error) => error && log($("log"), `${pattern}: ${error.message}`, "down"));
  if (pattern === "grid.*") {
    // Nothing is kept of the bot's gains, which come again. If one of its orders is missing, what was shown may be wrong. A
    // bot that still runs shows itself by its status, every second.
    subscription.on("gap", ({ channels, complete }) => {
      if (complete && !channels.some((channel) => /\.(order|trade|lifecycle)$/.test(channel))) return;
      recovery.gap();
      tellRecovery();
      stopped();
      $("notice").textContent = "";
    });
  }
}

function receive({ channel, event, data, timestamp }: TickEvent<any>): void {
  const [category = "", name = "", kind = ""] = channel.split(".");
  if (category === "market") return market(name, kind, data, timestamp);
  if (category === "board") return board(data);
  if (category === "user") return account(kind, data);
  if (category === "grid") return bot(name, kind, event, data, timestamp);
  if (category === "backtest") return tested(name, kind, event, data);
  if (name === "gateway" && event === "update") return gateway(data);
  if (name === "health") $("health").textContent = `${data.status}, up ${data.uptime_s} s`;
  if (name === "log") log($("log"), `${time(timestamp)} ${data.level.padEnd(5)} ${data.source}: ${data.message}`, data.level === "error" || data.level === "warn" ? "down" : data.level === "debug" ? "soft" : "");
  if (name === "status") halt(data.mode === "halted");
  if (name === "kill_switch") halt(event === "activated");
}

// -- The market ---------------------------------------------------------------------------------------------------------

function market(name: string, kind: string, data: any, timestamp: number): void {
  const quote = quoteOf(name);
  if (kind === "orderbook") {
    quote.book = data;
    if (name === symbol) book();
  }
  if (kind === "trade" && name === symbol) {
    log($("tape"), `${time(timestamp)} ${price(data.price).padStart(10)} ${number(data.quantity, 4)}`, data.side === "buy" ? "up" : "down");
  }
  if (kind !== "price") return;
  quote.candles.add(timestamp, data.price);
  cells(quote.row, [name, price(data.price), signed(data.change_24h, `${number(data.change_24h * 100)} %`)], ["", data.price < quote.price ? "down" : data.price > quote.price ? "up" : "", tone(data.change_24h)]);
  quote.price = data.price;
  if (name !== symbol) return;
  if (!suggested) suggest();
  $("price").textContent = price(data.price);
  $("price").className = `price ${tone(data.change_24h)}`;
  $("change").textContent = signed(data.change_24h, `${number(data.change_24h * 100)} %`);
  draw();
}

function quoteOf(name: string): Quote {
  const known = quotes.get(name);
  if (known) return known;
  const row = document.createElement("tr");
  row.tabIndex = 0;
  row.onclick = () => choose(name);
  row.onkeydown = ({ key }) => { if (key === "Enter") choose(name); };
  const quote: Quote = { row, price: 0, candles: new Candles(SPAN_MS, CANDLES), book: { bids: [], asks: [] } };
  quotes.set(name, quote);
  const sorted = [...quotes.entries()].sort(([a], [b]) => (a < b ? -1 : 1));
  $("prices").append(...sorted.map(([, { row }]) => row));
  $("pair").append(element("option", name));
  $<HTMLSelectElement>("pair").value = symbol;
  if (name === symbol) choose(name);
  return quote;
}

function choose(name: string): void {
  symbol = name;
  for (const [other, { row }] of quotes) row.classList.toggle("chosen", other === name);
  $("symbol").textContent = name;
  $("tape").replaceChildren();
  if (!grid) {
    $<HTMLSelectElement>("pair").value = name;
    suggest();
  }
  book();
  draw();
}

function draw(): void {
  const quote = quotes.get(symbol);
  if (!quote) return;
  const isOurs = grid?.pair === symbol;
  const resting = isOurs ? [...orders.open.values()] : [];
  chart.canvas.dataset.orders = String(resting.length);
  chart.canvas.dataset.candles = String(quote.candles.list.length);
  chart.canvas.setAttribute("aria-label", `${symbol}: ${price(quote.price)}, ${quote.candles.list.length} candles of 5 seconds, ${resting.length} orders of the bot`);
  chart.show({ candles: quote.candles.list, spanMs: SPAN_MS, orders: resting, fills: isOurs ? orders.fills : [], format: price });
}

function book(): void {
  const { bids = [], asks = [] } = quotes.get(symbol)?.book ?? {};
  const most = Math.max(...[...bids, ...asks].slice(0, 2 * BOOK_ROWS).map(([, amount]) => amount), 1e-9);
  const ours = new Set(grid?.pair === symbol ? [...orders.open.values()].map((order) => price(order.price)) : []);
  const side = (levels: Level[], className: string): void => {
    const list = $(className);
    levels.forEach(([at, amount], index) => {
      const row = list.children[index] ?? list.appendChild(element("li"));
      if (row.childElementCount === 0) row.append(element("span"), element("span"));
      row.children[0]!.textContent = price(at);
      row.children[1]!.textContent = number(amount, 4);
      row.className = ours.has(price(at)) ? "ours" : "";
      (row as HTMLElement).style.setProperty("--depth", `${((amount / most) * 100).toFixed(0)}%`);
    });
    while (list.childElementCount > levels.length) list.lastElementChild!.remove();
  };
  side(asks.slice(0, BOOK_ROWS).reverse(), "asks");
  side(bids.slice(0, BOOK_ROWS), "bids");
  const spread = asks[0] && bids[0] ? asks[0][0] - bids[0][0] : 0;
  $("spread").textContent = spread > 0 ? `spread ${Number(spread.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3 })}` : "";
}

// All stocks of a board at first, then those that have changed.
function board(rows: any[]): void {
  for (const { code, name, price: now, change_percent, volume } of rows) {
    let row = stocks.get(code);
    if (!row) {
      row = document.createElement("tr");
      stocks.set(code, row);
      $("stocks").append(...[...stocks.entries()].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, other]) => other));
    }
    const change = `${change_percent >= 0 ? "+" : ""}${number(change_percent)} %`;
    cells(row, [code, name, price(now), change, Number(volume).toLocaleString("en")], ["", "soft left", "", tone(change_percent)]);
    row.classList.remove("fresh");
    void row.offsetWidth; // or the animation would not begin again
    row.classList.add("fresh");
  }
}

// -- The bot ------------------------------------------------------------------------------------------------------------

function suggest(): void {
  const now = quotes.get($<HTMLSelectElement>("pair").value)?.price;
  if (!now) return;
  suggested = true;
  const digits = now < 1 ? 6 : 0;
  field("lower_price").value = (now * 0.99).toFixed(digits);
  field("upper_price").value = (now * 1.01).toFixed(digits);
}

function bot(id: string, kind: string, event: string, data: any, timestamp: number): void {
  if (!grid && kind === "status" && data.active_buy_orders + data.active_sell_orders > 0) adopt(id, data.current_price);
  if (id !== grid?.id) return;
  recovery.event(timestamp);
  if (recovery.text) tellRecovery();
  if (kind === "status") {
    const total = data.realized_pnl + data.unrealized_pnl;
    return facts($("status"), [
      ["Price", price(data.current_price)], ["Position", data.position], ["Buy orders", data.active_buy_orders], ["Sell orders", data.active_sell_orders],
      ["Realised", number(data.realized_pnl), data.realized_pnl], ["Unrealised", number(data.unrealized_pnl), data.unrealized_pnl], ["Total", number(total), total],
    ]);
  }
  if (kind === "order") {
    orders.event(event, data as Order, timestamp);
    draw();
  }
  const details: Record<string, () => string> = {
    order: () => `${data.side} ${data.amount} at ${data.price}, line ${data.level}, position ${data.position_after}`,
    trade: () => `${data.side} ${data.amount} at ${data.price}, fee ${data.fee}, gain ${data.realized_pnl}`,
    pnl: () => `${data.total_pnl}`,
    risk: () => `${data.rule}: ${data.reason}`,
    lifecycle: () => data.reason ?? "",
  };
  const isDeal = event === "filled" || event === "executed";
  log($("stream"), `${time(timestamp)} ${kind} ${event} ${details[kind]?.() ?? ""}`, isDeal ? (data.side === "buy" ? "up" : "down") : "soft");
  if (event === "stopped") {
    stopped();
    $("notice").textContent = `Stopped${data.reason ? `: ${data.reason}` : ""}.`;
  }
}

/** Shows a bot that was started elsewhere. Its resting orders are in the history of their channel. */
function adopt(id: string, now: number): void {
  const near = [...quotes.entries()].sort(([, a], [, b]) => Math.abs(a.price / now - 1) - Math.abs(b.price / now - 1))[0];
  running(id, near?.[0] ?? symbol);
  void tg.history(`grid.${id}.order`, { limit: 1000 }).then(({ events }) => {
    if (grid?.id !== id) return;
    for (const { event, data, timestamp } of events) orders.event(event, data as Order, timestamp);
    draw();
  }, () => {});
}

function running(id: string, pair: string): void {
  grid = { id, pair };
  orders.clear();
  $<HTMLButtonElement>("start").disabled = true;
  $<HTMLButtonElement>("stop").disabled = false;
  $("notice").textContent = `${id} is running.`;
  if (pair !== symbol && quotes.has(pair)) choose(pair);
}

function stopped(): void {
  grid = undefined;
  orders.open.clear();
  facts($("status"), []);
  $<HTMLButtonElement>("stop").disabled = true;
  $<HTMLButtonElement>("start").disabled = false;
  draw();
}

$("pair").onchange = () => choose($<HTMLSelectElement>("pair").value);
form.onsubmit = async (submit) => {
  submit.preventDefault();
  $<HTMLButtonElement>("start").disabled = true;
  const pair = $<HTMLSelectElement>("pair").value;
  try {
    const { grid_id } = await tg.command("grid.start", {
      pair,
      lower_price: Number(field("lower_price").value),
      upper_price: Number(field("upper_price").value),
      grid_count: Number(field("grid_count").value),
    });
    if (grid?.id !== grid_id) running(grid_id, pair);
    $("stream").replaceChildren();
  } catch (error) {
    $<HTMLButtonElement>("start").disabled = false;
    $("notice").textContent = (error as Error).message;
  }
};
$("stop").onclick = async () => {
  const answer = await tg.command("grid.stop", { id: grid?.id, cancel_orders: true }).catch((error) => error);
  $("notice").textContent = answer instanceof Error ? answer.message : "Stopped; its orders are cancelled.";
};

// -- Account, back-test, gateway, kill switch ---------------------------------------------------------------------------

const sums: Record<string, [value: string | number, sign?: number]> = {};

function account(kind: string, data: any): void {
  if (kind === "balance") Object.assign(sums, { Total: [number(data.total_balance)], Available: [number(data.available_balance)], Margin: [number(data.used_margin)] });
  if (kind === "pnl") sums.Gains = [number(data.total_pnl), data.total_pnl];
  if (kind === "orders") sums.Orders = [data.length];
  if (kind === "positions") sums.Positions = [data.length];
  facts($("account"), Object.entries(sums).map(([name, [value, sign]]) => (sign === undefined ? [name, value] : [name, value, sign])));
}

function gateway(data: any): void {
  facts($("gateway"), [
    ["Connections", data.total.connections], ["Subscriptions", data.total.subscriptions], ["Events", `${number(data.events_per_s, 1)} /s`],
    ["Deliveries", `${number(data.total.deliveries_per_s, 1)} /s`], ["CPU", `${number(data.cpu * 100)} %`],
    ["Memory", `${number(data.rss_bytes / 2 ** 20, 1)} MiB`], ["Dropped", data.total.dropped], ["Node", data.node],
  ]);
}

function tested(id: string, kind: string, event: string, data: any): void {
  if (id !== backtest) return;
  if (kind === "progress") {
    $<HTMLProgressElement>("progress").value = data.progress;
    facts($("result"), [["Day", data.current_date], ["Equity", number(data.current_equity)], ["Trades", data.trades_count]]);
    return;
  }
  if (!["completed", "cancelled", "error"].includes(event)) return;
  backtest = undefined;
  $<HTMLButtonElement>("run").disabled = false;
  $<HTMLButtonElement>("cancel").disabled = true;
  $<HTMLProgressElement>("progress").value = event === "completed" ? 1 : 0;
  const { result } = data;
  $("tested").textContent = data.reason ?? (event === "completed" ? "Completed." : "Cancelled.");
  if (!result) return;
  facts($("result"), [
    ["Return", `${number(result.total_return * 100)} %`, result.total_return], ["Final equity", number(result.final_equity)], ["Drawdown", `${number(result.max_drawdown * 100)} %`],
    ["Trades", result.trades_count], ["Won", `${number(result.win_rate * 100)} %`], ["Fees", number(result.fees)],
  ]);
}

$<HTMLFormElement>("test").onsubmit = async (submit) => {
  submit.preventDefault();
  const day = (ago: number): string => new Date(Date.now() - ago * 86_400_000).toISOString().slice(0, 10);
  $<HTMLButtonElement>("run").disabled = true;
  $("tested").textContent = "";
  try {
    const days = Number($<HTMLSelectElement>("days").value);
    ({ backtest_id: backtest } = await tg.command("backtest.run", { pair: symbol, start_date: day(days), end_date: day(1), initial_capital: 10_000 }));
    $<HTMLButtonElement>("cancel").disabled = false;
  } catch (error) {
    $<HTMLButtonElement>("run").disabled = false;
    $("tested").textContent = (error as Error).message;
  }
};
$("cancel").onclick = () => void tg.command("backtest.cancel", { id: backtest }).catch((error) => { $("tested").textContent = error.message; });

function halt(active: boolean): void {
  halted = active;
  $("switch").textContent = active ? "Release the kill switch" : "Kill switch";
  $("switch").classList.toggle("active", active);
}
$("switch").onclick = () => {
  const params = { action: halted ? "deactivate" : "activate", reason: "pressed on the page" };
  tg.command("system.kill_switch", params).catch((error) => { $("notice").textContent = error.message; });
};
tg.connect().catch(() => {}); // `state` tells why.
