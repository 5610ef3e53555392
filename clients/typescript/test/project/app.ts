// Compiles as an application's code would. Nothing of it runs.
import { createClient, CommandRefused, OutcomeUnknown, type Gap, type TickEvent } from "@tickgate/client";
import { parseDecimals, stringifyDecimals, type Decimal } from "@tickgate/client/decimal";
import { ZigQuantWebSocket } from "@tickgate/client/zigquant";

interface Price { price: Decimal }

export async function application(signal: AbortSignal): Promise<void> {
  const tg = createClient({
    url: "wss://ws.example.com/ws", storage: localStorage, parse: parseDecimals, stringify: stringifyDecimals, WebSocket,
    getToken: async ({ signal: until }) => (await fetch("/token", { signal: until })).text(),
  });
  const sub = tg.subscribe<Price>("market.*.price");
  const remove: () => void = sub.on("event", (event: TickEvent<Price>) => event.data.price.toBigInt());
  sub.on("gap", ({ reason, channels, complete }: Gap) => [reason, channels.length, complete]);
  // @ts-expect-error: there is no such event.
  sub.on("evnet", () => {});
  tg.on("state", ({ state, retryAt }) => [state === "stalled", retryAt?.toFixed()]);
  await tg.connect({ signal });
  try {
    const { grid_id } = await tg.command<{ grid_id: string }>("grid.start", { pair: "BTC-USDC" }, { timeout: 5000, signal });
    grid_id.trim();
  } catch (error) {
    if (error instanceof OutcomeUnknown || error instanceof CommandRefused) error.code.trim();
  }
  for await (const event of sub.events({ overflow: "conflate" })) event.offset?.toFixed();
  const records: ReadonlyMap<string, Price> = sub.records<Price>("code");
  records.get("600519")?.price.toString();
  remove();
  await tg.close({ forget: true });
  await new ZigQuantWebSocket().connect("wss://ws.example.com/ws", "token");
}
