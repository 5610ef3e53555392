//! `[[endpoint]]`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::HeaderName;

use super::limits::message_size;
use crate::config::check::{Check, ensure};
use crate::config::declare::section;
use crate::config::source::{Content, Node};
use crate::config::value::{Refusal, Value, choices, milliseconds, text, typed};
use crate::ingress::{HostPattern, ListenAddress, ListenerName, Selector};
use tickgate_protocol::channel::{Pattern, Tenant};
use tickgate_protocol::dialect::typed::Template;
use tickgate_protocol::dialect::{Dialect, socket_io, typed as typed_dialect};

section! {
    /// `[[endpoint]]`.
    struct Endpoint {
        /// The path, such as `/ws`. A slash at the end makes no difference.
        value path: Option<String> = None, required "is missing", check is_plain_path;
        /// `native` ([protocol.md](protocol.md)), `typed` ([typed.md](typed.md)), `socket_io` ([socket_io.md](socket_io.md)), or
        /// `echo`, which returns every message unchanged and is meant for conformance suites and load tests.
        value dialect: Option<DialectName> = None,
            required "is missing: \"native\", \"typed\", \"socket_io\" or \"echo\"";
        /// The listener that the endpoint serves: an address of `server.listen`, or `systemd:name` with the
        /// `FileDescriptorName` of a socket that systemd passes. Not set: all public listeners.
        value listen: Option<ListenerName> = None;
        /// The hosts that the endpoint serves, by the request's `Host`: `ws.example.com`, `*.example.com` (any depth of
        /// subdomain) or an IP address. Case, port and a final dot make no difference. Empty: all, and requests without
        /// `Host`.
        value hosts: Vec<HostPattern> = Vec::new();
        /// Subprotocols of which the client must offer one in `Sec-WebSocket-Protocol`; the client's first one that stands here is
        /// agreed on. Empty: none is needed.
        value subprotocols: Vec<Subprotocol> = Vec::new();
        /// A connection without a token gets the permissions of `[auth.anonymous]`, whatever `auth.mode` says. A bad token is
        /// refused nevertheless.
        value anonymous: bool = false;
        /// Replaces `limits.message_bytes` for this endpoint, in the same range.
        value message_bytes: Option<u32> = None, check |bytes| bytes.map_or(Ok(()), |bytes| message_size(&bytes));
        /// Replaces `compression.enabled` for this endpoint: `false` for clients whose stack offers permessage-deflate and does not
        /// bear it.
        value compression: Option<bool> = None;
        /// Patterns that every connection is subscribed to once it is authenticated or anonymous. They do not count against
        /// `limits.subscriptions`. A pattern that the client may not subscribe to is skipped; the log says so once for each
        /// endpoint and shard and, at level `debug`, for each client.
        value auto_subscribe: Vec<Pattern> = Vec::new();
        /// For `typed` and `socket_io`. `utc`, the default: `2025-11-24T10:30:00Z`. `naive`: the same without the `Z`, for older
        /// clients whose parsers do not accept one.
        value timestamps: Option<typed_dialect::Timestamps> = None;
        /// For `typed` and `socket_io`: the `message` of `connected`, 1 to 256 bytes, for applications that show it. If this is not
        /// set: `WebSocket connected` or `Socket.IO connected`.
        value connected_message: Option<String> = None, check is_message;
        /// For `socket_io`: clients get their sessions back when they come back in time (connection state recovery,
        /// [socket_io.md](socket_io.md#connection-state-recovery)). Events get an offset as a second argument, which clients
        /// older than `socket.io-client` 4.6 and handlers of other libraries may not expect.
        value recovery: bool = false;
        /// For `socket_io` with `recovery`: how long a client may be away. From one second to one hour.
        value recovery_window: Duration = Duration::from_secs(120), check window_fits;
        /// For `typed`: the pattern for each `subscription_type`, with `{target}` exactly once, as a whole segment. If this is
        /// not set, the three types above apply.
        value subscription_types: Option<Templates> = None;

        rule keys_fit_the_dialect;
    }
}

/// `dialect`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum DialectName {
    Native,
    Typed,
    SocketIo,
    Echo,
}

choices!(DialectName {
    "native" => Self::Native, "typed" => Self::Typed, "socket_io" => Self::SocketIo, "echo" => Self::Echo,
});
choices!(typed_dialect::Timestamps { "utc" => Self::Utc, "naive" => Self::Naive });

