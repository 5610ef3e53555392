//! The limit of file descriptors: each client takes one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that the tool needs beside those of its clients.
const SPARE: usize = 64;

/// Raises the descriptor limit for `clients` connections if necessary, and prints the new limit.
pub(crate) fn raise_descriptors(clients: usize) -> Result<(), String> {
    let needed = (clients + SPARE) as u64;
    let before = getrlimit(Resource::Nofile);
    let Some(raised) = raised(&before, needed) else {
        return Ok(());
    };
    let refused = setrlimit(Resource::Nofile, raised).is_err();
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if refused || allowed < needed {
        return Err(format!(
            "{clients} clients need {needed} descriptors, {allowed} are allowed: raise the limit (ulimit -n), or use several processes"
        ));
    }
    eprintln!("descriptor limit raised to {allowed}");
    Ok(())
}

/// The limits to set, or `None` if the current ones suffice. Only root may exceed the hard limit.
fn raised(now: &Rlimit, needed: u64) -> Option<Rlimit> {
    if now.current.is_none_or(|current| current >= needed) {
        return None;
    }
    let maximum = now.maximum.map(|maximum| maximum.max(needed));
    let current = Some(now.maximum.unwrap_or(needed).max(needed));
    Some(Rlimit { current, maximum })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_raised_only_if_needed_and_up_to_the_hard_limit() {
        let limit = |current, maximum| Rlimit { current, maximum };
        assert_eq!(raised(&limit(Some(1000), Some(5000)), 900), None);
        assert_eq!(raised(&limit(None, None), 900), None);
        assert_eq!(
            raised(&limit(Some(1000), Some(5000)), 2000),
            Some(limit(Some(5000), Some(5000)))
        );
        assert_eq!(
            raised(&limit(Some(1000), Some(5000)), 9000),
            Some(limit(Some(9000), Some(9000)))
        );
        assert_eq!(raised(&limit(Some(1000), None), 9000), Some(limit(Some(9000), None)));
    }
}
