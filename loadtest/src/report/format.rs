//! Formats numbers for people.

/// Digits in groups of three. Fractions are shown for small numbers only.
pub(crate) fn count(value: f64) -> String {
    if value.fract() != 0.0 && value.abs() < 100.0 {
        return short(value);
    }
    let digits = format!("{:.0}", value.abs());
    let mut text = if value <= -0.5 {
        String::from("-")
    } else {
        String::new()
    };
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// About three significant digits.
pub(crate) fn short(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        tiny if tiny < 10.0 => format!("{value:.2}"),
        small if small < 100.0 => format!("{value:.1}"),
        _ => count(value.round()),
    }
}

/// In bytes, KiB or MiB.
pub(crate) fn bytes(value: f64) -> String {
    match value.abs() {
        small if small < 10_240.0 => format!("{} B", count(value.round())),
        middle if middle < 10.0 * 1_048_576.0 => format!("{} KiB", short(value / 1024.0)),
        _ => format!("{} MiB", short(value / 1_048_576.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_formatted_for_readers() {
        for (text, expected) in [
            (count(0.0), "0"),
            (count(999.0), "999"),
            (count(1_234_567.0), "1,234,567"),
            (count(-1_000.0), "-1,000"),
            (count(0.25), "0.25"),
            (short(0.0), "0"),
            (short(1.234), "1.23"),
            (short(12.34), "12.3"),
            (short(1234.5), "1,235"),
            (bytes(512.0), "512 B"),
            (bytes(20_480.0), "20.0 KiB"),
            (bytes(52_428_800.0), "50.0 MiB"),
        ] {
            assert_eq!(text, expected);
        }
    }
}
