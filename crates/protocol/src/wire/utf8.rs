//! Incremental validation of UTF-8.
//!
//! Invariant: after `push` returns `Ok`, everything pushed so far is a prefix of a valid UTF-8 text. `push` fails at the first
//! byte after which that is impossible.

use super::Error;

/// The state of the validator: the first bytes of a character that is incomplete.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Utf8Stream {
    pending: [u8; 4],
    pending_bytes: u8,
}

impl Utf8Stream {
    /// Checks the next bytes.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidUtf8`] if no text can start with all bytes so far.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while self.pending_bytes > 0 {
            let [next, rest @ ..] = bytes else { return Ok(()) };
            bytes = rest;
            self.complete(*next)?;
        }
        match simdutf8::compat::from_utf8(bytes) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_none() => {
                // The tail has at most three bytes, because it is an incomplete character.
                let tail = &bytes[error.valid_up_to()..];
                self.pending[..tail.len()].copy_from_slice(tail);
                self.pending_bytes = tail.len() as u8;
                Ok(())
            }
            Err(_) => Err(Error::InvalidUtf8),
        }
    }

    fn complete(&mut self, next: u8) -> Result<(), Error> {
        let length = usize::from(self.pending_bytes) + 1;
        self.pending[length - 1] = next;
        self.pending_bytes = match std::str::from_utf8(&self.pending[..length]) {
            Ok(_) => 0,
            Err(error) if error.error_len().is_none() => length as u8,
            Err(_) => return Err(Error::InvalidUtf8),
        };
        Ok(())
    }

    /// Whether the text can end here.
    pub(super) const fn is_complete(&self) -> bool {
        self.pending_bytes == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The number of bytes before the first bad one, and whether the text can end there, by the standard library.
    fn by_std(text: &[u8]) -> (usize, bool) {
        match std::str::from_utf8(text) {
            Ok(_) => (text.len(), true),
            Err(error) if error.error_len().is_none() => (text.len(), false),
            // The first bad byte is the one after which no continuation is valid.
            Err(error) => (
                (error.valid_up_to()..=text.len())
                    .find(|end| is_hopeless(&text[..*end]))
                    .unwrap()
                    - 1,
                false,
            ),
        }
    }

    fn is_hopeless(text: &[u8]) -> bool {
        std::str::from_utf8(text).is_err_and(|error| error.error_len().is_some())
    }

    fn assert_as_std(text: &[u8]) {
        let (good, complete) = by_std(text);
        for cut in 0..=text.len() {
            let mut stream = Utf8Stream::default();
            let (head, tail) = text.split_at(cut);
            let result = stream.push(head).and_then(|()| stream.push(tail));
            assert_eq!(result.is_ok(), good == text.len(), "{text:02x?} cut at {cut}");
            assert!(
                result.is_err() || stream.is_complete() == complete,
                "{text:02x?} cut at {cut}"
            );
        }
        let mut stream = Utf8Stream::default();
        let failed_at = text
            .iter()
            .position(|byte| stream.push(std::slice::from_ref(byte)).is_err());
        assert_eq!(failed_at.unwrap_or(text.len()), good, "{text:02x?} byte by byte");
    }

    #[test]
    fn agrees_with_std_on_every_edge_of_the_encoding() {
        let all = [
            0x00, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xec, 0xed, 0xee, 0xef,
            0xf0, 0xf1, 0xf3, 0xf4, 0xf5, 0xff,
        ];
        // Miri is a thousand times slower.
        let edges = if cfg!(miri) {
            &[0x7f, 0x80, 0xa0, 0xe0, 0xed, 0xf4][..]
        } else {
            &all
        };
        for &first in edges {
            for &second in edges {
                for &third in edges {
                    for last in [0x41, 0x80, 0xbf, 0xe2] {
                        assert_as_std(&[first, second, third, last]);
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_std_for_every_split(text in "\\PC{0,40}", damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>()))) {
            let mut text = text.into_bytes();
            if let (Some((index, byte)), false) = (damage, text.is_empty()) {
                let at = index.index(text.len());
                text[at] = byte;
            }
            assert_as_std(&text);
        }
    }
}
