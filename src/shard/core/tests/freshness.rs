//! Silent channels, as their subscribers are told of them.

use serde_json::{Value, json};

use super::*;

fn tell(rig: &mut Rig, stale: &[&str], fresh: &[&str]) {
    let channels = |names: &[&str]| names.iter().map(|name| Channel::parse(name).expect("valid")).collect();
    rig.message(ShardMessage::Freshness {
        stale: channels(stale),
        fresh: channels(fresh),
    });
}

/// The type, the count and the names of each message.
fn told(rig: &mut Rig, id: ConnectionId) -> Vec<(Value, Value, Value)> {
    let messages = rig.read(id);
    let parts = |message: &Received| {
        let message = message.text();
        let data = &message["data"];
        (message["type"].clone(), data["count"].clone(), data["channels"].clone())
    };
    messages.iter().map(parts).collect()
}

#[test]
fn each_subscriber_is_told_once_of_its_own_channels() {
    let mut rig = Rig::new();
    let (wide, narrow, other) = (rig.connect(), rig.connect(), rig.connect());
    for (id, patterns) in [(wide, &["a.*", "*.one"][..]), (narrow, &["a.two"]), (other, &["c.*"])] {
        for pattern in patterns {
            rig.subscribe(id, pattern);
        }
        rig.read(id);
    }
    tell(&mut rig, &["a.one", "a.two", "b.one"], &[]);
    let stale = |count: u64, names: Value| vec![(json!("stale"), json!(count), names)];
    let of_wide = told(&mut rig, wide);
    assert_eq!(
        (of_wide.len(), &of_wide[0].0, &of_wide[0].1),
        (1, &json!("stale"), &json!(3))
    );
    assert_eq!(told(&mut rig, narrow), stale(1, json!(["a.two"])));
    assert_eq!(told(&mut rig, other), []);
    tell(&mut rig, &["c.x"], &["a.two"]);
    assert_eq!(told(&mut rig, narrow), [(json!("fresh"), json!(1), json!(["a.two"]))]);
    assert_eq!(told(&mut rig, other), stale(1, json!(["c.x"])));
}

#[test]
fn no_more_than_32_channels_are_named_and_all_are_counted() {
    let mut rig = Rig::new();
    let id = rig.connect();
    rig.subscribe(id, "a.*");
    rig.subscribe(id, "b.*");
    rig.read(id);
    let names: Vec<String> = ["a", "b"]
        .into_iter()
        .flat_map(|of| (0..20).map(move |n| format!("{of}.{n}")))
        .collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    tell(&mut rig, &names, &[]);
    let told = told(&mut rig, id);
    assert_eq!((told.len(), &told[0].1), (1, &json!(40)));
    assert_eq!(told[0].2.as_array().map(Vec::len), Some(32));
}

#[test]
fn channels_for_admins_are_named_to_no_other_client() {
    let mut rig = Rig::new();
    let trader = Permissions {
        admin: false,
        ..(*identity(None).permissions).clone()
    };
    let settings = session_settings(Mode::Optional, Limits::default());
    let [admin, user] = [identity(Some("root")), identity_with(Some("u1"), trader)]
        .map(|who| rig.connect_with(settings.clone(), Ok(Some(who)), true));
    for id in [admin, user] {
        rig.subscribe(id, "system.*");
        rig.read(id);
    }
    tell(&mut rig, &["system.gateway.n1"], &[]);
    assert_eq!((told(&mut rig, admin).len(), told(&mut rig, user).len()), (1, 0));
}
