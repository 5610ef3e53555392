//! The frame codec: frames per second through the decoder and the encoder.
//!
//! `cargo bench --bench codec`. The decoder unmasks in place, so each iteration copies the input into the read buffer of
//! 16 KiB again. The results include this copy, which a `read` would make too.
#![allow(missing_docs)]

#[path = "../tests/support/frames.rs"]
#[allow(dead_code, unreachable_pub, reason = "shared with the tests, which use more of it")]
mod frames;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use frames::{BINARY, END, PING, TEXT, TEXT_BEGIN, frame};
use std::hint::black_box;
use tickgate_protocol::wire::{Decoder, Inflater, deflate, encode};

const READ_BYTES: usize = 16 * 1024;

/// As many copies of `message` as fit into one read, and their number.
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

/// Decodes frames that continue in the next read, which the decoder has to copy.
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

/// Events of a trading platform: an order, the status of a grid, an order book of 50 levels, the prices of 40 stocks.
fn events() -> [(&'static str, String); 4] {
    let status = r#"{"type":"event","channel":"grid.grid_abc123.status","event":"update","timestamp":1703836800000,"data":{"id":"grid_abc123","current_price":94123.25,"position":0.0153,"active_buy_orders":[93900.5,93800.25,93700,93600.75],"active_sell_orders":[94200.5,94300.25,94400,94500.75],"realized_pnl":123.456,"unrealized_pnl":-1.25}}"#;
    let order = r#"{"type":"event","channel":"grid.grid_abc123.order","event":"filled","timestamp":1703836800000,"data":{"grid_id":"grid_abc123","level":2,"side":"buy","price":94000,"amount":0.001,"position_after":0.003,"client_order_id":"7c9e6679-7425-40de-944b-e07fc1f90ae7"}}"#;
    // Pseudo-random digits with a fixed seed.
    let mut state = 12_345_u64;
    let mut digits = move |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % below
    };
    let levels: Vec<_> = (0..50)
        .map(|level| {
            format!(
                "[{}.{:02},{}.{:03}]",
                94_000 - level,
                digits(100),
                digits(10),
                digits(1000)
            )
        })
        .collect();
    let book = format!(
        r#"{{"type":"orderbook_update","channel":"market.BTC/USDT.orderbook","data":{{"bids":[{}]}}}}"#,
        levels.join(",")
    );
    let stocks: Vec<_> = (0..40)
        .map(|number| {
            format!(
                r#"{{"code":"{}","name":"Company {number}","price":{}.{:02},"change_percent":{}.{:02},"volume":{}}}"#,
                600_000 + digits(9999),
                digits(2000),
                digits(100),
                digits(9),
                digits(100),
                digits(99_999_999)
            )
        })
        .collect();
    let stocks = format!(r#"{{"type":"price_update","data":[{}],"count":40}}"#, stocks.join(","));
    [
        ("order", order.to_owned()),
        ("status", status.to_owned()),
        ("book", book),
        ("stocks", stocks),
    ]
}

/// Compresses an event, which is done once per broadcast, and decompresses a client's message. Prints the sizes.
fn deflate_messages(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("deflate");
    for (name, text) in events() {
        let mut plain = Vec::new();
        encode::text(&mut plain, &text);
        let twin = deflate::frame(&plain, 0).expect("shorter");
        println!("deflate/{name}: {} bytes plain, {} compressed", plain.len(), twin.len());
        group.throughput(Throughput::Bytes(plain.len() as u64));
        group.bench_function(format!("compress_{name}"), |bencher| {
            bencher.iter(|| deflate::frame(black_box(&plain), 0));
        });
        let from_client = frame(0xc1, &twin[twin.len() - encode::payload_bytes(&twin)..]);
        let (mut decoder, mut inflater) = (Decoder::new(64 * 1024).with_deflate(), Inflater::default());
        let mut scratch = from_client.clone();
        group.bench_function(format!("inflate_{name}"), |bencher| {
            bencher.iter(|| {
                scratch.copy_from_slice(&from_client);
                assert_eq!(decode_all(&mut decoder, &mut inflater, &mut scratch), 1);
            });
        });
    }
    group.finish();
}

/// Unmasks payloads in unaligned buffers.
///
/// A safe loop over blocks of 64 bytes took up to 20 % longer between 8 and 1000 bytes, and the same time above.
fn unmask(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("unmask");
    for bytes in [16, 64, 239, 4096, 16_384] {
        let mut buffer = vec![0x5a; bytes + 1];
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(format!("fastwebsockets_{bytes}"), |bencher| {
            bencher.iter(|| fastwebsockets::unmask(black_box(&mut buffer[1..]), [1, 2, 3, 4]));
        });
    }
    group.finish();
}

/// Validates UTF-8: a complete message (`basic`), a part that may end inside a character (`compat`), and without SIMD.
fn utf8(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("utf8");
    for (name, text) in [("ascii", "x".repeat(240)), ("euro", "\u{20ac}".repeat(80))] {
        let bytes = text.as_bytes();
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(format!("{name}_simdutf8_basic"), |bencher| {
            bencher.iter(|| simdutf8::basic::from_utf8(black_box(bytes)).is_ok());
        });
        group.bench_function(format!("{name}_simdutf8_compat"), |bencher| {
            bencher.iter(|| simdutf8::compat::from_utf8(black_box(bytes)).is_ok());
        });
        group.bench_function(format!("{name}_std"), |bencher| {
            bencher.iter(|| std::str::from_utf8(black_box(bytes)).is_ok());
        });
    }
    group.finish();
}

criterion_group!(benches, decode, encode_frames, deflate_messages, unmask, utf8);
criterion_main!(benches);
