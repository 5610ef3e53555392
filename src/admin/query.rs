//! The query of an admin request, read strictly.
//!
//! Invariant: a parameter that its route does not know is refused, because a filter that is ignored returns a wrong answer.

use std::borrow::Cow;

use crate::ingress::http::request::decode;

/// The items of a page, if its `limit` is not given, and at most.
const LIMIT_DEFAULT: usize = 100;
const LIMIT_MAX: usize = 1000;

/// The parameters of a query.
#[derive(Debug)]
pub(super) struct Query<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Query<'a> {
    /// Splits a query.
    pub(super) fn of(query: &'a str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Self(pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect())
    }

    /// Checks the names of the parameters.
    ///
    /// # Errors
    ///
    /// A message that names a parameter that is not in `known`, or is given twice.
    pub(super) fn check(&self, known: &[&str]) -> Result<(), String> {
        for (index, (name, _)) in self.0.iter().enumerate() {
            let shown: String = name.chars().take(64).collect();
            if !known.contains(name) {
                return Err(match known {
                    [] => format!("unknown query parameter `{shown}` (this path has none)"),
                    known => format!("unknown query parameter `{shown}` (known here: {})", known.join(", ")),
                });
            }
            if self.0[..index].iter().any(|(earlier, _)| earlier == name) {
                return Err(format!("query parameter `{shown}` is given twice"));
            }
        }
        Ok(())
    }

    /// Whether a parameter is given, with a value or without.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(given, _)| *given == name)
    }

    /// The decoded value of a parameter; `None` if it is not given, or is empty.
    ///
    /// # Errors
    ///
    /// A message for a value that is not percent-encoded UTF-8.
    pub(super) fn get(&self, name: &str) -> Result<Option<Cow<'a, str>>, String> {
        let given = self.0.iter().find(|(given, value)| *given == name && !value.is_empty());
        let value = given.map(|(_, value)| decode(value)).transpose();
        value.map_err(|_| format!("`{name}` is not percent-encoded UTF-8"))
    }

    /// The number of items that a page may have: `limit`.
    ///
    /// # Errors
    ///
    /// A message for a value that is not 1 to 1000.
    pub(super) fn limit(&self) -> Result<usize, String> {
        let Some(limit) = self.get("limit")? else {
            return Ok(LIMIT_DEFAULT);
        };
        let limit = limit.parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
        limit.ok_or_else(|| format!("`limit` must be 1 to {LIMIT_MAX}"))
    }
}

#[cfg(test)]
mod tests {
    use super::Query;

    #[test]
    fn unknown_and_repeated_parameters_are_named() {
        let query = Query::of("user=u%201&limit=&&cursor");
        assert_eq!(query.check(&["limit", "cursor", "user"]), Ok(()));
        assert_eq!(query.get("user").expect("UTF-8").as_deref(), Some("u 1"));
        for empty in ["limit", "cursor", "since"] {
            assert_eq!(query.get(empty), Ok(None), "{empty}");
        }
        for (text, known, message) in [
            (
                "sort=-n",
                ["limit", "user"].as_slice(),
                "unknown query parameter `sort` (known here: limit, user)",
            ),
            ("a", &[], "unknown query parameter `a` (this path has none)"),
            ("limit=1&limit=2", &["limit"], "query parameter `limit` is given twice"),
            (
                "Limit=1",
                &["limit"],
                "unknown query parameter `Limit` (known here: limit)",
            ),
        ] {
            assert_eq!(Query::of(text).check(known).expect_err(text), message);
        }
        assert!(
            Query::of("user=%ff")
                .get("user")
                .expect_err("not UTF-8")
                .contains("`user`")
        );
    }
}
