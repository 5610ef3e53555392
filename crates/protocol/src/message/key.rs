//! The idempotency key of a command.

use std::fmt;

/// The length limit of a key, in bytes.
pub const KEY_BYTES_MAX: usize = 128;

/// The `key` of a command: 1 to [`KEY_BYTES_MAX`] visible ASCII characters, without spaces.
///
/// The gateway and backends join it to other texts by a space, so a key has none.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandKey(Box<str>);

impl CommandKey {
    /// Parses a key; `None` if it breaks the rules.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_key = (1..=KEY_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_key.then(|| Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub const fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CommandKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_short_and_visible() {
        for text in [
            "a",
            "order:7/b",
            "01890a5d-ac96-774b-bcce-b302099a8057",
            &"k".repeat(KEY_BYTES_MAX),
        ] {
            assert_eq!(CommandKey::parse(text).expect(text).as_str(), text);
        }
        for text in ["", " ", "a b", "a\n", "\u{e9}", &"k".repeat(KEY_BYTES_MAX + 1)] {
            assert_eq!(CommandKey::parse(text), None, "{text:?}");
        }
    }
}
