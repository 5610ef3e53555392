//! A shard under any sequence of operations: clients that come, say anything, stall and go, events, time.
//!
//! 1. Nothing panics and no call hangs.
//! 2. In the end, when everybody has gone, nothing is left: no connection, no frame, no event in the inbox, no credit.

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

struct World {
    rig: Rig,
    clients: Vec<ConnectionId>,
    now: tickgate::time::Now,
}

/// One fuzz input: operations, each a byte that says what, a byte that says who, and for some what follows.
pub fn check_input(data: &[u8]) {
    let mut world = World {
        rig: Rig::new(),
        clients: Vec::new(),
        now: NOW,
    };
    let mut rest = data;
    while let [what, who, more @ ..] = rest {
        rest = world.operation(*what, *who, more);
    }
    world.end();
}

impl World {
    fn operation<'d>(&mut self, what: u8, who: u8, rest: &'d [u8]) -> &'d [u8] {
        let client = self.clients.get(usize::from(who) % self.clients.len().max(1)).copied();
        match (what % 12, client) {
            (0, _) if self.clients.len() < CLIENTS_MAX => {
                let window_bits = 9 + who % 8;
                self.rig.deflate = (window_bits <= 15).then_some(Deflate { window_bits });
                let id = self.rig.connect(&[]);
                self.clients.push(id);
            }
            (1 | 2, Some(id)) => {
                let text = TEXTS[usize::from(what / 12) % TEXTS.len()];
                self.bytes(id, &client_frame(text.as_bytes()));
            }
            (3, Some(id)) => {
                let (bytes, later) = rest.split_at(usize::from(what).min(rest.len()));
                self.bytes(id, bytes);
                return later;
            }
            (4, Some(id)) => {
                let (bytes, later) = rest.split_at(usize::from(what).min(rest.len()));
                self.bytes(id, &client_frame(bytes));
                return later;
            }
            (5 | 6, _) if self.rig.hub.stats().credits_lent < 100 => {
                self.rig.publish(event(CHANNELS[usize::from(who) % CHANNELS.len()]));
            }
            (7, _) => {
                self.rig.engine.deliver(usize::from(who));
            }
            (8, Some(id)) => self.rig.engine.blocked(id, self.now),
            (9, Some(id)) => {
                self.rig.engine.writable(id);
            }
            (10, _) => {
                self.now = self.now.after_ms(u64::from(who) * 137);
                while self.rig.engine.run_timers(64, self.now) {}
            }
            (11, Some(id)) if who > 200 => self.rig.engine.on_end_of_input(id, self.now),
            (11, _) => self.write(usize::from(who) * 16 + 1),
            _ => {}
        }
        self.act();
        rest
    }

    fn bytes(&mut self, id: ConnectionId, bytes: &[u8]) {
        if self.rig.engine.wants_input(id) {
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
