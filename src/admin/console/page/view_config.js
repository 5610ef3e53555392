import { get } from "./api.js";
import { h, section, setText, Table } from "./dom.js";
export function open() {
    let keys = [];
    const filter = h("input", { type: "search", spellcheck: "false", autocomplete: "off", oninput: () => show() });
    const onlySet = h("input", { type: "checkbox", onchange: () => show() });
    const told = h("p", { class: "empty" });
    const table = new Table("Configuration", [
        { title: "Key", text: ({ key }) => key, tone: () => "code" },
        { title: "Value", text: ({ value }) => value ?? "not set", tone: ({ value }) => `code wide${value === null ? " soft" : ""}` },
        { title: "From", text: ({ origin }) => origin, tone: ({ origin }) => `long${origin === "default" ? " soft" : ""}` },
        { title: "After a restart", text: ({ waits_for_restart, restart_reason }) => (waits_for_restart === null ? "" : `${waits_for_restart} (${restart_reason ?? ""})`), tone: () => "code warn" },
    ], ({ key }) => key, "no key fits");
    const show = () => {
        const wanted = filter.value.trim().toLowerCase();
        const shown = keys.filter(({ key, value, origin }) => (!onlySet.checked || origin !== "default") && `${key} ${value ?? ""}`.toLowerCase().includes(wanted));
        table.update(shown);
        setText(told, `${shown.length} of ${keys.length} keys. Secrets are named by their variable or file, never shown.`);
    };
    return {
        element: section("Effective configuration", h("div", { class: "filters" }, h("label", {}, "Search", filter), h("label", { class: "check" }, onlySet, "Only what is set")), told, table.element),
        async refresh() {
            if (keys.length > 0)
                return;
            keys = (await get("config")).keys;
            show();
        },
    };
}