fn is_plain_path(path: &Option<String>) -> Result<(), String> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"?#%".contains(&byte);
    let fine = |path: &String| path.starts_with('/') && path.bytes().all(is_plain);
    ensure(
        path.as_ref().is_none_or(fine),
        "must begin with / and hold neither white space nor ?, # or %",
    )
}

fn window_fits(window: &Duration) -> Result<(), String> {
    ensure(*window >= Duration::from_secs(1), "must be at least 1s")?;
    ensure(
        *window <= Duration::from_secs(3600),
        "must be at most 1h: what a session had lies in memory until then",
    )
}

/// The longest `connected_message`, in bytes.
const CONNECTED_MESSAGE_BYTES_MAX: usize = 256;

fn is_message(message: &Option<String>) -> Result<(), String> {
    let is_fine = |message: &String| !message.trim().is_empty() && message.len() <= CONNECTED_MESSAGE_BYTES_MAX;
    ensure(
        message.as_ref().is_none_or(is_fine),
        format_args!("must have 1 to {CONNECTED_MESSAGE_BYTES_MAX} bytes and not be blank"),
    )
}

fn keys_fit_the_dialect(endpoint: &Endpoint, check: &mut Check<'_>) {
    let Some(dialect) = endpoint.dialect else { return };
    if !matches!(dialect, DialectName::Typed | DialectName::SocketIo) {
        let message = "has a meaning only with dialect = \"typed\" or \"socket_io\"";
        check.require(endpoint.timestamps.is_none(), "timestamps", message);
        check.require(endpoint.connected_message.is_none(), "connected_message", message);
    }
    if dialect != DialectName::Typed {
        let message = "has a meaning only with dialect = \"typed\"";
        check.require(endpoint.subscription_types.is_none(), "subscription_types", message);
    }
    check.require(
        dialect == DialectName::SocketIo || !endpoint.recovery,
        "recovery",
        "has a meaning only with dialect = \"socket_io\"; clients of the other dialects recover by their cursor",
    );
    check.require(
        dialect != DialectName::SocketIo || endpoint.subprotocols.is_empty(),
        "subprotocols",
        "has no meaning with dialect = \"socket_io\", whose polls carry none",
    );
    check.require(
        dialect != DialectName::Echo || endpoint.auto_subscribe.is_empty(),
        "auto_subscribe",
        "has no meaning with dialect = \"echo\", which has no events",
    );
}

/// Refuses endpoints of which a request could fit two equally well, paths of the gateway itself, and listeners that do not
/// exist. `check` stands at the file as a whole.
/// Each endpoint comes with its name.
pub(super) fn check_selection(endpoints: &[(String, &Endpoint)], listeners: &[ListenAddress], check: &mut Check<'_>) {
    // `/a` and `/a/` are the same path.
    let served = |endpoint: &Endpoint| Some(endpoint.path.as_deref()?.trim_end_matches('/').to_owned());
    for (index, (name, endpoint)) in endpoints.iter().enumerate() {
        if let Some(ListenerName::Address(address)) = &endpoint.listen {
            let key = format!("{name}.listen");
            check.require(listeners.contains(address), &key, "must be an address of server.listen");
        }
        let Some(path) = &endpoint.path else { continue };
        let key = format!("{name}.path");
        let is_twin = |(_, earlier): &&(String, &Endpoint)| {
            served(earlier) == served(endpoint)
                && earlier.listen == endpoint.listen
                && earlier.selector().ties_with(&endpoint.selector())
        };
        if let Some((twin, _)) = endpoints[..index].iter().find(is_twin) {
            check.refuse(
                &key,
                format!(
                    "\"{path}\" is served by {twin} too, equally well: let them differ in listen, hosts or \
                     subprotocols"
                ),
            );
        }
        let served = path.trim_end_matches('/');
        let is_free = !["/healthz", "/readyz"].contains(&served);
        check.require(is_free, &key, "is taken by the gateway's own health check");
    }
}

