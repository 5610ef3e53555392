// Acts, after asking for a reason. The gateway writes both into its audit trail.

import { ApiError, post, remove, withQuery, type Session } from "./api.js";
import { h, setText, type Column } from "./dom.js";
import type { Context } from "./view.js";

/** Asks for a reason and acts. `done` gets the answer. */
export function ask(context: Context, what: string, method: "POST" | "DELETE", path: string, body: Record<string, unknown> = {}, done?: (answer: any) => void): void {
  const reason = h("input", { required: true, maxlength: 200, autocomplete: "off" });
  const told = h("p", { class: "told bad", role: "alert" });
  const act = h("button", { class: "danger" }, what);
  const dialog = h("dialog", { "aria-labelledby": "ask" });
  const form = h("form", {
    onsubmit: async (event: Event) => {
      event.preventDefault();
      act.disabled = true;
      try {
        const answer = method === "DELETE"
          ? await remove(withQuery(path, { reason: reason.value.trim() }))
          : await post(path, { ...body, reason: reason.value.trim() });
        dialog.close();
        context.tell(`Done: ${what}.`);
        done?.(answer);
        context.refresh();
      } catch (error) {
        act.disabled = false;
        setText(told, error instanceof ApiError ? error.message : String(error));
      }
    },
  },
    h("h2", { id: "ask" }, `${what}?`),
    h("label", {}, "Reason, for the audit trail", reason), told,
    h("p", { class: "actions" }, act, " ", h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Cancel")));
  dialog.append(form);
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

/** A column with buttons, for operators. They stand below each other, since tables are wide. */
export function buttons<T>(session: Session, acts: Record<string, (row: T) => void>): Column<T>[] {
  if (session.role !== "operator") return [];
  const make = (row: () => T): Node => h("span", { class: "stack" },
    ...Object.entries(acts).map(([title, act]) => h("button", { class: "danger", onclick: () => act(row()) }, title)));
  return [{ title: "", make }];
}
