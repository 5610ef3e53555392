//! `tickgate demo`, used as the platform's TypeScript client uses the platform.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};

use super::clients::{Client, Told};
use super::harness::{Gateway, until, within};
use super::redis_server::Redis;
use super::story::Story;

struct Demo {
    gateway: Gateway,
    page: SocketAddr,
    trader: String,
    admin: String,
}

impl Demo {
    async fn start() -> Self {
        Self::start_with(&[]).await
    }

    async fn start_with(more: &[&str]) -> Self {
        let arguments = [&["demo", "--page", "127.0.0.1:0", "--seed", "7"], more].concat();
        let gateway = Gateway::start_as(&arguments, &[], "", "").await;
        let printed = until("the banner", async || {
            let printed = gateway.printed();
            printed.contains("curl").then_some(printed)
        })
        .await;
        let field = |name: &str| {
            let line = printed.lines().find_map(|line| line.trim().strip_prefix(name));
            line.unwrap_or_else(|| panic!("no {name} in {printed}"))
                .trim()
                .to_owned()
        };
        let page = field("page")
            .replace("http://", "")
            .replace('/', "")
            .parse()
            .expect("an address");
        let (trader, admin) = (field("trader token"), field("admin token"));
        Self {
            gateway,
            page,
            trader,
            admin,
        }
    }

    /// Sends a request to the backend's own port and returns status and body.
    async fn backend(&self, method: &str, path: &str, host: &str, body: &str) -> (u16, String) {
        let stream = tokio::net::TcpStream::connect(self.page).await.expect("connected");
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
        let (mut sender, connection) = handshake.await.expect("an HTTP connection");
        tokio::spawn(connection);
        let request = hyper::Request::builder().method(method).uri(path).header("Host", host);
        let request = request
            .body(Full::new(bytes::Bytes::from(body.to_owned())))
            .expect("a request");
        let response = within(path, sender.send_request(request)).await.expect("answered");
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (status, String::from_utf8(body.to_vec()).expect("UTF-8"))
    }
}

/// A client that keeps all received events, in order.
struct Watcher {
    client: Client,
    events: Vec<Value>,
    commands: usize,
}

impl Watcher {
    async fn new(gateway: &Gateway, token: &str, channels: &[&str]) -> Self {
        let mut client = gateway.connect(token).await;
        client.subscribe(channels).await;
        Self {
            client,
            events: Vec::new(),
            commands: 0,
        }
    }

