//! An in-memory subset of Redis, as far as the stock feeds use it: hashes and lists, read by `HGETALL` and `LRANGE`.
//!
//! Invariant: the store does no I/O, and a reader sees all writes of one [`Store::apply`] or none. Requests and answers use
//! the Redis serialization protocol (RESP 2), so the gateway's feeds work as with a real Redis.

use std::collections::HashMap;

/// A write to a key. It replaces the key's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Writes a hash.
    Hash {
        /// The key.
        key: String,
        /// The fields and their values, in order.
        fields: Vec<(String, String)>,
    },
    /// Writes a list.
    List {
        /// The key.
        key: String,
        /// The items, in order.
        items: Vec<String>,
    },
}

#[derive(Debug)]
enum Value {
    Hash(Vec<(String, String)>),
    List(Vec<String>),
}

/// Keys and their values.
#[derive(Debug, Default)]
pub struct Store(HashMap<String, Value>);

/// The number of words in a request. Feeds send at most four.
const WORDS_MAX: usize = 16;
/// The length of a word in a request, in bytes.
const WORD_BYTES_MAX: usize = 64 * 1024;

/// The bytes are not a valid request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an array of bulk strings, or too long")]
pub struct Malformed;

/// The words of a request, and its length in bytes.
pub type Request = (Vec<String>, usize);

/// Parses the request at the start of `bytes`. `None`: the request is incomplete.
///
/// # Errors
///
/// The bytes are not an array of bulk strings, or exceed a bound.
pub fn request(bytes: &[u8]) -> Result<Option<Request>, Malformed> {
    let mut at = 0;
    let Some(count) = number(bytes, &mut at, b'*')? else {
        return Ok(None);
    };
    if count == 0 || count > WORDS_MAX {
        return Err(Malformed);
    }
    let mut words = Vec::with_capacity(count);
    for _ in 0..count {
        let Some(length) = number(bytes, &mut at, b'$')? else {
            return Ok(None);
        };
        if length > WORD_BYTES_MAX {
            return Err(Malformed);
        }
        let Some(word) = bytes.get(at..at + length + 2) else {
            return Ok(None);
        };
        let word = word.strip_suffix(b"\r\n").ok_or(Malformed)?;
        words.push(String::from_utf8_lossy(word).into_owned());
        at += length + 2;
    }
    Ok(Some((words, at)))
}

// Parses a line of `kind` and a number. `None`: the line is incomplete.
fn number(bytes: &[u8], at: &mut usize, kind: u8) -> Result<Option<usize>, Malformed> {
    let rest = &bytes[*at..];
    let Some(end) = rest.iter().position(|byte| *byte == b'\r') else {
        // The line is longer than any number.
        return if rest.len() > 20 || rest.first().is_some_and(|first| *first != kind) {
            Err(Malformed)
        } else {
            Ok(None)
        };
    };
    let digits = rest[..end].strip_prefix(&[kind]).ok_or(Malformed)?;
    let number = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok());
    match rest.get(end + 1) {
        None => return Ok(None),
        Some(b'\n') => *at += end + 2,
        Some(_) => return Err(Malformed),
    }
    number.ok_or(Malformed).map(Some)
}

impl Store {
    /// Applies the writes.
    pub fn apply(&mut self, writes: Vec<Write>) {
        for write in writes {
            match write {
                Write::Hash { key, fields } => self.0.insert(key, Value::Hash(fields)),
                Write::List { key, items } => self.0.insert(key, Value::List(items)),
            };
        }
    }

    /// The encoded answer to a request.
    #[must_use]
    pub fn answer(&self, words: &[String]) -> Vec<u8> {
        let Some((command, arguments)) = words.split_first() else {
            return error("ERR no command");
        };
        match (command.to_ascii_uppercase().as_str(), arguments) {
            ("PING", _) => b"+PONG\r\n".to_vec(),
            // A client introduces itself and selects a database. The store has one database and needs no introduction.
            ("CLIENT" | "SELECT", _) => b"+OK\r\n".to_vec(),
            ("HGETALL", [key]) => match self.0.get(key) {
                Some(Value::Hash(fields)) => array(fields.iter().flat_map(|(field, value)| [field, value])),
                None => array([].into_iter()),
                Some(Value::List(_)) => wrong_type(),
            },
            ("LRANGE", [key, first, last]) => match (self.0.get(key), first.parse(), last.parse()) {
                (Some(Value::List(items)), Ok(first), Ok(last)) => array(range(items, first, last).iter()),
                (None, Ok(_), Ok(_)) => array([].into_iter()),
                (Some(Value::Hash(_)), Ok(_), Ok(_)) => wrong_type(),
                _ => error("ERR value is not an integer or out of range"),
            },
            _ => error("ERR unknown command, or wrong number of arguments"),
        }
    }
}

