//! Instruction counts of the hot paths. Unlike times, they do not depend on the machine's other load.
//!
//! `benches/instructions.sh` runs this under callgrind and compares the counts with `benches/instructions.txt`.
//! `benches/instructions.sh --write` writes that file. The script needs valgrind and `gungraun-runner`.
//!
//! The names give the unit. A delivery is one event for one connection, so the counts of `of_8000` are for 8 events to
//! 1000 connections.
#![allow(missing_docs)]

#[path = "../tests/support/frames.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests, which use more of it")]
mod frames;
#[path = "support/rig.rs"]
mod rig;

use std::hint::black_box;

use gungraun::{library_benchmark, library_benchmark_group, main};
use rig::{MESSAGES, NOW, Rig, client_frame, event};
use tickgate::event::{Event, NewEvent};
use tickgate::shard::mailbox::ConnectionId;
use tickgate_protocol::dialect::encode_event;
use tickgate_protocol::event::Encoding;
use tickgate_protocol::wire::{Decoder, Inflater};

/// 1000 connections with one pattern, and eight events in the inbox. Every path was used once before. The events go to
/// `channels` in rotation. One connection matches `bench.a.odd` by a second pattern, so its events form no run with others.
fn crowd(channels: &[&str]) -> Rig {
    let mut rig = Rig::new();
    for _ in 0..999 {
        rig.connect(&["bench.a.*".to_owned()]);
    }
    rig.connect(&["bench.a.*".to_owned(), "bench.a.odd".to_owned()]);
    rig.drain();
    for _ in 0..2 {
        rig.core.deliver(8);
        rig.drain();
        for channel in channels.iter().cycle().take(8) {
            rig.publish(event(channel));
        }
    }
    assert_eq!(
        rig.stats.deliveries.get(),
        8 * 1_000,
        "every client received the first eight"
    );
    rig
}

fn crowd_with_full_outboxes(channels: &[&str]) -> Rig {
    let mut rig = crowd(channels);
    rig.core.deliver(8);
    rig
}

/// Eight events that form one run.
const RUN: &[&str] = &["bench.a.price", "bench.a.size"];
/// Eight events of which no two in succession form a run.
const SINGLE: &[&str] = &["bench.a.price", "bench.a.odd"];

#[library_benchmark]
#[bench::of_8000_in_a_run(args = (RUN,), setup = crowd)]
#[bench::of_8000_one_by_one(args = (SINGLE,), setup = crowd)]
fn deliver(mut rig: Rig) -> Rig {
    rig.core.deliver(8);
    rig
}

#[library_benchmark]
#[bench::of_8000_in_a_run(args = (RUN,), setup = crowd_with_full_outboxes)]
#[bench::of_8000_one_by_one(args = (SINGLE,), setup = crowd_with_full_outboxes)]
fn take_out(mut rig: Rig) -> Rig {
    rig.drain();
    rig
}

fn with_a_listener() -> (Rig, Vec<NewEvent>) {
    let mut rig = Rig::new();
    rig.connect(&["bench.a.*".to_owned()]);
    rig.publish(event("bench.a.price"));
    rig.core.deliver(1);
    rig.drain();
    (rig, vec![event("bench.a.price"); 100])
}

#[library_benchmark]
#[bench::of_100(setup = with_a_listener)]
fn publish((rig, events): (Rig, Vec<NewEvent>)) -> Rig {
    for event in events {
        rig.publish(event);
    }
    rig
}

/// What five applications need in one gateway: five groups of listeners, and as many channels.
#[derive(Clone, Copy, Debug)]
enum Five {
    /// One tenant whose channels begin differently.
    Channels,
    /// Five tenants with a channel of the same name. `benches/instructions.sh` refuses more than 3 % above the other way.
    Tenants,
}

impl Five {
    fn rig(self) -> Rig {
        match self {
            Self::Channels => Rig::new(),
            Self::Tenants => Rig::with_tenants(5),
        }
    }

    /// The tenant of a group, and the first segments of its channels.
    fn group(self, index: usize) -> (usize, String) {
        match self {
            Self::Channels => (0, format!("bench.{}", ["a", "b", "c", "d", "e"][index])),
            Self::Tenants => (index, "bench.a".to_owned()),
        }
    }

