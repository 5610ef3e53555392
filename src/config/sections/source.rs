//! `[[source]]`.

use std::path::PathBuf;

use super::broker::{Urls, servers};
use super::redis;
use crate::auth::Secret;
use crate::backend::ingest::{
    FieldPath, NatsFrom, NatsServer, Origin, RedisFrom, SourceChannel, SourceEvent, SourceSettings, Start,
    StreamSettings, is_subject,
};
use crate::broker::nats::Login;
use crate::config::check::{Check, ensure, event_name, not_blank};
use crate::config::declare::section;
use crate::config::value::choices;
use tickgate_protocol::channel::{Channel, Classes, Tenant};
use tickgate_protocol::json::RecordKey;

section! {
    /// `[[source]]`.
    struct Source {
        /// The channel of a message's event. A segment behind the first may be a placeholder: `{2}` is the second part of the
        /// subject, `{2..}` all from the second on, `{order.user}` a field of the message. See [sources.md](sources.md#channels).
        value channel: Option<SourceChannel> = None, required "is missing: where the events go";
        /// The name of the events, 1 to 128 bytes, or one placeholder such as `{type}`.
        value event: Option<SourceEvent> = None, required "is missing: the name of the events", check is_event_name;
        /// What is read from NATS: `subject:<subject>`, which may have wildcards, or `stream:<name>` of JetStream. A source has
        /// either `nats` or `redis`.
        value nats: Option<NatsFrom> = None;
        /// What is read from Redis: `stream:<key>`, `channel:<name>` or `pattern:<pattern>` of Pub/Sub.
        value redis: Option<RedisFrom> = None;
        /// The server, one URL or several that are tried in turn. NATS: `nats://host:port` or `tls://host:port`. Redis:
        /// `redis://host[:port][/database]` or, with TLS, `rediss://…`, also for the nodes of a Redis Cluster; by a Sentinel
        /// `sentinel://host:port/master` or `sentinels://…`. If this is not set, it is the local one.
        value url: Option<Urls> = None;
        /// The user of NATS or the ACL user of Redis. It needs a password.
        value user: Option<String> = None, check not_blank;
        /// The variable that holds the password, or without `user` a token of NATS or the password of the default user of Redis.
        value password_env: Option<String> = None, check not_blank;
        /// The file that holds it.
        value password_file: Option<PathBuf> = None;
        /// The file with the JWT and the seed of a NATS user.
        value credentials_file: Option<PathBuf> = None;
        /// The certificates of the authorities that sign the server's, in PEM. Not set: those of the system.
        value ca_file: Option<PathBuf> = None;
        /// The durable consumer or the consumer group that keeps the position in a stream. Gateways that share a broker share
        /// it. Sources and gateways that are to read the same stream apart need different names.
        value consumer: Option<String> = None, check is_consumer;
        /// Only messages of a stream of JetStream with this subject, which may have wildcards, are read. Not set: all.
        value subject: Option<String> = None, check is_filter;
        /// Where a stream is begun of which nothing was read yet: `new`, with the next message, or `all`, with its oldest one.
        value start: Option<StartKind> = None;
        /// The field that holds the `data` of the event, such as `payload` or `order.fill`. Not set: the whole message.
        value data: Option<FieldPath> = None;
        /// The data is a record, or an array of records, that differ in this field, or in these fields. A message without it is
        /// skipped. A channel that keeps its last event needs a `[[channel]]` with the same `record_key`.
        value record_key: Option<RecordKey> = None;

        refused "password" "a password does not stand in the file: name it by password_env or password_file";
        rule one_origin;
        rule one_login;
    }
}

/// `start`: where a stream is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum StartKind {
    New,
    All,
}

choices!(StartKind { "new" => Self::New, "all" => Self::All });

/// The consumer, if it is not named.
const CONSUMER: &str = "tickgate";

fn is_event_name(event: &Option<SourceEvent>) -> Result<(), String> {
    event_name(event.as_ref().and_then(SourceEvent::fixed))
}

