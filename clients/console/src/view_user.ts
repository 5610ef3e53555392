// One user: connections, permissions as resolved, subscriptions, last commands and endings, and what would be refused.

import { get, withQuery } from "./api.js";
import { h, section, setText, Table } from "./dom.js";
import { ago, bytes, clock, duration, number } from "./format.js";
import { userLink, who, type Client } from "./view_clients.js";
import { ask, buttons } from "./act.js";
import { traceForm } from "./trace.js";
import type { Context, View } from "./view.js";

interface Permissions {
  admin: boolean;
  channels: string[];
  commands: string[];
  publish: string[];
}

interface UserConnection extends Client {
  expires_at: number | null;
  permissions: Permissions | null;
  subscribed: { pattern: string; rule: string; offset: number | null }[];
}

interface Command {
  action: string;
  outcome: string;
  code: string | null;
  received_at: number;
  duration_ms: number;
  client_id: string;
}

interface Ended {
  client_id: string;
  code: number;
  reason: string;
  blame: string;
  ended_at: number;
}

interface User {
  user: string;
  connections: UserConnection[];
  commands: Command[];
  endings: Ended[];
}

interface Verdict {
  allowed: boolean;
  rule: string;
}

export function open(context: Context): View {
  const { argument, session } = context;
  const box = h("input", { type: "search", value: argument, spellcheck: "false", autocomplete: "off", required: true });
  const search = h("form", {
    class: "filters",
    onsubmit: (event: Event) => {
      event.preventDefault();
      location.hash = `user/${encodeURIComponent(box.value.trim())}`;
    },
  }, h("label", {}, "User, as in the token’s sub", box), h("button", {}, "Look"));
  if (!argument) {
    const list = recentUsers();
    return { element: h("div", {}, section("Which user?", search), section("Connected now", list.element)), refresh: list.refresh };
  }
  const path = `users/${encodeURIComponent(argument)}`;
  const told = h("p", { class: "empty" });
  const connections = new Table<UserConnection>("Connections", [
    { title: "Client", text: ({ client_id }) => client_id, tone: () => "code" },
    { title: "Role", text: ({ role }) => role ?? "–" },
    { title: "Address", text: ({ address }) => address ?? "–" },
    { title: "Dialect", text: ({ dialect, transport }) => (transport === "polling" ? `${dialect}, polls` : dialect) },
    { title: "Since", numeric: true, text: ({ connected_at }) => ago(connected_at, Date.now()) },
    { title: "Token ends", numeric: true, text: ({ expires_at }) => (expires_at ? `in ${duration(Math.max(0, expires_at - Date.now() / 1000))}` : "never") },
    { title: "Messages", numeric: true, text: ({ message_count }) => number(message_count) },
    { title: "Queued", numeric: true, text: ({ pending_bytes }) => bytes(pending_bytes) },
    { title: "Dropped", numeric: true, text: ({ dropped }) => number(dropped), tone: ({ dropped }) => (dropped > 0 ? "bad" : "") },
    { title: "Too fast", numeric: true, text: ({ rate_limited }) => number(rate_limited), tone: ({ rate_limited }) => (rate_limited > 0 ? "warn" : "") },
    ...buttons<UserConnection>(session, "Disconnect", (row) => ask(context, `Disconnect ${row().client_id}`, "DELETE", `websocket/clients/${row().client_id}`)),
  ], ({ client_id }) => client_id, "this user has no connection now");
  const subscriptions = new Table<{ client: string; pattern: string; rule: string; offset: number | null }>("Subscriptions", [
    { title: "Pattern", text: ({ pattern }) => pattern, tone: () => "code" },
    { title: "Newest offset", numeric: true, text: ({ offset }) => (offset === null ? "–" : number(offset)) },
    { title: "Allowed because", text: ({ rule }) => rule, tone: () => "wide" },
    { title: "Client", text: ({ client }) => client, tone: () => "code" },
  ], ({ client, pattern }) => `${client} ${pattern}`, "no subscription");
  const permissions = new Table<{ what: string; entries: string }>("Permissions", [
    { title: "May", text: ({ what }) => what, tone: () => "name" },
    { title: "Entries", text: ({ entries }) => entries, tone: () => "code wide" },
  ], ({ what }) => what, "nobody is connected, so nothing is known");
  const commands = new Table<Command>("Last commands", [
    { title: "When", text: ({ received_at }) => clock(received_at * 1000) },
    { title: "Action", text: ({ action }) => action, tone: () => "code" },
    { title: "Outcome", text: ({ outcome }) => outcome, tone: ({ outcome }) => `state ${outcome === "success" ? "ok" : "bad"}` },
    { title: "Code", text: ({ code }) => code ?? "" },
    { title: "Took", numeric: true, text: ({ duration_ms }) => `${duration_ms} ms` },
    { title: "Client", text: ({ client_id }) => client_id, tone: () => "code" },
  ], ({ received_at, action, client_id }) => `${received_at} ${action} ${client_id}`, "no command of this user among the last 500");
  const endings = new Table<Ended>("Last endings of this user", [
    { title: "When", text: ({ ended_at }) => ago(ended_at, Date.now()) },
    { title: "Code", text: ({ code }) => String(code) },
    { title: "Reason", text: ({ reason }) => reason, tone: () => "name" },
    { title: "Whose doing", text: ({ blame }) => blame },
    { title: "Client", text: ({ client_id }) => client_id, tone: () => "code" },
  ], ({ client_id, ended_at }) => `${client_id} ${ended_at}`, "no ending of this user is remembered");
  const trace = traceForm(context, { user: argument });
  const element = h("div", {},
    section("User", search, told),
    section("Connections", connections.element,
      session.role === "operator" && h("p", { class: "actions" },
        h("button", { class: "danger", onclick: () => ask(context, `Disconnect all connections of ${argument}`, "DELETE", `${path}/connections`) }, "Disconnect the user"))),
    section("May this user …?", explainForm(path), permissions.element),
    section("Subscriptions", subscriptions.element),
    section("Last commands", commands.element),
    section("Last endings of this user", endings.element),
    trace.element);
  return {
    element,
    close: trace.close,
    async refresh() {
      const user = await get<User>(path);
      setText(told, user.connections.length === 0 ? `${who(user.user)} is not connected to this gateway.` : "");
      connections.update(user.connections);
      subscriptions.update(user.connections.flatMap(({ client_id, subscribed }) => subscribed.map((one) => ({ client: client_id, ...one }))));
      const may = user.connections.find((connection) => connection.permissions)?.permissions;
      const words = (entries: string[]): string => (may!.admin ? "everything: role admin" : entries.join("  ") || "nothing");
      permissions.update(may ? [
        { what: "subscribe", entries: words(["user." + user.user + ".*", ...may.channels]) },
        { what: "send commands", entries: words(may.commands) },
        { what: "publish", entries: words(may.publish) },
      ] : []);
      commands.update(user.commands);
      endings.update(user.endings);
      await trace.refresh();
    },
  };
}

