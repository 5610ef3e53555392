//! The entries of all outboxes of a shard.
//!
//! Invariant: an entry is either in exactly one outbox or free. A chunk whose entries are all free is returned to the
//! allocator, except for one chunk. So the memory of a burst is given back (with a vector for each connection, each
//! kept 4.2 KiB after one burst).

use std::rc::Rc;

use super::frame::Frame;

/// The number of an entry.
pub(super) type EntryId = u32;
/// Stands for "no entry".
pub(super) const NONE: EntryId = u32::MAX;

const CHUNK: u32 = 256;

/// 16 bytes: a frame in an outbox, or a link in its chunk's list of free entries.
#[derive(Debug)]
pub(super) struct Entry {
    frame: Option<Rc<Frame>>,
    /// The next entry of its queue.
    pub(super) next: EntryId,
    /// Its position in the connection's order of frames.
    pub(super) sequence: u32,
}

#[derive(Debug)]
struct Chunk {
    entries: Box<[Entry]>,
    free: EntryId,
    used: u32,
}

/// Entries in chunks of 256.
#[derive(Debug, Default)]
pub(super) struct Pool {
    chunks: Vec<Option<Chunk>>,
    // The numbers of chunks that have a free entry, each once. May also name chunks that were freed.
    open: Vec<u32>,
    // The numbers of freed chunks.
    vacant: Vec<u32>,
    // Chunks without an entry in use.
    idle_chunks: usize,
    /// Entries in use.
    used: usize,
}

impl Pool {
    /// Puts a frame into a new entry.
    #[inline]
    pub(super) fn insert(&mut self, frame: Rc<Frame>, sequence: u32) -> EntryId {
        let number = self.open_chunk();
        let Some(chunk) = self.chunks[number as usize].as_mut() else {
            unreachable!("an open chunk exists")
        };
        let id = chunk.free;
        let entry = &mut chunk.entries[(id % CHUNK) as usize];
        chunk.free = entry.next;
        *entry = Entry {
            frame: Some(frame),
            next: NONE,
            sequence,
        };
        self.idle_chunks -= usize::from(chunk.used == 0);
        chunk.used += 1;
        if chunk.used == CHUNK {
            self.open.pop();
        }
        self.used += 1;
        id
    }

    /// Frees an entry. Returns its frame and the entry that followed it.
    pub(super) fn remove(&mut self, id: EntryId) -> (Rc<Frame>, EntryId) {
        let number = id / CHUNK;
        let Some(chunk) = self.chunks[number as usize].as_mut() else {
            unreachable!("an entry's chunk exists")
        };
        let entry = &mut chunk.entries[(id % CHUNK) as usize];
        let frame = entry.frame.take().expect("an entry in use has a frame");
        let next = std::mem::replace(&mut entry.next, chunk.free);
        chunk.free = id;
        if chunk.used == CHUNK {
            self.open.push(number);
        }
        chunk.used -= 1;
        self.used -= 1;
        if chunk.used == 0 {
            if self.idle_chunks == 0 {
                self.idle_chunks = 1;
            } else {
                self.chunks[number as usize] = None;
                self.vacant.push(number);
            }
        }
        (frame, next)
    }

    pub(super) fn entry(&self, id: EntryId) -> &Entry {
        let chunk = self.chunks[(id / CHUNK) as usize].as_ref();
        &chunk.expect("an entry's chunk exists").entries[(id % CHUNK) as usize]
    }

    pub(super) fn entry_mut(&mut self, id: EntryId) -> &mut Entry {
        let chunk = self.chunks[(id / CHUNK) as usize].as_mut();
        &mut chunk.expect("an entry's chunk exists").entries[(id % CHUNK) as usize]
    }

    /// Replaces the frame of an entry.
    pub(super) fn replace(&mut self, id: EntryId, frame: Rc<Frame>) {
        self.entry_mut(id).frame = Some(frame);
    }

    /// The bytes of the chunks that have an entry in use, and of those kept.
    pub(super) fn bytes(&self) -> usize {
        (self.chunks.len() - self.vacant.len()) * CHUNK as usize * size_of::<Entry>()
    }

    /// Entries in use.
    pub(super) const fn used(&self) -> usize {
        self.used
    }

    /// Entries for which there is memory.
    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.chunks.iter().flatten().count() * CHUNK as usize
    }

    fn open_chunk(&mut self) -> u32 {
        while let Some(&number) = self.open.last() {
            if self.chunks[number as usize].is_some() {
                return number;
            }
            self.open.pop();
        }
        // `open` is empty here, so a number that is used again cannot be in it twice.
        let number = self.vacant.pop().unwrap_or_else(|| {
            self.chunks.push(None);
            u32::try_from(self.chunks.len() - 1).expect("fewer than 2^32 chunks")
        });
        let first = number * CHUNK;
        let free = |index: u32| Entry {
            frame: None,
            next: first + index + 1,
            sequence: 0,
        };
        self.chunks[number as usize] = Some(Chunk {
            entries: (0..CHUNK).map(free).collect(),
            free: first,
            used: 0,
        });
        self.idle_chunks += 1;
        self.open.push(number);
        number
    }
}

impl Entry {
    /// Its frame.
    pub(super) fn frame(&self) -> &Frame {
        self.shared_frame()
    }

    /// Its frame, as a counted reference that can be cloned.
    pub(super) fn shared_frame(&self) -> &Rc<Frame> {
        self.frame.as_ref().expect("an entry in use has a frame")
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn frame() -> Rc<Frame> {
        Frame::reply(Bytes::from_static(b"x"))
    }

    #[test]
    fn an_entry_is_sixteen_bytes() {
        assert_eq!(size_of::<Entry>(), 16);
    }

    #[test]
    fn a_burst_leaves_one_chunk_behind_whatever_the_order_of_draining() {
        let mut pool = Pool::default();
        let frame = frame();
        for round in 0..5u32 {
            let mut ids: Vec<_> = (0..10_000).map(|n| pool.insert(frame.clone(), n)).collect();
            assert_eq!(pool.used(), 10_000);
            // A fixed permutation per round: 7919 is prime.
            ids.sort_by_key(|id| id.wrapping_mul(7919).wrapping_add(round * 31) % 10_007);
            for id in ids {
                pool.remove(id);
            }
            assert_eq!(pool.used(), 0);
            assert_eq!(pool.capacity(), CHUNK as usize);
        }
        assert_eq!(Rc::strong_count(&frame), 1);
    }
}
