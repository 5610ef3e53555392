//! The streams of the broker: made if they do not exist, checked if they do.
//!
//! Invariant: a stream is never changed so that it keeps less than before.

use std::time::Duration;

use async_nats::jetstream::Context;
use async_nats::jetstream::context::{CreateStreamErrorKind, GetStreamErrorKind};
use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType, Stream};

use super::{Settings, Storage};
use crate::broker::claims;
use crate::broker::link::End;

/// Which stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lane {
    /// The events of channels that keep state.
    Log,
    /// The events of all other channels.
    Plain,
    /// The merged values of channels.
    Merged,
    /// What gateways must not forget.
    Control,
    /// Socket.IO sessions that ended.
    Sessions,
    /// Keys of commands.
    Keys,
}

/// The most bytes of the stream with what gateways must not forget.
const CONTROL_BYTES: u64 = 64 << 20;

/// The most bytes of the stream with Socket.IO sessions, and how long they may be kept: the longest `recovery_window`.
const SESSIONS_BYTES: u64 = 64 << 20;
const SESSIONS_AGE: Duration = Duration::from_secs(3600);

/// The stream with the merged values has a quarter of the bytes of the log, but at least these.
const MERGED_BYTES_MIN: u64 = 1 << 20;

impl Lane {
    /// The name of the stream.
    pub(super) fn stream(self, prefix: &str) -> String {
        let lane = match self {
            Self::Log => "LOG",
            Self::Plain => "PLAIN",
            Self::Merged => "MERGED",
            Self::Control => "CONTROL",
            Self::Sessions => "SESSIONS",
            Self::Keys => "KEYS",
        };
        format!("{}_{lane}", prefix.replace('.', "_"))
    }
}

/// The subject of notices.
pub(super) fn terms_subject(prefix: &str) -> String {
    format!("{prefix}.terms")
}

/// The subject of the lease of the duties.
pub(super) fn lease_subject(prefix: &str) -> String {
    format!("{prefix}.control.lease")
}

fn wanted(lane: Lane, settings: &Settings) -> Config {
    let prefix = &settings.prefix;
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let (subjects, bytes, per_subject) = match lane {
        Lane::Log => (
            vec![format!("{prefix}.log.>"), terms_subject(prefix)],
            settings.log_bytes,
            signed(settings.events_per_channel),
        ),
        Lane::Plain => (vec![format!("{prefix}.plain.>")], settings.plain_bytes, -1),
        Lane::Merged => (
            vec![format!("{prefix}.merged.>")],
            (settings.log_bytes / 4).max(MERGED_BYTES_MIN),
            1,
        ),
        Lane::Control => (vec![format!("{prefix}.control.>")], CONTROL_BYTES, 1),
        Lane::Sessions => (vec![format!("{prefix}.sessions.*")], SESSIONS_BYTES, 1),
        Lane::Keys => (vec![format!("{prefix}.keys.*")], claims::BYTES_MAX, 1),
    };
    Config {
        name: lane.stream(prefix),
        description: Some("of tickgate gateways; only they may write".to_owned()),
        subjects,
        retention: RetentionPolicy::Limits,
        discard: match lane {
            // A full stream refuses rather than forgets.
            Lane::Control | Lane::Keys => DiscardPolicy::New,
            Lane::Log | Lane::Plain | Lane::Merged | Lane::Sessions => DiscardPolicy::Old,
        },
        max_bytes: signed(bytes),
        max_messages: -1,
        max_messages_per_subject: per_subject,
        max_consumers: -1,
        storage: match settings.storage {
            Storage::File => StorageType::File,
            Storage::Memory => StorageType::Memory,
        },
        num_replicas: usize::from(settings.replicas),
        duplicate_window: match lane {
            // These messages have no ids, and the window must not be longer than their age.
            Lane::Sessions | Lane::Keys => Duration::from_secs(1),
            Lane::Log | Lane::Plain | Lane::Merged | Lane::Control => settings.duplicate_window,
        },
        max_age: match lane {
            Lane::Sessions => SESSIONS_AGE,
            Lane::Keys => claims::KEPT,
            Lane::Log | Lane::Plain | Lane::Merged | Lane::Control => Duration::ZERO,
        },
        // What is needed no longer is deleted by the gateways.
        deny_delete: matches!(lane, Lane::Log | Lane::Plain | Lane::Merged),
        deny_purge: true,
        ..Config::default()
    }
}

/// What of an existing stream the gateways cannot work with, as the middle of a sentence; empty: nothing.
fn differences(is: &Config, wanted: &Config) -> Vec<String> {
    let mut found = Vec::new();
    let mut compare = |key: &str, is: String, wanted: String| {
        if is != wanted {
            found.push(format!("its {key} is {is}, the configuration needs {wanted}"));
        }
    };
    let mut subjects = is.subjects.clone();
    subjects.sort_unstable();
    let mut wanted_subjects = wanted.subjects.clone();
    wanted_subjects.sort_unstable();
    compare("subjects", subjects.join(", "), wanted_subjects.join(", "));
    compare("storage", format!("{:?}", is.storage), format!("{:?}", wanted.storage));
    compare(
        "num_replicas",
        is.num_replicas.to_string(),
        wanted.num_replicas.to_string(),
    );
    compare(
        "retention",
        format!("{:?}", is.retention),
        format!("{:?}", wanted.retention),
    );
    compare("discard", format!("{:?}", is.discard), format!("{:?}", wanted.discard));
    compare("max_age", format!("{:?}", is.max_age), format!("{:?}", wanted.max_age));
    compare("max_msgs", is.max_messages.to_string(), wanted.max_messages.to_string());
    found
}

