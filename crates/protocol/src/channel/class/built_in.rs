//! The built-in classes.

use std::sync::Arc;

use super::{Class, History, Overflow};
use crate::channel::Pattern;

impl Class {
    pub(super) fn last() -> Self {
        Self {
            cache_last: true,
            overflow: Overflow::Conflate,
            ..Self::default()
        }
    }

    pub(super) fn records(key: &str) -> Self {
        Self {
            record_key: Some(key.into()),
            ..Self::last()
        }
    }

    fn history(cache_last: bool, overflow: Overflow) -> Self {
        Self {
            cache_last,
            history: Some(History::BUILT_IN),
            overflow,
            ..Self::default()
        }
    }
}

/// The built-in table (docs/protocol.md).
pub(super) fn built_in() -> Vec<(Pattern, Arc<Class>)> {
    let last = Arc::new(Class::last());
    let records = Arc::new(Class::records("code"));
    let last_and_history = Arc::new(Class::history(true, Overflow::Disconnect));
    let history = Arc::new(Class::history(false, Overflow::Disconnect));
    let trades = Arc::new(Class::history(false, Overflow::DropOldest));
    let rows: [(&[&str], &Arc<Class>); 5] = [
        (
            &[
                "market.*.price",
                "market.*.orderbook",
                "*.*.status",
                "*.*.pnl",
                "backtest.*.progress",
                "system.health",
                "system.status",
                "user.*",
            ],
            &last,
        ),
        (&["stock.*.price", "strategy.*.prices", "board.*.prices"], &records),
        (&["*.*.lifecycle", "system.kill_switch"], &last_and_history),
        (
            &[
                "grid.*.order",
                "grid.*.trade",
                "grid.*.risk",
                "strategy.*.signal",
                "system.exchange",
            ],
            &history,
        ),
        (&["market.*.trade"], &trades),
    ];
    let rows = rows.into_iter();
    rows.flat_map(|(patterns, class)| {
        let pattern = |text: &&str| Pattern::parse(text).expect("a test checks the built-in patterns");
        patterns.iter().map(move |text| (pattern(text), Arc::clone(class)))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::{Channel, Classes};

    fn channel(name: &str) -> Channel {
        Channel::parse(name).expect("valid")
    }

    // The rows of the table in docs/protocol.md.
    #[test]
    fn the_built_in_classes_are_those_of_the_documentation() {
        let classes = Classes::default();
        for (names, cache_last, history, overflow, key) in [
            (
                "market.BTC/USDT.price market.x.orderbook grid.g.status strategy.s.status grid.g.pnl backtest.b.progress \
                 system.health system.status user.7.balance user.7 user.7.pnl user.7.lifecycle user.7.a.b",
                true,
                false,
                Overflow::Conflate,
                None,
            ),
            (
                "stock.600519.price strategy.volume_wave.prices board.b.prices",
                true,
                false,
                Overflow::Conflate,
                Some("code"),
            ),
            (
                "grid.g.lifecycle backtest.b.lifecycle strategy.s.lifecycle system.kill_switch",
                true,
                true,
                Overflow::Disconnect,
                None,
            ),
            (
                "grid.g.order grid.g.trade grid.g.risk strategy.s.signal system.exchange",
                false,
                true,
                Overflow::Disconnect,
                None,
            ),
            ("market.BTC/USDT.trade", false, true, Overflow::DropOldest, None),
            (
                "system.log system.gateway.n1 grid.g grid.g.order.x status a.status market.x.y.price anything",
                false,
                false,
                Overflow::DropOldest,
                None,
            ),
        ] {
            for name in names.split_whitespace() {
                let class = classes.of(&channel(name));
                let expected = Class {
                    cache_last,
                    history: history.then_some(History::BUILT_IN),
                    overflow,
                    record_key: key.map(Into::into),
                    ..Class::default()
                };
                assert_eq!(**class, expected, "{name}");
                assert_eq!(class.keeps_state(), cache_last || history, "{name}");
            }
        }
        for (pattern, class) in classes.entries() {
            assert_eq!(class.check(), Ok(()), "{pattern}");
        }
    }
}
