//! What a running gateway takes over from a changed configuration.

use std::collections::BTreeMap;

use super::Config;

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
];

/// The sections that take effect without a restart if the hub can take them; see [`Changes::channels`].
const CHANNELS: &[&str] = &["channel.", "feed.", "tenant.channel.", "tenant.feed."];

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
            let list = if is_among(name, CHANNELS) {
                &mut changes.channels
            } else if is_reloaded(name) {
                &mut changes.reloaded
            } else {
                &mut changes.need_restart
            };
            list.push(name.clone());
        }
        changes
    }
}

/// Whether a key can take effect without a restart.
pub(super) fn is_reloaded(name: &str) -> bool {
    is_among(name, RELOADED) || is_among(name, CHANNELS)
}

fn is_among(name: &str, keys: &[&str]) -> bool {
    // `endpoint[0].path` is a key of `endpoint`.
    let plain: String = name
        .split('.')
        .map(|part| part.split('[').next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join(".");
    keys.iter().any(|key| match key.strip_suffix('.') {
        Some(section) => plain == section || plain.strip_prefix(section).is_some_and(|rest| rest.starts_with('.')),
        None => plain == *key,
    })
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
        for key in RELOADED.iter().chain(CHANNELS) {
            let exists = names.iter().any(|name| match key.strip_suffix('.') {
                // The sections of a tenant that are those of the top level are listed as one key.
                Some(section) => name.starts_with(key) || name == section,
                None => name == key,
            });
            assert!(exists, "{key} in {names:?}");
        }
    }
}
