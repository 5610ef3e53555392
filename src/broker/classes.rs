//! The classes of channels that all gateways of a broker must have, and how two gateways differ in them.

use serde::{Deserialize, Serialize};

/// What the classes of channels keep, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassTable {
    /// A hash of it. Gateways with the same hash keep the same of every channel.
    pub hash: u64,
    /// For each class its pattern, with its tenant in front if that is not the default one, and the keys that say what is
    /// kept.
    pub entries: Vec<(String, String)>,
}

impl ClassTable {
    /// What the first difference to the table of another gateway is, as the middle of a sentence.
    #[must_use]
    pub fn difference(&self, theirs: &Self) -> String {
        let has = |table: &Self, pattern: &str| table.entries.iter().any(|(other, _)| other == pattern);
        let pairs = self.entries.iter().zip(&theirs.entries);
        let Some((own, other)) = { pairs }.find(|(own, other)| own != other) else {
            let longer = self.entries.iter().skip(theirs.entries.len());
            let longer = longer.chain(theirs.entries.iter().skip(self.entries.len()));
            let names: Vec<&str> = longer.map(|(pattern, _)| pattern.as_str()).collect();
            return match names.first() {
                Some(name) => format!("only one of them has a class for {name:?}"),
                None => "they differ in a way that this version does not know".to_owned(),
            };
        };
        if own.0 == other.0 {
            format!(
                "for {:?} it has {{ {} }}, this gateway has {{ {} }}",
                own.0, other.1, own.1
            )
        } else if !has(theirs, &own.0) {
            format!("it has no class for {:?}", own.0)
        } else if !has(self, &other.0) {
            format!("this gateway has no class for {:?}", other.0)
        } else {
            format!(
                "the order differs: {:?} stands where this gateway has {:?}",
                other.0, own.0
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_class_that_differs_is_named() {
        let table = |entries: &[(&str, &str)]| ClassTable {
            hash: 0,
            entries: entries
                .iter()
                .map(|(name, keys)| ((*name).to_owned(), (*keys).to_owned()))
                .collect(),
        };
        let own = table(&[("a.*", "cache = \"last\""), ("b.*", ""), ("c.*", "")]);
        for (theirs, expected) in [
            (
                table(&[("a.*", "only_changed = true"), ("c.*", "")]),
                "for \"a.*\" it has { only_changed = true }, this gateway has { cache = \"last\" }",
            ),
            (
                table(&[("a.*", "cache = \"last\""), ("c.*", "")]),
                "it has no class for \"b.*\"",
            ),
            (
                table(&[("x.*", ""), ("a.*", "cache = \"last\""), ("b.*", ""), ("c.*", "")]),
                "this gateway has no class for \"x.*\"",
            ),
            (
                table(&[("a.*", "cache = \"last\""), ("c.*", ""), ("b.*", "")]),
                "the order differs: \"c.*\" stands where this gateway has \"b.*\"",
            ),
            (
                table(&[("a.*", "cache = \"last\""), ("b.*", "")]),
                "only one of them has a class for \"c.*\"",
            ),
        ] {
            assert_eq!(own.difference(&theirs), expected);
        }
    }
}
