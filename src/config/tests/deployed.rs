//! The files of `deploy/` are accepted.

use std::os::unix::fs::PermissionsExt;

use super::load;
use crate::config::Environment;

#[test]
fn the_deployed_file_is_accepted() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().display().to_string();
    for name in ["jwt-secret", "admin-key", "command-secret"] {
        std::fs::write(directory.path().join(name), "0123456789abcdef0123456789abcdef\n").expect("written");
    }
    let toml = include_str!("../../../deploy/tickgate.toml")
        .replace("/etc/tickgate/secrets", &path)
        .replace("/var/lib/tickgate", &path);
    let config = load(&toml, &Environment::default()).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(
        (config.secrets.own.keys.len(), config.secrets.own.admin_key.is_some()),
        (1, true)
    );
}

#[test]
fn the_file_of_the_platform_is_accepted() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().display().to_string();
    let file = include_str!("../../../deploy/platform.toml");
    for (number, line) in file.lines().enumerate() {
        if let Some((_, name)) = line.split_once("/etc/tickgate/secrets/") {
            let name = name.split('"').next().expect("a name");
            let secret = format!("{number}-0123456789abcdef0123456789abcdef\n");
            std::fs::write(directory.path().join(name), secret).expect("written");
            std::fs::set_permissions(directory.path().join(name), PermissionsExt::from_mode(0o600)).expect("changed");
        }
    }
    let toml = (file.replace("/etc/tickgate/secrets", &path))
        .replace("/var/lib/tickgate", &path)
        .replace("/run/tickgate", &path);
    let environment = Environment::default();
    let config = load(&toml, &environment).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(config.warnings(&environment), [""; 0]);
}
