//! The routing table: methods, path, access rule and handler of every route.
//!
//! Invariant: no route lacks an access rule, because [`Handler`] has no variant without one. A function that needs an
//! [`Operator`] fits only into [`Handler::Operator`], and only `access` creates that proof. A handler of the API declares
//! its query parameters by [`Call::with`]; any other parameter is refused, but `tenant`, which `access` reads.

use std::borrow::Cow;
use std::net::IpAddr;
use std::pin::Pin;

use hyper::body::Incoming;
use hyper::{Method, Request};

use super::Admin;
use super::access::{Caller, Operator, TENANT, Viewer};
use super::query::Query;
use crate::ingress::http::request::decode;
use crate::ingress::http::response::{self, HttpResponse};
use crate::ingress::http::{Health, HttpErrorCode};

/// Every route. A path occurs once, so that the `Allow` of a 405 is complete.
pub(super) const ROUTES: &[Route] = &[
    Route {
        methods: Health::METHODS,
        path: "/healthz",
        handler: Handler::Public(|admin, request| admin.health(request.uri().path())),
    },
    Route {
        methods: Health::METHODS,
        path: "/readyz",
        handler: Handler::Public(|admin, request| admin.health(request.uri().path())),
    },
    Route {
        methods: GET,
        path: "/metrics",
        handler: Handler::Public(|admin, request| admin.metrics_response(request.headers())),
    },
    Route {
        methods: GET,
        path: "",
        handler: Handler::Public(|admin, request| admin.console_page(request.uri().path())),
    },
    Route {
        methods: GET,
        path: "/console",
        handler: Handler::Public(|admin, request| admin.console_page(request.uri().path())),
    },
    Route {
        methods: "GET",
        path: "/console/ws",
        handler: Handler::Socket,
    },
    Route {
        methods: GET,
        path: "/console/{}",
        handler: Handler::Public(|admin, request| admin.console_page(request.uri().path())),
    },
    Route {
        methods: "GET, HEAD, POST, DELETE",
        path: "/api/session",
        handler: Handler::Session,
    },
    Route {
        methods: GET,
        path: "/api/overview",
        handler: Handler::Viewer(|admin, viewer, call| call.with(&[], |_| Box::pin(admin.overview(viewer)))),
    },
    Route {
        methods: GET,
        path: "/api/gateways",
        handler: Handler::Viewer(|admin, viewer, call| call.with(&[], |_| Box::pin(admin.gateways(viewer)))),
    },
    Route {
        methods: GET,
        path: "/api/load",
        handler: Handler::Viewer(|admin, viewer, call| {
            call.with(&["since"], |call| Box::pin(admin.load(viewer, call)))
        }),
    },
    Route {
        methods: GET,
        path: "/api/endings",
        handler: Handler::Viewer(|admin, viewer, call| {
            call.with(&["limit", "user", "code", "blame"], |call| {
                Box::pin(admin.endings(viewer, call))
            })
        }),
    },
    Route {
        methods: GET,
        path: "/api/config",
        handler: Handler::Viewer(|admin, viewer, call| call.with(&[], |_| Box::pin(admin.configuration(viewer)))),
    },
    Route {
        methods: GET,
        path: "/api/users/{}",
        handler: Handler::Viewer(|admin, viewer, call| call.with(&[], |call| Box::pin(admin.user(viewer, call)))),
    },
    Route {
        methods: GET,
        path: "/api/users/{}/explain",
        handler: Handler::Viewer(|admin, viewer, call| {
            call.with(&["subscribe", "command", "publish"], |call| {
                Box::pin(admin.explain(viewer, call))
            })
        }),
    },
    Route {
        methods: "GET, HEAD, POST",
        path: "/api/revocations",
        handler: Handler::Look {
            look: |admin, viewer, call| {
                call.with(&["search", "limit", "cursor"], |call| {
                    Box::pin(admin.revocations(viewer, call))
                })
            },
            act: |admin, operator, call| call.with(&[], |call| Box::pin(admin.revoke(operator, call))),
        },
    },
    Route {
        methods: POST,
        path: "/api/traces",
        handler: Handler::Operator(|admin, operator, call| {
            call.with(&[], |call| Box::pin(admin.begin_trace(operator, call)))
        }),
    },
    Route {
        methods: "GET, HEAD, DELETE",
        path: "/api/traces/{}",
        handler: Handler::Look {
            look: |admin, viewer, call| call.with(&["from", "format"], |call| Box::pin(admin.trace(viewer, call))),
            act: |admin, operator, call| call.with(&[], |call| Box::pin(admin.end_trace(operator, call))),
        },
    },
    Route {
        methods: POST,
        path: "/api/drain",
        handler: Handler::Operator(|admin, operator, call| {
            call.with(&[], |call| Box::pin(admin.drain(operator, call)))
        }),
    },
    Route {
        methods: GET,
        path: "/api/channels",
        handler: Handler::Viewer(|admin, viewer, call| {
            call.with(&["pattern", "stale", "sort", "limit", "cursor"], |call| {
                Box::pin(admin.channels(viewer, call))
            })
        }),
    },
    Route {
        methods: POST,
        path: "/api/channels/{}/test",
        handler: Handler::Operator(|admin, operator, call| {
            call.with(&[], |call| Box::pin(admin.publish_test(operator, call)))
        }),
    },
    Route {
        methods: POST,
        path: "/api/publish",
        handler: Handler::Caller(|admin, caller, call| call.with(&[], |call| Box::pin(admin.publish(caller, call)))),
    },
    Route {
        methods: POST,
        path: "/api/keep_alive",
        handler: Handler::Caller(|admin, caller, call| call.with(&[], |call| Box::pin(admin.keep_alive(caller, call)))),
    },
    Route {
        methods: GET,
        path: "/api/websocket/stats",
        handler: Handler::Viewer(|admin, viewer, call| call.with(&[], |_| Box::pin(admin.stats(viewer)))),
    },
    Route {
        methods: GET,
        path: "/api/websocket/clients",
        handler: Handler::Viewer(|admin, viewer, call| {
            call.with(&["limit", "cursor", "user", "search", "sort"], |call| {
                Box::pin(admin.clients(viewer, call))
            })
        }),
    },
    Route {
        methods: DELETE,
        path: "/api/websocket/clients/{}",
        handler: Handler::Operator(|admin, operator, call| {
            call.with(&["reason"], |call| Box::pin(admin.disconnect(operator, call)))
        }),
    },
    Route {
        methods: DELETE,
        path: "/api/users/{}/connections",
        handler: Handler::Operator(|admin, operator, call| {
            call.with(&["reason"], |call| Box::pin(admin.disconnect_user(operator, call)))
        }),
    },
    Route {
        methods: POST,
        path: "/api/websocket/broadcast/test",
        handler: Handler::Operator(|admin, operator, call| {
            call.with(&[], |call| Box::pin(admin.broadcast_test(operator, call)))
        }),
    },
    Route {
        methods: POST,
        path: "/api/websocket/push/prices",
        handler: Handler::Operator(|admin, operator, call| {
            call.with(&["strategy"], |call| Box::pin(admin.push_prices(operator, call)))
        }),
    },
    Route {
        methods: "GET, HEAD, PUT",
        path: "/api/log",
        handler: Handler::Operator(|admin, operator, call| {
            call.with(&[], |call| Box::pin(admin.log_level(operator, call)))
        }),
    },
    Route {
        methods: "GET, HEAD, DELETE",
        path: "/api/channels/{}",
        handler: Handler::Look {
            look: |admin, viewer, call| call.with(&[], |call| Box::pin(admin.channel(viewer, call))),
            act: |admin, operator, call| call.with(&["reason"], |call| Box::pin(admin.delete(operator, call))),
        },
    },
    Route {
        methods: GET,
        path: "/api/channels/{}/history",
        handler: Handler::Operator(|admin, operator, call| {
            call.with(&["since", "epoch", "limit"], |call| {
                Box::pin(admin.history(operator, call))
            })
        }),
    },
];

