mod bounds;
mod deployed;
mod documentation;
mod migration;
mod secrets;
mod tenants;
mod warnings;

use std::fmt::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::auth::{Mode, Secret};
use tickgate_protocol::channel::Pattern;
use tickgate_protocol::dialect::{Dialect, typed};

const ALL_KEYS: &str = include_str!("testdata/all-keys.toml");
const BAD: &str = include_str!("testdata/bad.txt");

// An Ed25519 public key (RFC 8410, section 10.1).
const ED25519: &str = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n-----END PUBLIC KEY-----\n";
const JWKS: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"hkgS-Pr5XgNz0HpLK4PxgMe-t0jFSfoL48WsFImAN7M"}]}"#;

pub(super) fn load(toml: &str, environment: &Environment) -> Result<Config, Problems> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("tickgate.toml");
    std::fs::write(&file, toml).expect("written");
    Config::load(Some(&file), environment)
}

fn environment() -> Environment {
    Environment::of([
        ("TICKGATE_JWT_SECRET", "0123456789abcdef0123456789abcdef"),
        ("GRID_HMAC", "grid"),
        ("MARKET_JWT_SECRET", "a tenant's secret of thirty-two bytes"),
        ("MARKET_ADMIN_KEY", "market-key"),
        ("MARKET_VIEWER_KEY", "market-viewer-key"),
        ("REDIS_PASSWORD", "redis-password"),
    ])
}

/// The file with all keys. The files of the secrets that it names are written to `directory`.
fn all_keys(directory: &Path) -> String {
    for (name, text) in [
        ("hs512", "short\n"),
        ("admin", "admin-key\r\n"),
        ("viewer", "viewer-key\n"),
        ("hmac", "hmac"),
        ("redis", "redis-password"),
        ("ed25519.pem", ED25519),
        ("jwks.json", JWKS),
    ] {
        let file = directory.join(name);
        std::fs::write(&file, text).expect("written");
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("changed");
    }
    ALL_KEYS.replace("{dir}", &directory.display().to_string())
}

/// The full names of the keys in a TOML text, with `[]` and `<name>` as in [`Config::catalogue`].
fn names(toml: &str) -> Vec<String> {
    fn walk(path: &str, value: &toml::Value, names: &mut Vec<String>) {
        match value {
            toml::Value::Table(table) if path == "auth.role" => {
                table.values().for_each(|value| walk("auth.role.<name>", value, names));
            }
            // A value that is itself a table.
            toml::Value::Table(_)
                if path.ends_with(".subscription_types")
                    || ["channel[].history", "channel[].record_delete"].contains(&path) =>
            {
                names.push(path.to_owned());
            }
            toml::Value::Table(table) => {
                let name = |key: &str| {
                    if path.is_empty() {
                        key.to_owned()
                    } else {
                        format!("{path}.{key}")
                    }
                };
                table.iter().for_each(|(key, value)| walk(&name(key), value, names));
            }
            toml::Value::Array(list) if list.iter().any(toml::Value::is_table) => {
                list.iter().for_each(|value| walk(&format!("{path}[]"), value, names));
            }
            _ => names.push(path.to_owned()),
        }
    }
    let mut names = Vec::new();
    walk("", &toml::Value::Table(toml.parse().expect("TOML")), &mut names);
    names
}

