//! A changed configuration in a running gateway: what stands below a tenant changes for that tenant only.

use tickgate::gateway::ReloadError;

use super::*;

/// The configuration of this text, with the secrets of the tests.
pub(super) fn load(toml: &str) -> Config {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("tickgate.toml");
    std::fs::write(&file, toml).expect("written");
    let environment = Environment::of([
        ("SECRET_0", SECRETS[0]),
        ("SECRET_1", SECRETS[1]),
        ("SECRET_2", SECRETS[2]),
        ("KEY_0", ADMIN_KEYS[0]),
        ("KEY_1", ADMIN_KEYS[1]),
        ("KEY_2", ADMIN_KEYS[2]),
        ("VIEWER_KEY", VIEWER),
        ("NEW_SECRET", "the new secret of the first tenant, 32"),
    ]);
    Config::load(Some(&file), &environment).unwrap_or_else(|error| panic!("{error}"))
}

/// The status of a handshake on the endpoint of a tenant.
fn status(world: &World, path: &str, token: &str) -> u16 {
    let headers = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    request(world.public, "GET", &format!("/{path}?token={token}"), headers, "").status
}

#[test]
fn a_reload_changes_one_tenant_and_leaves_the_others() {
    let world = World::start();
    world.publish_health();
    let handle = world.gateway.handle();
    let before = load(&toml());
    let (one, two) = (token(1, "4", "trader"), token(2, "4", "trader"));
    let mut stays = world.client(1, "4");

    // The first tenant gets another key, a longer event and one more endpoint.
    let changed = toml().replace("SECRET_1", "NEW_SECRET").replace(
        "name = \"one\"\n",
        "name = \"one\"\n[tenant.limits]\nevent_bytes = 2000\n[[tenant.endpoint]]\npath = \"/more\"\ndialect = \"native\"\n",
    );
    let after = load(&changed);
    let changes = before.changes(&after);
    assert_eq!(changes.need_restart, Vec::<String>::new(), "{changes:?}");
    assert!(
        changes.reloaded.iter().all(|key| key.starts_with("tenant[0].")),
        "{changes:?}"
    );
    handle.reload(after.gateway(10_000)).expect("taken over");
    assert_eq!((status(&world, "one", &one), status(&world, "two", &two)), (401, 101));
    // A user may have two connections, and the gateway may not have seen the end of an earlier one.
    let new = |user: &str| {
        let key = Key::hmac(Algorithm::Hs256, b"the new secret of the first tenant, 32", false).expect("a good key");
        token_by(key, user, "trader")
    };
    let statuses = (status(&world, "one", &new("5")), status(&world, "more", &new("6")));
    assert_eq!(statuses, (101, 101));
    let long = json!({ "channel": "grid.a", "event": "e", "data": "x".repeat(2_100) }).to_string();
    let publish = |index: usize| world.admin(index, "POST", "/api/publish", &long).status;
    assert_eq!([0, 1, 2].map(publish), [200, 413, 200]);
    // Who was connected stays.
    hears_nothing(&mut stays, "an open connection");

    // Another tenant, or another name, needs a restart: such a file changes nothing.
    for (user, other) in ["7", "8"].into_iter().zip([
        changed.replace("name = \"two\"", "name = \"three\""),
        changed.replace("NEW_SECRET", "SECRET_1") + "[[tenant]]\nname = \"four\"\n",
    ]) {
        let refused = handle.reload(load(&other).gateway(10_000)).expect_err("other tenants");
        assert_eq!(refused, ReloadError::Tenants);
        assert!(refused.to_string().contains("only after a restart"), "{refused}");
        assert_eq!(
            (status(&world, "one", &new(user)), status(&world, "one", &one)),
            (101, 401)
        );
    }
}
