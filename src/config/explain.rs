//! What `tickgate check` says about what a configuration does with other systems.

use super::Config;
use super::sections::Source;
use crate::backend::ingest::{NatsFrom, RedisFrom, Start, StreamSettings};

impl Config {
    /// What each `[[source]]` does, one line for each.
    #[must_use]
    pub fn sources_explained(&self) -> Vec<String> {
        let spaces = self.sections.spaces();
        let lines = spaces.iter().flat_map(|space| {
            let prefix = space.prefix();
            let sources = space.sources.iter().enumerate();
            sources.filter_map(move |(index, source)| Some(format!("{prefix}source[{index}] {}", explain(source)?)))
        });
        lines.collect()
    }
}

fn explain(source: &Source) -> Option<String> {
    let channels = source.channel.as_ref()?.pattern();
    let (what, position) = match (&source.nats, &source.redis) {
        (Some(NatsFrom::Subject(subject)), _) => (format!("the subject {subject} of NATS"), None),
        (Some(NatsFrom::Stream(name)), _) => {
            let only = source
                .subject
                .as_ref()
                .map_or_else(String::new, |subject| format!(", of it {subject}"));
            let position = position("its durable consumer", &source.stream());
            (format!("the stream {name} of NATS{only}"), Some(position))
        }
        (None, Some(RedisFrom::Stream(key))) => {
            let position = position("its consumer group", &source.stream());
            (format!("the stream {key} of Redis"), Some(position))
        }
        (None, Some(RedisFrom::Channel(name))) => (format!("the channel {name} of Redis"), None),
        (None, Some(RedisFrom::Pattern(pattern))) => (format!("the channels {pattern} of Redis"), None),
        (None, None) => return None,
    };
    let position = position.unwrap_or_else(|| {
        "Nothing keeps its messages: what comes while no gateway reads, or faster than it publishes, is lost".to_owned()
    });
    Some(format!("reads {what} and publishes to {channels}. {position}."))
}

fn position(keeper: &str, settings: &StreamSettings) -> String {
    let begin = match settings.start {
        Start::New => "the next message",
        Start::All => "the oldest message",
    };
    format!(
        "The position is kept in {keeper} \"{}\", which begins with {begin}; each message is published once",
        settings.consumer
    )
}