const GET: &str = "GET, HEAD";
const POST: &str = "POST";
const DELETE: &str = "DELETE";

/// One route.
pub(super) struct Route {
    /// The methods, as `Allow` lists them.
    methods: &'static str,
    /// The path. `{}` stands for one segment, which becomes [`Call::segment`].
    pub(super) path: &'static str,
    pub(super) handler: Handler,
}

/// The function that answers a route, within the access rule that guards it.
pub(super) enum Handler {
    /// Open to everyone.
    Public(fn(&Admin, &Request<Incoming>) -> HttpResponse),
    /// Open to every valid key or token. The handler decides what the caller may do.
    Caller(for<'a> fn(&'a Admin, Caller, Call) -> PendingResponse<'a>),
    /// `/api/session`: the caller signs in, or is authenticated by the handler.
    Session,
    /// The WebSocket of the console: open to a session of the console, from the console's own page.
    Socket,
    /// Open to viewers and operators.
    Viewer(for<'a> fn(&'a Admin, Viewer, Call) -> PendingResponse<'a>),
    /// Reading (GET, HEAD) is open to viewers and operators, acting to operators.
    Look {
        look: for<'a> fn(&'a Admin, Viewer, Call) -> PendingResponse<'a>,
        act: for<'a> fn(&'a Admin, Operator, Call) -> PendingResponse<'a>,
    },
    /// Open to operators.
    Operator(for<'a> fn(&'a Admin, Operator, Call) -> PendingResponse<'a>),
}

