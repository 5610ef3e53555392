//! Names that gateways claim, and the keys of commands that stand behind them.

use std::net::TcpStream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_nats::jetstream;
use bytes::Bytes;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tickgate::backend::commands::{BackendReply, Handler, HandlerResult, Request, RouteSettings, Target};
use tickgate::broker::{Claimed, Claims, Held};
use tickgate::event::Refusal;
use tickgate_protocol::channel::Pattern;
use tokio::sync::Semaphore;

use crate::gateway::{Client, Running};
use crate::nats_server::Nats;
use crate::node::{Node, until};
use crate::redis_server::Redis;
use crate::requests::start;
use crate::world::World;

impl Node {
    fn claims(&self) -> &dyn Claims {
        self.broker.claims().expect("the broker has claims")
    }

    pub(crate) fn claim(&self, name: &str, text: impl Into<Bytes>) -> Result<Claimed, Refusal> {
        self.wait(self.claims().claim(name, text.into()))
    }

    fn look(&self, name: &str) -> Option<Held> {
        self.wait(self.claims().look(name)).expect("reached")
    }

    fn replace(&self, name: &str, version: u64, text: Option<&'static str>) -> Option<u64> {
        let text = text.map(Into::into);
        self.wait(self.claims().replace(name, version, text)).expect("reached")
    }
}

#[test]
pub(crate) fn a_name_is_claimed_once_and_changed_by_whoever_knows_its_version() {
    World::each(|name, world| {
        if !world.is_shared() {
            assert!(world.nodes[0].broker.claims().is_none(), "{name}: it stands alone");
            return;
        }
        let [one, two, three] = &world.nodes[..] else {
            panic!("three gateways");
        };
        let Ok(Claimed::Now(first)) = one.claim("k", "of one") else {
            panic!("{name}: it was free");
        };
        let held = |version, text: &'static str| Held {
            version,
            text: text.into(),
        };
        assert_eq!(two.claim("k", "of two"), Ok(Claimed::Before(held(first, "of one"))));
        assert_eq!(three.look("k"), Some(held(first, "of one")));
        let second = two.replace("k", first, Some("changed")).expect("that version");
        assert_ne!(second, first);
        // The first version is not there any more.
        assert_eq!(one.replace("k", first, Some("too late")), None);
        assert_eq!(one.replace("k", first, None), None);
        assert_eq!(one.look("k"), Some(held(second, "changed")));
        // No text is also a text.
        let third = two.replace("k", second, Some("")).expect("that version");
        assert_eq!(one.look("k"), Some(held(third, "")));
        assert_eq!(three.replace("k", third, None), Some(third));
        assert_eq!(one.look("k"), None);
        // It is free again. Of three that claim it at once, one has it.
        for round in 0..5 {
            let name = format!("at-once-{round}");
            let claims = world.nodes.iter().map(|node| node.claims().claim(&name, "mine".into()));
            let claims = one.wait(join_all(claims));
            let own = claims.iter().filter(|claimed| matches!(claimed, Ok(Claimed::Now(_))));
            assert_eq!(own.count(), 1, "{claims:?}");
        }
    });
}

/// Changes the stream with the keys at a server of NATS.
fn change_stream(server: &Nats, change: impl FnOnce(&mut jetstream::stream::Config)) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let client = async_nats::connect(server.url()).await.expect("connected");
        let context = jetstream::new(client);
        let mut stream = context.get_stream("suite_one_KEYS").await.expect("the keys");
        let mut config = stream.info().await.expect("its state").config.clone();
        change(&mut config);
        context.update_stream(config).await.expect("changed");
    });
}

#[test]
fn a_full_table_refuses_new_claims_and_forgets_none() {
    World::each(|name, world| {
        let Some([one, two]) = world.nodes.get(..2) else { return };
        assert!(matches!(one.claim("first", "here"), Ok(Claimed::Now(_))), "{name}");
        match (&world.server, &world.redis) {
            (Some(server), _) => change_stream(server, |config| config.max_bytes = 256),
            (_, Some(server)) => server.run(&["HSET", "{suite.one}:claims", ":bytes", &(256 << 20).to_string()]),
            _ => unreachable!("it is shared"),
        }
        let outcome = two.claim("second", "x".repeat(300));
        assert_eq!(outcome, Err(Refusal::Rejected), "{name}");
        assert_eq!(one.look("second"), None);
        let Ok(Claimed::Before(held)) = two.claim("first", "again") else {
            panic!("{name}: it is not forgotten");
        };
        // What is given up makes room.
        assert_eq!(one.replace("first", held.version, None), Some(held.version));
        if let Some(server) = &world.redis {
            let counted = "first".len() + format!("{}\nhere", held.version).len() + 64;
            let left = server.ask(&["HINCRBY", "{suite.one}:claims", ":bytes", "0"]);
            assert_eq!(left, format!(":{}", (256 << 20) - counted));
        }
    });
}

