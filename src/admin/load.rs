//! `GET /api/load`: the load of the last hour, one value for each five seconds.

use hyper::StatusCode;
use serde::Serialize;

use super::Admin;
use super::access::Viewer;
use super::query::Query;
use super::routes::Call;
use super::self_report::INTERVAL_MS;
use super::statistics::{Point, TenantPoint};
use crate::ingress::http::HttpErrorCode;
use crate::ingress::http::response::{self, HttpResponse};
use tickgate_protocol::channel::Tenant;

/// Columns (a value that is not a number becomes null): the n-th value of each series belongs to the n-th time.
#[derive(Serialize)]
struct LoadReply {
    interval_ms: u64,
    /// The ends of the intervals, in Unix milliseconds.
    times: Vec<u64>,
    series: Series,
    /// CPU cores of each shard.
    shards: Vec<Vec<f64>>,
}

/// The load of one tenant, in the same form: without what all tenants share.
#[derive(Serialize)]
struct TenantLoadReply {
    interval_ms: u64,
    times: Vec<u64>,
    series: TenantSeries,
    shards: [(); 0],
}

impl TenantLoadReply {
    fn of(tenant: Tenant, points: &[Point]) -> Self {
        let own: Vec<TenantPoint> = (points.iter())
            .map(|point| point.tenants.get(tenant.index()).copied().unwrap_or_default())
            .collect();
        Self {
            interval_ms: INTERVAL_MS,
            times: points.iter().map(|point| point.unix_ms).collect(),
            series: TenantSeries::of(&own),
            shards: [],
        }
    }
}

macro_rules! series {
    ($series:ident of $point:ty; $($name:ident = $value:expr,)*) => {
        #[derive(Serialize)]
        struct $series { $($name: Vec<f64>,)* }

        impl $series {
            fn of(points: &[$point]) -> Self {
                Self { $($name: points.iter().map($value).map(rounded).collect(),)* }
            }
        }
    };
}

series! {
    TenantSeries of TenantPoint;
    connections = |point| f64::from(point.connections),
    events_per_s = |point| f64::from(point.events),
    deliveries_per_s = |point| f64::from(point.deliveries),
}

series! {
    Series of Point;
    connections = |point| count(point.connections),
    connects_per_s = |point| point.rates.connections,
    ended = |point| unsigned(point.ended),
    events_per_s = |point| point.rates.events,
    deliveries_per_s = |point| point.rates.deliveries,
    messages_in_per_s = |point| point.rates.messages_in,
    messages_out_per_s = |point| point.rates.messages_out,
    bytes_in_per_s = |point| point.rates.bytes_in,
    bytes_out_per_s = |point| point.rates.bytes_out,
    dropped_per_s = |point| point.rates.dropped,
    rate_limited = |point| unsigned(point.rate_limited),
    inbox = |point| count(point.inbox),
    pending_frames = |point| count(point.pending_frames),
    pending_bytes = |point| count(point.pending_bytes),
    credits_lent = |point| point.credits_lent,
    latency_p50_ms = |point| point.latency_p50_ms.unwrap_or(f64::NAN),
    latency_p99_ms = |point| point.latency_p99_ms.unwrap_or(f64::NAN),
    cpu = |point| point.rates.cpu,
    rss_bytes = |point| unsigned(point.rss_bytes),
}

#[expect(clippy::cast_precision_loss, reason = "a chart needs no more")]
const fn count(value: i64) -> f64 {
    value as f64
}

#[expect(clippy::cast_precision_loss, reason = "a chart needs no more")]
const fn unsigned(value: u64) -> f64 {
    value as f64
}

/// Rounds to thousandths: an hour of every series stays below 100 KiB.
fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

impl Admin {
    /// `GET /api/load?since`
    #[expect(clippy::unused_async, reason = "the form of a handler")]
    pub(super) async fn load(&self, viewer: Viewer, call: Call) -> HttpResponse {
        let since = match since(&call.query()) {
            Ok(since) => since,
            Err(message) => return response::error(HttpErrorCode::InvalidMessage, &message),
        };
        let points = self.parts.statistics.history(since);
        if let Some(tenant) = viewer.scope() {
            return response::json(StatusCode::OK, &TenantLoadReply::of(tenant, &points));
        }
        let shards = self.parts.shards.len();
        let reply = LoadReply {
            interval_ms: INTERVAL_MS,
            times: points.iter().map(|point| point.unix_ms).collect(),
            series: Series::of(&points),
            shards: (0..shards).map(|shard| cpu_of(&points, shard)).collect(),
        };
        response::json(StatusCode::OK, &reply)
    }
}

fn cpu_of(points: &[Point], shard: usize) -> Vec<f64> {
    let cpu = |point: &Point| point.shard_cpu.get(shard).map_or(0.0, |cpu| f64::from(*cpu));
    points.iter().map(cpu).map(rounded).collect()
}

/// The time behind which the points lie, in Unix milliseconds. The error is the message for the client.
fn since(query: &Query<'_>) -> Result<u64, String> {
    let text = query.get("since")?;
    let since = text.map(|text| text.parse().map_err(|_| "`since` must be Unix milliseconds"));
    Ok(since.transpose()?.unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_columns_of_the_points() {
        let point = |connections, cpu| Point {
            connections,
            shard_cpu: [cpu].into(),
            ..Point::default()
        };
        let points = [point(3, 0.25), point(4, 0.5)];
        assert_eq!(Series::of(&points).connections, [3.0, 4.0]);
        assert_eq!(cpu_of(&points, 0), [0.25, 0.5]);
        assert_eq!(cpu_of(&points, 1), [0.0, 0.0]);
        let part = |connections| TenantPoint {
            connections,
            ..TenantPoint::default()
        };
        let points = [Point {
            tenants: [part(7), part(8)].into(),
            ..Point::default()
        }];
        let of = |index| TenantLoadReply::of(Tenant::new(index).expect("few"), &points);
        assert_eq!([0, 1, 2].map(|index| of(index).series.connections[0]), [7.0, 8.0, 0.0]);
        assert_eq!(since(&Query::of("since=17")), Ok(17));
        assert_eq!(since(&Query::of("")), Ok(0));
        assert!(since(&Query::of("since=-1")).is_err());
    }
}
