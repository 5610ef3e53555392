//! Tests with real sockets. Most of them drive the reactor turn by turn on their own thread, so that they do not depend
//! on timing. Each test runs with both methods of writing.

mod faults;
mod kernel;
mod rig;

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::*;
use crate::session::limits::Limits;
use crate::shard::FlushMethod;
use crate::shard::mailbox::ShardMessage;
use rig::{Client, Driven, PATIENCE, Shard, data, frame, tcp, unix};
use tickgate_protocol::disconnect::Disconnect;

macro_rules! both_ways {
    ($($test:ident)*) => {
        mod by_writev {
            $(#[test] fn $test() { super::$test(super::FlushMethod::Writev); })*
        }
        mod by_io_uring {
            $(#[test] fn $test() {
                if super::rig::has_io_uring() {
                    super::$test(super::FlushMethod::IoUring);
                }
            })*
        }
    };
}

both_ways! {
    events_arrive_over_tcp_and_over_unix_sockets
    a_stalled_reader_delays_no_other_client_and_learns_what_it_lost
    the_close_frame_arrives_even_if_input_is_unread
    a_flooding_client_is_read_in_bounded_steps_and_closed_with_4029
    input_longer_than_one_read_is_read_completely_up_to_its_end
    connections_of_clients_that_vanish_are_removed
    a_close_frame_together_with_the_end_of_input_is_answered
    a_thousand_connections_get_every_event_once_and_in_order
    publishers_in_the_shard_wait_for_credit_and_lose_nothing
    events_that_a_tick_leaves_behind_do_not_wait_for_company
}

