//! The close codes that our clients and examples know. A client that does not know a code to stay away from comes back, and
//! two devices of a user could displace each other for ever.

use std::fs;
use std::path::Path;

use tickgate_protocol::disconnect::{Advice, Disconnect};

/// The line of a file that contains `mark`, without what stands before it.
fn line(file: &str, mark: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let text = fs::read_to_string(path).expect("readable");
    let mut lines = text.lines().filter(|line| line.contains(mark));
    let line = lines
        .next()
        .unwrap_or_else(|| panic!("{file} has no line with {mark}"))
        .to_owned();
    assert!(lines.next().is_none(), "{file} has several lines with {mark}");
    line
}

/// The numbers of four digits in a text.
fn codes(text: &str) -> Vec<u16> {
    let words = text.split(|character: char| !character.is_ascii_digit());
    words
        .filter(|word| word.len() == 4)
        .filter_map(|word| word.parse().ok())
        .collect()
}

#[test]
fn every_client_stays_away_where_it_should() {
    let with = |advice: Advice| -> Vec<u16> {
        // The client's own close needs no advice.
        let all = Disconnect::ALL.iter().filter(|ending| **ending != Disconnect::Normal);
        all.filter(|ending| ending.advice() == advice)
            .map(|ending| ending.code())
            .collect()
    };
    for (file, mark, advice) in [
        ("clients/typescript/src/advice.ts", "return \"never\";", Advice::Stay),
        (
            "clients/typescript/src/advice.ts",
            "return \"token\";",
            Advice::ReconnectWithNewToken,
        ),
        (
            "clients/typescript/src/advice.ts",
            "return \"slowly\";",
            Advice::ReconnectLater,
        ),
        ("docs/clients.md", "NEVER = {", Advice::Stay),
        ("docs/clients.md", "NEW_TOKEN = {", Advice::ReconnectWithNewToken),
    ] {
        assert_eq!(codes(&line(file, mark)), with(advice), "{file}: {mark}");
    }
}
