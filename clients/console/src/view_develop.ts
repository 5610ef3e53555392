// A console for developers of apps: connect with a token, subscribe, filter, pause, send commands, and see frames.

import { socketAddress } from "./api.js";
import { createClient, type Client } from "./client.js";
import { h, section, setText } from "./dom.js";
import { clock } from "./format.js";
import type { Context, View } from "./view.js";

const FRAMES_MAX = 1000;

/** A frame, in or out. */
export interface Frame {
  at: number;
  direction: "in" | "out" | "note";
  text: string;
}

/** Whether a frame has all words of a filter, in any order. */
export function fits(frame: Frame, filter: string): boolean {
  const text = frame.text.toLowerCase();
  return filter.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

/** A WebSocket class that shows every frame to `seen`. */
function observed(seen: (direction: Frame["direction"], text: string) => void): any {
  return class extends WebSocket {
    constructor(url: string) {
      super(url);
      this.addEventListener("message", ({ data }) => seen("in", String(data)));
      this.addEventListener("close", ({ code, reason }) => seen("note", `closed: ${code} ${reason}`));
    }

    override send(text: string): void {
      seen("out", text.replace(/"token":"[^"]*"/, '"token":"…"'));
      super.send(text);
    }
  };
}

export function open(context: Context): View {
  if (context.session.role !== "operator") {
    return { element: section("For developers", h("p", { class: "empty" }, "Only operators may connect from here.")) };
  }
  let client: Client | undefined;
  let frames: Frame[] = [];
  let paused = false;
  const list = h("ol", { class: "lines code tall", tabindex: 0, "aria-label": "Frames, newest first" });
  const state = h("span", { class: "link", role: "status" }, "not connected");
  const filter = h("input", { type: "search", spellcheck: "false", autocomplete: "off", placeholder: "subscribed grid", oninput: () => draw() });
  const line = (frame: Frame): HTMLElement => h("li", { class: frame.direction }, `${clock(frame.at)}  ${{ in: "<", out: ">", note: "@" }[frame.direction]}  ${frame.text}`);
  const draw = (): void => list.replaceChildren(...frames.filter((frame) => fits(frame, filter.value)).reverse().map(line));
  const seen = (direction: Frame["direction"], text: string): void => {
    const frame = { at: Date.now(), direction, text };
    frames.push(frame);
    if (frames.length > FRAMES_MAX) frames = frames.slice(-FRAMES_MAX);
    if (paused || !fits(frame, filter.value)) return;
    list.prepend(line(frame));
    if (list.childElementCount > FRAMES_MAX) list.lastElementChild?.remove();
  };
  const pause = h("button", { type: "button", class: "quiet", "aria-pressed": "false", onclick: () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    setText(pause, paused ? "Continue" : "Pause");
    if (!paused) draw();
  } }, "Pause");
  const close = (): void => void client?.close();
  const token = h("textarea", { rows: 3, spellcheck: "false", autocomplete: "off", required: true, placeholder: "eyJ…" });
  const connect = h("form", {
    onsubmit: (event: Event) => {
      event.preventDefault();
      close();
      client = createClient({ url: socketAddress("?app"), token: token.value.trim(), WebSocket: observed(seen) });
      client.on("state", ({ state: now, reason }) => {
        state.className = `link ${now === "live" ? "ok" : now === "connecting" ? "warn" : "bad"}`;
        setText(state, reason ? `${now}: ${reason}` : now);
      });
      client.on("error", (error) => seen("note", String((error as Error).message ?? error)));
      client.connect().catch(() => {});
    },
  }, h("label", {}, "Token of the app", token), h("p", { class: "actions" }, h("button", {}, "Connect"), " ", h("button", { type: "button", class: "quiet", onclick: close }, "Disconnect"), " ", state));
  const pattern = h("input", { required: true, spellcheck: "false", autocomplete: "off", placeholder: "grid.*" });
  const subscribe = form("Subscribe", [h("label", {}, "Pattern", pattern)], (live) => {
    const subscription = live.subscribe(pattern.value.trim());
    subscription.on("end", (error) => error && seen("note", `${pattern.value}: ${error.message}`));
    subscription.on("event", () => {});
  });
  const action = h("input", { required: true, spellcheck: "false", autocomplete: "off", placeholder: "grid.start" });
  const params = h("textarea", { rows: 3, spellcheck: "false" }, "{}");
  const command = form("Send the command", [h("label", {}, "Action", action), h("label", { class: "grow" }, "Parameters (JSON)", params)], (live) => {
    void live.command(action.value.trim(), JSON.parse(params.value)).then(
      (answer) => seen("note", `answer: ${JSON.stringify(answer)}`), (error) => seen("note", `refused: ${error.code} ${error.message}`));
  });
  function form(title: string, fields: HTMLElement[], run: (live: Client) => void): HTMLElement {
    return h("form", {
      class: "filters",
      onsubmit: (event: Event) => {
        event.preventDefault();
        try {
          if (!client) throw new Error("connect first");
          run(client);
        } catch (error) {
          context.tell((error as Error).message, "bad");
        }
      },
    }, ...fields, h("button", {}, title));
  }
  const clear = h("button", { type: "button", class: "quiet", onclick: () => { frames = []; draw(); } }, "Clear");
  return {
    element: h("div", {},
      section("Connect as an app", connect),
      section("Ask", subscribe, command),
      section("Frames", h("div", { class: "filters" }, h("label", {}, "Show only frames with", filter), pause, clear), list)),
    close,
  };
}
