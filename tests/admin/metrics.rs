//! `/metrics`, and its reference in `docs/metrics.md`.

use std::time::Duration;

use tickgate::auth::{self, KeySet};
use tickgate::backend::commands::{BackendUrl, HttpSettings, RouteSettings, Target};
use tickgate::backend::feeds::{FeedSettings, PublishMode, SourceSettings};
use tickgate::backend::ingest;
use tickgate::backend::jwks::{Location, SetSettings};
use tickgate::gateway::TenantSettings;
use tickgate::redis::RedisServer;
use tickgate_protocol::channel::{Pattern, Tenant};

use super::gateway::start;

/// One metric of the page: its type, its help text and the label names of its samples.
#[derive(Debug, Default, PartialEq)]
struct Metric {
    kind: String,
    help: String,
    labels: Vec<String>,
}

/// The metrics of a page, in order. Each must have a help text, a type and then a sample.
fn metrics_of(page: &str) -> Vec<(String, Metric)> {
    let mut metrics: Vec<(String, Metric)> = Vec::new();
    for line in page.lines() {
        if let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) {
            let help = help.to_owned();
            metrics.push((
                name.to_owned(),
                Metric {
                    help,
                    ..Metric::default()
                },
            ));
            continue;
        }
        let (name, metric) = metrics.last_mut().expect("a help text first");
        if let Some((of, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            assert_eq!((of, metric.kind.as_str()), (name.as_str(), ""), "{line}");
            metric.kind = kind.to_owned();
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').expect("a value");
        value.parse::<f64>().unwrap_or_else(|_| panic!("not a number: {line}"));
        let (of, labels) = sample.split_once('{').unwrap_or((sample, ""));
        let suffixes: &[&str] = match metric.kind.as_str() {
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        assert!(suffixes.iter().any(|suffix| *of == format!("{name}{suffix}")), "{line}");
        // Label values of this test contain neither commas nor quotes.
        let labels = labels
            .trim_end_matches('}')
            .split(',')
            .filter(|label| !label.is_empty());
        metric.labels = labels
            .map(|label| label.split('=').next().expect("a name").to_owned())
            .collect();
    }
    metrics
}

/// The page of a gateway with a command backend and a feed, so that every metric has a sample.
pub(crate) fn page() -> String {
    let gateway = start(|settings| {
        settings.tenants.push(TenantSettings {
            name: "one".into(),
            keys: KeySet::default(),
            auth: auth::Settings::default(),
            admin_key: None,
            viewer_key: None,
            event_bytes: 1024,
            publish_per_second: 0,
        });
        settings.key_sets = vec![SetSettings {
            location: Location::File("/nonexistent".into()),
            algorithm: None,
            refresh: Duration::from_secs(60),
            keys: std::sync::Arc::default(),
        }];
        let url = BackendUrl::parse("http://127.0.0.1:9/commands").expect("a URL");
        let target = Target::Http(HttpSettings { url, hmac_secret: None });
        settings.commands.routes = vec![RouteSettings::new(Pattern::parse("*").expect("valid"), target)];
        settings.feeds.feeds = vec![FeedSettings {
            channel: "system.clock".parse().expect("a channel"),
            event: "tick".into(),
            source: SourceSettings::Http("http://127.0.0.1:9/clock".parse().expect("a URL")),
            publish: PublishMode::Everything,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
        }];
        settings.sources.sources = vec![ingest::SourceSettings {
            tenant: Tenant::DEFAULT,
            channel: "ticks.{2}".parse().expect("a template"),
            event: "tick".parse().expect("a name"),
            origin: ingest::Origin::Redis {
                server: RedisServer {
                    addresses: vec!["redis://127.0.0.1:9".parse().expect("an address")],
                    ..RedisServer::default()
                },
                from: "pattern:ticks:*".parse().expect("a pattern"),
                stream: ingest::StreamSettings {
                    consumer: "tickgate".into(),
                    subject: None,
                    start: ingest::Start::New,
                },
            },
            data: None,
            record_key: None,
            event_bytes: 1024,
        }];
    });
    let page = gateway.admin_as(None, "GET", "/metrics", "", b"");
    assert!(
        page.head.contains("content-type: text/plain; version=0.0.4"),
        "{}",
        page.head
    );
    page.body
}

#[test]
fn the_metrics_page_and_its_documentation_agree() {
    let metrics = metrics_of(&page());
    let mut names: Vec<_> = metrics.iter().map(|(name, _)| name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), metrics.len(), "each metric occurs once");

    // A row is `name{labels}`, the type, and a meaning that begins with the help text.
    let mut wrong = Vec::new();
    let (_, table) = include_str!("../../docs/metrics.md")
        .split_once("| metric | kind | meaning |\n|---|---|---|\n")
        .expect("the table of metrics");
    let mut rows = table
        .lines()
        .map_while(|line| line.strip_prefix("| `")?.strip_suffix(" |"));
    for (name, metric) in &metrics {
        let labels = metric.labels.join(", ");
        let labels = if labels.is_empty() {
            labels
        } else {
            format!("{{{labels}}}")
        };
        let wanted = format!("{name}{labels}` | {} | {}", metric.kind, metric.help);
        match rows.next() {
            Some(row) if row.starts_with(&wanted) => {}
            row => wrong.push(format!("wanted: {wanted}\n   row: {row:?}")),
        }
    }
    wrong.extend(rows.map(|row| format!("no such metric: {row}")));
    assert!(wrong.is_empty(), "docs/metrics.md:\n{}", wrong.join("\n"));
}

/// The value of a sample without labels.
fn value(page: &str, name: &str) -> f64 {
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.expect(name).parse().expect("a number")
}

#[test]
fn deliveries_and_verifications_are_measured() {
    let gateway = start(|_| {});
    let mut client = gateway.client(&gateway.trader("u1"));
    client.subscribe(&["grid.*"]);
    // One event in 32 of each of the two threads that publish is measured, and counted before the next one is sent.
    for _ in 0..96 {
        gateway.publish(r#"{"channel":"grid.a","event":"e","data":1}"#);
        client.json();
    }
    let page = gateway.admin_as(None, "GET", "/metrics", "", b"").body;
    let measured = value(&page, "tickgate_publish_to_flush_seconds_count");
    assert!((1.0..=3.0).contains(&measured), "{measured}");
    let mean = value(&page, "tickgate_publish_to_flush_seconds_sum") / measured;
    assert!(mean > 0.0 && mean < 60.0, "{mean} s");
    assert!(value(&page, "tickgate_token_verification_seconds_count") >= 1.0);
}

#[test]
fn a_scraper_that_asks_for_open_metrics_gets_them() {
    let gateway = start(|_| {});
    let page = gateway.admin_as(
        None,
        "GET",
        "/metrics",
        "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.3\r\n",
        b"",
    );
    assert!(
        page.head
            .contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{}",
        page.head
    );
    let (page, end) = page.body.split_at(page.body.len() - 6);
    assert_eq!(end, "# EOF\n");
    // Each metric has a name of its own, and its samples have that name with the suffix of the type.
    let mut names = std::collections::BTreeSet::new();
    let mut family = (String::new(), String::new());
    for line in page.lines().filter(|line| !line.starts_with("# HELP")) {
        if let Some(told) = line.strip_prefix("# TYPE ") {
            let (name, kind) = told.split_once(' ').expect("a type");
            family = (name.to_owned(), kind.to_owned());
            assert!(names.insert(name.to_owned()), "{name} occurs twice");
            continue;
        }
        let sample = line.split(['{', ' ']).next().expect("a name");
        let suffix = sample
            .strip_prefix(&*family.0)
            .unwrap_or_else(|| panic!("{line} in {family:?}"));
        let suffixes: &[&str] = match &*family.1 {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            "gauge" | "unknown" => &[""],
            kind => panic!("{kind}"),
        };
        assert!(suffixes.contains(&suffix), "{line} in {family:?}");
    }
}
