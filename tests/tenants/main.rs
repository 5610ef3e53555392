//! Two tenants with the same names, users and roles in one gateway: nothing of one is heard, seen or changed by the other,
//! by any way in or out.

mod administration;
#[path = "../support/gateway.rs"]
mod gateway;
mod reload;
mod returning;
#[path = "../support/sources.rs"]
mod sources;

use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use gateway::{Answer, Client, answer, connect, until};
use serde_json::{Value, json};
use sources::HttpSource;
use std::io::Write as _;
use tickgate::auth::{self, Algorithm, Grant, Key, KeySet, mint};
use tickgate::backend::commands::{BackendReply, Handler, HandlerResult, Request, RouteSettings, Target};
use tickgate::backend::feeds::{FeedSettings, PublishMode, SourceSettings};
use tickgate::config::{Config, Environment};
use tickgate::gateway::Gateway;
use tickgate::time::unix_ms;
use tickgate_protocol::channel::{ChannelTemplate, Pattern, Tenant};

/// How long an event that must not come is waited for. On a slow machine it may come later.
const SILENCE: Duration = Duration::from_millis(50);

const OPERATOR: &str = "the-key-of-the-operator";

/// The tenants, in the order of their numbers. The first is the default one.
const NAMES: [&str; 3] = ["default", "one", "two"];
const SECRETS: [&str; 3] = [
    "the secret of the default tenant, 32",
    "the secret of the first tenant, 32 b",
    "the secret of the second tenant, 32 ",
];
const ADMIN_KEYS: [&str; 3] = [OPERATOR, "the-key-of-tenant-one", "the-key-of-tenant-two"];
/// Opens the part of the first tenant, to look at it.
const VIEWER: &str = "the-viewer-key-of-tenant-one";

fn toml() -> String {
    let space = |prefix: &str, name: &str, variable: &str| {
        format!(
            "[[{prefix}endpoint]]\npath = \"/{name}\"\ndialect = \"native\"\n\
             [[{prefix}endpoint]]\npath = \"/{name}/socket.io\"\ndialect = \"socket_io\"\nanonymous = true\nrecovery = true\n\
             [[{prefix}auth.key]]\nalgorithm = \"HS256\"\nsecret_env = \"{variable}\"\n\
             [{prefix}auth.role.trader]\nchannels = [\"*\", \"user.*\"]\ncommands = [\"*\"]\npublish = [\"*\", \"user.*\"]\n"
        )
    };
    let mut toml = "[server]\nlisten = [\"127.0.0.1:0\"]\nadmin_listen = \"127.0.0.1:0\"\nshards = 2\n\
                    max_connections_per_user = 2\n[admin]\nkey_env = \"KEY_0\"\n"
        .to_owned();
    toml += &space("", NAMES[0], "SECRET_0");
    for index in [1, 2] {
        toml += &format!(
            "[[tenant]]\nname = \"{0}\"\n[tenant.admin]\nkey_env = \"KEY_{index}\"\n",
            NAMES[index]
        );
        if index == 1 {
            toml += "viewer_key_env = \"VIEWER_KEY\"\n";
        }
        toml += &space("tenant.", NAMES[index], &format!("SECRET_{index}"));
    }
    toml
}

/// Answers every command with the tenant that the backend is told of.
struct Echo;

impl Handler for Echo {
    fn call<'a>(&'a self, request: &'a Request) -> Pin<Box<dyn Future<Output = HandlerResult> + Send + 'a>> {
        let tenant = json!(request.tenant).to_string();
        Box::pin(async { Ok(BackendReply::Success(tenant.into())) })
    }
}

struct World {
    // Stops at its drop.
    gateway: Gateway,
    public: SocketAddr,
    admin: SocketAddr,
    // What the feeds poll, each tenant's below its name.
    source: HttpSource,
}

impl World {
    fn start() -> Self {
        let mut settings = reload::load(&toml()).gateway(10_000);
        let source = HttpSource::start();
        let feeds = [0, 1, 2].map(|index| feed(index, &source));
        settings.feeds.feeds.extend(feeds);
        // An action of its own for each tenant, beside one that all have.
        for index in [0, 1, 2] {
            for action in ["same.action".to_owned(), format!("only.{}", NAMES[index])] {
                let target = Target::InProcess {
                    name: "echo".into(),
                    handler: Arc::new(Echo),
                };
                let pattern = Pattern::parse(&action).expect("valid").in_tenant(tenant(index));
                settings.commands.routes.push(RouteSettings {
                    audit: true,
                    ..RouteSettings::new(pattern, target)
                });
            }
        }
        let gateway = Gateway::start(settings).expect("started");
        let public = gateway.addresses()[0].tcp().expect("a TCP listener");
        let admin = gateway.admin_address().tcp().expect("a TCP listener");
        Self {
            gateway,
            public,
            admin,
            source,
        }
    }

