//! Keys of commands among several gateways: a command with a key is carried out by the gateway that claims the key at the broker.
//!
//! Invariants:
//! - A command is carried out only under a claim of its key. If the claim cannot be had, the command is refused in a way that
//!   says nothing of an earlier one with the same key.
//! - A claim says until when its command ends at the latest. If no outcome is there by then, its gateway is gone, and the outcome
//!   is unknown for ever.
//! - Everything here is in addition to the table of this gateway ([`keys`](super::keys)), which is asked first.

use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::keys::{Record, Scope, Status};
use super::router::refused;
use crate::broker::{Claimed, Claims, Held};
use crate::event::Refusal;
use crate::session::CommandOutcome;
use tickgate_protocol::channel::TenantNames;
use tickgate_protocol::message::{CommandKey, ErrorCode};

/// The longest time of a command whose key is claimed. The broker forgets a claim a little later.
pub(super) const TIMEOUT_MAX: Duration = Duration::from_secs(600);

/// How much longer than its time a command may take to end, and clocks of gateways may differ.
const SLACK_MS: u64 = 10_000;

/// How often a command that waits for one at another gateway looks for its outcome.
const POLL: Duration = Duration::from_millis(200);

const GONE: &str = "the gateway that carried the command out was lost before the reply; the outcome is unknown";

/// The key of one command, as gateways know it.
pub(super) struct SharedKey<'a> {
    pub(super) claims: &'a dyn Claims,
    pub(super) name: String,
    pub(super) fingerprint: u128,
    /// The longest time that the command takes, in milliseconds.
    pub(super) timeout_ms: u64,
    /// Its route repeats commands whose outcome is unknown.
    pub(super) may_repeat: bool,
    /// How long an outcome is remembered, in milliseconds.
    pub(super) window_ms: u64,
    /// Tells its own claim from others.
    nonce: u64,
}

/// What becomes of the command.
#[derive(Debug)]
pub(super) enum Start {
    /// It is to be carried out. `is_repeat`: the backend may have seen it before.
    Run { version: u64, is_repeat: bool },
    /// It was carried out before, with this outcome.
    Known(CommandOutcome),
    /// It is not carried out.
    Refused(CommandOutcome),
}

/// What a claim says.
#[derive(Serialize, Deserialize)]
struct Text {
    fingerprint: u128,
    nonce: u64,
    /// Without an outcome: when it is there at the latest. With one: when it is forgotten. In Unix milliseconds.
    until_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Success(String),
    Failure(String),
    Unknown { message: String, may_repeat: bool },
}

