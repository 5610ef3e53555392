//! The protocol of a server: message templates to send, and marks that identify its answers.
//!
//! Invariant: no other module knows a server's protocol above RFC 6455 and HTTP. So one small file is enough for any
//! server that passes an event's data on unchanged, and the same code measures all servers.

use std::path::Path;

use serde::Deserialize;

/// An adapter, read from a TOML file. Templates may contain `{channel}`, `{token}`, `{id}`, `{data}` and `{key}`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Adapter {
    /// The path clients connect to if the URL has none.
    pub(crate) path: String,
    /// How a client presents its token.
    pub(crate) token: TokenBy,
    /// Template of a channel's name; `{index}` counts from 0.
    pub(crate) channel: String,
    /// The steps before the first subscription, in order.
    #[serde(default)]
    pub(crate) open: Vec<Step>,
    /// Subscribe message; if empty, nothing is sent.
    pub(crate) subscribe: String,
    /// What `{rate}` in `subscribe` stands for if clients ask for a rate; it contains `{rate}` itself, the updates per second.
    #[serde(default)]
    pub(crate) rate: String,
    /// A message that contains this confirms the subscription. If empty, the client counts as subscribed once it has
    /// asked.
    pub(crate) subscribed: String,
    /// Unsubscribe message; `churn` needs it.
    #[serde(default)]
    pub(crate) unsubscribe: String,
    #[serde(default)]
    pub(crate) unsubscribed: String,
    /// A request whose answer contains the same `{id}`. `commands` needs it.
    #[serde(default)]
    pub(crate) command: String,
    /// An answer without this text is a failure. If empty, every answer is a success.
    #[serde(default)]
    pub(crate) succeeded: String,
    /// A message that contains one of these is an error.
    #[serde(default)]
    pub(crate) errors: Vec<String>,
    /// A message that contains this reports lost events, as `"count":n`.
    #[serde(default)]
    pub(crate) dropped: String,
    /// Answers to messages that equal `to`, such as heartbeats.
    #[serde(default)]
    pub(crate) answers: Vec<Answer>,
    pub(crate) publish: Publishing,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TokenBy {
    /// `?token=`
    Query,
    /// `Authorization: Bearer`
    Header,
    /// A template of the adapter contains `{token}`.
    Frame,
    None,
}

/// Waits for a message that contains `await`, then sends `send`; either may be left out.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Step {
    pub(crate) r#await: String,
    pub(crate) send: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answer {
    pub(crate) to: String,
    pub(crate) with: String,
}

/// How events are published.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Publishing {
    pub(crate) by: PublishBy,
    /// Path of the HTTP request or of the publisher's WebSocket. If empty: the clients' path for frames, else `/`.
    pub(crate) path: String,
    pub(crate) headers: Vec<String>,
    pub(crate) prefix: String,
    /// Template of one event.
    pub(crate) item: String,
    pub(crate) separator: String,
    pub(crate) suffix: String,
    /// Maximum number of events in one request, chunk or frame.
    pub(crate) items: u64,
    /// A response that contains one of these is an error.
    pub(crate) refused: Vec<String>,
}

