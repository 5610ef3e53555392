//! `GET /api/overview`: whether everything is fresh, in one answer: a list of checks, the worst first.
//!
//! Invariant: every check that is not `ok` says in one sentence what is wrong and what to do or where to look.
//!
//! For one tenant there are its feeds, sources and backends, and of what all tenants share only whether it works.

mod parts;

use hyper::StatusCode;
use serde::Serialize;

use super::Admin;
use super::access::Viewer;
use super::statistics::{GatewaySample, Point};
use crate::backend::commands::BackendSample;
use crate::backend::feeds::FeedSample;
use crate::backend::ingest::SourceSample;
use crate::broker::BrokerSample;
use crate::ingress::http::response::{self, HttpResponse};
use crate::memory::Pressure;
use tickgate_protocol::channel::{Channel, TenantNames};

/// Losses of this time count as present.
const RECENT_MS: u64 = 60_000;

/// A shard or the process above this part of a core is at its end.
const BUSY_CORES: f64 = 0.9;

/// An event that comes from the broker later than this is late, in milliseconds.
const DELAY_WARN_MS: u64 = 1_000;
const DELAY_BAD_MS: u64 = 10_000;

/// Stale channels that are named.
const STALE_NAMED: usize = 3;

/// Publishers wait when more of the credits is lent.
const LENT_MAX: f64 = 0.9;

#[derive(Serialize)]
struct OverviewReply<'a> {
    node: &'a str,
    version: &'static str,
    status: Status,
    uptime_seconds: u64,
    /// Unix milliseconds.
    time: u64,
    checks: Vec<Check>,
}

/// How bad a check is, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Bad,
    Warn,
    Ok,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Check {
    pub(super) name: String,
    pub(super) status: Status,
    pub(super) detail: String,
}

impl Check {
    pub(super) fn new(name: impl Into<String>, status: Status, detail: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            status,
            detail: detail.into(),
        }
    }
}

/// What the checks look at.
struct Facts<'a> {
    not_ready: Option<&'static str>,
    not_publishing: Option<&'static str>,
    pressure: Pressure,
    broker: &'a BrokerSample,
    /// Why there is no link to the broker that several gateways share.
    trouble: Option<&'a str>,
    /// How many channels are stale, and some of their names.
    stale: (usize, Vec<Channel>),
    /// What the operators of all tenants see besides.
    process: Option<ProcessFacts<'a>>,
    tenants: &'a TenantNames,
    feeds: &'a [FeedSample],
    /// Whether this gateway polls them.
    polls_feeds: bool,
    sources: &'a [SourceSample],
    backends: &'a [BackendSample],
}

/// What the checks of the process look at.
struct ProcessFacts<'a> {
    snapshot_failing: Option<bool>,
    sample: &'a GatewaySample,
    recent: &'a [Point],
}

impl Admin {
    /// `GET /api/overview`
    #[expect(clippy::unused_async, reason = "the form of a handler")]
    pub(super) async fn overview(&self, viewer: Viewer) -> HttpResponse {
        let parts = &self.parts;
        let now = parts.clock.now();
        let sample = parts.statistics.read(now);
        let recent = parts.statistics.history(now.unix_ms.saturating_sub(RECENT_MS));
        let (mut backends, mut feeds) = (parts.router.read().backends, parts.feeds.read());
        let mut sources = parts.sources.read();
        if let Some(tenant) = viewer.scope() {
            feeds.retain(|feed| feed.tenant == tenant);
            sources.retain(|source| source.tenant == tenant);
            backends.retain(|backend| backend.tenant == tenant);
        }
        let trouble = parts.health.broker_trouble();
        let mut checks = checks(&Facts {
            not_ready: parts.health.not_ready(),
            not_publishing: parts.health.not_publishing(),
            pressure: parts.health.memory(),
            broker: &(parts.broker_sample)(),
            trouble: trouble.as_ref().map(|(_, reason)| &**reason),
            stale: parts.hub.stale(viewer.scope(), STALE_NAMED),
            process: viewer.scope().is_none().then_some(ProcessFacts {
                snapshot_failing: parts.health.snapshot_failing(),
                sample: &sample,
                recent: &recent,
            }),
            tenants: &self.tenants,
            feeds: &feeds,
            polls_feeds: parts.feeds.are_polled_here(),
            sources: &sources,
            backends: &backends,
        });
        if viewer.scope().is_none() {
            checks.extend(self.check_gateways(sample.total.connections));
        }
        checks.sort_by_key(|check| check.status);
        let reply = OverviewReply {
            node: &parts.node,
            version: env!("CARGO_PKG_VERSION"),
            status: checks.first().map_or(Status::Ok, |check| check.status),
            uptime_seconds: sample.uptime_ms / 1000,
            time: now.unix_ms,
            checks,
        };
        response::json(StatusCode::OK, &reply)
    }
}

