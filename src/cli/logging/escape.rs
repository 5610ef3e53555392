//! Escapes what clients could forge log lines with: line breaks, control characters and direction marks.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, Write};

/// A writer of log lines that escapes characters which a terminal or a reader of lines would act on.
///
/// Each call of `write` is one line with its line break at the end.
pub(super) struct Escaping<W> {
    inner: W,
    mode: Mode,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// JSON escapes control characters itself.
    None,
    Human,
    /// Escape sequences stay, because they are the formatter's own. It escapes those in values.
    Coloured,
}

impl<W: Write> Escaping<W> {
    /// Passes everything on.
    pub(super) const fn none(inner: W) -> Self {
        Self {
            inner,
            mode: Mode::None,
        }
    }

    /// Escapes lines for people. `is_coloured` lines contain escape sequences for a terminal.
    pub(super) const fn human(inner: W, is_coloured: bool) -> Self {
        let mode = if is_coloured { Mode::Coloured } else { Mode::Human };
        Self { inner, mode }
    }
}

impl<W: Write> Write for Escaping<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.mode == Mode::None {
            return self.inner.write_all(line).map(|()| line.len());
        }
        let text = String::from_utf8_lossy(line);
        let (text, end) = match text.strip_suffix('\n') {
            Some(text) => (text, "\n"),
            None => (&*text, ""),
        };
        let escaped = escape(text, self.mode == Mode::Coloured);
        self.inner.write_all(escaped.as_bytes())?;
        self.inner.write_all(end.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn escape(text: &str, keeps_escape: bool) -> Cow<'_, str> {
    let is_unsafe = |character: char| is_unsafe(character) && !(keeps_escape && character == '\u{1b}');
    if !text.contains(is_unsafe) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '\n' => escaped.push_str("\\n"),
            '\r' => escaped.push_str("\\r"),
            '\t' => escaped.push_str("\\t"),
            character if is_unsafe(character) => {
                // Writing to a string cannot fail.
                let _ = write!(escaped, "\\u{{{:x}}}", u32::from(character));
            }
            character => escaped.push(character),
        }
    }
    Cow::Owned(escaped)
}

/// Control characters, line and paragraph separators, and marks that change the direction of text.
fn is_unsafe(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(mode: fn(Vec<u8>) -> Escaping<Vec<u8>>, line: &str) -> String {
        let mut writer = mode(Vec::new());
        writer.write_all(line.as_bytes()).expect("written");
        String::from_utf8(writer.inner).expect("text")
    }

    #[test]
    fn a_value_cannot_begin_a_line_or_act_on_a_terminal() {
        let forged = "params={\"a\":1\n2026-01-01T00:00:00Z INFO audit: forged\r\u{1b}[2J\u{202e}\u{2028}\u{9b}x}\n";
        let human = written(|inner| Escaping::human(inner, false), forged);
        assert_eq!(
            human,
            "params={\"a\":1\\n2026-01-01T00:00:00Z INFO audit: forged\\r\\u{1b}[2J\\u{202e}\\u{2028}\\u{9b}x}\n"
        );
        let coloured = written(|inner| Escaping::human(inner, true), "\u{1b}[32m INFO\u{1b}[0m a\nb\n");
        assert_eq!(coloured, "\u{1b}[32m INFO\u{1b}[0m a\\nb\n");
    }

    #[test]
    fn plain_text_and_json_stay_as_they_are() {
        for line in ["grid.start by 42: success\n", "Zürich 価格 €\n", ""] {
            assert_eq!(written(|inner| Escaping::human(inner, false), line), line);
        }
        let json = "{\"params\":\"\\n\u{202e}\"}\n";
        assert_eq!(written(Escaping::none, json), json);
    }
}
