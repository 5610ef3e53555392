//! What the gateways must not forget, such as revoked tokens: a stream with one message for each fact.
//!
//! Invariant: a gateway has learnt all facts before its link is up. A fact leaves the stream only when a gateway finds that
//! it is needed no longer, or when a newer one takes its place. A full stream refuses further facts.

use std::time::Duration;

use async_nats::jetstream::stream::Stream;
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::timeout;

use super::attach::{ANSWER, Ack, failed};
use super::follow::{Arrived, pull};
use super::requests::NoReply;
use super::{End, Nats, Shared};
use crate::event::Refusal;

/// How long storing a fact may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Is told a fact. Returns whether it is still needed.
pub type Learn = Box<dyn Fn(&Bytes) -> bool + Send + Sync>;

impl Nats {
    /// Stores a fact, in the place of an earlier one with the same name: a token of a subject, with dots between several.
    /// Other gateways learn it when they connect again; those that are connected have to be told.
    ///
    /// # Errors
    ///
    /// When it is not stored, or maybe not.
    pub async fn remember(&self, name: &str, fact: Bytes) -> Result<(), Refusal> {
        let request = self.request(self.subject(&format!("control.{name}")), &[], fact);
        let reply = match timeout(PATIENCE, request).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(NoReply::NotSent(_) | NoReply::NoResponders)) => return Err(Refusal::Unavailable),
            Ok(Err(NoReply::Lost)) | Err(_) => return Err(Refusal::Unknown),
        };
        match serde_json::from_slice::<Ack>(&reply.payload) {
            Ok(Ack { error: None, .. }) => Ok(()),
            Ok(Ack { error: Some(error), .. }) => {
                tracing::warn!(
                    reason = error.description,
                    "the broker does not store what must not be forgotten"
                );
                Err(Refusal::Rejected)
            }
            Err(_) => Err(Refusal::Unknown),
        }
    }
}

impl Shared {
    /// Learns all facts, and deletes those that are needed no longer.
    pub(super) async fn learn_all(&self, control: &Stream) -> Result<(), End> {
        let info = control.get_info().await.map_err(failed("the stream cannot be read"))?;
        if info.state.messages == 0 {
            return Ok(());
        }
        let mut messages = pull(control, 0).await?;
        loop {
            let message = timeout(ANSWER, messages.next()).await;
            let message = message.map_err(|_| End::Failed("what must not be forgotten does not come".to_owned()))?;
            let message = message.ok_or_else(|| End::Failed("the broker ended the stream".to_owned()))?;
            let message = message.map_err(failed("the stream cannot be read"))?;
            let arrived = Arrived::of(&message)?;
            if !(self.learn)(&message.payload) {
                // If it fails, another gateway does it, or this one later.
                let _ = control.delete_message(arrived.sequence).await;
            }
            if arrived.behind == 0 {
                return Ok(());
            }
        }
    }
}
