//! A fault that fuzzing must find. If this target ever passes, the fuzzer is broken and the other targets prove nothing.

/// Panics on a word that a fuzzer can find only by coverage.
pub fn check_input(data: &[u8]) {
    let word = b"tick";
    let known = data.iter().zip(word).take_while(|(byte, letter)| byte == letter);
    assert!(known.count() < word.len(), "the canary was found");
}