/// The future of a response.
pub(super) type PendingResponse<'a> = Pin<Box<dyn Future<Output = HttpResponse> + Send + 'a>>;

/// A request and what its route found in the path.
pub(super) struct Call {
    /// The decoded segment that `{}` stands for; empty for a path without `{}`.
    pub(super) segment: String,
    pub(super) request: Request<Incoming>,
    /// The address of the caller; `None` for a Unix socket.
    pub(super) address: Option<IpAddr>,
}

impl Call {
    /// The query.
    pub(super) fn query(&self) -> Query<'_> {
        Query::of(self.request.uri().query().unwrap_or_default())
    }

    /// Calls the handler if the query has no parameters but the known ones, each at most once.
    fn with<'a>(self, known: &[&str], handler: impl FnOnce(Self) -> PendingResponse<'a>) -> PendingResponse<'a> {
        let known: Vec<&str> = known.iter().copied().chain([TENANT]).collect();
        match self.query().check(&known) {
            Ok(()) => handler(self),
            Err(message) => {
                let refused = response::error(HttpErrorCode::InvalidMessage, &message);
                Box::pin(std::future::ready(refused))
            }
        }
    }
}

/// Why no route answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoRoute {
    /// No route has this path.
    Path,
    /// The path exists, with these methods.
    Method(&'static str),
}

/// Finds the route of a request, and the decoded segment of its path.
///
/// # Errors
///
/// See [`NoRoute`].
pub(super) fn find<'a>(method: &Method, path: &'a str) -> Result<(&'static Route, Cow<'a, str>), NoRoute> {
    let found = ROUTES
        .iter()
        .find_map(|route| Some((route, segment_of(route.path, path)?)));
    let (route, segment) = found.ok_or(NoRoute::Path)?;
    if route.methods.split(", ").any(|allowed| allowed == method.as_str()) {
        Ok((route, segment))
    } else {
        Err(NoRoute::Method(route.methods))
    }
}

