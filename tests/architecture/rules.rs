//! The rules, and what breaks them.

use std::collections::{BTreeMap, BTreeSet};

use crate::Tree;
use crate::source::{Source, contains_word};

/// The most lines of a file, so that it is read in one sitting.
const LINES_MAX: usize = 500;

/// The package below all layers, as a module of the name that [`module_of`] gives it.
const PROTOCOL: &str = "protocol";

/// Words that some modules may not use.
struct Ban {
    /// Modules, with all that is nested in them.
    modules: &'static [&'static str],
    /// Modules among these to which the ban does not apply.
    except: &'static [&'static str],
    words: &'static [&'static str],
    why: &'static str,
}

const BANS: &[Ban] = &[
    Ban {
        modules: &[PROTOCOL, "auth", "event", "metrics", "session", "shard", "time"],
        except: &[],
        words: &["async", ".await"],
        why: "a partial read lives in a struct, never in a suspended function",
    },
    Ban {
        modules: &[PROTOCOL, "auth", "event", "hub", "metrics", "session", "shard"],
        // The reactor drives the rest of the shard and measures it; a snapshot is written on a thread of its own.
        except: &["hub::snapshot", "shard::reactor"],
        words: &["Instant::now", "SystemTime"],
        why: "time is an argument, or read in time.rs",
    },
    Ban {
        modules: &[PROTOCOL, "auth", "event", "metrics", "session", "time"],
        except: &["auth::verifier"],
        words: &[
            "std::fs",
            "std::net",
            "std::io",
            "std::thread",
            "std::env",
            "std::process",
            "tokio",
            "mio",
            "rustix",
            "socket2",
        ],
        why: "this module does no I/O",
    },
    Ban {
        modules: &["hub", "shard::mailbox"],
        except: &["hub::snapshot"],
        words: &["std::fs", "tokio::net", "mio", "socket2"],
        why: "this module knows no sockets except to hand them on",
    },
    Ban {
        modules: &["protocol::wire"],
        except: &[],
        words: &["serde_json", "simd_json", "serde"],
        why: "framing knows no JSON",
    },
    Ban {
        modules: &[PROTOCOL, "session", "shard"],
        except: &[],
        words: &["Mutex", "RwLock", "Condvar"],
        why: "a shard takes no lock of its own",
    },
];

/// Never, in code or comments, tests included.
const NEVER: &[&str] = &["TODO", "FIXME", "todo!", "unimplemented!", "#[ignore"];

/// Every breach of a rule, one line each.
pub(crate) fn violations(tree: &Tree) -> Vec<String> {
    let (lines, mut found) = table(tree);
    if lines.is_empty() {
        return vec!["src/lib.rs: has no table of layers".to_owned()];
    }
    let sources: BTreeMap<&str, Source> = tree
        .iter()
        .map(|(path, text)| (path.as_str(), Source::parse(path, text)))
        .collect();
    let tests: BTreeSet<String> = sources
        .iter()
        .flat_map(|(path, source)| {
            let module = module_of(path);
            source.test_modules.iter().map(move |test| join(&module, test))
        })
        .collect();
    let mut imports: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (path, text) in tree {
        always(path, text, &mut found);
        let module = module_of(path);
        if tests.iter().any(|test| is_within(&module, test)) {
            continue;
        }
        let source = &sources[path.as_str()];
        bans(path, &module, &source.words, &mut found);
        let Some(layer) = layer_of(&lines, &module) else {
            continue;
        };
        for imported in &source.paths {
            let Some(other) = absolute(&module, imported).and_then(|name| layer_of(&lines, &name)) else {
                continue;
            };
            if lines[other] > lines[layer] {
                found.push(format!("{path}: {layer} must not import {other}"));
            } else if other != layer && lines[other] == lines[layer] {
                imports.insert((layer, other));
            }
        }
    }
    found.extend(circle(&imports));
    found.dedup();
    found
}

