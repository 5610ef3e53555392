//! Requests over the broker: those that this gateway answers, and those that it sends.
//!
//! A request is a message with a subject for the reply. Backends publish by requests to the gateways, the gateways send
//! commands to backends, and ask each other.
//!
//! Invariants: a gateway takes requests only while its link is up, so that a queue group gives them to gateways that can
//! work. Nothing is sent unless the link is up, except what a gateway tells of itself: the others hear also from one that is
//! connected to the broker and does not fit to them. A reply that nobody waits for any more is dropped. The requests that are
//! being answered hold at most [`ROOM_BYTES`]; one more is refused at once, since what waits in the client may be dropped
//! without a word.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_nats::header::HeaderMap;
use async_nats::{Client, Message, StatusCode, Subscriber};
use bytes::Bytes;
use foldhash::fast::RandomState;
use futures_util::StreamExt as _;
use futures_util::stream::{SelectAll, select_all};
use hashbrown::HashMap;
use parking_lot::Mutex;
use tickgate_protocol::trace_context::TRACE_HEADER;
use tokio::sync::{Semaphore, mpsc, watch};

use super::{Nats, Shared};
use crate::broker::link::{End, failed};
use crate::broker::requests::{Doing, NoReply, Peers, Reply, Service, Taken};
use crate::event::Refusal;

/// The bytes of all requests that are being answered. A request counts [`REQUEST_BYTES`] more than its payload.
const ROOM_BYTES: usize = 64 << 20;

/// See [`ROOM_BYTES`].
const REQUEST_BYTES: usize = 1024;

/// The headers of a reply that is an error, as NATS services have them: the code as a number, and as a word.
const ERROR_CODE: &str = "Nats-Service-Error-Code";
const ERROR: &str = "Nats-Service-Error";

/// A request with its subject behind the prefix, and the trace of its headers.
fn taken(message: &Message, prefix: &str) -> Taken {
    let subject = message.subject.get(prefix.len() + 1..).unwrap_or_default();
    // NATS tells headers apart by their case, but the libraries that set this one do not agree on it.
    let is_trace = |name: &dyn AsRef<str>| name.as_ref().eq_ignore_ascii_case(TRACE_HEADER);
    let headers = message.headers.iter().flat_map(HeaderMap::iter);
    let mut traces = headers.filter_map(|(name, values)| is_trace(name).then(|| values.first()).flatten());
    Taken {
        trace: traces.next().and_then(|trace| trace.as_str().parse().ok()),
        ..Taken::new(subject.to_owned(), message.payload.clone())
    }
}

/// The requests that a gateway answers and sends.
pub(super) struct Requests {
    // What the gateway answers, and whether that includes what another gateway can answer.
    services: watch::Sender<(Arc<[Service]>, bool)>,
    // The connection, also while the link is not up.
    client: Mutex<Option<Client>>,
    // The same, while the link is up.
    line: Mutex<Option<Line>>,
    waiting: Mutex<HashMap<u64, mpsc::UnboundedSender<Message>, RandomState>>,
    next: AtomicU64,
}

impl Default for Requests {
    fn default() -> Self {
        let none: Arc<[Service]> = Arc::new([]);
        Self {
            services: watch::Sender::new((none, true)),
            client: Mutex::default(),
            line: Mutex::default(),
            waiting: Mutex::default(),
            next: AtomicU64::default(),
        }
    }
}

#[derive(Clone)]
struct Line {
    client: Client,
    inbox: Arc<str>,
}

/// Waits for replies, and forgets its request when it is dropped.
pub(super) struct Waiting<'a> {
    requests: &'a Requests,
    number: u64,
    pub(super) replies: mpsc::UnboundedReceiver<Message>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.requests.waiting.lock().remove(&self.number);
    }
}

impl Nats {
    /// The subject of something in this broker's prefix.
    #[must_use]
    pub fn subject(&self, rest: &str) -> String {
        format!("{}.{rest}", self.shared.settings.prefix)
    }

    /// Sends a request with these headers, and waits for its reply as long as the future is polled.
    ///
    /// # Errors
    ///
    /// See [`NoReply`].
    pub async fn request(&self, subject: String, headers: &[(&str, &str)], payload: Bytes) -> Result<Reply, NoReply> {
        let mut waiting = self.shared.send_request(subject, headers, payload).await?;
        let message = waiting.replies.recv().await.ok_or(NoReply::Lost)?;
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(NoReply::NoResponders);
        }
        Ok(reply_of(message))
    }
}

