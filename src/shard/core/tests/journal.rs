//! The log lines about connections.

use std::io;
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tracing::Dispatch;

use super::*;

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

// While there is only one log in the process, the threads of other tests, which have none, decide that nobody wants the lines
// that they come to first.
static OTHER_LOGS: LazyLock<[Dispatch; 2]> = LazyLock::new(|| {
    let other = || Dispatch::new(tracing_subscriber::fmt().with_writer(io::sink).finish());
    [other(), other()]
});

/// The lines that `work` logs at `level` and above, as (level, message, line).
fn logged(level: tracing::Level, work: impl FnOnce()) -> Vec<(String, String, Value)> {
    LazyLock::force(&OTHER_LOGS);
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_max_level(level)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, work);
    let text = String::from_utf8(log.0.lock().clone()).expect("UTF-8");
    let line = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("JSON");
        let text = |key: &str| line[key].as_str().expect(key).to_owned();
        (text("level"), text("message"), line.clone())
    };
    text.lines().map(line).collect()
}

#[test]
fn an_ending_that_is_a_fault_says_who_it_was_and_why() {
    let lines = logged(tracing::Level::INFO, || {
        let mut rig = Rig::new();
        let user = rig.connect_with(
            session_settings(Mode::Required, Limits::default()),
            Ok(Some(identity(Some("42")))),
            true,
        );
        rig.subscribe(user, "a.*");
        rig.event("a.b", "1");
        rig.read(user);
        rig.core.on_bytes(user, &mut [0x83, 0x80, 0, 0, 0, 0], rig.now);
        // Neither is a fault.
        let (leaves, vanishes) = (rig.connect(), rig.connect());
        rig.core
            .on_bytes(leaves, &mut frame(0x88, &1000u16.to_be_bytes()), rig.now);
        rig.core.on_end_of_input(vanishes, rig.now);
    });
    let [(level, message, line)] = &*lines else {
        panic!("one line: {lines:?}")
    };
    assert_eq!(
        (level.as_str(), message.as_str()),
        ("INFO", "a connection ended: protocol error")
    );
    let expected = json!({
        "user": "42", "code": 1002, "ending": "protocol", "blame": "client", "dialect": "native", "messages_out": 2,
    });
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(line[key], *value, "{key} in {line}");
    }
}

#[test]
fn at_level_debug_a_connection_is_told_from_its_opening_to_its_end() {
    let lines = logged(tracing::Level::DEBUG, || {
        let mut rig = Rig::new();
        let id = rig.connect();
        rig.subscribe(id, "a.*");
        rig.say(id, r#"{"type":"unsubscribe","channels":["a.*"]}"#);
        rig.core.on_end_of_input(id, rig.now);
    });
    let messages: Vec<_> = lines.iter().map(|(_, message, _)| message.as_str()).collect();
    assert_eq!(
        messages,
        [
            "a connection opened",
            "a client subscribes",
            "a client unsubscribes",
            "a connection ended: connection lost"
        ]
    );
    assert_eq!(lines[1].2["patterns"], "a.*");
}

#[test]
fn a_storm_of_endings_is_counted_instead_of_logged() {
    let lines = logged(tracing::Level::INFO, || {
        let mut rig = Rig::new();
        let ids: Vec<_> = (0..50).map(|_| rig.connect()).collect();
        for id in ids {
            rig.core.on_bytes(id, &mut [0x83, 0x80, 0, 0, 0, 0], rig.now);
        }
        rig.pass(1_000);
        rig.core.begin_turn(rig.now);
        rig.core.begin_turn(rig.now);
    });
    let told = lines
        .iter()
        .filter(|(_, message, _)| message.contains("protocol error"))
        .count();
    let last = &lines.last().expect("lines").2;
    assert_eq!((told, lines.len(), &last["endings"]), (20, 21, &30.into()));
}
