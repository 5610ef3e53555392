//! What gateways that share a broker ask each other, and what the broker remembers for them.

use std::pin::Pin;

use bytes::Bytes;

use super::lease::Register;
use crate::event::Refusal;
use tickgate_protocol::trace_context::TraceParent;

/// Something that is being done.
pub type Doing<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Requests of one kind that the gateway answers.
pub struct Service {
    /// The subjects, behind the prefix and its dot. It may have wildcards if backends send the requests.
    pub subject: &'static str,
    /// Whether one gateway answers each request, which backends send. Otherwise all do, and gateways send them.
    pub is_shared: bool,
    /// Answers a request.
    pub answer: Answer,
}

/// Answers a request.
pub type Answer = Box<dyn Fn(Taken) -> Doing<'static, Reply> + Send + Sync>;

/// A request that this gateway answers.
#[derive(Clone, Debug)]
pub struct Taken {
    /// The subject, without the prefix.
    pub subject: String,
    /// The trace that the request continues.
    pub trace: Option<TraceParent>,
    /// The body.
    pub payload: Bytes,
}

impl Taken {
    /// A request that brings no trace.
    #[must_use]
    pub const fn new(subject: String, payload: Bytes) -> Self {
        Self {
            subject,
            trace: None,
            payload,
        }
    }
}

/// The reply to a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// The body. An error has one as well.
    pub payload: Bytes,
    /// The code of an error as a number, such as an HTTP status, and as a word.
    pub error: Option<(u16, Box<str>)>,
}

/// Why a request has no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoReply {
    /// The link is down or the request is too long, so nothing was sent.
    #[error("{0}")]
    NotSent(&'static str),
    /// Nobody subscribes to the subject, so nobody has seen the request.
    #[error("nobody subscribes to the subject")]
    NoResponders,
    /// The link went down before the reply came.
    #[error("the link to the broker went down")]
    Lost,
}

impl From<NoReply> for Refusal {
    fn from(reason: NoReply) -> Self {
        match reason {
            NoReply::NotSent(_) | NoReply::NoResponders => Self::Unavailable,
            NoReply::Lost => Self::Unknown,
        }
    }
}

/// Is told a fact that the broker remembers. Returns whether it is still needed.
pub type Learn = Box<dyn Fn(&Bytes) -> bool + Send + Sync>;

/// The gateways that share a broker, as one of them sees the others.
pub trait Peers: Register {
    /// A number that no other gateway has.
    fn id(&self) -> u64;

    /// Begins to answer requests. What was answered before is replaced.
    fn answer(&self, services: Vec<Service>);

    /// Takes no further requests that another gateway can answer. Those that were taken are answered.
    fn stop_answering(&self);

    /// Sends a message that has no reply to all gateways, if there is a connection to the broker. It may be lost.
    fn tell(&self, subject: &'static str, payload: Bytes) -> Doing<'_, ()>;

    /// Waits until what was told is handed to the network.
    fn flush(&self) -> Doing<'_, ()>;

    /// Sends a request to all gateways, and gives each reply to `take` until it returns true or the future is dropped.
    fn request_all<'a>(
        &'a self,
        subject: &'static str,
        payload: Bytes,
        take: Box<dyn FnMut(Reply) -> bool + Send + 'a>,
    ) -> Doing<'a, Result<(), NoReply>>;

    /// Stores a fact, in the place of an earlier one with the same name: a token of a subject, with dots between several.
    /// Other gateways learn it when they connect again; those that are connected have to be told.
    fn remember<'a>(&'a self, name: &'a str, fact: Bytes) -> Doing<'a, Result<(), Refusal>>;
}
