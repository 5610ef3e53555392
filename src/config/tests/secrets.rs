//! Secrets that are refused.

use super::load;
use crate::config::Environment;

#[test]
fn a_short_admin_key_is_refused_unless_it_is_allowed() {
    let load = |toml: &str, key: &str| load(toml, &Environment::of([("TICKGATE_ADMIN_KEY", key)]));
    let refused = load("", "0123456789abcde").expect_err("15 bytes").to_string();
    assert!(
        refused.contains("admin.key_env: the admin key is shorter than 16 bytes"),
        "{refused}"
    );
    assert!(!refused.contains("0123456789"), "{refused}");
    for (toml, key) in [("", "0123456789abcdef"), ("[admin]\nallow_short_key = true\n", "k")] {
        let config = load(toml, key).unwrap_or_else(|problems| panic!("{problems}"));
        assert!(config.secrets.own.admin_key.is_some());
    }
}

#[test]
fn a_viewer_key_that_opens_more_than_it_should_is_refused() {
    let environment = Environment::of([
        ("TICKGATE_ADMIN_KEY", "0123456789abcdef"),
        ("SAME", "0123456789abcdef"),
        ("SHORT", "0123456789"),
        ("OTHER", "fedcba9876543210"),
    ]);
    let load = |variable: &str| load(&format!("[admin]\nviewer_key_env = \"{variable}\"\n"), &environment);
    let config = load("OTHER").unwrap_or_else(|problems| panic!("{problems}"));
    assert!(config.secrets.own.viewer_key.is_some());
    for (variable, reason) in [
        ("SAME", "the viewer key is the admin key"),
        ("SHORT", "the viewer key is shorter than 16 bytes"),
        ("NONE", "admin.viewer_key_env"),
    ] {
        let refused = load(variable).expect_err(variable).to_string();
        assert!(refused.contains(reason), "{refused}");
    }
}

#[test]
fn the_query_of_a_backends_url_is_not_printed() {
    let toml = "[[command]]\nmatch = \"*\"\nhttp = \"http://127.0.0.1:9/c?token=first-secret\"\n\
                [[feed]]\nchannel = \"a.{id}\"\nevent = \"e\"\nhttp = \"http://127.0.0.1:9/f?id={id}&token=second-secret\"\n";
    let environment = Environment::of([("TICKGATE_JWT_SECRET", "0123456789abcdef0123456789abcdef")]);
    let config = load(toml, &environment).unwrap_or_else(|problems| panic!("{problems}"));
    let printed = config.to_toml();
    assert!(printed.contains("http = \"http://127.0.0.1:9/c?hidden\""), "{printed}");
    let feed = "http = \"http://127.0.0.1:9/f?{id}&hidden\"";
    assert!(printed.contains(feed), "{printed}");
    let shown = format!("{printed}{:?}", config.gateway(1024));
    assert!(
        !shown.contains("first-secret") && !shown.contains("second-secret"),
        "{shown}"
    );
    assert!(config.warnings(&environment).is_empty());
    // What was printed is no configuration to use.
    let again = load(&printed, &environment).unwrap_or_else(|problems| panic!("{problems}"));
    let warnings = again.warnings(&environment).join("\n");
    for key in ["command[0]", "feed[0]"] {
        let warning = format!("{key}.http has the query `hidden`");
        assert!(warnings.contains(&warning), "{warnings}");
    }
}
