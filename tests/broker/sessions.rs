//! Socket.IO sessions that ended and that the broker keeps.

use tickgate::session::Suspended;
use tickgate::suspended::{Claim, Record};
use tickgate_protocol::channel::{Pattern, Tenant};

use crate::node::until;
use crate::world::World;

fn claim(user: Option<&str>) -> Claim {
    Claim {
        pid: "9abc > * -1".into(),
        tenant: Tenant::DEFAULT,
        user: user.map(Into::into),
    }
}

#[test]
pub(crate) fn a_session_is_taken_back_once_at_any_gateway_and_by_its_user_in_time() {
    World::each(|name, mut world| {
        let now = world.nodes[0].now();
        let own = Record {
            pid: claim(None).pid,
            tenant: Tenant::DEFAULT,
            epoch: world.nodes[0].hub.epoch(),
            until_unix_ms: now.unix_ms + 120_000,
            suspended: Suspended {
                user: Some("u1".into()),
                patterns: vec![(Pattern::parse("grid.*").expect("valid"), None)],
                window_ms: 120_000,
                subscribed_at: 7,
            },
        };
        let late = Record {
            until_unix_ms: now.unix_ms - 1,
            ..own.clone()
        };
        if !world.is_shared() {
            // One that stands alone keeps it itself.
            assert_eq!(world.nodes[0].broker.keep_session(own.clone()), Err(own), "{name}");
            return;
        }
        let keep = |world: &World, record: &Record| {
            let kept = world.nodes[0].broker.keep_session(record.clone());
            assert_eq!(kept, Ok(()), "{name}");
        };
        let taken = |world: &mut World, node: usize| world.nodes[node].take_session(claim(Some("u1")));
        assert_eq!(taken(&mut world, 1), None, "nothing was kept yet");
        keep(&world, &own);
        for user in [Some("u2"), None] {
            assert_eq!(world.nodes[1].take_session(claim(user)), None, "it stays for its user");
        }
        let mut found = None;
        until("the session", || {
            found = taken(&mut world, 1);
            found.is_some()
        });
        assert_eq!(found.as_ref(), Some(&own));
        assert_eq!([0, 1, 2].map(|node| taken(&mut world, node)), [None, None, None]);
        // Two gateways are asked at once. One of them has it.
        for _ in 0..10 {
            keep(&world, &own);
            until("the session", || {
                (1..3).for_each(|node| world.nodes[node].ask_for_session(claim(Some("u1"))));
                let answers = [1, 2].map(|node: usize| world.nodes[node].session_answer());
                assert!(!answers.iter().all(Option::is_some), "{name}: it was given out twice");
                answers.iter().any(Option::is_some)
            });
        }
        // The message behind it tells that the first one has arrived.
        keep(&world, &late);
        let other = Record {
            pid: "other".into(),
            ..own.clone()
        };
        keep(&world, &other);
        let behind = Claim {
            pid: "other".into(),
            ..claim(Some("u1"))
        };
        until("the session behind", || {
            world.nodes[2].take_session(behind.clone()).is_some()
        });
        assert_eq!(taken(&mut world, 2), None, "its time is over");
    });
}
