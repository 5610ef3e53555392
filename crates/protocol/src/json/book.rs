//! Updates of order books: an object with `bids` and `asks`, each an array of levels `[price, size]`.

use super::{Decimal, Kind, Scratch, Value, split_array};

/// Most levels of one update, on each side.
const BOOK_LEVELS_MAX: usize = 10_000;

/// Most members of an update beside those that are named here.
const OTHERS_MAX: usize = 32;

/// Most items of a level. Some exchanges add the number of orders.
const LEVEL_ITEMS_MAX: usize = 8;

/// What an update of a book says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BookUpdate {
    /// The update replaces the whole book (`"snapshot": true`).
    pub is_snapshot: bool,
    /// The publisher says itself that the book is stale (`"stale": true`).
    pub is_stale: bool,
    /// The number of the update (`seq`).
    pub seq: Option<u64>,
    /// The number of the update before it (`prev_seq`).
    pub prev_seq: Option<u64>,
    /// The checksum of the book after the update, as JSON.
    pub checksum: Option<Box<str>>,
    /// The levels that changed: bids, then asks.
    pub sides: [Vec<BookLevel>; 2],
    /// The other members, in order: the key and the value, both as JSON.
    pub others: Vec<(Box<str>, Box<str>)>,
}

/// One level of a book.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BookLevel {
    /// The price, for comparisons.
    pub price: Decimal,
    /// The level as JSON, as it was published.
    pub raw: Box<str>,
    /// The size is 0: the level is removed.
    pub is_removed: bool,
}

/// Why `data` is not an update of a book.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BookError {
    /// It is not an object.
    #[error("must be an object with `bids` and `asks`")]
    NotAnObject,
    /// A key occurs twice.
    #[error("has a key twice")]
    Twice,
    /// `bids` or `asks` is not an array, or has too many levels.
    #[error("has `bids` or `asks` that are not an array of at most {BOOK_LEVELS_MAX} levels")]
    Side,
    /// A level is not a price and a size.
    #[error("has a level that is not an array of a price and a size, both decimal numbers (as numbers or as strings)")]
    Level,
    /// A size is below 0.
    #[error("has a level with a size below 0")]
    NegativeSize,
    /// `snapshot` or `stale` is not a boolean.
    #[error("has `snapshot` or `stale` that are not true or false")]
    Flag,
    /// `seq` or `prev_seq` is not a number.
    #[error("has `seq` or `prev_seq` that are not an integer from 0 to 2^64 - 1")]
    Number,
    /// There are too many other members.
    #[error("has more than {OTHERS_MAX} members beside those of a book")]
    Others,
}

impl BookError {
    /// The message for the publisher.
    #[must_use]
    pub fn describe(self) -> String {
        format!("`data` {self}: the channel has an order book (merge = \"book\")")
    }
}

/// Reads the `data` of an event as an update of a book.
///
/// # Errors
///
/// The first thing that is wrong with it.
pub fn read_book(data: &str, scratch: &mut Scratch) -> Result<BookUpdate, BookError> {
    let object = scratch.object(data).map_err(|_| BookError::NotAnObject)?;
    if object.duplicate_key().is_some() {
        return Err(BookError::Twice);
    }
    let mut update = BookUpdate::default();
    for (key, value) in object.members() {
        match key {
            "bids" => update.sides[0] = side(value)?,
            "asks" => update.sides[1] = side(value)?,
            "snapshot" => update.is_snapshot = flag(value)?,
            "stale" => update.is_stale = flag(value)?,
            "seq" => update.seq = number(value)?,
            "prev_seq" => update.prev_seq = number(value)?,
            "checksum" => update.checksum = Some(value.raw.into()),
            _ => {
                let mut quoted = Vec::with_capacity(key.len() + 2);
                super::push_string(&mut quoted, key);
                let quoted = String::from_utf8(quoted).map_err(|_| BookError::NotAnObject)?;
                update.others.push((quoted.into(), value.raw.into()));
            }
        }
    }
    if update.others.len() > OTHERS_MAX {
        return Err(BookError::Others);
    }
    Ok(update)
}

/// Reads one level.
///
/// # Errors
///
/// If it is not an array whose first two items are a price and a size.
pub fn read_level(raw: &str) -> Result<BookLevel, BookError> {
    let items = split_array(raw, LEVEL_ITEMS_MAX).map_err(|_| BookError::Level)?;
    let [price, size, ..] = &items[..] else {
        return Err(BookError::Level);
    };
    let (price, size) = (decimal(price)?, decimal(size)?);
    if size.is_negative() {
        return Err(BookError::NegativeSize);
    }
    Ok(BookLevel {
        price,
        raw: raw.into(),
        is_removed: size.is_zero(),
    })
}

