//! `[[tenant]]`.

use super::*;
use tickgate_protocol::channel::{Channel, Tenant};

const TWO: &str = r#"
[limits]
subscriptions = 70
messages_per_second = 30

[[tenant]]
name = "market"
[tenant.limits]
subscriptions = 7
connections = 100
state_channels = 50
[[tenant.endpoint]]
path = "/ws"
dialect = "native"
listen = "127.0.0.1:8000"
[[tenant.auth.key]]
algorithm = "HS256"
secret_env = "MARKET_SECRET"
[tenant.auth.role.trader]
channels = ["market.*"]
[tenant.admin]
key_env = "MARKET_KEY"
viewer_key_env = "MARKET_VIEWER_KEY"
[[tenant.channel]]
match = "a.*"
history = { size = 3 }

[[tenant]]
name = "zigquant"
[[tenant.endpoint]]
path = "/ws"
dialect = "native"
listen = "127.0.0.1:8080"
anonymous = true
[tenant.auth]
mode = "optional"
[[tenant.command]]
match = "grid.*"
http = "http://127.0.0.1:9000/"
[[tenant.feed]]
channel = "user.{id}.balance"
event = "update"
http = "http://127.0.0.1:9000/{id}"
[server]
listen = ["127.0.0.1:8000", "127.0.0.1:8080"]
"#;

fn two_environment() -> Environment {
    Environment::of([
        ("MARKET_SECRET", "0123456789abcdef0123456789abcdef"),
        ("MARKET_KEY", "the-key-of-the-market"),
        ("MARKET_VIEWER_KEY", "the-viewer-key-of-the-market"),
    ])
}

fn problem(toml: &str) -> String {
    let problems = load(toml, &two_environment()).err();
    problems.unwrap_or_else(|| panic!("accepted: {toml}")).to_string()
}

#[test]
fn everything_under_a_tenant_belongs_to_it() {
    let config = load(TWO, &two_environment()).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(!config.needs_run_keys(&two_environment()).expect("no key is missing"));
    let settings = config.gateway(10_000);
    let [market, zigquant] = [1, 2].map(|index| Tenant::new(index).expect("a tenant"));
    let names: Vec<_> = settings.tenants.iter().map(|tenant| &*tenant.name).collect();
    assert_eq!(names, ["market", "zigquant"]);
    assert_eq!(
        [market, zigquant].to_vec(),
        settings.tenants.iter().map(|one| one.auth.tenant).collect::<Vec<_>>()
    );

    // Without `[[endpoint]]` the default tenant has none.
    let endpoints = &settings.ingress.endpoints;
    let sessions: Vec<_> = endpoints.iter().map(|endpoint| &endpoint.session).collect();
    assert_eq!(
        sessions.iter().map(|one| one.tenant).collect::<Vec<_>>(),
        [market, zigquant]
    );
    assert_eq!(
        sessions.iter().map(|one| one.limits.subscriptions).collect::<Vec<_>>(),
        [7, 70]
    );
    assert!(
        sessions.iter().all(|one| one.limits.messages_per_second == 30),
        "not set: the same"
    );
    assert_eq!(
        sessions.iter().map(|one| one.auth_mode).collect::<Vec<_>>(),
        [Mode::Required, Mode::Optional]
    );
    assert!(sessions.iter().all(|one| one.anonymous.tenant == one.tenant));
    let trader = &settings.tenants[0].auth.policy.roles["trader"];
    assert!(trader.channels.iter().all(|pattern| pattern.tenant() == market));
    assert!(settings.tenants[0].admin_key.is_some() && settings.tenants[1].admin_key.is_none());
    assert!(settings.tenants[0].viewer_key.is_some() && settings.tenants[1].viewer_key.is_none());

    let limits = settings.ingress.tenants;
    assert_eq!((limits[0].max_connections, limits[1].max_connections), (100, 0));
    assert_eq!(
        (settings.hub.tenants[0].channels, settings.hub.tenants[1].channels),
        (50, 0)
    );
    let kept = |tenant| {
        let channel = Channel::parse("a.b").expect("valid").in_tenant(tenant);
        settings.hub.classes.of(&channel).history.map(|history| history.size)
    };
    assert_eq!([Tenant::DEFAULT, market, zigquant].map(kept), [None, Some(3), None]);
    assert_eq!(settings.commands.routes[0].pattern.tenant(), zigquant);
    assert_eq!(settings.feeds.feeds[0].channel.tenant(), zigquant);
}

#[test]
fn the_printed_configuration_with_tenants_reads_back_to_the_same() {
    let config = load(TWO, &two_environment()).unwrap_or_else(|problems| panic!("{problems}"));
    let printed = config.to_toml();
    let again = load(&printed, &two_environment()).unwrap_or_else(|problems| panic!("{problems}\n{printed}"));
    assert_eq!(printed, again.to_toml());
}

