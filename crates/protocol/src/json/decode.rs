//! Decodes strings with simd-json, from a private copy. The buffers and the tape of simd-json are reused.

use simd_json::{Buffers, INPUT_PADDING, Node, Tape};

/// Decodes strings of a text that the scanner accepted.
#[derive(Default)]
pub(super) struct Decoder {
    copy: Vec<u8>,
    buffers: Buffers,
    /// Empty between calls, kept for its memory.
    tape: Vec<Node<'static>>,
}

/// A string has an unpaired surrogate. That is valid JSON (RFC 8259, section 8.2) but not Unicode text.
#[derive(Debug)]
pub(super) struct Unpaired;

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

impl Decoder {
    /// Calls `each` with each of the quoted strings, decoded.
    ///
    /// # Errors
    ///
    /// A string has an unpaired surrogate. The strings before it have been passed to `each`.
    pub(super) fn strings<'t>(
        &mut self,
        quoted: impl IntoIterator<Item = &'t str>,
        mut each: impl FnMut(&str),
    ) -> Result<(), Unpaired> {
        for raw in quoted {
            self.copy.clear();
            self.copy.push(b'[');
            self.copy.extend_from_slice(raw.as_bytes());
            self.copy.push(b']');
            self.parse(|nodes| match nodes {
                [_, Node::String(text)] => each(text),
                _ => debug_assert!(false, "the array has one string"),
            })
            .ok_or(Unpaired)?;
        }
        Ok(())
    }

    /// Decodes an array of strings. `None` if an item is not a string or has an unpaired surrogate.
    pub(super) fn array_of_strings<R>(
        &mut self,
        raw: &str,
        with: impl FnOnce(&mut dyn Iterator<Item = &str>) -> R,
    ) -> Option<R> {
        self.copy.clear();
        self.copy.extend_from_slice(raw.as_bytes());
        self.parse(|nodes| {
            let items = nodes.get(1..).unwrap_or_default();
            if !items.iter().all(|node| matches!(node, Node::String(_))) {
                return None;
            }
            Some(with(&mut items.iter().map(|node| match node {
                Node::String(text) => *text,
                _ => "",
            })))
        })
        .flatten()
    }

    fn parse<R>(&mut self, with: impl FnOnce(&[Node<'_>]) -> R) -> Option<R> {
        let len = self.copy.len();
        self.copy.resize(len + INPUT_PADDING, b' ');
        let mut tape = Tape(std::mem::take(&mut self.tape)).reset();
        let parsed = simd_json::fill_tape_padded(&mut self.copy, len, &mut self.buffers, &mut tape);
        let result = parsed.ok().map(|()| with(&tape.0));
        self.tape = tape.reset().0;
        result
    }
}
