//! What the shard says about a subscribe request, as transcripts write it.

use crate::session::Suspended;
use crate::session::tests::drive::epoch;
use tickgate_protocol::channel::{Channel, Pattern};
use tickgate_protocol::message::{Cursor, Position, Recovered, SubscribeOutcome};

pub(super) fn read(words: &[&str]) -> SubscribeOutcome {
    let mut outcome = SubscribeOutcome::default();
    for word in words {
        let Some((channel, found)) = word.split_once('=') else {
            match *word {
                "cut" => outcome.cut = true,
                "recovered" => outcome.recovered = Some(Recovered::Except(Vec::new())),
                other => panic!("{other}"),
            }
            continue;
        };
        let channel = Channel::parse(channel).unwrap();
        match found.parse() {
            Ok(offset) => {
                let epoch = epoch();
                outcome.positions.push((channel, Position { epoch, offset }));
            }
            Err(_) => {
                let recovered = outcome.recovered.get_or_insert_with(|| Recovered::Each(Vec::new()));
                match recovered {
                    Recovered::Each(channels) => channels.push((channel, found == "true")),
                    Recovered::Except(channels) => channels.push(channel),
                }
            }
        }
    }
    outcome
}

/// What was suspended, by its patterns; `None` without any.
pub(super) fn suspended(patterns: &[&str]) -> Option<Suspended> {
    let pattern = |name: &&str| (Pattern::parse(name).expect("a pattern"), None);
    (!patterns.is_empty()).then(|| Suspended {
        user: Some("4".into()),
        patterns: patterns.iter().map(pattern).collect(),
        window_ms: 120_000,
        subscribed_at: 0,
    })
}

/// What a client says that returns with a cursor.
pub(super) fn cursor(cursor: Option<Cursor>, seen: &[(Channel, u64)]) -> String {
    let cursor = cursor.map_or("?".to_owned(), |cursor| cursor.to_string());
    let seen = seen.iter().map(|(channel, offset)| format!(" {channel}={offset}"));
    format!(" cursor {cursor}{}", seen.collect::<String>())
}
