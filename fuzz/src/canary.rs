//! A fault that fuzzing must find: were this target ever to pass, the others' silence would mean nothing.

/// Panics on a word that a fuzzer finds by coverage alone.
pub fn check_input(data: &[u8]) {
    let word = b"tick";
    let known = data.iter().zip(word).take_while(|(byte, letter)| byte == letter);
    assert!(known.count() < word.len(), "the canary was found");
}
