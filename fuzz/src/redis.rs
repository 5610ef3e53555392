//! What gateways read from a Redis server: replies to `XREAD`.

use tickgate::broker::redis;

/// The input is a reply, as the server sends it.
pub fn check(input: &[u8]) {
    for event in redis::read_reply(input) {
        assert!((1..=128).contains(&event.name.len()) && !event.name.chars().any(char::is_control));
        let data = std::str::from_utf8(&event.data).expect("JSON is UTF-8");
        assert!(tickgate_protocol::json::check_value(data).is_ok());
    }
}
