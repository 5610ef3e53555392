//! What a client comes back with (cursors, keys of commands, sessions of Socket.IO), and what is polled for it (feeds).

use super::*;

impl World {
    /// A client without subscriptions.
    fn open(&self, index: usize, user: &str) -> Client<TcpStream> {
        let target = format!("/{}?token={}", NAMES[index], token(index, user, "trader"));
        Client::open(connect(self.public), &target)
    }

    /// Waits until the gateway has seen the end of all connections of a user.
    fn is_gone(&self, user: &str) {
        let target = format!("/api/websocket/clients?user={user}");
        until("the end of the user's connections", || {
            let list = self.admin_as(OPERATOR, "GET", &target, "").json();
            list["clients"].as_array().is_some_and(Vec::is_empty)
        });
    }
}

/// A session of Socket.IO over a WebSocket.
struct SocketIo {
    client: Client<TcpStream>,
    pid: String,
}

impl SocketIo {
    /// Connects to the namespace with a token of the endpoint's tenant, and with what is left of an earlier session.
    fn connect(world: &World, index: usize, user: &str, earlier: Option<(&str, &Value)>) -> Self {
        let target = format!("/{}/socket.io?EIO=4&transport=websocket", NAMES[index]);
        let mut client = Client::open(connect(world.public), &target);
        let mut payload = json!({ "token": token(index, user, "trader") });
        if let Some((pid, offset)) = earlier {
            payload["pid"] = json!(pid);
            payload["offset"] = offset.clone();
        }
        client.send(&format!("40{payload}"));
        let mut session = Self {
            client,
            pid: String::new(),
        };
        let connected: Value = serde_json::from_str(&session.packet("40")).expect("JSON");
        session.pid = connected["pid"].as_str().expect("a secret name").to_owned();
        session
    }

    /// The rest of the next packet, which must begin so. Pings of Engine.IO may come before it.
    fn packet(&mut self, start: &str) -> String {
        let mut text = self.client.text();
        while text == "2" || text.starts_with('0') {
            text = self.client.text();
        }
        let rest = text.strip_prefix(start);
        rest.unwrap_or_else(|| panic!("{start} expected: {text}")).to_owned()
    }

    /// The next event: its name, its message and its offset.
    fn event(&mut self) -> (String, Value, Value) {
        let event: Value = serde_json::from_str(&self.packet("42")).expect("JSON");
        let name = event[0].as_str().expect("a name").to_owned();
        (name, event[1].clone(), event[2].clone())
    }

    /// Subscribes; returns the offset of the answer.
    fn subscribe(&mut self, channel: &str) -> Value {
        let message = json!(["subscribe", { "channels": [channel] }]);
        self.client.send(&format!("42{message}"));
        let (name, answer, offset) = self.event();
        assert_eq!(name, "subscribed", "{answer}");
        offset
    }
}