impl Endpoint {
    /// The endpoints that are served if the file names none.
    pub(super) fn defaults() -> Vec<Self> {
        let typed = typed_dialect::Settings::default();
        let endpoint = |path: &str, dialect| Self {
            path: Some(path.to_owned()),
            dialect: Some(dialect),
            ..Self::default()
        };
        let market = ["market.*", "system.status"].map(|text| Pattern::parse(text).expect("a pattern"));
        vec![
            endpoint("/ws", DialectName::Native),
            Self {
                timestamps: Some(typed.timestamps),
                subscription_types: Some(Templates(typed.subscription_types)),
                ..endpoint("/ws/stock/prices", DialectName::Typed)
            },
            Self {
                auto_subscribe: market.into(),
                ..endpoint("/ws/market", DialectName::Typed)
            },
            endpoint("/socket.io/", DialectName::SocketIo),
        ]
    }

    /// The dialect with its settings. `None` only for an endpoint that the check refuses.
    pub(in crate::config) fn dialect(&self) -> Option<Dialect> {
        Some(match self.dialect? {
            DialectName::Native => Dialect::Native,
            DialectName::Echo => Dialect::Echo,
            DialectName::SocketIo => {
                let defaults = socket_io::Settings::default();
                Dialect::SocketIo(socket_io::Settings {
                    timestamps: self.timestamps.unwrap_or_default(),
                    connected_message: self.connected_message(defaults.connected_message),
                    recovery_window_ms: self.recovery.then(|| milliseconds(self.recovery_window)),
                })
            }
            DialectName::Typed => {
                let defaults = typed_dialect::Settings::default();
                let types = self.subscription_types.as_ref().map(|Templates(types)| types.clone());
                Dialect::Typed(Arc::new(typed_dialect::Settings {
                    subscription_types: types.unwrap_or(defaults.subscription_types),
                    timestamps: self.timestamps.unwrap_or_default(),
                    connected_message: self.connected_message(defaults.connected_message),
                }))
            }
        })
    }

    fn connected_message(&self, default: Arc<str>) -> Arc<str> {
        self.connected_message.as_deref().map_or(default, Into::into)
    }

    /// What a request needs besides the path.
    pub(in crate::config) fn selector(&self) -> Selector {
        Selector {
            listen: self.listen.clone(),
            hosts: self.hosts.clone(),
            subprotocols: self.subprotocols.iter().map(|name| name.0.as_str().into()).collect(),
        }
    }

    /// The patterns of `auto_subscribe`, each once, as those of a tenant.
    pub(in crate::config) fn auto_subscribe(&self, tenant: Tenant) -> Box<[Pattern]> {
        let patterns = &self.auto_subscribe;
        let is_first = |index: &usize| !patterns[..*index].contains(&patterns[*index]);
        let first = (0..patterns.len()).filter(is_first);
        first.map(|index| patterns[index].clone().in_tenant(tenant)).collect()
    }
}

/// An entry of `subprotocols`: a token (RFC 6455, section 4.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct Subprotocol(String);

impl Value for Subprotocol {
    fn kind() -> String {
        "subprotocol".to_owned()
    }
    fn read(node: &Node) -> Result<Self, Refusal> {
        let text = text(node, "the name of a subprotocol in quotes")?;
        // A header's name is a token too (RFC 9110, section 5.6.2).
        match HeaderName::from_bytes(text.as_bytes()) {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err(Refusal::new(format!(
                "\"{text}\" is not the name of a subprotocol (letters, digits and -._ without spaces)"
            ))),
        }
    }
    fn write(&self) -> Option<toml::Value> {
        Some(self.0.as_str().into())
    }
}

/// `subscription_types`: pattern templates by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct Templates(pub(in crate::config) BTreeMap<Box<str>, Template>);

impl Value for Templates {
    fn kind() -> String {
        "table of patterns".to_owned()
    }
    fn read(node: &Node) -> Result<Self, Refusal> {
        let Content::Table(table) = &typed(node).content else {
            return Err(Refusal::wanted("a table ({ name = \"pattern with {target}\" })", node));
        };
        let entry = |(name, node): (&String, &Node)| {
            let at = |message| Refusal {
                origin: Some(node.origin.clone()),
                message,
            };
            let template = text(node, "a pattern in quotes").map_err(|refusal| at(refusal.message))?;
            match template.parse() {
                Ok(template) => Ok((name.as_str().into(), template)),
                Err(error) => Err(at(format!("{name} = \"{template}\" {error}"))),
            }
        };
        table.iter().map(entry).collect::<Result<_, _>>().map(Self)
    }
    fn write(&self) -> Option<toml::Value> {
        let entries = self.0.iter();
        let table = entries.map(|(name, template)| (name.to_string(), template.to_string().into()));
        Some(toml::Value::Table(table.collect()))
    }
}
