//! The links to the exchanges, which break now and then.
//!
//! Invariant: `connected` and `disconnected` alternate per exchange, `connected` first; a break is announced by an
//! `error` and lasts a few seconds.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};

use super::event::{Events, Exchange, Level};
use super::market::EXCHANGES;

// In steps of the platform: how long a link holds, and how long a break lasts.
const UP: std::ops::Range<u64> = 450..1500;
const DOWN: std::ops::Range<u64> = 15..30;
// The error comes so many steps before the break.
const WARNING: u64 = 10;

#[derive(Clone, Copy, Debug)]
struct Link {
    online: bool,
    changes_at: u64,
}

/// What changed in a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken(pub usize);

/// All links.
#[derive(Debug)]
pub struct Exchanges {
    rng: SmallRng,
    step: u64,
    links: [Link; EXCHANGES.len()],
}

impl Exchanges {
    /// Links that are about to connect.
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

    /// Which are connected.
    #[must_use]
    pub fn online(&self) -> [bool; EXCHANGES.len()] {
        self.links.map(|link| link.online)
    }

    /// One step; tells which links broke in it.
    pub fn step(&mut self, events: &mut Events) -> Vec<Broken> {
        let mut broken = Vec::new();
        for (index, exchange) in EXCHANGES.into_iter().enumerate() {
            let link = &mut self.links[index];
            if link.online && self.step + WARNING == link.changes_at {
                tell(events, exchange, "error", Some("the order stream lags"), Level::Error);
            }
            if self.step < link.changes_at {
                continue;
            }
            link.online = !link.online;
            link.changes_at = self.step + self.rng.random_range(if link.online { UP } else { DOWN });
            if link.online {
                tell(events, exchange, "connected", None, Level::Info);
            } else {
                tell(
                    events,
                    exchange,
                    "disconnected",
                    Some("the connection was reset"),
                    Level::Warn,
                );
                broken.push(Broken(index));
            }
        }
        self.step += 1;
        broken
    }
}

fn tell(events: &mut Events, exchange: &str, event: &'static str, reason: Option<&str>, level: Level) {
    events.send("system.exchange", event, &Exchange { exchange, reason });
    events.log(level, "exchange", &format!("{exchange}: {}", reason.unwrap_or(event)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_connect_break_and_come_back() {
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
