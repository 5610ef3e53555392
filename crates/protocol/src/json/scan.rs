//! The strict scanner: accepts exactly RFC 8259, allocates nothing, recurses never.

use super::MAX_DEPTH;

/// Why a text was refused. `at` is a byte offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not JSON.
    #[error("{what} at byte {at}")]
    Syntax {
        /// What is wrong there.
        what: &'static str,
        /// Where.
        at: usize,
    },
    /// Nested deeper than allowed.
    #[error("nested too deep at byte {at}")]
    TooDeep {
        /// Where.
        at: usize,
    },
    /// More keys with escapes than allowed ([`super::ESCAPED_KEYS_MAX`]).
    #[error("more than {} keys with escapes", super::ESCAPED_KEYS_MAX)]
    TooManyEscapes,
    /// JSON, but not an object (or, for [`split_array`], not an array).
    #[error("{0}")]
    WrongKind(&'static str),
    /// An array longer than [`split_array`] was allowed.
    #[error("more than {0} items")]
    TooManyItems(usize),
}

/// What kind of value a span holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A number without fraction and exponent.
    Integer,
    /// Any other number.
    Number,
    /// A string.
    String {
        /// Whether it holds a backslash, so that its raw text is not its value.
        escaped: bool,
    },
    /// An array.
    Array,
    /// An object.
    Object,
}

/// Levels that [`split_array`] follows, so that an item nested too deep for a message fails alone.
const SPLIT_DEPTH: u32 = 1024;

/// Cuts a top-level array into its items' raw spans, without copying; `max_items` bounds the answer.
///
/// An item may be any JSON value and is nested at most 1024 deep; what it must be is the caller's business.
///
/// # Errors
/// The text is not JSON, not an array, or holds more than `max_items` items.
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
                _ => return Err(scanner.wrong("expected `,` or `]`")),
            }
        }
    }
    scanner.end()?;
    Ok(items)
}

/// Checks that the text is one JSON value, nested no deeper than a member of a message may be; gives it without white
/// space around.
///
/// # Errors
/// It is none, or nested deeper.
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

// Which kind of container each open level is, one bit each: set for objects.
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

    pub(super) fn wrong(&self, what: &'static str) -> Error {
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

    /// Nothing but white space may follow.
    pub(super) fn end(&mut self) -> Result<(), Error> {
        self.skip_space();
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.wrong("expected the end")),
        }
    }

    /// Passes over one value in a member of the top-level object.
    pub(super) fn skip_member_value(&mut self) -> Result<Kind, Error> {
        self.skip_value::<1>(MAX_DEPTH - 1)
    }

    /// Passes over a key (`escaped` is returned) and its colon.
    pub(super) fn skip_key(&mut self) -> Result<bool, Error> {
        if self.peek() != Some(b'"') {
            return Err(self.wrong("expected a key"));
        }
        self.skip_string()
    }

    pub(super) fn skip_colon(&mut self) -> Result<(), Error> {
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.wrong("expected `:`"));
        }
        self.at += 1;
        self.skip_space();
        Ok(())
    }

    /// Passes over one value of at most `max_depth` (at most `64 * WORDS`) levels; `at` stands on its first byte.
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
                return Ok(outermost.expect("set above"));
            }
        }
    }

    // Passes over a scalar or an empty container, or into a container up to its first value.
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
            _ => return Err(self.wrong("expected a value")),
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

    // A value just ended: closes containers up to the next value. `false`: the outermost one is closed.
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
                    return Err(self.wrong(if object {
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
            return Err(self.wrong("expected a value"));
        }
        self.at += word.len();
        Ok(kind)
    }

    /// Passes over a string; `at` stands on its opening quote. Says whether it holds a backslash. An escaped
    /// surrogate without its partner is legal JSON text (RFC 8259, section 8.2) and passes.
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
                _ => return Err(self.wrong("a control character inside a string")),
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
                        return Err(self.wrong("expected four hexadecimal digits"));
                    }
                    self.at += 1;
                }
            }
            _ => return Err(self.wrong("no such escape")),
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
            return Err(self.wrong("expected a digit"));
        }
        Ok(())
    }
}

struct Entered {
    kind: Kind,
    open: bool,
}

/// How many bytes from the start on are neither quote, backslash nor control character. Eight at a time: strings
/// are most of a message's bytes.
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
            // The lowest mark is exact: a borrow can only blur the bytes above a true one.
            return at + special.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    at + bytes[at..].iter().take_while(|byte| !is_special(**byte)).count()
}
