//! The cache, and the promise that every request is answered once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::*;
use crate::auth::tests::sign::{hs256, hs256_keys};
use crate::auth::{Algorithm, Key, Permissions};
use crate::shard::mailbox::{Mailbox, mailbox};

const NOW_MS: u64 = 1_703_846_400_000;

fn settings() -> Settings {
    Settings::new(hs256_keys(), auth::Settings::default())
}

fn token(user: usize, exp: u64) -> String {
    hs256(&format!(r#"{{"sub":{user},"exp":{exp}}}"#))
}

/// Still good when the test runs, whenever that is.
fn lasting(user: usize) -> String {
    token(user, 253_402_300_000)
}

fn connection(shard: u16, slot: u32) -> ConnectionId {
    ConnectionId {
        shard,
        slot,
        generation: 1,
    }
}

type Answer = (ConnectionId, u32, Result<Arc<Identity>, TokenError>);

/// Takes `count` answers out of a shard's mailbox, and then checks that no more are there.
fn answers(mailbox: &mut Mailbox, count: usize) -> Vec<Answer> {
    let deadline = Instant::now() + Duration::from_secs(20);
    let mut all = Vec::new();
    while all.len() < count {
        match mailbox.pop() {
            Some(ShardMessage::Verified { to, request, outcome }) => all.push((to, request, outcome)),
            Some(_) => panic!("a verifier sends nothing else"),
            None if Instant::now() > deadline => panic!("{} of {count} answers", all.len()),
            None => std::thread::yield_now(),
        }
    }
    assert!(mailbox.is_empty());
    all
}

fn rules(keys: KeySet) -> Vec<TokenRules> {
    let settings = auth::Settings::default();
    vec![TokenRules { keys, settings }]
}

fn key(token: &str) -> [u8; 32] {
    cache::key(Tenant::DEFAULT, token)
}

fn user(outcome: &Result<Arc<Identity>, TokenError>) -> Option<&str> {
    outcome.as_ref().ok().and_then(|identity| identity.user.as_deref())
}

#[test]
fn a_revoked_token_is_refused_from_the_cache_too_and_its_connections_are_ended() {
    let (hub, inboxes) = crate::hub::Hub::new(crate::hub::Settings::default(), 2, |_, _| bytes::Bytes::new());
    let (shards, mut mailboxes): (Vec<_>, Vec<Mailbox>) = inboxes
        .iter()
        .map(|inbox| mailbox(Arc::clone(inbox.doorbell()), Arc::default()))
        .unzip();
    drop(hub);
    let verifier = Verifier::start(settings(), shards).expect("started");
    let issued = |seconds: u64| {
        let exp = NOW_MS / 1000 + 60;
        hs256(&format!(
            r#"{{"sub":42,"iat":{seconds},"exp":{exp},"jti":"t-{seconds}"}}"#
        ))
    };
    let (old, new) = (issued(NOW_MS / 1000 - 10), issued(NOW_MS / 1000));
    let verify = |token: &str| verifier.verify(Tenant::DEFAULT, token, NOW_MS);
    assert!(
        verify(&old).is_ok() && verify(&new).is_ok(),
        "both are in the cache now"
    );
    let of_user = Revocation {
        tenant: Tenant::DEFAULT,
        tokens: crate::auth::RevokedTokens::OfUser {
            user: "42".into(),
            issued_before_ms: NOW_MS,
        },
        until_unix_ms: NOW_MS + 60_000,
    };
    let ended = Arc::new(AtomicUsize::new(0));
    let count = || -> Box<dyn FnOnce(usize) + Send> {
        let ended = Arc::clone(&ended);
        Box::new(move |count| {
            ended.fetch_add(count, Relaxed);
        })
    };
    verifier.revoke(of_user.clone(), NOW_MS, count).expect("room");
    let refused = verify(&old).expect_err("revoked");
    assert_eq!(refused.code, ErrorCode::TokenInvalid);
    assert!(verify(&new).is_ok(), "issued later");
    assert_eq!(verifier.metrics().revoked.get(), 1);
    for mailbox in &mut mailboxes {
        match mailbox.pop() {
            Some(ShardMessage::Revoke { revocation, reply }) => {
                assert_eq!(*revocation, of_user);
                reply(2);
            }
            _ => panic!("a verifier tells each shard"),
        }
    }
    assert_eq!(ended.load(Relaxed), 4);
}

#[test]
fn a_verified_token_is_remembered_until_it_ends() {
    let verifier = Verifier::start(settings(), Vec::new()).expect("started");
    let token = token(42, NOW_MS / 1000 + 60);
    let first = verifier.verify(Tenant::DEFAULT, &token, NOW_MS).expect("good");
    let second = verifier
        .verify(Tenant::DEFAULT, &token, NOW_MS + 64_999)
        .expect("good, within the leeway");
    assert!(Arc::ptr_eq(&first, &second));
    let expired = verifier
        .verify(Tenant::DEFAULT, &token, NOW_MS + 65_000)
        .expect_err("expired");
    assert_eq!(expired.code, ErrorCode::TokenExpired);
    assert_eq!(verifier.shared.cache.len(), 0, "an expired token is forgotten");
    let other = format!("{token}x");
    assert_eq!(
        verifier.verify(Tenant::DEFAULT, &other, NOW_MS).expect_err("bad").code,
        ErrorCode::TokenInvalid
    );
    assert_eq!(verifier.shared.cache.len(), 0, "a bad token is not remembered");
    let metrics = verifier.metrics();
    let counts = [
        &metrics.cache_hits,
        &metrics.verified,
        &metrics.expired,
        &metrics.invalid,
        &metrics.overloaded,
    ];
    assert_eq!(counts.map(Counter::get), [1, 1, 1, 1, 0]);
}

#[test]
fn the_cache_is_bounded_and_keeps_used_tokens() {
    let cache = Cache::new(320);
    let identity = || {
        Arc::new(Identity {
            tenant: tickgate_protocol::channel::Tenant::DEFAULT,
            expires_at_ms: Some(1_000),
            ..Identity::anonymous(Arc::new(Permissions::default()))
        })
    };
    let kept = cache.put(key("kept"), identity(), 0);
    for n in 0..5_000 {
        let name = format!("token {n}");
        let put = cache.put(key(&name), identity(), 0);
        let got = cache.get(&key(&name), 999).expect("just put");
        assert!(Arc::ptr_eq(&put, &got));
        assert!(Arc::ptr_eq(
            &kept,
            &cache.get(&key("kept"), 999).expect("always in use")
        ));
        assert!(cache.len() <= 320 + 2 * 16, "{}", cache.len());
    }
    assert!(cache.get(&key("token 0"), 999).is_none(), "long unused");
    assert!(
        Arc::ptr_eq(&kept, &cache.put(key("kept"), identity(), 0)),
        "the first instance stays shared"
    );
    assert!(
        cache.get(&key("kept"), 1_000).is_none() && cache.get(&key("kept"), 0).is_none(),
        "it ended"
    );
    let none = Cache::new(0);
    none.put(key("x"), identity(), 0);
    assert!(none.get(&key("x"), 0).is_none() && none.len() == 0);
}

#[test]
fn every_request_is_answered_once_in_order_and_to_its_shard() {
    let (handles, mut mailboxes): (Vec<_>, Vec<_>) = (0..2).map(|_| mailbox(Arc::default(), Arc::default())).unzip();
    let verifier = Verifier::start(settings(), handles).expect("started");
    for n in 0..300_u32 {
        let token = match n % 3 {
            0 => token(7, 1),
            1 => "nonsense".to_owned(),
            _ => lasting(n as usize),
        };
        verifier.request(connection((n % 2) as u16, n % 10 / 2), n, Tenant::DEFAULT, token.into());
    }
    for (shard, mailbox) in mailboxes.iter_mut().enumerate() {
        let mut last: BTreeMap<u32, u32> = BTreeMap::new();
        for (to, n, outcome) in answers(mailbox, 150) {
            assert_eq!((usize::from(to.shard), to.slot), (n as usize % 2, n % 10 / 2));
            assert_eq!(usize::from(to.shard), shard);
            assert!(last.insert(to.slot, n).is_none_or(|before| before < n), "{n} came late");
            let code = outcome.as_ref().err().map(|error| error.code);
            match n % 3 {
                0 => assert_eq!(code, Some(ErrorCode::TokenExpired)),
                1 => assert_eq!(code, Some(ErrorCode::TokenInvalid)),
                _ => assert_eq!(user(&outcome), Some(n.to_string().as_str())),
            }
        }
    }
    assert_eq!(verifier.shared.queued_bytes.load(Relaxed), 0);
}

#[test]
fn requests_beyond_the_queue_are_answered_at_once() {
    let (handle, mut mailbox) = mailbox(Arc::default(), Arc::default());
    let settings = Settings {
        threads: 1,
        queue_requests: 4,
        cache_tokens: 0,
        ..settings()
    };
    let verifier = Verifier::start(settings, vec![handle]).expect("started");
    let token = lasting(42);
    let mut asked = 0;
    // The thread takes some out while this one asks; in the end it is behind.
    while verifier.metrics().overloaded.get() == 0 {
        verifier.request(connection(0, 0), asked, Tenant::DEFAULT, token.as_str().into());
        asked += 1;
    }
    let answers = answers(&mut mailbox, asked as usize);
    let mut numbers: Vec<u32> = answers.iter().map(|(_, request, _)| *request).collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(0..asked), "each once");
    let refused = answers.iter().filter_map(|(_, _, outcome)| outcome.as_ref().err());
    assert_eq!(
        refused.map(|error| error.code).collect::<Vec<_>>(),
        [ErrorCode::Internal]
    );
}

#[test]
fn waiting_bytes_are_bounded_too() {
    let (handle, mut mailbox) = mailbox(Arc::default(), Arc::default());
    let settings = Settings {
        queue_bytes: 0,
        ..settings()
    };
    let verifier = Verifier::start(settings, vec![handle]).expect("started");
    verifier.request(connection(0, 0), 1, Tenant::DEFAULT, lasting(42).into());
    let (_, _, outcome) = answers(&mut mailbox, 1).remove(0);
    assert_eq!(outcome.expect_err("no room").code, ErrorCode::Internal);
    assert_eq!(verifier.shared.queued_bytes.load(Relaxed), 0);
}

#[test]
fn a_token_that_is_too_long_does_not_wait() {
    let (handle, mut mailbox) = mailbox(Arc::default(), Arc::default());
    let verifier = Verifier::start(settings(), vec![handle]).expect("started");
    verifier.request(
        connection(0, 0),
        1,
        Tenant::DEFAULT,
        "x".repeat(TOKEN_BYTES_MAX + 1).into(),
    );
    assert_eq!(mailbox.len(), 1, "answered before `request` returned");
    let (_, _, outcome) = answers(&mut mailbox, 1).remove(0);
    assert_eq!(outcome.expect_err("too long"), TokenError::too_long());
}

#[test]
fn a_dropped_verifier_replies_to_waiting_requests() {
    let (handle, mut mailbox) = mailbox(Arc::default(), Arc::default());
    let verifier = Verifier::start(settings(), vec![handle]).expect("started");
    for n in 0..200 {
        verifier.request(connection(0, n), n, Tenant::DEFAULT, lasting(n as usize).into());
    }
    drop(verifier);
    assert!(
        answers(&mut mailbox, 200)
            .iter()
            .all(|(_, n, outcome)| user(outcome) == Some(n.to_string().as_str()))
    );
}

#[test]
fn requests_of_ended_and_unknown_shards_are_dropped() {
    let (handle, mailbox) = mailbox(Arc::default(), Arc::default());
    drop(mailbox);
    let verifier = Verifier::start(settings(), vec![handle]).expect("started");
    verifier.request(connection(0, 0), 1, Tenant::DEFAULT, lasting(1).into());
    verifier.request(connection(9, 0), 2, Tenant::DEFAULT, lasting(2).into());
    let deadline = Instant::now() + Duration::from_secs(20);
    while verifier.shared.queued_bytes.load(Relaxed) > 0 {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    assert!(verifier.verify(Tenant::DEFAULT, &lasting(3), NOW_MS).is_ok());
}

#[test]
fn replaced_rules_decide_about_the_next_token_and_forget_the_cache() {
    let verifier = Verifier::start(settings(), Vec::new()).expect("started");
    let token = token(42, NOW_MS / 1000 + 60);
    verifier.verify(Tenant::DEFAULT, &token, NOW_MS).expect("a good token");
    verifier.replace(rules(KeySet::default()));
    assert!(
        verifier.verify(Tenant::DEFAULT, &token, NOW_MS).is_err(),
        "no key is left, and nothing is cached"
    );
    verifier.replace(rules(hs256_keys()));
    verifier.verify(Tenant::DEFAULT, &token, NOW_MS).expect("good again");
    verifier.verify(Tenant::DEFAULT, &token, NOW_MS).expect("cached");
    assert_eq!(verifier.metrics().cache_hits.get(), 1);

    // A verification that began by earlier rules stores nothing.
    let cache = Cache::new(64);
    cache.clear(1);
    let identity = Arc::new(Identity::anonymous(Arc::new(Permissions::default())));
    cache.put(key("late"), Arc::clone(&identity), 0);
    assert!(cache.get(&key("late"), 0).is_none());
    cache.put(key("new"), identity, 1);
    assert!(cache.get(&key("new"), 0).is_some());
}

#[test]
fn each_tenant_accepts_the_tokens_of_its_own_keys() {
    let other = Tenant::new(1).expect("a tenant");
    let mut settings = settings();
    settings.tenants.push(TokenRules {
        keys: KeySet::new(vec![
            Key::hmac(Algorithm::Hs256, b"another secret of thirty-two bytes", false).expect("a good key"),
        ]),
        settings: auth::Settings {
            tenant: other,
            ..auth::Settings::default()
        },
    });
    let verifier = Verifier::start(settings, Vec::new()).expect("started");
    let token = lasting(4);
    // Twice, because the second answer may come from the cache.
    for _ in 0..2 {
        let identity = verifier.verify(Tenant::DEFAULT, &token, NOW_MS).expect("its own");
        assert_eq!(identity.tenant, Tenant::DEFAULT);
        let refused = verifier.verify(other, &token, NOW_MS).expect_err("another tenant's");
        assert_eq!(refused.code, ErrorCode::TokenInvalid);
    }
    assert_eq!(
        verifier.verify_any(&token, NOW_MS).expect("somebody's").tenant,
        Tenant::DEFAULT
    );
    let expired = verifier
        .verify_any(&super::tests::token(4, 1), NOW_MS)
        .expect_err("too old");
    assert_eq!(
        expired.code,
        ErrorCode::TokenExpired,
        "that another tenant's key does not fit says less"
    );
}
