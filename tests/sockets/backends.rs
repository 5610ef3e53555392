//! Runs every snippet of docs/backends.md unchanged, except for addresses, against a real gateway.

use std::net::SocketAddr;
use std::process::{Command, Output};
use std::time::Duration;

use serde_json::{Value, json};

use super::clients::Client;
use super::commands::{Node, free_address};
use super::harness::{ADMIN_KEY, Gateway, token, until};

const SECRET: &str = "a shared secret for commands, long enough";

/// A fenced code block of the page.
struct Snippet {
    language: String,
    text: String,
}

fn snippets() -> Vec<Snippet> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/backends.md");
    let document = std::fs::read_to_string(path).expect("the document");
    let mut blocks = document.split("```");
    let mut found = Vec::new();
    blocks.next();
    while let (Some(block), Some(_)) = (blocks.next(), blocks.next()) {
        let (language, text) = block.split_once('\n').expect("a language");
        found.push(Snippet {
            language: language.to_owned(),
            text: text.to_owned(),
        });
    }
    found
}

/// The only snippet of this language that contains `part`.
fn snippet(language: &str, part: &str) -> String {
    let all = snippets();
    let mut fitting = all
        .iter()
        .filter(|snippet| snippet.language == language && snippet.text.contains(part));
    let found = fitting
        .next()
        .unwrap_or_else(|| panic!("no {language} snippet with {part}"));
    assert!(fitting.next().is_none(), "more than one {language} snippet with {part}");
    found.text.clone()
}

struct Setup {
    gateway: Gateway,
    backend: SocketAddr,
    client: Client,
}

impl Setup {
    async fn new() -> Self {
        let backend = free_address().await;
        let route = snippet("toml", "[[command]]").replace("127.0.0.1:9000", &backend.to_string());
        let gateway = Gateway::start_as(&["serve"], &[("COMMAND_SECRET", SECRET)], "", &route).await;
        let client = gateway.connect(&token("root", "admin", Duration::from_secs(600))).await;
        Self {
            gateway,
            backend,
            client,
        }
    }

    fn addressed(&self, snippet: &str) -> String {
        snippet
            .replace("127.0.0.1:8081", &self.gateway.admin.to_string())
            .replace("127.0.0.1:9000", &self.backend.to_string())
            .replace(
                "(\"127.0.0.1\", 9000)",
                &format!("(\"127.0.0.1\", {})", self.backend.port()),
            )
            .replace("listen(9000,", &format!("listen({},", self.backend.port()))
    }

    /// Runs a snippet until it ends and returns its output.
    async fn run(&self, program: &str, option: &str, snippet: &str) -> String {
        let mut command = Command::new(program);
        command.args([option, &self.addressed(snippet)]);
        command
            .env("TICKGATE_ADMIN_KEY", ADMIN_KEY)
            .env("COMMAND_SECRET", SECRET);
        let ended = tokio::task::spawn_blocking(move || command.output())
            .await
            .expect("joined");
        let Output { status, stdout, stderr } = ended.unwrap_or_else(|error| panic!("{program}: {error}"));
        assert!(status.success(), "{program}: {}", String::from_utf8_lossy(&stderr));
        String::from_utf8(stdout).expect("UTF-8")
    }

    async fn published(&mut self, channel: &str) -> Value {
        let event = self.client.expect("event").await;
        assert_eq!(event["channel"], channel, "{event}");
        event["data"].clone()
    }
}

#[tokio::test]
async fn the_publishing_snippets_publish() {
    let mut setup = Setup::new().await;
    setup.client.subscribe(&["*"]).await;
    setup
        .client
        .send(&json!({"type": "unsubscribe", "channels": ["*"]}))
        .await;
    setup.client.expect("unsubscribed").await;
    setup.client.subscribe(&["grid.*", "market.*", "system.log"]).await;

    let printed = setup.run("sh", "-c", &snippet("sh", "grid.abc.status")).await;
    assert_eq!(
        serde_json::from_str::<Value>(&printed).expect("JSON"),
        json!({"published": 1})
    );
    assert_eq!(setup.published("grid.abc.status").await["id"], "abc");

    let printed = setup.run("sh", "-c", &snippet("sh", "x-ndjson")).await;
    assert_eq!(
        serde_json::from_str::<Value>(&printed).expect("JSON"),
        json!({"published": 2})
    );
    for message in ["one", "two"] {
        assert_eq!(setup.published("system.log").await["message"], message);
    }

    let printed = setup.run("python3", "-c", &snippet("python", "urllib")).await;
    assert!(printed.contains("'published': 1"), "{printed}");
    assert_eq!(setup.published("grid.abc.order").await["position_after"], 0.003);

    let printed = setup.run("node", "-e", &snippet("js", "fetch(")).await;
    assert!(printed.contains("published: 1"), "{printed}");
    assert_eq!(setup.published("market.BTC-USDC.price").await["price"], 95000.5);
}