/// The form of the ways in `main.rs`.
pub(super) const WAYS: &[Way] = &[
    ("cursors", |world| {
        let subscribe = |client: &mut Client<TcpStream>, cursor: Option<&Value>| {
            let mut message = json!({ "type": "subscribe", "channels": ["grid.back.*"] });
            if let Some(cursor) = cursor {
                message["cursor"] = cursor.clone();
            }
            client.send(&message.to_string());
            let answer = client.json();
            assert_eq!(answer["type"], "subscribed", "{answer}");
            answer
        };
        let cursors = [0, 1, 2].map(|index| subscribe(&mut world.open(index, "31"), None)["cursor"].clone());
        for index in [0, 1, 2] {
            world.publish(index, "grid.back.order", NAMES[index]);
        }
        for (at, of) in [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (2, 1), (2, 2)] {
            world.is_gone("31");
            let mut client = world.open(at, "31");
            let answer = subscribe(&mut client, Some(&cursors[of]));
            let recovered = &answer["data"]["recovered"];
            assert_eq!(*recovered == json!(true), at == of, "{answer}");
            if at == of {
                assert_eq!(data(&mut client), NAMES[at]);
                assert_eq!(client.json()["type"], "cursor", "the end of what it missed");
            }
            hears_nothing(&mut client, NAMES[at]);
        }
    }),
    ("keys of commands", |world| {
        for index in [0, 1, 2] {
            let mut client = world.open(index, "32");
            let mut ask = |message: &Value| {
                client.send(&message.to_string());
                client.json()
            };
            let status = json!({ "type": "command_status", "id": 1, "key": "k" });
            assert_eq!(ask(&status)["error"]["code"], "UNKNOWN_KEY");
            let command = json!({ "type": "command", "id": 2, "action": "same.action", "key": "k" });
            // The second time it is the recorded outcome.
            for _ in 0..2 {
                let response = ask(&command);
                let name = (index > 0).then(|| NAMES[index]);
                assert_eq!(
                    (&response["success"], &response["data"]),
                    (&json!(true), &json!(name)),
                    "{response}"
                );
            }
            assert_eq!(ask(&status)["data"]["state"], "done");
        }
    }),
    ("Socket.IO sessions", |world| {
        let open = request(world.public, "GET", "/one/socket.io?EIO=4&transport=polling", "", "");
        let open: Value = serde_json::from_str(&open.body[1..]).expect("the open packet");
        let poll = |name: &str| {
            let sid = open["sid"].as_str().expect("an id");
            let target = format!("/{name}/socket.io?EIO=4&transport=polling&sid={sid}");
            request(world.public, "POST", &target, "", "40")
        };
        let stolen = poll("two");
        assert_eq!(
            (stolen.status, stolen.json()["message"].as_str()),
            (400, Some("Session ID unknown"))
        );
        assert_eq!(poll("one").status, 200);
    }),
    ("Socket.IO sessions that come back", |world| {
        for (at, of) in [(0, 1), (1, 0), (1, 2), (1, 1), (0, 0)] {
            let channel = format!("grid.left{at}{of}.order");
            let mut first = SocketIo::connect(world, of, "33", None);
            assert_eq!(first.event().0, "connected");
            let offset = first.subscribe(&channel);
            let pid = first.pid.clone();
            drop(first);
            world.is_gone("33");
            for index in [0, 1, 2] {
                world.publish(index, &channel, NAMES[index]);
            }
            let mut second = SocketIo::connect(world, at, "33", Some((&pid, &offset)));
            assert_eq!(second.pid == pid, at == of, "{at} {of}");
            assert_eq!(second.event().0, "connected");
            if at == of {
                let missed = second.event().1;
                assert_eq!(missed["data"], NAMES[of], "{missed}");
                assert_eq!(second.event().0, "cursor", "the end of what it missed");
            }
            second.client.send(r#"42["get_status",{}]"#);
            let (name, status, _) = second.event();
            assert_eq!(name, "status", "nothing else comes: {status}");
            let held = if at == of { json!([channel]) } else { json!([]) };
            assert_eq!(status["subscriptions"], held, "{status}");
            drop(second);
            world.is_gone("33");
        }
    }),
    ("feeds", |world| {
        let of = |index: usize| format!(r#"[{{"code":"a","of":"{}"}}]"#, NAMES[index]);
        let path = |index: usize| format!("/{}/x", NAMES[index]);
        for index in [0, 1, 2] {
            world.source.set(&path(index), &of(index));
        }
        let mut clients = [0, 1, 2].map(|index| world.open(index, "34"));
        for index in [0, 2] {
            clients[index].subscribe(&["strategy.*"]);
        }
        clients[1].subscribe(&["strategy.x.prices"]);
        let records = |client: &mut Client<TcpStream>| data(client).to_string();
        assert_eq!(records(&mut clients[1]), of(1));
        // A subscriber starts the polls of its own tenant only, and only they are told of.
        for index in [0, 2] {
            assert_eq!(world.source.asked(&path(index)), 0, "{}", NAMES[index]);
            hears_nothing(&mut clients[index], NAMES[index]);
        }
        let push = world.admin(2, "POST", "/api/websocket/push/prices?strategy=x", "");
        assert_eq!(push.json(), json!({ "pushed": 1 }), "{push:?}");
        assert_eq!(records(&mut clients[2]), of(2));
        assert_eq!(world.source.asked(&path(0)), 0);
        for index in [0, 1] {
            hears_nothing(&mut clients[index], NAMES[index]);
        }
        // Statistics of a tenant show its own feed.
        for index in [1, 2] {
            let stats = world.admin(index, "GET", "/api/websocket/stats", "").json();
            let feeds = stats["feeds"].as_array().expect("a list");
            let polled = feeds.iter().filter(|feed| feed["polls"].as_u64() > Some(0));
            assert_eq!((feeds.len(), polled.count()), (1, 1), "{stats}");
        }
    }),
];
