//! The top-level members of one object. The scanner finds them, and reused memory holds them.

use std::borrow::Cow;

use super::ESCAPED_KEYS_MAX;
use super::decode::Decoder;
use super::scan::{Error, Kind, Scanner};

/// Memory that parsing reuses. Each shard has one. Its content is valid only while one message is parsed.
#[derive(Debug, Default)]
pub struct Scratch {
    members: Vec<Member>,
    /// Indices of `members`, sorted by key, to find duplicates among many members.
    order: Vec<u32>,
    /// The decoded form of all keys with escapes, concatenated.
    decoded_keys: String,
    escaped_keys: usize,
    /// The index of a member whose key occurs earlier too.
    duplicate: Option<usize>,
    decoder: Decoder,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    key: Span,
    /// Whether `key` is a span of `decoded_keys` instead of the text.
    key_decoded: bool,
    value: Span,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
struct Span {
    start: usize,
    end: usize,
}

impl Span {
    fn of(self, text: &str) -> &str {
        &text[self.start..self.end]
    }
}

/// An object whose whole text is valid JSON. It borrows the text and the [`Scratch`].
#[derive(Debug)]
pub struct Object<'s, 't> {
    text: &'t str,
    scratch: &'s mut Scratch,
}

/// One value of a text, not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'t> {
    /// The text of the value, without white space around it.
    pub raw: &'t str,
    /// The kind of value.
    pub kind: Kind,
}

impl Scratch {
    /// Scans `text`, which must be one JSON object.
    ///
    /// # Errors
    ///
    /// `text` is not JSON, is not an object, is nested deeper than [`super::MAX_DEPTH`], or has more than
    /// [`ESCAPED_KEYS_MAX`] keys with escapes.
    pub fn object<'s, 't>(&'s mut self, text: &'t str) -> Result<Object<'s, 't>, Error> {
        self.members.clear();
        self.decoded_keys.clear();
        self.escaped_keys = 0;
        let mut scanner = Scanner::new(text);
        scanner.skip_space();
        if scanner.peek() != Some(b'{') {
            scanner.skip_member_value()?;
            scanner.end()?;
            return Err(Error::WrongKind("not an object"));
        }
        scanner.at += 1;
        scanner.skip_space();
        if scanner.peek() == Some(b'}') {
            scanner.at += 1;
        } else {
            while self.member(text, &mut scanner)? {}
        }
        scanner.end()?;
        self.duplicate = self.find_duplicate(text);
        Ok(Object { text, scratch: self })
    }

    /// Adds one member; returns `false` after the last one.
    fn member(&mut self, text: &str, scanner: &mut Scanner<'_>) -> Result<bool, Error> {
        let start = scanner.at + 1;
        let escaped = scanner.skip_key()?;
        let raw_key = Span {
            start,
            end: scanner.at - 1,
        };
        self.escaped_keys += usize::from(escaped);
        if self.escaped_keys > ESCAPED_KEYS_MAX {
            return Err(Error::TooManyEscapes);
        }
        // A key with an unpaired surrogate cannot be decoded and is not a field of any dialect. Its raw text is used.
        let decoded = escaped.then(|| self.decode_key(&text[start - 1..scanner.at])).flatten();
        scanner.skip_colon()?;
        let value_start = scanner.at;
        let kind = scanner.skip_member_value()?;
        self.members.push(Member {
            key: decoded.unwrap_or(raw_key),
            key_decoded: decoded.is_some(),
            value: Span {
                start: value_start,
                end: scanner.at,
            },
            kind,
        });
        scanner.skip_space();
        let more = match scanner.peek() {
            Some(b',') => true,
            Some(b'}') => false,
            _ => return Err(scanner.syntax_error("expected `,` or `}`")),
        };
        scanner.at += 1;
        scanner.skip_space();
        Ok(more)
    }

    fn decode_key(&mut self, quoted: &str) -> Option<Span> {
        let start = self.decoded_keys.len();
        let keys = &mut self.decoded_keys;
        self.decoder.strings([quoted], |key| keys.push_str(key)).ok()?;
        Some(Span {
            start,
            end: self.decoded_keys.len(),
        })
    }

