// One channel: its class, what is kept of it, who subscribes, and a live tail.

import { get, withQuery } from "./api.js";
import { ask } from "./act.js";
import { h, section, setText, Table } from "./dom.js";
import { ago, bytes, bytesPerSecond, clock, duration, number, perSecond } from "./format.js";
import { traceForm } from "./trace.js";
import { pages } from "./view_clients.js";
import type { Context, View } from "./view.js";

interface Event {
  event: string;
  timestamp: number;
  offset?: number;
  data?: unknown;
}

interface Class {
  cache_last: boolean;
  history: { length: number; ttl_seconds: number | null } | null;
  overflow: string;
  record_key: string | null;
  only_changed: boolean;
  book: boolean;
  depth: number | null;
  max_rate: number | null;
  last_ttl_seconds: number | null;
  fresh_within_seconds: number | null;
  [more: string]: unknown;
}

interface Channel {
  channel: string;
  epoch: string;
  offset: number | null;
  subscribers: number;
  last: Event | null;
  class: Class;
  kept: { bytes: number; events: number } | null;
}

export interface Listed {
  channel: string;
  bytes: number;
  events: number;
  offset: number | null;
}

/** How much is published to a channel, as an estimate. */
interface Busy {
  channel: string;
  events_per_s: number;
  bytes_per_s: number;
}

const LINES_MAX = 500;

/** A link to the view of a channel. */
export function channelLink(channel: string): Node {
  return h("a", { class: "code", href: `#channel/${encodeURIComponent(channel)}` }, channel);
}

export function open(context: Context): View {
  const { argument } = context;
  const box = h("input", { type: "search", value: argument, spellcheck: "false", autocomplete: "off", required: true, placeholder: "market.BTC-USDC.price" });
  const search = h("form", {
    class: "filters",
    onsubmit: (event: globalThis.Event) => {
      event.preventDefault();
      location.hash = `channel/${encodeURIComponent(box.value.trim())}`;
    },
  }, h("label", {}, "Channel", box), h("button", {}, "Look"));
  return argument ? one(context, search) : all(search);
}

function all(search: HTMLElement): View {
  const busiest = new Table<Busy>("Busiest channels", [
    { title: "Channel", make: (row) => channelLink(row().channel) },
    { title: "Events", numeric: true, text: ({ events_per_s }) => perSecond(events_per_s) },
    { title: "Data", numeric: true, text: ({ bytes_per_s }) => bytesPerSecond(bytes_per_s) },
  ], ({ channel }) => channel, "hardly anything was published in the last five minutes");
  const table = new Table<Listed>("Channels of which something is kept", [
    { title: "Channel", make: (row) => channelLink(row().channel) },
    { title: "Events kept", numeric: true, text: ({ events }) => number(events) },
    { title: "Bytes", numeric: true, text: (row) => bytes(row.bytes) },
    { title: "Newest offset", numeric: true, text: ({ offset }) => (offset === null ? "–" : number(offset)) },
  ], ({ channel }) => channel, "nothing is kept of any such channel");
  const list = pages("Pattern", "grid.*", async (pattern, cursor) => {
    const page = await get<{ channels: Listed[]; next_cursor: string | null }>(withQuery("channels", { pattern, limit: 100, cursor }));
    table.update(page.channels);
    return page.next_cursor;
  });
  return {
    element: h("div", {}, section("Which channel?", search),
      section("Busiest channels", busiest.element, h("p", { class: "about" }, "Estimated from one event in 32, of the last five minutes or less.")),
      section("Channels with state", list.element, table.element)),
    async refresh() {
      const [{ channels }] = await Promise.all([get<{ channels: Busy[] }>("channels?sort=rate&limit=10"), list.refresh()]);
      busiest.update(channels);
    },
  };
}

