//! What gateways tell and ask each other, as entries of the stream that all follow, and what they must not forget, as fields
//! of a hash.
//!
//! ```text
//! name      gateways.orders   or   reply
//! payload   {"v":1,"from":9,"n":41}
//!           what is told
//! ```
//!
//! Invariants: a gateway has learnt all facts before its link is up. A message that is older than [`OLD_MS`] is dropped:
//! whoever asked has got no answer, and asks again if it matters. Nothing is sent unless the link is up, except what a gateway
//! tells of itself: the others hear also from one whose classes do not fit to theirs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;
use hashbrown::HashMap;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::entry::Kind;
use super::inspect::ask;
use super::scripts::{Scripts, run};
use super::{Draft, Outgoing, Redis, Shared};
use crate::broker::link::End;
use crate::broker::requests::{Doing, NoReply, Peers, Reply, Service, Taken};
use crate::broker::terms::FORMAT;
use crate::event::Refusal;

/// How old a message may be.
const OLD_MS: u64 = 5000;

/// How long storing a fact may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The most facts.
const FACTS_MAX: u32 = 250_000;

/// The name of replies.
const REPLY: &str = "reply";

#[derive(Serialize, Deserialize)]
struct Head {
    v: u8,
    /// The gateway that sends it.
    from: u64,
    /// The number of the request; 0: no reply is wanted.
    n: u64,
    /// The gateway that has asked, in a reply.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    to: Option<u64>,
}

/// See the module's docs.
pub(super) struct Messages {
    services: Mutex<Arc<[Service]>>,
    waiting: Mutex<HashMap<u64, mpsc::UnboundedSender<Reply>, RandomState>>,
    next: AtomicU64,
    // The connection and the scripts, as long as there is a session.
    line: Mutex<Option<(MultiplexedConnection, Scripts)>>,
    // The way of a gateway that does not fit to the others.
    outside: Mutex<Option<Outside>>,
}

/// How a gateway that has no place in the log tells the others of itself.
#[derive(Clone)]
struct Outside {
    connection: MultiplexedConnection,
    scripts: Scripts,
    // The newest term, which the others have opened. Without it the server takes nothing.
    term: u64,
}

impl Default for Messages {
    fn default() -> Self {
        Self {
            services: Mutex::new(Arc::new([])),
            waiting: Mutex::default(),
            next: AtomicU64::new(1),
            line: Mutex::default(),
            outside: Mutex::default(),
        }
    }
}

impl Messages {
    /// A session begins.
    pub(super) fn open(&self, connection: MultiplexedConnection, scripts: Scripts) {
        *self.line.lock() = Some((connection, scripts));
        *self.outside.lock() = None;
    }

    /// The gateway does not fit to the others, which are in this term of the server's log. It can still tell of itself.
    pub(super) fn stay_outside(&self, connection: MultiplexedConnection, scripts: Scripts, term: u64) {
        *self.outside.lock() = Some(Outside {
            connection,
            scripts,
            term,
        });
    }

    /// The session is over: no reply comes any more.
    pub(super) fn close(&self, end: &End) {
        if !matches!(end, End::Unfit(_)) {
            *self.outside.lock() = None;
        }
        *self.line.lock() = None;
        self.waiting.lock().clear();
    }
}

/// Waits for replies, and forgets its request when it is dropped.
struct Waiting<'a> {
    messages: &'a Messages,
    number: u64,
    replies: mpsc::UnboundedReceiver<Reply>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.messages.waiting.lock().remove(&self.number);
    }
}

impl Peers for Redis {
    fn id(&self) -> u64 {
        self.shared.gateway
    }

    fn answer(&self, services: Vec<Service>) {
        *self.shared.messages.services.lock() = services.into();
    }

    fn stop_answering(&self) {
        // Backends do not send requests over Redis.
    }

    fn tell(&self, subject: &'static str, payload: Bytes) -> Doing<'_, ()> {
        Box::pin(async move {
            if !self.shared.send_message(subject, 0, None, &payload) {
                self.shared.tell_from_outside(subject, &payload).await;
            }
        })
    }

    fn flush(&self) -> Doing<'_, ()> {
        let (done, is_done) = oneshot::channel();
        let sent = self.shared.outgoing.send(Outgoing::Flush(done));
        Box::pin(async move {
            if sent.is_ok() {
                // It fails if the session ends.
                let _ = is_done.await;
            }
        })
    }

    fn request_all<'a>(
        &'a self,
        subject: &'static str,
        payload: Bytes,
        mut take: Box<dyn FnMut(Reply) -> bool + Send + 'a>,
    ) -> Doing<'a, Result<(), NoReply>> {
        Box::pin(async move {
            let messages = &self.shared.messages;
            let number = messages.next.fetch_add(1, Relaxed);
            let (sender, replies) = mpsc::unbounded_channel();
            messages.waiting.lock().insert(number, sender);
            let mut waiting = Waiting {
                messages,
                number,
                replies,
            };
            if !self.shared.send_message(subject, number, None, &payload) {
                return Err(NoReply::NotSent("the gateway has no connection to the broker"));
            }
            self.shared.metrics.requests_sent.add(1);
            loop {
                if take(waiting.replies.recv().await.ok_or(NoReply::Lost)?) {
                    return Ok(());
                }
            }
        })
    }

    fn remember<'a>(&'a self, name: &'a str, fact: Bytes) -> Doing<'a, Result<(), Refusal>> {
        Box::pin(async move {
            let stored = timeout(PATIENCE, self.shared.store_fact(name, &fact)).await;
            stored.unwrap_or(Err(Refusal::Unknown))
        })
    }
}

