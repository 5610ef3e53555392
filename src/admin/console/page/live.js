import { createClient } from "./client.js";
export function connect(reported, changed) {
    const address = new URL("./ws", location.href);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    const client = createClient({ url: address.href });
    const reports = new Map();
    client.on("state", changed);
    client.on("error", () => { });
    client.subscribe("system.gateway.*").on("event", ({ data }) => {
        reports.set(data.node, { report: data, at: Date.now() });
        reported();
    });
    client.connect().catch(() => { });
    return { client, reports, close: () => void client.close() };
}
