//! The configurations of `docs/migration.md`.

use std::fmt::Write as _;

use super::load;
use crate::config::Environment;

const PAGE: &str = include_str!("../../../docs/migration.md");

/// The heading and the text of each configuration of the page.
fn configurations() -> Vec<(&'static str, String)> {
    let (mut heading, mut open, mut found) = ("", None, Vec::new());
    for line in PAGE.lines() {
        match (&mut open, line) {
            (None, "```toml") => open = Some(String::new()),
            (None, line) => heading = line.strip_prefix("## ").unwrap_or(heading),
            (Some(text), "```") => {
                found.push((heading, std::mem::take(text)));
                open = None;
            }
            (Some(text), line) => {
                let _ = writeln!(text, "{line}");
            }
        }
    }
    found
}

#[test]
fn the_configurations_of_the_migration_page_load_without_a_warning() {
    let environment = Environment::of([
        ("TICKGATE_JWT_SECRET", "0123456789abcdef0123456789abcdef"),
        ("TICKGATE_ADMIN_KEY", "an-admin-key-of-the-tests"),
        ("COMMAND_SECRET", "the-secret-of-commands"),
    ]);
    let found = configurations();
    for (heading, toml) in &found {
        let config = load(toml, &environment).unwrap_or_else(|problems| panic!("{heading}: {problems:?}"));
        let warnings = config.warnings(&environment);
        assert!(warnings.is_empty(), "{heading}: {warnings:?}");
    }
    let sections = PAGE.lines().filter(|line| line.starts_with("## ")).count();
    assert_eq!(found.len(), sections, "each section has one configuration");
}
