//! The pages in Markdown: the files and types that they name exist, and their links lead somewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::{Tree, load};

/// Folders whose files the pages name with their whole path.
const FOLDERS: [&str; 8] = [
    "src/",
    "crates/",
    "tests/",
    "benches/",
    "fuzz/",
    "loadtest/",
    "deploy/",
    "docs/",
];

/// Pages that name types of the code.
const ABOUT_CODE: [&str; 7] = [
    "CONTRIBUTING.md",
    "docs/architecture.md",
    "docs/catching-up.md",
    "docs/glossary.md",
    "docs/hub.md",
    "docs/polling.md",
    "docs/shard.md",
];

/// Types of the standard library.
const FOREIGN: [&str; 1] = ["Result"];

/// Every page, by its path in the repository.
fn pages(root: &Path) -> Vec<(String, String)> {
    let read = |path: &str| fs::read_to_string(root.join(path)).expect("a page");
    let mut names: Vec<String> = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"]
        .map(str::to_owned)
        .into();
    for entry in fs::read_dir(root.join("docs")).expect("the folder of pages") {
        let name = entry.expect("an entry").file_name().into_string().expect("UTF-8");
        if name.ends_with(".md") {
            names.push(format!("docs/{name}"));
        }
    }
    names.into_iter().map(|name| (name.clone(), read(&name))).collect()
}

/// The page without its blocks of code.
fn prose(page: &str) -> String {
    page.split("```").step_by(2).collect()
}

/// What stands between backticks in prose.
fn quoted(page: &str) -> Vec<String> {
    prose(page).split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Whether this looks like a path of the repository, without placeholders and arguments.
fn is_path(word: &str) -> bool {
    FOLDERS.iter().any(|folder| word.starts_with(folder)) && !word.contains([' ', '{', '*', '<'])
}

/// Whether this looks like a type: letters only, the first one a capital, not all of them.
fn is_type(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_uppercase())
        && word.bytes().all(|byte| byte.is_ascii_alphabetic())
        && word.bytes().any(|byte| byte.is_ascii_lowercase())
}

/// The anchors of a page's headings, as the usual renderers make them.
fn anchors(page: &str) -> BTreeSet<String> {
    let headings = page.split("```").step_by(2).flat_map(str::lines);
    let headings = headings.filter_map(|line| line.strip_prefix('#'));
    let anchor = |heading: &str| {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|&c| c.is_alphanumeric() || " -_".contains(c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// The targets of the links of a page that stay within the repository.
fn links(page: &str) -> Vec<String> {
    let prose = prose(page);
    let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets
        .filter(|target| !target.contains("://") && !target.starts_with("mailto:"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_file_that_a_page_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut missing = Vec::new();
    for (name, page) in pages(root) {
        for path in quoted(&page).into_iter().filter(|word| is_path(word)) {
            if !root.join(&path).exists() {
                missing.push(format!("{name}: {path}"));
            }
        }
    }
    assert!(missing.is_empty(), "no such file:\n{}\n", missing.join("\n"));
}

#[test]
fn every_type_that_a_page_about_the_code_names_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tree = Tree::new();
    load(root, "src", &mut tree);
    load(root, "crates", &mut tree);
    // A type, or a variant of one.
    let exists = |word: &str| {
        tree.values().any(|code| {
            code.match_indices(word).any(|(at, _)| {
                let (before, after) = (&code[..at], &code[at + word.len()..]);
                let ends = !after.starts_with(|next: char| next.is_alphanumeric() || next == '_');
                let is_item = ["struct ", "enum ", "trait ", "type "]
                    .iter()
                    .any(|item| before.ends_with(item));
                let is_variant = before.trim_end_matches(' ').ends_with('\n') && after.starts_with([',', '(', ' ']);
                ends && (is_item || is_variant)
            })
        })
    };
    let mut missing = Vec::new();
    for (name, page) in pages(root) {
        if !ABOUT_CODE.contains(&name.as_str()) {
            continue;
        }
        for word in quoted(&page) {
            if is_type(&word) && !FOREIGN.contains(&word.as_str()) && !exists(&word) {
                missing.push(format!("{name}: {word}"));
            }
        }
    }
    assert!(missing.is_empty(), "no such type:\n{}\n", missing.join("\n"));
}

#[test]
fn every_link_within_the_pages_leads_to_a_heading() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut broken = Vec::new();
    for (name, page) in pages(root) {
        let folder = Path::new(&name).parent().expect("a folder");
        for link in links(&page) {
            let (file, heading) = link.split_once('#').unwrap_or((&link, ""));
            let path = if file.is_empty() {
                root.join(&name)
            } else {
                root.join(folder).join(file)
            };
            let is_whole = if heading.is_empty() {
                path.exists()
            } else {
                fs::read_to_string(path).is_ok_and(|target| anchors(&target).contains(heading))
            };
            if !is_whole {
                broken.push(format!("{name}: {link}"));
            }
        }
    }
    assert!(broken.is_empty(), "broken links:\n{}\n", broken.join("\n"));
}

#[test]
fn paths_types_links_and_headings_are_recognised() {
    let page = "# One `a.b`: two\n`src/lib.rs` [x](y.md#z) ```\n# no\n`src/none.rs` [n](n.md)\n``` `ShardCore`\n";
    assert_eq!(anchors(page), BTreeSet::from(["one-ab-two".to_owned()]));
    assert_eq!(links(page), ["y.md#z"]);
    let words = quoted(page);
    assert_eq!(words, ["a.b", "src/lib.rs", "ShardCore"]);
    assert_eq!(
        words.iter().map(|word| is_path(word)).collect::<Vec<_>>(),
        [false, true, false]
    );
    assert_eq!(
        words.iter().map(|word| is_type(word)).collect::<Vec<_>>(),
        [false, false, true]
    );
    assert!(!is_type("JSON") && !is_type("origin") && !is_path("src/{a,b}.rs") && !is_path("tests/run.sh now"));
}
