// Revoked tokens: those in force, and revoking more.

import { ask } from "./act.js";
import { get, withQuery } from "./api.js";
import { h, section, setText, Table } from "./dom.js";
import { clock, duration, number } from "./format.js";
import { pages, select, userLink } from "./view_clients.js";
import type { Context, View } from "./view.js";

interface Revocation {
  tenant?: string;
  jti?: string;
  sub?: string;
  issued_before?: number;
  until: number;
}

/** Asks for a reason, and revokes. */
export function revoke(context: Context, what: string, target: { jti: string } | { sub: string }): void {
  ask(context, what, "POST", "revocations", target, ({ ended, survives_restart }) => {
    const kept = survives_restart ? "" : " A restart forgets it, because this gateway has no snapshot (state.snapshot).";
    context.tell(`Revoked. ${number(ended)} ${ended === 1 ? "connection" : "connections"} ended.${kept}`);
  });
}

export function open(context: Context): View {
  const told = h("p", { class: "empty", role: "status" });
  const table = new Table<Revocation>("Revoked tokens", [
    { title: "Token (jti)", text: ({ jti }) => jti ?? "all of the user", tone: ({ jti }) => (jti ? "code" : "soft") },
    { title: "User", make: (row) => (row().sub === undefined ? h("span", { class: "soft" }, "–") : userLink(row().sub!)) },
    { title: "Issued before", text: ({ issued_before }) => (issued_before === undefined ? "–" : when(issued_before)) },
    ...(context.session.tenants.length > 0 ? [{ title: "Tenant", text: ({ tenant }: Revocation) => tenant ?? "" }] : []),
    { title: "Forgotten", numeric: true, text: ({ until }) => `in ${duration(Math.max(0, until - Date.now() / 1000))}` },
  ], ({ tenant, jti, sub }) => `${tenant} ${jti} ${sub}`, "no token is revoked");
  const list = pages("Search", "a user or a jti", async (search, cursor) => {
    const page = await get<{ revocations: Revocation[]; total: number; next_cursor: string | null }>(withQuery("revocations", { search, cursor, limit: 100 }));
    table.update(page.revocations);
    setText(told, `${number(page.total)} ${search ? "fit" : "in force"}. Each is forgotten when its tokens have expired.`);
    return page.next_cursor;
  });
  let kind = "sub";
  const name = h("input", { required: true, spellcheck: "false", autocomplete: "off", maxlength: 255 });
  const form = h("form", {
    class: "filters",
    onsubmit: (event: Event) => {
      event.preventDefault();
      const value = name.value.trim();
      revoke(context, kind === "sub" ? `Revoke the tokens of ${value}` : `Revoke the token ${value}`, kind === "sub" ? { sub: value } : { jti: value });
    },
  },
    select("Revoke", [["sub", "all tokens of the user"], ["jti", "the token with the jti"]], (value) => { kind = value; }),
    h("label", {}, "Name", name), h("button", { class: "danger" }, "Revoke"));
  return {
    element: h("div", {},
      context.session.role === "operator" && section("Revoke",
        h("p", { class: "about" }, "Connections with such a token end at once, and it is refused from now on. The user goes on with a token that is issued later."), form),
      section("In force", list.element, told, table.element)),
    refresh: list.refresh,
  };
}

const when = (seconds: number): string => `${new Date(seconds * 1000).toLocaleDateString(undefined, { month: "short", day: "numeric" })}, ${clock(seconds * 1000)}`;