fn checks(facts: &Facts<'_>) -> Vec<Check> {
    let mut checks = vec![
        match facts.not_ready {
            None => Check::new("gateway", Status::Ok, "accepts connections"),
            Some("draining") => Check::new(
                "gateway",
                Status::Warn,
                "drains: clients are told to connect to another gateway, and new ones are refused",
            ),
            Some("broker_lost" | "broker_unfit") => {
                Check::new("gateway", Status::Bad, "is not ready, because its broker is lost")
            }
            Some(stuck) => {
                let detail = format!("is not ready, because events do not pass ({stuck})");
                Check::new("gateway", Status::Bad, detail)
            }
        },
        match facts.not_publishing {
            None => Check::new("publishing", Status::Ok, "takes events"),
            Some("no_room_for_bodies") => Check::new(
                "publishing",
                Status::Bad,
                "the bodies of requests hold all room: publish in smaller requests, or look for a publisher that stalls",
            ),
            Some("too_many_connections") => Check::new(
                "publishing",
                Status::Bad,
                "every connection of the admin listener is taken: raise admin.max_connections, or reuse connections",
            ),
            Some(_) => Check::new(
                "publishing",
                Status::Bad,
                "the broker is lost, so no event can be published",
            ),
        },
        match facts.pressure {
            Pressure::None => Check::new("memory", Status::Ok, "clients hold less than limits.memory"),
            Pressure::Joins => Check::new(
                "memory",
                Status::Warn,
                "clients hold nearly limits.memory: new connections and subscriptions are refused",
            ),
            Pressure::Connections => Check::new(
                "memory",
                Status::Bad,
                "clients hold more than limits.memory: stalled connections are closed with 1013",
            ),
        },
    ];
    // The reason is for the operators of all tenants.
    let trouble = facts.trouble.map(|reason| facts.process.as_ref().map(|_| reason));
    checks.extend(broker(facts.broker, trouble));
    checks.push(freshness(&facts.stale, facts.tenants));
    if let Some(process) = &facts.process {
        checks.extend(process.snapshot_failing.map(snapshot));
        checks.push(shards(process.sample));
        checks.push(queues(process.sample));
        checks.push(losses(process.recent));
    }
    // In a gateway with tenants, two of them may have a feed of the same name.
    let of = |tenant| match facts.tenants.of(tenant) {
        Some(name) => format!(" of {name}"),
        None => String::new(),
    };
    let feeds = facts
        .feeds
        .iter()
        .map(|sample| parts::feed(sample, facts.polls_feeds, &of(sample.tenant)));
    checks.extend(feeds);
    let sources = facts.sources.iter();
    checks.extend(sources.map(|sample| parts::source(sample, &of(sample.tenant))));
    let backends = facts.backends.iter();
    checks.extend(backends.map(|sample| parts::backend(sample, &of(sample.tenant))));
    checks
}

/// Nothing for the embedded broker, which is never behind.
fn broker(broker: &BrokerSample, trouble: Option<Option<&str>>) -> Option<Check> {
    if !broker.is_up {
        let what =
            "is not connected or not current: nothing can be published, and events of other gateways are missing";
        let detail = match trouble? {
            Some(reason) => format!("{what}. {reason}"),
            None => what.to_owned(),
        };
        return Some(Check::new("broker", Status::Bad, detail));
    }
    let waiting: u64 = broker.behind.iter().sum();
    // With nothing waiting, the delay is that of the last event, however long ago.
    let lanes = broker.behind.iter().zip([broker.delay_ms, broker.plain_delay_ms]);
    let delays = lanes.filter(|(behind, _)| **behind > 0).map(|(_, delay_ms)| delay_ms);
    let delay_ms = delays.max().unwrap_or(0);
    let status = match delay_ms {
        DELAY_BAD_MS.. => Status::Bad,
        DELAY_WARN_MS.. => Status::Warn,
        _ => Status::Ok,
    };
    let detail = if waiting == 0 {
        "no event waits for this gateway".to_owned()
    } else {
        format!("{waiting} events wait for this gateway; the newest applied one was {delay_ms} ms old")
    };
    Some(Check::new("broker", status, detail))
}

