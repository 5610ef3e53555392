// A trace: everything that happens to a user, a connection or a channel for a limited time.

import { ApiError, get, post, remove } from "./api.js";
import { h, section, setText } from "./dom.js";
import { clock } from "./format.js";
import type { Context } from "./view.js";

interface TraceLine {
  n: number;
  at: number;
  what: string;
  client_id?: string;
  user?: string;
  channel?: string;
  detail?: string;
  bytes?: number;
  text?: string;
}

interface Trace {
  id: string;
  state: "running" | "ended";
  why: string | null;
}

interface Page extends Trace {
  lines: TraceLine[];
  next: number;
}

const LINES_MAX = 1000;

/** One line of a trace, for people. */
export function lineText({ at, what, client_id, channel, detail, bytes, text }: TraceLine): string {
  const parts = [clock(at), what, channel, detail, bytes === undefined ? undefined : `${bytes} B`, text, client_id];
  return parts.filter((part) => part !== undefined && part !== "").join("  ");
}

export function traceForm(context: Context, target: { user?: string; client_id?: string; channel?: string }): { element: HTMLElement; refresh: () => Promise<void>; close: () => void } {
  const told = h("p", { class: "empty", role: "status" }, "A trace shows everything that happens, for a limited time and number of bytes. It is written into the audit trail.");
  const lines = h("ol", { class: "lines code", tabindex: 0, "aria-label": "Lines of the trace" });
  lines.hidden = true;
  let trace: Trace | undefined;
  let next = 0;
  const seconds = h("select", {}, ...[["60", "one minute"], ["300", "five minutes"], ["1800", "half an hour"]].map(([value, text]) => h("option", { value }, text)));
  const reason = h("input", { required: true, maxlength: 200, autocomplete: "off" });
  const start = h("button", {}, "Trace");
  const stop = h("button", { type: "button", class: "quiet", onclick: () => void end() }, "Stop");
  stop.hidden = true;
  const form = h("form", {
    class: "filters",
    onsubmit: async (event: Event) => {
      event.preventDefault();
      try {
        trace = await post<Trace>("traces", { ...target, seconds: Number(seconds.value), reason: reason.value.trim() });
        next = 0;
        lines.replaceChildren();
        lines.hidden = stop.hidden = false;
        start.disabled = true;
        await refresh();
      } catch (error) {
        context.tell((error as Error).message, "bad");
      }
    },
  }, h("label", {}, "For", seconds), h("label", {}, "Reason, for the audit trail", reason), start, stop);
  const refresh = async (): Promise<void> => {
    if (!trace || trace.state === "ended") return;
    try {
      const page = await get<Page>(`traces/${trace.id}?from=${next}`);
      trace = page;
      next = page.next;
      lines.append(...page.lines.map((line) => h("li", { class: line.what }, lineText(line))));
      while (lines.childElementCount > LINES_MAX) lines.firstElementChild?.remove();
      if (page.lines.length > 0) lines.scrollTop = lines.scrollHeight;
      setText(told, page.state === "running" ? `Running; ${next} lines so far.` : `Ended: ${page.why}. ${next} lines.`);
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 404) throw error;
      trace = { ...trace, state: "ended" };
      setText(told, "The trace is gone.");
    }
    if (trace.state === "ended") {
      stop.hidden = true;
      start.disabled = false;
    }
  };
  const end = async (): Promise<void> => {
    if (trace?.state === "running") await remove(`traces/${trace.id}`).catch(() => {});
    await refresh();
  };
  const timer = setInterval(() => void refresh().catch(() => {}), 1_000);
  const element = context.session.role === "operator"
    ? section("Trace", told, form, lines)
    : section("Trace", h("p", { class: "empty" }, "Only operators may trace."));
  return { element, refresh, close: () => { clearInterval(timer); void end().catch(() => {}); } };
}