    fn connect(self, rig: &mut Rig, group: usize) {
        let (tenant, prefix) = self.group(group);
        let message = format!(r#"{{"type":"subscribe","channels":["{prefix}.*"]}}"#);
        rig.connect_of(tenant, &message);
    }

    /// Events of all groups in rotation.
    fn events(self, count: usize) -> Vec<NewEvent> {
        let event_of = |index: usize| {
            let (tenant, prefix) = self.group(index % 5);
            let event = event(&format!("{prefix}.price"));
            NewEvent {
                channel: event.channel.in_tenant(rig::tenant(tenant)),
                ..event
            }
        };
        (0..count).map(event_of).collect()
    }
}

/// 1000 connections in five groups, and 40 events in the inbox: 8000 deliveries. Every path was used once before.
fn crowd_of_five(five: Five) -> Rig {
    let mut rig = five.rig();
    for number in 0..1000 {
        five.connect(&mut rig, number % 5);
    }
    rig.drain();
    for _ in 0..2 {
        rig.core.deliver(40);
        rig.drain();
        for event in five.events(40) {
            rig.publish(event);
        }
    }
    assert_eq!(
        rig.stats.deliveries.get(),
        8_000,
        "every client received its first eight"
    );
    rig
}

#[library_benchmark]
#[bench::of_8000_to_five_channels(args = (Five::Channels,), setup = crowd_of_five)]
#[bench::of_8000_to_five_tenants(args = (Five::Tenants,), setup = crowd_of_five)]
fn deliver_of_five(mut rig: Rig) -> Rig {
    rig.core.deliver(40);
    rig
}

fn listeners_of_five(five: Five) -> (Rig, Vec<NewEvent>) {
    let mut rig = five.rig();
    for group in 0..5 {
        five.connect(&mut rig, group);
    }
    for event in five.events(5) {
        rig.publish(event);
    }
    rig.core.deliver(5);
    rig.drain();
    (rig, five.events(100))
}

#[library_benchmark]
#[bench::of_100_to_five_channels(args = (Five::Channels,), setup = listeners_of_five)]
#[bench::of_100_to_five_tenants(args = (Five::Tenants,), setup = listeners_of_five)]
fn publish_of_five((rig, events): (Rig, Vec<NewEvent>)) -> Rig {
    for event in events {
        rig.publish(event);
    }
    rig
}

/// 1000 clients of Socket.IO with one pattern, and eight events in the inbox, with and without offsets for connection state
/// recovery.
fn crowd_of_socket_io(recovers: bool) -> Rig {
    let mut rig = Rig::with_socket_io(recovers);
    for _ in 0..1000 {
        rig.connect_socket_io("bench.a.*");
    }
    rig.drain();
    for _ in 0..2 {
        rig.core.deliver(8);
        rig.drain();
        for channel in SINGLE.iter().cycle().take(8) {
            rig.publish(event(channel));
        }
    }
    rig
}

#[library_benchmark]
#[bench::of_8000_without_recovery(args = (false,), setup = crowd_of_socket_io)]
#[bench::of_8000_with_recovery(args = (true,), setup = crowd_of_socket_io)]
fn deliver_socket_io(mut rig: Rig) -> Rig {
    rig.core.deliver(8);
    rig
}

/// 100 clients of Socket.IO that have caught up.
fn leavers(recovers: bool) -> (Rig, Vec<ConnectionId>) {
    let mut rig = Rig::with_socket_io(recovers);
    let clients = (0..100).map(|_| rig.connect_socket_io("bench.a.*")).collect();
    rig.drain();
    (rig, clients)
}

#[library_benchmark]
#[bench::of_100_without_recovery(args = (false,), setup = leavers)]
#[bench::of_100_with_recovery(args = (true,), setup = leavers)]
fn end_socket_io((mut rig, clients): (Rig, Vec<ConnectionId>)) -> Rig {
    for id in clients {
        rig.core.on_socket_error(id, NOW);
    }
    rig
}

fn an_event() -> Event {
    Event::new(event("bench.a.price"), None)
}

#[library_benchmark]
#[bench::native(setup = an_event)]
fn encode(event: Event) -> bytes::Bytes {
    black_box(encode_event(Encoding::Native, &event.view()))
}

/// A read buffer full of text frames of 239 bytes.
fn full_read() -> (Decoder, Vec<u8>) {
    let frame = frames::frame(frames::TEXT, "x".repeat(239).as_bytes());
    (Decoder::new(64 * 1024), frame.repeat(64))
}

#[library_benchmark]
#[bench::of_64(setup = full_read)]
fn decode((mut decoder, mut read): (Decoder, Vec<u8>)) -> (Decoder, Vec<u8>) {
    let (mut position, mut inflater) = (0, Inflater::default());
    while let Some(message) = decoder
        .next(&mut read, &mut position, &mut inflater)
        .expect("valid frames")
    {
        black_box(message);
    }
    (decoder, read)
}

/// A client and eight of the messages named `name`. Every path was used once before.
fn client(name: &str) -> (Rig, ConnectionId, Vec<Vec<u8>>) {
    let mut rig = Rig::new();
    let id = rig.connect(&["grid.g1.*".to_owned()]);
    rig.drain();
    let (_, texts) = MESSAGES.iter().find(|message| message.0 == name).expect("a message");
    let mut frames = texts.iter().cycle().map(|text| client_frame(text.as_bytes()));
    for mut frame in frames.by_ref().take(2) {
        rig.core.on_bytes(id, &mut frame, NOW);
        rig.drain();
    }
    let frames = frames.take(8).collect();
    (rig, id, frames)
}

#[library_benchmark]
#[bench::ping_of_8(args = ("ping",), setup = client)]
#[bench::subscribe_of_8(args = ("subscribe",), setup = client)]
#[bench::get_status_of_8(args = ("get_status",), setup = client)]
#[bench::refused_command_of_8(args = ("command refused",), setup = client)]
fn inbound((mut rig, id, mut frames): (Rig, ConnectionId, Vec<Vec<u8>>)) -> Rig {
    for frame in &mut frames {
        rig.core.on_bytes(id, frame, NOW);
        rig.drain();
    }
    rig
}

library_benchmark_group!(
    name = paths,
    benchmarks = [
        deliver,
        deliver_of_five,
        deliver_socket_io,
        end_socket_io,
        take_out,
        publish,
        publish_of_five,
        encode,
        decode,
        inbound
    ]
);
main!(library_benchmark_groups = paths);
