//! One connection to the broker: publishing, outcomes, and what ends it.
//!
//! Invariant: an event that waits when the session ends was not sent, and its publisher is told so.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::Instant;

use async_nats::header::{HeaderMap, NATS_MESSAGE_ID};
use async_nats::{Client, Event, StatusCode, Subscriber};
use futures_util::StreamExt as _;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep};

use super::attach::Ack;
use super::connect::connect;
use super::merged::OF_VALUE;
use super::{Outgoing, Shared};
use crate::broker::link::{End, NOTICE_EVERY, Retry, end_of, failed};
use crate::broker::message::HEAD_BYTES_MAX;
use crate::event::Refusal;

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
        let (mut attempt, mut retry) = (0, Retry::default());
        loop {
            let Err(end) = self.session(attempt, &mut outgoing, &first).await;
            let was_up = self.go_down(&end);
            self.requests.close(&end);
            while let Ok(unsent) = outgoing.try_recv() {
                self.not_sent(unsent.number);
            }
            let wait = retry.after(attempt % self.settings.urls.len(), was_up, &end);
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
        let (client, mut events) = connect(&self.settings, attempt).await?;
        self.metrics.connects.add(1);
        self.requests.open(client.clone());
        self.payload_max.store(client.max_payload(), Ordering::Relaxed);
        let needed = self.settings.event_bytes + HEAD_BYTES_MAX;
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
            shared.go_up();
            let _ = told.send(None);
            let _ = up.send(true);
        };
        tasks.spawn(Arc::clone(self).follow_log(Arc::clone(&attached), caught_up));
        tasks.spawn(Arc::clone(self).follow_plain(attached));
        tasks.spawn(Arc::clone(self).take_answers(answers, inbox.len() + 1));
        tasks.spawn(Arc::clone(self).write_notices(client.clone()));
        tasks.spawn(Arc::clone(self).exchange(client.clone(), is_up));
        loop {
            tokio::select! {
                Some(ended) = tasks.join_next() => return Err(end_of(ended)),
                lost = lost(&mut events) => return Err(lost),
                next = outgoing.recv() => match next {
                    Some(next) => self.send_one(&client, &inbox, next).await,
                    None => return Err(End::Failed("the gateway ends".to_owned())),
                },
            }
        }
    }

    async fn send_one(&self, client: &Client, inbox: &str, next: Outgoing) {
        if !self.is_up() {
            return self.not_sent(next.number);
        }
        let reply = format!("{inbox}.{}", next.number);
        let mut headers = HeaderMap::new();
        if let Some(id) = next.id {
            headers.insert(NATS_MESSAGE_ID, format!("{id:?}"));
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
            if number & OF_VALUE != 0 {
                self.take_answer_to_value(number & !OF_VALUE, &message.payload);
                continue;
            }
            if message.status == Some(StatusCode::NO_RESPONDERS) {
                // No stream takes the subject.
                self.not_sent(number);
                continue;
            }
            match serde_json::from_slice::<Ack>(&message.payload) {
                Ok(Ack { error: Some(error), .. }) => {
                    self.log_refused(&error.description);
                    self.pending.finish(number, Err(Refusal::Rejected), Instant::now());
                }
                Ok(Ack { duplicate: true, .. }) => {
                    tokio::spawn(Arc::clone(&self.replica).find_duplicate(number, None));
                }
                // Without a readable answer the event is still waited for.
                Ok(_) | Err(_) => {}
            }
        }
        End::Failed("the broker's answers ended".to_owned())
    }

    /// Writes a notice every second, and ends when none comes back.
    async fn write_notices(self: Arc<Self>, client: Client) -> End {
        let mut ticks = interval(NOTICE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.is_up() {
                self.store_due_values();
            }
            let (notice, after) = match self.next_notice() {
                Ok(next) => next,
                Err(end) => return end,
            };
            // If another gateway has written one meanwhile, that one is as good.
            if let Err(end) = self.write_notice(&client, &notice, after).await {
                return end;
            }
        }
    }
}
