//! What the administrators of one tenant see and do by the API and by the console: their own part, and nothing else.

use super::*;

impl World {
    /// Publishes the health of each tenant, as backends do. The gateway leaves it to them for fifteen seconds then, so that no
    /// client hears of it in between.
    pub(super) fn publish_health(&self) {
        for index in [0, 1, 2] {
            let body = r#"{"channel":"system.health","event":"update","data":{}}"#;
            assert_eq!(self.admin(index, "POST", "/api/publish", body).status, 200);
        }
    }
}

/// The form of the ways in `main.rs`.
pub(super) const WAYS: &[Way] = &[
    ("lists, statistics and the end of connections", |world| {
        let mut clients = [0, 1, 2].map(|index| world.client(index, "8"));
        let list = |bearer: &str, query: &str| {
            let answer = world.admin_as(bearer, "GET", &format!("/api/websocket/clients?user=8{query}"), "");
            answer.json()["clients"].as_array().expect("a list").clone()
        };
        for index in [1, 2] {
            let own = list(ADMIN_KEYS[index], "");
            assert_eq!((own.len(), &own[0]["tenant"]), (1, &json!(NAMES[index])));
        }
        assert_eq!(list(OPERATOR, "").len(), 3, "the operator sees all");
        assert_eq!(list(OPERATOR, "&tenant=default").len(), 1);

        let stats = |index: usize| world.admin(index, "GET", "/api/websocket/stats", "").json();
        until("earlier clients are gone", || {
            (1..3).all(|index| stats(index)["active_connections"] == 1)
        });
        for index in [1, 2] {
            let stats = stats(index);
            assert_eq!(
                (&stats["tenant"], &stats["subscriptions_total"]),
                (&json!(NAMES[index]), &json!(3)),
                "{stats}"
            );
            assert!(
                stats.get("process").is_none() && stats.get("shards").is_none(),
                "{stats}"
            );
        }
        let id = list(ADMIN_KEYS[2], "")[0]["client_id"]
            .as_str()
            .expect("an id")
            .to_owned();
        let target = format!("/api/websocket/clients/{id}");
        assert_eq!(
            world.admin(1, "DELETE", &target, "").status,
            404,
            "another tenant's connection"
        );
        let broadcast = world.admin(1, "POST", "/api/websocket/broadcast/test", "").json();
        assert_eq!(broadcast["queued"], 1);
        // The audit trail of the tenant's administrators is the tenant's own.
        let is_audit = |next: &Value| next["channel"] == "system.log";
        let next = std::iter::repeat_with(|| clients[1].json()).find(|next| !is_audit(next));
        assert_eq!(next.expect("endless")["channel"], "system.test");
        assert_eq!(world.admin(1, "DELETE", "/api/users/8/connections", "").status, 204);
        assert_eq!(clients[1].close_code(), Some(4003));
        for index in [0, 2] {
            hears_nothing(&mut clients[index], NAMES[index]);
        }
        assert_eq!(world.admin(2, "DELETE", &target, "").status, 204);
        assert_eq!(clients[2].close_code(), Some(4003));
    }),
    ("users", |world| {
        let mut clients = [0, 1, 2].map(|index| world.client(index, "21"));
        clients[2].send(r#"{"type":"command","id":1,"action":"only.two"}"#);
        while clients[2].json()["type"] != "response" {}
        for index in [0, 1, 2] {
            let bearer = token(index, "boss", "admin");
            let user = world.admin_as(&bearer, "GET", "/api/users/21", "").json();
            let connections = user["connections"].as_array().expect("a list");
            assert_eq!(
                (connections.len(), &connections[0]["tenant"]),
                (1, &json!(NAMES[index])),
                "{user}"
            );
            assert_eq!(connections[0]["subscribed"].as_array().map(Vec::len), Some(3), "{user}");
            let commands = user["commands"].as_array().expect("a list");
            assert_eq!(commands.len(), usize::from(index == 2), "{user}");
            let verdict = world.admin_as(&bearer, "GET", "/api/users/21/explain?subscribe=grid.a", "");
            assert_eq!(verdict.json()["allowed"], true, "{verdict:?}");
        }
        let chosen = world.admin_as(OPERATOR, "GET", "/api/users/21?tenant=two", "").json();
        assert_eq!(chosen["connections"][0]["tenant"], "two", "{chosen}");
        drop(clients);
        // An ending of a user is remembered for the user's tenant only.
        until("the endings of two", || {
            let ended = world.admin(2, "GET", "/api/endings?user=21", "").json();
            ended["recent"].as_array().map(Vec::len) == Some(1)
        });
        let user = world.admin(1, "GET", "/api/users/21", "").json();
        assert_eq!(user["endings"].as_array().map(Vec::len), Some(1), "{user}");
        let all = world.admin_as(OPERATOR, "GET", "/api/endings?user=21", "").json();
        assert_eq!(all["recent"].as_array().map(Vec::len), Some(3), "{all}");
        // All endings are counted for one tenant each, whichever are remembered.
        let counted = |query: &str| {
            let endings = world
                .admin_as(OPERATOR, "GET", &format!("/api/endings{query}"), "")
                .json();
            let counts = endings["counts"].as_array().expect("a list").clone();
            counts.iter().filter_map(|count| count["count"].as_u64()).sum::<u64>()
        };
        let of = |name: &str| counted(&format!("?tenant={name}"));
        assert!(NAMES.iter().all(|name| of(name) > 0));
        until("all endings are counted", || {
            NAMES.iter().map(|name| of(name)).sum::<u64>() == counted("")
        });
    }),
    ("traces", |world| {
        let mut clients = [1, 2].map(|index| world.client(index, "22"));
        let begin = |index: usize, body: Value| {
            let answer = world.admin(index, "POST", "/api/traces", &body.to_string());
            assert_eq!(answer.status, 200, "{answer:?}");
            answer.json()["id"].as_str().expect("an id").to_owned()
        };
        let of = |index: usize| {
            let list = world.admin(index, "GET", "/api/websocket/clients?user=22", "").json();
            list["clients"][0]["client_id"].as_str().expect("an id").to_owned()
        };
        let lines = |bearer: &str, id: &str| {
            let answer = world.admin_as(bearer, "GET", &format!("/api/traces/{id}"), "");
            (answer.status == 200).then(|| answer.json()["lines"].as_array().expect("a list").clone())
        };
        let own = begin(1, json!({ "user": "22" }));
        // The client of another tenant does not exist, whoever knows its name.
        let other = begin(1, json!({ "client_id": of(2) }));
        let of_operator = begin(0, json!({ "client_id": of(2) }));
        for client in &mut clients {
            client.send(r#"{"type":"get_status"}"#);
            while client.json()["type"] != "status" {}
        }
        until("the lines of the operator's trace", || {
            lines(OPERATOR, &of_operator).is_some_and(|lines| lines.iter().any(|line| line["what"] == "in"))
        });
        let seen = lines(ADMIN_KEYS[1], &own).expect("its own");
        assert!(
            seen.iter().any(|line| line["what"] == "in") && seen.iter().all(|line| line["client_id"] == of(1)),
            "{seen:?}"
        );
        assert_eq!(lines(ADMIN_KEYS[1], &other), Some(Vec::new()));
        for id in [&of_operator, &own] {
            assert_eq!(lines(ADMIN_KEYS[2], id), None, "{id}");
            let target = format!("/api/traces/{id}");
            assert_eq!(world.admin(2, "DELETE", &target, "").status, 404);
        }
        assert_eq!(world.admin(1, "DELETE", &format!("/api/traces/{own}"), "").status, 204);
    }),
    ("the configuration", |world| {
        let keys = |bearer: &str, query: &str| {
            let answer = world.admin_as(bearer, "GET", &format!("/api/config{query}"), "").json();
            let keys = answer["keys"].as_array().expect("a list").clone();
            let names = keys.iter().map(|key| key["key"].as_str().expect("a name").to_owned());
            names.collect::<Vec<_>>()
        };
        let of_one = keys(ADMIN_KEYS[1], "");
        assert!(
            of_one.iter().any(|key| key == "tenant[0].endpoint[0].path"),
            "{of_one:?}"
        );
        assert!(of_one.iter().all(|key| key.starts_with("tenant[0].")), "{of_one:?}");
        assert_eq!(keys(OPERATOR, "?tenant=one"), of_one);
        let of_default = keys(&token(0, "boss", "admin"), "");
        let is_process = |key: &String| key.starts_with("server.") || key.starts_with("tenant[");
        assert!(of_default.iter().any(|key| key == "endpoint[0].path") && !of_default.iter().any(is_process));
        assert!(keys(OPERATOR, "").iter().any(is_process));
    }),
    ("the overview and the load", |world| {
        let _client = world.client(1, "23");
        let names = |index: usize| {
            let overview = world.admin(index, "GET", "/api/overview", "").json();
            let checks = overview["checks"].as_array().expect("a list").clone();
            checks.iter().map(|check| check["name"].clone()).collect::<Vec<_>>()
        };
        for name in ["shards", "queues", "deliveries"] {
            assert!(
                names(0).contains(&json!(name)) && !names(1).contains(&json!(name)),
                "{name}"
            );
        }
        assert!(names(1).contains(&json!("gateway")));
        let load = world.admin(1, "GET", "/api/load", "").json();
        assert!(load["series"].get("cpu").is_none(), "{load}");
        assert!(load["series"]["connections"].is_array(), "{load}");
    }),
    ("revoked tokens", |world| {
        let tokens = [0, 1, 2].map(|index| token(index, "25", "trader"));
        let mut clients = [0, 1, 2].map(|index| world.client(index, "25"));
        let revoked = world.admin(1, "POST", "/api/revocations", r#"{"sub":"25"}"#).json();
        assert_eq!(
            (&revoked["tenant"], &revoked["ended"]),
            (&json!("one"), &json!(1)),
            "{revoked}"
        );
        assert_eq!(clients[1].close_code(), Some(4006));
        for index in [0, 2] {
            hears_nothing(&mut clients[index], NAMES[index]);
            let body = r#"{"channel":"grid.r","event":"e"}"#;
            assert_eq!(world.admin_as(&tokens[index], "POST", "/api/publish", body).status, 200);
            let list = world.admin(index, "GET", "/api/revocations", "").json();
            assert_eq!(list["total"], usize::from(index == 0), "the operator sees all: {list}");
        }
        assert_eq!(world.admin_as(&tokens[1], "POST", "/api/publish", "{}").status, 401);
    }),
    ("a viewer key", |world| {
        let _clients = [0, 1, 2].map(|index| world.client(index, "26"));
        let list = world
            .admin_as(VIEWER, "GET", "/api/websocket/clients?user=26", "")
            .json();
        let clients = list["clients"].as_array().expect("a list");
        assert_eq!((clients.len(), &clients[0]["tenant"]), (1, &json!("one")), "{list}");
        let status = |method: &str, target: &str, body: &str| world.admin_as(VIEWER, method, target, body).status;
        assert_eq!(status("GET", "/api/websocket/stats?tenant=one", ""), 200);
        for name in ["default", "two", "none"] {
            let target = format!("/api/websocket/stats?tenant={name}");
            assert_eq!(status("GET", &target, ""), 403, "{name}");
        }
        for (method, target, body) in [
            ("POST", "/api/publish", r#"{"channel":"grid.v","event":"e"}"#),
            ("DELETE", "/api/users/26/connections", ""),
            ("POST", "/api/revocations", r#"{"sub":"26"}"#),
            ("POST", "/api/traces", r#"{"user":"26"}"#),
            ("GET", "/api/gateways", ""),
        ] {
            assert_eq!(status(method, target, body), 403, "{method} {target}");
        }
    }),
    ("a drain", |world| {
        for bearer in [ADMIN_KEYS[1].to_owned(), token(0, "boss", "admin")] {
            assert_eq!(
                world.admin_as(&bearer, "POST", "/api/drain", "").status,
                403,
                "{bearer}"
            );
        }
    }),
    ("what the operator does to one tenant", |world| {
        for index in [0, 1, 2] {
            world.publish(index, "grid.far.lifecycle", NAMES[index]);
        }
        let keep = |query: &str| {
            let target = format!("/api/keep_alive{query}");
            let answer = world.admin_as(OPERATOR, "POST", &target, r#"{"channels":["grid.far.*"]}"#);
            answer.json()["channels"].clone()
        };
        let delete = |query: &str| {
            let target = format!("/api/channels/grid.far.*{query}");
            world.admin_as(OPERATOR, "DELETE", &target, "").json()["deleted"].clone()
        };
        assert_eq!(
            (keep("?tenant=one"), delete("?tenant=one&reason=old")),
            (json!(1), json!(1))
        );
        assert_eq!(
            (keep("?tenant=one"), keep("?tenant=two"), keep("")),
            (json!(0), json!(1), json!(1))
        );
        assert_eq!((delete(""), delete("?tenant=two")), (json!(1), json!(1)));
    }),
    ("the console", |world| {
        let sign_in = |key: &str| {
            let body = json!({ "key": key }).to_string();
            let answer = request(world.admin, "POST", "/api/session", "Origin: http://x\r\n", &body);
            assert_eq!(answer.status, 200, "{answer:?}");
            let set = answer.head.lines().find_map(|line| line.strip_prefix("set-cookie: "));
            let pair = set.and_then(|set| set.split(';').next()).expect("a cookie");
            (format!("Origin: http://x\r\nCookie: {pair}\r\n"), answer.json())
        };
        let handshake = |session: &str, query: &str| {
            let mut stream = connect(world.admin);
            let head = format!(
                "GET /console/ws{query} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{session}\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            );
            stream.write_all(head.as_bytes()).expect("sent");
            (answer(&mut stream).status, Client { stream })
        };
        let open = |session: &str, query: &str| {
            let (status, mut client) = handshake(session, query);
            assert_eq!(status, 101, "{query}");
            client.send(r#"{"type":"subscribe","channels":["grid.tail"]}"#);
            while client.json()["type"] != "subscribed" {}
            client
        };
        let (viewer, who) = sign_in(VIEWER);
        let seen = (&who["role"], &who["tenant"], &who["tenants"]);
        assert_eq!(seen, (&json!("viewer"), &json!("one"), &json!([])), "{who}");
        assert_eq!(handshake(&viewer, "?tenant=two").0, 403);
        let (status, mut looks) = handshake(&viewer, "");
        assert_eq!(status, 101);
        for (channel, kind) in [("grid.tail", "error"), ("system.health", "subscribed")] {
            looks.send(&json!({ "type": "subscribe", "channels": [channel] }).to_string());
            let mut answers = std::iter::repeat_with(|| looks.json());
            let is_answer = |answer: &Value| answer["type"] == "error" || answer["type"] == "subscribed";
            let answer = answers.find(is_answer).expect("endless");
            assert_eq!(answer["type"], kind, "{answer}");
        }
        let (operator, who) = sign_in(OPERATOR);
        assert_eq!(
            (&who["tenant"], &who["tenants"]),
            (&Value::Null, &json!(NAMES)),
            "{who}"
        );
        let mut tails = Vec::new();
        for index in [0, 1, 2] {
            tails.push((index, open(&operator, &format!("?tenant={}", NAMES[index]))));
            for key in [ADMIN_KEYS[index].to_owned(), token(index, "boss", "admin")] {
                if key == OPERATOR {
                    continue;
                }
                let (session, who) = sign_in(&key);
                assert_eq!(
                    (&who["tenant"], &who["tenants"]),
                    (&json!(NAMES[index]), &json!([])),
                    "{who}"
                );
                tails.push((index, open(&session, "")));
                for other in [0, 1, 2].into_iter().filter(|other| *other != index) {
                    let query = format!("?tenant={}", NAMES[other]);
                    assert_eq!(handshake(&session, &query).0, 403);
                    assert_eq!(handshake(&session, &format!("{query}&app")).0, 403);
                }
                // An app that connects by the page authenticates with a token of the same tenant.
                let (status, mut app) = handshake(&session, "?app");
                assert_eq!(status, 101);
                let other = token((index + 1) % 3, "24", "trader");
                app.send(&json!({ "type": "auth", "token": other }).to_string());
                assert_eq!(app.json()["success"], false);
                app.send(&json!({ "type": "auth", "token": token(index, "24", "trader") }).to_string());
                assert_eq!(app.json()["success"], true);
            }
        }
        assert_eq!(handshake(&operator, "?tenant=none").0, 404);
        assert_eq!(handshake(&operator, "?tenants=one").0, 400);
        for index in [0, 1, 2] {
            world.publish(index, "grid.tail", NAMES[index]);
        }
        assert_eq!(tails.len(), 8);
        for (index, tail) in &mut tails {
            assert_eq!(data(tail), NAMES[*index]);
            hears_nothing(tail, NAMES[*index]);
        }
    }),
];
