//! Channel names and patterns: the grammar, matching, and which pattern covers which.
//!
//! Invariant: a [`Channel`] or [`Pattern`] that exists is valid, so that nothing behind its parser checks again. The
//! bounds of 8 segments and 255 bytes are part of the grammar, and so of what a pattern can match:
//!
//! * A pattern always matches some channel: each `*` can be one byte, which is as long as the `*` itself.
//! * [`Pattern::covers`] never depends on the bounds. What refutes a cover is a channel of the covered pattern with
//!   one-byte segments for its `*`, and that one is within the bounds.
//! * [`Pattern::intersects`] depends on the 255 bytes: two patterns with long literal segments in different places
//!   agree only on names that are too long to be channels.

use std::fmt;
use std::sync::Arc;

mod class;
#[cfg(test)]
pub(crate) mod generate;
#[cfg(test)]
mod tests;

pub use class::{Class, ClassError, Classes, HISTORY_SIZE_MAX, History, Overflow};

/// Longest channel or pattern, in bytes.
pub const BYTES_MAX: usize = 255;

/// Most segments of a channel or pattern.
pub const SEGMENTS_MAX: usize = 8;

/// A valid channel name: 1 to 8 segments joined by `.`, at most 255 bytes. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(Arc<str>);

/// A valid pattern: a channel name in which whole segments may be `*`. Cheap to clone.
///
/// A last `*` stands for one or more segments, any other for exactly one. `*` alone matches every channel.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern(Arc<str>);

/// What patterns have in common that are looked up alike: a channel is matched by a pattern of a given shape only if
/// that pattern reads exactly as the channel with those segments replaced by `*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Its length, 1 to 8.
    pub segments: u8,
    /// Bit i: segment i is `*`.
    pub stars: u8,
}

impl Shape {
    /// Whether it ends with a `*`, which stands for one or more segments.
    #[must_use]
    pub const fn is_open(self) -> bool {
        self.stars >> (self.segments - 1) & 1 == 1
    }

    /// Writes the only pattern of this shape that can match a channel, which must not be shorter.
    pub fn write_candidate(self, channel: &str, text: &mut String) {
        text.clear();
        for (place, segment) in segments(channel).take(usize::from(self.segments)).enumerate() {
            if place > 0 {
                text.push('.');
            }
            text.push_str(if self.stars >> place & 1 == 1 { "*" } else { segment });
        }
    }
}

/// The segments of a valid name or pattern. (They are short: a look at each byte costs a third of a search for each
/// dot.)
pub fn segments(name: &str) -> impl Iterator<Item = &str> {
    let mut left = Some(name);
    std::iter::from_fn(move || {
        let name = left?;
        let dot = name.bytes().position(|byte| byte == b'.');
        left = dot.map(|dot| &name[dot + 1..]);
        Some(dot.map_or(name, |dot| &name[..dot]))
    })
}

/// Why a text is no channel or no pattern. Always reported as `INVALID_CHANNEL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// No text at all.
    #[error("is empty")]
    Empty,
    /// More than 255 bytes.
    #[error("is longer than 255 bytes")]
    TooLong,
    /// More than 8 segments.
    #[error("has more than 8 segments")]
    TooManySegments,
    /// Two dots in a row, or one at an end.
    #[error("has an empty segment")]
    EmptySegment,
    /// White space, a control character, `>` or a `*` that is not a whole segment (or any `*` in a channel).
    #[error("has a character that is not allowed")]
    BadCharacter,
}

impl Channel {
    /// Checks and copies `text`.
    pub fn parse(text: &str) -> Result<Self, ChannelError> {
        check(text, false)?;
        Ok(Self(text.into()))
    }
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Pattern {
    /// Checks and copies `text`.
    pub fn parse(text: &str) -> Result<Self, ChannelError> {
        check(text, true)?;
        Ok(Self(text.into()))
    }
    /// The pattern as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// Whether there is no `*` in it: it matches the channel of the same name only.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        memchr::memchr(b'*', self.0.as_bytes()).is_none()
    }
    /// The channel of the same name, when it is exact.
    #[must_use]
    pub fn to_channel(&self) -> Option<Channel> {
        self.is_exact().then(|| Channel(Arc::clone(&self.0)))
    }
    /// How long it is, and where its stars are.
    #[must_use]
    pub fn shape(&self) -> Shape {
        let (mut segments, mut stars) = (1, 0);
        for &byte in self.0.as_bytes() {
            // In a pattern a star is a segment.
            stars |= u8::from(byte == b'*') << (segments - 1);
            segments += u8::from(byte == b'.');
        }
        Shape { segments, stars }
    }
    /// Whether it matches the (valid) channel name `channel`. Allocates nothing.
    #[must_use]
    pub fn matches(&self, channel: &str) -> bool {
        let (mut pattern, mut channel) = (self.0.as_bytes(), channel.as_bytes());
        loop {
            // Everything up to the next `*` is compared at once, dots included.
            let literal = memchr::memchr(b'*', pattern).unwrap_or(pattern.len());
            match channel.strip_prefix(&pattern[..literal]) {
                Some(rest) => channel = rest,
                None => return false,
            }
            match &pattern[literal..] {
                [] => return channel.is_empty(),
                [_] => return !channel.is_empty(),
                [_, rest @ ..] => pattern = rest,
            }
            match memchr::memchr(b'.', channel) {
                Some(dot) => channel = &channel[dot..],
                None => return false,
            }
        }
    }
    /// Whether every channel that `other` can match is matched by this pattern. Allocates nothing.
    #[must_use]
    pub fn covers(&self, other: &Pattern) -> bool {
        let mut others = Segments::of(other);
        for mine in Segments::of(self) {
            match (mine, others.next()) {
                // `other` may have more segments, or an open end of its own.
                (Segment::Rest, Some(_)) => return true,
                (Segment::One, Some(Segment::One | Segment::Literal(_))) => {}
                (Segment::Literal(a), Some(Segment::Literal(b))) if a == b => {}
                _ => return false,
            }
        }
        others.next().is_none()
    }
    /// Whether some channel is matched by both. Allocates nothing.
    #[must_use]
    pub fn intersects(&self, other: &Pattern) -> bool {
        let (mut a, mut b) = (Segments::of(self), Segments::of(other));
        let (mut open_a, mut open_b) = (false, false);
        // The length of the shortest name that both would match, with a dot too many.
        let mut bytes = 0;
        loop {
            let next = (a.next_or_one(&mut open_a), b.next_or_one(&mut open_b));
            bytes += 1 + match next {
                (None, None) => break,
                (Some(Segment::Literal(x)), Some(Segment::Literal(y))) if x != y => return false,
                (Some(Segment::Literal(text)), Some(_)) | (Some(_), Some(Segment::Literal(text))) => text.len(),
                (Some(_), Some(_)) => 1,
                // The longer one goes on only into an end of the other that is open.
                (Some(rest), None) if open_b => rest.bytes_min(),
                (None, Some(rest)) if open_a => rest.bytes_min(),
                _ => return false,
            };
        }
        bytes <= BYTES_MAX + 1
    }
}