impl Shared {
    /// The connection, while the link is up.
    pub(super) fn line(&self) -> Option<(MultiplexedConnection, Scripts)> {
        let line = self.messages.line.lock().clone();
        line.filter(|_| self.is_up())
    }

    /// A message to all gateways.
    fn message(&self, subject: &str, n: u64, to: Option<u64>, payload: &[u8]) -> Draft {
        let head = Head {
            v: FORMAT,
            from: self.gateway,
            n,
            to,
        };
        let mut text = serde_json::to_vec(&head).unwrap_or_default();
        text.push(b'\n');
        text.extend_from_slice(payload);
        Draft {
            number: 0,
            name: format!("{}{subject}", Kind::Message.letter()),
            payload: text.into(),
            keep: 0,
            id: None,
            value: None,
        }
    }

    /// Sends a message to all gateways. Returns whether it is on its way.
    fn send_message(&self, subject: &str, n: u64, to: Option<u64>, payload: &[u8]) -> bool {
        let draft = self.message(subject, n, to, payload);
        self.is_up() && self.outgoing.send(Outgoing::Draft(draft)).is_ok()
    }

    /// Tells all gateways something, if this one does not fit to them.
    async fn tell_from_outside(&self, subject: &str, payload: &[u8]) {
        let outside = self.messages.outside.lock().clone();
        if let Some(mut outside) = outside {
            let message = self.message(subject, 0, None, payload);
            let command = self.publish(&outside.scripts, outside.term, &[message]);
            if let Err(error) = run::<Vec<i64>>(&mut outside.connection, &command).await {
                tracing::debug!(%error, "the other gateways are not told why this one does not fit to them");
            }
        }
    }

    /// Takes a message from the log.
    pub(super) fn take_message(self: &Arc<Self>, subject: &str, text: &Bytes, age_ms: u64) {
        let end = memchr::memchr(b'\n', text).unwrap_or(text.len());
        let Ok(head) = serde_json::from_slice::<Head>(&text[..end]) else {
            return tracing::debug!("what another gateway tells cannot be read");
        };
        if head.v != FORMAT || age_ms > OLD_MS {
            return;
        }
        let payload = text.slice((end + 1).min(text.len())..);
        if subject == REPLY {
            if head.to == Some(self.gateway)
                && let Some(sender) = self.messages.waiting.lock().get(&head.n)
            {
                let _ = sender.send(Reply { payload, error: None });
            }
            return;
        }
        let services = Arc::clone(&self.messages.services.lock());
        let Some(index) = services.iter().position(|service| service.subject == subject) else {
            return;
        };
        self.metrics.requests_taken.add(1);
        let (shared, subject) = (Arc::clone(self), subject.to_owned());
        tokio::spawn(async move {
            let reply = (services[index].answer)(Taken::new(subject, payload)).await;
            if head.n > 0 {
                shared.send_message(REPLY, head.n, Some(head.from), &reply.payload);
            }
        });
    }

    async fn store_fact(&self, name: &str, fact: &[u8]) -> Result<(), Refusal> {
        let (mut connection, scripts) = self.line().ok_or(Refusal::Unavailable)?;
        for has_room in [true, false] {
            let mut command = self.keys.call(&scripts.remember, &[&self.keys.control]);
            command.arg(FACTS_MAX).arg(name).arg(fact);
            match run::<u8>(&mut connection, &command).await {
                Ok(0) if has_room => {
                    // Some may be needed no longer.
                    self.learn_all(&mut connection)
                        .await
                        .map_err(|_| Refusal::Unavailable)?;
                }
                Ok(0) => {
                    tracing::warn!(
                        facts = FACTS_MAX,
                        "the broker does not store what must not be forgotten: there is too much of it"
                    );
                    return Err(Refusal::Rejected);
                }
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.refusal_of("what must not be forgotten")),
            }
        }
        Err(Refusal::Rejected)
    }

    /// Learns all facts, and deletes those that are needed no longer.
    pub(super) async fn learn_all(&self, connection: &mut MultiplexedConnection) -> Result<(), End> {
        let mut cursor = 0u64;
        loop {
            let mut command = redis::cmd("HSCAN");
            command.arg(&self.keys.control).arg(cursor).arg("COUNT").arg(1000);
            let page: (u64, Vec<(String, Vec<u8>)>) =
                ask(connection, &command, "what must not be forgotten does not come").await?;
            let old: Vec<String> = { page.1.into_iter() }
                .filter(|(_, fact)| !(self.learn)(&Bytes::copy_from_slice(fact)))
                .map(|(name, _)| name)
                .collect();
            if !old.is_empty() {
                let mut command = redis::cmd("HDEL");
                command.arg(&self.keys.control).arg(old);
                // If it fails, another gateway does it, or this one later.
                let _ = ask::<u64>(connection, &command, "an old fact is not deleted").await;
            }
            cursor = page.0;
            if cursor == 0 {
                return Ok(());
            }
        }
    }
}
