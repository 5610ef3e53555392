//! The rules of the layers, as tests: what may import what, what a module may not do, how long a file may be.
//!
//! The table of layers is read from the crate's own documentation (`src/lib.rs`), so that the two cannot differ. Each rule
//! is also shown a small source that breaks it, since a checker that finds nothing proves nothing.

mod checks;
mod close_codes;
mod deploy;
mod pages;
mod rules;
mod security;
mod source;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use rules::violations;

/// A crate's source: path below the package's root, and text.
type Tree = BTreeMap<String, String>;

fn load(root: &Path, folder: &str, tree: &mut Tree) {
    let entries = fs::read_dir(root.join(folder)).expect("the folder is there");
    for entry in entries {
        let entry = entry.expect("readable");
        let name = format!("{folder}/{}", entry.file_name().to_str().expect("names are UTF-8"));
        if entry.file_type().expect("readable").is_dir() {
            load(root, &name, tree);
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(entry.path()).expect("readable");
            tree.insert(name, text);
        }
    }
}

#[test]
fn the_crate_keeps_the_rules() {
    let mut tree = Tree::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    load(root, "src", &mut tree);
    load(root, "crates/protocol/src", &mut tree);
    let found = violations(&tree);
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// What stands between backticks and looks like a test's name.
fn tests_named(text: &str) -> Vec<&str> {
    let quoted = text.split('`').skip(1).step_by(2);
    // The names of metrics have a prefix that no test has.
    let is_name = |word: &&str| {
        !word.starts_with("tickgate_")
            && word.matches('_').count() >= 3
            && word.bytes().all(|byte| byte == b'_' || byte.is_ascii_lowercase())
    };
    quoted.filter(is_name).collect()
}

#[test]
fn every_test_that_the_guarantees_name_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tree = Tree::new();
    load(root, "src", &mut tree);
    load(root, "tests", &mut tree);
    load(root, "crates", &mut tree);
    let exists = |name: &&str| tree.values().any(|code| code.contains(&format!("fn {name}(")));
    for page in ["docs/guarantees.md", "docs/scaling.md"] {
        let text = fs::read_to_string(root.join(page)).expect("the page is there");
        let named = tests_named(&text);
        assert!(named.len() >= 20, "{page}: {named:?}");
        let missing: Vec<_> = named.into_iter().filter(|name| !exists(name)).collect();
        assert!(missing.is_empty(), "{page}: no such test: {missing:?}");
    }
    assert_eq!(
        tests_named("`a` of `no_such_test_at_all`, `[state]`"),
        ["no_such_test_at_all"]
    );
}

/// The cells of the table of `docs/scaling.md` with the tests of each fault that name neither a test nor a file of tests.
fn faults_without_tests(page: &str) -> Vec<&str> {
    let table = page
        .split("| what fails | tests over NATS | tests over Redis |\n")
        .nth(1);
    let rows = table.expect("the table of tests").lines().skip(1);
    let cells = rows
        .take_while(|row| row.starts_with('|'))
        .flat_map(|row| row.split('|').skip(2).take(2));
    let is_file = |cell: &str| {
        let mut quoted = cell.split('`').skip(1).step_by(2);
        quoted.any(|path| path.starts_with("tests/") && Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists())
    };
    cells
        .filter(|cell| tests_named(cell).is_empty() && !is_file(cell))
        .collect()
}

#[test]
fn every_fault_names_a_test_over_each_broker() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/scaling.md");
    let page = fs::read_to_string(path).expect("the page is there");
    assert_eq!(faults_without_tests(&page), [""; 0]);
    let row = "| a gateway is slow | `a_test_of_a_gateway` | `loadtest/gateways.sh` |\n";
    let page = format!("| what fails | tests over NATS | tests over Redis |\n|---|---|---|\n{row}\nOther text\n");
    assert_eq!(faults_without_tests(&page), [" `loadtest/gateways.sh` "]);
}

