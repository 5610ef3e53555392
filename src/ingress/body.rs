//! Reads the bodies of POST requests.
//!
//! Invariant: a body takes room as it arrives, and gives it back when it is dropped ([`BodyRoom`]).

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;

use super::http::{BodyRoom, BodyShare, NoRoom};

/// Most bytes of all bodies in memory: as many as a shard lets incomplete messages have.
pub const BYTES_MAX: usize = 64 * 1024 * 1024;

/// A complete body.
#[derive(Debug)]
pub(super) struct PostBody<'r> {
    pub(super) bytes: Bytes,
    // Its share of the room.
    _share: BodyShare<'r>,
}

/// Why a body was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyError {
    /// The rest of it did not arrive.
    Incomplete,
    /// It is longer than its limit.
    TooLong,
    /// There is no room for it at present.
    NoRoom,
}

impl From<NoRoom> for BodyError {
    fn from(NoRoom: NoRoom) -> Self {
        Self::NoRoom
    }
}

/// Reads a body of at most `limit` bytes.
///
/// The chunks are copied into one buffer as they arrive, so that a body in chunks of one byte takes no more memory than
/// one in a single chunk.
///
/// # Errors
///
/// [`BodyError::TooLong`] as soon as the length is known to exceed the limit: from `Content-Length` before anything is
/// read, else from the chunks. [`BodyError::NoRoom`] when other bodies hold the room, [`BodyError::Incomplete`] when the
/// connection fails.
pub(super) async fn read<B>(mut body: B, limit: usize, room: &BodyRoom) -> Result<PostBody<'_>, BodyError>
where
    B: Body<Data = Bytes> + Unpin,
{
    if body.size_hint().lower() > limit as u64 {
        return Err(BodyError::TooLong);
    }
    let mut bytes = Vec::new();
    let mut share = room.share();
    while let Some(frame) = body.frame().await {
        // Trailers are ignored.
        let Ok(data) = frame.map_err(|_| BodyError::Incomplete)?.into_data() else {
            continue;
        };
        if data.len() > limit - bytes.len() {
            return Err(BodyError::TooLong);
        }
        share.try_resize(bytes.len() + data.len())?;
        bytes.extend_from_slice(&data);
    }
    Ok(PostBody {
        bytes: bytes.into(),
        _share: share,
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll};

    use hyper::body::Frame;

    use super::*;
    use crate::ingress::http::BYTES_FREE;

    /// A body in chunks of one byte. It records how many chunks the reader keeps.
    struct ByteChunks {
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

    impl Body for ByteChunks {
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

    impl ByteChunks {
        fn new(left: usize) -> Self {
            Self {
                left,
                kept: Arc::new(()),
                kept_most: 0,
            }
        }
    }

    #[tokio::test]
    async fn a_body_in_chunks_of_one_byte_is_read_up_to_its_limit() {
        let room = BodyRoom::new(0);
        let mut body = ByteChunks::new(1000);
        let whole = read(&mut body, 1000, &room).await.expect("short");
        assert_eq!(whole.bytes, vec![b'x'; 1000]);
        assert_eq!(body.kept_most, 0, "no chunk is kept when the next one is read");
        let mut body = ByteChunks::new(1000);
        assert_eq!(read(&mut body, 10, &room).await.err(), Some(BodyError::TooLong));
        assert_eq!(body.left, 1000 - 11, "one byte above the limit is enough");
    }

    #[tokio::test]
    async fn a_body_whose_content_length_is_too_long_is_not_read() {
        let room = BodyRoom::new(0);
        let mut body = http_body_util::Full::new(Bytes::from_static(b"four"));
        assert_eq!(read(&mut body, 3, &room).await.err(), Some(BodyError::TooLong));
        assert_eq!(body.size_hint().exact(), Some(4));
        assert_eq!(read(&mut body, 4, &room).await.expect("short").bytes, "four");
    }

    #[tokio::test]
    async fn a_body_takes_room_as_it_arrives_and_gives_it_back() {
        let room = BodyRoom::new(10);
        let whole = read(ByteChunks::new(BYTES_FREE + 7), usize::MAX, &room)
            .await
            .expect("room");
        assert_eq!(room.held(), 7);
        let mut body = ByteChunks::new(BYTES_FREE + 100);
        assert_eq!(read(&mut body, usize::MAX, &room).await.err(), Some(BodyError::NoRoom));
        assert_eq!(body.left, 100 - 4, "no more is read than there is room for");
        assert_eq!(room.held(), 7, "a failed body gives its room back");
        assert!(
            read(ByteChunks::new(BYTES_FREE), usize::MAX, &room).await.is_ok(),
            "a short body takes no room"
        );
        drop(whole);
        assert_eq!(room.held(), 0);
    }
}
