//! Single messages of streams that have one for each subject: reading and deleting them by JetStream's API.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::Shared;
use super::streams::Lane;
use crate::broker::requests::NoReply;
use crate::event::Refusal;

/// How long the broker may take for one answer.
const PATIENCE: Duration = Duration::from_secs(3);

/// The broker's answer to a request for a message.
#[derive(Deserialize)]
struct Found {
    #[serde(default)]
    message: Option<Stored>,
    #[serde(default)]
    error: Option<ApiError>,
}

#[derive(Deserialize)]
struct Stored {
    seq: u64,
    #[serde(default)]
    data: String,
}

#[derive(Deserialize)]
struct ApiError {
    #[serde(default)]
    code: u16,
}

/// The broker's answer to a deletion.
#[derive(Deserialize)]
struct Deleted {
    #[serde(default)]
    success: bool,
}

impl Shared {
    /// The newest message of a subject, with its number; `None`: there is none.
    pub(super) async fn newest(&self, lane: Lane, subject: &str) -> Result<Option<(u64, Vec<u8>)>, Refusal> {
        let stream = lane.stream(&self.settings.prefix);
        let question = json!({"last_by_subj": subject});
        let found: Found = self.ask(format!("$JS.API.STREAM.MSG.GET.{stream}"), &question).await?;
        match found {
            Found {
                message: Some(stored), ..
            } => {
                let text = STANDARD.decode(stored.data).map_err(|_| Refusal::Unknown)?;
                Ok(Some((stored.seq, text)))
            }
            Found {
                error: Some(ApiError { code: 404 }),
                ..
            } => Ok(None),
            Found { .. } => Err(Refusal::Unavailable),
        }
    }

    /// Deletes a message. Returns whether it was there.
    pub(super) async fn delete(&self, lane: Lane, sequence: u64) -> Result<bool, Refusal> {
        let stream = lane.stream(&self.settings.prefix);
        let question = json!({"seq": sequence, "no_erase": true});
        let deleted: Deleted = self
            .ask(format!("$JS.API.STREAM.MSG.DELETE.{stream}"), &question)
            .await?;
        Ok(deleted.success)
    }

    async fn ask<T: for<'de> Deserialize<'de>>(&self, subject: String, question: &Value) -> Result<T, Refusal> {
        let asked = async {
            let mut waiting = self.send_request(subject, &[], question.to_string().into()).await?;
            waiting.replies.recv().await.ok_or(NoReply::Lost)
        };
        match timeout(PATIENCE, asked).await {
            Ok(Ok(answer)) => serde_json::from_slice(&answer.payload).map_err(|_| Refusal::Unknown),
            Ok(Err(NoReply::NotSent(_) | NoReply::NoResponders)) => Err(Refusal::Unavailable),
            Ok(Err(NoReply::Lost)) | Err(_) => Err(Refusal::Unknown),
        }
    }
}