/// A crate with four layers that keeps the rules.
fn small() -> Tree {
    let lib = "\
        //! | line | modules | may not |\n//! |---|---|---|\n//! | 1 | [`event`] [`time`] | do I/O |\n\
        //! | 2 | [`auth`] [`session`] | do I/O |\n//! | 3 | [`shard`] | await |\n//! | 4 | [`auth::verifier`] [`ingress`] | |\n\n\
        pub mod auth;\npub mod event;\npub mod ingress;\npub mod session;\npub mod shard;\npub mod time;\n";
    let files = [
        ("src/lib.rs", lib),
        ("src/event.rs", "pub struct Event;\n"),
        ("src/time.rs", "use std::fmt;\n"),
        (
            "src/auth/mod.rs",
            "mod key;\npub mod verifier;\nuse crate::event::Event;\nuse crate::session::Code;\n",
        ),
        ("src/auth/key.rs", "use super::Identity;\nuse crate::time::Now;\n"),
        ("src/auth/verifier.rs", "use super::Key;\nuse crate::shard::Table;\n"),
        ("src/session.rs", "use crate::event::{self, Event};\n"),
        ("src/shard/mod.rs", "use crate::{auth, event::Event};\n"),
        ("src/shard/reactor.rs", "fn f() { Instant::now(); }\n"),
        ("src/ingress.rs", "use crate::shard;\nasync fn f() { g().await }\n"),
        ("crates/protocol/src/lib.rs", "pub mod wire;\n"),
        ("crates/protocol/src/wire.rs", "use crate::channel::Channel;\n"),
    ];
    files
        .into_iter()
        .map(|(path, text)| (path.to_owned(), text.to_owned()))
        .collect()
}

/// What is found when this is appended to (or is) a file of the small crate.
fn found_in(path: &str, text: &str) -> Vec<String> {
    let mut tree = small();
    tree.entry(path.to_owned()).or_default().push_str(text);
    violations(&tree)
}

#[track_caller]
fn assert_found(path: &str, text: &str, expected: &str) {
    let found = found_in(path, text);
    assert!(
        found.len() == 1 && found[0].contains(expected),
        "{path} with {text:?}: {found:?}"
    );
}

#[test]
fn the_small_crate_keeps_the_rules() {
    assert_eq!(violations(&small()), [""; 0]);
}

#[test]
fn an_import_from_a_line_below_is_found_in_every_form() {
    let expected = "auth must not import shard";
    for text in [
        "use crate::shard;",
        "use crate::shard::Table;",
        "use crate::{\n    event::{self, Event},\n    shard::{Table, Outbox},\n};",
        "fn f() { crate::shard::run() }",
        "type T = Vec<crate::shard::Table>;",
        "use super::shard::Table;",
        "pub(crate) use crate :: shard as s;",
        "use crate::{r#shard};",
    ] {
        assert_found("src/auth/mod.rs", text, expected);
    }
    assert_found("src/auth/key.rs", "use super::super::shard::Table;", expected);
    assert_found(
        "src/auth/key.rs",
        "use super::verifier::Verifier;",
        "auth must not import auth::verifier",
    );
    assert_found(
        "src/auth/mod.rs",
        "mod inner { use super::super::shard::Table; }",
        expected,
    );
    assert_found("src/auth/mod.rs", "fn f() { g!(a, crate::shard::run()) }", expected);
    assert_found("src/auth/deep/mod.rs", "use super::super::shard::Table;", expected);
    assert_found(
        "src/event.rs",
        "use super::shard::Table;",
        "event must not import shard",
    );
    assert_found(
        "src/shard/mod.rs",
        "use crate::ingress::Ingress;",
        "shard must not import ingress",
    );
}

#[test]
fn layers_of_one_line_may_not_import_each_other_in_a_circle() {
    assert_found(
        "src/session.rs",
        "use crate::auth::Identity;",
        "a circle: auth, session",
    );
}

