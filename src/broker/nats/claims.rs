//! Claims of names: a stream with one message for each name.
//!
//! Invariant: a claim is a message that was appended on condition that the name had none, and its version is the number of
//! the message. A full stream refuses claims and forgets none.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::attach::{Ack, WRONG_LAST_SEQUENCE};
use super::streams::Lane;
use super::{Nats, Shared};
use crate::broker::claims::{Claimed, Claims, Held};
use crate::broker::{Doing, NoReply};
use crate::event::Refusal;

/// How long the broker may take for one answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// How often claiming is tried while others claim the name and give it up.
const ATTEMPTS: usize = 5;

/// The header with the number that the newest message of the subject must have.
const AFTER: &str = "Nats-Expected-Last-Subject-Sequence";

impl Claims for Nats {
    fn claim<'a>(&'a self, name: &'a str, text: Bytes) -> Doing<'a, Result<Claimed, Refusal>> {
        Box::pin(async move {
            for _ in 0..ATTEMPTS {
                if let Some(version) = self.append(name, 0, text.clone()).await? {
                    return Ok(Claimed::Now(version));
                }
                if let Some(held) = self.shared.held(name).await? {
                    return Ok(Claimed::Before(held));
                }
            }
            Err(Refusal::Unavailable)
        })
    }

    fn look<'a>(&'a self, name: &'a str) -> Doing<'a, Result<Option<Held>, Refusal>> {
        Box::pin(self.shared.held(name))
    }

    fn replace<'a>(
        &'a self,
        name: &'a str,
        version: u64,
        text: Option<Bytes>,
    ) -> Doing<'a, Result<Option<u64>, Refusal>> {
        Box::pin(async move {
            match text {
                Some(text) => self.append(name, version, text).await,
                None => Ok(self.shared.delete(Lane::Keys, version).await?.then_some(version)),
            }
        })
    }
}

impl Nats {
    /// Appends a message if the newest one of its subject has the number `after`; 0: there is none. Returns its number.
    async fn append(&self, name: &str, after: u64, text: Bytes) -> Result<Option<u64>, Refusal> {
        let after = after.to_string();
        let header = [(AFTER, &*after)];
        let reply = match timeout(PATIENCE, self.request(self.shared.key_subject(name), &header, text)).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(NoReply::NotSent(_) | NoReply::NoResponders)) => return Err(Refusal::Unavailable),
            Ok(Err(NoReply::Lost)) | Err(_) => return Err(Refusal::Unknown),
        };
        match serde_json::from_slice::<Ack>(&reply.payload) {
            Ok(Ack { error: None, seq, .. }) => Ok(Some(seq)),
            Ok(Ack { error: Some(error), .. }) if error.err_code == WRONG_LAST_SEQUENCE => Ok(None),
            Ok(Ack { error: Some(error), .. }) => {
                self.shared.log_refused(&error.description);
                Err(Refusal::Rejected)
            }
            Err(_) => Err(Refusal::Unknown),
        }
    }
}

impl Shared {
    fn key_subject(&self, name: &str) -> String {
        format!("{}.keys.{name}", self.settings.prefix)
    }

    async fn held(&self, name: &str) -> Result<Option<Held>, Refusal> {
        let newest = self.newest(Lane::Keys, &self.key_subject(name)).await?;
        Ok(newest.map(|(version, text)| Held {
            version,
            text: text.into(),
        }))
    }
}
