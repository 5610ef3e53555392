//! Drives the platform: real time, HTTP server and client, and the page.
//!
//! Invariant: a command is carried out only if its signature is fresh and made with the gateway's secret. A batch that could
//! not be published is published again before the platform steps on.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::oneshot;

use super::accounts::Part;
use super::actions::{ActionError, Caller, Reply};
use super::event::Outgoing;
use super::page;
use super::platform::{Platform, STEP_MS};
use super::prices::Prices;
use super::{Access, Settings, configuration};

// The gateway's signature of a command.
const SIGNATURE_HEADER: &str = "x-tickgate-signature";
// Larger than the gateway's default limit of a message.
const COMMAND_BYTES_MAX: usize = 128 * 1024;
// The difference between the signature's time and now, in either direction.
const FRESH_MS: u64 = 300_000;
// Events in one publication. The gateway accepts 10,000.
const BATCH_MAX: usize = 5_000;
const BACK_OFF_MAX: Duration = Duration::from_secs(5);

/// The backend with an open port.
pub struct Backend {
    settings: Settings,
    listener: std::net::TcpListener,
    address: SocketAddr,
    secret: [u8; 32],
    prices: Prices,
}

/// State that the tasks share.
struct Shared {
    platform: Mutex<Platform>,
    key: hmac::Key,
    access: Access,
}

/// A command as the gateway posts it.
#[derive(Deserialize)]
struct Command<'a> {
    action: String,
    #[serde(borrow)]
    params: &'a RawValue,
    user: Option<String>,
    role: Option<String>,
}

#[derive(Serialize)]
struct Answer {
    success: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Reply>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ActionError>,
}

#[derive(Serialize)]
struct Session<'a> {
    port: u16,
    path: &'a str,
    token: &'a str,
}

