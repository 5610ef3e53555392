import { Candles, Orders } from "./candles.js";
import { PriceChart } from "./chart.js";
import { createClient } from "./client.js";
import { Line, Recovery } from "./link.js";
const SPAN_MS = 5_000;
const CANDLES = 240;
const LINES = 200;
const CUT_MS = 3_000;
const BOOK_ROWS = 8;
const FIRST = "BTC-USDC";
const $ = (id) => document.getElementById(id);
const form = $("grid");
const field = (name) => form.elements.namedItem(name);
const quotes = new Map();
const stocks = new Map();
const orders = new Orders();
const recovery = new Recovery();
const line = new Line();
const chart = new PriceChart($("chart"));
let symbol = FIRST;
let grid;
let backtest;
let halted = false;
let suggested = false;
let welcomed = false;
function element(tag, text = "", className = "") {
    const node = document.createElement(tag);
    node.textContent = text;
    if (className)
        node.className = className;
    return node;
}
function number(value, digits = 2) {
    return value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: Math.min(digits, 2) });
}
function price(value) {
    return value.toLocaleString("en", Math.abs(value) < 1 ? { minimumSignificantDigits: 4, maximumSignificantDigits: 5 } : { maximumFractionDigits: 2, minimumFractionDigits: 2 });
}
const signed = (value, text) => `${value >= 0 ? "+" : "−"}${text.replace("-", "")}`;
const tone = (value) => (value < 0 ? "down" : "up");
const time = (ms) => new Date(ms).toLocaleTimeString("en-GB");
function facts(list, values) {
    list.replaceChildren(...values.map(([name, value, sign]) => {
        const row = element("div");
        row.append(element("dt", name), element("dd", String(value), sign === undefined ? "" : tone(sign)));
        return row;
    }));
}
function log(list, text, className = "") {
    list.prepend(element("li", text, className));
    while (list.childElementCount > LINES)
        list.lastElementChild.remove();
}
function cells(row, texts, classes = []) {
    while (row.cells.length < texts.length)
        row.insertCell();
    texts.forEach((text, index) => {
        const cell = row.cells[index];
        if (cell.textContent !== text)
            cell.textContent = text;
        cell.className = classes[index] ?? "";
    });
}
const session = async () => (await fetch("session.json")).json();
const first = await session();
let token = first.token;
const tg = createClient({
    url: `ws://${location.hostname}:${first.port}${first.path}`,
    token,
    getToken: async () => (token = (await session()).token),
    WebSocket: line.WebSocket,
});
const user = JSON.parse(atob(token.split(".")[1].replaceAll("-", "+").replaceAll("_", "/"))).sub;
tg.on("state", ({ state, reason, final }) => {
    $("state").textContent = state === "live" ? "connected" : final ? `${reason}; reload the page to come back` : reason || state;
    $("state").className = state === "live" ? "open" : "";
    if (state === "live")
        recovery.live(Date.now());
    tellRecovery();
    if (state === "live" && !welcomed)
        setTimeout(() => { if (suggested && !grid && !halted)
            form.requestSubmit(); }, 2_500);
    welcomed ||= state === "live";
});
tg.on("error", (error) => log($("log"), error.message, "down"));
$("cut").onclick = () => {
    recovery.cut(Date.now());
    line.cut(CUT_MS);
    tellRecovery();
};
function tellRecovery() {
    $("recovery").textContent = recovery.text;
}
const patterns = ["market.*", "grid.*", "backtest.*", "system.*", "system.gateway.*", "board.main.prices", "board.growth.prices", "board.star.prices",
    ...["balance", "positions", "pnl", "orders"].map((part) => `user.${user}.${part}`)];
