//! The top-level members of one object, found by the scanner and kept in reused memory.

use std::borrow::Cow;

use super::ESCAPED_KEYS_MAX;
use super::decode::Decoder;
use super::scan::{Error, Kind, Scanner};

/// The memory that parsing reuses; one per shard. Nothing in it outlives the parsing of one message.
#[derive(Debug, Default)]
pub struct Scratch {
    members: Vec<Member>,
    // Indices of `members` in the order of their keys, to find duplicates among many.
    order: Vec<u32>,
    // The keys that had escapes, decoded, one behind the other.
    decoded_keys: String,
    escaped_keys: usize,
    // The later one of two members with the same key.
    duplicate: Option<usize>,
    decoder: Decoder,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    key: Span,
    // The key lies in `decoded_keys` and not in the text.
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

/// An object whose text is valid in full. Borrowed from the text and from the [`Scratch`].
#[derive(Debug)]
pub struct Object<'s, 't> {
    text: &'t str,
    scratch: &'s mut Scratch,
}

/// One value as it stands in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'t> {
    /// Its bytes, without white space around.
    pub raw: &'t str,
    /// What it is.
    pub kind: Kind,
}

impl Scratch {
    /// Scans `text`, which must be one JSON object.
    ///
    /// # Errors
    /// Not JSON, nested deeper than [`super::MAX_DEPTH`], not an object, or more than [`ESCAPED_KEYS_MAX`] keys with
    /// escapes.
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

    // Takes in one member; `false`: it was the last.
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
        // A key with an unpaired surrogate has no decoded form. It is no field of any dialect; it stays as written.
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
            _ => return Err(scanner.wrong("expected `,` or `}`")),
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

    // Few keys are compared pair by pair; many are sorted, so that 64 KiB of keys cost a millisecond, not a minute.
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
    /// A key that occurs more than once: RFC 8259 leaves its meaning open, so a message that has one means nothing.
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

    /// The member called `name`; the first one, if there are more.
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

    /// All members in order, a key that occurs twice as often as it does.
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

    /// The text of a string value: borrowed when it has no escapes. `None`: not a string, or one with an unpaired
    /// surrogate, which no Unicode text can hold.
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

    /// Calls `each` with every element of an array of strings, in order, until it fails. `None`: something in it is
    /// not a string (`each` was not called), or has an unpaired surrogate.
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
