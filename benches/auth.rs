//! The cost of verifying a token, by algorithm and from the cache, and the cost of a rate limit per message.
//!
//! `cargo bench --bench auth`
#![allow(missing_docs)]

#[path = "../src/auth/tests/sign.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "shared with the unit tests, which use more of it"
)]
mod sign;

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
// `sign` is also compiled inside the crate, where this module is `crate::auth`.
use tickgate::auth;
use tickgate::auth::verifier::{Settings, Verifier};
use tickgate::auth::{Algorithm, KeySet};
use tickgate::session::limits::TokenBucket;

const PAYLOAD: &str =
    r#"{"iss":"https://login.example","sub":"u42","role":"trader","iat":1703846000,"exp":1703850000}"#;
const NOW_MS: u64 = 1_703_846_400_000;

fn tokens(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("verify");
    let settings = auth::Settings::default();
    for algorithm in Algorithm::ALL {
        let (signer, key) = sign::Signer::generate(algorithm);
        let token = signer.token(&format!(r#"{{"typ":"JWT","alg":"{algorithm}"}}"#), PAYLOAD);
        let keys = KeySet::new(vec![key]);
        auth::verify(&token, &keys, &settings, NOW_MS).expect("a good token");
        group.bench_function(algorithm.as_str(), |bencher| {
            bencher.iter(|| auth::verify(black_box(&token), &keys, &settings, NOW_MS));
        });
        if algorithm == Algorithm::Rs256 {
            let verifier = Verifier::start(Settings::new(keys, settings.clone()), Vec::new()).expect("started");
            group.bench_function("cached", |bencher| {
                bencher.iter(|| verifier.verify(tickgate_protocol::channel::Tenant::DEFAULT, black_box(&token), NOW_MS))
            });
        }
    }
    group.finish();
}

fn limiter(criterion: &mut Criterion) {
    let (mut bucket, mut now_ms) = (TokenBucket::full(100, 0), 0);
    criterion.bench_function("token_bucket", |bencher| {
        bencher.iter(|| {
            now_ms += 10;
            bucket.take(black_box(100), now_ms)
        });
    });
}

criterion_group!(benches, tokens, limiter);
criterion_main!(benches);
