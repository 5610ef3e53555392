//! `tickgate demo`: the gateway and the paper-trading backend in one process. They talk over the network only.

use std::io;
use std::net::SocketAddr;

use clap::Args;
use tickgate::auth::{Grant, Secret, mint};
use tickgate::backend::commands::{BackendUrl, HttpSettings, RouteSettings, Target};
use tickgate::backend::feeds::{FeedSettings, PublishMode, SourceSettings};
use tickgate::config::Config;
use tickgate::gateway::Gateway;
use tickgate::ingress::http::ListenAddress;
use tickgate::redis::{RedisAddress, RedisServer};
use tickgate::time::unix_ms;
use tickgate_demo::configuration::{Feed, Route, Source};
use tickgate_demo::{ADMIN, Access, Backend, Settings, TRADER};
use tickgate_protocol::channel::Pattern;

use super::serve::{Ready, start};
use super::{ConfigFile, Failure, MISCONFIGURED, print_out};

const TOKEN_TTL_MS: u64 = 30 * 24 * 3600 * 1000;

#[derive(Args)]
pub(super) struct Arguments {
    /// The backend's own address, for the page and for commands from the gateway. It must be a loopback address.
    #[arg(long, default_value_t = Settings::default().listen, value_name = "ADDRESS")]
    page: SocketAddr,
    /// The seed of the market. The same seed gives the same market.
    #[arg(long, default_value_t = Settings::default().seed)]
    seed: u64,
    /// A Redis (`redis://host:port/database`, without a password) that stock prices are written to and polled from,
    /// under keys that begin with `demo:`. Without this option the backend serves the prices itself, with the Redis
    /// protocol.
    #[arg(long, env = "TICKGATE_DEMO_REDIS", value_name = "URL", value_parser = writable)]
    redis: Option<RedisAddress>,
    #[command(flatten)]
    file: ConfigFile,
}

/// The address of a server that the demo writes to as well, without TLS.
fn writable(text: &str) -> Result<RedisAddress, String> {
    if !text.contains('@') && !text.starts_with("redis://") {
        return Err("must begin with redis://".to_owned());
    }
    text.parse()
}

/// Runs the gateway and the backend until the gateway is drained.
pub(super) fn demo(arguments: &Arguments) -> Result<(), Failure> {
    let ready = Ready::new(arguments.file.config.as_deref())?;
    if ready.config.ignores_tokens() {
        return Err(missing("tokens: set auth.mode to \"required\" or \"optional\""));
    }
    let settings = Settings {
        listen: arguments.page,
        seed: arguments.seed,
        redis: arguments.redis.as_ref().map(RedisAddress::to_string),
        ..Settings::default()
    };
    let backend = Backend::bind(settings).map_err(|error| {
        let address = arguments.page;
        let message = format!("cannot listen on {address}: {error}; choose another address with --page");
        Failure::running(&io::Error::other(message))
    })?;
    let page = backend.address();
    let tokens = tokens(&ready.config)?;
    let mut settings = ready.settings();
    let secret = Secret::new(backend.hmac_secret());
    let routes = backend.routes().into_iter().map(|route| route_settings(route, &secret));
    settings.commands.routes.splice(0..0, routes);
    settings
        .feeds
        .feeds
        .extend(backend.feeds().into_iter().map(feed_settings));
    let gateway = start(settings)?;
    let access = access(&ready, &gateway, tokens)?;
    print_out(&access.banner(page));
    // The backend answers and publishes during the drain as well. It ends after the gateway.
    let _backend = backend.start(access).map_err(|error| Failure::running(&error))?;
    ready.wait(gateway, None).map(drop)
}

/// The settings of a `[[command]]` of the demo, whose own data is valid.
fn route_settings(route: Route, secret: &Secret) -> RouteSettings {
    let http = HttpSettings {
        url: BackendUrl::parse(&route.url).expect("a valid URL"),
        hmac_secret: Some(secret.clone()),
    };
    let pattern = Pattern::parse(route.pattern).expect("a valid pattern");
    RouteSettings {
        audit: route.audit,
        ..RouteSettings::new(pattern, Target::Http(http))
    }
}

/// The settings of a `[[feed]]` of the demo, whose own data is valid. The URL of a Redis was checked when the command
/// line was parsed.
fn feed_settings(feed: Feed) -> FeedSettings {
    FeedSettings {
        channel: feed.channel.parse().expect("a valid channel"),
        event: feed.event.into(),
        source: match feed.source {
            Source::Http(url) => SourceSettings::Http(url.parse().expect("a valid URL")),
            Source::Redis { url, key } => SourceSettings::Redis {
                server: RedisServer {
                    addresses: vec![url.parse().expect("a valid URL")],
                    ..RedisServer::default()
                },
                key: key.parse().expect("a valid key"),
            },
        },
        publish: feed
            .record_key
            .map_or(PublishMode::Changed, |key| PublishMode::ChangedRecords(key.into())),
        interval: feed.interval,
        timeout: feed.timeout,
    }
}

struct Tokens {
    trader: String,
    admin: String,
}

fn tokens(config: &Config) -> Result<Tokens, Failure> {
    let token = |user: &str, role: &str| {
        let grant = Grant {
            subject: user.into(),
            role: Some(role.into()),
            ttl_ms: TOKEN_TTL_MS,
            ..Grant::default()
        };
        mint(&grant, &config.keys(), &config.auth(), unix_ms()).map_err(|error| Failure::misconfigured(&error))
    };
    Ok(Tokens {
        trader: token(TRADER, "trader")?,
        admin: token(ADMIN, "admin")?,
    })
}

fn missing(what: &str) -> Failure {
    Failure {
        message: format!("the demo needs {what}"),
        code: MISCONFIGURED,
    }
}

fn access(ready: &Ready, gateway: &Gateway, tokens: Tokens) -> Result<Access, Failure> {
    let public = gateway.addresses().iter().find_map(ListenAddress::tcp);
    let run_key = ready.run_keys.as_ref().and_then(|keys| keys.admin_key.clone());
    Ok(Access {
        admin: gateway
            .admin_address()
            .tcp()
            .ok_or_else(|| missing("an admin listener on TCP"))?,
        public: public.ok_or_else(|| missing("a public listener on TCP"))?,
        path: ready
            .config
            .native_path()
            .ok_or_else(|| missing("an endpoint of the native dialect"))?
            .to_owned(),
        // A token with the role admin opens the admin API as well.
        admin_key: run_key.unwrap_or_else(|| tokens.admin.clone()),
        trader_token: tokens.trader,
        admin_token: tokens.admin,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demos_routes_and_feeds_are_valid_and_signed() {
        let settings = Settings {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            ..Settings::default()
        };
        let backend = Backend::bind(settings).expect("a free port");
        let secret = Secret::new(backend.hmac_secret());
        for route in backend.routes() {
            let Target::Http(http) = route_settings(route, &secret).target else {
                panic!("a route of the demo does not use HTTP")
            };
            assert!(http.hmac_secret.is_some());
        }
        for feed in backend.feeds() {
            let _ = feed_settings(feed);
        }
    }
}
