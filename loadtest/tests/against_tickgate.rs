//! Runs a small version of each scenario against the real gateway, and checks results that do not depend on speed.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

const SECRET: &str = "a secret of thirty-two bytes or more";
const ADMIN_KEY: &str = "an-admin-key-of-this-test-only";

/// Path of the gateway's program: that of `TICKGATE_BIN`, or one that is built once for all tests of this file. Cargo gives the
/// paths of programs only to tests of their own package.
fn program() -> &'static PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(path) = std::env::var_os("TICKGATE_BIN") {
            return path.into();
        }
        let mut build = Command::new(env!("CARGO"));
        build.args([
            "build",
            "--quiet",
            "--locked",
            "--package",
            "tickgate",
            "--bin",
            "tickgate",
        ]);
        build.args(["--message-format", "json"]).stdout(Stdio::piped());
        let output = build.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lines = output.stdout.split(|byte| *byte == b'\n');
        let messages = lines.filter_map(|line| serde_json::from_slice::<Value>(line).ok());
        let executable = messages
            .filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
            .next_back();
        executable.expect("cargo names the program it has built")
    })
}

/// A gateway on free ports. It is killed when dropped.
struct Gateway {
    process: Child,
    public: String,
    admin: String,
    backend: String,
    folder: tempfile::TempDir,
}

impl Gateway {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("tickgate.toml");
        // A free port for the tool's backend, which binds it later. Another process could take it meanwhile, but that
        // is rare.
        let backend = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .to_string();
        let text = format!(
            "[server]\nlisten = [\"127.0.0.1:0\"]\nadmin_listen = \"127.0.0.1:0\"\nshards = 2\ndrain = \"0s\"\n\
             [[command]]\nmatch = \"load.*\"\nhttp = \"http://{backend}/\"\n\
             [limits]\nmessages_per_second = 1000\ncommands_per_second = 1000\n[log]\nformat = \"json\"\n"
        );
        std::fs::write(&config, text).unwrap();
        let mut process = Command::new(program())
            .args(["serve", "--config"])
            .arg(&config)
            .env("TICKGATE_JWT_SECRET", SECRET)
            .env("TICKGATE_ADMIN_KEY", ADMIN_KEY)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let (mut public, mut admin, mut log) = (None, None, String::new());
        while public.is_none() || admin.is_none() {
            let Some(line) = lines.next() else {
                panic!("the gateway ended: {log}")
            };
            let line = line.unwrap();
            log.push_str(&line);
            let message: Value = serde_json::from_str(&line).unwrap_or_default();
            let address = message["address"].as_str().map(str::to_owned);
            match message["message"].as_str() {
                Some("listening") => public = address,
                Some("listening for the admin API") => admin = address,
                _ => {}
            }
        }
        // Read the log to the end. Otherwise the pipe would fill up and block the gateway.
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            process,
            public: public.unwrap(),
            admin: admin.unwrap(),
            backend,
            folder,
        }
    }

    /// Runs the tool and returns its report and its page.
    fn measure(&self, arguments: &str) -> (Value, String) {
        let (json, html) = (
            self.folder.path().join("report.json"),
            self.folder.path().join("report.html"),
        );
        let output = Command::new(env!("CARGO_BIN_EXE_tickgate-loadtest"))
            .args(arguments.split(' '))
            .args(["--url", &format!("ws://{}", self.public)])
            .args(["--publish-url", &format!("http://{}", self.admin)])
            .args(["--pid", &self.process.id().to_string()])
            .args(["--secret-env", "SECRET"])
            .env("SECRET", SECRET)
            .env("TICKGATE_ADMIN_KEY", ADMIN_KEY)
            .arg("--json")
            .arg(&json)
            .arg("--html")
            .arg(&html)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{arguments}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let report: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
        assert_eq!(
            (&report["schema"], &report["version"]),
            (&"tickgate-loadtest".into(), &1.into())
        );
        assert_eq!(report["first_error"], Value::Null, "{arguments}");
        (report, std::fs::read_to_string(html).unwrap())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // The process may have ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn assert_figures(report: &Value, expected: &[(&str, f64)]) {
    for (figure, value) in expected {
        assert_eq!(report["figures"][figure].as_f64(), Some(*value), "{figure} in {report}");
    }
}

