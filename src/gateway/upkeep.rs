//! What the hub does as time passes: expiry, and the end of last values.

use std::sync::Arc;
use std::time::Duration;

use crate::broker::Broker;
use tokio::time::MissedTickBehavior;

use crate::event::{Deletion, NewEvent};
use crate::hub::{Hub, Passed};
use crate::shard::mailbox::{ShardHandle, ShardMessage};
use crate::suspended::SuspendedSessions;
use crate::time::Clock;
use tickgate_protocol::channel::Tenant;

/// How often the hub is asked to expire channels that are not used.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(60);

/// How often the hub is asked for last values that have ended and channels that are silent.
const ENDS_INTERVAL: Duration = Duration::from_secs(1);

/// How often a synthetic event is sent.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// How long the synthetic event may wait for a credit.
const PROBE_PATIENCE: Duration = Duration::from_secs(2);

/// Lets the hub expire state in channels that are not used, and reports publishers that lost state because of their quota.
/// Forgets sessions whose clients did not come back.
pub(super) async fn expire(hub: Arc<Hub>, suspended: Arc<SuspendedSessions>, clock: Clock) {
    let mut interval = tokio::time::interval(EXPIRY_INTERVAL);
    let mut reported = 0;
    loop {
        interval.tick().await;
        hub.expire(clock.now());
        suspended.expire(clock.now());
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

/// Deletes last values that have ended (`last_ttl`), and tells subscribers of that and of channels that became silent or go
/// on (`fresh_within`). An end that cannot be published is found again a little later.
pub(super) async fn pass_time(hub: Arc<Hub>, broker: Arc<dyn Broker>, shards: Vec<ShardHandle>, clock: Clock) {
    let mut interval = tokio::time::interval(ENDS_INTERVAL);
    loop {
        interval.tick().await;
        let now = clock.now();
        let deletion = |channel| NewEvent::deletion(channel, Deletion::EndedLast, now.unix_ms);
        let Passed { ended, stale, fresh } = hub.pass_time(now);
        if !stale.is_empty() || !fresh.is_empty() {
            let (stale, fresh): (Arc<[_]>, Arc<[_]>) = (stale.into(), fresh.into());
            for shard in &shards {
                let (stale, fresh) = (Arc::clone(&stale), Arc::clone(&fresh));
                // A shard that has ended has no subscribers.
                let _ = shard.send(ShardMessage::Freshness { stale, fresh });
            }
        }
        let ended: Vec<NewEvent> = ended.into_iter().map(deletion).collect();
        if !ended.is_empty() {
            broker.publish(ended).await;
        }
    }
}

/// Sends a synthetic event through the hub to every shard each second, and reports when it does not come back.
pub(super) async fn probe(hub: Arc<Hub>, shards: Vec<ShardHandle>) {
    let mut interval = tokio::time::interval(PROBE_INTERVAL);
    // After a pause of the process, the shards get their time.
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reported = None;
    loop {
        interval.tick().await;
        for (shard, outstanding) in shards.iter().zip(hub.probes_outstanding()) {
            shard
                .metrics()
                .probes_outstanding
                .set(i64::try_from(outstanding).unwrap_or(i64::MAX));
        }
        let stuck = hub.stuck();
        if stuck != reported {
            let outstanding: Vec<u64> = hub.probes_outstanding().collect();
            match stuck {
                Some(reason) => tracing::error!(
                    reason,
                    ?outstanding,
                    "the synthetic event does not pass: events do not reach clients (outstanding events by shard)"
                ),
                None => tracing::info!("the synthetic event passes again"),
            }
            reported = stuck;
        }
        match tokio::time::timeout(PROBE_PATIENCE, hub.credit(Tenant::DEFAULT, 0)).await {
            Ok(credit) => hub.probe(credit),
            Err(_) => hub.note_probe_refused(),
        }
    }
}
