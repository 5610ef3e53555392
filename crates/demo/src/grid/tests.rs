//! Grids in markets of any seed: their events must add up.

use proptest::prelude::*;

use super::super::market::Market;
use super::*;

fn params(lower: i64, upper: i64, grid_count: u32) -> GridParams {
    GridParams {
        pair: "BTC-USDC".to_owned(),
        upper_price: Decimal::from(upper).into(),
        lower_price: Decimal::from(lower).into(),
        grid_count,
        amount: None,
        max_position: None,
    }
}

fn start(params: GridParams) -> Grid {
    let plan = params.plan().expect("valid");
    Grid::new("g".to_owned(), "u".to_owned(), params, plan)
}

fn decimal(data: &serde_json::Value, field: &str) -> Decimal {
    serde_json::from_str::<Number>(&data[field].to_string())
        .unwrap_or_else(|_| panic!("{field} in {data}"))
        .0
}

#[test]
fn invalid_parameters_are_refused_with_a_reason() {
    let with = |change: &dyn Fn(&mut GridParams)| {
        let mut params = params(90_000, 100_000, 10);
        change(&mut params);
        params.plan().map(|_| ()).expect_err("refused")
    };
    let number = |text: &str| serde_json::from_str::<Number>(text).expect("a number");
    for (error, part) in [
        (with(&|p| p.pair = "BTC-EUR".to_owned()), "pair"),
        (
            with(&|p| p.upper_price = number("90000")),
            "upper_price must be greater than lower_price",
        ),
        (
            with(&|p| p.upper_price = number("1")),
            "upper_price must be greater than lower_price",
        ),
        (with(&|p| p.lower_price = number("0")), "lower_price"),
        (with(&|p| p.lower_price = number("-5")), "lower_price"),
        (with(&|p| p.grid_count = 1), "grid_count"),
        (with(&|p| p.grid_count = 101), "grid_count"),
        (with(&|p| p.upper_price = number("90000.5")), "grid_count is too large"),
        (with(&|p| p.amount = Some(number("0"))), "amount"),
        (with(&|p| p.amount = Some(number("0.00001"))), "amount"),
        (with(&|p| p.max_position = Some(number("0.0001"))), "max_position"),
    ] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn orders_are_placed_on_both_sides_of_the_price() {
    let mut events = Events::default();
    let market = Market::new(1);
    let mut grid = start(params(90_000, 100_000, 10));
    grid.step(&market.quotes[0], &mut events);
    let price = market.quotes[0].price;
    assert_eq!(grid.orders().count(), 10, "eleven lines, one of them free");
    for order in grid.orders() {
        assert_eq!(order.side == Side::Buy, order.price < price, "{order:?} at {price}");
    }
}

#[test]
fn a_position_limit_bars_the_outer_lines() {
    let (mut events, mut market) = (Events::default(), Market::new(3));
    let limit = Decimal::new(2, 3);
    let mut grid = start(GridParams {
        max_position: Some(limit.into()),
        ..params(93_000, 97_000, 20)
    });
    let mut rejected = 0;
    for _ in 0..5_000 {
        market.step([true; 2]);
        grid.step(&market.quotes[0], &mut events);
        assert!(grid.position.size.abs() <= limit, "{}", grid.position.size);
        rejected += events.take().iter().filter(|event| event.event == "rejected").count();
    }
    assert!(
        rejected > 0 && grid.position.fees > Decimal::ZERO,
        "it was refused and it traded"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn the_story_of_a_grid_adds_up(seed: u64, half_width in 200i64..5_000, grid_count in 2u32..=60, steps in 50usize..800) {
        let (mut events, mut market) = (Events::default(), Market::new(seed));
        let mut grid = start(params(95_000 - half_width, 95_000 + half_width, grid_count));
        let (mut placed, mut filled, mut cancelled) = (0, 0, 0);
        let (mut size, mut realized, mut fees, mut traded) = (Decimal::ZERO, Decimal::ZERO, Decimal::ZERO, Decimal::ZERO);
        for step in 0..=steps {
            market.step([true; 2]);
            let quote = &market.quotes[0];
            if step == steps {
                grid.stop(true, "test", &mut events);
            } else {
                traded += grid.step(quote, &mut events);
                prop_assert_eq!(grid.lines.iter().filter(|line| matches!(line, Line::Free)).count(), 1, "one free line");
                for order in grid.orders() {
                    let crossed = if order.side == Side::Buy { order.price >= quote.best_ask } else { order.price <= quote.best_bid };
                    prop_assert!(!crossed, "an order the market has reached still rests");
                }
            }
            for event in events.take() {
                let data: serde_json::Value = serde_json::from_str(event.data.get()).expect("JSON");
                match (event.channel.as_str(), event.event) {
                    ("grid.g.order", "placed") => placed += 1,
                    ("grid.g.order", "cancelled") => cancelled += 1,
                    ("grid.g.order", "filled") => {
                        filled += 1;
                        let amount = decimal(&data, "amount");
                        size += if data["side"] == "buy" { amount } else { -amount };
                        prop_assert_eq!(decimal(&data, "position_after"), size);
                    }
                    ("grid.g.trade", "executed") => {
                        realized += decimal(&data, "realized_pnl");
                        fees += decimal(&data, "fee");
                    }
                    ("grid.g.pnl", "updated") => {
                        let sum = decimal(&data, "realized_pnl") + decimal(&data, "unrealized_pnl");
                        prop_assert_eq!(decimal(&data, "total_pnl"), sum);
                        prop_assert_eq!(decimal(&data, "realized_pnl"), realized);
                    }
                    _ => {}
                }
            }
            let mark = market.quotes[0].price;
            let position = &grid.position;
            prop_assert_eq!((position.size, position.realized_net(), position.fees), (size, realized, fees));
            prop_assert_eq!(position.cash + position.size * mark, position.total(mark), "equity");
            prop_assert_eq!(placed, filled + cancelled + grid.orders().count(), "every order has one end");
        }
        prop_assert!(grid.is_finished());
        prop_assert_eq!(traded.is_zero(), filled == 0);
    }
}
