// A Node bot. It follows the orders of all grids, starts one, and stops at SIGTERM.
import { CommandRefused, OutcomeUnknown, createClient } from "@tickgate/client";
import WebSocket from "ws"; // Node 22 and later have a WebSocket class of their own.

const tg = createClient({ url: process.env.TICKGATE_URL, token: process.env.TICKGATE_TOKEN, WebSocket });
tg.on("state", ({ state, reason }) => console.log("state", state, reason));

const orders = tg.subscribe("grid.*.order");
orders.on("gap", ({ reason, channels }) => console.log("gap", reason, channels.join())); // Ask the backend for the orders.

await tg.connect();
await orders.ready;
process.once("SIGTERM", () => tg.close().then(() => orders.unsubscribe()));

try {
  const grid = await tg.command("grid.start", { pair: "BTC-USDC", lower_price: 90000, upper_price: 100000, grid_count: 10 });
  console.log("started", grid.grid_id);
} catch (error) {
  if (error instanceof OutcomeUnknown) console.log("unknown", error.code); // Look whether it runs before starting another.
  else if (error instanceof CommandRefused) console.log("refused", error.code);
  else throw error;
}

for await (const { channel, event, data, offset } of orders.events({ overflow: "drop_oldest" })) {
  console.log("order", channel, event, offset, JSON.stringify(data));
}
