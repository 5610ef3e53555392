//! Escapes text from elsewhere before people read it. Names, tokens and messages of clients, servers and files could forge
//! lines, move the cursor of a terminal, or show text in another order than it has.
//!
//! `\n`, `\r` and `\t` are written so; other characters as `\u{9b}`. Escaping text a second time changes nothing.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The text on one line.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    escape(text, |_| false)
}

/// The text with its line breaks. Parts of it that come from elsewhere are escaped with [`line()`] before.
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    escape(text, |character| character == '\n')
}

/// The text on one line, with its escape sequences for a terminal. Those in parts that come from elsewhere are escaped
/// before.
#[must_use]
pub fn coloured_line(text: &str) -> Cow<'_, str> {
    escape(text, |character| character == '\u{1b}')
}

/// Whether a character acts on a terminal or on the order of text: control characters, line and paragraph separators, and
/// marks that change the direction. All of them have at most 16 bits.
#[must_use]
pub fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
        )
}

fn escape(text: &str, keeps: impl Fn(char) -> bool) -> Cow<'_, str> {
    let is_escaped = |character: char| is_unsafe(character) && !keeps(character);
    if !text.contains(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            character if !is_escaped(character) => escaped.push(character),
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            character => {
                // Writing to a string cannot fail.
                let _ = write!(escaped, "\\u{{{:x}}}", u32::from(character));
            }
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORGED: &str = "a\n2026-01-01 INFO forged\r\u{1b}[2J\u{202e}\u{2028}\u{9b}x\t";

    #[test]
    fn a_line_cannot_begin_another_one_or_act_on_a_terminal() {
        let safe = "a\\n2026-01-01 INFO forged\\r\\u{1b}[2J\\u{202e}\\u{2028}\\u{9b}x\\t";
        assert_eq!(line(FORGED), safe);
        assert_eq!(line(safe), safe);
        assert_eq!(lines(FORGED), safe.replacen("\\n", "\n", 1));
        assert_eq!(coloured_line(FORGED), safe.replacen("\\u{1b}", "\u{1b}", 1));
    }

    #[test]
    fn plain_text_stays_as_it_is() {
        for text in ["grid.start by 42: success", "Zürich 価格 € 😀", ""] {
            for escaped in [line(text), lines(text), coloured_line(text)] {
                assert!(matches!(escaped, Cow::Borrowed(_)) && escaped == text, "{text}");
            }
        }
    }
}