fn assert_measured(report: &Value, figures: &[&str]) {
    for figure in figures {
        assert!(report["figures"][figure].as_f64().is_some(), "no {figure} in {report}");
    }
}

#[test]
fn fanout_delivers_everything_in_every_dialect_and_with_many_users() {
    let gateway = Gateway::start();
    for adapter in ["tickgate", "tickgate-market", "tickgate-typed", "tickgate-socketio"] {
        let arguments =
            "fanout --clients 40 --threads 2 --channels 4 --rate 100 --seconds 1 --warmup-seconds 1 --users 7";
        let (report, page) = gateway.measure(&format!("{arguments} --adapter {adapter}"));
        assert_figures(
            &report,
            &[
                ("deliveries", 1000.0),
                ("deliveries_expected", 1000.0),
                ("missing", 0.0),
                ("out_of_order", 0.0),
                ("clients_ended", 0.0),
            ],
        );
        assert_measured(
            &report,
            &[
                "latency_ms_p99",
                "server_cpu_us_per_delivery",
                "rss_bytes",
                "tool_busiest_thread",
            ],
        );
        assert_eq!(report["setup"]["users"], 7);
        assert!(page.contains("<svg") && page.contains(adapter), "{page}");
    }
    let (report, _) = gateway.measure("soak --clients 5 --pattern load.* --channels 3 --rate 30 --seconds 1");
    assert_figures(&report, &[("deliveries", 150.0), ("missing", 0.0)]);
}

#[test]
fn compression_reduces_bytes_and_loses_no_event() {
    let gateway = Gateway::start();
    let per_delivery = |compression: &str| {
        let arguments = "fanout --clients 10 --threads 2 --rate 50 --seconds 1 --data-bytes 1000";
        let (report, _) = gateway.measure(&format!("{arguments}{compression}"));
        assert_figures(
            &report,
            &[("deliveries", 500.0), ("missing", 0.0), ("clients_ended", 0.0)],
        );
        report["figures"]["bytes_per_delivery"].as_f64().expect("measured")
    };
    let (plain, compressed) = (per_delivery(""), per_delivery(" --compression"));
    assert!((1000.0..1500.0).contains(&plain), "{plain}");
    // The ratio has a lower bound too, because the padding resembles real events.
    assert!((0.3..0.8).contains(&(compressed / plain)), "{compressed} of {plain}");
}

#[test]
fn a_storm_becomes_live_while_other_clients_receive() {
    let gateway = Gateway::start();
    let (report, page) =
        gateway.measure("storm --clients 60 --others 10 --rate 20 --seconds 1 --rounds 2 --ramp-seconds 1");
    assert_figures(
        &report,
        &[
            ("missing", 0.0),
            ("out_of_order", 0.0),
            ("clients_ended", 0.0),
            ("clients_live", 70.0),
        ],
    );
    assert_measured(
        &report,
        &[
            "all_live_ms",
            "again_live_ms",
            "live_ms_p99",
            "baseline_ms_p99",
            "latency_ms_p99",
            "p99_ratio",
        ],
    );
    assert_eq!(
        report["figures"]["deliveries"],
        report["figures"]["deliveries_expected"]
    );
    assert!(page.contains("Live clients"), "{page}");
}

#[test]
fn churning_subscriptions_lose_no_event_and_leave_none_behind() {
    let gateway = Gateway::start();
    let (report, _) = gateway.measure("churn --clients 20 --others 5 --requests-per-second 200 --rate 100 --seconds 2");
    assert_figures(
        &report,
        &[
            ("requests_sent", 400.0),
            ("requests_answered", 400.0),
            ("requests_failed", 0.0),
            ("stray", 0.0),
            ("missing", 0.0),
            ("errors", 0.0),
        ],
    );
    assert_eq!(
        report["figures"]["deliveries"],
        report["figures"]["deliveries_expected"]
    );
    assert_measured(&report, &["request_ms_p99", "p99_ratio"]);
}

