//! Claims of names: a hash with one field for each name, which holds the version and the text.
//!
//! Invariant: every change is one call of a script that compares the version. When the claims hold as many bytes as they may,
//! new ones are refused and none is forgotten.

use bytes::Bytes;

use super::Redis;
use super::scripts::run;
use crate::broker::Doing;
use crate::broker::claims::{BYTES_MAX, Claimed, Claims, Held, KEPT};
use crate::event::Refusal;

/// What a change of a claim comes to.
enum Changed {
    /// It is changed, and has this version.
    Now(u64),
    /// It has another version; `None`: there is none.
    Other(Option<Held>),
}

impl Claims for Redis {
    fn claim<'a>(&'a self, name: &'a str, text: Bytes) -> Doing<'a, Result<Claimed, Refusal>> {
        Box::pin(async move {
            match self.change(name, 0, Some(&text)).await? {
                Changed::Now(version) => Ok(Claimed::Now(version)),
                Changed::Other(Some(held)) => Ok(Claimed::Before(held)),
                // Only a version can keep a name from being claimed.
                Changed::Other(None) => Err(Refusal::Unknown),
            }
        })
    }

    fn look<'a>(&'a self, name: &'a str) -> Doing<'a, Result<Option<Held>, Refusal>> {
        Box::pin(async move {
            let (mut connection, _) = self.shared.line().ok_or(Refusal::Unavailable)?;
            let mut command = redis::cmd("HGET");
            command.arg(&self.shared.keys.claims).arg(name);
            let stored = run::<Option<Vec<u8>>>(&mut connection, &command).await;
            let stored = stored.map_err(|_| Refusal::Unavailable)?;
            stored.map(|stored| held(&stored).ok_or(Refusal::Rejected)).transpose()
        })
    }

    fn replace<'a>(
        &'a self,
        name: &'a str,
        version: u64,
        text: Option<Bytes>,
    ) -> Doing<'a, Result<Option<u64>, Refusal>> {
        Box::pin(async move {
            match self.change(name, version, text.as_deref()).await? {
                Changed::Now(version) => Ok(Some(version)),
                Changed::Other(_) => Ok(None),
            }
        })
    }
}

impl Redis {
    /// Changes a claim of this version, 0 if there is none. Without a text it is given up.
    async fn change(&self, name: &str, version: u64, text: Option<&[u8]>) -> Result<Changed, Refusal> {
        let (mut connection, scripts) = self.shared.line().ok_or(Refusal::Unavailable)?;
        let keys = &self.shared.keys;
        let mut command = keys.call(&scripts.claim, &[&keys.claims, &keys.claims_changed]);
        let kept_us = u64::try_from(KEPT.as_micros()).unwrap_or(u64::MAX);
        command.arg(BYTES_MAX).arg(kept_us).arg(name).arg(version).arg(text);
        match run::<(u8, Vec<u8>)>(&mut connection, &command).await {
            Ok((1, version)) => number(&version).map(Changed::Now).ok_or(Refusal::Unknown),
            Ok((_, stored)) if stored.is_empty() => Ok(Changed::Other(None)),
            Ok((_, stored)) => Ok(Changed::Other(Some(held(&stored).ok_or(Refusal::Rejected)?))),
            Err(error) => {
                let refusal = error.refusal();
                if refusal == Refusal::Rejected {
                    self.shared.log_refused(&error.to_string());
                }
                Err(refusal)
            }
        }
    }
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The claim that a field holds.
fn held(stored: &[u8]) -> Option<Held> {
    let end = memchr::memchr(b'\n', stored)?;
    Some(Held {
        version: number(&stored[..end])?,
        text: Bytes::copy_from_slice(&stored[end + 1..]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_holds_a_version_and_any_text() {
        let held = held(b"7\na\n\xff").expect("a claim");
        assert_eq!((held.version, &held.text[..]), (7, &b"a\n\xff"[..]));
        for wrong in [&b""[..], b"7", b"x\na", b"-1\na"] {
            assert_eq!(super::held(wrong), None, "{wrong:?}");
        }
    }
}
