//! What a running gateway takes over from a changed configuration.

use std::collections::BTreeMap;

use super::Config;
use crate::admin::Effect;

/// The keys that take effect without a restart; a name ends with a dot if all keys below it do.
const RELOADED: &[&str] = &[
    "auth.",
    "command.",
    "compression.enabled",
    "endpoint.",
    "heartbeat.",
    "limits.bytes_per_second",
    "limits.commands_per_second",
    "limits.event_bytes",
    "limits.message_bytes",
    "limits.messages_per_second",
    "limits.outbox_bytes",
    "limits.outbox_frames",
    "limits.reply_bytes",
    "limits.reply_frames",
    "limits.subscriptions",
    "log.level",
    "server.allowed_origins",
    "server.connect_rate",
    "server.cors_headers",
    "server.handshake_timeout",
    "server.max_connections",
    "server.max_connections_per_ip",
    "server.trusted_proxies",
    "source.",
    "tenant.auth.",
    "tenant.command.",
    "tenant.endpoint.",
    "tenant.limits.bytes_per_second",
    "tenant.limits.commands_per_second",
    "tenant.limits.connections",
    "tenant.limits.event_bytes",
    "tenant.limits.message_bytes",
    "tenant.limits.messages_per_second",
    "tenant.limits.outbox_bytes",
    "tenant.limits.outbox_frames",
    "tenant.limits.reply_bytes",
    "tenant.limits.reply_frames",
    "tenant.limits.subscriptions",
    "tenant.source.",
];

/// The sections that take effect without a restart if the hub can take them; see [`Changes::channels`].
const CHANNELS: &[&str] = &["channel.", "feed.", "tenant.channel.", "tenant.feed."];

/// Why the other keys need a restart; a name ends with a dot if the reason holds for all keys below it.
const REASONS: &[(&str, &str)] = &[
    ("admin.", "the admin listener is started with it"),
    (
        "broker.",
        "the streams and the connection to the broker are made at the start",
    ),
    ("compression.threshold", "the shards are started with it"),
    ("limits.memory", "the memory is divided at the start"),
    ("limits.scan_burst", "the shards are started with it"),
    ("limits.scan_rate", "the shards are started with it"),
    ("log.", "the log is opened at the start"),
    ("otlp.", "the exporter of spans is started with it"),
    ("server.admin_listen", "the listening sockets are opened at the start"),
    ("server.coalesce", "the shards are started with it"),
    ("server.coalesce_max", "the shards are started with it"),
    ("server.flush", "the shards are started with it"),
    ("server.listen", "the listening sockets are opened at the start"),
    ("server.node", "clients and other gateways know this process by it"),
    ("server.shards", "the shards are started with it"),
    ("server.socket_mode", "the listening sockets are opened at the start"),
    ("state.", "the hub and its snapshot are set up at the start"),
    ("tenant.admin.", "the admin listener is started with it"),
];

/// The keys whose values differ between two configurations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Keys that take effect at once.
    pub reloaded: Vec<String>,
    /// Keys of classes and feeds. They take effect at once, all or none of them.
    pub channels: Vec<String>,
    /// Keys that need a restart.
    pub need_restart: Vec<String>,
}

impl Config {
    /// The keys that differ in `new`. An entry of an array of tables is named by its place, such as `endpoint[0].path`.
    /// Secrets are not compared: only the names of their variables and files are.
    #[must_use]
    pub fn changes(&self, new: &Self) -> Changes {
        let (before, after) = (keys(self), keys(new));
        let mut changes = Changes::default();
        let names: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
        for name in names {
            if before.get(name) == after.get(name) {
                continue;
            }
            let list = match effect(name) {
                Effect::WithChannels => &mut changes.channels,
                Effect::AtOnce => &mut changes.reloaded,
                Effect::AfterRestart(_) => &mut changes.need_restart,
            };
            list.push(name.clone());
        }
        changes
    }
}

/// When a change of a key takes effect.
pub(super) fn effect(name: &str) -> Effect {
    if is_among(name, CHANNELS) {
        Effect::WithChannels
    } else if is_among(name, RELOADED) {
        Effect::AtOnce
    } else {
        Effect::AfterRestart(restart_reason(name))
    }
}

