//! Authentication and permissions, against clients that try to get more.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::clients::{Client, Told};
use crate::harness::{Gateway, event, numbers, token, trader, within};

/// Roles that a careless operator might write.
const ROLES: &str = "
[auth.role.everything]
channels = ['*']
commands = ['*']
publish = ['*']
[auth.role.watcher]
channels = ['*', 'user.*']
[auth.role.viewer]
channels = ['market.*', 'system.health']
";

const HOUR: Duration = Duration::from_secs(3600);

/// Subscribes, or returns the code of the refusal.
async fn subscribe(client: &mut Client, pattern: &str) -> Result<(), String> {
    client.send(&json!({"type": "subscribe", "channels": [pattern]})).await;
    loop {
        let Told::Message(answer) = client.next().await else {
            panic!("ended at {pattern}");
        };
        match answer["type"].as_str() {
            Some("event") => {}
            Some("subscribed") => return Ok(()),
            Some("error") => return Err(answer["error"]["code"].as_str().expect("a code").to_owned()),
            _ => panic!("{answer}"),
        }
    }
}

/// The events that a client has received until now. A shard delivers in the order of publishing, so an event on the channel
/// `end`, which only this client subscribes to, arrives last.
async fn heard(gateway: &Gateway, client: &mut Client, end: &str) -> Vec<Value> {
    let mut all = Vec::new();
    client.send(&json!({"type": "subscribe", "channels": [end]})).await;
    loop {
        match client.next().await {
            Told::Message(message) if message["type"] == "subscribed" => gateway.publish(vec![event(end, 0)]).await,
            Told::Message(message) if message["channel"] == end => return all,
            Told::Message(message) => all.push(message),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_channels_of_a_user_reach_no_other_user() {
    let gateway = Gateway::start("", ROLES).await;
    let mut owner = gateway.connect(&trader()).await;
    let mut spy = gateway.connect(&token("spy", "everything", HOUR)).await;
    let mut watcher = gateway.connect(&token("w", "watcher", HOUR)).await;
    owner.subscribe(&["user.u1.*"]).await;
    watcher.subscribe(&["*"]).await;
    for pattern in [
        "*",
        "*.*",
        "*.*.balance",
        "*.u1.*",
        "user.*",
        "user.*.balance",
        "user.u1.*",
        "user.u1",
        "user",
    ] {
        assert_eq!(
            subscribe(&mut spy, pattern).await,
            Err("FORBIDDEN".to_owned()),
            "{pattern}"
        );
    }
    for pattern in ["*.spy.*", "user.spy.*", "grid.*"] {
        assert_eq!(subscribe(&mut spy, pattern).await, Ok(()), "{pattern}");
    }
    let channels = ["user.u1.balance", "user.spy.balance", "user.spy", "grid.u1.balance"];
    gateway
        .publish(channels.iter().map(|channel| event(channel, 1)).collect())
        .await;
    for (client, end, expected) in [
        (&mut owner, "market.end.owner", [1, 0, 0, 0]),
        (&mut spy, "market.end.spy", [0, 1, 0, 1]),
        (&mut watcher, "market.end.watcher", [1, 1, 1, 1]),
    ] {
        let all = heard(&gateway, client, end).await;
        assert_eq!(channels.map(|channel| numbers(&all, channel).len()), expected);
    }
}

#[tokio::test]
async fn publishing_everything_does_not_include_the_channels_of_users() {
    let gateway = Gateway::start("", ROLES).await;
    let mut forger = gateway.connect(&token("forger", "everything", HOUR)).await;
    for (channel, answer) in [
        ("user.u1.balance", "error"),
        ("user.forger.balance", "error"),
        ("system.gateway.n1", "error"),
        ("grid.a.order", "published"),
    ] {
        let message = json!({"type": "publish", "id": 1, "channel": channel, "event": "x", "data": 1});
        forger.send(&message).await;
        forger.expect(answer).await;
    }
}

#[tokio::test]
async fn the_gateways_statistics_are_for_admins() {
    let gateway = Gateway::start("", ROLES).await;
    let mut trader = gateway.connect(&trader()).await;
    let mut admin = gateway.connect(&token("root", "admin", HOUR)).await;
    trader.subscribe(&["system.*"]).await;
    admin.subscribe(&["*"]).await;
    assert_eq!(
        subscribe(&mut trader, "system.gateway.*").await,
        Err("FORBIDDEN".to_owned())
    );
    gateway
        .publish(vec![event("system.gateway.test", 1), event("system.log", 1)])
        .await;
    let (to_trader, to_admin) = (
        heard(&gateway, &mut trader, "market.end.trader").await,
        heard(&gateway, &mut admin, "market.end.admin").await,
    );
    assert_eq!(numbers(&to_trader, "system.log"), [1]);
    assert_eq!(numbers(&to_trader, "system.gateway.test"), [0; 0]);
    assert_eq!(
        (
            numbers(&to_admin, "system.log"),
            numbers(&to_admin, "system.gateway.test")
        ),
        (vec![1], vec![1])
    );
}

#[tokio::test]
async fn a_refresh_can_remove_permissions_but_not_change_the_user() {
    let gateway = Gateway::start("", ROLES).await;
    let mut client = gateway.connect(&trader()).await;
    client.subscribe(&["grid.*", "market.*", "user.u1.*"]).await;
    for (bad, code) in [
        (token("u2", "admin", HOUR), "AUTH_SUBJECT_MISMATCH"),
        ("not.a.token".to_owned(), "TOKEN_INVALID"),
        (format!("{}x", trader()), "TOKEN_INVALID"),
    ] {
        client.send(&json!({"type": "auth", "token": bad})).await;
        let refused = client.expect("auth_result").await;
        assert_eq!(
            (&refused["success"], &refused["error"]["code"]),
            (&json!(false), &json!(code))
        );
        gateway.publish(vec![event("grid.a.order", 1)]).await;
        client.expect("event").await;
    }
    // The new token applies to all messages behind it, even when they arrive before it is verified.
    client
        .send(&json!({"type": "auth", "token": token("u1", "viewer", HOUR)}))
        .await;
    client
        .send(&json!({"type": "subscribe", "channels": ["grid.b.*"], "id": "late"}))
        .await;
    assert_eq!(client.expect("auth_result").await["data"]["role"], "viewer");
    let ended = client.expect("unsubscribed").await;
    assert_eq!(
        (&ended["data"]["channels"], &ended["data"]["reason"]),
        (&json!(["grid.*"]), &json!("permission"))
    );
    let refused = client.expect("error").await;
    assert_eq!(
        (&refused["id"], &refused["error"]["code"]),
        (&json!("late"), &json!("FORBIDDEN"))
    );
    gateway
        .publish(vec![event("grid.a.order", 2), event("user.u1.balance", 2)])
        .await;
    let after = heard(&gateway, &mut client, "market.end").await;
    assert_eq!(
        (numbers(&after, "grid.a.order"), numbers(&after, "user.u1.balance")),
        (vec![], vec![2])
    );
}

/// The status of the response to a handshake.
pub(crate) async fn status(gateway: &Gateway, target: &str, header: &str) -> u16 {
    let mut stream = TcpStream::connect(gateway.public).await.expect("connected");
    let request = format!(
        "GET {target} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{header}\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut head = [0; 12];
    within("an answer", stream.read_exact(&mut head))
        .await
        .expect("a status line");
    let text = std::str::from_utf8(&head).expect("ASCII");
    text.strip_prefix("HTTP/1.1 ")
        .and_then(|code| code.parse().ok())
        .expect("a status")
}

#[tokio::test]
async fn a_client_with_an_invalid_token_is_not_anonymous() {
    let gateway = Gateway::start("", "[auth]\nmode = 'optional'").await;
    let good = trader();
    let query = format!("/ws?token={good}");
    let header = format!("Authorization: Bearer {good}\r\n");
    for (target, header, expected) in [
        ("/ws", "", 101),
        ("/ws", "Authorization: Basic eDp5\r\n", 101),
        ("/ws", &*header, 101),
        (&*query, "", 101),
        // An empty token is none.
        ("/ws?token=", "", 101),
        ("/ws?token", "", 101),
        ("/ws", "Authorization: Bearer\r\n", 101),
        ("/ws?token=bad", "Authorization: Bearer\r\n", 401),
        ("/ws?token=bad", "", 401),
        ("/ws?token=%ff", "", 400),
        ("/ws?token=a&token=b", "", 400),
        ("/ws", "Authorization: Bearer bad\r\n", 401),
        ("/ws", "authorization: bEARER\tbad\r\n", 401),
        ("/ws", "Authorization: Bearer é\r\n", 401),
        ("/ws", "Authorization: Basic eDp5\r\nAuthorization: Bearer bad\r\n", 400),
        // The header takes precedence over the query, whichever of the two is valid.
        (&*query, "Authorization: Bearer bad\r\n", 401),
        ("/ws?token=bad", &*header, 101),
        // A browser cannot read a 401. It gets the upgrade, a message and a close.
        ("/ws?token=bad", "Origin: http://x\r\n", 101),
        ("/ws", "Origin: http://evil.example\r\n", 403),
        (&*query, "Origin: http://evil.example\r\n", 403),
        (&*query, "Origin: null\r\n", 403),
    ] {
        assert_eq!(status(&gateway, target, header).await, expected, "{target} {header:?}");
    }
    assert!(!gateway.log().contains(&good), "the log shows a token");
}