impl Peers for Nats {
    fn id(&self) -> u64 {
        self.shared.gateway
    }

    fn answer(&self, services: Vec<Service>) {
        self.shared.requests.services.send_replace((services.into(), true));
    }

    fn stop_answering(&self) {
        self.shared.requests.services.send_modify(|(_, all)| *all = false);
    }

    fn tell(&self, subject: &'static str, payload: Bytes) -> Doing<'_, ()> {
        Box::pin(async move {
            let client = self.shared.requests.client.lock().clone();
            if let Some(client) = client.filter(|_| self.shared.fits(payload.len())) {
                let _ = client.publish(self.subject(subject), payload).await;
            }
        })
    }

    fn flush(&self) -> Doing<'_, ()> {
        Box::pin(async move {
            let client = self.shared.requests.client.lock().clone();
            if let Some(client) = client {
                let _ = client.flush().await;
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
            let mut waiting = self.shared.send_request(self.subject(subject), &[], payload).await?;
            loop {
                let message = waiting.replies.recv().await.ok_or(NoReply::Lost)?;
                if message.status == Some(StatusCode::NO_RESPONDERS) {
                    return Err(NoReply::NoResponders);
                }
                if take(reply_of(message)) {
                    return Ok(());
                }
            }
        })
    }

    fn remember<'a>(&'a self, name: &'a str, fact: Bytes) -> Doing<'a, Result<(), Refusal>> {
        Box::pin(self.store_fact(name, fact))
    }
}

fn reply_of(message: Message) -> Reply {
    let header = |name| {
        message
            .headers
            .as_ref()?
            .get(name)
            .map(|value| value.as_str().to_owned())
    };
    let error =
        header(ERROR_CODE).and_then(|code| Some((code.trim().parse().ok()?, header(ERROR).unwrap_or_default().into())));
    Reply {
        error,
        payload: message.payload,
    }
}

impl Shared {
    fn fits(&self, bytes: usize) -> bool {
        bytes + REQUEST_BYTES <= self.payload_max.load(Relaxed)
    }

    pub(super) async fn send_request(
        &self,
        subject: String,
        headers: &[(&str, &str)],
        payload: Bytes,
    ) -> Result<Waiting<'_>, NoReply> {
        let requests = &self.requests;
        let line = requests.line.lock().clone();
        let line = line.ok_or(NoReply::NotSent("the gateway has no connection to the broker"))?;
        if !self.fits(payload.len()) {
            return Err(NoReply::NotSent("the request is longer than the broker's max_payload"));
        }
        let number = requests.next.fetch_add(1, Relaxed);
        let (sender, replies) = mpsc::unbounded_channel();
        requests.waiting.lock().insert(number, sender);
        let waiting = Waiting {
            requests,
            number,
            replies,
        };
        let reply = format!("{}.{number}", line.inbox);
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        let sent = if map.is_empty() {
            line.client.publish_with_reply(subject, reply, payload).await
        } else {
            line.client
                .publish_with_reply_and_headers(subject, reply, map, payload)
                .await
        };
        sent.map_err(|_| NoReply::NotSent("the broker's client does not take the request"))?;
        self.metrics.requests_sent.add(1);
        Ok(waiting)
    }

