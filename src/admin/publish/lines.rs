//! Splits a stream into lines.

use bytes::{Buf, Bytes, BytesMut};

/// Splits a stream into lines. At most one incomplete line of bounded length is kept in memory.
pub(super) struct Lines {
    line_bytes_max: usize,
    buffer: BytesMut,
    // The first bytes of `buffer`, which are known to contain no line end.
    searched: usize,
    // The rest of a line that was reported as too long is skipped.
    skipping: bool,
    ended: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Without its line feed.
    Whole(Bytes),
    TooLong,
}

impl Lines {
    pub(super) fn new(line_bytes_max: usize) -> Self {
        Self {
            line_bytes_max,
            buffer: BytesMut::new(),
            searched: 0,
            skipping: false,
            ended: false,
        }
    }

    pub(super) fn push(&mut self, data: &[u8]) {
        self.buffer.extend_from_slice(data);
    }

    /// The bytes in memory: those of an incomplete line, once [`next`](Self::next) has returned `None`.
    pub(super) fn buffered(&self) -> usize {
        self.buffer.len()
    }

    /// Ends the stream. The rest of the buffer is the last line.
    pub(super) fn end(&mut self) {
        self.ended = true;
    }

    pub(super) fn next(&mut self) -> Option<Line> {
        loop {
            let found = memchr::memchr(b'\n', &self.buffer[self.searched..]);
            let Some(found) = found else { return self.unfinished() };
            let line = self.buffer.split_to(self.searched + found);
            self.buffer.advance(1);
            self.searched = 0;
            if !std::mem::take(&mut self.skipping) {
                let fits = line.len() <= self.line_bytes_max;
                return Some(if fits {
                    Line::Whole(line.freeze())
                } else {
                    Line::TooLong
                });
            }
        }
    }

    fn unfinished(&mut self) -> Option<Line> {
        if self.skipping || self.buffer.len() > self.line_bytes_max {
            self.buffer.clear();
            self.searched = 0;
            return (!std::mem::replace(&mut self.skipping, true)).then_some(Line::TooLong);
        }
        self.searched = self.buffer.len();
        let last = self.ended && !self.buffer.is_empty();
        self.searched = if last { 0 } else { self.searched };
        last.then(|| Line::Whole(self.buffer.split().freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(chunks: &[&[u8]], max: usize) -> Vec<Option<Vec<u8>>> {
        let mut lines = Lines::new(max);
        let mut split = Vec::new();
        for chunk in chunks.iter().map(Some).chain([None]) {
            match chunk {
                Some(chunk) => lines.push(chunk),
                None => lines.end(),
            }
            while let Some(line) = lines.next() {
                split.push(match line {
                    Line::Whole(bytes) => Some(bytes.to_vec()),
                    Line::TooLong => None,
                });
            }
        }
        split
    }

    #[test]
    fn long_lines_are_reported_once() {
        let whole = |text: &str| Some(text.as_bytes().to_vec());
        assert_eq!(split(&[b"a\nb\n"], 9), [whole("a"), whole("b")]);
        assert_eq!(split(&[b"a\n", b"", b"b"], 9), [whole("a"), whole("b")]);
        assert_eq!(split(&[b"", b"\n\n"], 9), [whole(""), whole("")]);
        assert_eq!(
            split(&[b"1234\n123", b"4567", b"89", b"\nx"], 3),
            [None, None, whole("x")]
        );
        assert_eq!(split(&[b"123456"], 3), [None]);
        assert_eq!(split(&[], 3), Vec::<Option<Vec<u8>>>::new());
    }

    proptest! {
        #[test]
        fn lines_do_not_depend_on_the_chunks(text in "[ab\n]{0,60}", cuts in prop::collection::vec(0usize..60, 0..8), max in 1usize..8) {
            let bytes = text.as_bytes();
            let mut cuts: Vec<_> = cuts.into_iter().map(|at| at.min(bytes.len())).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let chunks: Vec<_> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            let mut expected: Vec<_> = text.split('\n').map(|line| (line.len() <= max).then(|| line.as_bytes().to_vec())).collect();
            if text.is_empty() || text.ends_with('\n') {
                expected.pop();
            }
            prop_assert_eq!(split(&chunks, max), expected);
        }
    }
}
