//! A simulation of keys on virtual time: clients of three users send commands with few keys over connections that come and
//! go, backends answer late, refuse, fail or vanish, and the gateway drains and starts again from its snapshot. A model that
//! sees only what backends did and what clients were told checks the promises.
//!
//! `TICKGATE_SEEDS` and `TICKGATE_SEED` work as in the simulation.

use std::collections::HashMap;
use std::fmt::Write as _;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::backend::commands::keys;
use tickgate_protocol::message::ErrorCode;

const SEEDS: u64 = 60;
const STEPS: usize = 150;

/// A planted fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// The router does not see the keys.
    LosesKeys,
    /// The keys are not restored after a drain.
    ForgetsAtRestart,
    /// Users share their keys.
    MixesUsers,
}

/// What a backend does with a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Deed {
    /// It was carried out, and the client may be told this number.
    Done(u32),
    /// It was carried out, and nobody will tell.
    Silent,
    /// It never arrived.
    Unreached,
}

/// What backends did, by user and params (which name the user's key).
type Deeds = Arc<Mutex<HashMap<(String, String), Vec<Deed>>>>;

struct Storm {
    rng: StdRng,
    fault: Fault,
    deeds: Deeds,
    harness: Harness,
    // By request: user and key.
    sent: HashMap<u32, (String, String)>,
    told: HashMap<(String, String), Vec<CommandOutcome>>,
    answers: HashMap<u32, u32>,
    story: String,
}

fn routes(deeds: &Deeds, seed: u64) -> Vec<RouteSettings> {
    let rng = Arc::new(Mutex::new(StdRng::seed_from_u64(seed)));
    let deeds = Arc::clone(deeds);
    let target = in_process("storm", move |request: Request| {
        let (deeds, rng) = (Arc::clone(&deeds), Arc::clone(&rng));
        Box::pin(async move {
            let (ms, how, number) = {
                let mut rng = rng.lock();
                (rng.random_range(0..3000), rng.random_range(0..10), rng.random())
            };
            tokio::time::sleep(Duration::from_millis(ms / 2)).await;
            let user = request.user.as_deref().unwrap_or_default().to_owned();
            let what = (user, String::from_utf8_lossy(&request.params).into_owned());
            let (deed, result) = match how {
                0..=5 => (
                    Deed::Done(number),
                    Ok(BackendReply::Success(Bytes::from(number.to_string()))),
                ),
                6 => (Deed::Unreached, Err(Failure::Unreachable(String::new()))),
                7 => (Deed::Silent, Err(Failure::Lost(String::new()))),
                8 => (Deed::Silent, Err(Failure::Status(502))),
                _ => (Deed::Silent, Err(Failure::BadReply("planted".into()))),
            };
            deeds.lock().entry(what).or_default().push(deed);
            tokio::time::sleep(Duration::from_millis(ms / 2)).await;
            result
        })
    });
    vec![RouteSettings {
        // Some commands end while the backend works on them.
        timeout: Duration::from_millis(2500),
        ..route("*", target)
    }]
}

fn settings(deeds: &Deeds, seed: u64) -> Settings {
    Settings {
        routes: routes(deeds, seed),
        keys: keys::Settings {
            keys_max: 60,
            ..keys::Settings::default()
        },
        ..Settings::default()
    }
}

impl Storm {
    fn new(seed: u64, fault: Fault) -> Self {
        let deeds = Deeds::default();
        Self {
            rng: StdRng::seed_from_u64(seed),
            fault,
            harness: Harness::new(settings(&deeds, seed)),
            deeds,
            sent: HashMap::new(),
            told: HashMap::new(),
            answers: HashMap::new(),
            story: String::new(),
        }
    }

