//! The strict scanner. It accepts exactly RFC 8259, does not allocate and does not recurse.

use super::MAX_DEPTH;

/// The reason why a text was refused. `at` is a byte offset in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The text is not JSON.
    #[error("{what} at byte {at}")]
    Syntax {
        /// The problem.
        what: &'static str,
        /// Its byte offset.
        at: usize,
    },
    /// The text is nested deeper than allowed.
    #[error("nested too deep at byte {at}")]
    TooDeep {
        /// Its byte offset.
        at: usize,
    },
    /// An object has more than [`super::ESCAPED_KEYS_MAX`] keys with escapes.
    #[error("more than {} keys with escapes", super::ESCAPED_KEYS_MAX)]
    TooManyEscapes,
    /// The text is JSON but not an object (or, for [`split_array`], not an array).
    #[error("{0}")]
    WrongKind(&'static str),
    /// The array has more items than [`split_array`] was told to return.
    #[error("more than {0} items")]
    TooManyItems(usize),
}

/// The kind of a JSON value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A number without a fraction and an exponent.
    Integer,
    /// Any other number.
    Number,
    /// A string.
    String {
        /// Whether it has escapes, so that its raw text differs from its value.
        escaped: bool,
    },
    /// An array.
    Array,
    /// An object.
    Object,
}

/// The nesting limit of [`split_array`]. It exceeds that of a message, so that one item that is nested too deep does not
/// fail the whole array.
const SPLIT_DEPTH: u32 = 1024;

/// Splits a top-level array into the raw texts of its items, without copying.
///
/// An item may be any JSON value with at most 1024 levels of nesting.
///
/// # Errors
///
/// The text is not JSON, is not an array, is nested too deep, or has more than `max_items` items.
pub fn split_array(text: &str, max_items: usize) -> Result<Vec<&str>, Error> {
    let mut scanner = Scanner::new(text);
    scanner.skip_space();
    if scanner.peek() != Some(b'[') {
        scanner.skip_value::<{ (SPLIT_DEPTH / 64) as usize }>(SPLIT_DEPTH)?;
        scanner.end()?;
        return Err(Error::WrongKind("not an array"));
    }
    scanner.at += 1;
    scanner.skip_space();
    let mut items = Vec::new();
    if scanner.peek() == Some(b']') {
        scanner.at += 1;
    } else {
        loop {
            scanner.skip_space();
            let start = scanner.at;
            scanner.skip_value::<{ (SPLIT_DEPTH / 64) as usize }>(SPLIT_DEPTH)?;
            if items.len() == max_items {
                return Err(Error::TooManyItems(max_items));
            }
            items.push(&text[start..scanner.at]);
            scanner.skip_space();
            match scanner.peek() {
                Some(b',') => scanner.at += 1,
                Some(b']') => {
                    scanner.at += 1;
                    break;
                }
                _ => return Err(scanner.syntax_error("expected `,` or `]`")),
            }
        }
    }
    scanner.end()?;
    Ok(items)
}

/// Checks that `text` is one JSON value and returns it without the white space around it.
///
/// # Errors
///
/// `text` is not one JSON value, or is nested deeper than a member of a message may be.
pub fn check_value(text: &str) -> Result<&str, Error> {
    let mut scanner = Scanner::new(text);
    scanner.skip_space();
    scanner.skip_member_value()?;
    scanner.end()?;
    Ok(text.trim_ascii())
}

/// A position in a text.
pub(super) struct Scanner<'a> {
    bytes: &'a [u8],
    pub(super) at: usize,
}

/// The open containers: one bit for each level, set for an object and clear for an array.
struct Nesting<const WORDS: usize> {
    objects: [u64; WORDS],
    depth: u32,
}

