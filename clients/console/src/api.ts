// The gateway's HTTP API, with the session of the page.

/** An error that the gateway answered, or `UNREACHABLE`. */
export class ApiError extends Error {
  constructor(readonly status: number, readonly code: string, message: string) {
    super(message);
  }
}

/** Who is signed in. */
export interface Session {
  role: "viewer" | "operator";
  user: string | null;
  node: string;
  version: string;
  /** The only tenant that the caller administers; null: all. */
  tenant: string | null;
  /** The tenants to choose from; empty without tenants. */
  tenants: string[];
  expires_in_seconds: number | null;
}

let signedOut: () => void = () => {};
let tenant = "";

/** Chooses the tenant that all further requests are about; an empty text: the gateway as a whole. */
export function choose(name: string): void {
  tenant = name;
}

/** The address of the page's WebSocket, for the tenant that is chosen. */
export function socketAddress(parameters = ""): string {
  const address = new URL(`./ws${parameters}`, location.href);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  return about(address).href;
}

function about(address: URL): URL {
  if (tenant) address.search += `${address.search ? "&" : ""}tenant=${encodeURIComponent(tenant)}`;
  return address;
}

/** Sets what happens when the gateway does not know the session any more. */
export function onSignedOut(listener: () => void): void {
  signedOut = listener;
}

async function call<T>(method: string, path: string, body?: unknown): Promise<T> {
  let response: Response;
  let text: string;
  try {
    const init: RequestInit = { method, credentials: "same-origin", cache: "no-store" };
    if (body !== undefined) Object.assign(init, { body: JSON.stringify(body), headers: { "content-type": "application/json" } });
    response = await fetch(about(new URL(`../api/${path}`, location.href)), init);
    text = await response.text();
  } catch {
    throw new ApiError(0, "UNREACHABLE", "the gateway does not answer");
  }
  const answer = text.startsWith("{") || text.startsWith("[") ? JSON.parse(text) : undefined;
  if (response.ok) return answer as T;
  if (response.status === 401 && path !== "session") signedOut();
  const error = answer?.error ?? {};
  throw new ApiError(response.status, error.code ?? String(response.status), error.message ?? response.statusText);
}

export const get = <T>(path: string): Promise<T> => call<T>("GET", path);
export const post = <T>(path: string, body: unknown): Promise<T> => call<T>("POST", path, body);
export const remove = <T>(path: string, body?: unknown): Promise<T> => call<T>("DELETE", path, body);

/** A path with a query; parameters without a value are left out. */
export function withQuery(path: string, parameters: Record<string, string | number | undefined>): string {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== "");
  const query = given.map(([name, value]) => `${name}=${encodeURIComponent(value!)}`).join("&");
  return query ? `${path}?${query}` : path;
}
