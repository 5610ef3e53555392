//! `[[feed]]`.

use std::path::PathBuf;
use std::time::Duration;

use super::check::Check;
use crate::backend::feeds::{ChannelTemplate, RedisAddress, RedisKey, UrlTemplate};
use crate::config::visit::{Section, Visitor};

/// `[[feed]]`: a polled source and the channel it feeds.
#[derive(Clone, Debug)]
pub(in crate::config) struct Feed {
    pub(in crate::config) channel: Option<ChannelTemplate>,
    pub(in crate::config) event: Option<String>,
    pub(in crate::config) http: Option<UrlTemplate>,
    pub(in crate::config) redis: Option<RedisKey>,
    pub(in crate::config) url: Option<RedisAddress>,
    pub(in crate::config) password_env: Option<String>,
    pub(in crate::config) password_file: Option<PathBuf>,
    pub(in crate::config) record_key: Option<String>,
    pub(in crate::config) only_changed: bool,
    pub(in crate::config) interval: Duration,
    pub(in crate::config) timeout: Duration,
}

impl Default for Feed {
    fn default() -> Self {
        Self {
            channel: None,
            event: None,
            http: None,
            redis: None,
            url: None,
            password_env: None,
            password_file: None,
            record_key: None,
            only_changed: false,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
        }
    }
}

impl Section for Feed {
    fn visit<V: Visitor>(&mut self, visitor: &mut V) {
        visitor.value("channel", &mut self.channel);
        visitor.value("event", &mut self.event);
        visitor.value("http", &mut self.http);
        visitor.value("redis", &mut self.redis);
        visitor.value("url", &mut self.url);
        visitor.value("password_env", &mut self.password_env);
        visitor.value("password_file", &mut self.password_file);
        visitor.value("record_key", &mut self.record_key);
        visitor.value("only_changed", &mut self.only_changed);
        visitor.value("interval", &mut self.interval);
        visitor.value("timeout", &mut self.timeout);
        visitor.refused(
            "password",
            "a password does not stand in the file: name it by password_env or password_file",
        );
    }
}

/// More often than this is no polling.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// The longest name of an event.
const EVENT_BYTES_MAX: usize = 128;

pub(super) fn check_feeds(feeds: &[Feed], check: &mut Check<'_>) {
    for (index, feed) in feeds.iter().enumerate() {
        let key = |name: &str| format!("feed[{index}].{name}");
        check.require(
            feed.channel.is_some(),
            &key("channel"),
            "is missing: where the events go",
        );
        let event = feed.event.as_deref();
        check.require(event.is_some(), &key("event"), "is missing: the name of the events");
        let good = |name: &str| (1..=EVENT_BYTES_MAX).contains(&name.len()) && !name.contains(char::is_control);
        check.require(
            event.is_none_or(good),
            &key("event"),
            "must have 1 to 128 bytes and no control characters",
        );
        check.require(
            feed.record_key.as_deref() != Some(""),
            &key("record_key"),
            "must not be empty",
        );
        check.require(
            feed.interval >= INTERVAL_MIN,
            &key("interval"),
            "must be at least 100ms",
        );
        check.require(!feed.timeout.is_zero(), &key("timeout"), "must be longer than 0s");
        let same = |other: &&Feed| other.channel == feed.channel && other.event == feed.event;
        if feed.channel.is_some() && feeds[..index].iter().any(|other| same(&other)) {
            check.refuse(&key("channel"), "another feed has the same channel and event");
        }
        check_source(feed, &key, check);
    }
}

fn check_source(feed: &Feed, key: &dyn Fn(&str) -> String, check: &mut Check<'_>) {
    let (name, held) = match (&feed.http, &feed.redis) {
        (Some(url), None) => ("http", url.placeholder()),
        (None, Some(redis)) => ("redis", redis.placeholder()),
        (Some(_), Some(_)) => {
            let message = "http and redis exclude each other";
            return check.contradiction([&key("redis"), &key("http")], message);
        }
        (None, None) => {
            return check.refuse(&key("http"), "is missing: the source (http = a URL, or redis = a key)");
        }
    };
    if let Some(channel) = &feed.channel {
        let wanted = channel.placeholder();
        match (&wanted, held) {
            (Some(wanted), None) => check.refuse(
                &key(name),
                format!("must hold {wanted}, as the channel does: otherwise all would get the same"),
            ),
            (wanted, Some(held)) if wanted.as_deref() != Some(held) => {
                check.refuse(&key(name), format!("holds {held}, which the channel does not"));
            }
            _ => {}
        }
    }
    for (name, is_given) in [
        ("url", feed.url.is_some()),
        ("password_env", feed.password_env.is_some()),
        ("password_file", feed.password_file.is_some()),
    ] {
        check.require(feed.redis.is_some() || !is_given, &key(name), "is for redis only");
    }
    if feed.password_env.is_some() && feed.password_file.is_some() {
        check.refuse(
            &key("password_file"),
            "password_env and password_file exclude each other",
        );
    }
}