#[test]
fn every_key_is_accepted() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let toml = all_keys(directory.path());
    let config = load(&toml, &environment()).unwrap_or_else(|problems| panic!("{problems}"));
    let written = names(&toml);
    let catalogue = Config::catalogue();
    for key in catalogue.iter().flat_map(|section| &section.keys) {
        // The file gives the other ones, which exclude them.
        let is_excluded = [
            "admin.key_env",
            "admin.viewer_key_env",
            "tenant[].admin.key_file",
            "tenant[].admin.viewer_key_file",
            "broker.password_env",
            "broker.credentials_file",
        ]
        .contains(&&*key.name);
        // What may stand at the top level and under a tenant is one key of the tenant.
        let is_within = |name: &String| {
            let rest = name.strip_prefix(&key.name).unwrap_or_default();
            rest.starts_with('.') || rest.starts_with("[]")
        };
        assert!(
            is_excluded || written.contains(&key.name) || written.iter().any(is_within),
            "{} is not in the file with all keys",
            key.name
        );
    }
    assert_eq!(
        config.secrets.own.admin_key.as_ref().map(Secret::expose),
        Some(&b"admin-key"[..]),
        "the newline at the end is not part of the key"
    );
    assert_eq!(
        config.secrets.own.viewer_key.as_ref().map(Secret::expose),
        Some(&b"viewer-key"[..])
    );
    assert_eq!(config.secrets.own.keys.len(), 3);
    let warnings = config.warnings(&environment());
    assert!(
        warnings.iter().all(|warning| !warning.contains("read by every user")),
        "{warnings:?}"
    );
}

#[test]
fn the_line_end_of_a_variable_is_not_part_of_its_value() {
    let mut environment = environment();
    environment.set("TICKGATE_JWT_SECRET", "a secret of thirty-two bytes ....\r\n");
    environment.set("TICKGATE_ADMIN_KEY", "the-admin-key-of-16-bytes\n");
    environment.set("TICKGATE_AUTH__ISSUER", "https://issuer.example\n");
    let config = load("", &environment).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(
        config.secrets.own.admin_key.as_ref().map(Secret::expose),
        Some(&b"the-admin-key-of-16-bytes"[..])
    );
    assert_eq!(config.sections.auth.issuer.as_deref(), Some("https://issuer.example"));
    let grant = crate::auth::Grant {
        subject: "u1".into(),
        ttl_ms: 60_000,
        ..crate::auth::Grant::default()
    };
    let token = crate::auth::mint(&grant, &config.keys(), &config.auth(), 0).expect("a token");
    let plain = b"a secret of thirty-two bytes ....";
    let key = crate::auth::Key::hmac(crate::auth::Algorithm::Hs256, plain, false).expect("a good key");
    let keys = crate::auth::KeySet::new(vec![key]);
    let settings = crate::auth::Settings::default();
    crate::auth::verify(&token, &keys, &settings, 0).expect("the same secret");
}

#[test]
fn every_bad_configuration_gets_its_message() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("bad.toml");
    let (mut cases, mut failures) = (0, String::new());
    for case in BAD.split("\n== ").skip(1) {
        let (name, rest) = case.split_once('\n').expect("a name");
        let pick = |prefix: &str| {
            rest.lines()
                .filter_map(|line| line.strip_prefix(prefix))
                .collect::<Vec<_>>()
        };
        let mut variables = Environment::default();
        for (name, value) in pick("$ ").into_iter().filter_map(|line| line.split_once('=')) {
            variables.set(name, value);
        }
        let plain = |line: &&str| !line.starts_with("$ ") && !line.starts_with("=> ");
        let toml: Vec<&str> = rest.lines().filter(plain).collect();
        std::fs::write(&file, toml.join("\n")).expect("written");
        let answer = match Config::load(Some(&file), &variables) {
            Ok(_) => "accepted".to_owned(),
            Err(problems) => problems.to_string().replace(&file.display().to_string(), "bad.toml"),
        };
        let expected = pick("=> ").join("\n");
        if answer != expected {
            let _ = writeln!(failures, "== {name}\nexpected {expected}\nanswered {answer}");
        }
        assert!(!answer.contains("hunter2"), "{name}: the message shows the secret");
        cases += 1;
    }
    assert!(failures.is_empty(), "\n{failures}");
    assert!(cases >= 60, "only {cases} cases were found");
}

#[test]
fn without_a_file_every_key_has_its_default() {
    let config = Config::load(None, &Environment::default()).expect("no problem");
    assert_eq!(config.to_toml(), Config::default().to_toml());
    assert_eq!(config.sections.auth.roles["trader"].channels.len(), 7);
    assert_eq!(
        (
            config.sections.auth.default.channels.len(),
            config.sections.auth.anonymous.channels.len()
        ),
        (8, 6)
    );
}

