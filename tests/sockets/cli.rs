//! The command line: its output and exit codes.

use std::io::{Read as _, Write as _};
use std::process::Output;

use crate::clients::Told;
use crate::harness::{ADMIN_KEY, Gateway, SECRET, binary, until};

fn output(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    binary()
        .args(arguments)
        .envs(environment.iter().copied())
        .output()
        .expect("runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn check_prints_the_effective_configuration_without_secrets() {
    let checked = output(&["check"], &[("TICKGATE_SERVER__SHARDS", "3")]);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    let printed = text(&checked.stdout);
    assert!(
        printed.contains("shards = 3\n") && printed.contains("secret_env = \"TICKGATE_JWT_SECRET\"\n"),
        "{printed}"
    );
    assert!(!printed.contains(SECRET) && !printed.contains(ADMIN_KEY));
    assert!(
        printed.contains("# match = \"market.*.trade\"\n"),
        "the built-in classes: {printed}"
    );
    assert_eq!(text(&checked.stderr), "the default configuration: valid\n");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("again.toml");
    std::fs::write(&file, &printed).expect("written");
    let again = output(&["check", "--config", &file.display().to_string()], &[]);
    assert_eq!(text(&again.stdout), printed, "{}", text(&again.stderr));
}

/// Arguments, environment, and a part of the error message.
type Case = (
    &'static [&'static str],
    &'static [(&'static str, &'static str)],
    &'static str,
);

