//! What must hold after every step, when a connection ends, and when the simulation ends.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use parking_lot::Mutex;
use tickgate::event::{NewEvent, PublishOptions};
use tickgate::hub::Wakes;
use tickgate::shard::core::Action;
use tickgate::shard::mailbox::{ClientFilter, ClientsPage, ConnectionId, ShardMessage};
use tickgate_protocol::channel::Channel;

use crate::client::{CHANNELS, Client, Kind};
use crate::surroundings::{CALM, Fault};
use crate::world::World;

impl World {
    /// Does what the shard's driver does at the end of each pass, and checks what must hold then.
    pub(crate) fn after(&mut self) -> Result<(), String> {
        // Like a shard that is about to sleep: if the doorbell has rung, it stays awake and retries parked events.
        if !self.bell.fall_asleep() && self.fault != Fault::SilentDoorbell {
            self.bell.answer();
            self.core.retry_parked(self.now);
        }
        self.bell.answer();
        if self.core.waiting_events() == 0 {
            self.popped = self.log.lock().len();
        }
        while let Some(action) = self.core.next_action() {
            match action {
                Action::Resume(_) => {}
                Action::ShutDown(id) => self.peer_sees_the_end(id)?,
                Action::Remove(id) => self.removed(id)?,
                Action::Drop(id) | Action::AnswerProbe(id) => return Err(format!("{id:?} is no polling session")),
            }
        }
        for at in 0..self.clients.len() {
            self.update_client(at);
        }
        self.check_limits()
    }

    fn update_client(&mut self, at: usize) {
        let log = self.log.lock().len();
        let client = &mut self.clients[at];
        if client.stalled_steps > 0 {
            client.stalled_steps -= 1;
            if client.stalled_steps == 0 {
                client.writable_bytes = usize::MAX;
                self.core.writable(client.id);
            }
        }
        let is_closing = self.core.is_closing(client.id);
        if is_closing && !client.is_closing {
            explain(client, self.now.mono_ms, self.draining);
        }
        client.is_closing = is_closing;
        if !is_closing {
            client.alive_popped = self.popped;
        }
        if is_closing || self.core.wants_input(client.id) {
            client.model.done(log);
        }
    }

    /// The shard has sent everything and shut down its side of the connection.
    fn peer_sees_the_end(&mut self, id: ConnectionId) -> Result<(), String> {
        let at = *self.by_id.get(&id).ok_or("shuts down an unknown connection")?;
        let client = &mut self.clients[at];
        if client.model.closed.is_none() && !client.eof {
            return Err("shut down without a Close frame".into());
        }
        if !client.is_stubborn && !client.eof {
            client.eof = true;
            self.core.on_end_of_input(id, self.now);
        }
        Ok(())
    }

    fn removed(&mut self, id: ConnectionId) -> Result<(), String> {
        let at = self.by_id.remove(&id).ok_or("removed twice")?;
        let mut client = self.clients.swap_remove(at);
        if let Some(moved) = self.clients.get(at) {
            self.by_id.insert(moved.id, at);
        }
        self.summary.received += client.model.received() as u64;
        let Some(code) = client.model.closed else {
            return Ok(()); // The client has hung up, or did not read to the end in time.
        };
        if client.is_mid_frame() {
            return Err("bytes after the Close frame".into());
        }
        explain(&mut client, self.now.mono_ms, self.draining);
        if code.is_some_and(|code| !client.explained.contains(&code)) {
            return Err(format!(
                "{:?} closed with {code:?}, explained are {:?}",
                client.kind, client.explained
            ));
        }
        client.model.check_end(client.alive_popped, &self.log.lock())
    }

