//! Which path means what. Pure.

use std::borrow::Cow;

use crate::ingress::http::request::decode;

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route<'a> {
    Metrics,
    Publish,
    Stats,
    Clients,
    Channel(Cow<'a, str>),
    History(Cow<'a, str>),
    Client(Cow<'a, str>),
    UserConnections(Cow<'a, str>),
    BroadcastTest,
    PushPrices,
}

impl<'a> Route<'a> {
    /// The route of a path; a last `/` makes no difference. Segments are split before they are decoded, so a user
    /// whose name holds a `/` can be named.
    pub(super) fn of(path: &'a str) -> Option<Self> {
        let path = path.strip_suffix('/').unwrap_or(path);
        Some(match path {
            "/metrics" => Self::Metrics,
            "/api/publish" => Self::Publish,
            "/api/websocket/stats" => Self::Stats,
            "/api/websocket/clients" => Self::Clients,
            "/api/websocket/broadcast/test" => Self::BroadcastTest,
            "/api/websocket/push/prices" => Self::PushPrices,
            _ => {
                if let Some(id) = path.strip_prefix("/api/websocket/clients/") {
                    return segment(id).map(Self::Client);
                }
                if let Some(channel) = path.strip_prefix("/api/channels/") {
                    return match channel.strip_suffix("/history") {
                        Some(channel) => segment(channel).map(Self::History),
                        None => segment(channel).map(Self::Channel),
                    };
                }
                let user = path.strip_prefix("/api/users/")?.strip_suffix("/connections")?;
                return segment(user).map(Self::UserConnections);
            }
        })
    }

    /// Its methods, for `Allow`.
    pub(super) fn methods(&self) -> &'static str {
        match self {
            Self::Metrics | Self::Stats | Self::Clients | Self::Channel(_) | Self::History(_) => "GET, HEAD",
            Self::Publish | Self::BroadcastTest | Self::PushPrices => "POST",
            Self::Client(_) | Self::UserConnections(_) => "DELETE",
        }
    }

    /// Whether it is asked by one of its methods.
    pub(super) fn allows(&self, method: &hyper::Method) -> bool {
        self.methods().split(", ").any(|allowed| allowed == method.as_str())
    }
}

fn segment(text: &str) -> Option<Cow<'_, str>> {
    (!text.is_empty() && !text.contains('/'))
        .then(|| decode(text).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_routes() {
        for (path, route) in [
            ("/metrics", Some(Route::Metrics)),
            ("/api/publish", Some(Route::Publish)),
            ("/api/publish/", Some(Route::Publish)),
            ("/api/websocket/stats", Some(Route::Stats)),
            ("/api/websocket/clients", Some(Route::Clients)),
            ("/api/websocket/clients/", Some(Route::Clients)),
            (
                "/api/websocket/clients/client_1",
                Some(Route::Client("client_1".into())),
            ),
            ("/api/websocket/clients/a/b", None),
            (
                "/api/channels/grid.a.order",
                Some(Route::Channel("grid.a.order".into())),
            ),
            (
                "/api/channels/market.BTC%2FUSDT.trade/history/",
                Some(Route::History("market.BTC/USDT.trade".into())),
            ),
            ("/api/channels/history", Some(Route::Channel("history".into()))),
            ("/api/channels/a/b", None),
            ("/api/channels/", None),
            ("/api/channels//history", None),
            (
                "/api/users/u%2F1/connections",
                Some(Route::UserConnections("u/1".into())),
            ),
            (
                "/api/users/%E4%BD%A0/connections",
                Some(Route::UserConnections("你".into())),
            ),
            ("/api/users/%ff/connections", None),
            ("/api/users//connections", None),
            ("/api/users/u1", None),
            ("/api/websocket/broadcast/test", Some(Route::BroadcastTest)),
            ("/api/websocket/push/prices", Some(Route::PushPrices)),
            ("/api/websocket/push/orders", None),
            ("/api", None),
            ("/", None),
            ("", None),
            ("//metrics", None),
        ] {
            assert_eq!(Route::of(path), route, "{path}");
        }
    }
}
