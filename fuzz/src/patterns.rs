//! Patterns against a naive model: matching by segments, covering by witnesses.
//!
//! A pattern covers another iff it matches a channel for each length the other matches, in which every star stands for
//! a segment that occurs nowhere else.

use tickgate_protocol::channel::{Channel, Pattern};

const SEGMENTS_MAX: usize = 8;
const FRESH: &str = "fresh-segment";

/// One fuzz input: lines, each a pattern or a channel; each is held against each.
pub fn check_input(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let lines: Vec<_> = text.lines().take(6).collect();
    let patterns: Vec<_> = lines.iter().filter_map(|line| Pattern::parse(line).ok()).collect();
    let channels: Vec<_> = lines.iter().filter_map(|line| Channel::parse(line).ok()).collect();
    for pattern in &patterns {
        assert_eq!(pattern.is_exact(), pattern.to_channel().is_some());
        for channel in &channels {
            assert_eq!(
                pattern.matches(channel.as_str()),
                matches(pattern.as_str(), channel.as_str()),
                "{pattern:?} and {channel:?}"
            );
        }
        for other in &patterns {
            check_pair(pattern, other, &channels);
        }
    }
}

fn check_pair(one: &Pattern, other: &Pattern, channels: &[Channel]) {
    let covered = witnesses(other.as_str())
        .iter()
        .all(|witness| matches(one.as_str(), witness));
    assert_eq!(one.covers(other), covered, "{one:?} covers {other:?}");
    assert_eq!(one.intersects(other), other.intersects(one));
    if one.covers(other) {
        assert!(one.intersects(other), "{one:?} and {other:?}");
    }
    for channel in channels {
        let by = |pattern: &Pattern| pattern.matches(channel.as_str());
        assert!(!(by(one) && by(other)) || one.intersects(other));
    }
}

fn matches(pattern: &str, channel: &str) -> bool {
    let pattern: Vec<_> = pattern.split('.').collect();
    let channel: Vec<_> = channel.split('.').collect();
    let is_open = pattern.last() == Some(&"*");
    let fits = if is_open {
        channel.len() >= pattern.len()
    } else {
        channel.len() == pattern.len()
    };
    fits && pattern
        .iter()
        .zip(&channel)
        .all(|(wanted, segment)| *wanted == "*" || wanted == segment)
}

/// A channel of each length that the pattern matches.
fn witnesses(pattern: &str) -> Vec<String> {
    let mut segments: Vec<_> = pattern
        .split('.')
        .map(|segment| if segment == "*" { FRESH } else { segment })
        .collect();
    let mut witnesses = vec![segments.join(".")];
    if pattern == "*" || pattern.ends_with(".*") {
        while segments.len() < SEGMENTS_MAX {
            segments.push(FRESH);
            witnesses.push(segments.join("."));
        }
    }
    witnesses
}