#[test]
fn a_missing_file_is_reported() {
    let problems = Config::load(Some(Path::new("/nonexistent/tickgate.toml")), &Environment::default());
    let text = problems.expect_err("cannot be read").to_string();
    assert_eq!(
        text,
        "/nonexistent/tickgate.toml: cannot be read: No such file or directory (os error 2)"
    );
}

#[test]
fn the_printed_configuration_reads_back_to_the_same() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for toml in [
        "",
        "[[endpoint]]\npath = \"/e\"\ndialect = \"echo\"\n",
        &all_keys(directory.path()),
    ] {
        let config = load(toml, &environment()).unwrap_or_else(|problems| panic!("{problems}"));
        let printed = config.to_toml();
        let again = load(&printed, &environment()).unwrap_or_else(|problems| panic!("{problems}\n{printed}"));
        assert_eq!(again.to_toml(), printed);
        // Where the values stand in the file differs.
        assert_eq!(format!("{:?}", again.sections), format!("{:?}", config.sections));
        assert_eq!(format!("{:?}", again.secrets), format!("{:?}", config.secrets));
        for secret in ["0123456789abcdef", "admin-key", "redis-password"] {
            assert!(
                !printed.contains(secret) && !format!("{config:?}").contains(secret),
                "the printed configuration shows a secret"
            );
        }
    }
}

#[test]
fn variables_set_single_keys_over_the_file() {
    let toml = "[server]\nshards = 2\ndrain = \"1s\"\n[auth]\nissuer = \"file\"\n";
    let variables = Environment::of([
        ("TICKGATE_SERVER__SHARDS", "3"),
        ("TICKGATE_SERVER__LISTEN", r#"["127.0.0.1:9000", "unix:/tmp/s"]"#),
        ("TICKGATE_SERVER__ADMIN_LISTEN", "127.0.0.1:9001"),
        ("TICKGATE_SERVER__HANDSHAKE_TIMEOUT", "250ms"),
        ("TICKGATE_AUTH__ALLOW_SHORT_SECRET", "true"),
        ("TICKGATE_AUTH__ISSUER", "42"),
        ("TICKGATE_AUTH__ROLE__VIEWER__CHANNELS", r#"["market.*"]"#),
        ("TICKGATE_SERVICE_HOST", "free for others"),
        ("OTHER__THING", "not ours"),
    ]);
    let config = load(toml, &variables).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.sections.server.shards, 3);
    assert_eq!(config.sections.server.listen.len(), 2);
    assert_eq!(config.sections.server.admin_listen.to_string(), "127.0.0.1:9001");
    assert_eq!(config.sections.server.handshake_timeout.as_millis(), 250);
    assert_eq!(
        config.sections.server.drain.as_secs(),
        1,
        "no variable overrides the file's value"
    );
    assert!(config.sections.auth.allow_short_secret);
    assert_eq!(
        config.sections.auth.issuer.as_deref(),
        Some("42"),
        "a string needs no quotes in a variable"
    );
    assert_eq!(config.sections.auth.roles["viewer"].channels[0].as_str(), "market.*");
}

#[test]
fn any_endpoint_replaces_the_default_and_a_known_role_changes_only_what_it_names() {
    let toml = "[[endpoint]]\npath = \"/e\"\ndialect = \"echo\"\n[auth.role.trader]\npublish = [\"grid.*\"]\n";
    let config = load(toml, &Environment::default()).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.sections.endpoints.len(), 1);
    assert_eq!(config.sections.endpoints[0].path.as_deref(), Some("/e"));
    let trader = &config.sections.auth.roles["trader"];
    assert_eq!((trader.channels.len(), trader.publish.len()), (7, 1));
}

