//! `[broker]`.

use std::path::PathBuf;

use super::Sections;
use crate::auth::Secret;
use crate::broker::nats::{Login, Storage};
use crate::broker::{SharedSettings, nats, redis};
use crate::config::check::{Because as _, Check, at_least, at_most, ensure, not_blank};
use crate::config::declare::section;
use crate::config::source::{Content, Node};
use crate::config::value::{Refusal, Value, choices, text, typed};
use crate::redis::RedisAddress;
use tickgate_protocol::channel::is_segment;

/// Notices that all gateways need stand in the log every second. A log that one second of events fills would lose them.
const LOG_BYTES_MIN: u64 = 256 << 20;

/// The most bytes of a stream: 64 TiB.
const BYTES_MAX: u64 = 64 << 40;

/// A stream with less could hold few large events.
const PLAIN_BYTES_MIN: u64 = 16 << 20;

section! {
    /// `[broker]`.
    struct Broker {
        /// What carries events between gateways. `embedded`: this gateway stands alone. `nats`: several gateways share the
        /// events of a NATS server or cluster with JetStream (2.9.10 or later; a cluster: 2.10.23 or later). `redis`: those
        /// of a Redis (7.0 or later) or Valkey server. See [scaling.md](scaling.md).
        value kind: BrokerKind = BrokerKind::Embedded;
        /// One URL or several, which are tried in turn. NATS: `nats://host:port` or `tls://host:port`. Redis:
        /// `redis://host:port` or, with TLS, `rediss://host:port`, also for the nodes of a Redis Cluster; by a Sentinel
        /// `sentinel://host:port/master` or `sentinels://host:port/master`. Secrets do not stand in a URL. Not set: the usual
        /// port of this machine.
        value url: Option<Urls> = None, check |urls| urls.as_ref().map_or(Ok(()), without_secrets);
        /// NATS: the first tokens of all subjects, and the beginning of the names of the streams: `<prefix>_LOG`,
        /// `<prefix>_PLAIN`, `<prefix>_MERGED`, `<prefix>_CONTROL`, `<prefix>_SESSIONS` and `<prefix>_KEYS`. Redis: the beginning
        /// of all keys: `{<prefix>}:events` and others. Gateways with the same prefix share everything.
        value prefix: String = "tickgate".to_owned(), check |prefix| subject(prefix);
        /// The file with the JWT and the seed of a NATS user.
        value credentials_file: Option<PathBuf> = None;
        /// The name of a user with a password: of NATS, or of the ACL of Redis.
        value user: Option<String> = None, check not_blank;
        /// The variable that holds the user's password. Without `broker.user` it is a token of NATS, or the password of the
        /// default user of Redis.
        value password_env: Option<String> = None, check not_blank;
        /// The file that holds it.
        value password_file: Option<PathBuf> = None;
        /// The certificates of the authorities that sign the broker's, in PEM. Not set: those of the system.
        value ca_file: Option<PathBuf> = None;
        /// NATS: where the streams are stored: in files, or in the memory of the broker. It counts when the streams are made.
        value storage: StorageKind = StorageKind::File;
        /// NATS: how many servers of a cluster store the streams, 1 to 5. It counts when the streams are made.
        value replicas: u16 = 1, check |replicas| at_least(*replicas, 1).and(at_most(*replicas, 5)).because("JetStream has so many");
        /// The most bytes of the stream with the events of channels that keep state, 256 MiB to 64 TiB. Beyond it, the oldest
        /// events leave the log, whatever their channels keep: what a gateway does not remember itself is gone then. Redis has
        /// it in memory.
        value log_bytes: u64 = 4 << 30, check |bytes| at_least(*bytes, LOG_BYTES_MIN)
                .because("it must hold the histories of all channels")
                .and(at_most(*bytes, BYTES_MAX).because("a gateway reads the log when it starts"));
        /// The same for all other events, 16 MiB to 64 TiB, which wait there for gateways that reconnect. With Redis it is the
        /// size of the stream in which all events wait for them.
        value plain_bytes: u64 = 256 << 20, check |bytes| at_least(*bytes, PLAIN_BYTES_MIN)
                .because("a gateway that is away longer loses its connections")
                .and(at_most(*bytes, BYTES_MAX).because("it only bridges the time in which a gateway reconnects"));

        rule one_login;
        rule keys_of_the_kind;
    }
}