function one(context: Context, search: HTMLElement): View {
  const { argument, session, live } = context;
  const path = `channels/${encodeURIComponent(argument)}`;
  const facts = h("dl", { class: "facts" });
  const last = h("pre", { class: "data", tabindex: 0 });
  const history = new Table<Event>("History, newest last", [
    { title: "Offset", numeric: true, text: ({ offset }) => String(offset ?? "–") },
    { title: "When", numeric: true, text: ({ timestamp }) => clock(timestamp) },
    { title: "Event", text: ({ event }) => event, tone: () => "name" },
    { title: "Data", text: ({ data }) => JSON.stringify(data), tone: () => "code wide" },
  ], ({ offset, timestamp }) => `${offset} ${timestamp}`, "no history");
  const tail = tailOf(argument, live.client);
  const trace = traceForm(context, { channel: argument });
  const isOperator = session.role === "operator";
  const publish = h("button", {
    onclick: () => ask(context, `Publish a test event to ${argument}`, "POST", `${path}/test`),
  }, "Publish a test event");
  const forget = h("button", {
    class: "danger",
    onclick: () => ask(context, `Delete what is kept of ${argument}`, "DELETE", path),
  }, "Delete what is kept");
  const element = h("div", {},
    section("Channel", search, facts, isOperator && h("p", { class: "actions" }, publish, " ", forget)),
    section("Last value", last),
    isOperator && section("Live", tail.element),
    isOperator && section("History", history.element),
    trace.element);
  return {
    element,
    close: () => { tail.close(); trace.close(); },
    async refresh() {
      const channel = await get<Channel>(path);
      const { class: rules } = channel;
      show(facts, [
        ["Subscribers", number(channel.subscribers)],
        ["Kept", channel.kept ? `${number(channel.kept.events)} ${channel.kept.events === 1 ? "event" : "events"}, ${bytes(channel.kept.bytes)}` : "nothing"],
        ["Newest offset", channel.offset === null ? "no history" : String(channel.offset)],
        ["Last event", channel.last ? `${channel.last.event}, ${ago(channel.last.timestamp / 1000, Date.now())}` : "none"],
        ["Class keeps", [rules.cache_last && "the last value", rules.history && `a history of ${rules.history.length}`].filter(Boolean).join(", ") || "nothing"],
        ["Merges", rules.book ? `an order book, ${rules.depth === null ? "all levels" : `${rules.depth} levels a side`}` : rules.record_key === null ? "nothing" : `records by ${rules.record_key}`],
        ["Sends", [rules.only_changed && "changes only", rules.max_rate !== null && `at most ${number(rules.max_rate)} per second`].filter(Boolean).join(", ") || "every event"],
        ["Last value ends", rules.last_ttl_seconds === null ? "never" : `after ${duration(rules.last_ttl_seconds)}`],
        ["Stale", rules.fresh_within_seconds === null ? "never" : `after ${duration(rules.fresh_within_seconds)} of silence`],
        ["For slow clients", rules.overflow.replaceAll("_", " ")],
        ["Rate", tail.rate()],
      ]);
      const data = channel.last?.data;
      setText(last, channel.last === null ? "There is none." : data === undefined ? "Only operators see it." : JSON.stringify(data, null, 2));
      if (isOperator && channel.offset !== null) {
        const since = Math.max(0, channel.offset - 50);
        history.update((await get<{ events: Event[] }>(withQuery(`${path}/history`, { since, limit: 50 }))).events);
      }
      await trace.refresh();
    },
  };
}

/** Shows names and values. */
export function show(list: HTMLElement, facts: [string, string][]): void {
  if (list.childElementCount !== facts.length) {
    list.replaceChildren(...facts.map(([name]) => h("div", {}, h("dt", {}, name), h("dd"))));
  }
  facts.forEach(([, value], index) => setText(list.children[index]!.lastElementChild!, value));
}

function tailOf(channel: string, client: Context["live"]["client"]): { element: HTMLElement; rate: () => string; close: () => void } {
  const lines = h("ol", { class: "lines code", tabindex: 0, "aria-label": "Live events" });
  const began = Date.now();
  let count = 0;
  let paused = false;
  const pause = h("button", { class: "quiet", "aria-pressed": "false", onclick: () => { paused = !paused; pause.setAttribute("aria-pressed", String(paused)); setText(pause, paused ? "Continue" : "Pause"); } }, "Pause");
  const subscription = client.subscribe(channel);
  subscription.on("event", ({ event, data, timestamp, isSnapshot }) => {
    if (!isSnapshot) count += 1;
    if (paused) return;
    lines.prepend(h("li", {}, `${clock(timestamp)}  ${event}${isSnapshot ? " (kept)" : ""}  ${JSON.stringify(data)}`));
    if (lines.childElementCount > LINES_MAX) lines.lastElementChild?.remove();
  });
  subscription.on("end", (error) => lines.prepend(h("li", { class: "bad" }, error?.message ?? "ended")));
  return {
    element: h("div", {}, h("p", { class: "actions" }, pause), lines),
    rate: () => `${number(count / Math.max(1, (Date.now() - began) / 1000))} events/s since this view was opened`,
    close: () => subscription.unsubscribe(),
  };
}
