//! `GET /api/config`: the effective configuration, and where each value came from.
//!
//! Invariant: a value that waits for a restart is told as such, and never as the one that is in force. Secrets are named by
//! their variable or file.

use hyper::StatusCode;
use parking_lot::Mutex;
use serde::Serialize;

use super::Admin;
use super::access::Viewer;
use crate::ingress::http::response::{self, HttpResponse};

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
        if let Err(refused) = viewer.sees_all() {
            return *refused;
        }
        let keys = self.configuration.0.lock().clone();
        response::json(StatusCode::OK, &ConfigurationReply { keys })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