    async fn run(mut self) -> Result<(), String> {
        for _ in 0..STEPS {
            match self.rng.random_range(0..20) {
                0..=11 => self.send(),
                12..=18 => {
                    let ms = self.rng.random_range(0..1500);
                    tokio::time::sleep(Duration::from_millis(ms)).await;
                }
                _ => self.restart().await,
            }
            self.collect();
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        self.collect();
        self.check().map_err(|wrong| format!("{wrong}\n{}", self.story))
    }

    fn send(&mut self) {
        let user = format!("u{}", self.rng.random_range(0..3));
        let key = format!("k{}", self.rng.random_range(0..8));
        let slot = self.rng.random_range(0..5);
        // Each key of a user stands for one command.
        let params = format!("\"{key}\"");
        let sent = match self.fault {
            Fault::LosesKeys => {
                self.harness.requests += 1;
                let command = Command {
                    identity: identity(&user),
                    ..command(self.harness.requests, "a.b", &params)
                };
                let source = CommandSource {
                    connection: connection(slot),
                    request: self.harness.requests,
                    client_id: "c",
                    address: None,
                };
                self.harness.router.route(source, command);
                self.harness.requests
            }
            Fault::MixesUsers => self.harness.send_keyed(slot, "u0", "a.b", &params, &key),
            Fault::None | Fault::ForgetsAtRestart => self.harness.send_keyed(slot, &user, "a.b", &params, &key),
        };
        let _ = writeln!(self.story, "{sent}: {user} sends {key}");
        self.sent.insert(sent, (user, params));
    }

    async fn restart(&mut self) {
        let _ = writeln!(self.story, "restart");
        self.harness
            .router
            .drain(Duration::from_millis(self.rng.random_range(0..1000)))
            .await;
        // The runtime runs what was given up.
        tokio::time::sleep(Duration::from_millis(1)).await;
        self.collect();
        let exported = self.harness.router.export_keys();
        let requests = self.harness.requests;
        self.harness = Harness::new(settings(&self.deeds, self.rng.random()));
        self.harness.requests = requests;
        if self.fault != Fault::ForgetsAtRestart {
            assert_eq!(self.harness.router.restore_keys(exported), 0);
        }
    }

    fn collect(&mut self) {
        while let Ok((_, request, outcome)) = self.harness.answers.try_recv() {
            let _ = writeln!(self.story, "{request} gets {outcome:?}");
            *self.answers.entry(request).or_default() += 1;
            self.told.entry(self.sent[&request].clone()).or_default().push(outcome);
        }
    }

    fn check(&self) -> Result<(), String> {
        for request in self.sent.keys() {
            let count = self.answers.get(request).copied().unwrap_or(0);
            if count != 1 {
                return Err(format!("{request} has {count} answers"));
            }
        }
        let deeds = self.deeds.lock();
        for (what, told) in &self.told {
            let none = Vec::new();
            let done: Vec<Deed> = deeds
                .get(what)
                .unwrap_or(&none)
                .iter()
                .copied()
                .filter(|deed| *deed != Deed::Unreached)
                .collect();
            if done.len() > 1 {
                return Err(format!("{what:?} was carried out {} times", done.len()));
            }
            let mut known: Vec<&CommandOutcome> = Vec::new();
            for outcome in told {
                match outcome {
                    // It was surely not carried out: the backend was not reached, or the table of keys is full.
                    CommandOutcome::Refused {
                        code: ErrorCode::BackendUnavailable | ErrorCode::RateLimited | ErrorCode::Overloaded,
                        ..
                    } => {}
                    outcome => known.push(outcome),
                }
            }
            known.dedup();
            match known[..] {
                [] if done.is_empty() => {}
                [CommandOutcome::Success { data }] => {
                    let number = String::from_utf8_lossy(data).parse().map(Deed::Done);
                    if number.ok() != done.first().copied() {
                        return Err(format!("{what:?} was told {data:?} after {done:?}"));
                    }
                }
                // Given up before the backend did it, or after it.
                [
                    CommandOutcome::Refused {
                        code: ErrorCode::Unknown,
                        ..
                    },
                ] => {}
                _ => return Err(format!("{what:?} was told {known:?} after {done:?}")),
            }
        }
        Ok(())
    }
}

fn identity(user: &str) -> Arc<Identity> {
    let Command { identity, .. } = command(1, "a.b", "{}");
    let mut identity = Arc::into_inner(identity).expect("not shared");
    identity.user = Some(user.into());
    Arc::new(identity)
}

fn run(seed: u64, fault: Fault) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let result = runtime.block_on(async { Storm::new(seed, fault).run().await });
    result.map_err(|wrong| format!("TICKGATE_SEED={seed}: {wrong}"))
}

fn seeds() -> std::ops::Range<u64> {
    let variable = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match variable("TICKGATE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("TICKGATE_SEEDS").unwrap_or(SEEDS),
    }
}

#[test]
fn commands_with_a_key_are_carried_out_once_in_a_storm() {
    for seed in seeds() {
        run(seed, Fault::None).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
}

#[test]
fn planted_faults_of_keys_are_found() {
    for fault in [Fault::LosesKeys, Fault::ForgetsAtRestart, Fault::MixesUsers] {
        assert!((0..20).any(|seed| run(seed, fault).is_err()), "{fault:?} is not found");
    }
}
