//! The NATS backend: one request per attempt to `<prefix>.cmd.<tenant>.<action>`, signed when a secret is configured.
//!
//! Invariant: a request is repeated here only if nobody subscribed to its subject, so nobody has seen it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use bytes::Bytes;

use super::http::{SIGNATURE_HEADER, sign};
use super::{Failure, Handler, HandlerResult, Request, reply};
use crate::auth::Secret;
use crate::broker::nats::Nats;
use crate::broker::{NAME_OF_DEFAULT_TENANT, NoReply, Reply};
use crate::time::unix_ms;
use tickgate_protocol::trace_context::TRACE_HEADER;

/// How often a request is sent if nobody subscribes to its subject, and the wait before the second time, which doubles. A
/// backend that is restarted is away for such a time.
const ATTEMPTS_MAX: u32 = 3;
const BACK_OFF: Duration = Duration::from_millis(100);

/// A [`Handler`] that sends commands to whoever subscribes to their subjects.
pub struct NatsBackend {
    // `None`: the gateway has no such broker. The configuration refuses that.
    nats: Option<Arc<Nats>>,
    key: Option<hmac::Key>,
    // How long one attempt may take, if several may be made.
    patience: Option<Duration>,
    reply_bytes_max: usize,
}

impl NatsBackend {
    /// Creates a backend that accepts replies of up to `reply_bytes_max` bytes.
    #[must_use]
    pub fn new(
        nats: Option<Arc<Nats>>,
        hmac_secret: Option<&Secret>,
        patience: Option<Duration>,
        reply_bytes_max: usize,
    ) -> Self {
        Self {
            nats,
            key: hmac_secret.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.expose())),
            patience,
            reply_bytes_max,
        }
    }

    async fn send(&self, request: &Request) -> HandlerResult {
        let unreachable = |reason: String| Err(Failure::Unreachable(reason));
        let Some(nats) = &self.nats else {
            return unreachable("the gateway has no broker".to_owned());
        };
        let tenant = request.tenant.as_deref().unwrap_or(NAME_OF_DEFAULT_TENANT);
        let subject = nats.subject(&format!("cmd.{tenant}.{}", request.action.as_str()));
        let body = reply::request_body(request);
        let mut back_off = BACK_OFF;
        for attempt in 1.. {
            match self.attempt(nats, &subject, request, &body).await {
                Err(NoReply::NoResponders) if attempt < ATTEMPTS_MAX => {
                    tokio::time::sleep(back_off).await;
                    back_off *= 2;
                }
                Err(NoReply::NoResponders) => return unreachable(format!("nobody subscribes to {subject}")),
                Err(NoReply::NotSent(reason)) => return unreachable(reason.to_owned()),
                Err(lost @ NoReply::Lost) => return Err(Failure::Lost(lost.to_string())),
                Ok(None) => return Err(Failure::Lost(format!("no reply to {subject} in time"))),
                Ok(Some(reply)) => return self.read(reply),
            }
        }
        unreachable!("the loop ends by returning")
    }

    /// `None`: no reply came in time.
    async fn attempt(
        &self,
        nats: &Nats,
        subject: &str,
        request: &Request,
        body: &Bytes,
    ) -> Result<Option<Reply>, NoReply> {
        let signature = self.key.as_ref().map(|key| sign(key, unix_ms(), body));
        let signature = signature.as_ref().and_then(|signature| signature.to_str().ok());
        let trace = request.trace.map(|trace| trace.to_string());
        let signature = signature.map(|signature| (SIGNATURE_HEADER, signature));
        let trace = trace.as_deref().map(|trace| (TRACE_HEADER, trace));
        let headers: Vec<_> = signature.into_iter().chain(trace).collect();
        let sent = nats.request(subject.to_owned(), &headers, body.clone());
        match self.patience {
            // The router ends the wait.
            None => sent.await.map(Some),
            Some(patience) => tokio::time::timeout(patience, sent).await.ok().transpose(),
        }
    }

    fn read(&self, reply: Reply) -> HandlerResult {
        match reply.error {
            Some((status, word)) => Err(Failure::StatusWithHint {
                status,
                hint: format!("the backend's service replied with the error {word:?}"),
            }),
            None if reply.payload.len() > self.reply_bytes_max => Err(Failure::BadReply("it is too long".into())),
            None => reply::parse(&reply.payload),
        }
    }
}

impl Handler for NatsBackend {
    fn call<'a>(&'a self, request: &'a Request) -> Pin<Box<dyn Future<Output = HandlerResult> + Send + 'a>> {
        Box::pin(self.send(request))
    }
}
