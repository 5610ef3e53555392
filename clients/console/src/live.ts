// The page's connection to the gateway: the reports of all gateways, by the TypeScript client.

import { socketAddress } from "./api.js";
import { createClient, type Client, type StateChange } from "./client.js";

/** The part of a gateway's report that the page shows. */
export interface Report {
  node: string;
  version: string;
  status: string;
  uptime_s: number;
  events_per_s: number;
  cpu: number;
  rss_bytes: number;
  total: { connections: number; deliveries_per_s: number; bytes_out_per_s: number; dropped: number };
}

export interface Live {
  client: Client;
  /** The last report of each gateway, and when it arrived, in Unix milliseconds. */
  reports: Map<string, { report: Report; at: number }>;
  close(): void;
}

/** Connects. `reported` is called after each report, `changed` when the state of the connection changes. */
export function connect(reported: () => void, changed: (change: StateChange) => void): Live {
  const client = createClient({ url: socketAddress() });
  const reports: Live["reports"] = new Map();
  client.on("state", changed);
  client.on("error", () => {});
  client.subscribe<Report>("system.gateway.*").on("event", ({ data }) => {
    reports.set(data.node, { report: data, at: Date.now() });
    reported();
  });
  client.connect().catch(() => {}); // `changed` is told why.
  return { client, reports, close: () => void client.close() };
}
