//! From a connection to the right place in both streams.
//!
//! Invariant: when a gateway has attached, the newest notice of the log names the broker that it is connected to. So
//! whatever the broker has lost before, no version is given twice. And the hub holds exactly what the log contains up to
//! the position, or begins anew.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::header::{HeaderMap, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE};
use async_nats::jetstream;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::{Client, Request};
use serde::Deserialize;

use super::connect::chain;
use super::streams::{Lane, open, terms_subject};
use super::terms::{FORMAT, Notice, Table};
use super::{End, Shared};
use crate::hub::{Epoch, LOG_STEP};

/// How long the broker may take for one answer.
pub(super) const ANSWER: Duration = Duration::from_secs(3);

/// How often opening a term is tried while other gateways write notices.
const ATTEMPTS: usize = 50;

/// If another gateway with other classes has not been heard of for this long, this gateway's classes count from now on.
const OTHERS_GONE: Duration = Duration::from_secs(4);

/// Where to follow the streams.
pub(super) struct Attached {
    pub(super) log: Stream,
    pub(super) plain: Stream,
    /// The log was current up to here when the gateway attached.
    pub(super) log_target: u64,
    /// Up to here the log is read back into a hub that began empty; 0: the hub has it already.
    pub(super) replay_to: u64,
}

/// The answer to an append.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Ack {
    #[serde(default)]
    pub(super) seq: u64,
    #[serde(default)]
    pub(super) duplicate: bool,
    #[serde(default)]
    pub(super) error: Option<AckError>,
}

/// Why the broker refuses an append.
#[derive(Debug, Default, Deserialize)]
pub(super) struct AckError {
    #[serde(default)]
    pub(super) err_code: u64,
    #[serde(default)]
    pub(super) description: String,
}

/// The error code of an append whose condition does not hold.
pub(super) const WRONG_LAST_SEQUENCE: u64 = 10_071;

/// The outcome of writing a notice.
pub(super) enum Written {
    /// It is stored under this number.
    At(u64),
    /// Another gateway has written one before.
    Overtaken,
}

impl Shared {
    /// Finds the place in both streams, and opens a term if the broker is not the one that the newest term began with.
    pub(super) async fn attach(&self, client: &Client) -> Result<Attached, End> {
        let info = client.server_info();
        if !info.jetstream {
            return Err(End::Failed(
                "the broker has no JetStream (`jetstream {}` in its configuration)".to_owned(),
            ));
        }
        let mut context = jetstream::new(client.clone());
        context.set_timeout(ANSWER);
        let settings = &self.settings;
        let log = open(&context, Lane::Log, settings).await?;
        let plain = open(&context, Lane::Plain, settings).await?;
        let control = open(&context, Lane::Control, settings).await?;
        self.learn_all(&control).await?;
        // The id of a server is another one after each start. In a cluster it says nothing of the servers that store the
        // stream, so every connection counts as another broker there.
        let incarnation = match info.cluster {
            Some(_) => format!("{}/{:016x}", info.server_id, rand::random::<u64>()),
            None => info.server_id.clone(),
        };
        let table = self.take_terms(client, &log, &incarnation).await?;
        let (log_target, replay_to) = self.place_log(&log, table).await?;
        self.place_plain(&plain).await?;
        Ok(Attached {
            log,
            plain,
            log_target,
            replay_to,
        })
    }

    /// Reads the newest notice, and writes one of its own that names this broker.
    async fn take_terms(&self, client: &Client, log: &Stream, incarnation: &str) -> Result<Table, End> {
        let mut waited = false;
        for _ in 0..ATTEMPTS {
            let newest = newest_notice(log, &self.settings.prefix).await?;
            if let Some((_, notice, _)) = &newest
                && notice.classes != self.settings.classes
                && !waited
            {
                tokio::time::sleep(OTHERS_GONE).await;
                let later = newest_notice(log, &self.settings.prefix).await?;
                if later.is_some_and(|(sequence, ..)| newest.as_ref().is_none_or(|(before, ..)| sequence > *before)) {
                    return Err(End::Unfit(format!(
                        "the classes of channels differ from those of the gateway {:?}: compare the [[channel]] entries",
                        notice.node
                    )));
                }
                waited = true;
                continue;
            }
            let state = log.get_info().await.map_err(failed("the stream cannot be read"))?.state;
            let sequence = newest.as_ref().map_or(0, |(sequence, ..)| *sequence);
            let is_current = newest
                .as_ref()
                .is_some_and(|(_, notice, _)| notice.incarnation == incarnation);
            let mut table = newest.map(|(.., table)| table);
            if let Some(table) = &mut table {
                table.forget_before(state.first_sequence);
            }
            let head = |table: &Table, at: u64| table.version(at).unwrap_or(0) + LOG_STEP;
            let above = {
                let position = self.position.lock();
                let own = position.table.as_ref().map_or(0, |own| head(own, position.applied));
                own.max(table.as_ref().map_or(0, |table| head(table, state.last_sequence)))
            };
            let notice = Notice {
                v: FORMAT,
                node: self.settings.node.to_string(),
                classes: self.settings.classes,
                incarnation: incarnation.to_owned(),
                epoch: table.as_ref().map_or_else(rand::random, |table| table.epoch),
                terms: table.map_or(Vec::new(), |table| table.terms),
                opens: (!is_current).then(rand::random),
                above,
            };
            let Written::At(sequence) = self.write_notice(client, &notice, sequence).await? else {
                continue;
            };
            // Read back for the time at which the broker stored it, from which everything else follows.
            let stored = log
                .get_raw_message(sequence)
                .await
                .map_err(failed("the notice cannot be read back"))?;
            let stored_ms = unix_ms(stored.time.unix_timestamp_nanos());
            let table = Table::of(&notice, sequence, stored_ms);
            let table = table.ok_or_else(|| End::Failed("the terms in the log contradict each other".to_owned()))?;
            let mut position = self.position.lock();
            position.note_time(stored_ms, self.clock.now());
            position.notice = sequence;
            incarnation.clone_into(&mut position.incarnation);
            if notice.opens.is_some() {
                self.metrics.terms_opened.add(1);
                tracing::info!(
                    terms = table.terms.len(),
                    start = table.current().start,
                    "a new term of the log begins"
                );
            }
            return Ok(table);
        }
        Err(End::Failed("other gateways write into the log all the time".to_owned()))
    }

