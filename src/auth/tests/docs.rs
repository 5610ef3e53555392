//! `docs/authentication.md` against the code.

use super::permissions::{may_command, may_publish, may_subscribe, user};
use super::tokens::{read, read_with};
use crate::auth::Settings;

const DOCS: &str = include_str!("../../../docs/authentication.md");

/// The rows of the table with this head, cell by cell.
fn table(head: &str) -> Vec<Vec<&'static str>> {
    let rows = DOCS.lines().skip_while(|line| *line != head).skip(2);
    let rows = rows.take_while(|line| line.starts_with('|')).map(|line| {
        let line = line.trim_matches('|').strip_suffix(' ').expect("a row");
        line.split(" | ").map(str::trim).collect()
    });
    let rows: Vec<Vec<&str>> = rows.collect();
    assert!(rows.len() > 3, "no table {head}");
    rows
}

/// What stands in backticks.
fn quoted(cell: &'static str) -> Vec<&'static str> {
    cell.split('`').skip(1).step_by(2).collect()
}

#[track_caller]
fn yes(cell: &str) -> bool {
    assert!(cell == "yes" || cell == "no", "{cell}");
    cell == "yes"
}

#[test]
fn the_permission_tables_hold() {
    for row in table("| allowed | asked for | |") {
        let (allowed, asked) = (quoted(row[0]), quoted(row[1])[0]);
        assert_eq!(may_subscribe(&user(&allowed), asked), yes(row[2]), "{row:?}");
    }
    for row in table("| allowed | channel or action | publish | command |") {
        let (allowed, name) = (quoted(row[0]), quoted(row[1])[0]);
        assert_eq!(may_publish(&user(&allowed), name), yes(row[2]), "{row:?}");
        assert_eq!(may_command(&user(&allowed), name), yes(row[3]), "{row:?}");
    }
}

#[test]
fn the_refusal_table_holds() {
    for row in table("| claims | message |") {
        let refused = read(quoted(row[0])[0]).expect_err(row[0]);
        assert_eq!(&*refused.message, row[1]);
    }
}

#[test]
fn the_example_claims_are_accepted() {
    let settings = Settings {
        issuer: Some("https://login.example".into()),
        audience: Some("tickgate".into()),
        ..Settings::default()
    };
    let blocks: Vec<&str> = DOCS
        .split("```json\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    let [smallest, largest] = blocks[..] else {
        panic!("{} blocks", blocks.len())
    };
    read(smallest).expect("good");
    let now_ms = 1_703_846_400_000;
    let identity = read_with(&settings, largest, now_ms).expect("good");
    assert_eq!(identity.token_id.as_deref(), Some("a1b2"));
    assert_eq!(identity.permissions.commands[0].as_str(), "grid.start");
}
