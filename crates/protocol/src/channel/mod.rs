//! Channel names and patterns: the grammar, matching, and which pattern covers which.
//!
//! Invariant: every [`Channel`] and [`Pattern`] is valid, because only its parser creates one. No later code checks it
//! again. Each belongs to one [`Tenant`].
//!
//! The bounds of 8 segments and 255 bytes are part of the grammar, so they also limit what a pattern can match:
//!
//! * A pattern matches at least one channel. A `*` can stand for one byte, which is as long as the `*` itself.
//! * [`Pattern::covers`] does not depend on the bounds. If a pattern fails to cover another, a counterexample is the
//!   other pattern with one byte in place of each `*`, and that channel is within the bounds.
//! * [`Pattern::intersects`] depends on the 255 bytes. Two patterns with long literal segments at different positions
//!   may agree only on names that are too long to be channels.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

mod class;
#[cfg(test)]
pub(crate) mod generate;
mod template;
mod tenant;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod vectors;

pub use class::{BookRules, Class, ClassError, Classes, DEPTH_MAX, HISTORY_SIZE_MAX, History, Overflow};
pub use template::{ChannelTemplate, TemplateError};
pub use tenant::{DEFAULT_TENANT, Name, Tenant, TenantNames};

/// The length limit of a channel or pattern, in bytes.
pub const BYTES_MAX: usize = 255;

/// The limit on segments in a channel or pattern.
pub const SEGMENTS_MAX: usize = 8;

/// A channel of a tenant, with a valid name: 1 to 8 segments joined by `.`, at most 255 bytes. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Channel {
    tenant: Tenant,
    name: Arc<str>,
}

/// A valid pattern: a channel name in which whole segments may be `*`. Cheap to clone.
///
/// A `*` in the last segment matches one or more segments. Any other `*` matches exactly one. The pattern `*` matches every
/// channel of its tenant.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pattern {
    tenant: Tenant,
    name: Arc<str>,
}

/// The number of segments of a pattern and which of them are `*`.
///
/// For each shape there is at most one pattern that can match a given channel: the channel's own segments with `*` at the
/// positions of the shape ([`write_candidate`](Self::write_candidate)). So a hash map finds the patterns of one shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The number of segments, 1 to 8.
    pub segments: u8,
    /// A bit mask: bit `i` is set if segment `i` is `*`.
    pub stars: u8,
}

impl Shape {
    /// Whether the last segment is `*`, which matches one or more segments.
    #[must_use]
    pub const fn is_open(self) -> bool {
        self.stars >> (self.segments - 1) & 1 == 1
    }

    /// Replaces `text` with the only pattern of this shape that can match `channel`. The channel must have at least as many
    /// segments as the shape.
    pub fn write_candidate(self, channel: &str, text: &mut String) {
        text.clear();
        for (index, segment) in segments(channel).take(usize::from(self.segments)).enumerate() {
            if index > 0 {
                text.push('.');
            }
            text.push_str(if self.stars >> index & 1 == 1 { "*" } else { segment });
        }
    }
}

/// Iterates over the segments of a valid channel name or pattern.
///
/// Segments are short, so comparing each byte takes a third of the time of a `memchr` per segment.
pub fn segments(name: &str) -> impl Iterator<Item = &str> {
    let mut left = Some(name);
    std::iter::from_fn(move || {
        let name = left?;
        let dot = name.bytes().position(|byte| byte == b'.');
        left = dot.map(|dot| &name[dot + 1..]);
        Some(dot.map_or(name, |dot| &name[..dot]))
    })
}

/// The reason why a text is not a valid channel or pattern. Clients get the error code `INVALID_CHANNEL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// The text is empty.
    #[error("is empty")]
    Empty,
    /// The text is longer than [`BYTES_MAX`].
    #[error("is longer than 255 bytes")]
    TooLong,
    /// There are more than [`SEGMENTS_MAX`] segments.
    #[error("has more than 8 segments")]
    TooManySegments,
    /// Two dots are adjacent, or a dot is at the start or the end.
    #[error("has an empty segment")]
    EmptySegment,
    /// There is white space, a control character, a `>`, or a `*` that is not a whole segment. In a channel every `*` is an
    /// error.
    #[error("has a character that is not allowed: {0:?}")]
    BadCharacter(char),
}

impl Channel {
    /// Checks and copies `text`. The channel is one of the default tenant.
    ///
    /// # Errors
    ///
    /// `text` breaks the grammar of channel names.
    pub fn parse(text: &str) -> Result<Self, ChannelError> {
        check(text, false)?;
        Ok(Self {
            tenant: Tenant::DEFAULT,
            name: text.into(),
        })
    }
    /// The channel of this name in another tenant.
    #[must_use]
    pub fn in_tenant(self, tenant: Tenant) -> Self {
        Self { tenant, ..self }
    }
    /// The channel's tenant.
    #[must_use]
    pub const fn tenant(&self) -> Tenant {
        self.tenant
    }
    /// The channel name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.name
    }
    /// The channel name, to share its text.
    #[must_use]
    pub const fn shared_name(&self) -> &Arc<str> {
        &self.name
    }
    /// The tenant and the name.
    #[must_use]
    pub fn key(&self) -> Name<'_> {
        Name {
            tenant: self.tenant,
            text: &self.name,
        }
    }
}

