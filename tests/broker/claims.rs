//! Names that gateways claim.

use futures_util::future::join_all;
use tickgate::broker::{Claimed, Claims, Held};

use crate::node::{Node, World};

impl Node {
    fn claims(&self) -> &dyn Claims {
        self.broker.claims().expect("the broker has claims")
    }

    fn claim(&self, name: &str, text: &'static str) -> Claimed {
        self.wait(self.claims().claim(name, text.into())).expect("reached")
    }
}

#[test]
fn a_name_is_claimed_once_and_changed_by_whoever_knows_its_version() {
    World::each(|name, world| {
        if world.server.is_none() {
            assert!(world.nodes[0].broker.claims().is_none(), "{name}: it stands alone");
            return;
        }
        let [one, two, three] = &world.nodes[..] else {
            panic!("three gateways");
        };
        let Claimed::Now(first) = one.claim("k", "of one") else {
            panic!("{name}: it was free");
        };
        let held = |version, text: &'static str| Held {
            version,
            text: text.into(),
        };
        assert_eq!(two.claim("k", "of two"), Claimed::Before(held(first, "of one")));
        let look = |node: &Node| node.wait(node.claims().look("k")).expect("reached");
        assert_eq!(look(three), Some(held(first, "of one")));
        let replace = |node: &Node, version, text: Option<&'static str>| {
            let text = text.map(Into::into);
            node.wait(node.claims().replace("k", version, text)).expect("reached")
        };
        let second = replace(two, first, Some("changed")).expect("that version");
        assert_ne!(second, first);
        // The first version is not there any more.
        assert_eq!(replace(one, first, Some("too late")), None);
        assert_eq!(replace(one, first, None), None);
        assert_eq!(look(one), Some(held(second, "changed")));
        assert_eq!(replace(three, second, None), Some(second));
        assert_eq!(look(one), None);
        // It is free again. Of three that claim it at once, one has it.
        for round in 0..5 {
            let name = format!("at-once-{round}");
            let claims = world.nodes.iter().map(|node| node.claims().claim(&name, "mine".into()));
            let claims = one.wait(join_all(claims));
            let own = claims.iter().filter(|claimed| matches!(claimed, Ok(Claimed::Now(_))));
            assert_eq!(own.count(), 1, "{claims:?}");
        }
    });
}
