//! `[[feed]]`.

use std::path::PathBuf;
use std::time::Duration;

use super::broker::Urls;
use super::redis;
use crate::auth::Secret;
use crate::backend::feeds::{FeedSettings, PublishMode, RedisKey, SourceSettings, UrlTemplate};
use crate::config::check::{Because, Check, DAY, HOUR, ensure, event_name, no_longer_than, not_blank, not_zero};
use crate::config::declare::section;
use tickgate_protocol::channel::{ChannelTemplate, Tenant};
use tickgate_protocol::json::RecordKey;

/// The shortest interval between two polls.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

section! {
    /// `[[feed]]`.
    struct Feed {
        /// The channel of the events. One segment may be a placeholder, such as `{id}` in `user.{id}.balance`. Exact
        /// subscriptions fill it in.
        value channel: Option<ChannelTemplate> = None, required "is missing: where the events go";
        /// The name of the events, 1 to 128 bytes.
        value event: Option<String> = None, required "is missing: the name of the events", check is_event_name;
        /// The source as a URL that is polled by GET. It holds the channel's placeholder. A feed has either `http` or `redis`.
        value http: Option<UrlTemplate> = None;
        /// The source as a key in Redis: `string:<key>`, `hash:<key>`, `list:<key>` or `record:<key>`. It holds the channel's
        /// placeholder.
        value redis: Option<RedisKey> = None;
        /// The Redis server, one URL or several that are tried in turn: `redis://host[:port][/database]` or, with TLS,
        /// `rediss://…`, also for the nodes of a Redis Cluster; by a Sentinel `sentinel://host:port/master` or `sentinels://…`.
        /// If this is not set, it is `redis://127.0.0.1:6379`. Feeds with the same server and login share connections.
        value url: Option<Urls> = None, check |urls| urls.as_ref().map_or(Ok(()), |urls| redis::addresses(urls).map(drop));
        /// The ACL user of Redis. It needs a password. If this is not set, it is the default user.
        value user: Option<String> = None, check not_blank;
        /// The variable that holds the Redis password.
        value password_env: Option<String> = None, check not_blank;
        /// The file that holds the Redis password.
        value password_file: Option<PathBuf> = None;
        /// The certificates of the authorities that sign those of Redis, in PEM. Not set: those of the system.
        value ca_file: Option<PathBuf> = None;
        /// The answer is an array of records that differ in this field, or in these fields, and only changed records are sent. Includes
        /// `only_changed`. A channel that keeps its last event needs a `[[channel]]` with the same `record_key`; the built-in
        /// classes of price lists have `code`.
        value record_key: Option<RecordKey> = None;
        /// An answer that equals the last one is not sent.
        value only_changed: bool = false;
        /// The time between two polls, 100 ms to 1 d, with jitter.
        value interval: Duration = Duration::from_secs(10),
            check |interval| ensure(*interval >= INTERVAL_MIN, "must be at least 100ms")
                .because("the source would be polled without a pause")
                .and(no_longer_than(interval, DAY).because("what clients see would be as old"));
        /// The time that one poll may take, at most 1 h.
        value timeout: Duration = Duration::from_secs(5),
            check |time| not_zero(time).and(no_longer_than(time, HOUR).because("no other poll begins while one waits"));

        refused "password" "a password does not stand in the file: name it by password_env or password_file";
        rule source_fits_the_channel;
        rule server_fits_the_source;
    }
}

fn is_event_name(name: &Option<String>) -> Result<(), String> {
    event_name(name.as_deref())
}

fn source_fits_the_channel(feed: &Feed, check: &mut Check<'_>) {
    let (key, held) = match (&feed.http, &feed.redis) {
        (Some(url), None) => ("http", url.placeholder()),
        (None, Some(redis)) => ("redis", redis.placeholder()),
        (Some(_), Some(_)) => return check.contradiction(["redis", "http"], "http and redis exclude each other"),
        (None, None) => {
            return check.refuse("http", "is missing: the source (http = a URL, or redis = a key)");
        }
    };
    let Some(channel) = &feed.channel else { return };
    let wanted = channel.placeholder();
    match (&wanted, held) {
        (Some(wanted), None) => check.refuse(
            key,
            format!("must hold {wanted}, as the channel does: otherwise all would get the same"),
        ),
        (wanted, Some(held)) if wanted.as_deref() != Some(held) => {
            check.refuse(key, format!("holds {held}, which the channel does not"));
        }
        _ => {}
    }
}

fn server_fits_the_source(feed: &Feed, check: &mut Check<'_>) {
    // Neither source, or both: that is reported already.
    if feed.http.is_some() == feed.redis.is_some() {
        return;
    }
    for (key, is_given) in [
        ("url", feed.url.is_some()),
        ("user", feed.user.is_some()),
        ("password_env", feed.password_env.is_some()),
        ("password_file", feed.password_file.is_some()),
        ("ca_file", feed.ca_file.is_some()),
    ] {
        check.require(feed.redis.is_some() || !is_given, key, "is for redis only");
    }
    if feed.password_env.is_some() && feed.password_file.is_some() {
        let message = "password_env and password_file exclude each other";
        check.refuse("password_file", message);
    }
    let has_password = feed.password_env.is_some() || feed.password_file.is_some();
    if feed.redis.is_some() && feed.user.is_some() && !has_password {
        check.refuse("user", "needs password_env or password_file");
    }
}

/// Refuses feeds with the channel and event of an earlier one. `check` stands at the file as a whole.
pub(super) fn check_distinct(feeds: &[Feed], check: &mut Check<'_>) {
    for (index, feed) in feeds.iter().enumerate() {
        let same = |other: &Feed| other.channel == feed.channel && other.event == feed.event;
        if feed.channel.is_some() && feeds[..index].iter().any(same) {
            let key = format!("feed[{index}].channel");
            check.refuse(&key, "another feed has the same channel and event");
        }
    }
}

impl Feed {
    /// The settings of the feed of a tenant. `None` only for a feed that the check refuses.
    pub(in crate::config) fn settings(&self, tenant: Tenant, password: Option<Secret>) -> Option<FeedSettings> {
        let source = match (&self.http, &self.redis) {
            (Some(url), _) => SourceSettings::Http(url.clone()),
            (None, key) => SourceSettings::Redis {
                server: redis::server(
                    self.url.as_ref(),
                    (self.user.as_deref(), password),
                    self.ca_file.as_deref(),
                )?,
                key: key.clone()?,
            },
        };
        Some(FeedSettings {
            channel: self.channel.clone()?.in_tenant(tenant),
            event: self.event.as_deref()?.into(),
            source,
            publish: match &self.record_key {
                Some(key) => PublishMode::ChangedRecords(key.clone()),
                None if self.only_changed => PublishMode::Changed,
                None => PublishMode::Everything,
            },
            interval: self.interval,
            timeout: self.timeout,
        })
    }
}
