//! One connection to the server: publishing, outcomes, and what ends it.
//!
//! Invariant: an event that waits when the session ends was not sent, and its publisher is told so.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::attach::Written;
use super::inspect::inspect;
use super::scripts::{Scripts, run};
use super::{Draft, Outgoing, Shared};
use crate::broker::link::{End, NOTICE_EVERY, Retry, end_of};
use crate::event::Refusal;
use crate::redis::{Found, NoConnection, Sentinel};

/// The most entries of one call, and the most bytes of their payloads before the next call begins.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 1 << 20;

/// How often a Sentinel is asked whether the server is still the master.
const SENTINEL_EVERY: Duration = Duration::from_secs(2);

impl Shared {
    /// Connects again and again until the broker is dropped. `first` gets why the first session ended, or `None` as soon as
    /// it is up.
    pub(super) async fn run(self: Arc<Self>, mut outgoing: UnboundedReceiver<Outgoing>, first: Sender<Option<End>>) {
        let (mut attempt, mut retry) = (0, Retry::default());
        loop {
            let Err(end) = self.session(attempt, &mut outgoing, &first).await;
            let was_up = self.go_down(&end);
            self.messages.close(&end);
            while let Ok(unsent) = outgoing.try_recv() {
                if let Outgoing::Draft(draft) = unsent {
                    self.not_sent(draft.number);
                }
            }
            let wait = retry.after(attempt % self.settings.server.addresses.len().max(1), was_up, &end);
            let _ = first.send(Some(end));
            attempt += 1;
            sleep(wait).await;
        }
    }