for (const pattern of patterns) {
    const subscription = tg.subscribe(pattern);
    subscription.on("event", (message) => {
        const isOwn = message.channel.startsWith("system.gateway.");
        if (isOwn === (pattern === "system.gateway.*"))
            receive(message);
    });
    subscription.on("end", (error) => error && log($("log"), `${pattern}: ${error.message}`, "down"));
    if (pattern === "grid.*") {
        subscription.on("gap", ({ channels, complete }) => {
            if (complete && !channels.some((channel) => /\.(order|trade|lifecycle)$/.test(channel)))
                return;
            recovery.gap();
            tellRecovery();
            stopped();
            $("notice").textContent = "";
        });
    }
}
function receive({ channel, event, data, timestamp }) {
    const [category = "", name = "", kind = ""] = channel.split(".");
    if (category === "market")
        return market(name, kind, data, timestamp);
    if (category === "board")
        return board(data);
    if (category === "user")
        return account(kind, data);
    if (category === "grid")
        return bot(name, kind, event, data, timestamp);
    if (category === "backtest")
        return tested(name, kind, event, data);
    if (name === "gateway" && event === "update")
        return gateway(data);
    if (name === "health")
        $("health").textContent = `${data.status}, up ${data.uptime_s} s`;
    if (name === "log")
        log($("log"), `${time(timestamp)} ${data.level.padEnd(5)} ${data.source}: ${data.message}`, data.level === "error" || data.level === "warn" ? "down" : data.level === "debug" ? "soft" : "");
    if (name === "status")
        halt(data.mode === "halted");
    if (name === "kill_switch")
        halt(event === "activated");
}
function market(name, kind, data, timestamp) {
    const quote = quoteOf(name);
    if (kind === "orderbook") {
        quote.book = data;
        if (name === symbol)
            book();
    }
    if (kind === "trade" && name === symbol) {
        log($("tape"), `${time(timestamp)} ${price(data.price).padStart(10)} ${number(data.quantity, 4)}`, data.side === "buy" ? "up" : "down");
    }
    if (kind !== "price")
        return;
    quote.candles.add(timestamp, data.price);
    cells(quote.row, [name, price(data.price), signed(data.change_24h, `${number(data.change_24h * 100)} %`)], ["", data.price < quote.price ? "down" : data.price > quote.price ? "up" : "", tone(data.change_24h)]);
    quote.price = data.price;
    if (name !== symbol)
        return;
    if (!suggested)
        suggest();
    $("price").textContent = price(data.price);
    $("price").className = `price ${tone(data.change_24h)}`;
    $("change").textContent = signed(data.change_24h, `${number(data.change_24h * 100)} %`);
    draw();
}
function quoteOf(name) {
    const known = quotes.get(name);
    if (known)
        return known;
    const row = document.createElement("tr");
    row.tabIndex = 0;
    row.onclick = () => choose(name);
    row.onkeydown = ({ key }) => { if (key === "Enter")
        choose(name); };
    const quote = { row, price: 0, candles: new Candles(SPAN_MS, CANDLES), book: { bids: [], asks: [] } };
    quotes.set(name, quote);
    const sorted = [...quotes.entries()].sort(([a], [b]) => (a < b ? -1 : 1));
    $("prices").append(...sorted.map(([, { row }]) => row));
    $("pair").append(element("option", name));
    $("pair").value = symbol;
    if (name === symbol)
        choose(name);
    return quote;
}
function choose(name) {
    symbol = name;
    for (const [other, { row }] of quotes)
        row.classList.toggle("chosen", other === name);
    $("symbol").textContent = name;
    $("tape").replaceChildren();
    if (!grid) {
        $("pair").value = name;
        suggest();
    }
    book();
    draw();
}
function draw() {
    const quote = quotes.get(symbol);
    if (!quote)
        return;
    const isOurs = grid?.pair === symbol;
    const resting = isOurs ? [...orders.open.values()] : [];
    chart.canvas.dataset.orders = String(resting.length);
    chart.canvas.dataset.candles = String(quote.candles.list.length);
    chart.canvas.setAttribute("aria-label", `${symbol}: ${price(quote.price)}, ${quote.candles.list.length} candles of 5 seconds, ${resting.length} orders of the bot`);
    chart.show({ candles: quote.candles.list, spanMs: SPAN_MS, orders: resting, fills: isOurs ? orders.fills : [], format: price });
}
function book() {
    const { bids = [], asks = [] } = quotes.get(symbol)?.book ?? {};
    const most = Math.max(...[...bids, ...asks].slice(0, 2 * BOOK_ROWS).map(([, amount]) => amount), 1e-9);
    const ours = new Set(grid?.pair === symbol ? [...orders.open.values()].map((order) => price(order.price)) : []);
    const side = (levels, className) => {
        const list = $(className);
        levels.forEach(([at, amount], index) => {
            const row = list.children[index] ?? list.appendChild(element("li"));
            if (row.childElementCount === 0)
                row.append(element("span"), element("span"));
            row.children[0].textContent = price(at);
            row.children[1].textContent = number(amount, 4);
            row.className = ours.has(price(at)) ? "ours" : "";
            row.style.setProperty("--depth", `${((amount / most) * 100).toFixed(0)}%`);
        });
        while (list.childElementCount > levels.length)
            list.lastElementChild.remove();
    };
    side(asks.slice(0, BOOK_ROWS).reverse(), "asks");
    side(bids.slice(0, BOOK_ROWS), "bids");
    const spread = asks[0] && bids[0] ? asks[0][0] - bids[0][0] : 0;
    $("spread").textContent = spread > 0 ? `spread ${Number(spread.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3 })}` : "";
}
function board(rows) {
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
        void row.offsetWidth;
        row.classList.add("fresh");
    }
}
function suggest() {
    const now = quotes.get($("pair").value)?.price;
    if (!now)
        return;
    suggested = true;
    const digits = now < 1 ? 6 : 0;
    field("lower_price").value = (now * 0.99).toFixed(digits);
    field("upper_price").value = (now * 1.01).toFixed(digits);
}
function bot(id, kind, event, data, timestamp) {
    if (!grid && kind === "status" && data.active_buy_orders + data.active_sell_orders > 0)
        adopt(id, data.current_price);
    if (id !== grid?.id)
        return;
    recovery.event(timestamp);
    if (recovery.text)
        tellRecovery();
    if (kind === "status") {
        const total = data.realized_pnl + data.unrealized_pnl;
        return facts($("status"), [
            ["Price", price(data.current_price)], ["Position", data.position], ["Buy orders", data.active_buy_orders], ["Sell orders", data.active_sell_orders],
            ["Realised", number(data.realized_pnl), data.realized_pnl], ["Unrealised", number(data.unrealized_pnl), data.unrealized_pnl], ["Total", number(total), total],
        ]);
    }
    if (kind === "order") {
        orders.event(event, data, timestamp);
        draw();
    }
    const details = {
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
function adopt(id, now) {
    const near = [...quotes.entries()].sort(([, a], [, b]) => Math.abs(a.price / now - 1) - Math.abs(b.price / now - 1))[0];
    running(id, near?.[0] ?? symbol);
    void tg.history(`grid.${id}.order`, { limit: 1000 }).then(({ events }) => {
        if (grid?.id !== id)
            return;
        for (const { event, data, timestamp } of events)
            orders.event(event, data, timestamp);
        draw();
    }, () => { });
}
function running(id, pair) {
    grid = { id, pair };
    orders.clear();
    $("start").disabled = true;
    $("stop").disabled = false;
    $("notice").textContent = `${id} is running.`;
    if (pair !== symbol && quotes.has(pair))
        choose(pair);
}
function stopped() {
    grid = undefined;
    orders.open.clear();
    facts($("status"), []);
    $("stop").disabled = true;
    $("start").disabled = false;
    draw();
}
$("pair").onchange = () => choose($("pair").value);
form.onsubmit = async (submit) => {
    submit.preventDefault();
    $("start").disabled = true;
    const pair = $("pair").value;
    try {
        const { grid_id } = await tg.command("grid.start", {
            pair,
            lower_price: Number(field("lower_price").value),
            upper_price: Number(field("upper_price").value),
            grid_count: Number(field("grid_count").value),
        });
        if (grid?.id !== grid_id)
            running(grid_id, pair);
        $("stream").replaceChildren();
    }
    catch (error) {
        $("start").disabled = false;
        $("notice").textContent = error.message;
    }
};
$("stop").onclick = async () => {
    const answer = await tg.command("grid.stop", { id: grid?.id, cancel_orders: true }).catch((error) => error);
    $("notice").textContent = answer instanceof Error ? answer.message : "Stopped; its orders are cancelled.";
};
const sums = {};
function account(kind, data) {
    if (kind === "balance")
        Object.assign(sums, { Total: [number(data.total_balance)], Available: [number(data.available_balance)], Margin: [number(data.used_margin)] });
    if (kind === "pnl")
        sums.Gains = [number(data.total_pnl), data.total_pnl];
    if (kind === "orders")
        sums.Orders = [data.length];
    if (kind === "positions")
        sums.Positions = [data.length];
    facts($("account"), Object.entries(sums).map(([name, [value, sign]]) => (sign === undefined ? [name, value] : [name, value, sign])));
}
function gateway(data) {
    facts($("gateway"), [
        ["Connections", data.total.connections], ["Subscriptions", data.total.subscriptions], ["Events", `${number(data.events_per_s, 1)} /s`],
        ["Deliveries", `${number(data.total.deliveries_per_s, 1)} /s`], ["CPU", `${number(data.cpu * 100)} %`],
        ["Memory", `${number(data.rss_bytes / 2 ** 20, 1)} MiB`], ["Dropped", data.total.dropped], ["Node", data.node],
    ]);
}
function tested(id, kind, event, data) {
    if (id !== backtest)
        return;
    if (kind === "progress") {
        $("progress").value = data.progress;
        facts($("result"), [["Day", data.current_date], ["Equity", number(data.current_equity)], ["Trades", data.trades_count]]);
        return;
    }
    if (!["completed", "cancelled", "error"].includes(event))
        return;
    backtest = undefined;
    $("run").disabled = false;
    $("cancel").disabled = true;
    $("progress").value = event === "completed" ? 1 : 0;
    const { result } = data;
    $("tested").textContent = data.reason ?? (event === "completed" ? "Completed." : "Cancelled.");
    if (!result)
        return;
    facts($("result"), [
        ["Return", `${number(result.total_return * 100)} %`, result.total_return], ["Final equity", number(result.final_equity)], ["Drawdown", `${number(result.max_drawdown * 100)} %`],
        ["Trades", result.trades_count], ["Won", `${number(result.win_rate * 100)} %`], ["Fees", number(result.fees)],
    ]);
}
$("test").onsubmit = async (submit) => {
    submit.preventDefault();
    const day = (ago) => new Date(Date.now() - ago * 86_400_000).toISOString().slice(0, 10);
    $("run").disabled = true;
    $("tested").textContent = "";
    try {
        const days = Number($("days").value);
        ({ backtest_id: backtest } = await tg.command("backtest.run", { pair: symbol, start_date: day(days), end_date: day(1), initial_capital: 10_000 }));
        $("cancel").disabled = false;
    }
    catch (error) {
        $("run").disabled = false;
        $("tested").textContent = error.message;
    }
};
$("cancel").onclick = () => void tg.command("backtest.cancel", { id: backtest }).catch((error) => { $("tested").textContent = error.message; });
function halt(active) {
    halted = active;
    $("switch").textContent = active ? "Release the kill switch" : "Kill switch";
    $("switch").classList.toggle("active", active);
}
$("switch").onclick = () => {
    const params = { action: halted ? "deactivate" : "activate", reason: "pressed on the page" };
    tg.command("system.kill_switch", params).catch((error) => { $("notice").textContent = error.message; });
};
tg.connect().catch(() => { });
