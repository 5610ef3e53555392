//! The room for request bodies of a listener.
//!
//! Invariant: all bodies in memory together hold at most as many bytes as their [`BodyRoom`] has, not counting the first
//! [`BYTES_FREE`] of each. Room is taken for bytes that have arrived, never for an announced length.

use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// The first bytes of each body, which do not count. So short bodies are served while long ones take all room.
pub const BYTES_FREE: usize = 4096;

/// How long a body waits for room that other bodies hold, before it is refused.
const ROOM_TIMEOUT: Duration = Duration::from_secs(5);

/// Less free room than this counts as none: a body may need as much for the bytes of one read.
const ONE_READ: usize = super::HEAD_BYTES_MAX;

/// Other bodies hold the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom;

/// The room for the bodies of one listener: one permit per byte.
#[derive(Debug)]
pub struct BodyRoom {
    bytes_max: usize,
    free: Semaphore,
}

impl BodyRoom {
    /// Room for `bytes_max` bytes.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        let bytes_max = bytes_max.min(Semaphore::MAX_PERMITS);
        Self {
            bytes_max,
            free: Semaphore::new(bytes_max),
        }
    }

    /// The share of a body of which nothing has arrived.
    #[must_use]
    pub const fn share(&self) -> BodyShare<'_> {
        BodyShare {
            room: self,
            permit: None,
        }
    }

    /// The bytes that bodies hold.
    #[must_use]
    pub fn held(&self) -> usize {
        self.bytes_max - self.free.available_permits()
    }

    /// Whether a body that is longer than [`BYTES_FREE`] would have to wait.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.free.available_permits() < ONE_READ.min(self.bytes_max)
    }
}

/// What one body holds. Dropping it gives the room back.
#[derive(Debug)]
pub struct BodyShare<'r> {
    room: &'r BodyRoom,
    permit: Option<SemaphorePermit<'r>>,
}

impl<'r> BodyShare<'r> {
    /// Changes the share to that of a body of which `length` bytes are in memory.
    ///
    /// # Errors
    ///
    /// [`NoRoom`] when the share would have to grow and there is no room now. The share stays as it is.
    pub fn try_resize(&mut self, length: usize) -> Result<(), NoRoom> {
        let more = self.shrink(length);
        if more == 0 {
            return Ok(());
        }
        let permit = self.room.free.try_acquire_many(more).map_err(|_| NoRoom)?;
        self.add(permit);
        Ok(())
    }

    /// As [`try_resize`](Self::try_resize), but waits up to five seconds for room, in order of arrival.
    ///
    /// The wait is short because bodies that are half read hold room while they wait. They must not wait for each other.
    ///
    /// # Errors
    ///
    /// [`NoRoom`] when no room became free in time. The share stays as it is.
    pub async fn resize(&mut self, length: usize) -> Result<(), NoRoom> {
        let more = self.shrink(length);
        if more == 0 {
            return Ok(());
        }
        match timeout(ROOM_TIMEOUT, self.room.free.acquire_many(more)).await {
            Ok(Ok(permit)) => {
                self.add(permit);
                Ok(())
            }
            _ => Err(NoRoom),
        }
    }

    /// Gives back what a body of `length` bytes does not need, and returns how many bytes it lacks.
    fn shrink(&mut self, length: usize) -> u32 {
        let wanted = length.saturating_sub(BYTES_FREE);
        let held = self.permit.as_ref().map_or(0, SemaphorePermit::num_permits);
        if let Some(permit) = &mut self.permit {
            drop(permit.split(held.saturating_sub(wanted)));
        }
        // A body grows by one read at a time, which is far less than 4 GiB.
        u32::try_from(wanted.saturating_sub(held)).unwrap_or(u32::MAX)
    }

    fn add(&mut self, more: SemaphorePermit<'r>) {
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[test]
    fn a_share_grows_and_shrinks_with_its_body() {
        let room = BodyRoom::new(10);
        let mut share = room.share();
        for (length, held) in [(BYTES_FREE, 0), (BYTES_FREE + 7, 7), (BYTES_FREE + 3, 3), (1, 0)] {
            assert_eq!(share.try_resize(length), Ok(()));
            assert_eq!(room.held(), held, "{length}");
        }
        assert_eq!(share.try_resize(BYTES_FREE + 4), Ok(()));
        assert_eq!(room.share().try_resize(BYTES_FREE + 7), Err(NoRoom));
        assert_eq!(room.held(), 4, "a refused share takes nothing");
        drop(share);
        assert_eq!(room.held(), 0);
    }

    #[test]
    fn room_for_less_than_one_read_counts_as_none() {
        let room = BodyRoom::new(2 * ONE_READ);
        let mut share = room.share();
        share.try_resize(BYTES_FREE + ONE_READ).expect("room");
        assert!(!room.is_full());
        share.try_resize(BYTES_FREE + ONE_READ + 1).expect("room");
        assert!(room.is_full());
        assert_eq!(room.share().try_resize(BYTES_FREE), Ok(()), "a short body needs none");
        assert!(!BodyRoom::new(10).is_full());
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_that_wait_for_each_other_are_refused_in_time() {
        let room = BodyRoom::new(10);
        let (mut one, mut other) = (room.share(), room.share());
        one.try_resize(BYTES_FREE + 5).expect("room");
        other.try_resize(BYTES_FREE + 5).expect("room");
        let begin = Instant::now();
        let (refused, granted) = tokio::join!(
            async move {
                let outcome = one.resize(BYTES_FREE + 6).await;
                drop(one);
                outcome
            },
            async {
                tokio::time::sleep(Duration::from_secs(1)).await;
                other.resize(BYTES_FREE + 6).await
            }
        );
        assert_eq!(
            (refused, granted),
            (Err(NoRoom), Ok(())),
            "what the first one held is free"
        );
        assert_eq!(begin.elapsed(), ROOM_TIMEOUT);
    }
}
