//! One connection to the broker: publishing, outcomes, and what ends it.
//!
//! Invariant: an event that waits when the session ends was not sent, and its publisher is told so.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use async_nats::header::{HeaderMap, NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, NATS_MESSAGE_ID};
use async_nats::{Client, Event, StatusCode, Subscriber};
use futures_util::StreamExt as _;
use rand::RngExt as _;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::attach::{Ack, WRONG_LAST_SEQUENCE, failed};
use super::connect::connect;
use super::pending::PATIENCE;
use super::terms::{FORMAT, Notice};
use super::{End, Outgoing, Shared};
use crate::event::Refusal;
use crate::hub::Receipt;

/// How often a notice is written, and how often publishes that take too long are looked for.
const NOTICE_EVERY: Duration = Duration::from_secs(1);
const LATE_EVERY: Duration = Duration::from_millis(250);

/// A link over which no notice came for this long is down.
const DEAF: Duration = Duration::from_millis(3500);

/// The longest random wait before the first attempt to connect again, and before each later one: doubled each time, up to
/// the second value. A gateway that comes back late may find that the log has forgotten events that it missed, so the
/// longest wait is short.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// How often a duplicate is looked for in the hub.
const DUPLICATE_EVERY: Duration = Duration::from_millis(20);

/// The longest wait after a session that ended. If events are missing in a stream, the broker itself is well, and a long
/// wait would lose more of them.
fn next_backoff(before: Duration, was_up: bool, end: &End) -> Duration {
    if was_up || matches!(end, End::Gap(_)) {
        BACKOFF.0
    } else {
        (2 * before).min(BACKOFF.1)
    }
}

/// Waits until the connection is lost.
async fn lost(events: &mut UnboundedReceiver<Event>) -> End {
    let reason = loop {
        match events.recv().await {
            Some(Event::Disconnected) | None => break "the connection is lost",
            Some(Event::Closed | Event::Draining) => break "the connection is closed",
            Some(Event::LameDuckMode) => break "the server is about to stop",
            // Such as a subject that this gateway has no permission for.
            Some(Event::ServerError(error)) => tracing::warn!(%error, "the broker refuses something"),
            Some(other) => tracing::debug!(%other, "the broker's client"),
        }
    };
    End::Failed(reason.to_owned())
}

impl Shared {
    /// Connects again and again until the broker is dropped. `first` gets why the first session ended, or `None` as soon as
    /// it is up.
    pub(super) async fn run(self: Arc<Self>, mut outgoing: UnboundedReceiver<Outgoing>, first: Sender<Option<End>>) {
        let (mut attempt, mut said) = (0, String::new());
        let mut backoff = BACKOFF.0;
        loop {
            let Err(end) = self.session(attempt, &mut outgoing, &first).await;
            let was_up = self.is_up.swap(false, Ordering::AcqRel);
            self.requests.close();
            let now = Instant::now();
            while let Ok(unsent) = outgoing.try_recv() {
                self.pending.finish(unsent.number, Err(Refusal::Unavailable), now);
            }
            if let End::Gap(_) = end {
                // The next session reads the log from its beginning.
                self.position.lock().table = None;
            }
            if was_up || said != end.reason() {
                end.reason().clone_into(&mut said);
                tracing::warn!(reason = said, "the link to the broker is down; it is tried again");
            }
            backoff = next_backoff(backoff, was_up, &end);
            let _ = first.send(Some(end));
            attempt += 1;
            let wait = rand::rng().random_range(Duration::ZERO..=backoff);
            sleep(wait).await;
        }
    }

    /// Gives up the events that are too long on their way, whatever the session does.
    pub(super) async fn give_up_late(self: Arc<Self>) {
        let mut ticks = interval(LATE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.pending.give_up_late(Instant::now());
        }
    }

    async fn session(
        self: &Arc<Self>,
        attempt: usize,
        outgoing: &mut UnboundedReceiver<Outgoing>,
        first: &Sender<Option<End>>,
    ) -> Result<Infallible, End> {
        let (client, mut events) = connect(&self.settings, attempt).await?;
        self.metrics.connects.add(1);
        self.payload_max.store(client.max_payload(), Ordering::Relaxed);
        let needed = self.settings.event_bytes + super::HEAD_BYTES_MAX;
        if client.max_payload() < needed {
            return Err(End::Unfit(format!(
                "the broker takes messages of {} bytes, events may need {needed}: raise its max_payload or lower limits.event_bytes",
                client.max_payload()
            )));
        }
        let attached = tokio::select! {
            attached = self.attach(&client) => Arc::new(attached?),
            lost = lost(&mut events) => return Err(lost),
        };
        let inbox = client.new_inbox();
        let answers = client
            .subscribe(format!("{inbox}.*"))
            .await
            .map_err(failed("no answers can be had"))?;
        // Aborted when the session ends.
        let mut tasks = JoinSet::new();
        let (up, is_up) = watch::channel(false);
        let (shared, told) = (Arc::clone(self), first.clone());
        let caught_up = move || {
            shared.go_up(&told);
            let _ = up.send(true);
        };
        tasks.spawn(Arc::clone(self).follow_log(Arc::clone(&attached), caught_up));
        tasks.spawn(Arc::clone(self).follow_plain(attached));
        tasks.spawn(Arc::clone(self).take_answers(answers, inbox.len() + 1));
        tasks.spawn(Arc::clone(self).write_notices(client.clone()));
        tasks.spawn(Arc::clone(self).exchange(client.clone(), is_up));
        loop {
            tokio::select! {
                Some(ended) = tasks.join_next() => {
                    return Err(ended.unwrap_or_else(|error| End::Failed(error.to_string())));
                }
                lost = lost(&mut events) => return Err(lost),
                next = outgoing.recv() => match next {
                    Some(next) => self.send_one(&client, &inbox, next).await,
                    None => return Err(End::Failed("the gateway ends".to_owned())),
                },
            }
        }
    }

