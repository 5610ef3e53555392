//! Keys over several gateways, on virtual time, with a broker in memory.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};

use super::keys::backend;
use super::*;
use crate::backend::commands::keys::Scope;
use crate::backend::commands::sharing::name;
use crate::broker::{Claimed, Doing, Held};
use crate::event::Refusal;
use tickgate_protocol::channel::Tenant;
use tickgate_protocol::message::ErrorCode;

/// The claims of a broker that can be cut off, and that can lose its confirmations.
#[derive(Debug, Default)]
pub(super) struct Fake {
    names: Mutex<HashMap<String, Held>>,
    versions: AtomicU64,
    is_down: AtomicBool,
    loses_confirmations: AtomicBool,
}

impl Fake {
    fn reach(&self) -> Result<(), Refusal> {
        (!self.is_down.load(SeqCst)).then_some(()).ok_or(Refusal::Unavailable)
    }

    fn put(&self, name: &str, text: Bytes) -> u64 {
        let version = self.versions.fetch_add(1, SeqCst) + 1;
        self.names.lock().insert(name.to_owned(), Held { version, text });
        version
    }
}

impl Claims for Fake {
    fn claim<'a>(&'a self, name: &'a str, text: Bytes) -> Doing<'a, Result<Claimed, Refusal>> {
        Box::pin(async move {
            self.reach()?;
            let before = self.names.lock().get(name).cloned();
            if let Some(held) = before {
                return Ok(Claimed::Before(held));
            }
            let version = self.put(name, text);
            if self.loses_confirmations.load(SeqCst) {
                return Err(Refusal::Unknown);
            }
            Ok(Claimed::Now(version))
        })
    }

    fn look<'a>(&'a self, name: &'a str) -> Doing<'a, Result<Option<Held>, Refusal>> {
        Box::pin(async move {
            self.reach()?;
            Ok(self.names.lock().get(name).cloned())
        })
    }

    fn replace<'a>(
        &'a self,
        name: &'a str,
        version: u64,
        text: Option<Bytes>,
    ) -> Doing<'a, Result<Option<u64>, Refusal>> {
        Box::pin(async move {
            self.reach()?;
            if self.names.lock().get(name).is_none_or(|held| held.version != version) {
                return Ok(None);
            }
            Ok(Some(match text {
                Some(text) => self.put(name, text),
                None => {
                    self.names.lock().remove(name);
                    version
                }
            }))
        })
    }
}

/// Two gateways with one broker, and one backend that counts its commands.
fn two(idempotent: bool) -> (Arc<Fake>, Arc<AtomicUsize>, Harness, Harness) {
    let (fake, calls) = (Arc::<Fake>::default(), Arc::<AtomicUsize>::default());
    let gateway = || {
        let settings = Settings {
            routes: vec![RouteSettings {
                idempotent,
                timeout: Duration::from_secs(2),
                ..route("a.*", backend(&calls))
            }],
            ..Settings::default()
        };
        Harness::sharing(Some(Arc::clone(&fake)), settings)
    };
    let (one, two) = (gateway(), gateway());
    (fake, calls, one, two)
}

fn code(outcome: &CommandOutcome) -> Option<ErrorCode> {
    match outcome {
        CommandOutcome::Refused { code, .. } => Some(*code),
        _ => None,
    }
}

