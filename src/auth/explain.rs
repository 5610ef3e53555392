//! Why an identity may or may not do something, in words: which entry of its permissions decides.
//!
//! Invariant: an explanation is `Ok` exactly when the rule in `permission` allows it.

use super::Identity;
use super::permission::{Own, USER, is_admin_only, is_below_user, part_below_user};
use tickgate_protocol::channel::{Channel, Pattern};

const ADMIN: &str = "the role admin may do everything";
const TENANT: &str = "it belongs to another tenant";

/// A refusal names so many entries at most.
const ENTRIES_SHOWN: usize = 20;

/// `Ok`: allowed, by this rule. `Err`: refused, and why.
pub type Explanation = Result<String, String>;

impl Identity {
    /// Explains [`Identity::may_subscribe`].
    ///
    /// # Errors
    ///
    /// The reason for a refusal.
    pub fn explain_subscribe(&self, pattern: &Pattern) -> Explanation {
        let permissions = &*self.permissions;
        if pattern.tenant() != self.tenant {
            return Err(TENANT.to_owned());
        }
        if permissions.admin {
            return Ok(ADMIN.to_owned());
        }
        if is_admin_only(pattern.as_str()) {
            return if permissions.gateway {
                Ok("viewers of the console may read `system.gateway`".to_owned())
            } else {
                Err("`system.gateway` and all below it is for the role admin".to_owned())
            };
        }
        if self.owns(pattern.as_str()) == Some(Own::Below) {
            return Ok("all channels below `user.<sub>` are the user's own".to_owned());
        }
        let Some(entry) = permissions.channels.iter().find(|entry| entry.covers(pattern)) else {
            return Err(format!(
                "no entry of `channels` covers it: {}",
                list(&permissions.channels)
            ));
        };
        if self.may_subscribe(pattern) {
            return Ok(format!("the entry `{entry}` of `channels` covers it"));
        }
        let part = part_below_user(pattern);
        let part = part.as_ref().map_or(USER, Pattern::as_str);
        Err(format!(
            "the entry `{entry}` of `channels` covers it, but it reaches `{part}`, where other users have their channels: that \
             needs an entry that begins with `user`"
        ))
    }

    /// Explains [`Identity::may_command`].
    ///
    /// # Errors
    ///
    /// The reason for a refusal.
    pub fn explain_command(&self, action: &Channel) -> Explanation {
        let permissions = &*self.permissions;
        if action.tenant() != self.tenant {
            return Err(TENANT.to_owned());
        }
        if permissions.admin {
            return Ok(ADMIN.to_owned());
        }
        let entry = permissions.commands.iter().find(|entry| entry.matches(action));
        entry.map_or_else(
            || {
                Err(format!(
                    "no entry of `commands` matches it: {}",
                    list(&permissions.commands)
                ))
            },
            |entry| Ok(format!("the entry `{entry}` of `commands` matches it")),
        )
    }

    /// Explains [`Identity::may_publish`].
    ///
    /// # Errors
    ///
    /// The reason for a refusal.
    pub fn explain_publish(&self, channel: &Channel) -> Explanation {
        let permissions = &*self.permissions;
        let name = channel.as_str();
        if channel.tenant() != self.tenant {
            return Err(TENANT.to_owned());
        }
        if permissions.admin {
            return Ok(ADMIN.to_owned());
        }
        if is_admin_only(name) {
            return Err("`system.gateway` and all below it is for the role admin".to_owned());
        }
        let entry = permissions.publish.iter().find(|entry| entry.matches(channel));
        let Some(entry) = entry else {
            return Err(format!(
                "no entry of `publish` matches it: {}",
                list(&permissions.publish)
            ));
        };
        let fits = |entry: &&Pattern| is_below_user(entry.as_str()) && entry.matches(channel);
        if !is_below_user(name) {
            return Ok(format!("the entry `{entry}` of `publish` matches it"));
        }
        permissions.publish.iter().find(fits).map_or_else(
            || {
                Err(format!(
                    "the entry `{entry}` of `publish` matches it, but channels below `user` need an entry that begins with `user`"
                ))
            },
            |entry| Ok(format!("the entry `{entry}` of `publish` matches it")),
        )
    }
}

fn list(entries: &[Pattern]) -> String {
    if entries.is_empty() {
        return "it is empty".to_owned();
    }
    let shown: Vec<_> = entries
        .iter()
        .take(ENTRIES_SHOWN)
        .map(|entry| format!("`{entry}`"))
        .collect();
    let more = match entries.len().saturating_sub(ENTRIES_SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    shown.join(", ") + &more
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::auth::Permissions;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).expect("valid")
    }

    fn identity(entries: &[Pattern], admin: bool, gateway: bool) -> Identity {
        Identity {
            user: Some("7".into()),
            ..Identity::anonymous(Arc::new(Permissions {
                admin,
                gateway,
                channels: entries.to_vec(),
                commands: entries.to_vec(),
                publish: entries.to_vec(),
                ..Permissions::default()
            }))
        }
    }

    #[test]
    fn an_explanation_names_the_rule() {
        let trader = identity(&[pattern("grid.*"), pattern("*")], false, false);
        let subscribe = |text: &str| trader.explain_subscribe(&pattern(text));
        assert_eq!(
            subscribe("grid.a").expect("allowed"),
            "the entry `grid.*` of `channels` covers it"
        );
        assert!(subscribe("user.7.orders").expect("allowed").contains("the user's own"));
        assert!(
            subscribe("user.8.orders")
                .expect_err("refused")
                .contains("begins with `user`")
        );
        assert!(
            subscribe("system.gateway.a")
                .expect_err("refused")
                .contains("role admin")
        );
        let nobody = identity(&[], false, false);
        let refused = nobody.explain_command(&Channel::parse("grid.start").expect("valid"));
        assert_eq!(
            refused.expect_err("refused"),
            "no entry of `commands` matches it: it is empty"
        );
        let many: Vec<_> = (0..23).map(|n| pattern(&format!("grid.{n}"))).collect();
        let refused = identity(&many, false, false).explain_subscribe(&pattern("market.a"));
        let refused = refused.expect_err("refused");
        assert!(refused.ends_with("`grid.19` and 3 more"), "{refused}");
    }

    proptest! {
        #[test]
        fn explanations_agree_with_the_rules(
            entries in prop::collection::vec("(user|grid|system|\\*)(\\.(7|8|gateway|\\*)){0,2}", 0..4),
            asked in "(user|grid|system|\\*)(\\.(7|8|gateway|\\*)){0,2}",
            admin in prop::bool::weighted(0.1),
            gateway in prop::bool::weighted(0.2),
        ) {
            let entries: Vec<_> = entries.iter().filter_map(|text| Pattern::parse(text).ok()).collect();
            let identity = identity(&entries, admin, gateway);
            if let Ok(asked) = Pattern::parse(&asked) {
                prop_assert_eq!(identity.explain_subscribe(&asked).is_ok(), identity.may_subscribe(&asked));
            }
            if let Ok(asked) = Channel::parse(&asked) {
                prop_assert_eq!(identity.explain_command(&asked).is_ok(), identity.may_command(&asked));
                prop_assert_eq!(identity.explain_publish(&asked).is_ok(), identity.may_publish(&asked));
            }
        }
    }
}
