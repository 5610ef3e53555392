//! Subscriptions to channels that a feed cannot poll.

use serde_json::{Value, json};

use crate::clients::{Client, Told};
use crate::harness::{Gateway, trader};

/// Nothing listens at these addresses: the answers come from the gateway.
const FEEDS: &str = "
[[feed]]
channel = 'strategy.{name}.account'
event = 'account'
redis = 'hash:account:{name}'
url = 'redis://127.0.0.1:1'

[[feed]]
channel = 'strategy.{name}.pnl'
event = 'pnl'
http = 'http://127.0.0.1:1/{name}'

[[feed]]
channel = 'strategy.{name}.both'
event = 'from_redis'
redis = 'hash:both:{name}'
url = 'redis://127.0.0.1:1'

[[feed]]
channel = 'strategy.{name}.both'
event = 'from_http'
http = 'http://127.0.0.1:1/{name}'
";

async fn answer(client: &mut Client, channel: &str) -> Value {
    client.send(&json!({"type": "subscribe", "channels": [channel]})).await;
    match client.next().await {
        Told::Message(answer) => answer,
        other => panic!("{channel}: {other:?}"),
    }
}

#[tokio::test]
async fn a_value_that_the_sources_key_cannot_carry_is_refused_with_its_reason() {
    let gateway = Gateway::start("", FEEDS).await;
    let mut client = gateway.connect(&trader()).await;
    let refused = answer(&mut client, "strategy.a:b.account").await;
    assert_eq!(
        refused["error"],
        json!({
            "code": "INVALID_CHANNEL",
            "message": "channel \"strategy.a:b.account\" cannot be served: {name} in `strategy.{name}.account` \
                        must not contain `:`"
        })
    );
    // A URL carries it encoded, and so one of two sources is enough. A pattern fills no placeholder.
    for channel in [
        "strategy.a.account",
        "strategy.a:b.pnl",
        "strategy.a:b.both",
        "strategy.a:b.*",
    ] {
        assert_eq!(answer(&mut client, channel).await["type"], "subscribed", "{channel}");
    }
}