#[test]
fn a_claim_that_nobody_changes_is_forgotten() {
    World::each(|name, world| {
        let Some([one, two]) = world.nodes.get(..2) else { return };
        assert!(matches!(one.claim("old", "text"), Ok(Claimed::Now(_))), "{name}");
        match (&world.server, &world.redis) {
            (Some(server), _) => {
                change_stream(server, |config| config.max_age = std::time::Duration::from_secs(1));
                until("the end of the claim", || two.look("old").is_none());
            }
            (_, Some(server)) => {
                // Changed last when the time began.
                server.run(&["ZADD", "{suite.one}:claims_changed", "XX", "0", "old"]);
                assert!(matches!(two.claim("new", "text"), Ok(Claimed::Now(_))));
                assert_eq!(two.look("old"), None);
                assert!(two.look("new").is_some());
            }
            _ => unreachable!("it is shared"),
        }
        assert!(matches!(two.claim("old", "again"), Ok(Claimed::Now(_))), "{name}");
    });
}

/// A backend that counts what it carries out, each only when the test allows it.
struct Counting {
    carried_out: Arc<AtomicU64>,
    allowed: Arc<Semaphore>,
}

impl Handler for Counting {
    fn call<'a>(&'a self, _: &'a Request) -> Pin<Box<dyn Future<Output = HandlerResult> + Send + 'a>> {
        Box::pin(async {
            let number = 1 + self.carried_out.fetch_add(1, Ordering::SeqCst);
            self.allowed.acquire().await.expect("open").forget();
            Ok(BackendReply::Success(number.to_string().into()))
        })
    }
}

#[test]
fn a_command_with_a_key_is_carried_out_once_by_gateways_over_nats() {
    let server = Nats::start();
    check_commands(&server.url());
}

#[test]
fn a_command_with_a_key_is_carried_out_once_by_gateways_over_redis() {
    let server = Redis::start();
    check_commands(&server.address());
}

fn check_commands(url: &str) {
    let (carried_out, allowed) = (Arc::<AtomicU64>::default(), Arc::new(Semaphore::new(0)));
    let share = |node: &str| {
        let handler = Arc::new(Counting {
            carried_out: Arc::clone(&carried_out),
            allowed: Arc::clone(&allowed),
        });
        let target = Target::InProcess {
            name: "counting".into(),
            handler,
        };
        let pattern = Pattern::parse("grid.*").expect("valid");
        start(url.to_owned(), node, |settings| {
            settings.commands.routes = vec![RouteSettings::new(pattern, target)];
        })
    };
    let (one, two) = (share("one"), share("two"));
    let client = |running: &Running| running.client(&running.trader("u1"));
    let (mut first, mut second) = (client(&one), client(&two));
    let send = |client: &mut Client<TcpStream>, id: u32, key: &str| {
        client.send(&format!(
            r#"{{"type":"command","id":{id},"action":"grid.start","params":{{}},"key":"{key}"}}"#
        ));
    };
    let status = |client: &mut Client<TcpStream>, key: &str| {
        client.send(&format!(r#"{{"type":"command_status","id":9,"key":"{key}"}}"#));
        client.json()
    };
    // The second one waits for the first, which is in flight at the other gateway.
    send(&mut first, 1, "k");
    until("the first one", || carried_out.load(Ordering::SeqCst) == 1);
    assert_eq!(status(&mut second, "k")["data"]["state"], "running");
    send(&mut second, 2, "k");
    allowed.add_permits(2);
    assert_eq!(first.json()["data"], json!(1));
    assert_eq!(second.json()["data"], json!(1));
    // Its outcome is read at both.
    for client in [&mut first, &mut second] {
        assert_eq!(status(client, "k")["data"]["response"]["data"], json!(1));
        send(client, 3, "k");
        assert_eq!(client.json()["data"], json!(1));
    }
    assert_eq!(carried_out.load(Ordering::SeqCst), 1);
    // Another key is another command, and another user's key is another one.
    send(&mut second, 4, "l");
    assert_eq!(second.json()["data"], json!(2));
    allowed.add_permits(1);
    let mut other = two.client(&two.trader("u2"));
    send(&mut other, 5, "k");
    assert_eq!(other.json()["data"], json!(3));
    let unknown: Value = status(&mut first, "never-seen");
    assert_eq!(unknown["error"]["code"], "UNKNOWN_KEY", "{unknown}");
}
