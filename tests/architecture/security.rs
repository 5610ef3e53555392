//! `docs/security.md`: each line names the tests that hold it, and they exist.

use std::collections::BTreeSet;
use std::path::Path;

use crate::{Tree, load};

/// The rows of the page's tables: what is said, and the tests named for it.
fn rows(page: &str) -> Vec<(&str, Vec<&str>)> {
    let is_row = |line: &&str| line.starts_with("| ") && !line.starts_with("| attack |");
    page.lines()
        .filter(is_row)
        .map(|line| {
            let cells: Vec<_> = line.trim_matches('|').split('|').collect();
            let tests = cells.last().expect("a cell").split('`').skip(1).step_by(2).collect();
            (line, tests)
        })
        .collect()
}

/// The names of all test functions.
fn tests(tree: &Tree) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    for text in tree.values() {
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            // Those of proptest carry the attribute too, by convention.
            is_test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            let line = line.trim_start_matches("pub(crate) ").trim_start_matches("async ");
            if let Some(name) = line.strip_prefix("fn ").and_then(|rest| rest.split('(').next())
                && std::mem::take(&mut is_test)
            {
                names.insert(name);
            }
        }
    }
    names
}

#[test]
fn every_line_of_the_security_page_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("docs/security.md")).expect("the page");
    let mut tree = Tree::new();
    load(root, "src", &mut tree);
    load(root, "tests", &mut tree);
    load(root, "crates", &mut tree);
    let tests = tests(&tree);
    let rows = rows(&page);
    assert!(rows.len() >= 30, "{} rows", rows.len());
    let mut missing = Vec::new();
    for (line, named) in rows {
        if named.is_empty() {
            missing.push(format!("no test for {line}"));
        }
        missing.extend(
            named
                .into_iter()
                .filter(|name| !tests.contains(name))
                .map(|name| format!("no test is called {name}")),
        );
    }
    assert!(missing.is_empty(), "\n{}\n", missing.join("\n"));
}

#[test]
fn a_test_that_does_not_exist_is_found() {
    let tree = Tree::from([(
        "tests/a.rs".into(),
        "fn helper() {}\n#[test]\npub(crate) fn one() {}\n#[tokio::test]\nasync fn two() {}\n".into(),
    )]);
    assert_eq!(tests(&tree), BTreeSet::from(["one", "two"]));
    let page = "| attack | what holds | test |\n|---|---|---|\n| a | b | `one` `three` |\n";
    assert_eq!(rows(page), [("| a | b | `one` `three` |", vec!["one", "three"])]);
}
