//! What the hub does as time passes: expiry, and the end of last values.

use std::sync::Arc;
use std::time::Duration;

use crate::broker::Broker;
use crate::event::{Deletion, NewEvent};
use crate::hub::Hub;
use crate::time::Clock;

/// How often the hub is asked to expire channels that are not used.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(60);

/// How often the hub is asked for last values that have ended.
const ENDS_INTERVAL: Duration = Duration::from_secs(1);

/// Lets the hub expire state in channels that are not used, and reports publishers that lost state because of their quota.
pub(super) async fn expire(hub: Arc<Hub>, clock: Clock) {
    let mut interval = tokio::time::interval(EXPIRY_INTERVAL);
    let mut reported = 0;
    loop {
        interval.tick().await;
        hub.expire(clock.now());
        let evicted = hub.metrics().evicted_by_quota;
        if evicted > reported {
            let publishers: Vec<_> = hub.over_quota().iter().map(|holding| holding.to_string()).collect();
            tracing::warn!(
                channels = evicted - reported,
                publishers = publishers.join(", "),
                "channels were evicted because their publisher has more state than its quota"
            );
            reported = evicted;
        }
    }
}

/// Deletes last values that have ended (`last_ttl`), and tells their subscribers. An end that cannot be published is found
/// again a little later.
pub(super) async fn end_last_values(hub: Arc<Hub>, broker: Arc<dyn Broker>, clock: Clock) {
    let mut interval = tokio::time::interval(ENDS_INTERVAL);
    loop {
        interval.tick().await;
        let now = clock.now();
        let deletion = |channel| NewEvent::deletion(channel, Deletion::EndedLast, now.unix_ms);
        let ended: Vec<NewEvent> = hub.pass_time(now).into_iter().map(deletion).collect();
        if !ended.is_empty() {
            broker.publish(ended).await;
        }
    }
}