    /// Takes requests and replies as long as the session lives, from when the link is up.
    pub(super) async fn exchange(self: Arc<Self>, client: Client, mut up: watch::Receiver<bool>) -> End {
        // The sender lives as long as the session.
        let _ = up.wait_for(|up| *up).await;
        match self.try_exchange(client).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn try_exchange(self: &Arc<Self>, client: Client) -> Result<std::convert::Infallible, End> {
        let inbox: Arc<str> = client.new_inbox().into();
        let mut replies = client
            .subscribe(format!("{inbox}.*"))
            .await
            .map_err(failed("no replies can be had"))?;
        let room = Arc::new(Semaphore::new(ROOM_BYTES));
        let mut changes = self.requests.services.subscribe();
        let (number_at, line) = (
            inbox.len() + 1,
            Line {
                client: client.clone(),
                inbox,
            },
        );
        *self.requests.line.lock() = Some(line);
        loop {
            let (services, all) = changes.borrow_and_update().clone();
            let mut taken = self.subscribe(&client, &services, all).await?;
            let mut is_open = true;
            // After a change, what the old subscriptions have received is still taken.
            while is_open || !taken.is_empty() {
                tokio::select! {
                    Some((service, message)) = taken.next() => self.take_request(&client, &services, service, message, &room),
                    reply = replies.next() => match reply {
                        Some(reply) => self.requests.take_reply(reply, number_at),
                        None => return Err(End::Failed("the broker's replies ended".to_owned())),
                    },
                    changed = changes.changed(), if is_open => {
                        is_open = false;
                        if changed.is_err() {
                            return Err(End::Failed("the gateway ends".to_owned()));
                        }
                        for subscriber in taken.iter_mut() {
                            let _ = subscriber.subscriber.drain().await;
                        }
                    }
                }
            }
        }
    }

    async fn subscribe(&self, client: &Client, services: &[Service], all: bool) -> Result<SelectAll<Numbered>, End> {
        let mut subscribers = Vec::with_capacity(services.len());
        let wanted = services.iter().enumerate();
        for (number, service) in wanted.filter(|(_, service)| all || !service.is_shared) {
            let subject = format!("{}.{}", self.settings.prefix, service.subject);
            let subscribed = if service.is_shared {
                client.queue_subscribe(subject, "gateways".to_owned()).await
            } else {
                client.subscribe(subject).await
            };
            let subscriber = subscribed.map_err(failed("requests cannot be had"))?;
            subscribers.push(Numbered { number, subscriber });
        }
        Ok(select_all(subscribers))
    }

    fn take_request(
        self: &Arc<Self>,
        client: &Client,
        services: &Arc<[Service]>,
        service: usize,
        message: Message,
        room: &Arc<Semaphore>,
    ) {
        let bytes = u32::try_from(REQUEST_BYTES + message.payload.len()).unwrap_or(u32::MAX);
        let permit = Arc::clone(room).try_acquire_many_owned(bytes);
        let (shared, client, services) = (Arc::clone(self), client.clone(), Arc::clone(services));
        self.metrics.requests_taken.add(1);
        tokio::spawn(async move {
            let reply = match &permit {
                Ok(_) => {
                    let taken = taken(&message, &shared.settings.prefix);
                    (services[service].answer)(taken).await
                }
                Err(_) => {
                    shared.metrics.requests_refused.add(1);
                    Reply {
                        payload: Bytes::from_static(
                            br#"{"error":{"code":"OVERLOADED","message":"too many requests wait in this gateway; try again"}}"#,
                        ),
                        error: Some((503, "OVERLOADED".into())),
                    }
                }
            };
            if let Some(to) = message.reply {
                shared.send_reply(&client, to, reply).await;
            }
        });
    }

    async fn send_reply(&self, client: &Client, to: async_nats::Subject, reply: Reply) {
        if !self.fits(reply.payload.len()) {
            tracing::warn!(
                bytes = reply.payload.len(),
                "a reply is longer than the broker's max_payload, and is not sent"
            );
            return;
        }
        // If the link is down meanwhile, the sender of the request hears nothing, as after every lost reply.
        let _ = match reply.error {
            None => client.publish(to, reply.payload).await,
            Some((code, word)) => {
                let mut headers = HeaderMap::new();
                headers.insert(ERROR_CODE, code.to_string());
                headers.insert(ERROR, &*word);
                client.publish_with_headers(to, headers, reply.payload).await
            }
        };
    }
}

impl Requests {
    /// The gateway is connected.
    pub(super) fn open(&self, client: Client) {
        *self.client.lock() = Some(client);
    }

    /// The session is over: no request is sent any more, and no reply comes. If the broker is there, the gateway can still
    /// tell of itself.
    pub(super) fn close(&self, end: &End) {
        if !matches!(end, End::Unfit(_)) {
            *self.client.lock() = None;
        }
        *self.line.lock() = None;
        self.waiting.lock().clear();
    }

    fn take_reply(&self, reply: Message, number_at: usize) {
        let number = reply.subject.get(number_at..).and_then(|number| number.parse().ok());
        let waiting = self.waiting.lock();
        if let Some(sender) = number.and_then(|number: u64| waiting.get(&number)) {
            let _ = sender.send(reply);
        }
    }
}

/// A subscription, with the number of its service.
struct Numbered {
    number: usize,
    subscriber: Subscriber,
}

impl futures_util::Stream for Numbered {
    type Item = (usize, Message);

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        let number = self.number;
        let polled = Pin::new(&mut self.subscriber).poll_next(context);
        polled.map(|message| Some((number, message?)))
    }
}
