import { ApiError, choose, get, onSignedOut, post, remove } from "./api.js";
import { h, setText } from "./dom.js";
import { connect } from "./live.js";
import * as channel from "./view_channel.js";
import * as clients from "./view_clients.js";
import * as config from "./view_config.js";
import * as develop from "./view_develop.js";
import * as fresh from "./view_fresh.js";
import * as load from "./view_load.js";
import * as revoked from "./view_revoked.js";
import * as user from "./view_user.js";
const VIEWS = [
    { id: "fresh", title: "Is everything fresh?", open: fresh.open },
    { id: "clients", title: "Who has trouble?", open: clients.open },
    { id: "user", title: "One user", open: user.open },
    { id: "channel", title: "One channel", open: channel.open },
    { id: "revoked", title: "Revoked tokens", open: revoked.open },
    { id: "load", title: "Load", open: load.open },
    { id: "config", title: "Configuration", open: config.open },
    { id: "develop", title: "For developers", open: develop.open },
];
const PATIENCE_MS = 7_000;
const root = document.getElementById("root");
function theme() {
    const chosen = localStorage.getItem("theme");
    if (chosen)
        document.documentElement.dataset.theme = chosen;
}
function toggleTheme() {
    const dark = document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    const next = dark === "dark" ? "light" : "dark";
    document.documentElement.dataset.theme = next;
    localStorage.setItem("theme", next);
}
function signIn(why = "") {
    const key = h("input", { id: "key", type: "password", autocomplete: "current-password", required: true, spellcheck: "false" });
    const told = h("p", { class: "told bad", role: "alert" }, why);
    const button = h("button", {}, "Sign in");
    const form = h("form", {
        class: "sign-in",
        onsubmit: async (event) => {
            event.preventDefault();
            button.disabled = true;
            try {
                start(await post("session", { key: key.value }));
            }
            catch (error) {
                setText(told, error.message);
                button.disabled = false;
                key.select();
            }
        },
    }, h("h1", {}, "tickgate console"), h("label", { for: "key" }, "Admin key, viewer key, or a token of the role admin"), key, button, told, h("p", { class: "soft" }, "The session lasts for twelve hours, in this browser only."));
    root.replaceChildren(h("main", { class: "door" }, form));
    key.focus();
}
function start(session) {
    const status = h("p", { class: "status", role: "status" }, "looking …");
    const link = h("span", { class: "link" }, "connecting");
    const toast = h("p", { class: "toast", role: "status", hidden: true });
    const main = h("main", { id: "main", tabindex: -1 });
    const title = h("h1");
    const links = VIEWS.map(({ id, title }) => h("a", { href: `#${id}` }, title));
    const nav = h("nav", { "aria-label": "Views" }, ...links);
    let tenant = session.tenant ?? "";
    choose(session.tenants.includes(tenant) ? tenant : "");
    let view;
    let fading;
    let waiting;
    let isOver = false;
    const tell = (text, tone = "ok") => {
        toast.className = `toast ${tone}`;
        toast.hidden = false;
        setText(toast, text);
        clearTimeout(fading);
        fading = setTimeout(() => { toast.hidden = true; }, 6_000);
    };
    const refresh = async () => {
        clearTimeout(waiting);
        const shown = view;
        try {
            const [overview] = await Promise.all([get("overview"), shown?.refresh?.()]);
            const worst = overview.checks.filter((check) => check.status === overview.status && check.status !== "ok");
            status.className = `status ${overview.status}`;
            setText(status, worst.length === 0 ? "Everything is fine" : worst.map(({ name, detail }) => `${name}: ${detail}`).join(" · "));
        }
        catch (error) {
            if (isOver || !(error instanceof ApiError))
                throw error;
            status.className = "status bad";
            setText(status, error.message);
        }
        finally {
            if (!isOver)
                waiting = setTimeout(() => void refresh(), PATIENCE_MS);
        }
    };
    const join = () => connect(() => void refresh(), ({ state, reason }) => {
        link.className = `link ${state === "live" ? "ok" : state === "closed" || state === "waiting" ? "bad" : "warn"}`;
        setText(link, state === "live" ? "live" : reason || state);
    });
    let live = join();
    const show = () => {
        const [id = "", ...rest] = location.hash.slice(1).split("/");
        const chosen = VIEWS.find((candidate) => candidate.id === id) ?? VIEWS[0];
        view?.close?.();
        links.forEach((anchor, index) => {
            if (VIEWS[index] !== chosen)
                return anchor.removeAttribute("aria-current");
            anchor.setAttribute("aria-current", "page");
            anchor.scrollIntoView({ block: "nearest", inline: "nearest" });
        });
        setText(title, chosen.title);
        document.title = `${chosen.title} · ${session.node} · tickgate`;
        view = chosen.open({ session, tenant, live, argument: decodeURIComponent(rest.join("/")), tell, refresh: () => void refresh() });
        const isOfDefault = session.tenants.length > 0 && !tenant && ["user", "channel", "revoked", "develop"].includes(chosen.id);
        main.replaceChildren(title, isOfDefault ? h("p", { class: "about" }, "This view is about one tenant: the default one, until another is chosen on top.") : "", view.element);
        void refresh();
    };
    const tenants = h("select", {
        "aria-label": "Tenant",
        onchange: () => {
            tenant = tenants.value;
            choose(tenant);
            view?.close?.();
            view = undefined;
            live.close();
            live = join();
            show();
        },
    }, h("option", { value: "" }, "all tenants"), ...session.tenants.map((name) => h("option", {}, name)));
    const end = (why) => {
        if (isOver)
            return;
        isOver = true;
        clearTimeout(waiting);
        removeEventListener("hashchange", show);
        view?.close?.();
        live.close();
        signIn(why);
    };
    onSignedOut(() => end("The session has ended. Sign in again."));
    root.replaceChildren(h("a", { class: "skip", href: "#main", onclick: (event) => { event.preventDefault(); main.focus(); } }, "Skip to the content"), h("header", {}, h("p", { class: "brand" }, h("strong", {}, "tickgate"), ` ${session.node}`), status, h("div", { class: "tools" }, link, session.tenants.length > 0 && tenants, h("span", { class: "role" }, session.tenant === null ? session.role : `${session.role} of ${session.tenant}`), h("button", { class: "quiet", onclick: toggleTheme }, "Theme"), h("button", { class: "quiet", onclick: () => void remove("session").catch(() => { }).then(() => end("")) }, "Sign out"))), nav, main, toast);
    addEventListener("hashchange", show);
    show();
}
theme();
get("session").then(start, () => signIn());
