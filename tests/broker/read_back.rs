//! A gateway reads the log back while the log forgets its oldest events.

use std::sync::Arc;

use tickgate::broker::{Link, nats, redis};
use tickgate::event::Event;
use tickgate::hub::{ChannelView, PageLimit, Since};

use crate::nats_server::{Nats, Proxy};
use crate::node::{Node, channel, event, until};
use crate::redis_server::Redis;

/// Events on these channels, one after the other, fill the log.
const CHANNELS: u64 = 40;
const EVENTS: u64 = 150;

/// The log has room for all of these events, and for few more.
const LOG_BYTES: u64 = 8 << 20;

/// The data of an event: its number, and bytes that take up room.
fn data(number: u64) -> String {
    format!("[{number},\"{}\"]", "x".repeat(1000))
}

/// The numbers of all events of a channel from the oldest position on that the gateway can continue from.
fn numbers(node: &Node, name: &str) -> Vec<u64> {
    let limit = PageLimit {
        events: usize::MAX,
        bytes: usize::MAX,
    };
    let read = |since, view: &mut dyn FnMut(ChannelView<'_>)| {
        let since = Since::After(since);
        node.hub.read(&channel(name), since, limit, node.now(), view)
    };
    let mut floor = 0;
    read(0, &mut |view| floor = view.floor);
    let page = read(floor, &mut |_| {});
    let number = |event: &Arc<Event>| {
        let (number, _): (u64, String) = serde_json::from_slice(&event.data).expect("a number");
        number
    };
    page.events.iter().map(number).collect()
}

/// `start` starts a gateway at an address. The link of the one that reads back is held when it has read a part. Meanwhile other
/// events take the room of some that it has yet to read.
fn check_trimmed(url: &str, proxied: &str, proxy: &Proxy, start: impl Fn(&str, &str) -> Node) {
    let mut first = start(url, "first");
    first.wait_for(Link::Up);
    for number in 0..EVENTS {
        let events = (0..CHANNELS).map(|channel| event(&format!("kept.{channel}"), data(number)));
        assert!(first.publish(events.collect()).iter().all(Result::is_ok));
    }
    let mut late = start(proxied, "late");
    let known = late.hub.clone();
    until("the first events", || known.metrics().events > CHANNELS);
    proxy.hold();
    for number in 0..EVENTS / 3 {
        let events = (0..CHANNELS).map(|channel| event(&format!("kept.other.{channel}"), data(number)));
        assert!(first.publish(events.collect()).iter().all(Result::is_ok));
    }
    proxy.mend();
    late.wait_for(Link::Up);
    for channel in 0..CHANNELS {
        let name = format!("kept.{channel}");
        let numbers = numbers(&late, &name);
        let missing = numbers.windows(2).find(|pair| pair[0] + 1 != pair[1]);
        assert_eq!(missing, None, "{name}: {numbers:?}");
        assert_eq!(numbers.last(), Some(&(EVENTS - 1)), "{name}");
    }
}

#[test]
fn a_stream_that_forgets_events_while_it_is_read_back_leaves_no_hole() {
    let server = Nats::start();
    let proxy = Proxy::start(server.port);
    check_trimmed(&server.url(), &proxy.url(), &proxy, |url, name| {
        Node::nats(nats::Settings {
            log_bytes: LOG_BYTES,
            ..Node::settings(url.to_owned(), name)
        })
    });
}

#[test]
fn a_redis_that_forgets_events_while_they_are_read_back_leaves_no_hole() {
    let server = Redis::start();
    let proxy = Proxy::start(server.port);
    let proxied = format!("redis://127.0.0.1:{}", proxy.port);
    check_trimmed(&server.address(), &proxied, &proxy, |url, name| {
        Node::redis(redis::Settings {
            log_bytes: LOG_BYTES,
            ..Node::redis_settings(url, name)
        })
    });
}
