//! Examples of the grammar and of matching for the clients' tests, so that clients match as the gateway does.
//!
//! `UPDATE_VECTORS=1 cargo test -p tickgate-protocol vectors` writes `clients/typescript/test/vectors/patterns.json`.

use std::fmt::Write as _;
use std::path::Path;

use super::generate::all_channels;
use super::{Channel, Pattern};

const FILE: &str = "clients/typescript/test/vectors/patterns.json";

/// Texts at the edges of the grammar.
fn texts() -> Vec<String> {
    let edges = [
        "",
        ".",
        "a.",
        ".a",
        "a..b",
        "*",
        "**",
        "a*",
        "*.*",
        "a.*.b",
        "a.>",
        ">",
        "a>b",
        "a b",
        "a\u{a0}b",
        "a\u{3000}",
        "\u{feff}",
        "a\tb",
        "a\u{85}b",
        "a\u{7f}",
        "a\u{0}",
        "BTC/USDT",
        "é.😀",
        "a.b.c.d.e.f.g.h",
        "a.b.c.d.e.f.g.h.i",
        "*.*.*.*.*.*.*.*",
        "market.BTC/USDT.price",
        "grid.*",
        "\u{200b}",
        "\u{2028}",
        "\u{180e}",
    ];
    let long = [
        "a".repeat(255),
        "a".repeat(256),
        format!("{}é", "a".repeat(253)),
        format!("{}é", "a".repeat(254)),
    ];
    edges.iter().map(|&text| text.to_owned()).chain(long).collect()
}

fn vectors() -> String {
    let quoted = |text: &str| serde_json::to_string(text).expect("a text");
    let mut out = String::from("{\n\"grammar\": [\n");
    let lines: Vec<String> = texts()
        .iter()
        .map(|text| {
            let (channel, pattern) = (Channel::parse(text).is_ok(), Pattern::parse(text).is_ok());
            format!(
                "{{\"text\":{},\"channel\":{channel},\"pattern\":{pattern}}}",
                quoted(text)
            )
        })
        .collect();
    out += &lines.join(",\n");
    out += "\n],\n\"matches\": [\n";
    let channels = all_channels(&["a", "b", "ab"], 3);
    let patterns = all_channels(&["a", "S", "ab"], 3);
    let lines: Vec<String> = patterns
        .iter()
        .map(|text| {
            let pattern = Pattern::parse(&text.replace('S', "*")).expect("valid");
            let matched: Vec<String> = channels
                .iter()
                .filter(|c| pattern.matches_name(c))
                .map(|c| quoted(c))
                .collect();
            let mut line = String::new();
            let _ = write!(
                line,
                "{{\"pattern\":{},\"channels\":[{}]}}",
                quoted(pattern.as_str()),
                matched.join(",")
            );
            line
        })
        .collect();
    out += &lines.join(",\n");
    out += "\n],\n\"channels\": [";
    out += &channels
        .iter()
        .map(|channel| quoted(channel))
        .collect::<Vec<_>>()
        .join(",");
    out += "]\n}\n";
    out
}

#[test]
fn the_clients_test_vectors_are_those_of_this_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(FILE);
    if std::env::var_os("UPDATE_VECTORS").is_some() {
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("the folder");
        std::fs::write(&path, vectors()).expect("written");
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == vectors(),
        "{FILE} is out of date: run UPDATE_VECTORS=1 cargo test -p tickgate-protocol vectors"
    );
}
