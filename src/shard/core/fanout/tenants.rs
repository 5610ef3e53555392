//! What a shard counts for each tenant.
//!
//! Invariant: nothing is counted for the default tenant, which has what no other one has. So a gateway without tenants pays
//! nothing for it.

use super::Fanout;
use tickgate_protocol::channel::{Channel, Tenant};

impl Fanout {
    /// Counts events of a channel that were put into outboxes.
    pub(super) fn count_for_tenant(&self, channel: &Channel, deliveries: u64) {
        let tenant = channel.tenant();
        if !tenant.is_default() {
            self.metrics.tenant_deliveries[tenant.index()].bump(deliveries);
        }
    }

    /// Writes the gauges that need not be exact within a turn.
    pub(super) fn update_tenant_gauges(&self) {
        for tenant in (1..self.inbox.tenants()).filter_map(Tenant::new) {
            let subscriptions = i64::try_from(self.table.subscriptions_of(tenant)).unwrap_or(i64::MAX);
            self.metrics.tenant_subscriptions[tenant.index()].set(subscriptions);
        }
    }
}
