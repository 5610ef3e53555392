//! The dashboard and the alert rules of `deploy/`, held against the metrics that a gateway has and against the pages.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use tickgate::backend::commands::breaker::CircuitState;
use tickgate::backend::feeds::FeedState;
use tickgate::backend::ingest::SourceState;

use super::metrics::page;

const ALERTS: &str = include_str!("../../deploy/prometheus/alerts.yml");
const DASHBOARD: &str = include_str!("../../deploy/grafana/tickgate.json");
const DOCUMENTATION: &str = include_str!("../../docs/metrics.md");

/// Labels that Prometheus adds to every sample.
const OF_PROMETHEUS: [&str; 2] = ["instance", "job"];

/// The metrics of a gateway: by name their labels, and by label the values.
type Known = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn known(page: &str) -> Known {
    let mut known = Known::new();
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let (sample, _) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
        let metric = known.entry(name.to_owned()).or_default();
        for (label, _, value) in matchers(labels.trim_end_matches('}')) {
            metric.entry(label).or_default().insert(value);
        }
    }
    known
}

/// `a="x",b=~"y|z"` as label, operator and value. No value has a quote.
fn matchers(text: &str) -> Vec<(String, String, String)> {
    let parts: Vec<&str> = text.split('"').collect();
    let pairs = parts.chunks_exact(2);
    pairs
        .map(|pair| {
            let left = pair[0].trim_matches([',', ' ']);
            let label: String = left.chars().take_while(|&c| c.is_alphanumeric() || c == '_').collect();
            let operator = left[label.len()..].trim().to_owned();
            (label, operator, pair[1].to_owned())
        })
        .collect()
}

/// What is wrong with an expression of PromQL: metrics, labels and values that no gateway has.
fn wrong(expression: &str, known: &Known) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut labels: BTreeSet<&str> = OF_PROMETHEUS.into();
    let mut uses_metric = false;
    let ends = |text: &str| text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
    for start in ["tickgate_", "process_"] {
        for (at, _) in expression.match_indices(start) {
            let rest = &expression[at..];
            let (name, rest) = rest.split_at(ends(rest).unwrap_or(rest.len()));
            uses_metric = true;
            let Some(metric) = known.get(name) else {
                wrong.push(format!("no metric {name}"));
                continue;
            };
            labels.extend(metric.keys().map(String::as_str));
            let selector = rest.strip_prefix('{').and_then(|rest| rest.split('}').next());
            for (label, operator, value) in matchers(selector.unwrap_or_default()) {
                if OF_PROMETHEUS.contains(&label.as_str()) {
                    continue;
                }
                let values = metric.get(&label);
                let wanted: Vec<&str> = match operator.as_str() {
                    "=~" | "!~" => value.split('|').collect(),
                    _ => vec![&value],
                };
                for value in wanted {
                    if !values.is_some_and(|values| values.contains(value)) {
                        wrong.push(format!("{name} has no {label}=\"{value}\""));
                    }
                }
            }
        }
    }
    if !uses_metric && !expression.starts_with("up{job=\"tickgate\"}") {
        wrong.push("no metric of the gateway".to_owned());
    }
    for clause in ["by (", "without ("] {
        for part in expression.split(clause).skip(1) {
            let (list, _) = part.split_once(')').expect("a closing parenthesis");
            let unknown = list.split(", ").filter(|label| !labels.contains(label));
            wrong.extend(unknown.map(|label| format!("no label {label}")));
        }
    }
    wrong
}

/// One alert rule.
#[derive(Debug, Default)]
struct Alert {
    name: String,
    expression: String,
    runbook: String,
}

/// The rules of a file that is laid out as `deploy/prometheus/alerts.yml`.
fn alerts(yaml: &str) -> Vec<Alert> {
    let mut alerts: Vec<Alert> = Vec::new();
    let mut continues = false;
    for line in yaml.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("- alert: ") {
            alerts.push(Alert {
                name: name.to_owned(),
                ..Alert::default()
            });
        }
        let Some(alert) = alerts.last_mut() else { continue };
        if let Some(expression) = line.strip_prefix("expr: ") {
            continues = expression == ">-";
            if !continues {
                expression.clone_into(&mut alert.expression);
            }
        } else if line.starts_with("for: ") || line.starts_with("labels: ") {
            continues = false;
        } else if let Some(page) = line.strip_prefix("runbook: ") {
            page.clone_into(&mut alert.runbook);
        } else if continues {
            alert.expression.push_str(line);
            alert.expression.push(' ');
        }
    }
    alerts
}

