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
        assert!(config.secrets.admin_key.is_some());
    }
}