/// `kind`: what carries events between gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum BrokerKind {
    Embedded,
    Nats,
    Redis,
}

choices!(BrokerKind { "embedded" => Self::Embedded, "nats" => Self::Nats, "redis" => Self::Redis } not { "kafka" });

impl BrokerKind {
    /// As it stands in the file.
    fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Nats => "nats",
            Self::Redis => "redis",
        }
    }
}

/// `storage`: where streams are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum StorageKind {
    File,
    Memory,
}

choices!(StorageKind { "file" => Self::File, "memory" => Self::Memory });

/// `url`: one or several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct Urls(pub(in crate::config) Vec<String>);

impl Urls {
    /// The server of this machine.
    pub(in crate::config) fn local_nats() -> Self {
        Self(vec!["nats://127.0.0.1:4222".to_owned()])
    }

    pub(in crate::config) fn boxed(&self) -> Vec<Box<str>> {
        self.0.iter().map(|url| url.as_str().into()).collect()
    }
}

impl Value for Urls {
    fn kind() -> String {
        "URL or array of URLs".to_owned()
    }
    fn read(node: &Node) -> Result<Self, Refusal> {
        if let Content::List(_) = &typed(node).content {
            return Vec::<String>::read(node).map(Self);
        }
        text(node, "a URL in quotes, or an array of them").map(|url| Self(vec![url.to_owned()]))
    }
    fn write(&self) -> Option<toml::Value> {
        match &self.0[..] {
            [one] => Some(one.as_str().into()),
            several => several.to_vec().write(),
        }
    }
}

pub(super) fn servers(urls: &Urls) -> Result<(), String> {
    ensure(!urls.0.is_empty(), "must name a server")?;
    for url in &urls.0 {
        let host = url.strip_prefix("nats://").or_else(|| url.strip_prefix("tls://"));
        let host = host.ok_or_else(|| format!("{url:?} must begin with nats:// or tls://"))?;
        // The message does not repeat the text, which holds a secret.
        ensure(
            !host.contains('@'),
            "must not contain a user or a secret: use user and password_env, or credentials_file",
        )?;
        let is_host = |byte: u8| byte.is_ascii_graphic() && !b"/?#".contains(&byte);
        ensure(
            !host.is_empty() && host.bytes().all(is_host),
            format_args!("{url:?} must be nats://host:port or tls://host:port"),
        )?;
    }
    Ok(())
}

fn without_secrets(urls: &Urls) -> Result<(), String> {
    ensure(!urls.0.is_empty(), "must name a server")?;
    // The message does not repeat the text, which holds a secret.
    ensure(
        !urls.0.iter().any(|url| url.contains('@')),
        "must not contain a user or a secret: use user and password_env, or credentials_file",
    )
}

fn is_nats_address(url: &str) -> bool {
    let host = url.strip_prefix("nats://").or_else(|| url.strip_prefix("tls://"));
    let is_host = |byte: u8| byte.is_ascii_graphic() && !b"/?#".contains(&byte);
    host.is_some_and(|host| !host.is_empty() && host.bytes().all(is_host))
}

/// What a broker does not understand is refused rather than ignored.
fn keys_of_the_kind(broker: &Broker, check: &mut Check<'_>) {
    let urls = broker.url.iter().flat_map(|urls| &urls.0);
    for url in urls {
        // Another check refuses secrets.
        if url.contains('@') {
            continue;
        }
        let checked = match broker.kind {
            BrokerKind::Nats if !is_nats_address(url) => {
                Err(format!("{url:?} must be nats://host:port or tls://host:port"))
            }
            BrokerKind::Embedded | BrokerKind::Nats => Ok(()),
            BrokerKind::Redis => url.parse::<RedisAddress>().map(drop),
        };
        if let Err(why) = checked {
            check.refuse("url", why);
        }
    }
    if broker.kind == BrokerKind::Redis {
        for key in ["credentials_file", "storage", "replicas"] {
            if check.is_given(key) {
                check.refuse(
                    key,
                    "has no place with broker.kind = \"redis\": it says something of NATS",
                );
            }
        }
    }
}

