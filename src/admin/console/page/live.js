import { socketAddress } from "./api.js";
import { createClient } from "./client.js";
export function connect(reported, changed) {
    const client = createClient({ url: socketAddress() });
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