impl Backend {
    /// Opens the port and makes a random secret for the gateway's signatures.
    ///
    /// # Errors
    ///
    /// The address is not a loopback address, a port cannot be opened, or the system has no randomness to give.
    pub fn bind(settings: Settings) -> io::Result<Self> {
        if !settings.listen.ip().is_loopback() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the demo's own port is for loopback only",
            ));
        }
        let listener = std::net::TcpListener::bind(settings.listen)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let mut secret = [0; 32];
        getrandom::fill(&mut secret).map_err(io::Error::other)?;
        Ok(Self {
            prices: Prices::open(settings.redis.clone())?,
            settings,
            listener,
            address,
            secret,
        })
    }

    /// The address of the open port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The secret that the gateway must sign commands with.
    #[must_use]
    pub fn hmac_secret(&self) -> [u8; 32] {
        self.secret
    }

    /// The `[[command]]` entries that the gateway's configuration needs.
    #[must_use]
    pub fn routes(&self) -> Vec<configuration::Route> {
        configuration::routes(self.address)
    }

    /// The `[[feed]]` entries that the gateway's configuration needs.
    #[must_use]
    pub fn feeds(&self) -> Vec<configuration::Feed> {
        configuration::feeds(self.address, self.prices.url())
    }

    /// Runs the backend on a thread of its own until the handle is dropped.
    ///
    /// # Errors
    ///
    /// The thread or its runtime cannot be started.
    pub fn start(self, access: Access) -> io::Result<Running> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel::<Infallible>();
        let work = move || {
            runtime.block_on(async {
                tokio::select! {
                    outcome = self.run(access) => {
                        if let Err(error) = outcome {
                            tracing::error!(%error, "the backend failed");
                        }
                    }
                    _ = stopped => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name("demo".to_owned()).spawn(work)?;
        Ok(Running {
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Publishes, and serves commands and the page, until the future is dropped.
    ///
    /// # Errors
    ///
    /// The open port cannot be used.
    pub async fn run(self, access: Access) -> io::Result<()> {
        let opened = Instant::now();
        let opened_ms = unix_ms();
        let users: Vec<&str> = self.settings.users.iter().map(String::as_str).collect();
        let shared = Arc::new(Shared {
            platform: Mutex::new(Platform::new(self.settings.seed, &users, opened_ms)),
            key: hmac::Key::new(hmac::HMAC_SHA256, &self.secret),
            access,
        });
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let prices = self.prices.run(|| shared.platform.lock().stock_prices());
        tokio::select! {
            never = publish(Arc::clone(&shared), opened, opened_ms) => match never {},
            never = serve(listener, Arc::clone(&shared)) => match never {},
            ended = prices => match ended? {},
        }
    }
}

/// A running backend. Dropping it ends the backend.
pub struct Running {
    stop: Option<oneshot::Sender<Infallible>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was printed by the thread.
            let _ = thread.join();
        }
    }
}

// Steps the platform in real time and publishes its events. Time comes from the monotonic clock, so it never runs
// backwards for the platform.
async fn publish(shared: Arc<Shared>, opened: Instant, opened_ms: u64) -> Infallible {
    let publisher = Publisher::new(&shared.access);
    let mut ticks = tokio::time::interval(Duration::from_millis(STEP_MS));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let now_ms = opened_ms + whole_ms(opened.elapsed());
        let events = shared.platform.lock().advance(now_ms);
        for batch in events.chunks(BATCH_MAX) {
            publisher.publish(batch).await;
        }
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, whole_ms)
}

fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

struct Publisher {
    client: Client<HttpConnector, Full<Bytes>>,
    url: hyper::Uri,
    authorization: HeaderValue,
}

impl Publisher {
    fn new(access: &Access) -> Self {
        let url = format!("http://{}/api/publish", access.admin);
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", access.admin_key))
            .unwrap_or_else(|_| HeaderValue::from_static("Bearer"));
        authorization.set_sensitive(true);
        Self {
            client: Client::builder(TokioExecutor::new()).build_http(),
            url: url.parse().expect("a valid URL"),
            authorization,
        }
    }

    // Tries until the gateway accepts the batch, because the gateway may not listen yet. A batch that the gateway refuses is
    // dropped.
    async fn publish(&self, batch: &[Outgoing]) {
        let body = Bytes::from(serde_json::to_vec(batch).expect("plain structs"));
        let mut back_off = Duration::from_millis(STEP_MS);
        loop {
            let problem = match self.post(body.clone()).await {
                Ok((status, _)) if status.is_success() => return,
                Ok((status, answer)) if status.is_client_error() => {
                    let answer = String::from_utf8_lossy(&answer);
                    tracing::error!(%status, %answer, "the gateway refused a publication");
                    return;
                }
                Ok((status, _)) => status.to_string(),
                Err(error) => error.to_string(),
            };
            tracing::warn!(problem, "publishing failed; trying again");
            tokio::time::sleep(back_off).await;
            back_off = (back_off * 2).min(BACK_OFF_MAX);
        }
    }

    async fn post(&self, body: Bytes) -> Result<(StatusCode, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let request = Request::post(self.url.clone())
            .header(AUTHORIZATION, self.authorization.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        let response = self.client.request(request).await?;
        let status = response.status();
        Ok((status, response.into_body().collect().await?.to_bytes()))
    }
}

async fn serve(listener: tokio::net::TcpListener, shared: Arc<Shared>) -> Infallible {
    loop {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                // The process probably has no free file descriptor at the moment.
                tracing::warn!(%error, "accepting failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(shared.answer(request).await) }
            });
            // An error here is a client that disconnected.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service)
                .await;
        });
    }
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        match (request.method(), request.uri().path()) {
            (&Method::POST, "/commands") => self.command(request).await,
            (&Method::GET, _) if !is_loopback(&request) => {
                text(StatusCode::FORBIDDEN, "open it by its loopback address")
            }
            (&Method::GET, "/session.json") => self.session(),
            (&Method::GET, path) if path.starts_with("/users/") => self.account(path),
            (method, path) => match page::file(path) {
                Some((kind, file)) if *method == Method::GET => {
                    reply(StatusCode::OK, kind, Bytes::from_static(file.as_bytes()))
                }
                None if !matches!(path, "/commands" | "/session.json") => text(StatusCode::NOT_FOUND, "not found"),
                _ => text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed"),
            },
        }
    }

    // The data that the page needs to connect. The page uses its own host name for the gateway, because that is the origin
    // that the gateway allows by default.
    fn session(&self) -> Response<Full<Bytes>> {
        let session = Session {
            port: self.access.public.port(),
            path: &self.access.path,
            token: &self.access.admin_token,
        };
        json(&session)
    }

    // Serves `/users/<id>/<part>`, which the gateway's feeds poll.
    fn account(&self, path: &str) -> Response<Full<Bytes>> {
        let parts = path.strip_prefix("/users/").and_then(|rest| rest.split_once('/'));
        let part = parts.and_then(|(user, name)| Some((user, Part::ALL.into_iter().find(|part| part.name() == name)?)));
        let Some((user, part)) = part else {
            return text(StatusCode::NOT_FOUND, "not found");
        };
        let Ok(user) = percent_encoding::percent_decode_str(user).decode_utf8() else {
            return text(StatusCode::BAD_REQUEST, "the user is not UTF-8");
        };
        json(&self.platform.lock().account(&user, part))
    }

    async fn command(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let signature = request.headers().get(SIGNATURE_HEADER).cloned();
        let Ok(body) = Limited::new(request.into_body(), COMMAND_BYTES_MAX).collect().await else {
            return text(StatusCode::PAYLOAD_TOO_LARGE, "too large");
        };
        let body = body.to_bytes();
        if !signature.is_some_and(|signature| is_signed(&self.key, &signature, &body, unix_ms())) {
            return text(StatusCode::UNAUTHORIZED, "the signature is missing, wrong or old");
        }
        let Ok(command) = serde_json::from_slice::<Command<'_>>(&body) else {
            return text(StatusCode::BAD_REQUEST, "not a command");
        };
        let caller = Caller {
            user: command.user.as_deref().unwrap_or("anonymous"),
            admin: command.role.as_deref() == Some("admin"),
        };
        let answer = match self.platform.lock().command(caller, &command.action, command.params) {
            Ok(data) => Answer {
                success: true,
                data: Some(data),
                error: None,
            },
            Err(error) => Answer {
                success: false,
                data: None,
                error: Some(error),
            },
        };
        json(&answer)
    }
}

