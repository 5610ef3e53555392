//! What the gateways must not forget, such as revoked tokens: a stream with one message for each fact.
//!
//! Invariant: a gateway has learnt all facts before its link is up. A fact leaves the stream only when a gateway finds that
//! it is needed no longer, or when a newer one takes its place. A full stream refuses further facts.

use std::time::Duration;

use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::{Client, Request};
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::timeout;

use super::attach::Ack;
use super::follow::{Arrived, pull};
use super::streams::lease_subject;
use super::{Nats, Shared};
use crate::broker::link::{ANSWER, End, failed};
use crate::event::Refusal;

/// How long storing a fact may take.
const PATIENCE: Duration = Duration::from_secs(5);

impl Nats {
    /// See [`Peers::remember`](crate::broker::requests::Peers::remember).
    pub(super) async fn store_fact(&self, name: &str, fact: Bytes) -> Result<(), Refusal> {
        let request = self.request(self.subject(&format!("control.{name}")), &[], fact);
        let reply = match timeout(PATIENCE, request).await {
            Ok(reply) => reply?,
            Err(_) => return Err(Refusal::Unknown),
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
    fn classes_subject(&self) -> String {
        format!("{}.control.classes", self.settings.prefix)
    }

    /// What was stored last of the classes of channels.
    pub(super) async fn stored_classes(&self, control: &Stream) -> Result<Option<Bytes>, End> {
        match control.get_last_raw_message_by_subject(&self.classes_subject()).await {
            Ok(message) => Ok(Some(message.payload)),
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(failed("the stored classes of channels cannot be read")(error)),
        }
    }

    /// Stores the classes of channels, so that a gateway with others can say which one differs.
    pub(super) async fn store_classes(&self, client: &Client, control: &Stream) -> Result<(), End> {
        let table = serde_json::to_vec(&self.membership.classes).unwrap_or_default();
        if self
            .stored_classes(control)
            .await?
            .is_none_or(|stored| *stored != *table)
        {
            let request = Request::new().payload(table.into()).timeout(Some(ANSWER));
            // Without it, that gateway only says that one differs.
            if let Err(error) = client.send_request(self.classes_subject(), request).await {
                tracing::debug!(%error, "the classes of channels are not stored");
            }
        }
        Ok(())
    }

    /// Learns all facts, and deletes those that are needed no longer.
    pub(super) async fn learn_all(&self, control: &Stream) -> Result<(), End> {
        let info = control.get_info().await.map_err(failed("the stream cannot be read"))?;
        if info.state.messages == 0 {
            return Ok(());
        }
        let classes = self.classes_subject();
        let mut messages = pull(control, 0).await?;
        let lease = lease_subject(&self.settings.prefix);
        loop {
            let message = timeout(ANSWER, messages.next()).await;
            let message = message.map_err(|_| End::Failed("what must not be forgotten does not come".to_owned()))?;
            let message = message.ok_or_else(|| End::Failed("the broker ended the stream".to_owned()))?;
            let message = message.map_err(failed("the stream cannot be read"))?;
            let arrived = Arrived::of(&message)?;
            let is_fact = *message.subject != *classes && *message.subject != *lease;
            if is_fact && !(self.learn)(&message.payload) {
                // If it fails, another gateway does it, or this one later.
                let _ = control.delete_message(arrived.sequence).await;
            }
            if arrived.behind == 0 {
                return Ok(());
            }
        }
    }
}