/// Why a key that is not taken over needs a restart.
#[must_use]
pub fn restart_reason(name: &str) -> &'static str {
    let plain = plain(name);
    let found = REASONS.iter().find(|(key, _)| matches(&plain, key));
    found.map_or("it is read at the start", |(_, reason)| reason)
}

fn is_among(name: &str, keys: &[&str]) -> bool {
    let plain = plain(name);
    keys.iter().any(|key| matches(&plain, key))
}

/// The name of a key in the lists: `endpoint[0].path` is a key of `endpoint`.
fn plain(name: &str) -> String {
    name.split('.')
        .map(|part| part.split('[').next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join(".")
}

fn matches(plain: &str, key: &str) -> bool {
    match key.strip_suffix('.') {
        Some(section) => plain == section || plain.strip_prefix(section).is_some_and(|rest| rest.starts_with('.')),
        None => plain == key,
    }
}

/// Every key with its value.
fn keys(config: &Config) -> BTreeMap<String, toml::Value> {
    let mut keys = BTreeMap::new();
    // What `to_toml` writes is TOML.
    if let Ok(table) = config.to_toml().parse::<toml::Table>() {
        flatten(String::new(), toml::Value::Table(table), &mut keys);
    }
    keys
}

fn flatten(name: String, value: toml::Value, keys: &mut BTreeMap<String, toml::Value>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let name = if name.is_empty() { key } else { format!("{name}.{key}") };
                flatten(name, value, keys);
            }
        }
        toml::Value::Array(entries) if entries.iter().any(toml::Value::is_table) => {
            for (index, value) in entries.into_iter().enumerate() {
                flatten(format!("{name}[{index}]"), value, keys);
            }
        }
        value => {
            keys.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::load;
    use super::*;
    use crate::config::Environment;

    fn config(toml: &str) -> Config {
        load(toml, &Environment::default()).unwrap_or_else(|problems| panic!("{problems}"))
    }

    #[test]
    fn changed_keys_are_told_apart_by_whether_they_need_a_restart() {
        let before = config("[server]\nlisten = [\"127.0.0.1:1\"]\n[limits]\nsubscriptions = 7\n");
        assert_eq!(before.changes(&before), Changes::default());
        let after = config(
            "[server]\nlisten = [\"127.0.0.1:2\"]\nallowed_origins = [\"*\"]\n[auth.role.trader]\nchannels = [\"a.*\"]\n\
             [[endpoint]]\npath = \"/x\"\ndialect = \"native\"\n[[channel]]\nmatch = \"a.*\"\ncache = \"last\"\n",
        );
        let changes = before.changes(&after);
        for key in [
            "limits.subscriptions",
            "server.allowed_origins",
            "endpoint[0].path",
            "auth.role.trader.channels",
        ] {
            assert!(changes.reloaded.iter().any(|name| name == key), "{key}: {changes:?}");
        }
        assert_eq!(changes.need_restart, ["server.listen"]);
        assert_eq!(
            restart_reason("server.listen"),
            "the listening sockets are opened at the start"
        );
        assert_eq!(
            restart_reason("tenant[3].admin.key_env"),
            restart_reason("admin.key_env")
        );
        assert!(changes.channels.iter().any(|name| name == "channel[0].cache"));
        assert!(
            !changes.need_restart.iter().any(|name| name.starts_with("endpoint")),
            "{changes:?}"
        );
    }

    #[test]
    fn every_key_of_the_list_exists() {
        let catalogue = Config::catalogue();
        let names: Vec<_> = catalogue
            .iter()
            .flat_map(|section| &section.keys)
            .map(|key| key.name.replace("[]", ""))
            .collect();
        let reasons = REASONS.iter().map(|(key, _)| key);
        for key in RELOADED.iter().chain(CHANNELS).chain(reasons) {
            let exists = names.iter().any(|name| match key.strip_suffix('.') {
                // The sections of a tenant that are those of the top level are listed as one key.
                Some(section) => name.starts_with(key) || name == section,
                None => name == key,
            });
            assert!(exists, "{key} in {names:?}");
        }
    }
}
