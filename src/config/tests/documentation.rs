//! The tables of keys in `docs/configuration.md`.

use std::fmt::Write as _;

use crate::config::Config;

const DOCUMENTATION: &str = include_str!("../../../docs/configuration.md");

/// `docs/configuration.md` with the tables of the declarations. A table stands behind a comment that says which sections
/// it lists, and ends at an empty line.
fn with_generated_tables(documentation: &str) -> String {
    let catalogue = Config::catalogue();
    let (mut text, mut listed, mut is_table) = (String::new(), Vec::new(), false);
    for line in documentation.lines() {
        is_table = is_table && !line.is_empty();
        if is_table {
            continue;
        }
        let _ = writeln!(text, "{line}");
        let Some(comment) = line.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->")) else {
            continue;
        };
        is_table = true;
        if comment == "sections" {
            text += "| section | what it holds |\n|---|---|\n";
            for section in &catalogue {
                let _ = writeln!(text, "| `{}` | {} |", section.header, section.documentation);
            }
            continue;
        }
        let headers = comment.strip_prefix("keys of ").expect("the sections of a table");
        text += "| key | type | default | meaning |\n|---|---|---|---|\n";
        for header in headers.split(' ') {
            let section = catalogue.iter().find(|section| section.header == header);
            for key in &section.unwrap_or_else(|| panic!("no section {header}")).keys {
                let default = match &key.default {
                    Some(value) => format!("`{value}`"),
                    None if key.required => "required".to_owned(),
                    None => "none".to_owned(),
                };
                let (name, kind, meaning) = (&key.name, &key.kind, key.documentation);
                let _ = writeln!(text, "| `{name}` | {kind} | {default} | {meaning} |");
            }
            listed.push(header);
        }
    }
    let all: Vec<_> = catalogue.iter().map(|section| section.header.as_str()).collect();
    assert_eq!(
        listed, all,
        "every section is listed once, in the order of the declarations"
    );
    text
}

/// `UPDATE_DOCS=1 cargo test --lib config::` writes the tables.
#[test]
fn the_documentation_lists_every_key_with_its_type_default_and_meaning() {
    for section in Config::catalogue() {
        assert!(!section.documentation.is_empty(), "{} has no meaning", section.header);
        for key in section.keys {
            assert!(!key.documentation.is_empty(), "{} has no meaning", key.name);
        }
    }
    let generated = with_generated_tables(DOCUMENTATION);
    if std::env::var_os("UPDATE_DOCS").is_some() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
        std::fs::write(path, &generated).expect("written");
    } else {
        let stale: Vec<_> = DOCUMENTATION.lines().filter(|line| !generated.contains(line)).collect();
        let is_current = generated == DOCUMENTATION;
        assert!(
            is_current,
            "run UPDATE_DOCS=1 cargo test --lib config::; stale: {stale:#?}"
        );
    }
}
