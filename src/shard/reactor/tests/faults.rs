//! Tests with a ring that misbehaves. No stream of bytes is ever corrupted, and the ring is abandoned where it must be.

use super::rig::{Client, Driven, Shard, data, frame, unix};
use super::*;
use crate::shard::CoalescePolicy;
use crate::shard::flush::faults::{self, Enter, Fault, Script};

/// A shard with `count` clients that are subscribed to all channels, and with a ring that follows a script.
fn shard_with(count: usize, script: impl Script + 'static) -> (Shard, Driven, Vec<Client<UnixStream>>) {
    let mut shard = Shard::new(FlushMethod::Writev, 1_000, Limits::default());
    let mut driven = shard.reactor();
    let clients: Vec<_> = (0..count)
        .map(|_| {
            let (server, client) = unix();
            shard.adopt(server, &frame(0x81, br#"{"type":"subscribe","channels":["*"]}"#));
            client
        })
        .collect();
    driven.settle();
    let clients = clients.into_iter().map(|mut client| {
        client.read();
        assert_eq!(client.texts().len(), 1, "subscribed");
        client
    });
    let clients = clients.collect();
    // Otherwise events may be coalesced while `settle` sees nothing to do.
    driven.reactor.coalescer = Coalescer::new(CoalescePolicy::Fixed(0));
    driven.reactor.flusher = faults::flusher(script, shard.handle.metrics());
    (shard, driven, clients)
}

fn uses_ring(shard: &Shard) -> bool {
    shard.handle.metrics().io_uring.get() == 1
}

/// Publishes the events, a few in each turn, and returns what every client got.
fn run(
    shard: &Shard,
    driven: &mut Driven,
    clients: &mut [Client<UnixStream>],
    events: std::ops::Range<u64>,
) -> Vec<Vec<u64>> {
    for number in events {
        assert!(shard.try_publish("a.b", &number.to_string()));
        if number % 3 == 0 {
            driven.turn();
        }
    }
    driven.settle();
    let got = clients.iter_mut().map(|client| {
        client.read();
        data(&client.texts())
    });
    got.collect()
}

fn all(events: std::ops::Range<u64>) -> Vec<u64> {
    events.collect()
}

/// A script of submissions. Messages have no faults.
struct Submissions<F>(F);

impl<F: FnMut() -> Enter> Script for Submissions<F> {
    fn enter(&mut self) -> Enter {
        (self.0)()
    }
    fn message(&mut self, _: usize) -> Fault {
        Fault::None
    }
}

#[test]
fn a_submission_that_is_taken_in_part_is_repeated() {
    let mut calls = 0;
    let script = Submissions(move || {
        calls += 1;
        match calls % 4 {
            0 => Enter::Fails(2, Errno::INTR),
            1 => Enter::Some(3),
            2 => Enter::Some(0),
            _ => Enter::Fails(0, Errno::AGAIN),
        }
    });
    let (shard, mut driven, mut clients) = shard_with(10, script);
    for got in run(&shard, &mut driven, &mut clients, 0..20) {
        assert_eq!(got, all(0..20));
    }
    assert!(uses_ring(&shard));
}

#[test]
fn a_submission_that_fails_in_the_middle_is_finished_by_writev() {
    for taken in [0, 1, 5, 9] {
        let script = Submissions(move || Enter::Fails(taken, Errno::NOMEM));
        let (shard, mut driven, mut clients) = shard_with(10, script);
        for got in run(&shard, &mut driven, &mut clients, 0..20) {
            assert_eq!(got, all(0..20), "with {taken} taken");
        }
        assert!(!uses_ring(&shard));
        assert_eq!(shard.handle.load(), 10);
    }
}

#[test]
fn a_ring_without_progress_is_abandoned() {
    let (shard, mut driven, mut clients) = shard_with(3, Submissions(|| Enter::Some(0)));
    for got in run(&shard, &mut driven, &mut clients, 0..4) {
        assert_eq!(got, all(0..4));
    }
    assert!(!uses_ring(&shard));
}

#[test]
fn a_message_that_is_refused_is_written_by_writev() {
    for error in [Errno::CANCELED, Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP] {
        let script = move |index| if index == 4 { Fault::Error(error) } else { Fault::None };
        let (shard, mut driven, mut clients) = shard_with(10, script);
        for got in run(&shard, &mut driven, &mut clients, 0..20) {
            assert_eq!(got, all(0..20), "{error}");
        }
        assert!(!uses_ring(&shard));
    }
}

#[test]
fn a_message_without_one_completion_ends_the_ring_and_a_lost_one_its_connection() {
    for fault in [Fault::Silent, Fault::Twice] {
        let script = move |index| if index == 2 { fault } else { Fault::None };
        let (shard, mut driven, mut clients) = shard_with(10, script);
        let got = run(&shard, &mut driven, &mut clients, 0..20);
        let is_lost = fault == Fault::Silent;
        // The number of sent bytes is unknown, so the message must not be sent again.
        assert_eq!(clients[2].is_at_end, is_lost);
        assert_eq!(shard.ended(Disconnect::Lost), u64::from(is_lost));
        for (client, got) in got.iter().enumerate() {
            assert!(
                got.iter().copied().eq(0..got.len() as u64),
                "client {client} got {got:?}"
            );
            assert!(
                got.len() == 20 || (client == 2 && is_lost),
                "client {client} got {got:?}"
            );
        }
        assert!(!uses_ring(&shard));
    }
}

#[test]
fn a_broken_socket_ends_only_its_own_connection() {
    let script = |index| {
        if index == 7 {
            Fault::Error(Errno::PIPE)
        } else {
            Fault::None
        }
    };
    let (shard, mut driven, mut clients) = shard_with(10, script);
    let got = run(&shard, &mut driven, &mut clients, 0..4);
    let whole = got.iter().filter(|got| **got == all(0..4)).count();
    // Each tick loses its eighth, until there are but seven.
    assert_eq!((whole, shard.handle.load()), (10 - 2, 8));
    assert_eq!(shard.ended(Disconnect::Lost), 2);
    assert!(uses_ring(&shard));
}

#[test]
fn short_sends_and_full_sockets_wait_for_writability_and_corrupt_no_stream() {
    let seed = 0x5eed_u64;
    for seed in seed..seed + 20 {
        let mut state = seed;
        let mut random = move |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        let script = move |_| match random(6) {
            0 => Fault::Short(random(40) as usize),
            1 => Fault::Short(random(400) as usize),
            2 => Fault::Error(Errno::AGAIN),
            3 => Fault::Error(Errno::INTR),
            _ => Fault::None,
        };
        let (shard, mut driven, mut clients) = shard_with(10, script);
        for got in run(&shard, &mut driven, &mut clients, 0..60) {
            assert_eq!(got, all(0..60), "seed {seed}");
        }
        assert!(uses_ring(&shard), "seed {seed}");
        assert_eq!(shard.handle.load(), 10, "seed {seed}");
    }
}