    fn key<'k>(&'k self, text: &'k str, member: &Member) -> &'k str {
        member
            .key
            .of(if member.key_decoded { &self.decoded_keys } else { text })
    }

    /// Compares few keys in pairs and sorts many, so that 64 KiB of keys take a millisecond instead of a minute.
    fn find_duplicate(&mut self, text: &str) -> Option<usize> {
        const FEW: usize = 16;
        if self.members.len() <= FEW {
            return (1..self.members.len()).find(|&later| {
                let key = self.key(text, &self.members[later]);
                self.members[..later].iter().any(|member| self.key(text, member) == key)
            });
        }
        let mut order = std::mem::take(&mut self.order);
        order.clear();
        order.extend(0..u32::try_from(self.members.len()).unwrap_or(u32::MAX));
        let key = |index: &u32| self.key(text, &self.members[*index as usize]);
        order.sort_unstable_by(|a, b| key(a).cmp(key(b)).then(a.cmp(b)));
        let pair = order.windows(2).find(|pair| key(&pair[0]) == key(&pair[1]));
        let found = pair.map(|pair| pair[1] as usize);
        self.order = order;
        found
    }
}

impl<'t> Object<'_, 't> {
    /// A key that occurs more than once, if there is one. RFC 8259, section 4, leaves the meaning of such an object open, so
    /// messages with duplicate keys are refused.
    #[must_use]
    pub fn duplicate_key(&self) -> Option<&str> {
        let index = self.scratch.duplicate?;
        Some(self.scratch.key(self.text, &self.scratch.members[index]))
    }

    /// Whether `name` occurs more than once.
    #[must_use]
    pub fn is_duplicate(&self, name: &str) -> bool {
        let members = &self.scratch.members;
        let same = |member: &&Member| self.scratch.key(self.text, member) == name;
        self.scratch.duplicate.is_some() && members.iter().filter(same).count() > 1
    }

    /// The value of the first member with the key `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Value<'t>> {
        let scratch = &*self.scratch;
        let member = scratch
            .members
            .iter()
            .find(|member| scratch.key(self.text, member) == name)?;
        Some(Value {
            raw: member.value.of(self.text),
            kind: member.kind,
        })
    }

    /// All members in order, including those with duplicate keys.
    pub fn members(&self) -> impl Iterator<Item = (&str, Value<'t>)> {
        let scratch = &*self.scratch;
        scratch.members.iter().map(|member| {
            let value = Value {
                raw: member.value.of(self.text),
                kind: member.kind,
            };
            (scratch.key(self.text, member), value)
        })
    }

    /// The decoded text of a string, borrowed if it has no escapes. `None` if the value is not a string or has an unpaired
    /// surrogate.
    pub fn text(&mut self, value: Value<'t>) -> Option<Cow<'t, str>> {
        let Kind::String { escaped } = value.kind else {
            return None;
        };
        if !escaped {
            return Some(Cow::Borrowed(&value.raw[1..value.raw.len() - 1]));
        }
        let mut text = String::new();
        self.scratch
            .decoder
            .strings([value.raw], |decoded| text.push_str(decoded))
            .ok()?;
        Some(Cow::Owned(text))
    }

    /// Calls `each` with the index and the text of every item of an array of strings, in order, until `each` fails.
    ///
    /// `None` if the value is not an array, or an item is not a string or has an unpaired surrogate. Then `each` was not
    /// called.
    ///
    /// # Errors
    ///
    /// The error of `each`.
    pub fn texts<E>(
        &mut self,
        value: Value<'t>,
        mut each: impl FnMut(usize, &str) -> Result<(), E>,
    ) -> Option<Result<(), E>> {
        if value.kind != Kind::Array {
            return None;
        }
        self.scratch.decoder.array_of_strings(value.raw, |strings| {
            strings.enumerate().try_for_each(|(index, text)| each(index, text))
        })
    }
}
