//! Just enough of Rust's grammar to find paths in it: comments, literals, and what is only for tests.

/// The same text with comments and the insides of literals blanked; lines stay where they are.
pub(crate) fn code_of(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match &bytes[at..] {
            [b'/', b'/', ..] => find(bytes, at, b"\n"),
            [b'/', b'*', ..] => comment_end(bytes, at),
            [b'"', ..] => string_end(bytes, at),
            [b'r', b'"' | b'#', ..] if starts_word(bytes, at) => raw_string_end(bytes, at),
            [b'b', b'r', b'"' | b'#', ..] if starts_word(bytes, at) => raw_string_end(bytes, at + 1),
            [b'\'', b'\\', ..] => find(bytes, at + 3, b"'") + 1,
            // A character, not a lifetime: the quote closes behind one character of up to four bytes.
            [b'\'', ..] => char_end(text, at),
            _ => at,
        };
        let end = end.min(bytes.len());
        for byte in &mut code[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8(code).expect("whole characters were blanked")
}

fn find(bytes: &[u8], from: usize, what: &[u8]) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    rest.windows(what.len())
        .position(|window| window == what)
        .map_or(bytes.len(), |at| from + at)
}

fn comment_end(bytes: &[u8], at: usize) -> usize {
    let (mut depth, mut at) = (1, at + 2);
    while depth > 0 && at < bytes.len() {
        let step = match &bytes[at..] {
            [b'/', b'*', ..] => 1,
            [b'*', b'/', ..] => -1,
            _ => 0,
        };
        depth += step;
        at += if step == 0 { 1 } else { 2 };
    }
    at
}

fn string_end(bytes: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

/// `at` is at the `r`; the same `at` when it is a raw identifier.
fn raw_string_end(bytes: &[u8], at: usize) -> usize {
    let hashes = bytes[at + 1..].iter().take_while(|byte| **byte == b'#').count();
    if bytes.get(at + 1 + hashes) != Some(&b'"') {
        return at;
    }
    let close = [b"\"".as_slice(), &b"#".repeat(hashes)].concat();
    find(bytes, at + 2 + hashes, &close) + close.len()
}

fn char_end(text: &str, at: usize) -> usize {
    let mut chars = text[at + 1..].chars();
    match (chars.next(), chars.next()) {
        (Some(c), Some('\'')) => at + 2 + c.len_utf8(),
        _ => at,
    }
}

fn starts_word(bytes: &[u8], at: usize) -> bool {
    at == 0 || !is_word(bytes[at - 1])
}

pub(crate) const fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// Takes what stands under `#[cfg(test)]` out of blanked code. Gives the rest, and the modules that are declared so
/// and lie in files of their own.
pub(crate) fn without_tests(code: &str) -> (String, Vec<String>) {
    const MARK: &str = "#[cfg(test)]";
    let (mut kept, mut modules, mut rest) = (String::new(), Vec::new(), code);
    while let Some(at) = rest.find(MARK) {
        kept.push_str(&rest[..at]);
        let item = &rest[at + MARK.len()..];
        let end = item_end(item);
        let head = item[..end].trim_end_matches(';');
        let mut words = head.split_whitespace().skip_while(|word| *word != "mod").skip(1);
        if let (Some(name), None) = (words.next(), words.next()) {
            modules.push(name.to_owned());
        }
        rest = &item[end..];
    }
    kept.push_str(rest);
    (kept, modules)
}

/// Where an item ends: behind its `;`, or behind the brace that closes its first one.
fn item_end(item: &str) -> usize {
    let mut depth = 0;
    for (at, byte) in item.bytes().enumerate() {
        match byte {
            b'{' | b'(' | b'[' => depth += 1,
            b'}' | b')' | b']' => {
                depth -= 1;
                // A `use` group and an array type go on behind their bracket.
                if byte == b'}' && depth == 0 && !item[at + 1..].trim_start().starts_with(';') {
                    return at + 1;
                }
            }
            b';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    item.len()
}

/// What follows `crate::`, or as many `super::` as lead to the crate's root from a module `depth` deep: the first
/// name of every path.
pub(crate) fn names_under_root(code: &str, depth: usize) -> Vec<String> {
    // No white space inside paths.
    let dense: String = code
        .replace("r#", "")
        .split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace(" ::", "::");
    let dense = dense.replace(":: ", "::");
    let mut names = Vec::new();
    for root in ["crate::".to_owned(), "super::".repeat(depth)] {
        for (at, _) in dense.match_indices(&root) {
            let before = dense.as_bytes()[..at].last().copied().unwrap_or(b' ');
            let deeper = before == b':' || is_word(before);
            if !deeper {
                names.extend(first_names(&dense[at + root.len()..]));
            }
        }
    }
    names
}

/// Of `a::b` it is `a`; of `{a, b::{c, d}}` they are `a` and `b`.
pub(crate) fn first_names(path: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim_start()
            .bytes()
            .take_while(|b| is_word(*b))
            .map(char::from)
            .collect()
    };
    let Some(group) = path.strip_prefix('{') else {
        return vec![name(path)];
    };
    let (mut depth, mut start, mut names) = (0, 0, Vec::new());
    for (at, byte) in group.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b',' | b'}' if depth == 0 => {
                names.push(name(&group[start..at]));
                start = at + 1;
                if byte == b'}' {
                    break;
                }
            }
            b'}' => depth -= 1,
            _ => {}
        }
    }
    names
}

/// Whether `word` stands in `text` by itself.
pub(crate) fn contains_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text.as_bytes()[..at].last().copied().unwrap_or(b' ');
        let after = text.as_bytes().get(at + word.len()).copied().unwrap_or(b' ');
        let open = |edge: u8, neighbour: u8| !(is_word(edge) && is_word(neighbour));
        open(word.as_bytes()[0], before) && open(word.as_bytes()[word.len() - 1], after)
    })
}
