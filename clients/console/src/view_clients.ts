// Who is slow, dropped or refused, and why did they leave?

import { get, withQuery } from "./api.js";
import { h, section, setText, Table } from "./dom.js";
import { ago, bytes, duration, number } from "./format.js";
import type { Context, View } from "./view.js";

interface Count {
  code: number;
  label: string;
  reason: string;
  blame: string;
  advice: string;
  count: number;
}

interface Ending {
  client_id: string;
  user: string | null;
  address: string | null;
  dialect: string;
  code: number;
  reason: string;
  blame: string;
  connected_at: number;
  ended_at: number;
  message_count: number;
  dropped: number;
}

export interface Client {
  client_id: string;
  user: string | null;
  role: string | null;
  address: string | null;
  dialect: string;
  transport: string;
  connected_at: number;
  last_ping: number | null;
  last_pong: number | null;
  subscriptions: string[];
  max_rates: Record<string, number>;
  message_count: number;
  pending: number;
  pending_bytes: number;
  waiting_seconds: number | null;
  dropped: number;
  rate_limited: number;
  rate_limited_at: number | null;
  is_alive: boolean;
}

const ORDERS: [string, string][] = [
  ["trouble", "any trouble"], ["waiting", "longest wait"], ["pending", "most bytes queued"], ["dropped", "most events dropped"], ["rate_limited", "sent too fast"],
];
const BLAMES: [string, string][] = [["", "anybody"], ["client", "the client"], ["gateway", "the gateway"], ["operator", "an operator"]];

export function select(label: string, options: [string, string][], changed: (value: string) => void): HTMLElement {
  const box = h("select", { onchange: () => changed(box.value) }, ...options.map(([value, text]) => h("option", { value }, text)));
  return h("label", {}, label, box);
}

export const who = (user: string | null): string => user ?? "anonymous";

/** A link to the view of a user. */
export function userLink(user: string | null): Node {
  return user === null ? h("span", { class: "soft" }, who(user)) : h("a", { href: `#user/${encodeURIComponent(user)}` }, user);
}

/** A search box and the way to the next page, for a list that the gateway searches and cuts. `read` shows a page and returns where the next one begins. */
export function pages(label: string, placeholder: string, read: (search: string, cursor: string | undefined) => Promise<string | null>): { element: HTMLElement; refresh: () => Promise<void> } {
  let [search, cursor, next] = ["", undefined as string | undefined, null as string | null];
  const told = h("p", { class: "told bad", role: "status" });
  const go = (to: string | undefined): void => { cursor = to; void refresh(); };
  const box = h("input", { type: "search", spellcheck: "false", autocomplete: "off", placeholder, oninput: () => { search = box.value.trim(); go(undefined); } });
  const first = h("button", { type: "button", class: "quiet", onclick: () => go(undefined) }, "First page");
  const more = h("button", { type: "button", class: "quiet", onclick: () => go(next ?? undefined) }, "Next page");
  let asked = 0;
  const refresh = async (): Promise<void> => {
    const mine = ++asked;
    try {
      const found = await read(search, cursor);
      if (mine !== asked) return;
      next = found;
      setText(told, "");
    } catch (error) {
      setText(told, (error as Error).message);
    }
    first.disabled = cursor === undefined;
    more.disabled = next === null;
    first.hidden = more.hidden = first.disabled && more.disabled;
  };
  return { element: h("div", {}, h("div", { class: "filters" }, h("label", {}, label, box), first, more), told), refresh };
}

const tone = ({ blame }: { blame: string }): string => `state ${blame === "client" ? "" : blame === "gateway" ? "bad" : "warn"}`;