    /// Sends a command and waits for its response. Events that arrive in the meantime are kept. A command that exceeds the
    /// rate limit is sent again.
    async fn command(&mut self, action: &str, params: Value) -> Value {
        loop {
            let response = self.command_once(action, &params).await;
            if response["error"]["code"] != "RATE_LIMITED" {
                return response;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn command_once(&mut self, action: &str, params: &Value) -> Value {
        self.commands += 1;
        let id = format!("cmd_{}", self.commands);
        self.client
            .send(&json!({"type": "command", "id": id, "action": action, "params": params}))
            .await;
        loop {
            let told = self.client.next().await;
            let Told::Message(message) = told else {
                panic!("{told:?}")
            };
            if message["type"] == "response" {
                assert_eq!(message["id"], id, "{message}");
                return message;
            }
            assert_eq!(message["type"], "event", "{message}");
            self.events.push(message);
        }
    }

    async fn succeed(&mut self, action: &str, params: Value) -> Value {
        let response = self.command(action, params).await;
        assert_eq!(response["success"], true, "{action}: {response}");
        response["data"].clone()
    }

    async fn fail(&mut self, action: &str, params: Value) -> (String, String) {
        let response = self.command(action, params).await;
        let text = |field: &str| response["error"][field].as_str().unwrap_or_default().to_owned();
        assert_eq!(response["success"], false, "{action}: {response}");
        (text("code"), text("message"))
    }

    /// Waits for an event of this channel and name, unless one was received already.
    async fn told(&mut self, channel: &str, event: &str) {
        let is_it = |told: &Value| told["channel"] == channel && told["event"] == event;
        while !self.events.iter().any(is_it) {
            let told = self.client.expect("event").await;
            self.events.push(told);
        }
    }

    /// Waits for the next event of this channel and name and returns its data.
    async fn event(&mut self, channel: &str, event: &str) -> Value {
        loop {
            let told = self.client.expect("event").await;
            self.events.push(told.clone());
            if told["channel"] == channel && told["event"] == event {
                return told["data"].clone();
            }
        }
    }

    async fn price(&mut self) -> f64 {
        let data = self.event("market.BTC-USDC.price", "price_update").await;
        data["price"].as_f64().expect("a number")
    }

    /// Starts a grid of twenty intervals within one per cent of the price.
    async fn start_grid(&mut self) -> String {
        let price = self.price().await;
        let (upper_price, lower_price) = ((price * 1.01).round(), (price * 0.99).round());
        let params =
            json!({"pair": "BTC-USDC", "upper_price": upper_price, "lower_price": lower_price, "grid_count": 20});
        let data = self.succeed("grid.start", params).await;
        assert_eq!(data["status"], "starting");
        data["grid_id"].as_str().expect("an id").to_owned()
    }
}

#[tokio::test]
async fn the_events_of_a_grid_are_consistent_from_start_to_stop() {
    let demo = Demo::start().await;
    let channels = ["grid.*", "system.health", "market.BTC-USDC.price"];
    let mut trader = Watcher::new(&demo.gateway, &demo.trader, &channels).await;
    let health = trader.event("system.health", "update").await;
    assert!(health["uptime_s"].is_u64() && health["status"].is_string(), "{health}");

    let grid = trader.start_grid().await;
    for (kind, event) in [
        ("lifecycle", "started"),
        ("order", "placed"),
        ("order", "filled"),
        ("trade", "executed"),
        ("pnl", "updated"),
        ("status", "update"),
    ] {
        trader.event(&format!("grid.{grid}.{kind}"), event).await;
    }
    for _ in 0..5 {
        trader.event(&format!("grid.{grid}.trade"), "executed").await;
        trader.event(&format!("grid.{grid}.status"), "update").await;
    }
    let data = trader
        .succeed("grid.stop", json!({"id": grid, "cancel_orders": true}))
        .await;
    assert_eq!(data, json!({"grid_id": grid, "status": "stopped"}));
    trader.event(&format!("grid.{grid}.lifecycle"), "stopped").await;
    // An event of the grid after its end would arrive before these.
    for _ in 0..10 {
        trader.price().await;
    }
    let story = Story::of(&trader.events, &grid);
    assert!(story.started && story.stopped && story.resting.is_empty(), "{story:?}");
    assert!(
        story.filled.len() >= 6 && story.statuses >= 5 && story.cancelled == 20,
        "{story:?}"
    );

    let (code, message) = trader.fail("grid.stop", json!({"id": grid})).await;
    assert_eq!(code, "VALIDATION_ERROR");
    assert!(message.contains("ended already"), "{message}");
}

#[tokio::test]
async fn the_kill_switch_stops_everything_and_is_audited() {
    let demo = Demo::start().await;
    let mut trader = Watcher::new(
        &demo.gateway,
        &demo.trader,
        &["grid.*", "strategy.*", "market.BTC-USDC.price"],
    )
    .await;
    let mut admin = Watcher::new(&demo.gateway, &demo.admin, &["system.kill_switch", "system.log"]).await;
    let grids = [trader.start_grid().await, trader.start_grid().await];
    let strategy = trader.succeed("strategy.start", json!({"pair": "ETH-USDC"})).await["strategy_id"].clone();
    let strategy = strategy.as_str().expect("an id").to_owned();
    for grid in &grids {
        trader.event(&format!("grid.{grid}.status"), "update").await;
    }
    trader.event(&format!("strategy.{strategy}.lifecycle"), "started").await;

    let activate = json!({"action": "activate", "reason": "drill"});
    assert_eq!(trader.fail("system.kill_switch", activate.clone()).await.0, "FORBIDDEN");
    let data = admin.succeed("system.kill_switch", activate.clone()).await;
    let told = admin.event("system.kill_switch", "activated").await;
    assert_eq!(
        (&told["reason"], &told["affected"]),
        (&json!("drill"), &data["affected"])
    );
    assert_eq!(
        (
            &data["affected"]["grids_stopped"],
            &data["affected"]["strategies_stopped"]
        ),
        (&json!(2), &json!(1))
    );

    trader.event(&format!("strategy.{strategy}.lifecycle"), "stopped").await;
    for _ in 0..5 {
        trader.price().await;
    }
    let stories = grids.each_ref().map(|grid| Story::of(&trader.events, grid));
    assert!(
        stories.iter().all(|story| story.stopped && story.resting.is_empty()),
        "{stories:?}"
    );
    let cancelled: usize = stories.iter().map(|story| story.cancelled).sum();
    assert_eq!(data["affected"]["orders_cancelled"], cancelled);
    for grid in &grids {
        let channel = format!("grid.{grid}.risk");
        assert!(
            trader
                .events
                .iter()
                .any(|event| event["channel"] == channel && event["event"] == "kill_switch")
        );
    }
    // Both commands are audited, the refused one and the successful one.
    for (level, user, role, outcome) in [
        ("warn", "trader", "trader", "refused"),
        ("info", "admin", "admin", "success"),
    ] {
        let is_audit = |event: &&Value| event["data"]["source"] == "audit" && event["event"] == level;
        let audit = loop {
            let entry = match admin.events.iter().find(is_audit) {
                Some(event) => event["data"].clone(),
                None => admin.event("system.log", level).await,
            };
            if entry["source"] == "audit" {
                break entry;
            }
        };
        for (field, value) in [
            ("action", "system.kill_switch"),
            ("user", user),
            ("role", role),
            ("address", "127.0.0.1"),
            ("outcome", outcome),
        ] {
            assert_eq!(audit[field], value, "{audit}");
        }
    }
    assert!(demo.gateway.log().contains("\"audit\""), "the log has no audit line");

    let start = json!({"pair": "BTC-USDC", "upper_price": 97000, "lower_price": 93000, "grid_count": 10});
    let (code, message) = trader.fail("grid.start", start.clone()).await;
    assert_eq!(code, "VALIDATION_ERROR");
    assert!(message.contains("kill switch"), "{message}");
    admin
        .succeed("system.kill_switch", json!({"action": "deactivate", "reason": "over"}))
        .await;
    trader.succeed("grid.start", start).await;
}

#[tokio::test]
async fn every_action_is_answered_and_every_kind_of_channel_has_events() {
    let demo = Demo::start().await;
    let channels = [
        "backtest.*",
        "strategy.*",
        "stock.*",
        "board.*",
        "market.*",
        "system.status",
        "system.log",
    ];
    let mut trader = Watcher::new(&demo.gateway, &demo.trader, &channels).await;
    let account = ["balance", "positions", "pnl", "orders"].map(|part| format!("user.trader.{part}"));
    trader.client.subscribe(&account.each_ref().map(String::as_str)).await;
    let config =
        json!({"pair": "BTC-USDC", "start_date": "2024-01-01", "end_date": "2024-06-30", "initial_capital": 10000});
    let backtest = trader.succeed("backtest.run", config.clone()).await["backtest_id"].clone();
    let backtest = backtest.as_str().expect("an id").to_owned();
    let cancelled = trader.succeed("backtest.run", config).await["backtest_id"].clone();
    trader.succeed("backtest.cancel", json!({"id": cancelled})).await;
    let strategy = trader
        .succeed("strategy.start", json!({"pair": "BTC-USDC", "fast": 1, "slow": 2}))
        .await["strategy_id"]
        .clone();
    let strategy = strategy.as_str().expect("an id").to_owned();
    let grid = json!({"pair": "KOGE/USDT", "upper_price": 0.006, "lower_price": 0.005, "grid_count": 10});
    let grid = trader.succeed("grid.start", grid).await["grid_id"].clone();
    trader
        .succeed("grid.update_params", json!({"id": grid, "params": {"grid_count": 5}}))
        .await;
    for (action, params) in [
        (
            "grid.start",
            json!({"pair": "BTC-USDC", "upper_price": 90000, "lower_price": 100000, "grid_count": 10}),
        ),
        (
            "grid.start",
            json!({"pair": "NO-PAIR", "upper_price": 2, "lower_price": 1, "grid_count": 10}),
        ),
        (
            "grid.start",
            json!({"pair": "BTC-USDC", "upper_price": 100000, "lower_price": 90000, "grid_count": 1}),
        ),
        ("grid.stop", json!({"id": "grid_unknown"})),
        ("backtest.cancel", json!({"id": cancelled})),
        ("strategy.stop", json!({})),
    ] {
        assert_eq!(
            trader.fail(action, params.clone()).await.0,
            "VALIDATION_ERROR",
            "{action} {params}"
        );
    }
    assert_eq!(trader.fail("grid.dance", json!({})).await.0, "UNKNOWN_ACTION");
    let progress = trader.event(&format!("backtest.{backtest}.progress"), "update").await;
    assert!(
        progress["progress"]
            .as_f64()
            .is_some_and(|done| (0.0..=1.0).contains(&done)),
        "{progress}"
    );
    let completed = trader
        .event(&format!("backtest.{backtest}.lifecycle"), "completed")
        .await;
    assert!(completed["result"]["final_equity"].is_number(), "{completed}");
    trader.event(&format!("strategy.{strategy}.signal"), "generated").await;
    trader.succeed("strategy.stop", json!({"id": strategy})).await;
    for (channel, event) in [
        ("user.trader.balance", "balance_update"),
        ("user.trader.positions", "positions_update"),
        ("user.trader.pnl", "pnl_update"),
        ("user.trader.orders", "orders_update"),
        ("system.status", "system_status"),
        ("market.KOGE/USDT.orderbook", "orderbook_update"),
        ("market.BTC/USDT.trade", "trade_executed"),
    ] {
        trader.told(channel, event).await;
    }
}

/// The price events that a client receives until each channel has sent one with stocks, and a board two.
async fn stock_events(demo: &Demo) -> Vec<Value> {
    // A pattern for the strategies, and exact channels for one board and one stock.
    let channels = ["strategy.*", "board.main.prices", "stock.600519.price"];
    let mut trader = Watcher::new(&demo.gateway, &demo.trader, &channels).await;
    let told = |events: &[Value], channel: &str| {
        let of_channel = |event: &&Value| event["channel"] == channel && !codes(event).is_empty();
        events.iter().filter(of_channel).count()
    };
    for (channel, times) in [
        ("strategy.volume_wave.prices", 1),
        ("strategy.value.prices", 1),
        ("stock.600519.price", 1),
        ("board.main.prices", 2),
    ] {
        while told(&trader.events, channel) < times {
            let event = trader.client.expect("event").await;
            trader.events.push(event);
        }
    }
    // The first events have no stocks if the demo has not written to the Redis yet.
    trader
        .events
        .retain(|event| event["event"] == "price_update" && !codes(event).is_empty());
    trader.events
}

/// The codes of the stocks in a price event. Empty for other events.
fn codes(event: &Value) -> Vec<&str> {
    let rows = event["data"].as_array().map_or(&[][..], Vec::as_slice);
    rows.iter().filter_map(|row| row["code"].as_str()).collect()
}

#[tokio::test]
async fn stock_prices_are_polled_by_strategy_board_and_stock() {
    let demo = Demo::start().await;
    let events = stock_events(&demo).await;
    let first = |channel: &str| {
        let found = events.iter().find(|event| event["channel"] == channel);
        codes(found.unwrap_or_else(|| panic!("nothing of {channel}")))
    };
    // The records have the order of the hash's fields or of the list's items.
    assert_eq!(
        first("strategy.volume_wave.prices"),
        ["002594", "300059", "300750", "600519"]
    );
    assert_eq!(first("strategy.value.prices"), ["000858", "600036", "601318"]);
    assert_eq!(
        first("board.main.prices"),
        ["600519", "000858", "601318", "600036", "002594"]
    );
    assert_eq!(first("stock.600519.price"), ["600519"]);
    let row = &events
        .iter()
        .find(|event| event["channel"] == "stock.600519.price")
        .expect("told")["data"][0];
    for (field, is_right) in [
        ("code", row["code"].is_string()),
        ("name", row["name"] == "Kweichow Moutai"),
        ("price", row["price"].is_number()),
        ("change_percent", row["change_percent"].is_number()),
        ("volume", row["volume"].is_u64()),
    ] {
        assert!(is_right, "{field} in {row}");
    }
}

#[tokio::test]
async fn a_real_redis_holds_the_stock_prices() {
    let redis = Redis::start();
    let demo = Demo::start_with(&["--redis", &redis.address()]).await;
    // The feeds read the real Redis, not the demo's own server.
    let events = stock_events(&demo).await;
    let board = events
        .iter()
        .find(|event| event["channel"] == "board.main.prices")
        .expect("told");
    assert_eq!(codes(board), ["600519", "000858", "601318", "600036", "002594"]);
    for (command, answer) in [
        (vec!["HLEN", "demo:prices:volume_wave"], ":4"),
        (vec!["HGET", "demo:stock:600519", "code"], "$6"),
        (vec!["LLEN", "demo:board:star"], ":1"),
    ] {
        assert_eq!(redis.ask(&command), answer, "{command:?}");
    }
}

#[tokio::test]
async fn the_page_is_for_loopback_names_and_commands_need_a_signature() {
    let demo = Demo::start().await;
    let host = demo.page.to_string();
    let (status, page) = demo.backend("GET", "/", &host, "").await;
    assert_eq!(status, 200);
    assert!(page.starts_with("<!doctype html>") && page.contains("</html>"));
    assert!(
        !page.contains("src=\"http") && !page.contains("href=\"http"),
        "nothing comes from elsewhere"
    );
    let (status, session) = demo.backend("GET", "/session.json", &host, "").await;
    let session: Value = serde_json::from_str(&session).expect("JSON");
    assert_eq!((status, &session["port"]), (200, &json!(demo.gateway.public.port())));
    assert_eq!(session["token"], demo.admin.as_str());

    let (status, body) = demo.backend("GET", "/session.json", "evil.example:8082", "").await;
    assert_eq!(status, 403, "{body}");
    assert!(!body.contains(&demo.admin));
    let command = r#"{"id":"1","action":"system.kill_switch","params":{"action":"activate","reason":"x"},"user":"x","role":"admin"}"#;
    assert_eq!(
        demo.backend("POST", "/commands", &host, command).await.0,
        401,
        "unsigned"
    );
    let (status, balance) = demo.backend("GET", "/users/no%2Fbody/balance", &host, "").await;
    assert_eq!(status, 200);
    assert!(balance.contains("\"total_balance\":100000"), "{balance}");
    assert_eq!(demo.backend("GET", "/users/trader/secrets", &host, "").await.0, 404);
    assert_eq!(
        demo.backend("GET", "/users/trader/balance", "evil.example", "").await.0,
        403
    );
    assert_eq!(demo.backend("GET", "/commands", &host, "").await.0, 405);
    assert_eq!(demo.backend("GET", "/elsewhere", &host, "").await.0, 404);
}