    /// Writes a notice, on condition that the newest one has the number `after`.
    pub(super) async fn write_notice(&self, client: &Client, notice: &Notice, after: u64) -> Result<Written, End> {
        let payload = serde_json::to_vec(notice).unwrap_or_default();
        let mut headers = HeaderMap::new();
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, after.to_string());
        let request = Request::new()
            .payload(payload.into())
            .headers(headers)
            .timeout(Some(ANSWER));
        let subject = terms_subject(&self.settings.prefix);
        let answer = client.send_request(subject, request).await;
        let answer = answer.map_err(failed("the broker does not take a notice"))?;
        let ack: Ack = serde_json::from_slice(&answer.payload)
            .map_err(|_| End::Failed("the broker's answer to a notice cannot be read".to_owned()))?;
        match ack.error {
            None => Ok(Written::At(ack.seq)),
            Some(error) if error.err_code == WRONG_LAST_SEQUENCE => Ok(Written::Overtaken),
            Some(error) => Err(End::Failed(format!(
                "the broker does not take a notice: {}",
                error.description
            ))),
        }
    }

    /// Goes on where the hub is, if the log still has that place. Otherwise the hub begins anew.
    async fn place_log(&self, log: &Stream, table: Table) -> Result<(u64, u64), End> {
        let state = log.get_info().await.map_err(failed("the stream cannot be read"))?.state;
        let last = state.last_sequence;
        self.hub.set_lost(table.lost());
        self.metrics.term_ms.store(table.began_ms(), Ordering::Relaxed);
        let mut position = self.position.lock();
        let continues = |before: &Table| table.continues(before, position.applied, last);
        if position.table.as_ref().is_some_and(continues) {
            position.table = Some(table);
            // The last session may have ended while it read the log back.
            return Ok((last, position.replay_to));
        }
        let had_clients = position.was_up;
        let first = table
            .terms
            .first()
            .map_or(0, |term| term.first)
            .max(state.first_sequence)
            .max(1);
        let newest = table.version(first).unwrap_or(0).saturating_sub(1);
        self.hub.reset(Epoch(table.epoch), newest);
        position.applied = first - 1;
        position.replay_to = last;
        position.table = Some(table);
        position.was_up = false;
        drop(position);
        if had_clients {
            self.end_connections("the log is not the one that this gateway has followed");
        }
        Ok((last, last))
    }

    /// Goes on in the other stream, if it still has the message that was read last.
    async fn place_plain(&self, plain: &Stream) -> Result<(), End> {
        let state = plain
            .get_info()
            .await
            .map_err(failed("the stream cannot be read"))?
            .state;
        let Some((sequence, nanos)) = self.position.lock().plain else {
            self.position.lock().plain = Some((state.last_sequence, None));
            return Ok(());
        };
        let is_there = match nanos {
            // Nothing was read yet: nothing can have been lost, unless the numbers begin anew.
            None => state.last_sequence >= sequence && state.first_sequence <= sequence + 1,
            Some(nanos) => match plain.get_raw_message(sequence).await {
                Ok(stored) => stored.time.unix_timestamp_nanos() == nanos,
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => false,
                Err(error) => return Err(failed("the last message cannot be read again")(error)),
            },
        };
        if !is_there {
            self.position.lock().plain = Some((state.last_sequence, None));
            self.end_connections("events of channels without state may be lost");
        }
        Ok(())
    }
}

/// The newest notice in the log, with its number and the table that it gives.
async fn newest_notice(log: &Stream, prefix: &str) -> Result<Option<(u64, Notice, Table)>, End> {
    let message = match log.get_last_raw_message_by_subject(&terms_subject(prefix)).await {
        Ok(message) => message,
        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(None),
        Err(error) => {
            return Err(End::Failed(format!(
                "the newest notice cannot be read: {}",
                chain(&error)
            )));
        }
    };
    let notice = Notice::parse(&message.payload);
    let of = |notice: &Notice| Table::of(notice, message.sequence, unix_ms(message.time.unix_timestamp_nanos()));
    match notice.and_then(|notice| Some((message.sequence, of(&notice)?, notice))) {
        Some((sequence, table, notice)) => Ok(Some((sequence, notice, table))),
        None => Err(End::Unfit(format!(
            "the newest message of {} is not a notice of this version of tickgate",
            terms_subject(prefix)
        ))),
    }
}

/// Turns a client library's error into the end of the session.
pub(super) fn failed<E: std::error::Error>(what: &'static str) -> impl Fn(E) -> End {
    move |error| End::Failed(format!("{what}: {}", chain(&error)))
}

/// Milliseconds of a time in nanoseconds.
pub(super) fn unix_ms(nanos: i128) -> u64 {
    u64::try_from(nanos / 1_000_000).unwrap_or(0)
}
