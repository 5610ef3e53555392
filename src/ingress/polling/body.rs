//! The bodies of POSTs, read whole.
//!
//! Invariant: all bodies under way together hold no more than [`BYTES_MAX`], beside the little that each of them may hold
//! in any case.

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::sync::{Semaphore, SemaphorePermit};

/// What all bodies under way may hold, as much as a shard lets half-received messages have.
pub(in crate::ingress) const BYTES_MAX: usize = 64 * 1024 * 1024;

/// Of each body, uncounted: who posts little is served while others fill the rest.
const BYTES_FREE: usize = 4096;

/// A body.
#[derive(Debug)]
pub(super) struct Whole<'r> {
    pub(super) bytes: Bytes,
    /// Its share of the room, until it is taken.
    _held: Option<SemaphorePermit<'r>>,
}

/// Why a body is not read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// It did not come.
    Lost,
    /// It is longer than its limit.
    TooLong,
    /// There is no room for it now.
    NoRoom,
}

/// Reads a body of at most `limit` bytes; of a longer one as much as says so, or nothing when its head says so. It is
/// copied together as it comes: a body in chunks of one byte costs no more than one in a single piece. `room` has a
/// permit for each byte that may still be held.
///
/// # Errors
/// Why it is not whole.
pub(super) async fn read<B>(mut body: B, limit: usize, room: &Semaphore) -> Result<Whole<'_>, Unread>
where
    B: Body<Data = Bytes> + Unpin,
{
    if body.size_hint().lower() > limit as u64 {
        return Err(Unread::TooLong);
    }
    let mut whole = Vec::new();
    let mut held = None;
    while let Some(frame) = body.frame().await {
        // Trailers say nothing.
        let Ok(data) = frame.map_err(|_| Unread::Lost)?.into_data() else {
            continue;
        };
        if data.len() > limit - whole.len() {
            return Err(Unread::TooLong);
        }
        hold(&mut held, whole.len() + data.len(), room)?;
        whole.extend_from_slice(&data);
    }
    Ok(Whole {
        bytes: whole.into(),
        _held: held,
    })
}

// Takes the room for a body that has become so long.
fn hold<'r>(held: &mut Option<SemaphorePermit<'r>>, bytes: usize, room: &'r Semaphore) -> Result<(), Unread> {
    let wanted = bytes.saturating_sub(BYTES_FREE);
    let more = wanted - held.as_ref().map_or(0, SemaphorePermit::num_permits);
    if more == 0 {
        return Ok(());
    }
    let more = u32::try_from(more)
        .ok()
        .and_then(|more| room.try_acquire_many(more).ok());
    match (held.as_mut(), more.ok_or(Unread::NoRoom)?) {
        (Some(held), more) => held.merge(more),
        (None, more) => *held = Some(more),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll};

    use hyper::body::Frame;

    use super::*;

    /// A body in chunks of one byte, each of which knows how many others are kept.
    struct Drops {
        left: usize,
        kept: Arc<()>,
        kept_most: usize,
    }

    struct Chunk(Arc<()>);

    impl AsRef<[u8]> for Chunk {
        fn as_ref(&self) -> &[u8] {
            let _ = &self.0;
            b"x"
        }
    }

    impl Body for Drops {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.kept_most = self.kept_most.max(Arc::strong_count(&self.kept) - 1);
            if self.left == 0 {
                return Poll::Ready(None);
            }
            self.left -= 1;
            let chunk = Bytes::from_owner(Chunk(Arc::clone(&self.kept)));
            Poll::Ready(Some(Ok(Frame::data(chunk))))
        }
    }

    impl Drops {
        fn new(left: usize) -> Self {
            Self {
                left,
                kept: Arc::new(()),
                kept_most: 0,
            }
        }
    }

    #[tokio::test]
    async fn a_body_of_crumbs_is_copied_together_up_to_its_limit() {
        let room = Semaphore::new(0);
        let mut body = Drops::new(1000);
        let whole = read(&mut body, 1000, &room).await.expect("short");
        assert_eq!(whole.bytes, vec![b'x'; 1000]);
        assert_eq!(body.kept_most, 0, "no chunk is kept when the next one is asked for");
        let mut body = Drops::new(1000);
        assert_eq!(read(&mut body, 10, &room).await.err(), Some(Unread::TooLong));
        assert_eq!(body.left, 1000 - 11, "no more is read than says so");
    }

    #[tokio::test]
    async fn a_body_that_is_too_long_by_its_head_is_not_read() {
        let room = Semaphore::new(0);
        let mut body = http_body_util::Full::new(Bytes::from_static(b"four"));
        assert_eq!(read(&mut body, 3, &room).await.err(), Some(Unread::TooLong));
        assert_eq!(body.size_hint().exact(), Some(4));
        assert_eq!(read(&mut body, 4, &room).await.expect("short").bytes, "four");
    }

    #[tokio::test]
    async fn a_body_takes_room_as_it_comes_and_gives_it_back() {
        let room = Semaphore::new(10);
        let whole = read(Drops::new(BYTES_FREE + 7), usize::MAX, &room).await.expect("room");
        assert_eq!(room.available_permits(), 3);
        let mut body = Drops::new(BYTES_FREE + 100);
        assert_eq!(read(&mut body, usize::MAX, &room).await.err(), Some(Unread::NoRoom));
        assert_eq!(body.left, 100 - 4, "no more is read than there is room for");
        assert_eq!(room.available_permits(), 3, "what it held is free again");
        assert!(
            read(Drops::new(BYTES_FREE), usize::MAX, &room).await.is_ok(),
            "needs none"
        );
        drop(whole);
        assert_eq!(room.available_permits(), 10);
    }
}