fn freshness((count, some): &(usize, Vec<Channel>), tenants: &TenantNames) -> Check {
    if *count == 0 {
        return Check::new("channels", Status::Ok, "none is stale");
    }
    let name = |channel: &Channel| match tenants.of(channel.tenant()) {
        Some(tenant) => format!("`{channel}` of {tenant}"),
        None => format!("`{channel}`"),
    };
    let names: Vec<_> = some.iter().map(name).collect();
    let others = count - some.len();
    let and = if others > 0 {
        format!(" and {others} more")
    } else {
        String::new()
    };
    let detail = format!(
        "{}{and} had no event within fresh_within: does the publisher run? It may say that they are only quiet (keep_alive)",
        names.join(", ")
    );
    Check::new("channels", Status::Bad, detail)
}

fn snapshot(is_failing: bool) -> Check {
    if is_failing {
        let detail = "the last write failed: a restart would lose what changed since; look for the error in the log";
        return Check::new("snapshot", Status::Bad, detail);
    }
    Check::new("snapshot", Status::Ok, "the last write succeeded")
}

fn shards(sample: &GatewaySample) -> Check {
    let busy = |(index, rates): (usize, &super::statistics::Rates)| {
        (rates.cpu > BUSY_CORES).then(|| format!("shard {index} uses {:.0} % of its core", rates.cpu * 100.0))
    };
    let busy: Vec<_> = sample.shard_rates.iter().enumerate().filter_map(busy).collect();
    if busy.is_empty() {
        return Check::new("shards", Status::Ok, "no core is used up");
    }
    let detail = format!("{}: add shards, cores or gateways", busy.join(", "));
    Check::new("shards", Status::Warn, detail)
}

#[expect(clippy::cast_precision_loss, reason = "a part of a whole needs no more")]
fn queues(sample: &GatewaySample) -> Check {
    let lent = sample.hub.credits_lent as f64 / sample.hub.credits.max(1) as f64;
    if lent > LENT_MAX {
        let detail = format!(
            "publishers wait: {:.0} % of the hub's credits are lent, because the shards do not keep up",
            lent * 100.0
        );
        return Check::new("queues", Status::Warn, detail);
    }
    Check::new("queues", Status::Ok, "shards keep up with publishers")
}