fn subject(prefix: &str) -> Result<(), String> {
    let is_token = |token: &str| {
        is_segment(token)
            && token
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    ensure(
        prefix.len() <= 64 && prefix.split('.').all(is_token),
        "must be at most 64 letters, digits, - and _, in tokens separated by dots",
    )
}

fn one_login(broker: &Broker, check: &mut Check<'_>) {
    if broker.password_env.is_some() && broker.password_file.is_some() {
        check.refuse("password_file", "password_env and password_file exclude each other");
    }
    let has_password = broker.password_env.is_some() || broker.password_file.is_some();
    if broker.credentials_file.is_some() && (has_password || broker.user.is_some()) {
        check.refuse(
            "credentials_file",
            "credentials_file excludes user and password: it holds both",
        );
    }
    if broker.user.is_some() && !has_password {
        check.refuse("user", "needs broker.password_env or broker.password_file");
    }
}

/// Checks what other sections say that several gateways cannot share.
pub(super) fn check_shared(sections: &Sections, check: &mut Check<'_>) {
    let kind = sections.broker.kind;
    let spaces = sections.spaces();
    let mut commands = spaces.iter().flat_map(|space| space.commands);
    if kind != BrokerKind::Nats && commands.any(|command| command.nats) {
        check.refuse("command", "`nats = true` needs broker.kind = \"nats\"");
    }
    if kind == BrokerKind::Embedded {
        return;
    }
    let kind = format!("broker.kind = {:?}", kind.name());
    if sections.state.snapshot.is_some() {
        check.refuse(
            "state.snapshot",
            format!("has no place with {kind}: the log of the broker keeps the state over a restart"),
        );
    }
}

impl Broker {
    /// The settings of the broker without what other sections decide; `None`: the gateway stands alone.
    pub(in crate::config) fn shared(&self, password: Option<Secret>) -> Option<SharedSettings> {
        match self.kind {
            BrokerKind::Embedded => None,
            BrokerKind::Nats => Some(SharedSettings::Nats(self.nats(password))),
            BrokerKind::Redis => self.redis(password).map(SharedSettings::Redis),
        }
    }

    fn redis(&self, password: Option<Secret>) -> Option<redis::Settings> {
        let login = (self.user.as_deref(), password);
        Some(redis::Settings {
            server: super::redis::server(self.url.as_ref(), login, self.ca_file.as_deref())?,
            prefix: self.prefix.as_str().into(),
            log_bytes: self.log_bytes,
            plain_bytes: self.plain_bytes,
            ..redis::Settings::default()
        })
    }

    fn nats(&self, password: Option<Secret>) -> nats::Settings {
        nats::Settings {
            urls: self.url.clone().unwrap_or_else(Urls::local_nats).boxed(),
            login: Login::of(self.credentials_file.as_ref(), self.user.as_deref(), password),
            ca_file: self.ca_file.clone(),
            prefix: self.prefix.as_str().into(),
            storage: match self.storage {
                StorageKind::File => Storage::File,
                StorageKind::Memory => Storage::Memory,
            },
            replicas: u8::try_from(self.replicas).unwrap_or(1),
            log_bytes: self.log_bytes,
            plain_bytes: self.plain_bytes,
            ..nats::Settings::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Environment, Problems};
    use crate::redis::RedisServer;

    fn load(toml: &str) -> Result<Config, Problems> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("tickgate.toml");
        std::fs::write(&file, toml).expect("written");
        let environment = Environment::of([
            ("TICKGATE_JWT_SECRET", "0123456789abcdef0123456789abcdef"),
            ("NATS_PASSWORD", "hidden"),
            ("SECRET", "fedcba9876543210fedcba9876543210"),
        ]);
        Config::load(Some(&file), &environment)
    }

    fn nats(config: &Config) -> nats::Settings {
        match config.gateway(1000).shared {
            Some(SharedSettings::Nats(nats)) => nats,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_nats_broker_needs_no_more_than_its_kind() {
        let config = load("[broker]\nkind = \"nats\"\n").unwrap_or_else(|problems| panic!("{problems}"));
        let nats = nats(&config);
        assert_eq!(
            (&*nats.prefix, &*nats.urls),
            ("tickgate", &["nats://127.0.0.1:4222".into()][..])
        );
        assert_eq!((nats.events_per_channel, nats.replicas), (5001, 1));
        assert!(
            load("")
                .unwrap_or_else(|problems| panic!("{problems}"))
                .gateway(1000)
                .shared
                .is_none()
        );
    }

    #[test]
    fn the_classes_decide_what_the_log_keeps_and_whom_a_gateway_goes_with() {
        let of = |more: &str| {
            let config =
                load(&format!("[broker]\nkind = \"nats\"\n{more}")).unwrap_or_else(|problems| panic!("{problems}"));
            nats(&config)
        };
        let none = of("[[channel]]\nmatch = \"a.*\"\ncache = \"last\"\n");
        assert_eq!(none.events_per_channel, 5001, "a gateway can be away for a while");
        let larger = of("[[channel]]\nmatch = \"a.*\"\nhistory = { size = 9000, ttl = \"1h\" }\n");
        assert_eq!(larger.events_per_channel, 9001);
        let overflow =
            of("[[channel]]\nmatch = \"a.*\"\nhistory = { size = 9000, ttl = \"1h\" }\noverflow = \"drop_oldest\"\n");
        assert_ne!(larger.classes, of("").classes);
        let book = of("[[channel]]\nmatch = \"a.*\"\ncache = \"last\"\nmerge = \"book\"\n");
        assert_ne!(book.classes.hash, none.classes.hash);
        assert_eq!(
            none.classes.difference(&book.classes),
            "for \"a.*\" it has { cache = \"last\", merge = \"book\", only_changed = false }, this gateway has { cache = \"last\", \
             only_changed = false }"
        );
        assert_eq!(
            larger.classes, overflow.classes,
            "each gateway may treat its slow clients in its own way"
        );
    }

    #[test]
    fn gateways_share_their_feeds_in_any_order_since_these_decide_about_classes() {
        let of = |feeds: &[&str]| {
            let toml: String = feeds
                .iter()
                .map(|feed| format!("[[feed]]\nevent = \"e\"\nhttp = \"http://x/\"\n{feed}\n"))
                .collect();
            let config =
                load(&format!("[broker]\nkind = \"nats\"\n{toml}")).unwrap_or_else(|problems| panic!("{problems}"));
            config.gateway(1000).shared.expect("NATS").classes()
        };
        let (a, b) = ("channel = \"odd.a\"", "channel = \"odd.b\"\nrecord_key = \"code\"");
        assert_eq!(of(&[a, b]), of(&[b, a]));
        assert_eq!(
            of(&[a]),
            of(&["channel = \"odd.a\"\ninterval = \"1s\""]),
            "not what clients see"
        );
        let others = [of(&[]), of(&[a]), of(&[b]), of(&["channel = \"odd.b\""])];
        for (index, other) in others.iter().enumerate() {
            assert!(!others[..index].contains(other));
        }
    }

    #[test]
    fn gateways_share_the_classes_of_all_tenants_in_any_order() {
        let of = |tenants: &[&str]| {
            let mut toml = "[broker]\nkind = \"nats\"\n".to_owned();
            for tenant in tenants {
                toml += &format!(
                    "[[tenant]]\nname = {tenant}\n[[tenant.auth.key]]\nalgorithm = \"HS256\"\nsecret_env = \"SECRET\"\n"
                );
            }
            let config = load(&toml).unwrap_or_else(|problems| panic!("{problems}"));
            nats(&config)
        };
        let larger = "\"acme\"\n[[tenant.channel]]\nmatch = \"a.*\"\nhistory = { size = 9000, ttl = \"1h\" }";
        let (one, other) = (of(&[larger, "\"beta\""]), of(&["\"beta\"", larger]));
        assert_eq!((one.events_per_channel, &one.classes), (9001, &other.classes));
        assert_eq!(one.tenants.concat(), "acmebeta");
        assert_ne!(one.classes, of(&["\"acme\"", "\"beta\""]).classes);
        assert_ne!(one.classes, of(&[larger]).classes);
    }

    #[test]
    fn what_gateways_cannot_share_is_refused_with_the_reason() {
        let refused = |toml: &str| {
            load(&format!("[broker]\nkind = \"nats\"\n{toml}"))
                .err()
                .map(|problems| problems.to_string())
        };
        for (toml, reason) in [
            ("url = \"http://x\"\n", "must be nats://host:port or tls://host:port"),
            ("url = []\n", "must name a server"),
            ("url = \"nats://u:p@x:4222\"\n", "must not contain a user or a secret"),
            ("prefix = \"a..b\"\n", "in tokens separated by dots"),
            ("prefix = \"a.*\"\n", "in tokens separated by dots"),
            ("replicas = 6\n", "replicas"),
            ("log_bytes = 1000\n", "log_bytes"),
            ("user = \"u\"\n", "needs broker.password_env"),
            (
                "credentials_file = \"/x\"\npassword_env = \"NATS_PASSWORD\"\n",
                "excludes user and password",
            ),
            (
                "password_env = \"NATS_PASSWORD\"\npassword_file = \"/dev/null\"\n",
                "exclude each other",
            ),
            ("[state]\nsnapshot = \"/tmp/state\"\n", "has no place with broker.kind"),
        ] {
            let told = refused(toml).unwrap_or_else(|| panic!("{toml} is accepted"));
            assert!(told.contains(reason) && !told.contains("u:p@x"), "{toml}: {told}");
        }
        assert!(load("[broker]\nkind = \"kafka\"\n").is_err());
    }

    #[test]
    fn a_redis_broker_has_addresses_and_logins_of_its_own() {
        let of = |more: &str| load(&format!("[broker]\nkind = \"redis\"\n{more}"));
        let redis = |more: &str| {
            let config = of(more).unwrap_or_else(|problems| panic!("{problems}"));
            match config.gateway(1000).shared {
                Some(SharedSettings::Redis(redis)) => redis,
                other => panic!("{other:?}"),
            }
        };
        let plain = redis("");
        assert_eq!(plain.server, RedisServer::default());
        assert_eq!(
            (plain.events_per_channel, plain.duplicate_window.as_secs()),
            (5001, 300)
        );
        let user = redis("url = \"sentinel://s:26379/events\"\nuser = \"gateway\"\npassword_env = \"NATS_PASSWORD\"\n");
        assert_eq!(user.server.addresses[0].to_string(), "sentinel://s:26379/events");
        assert_eq!(user.server.user.as_deref(), Some("gateway"));
        assert!(user.server.password.is_some());
        for (toml, reason) in [
            ("url = \"nats://x\"\n", "must be redis://host:port"),
            ("url = \"redis://u:p@x\"\n", "must not contain a user or a secret"),
            ("url = \"sentinel://x\"\n", "sentinel://host:port/master"),
            ("replicas = 1\n", "it says something of NATS"),
            ("credentials_file = \"/x\"\n", "it says something of NATS"),
            (
                "[state]\nsnapshot = \"/tmp/state\"\n",
                "has no place with broker.kind = \"redis\"",
            ),
            (
                "[[command]]\nmatch = \"a\"\nnats = true\n",
                "needs broker.kind = \"nats\"",
            ),
        ] {
            let told = of(toml)
                .err()
                .unwrap_or_else(|| panic!("{toml} is accepted"))
                .to_string();
            assert!(told.contains(reason) && !told.contains("u:p@x"), "{toml}: {told}");
        }
    }
}
