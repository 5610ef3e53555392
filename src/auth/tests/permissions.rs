//! The permission rules by example, and their monotonicity over every channel of a small alphabet.

use std::sync::{Arc, LazyLock};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::auth::{Identity, Permissions, Policy, is_admin_only};
use crate::generate::all_channels;
use tickgate_protocol::channel::{Channel, Pattern};

fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|text| Pattern::parse(text).expect("valid")).collect()
}

/// User 42 with this list for all three permissions.
pub(super) fn user(allowed: &[&str]) -> Identity {
    let permissions = Permissions {
        admin: false,
        gateway: false,
        channels: patterns(allowed),
        commands: patterns(allowed),
        publish: patterns(allowed),
        max_rate: None,
        bytes_per_second: None,
    };
    Identity {
        tenant: tickgate_protocol::channel::Tenant::DEFAULT,
        user: Some("42".into()),
        ..Identity::anonymous(Arc::new(permissions))
    }
}

pub(super) fn may_subscribe(identity: &Identity, pattern: &str) -> bool {
    identity.may_subscribe(&Pattern::parse(pattern).expect("valid"))
}

pub(super) fn may_publish(identity: &Identity, channel: &str) -> bool {
    identity.may_publish(&Channel::parse(channel).expect("valid"))
}

pub(super) fn may_command(identity: &Identity, action: &str) -> bool {
    identity.may_command(&Channel::parse(action).expect("valid"))
}

#[test]
fn subscribing_by_example() {
    for (allowed, pattern, expected) in [
        // One allowed pattern covers it, or not.
        (&["grid.*"][..], "grid.*", true),
        (&["grid.*"], "grid.abc.*", true),
        (&["grid.*"], "grid.*.status", true),
        (&["grid.*"], "grid", false),
        (&["grid.*"], "*", false),
        (&["grid.*"], "*.abc", false),
        (&["grid.*.status"], "grid.*", false),
        (&["grid.*.status"], "grid.abc.status", true),
        (&[], "system.health", false),
        // Several together do not add up.
        (&["grid.a", "grid.b"], "grid.*", false),
        // The own part, which needs no entry.
        (&[], "user.42.*", true),
        (&[], "user.42.balance", true),
        (&[], "user.42.*.x", true),
        (&[], "user.42.a.b.c.d.e.f", true),
        (&["*"], "user.42.*", true),
        (&["grid.*"], "user.42.orders", true),
        // The channel `user.<sub>` itself is not below it, and needs one.
        (&[], "user.42", false),
        (&["*"], "user.42", true),
        // Others' parts, and what can reach them.
        (&[], "user.43.balance", false),
        (&[], "user.420.balance", false),
        (&[], "user.4.balance", false),
        (&["*"], "user.43.balance", false),
        (&["*"], "user.43", false),
        (&["*"], "user.*", false),
        (&["*"], "user.*.balance", false),
        (&["*"], "user", false),
        (&["*"], "*", false),
        (&["*"], "*.43", false),
        (&["*"], "*.43.*", false),
        (&["*"], "*.*", false),
        (&["*"], "*.*.balance", false),
        (&["*.*.balance"], "*.*.balance", false),
        (&["*.43.*"], "user.43.balance", false),
        (&["*"], "users.43.balance", true),
        (&["*"], "grid.*", true),
        // The only user that these reach is the own one.
        (&["*"], "*.42", true),
        (&["*"], "*.42.*", true),
        (&["*"], "*.42.balance", true),
        (&["grid.*"], "*.42.balance", false),
        // An entry that begins with literally `user`.
        (&["user.*"], "user.43.balance", true),
        (&["user.*"], "user.*", true),
        (&["user.*"], "user.*.balance", true),
        (&["user.*"], "user", false),
        (&["user.*"], "*", false),
        (&["user"], "user", true),
        (&["user.*.balance"], "user.43.balance", true),
        (&["user.*.balance"], "user.*", false),
        (&["*", "user.*"], "*", true),
        (&["*", "user.*"], "*.*.balance", true),
        (&["*", "user.*"], "user", true),
        (&["*", "user.43.*"], "*", false),
        (&["*", "user.43.*"], "*.43.*", true),
        (&["*", "user.43.*"], "*.44.*", false),
        (&["*", "user.43.*"], "user.43.orders", true),
        (&["*", "user.43.*"], "user.44.orders", false),
        // The gateway's own figures.
        (&["*", "system.*", "system.gateway.*"], "system.gateway.n1", false),
        (&["system.*"], "system.gateway", false),
        (&["system.*"], "system.gateway.*", false),
        (&["system.*"], "system.gatewayx", true),
        (&["system.*"], "system.*", true),
        (&["system.*"], "system.*.n1", true),
    ] {
        assert_eq!(
            may_subscribe(&user(allowed), pattern),
            expected,
            "{allowed:?} asked for {pattern}"
        );
    }
}

