//! `[[endpoint]]`.

use std::collections::HashSet;
use std::sync::Arc;

use super::check::Check;
use crate::config::value::{Templates, choices};
use crate::config::visit::{Section, Visitor};
use tickgate_protocol::channel::Pattern;
use tickgate_protocol::dialect::{Dialect, socket_io, typed};

/// `[[endpoint]]`.
#[derive(Clone, Debug, Default)]
pub(in crate::config) struct Endpoint {
    pub(in crate::config) path: Option<String>,
    pub(in crate::config) dialect: Option<Name>,
    pub(in crate::config) anonymous: bool,
    pub(in crate::config) message_bytes: Option<u32>,
    pub(in crate::config) auto_subscribe: Vec<Pattern>,
    pub(in crate::config) timestamps: Option<typed::Timestamps>,
    pub(in crate::config) subscription_types: Option<Templates>,
}

/// `dialect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Name {
    Native,
    Typed,
    SocketIo,
    Echo,
}

choices!(Name { "native" => Self::Native, "typed" => Self::Typed, "socket_io" => Self::SocketIo, "echo" => Self::Echo });
choices!(typed::Timestamps { "utc" => Self::Utc, "naive" => Self::Naive });

impl Endpoint {
    /// What is served when the file names no endpoint.
    pub(super) fn defaults() -> Vec<Self> {
        let typed = typed::Settings::default();
        let endpoint = |path: &str, dialect| Self {
            path: Some(path.to_owned()),
            dialect: Some(dialect),
            anonymous: dialect == Name::Typed,
            ..Self::default()
        };
        let automatic = ["market.*", "system.status"].map(|text| Pattern::parse(text).expect("a pattern"));
        vec![
            endpoint("/ws", Name::Native),
            Self {
                timestamps: Some(typed.timestamps),
                subscription_types: Some(Templates(typed.subscription_types)),
                ..endpoint("/ws/stock/prices", Name::Typed)
            },
            Self {
                auto_subscribe: automatic.into(),
                ..endpoint("/ws/market", Name::Typed)
            },
            endpoint("/socket.io/", Name::SocketIo),
        ]
    }

    /// How it speaks; `None` only where the check refuses the endpoint.
    pub(in crate::config) fn dialect(&self) -> Option<Dialect> {
        Some(match self.dialect? {
            Name::Native => Dialect::Native,
            Name::Echo => Dialect::Echo,
            Name::SocketIo => Dialect::SocketIo(socket_io::Settings {
                timestamps: self.timestamps.unwrap_or_default(),
            }),
            Name::Typed => {
                let defaults = typed::Settings::default();
                let types = self.subscription_types.as_ref().map(|Templates(types)| types.clone());
                Dialect::Typed(Arc::new(typed::Settings {
                    subscription_types: types.unwrap_or(defaults.subscription_types),
                    timestamps: self.timestamps.unwrap_or_default(),
                }))
            }
        })
    }
}

impl Section for Endpoint {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        visitor.value("path", &mut self.path);
        visitor.value("dialect", &mut self.dialect);
        visitor.value("anonymous", &mut self.anonymous);
        visitor.value("message_bytes", &mut self.message_bytes);
        visitor.value("auto_subscribe", &mut self.auto_subscribe);
        visitor.value("timestamps", &mut self.timestamps);
        visitor.value("subscription_types", &mut self.subscription_types);
    }
}

pub(super) fn check_endpoints(endpoints: &[Endpoint], check: &mut Check<'_>) {
    check.require(!endpoints.is_empty(), "endpoint", "at least one [[endpoint]] is needed");
    let mut seen = HashSet::new();
    for (index, endpoint) in endpoints.iter().enumerate() {
        let key = |name: &str| format!("endpoint[{index}].{name}");
        if let Some(bytes) = endpoint.message_bytes {
            check.require(bytes > 0, &key("message_bytes"), "must be at least 1");
        }
        check_dialect(endpoint, &key, check);
        let Some(path) = &endpoint.path else {
            check.refuse(&key("path"), "is missing");
            continue;
        };
        let plain = |byte: u8| byte.is_ascii_graphic() && !b"?#%".contains(&byte);
        if !path.starts_with('/') || !path.bytes().all(plain) {
            check.refuse(
                &key("path"),
                "must begin with / and hold neither white space nor ?, # or %",
            );
        }
        // `/a` and `/a/` are served alike.
        if !seen.insert(path.trim_end_matches('/')) {
            check.refuse(&key("path"), format!("\"{path}\" is served by an earlier endpoint"));
        }
        let taken = ["/healthz", "/readyz"];
        check.require(
            !taken.contains(&path.trim_end_matches('/')),
            &key("path"),
            "is taken by the gateway's own health check",
        );
    }
}

fn check_dialect(endpoint: &Endpoint, key: &dyn Fn(&str) -> String, check: &mut Check<'_>) {
    let Some(dialect) = endpoint.dialect else {
        return check.refuse(
            &key("dialect"),
            "is missing: \"native\", \"typed\", \"socket_io\" or \"echo\"",
        );
    };
    if !matches!(dialect, Name::Typed | Name::SocketIo) {
        let message = "has a meaning only with dialect = \"typed\" or \"socket_io\"";
        check.require(endpoint.timestamps.is_none(), &key("timestamps"), message);
    }
    if dialect != Name::Typed {
        let message = "has a meaning only with dialect = \"typed\"";
        check.require(
            endpoint.subscription_types.is_none(),
            &key("subscription_types"),
            message,
        );
    }
    check.require(
        dialect != Name::Echo || endpoint.auto_subscribe.is_empty(),
        &key("auto_subscribe"),
        "has no meaning with dialect = \"echo\", which has no events",
    );
}
