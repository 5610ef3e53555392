//! The platform as a whole, on virtual time.

mod channels;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use serde_json::value::RawValue;

use super::super::actions::{ActionError, Caller, Reply};
use super::*;

const START_MS: u64 = 1_767_225_600_000;

fn platform(seed: u64) -> Platform {
    Platform::new(seed, &["u1", "u2"], START_MS)
}

fn raw(text: &str) -> Box<RawValue> {
    RawValue::from_string(text.to_owned()).expect("JSON")
}

fn by(user: &str) -> Caller<'_> {
    Caller { user, admin: false }
}

fn ask(platform: &mut Platform, user: &str, action: &str, params: &str) -> Result<Reply, ActionError> {
    platform.command(by(user), action, &raw(params))
}

fn seconds(platform: &mut Platform, count: u64) -> Vec<Outgoing> {
    let mut all = Vec::new();
    for _ in 0..count {
        let until = platform.events.now_ms + 1000;
        all.extend(platform.advance(until));
    }
    all
}

fn data(event: &Outgoing) -> Value {
    serde_json::from_str(event.data.get()).expect("JSON")
}

// Starts a grid around the current price that is narrow enough to trade every few seconds.
fn start_grid(platform: &mut Platform, user: &str) -> String {
    let price = platform.market.quotes[0].price.trunc();
    let (low, high) = (price - Decimal::from(1000), price + Decimal::from(1000));
    let params = format!(r#"{{"pair":"BTC-USDC","upper_price":{high},"lower_price":{low},"grid_count":20}}"#);
    match ask(platform, user, "grid.start", &params) {
        Ok(Reply::Grid {
            grid_id,
            status: "starting",
        }) => grid_id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_same_seed_and_commands_give_the_same_events() {
    let run = |seed| {
        let mut platform = platform(seed);
        let mut events = seconds(&mut platform, 20);
        start_grid(&mut platform, "u1");
        events.extend(seconds(&mut platform, 40));
        serde_json::to_string(&events).expect("JSON")
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn commands_do_not_move_the_market() {
    let (mut quiet, mut busy) = (platform(3), platform(3));
    start_grid(&mut busy, "u1");
    let market = |events: Vec<Outgoing>| -> Vec<String> {
        let of_market = events.iter().filter(|event| event.channel.starts_with("market."));
        of_market.map(|event| event.data.get().to_owned()).collect()
    };
    assert_eq!(market(seconds(&mut quiet, 30)), market(seconds(&mut busy, 30)));
}

#[test]
fn bad_params_and_wrong_states_are_validation_errors() {
    let mut platform = platform(5);
    seconds(&mut platform, 1);
    let grid = start_grid(&mut platform, "u1");
    seconds(&mut platform, 1);
    let id = |id: &str| format!(r#"{{"id":"{id}"}}"#);
    let update = |params: &str| format!(r#"{{"id":"{grid}","params":{params}}}"#);
    let cases: Vec<(&str, &str, String, &str)> = vec![
        ("u1", "grid.start", "null".into(), "params"),
        ("u1", "grid.start", "{}".into(), "missing field `pair`"),
        (
            "u1",
            "grid.start",
            r#"{"pair":"BTC-USDC","upper_price":"1","lower_price":1,"grid_count":5}"#.into(),
            "expected a number",
        ),
        (
            "u1",
            "grid.start",
            r#"{"pair":"BTC-USDC","upper_price":100000,"lower_price":100000,"grid_count":10}"#.into(),
            "upper_price must be greater than lower_price",
        ),
        (
            "u1",
            "grid.start",
            r#"{"pair":"DOGE","upper_price":2,"lower_price":1,"grid_count":10}"#.into(),
            "pair DOGE is unknown",
        ),
        (
            "u1",
            "grid.start",
            r#"{"pair":"BTC-USDC","upper_price":2,"lower_price":1,"grid_count":1000}"#.into(),
            "grid_count",
        ),
        (
            "u1",
            "grid.start",
            r#"{"pair":"BTC-USDC","upper_price":100000,"lower_price":90000,"grid_count":10,"amount":5}"#.into(),
            "exposure",
        ),
        ("u1", "grid.stop", id("grid_none"), "unknown"),
        ("u1", "grid.stop", "[]".into(), "params"),
        ("u2", "grid.stop", id(&grid), "unknown"),
        ("u2", "grid.update_params", update("{}"), "unknown"),
        (
            "u1",
            "grid.update_params",
            update(r#"{"upper_price":1}"#),
            "upper_price must be greater",
        ),
        ("u1", "grid.update_params", update(r#"{"amount":5}"#), "exposure"),
        ("u1", "grid.update_params", id(&grid), "missing field `params`"),
        (
            "u1",
            "backtest.run",
            r#"{"pair":"BTC-USDC","start_date":"x","end_date":"2024-01-01"}"#.into(),
            "start_date",
        ),
        ("u1", "backtest.cancel", id("backtest_none"), "unknown"),
        ("u1", "strategy.start", r#"{"pair":"X"}"#.into(), "pair X is unknown"),
        (
            "u1",
            "strategy.start",
            r#"{"pair":"BTC-USDC","fast":9,"slow":3}"#.into(),
            "slow",
        ),
        ("u1", "strategy.stop", id("strategy_none"), "unknown"),
        (
            "u1",
            "system.kill_switch",
            r#"{"action":"explode","reason":"x"}"#.into(),
            "action must be",
        ),
        ("u1", "system.kill_switch", r#"{"action":"activate"}"#.into(), "reason"),
        (
            "u1",
            "system.kill_switch",
            r#"{"action":"deactivate"}"#.into(),
            "inactive already",
        ),
    ];
    platform.events.take();
    for (user, action, params, part) in cases {
        let error = ask(&mut platform, user, action, &params).expect_err(&params);
        assert_eq!(error.code, "VALIDATION_ERROR", "{action} {params}");
        assert!(error.message.contains(part), "{action} {params}: {}", error.message);
        assert!(platform.events.take().is_empty(), "a refused command publishes nothing");
    }
    assert_eq!(
        ask(&mut platform, "u1", "grid.dance", "{}").expect_err("unknown").code,
        "UNKNOWN_ACTION"
    );

    ask(
        &mut platform,
        "u1",
        "grid.stop",
        &format!(r#"{{"id":"{grid}","cancel_orders":false}}"#),
    )
    .expect("stopped");
    for (action, params) in [
        ("grid.stop", format!(r#"{{"id":"{grid}","cancel_orders":false}}"#)),
        ("grid.update_params", update("{}")),
    ] {
        let error = ask(&mut platform, "u1", action, &params).expect_err("stopped");
        assert!(error.message.contains("stopped"), "{}", error.message);
    }
    ask(&mut platform, "u1", "grid.stop", &id(&grid)).expect("its orders are cancelled");
    let error = ask(&mut platform, "u1", "grid.stop", &id(&grid)).expect_err("gone");
    assert!(error.message.contains("ended already"), "{}", error.message);
}

#[test]
fn an_admin_may_stop_the_grids_of_other_users() {
    let mut platform = platform(5);
    let grid = start_grid(&mut platform, "u1");
    let stop = raw(&format!(r#"{{"id":"{grid}","cancel_orders":true}}"#));
    assert!(
        platform
            .command(
                Caller {
                    user: "root",
                    admin: true
                },
                "grid.stop",
                &stop
            )
            .is_ok()
    );
}

#[test]
fn a_stopped_grid_cancels_or_keeps_its_orders() {
    for cancel in [true, false] {
        let mut platform = platform(9);
        let grid = start_grid(&mut platform, "u1");
        seconds(&mut platform, 2);
        let resting = platform.grids[&grid].orders().count();
        assert_eq!(resting, 20);
        ask(
            &mut platform,
            "u1",
            "grid.stop",
            &format!(r#"{{"id":"{grid}","cancel_orders":{cancel}}}"#),
        )
        .expect("stopped");
        let events = seconds(&mut platform, 60);
        let count = |event: &str| {
            events
                .iter()
                .filter(|e| e.channel == format!("grid.{grid}.order") && e.event == event)
                .count()
        };
        assert_eq!(
            (count("placed"), count("cancelled")),
            (0, if cancel { resting } else { 0 })
        );
        assert_eq!(count("filled") > 0, !cancel, "orders that are left can still be filled");
        assert_eq!(
            events
                .iter()
                .filter(|e| e.channel.ends_with(".lifecycle") && e.event == "stopped")
                .count(),
            1
        );
    }
}

#[test]
fn the_kill_switch_stops_everything_and_keeps_it_stopped() {
    let mut platform = platform(9);
    let grids = [start_grid(&mut platform, "u1"), start_grid(&mut platform, "u2")];
    ask(&mut platform, "u1", "strategy.start", r#"{"pair":"ETH-USDC"}"#).expect("started");
    seconds(&mut platform, 5);
    let resting: usize = platform.grids.values().map(|grid| grid.orders().count()).sum();
    let reply = ask(
        &mut platform,
        "u1",
        "system.kill_switch",
        r#"{"action":"activate","reason":"drill"}"#,
    )
    .expect("activated");
    let affected = super::super::risk::Affected {
        grids_stopped: 2,
        strategies_stopped: 1,
        orders_cancelled: resting,
    };
    assert_eq!(reply, Reply::KillSwitch { active: true, affected });

    let events = seconds(&mut platform, 10);
    let of = |channel: &str, event: &str| {
        events
            .iter()
            .filter(|e| e.channel == channel && e.event == event)
            .count()
    };
    for grid in &grids {
        assert_eq!(of(&format!("grid.{grid}.risk"), "kill_switch"), 1);
        assert_eq!(of(&format!("grid.{grid}.lifecycle"), "stopped"), 1);
    }
    let cancelled = events.iter().filter(|event| event.event == "cancelled").count();
    assert_eq!(cancelled, resting);
    let event = events
        .iter()
        .find(|event| event.channel == "system.kill_switch")
        .expect("an event");
    assert_eq!(event.event, "activated");
    assert_eq!(data(event)["affected"]["orders_cancelled"], resting);
    let status = events
        .iter()
        .rfind(|event| event.channel == "system.status")
        .expect("an event");
    assert_eq!(data(status)["mode"], "halted");

    for (action, params) in [
        (
            "grid.start",
            r#"{"pair":"BTC-USDC","upper_price":97000,"lower_price":93000,"grid_count":10}"#,
        ),
        ("strategy.start", r#"{"pair":"BTC-USDC"}"#),
        ("system.kill_switch", r#"{"action":"activate","reason":"again"}"#),
    ] {
        let error = ask(&mut platform, "u1", action, params).expect_err("halted");
        assert!(error.message.contains("kill"), "{}", error.message);
    }
    ask(
        &mut platform,
        "u1",
        "system.kill_switch",
        r#"{"action":"deactivate","reason":"over"}"#,
    )
    .expect("deactivated");
    start_grid(&mut platform, "u1");
}

#[test]
fn new_parameters_replace_the_orders_and_keep_the_position() {
    let mut platform = platform(9);
    let grid = start_grid(&mut platform, "u1");
    seconds(&mut platform, 30);
    let position = platform.grids[&grid].position;
    ask(
        &mut platform,
        "u1",
        "grid.update_params",
        &format!(r#"{{"id":"{grid}","params":{{"grid_count":8}}}}"#),
    )
    .expect("updated");
    assert_eq!(platform.grids[&grid].position, position);
    let events = seconds(&mut platform, 1);
    assert_eq!(events.iter().filter(|event| event.event == "started").count(), 0);
    assert_eq!(platform.grids[&grid].orders().count(), 8);
}

#[test]
fn a_back_test_can_be_cancelled() {
    let mut platform = platform(9);
    let test = r#"{"pair":"BTC-USDC","start_date":"2024-01-01","end_date":"2024-12-31"}"#;
    let Ok(Reply::Backtest { backtest_id, .. }) = ask(&mut platform, "u1", "backtest.run", test) else {
        panic!("running")
    };
    seconds(&mut platform, 1);
    ask(
        &mut platform,
        "u1",
        "backtest.cancel",
        &format!(r#"{{"id":"{backtest_id}"}}"#),
    )
    .expect("cancelled");
    let events = seconds(&mut platform, 10);
    let lifecycle: Vec<&str> = events
        .iter()
        .filter(|e| e.channel.starts_with("backtest."))
        .map(|e| e.event)
        .collect();
    assert_eq!(lifecycle, ["cancelled"]);
}

#[test]
fn accounts_add_up_at_any_time() {
    for seed in 0..6 {
        let mut platform = platform(seed);
        for _ in 0..3 {
            let grid = start_grid(&mut platform, "u1");
            check(&mut platform, seed);
            let stop = format!(r#"{{"id":"{grid}","cancel_orders":true}}"#);
            ask(&mut platform, "u1", "grid.stop", &stop).expect("stopped");
        }
        check(&mut platform, seed);
    }
}

// For twenty-five seconds.
fn check(platform: &mut Platform, seed: u64) {
    for _ in 0..25 {
        seconds(platform, 1);
        let part = |part| serde_json::from_str::<Value>(platform.account("u1", part).get()).expect("JSON");
        let number = |data: &Value, field: &str| {
            serde_json::from_str::<Number>(&data[field].to_string())
                .unwrap_or_else(|_| panic!("{field} in {data}"))
                .0
        };
        let (balance, pnl) = (part(Part::Balance), part(Part::Pnl));
        let sum = number(&balance, "available_balance") + number(&balance, "used_margin");
        assert_eq!(number(&balance, "total_balance"), sum, "seed {seed}: {balance}");
        let gains = number(&pnl, "realized_pnl") + number(&pnl, "unrealized_pnl");
        assert_eq!(number(&pnl, "total_pnl"), gains, "seed {seed}: {pnl}");
        assert_eq!(number(&pnl, "today_pnl"), gains, "the first day");
        let difference = number(&balance, "total_balance") - super::super::accounts::OPENING - gains;
        assert!(difference.abs() < Decimal::new(1, 6), "seed {seed}: {difference}");
    }
}