fn events_arrive_over_tcp_and_over_unix_sockets(flush: FlushMethod) {
    let mut shard = Shard::new(flush, 1_000, Limits::default());
    let mut driven = shard.reactor();
    let (server, mut over_tcp) = tcp();
    // A first frame that arrived together with the handshake.
    shard.adopt(server, &frame(0x81, br#"{"type":"subscribe","channels":["a.*"]}"#));
    let (server, mut over_unix) = unix();
    shard.adopt(server, b"");
    over_unix.say(r#"{"type":"subscribe","channels":["a.b"]}"#);
    driven.settle();
    assert_eq!(shard.handle.load(), 2);
    for number in 0..100 {
        assert!(shard.try_publish("a.b", &number.to_string()));
    }
    driven.settle();
    over_tcp.read();
    over_unix.read();
    for texts in [over_tcp.texts(), over_unix.texts()] {
        assert_eq!(texts[0]["type"], "subscribed");
        assert_eq!(data(&texts), (0..100).collect::<Vec<_>>());
    }
    assert!(shard.handle.metrics().sends.get() <= 2 + 2 * 100);
}

fn a_stalled_reader_delays_no_other_client_and_learns_what_it_lost(flush: FlushMethod) {
    let mut shard = Shard::new(flush, 1_000, Limits::default());
    let mut driven = shard.reactor();
    let (server, mut stalled) = tcp();
    shard.adopt(server, &frame(0x81, br#"{"type":"subscribe","channels":["*"]}"#));
    let (server, mut healthy) = tcp();
    shard.adopt(server, &frame(0x81, br#"{"type":"subscribe","channels":["*"]}"#));
    driven.settle();
    let padding = 1_000_000_000_000_000_000_u64;
    let mut got = Vec::new();
    // The kernel buffers some events, but at some point the outbox of the stalled client must overflow.
    let mut sent = 0;
    while sent < 200_000 && shard.handle.metrics().dropped.get() < 1_000 {
        sent += u64::from(shard.try_publish("a.b", &(padding + sent).to_string()));
        driven.turn();
        healthy.read();
        got.extend(data(&healthy.texts()));
    }
    driven.turn_until("the last event", || {
        healthy.read();
        got.extend(data(&healthy.texts()));
        got.len() as u64 == sent
    });
    assert!(got.iter().copied().eq(padding..padding + sent), "in order, each once");
    let lost = shard.handle.metrics().dropped.get();
    assert!(lost >= 1_000, "{sent} events fitted into the kernel");
    // While the client does not read there is nothing to do, so the next turn waits.
    driven.settle();
    let turns = shard.handle.metrics().turns.get();
    assert_ne!(driven.turn(), Some(Duration::ZERO));
    assert_eq!(shard.handle.metrics().turns.get(), turns + 1);

    let mut texts = Vec::new();
    driven.turn_until("the rest", || {
        stalled.read();
        texts.extend(stalled.texts());
        texts.last().is_some_and(|text| text["data"] == padding + sent - 1)
    });
    let told: u64 = texts.iter().filter_map(|text| text["data"]["count"].as_u64()).sum();
    assert_eq!(told, lost);
    assert_eq!(data(&texts).len() as u64 + told, sent);
    // With all frames written, the socket is registered only for reading, so the shard becomes idle.
    driven.settle();
}

fn the_close_frame_arrives_even_if_input_is_unread(flush: FlushMethod) {
    for is_tcp in [true, false] {
        let mut shard = Shard::new(flush, 1_000, Limits::default());
        let mut driven = shard.reactor();
        // An unmasked frame, then 100 KiB that the gateway will not interpret, all of it sent before the first read.
        let mut input = vec![0x81, 0x02, b'h', b'i'];
        input.resize(100 * 1024, 0);
        let check = |mut client: Client<Box<dyn ReadWrite>>, driven: &mut Driven| {
            driven.turn_until("the end of the connection", || {
                client.read();
                client.is_at_end
            });
            assert_eq!(client.close_code(), Some(1002));
            drop(client);
        };
        if is_tcp {
            let (server, mut client) = tcp();
            client.socket.write_all(&input).expect("space in the socket");
            shard.adopt(server, b"");
            check(Client::of(Box::new(client.socket)), &mut driven);
        } else {
            let (server, mut client) = unix();
            client.socket.write_all(&input).expect("space in the socket");
            shard.adopt(server, b"");
            check(Client::of(Box::new(client.socket)), &mut driven);
        }
        driven.turn_until("the connection's removal", || shard.handle.load() == 0);
        assert_eq!(shard.ended(Disconnect::Protocol), 1);
    }
}

fn a_flooding_client_is_read_in_bounded_steps_and_closed_with_4029(flush: FlushMethod) {
    let mut shard = Shard::new(flush, 1_000, Limits::default());
    let mut driven = shard.reactor();
    let (server, mut flooder) = tcp();
    shard.adopt(server, b"");
    let (server, mut healthy) = tcp();
    shard.adopt(server, b"");
    driven.settle();
    let flood: Vec<u8> = (0..4_000).flat_map(|_| frame(0x89, b"x")).collect();
    let mut is_over = false;
    let mut answered = 0;
    let deadline = Instant::now() + PATIENCE;
    while !is_over || answered < 100 {
        match flooder.socket.write(&flood) {
            Ok(_) => {}
            // The connection was reset, because the client never stopped writing.
            Err(error) if error.kind() != ErrorKind::WouldBlock => is_over = true,
            Err(_) => {}
        }
        healthy.say(r#"{"type":"ping"}"#);
        let before = shard.handle.metrics().bytes_in.get();
        driven.turn();
        let read = shard.handle.metrics().bytes_in.get() - before;
        assert!(
            read <= 2 * READ_BYTES as u64,
            "{read} bytes in one turn from two connections"
        );
        healthy.read();
        answered += healthy.texts().len();
        is_over |= shard.ended(Disconnect::RateLimitAbuse) == 1;
        assert!(Instant::now() < deadline);
    }
    assert!(shard.ended(Disconnect::RateLimitAbuse) == 1);
    driven.turn_until("the Close frame", || {
        flooder.read();
        flooder.close_code() == Some(4029)
    });
}

fn input_longer_than_one_read_is_read_completely_up_to_its_end(flush: FlushMethod) {
    for is_followed_by_end in [false, true] {
        let mut shard = Shard::new(flush, 1_000, Limits::default());
        let mut driven = shard.reactor();
        let (server, mut client) = tcp();
        let ping = format!(r#"{{"type":"ping","padding":"{}"}}"#, "x".repeat(3_000));
        // All bytes are one event of the poll, and no other event follows.
        for _ in 0..40 {
            client.say(&ping);
        }
        if is_followed_by_end {
            client.socket.shutdown(std::net::Shutdown::Write).expect("open");
        }
        shard.adopt(server, b"");
        let mut answers = 0;
        driven.turn_until("the last answer", || {
            client.read();
            answers += client.texts().len();
            answers == 40
        });
        if is_followed_by_end {
            driven.turn_until("the end", || shard.ended(Disconnect::Lost) == 1);
        }
    }
}

fn connections_of_clients_that_vanish_are_removed(flush: FlushMethod) {
    let mut shard = Shard::new(flush, 1_000, Limits::default());
    let mut driven = shard.reactor();
    let mut clients = Vec::new();
    for number in 0..20 {
        let (server, client) = tcp();
        shard.adopt(server, &frame(0x81, br#"{"type":"subscribe","channels":["*"]}"#));
        if number % 2 == 0 {
            // Closed with the answer unread: a reset.
            clients.push(client);
        }
    }
    driven.turn_until("the removal of the clients that left", || shard.handle.load() == 10);
    assert_eq!(shard.ended(Disconnect::Lost), 10);
    assert!(shard.try_publish("a.b", "1"));
    drop(clients);
    driven.turn_until("the removal of all clients", || shard.handle.load() == 0);
    driven.settle();
}

fn a_close_frame_together_with_the_end_of_input_is_answered(flush: FlushMethod) {
    let mut shard = Shard::new(flush, 1_000, Limits::default());
    let mut driven = shard.reactor();
    let (server, mut client) = tcp();
    client
        .socket
        .write_all(&frame(0x88, &1000u16.to_be_bytes()))
        .expect("space in the socket");
    client.socket.shutdown(std::net::Shutdown::Write).expect("open");
    shard.adopt(server, b"");
    driven.turn_until("the end", || {
        client.read();
        client.is_at_end
    });
    assert_eq!(client.close_code(), Some(1000));
    driven.turn_until("the connection's removal", || shard.handle.load() == 0);
}

fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("up to the maximum is allowed");
}

fn a_thousand_connections_get_every_event_once_and_in_order(flush: FlushMethod) {
    raise_file_limit();
    let mut shard = Shard::new(flush, 64, Limits::default());
    let thread = shard.spawn();
    let mut clients: Vec<_> = (0..1_000)
        .map(|_| {
            let (server, client) = unix();
            shard.adopt(
                server,
                &frame(0x81, br#"{"type":"subscribe","channels":["a.*","a.b"]}"#),
            );
            client
        })
        .collect();
    let deadline = Instant::now() + PATIENCE;
    let mut got = vec![Vec::new(); clients.len()];
    let mut read = |clients: &mut Vec<Client<UnixStream>>, wanted: usize| {
        while got.iter().any(|texts: &Vec<serde_json::Value>| texts.len() < wanted) {
            for (client, texts) in clients.iter_mut().zip(&mut got) {
                client.read();
                texts.extend(client.texts());
            }
            assert!(Instant::now() < deadline, "something is missing");
        }
        got.clone()
    };
    read(&mut clients, 1);
    for number in 0..200 {
        while !shard.try_publish("a.b", &number.to_string()) {
            std::thread::yield_now();
        }
    }
    for texts in read(&mut clients, 201) {
        assert_eq!(data(&texts), (0..200).collect::<Vec<_>>());
    }
    assert_eq!(shard.handle.metrics().deliveries.get(), 200 * 1_000);

    // A drain closes all connections, and then the thread ends.
    assert!(shard.handle.send(ShardMessage::Drain { over_ms: 200 }).is_ok());
    for client in &mut clients {
        while !client.is_at_end {
            client.read();
            assert!(Instant::now() < deadline, "a drained client is not closed");
        }
        let frames = client.take_frames();
        let (first, close) = frames.last().expect("a Close frame");
        // On a machine that is too busy for the time of the drain, the last connections are closed with 1001, as
        // intended.
        let codes = [1012u16.to_be_bytes(), 1001u16.to_be_bytes()];
        assert!(
            *first == 0x88 && codes.iter().any(|code| close[..2] == code[..]),
            "{close:?}"
        );
    }
    drop(clients);
    thread.join().expect("no panic");
    assert_eq!(
        shard.ended(Disconnect::Restart) + shard.ended(Disconnect::DrainDeadline),
        1_000
    );
}

fn publishers_in_the_shard_wait_for_credit_and_lose_nothing(flush: FlushMethod) {
    // The shard's own publishers have two credits, so nearly every publish waits.
    let mut shard = Shard::new(flush, 4, Limits::default());
    let mut driven = shard.reactor();
    let (server, mut subscriber) = unix();
    shard.adopt(server, &frame(0x81, br#"{"type":"subscribe","channels":["*"]}"#));
    let publishers: Vec<_> = (0..5)
        .map(|publisher| {
            let (server, mut client) = unix();
            shard.adopt(server, b"");
            for number in 0..20 {
                client.say(&format!(
                    r#"{{"type":"publish","channel":"p.{publisher}","event":"e","data":{number}}}"#
                ));
            }
            client
        })
        .collect();
    let mut texts = Vec::new();
    driven.turn_until("all events", || {
        subscriber.read();
        texts.extend(subscriber.texts());
        texts.len() == 1 + 5 * 20
    });
    for publisher in 0..publishers.len() {
        let channel = format!("p.{publisher}");
        let of_channel: Vec<_> = texts
            .iter()
            .filter(|text| text["channel"] == *channel)
            .cloned()
            .collect();
        assert_eq!(data(&of_channel), (0..20).collect::<Vec<_>>());
    }
}

trait ReadWrite: Read + Write {}
impl<S: Read + Write> ReadWrite for S {}

fn events_that_a_tick_leaves_behind_do_not_wait_for_company(flush: FlushMethod) {
    const CLIENTS: u64 = 8;
    let mut shard = Shard::new(flush, 4_000, Limits::default());
    let mut driven = shard.reactor();
    // Each gets few of the events, so that no outbox ends the tick.
    let mut clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (server, client) = unix();
            let subscribe = format!(r#"{{"type":"subscribe","channels":["a.{number}"]}}"#);
            shard.adopt(server, &frame(0x81, subscribe.as_bytes()));
            client
        })
        .collect();
    driven.settle();
    driven.reactor.coalescer = Coalescer::new(crate::shard::CoalescePolicy::Fixed(3_600_000));
    for number in 0..EVENTS as u64 + CLIENTS {
        assert!(shard.try_publish(&format!("a.{}", number % CLIENTS), &number.to_string()));
    }
    // The first tick takes as many as it may, and the next one the rest.
    for _ in 0..4 {
        driven.turn();
    }
    for client in &mut clients {
        client.read();
        assert_eq!(data(&client.texts()).len(), EVENTS / CLIENTS as usize + 1);
    }
}