/// Compares a path with a route's path. The result is the decoded segment, empty without `{}`; `None` when they differ.
///
/// One trailing `/` is ignored. The path is split before segments are decoded, so a name may contain an encoded `/`.
fn segment_of<'a>(pattern: &str, path: &'a str) -> Option<Cow<'a, str>> {
    let path = path.strip_suffix('/').unwrap_or(path);
    let (before, after) = pattern.split_once("{}").unwrap_or((pattern, ""));
    let segment = path.strip_prefix(before)?.strip_suffix(after)?;
    if before.len() == pattern.len() {
        return segment.is_empty().then(|| segment.into());
    }
    (!segment.is_empty() && !segment.contains('/'))
        .then(|| decode(segment).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str) -> Option<(&'static str, Cow<'_, str>)> {
        let patterns = ROUTES.iter().map(|route| route.path);
        patterns
            .into_iter()
            .find_map(|pattern| Some((pattern, segment_of(pattern, path)?)))
    }

    #[test]
    fn paths_name_routes() {
        for (path, route) in [
            ("/healthz", Some(("/healthz", ""))),
            ("/metrics", Some(("/metrics", ""))),
            ("/api/publish", Some(("/api/publish", ""))),
            ("/api/publish/", Some(("/api/publish", ""))),
            ("/api/websocket/stats", Some(("/api/websocket/stats", ""))),
            ("/api/websocket/clients", Some(("/api/websocket/clients", ""))),
            ("/api/websocket/clients/", Some(("/api/websocket/clients", ""))),
            (
                "/api/websocket/clients/client_1",
                Some(("/api/websocket/clients/{}", "client_1")),
            ),
            ("/api/websocket/clients/a/b", None),
            ("/api/websocket/clients//", None),
            ("/api/channels/grid.a.order", Some(("/api/channels/{}", "grid.a.order"))),
            (
                "/api/channels/market.BTC%2FUSDT.trade/history/",
                Some(("/api/channels/{}/history", "market.BTC/USDT.trade")),
            ),
            ("/api/channels/history", Some(("/api/channels/{}", "history"))),
            ("/api/channels/a/b", None),
            ("/api/channels/", Some(("/api/channels", ""))),
            ("/api/channels//history", None),
            (
                "/api/users/u%2F1/connections",
                Some(("/api/users/{}/connections", "u/1")),
            ),
            (
                "/api/users/%E4%BD%A0/connections",
                Some(("/api/users/{}/connections", "你")),
            ),
            ("/api/users/%ff/connections", None),
            ("/api/users//connections", None),
            ("/api/users/u1", Some(("/api/users/{}", "u1"))),
            ("/api/users/u1/explain", Some(("/api/users/{}/explain", "u1"))),
            ("/api/channels", Some(("/api/channels", ""))),
            (
                "/api/websocket/broadcast/test",
                Some(("/api/websocket/broadcast/test", "")),
            ),
            ("/api/websocket/push/prices", Some(("/api/websocket/push/prices", ""))),
            ("/api/websocket/push/orders", None),
            ("/api/publish/x", None),
            ("/api", None),
            ("/", Some(("", ""))),
            ("/console/", Some(("/console", ""))),
            ("/console/app.js", Some(("/console/{}", "app.js"))),
            ("/console/a/b", None),
            ("//metrics", None),
        ] {
            let route = route.map(|(pattern, segment)| (pattern, Cow::from(segment)));
            assert_eq!(found(path), route, "{path}");
        }
    }

    #[test]
    fn a_wrong_method_is_distinguished_from_a_wrong_path() {
        let find = |method, path| find(&method, path).map(|(route, _)| route.path);
        assert_eq!(find(Method::HEAD, "/metrics"), Ok("/metrics"));
        assert_eq!(find(Method::OPTIONS, "/readyz/"), Ok("/readyz"));
        assert_eq!(find(Method::OPTIONS, "/metrics"), Err(NoRoute::Method("GET, HEAD")));
        assert_eq!(find(Method::PUT, "/api/publish"), Err(NoRoute::Method("POST")));
        assert_eq!(find(Method::GET, "/api/publishes"), Err(NoRoute::Path));
    }

    #[test]
    fn every_path_occurs_once() {
        let mut paths: Vec<_> = ROUTES.iter().map(|route| route.path).collect();
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len(), ROUTES.len());
    }
}
