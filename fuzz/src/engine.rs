//! A shard under any sequence of operations: clients that come, say anything, stall and go, events, time.
//!
//! 1. Nothing panics and no call hangs.
//! 2. In the end, when everybody has gone, nothing is left: no connection, no frame, no event in the inbox, no credit.

use arbitrary::{Arbitrary, Result, Unstructured};
use tickgate::mailbox::ConnectionId;
use tickgate::shard::engine::{Action, Sent};
use tickgate::wire::Deflate;

use crate::rig::{NOW, Rig, client_frame, event};

const CLIENTS_MAX: usize = 8;
const TEXTS: &[&str] = &[
    r#"{"type":"ping","id":1}"#,
    r#"{"type":"subscribe","channels":["grid.*"]}"#,
    r#"{"type":"subscribe","channels":["grid.a.order","*"],"recover":{"grid.a.order":{"epoch":"0","offset":0}}}"#,
    r#"{"type":"subscribe","channels":["*.*.status","market.*"],"id":"s"}"#,
    r#"{"type":"unsubscribe","channels":["grid.*","*"]}"#,
    r#"{"type":"publish","channel":"grid.a.order","event":"filled","data":{"n":1},"id":"p"}"#,
    r#"{"type":"command","id":"c","action":"grid.start","params":{}}"#,
    r#"{"type":"get_status"}"#,
    r#"{"type":"history","channel":"grid.a.order","since":0}"#,
    r#"{"type":"auth","token":"x"}"#,
    r#"{"type":"pong"}"#,
    "[]",
];
const CHANNELS: &[&str] = &["grid.a.order", "grid.a.status", "market.x.price", "grid.b.pnl", "other"];

/// One step. Who it concerns is a place among the clients there are, counted round and round.
#[derive(Arbitrary, Debug)]
enum Operation<'d> {
    /// A client comes; with a window it has agreed on compression.
    Connect {
        #[arbitrary(with = window_bits)]
        window_bits: Option<u8>,
    },
    /// It says what makes sense.
    Say {
        who: u8,
        #[arbitrary(with = |data: &mut Unstructured<'_>| data.choose(TEXTS).copied())]
        text: &'static str,
    },
    /// It says anything, in a frame.
    SayAnything { who: u8, text: &'d [u8] },
    /// It sends anything.
    Send { who: u8, bytes: &'d [u8] },
    /// Its socket takes no more.
    Block { who: u8 },
    /// Its socket takes more.
    Unblock { who: u8 },
    /// It sends no more.
    EndInput { who: u8 },
    /// An event is published.
    Publish {
        #[arbitrary(with = |data: &mut Unstructured<'_>| data.choose(CHANNELS).copied())]
        channel: &'static str,
    },
    /// The shard begins a turn.
    BeginTurn,
    /// It delivers at most so many events.
    Deliver { events: u8 },
    /// It writes at most 16 times so many bytes and one to each dirty connection.
    Write { sixteens: u8 },
    /// Time passes, in steps of 137 ms.
    Wait { steps: u8 },
}

fn window_bits(data: &mut Unstructured<'_>) -> Result<Option<u8>> {
    let bits = data.int_in_range(9..=16)?;
    Ok((bits <= 15).then_some(bits))
}

struct World {
    rig: Rig,
    clients: Vec<ConnectionId>,
    now: tickgate::time::Now,
}

/// One fuzz input: a `Vec<Operation>`.
pub fn check_input(data: &[u8]) {
    let Ok(operations) = Vec::<Operation<'_>>::arbitrary_take_rest(Unstructured::new(data)) else {
        return;
    };
    let mut world = World {
        rig: Rig::new(),
        clients: Vec::new(),
        now: NOW,
    };
    for operation in operations {
        world.carry_out(&operation);
        world.act();
    }
    world.end();
}

impl World {
    fn client(&self, who: u8) -> Option<ConnectionId> {
        self.clients.get(usize::from(who) % self.clients.len().max(1)).copied()
    }

    fn carry_out(&mut self, operation: &Operation<'_>) {
        match *operation {
            Operation::Connect { window_bits } if self.clients.len() < CLIENTS_MAX => {
                self.rig.deflate = window_bits.map(|window_bits| Deflate { window_bits });
                let id = self.rig.connect(&[]);
                self.clients.push(id);
            }
            Operation::Connect { .. } => {}
            Operation::Say { who, text } => self.bytes(who, &client_frame(text.as_bytes())),
            Operation::SayAnything { who, text } => self.bytes(who, &client_frame(text)),
            Operation::Send { who, bytes } => self.bytes(who, bytes),
            Operation::Block { who } => {
                if let Some(id) = self.client(who) {
                    self.rig.engine.blocked(id, self.now);
                }
            }
            Operation::Unblock { who } => {
                if let Some(id) = self.client(who) {
                    self.rig.engine.writable(id);
                }
            }
            Operation::EndInput { who } => {
                if let Some(id) = self.client(who) {
                    self.rig.engine.on_end_of_input(id, self.now);
                }
            }
            // Nobody takes the events out but `Deliver`: what has no credit would wait for ever.
            Operation::Publish { channel } => {
                if self.rig.hub.stats().credits_lent < 100 {
                    self.rig.publish(event(channel));
                }
            }
            Operation::BeginTurn => self.rig.engine.begin_turn(self.now),
            Operation::Deliver { events } => {
                self.rig.engine.deliver(events.into());
            }
            Operation::Write { sixteens } => self.write(usize::from(sixteens) * 16 + 1),
            Operation::Wait { steps } => {
                self.now = self.now.after_ms(u64::from(steps) * 137);
                while self.rig.engine.run_timers(64, self.now) {}
            }
        }
    }

    fn bytes(&mut self, who: u8, bytes: &[u8]) {
        if let Some(id) = self.client(who).filter(|id| self.rig.engine.wants_input(*id)) {
            self.rig.engine.on_bytes(id, &mut bytes.to_vec(), self.now);
        }
    }

    /// Writes at most so many bytes to each dirty connection.
    fn write(&mut self, most: usize) {
        let mut dirty = Vec::new();
        while let Some(id) = self.rig.engine.next_dirty() {
            dirty.push(id);
        }
        for id in dirty {
            let mut slices = [std::io::IoSlice::new(&[]); 16];
            let filled = self.rig.engine.pending(id, self.now, &mut slices);
            let bytes: usize = slices[..filled].iter().map(|slice| slice.len()).sum();
            let written = bytes.min(most);
            if filled > 0 && self.rig.engine.sent(id, written, self.now) == Sent::More {
                self.rig.engine.postpone(id);
            }
        }
    }

    fn act(&mut self) {
        while let Some(action) = self.rig.engine.next_action() {
            if let Action::Remove(gone) = action {
                self.clients.retain(|id| *id != gone);
            }
        }
    }

    fn end(mut self) {
        self.rig.engine.retry_parked(self.now);
        for id in self.clients.clone() {
            self.rig.engine.on_socket_error(id, self.now);
            self.act();
        }
        while self.rig.engine.deliver(1000) > 0 || self.rig.engine.is_pressed() {}
        self.rig.engine.retry_parked(self.now);
        while self.rig.engine.deliver(1000) > 0 {}
        assert_eq!(self.rig.engine.connections(), 0);
        assert_eq!(self.rig.engine.queued_frames(), 0);
        assert_eq!(self.rig.hub.stats().credits_lent, 0);
    }
}
