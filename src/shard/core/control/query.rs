//! What operators ask of a shard.

use crate::shard::connection::{Cold, Stage};
use crate::shard::core::connections::Connections;
use crate::shard::mailbox::{ClientInfo, ClientsPage, SubscriptionsPage};
use crate::shard::table::Table;
use crate::time::Now;

/// A page of the connections from a slot on; `user`: only the connections of this user.
pub(in crate::shard::core) fn clients(
    connections: &Connections,
    table: &Table,
    from_slot: u32,
    limit: usize,
    user: Option<&str>,
    now: Now,
) -> ClientsPage {
    let mut page = ClientsPage::default();
    for slot in from_slot..connections.slots().end {
        let Some(cold) = connections.cold(slot) else { continue };
        if user.is_some_and(|user| !cold.is_user(user)) {
            continue;
        }
        if page.clients.len() >= limit {
            page.next_slot = Some(slot);
            break;
        }
        page.clients.push(client(connections, table, slot, cold, now));
    }
    page
}

fn client(connections: &Connections, table: &Table, slot: u32, cold: &Cold, now: Now) -> ClientInfo {
    let hot = connections.hot(slot);
    let endpoint = connections.endpoint(slot);
    let session = &cold.session;
    let settings = &endpoint.settings;
    ClientInfo {
        id: connections.id(slot),
        client_id: session.client_id().into(),
        user: session.identity().and_then(|identity| identity.user.clone()),
        address: cold.address,
        dialect: settings.dialect.name(),
        transport: session.transport().map_or("websocket", |transport| transport.name()),
        deflate: endpoint.deflate,
        connected_at_ms: session.connected_at_ms(),
        last_ping_ms: session.last_ping_ms(now, settings),
        last_pong_ms: session.last_pong_ms(now),
        subscriptions: table.held(slot).map(|pattern| pattern.as_str().into()).collect(),
        message_count: hot.delivered,
        pending: u64::from(hot.outbox.event_frames()) + u64::from(hot.outbox.reply_frames()),
        dropped: hot.dropped.into(),
        is_alive: hot.stage == Stage::Open,
    }
}

/// The `limit` patterns with the most connections.
pub(in crate::shard::core) fn subscriptions(table: &Table, limit: usize) -> SubscriptionsPage {
    let mut patterns: Vec<_> = table.patterns().collect();
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
        total: table.subscriptions(),
    }
}