/// The name of a key. No two keys, users or tenants have the same.
pub(super) fn name(scope: &Scope, key: &CommandKey, tenants: &TenantNames) -> String {
    let tenant = tenants.of(scope.tenant()).unwrap_or_default();
    // Neither a tenant nor a key has a line break.
    let text = format!("{tenant}\n{key}\n{}", scope.user());
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    hash.as_ref()
        .iter()
        .take(16)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

impl<'a> SharedKey<'a> {
    pub(super) fn new(
        claims: &'a dyn Claims,
        name: String,
        fingerprint: u128,
        (timeout, window_ms): (Duration, u64),
        may_repeat: bool,
    ) -> Self {
        Self {
            claims,
            name,
            fingerprint,
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            may_repeat,
            window_ms,
            nonce: rand::random(),
        }
    }

    /// Claims the key, or finds what it stands for already; waits for a command at another gateway until `deadline`.
    /// `now_ms` gives Unix milliseconds.
    pub(super) async fn begin(&self, deadline: Instant, now_ms: impl Fn() -> u64) -> Start {
        loop {
            let held = match self.claims.claim(&self.name, self.running(now_ms())).await {
                Ok(Claimed::Now(version)) => {
                    return Start::Run {
                        version,
                        is_repeat: false,
                    };
                }
                Ok(Claimed::Before(held)) => held,
                // Perhaps only the confirmation was lost.
                Err(Refusal::Unknown) => match self.claims.look(&self.name).await {
                    Ok(Some(held)) => held,
                    Ok(None) | Err(_) => return Start::Refused(unavailable(Refusal::Unknown)),
                },
                Err(refusal) => return Start::Refused(unavailable(refusal)),
            };
            let Some(text) = Text::of(&held) else {
                return Start::Refused(unavailable(Refusal::Rejected));
            };
            if text.nonce == self.nonce && text.outcome.is_none() {
                return Start::Run {
                    version: held.version,
                    is_repeat: false,
                };
            }
            if text.fingerprint != self.fingerprint {
                let message =
                    "the key belongs to a command with another action or other params; this one was not carried out";
                return Start::Refused(refused(ErrorCode::KeyReused, message.to_owned()));
            }
            let is_over = now_ms() > text.until_ms;
            let next = match text.outcome {
                None if is_over => Some((self.done(&self.gone(), now_ms()), None)),
                None => None,
                Some(_) if is_over => Some((self.running(now_ms()), Some(false))),
                Some(Outcome::Unknown { may_repeat: true, .. }) => Some((self.running(now_ms()), Some(true))),
                Some(outcome) => return Start::Known(outcome.into()),
            };
            let replaced = match next {
                None => Ok(None),
                Some((text, runs)) => {
                    let replaced = self.claims.replace(&self.name, held.version, Some(text)).await;
                    if let (Ok(Some(version)), Some(is_repeat)) = (&replaced, runs) {
                        return Start::Run {
                            version: *version,
                            is_repeat,
                        };
                    }
                    replaced
                }
            };
            if let Err(refusal) = replaced {
                return Start::Refused(unavailable(refusal));
            }
            if Instant::now() + POLL >= deadline {
                let message = "the command with this key is in flight at another gateway; send it again later";
                return Start::Refused(refused(ErrorCode::Overloaded, message.to_owned()));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Tells the other gateways how the command ended; `None`: it was surely not sent, and its key is free.
    ///
    /// # Errors
    ///
    /// Why they do not know it.
    pub(super) async fn end(&self, version: u64, record: Option<&Record>, now_ms: u64) -> Result<(), String> {
        let text = record.map(|record| self.done(&Outcome::of(record), now_ms));
        match self.claims.replace(&self.name, version, text).await {
            Ok(Some(_)) => Ok(()),
            Ok(None) => Err("another gateway has taken this one for lost".to_owned()),
            Err(refusal) => Err(refusal.to_string()),
        }
    }

    fn running(&self, now_ms: u64) -> Bytes {
        self.text(now_ms + self.timeout_ms + SLACK_MS, None)
    }

    fn done(&self, outcome: &Outcome, now_ms: u64) -> Bytes {
        self.text(now_ms + self.window_ms, Some(outcome))
    }

    fn text(&self, until_ms: u64, outcome: Option<&Outcome>) -> Bytes {
        #[derive(Serialize)]
        struct Written<'o> {
            fingerprint: u128,
            nonce: u64,
            until_ms: u64,
            #[serde(skip_serializing_if = "Option::is_none")]
            outcome: Option<&'o Outcome>,
        }
        let written = Written {
            fingerprint: self.fingerprint,
            nonce: self.nonce,
            until_ms,
            outcome,
        };
        serde_json::to_vec(&written).unwrap_or_default().into()
    }

    fn gone(&self) -> Outcome {
        Outcome::Unknown {
            message: GONE.to_owned(),
            may_repeat: self.may_repeat,
        }
    }
}

/// What is known of a key at the broker. The error is the answer: nothing is known, or nobody can be asked.
pub(super) async fn status(claims: &dyn Claims, name: &str, now_ms: u64) -> Result<Status, CommandOutcome> {
    let held = claims.look(name).await.map_err(unavailable)?;
    let text = held.as_ref().and_then(Text::of).ok_or_else(unknown_key)?;
    let is_over = now_ms > text.until_ms;
    match text.outcome {
        None if is_over => Ok(Status::Done(refused(ErrorCode::Unknown, GONE.to_owned()))),
        None => Ok(Status::Running),
        Some(_) if is_over => Err(unknown_key()),
        Some(outcome) => Ok(Status::Done(outcome.into())),
    }
}

/// The answer to a question for a key of which nothing is known.
pub(super) fn unknown_key() -> CommandOutcome {
    let message = "the key was never seen or is forgotten; the command may have been carried out all the same";
    refused(ErrorCode::UnknownKey, message.to_owned())
}

// It says nothing of an earlier command with the key, which may have been carried out.
fn unavailable(refusal: Refusal) -> CommandOutcome {
    let message = match refusal {
        Refusal::Unavailable | Refusal::Unknown => {
            "the gateway cannot ask the other gateways for the key; this message was not carried out, send it again later"
        }
        Refusal::Rejected => {
            "the gateways remember as many keys as they may; this message was not carried out, send it again later"
        }
    };
    refused(ErrorCode::Overloaded, message.to_owned())
}

impl Text {
    fn of(held: &Held) -> Option<Self> {
        serde_json::from_slice(&held.text).ok()
    }
}

impl Outcome {
    fn of(record: &Record) -> Self {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        match &record.outcome {
            CommandOutcome::Success { data } => Self::Success(text(data)),
            CommandOutcome::Failure { error } => Self::Failure(text(error)),
            CommandOutcome::Refused { message, .. } => Self::Unknown {
                message: message.to_string(),
                may_repeat: record.may_repeat,
            },
        }
    }
}

impl From<Outcome> for CommandOutcome {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Success(data) => Self::Success { data: data.into() },
            Outcome::Failure(error) => Self::Failure { error: error.into() },
            Outcome::Unknown { message, .. } => refused(ErrorCode::Unknown, message),
        }
    }
}