export function open({ tenant }: Context): View {
  let sort = "trouble";
  let blame = "";
  let user = "";
  const slow = new Table<Client>("Clients with trouble", [
    { title: "User", make: (row) => userLink(row().user) },
    { title: "Client", text: (client) => client.client_id, tone: () => "code" },
    { title: "Address", text: (client) => client.address ?? "–" },
    { title: "Dialect", text: (client) => client.dialect },
    { title: "Waits for", numeric: true, text: (client) => (client.waiting_seconds === null ? "–" : duration(client.waiting_seconds)) },
    { title: "Queued", numeric: true, text: (client) => bytes(client.pending_bytes) },
    { title: "Frames", numeric: true, text: (client) => number(client.pending) },
    { title: "Dropped", numeric: true, text: (client) => number(client.dropped), tone: (client) => (client.dropped > 0 ? "bad" : "") },
    { title: "Too fast", numeric: true, text: (client) => number(client.rate_limited), tone: (client) => (client.rate_limited > 0 ? "warn" : "") },
    { title: "Connected", numeric: true, text: (client) => ago(client.connected_at, Date.now()) },
  ], (client) => client.client_id, "no client has this trouble");
  const counts = new Table<Count>(tenant ? "Endings by close code, of those that are remembered" : "Endings by close code since the start", [
    { title: "Code", text: ({ code }) => String(code) },
    { title: "Reason", text: ({ reason }) => reason, tone: () => "name" },
    { title: "Whose doing", text: (count) => count.blame, tone },
    { title: "Clients should", text: ({ advice }) => (advice === "stay" ? "stay away" : advice.replaceAll("_", " ")) },
    { title: "Count", numeric: true, text: ({ count }) => number(count) },
  ], ({ code }) => String(code), "no connection has ended yet");
  const refused = new Table<{ reason: string; count: number }>("Refused handshakes by reason, since the start", [
    { title: "Reason", text: ({ reason }) => reason.replaceAll("_", " "), tone: () => "name" },
    { title: "Count", numeric: true, text: ({ count }) => number(count) },
  ], ({ reason }) => reason, "no handshake was refused");
  const recent = new Table<Ending>("Last endings", [
    { title: "When", text: ({ ended_at }) => ago(ended_at, Date.now()) },
    { title: "Code", text: ({ code }) => String(code) },
    { title: "Reason", text: ({ reason }) => reason, tone: () => "name" },
    { title: "Whose doing", text: (ending) => ending.blame, tone },
    { title: "User", make: (row) => userLink(row().user) },
    { title: "Client", text: ({ client_id }) => client_id, tone: () => "code" },
    { title: "Address", text: ({ address }) => address ?? "–" },
    { title: "Stayed", numeric: true, text: ({ connected_at, ended_at }) => duration(Math.max(0, ended_at - connected_at)) },
    { title: "Messages", numeric: true, text: ({ message_count }) => number(message_count) },
    { title: "Dropped", numeric: true, text: ({ dropped }) => number(dropped), tone: ({ dropped }) => (dropped > 0 ? "bad" : "") },
  ], ({ client_id, ended_at }) => `${client_id} ${ended_at}`, "no ending fits");
  const refresh = async (): Promise<void> => {
    const [worst, endings] = await Promise.all([
      get<{ clients: Client[] }>(withQuery("websocket/clients", { sort, limit: 50 })),
      get<{ counts: Count[]; recent: Ending[]; refused?: Record<string, number> }>(withQuery("endings", { limit: 100, blame, user })),
    ]);
    slow.update(worst.clients);
    counts.update(endings.counts.filter(({ count }) => count > 0));
    recent.update(endings.recent);
    const reasons = Object.entries(endings.refused ?? {}).map(([reason, count]) => ({ reason, count }));
    refused.update(reasons.filter(({ count }) => count > 0).sort((a, b) => b.count - a.count));
  };
  const again = (): void => void refresh().catch(() => {});
  const userBox = h("input", { type: "search", spellcheck: "false", autocomplete: "off", oninput: () => { user = userBox.value.trim(); again(); } });
  const element = h("div", {},
    section("Slow, dropped, refused", h("div", { class: "filters" }, select("Order by", ORDERS, (value) => { sort = value; again(); })), slow.element),
    section("Why did they leave", counts.element),
    // The gateway counts those of all tenants together.
    !tenant && section("Who was not let in", refused.element),
    section("Last endings",
      h("div", { class: "filters" }, select("Whose doing", BLAMES, (value) => { blame = value; again(); }), h("label", {}, "User", userBox)),
      recent.element));
  return { element, refresh };
}
