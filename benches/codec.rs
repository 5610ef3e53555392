//! The codec alone: frames per second through the decoder and out of the encoder.
//!
//! `cargo bench --bench codec`. Each decoding iteration fills one 16 KiB read buffer with frames anew (the decoder
//! unmasks in place), so the figures include one copy of the bytes, as a `read` would make it.
#![allow(missing_docs)]

#[path = "../tests/support/frames.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests, which use more of it")]
mod frames;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use frames::{BINARY, END, PING, TEXT, TEXT_BEGIN, frame};
use std::hint::black_box;
use tickgate::wire::{Decoder, Inflater, deflate, encode};

const READ_BYTES: usize = 16 * 1024;

/// As many copies of `message` as fit into one read, and how many those are.
fn full_read(message: &[u8]) -> (Vec<u8>, u64) {
    let count = READ_BYTES / message.len();
    (message.repeat(count), count as u64)
}

fn decode_all(decoder: &mut Decoder, inflater: &mut Inflater, scratch: &mut [u8]) -> u64 {
    let (mut count, mut position) = (0, 0);
    while let Some(message) = decoder.next(scratch, &mut position, inflater).expect("valid frames") {
        black_box(message);
        count += 1;
    }
    count
}

fn decode(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decode");
    let text = |bytes: usize| "x".repeat(bytes).into_bytes();
    let euro = "\u{20ac}".repeat(80).into_bytes();
    let cases = [
        ("text_64", frame(TEXT, &text(64))),
        ("text_239", frame(TEXT, &text(239))),
        ("text_240_not_ascii", frame(TEXT, &euro)),
        ("binary_4096", frame(BINARY, &text(4096))),
        ("ping_8", frame(PING, &[1; 8])),
        (
            "text_239_in_two_fragments",
            [frame(TEXT_BEGIN, &text(120)), frame(END, &text(119))].concat(),
        ),
    ];
    for (name, message) in cases {
        let (read, count) = full_read(&message);
        group.throughput(Throughput::Elements(count));
        let mut scratch = read.clone();
        let mut decoder = Decoder::new(64 * 1024);
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                scratch.copy_from_slice(&read);
                assert_eq!(decode_all(&mut decoder, &mut Inflater::default(), &mut scratch), count);
            });
        });
    }
    cut_by_reads(&mut group);
    group.finish();
}

/// Frames that straddle reads: what the copy into the partial costs.
fn cut_by_reads(group: &mut criterion::BenchmarkGroup<'_, criterion::measurement::WallTime>) {
    let (read, count) = full_read(&frame(TEXT, &[b'x'; 239]));
    group.throughput(Throughput::Elements(count));
    let mut scratch = read.clone();
    let mut decoder = Decoder::new(64 * 1024);
    group.bench_function("text_239_cut_by_every_read", |bencher| {
        bencher.iter(|| {
            scratch.copy_from_slice(&read);
            let decoded: u64 = scratch
                .chunks_mut(200)
                .map(|chunk| decode_all(&mut decoder, &mut Inflater::default(), chunk))
                .sum();
            assert_eq!(decoded, count);
        });
    });
}

fn encode_frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    let mut out = Vec::with_capacity(1024);
    let payload = "x".repeat(239);
    group.throughput(Throughput::Elements(1));
    group.bench_function("text_239", |bencher| {
        bencher.iter(|| {
            out.clear();
            encode::text(&mut out, black_box(&payload));
            black_box(out.as_slice());
        });
    });
    group.bench_function("text_239_begin_finish", |bencher| {
        bencher.iter(|| {
            out.clear();
            let begun = encode::begin(&mut out);
            out.extend_from_slice(black_box(payload.as_bytes()));
            black_box(encode::finish(&mut out, begun, encode::Kind::Text));
        });
    });
    group.finish();
}

criterion_group!(benches, decode, encode_frames);
criterion_main!(benches);