#[test]
fn a_tenant_without_a_name_of_its_own_or_without_keys_is_refused() {
    for (toml, message) in [
        ("[[tenant]]\n", "tenant[0].name: is missing"),
        ("[[tenant]]\nname = \"A\"\n", "lower-case"),
        ("[[tenant]]\nname = \"default\"\n", "outside [[tenant]]"),
        (
            "[[tenant]]\nname = \"a\"\n[[tenant]]\nname = \"a\"\n",
            "tenant[1].name: another tenant",
        ),
        (
            "[[tenant]]\nname = \"a\"\n[[tenant.endpoint]]\npath = \"/a\"\ndialect = \"native\"\n",
            "tenant[0].auth.key: is missing",
        ),
        (
            "[[tenant]]\nname = \"a\"\n[tenant.server]\n",
            "tenant[0].server: unknown key",
        ),
        (
            "[[tenant]]\nname = \"a\"\n[tenant.limits]\nsubscriptions = 100001\n",
            "tenant[0].limits.subscriptions",
        ),
        (
            "[[tenant]]\nname = \"a\"\n[tenant.limits]\nevent_bytes = 9000000\n",
            "tenant[0].limits.event_bytes",
        ),
        (
            "[[tenant]]\nname = \"a\"\n[tenant.admin]\nkey_env = \"MARKET_KEY\"\n\
             [[tenant]]\nname = \"b\"\n[tenant.admin]\nkey_env = \"MARKET_KEY\"\n",
            "tenant[1].admin: another tenant, or the operator, has the same key",
        ),
        (
            "[[tenant]]\nname = \"a\"\n[tenant.admin]\nkey_env = \"MARKET_KEY\"\nviewer_key_env = \"MARKET_KEY\"\n",
            "tenant[0].admin.viewer_key: the viewer key is the admin key",
        ),
        (
            "[admin]\nviewer_key_env = \"MARKET_KEY\"\n\
             [[tenant]]\nname = \"a\"\n[tenant.admin]\nviewer_key_env = \"MARKET_KEY\"\n",
            "tenant[0].admin: another tenant, or the operator, has the same key",
        ),
        (
            "[[tenant]]\nname = \"a\"\n[tenant.admin]\nviewer_key_env = \"MARKET_KEY\"\nviewer_key_file = \"/a\"\n",
            "tenant[0].admin.viewer_key_file: viewer_key_env and viewer_key_file exclude each other",
        ),
    ] {
        let problem = problem(toml);
        assert!(problem.contains(message), "{toml}: {problem}");
    }
    let twins = TWO.replace("127.0.0.1:8080\"\nanonymous", "127.0.0.1:8000\"\nanonymous");
    let problem = problem(&twins);
    assert!(
        problem.contains("tenant[1].endpoint[0].path") && problem.contains("tenant[0].endpoint[0]"),
        "{problem}"
    );
}

#[test]
fn a_secret_of_two_tenants_causes_a_warning_and_open_endpoints_name_their_tenant() {
    let key = "[[tenant.auth.key]]\nalgorithm = \"HS256\"\nsecret_env = \"MARKET_SECRET\"\n";
    let shared = TWO.replace("[[tenant.command]]", &format!("{key}[[tenant.command]]"));
    let config = load(&shared, &two_environment()).unwrap_or_else(|problems| panic!("{problems}"));
    let warnings = config.warnings(&two_environment());
    let told = |text: &str| warnings.iter().any(|warning| warning.contains(text));
    assert!(
        told("tenant[0].auth.key[0].secret_env and tenant[1].auth.key[0].secret_env are the same"),
        "{warnings:?}"
    );
    let open = config.open_to_anybody();
    assert!(
        open.len() == 1 && open[0].starts_with("/ws of tenant zigquant is open to anybody"),
        "{open:?}"
    );
}

#[test]
fn the_keys_of_a_tenant_are_reloaded_as_those_of_the_top_level() {
    let before = load(TWO, &two_environment()).unwrap_or_else(|problems| panic!("{problems}"));
    let after = TWO
        .replace("subscriptions = 7\n", "subscriptions = 8\n")
        .replace("channels = [\"market.*\"]", "channels = [\"*\"]")
        .replace("size = 3", "size = 4")
        .replace("\"zigquant\"", "\"renamed\"");
    let after = load(&after, &two_environment()).unwrap_or_else(|problems| panic!("{problems}"));
    let changes = before.changes(&after);
    for key in ["tenant[0].limits.subscriptions", "tenant[0].auth.role.trader.channels"] {
        assert!(changes.reloaded.iter().any(|name| name == key), "{key}: {changes:?}");
    }
    assert_eq!(changes.channels, ["tenant[0].channel[0].history.size"]);
    assert_eq!(changes.need_restart, ["tenant[1].name"]);
}
