//! How feeds and sources reach Redis: as the broker does, with TLS, as an ACL user, by a Sentinel and in a Redis Cluster.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tickgate::backend::feeds::{FeedSettings, PublishMode, SourceSettings};
use tickgate::backend::ingest::{Origin, Start};
use tickgate::gateway::Settings;
use tickgate::redis::RedisServer;

use crate::gateway::{self, Running};
use crate::ingest::{check, check_of, event, of, reader, stream_settings};
use crate::redis_access::{Encrypted, Sentinel};
use crate::redis_cluster::{Cluster, query};
use crate::redis_server::{Keeps, Redis, servers};

fn feed(server: &RedisServer) -> FeedSettings {
    feed_of(server, "prices.top", "string:price")
}

fn feed_of(server: &RedisServer, channel: &str, key: &str) -> FeedSettings {
    FeedSettings {
        channel: channel.parse().expect("a channel"),
        event: "price".into(),
        source: SourceSettings::Redis {
            server: server.clone(),
            key: key.parse().expect("a key"),
        },
        publish: PublishMode::Changed,
        interval: Duration::from_millis(100),
        timeout: Duration::from_secs(5),
    }
}

/// A gateway whose only source is the stream `orders`, or something else of the same server.
fn start(server: &RedisServer, from: &str, more: impl FnOnce(&mut Settings)) -> Running {
    let origin = Origin::Redis {
        server: server.clone(),
        from: from.parse().expect("a stream or channel"),
        stream: stream_settings(Start::All),
    };
    gateway::start(|settings| {
        settings.sources.sources = vec![of(origin, "orders.{user}")];
        more(settings);
    })
}

fn is_read(gateway: &Running) {
    gateway::until("read", || check(gateway).0 == "ok");
}

#[test]
fn feeds_and_sources_speak_tls_as_an_acl_user() {
    let encrypted = Encrypted::start(&[
        "~price",
        "~orders",
        "+get",
        "+client",
        "+xgroup",
        "+xreadgroup",
        "+xack",
        "+xinfo",
    ]);
    let server = &encrypted.server;
    server.run(&["SET", "price", "1"]);
    let access = encrypted.access("hidden");
    let gateway = start(&access, "stream:orders", |settings| {
        settings.feeds.feeds = vec![feed(&access)]
    });
    is_read(&gateway);
    let (mut prices, mut orders) = (reader(&gateway, "prices.top"), reader(&gateway, "orders.*"));
    assert_eq!(event(&mut prices), ("prices.top".to_owned(), json!(1)));
    server.run(&["XADD", "orders", "*", "user", "u1"]);
    assert_eq!(event(&mut orders), ("orders.u1".to_owned(), json!({"user": "u1"})));
    for other in [encrypted.access("wrong"), encrypted.untrusted()] {
        let gateway = start(&other, "stream:orders", |settings| {
            settings.feeds.feeds = vec![feed(&other)]
        });
        // A feed is polled while a client is subscribed.
        let _client = reader(&gateway, "prices.top");
        for begin in ["source ", "feed "] {
            gateway::until("a failure", || check_of(&gateway, begin).0 == "bad");
        }
    }
}

#[test]
fn feeds_and_sources_go_with_the_master_that_a_sentinel_names() {
    let program = Path::new("redis-server");
    let master = Redis::start_with(program, Keeps::Nothing, &["--repl-diskless-sync-delay", "0"]);
    let of = format!("127.0.0.1 {}", master.port);
    let replica = Redis::start_with(program, Keeps::Nothing, &["--replicaof", &of]);
    gateway::until("the replica", || replica.info_text("master_link_status") == "up");
    let sentinel = Sentinel::start(master.port);
    let access = RedisServer {
        addresses: vec![sentinel.url().parse().expect("an address")],
        ..RedisServer::default()
    };
    master.run(&["SET", "price", "1"]);
    let gateway = start(&access, "stream:orders", |settings| {
        settings.feeds.feeds = vec![feed(&access)]
    });
    is_read(&gateway);
    let (mut prices, mut orders) = (reader(&gateway, "prices.top"), reader(&gateway, "orders.*"));
    assert_eq!(event(&mut prices), ("prices.top".to_owned(), json!(1)));
    gateway::until("the replica", || sentinel.knows(&replica));
    gateway::until("the group", || replica.ask(&["EXISTS", "orders"]) == ":1");
    drop(master);
    // The Sentinel ends the connections of a replica that it promotes.
    gateway::until("the promotion", || replica.ask_any(&["SET", "price", "2"]) == "+OK");
    gateway::until("an entry", || {
        replica.ask_any(&["XADD", "orders", "*", "user", "u1"]).starts_with('$')
    });
    assert_eq!(event(&mut orders), ("orders.u1".to_owned(), json!({"user": "u1"})));
    assert_eq!(event(&mut prices), ("prices.top".to_owned(), json!(2)));
}

