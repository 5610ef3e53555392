//! What operators ask of a shard.

use std::cmp::Reverse;

use hashbrown::HashMap;

use crate::shard::connection::{Cold, Stage};
use crate::shard::core::ShardCore;
use crate::shard::core::connections::{Connections, Endpoint};
use crate::shard::core::troubles::Troubles;
use crate::shard::mailbox::{ClientFilter, ClientInfo, ClientOrder, ClientsPage, SubscriptionsPage};
use crate::shard::table::{Subscriber, Table};
use crate::time::Now;
use tickgate_protocol::channel::{Pattern, Tenant};

/// What a shard tells of its connections.
pub(in crate::shard::core) struct Clients<'a> {
    connections: &'a Connections,
    table: &'a Table,
    troubles: &'a Troubles,
}

impl ShardCore {
    pub(in crate::shard::core) fn clients(&self) -> Clients<'_> {
        Clients {
            connections: &self.connections,
            table: self.fanout.table(),
            troubles: &self.troubles,
        }
    }
}

/// The most slots that a page looks at.
const SLOTS_PER_PAGE: u32 = 4096;

impl Clients<'_> {
    /// A page of at most `limit` connections from a slot on. A page looks at a bounded number of slots, so that the shard
    /// goes on soon where few connections fit.
    pub(in crate::shard::core) fn page(
        &self,
        (from_slot, limit): (u32, usize),
        filter: &ClientFilter,
        now: Now,
    ) -> ClientsPage {
        let mut page = ClientsPage::default();
        for slot in from_slot..self.connections.slots().end {
            if slot - from_slot >= SLOTS_PER_PAGE {
                page.next_slot = Some(slot);
                break;
            }
            let Some(cold) = self.connections.cold(slot).filter(|cold| self.fits(slot, cold, filter)) else {
                continue;
            };
            if page.clients.len() >= limit {
                page.next_slot = Some(slot);
                break;
            }
            page.clients.push(self.client(slot, cold, now));
        }
        page
    }

    fn fits(&self, slot: u32, cold: &Cold, filter: &ClientFilter) -> bool {
        let own = self.connections.endpoint(slot).settings.tenant;
        let has = |text: &str| {
            let user = cold.session.identity().and_then(|identity| identity.user.as_deref());
            cold.session.client_id().contains(text)
                || user.is_some_and(|user| user.contains(text))
                || cold.address.is_some_and(|address| address.to_string().contains(text))
        };
        filter.tenant.is_none_or(|tenant| tenant == own)
            && filter.user.as_ref().is_none_or(|user| cold.is_user(own, user))
            && filter.search.as_ref().is_none_or(|text| has(text))
    }

    /// The `limit` connections, of a tenant if one is given, with the most of something, largest first. Connections with nothing of it are left out.
    pub(in crate::shard::core) fn worst(
        &self,
        by: ClientOrder,
        limit: usize,
        tenant: Option<Tenant>,
        now: Now,
    ) -> Vec<ClientInfo> {
        let amount = |slot: u32| {
            let hot = self.connections.hot(slot);
            let waiting_ms = self.troubles.waiting_ms(slot, hot, now).unwrap_or(0);
            let (rate_limited, _) = self.troubles.refusals(slot);
            by.amount(hot.outbox.bytes(), waiting_ms, hot.dropped.into(), rate_limited)
        };
        let slots = self
            .connections
            .slots()
            .filter(|slot| self.connections.cold(*slot).is_some())
            .filter(|slot| tenant.is_none_or(|tenant| self.connections.endpoint(*slot).settings.tenant == tenant));
        let mut worst: Vec<_> = slots
            .map(|slot| (amount(slot), slot))
            .filter(|(amount, _)| *amount > 0)
            .collect();
        let largest_first = |entry: &(u64, u32)| (Reverse(entry.0), entry.1);
        if worst.len() > limit {
            worst.select_nth_unstable_by_key(limit, largest_first);
            worst.truncate(limit);
        }
        worst.sort_unstable_by_key(largest_first);
        let client = |(_, slot): (u64, u32)| Some(self.client(slot, self.connections.cold(slot)?, now));
        worst.into_iter().filter_map(client).collect()
    }

    fn client(&self, slot: u32, cold: &Cold, now: Now) -> ClientInfo {
        let hot = self.connections.hot(slot);
        let endpoint = self.connections.endpoint(slot);
        let session = &cold.session;
        let settings = &endpoint.settings;
        let (rate_limited, rate_limited_at_ms) = self.troubles.refusals(slot);
        ClientInfo {
            id: self.connections.id(slot),
            tenant: settings.tenant,
            client_id: session.client_id().into(),
            identity: session.identity().cloned(),
            address: cold.address,
            dialect: settings.dialect.name(),
            transport: session.transport().map_or("websocket", |transport| transport.name()),
            deflate: endpoint.deflate,
            connected_at_ms: session.connected_at_ms(),
            last_ping_ms: session.last_ping_ms(now, settings),
            last_pong_ms: session.last_pong_ms(now),
            subscriptions: self.table.held(slot).map(|pattern| pattern.as_str().into()).collect(),
            max_rates: (session.max_rates(settings).into_iter())
                .map(|(pattern, rate)| (pattern.as_str().into(), rate))
                .collect(),
            bytes_per_second: session.bytes_per_second(settings),
            message_count: hot.delivered,
            pending: u64::from(hot.outbox.event_frames()) + u64::from(hot.outbox.reply_frames()),
            pending_bytes: hot.outbox.bytes(),
            waiting_ms: self.troubles.waiting_ms(slot, hot, now),
            dropped: hot.dropped.into(),
            rate_limited,
            rate_limited_at_ms,
            is_alive: hot.stage == Stage::Open,
        }
    }
}

/// The `limit` patterns with the most connections, by the names that their clients use: those of a tenant, if one is
/// given.
pub(in crate::shard::core) fn subscriptions(
    connections: &Connections,
    table: &Table,
    limit: usize,
    tenant: Option<Tenant>,
) -> SubscriptionsPage {
    let is_shown = |pattern: &Pattern| tenant.is_none_or(|tenant| pattern.tenant() == tenant);
    let mut patterns: Vec<_> = table.patterns().filter(|(pattern, _)| is_shown(pattern)).collect();
    let total = match tenant {
        None => table.subscriptions(),
        Some(_) => patterns.iter().map(|(_, holders)| holders.len() as u64).sum(),
    };
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
    SubscriptionsPage { names, total }
}