/// Whether `header` is `t=<ms>,v1=<hex>` with a signature by `key` of `<ms>.<body>`, and is fresh. Every backend that shares
/// a secret with the gateway should check this.
fn is_signed(key: &hmac::Key, header: &HeaderValue, body: &[u8], now_ms: u64) -> bool {
    let parts = header
        .to_str()
        .ok()
        .and_then(|text| text.strip_prefix("t="))
        .and_then(|text| text.split_once(",v1="));
    let Some((time, hex)) = parts else { return false };
    let Some(signature) = from_hex(hex) else { return false };
    let fresh = time.parse::<u64>().is_ok_and(|time| time.abs_diff(now_ms) <= FRESH_MS);
    let signed = [time.as_bytes(), b".", body].concat();
    fresh && hmac::verify(key, &signed, &signature).is_ok()
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::try_from(digit(pair[0])? * 16 + digit(*pair.get(1)?)?).ok())
        .collect()
}

// Whether the request names a loopback host. By DNS rebinding, a page of another site can make a browser send its
// requests here under that site's name. Such a page must not get the token.
fn is_loopback(request: &Request<Incoming>) -> bool {
    let host = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    matches!(name, "127.0.0.1" | "localhost" | "[::1]")
}

fn json(value: &impl Serialize) -> Response<Full<Bytes>> {
    let body = serde_json::to_vec(value).expect("plain structs");
    reply(StatusCode::OK, "application/json", Bytes::from(body))
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    reply(status, "text/plain; charset=utf-8", Bytes::from_static(text.as_bytes()))
}

fn reply(status: StatusCode, kind: &'static str, body: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_fresh_signature_of_the_gateway_is_accepted() {
        let key = hmac::Key::new(hmac::HMAC_SHA256, b"secret");
        let signature = hmac::sign(&key, b"1000.{}");
        let hex: String = signature.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        let header = |text: String| HeaderValue::from_str(&text).expect("ASCII");
        let good = header(format!("t=1000,v1={hex}"));
        assert!(is_signed(&key, &good, b"{}", 1000));
        assert!(is_signed(&key, &good, b"{}", 1000 + FRESH_MS));
        assert!(!is_signed(&key, &good, b"{}", 1001 + FRESH_MS), "old");
        assert!(!is_signed(&key, &good, b"{ }", 1000), "another body");
        assert!(
            !is_signed(&hmac::Key::new(hmac::HMAC_SHA256, b"other"), &good, b"{}", 1000),
            "another secret"
        );
        for bad in [
            format!("t=1001,v1={hex}"),
            format!("v1={hex}"),
            "t=1000,v1=".to_owned(),
            "t=1000,v1=zz".to_owned(),
            format!("t=1000,v1={hex}0"),
        ] {
            assert!(!is_signed(&key, &header(bad.clone()), b"{}", 1000), "{bad}");
        }
    }
}