fn losses(recent: &[Point]) -> Check {
    let dropping = recent.iter().filter(|point| point.rates.dropped > 0.0).count();
    if dropping == 0 {
        return Check::new("deliveries", Status::Ok, "no event was dropped in the last minute");
    }
    let detail = "events were dropped from full outboxes in the last minute: see which clients read too slowly";
    Check::new("deliveries", Status::Warn, detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::statistics::Rates;
    use crate::backend::commands::CircuitState;
    use crate::backend::feeds::FeedState;

    fn checks_of(sample: &GatewaySample, change: impl FnOnce(&mut Facts<'_>)) -> Vec<Check> {
        let tenants = TenantNames::new(vec!["one".into()]);
        let mut facts = Facts {
            not_ready: None,
            not_publishing: None,
            pressure: Pressure::None,
            broker: &BrokerSample::default(),
            trouble: None,
            stale: (0, Vec::new()),
            process: Some(ProcessFacts {
                snapshot_failing: None,
                sample,
                recent: &[],
            }),
            tenants: &tenants,
            feeds: &[],
            polls_feeds: true,
            sources: &[],
            backends: &[],
        };
        change(&mut facts);
        checks(&facts)
    }

    fn statuses(change: impl FnOnce(&mut Facts<'_>)) -> Vec<(String, Status)> {
        let checks = checks_of(&GatewaySample::default(), change).into_iter();
        checks.map(|check| (check.name, check.status)).collect()
    }

    fn of(change: impl FnOnce(&mut Facts<'_>), name: &str) -> Status {
        let found = statuses(change).into_iter().find(|(found, _)| found == name);
        found.expect(name).1
    }

    #[test]
    fn a_healthy_gateway_is_green() {
        assert!(statuses(|_| {}).iter().all(|(_, status)| *status == Status::Ok));
        assert!(Status::Bad < Status::Warn && Status::Warn < Status::Ok);
    }

    #[test]
    fn each_fault_turns_its_own_check() {
        assert_eq!(of(|facts| facts.not_ready = Some("draining"), "gateway"), Status::Warn);
        assert_eq!(
            of(|facts| facts.not_ready = Some("broker_lost"), "gateway"),
            Status::Bad
        );
        assert_eq!(
            of(|facts| facts.not_ready = Some("shard_stuck"), "gateway"),
            Status::Bad
        );
        let full = |facts: &mut Facts<'_>| facts.not_publishing = Some("no_room_for_bodies");
        assert_eq!(of(full, "publishing"), Status::Bad);
        assert_eq!(of(|facts| facts.pressure = Pressure::Joins, "memory"), Status::Warn);
        for (is_failing, status) in [(true, Status::Bad), (false, Status::Ok)] {
            let change = |facts: &mut Facts<'_>| {
                facts.process.as_mut().expect("an operator").snapshot_failing = Some(is_failing);
            };
            assert_eq!(of(change, "snapshot"), status);
        }
        // A tenant is told nothing of the process.
        assert_eq!(statuses(|facts| facts.process = None).len(), 4);

        let mut busy = GatewaySample {
            shard_rates: vec![Rates {
                cpu: 0.97,
                ..Rates::default()
            }],
            ..GatewaySample::default()
        };
        (busy.hub.credits, busy.hub.credits_lent) = (100, 95);
        let check = checks_of(&busy, |_| {});
        let warned: Vec<_> = check.iter().filter(|check| check.status == Status::Warn).collect();
        assert_eq!(
            warned[0].detail,
            "shard 0 uses 97 % of its core: add shards, cores or gateways"
        );
        assert_eq!((warned.len(), warned[1].name.as_str()), (2, "queues"));

        let channel = |name: &str| Channel::parse(name).expect("valid");
        let named = vec![
            channel("a.b"),
            channel("a.c").in_tenant(tickgate_protocol::channel::Tenant::new(1).expect("few")),
        ];
        let stale = freshness(&(7, named), &TenantNames::new(vec!["one".into()]));
        assert_eq!(stale.status, Status::Bad);
        assert!(
            stale.detail.starts_with("`a.b`, `a.c` of one and 5 more had no event"),
            "{}",
            stale.detail
        );

        let nats = |is_up, behind, delay_ms| BrokerSample {
            is_up,
            connects: 1,
            behind: [behind, 0],
            delay_ms,
            ..BrokerSample::default()
        };
        for (sample, status) in [
            (nats(true, 0, 60_000), Status::Ok),
            (nats(true, 5, 999), Status::Ok),
            (nats(true, 5, 1_000), Status::Warn),
            (nats(true, 5, 10_000), Status::Bad),
            (nats(false, 0, 0), Status::Bad),
        ] {
            let check = broker(&sample, Some(None));
            assert_eq!(check.map(|check| check.status), Some(status), "{sample:?}");
        }
        let plain = BrokerSample {
            plain_delay_ms: 10_000,
            behind: [0, 1],
            ..nats(true, 0, 0)
        };
        assert_eq!(broker(&plain, None).map(|check| check.status), Some(Status::Bad));
        assert_eq!(broker(&BrokerSample::default(), None), None, "the embedded broker");
        // A tenant is not told the reason.
        let broken = |facts: &mut Facts<'_>| facts.trouble = Some("no connection to nats-1");
        let said = |change: &dyn Fn(&mut Facts<'_>)| {
            let checks = checks_of(&GatewaySample::default(), |facts| change(facts));
            checks
                .into_iter()
                .find(|check| check.name == "broker")
                .expect("a check")
                .detail
        };
        assert!(said(&broken).ends_with("are missing. no connection to nats-1"));
        let of_tenant = |facts: &mut Facts<'_>| {
            broken(facts);
            facts.process = None;
        };
        assert!(said(&of_tenant).ends_with("are missing"));

        let dropping = Point {
            rates: Rates {
                dropped: 0.2,
                ..Rates::default()
            },
            ..Point::default()
        };
        assert_eq!(losses(&[Point::default(), dropping]).status, Status::Warn);
        let sample = |state, circuit| {
            let feed = FeedSample {
                tenant: tickgate_protocol::channel::Tenant::DEFAULT,
                tenant_name: None,
                channel: "a".into(),
                state,
                counts: Default::default(),
            };
            let backend = BackendSample {
                tenant: tickgate_protocol::channel::Tenant::DEFAULT,
                name: "b".into(),
                circuit,
                opened_total: 1,
                in_flight: 0,
                attempts: 1,
                failures: 1,
                refused: 0,
                duration: Default::default(),
            };
            (parts::feed(&feed, true, "").status, parts::backend(&backend, "").status)
        };
        for (state, circuit, status) in [
            (FeedState::Good, CircuitState::Closed, Status::Ok),
            (FeedState::Partly, CircuitState::HalfOpen, Status::Warn),
            (FeedState::Failing, CircuitState::Open, Status::Bad),
        ] {
            assert_eq!(sample(state, circuit), (status, status));
        }
    }
}