    fn go_up(&self, first: &Sender<Option<End>>) {
        let mut position = self.position.lock();
        position.was_up = true;
        position.heard = Some(Instant::now());
        let applied = position.applied;
        drop(position);
        if !self.is_up.swap(true, Ordering::AcqRel) {
            tracing::info!(applied, epoch = %self.hub.epoch(), "the link to the broker is up");
        }
        let _ = first.send(None);
    }

    async fn send_one(&self, client: &Client, inbox: &str, next: Outgoing) {
        if !self.is_up() {
            return self
                .pending
                .finish(next.number, Err(Refusal::Unavailable), Instant::now());
        }
        let reply = format!("{inbox}.{}", next.number);
        let mut headers = HeaderMap::new();
        if let Some(id) = next.id {
            headers.insert(NATS_MESSAGE_ID, format!("{id:?}"));
        }
        if let Some(after) = next.after {
            headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, after.to_string());
        }
        let sent = if headers.is_empty() {
            client.publish_with_reply(next.subject, reply, next.payload).await
        } else {
            client
                .publish_with_reply_and_headers(next.subject, reply, headers, next.payload)
                .await
        };

        if let Err(error) = sent {
            tracing::debug!(%error, "an event could not be sent");
            self.pending.finish(next.number, Err(Refusal::Rejected), Instant::now());
        }
    }

    /// Takes the broker's answers to publishes. The receipt of a stored event comes when it is applied.
    async fn take_answers(self: Arc<Self>, mut answers: Subscriber, number_at: usize) -> End {
        while let Some(message) = answers.next().await {
            let Some(number) = message.subject.get(number_at..).and_then(|number| number.parse().ok()) else {
                continue;
            };
            if message.status == Some(StatusCode::NO_RESPONDERS) {
                // No stream takes the subject.
                self.pending.finish(number, Err(Refusal::Unavailable), Instant::now());
                continue;
            }
            match serde_json::from_slice::<Ack>(&message.payload) {
                // The records as a whole are for the next time, then.
                Ok(Ack { error: Some(error), .. }) if error.err_code == WRONG_LAST_SEQUENCE => {}
                Ok(Ack { error: Some(error), .. }) => {
                    tracing::warn!(reason = error.description, "the broker refuses an event");
                    self.pending.finish(number, Err(Refusal::Rejected), Instant::now());
                }
                Ok(Ack { duplicate: true, .. }) => {
                    tokio::spawn(Arc::clone(&self).find_duplicate(number));
                }
                // Without a readable answer the event is still waited for.
                Ok(_) | Err(_) => {}
            }
        }
        End::Failed("the broker's answers ended".to_owned())
    }

    /// Waits until the event that was published first under the same id is applied.
    async fn find_duplicate(self: Arc<Self>, number: u64) {
        let began = Instant::now();
        while began.elapsed() < PATIENCE
            && let Some((channel, id)) = self.pending.id(number)
        {
            // The first event is stored, and nothing more is known of it if its channel keeps nothing.
            let is_kept = self.hub.class_of(&channel).keeps_state();
            let stored = (!is_kept).then_some(Receipt {
                duplicate: true,
                ..Receipt::default()
            });
            if let Some(receipt) = stored.or_else(|| self.hub.accepted(&channel, &id)) {
                return self.pending.finish(number, Ok(receipt), Instant::now());
            }
            sleep(DUPLICATE_EVERY).await;
        }
    }

    /// Writes a notice every second, and ends when none comes back.
    async fn write_notices(self: Arc<Self>, client: Client) -> End {
        let mut ticks = interval(NOTICE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let (notice, after, heard) = {
                let position = self.position.lock();
                let Some(table) = position.table.clone() else {
                    return End::Failed("the gateway has no place in the log".to_owned());
                };
                let notice = Notice {
                    v: FORMAT,
                    node: self.settings.node.to_string(),
                    classes: self.settings.classes,
                    incarnation: position.incarnation.clone(),
                    epoch: table.epoch,
                    terms: table.terms,
                    opens: None,
                    above: 0,
                };
                (notice, position.notice, position.heard)
            };
            if self.is_up() && heard.is_some_and(|heard| heard.elapsed() > DEAF) {
                return End::Failed("nothing comes from the log".to_owned());
            }
            // If another gateway has written one meanwhile, that one is as good.
            if let Err(end) = self.write_notice(&client, &notice, after).await {
                return end;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_back_two_seconds_after_its_broker_and_begins_anew_without_delay() {
        let failed = End::Failed(String::new());
        let mut backoff = BACKOFF.0;
        for _ in 0..20 {
            backoff = next_backoff(backoff, false, &failed);
        }
        assert_eq!(backoff, Duration::from_secs(2));
        assert_eq!(next_backoff(backoff, true, &failed), BACKOFF.0);
        assert_eq!(next_backoff(backoff, false, &End::Gap(String::new())), BACKOFF.0);
    }
}
