//! Feeds of several gateways: one polls for the clients of all.

use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use tickgate::backend::feeds::{FeedSettings, PublishMode, SourceSettings};
use tickgate::gateway::Settings;

use crate::gateway::{self, Client, Running};
use crate::gateways::through;
use crate::http_source::HttpSource;
use crate::nats_server::{Nats, Proxy};
use crate::redis_server::Redis;
use crate::requests::start;

fn feeds(source: &HttpSource) -> impl Fn(&mut Settings) {
    let feed = |channel: &str, path: &str| FeedSettings {
        channel: channel.parse().expect("a channel"),
        event: "update".into(),
        source: SourceSettings::Http(format!("http://{}{path}", source.address()).parse().expect("a URL")),
        publish: PublishMode::Changed,
        interval: Duration::from_millis(200),
        timeout: Duration::from_secs(5),
    };
    let feeds = vec![feed("user.{id}.balance", "/users/{id}"), feed("book.top", "/top")];
    move |settings| settings.feeds.feeds.clone_from(&feeds)
}

fn data(client: &mut Client<TcpStream>) -> Value {
    loop {
        let message = client.json();
        if message["type"] == "event" {
            return message["data"].clone();
        }
    }
}

fn polls(running: &Running) -> u64 {
    let stats = running.admin("GET", "/api/websocket/stats", "").json();
    let feeds = stats["feeds"].as_array().expect("feeds").iter();
    feeds.map(|feed| feed["polls"].as_u64().expect("a number")).sum()
}

fn polls_here(running: &Running) -> bool {
    let overview = running.admin("GET", "/api/overview", "").json();
    let mut checks = overview["checks"].as_array().expect("a list").iter();
    let check = checks.find(|check| check["name"] == "feed book.top").expect("a check");
    check["detail"] != "another gateway polls it"
}

#[test]
fn one_gateway_polls_for_the_clients_of_all_and_another_takes_over() {
    let server = Nats::start();
    check_polling(&server.url(), server.port);
}

#[test]
fn one_gateway_over_redis_polls_for_the_clients_of_all_and_another_takes_over() {
    let server = Redis::start();
    check_polling(&server.address(), server.port);
}

fn check_polling(url: &str, port: u16) {
    let proxy = Proxy::start(port);
    let source = HttpSource::start();
    source.set("/users/u1", "1");
    source.set("/top", "10");
    let one = start(through(&proxy, url), "one", feeds(&source));
    gateway::until("one polls", || polls_here(&one));
    let two = start(url.to_owned(), "two", feeds(&source));
    assert!(!polls_here(&two));
    // A client of the gateway that does not poll.
    let mut client = two.client(&two.trader("u1"));
    client.subscribe(&["user.u1.balance"]);
    assert_eq!(data(&mut client), json!(1));
    source.set("/users/u1", "2");
    assert_eq!(data(&mut client), json!(2));
    assert_eq!(polls(&two), 0);
    // What one has sent and not delivered comes after the other has taken over.
    proxy.hold();
    source.set("/users/u1", "3");
    gateway::until("two polls", || polls_here(&two));
    assert_eq!(data(&mut client), json!(3));
    source.set("/users/u1", "4");
    assert_eq!(data(&mut client), json!(4));
    proxy.mend();
    gateway::until("one is back", || one.admin("GET", "/readyz", "").status == 200);
    gateway::until("one does not poll", || !polls_here(&one));
    source.set("/users/u1", "5");
    assert_eq!(data(&mut client), json!(5), "nothing twice, and nothing late");
    // A client that comes to the first gateway gets the value that the second one confirms.
    let mut other = one.client(&one.trader("u1"));
    other.subscribe(&["user.u1.balance"]);
    // The first gateway may be a little behind.
    while data(&mut other) != json!(5) {}
}
