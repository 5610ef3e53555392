//! Channel names and patterns: the grammar, matching, and which pattern covers which.

use std::fmt;
use std::sync::Arc;

/// A valid channel name: 1 to 8 segments joined by `.`, at most 255 bytes. Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Channel(Arc<str>);

/// A valid pattern: a channel name in which whole segments may be `*`. Cheap to clone.
///
/// A last `*` stands for one or more segments, any other for exactly one. `*` alone matches every channel.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern(Arc<str>);

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
        unimplemented!("{text}")
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
        unimplemented!("{text}")
    }
    /// The pattern as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// Whether there is no `*` in it: it matches the channel of the same name only.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        unimplemented!()
    }
    /// Whether it matches the (valid) channel name `channel`.
    #[must_use]
    pub fn matches(&self, channel: &str) -> bool {
        unimplemented!("{channel}")
    }
    /// Whether every channel that `other` can match is matched by this pattern.
    #[must_use]
    pub fn covers(&self, other: &Pattern) -> bool {
        unimplemented!("{other}")
    }
    /// Whether some channel is matched by both.
    #[must_use]
    pub fn intersects(&self, other: &Pattern) -> bool {
        unimplemented!("{other}")
    }
}

/// One valid segment without wildcard (a token's `sub`, a target of the typed dialect).
#[must_use]
pub fn is_segment(text: &str) -> bool {
    unimplemented!("{text}")
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
