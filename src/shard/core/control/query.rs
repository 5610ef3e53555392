//! What operators ask of a shard.

use std::cmp::Reverse;

use hashbrown::HashMap;

use crate::shard::connection::{Cold, Stage};
use crate::shard::core::connections::{Connections, Endpoint};
use crate::shard::mailbox::{ClientInfo, ClientsPage, SubscriptionsPage};
use crate::shard::table::{Subscriber, Table};
use crate::time::Now;
use tickgate_protocol::channel::Pattern;

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

/// The `limit` patterns with the most connections, by the names that their clients use.
pub(in crate::shard::core) fn subscriptions(
    connections: &Connections,
    table: &Table,
    limit: usize,
) -> SubscriptionsPage {
    let mut patterns: Vec<_> = table.patterns().collect();
    let holders = |(_, holders): &(&Pattern, &[Subscriber])| holders.len();
    if patterns.len() > limit {
        patterns.select_nth_unstable_by_key(limit, |entry| Reverse(holders(entry)));
        patterns.truncate(limit);
    }
    let mut counts = HashMap::<Box<str>, u64>::new();
    for (pattern, holders) in patterns {
        // The holders are looked at only where endpoints have different names for the pattern.
        let endpoints = connections.endpoints().in_use();
        if endpoints
            .clone()
            .all(|endpoint| endpoint.subscription_name(pattern).is_none())
        {
            *counts.entry(pattern.as_str().into()).or_default() += holders.len() as u64;
            continue;
        }
        let mut names = HashMap::<*const Endpoint, (Box<str>, u64)>::new();
        for holder in holders {
            let endpoint = connections.endpoint(holder.slot);
            let named = names.entry(std::ptr::from_ref(endpoint)).or_insert_with(|| {
                let name = endpoint.subscription_name(pattern);
                (name.unwrap_or_else(|| pattern.as_str().to_owned()).into(), 0)
            });
            named.1 += 1;
        }
        for (name, count) in names.into_values() {
            *counts.entry(name).or_default() += count;
        }
    }
    let mut names: Vec<_> = counts.into_iter().collect();
    names.sort_unstable_by(|left, right| right.1.cmp(&left.1).then_with(|| left.0.cmp(&right.0)));
    SubscriptionsPage {
        names,
        total: table.subscriptions(),
    }
}