#[test]
fn without_endpoints_native_two_typed_and_socket_io_are_served() {
    let config = Config::load(None, &Environment::default()).expect("no problem");
    let gateway = config.gateway(u64::MAX);
    let served: Vec<_> = gateway
        .ingress
        .endpoints
        .iter()
        .map(|endpoint| {
            let session = &endpoint.session;
            let automatic: Vec<_> = session.auto_subscribe.iter().map(Pattern::as_str).collect();
            (
                &*endpoint.path,
                session.dialect.name(),
                session.auth_mode,
                automatic.join(" "),
            )
        })
        .collect();
    assert_eq!(
        served,
        [
            ("/ws", "native", Mode::Required, String::new()),
            ("/ws/stock/prices", "typed", Mode::Required, String::new()),
            (
                "/ws/market",
                "typed",
                Mode::Required,
                "market.* system.status".to_owned()
            ),
            ("/socket.io/", "socket_io", Mode::Required, String::new()),
        ]
    );
    let times = |index: usize| {
        let session = &gateway.ingress.endpoints[index].session;
        (session.heartbeat_interval_ms, session.heartbeat_timeout_ms)
    };
    assert_eq!((times(0), times(3)), ((30_000, 60_000), (25_000, 45_000)));
    // An endpoint that names no types has the default types.
    assert_eq!(
        gateway.ingress.endpoints[1].session.dialect,
        gateway.ingress.endpoints[2].session.dialect
    );
}

#[test]
fn an_endpoint_has_its_own_types_timestamps_and_automatic_subscriptions() {
    let toml = "[[endpoint]]\npath = \"/ws\"\ndialect = \"typed\"\ntimestamps = \"naive\"\n\
                auto_subscribe = [\"a.*\", \"b\", \"a.*\"]\nsubscription_types = { fund = \"fund.{target}\" }\n";
    let config = load(toml, &Environment::default()).unwrap_or_else(|problems| panic!("{problems}"));
    let session = &config.gateway(u64::MAX).ingress.endpoints[0].session;
    assert_eq!(session.auth_mode, Mode::Required);
    let automatic: Vec<_> = session.auto_subscribe.iter().map(Pattern::as_str).collect();
    assert_eq!(automatic, ["a.*", "b"], "each once");
    let Dialect::Typed(settings) = &session.dialect else {
        panic!("{:?}", session.dialect);
    };
    assert_eq!(settings.timestamps, typed::Timestamps::Naive);
    let types: Vec<_> = settings
        .subscription_types
        .iter()
        .map(|(name, of)| format!("{name} {of}"))
        .collect();
    assert_eq!(types, ["fund fund.{target}"]);
}

#[test]
fn the_default_variables_are_used_as_keys_if_they_are_set() {
    let variables = Environment::of([
        ("TICKGATE_JWT_SECRET", "0123456789abcdef0123456789abcdef"),
        ("TICKGATE_ADMIN_KEY", "0123456789abcdef"),
    ]);
    let config = Config::load(None, &variables).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.secrets.own.keys.len(), 1);
    assert!(config.secrets.own.admin_key.is_some());
    assert!(config.to_toml().contains("secret_env = \"TICKGATE_JWT_SECRET\""));
}

#[test]
fn a_gateway_without_keys_makes_its_own_on_loopback_only() {
    let nothing = Environment::of([]);
    let admin_key = Environment::of([("TICKGATE_ADMIN_KEY", "0123456789abcdef")]);
    let public = "[server]\nlisten = [\"0.0.0.0:8080\"]\n";
    for (mode, listen, environment, needs) in [
        ("required", "", &nothing, Ok(true)),
        ("required", "", &admin_key, Ok(true)),
        ("required", public, &nothing, Err(NoKey)),
        ("off", "", &nothing, Ok(true)),
        ("off", "", &admin_key, Ok(false)),
        ("off", public, &nothing, Ok(false)),
    ] {
        let config = load(&format!("{listen}[auth]\nmode = \"{mode}\""), environment).expect("good");
        assert_eq!(config.needs_run_keys(environment), needs, "{mode} {listen}");
    }
}

