//! Messages that nobody keeps: those of a subject of NATS, or of a channel of Redis.
//!
//! Invariant: the messages that wait hold at most [`ROOM_BYTES`]. One more is lost, and counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use futures_util::{Stream, StreamExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::run::BATCH;
use super::{Batch, End, Message};

/// The bytes of all messages of one source that wait. A message counts [`MESSAGE_BYTES`] more than its text.
const ROOM_BYTES: usize = 16 << 20;

/// See [`ROOM_BYTES`].
const MESSAGE_BYTES: usize = 512;

/// What arrived, with the room that it takes.
type Arrived = (Result<Message, End>, Option<OwnedSemaphorePermit>);

/// Takes messages as they come.
pub(super) struct Live {
    arrived: mpsc::UnboundedReceiver<Arrived>,
    lost: Arc<AtomicU64>,
    // Aborted when the reader is dropped.
    _task: JoinSet<()>,
}

impl Live {
    /// Takes the messages of this stream, which ends with an error.
    pub(super) fn start(messages: impl Stream<Item = Result<Message, End>> + Send + 'static) -> Self {
        let (sender, arrived) = mpsc::unbounded_channel();
        let lost = Arc::<AtomicU64>::default();
        let mut task = JoinSet::new();
        task.spawn(take(messages, sender, Arc::clone(&lost)));
        Self {
            arrived,
            lost,
            _task: task,
        }
    }

    /// The messages that wait; if there are none, the next one.
    pub(super) async fn next(&mut self) -> Result<Batch, End> {
        let closed = || End("the source ended".to_owned());
        let (first, _) = self.arrived.recv().await.ok_or_else(closed)?;
        let mut messages = vec![first?];
        while messages.len() < BATCH
            && let Ok((Ok(message), _)) = self.arrived.try_recv()
        {
            messages.push(message);
        }
        Ok(Batch {
            messages,
            behind: None,
            lost: self.lost.swap(0, Relaxed),
        })
    }
}

async fn take(
    messages: impl Stream<Item = Result<Message, End>>,
    sender: mpsc::UnboundedSender<Arrived>,
    lost: Arc<AtomicU64>,
) {
    let room = Arc::new(Semaphore::new(ROOM_BYTES));
    let mut messages = std::pin::pin!(messages);
    while let Some(message) = messages.next().await {
        let room = match &message {
            Err(_) => None,
            Ok(message) => {
                let bytes = MESSAGE_BYTES + message.text.as_ref().map_or(0, |text| text.len());
                match Arc::clone(&room).try_acquire_many_owned(u32::try_from(bytes).unwrap_or(u32::MAX)) {
                    Ok(room) => Some(room),
                    Err(_) => {
                        lost.fetch_add(1, Relaxed);
                        continue;
                    }
                }
            }
        };
        if sender.send((message, room)).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    fn message(number: usize, bytes: usize) -> Message {
        Message {
            subject: number.to_string().into(),
            text: Ok("x".repeat(bytes).into()),
            timestamp_ms: 0,
            id: None,
        }
    }

    #[tokio::test]
    async fn what_has_no_room_is_counted_and_the_rest_keeps_its_order() {
        const BYTES: usize = 1 << 20;
        let all = ROOM_BYTES / BYTES + 5;
        let messages = (0..all).map(|number| Ok(message(number, BYTES)));
        let end = Err(End("over".to_owned()));
        let mut live = Live::start(stream::iter(messages.chain([end])));
        // The task ends when it has taken everything.
        live._task.join_next().await.expect("one").expect("no panic");
        let batch = live.next().await.expect("messages");
        let numbers: Vec<_> = batch.messages.iter().map(|message| &*message.subject).collect();
        let expected: Vec<_> = (0..numbers.len()).map(|number| number.to_string()).collect();
        assert_eq!(numbers, expected);
        assert!(numbers.len() < all - 4 && batch.lost == (all - numbers.len()) as u64);
    }
}
