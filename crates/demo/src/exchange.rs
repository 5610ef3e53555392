//! Simulated connections to the exchanges, which break from time to time.
//!
//! Invariant: for each exchange, `connected` and `disconnected` alternate, beginning with `connected`. An `error` precedes
//! a `disconnected`, which lasts a few seconds.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::event::{Events, Exchange, Level};
use super::market::EXCHANGES;

// How long a connection stays up and how long it stays down, in steps of the platform.
const UP: std::ops::Range<u64> = 450..1500;
const DOWN: std::ops::Range<u64> = 15..30;
// The time from the error to the disconnection, in steps.
const WARNING: u64 = 10;

#[derive(Clone, Copy, Debug)]
struct Link {
    online: bool,
    changes_at: u64,
}

/// An exchange that was disconnected in a step, by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disconnected(pub usize);

/// The connections to all exchanges.
#[derive(Debug)]
pub struct Exchanges {
    rng: SmallRng,
    step: u64,
    links: [Link; EXCHANGES.len()],
}

impl Exchanges {
    /// Connections that open in the first step.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            rng: SmallRng::seed_from_u64(seed),
            step: 0,
            links: [Link {
                online: false,
                changes_at: 0,
            }; EXCHANGES.len()],
        }
    }

    /// Whether each exchange is connected.
    #[must_use]
    pub fn online(&self) -> [bool; EXCHANGES.len()] {
        self.links.map(|link| link.online)
    }

    /// Does one step and returns the exchanges that were disconnected in it.
    pub fn step(&mut self, events: &mut Events) -> Vec<Disconnected> {
        let mut disconnected = Vec::new();
        for (index, exchange) in EXCHANGES.into_iter().enumerate() {
            let link = &mut self.links[index];
            if link.online && self.step + WARNING == link.changes_at {
                publish(events, exchange, "error", Some("the order stream lags"), Level::Error);
            }
            if self.step < link.changes_at {
                continue;
            }
            link.online = !link.online;
            link.changes_at = self.step + self.rng.random_range(if link.online { UP } else { DOWN });
            if link.online {
                publish(events, exchange, "connected", None, Level::Info);
            } else {
                publish(
                    events,
                    exchange,
                    "disconnected",
                    Some("the connection was reset"),
                    Level::Warn,
                );
                disconnected.push(Disconnected(index));
            }
        }
        self.step += 1;
        disconnected
    }
}

fn publish(events: &mut Events, exchange: &str, event: &'static str, reason: Option<&str>, level: Level) {
    events.send("system.exchange", event, &Exchange { exchange, reason });
    events.log(level, "exchange", &format!("{exchange}: {}", reason.unwrap_or(event)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exchanges_connect_disconnect_and_reconnect() {
        let (mut exchanges, mut events) = (Exchanges::new(3), Events::default());
        for _ in 0..5_000 {
            exchanges.step(&mut events);
        }
        let events = events.take();
        for exchange in EXCHANGES {
            let story: Vec<&str> = events
                .iter()
                .filter(|event| event.channel == "system.exchange" && event.data.get().contains(exchange))
                .map(|event| event.event)
                .collect();
            assert_eq!(story[..5], ["connected", "error", "disconnected", "connected", "error"]);
        }
    }
}
