//! The fields and the rate of every channel.

use super::*;

// Channel (`G`, `B` and `S` stand for the ids), event, the smallest and largest number of events in two minutes, and the
// fields.
const CHANNELS: &str = "
grid.G.status         update            119  121 id current_price position active_buy_orders active_sell_orders realized_pnl unrealized_pnl
grid.G.order          placed             20 4000 grid_id level side price amount position_after
grid.G.order          filled              1 4000 grid_id level side price amount position_after
grid.G.trade          executed            1 4000 grid_id side price amount fee realized_pnl
grid.G.pnl            updated             1 4000 realized_pnl unrealized_pnl total_pnl
grid.G.risk           check              11   13 rule reason
grid.G.lifecycle      started             1    1 id
backtest.B.progress   update              3    8 id progress current_date trades_count current_equity
backtest.B.lifecycle  started             1    1 id
backtest.B.lifecycle  completed           1    1 id result
strategy.S.status     update            100  121 id name pair current_price signals_count last_signal
strategy.S.signal     generated           1  120 id pair side price reason
strategy.S.lifecycle  started             1    1 id
system.health         update             24   25 status uptime_s
system.status         system_status      24   25 mode points_today volume_today
system.exchange       connected           2   10 exchange
system.log            info                3  100 level source message
system.log            debug              12   13 level source message
market.BTC-USDC.price price_update      500  600 symbol price change_24h
market.KOGE/USDT.orderbook orderbook_update 500 600 bids asks
market.KOGE/USDT.trade trade_executed   100 1000 side price quantity cost
";

#[test]
fn every_channel_has_its_fields_and_its_rate() {
    let mut platform = platform(11);
    let grid = start_grid(&mut platform, "u1");
    let strategy = ask(
        &mut platform,
        "u1",
        "strategy.start",
        r#"{"pair":"ETH-USDC","fast":2,"slow":4}"#,
    );
    let Ok(Reply::Strategy { strategy_id, .. }) = strategy else {
        panic!("{strategy:?}")
    };
    let test = r#"{"pair":"BTC-USDC","start_date":"2024-01-01","end_date":"2024-06-30"}"#;
    let test = ask(&mut platform, "u1", "backtest.run", test);
    let Ok(Reply::Backtest { backtest_id, .. }) = test else {
        panic!("{test:?}")
    };

    let mut events: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for event in seconds(&mut platform, 120) {
        let channel = event
            .channel
            .replace(&grid, "G")
            .replace(&strategy_id, "S")
            .replace(&backtest_id, "B");
        events
            .entry(format!("{channel} {}", event.event))
            .or_default()
            .push(data(&event));
    }
    for expected in CHANNELS.trim().lines() {
        let words: Vec<&str> = expected.split_whitespace().collect();
        let name = format!("{} {}", words[0], words[1]);
        let all = events.get(&name).unwrap_or_else(|| panic!("no {name}"));
        let bounds = |at: usize| words[at].parse::<usize>().expect("a number");
        assert!((bounds(2)..=bounds(3)).contains(&all.len()), "{name}: {}", all.len());
        let rows: Vec<&Value> = all.iter().flat_map(rows).collect();
        assert!(!rows.is_empty(), "{name} says nothing");
        for row in rows {
            let missing: Vec<&&str> = words[4..].iter().filter(|field| row.get(**field).is_none()).collect();
            assert!(missing.is_empty(), "{name}: no {missing:?} in {row}");
        }
    }
}

// The rows of an array, or the single object.
fn rows(data: &Value) -> Vec<&Value> {
    data.as_array().map_or_else(|| vec![data], |rows| rows.iter().collect())
}

// A part and its fields.
const PARTS: [(Part, &str); 4] = [
    (Part::Balance, "total_balance available_balance used_margin"),
    (Part::Pnl, "total_pnl today_pnl unrealized_pnl realized_pnl"),
    (
        Part::Positions,
        "symbol side size entry_price mark_price unrealized_pnl",
    ),
    (Part::Orders, "order_id symbol side quantity price status"),
];

#[test]
fn every_part_of_an_account_has_its_fields() {
    let mut platform = platform(11);
    start_grid(&mut platform, "u1");
    seconds(&mut platform, 60);
    for (part, fields) in PARTS {
        let answer: Value = serde_json::from_str(platform.account("u1", part).get()).expect("JSON");
        assert!(!rows(&answer).is_empty(), "{} says nothing", part.name());
        for row in rows(&answer) {
            let missing: Vec<&str> = fields.split(' ').filter(|field| row.get(*field).is_none()).collect();
            assert!(missing.is_empty(), "{}: no {missing:?} in {row}", part.name());
        }
    }
    let stranger: Value = serde_json::from_str(platform.account("u9", Part::Balance).get()).expect("JSON");
    assert_eq!(stranger["total_balance"], 100_000, "an unused account");
    assert_eq!(platform.account("u9", Part::Positions).get(), "[]");
}

#[test]
fn a_new_day_begins_with_no_gains() {
    let mut platform = platform(7);
    start_grid(&mut platform, "u1");
    seconds(&mut platform, 60);
    let pnl =
        |platform: &Platform| -> Value { serde_json::from_str(platform.account("u1", Part::Pnl).get()).expect("JSON") };
    let first = pnl(&platform);
    assert_eq!(first["today_pnl"], first["total_pnl"]);
    assert_ne!(first["total_pnl"], 0);
    // The driver was delayed over midnight: one step, on the next day.
    platform.advance(START_MS + 86_400_000);
    let second = pnl(&platform);
    assert_eq!(second["today_pnl"], 0, "{second}");
    assert_ne!(second["total_pnl"], 0);
}

#[test]
fn the_first_status_is_published_in_the_first_second() {
    let mut platform = platform(5);
    let events = seconds(&mut platform, 1);
    let channels: BTreeSet<&str> = events.iter().map(|event| event.channel.as_str()).collect();
    for channel in ["system.health", "system.status", "market.BTC-USDC.price"] {
        assert!(channels.contains(channel), "{channel}");
    }
}

#[test]
fn a_long_delay_of_the_driver_is_not_made_up_for() {
    let mut platform = platform(5);
    let events = platform.advance(START_MS + 86_400_000);
    assert!(
        events
            .iter()
            .filter(|event| event.channel == "market.BTC-USDC.price")
            .count()
            <= 10
    );
}