impl Default for Publishing {
    fn default() -> Self {
        Self {
            by: PublishBy::Http,
            path: String::new(),
            headers: Vec::new(),
            prefix: String::new(),
            item: String::new(),
            separator: String::new(),
            suffix: String::new(),
            items: 1,
            refused: Vec::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PublishBy {
    /// `POST` requests, one at a time: the next one follows the response.
    Http,
    /// Chunks of the body of one `POST` request, which ends with the run. Any response is an error.
    Stream,
    /// Text frames on a WebSocket of the publisher's own.
    Frame,
}

/// The built-in adapters.
pub(crate) const BUILT_IN: [(&str, &str); 6] = [
    ("tickgate", include_str!("../adapters/tickgate.toml")),
    ("tickgate-market", include_str!("../adapters/tickgate-market.toml")),
    ("tickgate-typed", include_str!("../adapters/tickgate-typed.toml")),
    ("tickgate-socketio", include_str!("../adapters/tickgate-socketio.toml")),
    ("plain", include_str!("../adapters/plain.toml")),
    ("centrifugo", include_str!("../adapters/centrifugo.toml")),
];

impl Adapter {
    /// Loads a built-in adapter by its name, or else from the file of that name.
    pub(crate) fn load(name: &str) -> Result<Self, String> {
        if let Some((_, text)) = BUILT_IN.iter().find(|(built_in, _)| *built_in == name) {
            return Self::parse(text).map_err(|error| format!("adapter {name}: {error}"));
        }
        let names = BUILT_IN.map(|(name, _)| name).join(", ");
        let text = std::fs::read_to_string(Path::new(name))
            .map_err(|error| format!("adapter {name}: {error} (built in: {names}; else the path of a TOML file)"))?;
        Self::parse(&text).map_err(|error| format!("adapter {name}: {error}"))
    }

    fn parse(text: &str) -> Result<Self, String> {
        let adapter: Self = toml::from_str(text).map_err(|error| error.to_string())?;
        let publish = &adapter.publish;
        let problem = if !publish.item.contains("{data}") {
            "publish.item has no {data}: latencies could not be measured"
        } else if publish.items == 0 {
            "publish.items must be 1 or more"
        } else if !adapter.channel.contains("{index}") {
            "channel has no {index}: all channels would have the same name"
        } else if !adapter.command.is_empty() && !adapter.command.contains("{id}") {
            "command has no {id}: answers could not be matched to commands"
        } else if !adapter.path.starts_with('/') {
            "path must begin with /"
        } else {
            return Ok(adapter);
        };
        Err(problem.into())
    }

    /// Puts the rate that clients ask for into the subscribe message.
    pub(crate) fn set_rate(&mut self, per_second: Option<f64>) -> Result<(), String> {
        if per_second.is_some() && (self.rate.is_empty() || !self.subscribe.contains("{rate}")) {
            return Err(
                "the adapter has no rates: remove --max-rate, or give it `rate` and {rate} in `subscribe`".into(),
            );
        }
        let rate = per_second.map_or_else(String::new, |rate| self.rate.replace("{rate}", &rate.to_string()));
        self.subscribe = self.subscribe.replace("{rate}", &rate);
        Ok(())
    }

    pub(crate) fn channel(&self, index: u64) -> String {
        self.channel.replace("{index}", &index.to_string())
    }

    pub(crate) fn has_token(&self) -> bool {
        self.token != TokenBy::None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_adapters_are_valid_and_complete() {
        for (name, _) in BUILT_IN {
            let adapter = Adapter::load(name).unwrap();
            for (what, text) in [
                ("subscribe", &adapter.subscribe),
                ("subscribed", &adapter.subscribed),
                ("unsubscribe", &adapter.unsubscribe),
                ("unsubscribed", &adapter.unsubscribed),
                ("command", &adapter.command),
            ] {
                assert!(!text.is_empty(), "{name} has no {what}");
            }
            // If one mark contained the other, an answer could be taken for the wrong one.
            let (subscribed, unsubscribed) = (&adapter.subscribed, &adapter.unsubscribed);
            assert!(!unsubscribed.contains(subscribed.as_str()), "{name}");
            assert_ne!(adapter.channel(0), adapter.channel(1));
        }
    }

    #[test]
    fn a_rate_is_put_into_the_subscribe_message() {
        let message = |name: &str, rate| {
            let mut adapter = Adapter::load(name).unwrap();
            adapter.set_rate(rate).map(|()| adapter.subscribe)
        };
        let plain = r#"{"type":"subscribe","channels":["{channel}"]}"#;
        assert_eq!(message("tickgate-market", None).as_deref(), Ok(plain));
        let limited = r#"{"type":"subscribe","channels":["{channel}"],"max_rate":0.5}"#;
        assert_eq!(message("tickgate-market", Some(0.5)).as_deref(), Ok(limited));
        assert!(message("plain", Some(4.0)).unwrap_err().contains("no rates"));
    }

    #[test]
    fn an_invalid_adapter_is_refused_with_the_reason() {
        let good = BUILT_IN[0].1;
        for (from, to, told) in [
            ("{data}", "", "no {data}"),
            ("{index}", "", "no {index}"),
            ("items = 1000", "items = 0", "1 or more"),
            ("{id}", "", "no {id}"),
            ("\"/ws\"", "\"ws\"", "begin with /"),
            ("token = \"query\"", "token = \"cookie\"", "cookie"),
            ("subscribe =", "subscribes =", "subscribes"),
        ] {
            let error = Adapter::parse(&good.replace(from, to)).unwrap_err();
            assert!(error.contains(told), "{from} -> {to}: {error}");
        }
        assert!(Adapter::load("no-such").unwrap_err().contains("built in: tickgate,"));
    }
}
