//! The long checks: their scripts, the manifest of the fuzz targets and `docs/checks.md` agree.

use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The words of an array in a Bash script: the longest of those that the script assigns to `name`.
fn array<'a>(script: &'a str, name: &str) -> Vec<&'a str> {
    let begin = format!("{name}=(");
    let values = script.split(begin.as_str()).skip(1);
    let values = values.filter_map(|rest| Some(rest.split_once(')')?.0.split_whitespace().collect::<Vec<_>>()));
    values.max_by_key(Vec::len).unwrap_or_default()
}

/// The words between backticks in the first column of each table below a heading, sorted.
fn listed<'a>(page: &'a str, heading: &str) -> Vec<Vec<&'a str>> {
    let below = page.split(heading).nth(1).expect("the heading");
    let below = below.split("\n## ").next().unwrap_or_default();
    let lines: Vec<_> = below.lines().collect();
    let is_row = |line: &&str| line.starts_with('|');
    let blocks = lines.chunk_by(|one, next| is_row(one) == is_row(next));
    let tables = blocks.filter(|block| block.first().is_some_and(is_row));
    let words = |table: &[&'a str]| {
        let cells = table.iter().filter_map(|row| row.split('|').nth(1));
        let mut words: Vec<_> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
        words.sort_unstable();
        words
    };
    tables.map(words).collect()
}

#[test]
fn every_part_of_the_night_is_documented() {
    let script = read("tests/nightly.sh");
    let mut parts = array(&script, "parts");
    assert!(parts.len() > 10, "{parts:?}");
    for part in &parts {
        assert!(
            script.contains(&format!("\npart_{part}() {{")),
            "no function part_{part}"
        );
    }
    let page = read("docs/checks.md");
    parts.sort_unstable();
    assert_eq!(
        [parts].as_slice(),
        listed(&page, "\n## The night"),
        "the parts of tests/nightly.sh, and those of docs/checks.md"
    );
}

/// The code of a fuzz target: its file, and the files that it includes as modules.
fn code(target: &str) -> String {
    let mut code = read(&format!("fuzz/fuzz_targets/{target}.rs"));
    let modules: Vec<_> = code.split("#[path = \"../").skip(1).map(str::to_owned).collect();
    for module in modules {
        let path = module.split('"').next().expect("a path").to_owned();
        code.push_str(&read(&format!("fuzz/{path}")));
    }
    code
}

#[test]
fn every_fuzz_target_is_run_and_documented_and_says_whether_it_builds_the_gateway() {
    let manifest: toml::Table = read("fuzz/Cargo.toml").parse().expect("TOML");
    let (script, page) = (read("fuzz/run.sh"), read("docs/checks.md"));
    let mut run = array(&script, "targets");
    run.sort_unstable();
    let targets = manifest["bin"].as_array().expect("targets");
    let name = |target: &toml::Value| target["name"].as_str().expect("a name").to_owned();
    let mut names: Vec<_> = targets.iter().map(name).collect();
    names.sort_unstable();
    assert_eq!(names, run, "the targets of fuzz/Cargo.toml, and those of fuzz/run.sh");
    let tables = listed(&page, "\n## Fuzzing");
    let [described, measured] = &tables[..] else {
        panic!("two tables in docs/checks.md, found {tables:?}");
    };
    assert_eq!(&names, described, "the targets, and what docs/checks.md says of them");
    // A target without figures is named below the table.
    let newer = page.split("are newer than these runs").next().unwrap_or_default();
    let newer = newer.rsplit('\n').next().unwrap_or_default();
    for name in names.iter().filter(|name| *name != "canary") {
        let is_told = measured.contains(&name.as_str()) || newer.contains(&format!("`{name}`"));
        assert!(is_told, "docs/checks.md has no figures of {name}");
    }
    for name in measured {
        assert!(
            run.contains(name),
            "docs/checks.md has figures of {name}, which is no target"
        );
    }
    for target in targets {
        let name = name(target);
        assert_eq!(
            code(&name).contains("tickgate::"),
            target.get("required-features").is_some(),
            "{name}: a target that uses the gateway needs `required-features` in fuzz/Cargo.toml, and no other one does"
        );
    }
}
