// Is everything fresh? The checks of this gateway, and the last reports of all gateways.

import { ask } from "./act.js";
import { get } from "./api.js";
import { h, section, Table } from "./dom.js";
import { ago, bytes, cores, duration, number, perSecond } from "./format.js";
import type { Report } from "./live.js";
import type { Context, View } from "./view.js";
import { channelLink, type Listed } from "./view_channel.js";

interface Check {
  name: string;
  status: "ok" | "warn" | "bad";
  detail: string;
}

export interface Overview {
  node: string;
  version: string;
  status: Check["status"];
  uptime_seconds: number;
  time: number;
  checks: Check[];
}

const WORDS = { ok: "fine", warn: "look", bad: "wrong" } as const;

/** A gateway that shares the broker, as it tells the others of itself. */
interface Member {
  node: string;
  version: string;
  status: string;
  reason: string | null;
  connections: number;
  heard_seconds: number | null;
}

/** A gateway reports every five seconds. After three missing reports something is wrong. */
const LATE_MS = 15_000;

/** How fresh a gateway's last report is. */
export function freshness(at: number, now: number, status: string): Check["status"] {
  if (now - at > LATE_MS) return "bad";
  return status === "ok" ? "ok" : "warn";
}

export function open(context: Context): View {
  const { live, session, tenant } = context;
  const checks = new Table<Check>("Checks of this gateway", [
    { title: "State", text: ({ status }) => WORDS[status], tone: ({ status }) => `state ${status}` },
    { title: "What", text: ({ name }) => name, tone: () => "name" },
    { title: "Says", text: ({ detail }) => detail, tone: () => "wide" },
  ], ({ name }) => name, "no checks yet");
  type Gateway = { report: Report; at: number };
  const fresh = ({ at, report }: Gateway): Check["status"] => freshness(at, Date.now(), report.status);
  const gateways = new Table<Gateway>("Gateways that report", [
    { title: "State", text: (row) => (fresh(row) === "bad" ? "silent" : row.report.status), tone: (row) => `state ${fresh(row)}` },
    { title: "Gateway", text: ({ report }) => report.node, tone: () => "name" },
    { title: "Last report", numeric: true, text: ({ at }) => ago(at / 1000, Date.now()) },
    { title: "Connections", numeric: true, text: ({ report }) => number(report.total.connections) },
    { title: "Events in", numeric: true, text: ({ report }) => perSecond(report.events_per_s) },
    { title: "Deliveries", numeric: true, text: ({ report }) => perSecond(report.total.deliveries_per_s) },
    { title: "CPU", numeric: true, text: ({ report }) => cores(report.cpu) },
    { title: "Memory", numeric: true, text: ({ report }) => bytes(report.rss_bytes) },
    { title: "Up", numeric: true, text: ({ report }) => duration(report.uptime_s) },
    { title: "Version", text: ({ report }) => report.version },
  ], ({ report }) => report.node, "the first report comes within five seconds");
  const members = new Table<Member>("Gateways that share the broker", [
    { title: "State", text: ({ status }) => status, tone: ({ status }) => `state ${status === "ok" ? "ok" : "bad"}` },
    { title: "Gateway", text: ({ node }) => node, tone: () => "name" },
    { title: "Says", text: ({ reason }) => reason ?? "", tone: () => "wide" },
    { title: "Heard of", numeric: true, text: ({ heard_seconds: s }) => (s === null ? "this one" : `${number(Math.round(s))} s ago`) },
    { title: "Connections", numeric: true, text: ({ connections }) => number(connections) },
    { title: "Version", text: ({ version }) => version },
  ], ({ node }) => node, "none");
  const stale = new Table<Listed>("Stale channels", [
    { title: "Channel", make: (row) => channelLink(row().channel) },
    { title: "Events kept", numeric: true, text: ({ events }) => number(events) },
    { title: "Newest offset", numeric: true, text: ({ offset }) => (offset === null ? "–" : number(offset)) },
  ], ({ channel }) => channel, "none");
  const silent = section("Stale channels",
    h("p", { class: "about" }, "Nothing was published to them for their fresh_within; their subscribers were told. A hundred are shown at most."), stale.element);
  silent.hidden = true;
  const shared = section("Gateways that share the broker", members.element);
  shared.hidden = true;
  const drain = h("button", { class: "danger", onclick: () => ask(context, `Drain ${session.node}`, "POST", "drain") }, "Drain this gateway");
  // The reports and a drain concern all tenants.
  const element = h("div", {}, section("Checks", checks.element), silent, !tenant && section("Gateways", gateways.element), shared,
    session.role === "operator" && !tenant && section("Act",
      h("p", { class: "about" }, "A drain tells all clients to connect to another gateway, closes their connections over server.drain, and ends the process."),
      h("p", { class: "actions" }, drain)));
  return {
    element,
    async refresh() {
      gateways.update([...live.reports.values()].sort((a, b) => (a.report.node < b.report.node ? -1 : 1)));
      const overview = await get<Overview>("overview");
      checks.update(overview.checks);
      if (!tenant) {
        const { gateways: all } = await get<{ gateways: Member[] }>("gateways");
        // A gateway alone with its broker is known by its report.
        shared.hidden = all.every(({ status }) => status === "ok") && all.length < 2;
        members.update(all);
      }
      silent.hidden = overview.checks.every(({ name, status }) => name !== "channels" || status === "ok");
      if (!silent.hidden) stale.update((await get<{ channels: Listed[] }>("channels?stale=true&limit=100")).channels);
    },
  };
}