fn success(number: usize) -> CommandOutcome {
    CommandOutcome::Success {
        data: number.to_string().into(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_command_is_carried_out_once_whichever_gateway_it_comes_to() {
    let (_, calls, mut one, mut two) = two(false);
    assert_eq!(one.ask_keyed("a.b", "k").await, success(0));
    assert_eq!(two.ask_keyed("a.b", "k").await, success(0));
    // The second one waits for the first.
    one.send_keyed(1, "u42", "a.b", "{}", "in-flight");
    tokio::time::sleep(Duration::from_millis(10)).await;
    let status = two.status("u42", "in-flight").await;
    assert_eq!(
        status,
        CommandOutcome::Success {
            data: r#"{"state":"running"}"#.into()
        }
    );
    assert_eq!(two.ask_keyed("a.b", "in-flight").await, success(1));
    assert_eq!(one.answers.recv().await.expect("an answer").2, success(1));
    assert_eq!(calls.load(SeqCst), 2);
    // Another command with the key, and another user with it.
    two.send_keyed(1, "u42", "a.b", "[]", "k");
    let (.., outcome) = two.answers.recv().await.expect("an answer");
    assert_eq!(code(&outcome), Some(ErrorCode::KeyReused));
    two.send_keyed(1, "u2", "a.b", "[]", "k");
    assert_eq!(two.answers.recv().await.expect("an answer").2, success(2));
    assert_eq!(
        code(&two.status("u42", "never-seen").await),
        Some(ErrorCode::UnknownKey)
    );
}

#[tokio::test(start_paused = true)]
async fn a_key_is_free_if_its_command_was_not_sent_and_forgotten_after_its_time() {
    let (fake, calls, mut one, mut two) = two(false);
    assert_eq!(
        code(&one.ask_keyed("a.unreachable", "k").await),
        Some(ErrorCode::BackendUnavailable)
    );
    assert!(fake.names.lock().is_empty());
    assert_eq!(
        code(&two.ask_keyed("a.unreachable", "k").await),
        Some(ErrorCode::BackendUnavailable)
    );
    assert_eq!(calls.load(SeqCst), 2);
    assert_eq!(one.ask_keyed("a.b", "later").await, success(2));
    tokio::time::sleep(Duration::from_secs(599)).await;
    assert_eq!(two.ask_keyed("a.b", "later").await, success(2));
    // The first gateway has forgotten it, and so have all.
    let (_, calls, mut one, mut two) = self::two(false);
    assert_eq!(one.ask_keyed("a.b", "k").await, success(0));
    tokio::time::sleep(Duration::from_secs(601)).await;
    assert_eq!(code(&two.status("u42", "k").await), Some(ErrorCode::UnknownKey));
    assert_eq!(two.ask_keyed("a.b", "k").await, success(1));
    assert_eq!(calls.load(SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn the_outcome_of_a_lost_gateway_is_unknown_and_only_idempotent_routes_repeat() {
    for idempotent in [false, true] {
        let (fake, calls, mut one, mut two) = two(idempotent);
        one.send_keyed(1, "u42", "a.b", "{}", "k");
        tokio::time::sleep(Duration::from_millis(10)).await;
        // From here on nothing of the first gateway arrives.
        fake.is_down.store(true, SeqCst);
        assert_eq!(one.answers.recv().await.expect("an answer").2, success(0));
        fake.is_down.store(false, SeqCst);
        let waited = two.ask_keyed("a.b", "k").await;
        assert_eq!(code(&waited), Some(ErrorCode::Overloaded), "it may be in flight still");
        tokio::time::sleep(Duration::from_secs(15)).await;
        let known = two.ask_keyed("a.b", "k").await;
        if idempotent {
            assert_eq!((known, calls.load(SeqCst)), (success(1), 2));
        } else {
            assert_eq!((code(&known), calls.load(SeqCst)), (Some(ErrorCode::Unknown), 1));
            assert_eq!(code(&two.ask_keyed("a.b", "k").await), Some(ErrorCode::Unknown));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_claim_nothing_is_carried_out_and_nothing_is_said_of_an_earlier_command() {
    let (fake, calls, mut one, _) = two(false);
    fake.is_down.store(true, SeqCst);
    for _ in 0..2 {
        assert_eq!(code(&one.ask_keyed("a.b", "k").await), Some(ErrorCode::Overloaded));
        assert_eq!(code(&one.status("u42", "k").await), Some(ErrorCode::Overloaded));
    }
    assert_eq!(calls.load(SeqCst), 0);
    // A command without a key needs no claim.
    assert_eq!(one.ask("a.b").await, success(0));
    fake.is_down.store(false, SeqCst);
    assert_eq!(one.ask_keyed("a.b", "k").await, success(1));
    // A claim whose confirmation was lost is found again.
    fake.loses_confirmations.store(true, SeqCst);
    assert_eq!(one.ask_keyed("a.b", "unconfirmed").await, success(2));
}

#[test]
fn a_key_has_one_name_at_the_broker_for_each_tenant_user_and_key() {
    let of = |tenants: [&str; 2], number: usize, user: &str, key: &str| {
        let Command { identity, .. } = command(1, "a.b", "{}");
        let mut identity = Arc::into_inner(identity).expect("not shared");
        identity.tenant = Tenant::new(number).expect("in range");
        identity.user = Some(user.into());
        let scope = Scope::of(&identity).expect("a user");
        let tenants = TenantNames::new(tenants.map(Into::into).into());
        name(&scope, &CommandKey::parse(key).expect("a key"), &tenants)
    };
    let acme = of(["acme", "beta"], 1, "u1", "k");
    // On another gateway the tenant has another number.
    assert_eq!(of(["beta", "acme"], 2, "u1", "k"), acme);
    for (number, user, key) in [(0, "u1", "k"), (2, "u1", "k"), (1, "u2", "k"), (1, "u1", "k2")] {
        assert_ne!(of(["acme", "beta"], number, user, key), acme, "{number} {user} {key}");
    }
}