#[test]
fn an_anonymous_connection_owns_nothing() {
    let anonymous = Identity::anonymous(user(&["*"]).permissions);
    for pattern in ["user.42.*", "user.42", "*.42", "user.anonymous.x", "*", "user.*"] {
        assert!(!may_subscribe(&anonymous, pattern), "{pattern}");
    }
    assert!(may_subscribe(&anonymous, "grid.*"));
}

#[test]
fn publishing_and_commands_by_example() {
    for (allowed, name, publish, command) in [
        (&["grid.*"][..], "grid.start", true, true),
        (&["grid.*"], "grid", false, false),
        (&["grid.*"], "system.kill_switch", false, false),
        (&[], "user.42.balance", false, false),
        (&["*"], "user.42.balance", false, true),
        (&["*"], "user.43.balance", false, true),
        (&["*"], "user", false, true),
        (&["user.*"], "user.43.balance", true, true),
        (&["user.*.orders"], "user.43.balance", false, false),
        (&["*"], "userx.43", true, true),
        (&["*"], "system.gateway.n1", false, true),
        (&["system.gateway.*"], "system.gateway.n1", false, true),
        (&["*"], "system.health", true, true),
    ] {
        assert_eq!(
            may_publish(&user(allowed), name),
            publish,
            "{allowed:?} publishes {name}"
        );
        assert_eq!(
            may_command(&user(allowed), name),
            command,
            "{allowed:?} commands {name}"
        );
    }
}

#[test]
fn role_admin_may_everything() {
    let admin = Identity {
        tenant: tickgate_protocol::channel::Tenant::DEFAULT,
        user: Some("42".into()),
        ..Identity::anonymous(Policy::default().of_role(Some("admin")))
    };
    for name in ["*", "user.*", "*.43", "system.gateway.n1", "a.*.b"] {
        assert!(may_subscribe(&admin, name), "{name}");
    }
    assert!(may_publish(&admin, "user.43.balance") && may_publish(&admin, "system.gateway.n1"));
    assert!(may_command(&admin, "system.kill_switch"));
}

#[test]
fn the_default_policy() {
    let policy = Policy::default();
    let of = |role| Identity::anonymous(policy.of_role(role));
    let trader = of(Some("trader"));
    assert!(may_subscribe(&trader, "grid.*") && may_command(&trader, "grid.start"));
    assert!(!may_command(&trader, "system.kill_switch") && !may_publish(&trader, "grid.a.order"));
    for role in [None, Some("nobody knows"), Some("Admin"), Some("admin ")] {
        let other = of(role);
        assert!(
            may_subscribe(&other, "market.*") && !may_subscribe(&other, "grid.*"),
            "{role:?}"
        );
        assert!(
            !may_command(&other, "grid.start") && !may_subscribe(&other, "system.*"),
            "{role:?}"
        );
    }
    let anonymous = Identity::anonymous(Arc::clone(&policy.anonymous));
    assert!(may_subscribe(&anonymous, "stock.600519.price") && !may_subscribe(&anonymous, "stock.*"));
    assert_eq!((anonymous.user, anonymous.expires_at_ms), (None, None));
}

/// Patterns whose first two segments often are `user` and an id.
fn pattern() -> impl Strategy<Value = String> {
    let first = select(vec!["user", "user", "*", "grid"]);
    let rest = vec(select(vec!["42", "43", "*", "x"]), 0..3);
    (first, rest).prop_map(|(first, rest)| [vec![first], rest].concat().join("."))
}

static CHANNELS: LazyLock<Vec<String>> = LazyLock::new(|| all_channels(&["user", "grid", "42", "43", "x"], 4));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    /// What a pattern gives is what each of its channels would give, and never another user's without an entry that
    /// names `user`.
    #[test]
    fn a_wide_pattern_gives_nothing_that_a_narrow_one_refuses(
        allowed in vec(pattern(), 0..4),
        asked in pattern(),
    ) {
        let allowed: Vec<&str> = allowed.iter().map(String::as_str).collect();
        let identity = user(&allowed);
        if !may_subscribe(&identity, &asked) {
            return Ok(());
        }
        let asked = Pattern::parse(&asked).expect("valid");
        for channel in CHANNELS.iter().filter(|channel| asked.matches_name(channel)) {
            prop_assert!(may_subscribe(&identity, channel), "{channel}");
            let others = channel.starts_with("user.") && channel.split('.').nth(1) != Some("42");
            let named = || identity.permissions.channels.iter().any(|entry| {
                entry.as_str().starts_with("user.") && entry.matches_name(channel)
            });
            prop_assert!(!others || named(), "{channel}");
        }
    }
}

#[test]
fn admin_only_channels() {
    for (channel, expected) in [
        ("system.gateway", true),
        ("system.gateway.n1", true),
        ("system.gateway.*", true),
        ("system.gateways", false),
        ("system.*", false),
        ("system.health", false),
    ] {
        assert_eq!(is_admin_only(channel), expected, "{channel}");
    }
}
