//! Texts of transcripts, and how one that fails is reported.

use std::any::Any;

use tickgate_protocol::rate::Rate;

/// A rate at the end of a line; nothing without one.
pub(super) fn at_rate(rate: Option<Rate>) -> String {
    rate.map_or(String::new(), |rate| format!(" at {rate}"))
}

/// The first line in which the transcript and the real run differ; `None`: they are equal.
pub(super) fn difference(name: &str, wanted: &str, got: &str) -> Option<String> {
    let lines = wanted.lines().count().max(got.lines().count());
    let pairs = wanted.lines().map(Some).chain(std::iter::repeat(None));
    let mut pairs = pairs.zip(got.lines().map(Some).chain(std::iter::repeat(None)));
    let index = pairs.by_ref().take(lines).position(|(wanted, got)| wanted != got)?;
    let line = |text: &str| text.lines().nth(index).unwrap_or("(end of the transcript)").to_owned();
    let (wanted, got) = (line(wanted), line(got));
    Some(format!(
        "{name}, line {}:\n  wanted {wanted}\n  got    {got}",
        index + 1
    ))
}

/// The message of a caught panic.
pub(super) fn message_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a message")
}

#[test]
fn the_first_difference_of_a_transcript_is_reported_with_its_line() {
    assert_eq!(difference("a.txt", "open\n< 1\n", "open\n< 1\n"), None);
    let changed = difference("a.txt", "open\n< 1\n", "open\n< 2\n").expect("they differ");
    assert_eq!(changed, "a.txt, line 2:\n  wanted < 1\n  got    < 2");
    let longer = difference("a.txt", "open\n", "open\n< 1\n").expect("they differ");
    assert_eq!(longer, "a.txt, line 2:\n  wanted (end of the transcript)\n  got    < 1");
    let shorter = difference("a.txt", "open\n< 1\n", "open\n").expect("they differ");
    assert!(shorter.ends_with("got    (end of the transcript)"), "{shorter}");
}