// Raises what an existing stream keeps to what is needed. Returns whether there is something to raise.
fn raise(is: &mut Config, wanted: &Config) -> bool {
    let unlimited = |limit: i64| if limit <= 0 { i64::MAX } else { limit };
    let mut raises = false;
    if unlimited(is.max_bytes) < unlimited(wanted.max_bytes) {
        is.max_bytes = wanted.max_bytes;
        raises = true;
    }
    if unlimited(is.max_messages_per_subject) < unlimited(wanted.max_messages_per_subject) {
        is.max_messages_per_subject = wanted.max_messages_per_subject;
        raises = true;
    }
    if is.duplicate_window < wanted.duplicate_window {
        is.duplicate_window = wanted.duplicate_window;
        raises = true;
    }
    raises
}

/// Opens a stream.
pub(super) async fn open(context: &Context, lane: Lane, settings: &Settings) -> Result<Stream, End> {
    let wanted = wanted(lane, settings);
    let name = wanted.name.clone();
    let mut stream = match context.get_stream(&name).await {
        Ok(stream) => stream,
        Err(error) if is_missing(&error.kind()) => match context.create_stream(wanted.clone()).await {
            Ok(stream) => {
                tracing::info!(stream = name, "the stream is created");
                stream
            }
            Err(error) => match error.kind() {
                // Another gateway has created it meanwhile, or the broker refuses it.
                CreateStreamErrorKind::JetStream(refused) => match context.get_stream(&name).await {
                    Ok(stream) => stream,
                    Err(_) => {
                        return Err(End::Failed(format!(
                            "the broker does not create the stream {name}: {refused}"
                        )));
                    }
                },
                _ => return Err(End::Failed(format!("the stream {name} cannot be created: {error}"))),
            },
        },
        Err(error) => return Err(End::Failed(format!("the stream {name} cannot be read: {error}"))),
    };
    let is = stream.cached_info().config.clone();
    let differences = differences(&is, &wanted);
    if !differences.is_empty() {
        let remedy = "change the stream with the nats command, or choose another broker.prefix";
        return Err(End::Unfit(format!(
            "the stream {name} does not fit: {}; {remedy}",
            differences.join("; ")
        )));
    }
    let mut raised = is;
    if raise(&mut raised, &wanted) {
        if let Err(error) = context.update_stream(raised).await {
            return Err(End::Unfit(format!(
                "the broker does not raise the limits of the stream {name}: {error}"
            )));
        }
        tracing::info!(stream = name, "the limits of the stream are raised");
        stream = context
            .get_stream(&name)
            .await
            .map_err(|error| End::Failed(format!("the stream {name} cannot be read: {error}")))?;
    }
    Ok(stream)
}

fn is_missing(kind: &GetStreamErrorKind) -> bool {
    use async_nats::jetstream::ErrorCode;
    matches!(kind, GetStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::STREAM_NOT_FOUND)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            prefix: "a.b".into(),
            log_bytes: 1 << 30,
            plain_bytes: 1 << 20,
            events_per_channel: 5001,
            ..Settings::default()
        }
    }

    #[test]
    fn a_stream_that_keeps_more_fits_and_one_that_keeps_less_is_raised() {
        let wanted = wanted(Lane::Log, &settings());
        assert_eq!((&*wanted.name, wanted.max_messages_per_subject), ("a_b_LOG", 5001));
        let mut more = Config {
            max_bytes: -1,
            max_messages_per_subject: 6000,
            ..wanted.clone()
        };
        assert!(differences(&more, &wanted).is_empty() && !raise(&mut more, &wanted));
        let mut less = Config {
            max_bytes: 5,
            max_messages_per_subject: 1,
            duplicate_window: std::time::Duration::ZERO,
            ..wanted.clone()
        };
        assert!(differences(&less, &wanted).is_empty() && raise(&mut less, &wanted));
        assert_eq!(less, wanted);
    }

    #[test]
    fn each_difference_is_named() {
        let wanted = wanted(Lane::Plain, &settings());
        let other = Config {
            storage: StorageType::Memory,
            num_replicas: 3,
            subjects: vec!["x.>".into()],
            max_age: std::time::Duration::from_secs(60),
            ..wanted.clone()
        };
        assert_eq!(
            differences(&other, &wanted),
            [
                "its subjects is x.>, the configuration needs a.b.plain.>",
                "its storage is Memory, the configuration needs File",
                "its num_replicas is 3, the configuration needs 1",
                "its max_age is 60s, the configuration needs 0ns",
            ]
        );
    }
}
