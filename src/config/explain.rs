//! What `tickgate check` says about what a configuration does with other systems.

use super::Config;
use super::sections::Source;
use crate::backend::ingest::{NatsFrom, RedisFrom, Start, StreamSettings};

impl Config {
    /// What `[broker]` and each `[[source]]` do, one line for each.
    #[must_use]
    pub fn explained(&self) -> Vec<String> {
        let spaces = self.sections.spaces();
        let sources = spaces.iter().flat_map(|space| {
            let prefix = space.prefix();
            let sources = space.sources.iter().enumerate();
            sources.filter_map(move |(index, source)| Some(format!("{prefix}source[{index}] {}", explain(source)?)))
        });
        let broker = self.shared().map(|shared| format!("broker: {}", shared.explained()));
        broker.into_iter().chain(sources).collect()
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

#[cfg(test)]
mod tests {
    use crate::config::{Config, Environment};

    /// What is said about a file with this end.
    fn explained(toml: &str) -> Vec<String> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("tickgate.toml");
        std::fs::write(&file, toml).expect("written");
        let environment = Environment::of([("TICKGATE_JWT_SECRET", "0123456789abcdef0123456789abcdef")]);
        let config = Config::load(Some(&file), &environment);
        config.unwrap_or_else(|problems| panic!("{problems}")).explained()
    }

    #[test]
    fn a_broker_is_explained_with_what_its_server_needs() {
        assert!(explained("").is_empty(), "a gateway that stands alone");
        let nats = "[broker]\nkind = \"nats\"\nurl = [\"nats://a:4222\", \"nats://b:4222\"]\nprefix = \"edge.one\"\nreplicas = 3\n";
        assert_eq!(
            explained(nats),
            [
                "broker: all gateways with the prefix \"edge.one\" share the events of NATS at nats://a:4222, nats://b:4222. The stream \
                 edge_one_LOG keeps the last 5001 events of each channel with state, in at most 4096 MiB; edge_one_PLAIN keeps \
                 256 MiB of other events. Missing streams are made with 3 replicas, in files. The server's max_payload must be at \
                 least 263168 bytes."
            ]
        );
        let redis = "[broker]\nkind = \"redis\"\nurl = \"redis://a:6379/2\"\n";
        assert_eq!(
            explained(redis),
            [
                "broker: all gateways with the prefix \"tickgate\" share the events of Redis at redis://a:6379/2. The key \
                 {tickgate}:kept holds what a gateway needs that starts, in at most 4096 MiB; {tickgate}:events holds the last \
                 256 MiB of all events. The server needs about twice as much memory, and the maxmemory-policy noeviction."
            ]
        );
    }

    #[test]
    fn a_source_is_explained_with_its_channels_and_its_position() {
        let source = "[[source]]\nchannel = \"orders.a\"\nevent = \"update\"\n";
        let stream = format!("{source}nats = \"stream:ORDERS\"\n");
        let said = explained(&stream).concat();
        assert!(said.starts_with("source[0] reads the stream ORDERS of NATS"), "{said}");
        assert!(said.contains("its durable consumer"), "{said}");
    }
}
