//! The rules, and what breaks them.

use std::collections::{BTreeMap, BTreeSet};

use crate::Tree;
use crate::source::{code_of, contains_word, first_names, names_under_root, without_tests};

/// A file is read in one sitting.
const LINES_MAX: usize = 500;

/// What some rooms may not do, besides importing from below.
struct Ban {
    rooms: &'static [&'static str],
    /// Files of these rooms that are free of it.
    except: &'static [&'static str],
    words: &'static [&'static str],
    why: &'static str,
}

const BANS: &[Ban] = &[
    Ban {
        rooms: &[
            "auth",
            "channel",
            "dialect",
            "disconnect",
            "event",
            "json",
            "limits",
            "mailbox",
            "message",
            "session",
            "shard",
            "stats",
            "time",
            "wire",
        ],
        except: &[],
        words: &["async", ".await"],
        why: "a partial read lives in a struct, never in a suspended function",
    },
    Ban {
        rooms: &[
            "auth",
            "channel",
            "dialect",
            "disconnect",
            "event",
            "hub",
            "json",
            "limits",
            "mailbox",
            "message",
            "session",
            "shard",
            "stats",
            "verify",
            "wire",
        ],
        // Drives the rest of the room, and measures what it does.
        except: &["src/shard/reactor.rs"],
        words: &["Instant::now", "SystemTime"],
        why: "time is an argument, or read in time.rs",
    },
    Ban {
        rooms: &[
            "auth",
            "channel",
            "dialect",
            "disconnect",
            "event",
            "json",
            "limits",
            "message",
            "session",
            "stats",
            "time",
            "wire",
        ],
        except: &[],
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
        why: "this room does no I/O",
    },
    Ban {
        rooms: &["hub", "mailbox"],
        except: &[],
        words: &["std::fs", "tokio::net", "mio", "socket2"],
        why: "this room knows no sockets but to hand them on",
    },
    Ban {
        rooms: &["wire"],
        except: &[],
        words: &["serde_json", "simd_json", "serde"],
        why: "framing knows no JSON",
    },
    Ban {
        rooms: &["shard", "session", "dialect", "wire"],
        except: &[],
        words: &["Mutex", "RwLock", "Condvar"],
        why: "a shard takes no lock of its own",
    },
];

/// Never, in code or comments, tests included.
const NEVER: &[&str] = &["TODO", "FIXME", "todo!", "unimplemented!", "#[ignore"];

/// Every breach of a rule, one line each.
pub(crate) fn violations(tree: &Tree) -> Vec<String> {
    let (lines, mut found) = table(tree.get("src/lib.rs").map_or("", String::as_str));
    if lines.is_empty() {
        return vec!["src/lib.rs: has no table of rooms".to_owned()];
    }
    let tests = test_files(tree);
    let mut imports: BTreeSet<(&str, String)> = BTreeSet::new();
    for (path, text) in tree {
        always(path, text, &mut found);
        let room = room_of(path);
        if tests
            .iter()
            .any(|test| path == &format!("{test}.rs") || path.starts_with(&format!("{test}/")))
        {
            continue;
        }
        let (code, _) = without_tests(&code_of(text));
        bans(path, room, &code, &mut found);
        let Some(line) = lines.get(room) else {
            continue;
        };
        for name in names_under_root(&code, depth_of(path)) {
            match lines.get(name.as_str()) {
                Some(other) if other > line => found.push(format!("{path}: {room} must not import {name}")),
                Some(other) if other == line && name != room => drop(imports.insert((room, name))),
                _ => {}
            }
        }
    }
    found.extend(circle(&imports));
    found.dedup();
    found
}

/// The line of each room, by the table in the crate's documentation, and where table and modules differ.
fn table(lib: &str) -> (BTreeMap<String, u32>, Vec<String>) {
    let mut lines = BTreeMap::new();
    for row in lib.lines().filter_map(|line| line.trim_start().strip_prefix("//! | ")) {
        let mut cells = row.split(" | ");
        let (Some(number), Some(rooms)) = (cells.next().and_then(|cell| cell.parse::<u32>().ok()), cells.next()) else {
            continue;
        };
        lines.extend(
            rooms
                .split('`')
                .skip(1)
                .step_by(2)
                .map(|room| (room.to_owned(), number)),
        );
    }
    let modules: BTreeSet<&str> = lib
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    let mut differences = Vec::new();
    for module in modules.iter().filter(|module| !lines.contains_key(**module)) {
        differences.push(format!("src/lib.rs: {module} is in no line of the table"));
    }
    for room in lines.keys().filter(|room| !modules.contains(room.as_str())) {
        differences.push(format!("src/lib.rs: the table names {room}, which is no module"));
    }
    (lines, differences)
}

/// Files (without `.rs`) and folders that are compiled for tests only.
fn test_files(tree: &Tree) -> Vec<String> {
    let declared = |(path, text): (&String, &String)| {
        let folder = match path.strip_suffix("/mod.rs") {
            Some(folder) => folder,
            None => path.trim_end_matches(".rs"),
        };
        let (_, modules) = without_tests(&code_of(text));
        modules
            .into_iter()
            .map(|module| format!("{folder}/{module}"))
            .collect::<Vec<_>>()
    };
    tree.iter().flat_map(declared).collect()
}

fn room_of(path: &str) -> &str {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    path.split('/').next().unwrap_or(path)
}

/// How many `super::` lead from a file's module to the crate's root.
fn depth_of(path: &str) -> usize {
    let path = path.trim_end_matches(".rs").trim_end_matches("/mod");
    path.matches('/').count()
}

fn always(path: &str, text: &str, found: &mut Vec<String>) {
    let lines = text.lines().count();
    if lines > LINES_MAX {
        found.push(format!(
            "{path}: has {lines} lines; {LINES_MAX} are read in one sitting"
        ));
    }
    for word in NEVER.iter().filter(|word| contains_word(text, word)) {
        found.push(format!(
            "{path}: `{word}`: nothing is left for later, and no test is left out"
        ));
    }
}

fn bans(path: &str, room: &str, code: &str, found: &mut Vec<String>) {
    for ban in BANS
        .iter()
        .filter(|ban| ban.rooms.contains(&room) && !ban.except.contains(&path))
    {
        for word in ban.words.iter().filter(|word| is_used(code, word)) {
            found.push(format!("{path}: `{word}`: {}", ban.why));
        }
    }
}

/// Whether a word, or a path of `std` also in a `use std::{…}`, stands in the code.
fn is_used(code: &str, word: &str) -> bool {
    let in_group = |name: &str| {
        let groups = code.match_indices("std::{").map(|(at, _)| &code[at + "std::".len()..]);
        groups.flat_map(first_names).any(|first| first == name)
    };
    contains_word(code, word) || word.strip_prefix("std::").is_some_and(in_group)
}

/// Rooms of one line that import each other in a circle: what is left when rooms that import none of the rest are
/// taken out again and again.
fn circle(imports: &BTreeSet<(&str, String)>) -> Option<String> {
    let mut rest = imports.clone();
    loop {
        let importing: BTreeSet<String> = rest.iter().map(|(room, _)| (*room).to_owned()).collect();
        let before = rest.len();
        rest.retain(|(_, imported)| importing.contains(imported));
        if rest.is_empty() {
            return None;
        }
        if rest.len() == before {
            let rooms: Vec<String> = importing.into_iter().collect();
            return Some(format!(
                "src: rooms of one line import each other in a circle: {}",
                rooms.join(", ")
            ));
        }
    }
}
