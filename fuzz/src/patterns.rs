//! Patterns, compared with a naive model that matches segments and decides covering by witnesses.
//!
//! A witness is a channel of the covered pattern in which each `*` is a segment that occurs nowhere else. A pattern covers
//! another if and only if it matches a witness of each length that the other can match.

use tickgate_protocol::channel::{Channel, Pattern};

const SEGMENTS_MAX: usize = 8;
const FRESH: &str = "fresh-segment";

/// Checks one fuzz input: lines with patterns and channels, in all pairs.
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
                pattern.matches(channel),
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
        let by = |pattern: &Pattern| pattern.matches(channel);
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

/// One channel of each length that the pattern can match.
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
