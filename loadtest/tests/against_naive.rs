//! Runs the tool against the naive server and checks that its counts are correct.

#[path = "../../benches/support/naive.rs"]
#[allow(missing_docs, unreachable_pub, reason = "shared with the gateway's benchmark")]
mod naive;

use std::process::{Command, Output};

/// Runs the tool against a naive server in this process. Returns its output and its JSON report.
fn run(arguments: &[&str]) -> (Output, serde_json::Value) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(naive::Naive::new().serve(listener));
    let json = std::env::temp_dir().join(format!(
        "tickgate-loadtest-{}-{}.json",
        std::process::id(),
        address.port()
    ));
    let output = Command::new(env!("CARGO_BIN_EXE_tickgate-loadtest"))
        .args(arguments)
        .args(["--url", &format!("ws://{address}/ws")])
        .args(["--publish-url", &format!("http://{address}/api/publish")])
        .args(["--pid", &std::process::id().to_string()])
        .arg("--json")
        .arg(&json)
        .output()
        .unwrap();
    let report = std::fs::read(&json).map_or(serde_json::Value::Null, |text| serde_json::from_slice(&text).unwrap());
    let _ = std::fs::remove_file(&json);
    (output, report)
}

#[test]
fn every_delivery_is_counted() {
    let arguments = "fanout --clients 30 --threads 2 --rate 200 --seconds 1 --warmup-seconds 1";
    let (output, report) = run(&arguments.split(' ').collect::<Vec<_>>());
    assert!(output.status.success(), "{output:?}");
    for (figure, expected) in [
        ("deliveries_expected", 6000.0),
        ("deliveries", 6000.0),
        ("missing", 0.0),
        ("out_of_order", 0.0),
    ] {
        assert_eq!(report["figures"][figure], expected, "{figure} in {report}");
    }
    assert!(report["figures"]["latency_ms_max"].as_f64().unwrap() > 0.0, "{report}");
    assert!(
        report["figures"]["server_cpu_us_per_delivery"].as_f64().is_some(),
        "{report}"
    );
}

#[test]
fn a_burst_reaches_idle_clients() {
    let (output, report) = run(&"idle --clients 20 --seconds 1 --burst-events 40"
        .split(' ')
        .collect::<Vec<_>>());
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        (&report["figures"]["deliveries"], &report["figures"]["missing"]),
        (&800.0.into(), &0.0.into()),
        "{report}"
    );
}

#[test]
fn lost_events_and_refused_clients_are_reported() {
    let arguments = [
        "fanout",
        "--clients",
        "2",
        "--subscribe-frame",
        "",
        "--ready-marker",
        "",
        "--publish-key",
        "k",
    ];
    // Without a subscription the naive server sends nothing, so the tool must report that no delivery arrived.
    let (output, report) = run(&[
        &arguments[..],
        &["--seconds", "1", "--rate", "10", "--warmup-seconds", "0"],
    ]
    .concat());
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        (
            &report["figures"]["deliveries"],
            &report["figures"]["deliveries_expected"]
        ),
        (&0.0.into(), &20.0.into()),
        "{report}"
    );
    let (output, _) = run(&["fanout", "--clients", "2", "--token", "bad token", "--seconds", "1"]);
    assert!(!output.status.success());
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("0 of 2 clients ready"),
        "{output:?}"
    );
}
