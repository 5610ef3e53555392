//! Escapes what clients could forge log lines with.

use std::borrow::Cow;
use std::io::{self, Write};

/// A writer of log lines that escapes characters which a terminal or a reader of lines would act on.
///
/// Each call of `write` is one line with its line break at the end, and becomes one call of `write_all`.
pub(super) struct Escaping<W> {
    inner: W,
    escape: Option<fn(&str) -> Cow<'_, str>>,
}

impl<W: Write> Escaping<W> {
    /// Passes everything on. JSON escapes control characters itself.
    pub(super) const fn none(inner: W) -> Self {
        Self { inner, escape: None }
    }

    /// Escapes lines for people. `is_coloured` lines contain escape sequences for a terminal, which are the formatter's own:
    /// it escapes those in values.
    pub(super) const fn human(inner: W, is_coloured: bool) -> Self {
        let escape = if is_coloured {
            tickgate_escape::coloured_line
        } else {
            tickgate_escape::line
        };
        Self {
            inner,
            escape: Some(escape),
        }
    }
}

impl<W: Write> Write for Escaping<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let Some(escape) = self.escape else {
            return self.inner.write_all(line).map(|()| line.len());
        };
        let text = String::from_utf8_lossy(line);
        let (text, end) = match text.strip_suffix('\n') {
            Some(text) => (text, "\n"),
            None => (&*text, ""),
        };
        let mut escaped = escape(text).into_owned();
        escaped.push_str(end);
        self.inner.write_all(escaped.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
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
        let forged = "params={\"a\":1\n2026-01-01T00:00:00Z INFO audit: forged\r\u{1b}[2J}\n";
        let human = written(|inner| Escaping::human(inner, false), forged);
        let safe = "params={\"a\":1\\n2026-01-01T00:00:00Z INFO audit: forged\\r\\u{1b}[2J}\n";
        assert_eq!(human, safe);
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