    fn client(&self, index: usize, user: &str) -> Client<TcpStream> {
        let target = format!("/{}?token={}", NAMES[index], token(index, user, "trader"));
        let mut client = Client::open(connect(self.public), &target);
        client.subscribe(&["*", "user.*", "grid.a.order"]);
        // The last values of its own tenant come first.
        client.send(r#"{"type":"ping","id":"begun"}"#);
        loop {
            let next = client.json();
            if next["type"] == "pong" {
                return client;
            }
            if next["channel"] == "grid.kept.lifecycle" {
                assert_eq!(next["data"], NAMES[index], "{next}");
            }
        }
    }

    fn admin_as(&self, bearer: &str, method: &str, target: &str, body: &str) -> Answer {
        request(
            self.admin,
            method,
            target,
            &format!("Authorization: Bearer {bearer}\r\n"),
            body,
        )
    }

    /// As the administrator of a tenant.
    fn admin(&self, index: usize, method: &str, target: &str, body: &str) -> Answer {
        self.admin_as(ADMIN_KEYS[index], method, target, body)
    }

    fn publish(&self, index: usize, channel: &str, data: &str) -> Value {
        let body = json!({ "channel": channel, "event": "e", "data": data, "id": "the same" });
        let answer = self.admin(index, "POST", "/api/publish", &body.to_string());
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }
}

/// The same feed in each tenant.
fn feed(index: usize, source: &HttpSource) -> FeedSettings {
    let channel: ChannelTemplate = "strategy.{name}.prices".parse().expect("a template");
    let url = format!("http://{}/{}/{{name}}", source.address(), NAMES[index]);
    FeedSettings {
        channel: channel.in_tenant(tenant(index)),
        event: "price_update".into(),
        source: SourceSettings::Http(url.parse().expect("a URL")),
        publish: PublishMode::ChangedRecords("code".into()),
        interval: Duration::from_millis(100),
        timeout: Duration::from_secs(5),
    }
}

fn tenant(index: usize) -> Tenant {
    Tenant::new(index).expect("few")
}

fn token(index: usize, user: &str, role: &str) -> String {
    let key = Key::hmac(Algorithm::Hs256, SECRETS[index].as_bytes(), false).expect("a good key");
    token_by(key, user, role)
}

fn token_by(key: Key, user: &str, role: &str) -> String {
    let grant = Grant {
        subject: user.into(),
        role: Some(role.into()),
        ttl_ms: 3_600_000,
        ..Grant::default()
    };
    mint(&grant, &KeySet::new(vec![key]), &auth::Settings::default(), unix_ms()).expect("a token")
}

fn request(address: SocketAddr, method: &str, target: &str, headers: &str, body: &str) -> Answer {
    let mut stream = connect(address);
    let length = body.len();
    let head = format!("{method} {target} HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: {length}\r\n\r\n");
    stream.write_all(format!("{head}{body}").as_bytes()).expect("sent");
    answer(&mut stream)
}

/// Checks that a client has nothing to read before the answer to a ping.
fn hears_nothing(client: &mut Client<TcpStream>, what: &str) {
    // An event may come by another shard.
    std::thread::sleep(SILENCE);
    client.send(r#"{"type":"ping","id":"silence"}"#);
    let next = client.json();
    assert_eq!(next["type"], "pong", "{what}: {next}");
}

fn data(client: &mut Client<TcpStream>) -> Value {
    client.json()["data"].clone()
}

type Way = (&'static str, fn(&World));

/// Each way in or out, with what it must not do.
const WAYS: &[Way] = &[
    ("publishing over HTTP", |world| {
        let mut clients = [0, 1, 2].map(|index| world.client(index, "1"));
        for index in [0, 1, 2] {
            // The channel and the id are the same, and nevertheless it is no duplicate.
            let receipt = world.publish(index, "grid.a.order", NAMES[index]);
            assert_eq!(
                (&receipt["published"], &receipt["duplicate"]),
                (&json!(1), &Value::Null),
                "{receipt}"
            );
        }
        for (index, client) in clients.iter_mut().enumerate() {
            assert_eq!(data(client), NAMES[index]);
            hears_nothing(client, NAMES[index]);
        }
    }),
    ("publishing by a client", |world| {
        let mut clients = [0, 1, 2].map(|index| world.client(index, "4"));
        clients[1].send(r#"{"type":"publish","channel":"grid.x","event":"e","data":"one"}"#);
        assert_eq!(data(&mut clients[1]), "one");
        for index in [0, 2] {
            hears_nothing(&mut clients[index], NAMES[index]);
        }
    }),
    ("a token of another tenant", |world| {
        for (at, of) in [(0, 1), (1, 0), (1, 2), (2, 1)] {
            let token = token(of, "4", "admin");
            let target = format!("/{}?token={token}", NAMES[at]);
            let headers = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                           Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
            let refused = request(world.public, "GET", &target, headers, "");
            assert_eq!(
                (refused.status, refused.code().as_str()),
                (401, "TOKEN_INVALID"),
                "{at} {of}"
            );
        }
        // Nor does one help on an open connection.
        let mut client = world.client(1, "2");
        client.send(&json!({ "type": "auth", "token": token(2, "2", "admin") }).to_string());
        let result = client.json();
        assert_eq!(
            (&result["type"], &result["success"]),
            (&json!("auth_result"), &json!(false)),
            "{result}"
        );
    }),
    ("last values, histories and recovery", |world| {
        let offsets =
            [0, 1, 2].map(|index| world.publish(index, "grid.kept.lifecycle", NAMES[index])["offset"].clone());
        for index in [0, 1, 2] {
            let target = format!("/{}?token={}", NAMES[index], token(index, "5", "trader"));
            let mut client = Client::open(connect(world.public), &target);
            client.send(r#"{"type":"history","channel":"grid.kept.lifecycle","id":1}"#);
            let page = client.json()["data"]["events"].clone();
            assert_eq!(
                (page.as_array().map(Vec::len), &page[0]["data"]),
                (Some(1), &json!(NAMES[index])),
                "{page}"
            );
            let epoch = world
                .admin(index, "GET", "/api/channels/grid.kept.lifecycle", "")
                .json()["epoch"]
                .clone();
            let recover = json!({ "grid.kept.lifecycle": { "epoch": epoch, "offset": 0 } });
            client.send(&json!({ "type": "subscribe", "channels": ["grid.kept.*"], "recover": recover }).to_string());
            let subscribed = client.json();
            assert_eq!(subscribed["type"], "subscribed", "{subscribed}");
            let event = client.json();
            assert_eq!(
                (&event["data"], &event["offset"]),
                (&json!(NAMES[index]), &offsets[index]),
                "{event}"
            );
            hears_nothing(&mut client, NAMES[index]);
        }
    }),
    ("deleting channels", |world| {
        for index in [0, 1, 2] {
            world.publish(index, "grid.doomed.lifecycle", NAMES[index]);
        }
        let mut clients = [0, 1, 2].map(|index| world.client(index, "10"));
        let deleted = world.admin(1, "DELETE", "/api/channels/grid.doomed.*", "");
        assert_eq!(deleted.json(), json!({ "deleted": 1 }), "{deleted:?}");
        assert_eq!(clients[1].json()["channel"], "grid.doomed.lifecycle");
        for (index, confirmed) in [1, 0, 1].into_iter().enumerate() {
            let answer = world.admin(index, "POST", "/api/keep_alive", r#"{"channels":["grid.doomed.*"]}"#);
            assert_eq!(answer.json(), json!({ "channels": confirmed }), "{answer:?}");
        }
        for index in [0, 2] {
            hears_nothing(&mut clients[index], NAMES[index]);
            let history = world.admin(index, "GET", "/api/channels/grid.doomed.lifecycle/history", "");
            assert_eq!(history.json()["events"][0]["data"], NAMES[index], "{history:?}");
        }
    }),
    ("the level of the log", |world| {
        for bearer in [ADMIN_KEYS[1].to_owned(), token(0, "boss", "admin")] {
            assert_eq!(world.admin_as(&bearer, "GET", "/api/log", "").status, 403, "{bearer}");
            assert_eq!(
                world.admin_as(&bearer, "PUT", "/api/log", r#"{"level":"off"}"#).status,
                403
            );
        }
    }),
    ("commands", |world| {
        for index in [0, 1, 2] {
            let mut client = world.client(index, "3");
            for (action, of) in [
                ("same.action", index),
                ("only.default", 0),
                ("only.one", 1),
                ("only.two", 2),
            ] {
                client.send(&json!({ "type": "command", "id": action, "action": action }).to_string());
                // The audit trail is on the tenant's own `system.log`, which this client hears as well.
                let response = loop {
                    let next = client.json();
                    if next["type"] == "response" {
                        break next;
                    }
                    assert_eq!(next["channel"], "system.log", "{next}");
                };
                let name = (index > 0).then(|| NAMES[index]);
                if of == index {
                    assert_eq!(
                        (&response["success"], &response["data"]),
                        (&json!(true), &json!(name)),
                        "{response}"
                    );
                } else {
                    assert_eq!(response["error"]["code"], "UNKNOWN_ACTION", "{response}");
                }
            }
        }
        // Nobody else's trail was heard.
        let mut quiet = world.client(2, "6");
        let mut busy = world.client(1, "6");
        busy.send(r#"{"type":"command","id":1,"action":"same.action"}"#);
        let heard = [busy.json(), busy.json()].map(|message| message["type"].clone());
        assert!(
            heard.contains(&json!("event")) && heard.contains(&json!("response")),
            "{heard:?}"
        );
        hears_nothing(&mut quiet, "the audit trail");
    }),
    ("keys of the admin API", |world| {
        for (bearer, own) in [
            (ADMIN_KEYS[1].to_owned(), 1),
            (ADMIN_KEYS[2].to_owned(), 2),
            (token(0, "boss", "admin"), 0),
            (token(1, "boss", "admin"), 1),
        ] {
            for (index, name) in NAMES.iter().enumerate() {
                let target = format!("/api/channels/grid.a?tenant={name}");
                let status = world.admin_as(&bearer, "GET", &target, "").status;
                assert_eq!(status, if index == own { 200 } else { 403 }, "{bearer} {name}");
            }
            assert_eq!(
                world
                    .admin_as(&bearer, "GET", "/api/channels/grid.a?tenant=none", "")
                    .status,
                403
            );
        }
        for name in NAMES {
            let target = format!("/api/channels/grid.a?tenant={name}");
            assert_eq!(world.admin_as(OPERATOR, "GET", &target, "").status, 200);
        }
        assert_eq!(
            world
                .admin_as(OPERATOR, "GET", "/api/channels/grid.a?tenant=none", "")
                .status,
            404
        );
        // A publisher with a token publishes to its own tenant.
        let mut clients = [0, 1, 2].map(|index| world.client(index, "7"));
        let body = r#"{"channel":"grid.t","event":"e","data":"by token"}"#;
        let bearer = token(2, "publisher", "trader");
        assert_eq!(world.admin_as(&bearer, "POST", "/api/publish", body).status, 200);
        assert_eq!(
            world.admin_as(&bearer, "POST", "/api/publish?tenant=one", body).status,
            403
        );
        assert_eq!(data(&mut clients[2]), "by token");
        // The operator names the tenant.
        assert_eq!(
            world.admin_as(OPERATOR, "POST", "/api/publish?tenant=one", body).status,
            200
        );
        assert_eq!(data(&mut clients[1]), "by token");
        for (index, client) in clients.iter_mut().enumerate() {
            hears_nothing(client, NAMES[index]);
        }
    }),
    ("limits per user", |world| {
        let _clients = [0, 1, 2].map(|index| [world.client(index, "9"), world.client(index, "9")]);
        let target = format!("/one?token={}", token(1, "9", "trader"));
        let headers = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
        assert_eq!(
            request(world.public, "GET", &target, headers, "").status,
            429,
            "two of each tenant"
        );
    }),
    ("metrics", |world| {
        let page = request(world.admin, "GET", "/metrics", "", "").body;
        for name in NAMES {
            for metric in [
                "connections",
                "subscriptions",
                "events_total",
                "deliveries_total",
                "refused_total",
            ] {
                let sample = format!("tickgate_tenant_{metric}{{tenant=\"{name}\"}} ");
                assert!(page.contains(&sample), "{sample}: {page}");
            }
        }
    }),
];

#[test]
fn nothing_crosses_from_one_tenant_to_another_by_any_way() {
    let world = World::start();
    for (way, check) in WAYS.iter().chain(administration::WAYS).chain(returning::WAYS) {
        println!("{way}");
        world.publish_health();
        check(&world);
    }
}

#[test]
fn a_silent_check_would_be_noticed() {
    // The planted fault: two clients of one tenant, of which one hears what the other must not.
    let world = World::start();
    world.publish_health();
    let (mut one, mut other) = (world.client(1, "a"), world.client(1, "b"));
    let is_heard = (0..20).any(|_| {
        one.send(r#"{"type":"publish","channel":"grid.x","event":"e","data":"1"}"#);
        catch_unwind(AssertUnwindSafe(|| hears_nothing(&mut other, "the other"))).is_err()
    });
    assert!(is_heard);
}