impl From<Channel> for Pattern {
    /// The pattern that matches this channel only; shares its text.
    fn from(channel: Channel) -> Self {
        Self(channel.0)
    }
}

/// One valid segment without wildcard (a token's `sub`, a target of the typed dialect).
#[must_use]
pub fn is_segment(text: &str) -> bool {
    !text.contains('.') && check(text, false).is_ok()
}

#[derive(Clone, Copy)]
enum Segment<'a> {
    Literal(&'a str),
    /// `*` that is not last: one segment.
    One,
    /// `*` that is last: one or more segments.
    Rest,
}

impl Segment<'_> {
    const fn bytes_min(self) -> usize {
        match self {
            Self::Literal(text) => text.len(),
            Self::One | Self::Rest => 1,
        }
    }
}

struct Segments<'a> {
    left: Option<&'a str>,
}

impl<'a> Segments<'a> {
    fn of(pattern: &'a Pattern) -> Self {
        Self { left: Some(&pattern.0) }
    }

    /// The next segment; notes in `open` that the pattern ended with a `*`.
    fn next_or_one(&mut self, open: &mut bool) -> Option<Segment<'a>> {
        let next = self.next();
        *open |= matches!(next, Some(Segment::Rest));
        next
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = Segment<'a>;

    fn next(&mut self) -> Option<Segment<'a>> {
        let left = self.left?;
        let segment = match left.bytes().position(|byte| byte == b'.') {
            Some(dot) => {
                self.left = Some(&left[dot + 1..]);
                &left[..dot]
            }
            None => {
                self.left = None;
                left
            }
        };
        Some(match (segment, self.left) {
            ("*", Some(_)) => Segment::One,
            ("*", None) => Segment::Rest,
            (text, _) => Segment::Literal(text),
        })
    }
}

fn check(text: &str, wildcards: bool) -> Result<(), ChannelError> {
    if is_plain(text, wildcards) {
        Ok(())
    } else {
        check_each(text, wildcards)
    }
}

/// Whether it is valid for sure: one look at each byte, for the names that occur. (Segment by segment it was a tenth of
/// what a subscription costs.)
fn is_plain(text: &str, wildcards: bool) -> bool {
    // In place of what is before the beginning and behind the end.
    let (mut before, mut dots) = (b'.', 0);
    for &byte in text.as_bytes() {
        let fits = match byte {
            b'.' => {
                dots += 1;
                before != b'.'
            }
            b'*' => wildcards && before == b'.',
            b'>' => false,
            _ => byte.is_ascii_graphic() && before != b'*',
        };
        if !fits {
            return false;
        }
        before = byte;
    }
    before != b'.' && dots < SEGMENTS_MAX && text.len() <= BYTES_MAX
}

fn check_each(text: &str, wildcards: bool) -> Result<(), ChannelError> {
    if text.is_empty() {
        return Err(ChannelError::Empty);
    }
    if text.len() > BYTES_MAX {
        return Err(ChannelError::TooLong);
    }
    let mut segments = 0;
    for segment in text.split('.') {
        segments += 1;
        if segments > SEGMENTS_MAX {
            return Err(ChannelError::TooManySegments);
        }
        if segment.is_empty() {
            return Err(ChannelError::EmptySegment);
        }
        if !(wildcards && segment == "*") && segment.chars().any(is_forbidden) {
            return Err(ChannelError::BadCharacter);
        }
    }
    Ok(())
}

fn is_forbidden(c: char) -> bool {
    matches!(c, '*' | '>') || c.is_whitespace() || c.is_control()
}

macro_rules! text_like {
    ($($type:ty),*) => { $(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { fmt::Debug::fmt(&self.0, f) }
        }
        // Lets maps keyed by it be asked with a plain `&str` (the derived `Hash` is that of the text).
        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str { &self.0 }
        }
    )* };
}
text_like!(Channel, Pattern);