#[test]
fn a_source_reads_a_stream_and_channels_of_a_redis_cluster() {
    let cluster = Cluster::start(servers().last().expect("one"), "orders");
    let owner = &cluster.nodes[cluster.owner];
    // The other nodes come first, so they have to name the owner.
    let access = cluster.server();
    let gateway = start(&access, "stream:orders", |_| {});
    is_read(&gateway);
    let mut client = reader(&gateway, "orders.*");
    owner.run(&["XADD", "orders", "*", "user", "u1"]);
    assert_eq!(event(&mut client), ("orders.u1".to_owned(), json!({"user": "u1"})));
    gateway::until("confirmed", || owner.pending("orders", "tickgate") == 0);
    cluster.replicate(cluster.owner, cluster.replica);
    let replica = &cluster.nodes[cluster.replica];
    query::<()>(replica, redis::cmd("CLUSTER").arg("FAILOVER"));
    gateway::until("the promotion", || replica.info_text("role") == "master");
    replica.run(&["XADD", "orders", "*", "user", "u2"]);
    assert_eq!(event(&mut client), ("orders.u2".to_owned(), json!({"user": "u2"})));

    let gateway = start(&access, "channel:orders", |_| {});
    is_read(&gateway);
    let mut client = reader(&gateway, "orders.*");
    owner.run(&["PUBLISH", "orders", r#"{"user":"u3"}"#]);
    assert_eq!(event(&mut client), ("orders.u3".to_owned(), json!({"user": "u3"})));
}

#[test]
fn feeds_read_keys_of_a_redis_cluster_from_the_nodes_that_have_them() {
    let cluster = Cluster::start(servers().last().expect("one"), "price");
    let (owner, other) = (cluster.owner, (cluster.owner + 1) % 3);
    cluster.write(&["SET", "price", "1"]);
    let stocks: Vec<String> = (0..10).map(|number| format!("stock:{number}")).collect();
    for stock in &stocks {
        cluster.write(&["HSET", stock, "code", stock]);
        cluster.write(&["RPUSH", "board", stock]);
    }
    let has_keys = |node: &&Redis| node.info_text("role") == "master" && node.ask(&["DBSIZE"]) != ":0";
    assert_eq!(cluster.nodes.iter().filter(has_keys).count(), 3, "every node has some");
    let access = cluster.server();
    let gateway = gateway::start(|settings| {
        settings.feeds.feeds = vec![feed(&access), feed_of(&access, "board.main", "list:board")];
    });
    let (mut prices, mut board) = (reader(&gateway, "prices.top"), reader(&gateway, "board.main"));
    let price = |number: u64| ("prices.top".to_owned(), json!(number));
    assert_eq!(event(&mut prices), price(1));
    let all: Vec<_> = stocks.iter().map(|stock| json!({ "code": stock })).collect();
    assert_eq!(event(&mut board), ("board.main".to_owned(), json!(all)));
    // The key is being handed over.
    cluster.open_slot(owner, other);
    cluster.move_keys(owner, other, |_| true);
    query_asking(&cluster.nodes[other], &["SET", "price", "2"]);
    assert_eq!(event(&mut prices), price(2));
    cluster.close_slot(owner, other);
    cluster.write(&["SET", "price", "3"]);
    assert_eq!(event(&mut prices), price(3));
    cluster.open_slot(other, owner);
    cluster.move_keys(other, owner, |_| true);
    cluster.close_slot(other, owner);
    cluster.replicate(owner, cluster.replica);
    cluster.nodes[owner].end();
    let replica = &cluster.nodes[cluster.replica];
    gateway::until("the promotion", || replica.ask_any(&["SET", "price", "4"]) == "+OK");
    assert_eq!(event(&mut prices), price(4));
}

/// Runs a command at a node to which the slot of its key is being handed over.
fn query_asking(node: &Redis, command: &[&str]) {
    let client = redis::Client::open(node.address()).expect("an address");
    let mut connection = client.get_connection().expect("connected");
    let mut both = redis::pipe();
    both.cmd("ASKING").ignore().cmd(command[0]).arg(&command[1..]).ignore();
    both.exec(&mut connection).expect("done");
}
