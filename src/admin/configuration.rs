//! `GET /api/config`: the effective configuration, and where each value came from.
//!
//! Invariant: a value that waits for a restart is told as such, and never as the one that is in force. Secrets are named by
//! their variable or file. Whoever administers one tenant sees what stands below its `[[tenant]]`, and the administrators of
//! the default tenant see what may stand below one.

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
    /// Whether a change takes effect while the gateway runs.
    pub reloads: bool,
}

/// The configuration of a running gateway.
#[derive(Debug, Default)]
pub(super) struct Configuration(Mutex<Vec<Shown>>);

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Shown {
    key: String,
    value: Option<String>,
    origin: String,
    /// The value that the next start will use, if that is another one.
    waits_for_restart: Option<String>,
}

#[derive(Serialize)]
struct ConfigurationReply {
    keys: Vec<Shown>,
}

impl Configuration {
    pub(super) fn new(keys: Vec<ConfigurationKey>) -> Self {
        let shown = keys.into_iter().map(|key| Shown {
            key: key.key,
            value: key.value,
            origin: key.origin,
            waits_for_restart: None,
        });
        Self(Mutex::new(shown.collect()))
    }

    /// Takes over a configuration that was read again.
    fn replace(&self, keys: Vec<ConfigurationKey>) {
        let mut shown = self.0.lock();
        let running = std::mem::take(&mut *shown);
        let of = |name: &str| running.iter().find(|shown| shown.key == name);
        *shown = keys
            .into_iter()
            .map(|key| match of(&key.key) {
                Some(before) if !key.reloads && before.value != key.value => Shown {
                    waits_for_restart: Some(key.value.unwrap_or_else(|| "not set".to_owned())),
                    ..before.clone()
                },
                _ => Shown {
                    key: key.key,
                    value: key.value,
                    origin: key.origin,
                    waits_for_restart: None,
                },
            })
            .collect();
    }
}

impl Admin {
    /// Takes over the configuration after a reload.
    pub fn replace_configuration(&self, keys: Vec<ConfigurationKey>) {
        self.configuration.replace(keys);
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
        let key = |key: &str, value: &str, reloads| ConfigurationKey {
            key: key.into(),
            value: Some(value.into()),
            origin: "line 1".into(),
            reloads,
        };
        let configuration = Configuration::new(vec![key("server.shards", "2", false), key("log.level", "info", true)]);
        configuration.replace(vec![key("server.shards", "4", false), key("log.level", "debug", true)]);
        let shown = |name: &str| {
            let shown = configuration.0.lock();
            let found = shown.iter().find(|shown| shown.key == name).expect("known").clone();
            (found.value, found.waits_for_restart)
        };
        assert_eq!(shown("server.shards"), (Some("2".into()), Some("4".into())));
        assert_eq!(shown("log.level"), (Some("debug".into()), None));
        configuration.replace(vec![key("server.shards", "2", false)]);
        assert_eq!(shown("server.shards"), (Some("2".into()), None));
    }
}