#[test]
fn commands_reach_the_backend_of_the_tool() {
    let gateway = Gateway::start();
    let arguments = format!(
        "commands --clients 10 --requests-per-second 100 --seconds 2 --backend {}",
        gateway.backend
    );
    let (report, page) = gateway.measure(&arguments);
    assert_figures(
        &report,
        &[
            ("requests_sent", 200.0),
            ("requests_answered", 200.0),
            ("requests_failed", 0.0),
            ("backend_answered", 200.0),
        ],
    );
    assert_measured(&report, &["request_ms_p50", "server_cpu_us_per_request"]);
    assert!(page.contains("from when a request was due"), "{page}");
}

#[test]
fn stalled_readers_learn_of_every_lost_event() {
    let gateway = Gateway::start();
    let (report, _) = gateway.measure("slow --clients 10 --stalled 2 --rate 50 --seconds 1");
    assert_figures(
        &report,
        &[
            ("deliveries", 1000.0),
            ("missing", 0.0),
            ("clients_ended", 0.0),
            ("stalled_ended", 0.0),
        ],
    );
    let figures = &report["figures"];
    assert!(figures["stalled_missing"].as_f64().unwrap() > 0.0, "{report}");
    assert_eq!(figures["stalled_missing"], figures["stalled_told_dropped"], "{report}");
}

#[test]
fn a_custom_adapter_publishes_by_frames() {
    let gateway = Gateway::start();
    let file = gateway.folder.path().join("own.toml");
    let text = r#"
        path = "/ws"
        token = "header"
        channel = "load.own{index}"
        open = [{ send = '{"type":"ping"}' }, { await = '"type":"pong"' }]
        subscribe = '{"type":"subscribe","channels":["{channel}"]}'
        subscribed = '"type":"subscribed"'
        [publish]
        by = "frame"
        item = '{"type":"publish","channel":"{channel}","event":"tick","data":{data}}'
        refused = ['"type":"error"']
    "#;
    std::fs::write(&file, text).unwrap();
    let arguments = "fanout --clients 10 --rate 50 --seconds 1 --warmup-seconds 0 --adapter";
    let (report, _) = gateway.measure(&format!("{arguments} {}", file.display()));
    assert_figures(&report, &[("deliveries", 500.0), ("missing", 0.0)]);
}

#[test]
fn a_stream_that_the_gateway_refuses_ends_the_run() {
    let gateway = Gateway::start();
    let output = Command::new(env!("CARGO_BIN_EXE_tickgate-loadtest"))
        .args("fanout --clients 1 --rate 50 --seconds 1 --adapter tickgate-market --publish-key wrong".split(' '))
        .args(["--url", &format!("ws://{}", gateway.public)])
        .args(["--publish-url", &format!("http://{}", gateway.admin)])
        .args(["--secret-env", "SECRET"])
        .env("SECRET", SECRET)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("401"), "{output:?}");
}

#[test]
fn two_reports_are_compared() {
    let gateway = Gateway::start();
    gateway.measure("fanout --clients 5 --rate 20 --seconds 1 --warmup-seconds 0 --name first");
    let (report, folder) = (gateway.folder.path().join("report.json"), gateway.folder.path());
    std::fs::rename(&report, folder.join("first.json")).unwrap();
    gateway.measure("fanout --clients 10 --rate 20 --seconds 1 --warmup-seconds 0 --name second");
    let output = Command::new(env!("CARGO_BIN_EXE_tickgate-loadtest"))
        .arg("compare")
        .arg(folder.join("first.json"))
        .arg(&report)
        .arg("--html")
        .arg(folder.join("compare.html"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("NOT THE SAME: clients 5 and 10"),
        "{output:?}"
    );
    assert!(
        text.lines()
            .any(|line| line.trim().starts_with("delivered") && line.contains("2.00")),
        "{text}"
    );
    let page = std::fs::read_to_string(folder.join("compare.html")).unwrap();
    assert!(
        page.contains("first") && page.contains("second") && page.contains("<svg"),
        "{page}"
    );
}