impl Pattern {
    /// Checks and copies `text`. The pattern is one of the default tenant.
    ///
    /// # Errors
    ///
    /// `text` breaks the grammar of patterns.
    pub fn parse(text: &str) -> Result<Self, ChannelError> {
        check(text, true)?;
        Ok(Self {
            tenant: Tenant::DEFAULT,
            name: text.into(),
        })
    }
    /// The pattern of this text in another tenant.
    #[must_use]
    pub fn in_tenant(self, tenant: Tenant) -> Self {
        Self { tenant, ..self }
    }
    /// The pattern's tenant.
    #[must_use]
    pub const fn tenant(&self) -> Tenant {
        self.tenant
    }
    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.name
    }
    /// The tenant and the text.
    #[must_use]
    pub fn key(&self) -> Name<'_> {
        Name {
            tenant: self.tenant,
            text: &self.name,
        }
    }
    /// Whether the pattern has no `*`. Then it matches only the channel of the same name.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        memchr::memchr(b'*', self.name.as_bytes()).is_none()
    }
    /// The channel that an exact pattern matches; `None` if the pattern has a `*`.
    #[must_use]
    pub fn to_channel(&self) -> Option<Channel> {
        self.is_exact().then(|| Channel {
            tenant: self.tenant,
            name: Arc::clone(&self.name),
        })
    }
    /// The number of segments and the positions of the `*`.
    #[must_use]
    pub fn shape(&self) -> Shape {
        let (mut segments, mut stars) = (1, 0);
        for &byte in self.name.as_bytes() {
            // In a valid pattern a `*` is always a whole segment.
            stars |= u8::from(byte == b'*') << (segments - 1);
            segments += u8::from(byte == b'.');
        }
        Shape { segments, stars }
    }
    /// Whether the pattern matches `channel`. Does not allocate.
    #[must_use]
    pub fn matches(&self, channel: &Channel) -> bool {
        self.tenant == channel.tenant && self.matches_name(&channel.name)
    }
    /// Whether the pattern matches a channel of its own tenant with this name, which must be valid. Does not allocate.
    #[must_use]
    pub fn matches_name(&self, channel: &str) -> bool {
        let (mut pattern, mut channel) = (self.name.as_bytes(), channel.as_bytes());
        loop {
            // One comparison covers everything up to the next `*`, dots included.
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
    /// Whether this pattern matches every channel that `other` matches. Does not allocate.
    #[must_use]
    pub fn covers(&self, other: &Pattern) -> bool {
        if self.tenant != other.tenant {
            return false;
        }
        let mut others = Segments::of(other);
        for mine in Segments::of(self) {
            match (mine, others.next()) {
                // The final `*` takes all remaining segments of `other`, including its final `*`.
                (Segment::Rest, Some(_)) => return true,
                (Segment::One, Some(Segment::One | Segment::Literal(_))) => {}
                (Segment::Literal(a), Some(Segment::Literal(b))) if a == b => {}
                _ => return false,
            }
        }
        others.next().is_none()
    }
    /// Whether at least one channel is matched by both patterns. Does not allocate.
    #[must_use]
    pub fn intersects(&self, other: &Pattern) -> bool {
        if self.tenant != other.tenant {
            return false;
        }
        let (mut a, mut b) = (Segments::of(self), Segments::of(other));
        let (mut open_a, mut open_b) = (false, false);
        // The length of the shortest name that both match, plus one for an extra dot.
        let mut bytes = 0;
        loop {
            let next = (a.next_noting_open(&mut open_a), b.next_noting_open(&mut open_b));
            bytes += 1 + match next {
                (None, None) => break,
                (Some(Segment::Literal(x)), Some(Segment::Literal(y))) if x != y => return false,
                (Some(Segment::Literal(text)), Some(_)) | (Some(_), Some(Segment::Literal(text))) => text.len(),
                (Some(_), Some(_)) => 1,
                // The longer pattern may continue only if the shorter one ends with `*`.
                (Some(rest), None) if open_b => rest.bytes_min(),
                (None, Some(rest)) if open_a => rest.bytes_min(),
                _ => return false,
            };
        }
        bytes <= BYTES_MAX + 1
    }
}

impl From<Channel> for Pattern {
    /// The pattern that matches only this channel. It shares the channel's text.
    fn from(channel: Channel) -> Self {
        Self {
            tenant: channel.tenant,
            name: channel.name,
        }
    }
}

/// Whether `text` is one valid segment without a wildcard. A token's `sub` and a target of the typed dialect must be one.
#[must_use]
pub fn is_segment(text: &str) -> bool {
    !text.contains('.') && check(text, false).is_ok()
}

#[derive(Clone, Copy)]
enum Segment<'a> {
    Literal(&'a str),
    /// A `*` before the last segment: matches one segment.
    One,
    /// A `*` as the last segment: matches one or more segments.
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
        Self {
            left: Some(&pattern.name),
        }
    }

    /// The next segment. Sets `open` if it is a final `*`.
    fn next_noting_open(&mut self, open: &mut bool) -> Option<Segment<'a>> {
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

/// A fast check for ASCII names: `true` means valid, `false` means that [`check_each`] must decide.
///
/// It reads each byte once. Checking segment by segment took a tenth of the time of a subscription.
fn is_plain(text: &str, wildcards: bool) -> bool {
    // The start of the text behaves like a dot: no dot may follow, and a `*` may.
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
        if let Some(character) = segment.chars().find(|c| is_forbidden(*c))
            && !(wildcards && segment == "*")
        {
            return Err(ChannelError::BadCharacter(character));
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
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.name) }
        }
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                if !self.tenant.is_default() {
                    write!(f, "{}:", self.tenant.index())?;
                }
                fmt::Debug::fmt(&self.name, f)
            }
        }
        impl Hash for $type {
            fn hash<H: Hasher>(&self, state: &mut H) { self.key().hash(state); }
        }
    )* };
}
text_like!(Channel, Pattern);
