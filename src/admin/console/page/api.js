export class ApiError extends Error {
    status;
    code;
    constructor(status, code, message) {
        super(message);
        this.status = status;
        this.code = code;
    }
}
let signedOut = () => { };
let tenant = "";
export function choose(name) {
    tenant = name;
}
export function socketAddress(parameters = "") {
    const address = new URL(`./ws${parameters}`, location.href);
    address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
    return about(address).href;
}
function about(address) {
    if (tenant)
        address.search += `${address.search ? "&" : ""}tenant=${encodeURIComponent(tenant)}`;
    return address;
}
export function onSignedOut(listener) {
    signedOut = listener;
}
async function call(method, path, body) {
    let response;
    let text;
    try {
        const init = { method, credentials: "same-origin", cache: "no-store" };
        if (body !== undefined)
            Object.assign(init, { body: JSON.stringify(body), headers: { "content-type": "application/json" } });
        response = await fetch(about(new URL(`../api/${path}`, location.href)), init);
        text = await response.text();
    }
    catch {
        throw new ApiError(0, "UNREACHABLE", "the gateway does not answer");
    }
    const answer = text.startsWith("{") || text.startsWith("[") ? JSON.parse(text) : undefined;
    if (response.ok)
        return answer;
    if (response.status === 401 && path !== "session")
        signedOut();
    const error = answer?.error ?? {};
    throw new ApiError(response.status, error.code ?? String(response.status), error.message ?? response.statusText);
}
export const get = (path) => call("GET", path);
export const post = (path, body) => call("POST", path, body);
export const remove = (path, body) => call("DELETE", path, body);
export function withQuery(path, parameters) {
    const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== "");
    const query = given.map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&");
    return query ? `${path}?${query}` : path;
}