#[tokio::test]
async fn the_answering_snippets_answer_and_check_the_signature() {
    for (program, option, language, part) in [
        ("python3", "-c", "python", "serve_forever"),
        ("node", "-e", "js", "createServer"),
    ] {
        let mut setup = Setup::new().await;
        let source = setup.addressed(&snippet(language, part));
        let mut backend = Node::new(
            vec![option.to_owned(), source],
            &[("COMMAND_SECRET", SECRET)],
            setup.backend,
        );
        backend.start(program).await;

        for (id, action, success) in [("1", "grid.start", true), ("2", "grid.dance", false)] {
            let command = json!({"type": "command", "id": id, "action": action, "params": {"pair": "BTC-USDC"}});
            setup.client.send(&command).await;
            let response = setup.client.expect("response").await;
            assert_eq!(
                (&response["id"], &response["success"]),
                (&json!(id), &json!(success)),
                "{program}: {response}"
            );
            let expected = if success {
                ("data", json!({"grid_id": "grid_1", "status": "starting"}))
            } else {
                ("error", json!({"code": "UNKNOWN_ACTION", "message": "grid.dance"}))
            };
            assert_eq!(response[expected.0], expected.1, "{program}");
        }

        let by_hand = snippet("sh", "openssl");
        let printed = setup.run("sh", "-c", &by_hand).await;
        assert!(printed.contains("grid_1"), "{program}: {printed}");
        let forged = by_hand
            .replace("v1=$v1", "v1=$(printf '%064d' 0)")
            .replace("curl -s", "curl -s -o /dev/null -w '%{http_code}'");
        assert_eq!(setup.run("sh", "-c", &forged).await, "401", "{program}");
    }
}

#[tokio::test]
async fn the_example_messages_match_what_is_sent() {
    let examples = snippets();
    let json: Vec<&Snippet> = examples.iter().filter(|snippet| snippet.language == "json").collect();
    for line in json.iter().flat_map(|snippet| snippet.text.lines()) {
        let parsed: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        assert!(parsed.is_object());
    }
    // The tests above run every language of the page.
    let known = ["sh", "python", "js", "toml", "json"];
    for snippet in &examples {
        assert!(known.contains(&snippet.language.as_str()), "{}", snippet.language);
    }
    let count = |language: &str| examples.iter().filter(|snippet| snippet.language == language).count();
    assert_eq!(
        (count("sh"), count("python"), count("js"), count("toml")),
        (3, 2, 2, 1),
        "a snippet no test runs"
    );

    // The shown request has the fields that the gateway posts.
    let shown: Value = serde_json::from_str(json[0].text.trim()).expect("JSON");
    let setup = Setup::new().await;
    let listener = tokio::net::TcpListener::bind(setup.backend).await.expect("free");
    let mut client = setup.client;
    client
        .send(&json!({"type": "command", "id": "1", "action": "grid.start", "params": {}}))
        .await;
    let (socket, _) = listener.accept().await.expect("the gateway connects");
    let mut received = Vec::new();
    let posted: Value = until("the request", async || {
        let mut chunk = [0; 4096];
        let read = socket.try_read(&mut chunk).unwrap_or(0);
        received.extend_from_slice(&chunk[..read]);
        let end = received.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
        serde_json::from_slice(&received[end + 4..]).ok()
    })
    .await;
    let fields = |value: &Value| {
        value
            .as_object()
            .expect("an object")
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(fields(&posted), fields(&shown));
}
