//! Feeds of several gateways: one polls, and all tell each other which channels they want.
//!
//! Invariant: what is told only adds polls. A gateway that is not heard of any more wants nothing after [`WANTED_FOR`], and
//! one that lost a message is told the same again within [`TELL_EVERY`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::Runner;
use crate::backend::feeds::Feeds;
use crate::broker::{Duties, Fence, Peers};
use tickgate_protocol::channel::{Channel, TenantNames};

/// How often a gateway tells all channels that it wants.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// How long a gateway is taken to want what it has told: it may miss two times.
const WANTED_FOR: Duration = Duration::from_secs(35);

/// The bytes of names in one message, so that it stays far below the limit of a broker.
const MESSAGE_BYTES: usize = 32 * 1024;

/// Messages that wait to be sent, and that wait for the runner.
const WAITING_MAX: usize = 1024;

/// The version of what gateways tell each other.
const FORMAT: u8 = 1;

/// What a gateway tells the others.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    v: u8,
    /// Who tells it.
    id: u64,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    wanted: Vec<Wanted>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    confirmed: Vec<Confirmed>,
}

/// A channel with subscribers.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Wanted {
    tenant: Box<str>,
    channel: Box<str>,
    /// Whether a subscriber has just joined.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    joined: bool,
}

/// A channel whose value a poll has confirmed.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Confirmed {
    tenant: Box<str>,
    channel: Box<str>,
    fresh_ms: u32,
}

/// What is told and heard.
pub(super) struct Share {
    // `None`: the gateway stands alone.
    others: Option<Arc<dyn Peers>>,
    queue: Option<mpsc::Sender<Bytes>>,
    pub(super) heard: mpsc::Receiver<Bytes>,
    // When all wanted channels are told again.
    pub(super) full: Option<Interval>,
    wanted: Vec<(Channel, bool)>,
    confirmed: Vec<(Channel, u32)>,
}

impl Share {
    pub(super) fn new(others: Option<Arc<dyn Peers>>) -> (Self, mpsc::Sender<Bytes>) {
        let (sender, heard) = mpsc::channel(WAITING_MAX);
        let share = Self {
            others,
            queue: None,
            heard,
            full: None,
            wanted: Vec::new(),
            confirmed: Vec::new(),
        };
        (share, sender)
    }

    /// Starts the task that sends.
    pub(super) fn start(&mut self) {
        let Some(others) = self.others.clone() else { return };
        let (queue, mut messages) = mpsc::channel(WAITING_MAX);
        tokio::spawn(async move {
            while let Some(message) = messages.recv().await {
                others.tell(Feeds::TOPIC, message).await;
            }
        });
        self.queue = Some(queue);
        let mut full = interval_at(Instant::now() + TELL_EVERY, TELL_EVERY);
        full.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.full = Some(full);
    }

    /// A subscriber joined this channel.
    pub(super) fn note_wanted(&mut self, channel: &Channel) {
        if self.others.is_some() {
            self.wanted.push((channel.clone(), true));
        }
    }

    /// A poll has confirmed the channel's value.
    pub(super) fn note_confirmed(&mut self, channel: &Channel, fresh_ms: u32) {
        if self.others.is_some() {
            self.confirmed.push((channel.clone(), fresh_ms));
        }
    }

    /// Tells what was noted.
    pub(super) fn tell_news(&mut self, tenants: &TenantNames) {
        let (Some(others), Some(queue)) = (&self.others, &self.queue) else {
            return;
        };
        if self.wanted.is_empty() && self.confirmed.is_empty() {
            return;
        }
        let (wanted, confirmed) = (std::mem::take(&mut self.wanted), std::mem::take(&mut self.confirmed));
        for message in messages(others.id(), tenants, wanted, confirmed) {
            // Without room it is told again later.
            let _ = queue.try_send(message);
        }
    }
}

/// The messages that tell this.
fn messages(
    id: u64,
    tenants: &TenantNames,
    wanted: Vec<(Channel, bool)>,
    confirmed: Vec<(Channel, u32)>,
) -> Vec<Bytes> {
    let new = || Told {
        v: FORMAT,
        id,
        ..Told::default()
    };
    let names = |channel: &Channel| (tenants.label(channel.tenant()).into(), channel.as_str().into());
    let (mut messages, mut told, mut bytes) = (Vec::new(), new(), 0);
    let mut make_room = |told: &mut Told, channel: &Channel| {
        bytes += 64 + channel.as_str().len();
        if bytes > MESSAGE_BYTES {
            bytes = 0;
            messages.push(std::mem::replace(told, new()));
        }
    };
    for (channel, joined) in wanted {
        make_room(&mut told, &channel);
        let (tenant, channel) = names(&channel);
        told.wanted.push(Wanted {
            tenant,
            channel,
            joined,
        });
    }
    for (channel, fresh_ms) in confirmed {
        make_room(&mut told, &channel);
        let (tenant, channel) = names(&channel);
        told.confirmed.push(Confirmed {
            tenant,
            channel,
            fresh_ms,
        });
    }
    messages.push(told);
    let encoded = messages.iter().map(|told| serde_json::to_vec(told).unwrap_or_default());
    encoded.map(Bytes::from).collect()
}

