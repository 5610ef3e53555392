//! The lease of the duties: one message in the stream of what gateways must not forget, which its holder replaces.

use bytes::Bytes;
use serde::Deserialize;

use super::Nats;
use super::attach::{Ack, WRONG_LAST_SEQUENCE};
use super::streams::{Lane, lease_subject};
use crate::broker::lease::{Fence, Register};
use crate::broker::requests::Doing;
use crate::event::Refusal;

/// The error code for a message that does not exist.
const NO_MESSAGE: u64 = 10_037;

/// The answer to a request for a stored message.
#[derive(Debug, Default, Deserialize)]
struct Stored {
    #[serde(default)]
    message: Option<StoredMessage>,
    #[serde(default)]
    error: Option<super::attach::AckError>,
}

#[derive(Debug, Default, Deserialize)]
struct StoredMessage {
    seq: u64,
}

impl Nats {
    /// Asks for something about the stream of the lease.
    async fn ask(&self, what: &str, body: String) -> Result<Bytes, Refusal> {
        let subject = format!(
            "$JS.API.STREAM.MSG.{what}.{}",
            Lane::Control.stream(&self.shared.settings.prefix)
        );
        Ok(self.request(subject, &[], body.into()).await?.payload)
    }

    async fn try_read(&self) -> Result<u64, Refusal> {
        let body = serde_json::json!({ "last_by_subj": lease_subject(&self.shared.settings.prefix) });
        let reply = self.ask("GET", body.to_string()).await?;
        match serde_json::from_slice::<Stored>(&reply) {
            Ok(Stored {
                message: Some(message), ..
            }) => Ok(message.seq),
            Ok(Stored { error: Some(error), .. }) if error.err_code == NO_MESSAGE => Ok(0),
            _ => Err(Refusal::Unavailable),
        }
    }

    async fn try_replace(&self, after: u64) -> Result<Option<u64>, Refusal> {
        let record = serde_json::json!({ "node": &*self.shared.settings.node }).to_string();
        let after = after.to_string();
        let headers = [("Nats-Expected-Last-Subject-Sequence", &*after)];
        let sent = self.request(lease_subject(&self.shared.settings.prefix), &headers, record.into());
        let reply = sent.await?;
        match serde_json::from_slice::<Ack>(&reply.payload) {
            Ok(Ack { error: None, seq, .. }) if seq > 0 => Ok(Some(seq)),
            Ok(Ack { error: Some(error), .. }) if error.err_code == WRONG_LAST_SEQUENCE => Ok(None),
            Ok(Ack { error: Some(error), .. }) => {
                tracing::warn!(
                    reason = error.description,
                    "the broker does not store the lease of the duties"
                );
                Err(Refusal::Rejected)
            }
            _ => Err(Refusal::Unknown),
        }
    }
}

impl Register for Nats {
    fn read_lease(&self) -> Doing<'_, Result<u64, Refusal>> {
        Box::pin(self.try_read())
    }

    fn replace_lease(&self, after: u64) -> Doing<'_, Result<Option<u64>, Refusal>> {
        Box::pin(self.try_replace(after))
    }

    fn remove_lease(&self, number: u64) -> Doing<'_, ()> {
        Box::pin(async move {
            let body = serde_json::json!({ "seq": number, "no_erase": true });
            let _ = self.ask("DELETE", body.to_string()).await;
        })
    }

    fn fence(&self, number: u64) -> Fence {
        self.shared.fence(number)
    }
}