    async fn session(
        self: &Arc<Self>,
        attempt: usize,
        outgoing: &mut UnboundedReceiver<Outgoing>,
        first: &Sender<Option<End>>,
    ) -> Result<Infallible, End> {
        let mut probe = redis::cmd("EXISTS");
        probe.arg(&self.keys.events);
        let found = self.settings.server.find(attempt, Some(&probe)).await?;
        let reader = found.connect().await?;
        let Found {
            connection: mut writer,
            address,
            sentinel,
            ..
        } = found;
        self.metrics.connects.add(1);
        let info = inspect(&mut writer).await?;
        let needed = self.settings.log_bytes.saturating_add(self.settings.plain_bytes);
        if info.memory_max > 0 && info.memory_max < needed {
            tracing::warn!(
                maxmemory = info.memory_max,
                needed,
                "the server may use less memory than broker.log_bytes and broker.plain_bytes need: when it is full, it refuses events"
            );
        }
        let scripts = Scripts::load(&mut writer).await?;
        self.learn_all(&mut writer).await?;
        let table = self.take_terms(&mut writer, &scripts, &info.incarnation).await?;
        self.store_classes(&mut writer).await?;
        let mut extent = self.read_state(&mut writer).await?.extent;
        if !self.place(&table, extent) {
            extent = self.restore_values(&mut writer, &table).await?;
            self.read_back(table, extent);
        }
        self.messages.open(writer.clone(), scripts.clone());
        // Aborted when the session ends.
        let mut tasks = JoinSet::new();
        let (shared, told, server) = (Arc::clone(self), first.clone(), address.clone());
        let caught_up = move || {
            shared.note_server(&server);
            shared.go_up();
            let _ = told.send(None);
        };
        tasks.spawn(Arc::clone(self).follow(reader, extent.last, caught_up));
        tasks.spawn(Arc::clone(self).write_notices(writer.clone(), scripts.clone(), info.incarnation));
        if let Some(sentinel) = sentinel {
            tasks.spawn(watch(sentinel, address));
        }
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                Some(ended) = tasks.join_next() => return Err(end_of(ended)),
                count = outgoing.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return Err(End::Failed("the gateway ends".to_owned()));
                    }
                }
            }
            let mut sent = std::mem::take(&mut batch).into_iter().peekable();
            while sent.peek().is_some() {
                let part = take_part(&mut sent);
                let written = tokio::select! {
                    Some(ended) = tasks.join_next() => Err(end_of(ended)),
                    written = self.write(&mut writer, &scripts, &part) => written,
                };
                if let Err(end) = written {
                    for unsent in sent {
                        if let Outgoing::Draft(draft) = unsent {
                            self.not_sent(draft.number);
                        }
                    }
                    return Err(end);
                }
            }
        }
    }

    /// Appends a part of a batch. The receipts of its events come when they are applied.
    async fn write(
        self: &Arc<Self>,
        connection: &mut MultiplexedConnection,
        scripts: &Scripts,
        part: &[Draft],
    ) -> Result<(), End> {
        if part.is_empty() {
            return Ok(());
        }
        if !self.is_up() {
            part.iter().for_each(|draft| self.not_sent(draft.number));
            return Ok(());
        }
        let term = (self.position.lock().table.as_ref()).map_or(0, |table| table.current().id);
        let error = match run::<Vec<i64>>(connection, &self.publish(scripts, term, part)).await {
            Ok(numbers) => {
                self.take_numbers(part, &numbers);
                return Ok(());
            }
            Err(error) => error,
        };
        let reason = format!("the server does not take events: {error}");
        let refusal = error.refusal();
        let refuse = || {
            let now = Instant::now();
            for draft in part {
                self.pending.finish(draft.number, Err(refusal), now);
                if let Some(value) = draft.value {
                    self.value_answered(value, false);
                }
            }
        };
        match refusal {
            // The server may take the next batch.
            Refusal::Rejected => {
                refuse();
                self.log_refused(&reason);
                Ok(())
            }
            Refusal::Unavailable => {
                refuse();
                Err(End::Failed(reason))
            }
            // What waits is told when the time is over.
            Refusal::Unknown => Err(End::Failed(reason)),
        }
    }

    /// The call that appends a part of a batch, if the newest term is this one.
    pub(super) fn publish(&self, scripts: &Scripts, term: u64, part: &[Draft]) -> redis::Cmd {
        let (keys, settings) = (&self.keys, &self.settings);
        let mut command = keys.call(&scripts.publish, &[&keys.events, &keys.kept, &keys.state, &keys.merged]);
        command.arg(&keys.tag).arg(term);
        command.arg(settings.log_bytes).arg(settings.plain_bytes);
        command.arg(
            u64::try_from(settings.duplicate_window.as_millis())
                .unwrap_or(u64::MAX)
                .max(1),
        );
        for draft in part {
            command.arg(&draft.name).arg(&*draft.payload).arg(draft.keep);
            command.arg(draft.id.map_or_else(String::new, |id| format!("{id:?}")));
        }
        command
    }

    fn take_numbers(&self, part: &[Draft], numbers: &[i64]) {
        for (draft, number) in part.iter().zip(numbers) {
            if let Some(value) = draft.value {
                self.value_answered(value, true);
            } else if *number < 0 {
                let first = number.unsigned_abs();
                tokio::spawn(Arc::clone(&self.replica).find_duplicate(draft.number, Some(first)));
            } else {
                self.note_newest(number.unsigned_abs());
            }
        }
    }

    /// Notes which server the link is to.
    fn note_server(&self, address: &str) {
        let last = self.last_server.lock().replace(address.to_owned());
        if let Some(last) = last.filter(|last| last != address) {
            self.metrics.servers_changed.add(1);
            tracing::info!(from = last, to = address, "the broker is another server now");
        }
    }

    /// Writes a notice every second, and ends when none comes back or the server is another one.
    async fn write_notices(
        self: Arc<Self>,
        mut connection: MultiplexedConnection,
        scripts: Scripts,
        incarnation: String,
    ) -> End {
        let mut ticks = interval(NOTICE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            match self.write_next_notice(&mut connection, &scripts, &incarnation).await {
                Ok(()) => {}
                Err(end) => return end,
            }
        }
    }

    async fn write_next_notice(
        &self,
        connection: &mut MultiplexedConnection,
        scripts: &Scripts,
        incarnation: &str,
    ) -> Result<(), End> {
        if inspect(connection).await?.incarnation != incarnation {
            return Err(End::Failed(
                "the server was replaced, or was a replica meanwhile".to_owned(),
            ));
        }
        if self.is_up() {
            self.store_due_values();
        }
        let (notice, after) = self.next_notice()?;
        // If another gateway has written one meanwhile, that one is as good.
        match self.write_notice(connection, scripts, &notice, after).await? {
            Written::At(_) | Written::Overtaken => Ok(()),
        }
    }
}

/// The next entries that one call can take. What waits for them is told with the next part, when they are sent.
fn take_part(sent: &mut std::iter::Peekable<std::vec::IntoIter<Outgoing>>) -> Vec<Draft> {
    let (mut part, mut bytes) = (Vec::new(), 0);
    while bytes < BATCH_BYTES
        && let Some(Outgoing::Draft(_)) = sent.peek()
        && let Some(Outgoing::Draft(draft)) = sent.next()
    {
        bytes += draft.payload.len();
        part.push(draft);
    }
    if part.is_empty()
        && let Some(Outgoing::Flush(done)) = sent.next()
    {
        // Nobody may wait any more.
        let _ = done.send(());
    }
    part
}

impl From<NoConnection> for End {
    fn from(error: NoConnection) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Asks the Sentinel now and then, and ends when it names another master.
async fn watch(mut sentinel: Sentinel, address: String) -> End {
    let mut ticks = interval(SENTINEL_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match sentinel.master().await {
            Ok(master) if master == address => {}
            Ok(master) => return End::Failed(format!("the Sentinel names another master: {master}")),
            // The server itself may be well.
            Err(error) => {
                tracing::warn!(
                    reason = %error,
                    "the Sentinel is not watched any more until the next connection"
                );
                return std::future::pending().await;
            }
        }
    }
}