/// Waits until all wanted channels are to be told.
pub(super) async fn full_due(full: &mut Option<Interval>) {
    match full {
        Some(full) => {
            full.tick().await;
        }
        None => std::future::pending().await,
    }
}

/// Waits until the gateway gets or loses the duties.
pub(super) async fn duties_changed(duties: &mut Duties, known: Option<Fence>) {
    match known {
        Some(fence) => duties.ended(fence).await,
        None => {
            duties.begun().await;
        }
    }
}

impl Runner {
    /// The gateway has got or lost the duties. What it knew of sources is out of date: another gateway has polled them.
    pub(super) fn take_duties(&mut self) {
        self.fence = self.duties.fence();
        let now_ms = self.now_ms();
        let keys: Vec<usize> = self.instances.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.instances[key].forget_last();
            if self.fence.is_some() {
                self.reschedule(key, |schedule, _| schedule.push_requested(now_ms));
            }
        }
    }

    /// Tells the other gateways all channels with subscribers here.
    pub(super) fn tell_all(&mut self) {
        let wanted = self.instances.iter().filter(|(_, instance)| instance.wanted);
        let wanted = wanted.map(|(_, instance)| (instance.channel.clone(), false));
        self.share.wanted.extend(wanted);
    }

    /// Takes what another gateway told.
    pub(super) fn hear(&mut self, told: &Bytes) {
        let Ok(told) = serde_json::from_slice::<Told>(told) else {
            return tracing::debug!("what another gateway tells of feeds cannot be read");
        };
        let is_own = self.share.others.as_ref().is_some_and(|others| others.id() == told.id);
        if told.v != FORMAT || is_own {
            return;
        }
        for wanted in told.wanted {
            if let Some(channel) = self.told_channel(&wanted.tenant, &wanted.channel) {
                self.want_elsewhere(&channel, wanted.joined);
            }
        }
        for confirmed in told.confirmed {
            if let Some(channel) = self.told_channel(&confirmed.tenant, &confirmed.channel) {
                self.hub.confirm_last(&channel, confirmed.fresh_ms, self.clock.now());
            }
        }
    }

    fn told_channel(&self, tenant: &str, name: &str) -> Option<Channel> {
        Some(Channel::parse(name).ok()?.in_tenant(self.tenants.find(tenant)?))
    }

    fn want_elsewhere(&mut self, channel: &Channel, joined: bool) {
        let now_ms = self.now_ms();
        for index in 0..self.feeds.len() {
            let template = &self.feeds[index].poller.settings.channel;
            if template.tenant() != channel.tenant() || !template.matches(channel.as_str()) {
                continue;
            }
            let Some(key) = self.instance(index, channel) else {
                continue;
            };
            let instance = &mut self.instances[key];
            let is_first = !instance.is_wanted(now_ms);
            let wanted_for = u64::try_from(WANTED_FOR.as_millis()).unwrap_or(u64::MAX);
            instance.elsewhere_ms = now_ms.saturating_add(wanted_for);
            instance.newcomers |= joined;
            if is_first || joined && self.kept(key).is_none() {
                self.reschedule(key, |schedule, pace| schedule.subscriber_joined(pace, now_ms));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_told_in_messages_of_bounded_size() {
        let tenants = TenantNames::new(vec!["acme".into()]);
        let channel = |number: usize| Channel::parse(&format!("user.{number}.balance")).expect("valid");
        let wanted: Vec<_> = (0..2000).map(|number| (channel(number), number == 7)).collect();
        let told = messages(9, &tenants, wanted, vec![(channel(5), 30_000)]);
        assert!(told.len() > 2 && told.iter().all(|message| message.len() < 3 * MESSAGE_BYTES));
        let read: Vec<Told> = told
            .iter()
            .map(|message| serde_json::from_slice(message).expect("as written"))
            .collect();
        let names: Vec<_> = read.iter().flat_map(|told| &told.wanted).collect();
        assert_eq!(names.len(), 2000);
        assert!(names[7].joined && !names[8].joined && *names[8].tenant == *tenants.label(channel(8).tenant()));
        assert!(read.iter().all(|told| (told.v, told.id) == (FORMAT, 9)));
        assert_eq!(read.iter().flat_map(|told| &told.confirmed).count(), 1);
    }
}
