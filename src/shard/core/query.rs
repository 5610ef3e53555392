//! What operators ask of a shard.

use super::ShardCore;
use crate::session::Input;
use crate::shard::connection::{Cold, Stage};
use crate::shard::mailbox::{ClientInfo, ClientsPage, SubscriptionsPage};
use crate::time::Now;
use tickgate_protocol::channel::Channel;
use tickgate_protocol::disconnect::Disconnect;

impl ShardCore {
    pub(super) fn disconnect_user(&mut self, user: &str, ending: Disconnect, now: Now) -> usize {
        let mut count = 0;
        for slot in 0..self.slots {
            let is_theirs = self.cold[slot].as_ref().is_some_and(|cold| is_user(cold, user));
            if is_theirs && self.hot[slot].stage == Stage::Open {
                self.tell(slot, Input::End(ending), now);
                count += 1;
            }
        }
        count
    }

    pub(super) fn clients(&self, from_slot: u32, limit: usize, user: Option<&str>, now: Now) -> ClientsPage {
        let mut page = ClientsPage::default();
        for slot in from_slot..self.slots {
            let Some(cold) = &self.cold[slot] else { continue };
            if user.is_some_and(|user| !is_user(cold, user)) {
                continue;
            }
            if page.clients.len() >= limit {
                page.next_slot = Some(slot);
                break;
            }
            page.clients.push(self.client(slot, cold, now));
        }
        page
    }

    fn client(&self, slot: u32, cold: &Cold, now: Now) -> ClientInfo {
        let hot = &self.hot[slot];
        let session = &cold.session;
        let endpoint = &self.endpoints[usize::from(hot.endpoint)];
        let settings = &endpoint.settings;
        ClientInfo {
            id: self.id(slot),
            client_id: session.client_id().into(),
            user: session.identity().and_then(|identity| identity.user.clone()),
            address: cold.address,
            dialect: settings.dialect.name(),
            transport: session.transport().map_or("websocket", |transport| transport.name()),
            deflate: endpoint.deflate,
            connected_at_ms: session.connected_at_ms(),
            last_ping_ms: session.last_ping_ms(now, settings),
            last_pong_ms: session.last_pong_ms(now),
            subscriptions: self.table.held(slot).map(|pattern| pattern.as_str().into()).collect(),
            message_count: hot.delivered,
            pending: u64::from(hot.outbox.event_frames()) + u64::from(hot.outbox.reply_frames()),
            dropped: hot.dropped.into(),
            is_alive: hot.stage == Stage::Open,
        }
    }

    /// Connections that hold a pattern of the channel, each once.
    pub(super) fn subscribers(&mut self, channel: &Channel) -> u64 {
        let number = self.next_event_number();
        self.nodes.clear();
        self.table.resolve(channel, &mut self.nodes);
        let mut count = 0;
        for &node in &self.nodes {
            for subscriber in self.table.subscribers(node) {
                let hot = &mut self.hot[subscriber.slot];
                count += u64::from(hot.stamp != number);
                hot.stamp = number;
            }
        }
        count
    }

    pub(super) fn subscriptions(&self, limit: usize) -> SubscriptionsPage {
        let mut patterns: Vec<_> = self.table.patterns().collect();
        let largest_first = |left: &(_, usize), right: &(_, usize)| right.1.cmp(&left.1);
        if patterns.len() > limit {
            patterns.select_nth_unstable_by(limit, largest_first);
            patterns.truncate(limit);
        }
        patterns.sort_unstable_by(|left, right| largest_first(left, right).then_with(|| left.0.cmp(right.0)));
        SubscriptionsPage {
            patterns: patterns
                .into_iter()
                .map(|(pattern, count)| (pattern.as_str().into(), count as u64))
                .collect(),
            total: self.table.subscriptions(),
        }
    }
}

fn is_user(cold: &Cold, user: &str) -> bool {
    cold.session
        .identity()
        .is_some_and(|identity| identity.user.as_deref() == Some(user))
}
