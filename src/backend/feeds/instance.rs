//! One channel of one feed, between its polls. Pure, apart from the operators that wait.

use std::mem;

use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::change::LastResponse;
use super::poll::PollStart;
use super::schedule::Schedule;
use super::{PublishMode, Pushed};
use crate::broker::Fence;
use crate::event::Event;
use tickgate_protocol::channel::Channel;

/// One channel of one feed.
pub(super) struct Instance {
    pub(super) feed: usize,
    pub(super) channel: Channel,
    /// The value that fills the placeholder.
    pub(super) value: Option<Box<str>>,
    /// Whether the channel has subscribers here.
    pub(super) wanted: bool,
    /// Until when other gateways are taken to have subscribers, in milliseconds of the runner's clock.
    pub(super) elsewhere_ms: u64,
    pub(super) running: bool,
    /// Whether the key is in the feed's list of those that wait for a slot.
    pub(super) waiting: bool,
    /// Whether a subscriber joined since the last good poll began.
    pub(super) newcomers: bool,
    pub(super) schedule: Schedule,
    /// The stamp of the agenda's entry that is valid.
    pub(super) stamp: u64,
    pub(super) last: LastResponse,
    /// Whether the last poll succeeded.
    pub(super) succeeded: Option<bool>,
    pub(super) pushes: Vec<oneshot::Sender<Pushed>>,
    /// The poll under way.
    pub(super) poll: Option<AbortHandle>,
}

impl Instance {
    /// An instance that is due at once.
    pub(super) fn new(feed: usize, channel: &Channel, value: Option<&str>, now_ms: u64) -> Self {
        Self {
            feed,
            channel: channel.clone(),
            value: value.map(Into::into),
            wanted: false,
            elsewhere_ms: 0,
            running: false,
            waiting: false,
            newcomers: false,
            schedule: Schedule::new(now_ms),
            stamp: 0,
            last: LastResponse::default(),
            succeeded: None,
            pushes: Vec::new(),
            poll: None,
        }
    }

    /// Whether the channel has subscribers, here or elsewhere.
    pub(super) fn is_wanted(&self, now_ms: u64) -> bool {
        self.wanted || now_ms < self.elsewhere_ms
    }

    /// Aborts the poll under way.
    pub(super) fn abort(&mut self) {
        if let Some(poll) = self.poll.take() {
            poll.abort();
        }
    }

    /// Forgets the last response, because nobody needs to be told of changes.
    pub(super) fn forget_last(&mut self) {
        self.last = LastResponse::default();
    }

    /// Whether [`Instance::begin`] needs to know what the hub keeps.
    pub(super) fn wants_kept(&self, mode: &PublishMode) -> bool {
        self.newcomers || self.last.is_none() && *mode != PublishMode::Everything
    }

    /// Begins a poll. `kept` is the event that the hub gives to newcomers, if it is one of this feed.
    pub(super) fn begin(
        &mut self,
        (key, now_ms, fence): (usize, u64, Option<Fence>),
        mode: &PublishMode,
        kept: Option<&Event>,
    ) -> PollStart {
        let mut last = mem::take(&mut self.last);
        if last.is_none()
            && let Some(kept) = kept
            && let Ok(data) = str::from_utf8(&kept.data)
        {
            last = LastResponse::from_kept(mode, data);
        }
        let newcomers = mem::take(&mut self.newcomers);
        let pushes = mem::take(&mut self.pushes);
        self.running = true;
        PollStart {
            key,
            stamp: self.stamp,
            channel: self.channel.clone(),
            value: self.value.clone(),
            // Without a kept value only a full response gives newcomers the state. The others get it again.
            full: newcomers && kept.is_none() || !pushes.is_empty(),
            newcomers,
            wanted: self.is_wanted(now_ms),
            fence,
            last,
            pushes,
        }
    }
}
