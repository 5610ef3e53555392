import { get, withQuery } from "./api.js";
import { h, section, setText, Table } from "./dom.js";
import { ago, bytes, clock, duration, number, perSecond } from "./format.js";
import { pages, userLink, who } from "./view_clients.js";
import { revoke } from "./view_revoked.js";
import { ask, buttons } from "./act.js";
import { traceForm } from "./trace.js";
export function open(context) {
    const { argument, session } = context;
    const box = h("input", { type: "search", value: argument, spellcheck: "false", autocomplete: "off", required: true });
    const search = h("form", {
        class: "filters",
        onsubmit: (event) => {
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
    const rates = new Rates();
    const connections = new Table("Connections", [
        { title: "Client", text: ({ client_id }) => client_id, tone: () => "code" },
        { title: "Role", text: ({ role }) => role ?? "–" },
        { title: "Address", text: ({ address }) => address ?? "–" },
        { title: "Dialect", text: ({ dialect, transport }) => (transport === "polling" ? `${dialect}, polls` : dialect) },
        { title: "Since", numeric: true, text: ({ connected_at }) => ago(connected_at, Date.now()) },
        { title: "Token ends", numeric: true, text: ({ expires_at }) => (expires_at ? `in ${duration(Math.max(0, expires_at - Date.now() / 1000))}` : "never") },
        { title: "Messages", numeric: true, text: ({ message_count }) => number(message_count) },
        { title: "Rate", numeric: true, text: ({ client_id }) => rates.text(client_id) },
        { title: "Queued", numeric: true, text: ({ pending_bytes }) => bytes(pending_bytes) },
        { title: "Dropped", numeric: true, text: ({ dropped }) => number(dropped), tone: ({ dropped }) => (dropped > 0 ? "bad" : "") },
        { title: "Too fast", numeric: true, text: ({ rate_limited }) => number(rate_limited), tone: ({ rate_limited }) => (rate_limited > 0 ? "warn" : "") },
        ...buttons(session, {
            Disconnect: ({ client_id }) => ask(context, `Disconnect ${client_id}`, "DELETE", `websocket/clients/${client_id}`),
            Revoke: ({ token_id }) => revokeOf(context, argument, token_id),
        }),
    ], ({ client_id }) => client_id, "this user has no connection now");
    const subscriptions = new Table("Subscriptions", [
        { title: "Pattern", text: ({ pattern }) => pattern, tone: () => "code" },
        { title: "Newest offset", numeric: true, text: ({ offset }) => (offset === null ? "–" : number(offset)) },
        { title: "At most", numeric: true, text: ({ rate }) => (rate === undefined ? "every event" : `${number(rate)} per second`) },
        { title: "Allowed because", text: ({ rule }) => rule, tone: () => "wide" },
        { title: "Client", text: ({ client }) => client, tone: () => "code" },
    ], ({ client, pattern }) => `${client} ${pattern}`, "no subscription");
    const permissions = new Table("Permissions", [
        { title: "May", text: ({ what }) => what, tone: () => "name" },
        { title: "Entries", text: ({ entries }) => entries, tone: () => "code wide" },
    ], ({ what }) => what, "nobody is connected, so nothing is known");
    const commands = new Table("Last commands", [
        { title: "When", text: ({ received_at }) => clock(received_at * 1000) },
        { title: "Action", text: ({ action }) => action, tone: () => "code" },
        { title: "Outcome", text: ({ outcome }) => outcome, tone: ({ outcome }) => `state ${outcome === "success" ? "ok" : "bad"}` },
        { title: "Code", text: ({ code }) => code ?? "" },
        { title: "Took", numeric: true, text: ({ duration_ms }) => `${duration_ms} ms` },
        { title: "Client", text: ({ client_id }) => client_id, tone: () => "code" },
    ], ({ received_at, action, client_id }) => `${received_at} ${action} ${client_id}`, "no command of this user among the last 500");
    const endings = new Table("Last endings of this user", [
        { title: "When", text: ({ ended_at }) => ago(ended_at, Date.now()) },
        { title: "Code", text: ({ code }) => String(code) },
        { title: "Reason", text: ({ reason }) => reason, tone: () => "name" },
        { title: "Whose doing", text: ({ blame }) => blame },
        { title: "Client", text: ({ client_id }) => client_id, tone: () => "code" },
    ], ({ client_id, ended_at }) => `${client_id} ${ended_at}`, "no ending of this user is remembered");
    const trace = traceForm(context, { user: argument });
    const element = h("div", {}, section("User", search, told), section("Connections", connections.element, session.role === "operator" && h("p", { class: "actions" }, h("button", { class: "danger", onclick: () => ask(context, `Disconnect all connections of ${argument}`, "DELETE", `${path}/connections`) }, "Disconnect the user"), " ", h("button", { class: "danger", onclick: () => revokeOf(context, argument, null) }, "Revoke all tokens"))), section("Last endings of this user", endings.element), section("May this user …?", explainForm(path), permissions.element), section("Subscriptions", subscriptions.element), section("Last commands", commands.element), trace.element);
    return {
        element,
        close: trace.close,
        async refresh() {
            const user = await get(path);
            setText(told, user.connections.length === 0 ? absent(user, Date.now()) : "");
            rates.note(user.connections, Date.now());
            connections.update(user.connections);
            subscriptions.update(user.connections.flatMap(({ client_id, subscribed, max_rates }) => subscribed.map((one) => ({ client: client_id, rate: max_rates[one.pattern], ...one }))));
            const may = user.connections.find((connection) => connection.permissions)?.permissions;
            const words = (entries) => (may.admin ? "everything: role admin" : entries.join("  ") || "nothing");
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
export function absent({ user, endings }, nowMs) {
    const last = endings[0];
    const why = last ? ` The last connection ended ${ago(last.ended_at, nowMs)}: ${last.reason} (${last.code}).` : "";
    return `${who(user)} is not connected to this gateway.${why}`;
}
function revokeOf(context, user, jti) {
    if (jti === null)
        revoke(context, `Revoke all tokens of ${user}`, { sub: user });
    else
        revoke(context, `Revoke the token ${jti}`, { jti });
}
export class Rates {
    #seen = new Map();
    note(connections, now) {
        const before = this.#seen;
        this.#seen = new Map(connections.map(({ client_id, message_count: count }) => {
            const last = before.get(client_id);
            const rate = last && now > last.at ? ((count - last.count) * 1000) / (now - last.at) : last?.rate;
            return [client_id, { count, at: now, rate }];
        }));
    }
    text(client) {
        const rate = this.#seen.get(client)?.rate;
        return rate === undefined ? "–" : perSecond(rate);
    }
}
function explainForm(path) {
    const kind = h("select", {}, h("option", { value: "subscribe" }, "subscribe to"), h("option", { value: "command" }, "send the command"), h("option", { value: "publish" }, "publish to"));
    const name = h("input", { required: true, spellcheck: "false", autocomplete: "off", placeholder: "grid.*" });
    const verdict = h("p", { class: "told", role: "status" });
    return h("form", {
        class: "filters",
        onsubmit: async (event) => {
            event.preventDefault();
            try {
                const { allowed, rule } = await get(withQuery(`${path}/explain`, { [kind.value]: name.value.trim() }));
                verdict.className = `told ${allowed ? "ok" : "bad"}`;
                setText(verdict, `${allowed ? "Yes" : "No"}: ${rule}.`);
            }
            catch (error) {
                verdict.className = "told bad";
                setText(verdict, error.message);
            }
        },
    }, h("label", {}, "May", kind), h("label", {}, "Name", name), h("button", {}, "Explain"), verdict);
}
function recentUsers() {
    const table = new Table("Connections", [
        { title: "User", make: (row) => userLink(row().user) },
        { title: "Client", text: ({ client_id }) => client_id, tone: () => "code" },
        { title: "Role", text: ({ role }) => role ?? "–" },
        { title: "Address", text: ({ address }) => address ?? "–" },
        { title: "Dialect", text: ({ dialect }) => dialect },
        { title: "Since", numeric: true, text: ({ connected_at }) => ago(connected_at, Date.now()) },
        { title: "Subscriptions", numeric: true, text: ({ subscriptions }) => number(subscriptions.length) },
    ], ({ client_id }) => client_id, "nobody is connected");
    const list = pages("Search", "a user, a client or an address", async (search, cursor) => {
        const page = await get(withQuery("websocket/clients", { search, cursor, limit: 100 }));
        table.update(page.clients);
        return page.next_cursor;
    });
    return { element: h("div", {}, list.element, table.element), refresh: list.refresh };
}