#[test]
fn a_wrong_configuration_or_command_line_exits_with_2_and_a_reason() {
    let cases: [Case; 7] = [
        (
            &["serve", "--config", "/nonexistent.toml"],
            &[],
            "/nonexistent.toml: cannot be read",
        ),
        (
            &["check", "--config", "/nonexistent.toml"],
            &[],
            "/nonexistent.toml: cannot be read",
        ),
        (
            &["serve"],
            &[("TICKGATE_SERVER__LISTENS", "[]")],
            "variable TICKGATE_SERVER__LISTENS: server.listens: unknown key",
        ),
        (
            &["serve"],
            &[("TICKGATE_JWT_SECRET", "short")],
            "the secret is shorter than the 32 bytes that HS256 needs",
        ),
        (&["serve", "--port", "1"], &[], "unexpected argument '--port'"),
        (
            &["token", "--sub", "a.b"],
            &[],
            "the subject must be one channel segment",
        ),
        (
            &["token", "--sub", "u", "--channels", "gr*d"],
            &[],
            "the pattern has a character that is not allowed: '*'",
        ),
    ];
    for (arguments, environment, why) in cases {
        let ended = output(arguments, environment);
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}: {ended:?}");
        assert!(
            text(&ended.stderr).contains(why),
            "{arguments:?}: {}",
            text(&ended.stderr)
        );
        assert!(ended.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn without_keys_only_local_listeners_are_allowed() {
    let mut command = binary();
    command
        .env_remove("TICKGATE_JWT_SECRET")
        .env_remove("TICKGATE_ADMIN_KEY");
    command.env("TICKGATE_SERVER__LISTEN", "[\"0.0.0.0:0\"]");
    let refused = command.arg("serve").output().expect("runs");
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(
        text(&refused.stderr).contains("no [[auth.key]] is configured"),
        "{}",
        text(&refused.stderr)
    );
}

#[tokio::test]
async fn what_is_open_to_anybody_is_told_at_start_and_by_check() {
    const RULES: &str = "[auth.anonymous]\nchannels = [\"market.*\"]\n";
    let endpoint = |path: &str, more: &str| format!("[[endpoint]]\npath = \"{path}\"\ndialect = \"native\"\n{more}");
    let open = endpoint("/open", "anonymous = true\n");
    let gateway = Gateway::start("", &[&endpoint("/ws", ""), &open, RULES].concat()).await;
    let told = "/open is open to anybody: without a token a client may subscribe to market.*; send as commands nothing; publish \
                to nothing";
    let log = gateway.log();
    assert!(
        log.contains(told) && log.matches("is open to anybody").count() == 1,
        "{log}"
    );
    let checked = output(
        &["check", "--config", &gateway.configuration().display().to_string()],
        &[],
    );
    let printed = text(&checked.stderr);
    assert!(
        printed.contains(told) && printed.matches("is open to anybody").count() == 1,
        "{printed}"
    );
    // A client without a token gets in there, and nowhere else.
    let mut client = gateway.connect_to("/open").await.expect("let in");
    client.subscribe(&["market.*"]).await;
    let mut refused = gateway.connect_to("/ws").await.expect("it may authenticate");
    refused
        .send(&serde_json::json!({"type": "subscribe", "channels": ["market.*"]}))
        .await;
    assert_eq!(refused.expect("error").await["error"]["code"], "UNAUTHENTICATED");
    // The default configuration is open to nobody.
    let checked = output(&["check"], &[]);
    assert!(!text(&checked.stderr).contains("is open to anybody"), "{checked:?}");
}

#[tokio::test]
async fn a_taken_address_exits_with_1() {
    let gateway = Gateway::start("", "").await;
    let taken = format!("[\"{}\"]", gateway.public);
    let ended = output(
        &["serve"],
        &[
            ("TICKGATE_SERVER__LISTEN", &taken),
            ("TICKGATE_SERVER__ADMIN_LISTEN", "127.0.0.1:0"),
        ],
    );
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    assert!(
        text(&ended.stderr).contains(&format!("cannot listen on {}", gateway.public)),
        "{}",
        text(&ended.stderr)
    );
    let remedy = "another process listens there: end it, or choose another address with server.listen";
    assert!(text(&ended.stderr).contains(remedy), "{}", text(&ended.stderr));
}

#[tokio::test]
async fn a_printed_token_is_accepted() {
    let gateway = Gateway::start("", "").await;
    let made = output(
        &["token", "--sub", "7", "--channels", "grid.*,system.log", "--ttl", "1m"],
        &[],
    );
    let mut client = gateway.connect(text(&made.stdout).trim()).await;
    client.subscribe(&["grid.abc.*", "system.log", "user.7.*"]).await;
    client
        .send(&serde_json::json!({"type": "subscribe", "channels": ["market.*"]}))
        .await;
    assert_eq!(client.expect("error").await["error"]["code"], "FORBIDDEN");
}

#[tokio::test]
async fn a_second_signal_ends_a_drain_at_once() {
    for (name, code) in [("TERM", 143), ("INT", 130)] {
        let mut gateway = Gateway::start("drain = \"1h\"", "").await;
        let mut client = gateway.connect(&crate::harness::trader()).await;
        client.subscribe(&["grid.*"]).await;
        gateway.signal(name);
        assert_eq!(client.expect("going_away").await["data"]["reason"], "restart");
        gateway.signal(name);
        assert_eq!(gateway.ended().await.code(), Some(code));
        let end = until("the client's end", async || match client.next().await {
            Told::Message(_) | Told::Binary(_) => None,
            end => Some(end),
        });
        assert!(matches!(end.await, Told::Lost | Told::Closed(..)));
    }
}

#[tokio::test]
async fn health_asks_the_gateway_and_exits_with_1_when_it_is_not_well() {
    let gateway = Gateway::start("", "").await;
    let health = |admin: String, arguments: &[&str]| {
        let arguments = [&["health", "--timeout", "20s"], arguments].concat();
        let asked = output(&arguments, &[("TICKGATE_SERVER__ADMIN_LISTEN", &admin)]);
        let told = text(&asked.stdout) + &text(&asked.stderr);
        (asked.status.code(), told)
    };
    for (arguments, path) in [(&[][..], "/healthz"), (&["--ready"], "/readyz")] {
        let well = format!("{path} of {}: 200\n", gateway.admin);
        assert_eq!(health(gateway.admin.to_string(), arguments), (Some(0), well));
    }

    // A gateway that drains answers so.
    let draining = std::net::TcpListener::bind("127.0.0.1:0").expect("bound");
    let address = draining.local_addr().expect("bound").to_string();
    let answers = std::thread::spawn(move || {
        let (mut stream, _) = draining.accept().expect("accepted");
        let mut request = [0; 1024];
        let length = stream.read(&mut request).expect("a request");
        stream
            .write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")
            .expect("sent");
        text(&request[..length])
    });
    let (code, told) = health(address.clone(), &["--ready"]);
    assert_eq!((code, told), (Some(1), format!("/readyz of {address}: 503\n")));
    assert!(answers.join().expect("joined").starts_with("GET /readyz HTTP/1.1\r\n"));
    // Now nobody listens there.
    let (code, told) = health(address, &[]);
    assert!(code == Some(1) && told.contains("is the gateway running"), "{told}");
    assert_eq!(output(&["health", "--timeout", "0s"], &[]).status.code(), Some(2));
}
