//! Random variations of the inputs of a corpus. They do not follow coverage, but need no nightly Rust and run in every test run.
//!
//! Invariant: the same corpus and seed give the same input.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// The length limit of inputs, as in `fuzz/run.sh`.
const BYTES_MAX: usize = 4096;

/// Bytes that often have a meaning: separators, quotes, ends of ranges.
const SPECIAL: &[u8] = b"\x00\x01\x1e\x7e\x7f\x80\xc3\xed\xf0\xff \n\"\\/,.:;*-?=[]{}09bcu";

/// One input of a corpus with one to four changes.
pub fn mutated(corpus: &[Vec<u8>], index: usize, seed: u64) -> Vec<u8> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut input = corpus[index].clone();
    for _ in 0..rng.random_range(1..=4) {
        change(&mut input, corpus, &mut rng);
    }
    input.truncate(BYTES_MAX);
    input
}

fn change(input: &mut Vec<u8>, corpus: &[Vec<u8>], rng: &mut SmallRng) {
    let at = rng.random_range(0..=input.len());
    let end = input.len().min(at + rng.random_range(1..=8));
    match rng.random_range(0..7) {
        0 if at < end => input[at] ^= 1 << rng.random_range(0..8),
        1 if at < end => input[at] = rng.random(),
        2 if at < end => input[at] = SPECIAL[rng.random_range(0..SPECIAL.len())],
        3 => {
            input.drain(at..end);
        }
        4 => {
            let again = input[at..end].repeat(rng.random_range(1..=16));
            input.splice(at..at, again);
        }
        5 => {
            let other = &corpus[rng.random_range(0..corpus.len())];
            input.truncate(at);
            input.extend_from_slice(&other[rng.random_range(0..=other.len())..]);
        }
        _ => input.insert(at, SPECIAL[rng.random_range(0..SPECIAL.len())]),
    }
}