#[test]
fn what_is_no_code_or_only_for_tests_is_no_import() {
    for text in [
        "// use crate::shard;\n",
        "/* crate::shard /* nested */ crate::shard */",
        "/// See [`crate::shard`].\nfn f() {}",
        "const S: &str = \"crate::shard \\\" crate::shard\";",
        "const S: &str = r#\"crate::shard \" crate::shard\"#;",
        "#[cfg(test)]\nmod tests {\n    use crate::shard::Table;\n    fn f() { if '{' == '\\'' {} }\n}\n",
        "#[cfg(test)]\nuse crate::shard::Table;\n",
        "#[cfg(test)]\nfn f<'a>(x: &'a str) { crate::shard::run() }\n",
        "use super::shard_like;",
        "pub(in crate::shard) fn f() {}",
    ] {
        assert_eq!(found_in("src/auth/mod.rs", text), [""; 0], "{text:?}");
    }
    let mut tree = small();
    tree.get_mut("src/auth/mod.rs")
        .expect("there")
        .push_str("#[cfg(test)]\npub(crate) mod tests;\n");
    tree.insert(
        "src/auth/tests/mod.rs".into(),
        "mod deep;\nuse crate::shard::Table;\n".into(),
    );
    tree.insert("src/auth/tests/deep.rs".into(), "use crate::shard::Table;\n".into());
    assert_eq!(violations(&tree), [""; 0]);
    // What follows a test module counts again.
    assert_found(
        "src/auth/mod.rs",
        "#[cfg(test)]\nmod t { fn f() {} }\nuse crate::shard;",
        "import shard",
    );
}

#[test]
fn the_table_and_the_modules_must_agree() {
    assert_found("src/lib.rs", "pub mod extra;\n", "extra is in no line of the table");
    let mut tree = small();
    let lib = tree.get_mut("src/lib.rs").expect("there");
    *lib = lib.replace("pub mod time;\n", "");
    assert_eq!(
        violations(&tree),
        ["src/lib.rs: the table names time, which is no module"]
    );
    *tree.get_mut("src/lib.rs").expect("there") = lib_without_table();
    assert_eq!(violations(&tree), ["src/lib.rs: has no table of layers"]);
}

fn lib_without_table() -> String {
    "pub mod event;\n".to_owned()
}

#[test]
fn what_a_module_may_not_do_is_found() {
    for (path, text, expected) in [
        ("src/shard/mod.rs", "async fn f() {}", "`async`"),
        ("crates/protocol/src/wire.rs", "fn f() { g().await; }", "`.await`"),
        (
            "crates/protocol/src/wire.rs",
            "use std::time::SystemTime;",
            "`SystemTime`",
        ),
        (
            "src/shard/table.rs",
            "fn f() { std::time::Instant::now(); }",
            "`Instant::now`",
        ),
        ("src/auth/mod.rs", "use std::fs;", "`std::fs`"),
        ("src/auth/mod.rs", "use std::{fmt, net::IpAddr};", "`std::net`"),
        ("src/auth/mod.rs", "use tokio::sync::Mutex;", "`tokio`"),
        ("src/event.rs", "use mio::Poll;", "`mio`"),
        (
            "crates/protocol/src/wire.rs",
            "fn f(x: &serde_json::Value) {}",
            "`serde_json`",
        ),
        ("src/shard/mod.rs", "use parking_lot::Mutex;", "`Mutex`"),
        ("src/ingress.rs", "fn f() { todo!() }", "`todo!`"),
        ("src/ingress.rs", "fn f() { unimplemented!(\"x\") }", "`unimplemented!`"),
        ("src/ingress.rs", "// TODO: later\n", "`TODO`"),
        ("src/ingress.rs", "/* FIXME */", "`FIXME`"),
        (
            "src/ingress.rs",
            "#[cfg(test)]\nmod t { #[test]\n#[ignore]\nfn f() {} }",
            "`#[ignore`",
        ),
    ] {
        assert_found(path, text, expected);
    }
    for (path, text) in [
        (
            "crates/protocol/src/wire.rs",
            "fn asynchronous(awaits: u8) { let instant_now = awaits; }",
        ),
        ("src/auth/mod.rs", "use std::{fmt, sync::Arc};"),
        ("src/auth/mod.rs", "#[cfg(test)]\nmod t { use std::fs; }"),
        ("src/ingress.rs", "const TODOS: u8 = 0;"),
    ] {
        assert_eq!(found_in(path, text), [""; 0], "{path} with {text:?}");
    }
}

#[test]
fn a_long_file_is_found() {
    assert_found("src/ingress.rs", &"\n".repeat(500), "has 502 lines");
}
