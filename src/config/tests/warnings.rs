//! The warnings of `check` and `serve`.

use super::load;
use crate::config::{Config, Environment};

fn warnings(toml: &str, environment: &Environment) -> Vec<String> {
    let config = load(toml, environment).unwrap_or_else(|problems| panic!("{problems}"));
    config.warnings(environment)
}

fn with_keys() -> Environment {
    Environment::of([
        ("TICKGATE_JWT_SECRET", "0123456789abcdef0123456789abcdef"),
        ("TICKGATE_ADMIN_KEY", "0123456789abcdef"),
        ("TICKGATE_CONFIG", "tickgate.toml"),
        ("TICKGATE_SERVICE_HOST", "10.0.0.1"),
    ])
}

#[test]
fn tables_behind_a_wider_pattern_cause_a_warning() {
    let command = |pattern: &str| format!("[[command]]\nmatch = \"{pattern}\"\nhttp = \"http://127.0.0.1:9/\"\n");
    let channel = |pattern: &str| format!("[[channel]]\nmatch = \"{pattern}\"\n");
    let environment = with_keys();
    for narrow_first in [
        [command("grid.*"), command("*")].concat(),
        [channel("a.*.b"), channel("a.*")].concat(),
    ] {
        assert_eq!(warnings(&narrow_first, &environment), [""; 0]);
    }
    let hidden = [command("*"), command("grid.*"), channel("a.*"), channel("a.b")].concat();
    let found = warnings(&hidden, &environment);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0]
            .starts_with("command[1] (match = \"grid.*\") is never used: command[0] (match = \"*\") stands before it"),
        "{found:?}"
    );
    assert!(
        found[1].starts_with("channel[1] (match = \"a.b\") is never used"),
        "{found:?}"
    );
}

#[test]
fn a_public_listener_without_tokens_causes_a_warning() {
    let off = |listen: &str| format!("[server]\nlisten = [\"{listen}\"]\n[auth]\nmode = \"off\"\n");
    let environment = with_keys();
    assert_eq!(warnings(&off("127.0.0.1:8080"), &environment), [""; 0]);
    let found = warnings(&off("0.0.0.0:8080"), &environment);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("other machines can reach 0.0.0.0:8080"), "{found:?}");
}

#[test]
fn a_variable_that_lacks_an_underscore_causes_a_warning() {
    let mut environment = with_keys();
    environment.set("TICKGATE_SERVER_LISTEN", "[]");
    environment.set("TICKGATE_HEARTBEAT_ENGINE_IO_TIMEOUT", "1s");
    let found = warnings("", &environment);
    assert_eq!(
        found,
        [
            "the variable TICKGATE_HEARTBEAT_ENGINE_IO_TIMEOUT has no effect: two underscores stand behind the section \
             (TICKGATE_HEARTBEAT__ENGINE_IO_TIMEOUT)",
            "the variable TICKGATE_SERVER_LISTEN has no effect: two underscores stand behind the section \
             (TICKGATE_SERVER__LISTEN)",
        ]
    );
}

#[test]
fn a_folder_without_which_the_gateway_cannot_start_causes_a_warning() {
    let toml = "[server]\nlisten = [\"unix:/nonexistent/public.sock\"]\n";
    let found = warnings(toml, &with_keys());
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("the folder /nonexistent of unix:/nonexistent/public.sock does not exist"));
}

#[test]
fn the_built_in_classes_are_printed_as_comments_that_read_back_to_the_same() {
    let printed = Config::built_in_classes();
    assert!(printed.lines().all(|line| line.starts_with('#')), "{printed}");
    let active: Vec<_> = printed
        .lines()
        .skip(1)
        .map(|line| line.trim_start_matches("# ").trim_start_matches('#'))
        .collect();
    let config = load(&active.join("\n"), &Environment::default()).unwrap_or_else(|problems| panic!("{problems}"));
    let (read, built_in) = (
        config.sections.classes(),
        tickgate_protocol::channel::Classes::default(),
    );
    let count = built_in.entries().len();
    assert_eq!(read.entries()[..count], *built_in.entries());
}

#[test]
fn only_a_number_of_connections_that_was_chosen_deserves_a_warning() {
    let chooses = |toml| {
        load(toml, &Environment::default())
            .expect("valid")
            .chooses_connections_max()
    };
    assert!(!chooses(""));
    assert!(chooses("[server]\nmax_connections = 5\n"));
}

#[test]
fn an_admin_api_without_a_key_causes_a_warning() {
    let warnings = |toml: &str, admin_key: Option<&str>| {
        let environment = match admin_key {
            Some(key) => Environment::of([("TICKGATE_ADMIN_KEY", key)]),
            None => Environment::default(),
        };
        let config = load(toml, &environment).unwrap_or_else(|problems| panic!("{problems}"));
        config.warnings(&environment).join("\n")
    };
    const OFF: &str = "[auth]\nmode = \"off\"\n";
    assert!(warnings(OFF, None).starts_with("no admin key and no key for tokens is configured"));
    assert_eq!(warnings(OFF, Some("0123456789abcdef")), "");
    assert_eq!(warnings("", None), "", "the run makes its own keys");
}

#[test]
fn what_is_open_to_anybody_is_listed() {
    let open = |toml: &str| load(toml, &with_keys()).expect("valid").open_to_anybody();
    assert_eq!(open(""), [""; 0]);
    let market = "[[endpoint]]\npath = \"/m\"\ndialect = \"typed\"\nanonymous = true\n";
    let echo = "[[endpoint]]\npath = \"/echo\"\ndialect = \"echo\"\nanonymous = true\n";
    let closed = "[[endpoint]]\npath = \"/ws\"\ndialect = \"native\"\n";
    let rules = "[auth.anonymous]\nchannels = [\"market.*\", \"system.status\"]\n";
    assert_eq!(
        open(&[market, echo, closed, rules].concat()),
        [
            "/m is open to anybody: without a token a client may subscribe to market.*, system.status; send as commands \
             nothing; publish to nothing",
            "/echo is open to anybody: it returns what a client sends",
        ]
    );
    // It needs no token, whatever the file says.
    assert_eq!(open(&echo.replace("anonymous = true\n", "")).len(), 1);
    let off = "[auth]\nmode = \"off\"\n";
    assert_eq!(open(&[closed, off].concat()).len(), 1);
}