#[test]
fn a_secret_file_that_every_user_can_read_causes_a_warning() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("key");
    std::fs::write(&file, "kkkkkkkkkkkkkkkk").expect("written");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).expect("changed");
    let toml = format!("[admin]\nkey_file = \"{}\"\n", file.display());
    let config = load(&toml, &Environment::default()).unwrap_or_else(|problems| panic!("{problems}"));
    let warning = format!("{} can be read by every user of this machine", file.display());
    assert_eq!(config.warnings(&Environment::default()), [warning]);
}

#[test]
fn durations_are_written_in_the_largest_whole_unit() {
    let pairs = [
        ("0s", 0),
        ("1ms", 1),
        ("1500ms", 1500),
        ("90s", 90_000),
        ("1m", 60_000),
        ("36h", 129_600_000),
        ("1d", 86_400_000),
    ];
    for (text, ms) in pairs {
        let duration = std::time::Duration::from_millis(ms);
        assert_eq!(
            (duration_text(duration).as_str(), duration_from_text(text)),
            (text, Some(duration))
        );
    }
    for bad in [
        "",
        "5",
        "s",
        "-1s",
        "1.5s",
        "5 parsecs",
        "99999999999999999999s",
        "999999999999999999d",
    ] {
        assert_eq!(duration_from_text(bad), None, "{bad}");
    }
}

#[test]
fn feeds_are_built_from_their_keys() {
    use crate::backend::feeds::{PublishMode, SourceSettings};

    let directory = tempfile::tempdir().expect("a temporary directory");
    let config = load(&all_keys(directory.path()), &environment()).unwrap_or_else(|problems| panic!("{problems}"));
    let feeds = config.gateway(u64::MAX).feeds;
    assert_eq!(feeds.event_bytes, 131_072);
    let told: Vec<_> = feeds
        .feeds
        .iter()
        .map(|feed| {
            let source = match &feed.source {
                SourceSettings::Http(url) => url.to_string(),
                SourceSettings::Redis { server, key } => {
                    let user = server.user.as_deref().unwrap_or("-");
                    format!("{} {user} {} {key}", server.addresses[0], server.password.is_some())
                }
            };
            let publish = match &feed.publish {
                PublishMode::ChangedRecords(key) => &key.to_string(),
                PublishMode::Changed => "changed",
                PublishMode::Everything => "everything",
            };
            let (interval, timeout) = (duration_text(feed.interval), duration_text(feed.timeout));
            format!(
                "{} {} {source} {publish} {interval} {timeout}",
                feed.channel, feed.event
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            "strategy.volume_wave.prices price_update rediss://127.0.0.1:6380/2 poller true hash:prices:volume_wave code 30s 2s",
            "stock.{code}.price price_update redis://127.0.0.1:6379 - true record:stock:{code} code 10s 5s",
            "user.{id}.balance balance_update http://127.0.0.1:9000/users/{id}/balance everything 10s 5s",
            "user.{id}.balance balance_update http://127.0.0.1:9001/users/{id}/balance everything 10s 5s",
        ]
    );
}

#[test]
fn an_endpoint_has_its_own_compression() {
    let endpoint = |path: &str, more: &str| format!("[[endpoint]]\npath = \"{path}\"\ndialect = \"native\"\n{more}\n");
    let endpoints = endpoint("/a", "") + &endpoint("/b", "compression = false") + &endpoint("/c", "compression = true");
    for (enabled, expected) in [(true, [true, false, true]), (false, [false, false, true])] {
        let toml = format!("{endpoints}[compression]\nenabled = {enabled}\n");
        let config = load(&toml, &Environment::default()).unwrap_or_else(|problems| panic!("{problems}"));
        let served = config.gateway(u64::MAX).ingress.endpoints;
        let agrees: Vec<_> = served.iter().map(|endpoint| endpoint.deflate).collect();
        assert_eq!(agrees, expected);
    }
}
