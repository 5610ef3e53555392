//! The lines that `serve` prints when it made keys for the run: how to connect, subscribe, publish, and open the console.

use std::borrow::Cow;

use tickgate::auth::{Grant, MintError, Permissions, mint};
use tickgate::config::{Config, RunKeys};
use tickgate::gateway::Gateway;
use tickgate::ingress::ListenAddress;
use tickgate::time::unix_ms;
use tickgate_protocol::channel::Pattern;

/// The user of the printed token.
const USER: &str = "42";
const ROLE: &str = "trader";
const TTL_MS: u64 = 24 * 3600 * 1000;

/// What the printed lines subscribe to and publish on, if the client may.
const PATTERN: &str = "grid.*";
const CHANNEL: &str = "grid.abc.status";
const DATA: &str = r#"{"id":"abc","current_price":94000.5}"#;

/// The keys of this run, and commands that work with them.
///
/// # Errors
///
/// When no token can be signed.
pub(super) fn commands(config: &Config, gateway: &Gateway, run_keys: &RunKeys) -> Result<String, MintError> {
    let auth = config.auth();
    let mut lines =
        String::from("No key is configured. The gateway made keys for this run; they are gone when it ends.\n\n");
    let (permissions, query) = if config.ignores_tokens() {
        lines +=
            "auth.mode is \"off\": clients need no token, and all of them have the permissions of [auth.anonymous]\n";
        (auth.policy.anonymous.clone(), String::new())
    } else {
        let grant = Grant {
            subject: USER.into(),
            role: Some(ROLE.into()),
            ttl_ms: TTL_MS,
            ..Grant::default()
        };
        let token = mint(&grant, &config.keys(), &auth, unix_ms())?;
        lines += &format!("token (user {USER}, role {ROLE}, 24 h):\n  {token}\n");
        (auth.policy.of_role(Some(ROLE)), format!("?token={token}"))
    };
    if let Some(key) = &run_keys.admin_key {
        lines += &format!("admin key:\n  {key}\n");
    }
    let Some((pattern, channel)) = example(&permissions) else {
        return Ok(lines + "\nThese clients may subscribe to no channel.\n\n");
    };
    let public = gateway.addresses().iter().find_map(ListenAddress::tcp);
    if let (Some(address), Some(path)) = (public, config.native_path()) {
        lines += &format!(
            "\nConnect and subscribe (npm install --global wscat):\n  \
             wscat -c 'ws://{address}{path}{query}' -w 600 -x '{{\"type\":\"subscribe\",\"channels\":[\"{pattern}\"]}}'\n"
        );
    }
    if let (Some(address), Some(key)) = (gateway.admin_address().tcp(), &run_keys.admin_key) {
        lines += &format!(
            "\nPublish, in another terminal:\n  curl http://{address}/api/publish -H 'Authorization: Bearer {key}' \
             -H 'Content-Type: application/json' \
             -d '{{\"channel\":\"{channel}\",\"event\":\"update\",\"data\":{DATA}}}'\n\n\
             Look inside, with the admin key:\n  http://{address}/\n"
        );
    }
    Ok(lines + "\n")
}

/// A pattern that may be subscribed to, and a channel that it matches.
fn example(permissions: &Permissions) -> Option<(Cow<'_, str>, Cow<'_, str>)> {
    let usual = Pattern::parse(PATTERN).ok()?;
    if permissions.channels.iter().any(|allowed| allowed.covers(&usual)) {
        return Some((PATTERN.into(), CHANNEL.into()));
    }
    let pattern = permissions.channels.first()?.as_str();
    Some((pattern.into(), pattern.replace('*', "demo").into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_one_that_the_permissions_allow() {
        for (allowed, expected) in [
            (&["market.*", "grid.*"][..], Some(("grid.*", "grid.abc.status"))),
            (&["*"], Some(("grid.*", "grid.abc.status"))),
            (
                &["stock.*.price", "market.*"],
                Some(("stock.*.price", "stock.demo.price")),
            ),
            (&["system.health"], Some(("system.health", "system.health"))),
            (&[], None),
        ] {
            let permissions = Permissions {
                channels: allowed
                    .iter()
                    .map(|text| Pattern::parse(text).expect("valid"))
                    .collect(),
                ..Permissions::default()
            };
            let found = example(&permissions);
            let found = found.as_ref().map(|(pattern, channel)| (&**pattern, &**channel));
            assert_eq!(found, expected, "{allowed:?}");
        }
    }
}