/// The line of each layer, by the table in the crate's documentation, and where table and modules differ.
fn table(tree: &Tree) -> (BTreeMap<String, u32>, Vec<String>) {
    let lib = tree.get("src/lib.rs").map_or("", String::as_str);
    let mut lines = BTreeMap::new();
    for row in lib.lines().filter_map(|line| line.trim_start().strip_prefix("//! | ")) {
        let mut cells = row.split(" | ");
        let (Some(number), Some(modules)) = (cells.next().and_then(|cell| cell.parse::<u32>().ok()), cells.next())
        else {
            continue;
        };
        let names = modules.split('`').skip(1).step_by(2);
        lines.extend(names.map(|module| (module.to_owned(), number)));
    }
    let files: BTreeSet<String> = tree.keys().map(|path| module_of(path)).collect();
    let declared: BTreeSet<&str> = lib
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    let mut differences = Vec::new();
    for module in declared.iter().filter(|module| !lines.contains_key(**module)) {
        differences.push(format!("src/lib.rs: {module} is in no line of the table"));
    }
    let is_missing =
        |name: &&String| !files.contains(*name) || !name.contains("::") && !declared.contains(name.as_str());
    for module in lines.keys().filter(is_missing) {
        differences.push(format!("src/lib.rs: the table names {module}, which is no module"));
    }
    (lines, differences)
}

/// The layer that a module belongs to: the innermost of those around it that have a line.
fn layer_of<'a>(lines: &'a BTreeMap<String, u32>, module: &str) -> Option<&'a str> {
    lines
        .keys()
        .filter(|layer| is_within(module, layer))
        .max_by_key(|layer| layer.len())
        .map(String::as_str)
}

/// The module of a file, such as `shard::core` of `src/shard/core/mod.rs`; empty for the crate's root.
fn module_of(path: &str) -> String {
    let (root, path) = match path.strip_prefix("crates/protocol/src/") {
        Some(rest) => (PROTOCOL, rest),
        None => ("", path.trim_start_matches("src/")),
    };
    let path = path.trim_end_matches(".rs").trim_end_matches("/mod");
    let path = if matches!(path, "lib" | "main") { "" } else { path };
    join(root, &path.replace('/', "::"))
}

fn join(module: &str, name: &str) -> String {
    match (module, name) {
        ("", name) => name.to_owned(),
        (module, "") => module.to_owned(),
        (module, name) => format!("{module}::{name}"),
    }
}

/// Whether `module` is `outer`, or nested in it.
fn is_within(module: &str, outer: &str) -> bool {
    module
        .strip_prefix(outer)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// What a path that begins with `crate`, `self` or `super` names, from the crate's root.
fn absolute(module: &str, path: &[String]) -> Option<String> {
    let mut base: Vec<&str> = match path.first()?.as_str() {
        "crate" => Vec::new(),
        "self" | "super" => module.split("::").filter(|name| !name.is_empty()).collect(),
        _ => return None,
    };
    for name in path {
        match name.as_str() {
            "crate" | "self" => {}
            "super" => drop(base.pop()),
            name => base.push(name),
        }
    }
    Some(base.join("::"))
}

fn always(path: &str, text: &str, found: &mut Vec<String>) {
    let lines = text.lines().count();
    if lines > LINES_MAX {
        found.push(format!("{path}: has {lines} lines; the most is {LINES_MAX}"));
    }
    for word in NEVER.iter().filter(|word| contains_word(text, word)) {
        found.push(format!(
            "{path}: `{word}`: nothing is left for later, and no test is left out"
        ));
    }
}

fn bans(path: &str, module: &str, words: &str, found: &mut Vec<String>) {
    let within = |modules: &[&str]| modules.iter().any(|outer| is_within(module, outer));
    for ban in BANS.iter().filter(|ban| within(ban.modules) && !within(ban.except)) {
        for word in ban.words.iter().filter(|word| contains_word(words, word)) {
            found.push(format!("{path}: `{word}`: {}", ban.why));
        }
    }
}

/// Layers of one line that import each other in a circle: what is left when layers that import none of the rest are
/// taken out again and again.
fn circle(imports: &BTreeSet<(&str, &str)>) -> Option<String> {
    let mut rest = imports.clone();
    loop {
        let importing: BTreeSet<&str> = rest.iter().map(|(layer, _)| *layer).collect();
        let before = rest.len();
        rest.retain(|(_, imported)| importing.contains(imported));
        if rest.is_empty() {
            return None;
        }
        if rest.len() == before {
            let layers: Vec<&str> = importing.into_iter().collect();
            return Some(format!(
                "src: layers of one line import each other in a circle: {}",
                layers.join(", ")
            ));
        }
    }
}
