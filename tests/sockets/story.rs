//! Checks that the events of one grid of the demo are consistent.

use std::collections::BTreeMap;
use std::str::FromStr as _;

use rust_decimal::Decimal;
use serde_json::{Value, json};

fn decimal(value: &Value) -> Decimal {
    Decimal::from_str(&value.to_string()).unwrap_or_else(|_| panic!("a number: {value}"))
}

/// The state of one grid, computed from its events.
#[derive(Debug, Default)]
pub(crate) struct Story {
    pub(crate) started: bool,
    pub(crate) stopped: bool,
    pub(crate) resting: BTreeMap<u64, (String, Decimal)>,
    pub(crate) position: Decimal,
    pub(crate) realized: Decimal,
    pub(crate) filled: Vec<(String, Decimal)>,
    pub(crate) cancelled: usize,
    pub(crate) statuses: usize,
}

impl Story {
    /// Applies the events of `grid` and checks that each is consistent with the earlier ones.
    pub(crate) fn of(events: &[Value], grid: &str) -> Self {
        let mut story = Self::default();
        for event in events {
            let Some(kind) = event["channel"]
                .as_str()
                .and_then(|channel| channel.strip_prefix(&format!("grid.{grid}.")))
            else {
                continue;
            };
            let name = event["event"].as_str().expect("a name");
            assert!(!story.stopped, "after the end: {event}");
            story.read(kind, name, &event["data"]);
        }
        story
    }

    fn read(&mut self, kind: &str, event: &str, data: &Value) {
        match (kind, event) {
            ("lifecycle", "started") => self.started = true,
            ("lifecycle", "stopped") => self.stopped = true,
            ("order", _) => self.order(event, data),
            ("trade", "executed") => {
                let filled = self.filled.last().expect("an order was filled before");
                assert_eq!(
                    (&json!(filled.0), filled.1),
                    (&data["side"], decimal(&data["price"])),
                    "{data}"
                );
                assert!(decimal(&data["fee"]) > Decimal::ZERO);
                self.realized += decimal(&data["realized_pnl"]);
            }
            ("pnl", "updated") => {
                assert_eq!(
                    decimal(&data["realized_pnl"]),
                    self.realized,
                    "the sum of the trades: {data}"
                );
                let difference = decimal(&data["total_pnl"]) - self.realized - decimal(&data["unrealized_pnl"]);
                assert!(difference.abs() <= Decimal::new(1, 7), "{data}");
            }
            ("status", "update") => {
                let resting = |side: &str| self.resting.values().filter(|order| order.0 == side).count();
                assert_eq!(data["active_buy_orders"], resting("buy"), "{data}");
                assert_eq!(data["active_sell_orders"], resting("sell"), "{data}");
                assert_eq!(decimal(&data["position"]), self.position, "{data}");
                assert_eq!(decimal(&data["realized_pnl"]), self.realized, "{data}");
                self.statuses += 1;
            }
            ("risk", _) => assert!(data["rule"].is_string() && data["reason"].is_string()),
            other => panic!("{other:?}: {data}"),
        }
    }

    fn order(&mut self, event: &str, data: &Value) {
        assert!(self.started, "an order before the start: {data}");
        let level = data["level"].as_u64().expect("a level");
        let order = (
            data["side"].as_str().expect("a side").to_owned(),
            decimal(&data["price"]),
        );
        match event {
            "placed" => assert_eq!(self.resting.insert(level, order), None, "the line is taken: {data}"),
            "cancelled" => {
                assert_eq!(self.resting.remove(&level), Some(order), "{data}");
                self.cancelled += 1;
            }
            "filled" => {
                assert_eq!(self.resting.remove(&level).as_ref(), Some(&order), "{data}");
                let amount = decimal(&data["amount"]);
                self.position += if order.0 == "buy" { amount } else { -amount };
                self.filled.push(order);
            }
            other => panic!("{other}"),
        }
        assert_eq!(decimal(&data["position_after"]), self.position, "{data}");
    }
}
