import { ApiError, post, remove, withQuery } from "./api.js";
import { h, setText } from "./dom.js";
export function ask(context, what, method, path, body = {}, done) {
    const reason = h("input", { required: true, maxlength: 200, autocomplete: "off" });
    const told = h("p", { class: "told bad", role: "alert" });
    const act = h("button", { class: "danger" }, what);
    const dialog = h("dialog", { "aria-labelledby": "ask" });
    const form = h("form", {
        onsubmit: async (event) => {
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
            }
            catch (error) {
                act.disabled = false;
                setText(told, error instanceof ApiError ? error.message : String(error));
            }
        },
    }, h("h2", { id: "ask" }, `${what}?`), h("label", {}, "Reason, for the audit trail", reason), told, h("p", { class: "actions" }, act, " ", h("button", { type: "button", class: "quiet", onclick: () => dialog.close() }, "Cancel")));
    dialog.append(form);
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
}
export function buttons(session, acts) {
    if (session.role !== "operator")
        return [];
    const make = (row) => h("span", { class: "stack" }, ...Object.entries(acts).map(([title, act]) => h("button", { class: "danger", onclick: () => act(row()) }, title)));
    return [{ title: "", make }];
}
