//! Patterns: matching a channel, covering and intersecting another pattern, and a permission check.
//!
//! `cargo bench --bench match_cover`
#![allow(missing_docs)]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use tickgate::auth::{Identity, Policy};
use tickgate_protocol::channel::{Channel, Pattern};

fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).expect("valid")
}

fn matches(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("matches");
    let channel = "grid.grid_abc123.status";
    for text in [
        "grid.grid_abc123.status",
        "grid.grid_abc124.status",
        "grid.*",
        "grid.*.status",
        "*.*.status",
        "market.*",
    ] {
        let pattern = pattern(text);
        group.bench_function(text, |bencher| {
            bencher.iter(|| pattern.matches_name(black_box(channel)))
        });
    }
    group.finish();
}

fn pairs(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pairs");
    for (wide, narrow) in [
        ("grid.*", "grid.abc.*"),
        ("*.*.status", "grid.*.status"),
        ("grid.abc.*", "grid.def.*"),
    ] {
        let (a, b) = (pattern(wide), pattern(narrow));
        group.bench_function(format!("{wide} covers {narrow}"), |bencher| {
            bencher.iter(|| a.covers(black_box(&b)))
        });
        group.bench_function(format!("{wide} intersects {narrow}"), |bencher| {
            bencher.iter(|| a.intersects(black_box(&b)))
        });
    }
    group.finish();
}

fn names(criterion: &mut Criterion) {
    criterion.bench_function("parse", |bencher| {
        bencher.iter(|| Channel::parse(black_box("grid.grid_abc123.status")))
    });
    let trader = Identity {
        tenant: tickgate_protocol::channel::Tenant::DEFAULT,
        user: Some(Arc::from("42")),
        ..Identity::anonymous(Policy::default().of_role(Some("trader")))
    };
    for text in ["grid.grid_abc123.*", "user.42.*", "user.43.*"] {
        let asked = pattern(text);
        criterion.bench_function(&format!("trader may subscribe {text}"), |bencher| {
            bencher.iter(|| trader.may_subscribe(black_box(&asked)));
        });
    }
}

criterion_group!(benches, matches, pairs, names);
criterion_main!(benches);