function explainForm(path: string): HTMLElement {
  const kind = h("select", {}, h("option", { value: "subscribe" }, "subscribe to"), h("option", { value: "command" }, "send the command"), h("option", { value: "publish" }, "publish to"));
  const name = h("input", { required: true, spellcheck: "false", autocomplete: "off", placeholder: "grid.*" });
  const verdict = h("p", { class: "told", role: "status" });
  return h("form", {
    class: "filters",
    onsubmit: async (event: Event) => {
      event.preventDefault();
      try {
        const { allowed, rule } = await get<Verdict>(withQuery(`${path}/explain`, { [kind.value]: name.value.trim() }));
        verdict.className = `told ${allowed ? "ok" : "bad"}`;
        setText(verdict, `${allowed ? "Yes" : "No"}: ${rule}.`);
      } catch (error) {
        verdict.className = "told bad";
        setText(verdict, (error as Error).message);
      }
    },
  }, h("label", {}, "May", kind), h("label", {}, "Name", name), h("button", {}, "Explain"), verdict);
}

function recentUsers(): { element: HTMLElement; refresh: () => Promise<void> } {
  const table = new Table<Client>("Connections, 100 at most", [
    { title: "User", make: (row) => userLink(row().user) },
    { title: "Client", text: ({ client_id }) => client_id, tone: () => "code" },
    { title: "Role", text: ({ role }) => role ?? "–" },
    { title: "Address", text: ({ address }) => address ?? "–" },
    { title: "Dialect", text: ({ dialect }) => dialect },
    { title: "Since", numeric: true, text: ({ connected_at }) => ago(connected_at, Date.now()) },
    { title: "Subscriptions", numeric: true, text: ({ subscriptions }) => number(subscriptions.length) },
  ], ({ client_id }) => client_id, "nobody is connected");
  return {
    element: table.element,
    refresh: async () => table.update((await get<{ clients: Client[] }>("websocket/clients?limit=100")).clients),
  };
}
