//! From a connection to the right place in both streams.

use async_nats::header::{HeaderMap, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE};
use async_nats::jetstream;
use async_nats::jetstream::stream::{LastRawMessageErrorKind, Stream};
use async_nats::{Client, Request};
use serde::Deserialize;

use super::Shared;
use super::streams::{Lane, open, terms_subject};
use crate::broker::link::{ANSWER, ATTEMPTS, End, OTHERS_GONE, chain, failed};
use crate::broker::replica::{Extent, Newest, Place};
use crate::broker::terms::{Notice, Table};

/// Where to follow the streams.
pub(super) struct Attached {
    pub(super) log: Stream,
    pub(super) plain: Stream,
    /// The log ended here when the gateway attached.
    pub(super) log_end: u64,
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
        let merged = open(&context, Lane::Merged, settings).await?;
        let control = open(&context, Lane::Control, settings).await?;
        open(&context, Lane::Sessions, settings).await?;
        open(&context, Lane::Keys, settings).await?;
        self.learn_all(&control).await?;
        // The id of a server is another one after each start. In a cluster it says nothing of the servers that store the
        // stream, so every connection counts as another broker there.
        let incarnation = match info.cluster {
            Some(_) => format!("{}/{:016x}", info.server_id, rand::random::<u64>()),
            None => info.server_id.clone(),
        };
        let table = self.take_terms(client, (&log, &control), &incarnation).await?;
        self.store_classes(client, &control).await?;
        let mut extent = extent(&log).await?;
        if !self.place(&table, extent) {
            extent = self.restore_values(&merged, &log, &table).await?;
            self.read_back(table, extent);
        }
        self.place_plain(&plain).await?;
        Ok(Attached {
            log,
            plain,
            log_end: extent.last,
        })
    }

    /// Reads the newest notice, and writes one of its own that names this broker.
    async fn take_terms(
        &self,
        client: &Client,
        (log, control): (&Stream, &Stream),
        incarnation: &str,
    ) -> Result<Table, End> {
        let mut waited = false;
        for _ in 0..ATTEMPTS {
            let newest = newest_notice(log, &self.settings.prefix).await?;
            let sequence = newest.as_ref().map_or(0, |newest| newest.sequence);
            if let Some(Newest { notice, .. }) = &newest
                && self.differs(notice)
                && !waited
            {
                tokio::time::sleep(OTHERS_GONE).await;
                let later = newest_notice(log, &self.settings.prefix).await?;
                if later.is_some_and(|later| later.sequence > sequence) {
                    let theirs = self.stored_classes(control).await?;
                    return Err(self.other_classes(notice, theirs.as_deref()));
                }
                waited = true;
                continue;
            }
            let notice = self.notice_at_attach(newest, extent(log).await?, incarnation);
            let Written::At(sequence) = self.write_notice(client, &notice, sequence).await? else {
                continue;
            };
            // Read back for the time at which the broker stored it, from which everything else follows.
            let stored = log
                .get_raw_message(sequence)
                .await
                .map_err(failed("the notice cannot be read back"))?;
            let place = Place {
                sequence,
                stored_ms: unix_ms(stored.time.unix_timestamp_nanos()),
                is_replayed: false,
            };
            return self.attached_by(&notice, place);
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

    /// Goes on in the other stream, if it still has the message that was read last.
    async fn place_plain(&self, plain: &Stream) -> Result<(), End> {
        let state = plain
            .get_info()
            .await
            .map_err(failed("the stream cannot be read"))?
            .state;
        let known = *self.plain.lock();
        let Some((sequence, nanos)) = known else {
            *self.plain.lock() = Some((state.last_sequence, None));
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
            *self.plain.lock() = Some((state.last_sequence, None));
            self.end_connections("events of channels without state may be lost");
        }
        Ok(())
    }
}

/// Where the log begins and ends.
pub(super) async fn extent(log: &Stream) -> Result<Extent, End> {
    let info = log.get_info().await.map_err(failed("the stream cannot be read"))?;
    Ok(Extent {
        first: info.state.first_sequence,
        last: info.state.last_sequence,
    })
}

/// The newest notice in the log.
async fn newest_notice(log: &Stream, prefix: &str) -> Result<Option<Newest>, End> {
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
    let stored_ms = unix_ms(message.time.unix_timestamp_nanos());
    Newest::of(message.sequence, stored_ms, &message.payload)
        .map(Some)
        .ok_or_else(|| {
            End::Unfit(format!(
                "the newest message of {} is not a notice of this version of tickgate",
                terms_subject(prefix)
            ))
        })
}

/// Milliseconds of a time in nanoseconds.
pub(super) fn unix_ms(nanos: i128) -> u64 {
    u64::try_from(nanos / 1_000_000).unwrap_or(0)
}