/// A level with the price of another one and the size 0, written in the same way.
#[must_use]
pub fn removed_level(raw: &str) -> String {
    let items = split_array(raw, LEVEL_ITEMS_MAX).unwrap_or_default();
    let price = items.first().copied().unwrap_or("0");
    let is_text = items.get(1).is_some_and(|size| size.starts_with('"'));
    let zero = if is_text { "\"0\"" } else { "0" };
    format!("[{price},{zero}]")
}

// Strings with escapes are not decimal numbers.
fn decimal(item: &str) -> Result<Decimal, BookError> {
    let text = item
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
        .unwrap_or(item);
    Decimal::parse(text).ok_or(BookError::Level)
}

fn side(value: Value<'_>) -> Result<Vec<BookLevel>, BookError> {
    if value.kind == Kind::Null {
        return Ok(Vec::new());
    }
    let levels = split_array(value.raw, BOOK_LEVELS_MAX).map_err(|_| BookError::Side)?;
    levels.into_iter().map(read_level).collect()
}

fn flag(value: Value<'_>) -> Result<bool, BookError> {
    match value.raw {
        "true" => Ok(true),
        "false" | "null" => Ok(false),
        _ => Err(BookError::Flag),
    }
}

fn number(value: Value<'_>) -> Result<Option<u64>, BookError> {
    match value.kind {
        Kind::Null => Ok(None),
        Kind::Integer => value.raw.parse().map(Some).map_err(|_| BookError::Number),
        _ => Err(BookError::Number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(data: &str) -> Result<BookUpdate, BookError> {
        read_book(data, &mut Scratch::default())
    }

    #[test]
    fn an_update_is_read_and_its_texts_are_kept() {
        let update = read(
            r#"{"symbol":"BTC\/USDT","bids":[["94000.50", "1.0"],[94000,0.00,7]],"asks":null,"seq":8,"prev_seq":5,"checksum":-3,"snapshot":false,"é":1e400}"#,
        )
        .expect("a book");
        let level = |price: &str, raw: &str, is_removed| BookLevel {
            price: Decimal::parse(price).expect("a decimal"),
            raw: raw.into(),
            is_removed,
        };
        let expected = BookUpdate {
            seq: Some(8),
            prev_seq: Some(5),
            checksum: Some("-3".into()),
            sides: [
                vec![
                    level("94000.5", r#"["94000.50", "1.0"]"#, false),
                    level("94000", "[94000,0.00,7]", true),
                ],
                vec![],
            ],
            others: vec![
                ("\"symbol\"".into(), "\"BTC\\/USDT\"".into()),
                ("\"é\"".into(), "1e400".into()),
            ],
            ..BookUpdate::default()
        };
        assert_eq!(update, expected);
        assert_eq!(removed_level(r#"["94000.50", "1.0"]"#), r#"["94000.50","0"]"#);
        assert_eq!(removed_level("[94000,2,7]"), "[94000,0]");
    }

    #[test]
    fn what_is_no_book_is_refused() {
        for (data, error) in [
            ("[]", BookError::NotAnObject),
            ("null", BookError::NotAnObject),
            (r#"{"bids":[],"bids":[]}"#, BookError::Twice),
            (r#"{"bids":{}}"#, BookError::Side),
            (r#"{"bids":[1]}"#, BookError::Level),
            (r#"{"bids":[[1]]}"#, BookError::Level),
            (r#"{"bids":[["x",1]]}"#, BookError::Level),
            (r#"{"bids":[[1,null]]}"#, BookError::Level),
            (r#"{"asks":[[1,"-0.5"]]}"#, BookError::NegativeSize),
            (r#"{"snapshot":1}"#, BookError::Flag),
            (r#"{"seq":"1"}"#, BookError::Number),
            (r#"{"prev_seq":-1}"#, BookError::Number),
        ] {
            assert_eq!(read(data), Err(error), "{data}");
        }
        let others: Vec<String> = (0..=OTHERS_MAX).map(|number| format!("\"m{number}\":1")).collect();
        assert_eq!(read(&format!("{{{}}}", others.join(","))), Err(BookError::Others));
    }
}