fn is_consumer(name: &Option<String>) -> Result<(), String> {
    let fine = |name: &String| {
        (1..=32).contains(&name.len())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    ensure(
        name.as_ref().is_none_or(fine),
        "must have 1 to 32 letters, digits, - and _",
    )
}

fn is_filter(subject: &Option<String>) -> Result<(), String> {
    let fine = subject.as_deref().is_none_or(is_subject);
    ensure(fine, "must be a subject of NATS, which may have the wildcards * and >")
}

fn one_origin(source: &Source, check: &mut Check<'_>) {
    match (&source.nats, &source.redis) {
        (Some(_), Some(_)) => return check.contradiction(["redis", "nats"], "nats and redis exclude each other"),
        (None, None) => return check.refuse("nats", "is missing: what is read (nats or redis)"),
        _ => {}
    }
    let is_nats = source.nats.is_some();
    for (key, is_given) in [
        ("credentials_file", source.credentials_file.is_some()),
        ("subject", source.subject.is_some()),
    ] {
        check.require(is_nats || !is_given, key, "is for nats only");
    }
    let is_stream =
        matches!(source.nats, Some(NatsFrom::Stream(_))) || matches!(source.redis, Some(RedisFrom::Stream(_)));
    for (key, is_given) in [
        ("consumer", source.consumer.is_some()),
        ("subject", source.subject.is_some() && is_nats),
        ("start", source.start.is_some()),
    ] {
        check.require(
            is_stream || !is_given,
            key,
            "is for a stream only: nothing else has a position",
        );
    }
    let Some(urls) = &source.url else { return };
    let checked = if is_nats {
        servers(urls)
    } else {
        redis::addresses(urls).map(drop)
    };
    if let Err(why) = checked {
        check.refuse("url", why);
    }
}

fn one_login(source: &Source, check: &mut Check<'_>) {
    if source.password_env.is_some() && source.password_file.is_some() {
        check.refuse("password_file", "password_env and password_file exclude each other");
    }
    let has_password = source.password_env.is_some() || source.password_file.is_some();
    if source.credentials_file.is_some() && (has_password || source.user.is_some()) {
        check.refuse(
            "credentials_file",
            "credentials_file excludes user and password: it holds both",
        );
    }
    if source.user.is_some() && !has_password {
        check.refuse("user", "needs password_env or password_file");
    }
}

/// Refuses sources of which one would take the other's messages, and records for channels that would keep only a part of
/// them. `check` stands at the file or at a tenant.
pub(super) fn check_all(sources: &[Source], classes: &Classes, check: &mut Check<'_>) {
    for (index, source) in sources.iter().enumerate() {
        let example = source
            .channel
            .as_ref()
            .and_then(|channel| Channel::parse(&channel.example()).ok());
        let Some(channel) = example else { continue };
        let class = classes.of(&channel);
        if class.cache_last && class.record_key != source.record_key && source.record_key.is_some() {
            let message = "its channel keeps the last event for newcomers, which would be only a part of the records: \
                           give it a [[channel]] with cache = \"last\" and the same record_key";
            check.refuse(&format!("source[{index}].record_key"), message);
        }
    }
}

/// Refuses two sources, of any tenants, that would share a position. `check` stands at the file as a whole.
pub(super) fn check_positions(sources: &[(String, &Source)], check: &mut Check<'_>) {
    for (index, (name, source)) in sources.iter().enumerate() {
        let Some(position) = source.position() else { continue };
        let same = |(_, other): &(String, &Source)| other.position() == Some(position.clone());
        if let Some((other, _)) = sources[..index].iter().find(|other| same(other)) {
            let message =
                format!("{other} reads the same stream by the same consumer: each would get a part of the messages");
            check.refuse(&format!("{name}.consumer"), message);
        }
    }
}

impl Source {
    fn consumer(&self) -> &str {
        self.consumer.as_deref().unwrap_or(CONSUMER)
    }

    /// Where the position in a stream is kept; `None`: nowhere.
    fn position(&self) -> Option<(String, String)> {
        let url = self.url.as_ref().map(|urls| urls.0.join(" ")).unwrap_or_default();
        let stream = match (&self.nats, &self.redis) {
            (Some(NatsFrom::Stream(name)), None) => format!("nats {url} {name}"),
            (None, Some(RedisFrom::Stream(key))) => format!("redis {url} {key}"),
            _ => return None,
        };
        Some((stream, self.consumer().to_owned()))
    }

    /// How a stream is read.
    pub(in crate::config) fn stream(&self) -> StreamSettings {
        StreamSettings {
            consumer: self.consumer().into(),
            subject: self.subject.as_deref().map(Into::into),
            start: match self.start {
                Some(StartKind::All) => Start::All,
                Some(StartKind::New) | None => Start::New,
            },
        }
    }

    /// The settings of the source of a tenant. `None` only for a source that the check refuses.
    pub(in crate::config) fn settings(
        &self,
        tenant: Tenant,
        password: Option<Secret>,
        event_bytes: u32,
    ) -> Option<SourceSettings> {
        let stream = self.stream();
        let origin = match (&self.nats, &self.redis) {
            (Some(from), _) => Origin::Nats {
                server: NatsServer {
                    urls: self.url.clone().unwrap_or_else(Urls::local_nats).boxed(),
                    login: Login::of(self.credentials_file.as_ref(), self.user.as_deref(), password),
                    ca_file: self.ca_file.clone(),
                },
                from: from.clone(),
                stream,
            },
            (None, from) => Origin::Redis {
                server: redis::server(
                    self.url.as_ref(),
                    (self.user.as_deref(), password),
                    self.ca_file.as_deref(),
                )?,
                from: from.clone()?,
                stream,
            },
        };
        Some(SourceSettings {
            tenant,
            channel: self.channel.clone()?,
            event: self.event.clone()?,
            origin,
            data: self.data.clone(),
            record_key: self.record_key.clone(),
            event_bytes: event_bytes as usize,
        })
    }
}