/// Every expression of the dashboard, with the title of its panel.
fn expressions(dashboard: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut all = Vec::new();
    for panel in dashboard["panels"].as_array().expect("panels") {
        let targets = panel["targets"].as_array().into_iter().flatten();
        all.extend(targets.map(|target| (text(&panel["title"]), text(&target["expr"]))));
    }
    for annotation in dashboard["annotations"]["list"].as_array().expect("annotations") {
        all.push((text(&annotation["name"]), text(&annotation["expr"])));
    }
    all
}

#[test]
fn the_alerts_and_the_dashboard_use_metrics_that_a_gateway_has() {
    let mut known = known(&page());
    // A state is exported while it lasts, so the page has the present ones only.
    for (name, state) in [
        ("tickgate_backend_circuit", CircuitState::Open.as_str()),
        ("tickgate_feed_state", FeedState::Failing.as_str()),
        ("tickgate_source_state", SourceState::Failing.as_str()),
    ] {
        let labels = known.get_mut(name).expect("a metric");
        labels.get_mut("state").expect("a label").insert(state.to_owned());
    }
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let mut all: Vec<_> = alerts(ALERTS)
        .into_iter()
        .map(|alert| (alert.name, alert.expression))
        .collect();
    assert!(all.len() >= 20, "{all:?}");
    let panels = expressions(&dashboard);
    assert!(panels.len() >= 40, "{panels:?}");
    all.extend(panels);
    let found: Vec<_> = all
        .iter()
        .flat_map(|(name, expression)| {
            let wrong = wrong(expression, &known);
            wrong.into_iter().map(move |what| format!("{name}: {what}"))
        })
        .collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));

    // A panel has a number and a place of its own.
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    let places: BTreeSet<_> = panels.iter().map(|panel| panel["gridPos"].to_string()).collect();
    assert_eq!((ids.len(), places.len()), (panels.len(), panels.len()));
}

#[test]
fn the_documentation_names_the_question_and_the_page_of_each_alert() {
    let (_, table) = DOCUMENTATION
        .split_once("| alert | question | answer |\n|---|---|---|\n")
        .expect("the table of alerts");
    let rows: Vec<_> = table.lines().take_while(|line| line.starts_with("| `")).collect();
    let alerts = alerts(ALERTS);
    let documented: Vec<_> = rows.iter().filter_map(|row| row.split('`').nth(1)).collect();
    let declared: Vec<_> = alerts.iter().map(|alert| alert.name.as_str()).collect();
    assert_eq!(documented, declared);
    for (alert, row) in alerts.iter().zip(rows) {
        let page = alert.runbook.strip_prefix("docs/").expect("a page of docs/");
        assert!(row.ends_with(&format!("]({page}) |")), "{alert:?}: {row}");
    }
}

#[test]
fn what_no_gateway_has_is_found() {
    let known = known("a 1\ntickgate_x{code=\"1\",reason=\"b\"} 1\ntickgate_x{code=\"2\",reason=\"c\"} 0\n");
    for (expression, expected) in [
        ("rate(tickgate_y[5m])", "no metric tickgate_y"),
        ("tickgate_x_total", "no metric tickgate_x_total"),
        ("tickgate_x{code=\"3\"}", "tickgate_x has no code=\"3\""),
        ("tickgate_x{job=\"j\", kind=\"1\"}", "tickgate_x has no kind=\"1\""),
        ("tickgate_x{code=~\"1|4\"}", "tickgate_x has no code=\"4\""),
        ("sum by (shard) (tickgate_x)", "no label shard"),
        ("sum without (code, kind) (tickgate_x)", "no label kind"),
        ("node_load1", "no metric of the gateway"),
    ] {
        assert_eq!(wrong(expression, &known), [expected], "{expression}");
    }
    let good = "sum by (instance, code) (rate(tickgate_x{instance=~\"$i\", code=~\"1|2\",reason!=\"c\"}[5m]))";
    assert_eq!(wrong(good, &known), [""; 0]);
}