impl<const WORDS: usize> Nesting<WORDS> {
    fn push(&mut self, object: bool, max: u32) -> bool {
        if self.depth >= max {
            return false;
        }
        let (word, bit) = (self.depth as usize / 64, self.depth % 64);
        self.objects[word] = self.objects[word] & !(1 << bit) | u64::from(object) << bit;
        self.depth += 1;
        true
    }
    fn innermost_is_object(&self) -> Option<bool> {
        let level = self.depth.checked_sub(1)?;
        Some(self.objects[level as usize / 64] >> (level % 64) & 1 == 1)
    }
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            bytes: text.as_bytes(),
            at: 0,
        }
    }

    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    pub(super) fn syntax_error(&self, what: &'static str) -> Error {
        let what = if self.at >= self.bytes.len() {
            "unexpected end"
        } else {
            what
        };
        Error::Syntax { what, at: self.at }
    }

    pub(super) fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// Checks that only white space follows.
    pub(super) fn end(&mut self) -> Result<(), Error> {
        self.skip_space();
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.syntax_error("unexpected text behind the value")),
        }
    }

    /// Skips one value of a member of the top-level object.
    pub(super) fn skip_member_value(&mut self) -> Result<Kind, Error> {
        self.skip_value::<1>(MAX_DEPTH - 1)
    }

    /// Skips a key, without its colon. Returns whether the key has escapes.
    pub(super) fn skip_key(&mut self) -> Result<bool, Error> {
        if self.peek() != Some(b'"') {
            return Err(self.syntax_error("expected a key"));
        }
        self.skip_string()
    }

    pub(super) fn skip_colon(&mut self) -> Result<(), Error> {
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.syntax_error("expected `:`"));
        }
        self.at += 1;
        self.skip_space();
        Ok(())
    }

    /// Skips one value, whose first byte is at `at`. Allows `max_depth` levels, which must be at most `64 * WORDS`.
    fn skip_value<const WORDS: usize>(&mut self, max_depth: u32) -> Result<Kind, Error> {
        let mut nesting = Nesting::<WORDS> {
            objects: [0; WORDS],
            depth: 0,
        };
        let mut outermost = None;
        loop {
            let kind = self.enter_value(&mut nesting, max_depth)?;
            outermost.get_or_insert(kind.kind);
            if kind.open {
                continue;
            }
            if !self.leave_values(&mut nesting)? {
                return Ok(outermost.expect("set by the first value"));
            }
        }
    }

    /// Skips a scalar or an empty container, or enters a container up to its first value.
    fn enter_value<const WORDS: usize>(
        &mut self,
        nesting: &mut Nesting<WORDS>,
        max_depth: u32,
    ) -> Result<Entered, Error> {
        let closed = |kind| Entered { kind, open: false };
        let (object, end) = match self.peek() {
            Some(b'{') => (true, b'}'),
            Some(b'[') => (false, b']'),
            Some(b'"') => return self.skip_string().map(|escaped| closed(Kind::String { escaped })),
            Some(b'-' | b'0'..=b'9') => return self.skip_number().map(closed),
            Some(b't') => return self.skip_word(b"true", Kind::Bool).map(closed),
            Some(b'f') => return self.skip_word(b"false", Kind::Bool).map(closed),
            Some(b'n') => return self.skip_word(b"null", Kind::Null).map(closed),
            _ => return Err(self.syntax_error("expected a value")),
        };
        let kind = if object { Kind::Object } else { Kind::Array };
        if !nesting.push(object, max_depth) {
            return Err(Error::TooDeep { at: self.at });
        }
        self.at += 1;
        self.skip_space();
        if self.peek() == Some(end) {
            self.at += 1;
            nesting.depth -= 1;
            return Ok(closed(kind));
        }
        if object {
            self.skip_key()?;
            self.skip_colon()?;
        }
        Ok(Entered { kind, open: true })
    }

    /// After a value: closes containers up to the next value. Returns `false` if the outermost container is closed.
    fn leave_values<const WORDS: usize>(&mut self, nesting: &mut Nesting<WORDS>) -> Result<bool, Error> {
        while let Some(object) = nesting.innermost_is_object() {
            self.skip_space();
            match self.peek() {
                Some(b',') => {
                    self.at += 1;
                    self.skip_space();
                    if object {
                        self.skip_key()?;
                        self.skip_colon()?;
                    }
                    return Ok(true);
                }
                Some(b'}') if object => {}
                Some(b']') if !object => {}
                _ => {
                    return Err(self.syntax_error(if object {
                        "expected `,` or `}`"
                    } else {
                        "expected `,` or `]`"
                    }));
                }
            }
            self.at += 1;
            nesting.depth -= 1;
        }
        Ok(false)
    }

    fn skip_word(&mut self, word: &[u8], kind: Kind) -> Result<Kind, Error> {
        if !self.bytes[self.at..].starts_with(word) {
            return Err(self.syntax_error("expected a value"));
        }
        self.at += word.len();
        Ok(kind)
    }

    /// Skips a string, whose opening quote is at `at`. Returns whether it has escapes.
    ///
    /// An unpaired surrogate in an escape is valid JSON (RFC 8259, section 8.2) and is accepted.
    fn skip_string(&mut self) -> Result<bool, Error> {
        let mut escaped = false;
        self.at += 1;
        loop {
            self.at += plain_prefix(&self.bytes[self.at..]);
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.skip_escape()?;
                }
                _ => return Err(self.syntax_error("a control character inside a string")),
            }
        }
    }

    fn skip_escape(&mut self) -> Result<(), Error> {
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 1,
            Some(b'u') => {
                self.at += 1;
                for _ in 0..4 {
                    if !self.peek().is_some_and(|byte| byte.is_ascii_hexdigit()) {
                        return Err(self.syntax_error("expected four hexadecimal digits"));
                    }
                    self.at += 1;
                }
            }
            _ => return Err(self.syntax_error("unknown escape")),
        }
        Ok(())
    }

    fn skip_number(&mut self) -> Result<Kind, Error> {
        let mut kind = Kind::Integer;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.skip_digits()?;
        }
        if self.peek() == Some(b'.') {
            kind = Kind::Number;
            self.at += 1;
            self.skip_digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            kind = Kind::Number;
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.skip_digits()?;
        }
        Ok(kind)
    }

    fn skip_digits(&mut self) -> Result<(), Error> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start {
            return Err(self.syntax_error("expected a digit"));
        }
        Ok(())
    }
}

struct Entered {
    kind: Kind,
    open: bool,
}

/// The number of leading bytes that are neither a quote nor a backslash nor a control character.
///
/// It tests eight bytes at a time, because most of a message's bytes are in strings.
pub(super) fn plain_prefix(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    let is_special = |byte: u8| byte == b'"' || byte == b'\\' || byte < 0x20;
    let mut at = 0;
    while let Some(chunk) = bytes.get(at..at + 8) {
        let word = u64::from_le_bytes(chunk.try_into().expect("eight bytes"));
        let zero_byte = |x: u64| x.wrapping_sub(ONES) & !x & HIGH;
        let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
        let quote = zero_byte(word ^ (ONES * u64::from(b'"')));
        let backslash = zero_byte(word ^ (ONES * u64::from(b'\\')));
        let special = control | quote | backslash;
        if special != 0 {
            // The lowest mark is exact: a borrow changes only the bytes above a real match.
            return at + special.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    at + bytes[at..].iter().take_while(|byte| !is_special(**byte)).count()
}