// The items from `first` to `last` inclusive. A negative index counts from the end.
fn range(items: &[String], first: i64, last: i64) -> &[String] {
    let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
    let from_start = |index: i64| if index < 0 { index + length } else { index };
    let (first, end) = (
        from_start(first).clamp(0, length),
        (from_start(last).saturating_add(1)).clamp(0, length),
    );
    let index = |number| usize::try_from(number).unwrap_or_default();
    items.get(index(first)..index(end)).unwrap_or_default()
}

fn array<'a>(items: impl Iterator<Item = &'a String>) -> Vec<u8> {
    let items: Vec<&String> = items.collect();
    let mut answer = format!("*{}\r\n", items.len());
    for item in items {
        answer.push_str(&format!("${}\r\n{item}\r\n", item.len()));
    }
    answer.into_bytes()
}

fn wrong_type() -> Vec<u8> {
    error("WRONGTYPE Operation against a key holding the wrong kind of value")
}

fn error(text: &str) -> Vec<u8> {
    format!("-{text}\r\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(store: &Store, request: &str) -> String {
        let words: Vec<String> = request.split(' ').map(str::to_owned).collect();
        String::from_utf8(store.answer(&words)).expect("UTF-8")
    }

    #[test]
    fn answers_are_those_of_redis() {
        let mut store = Store::default();
        let text = |text: &str| text.to_owned();
        store.apply(vec![
            Write::Hash {
                key: text("h"),
                fields: vec![(text("a"), text("1")), (text("b"), text("贵"))],
            },
            Write::List {
                key: text("l"),
                items: vec![text("x"), text("y"), text("z")],
            },
        ]);
        for (request, answer) in [
            ("PING", "+PONG\r\n"),
            ("client SETINFO LIB-NAME x", "+OK\r\n"),
            ("HGETALL h", "*4\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$3\r\n贵\r\n"),
            ("hgetall none", "*0\r\n"),
            ("LRANGE l 0 100000", "*3\r\n$1\r\nx\r\n$1\r\ny\r\n$1\r\nz\r\n"),
            ("LRANGE l -2 -1", "*2\r\n$1\r\ny\r\n$1\r\nz\r\n"),
            ("LRANGE l 2 1", "*0\r\n"),
            ("LRANGE l 5 9", "*0\r\n"),
            ("LRANGE none 0 1", "*0\r\n"),
        ] {
            assert_eq!(ask(&store, request), answer, "{request}");
        }
        for (request, problem) in [
            ("HGETALL l", "-WRONGTYPE"),
            ("LRANGE h 0 1", "-WRONGTYPE"),
            ("LRANGE l a b", "-ERR value"),
            ("HGETALL", "-ERR unknown"),
            ("FLUSHALL", "-ERR unknown"),
        ] {
            assert!(ask(&store, request).starts_with(problem), "{request}");
        }
        store.apply(vec![Write::List {
            key: text("h"),
            items: vec![],
        }]);
        assert_eq!(ask(&store, "LRANGE h 0 1"), "*0\r\n", "a write replaces what was there");
    }

    #[test]
    fn incomplete_requests_are_completed_by_more_bytes() {
        let one = b"*2\r\n$7\r\nHGETALL\r\n$3\r\na\r\n\r\n";
        let two = [&one[..], b"*1\r\n$4\r\nPING\r\n"].concat();
        for cut in 0..one.len() {
            assert_eq!(request(&one[..cut]), Ok(None), "{cut}");
        }
        let (words, used) = request(&two).expect("good").expect("whole");
        assert_eq!(
            (words, used),
            (vec!["HGETALL".to_owned(), "a\r\n".to_owned()], one.len())
        );
        assert_eq!(request(&two[used..]).expect("good").expect("whole").0, ["PING"]);
        for bad in [
            &b"GET a\r\n"[..],
            b"*0\r\n",
            b"*99\r\n",
            b"*-1\r\n",
            b"*1\r\n$99999999\r\n",
            b"*1\r\n$1\r\nabc",
            b"*1\r\n+1\r\na\r\n",
            b"*1\rx",
            b"*11111111111111111111111",
        ] {
            assert_eq!(request(bad), Err(Malformed), "{:?}", String::from_utf8_lossy(bad));
        }
    }
}