    fn check_limits(&mut self) -> Result<(), String> {
        let page: Arc<Mutex<ClientsPage>> = Arc::default();
        let reply = page.clone();
        let message = ShardMessage::Clients {
            from_slot: 0,
            limit: usize::MAX,
            filter: ClientFilter::default(),
            reply: Box::new(move |page| *reply.lock() = page),
        };
        self.core.on_message(message, self.now);
        let page = page.lock();
        if page.clients.len() != self.clients.len() || self.core.connections() != self.clients.len() {
            return Err(format!(
                "{} connections, not {}",
                page.clients.len(),
                self.clients.len()
            ));
        }
        let limits = CALM;
        for client in &page.clients {
            // The farewell is not bounded by the limits.
            let most = u64::from(limits.outbox_frames + limits.reply_frames) + 4;
            if client.pending > most || client.subscriptions.len() > limits.subscriptions as usize {
                return Err(format!("over a cap: {client:?}"));
            }
        }
        self.core.update_gauges();
        let open = i64::try_from(self.clients.len()).unwrap_or(i64::MAX);
        let stats = self.stats.read();
        // A single event may exceed the limit.
        let bytes_max = i64::from(limits.outbox_bytes);
        if stats.pending_frames > open * i64::from(limits.outbox_frames) || stats.pending_bytes > open * bytes_max {
            return Err(format!("outboxes hold too much: {stats:?}"));
        }
        let held: usize = page.clients.iter().map(|client| client.subscriptions.len()).sum();
        if usize::try_from(stats.subscriptions) != Ok(held) {
            return Err(format!("{} subscriptions counted, {held} held", stats.subscriptions));
        }
        Ok(())
    }

    pub(crate) fn check_no_resource_in_use(&mut self) -> Result<(), String> {
        if !self.clients.is_empty() {
            let left: Vec<_> = self
                .clients
                .iter()
                .map(|client| (client.id, client.kind, client.is_closing))
                .collect();
            return Err(format!("still there: {left:?}"));
        }
        while self.core.deliver(64) > 0 {}
        let stats = self.stats.read();
        let left = [
            stats.connections,
            stats.subscriptions,
            stats.pending_frames,
            stats.pending_bytes,
        ];
        if left != [0; 4] || self.permits.load(Relaxed) != 0 {
            return Err(format!("left behind: {left:?}, {} permits", self.permits.load(Relaxed)));
        }
        if self.core.queued_frames() != 0 {
            return Err(format!("{} frames are still in the pool", self.core.queued_frames()));
        }
        if stats.endings.iter().sum::<u64>() != stats.connections_total {
            return Err(format!(
                "{} connections ended {:?}",
                stats.connections_total, stats.endings
            ));
        }
        if self.draining && !self.core.is_finished() {
            return Err("the drain does not end".into());
        }
        self.check_hub()
    }

    fn check_hub(&self) -> Result<(), String> {
        let before = self.hub.metrics();
        if before.credits_lent != 0 {
            return Err(format!("{} credits are lost", before.credits_lent));
        }
        for channel in CHANNELS {
            let event = NewEvent {
                channel: Channel::parse(channel).expect("valid"),
                name: "e".into(),
                data: "0".into(),
                timestamp_ms: 0,
                options: PublishOptions::default(),
            };
            let credit = self
                .hub
                .credit_now(tickgate_protocol::channel::Tenant::DEFAULT, 0)
                .ok_or("no credit")?;
            self.hub.publish(event, self.now, credit, &mut Wakes::default());
        }
        let unwanted = self.hub.metrics().unwanted - before.unwanted;
        if unwanted != CHANNELS.len() as u64 {
            return Err(format!(
                "{} channels are still wanted",
                CHANNELS.len() as u64 - unwanted
            ));
        }
        Ok(())
    }
}

/// Adds the close codes that the elapsed time and the client's kind explain.
fn explain(client: &mut Client, now_ms: u64, draining: bool) {
    if now_ms - client.connected_ms >= 5_000 && !client.has_authenticated {
        client.explained.push(4002);
    }
    if now_ms - client.last_input_ms >= 60_000 {
        client.explained.push(4009);
    }
    if client.has_bytes() {
        client.explained.push(1008); // the rest of a message that was never passed in
    }
    if client.kind == Kind::Flooder {
        client.explained.extend([4008, 4029]);
    }
    if client.has_authenticated {
        client.explained.push(4001);
    }
    if draining {
        client.explained.extend([1001, 1012]);
    }
}
