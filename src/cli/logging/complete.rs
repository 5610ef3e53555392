//! The writer of a complete audit trail (`log.audit = "lossless"`).

use std::io::{self, Write};
use std::time::Duration;

use tickgate::backend::commands::audit::AuditRoom;

/// The time between two attempts to write, when the destination refuses a line: a full disk, a reader that has ended.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// Writes each line whole, however often the destination refuses it, and then gives its room back.
///
/// Each call of `write` is one line.
pub(super) struct Complete<W> {
    inner: W,
    room: AuditRoom,
}

impl<W: Write> Complete<W> {
    pub(super) const fn new(inner: W, room: AuditRoom) -> Self {
        Self { inner, room }
    }
}

impl<W: Write> Write for Complete<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut rest = line;
        while !rest.is_empty() {
            match self.inner.write(rest) {
                Ok(written @ 1..) => rest = &rest[written..],
                // Nothing waits for this thread but the commands that need the trail.
                Ok(0) | Err(_) => std::thread::sleep(RETRY_INTERVAL),
            }
        }
        self.room.written();
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes three bytes at a time, and fails every other time.
    #[derive(Default)]
    struct Faulty {
        taken: Vec<u8>,
        calls: usize,
    }

    impl Write for Faulty {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.calls += 1;
            match self.calls % 4 {
                1 => Err(io::ErrorKind::StorageFull.into()),
                3 => Ok(0),
                _ => {
                    let taken = bytes.len().min(3);
                    self.taken.extend_from_slice(&bytes[..taken]);
                    Ok(taken)
                }
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_is_written_whole_and_once_however_often_it_is_refused() {
        let mut writer = Complete::new(Faulty::default(), AuditRoom::new(1));
        writer.write_all(b"a line\n").expect("never refused");
        assert_eq!(writer.inner.taken, b"a line\n");
        assert!(writer.inner.calls > 3);
    }
}
