//! `GET /api/config`: the effective configuration, and where each value came from.
//!
//! Invariant: a value that waits for a restart is told as such, and never as the one that is in force. Secrets are named by
//! their variable or file. Whoever administers one tenant sees what stands below its `[[tenant]]`, and the administrators of
//! the default tenant see what may stand below one.

use std::collections::BTreeMap;

use hyper::StatusCode;
use parking_lot::Mutex;
use serde::Serialize;

use super::Admin;
use super::access::Viewer;
use crate::ingress::http::response::{self, HttpResponse};
use tickgate_protocol::channel::Tenant;

/// One key of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigurationKey {
    /// The full name, such as `server.listen`.
    pub key: String,
    /// The value as TOML; `None`: it is not set.
    pub value: Option<String>,
    /// Where it was written: `default`, `line 12` or `TICKGATE_SERVER__LISTEN`.
    pub origin: String,
    /// When a change takes effect.
    pub effect: Effect,
}

/// When a change of a key takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// While the gateway runs.
    AtOnce,
    /// While the gateway runs, if it can take all classes of channels and all feeds.
    WithChannels,
    /// After a restart, for this reason.
    AfterRestart(&'static str),
}

/// What the next start will use of a key that the file does not set any more.
const NOT_SET: &str = "not set";

/// The configuration of a running gateway.
#[derive(Debug, Default)]
pub(super) struct Configuration(Mutex<Vec<Shown>>);

/// A key as it is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Shown {
    key: String,
    value: Option<String>,
    origin: String,
    /// The value that the next start will use, if that is another one.
    waits_for_restart: Option<String>,
    /// Why it waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    restart_reason: Option<Box<str>>,
    #[serde(skip)]
    effect: Effect,
}

impl From<ConfigurationKey> for Shown {
    fn from(key: ConfigurationKey) -> Self {
        Self {
            key: key.key,
            value: key.value,
            origin: key.origin,
            waits_for_restart: None,
            restart_reason: None,
            effect: key.effect,
        }
    }
}

#[derive(Serialize)]
struct ConfigurationReply {
    keys: Vec<Shown>,
}

impl Configuration {
    pub(super) fn new(keys: Vec<ConfigurationKey>) -> Self {
        Self(Mutex::new(keys.into_iter().map(Shown::from).collect()))
    }

    /// Takes over a configuration that was read again. `channels_kept` is why the classes and feeds stay, if they do.
    fn replace(&self, keys: Vec<ConfigurationKey>, channels_kept: Option<&str>) {
        let mut shown = self.0.lock();
        let mut running: BTreeMap<_, _> = shown.drain(..).map(|shown| (shown.key.clone(), shown)).collect();
        for key in keys {
            let before = running.remove(&key.key);
            let is_in_force = before.as_ref().is_some_and(|before| before.value == key.value);
            let reason = match key.effect {
                Effect::AtOnce => None,
                Effect::WithChannels => channels_kept,
                Effect::AfterRestart(reason) => Some(reason),
            };
            shown.push(match reason.filter(|_| !is_in_force) {
                None => key.into(),
                Some(reason) => Shown {
                    waits_for_restart: Some(key.value.clone().unwrap_or_else(|| NOT_SET.to_owned())),
                    restart_reason: Some(reason.into()),
                    ..before.unwrap_or_else(|| Shown::from(ConfigurationKey { value: None, ..key }))
                },
            });
        }
        // Entries that the file does not have any more.
        let kept = channels_kept.map(|reason| {
            let of_channels = running
                .into_values()
                .filter(|shown| shown.effect == Effect::WithChannels);
            of_channels.map(move |before| Shown {
                waits_for_restart: Some(NOT_SET.to_owned()),
                restart_reason: Some(reason.into()),
                ..before
            })
        });
        shown.extend(kept.into_iter().flatten());
    }
}

impl Admin {
    /// Takes over the configuration after a reload. `channels_kept` is why the classes and feeds stay, if they do.
    pub fn replace_configuration(&self, keys: Vec<ConfigurationKey>, channels_kept: Option<&str>) {
        self.configuration.replace(keys, channels_kept);
    }

    /// `GET /api/config`
    #[expect(clippy::unused_async, reason = "the form of a handler")]
    pub(super) async fn configuration(&self, viewer: Viewer) -> HttpResponse {
        let mut keys = self.configuration.0.lock().clone();
        if let Some(tenant) = viewer.scope() {
            keys.retain(|shown| is_of(tenant, &shown.key));
        }
        response::json(StatusCode::OK, &ConfigurationReply { keys })
    }
}

/// The sections that may stand below a `[[tenant]]`. At the top level they are those of the default tenant.
const OF_TENANT: [&str; 6] = ["auth", "channel", "command", "endpoint", "feed", "limits"];

/// Whether a key concerns a tenant.
fn is_of(tenant: Tenant, key: &str) -> bool {
    let section = key.split(['.', '[']).next().unwrap_or_default();
    match tenant.index().checked_sub(1) {
        None => OF_TENANT.contains(&section),
        Some(index) => key.starts_with(&format!("tenant[{index}].")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_tenant_sees_its_own_keys() {
        let of = |index, key| is_of(Tenant::new(index).expect("few"), key);
        for (key, seen) in [
            ("tenant[0].name", [false, true, false]),
            ("tenant[1].auth.key[0].secret_env", [false, false, true]),
            ("tenant[10].name", [false, false, false]),
            ("auth.key[0].secret_env", [true, false, false]),
            ("channel[3].match", [true, false, false]),
            ("admin.key_env", [false, false, false]),
            ("server.listen", [false, false, false]),
        ] {
            assert_eq!([0, 1, 2].map(|index| of(index, key)), seen, "{key}");
        }
    }

    #[test]
    fn a_value_that_needs_a_restart_is_told_and_the_running_one_stays() {
        let key = |key: &str, value: &str, effect| ConfigurationKey {
            key: key.into(),
            value: Some(value.into()),
            origin: "line 1".into(),
            effect,
        };
        let shards = |value| key("server.shards", value, Effect::AfterRestart("threads"));
        let level = |value| key("log.level", value, Effect::AtOnce);
        let cache = |number, value| key(&format!("channel[{number}].cache"), value, Effect::WithChannels);
        let configuration = Configuration::new(vec![shards("2"), level("info"), cache(0, "last"), cache(1, "last")]);
        let shown = |name: &str| {
            let shown = configuration.0.lock();
            let found = shown.iter().find(|shown| shown.key == name)?.clone();
            Some((
                found.value?,
                found.waits_for_restart.unwrap_or_default(),
                found.restart_reason.unwrap_or_default(),
            ))
        };
        let is = |value: &str, waits: &str, reason: &str| Some((value.into(), waits.into(), reason.into()));
        configuration.replace(vec![shards("4"), level("debug"), cache(0, "none")], Some("kept"));
        assert_eq!(shown("server.shards"), is("2", "4", "threads"));
        assert_eq!(shown("log.level"), is("debug", "", ""));
        assert_eq!(shown("channel[0].cache"), is("last", "none", "kept"));
        assert_eq!(shown("channel[1].cache"), is("last", "not set", "kept"));
        configuration.replace(vec![shards("2"), cache(0, "none")], None);
        assert_eq!(shown("server.shards"), is("2", "", ""));
        assert_eq!(shown("channel[0].cache"), is("none", "", ""));
        assert_eq!(shown("channel[1].cache"), None);
    }
}
