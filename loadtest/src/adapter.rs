//! How a server is spoken to: texts to send, and marks to know its answers by.
//!
//! Invariant: nothing else in the tool knows a server's protocol above RFC 6455 and HTTP, so any server that passes
//! an event's data on as it came can be driven by one small file, and is measured by the same code.

use std::path::Path;

use serde::Deserialize;

/// A profile, from a TOML file. In the texts `{channel}`, `{token}`, `{id}`, `{data}` and `{key}` are filled in.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Adapter {
    /// The path clients connect to, where the URL names none.
    pub(crate) path: String,
    /// How a client shows its token.
    pub(crate) token: TokenBy,
    /// A channel's name; `{index}` counts from 0.
    pub(crate) channel: String,
    /// What comes before the first subscription, in order.
    #[serde(default)]
    pub(crate) open: Vec<Step>,
    /// Subscribes; empty: nothing is sent.
    pub(crate) subscribe: String,
    /// A message that contains this says that the client is subscribed; empty: it is, as soon as it has asked.
    pub(crate) subscribed: String,
    /// Ends a subscription; `churn` needs it.
    #[serde(default)]
    pub(crate) unsubscribe: String,
    #[serde(default)]
    pub(crate) unsubscribed: String,
    /// A request; its answer repeats the `{id}` somewhere. `commands` needs it.
    #[serde(default)]
    pub(crate) command: String,
    /// An answer without this is a failure; empty: every answer is good.
    #[serde(default)]
    pub(crate) succeeded: String,
    /// A message with one of these is an error.
    #[serde(default)]
    pub(crate) errors: Vec<String>,
    /// A message with this tells of lost events, as `"count":n`.
    #[serde(default)]
    pub(crate) dropped: String,
    /// What is said back to messages that are exactly `to`: heartbeats.
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
    /// A text of the adapter has `{token}`.
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

/// How events get to the server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Publishing {
    pub(crate) by: PublishBy,
    /// Of the HTTP request, or of the publisher's WebSocket; empty: for HTTP `/`, for frames that of the clients.
    pub(crate) path: String,
    pub(crate) headers: Vec<String>,
    pub(crate) prefix: String,
    /// One event.
    pub(crate) item: String,
    pub(crate) separator: String,
    pub(crate) suffix: String,
    /// At most so many events in one request or frame.
    pub(crate) items: u64,
    /// An answer with one of these was no good one.
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
    /// `POST`, the next when the one before is answered.
    Http,
    /// A text frame on a WebSocket of its own.
    Frame,
}

/// The profiles that come with the tool.
pub(crate) const BUILT_IN: [(&str, &str); 5] = [
    ("tickgate", include_str!("../adapters/tickgate.toml")),
    ("tickgate-typed", include_str!("../adapters/tickgate-typed.toml")),
    ("tickgate-socketio", include_str!("../adapters/tickgate-socketio.toml")),
    ("plain", include_str!("../adapters/plain.toml")),
    ("centrifugo", include_str!("../adapters/centrifugo.toml")),
];

impl Adapter {
    /// A built-in profile by its name, or a file's.
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
            "publish.item has no {data}: nothing could be measured"
        } else if publish.items == 0 {
            "publish.items must be 1 or more"
        } else if !adapter.channel.contains("{index}") {
            "channel has no {index}: all channels would be one"
        } else if !adapter.command.is_empty() && !adapter.command.contains("{id}") {
            "command has no {id}: its answer could not be told from others"
        } else if !adapter.path.starts_with('/') {
            "path must begin with /"
        } else {
            return Ok(adapter);
        };
        Err(problem.into())
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
    fn built_in_profiles_are_good_and_complete() {
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
            // Marks that contain each other would take one answer for the other.
            let (subscribed, unsubscribed) = (&adapter.subscribed, &adapter.unsubscribed);
            assert!(!unsubscribed.contains(subscribed.as_str()), "{name}");
            assert_ne!(adapter.channel(0), adapter.channel(1));
        }
    }

    #[test]
    fn what_is_wrong_with_a_profile_is_told() {
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
