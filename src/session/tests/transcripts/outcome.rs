//! What the shard says about a subscribe request, as transcripts write it.

use crate::session::tests::drive::epoch;
use tickgate_protocol::channel::Channel;
use tickgate_protocol::message::{Position, Recovered, SubscribeOutcome};

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
