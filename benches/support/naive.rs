//! The naive server that the gateway is compared with: fastwebsockets, one task per client, one tokio broadcast
//! channel. It encodes each event once and shares the bytes. Otherwise it is a straightforward first implementation.
//!
//! It accepts the same publish requests, answers subscriptions in the same way, and sends the same bytes as the
//! gateway.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use fastwebsockets::{Frame, OpCode, Payload, WebSocket, WebSocketError};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;

/// Events that a slow subscriber may be behind. It exceeds a measurement, so that slowness shows as latency, not as
/// loss.
const BACKLOG_EVENTS: usize = 65_536;

/// The server. Clones publish to the same clients.
#[derive(Clone)]
pub struct Naive {
    events: broadcast::Sender<Bytes>,
}

impl Naive {
    /// A server without clients.
    pub fn new() -> Self {
        Self {
            events: broadcast::Sender::new(BACKLOG_EVENTS),
        }
    }

    /// Sends one encoded message to every client.
    pub fn publish(&self, message: Bytes) {
        // An error means that no client is subscribed.
        let _ = self.events.send(message);
    }

    /// Accepts connections forever.
    pub async fn serve(self, listener: TcpListener) {
        let server = Arc::new(self);
        loop {
            // `accept` fails if descriptors run out, which the clients of the measurement report.
            let Ok((stream, _)) = listener.accept().await else {
                continue;
            };
            tokio::spawn(connection(Arc::clone(&server), stream));
        }
    }
}

async fn connection(server: Arc<Naive>, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let service = hyper::service::service_fn(move |request| answer(Arc::clone(&server), request));
    let http = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // A client that disconnects is not an error.
    let _ = http.with_upgrades().await;
}

async fn answer(server: Arc<Naive>, mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if fastwebsockets::upgrade::is_upgrade_request(&request) {
        let Ok((response, upgrade)) = fastwebsockets::upgrade::upgrade(&mut request) else {
            return Ok(status(StatusCode::BAD_REQUEST));
        };
        tokio::spawn(async move {
            if let Ok(socket) = upgrade.await {
                let _ = client(server, socket).await;
            }
        });
        return Ok(response.map(|_| Full::default()));
    }
    let Ok(body) = request.into_body().collect().await else {
        return Ok(status(StatusCode::BAD_REQUEST));
    };
    let Some(messages) = envelopes(&body.to_bytes()) else {
        return Ok(status(StatusCode::BAD_REQUEST));
    };
    let published = format!("{{\"published\":{}}}", messages.len());
    messages.into_iter().for_each(|message| server.publish(message));
    Ok(Response::new(Full::from(published)))
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

#[derive(serde::Deserialize)]
struct Event<'a> {
    channel: &'a str,
    event: &'a str,
    #[serde(borrow)]
    data: &'a serde_json::value::RawValue,
}

/// The messages of a publish request, each encoded once for all clients.
fn envelopes(body: &[u8]) -> Option<Vec<Bytes>> {
    let events: Vec<Event<'_>> = serde_json::from_slice(body).ok()?;
    let now = std::time::SystemTime::UNIX_EPOCH.elapsed().ok()?.as_millis();
    let envelope = |Event { channel, event, data }| {
        let data: &serde_json::value::RawValue = data;
        format!(
            "{{\"type\":\"event\",\"channel\":\"{channel}\",\"event\":\"{event}\",\"timestamp\":{now},\"data\":{data}}}"
        )
    };
    Some(events.into_iter().map(|event| Bytes::from(envelope(event))).collect())
}

async fn client(server: Arc<Naive>, mut socket: WebSocket<TokioIo<Upgraded>>) -> Result<(), WebSocketError> {
    socket.set_writev(false);
    // The first message counts as the subscription, whatever it contains.
    socket.read_frame().await?;
    let mut events = server.events.subscribe();
    let subscribed = br#"{"type":"subscribed","data":{"active_subscriptions":1}}"#;
    socket.write_frame(Frame::text(Payload::Borrowed(subscribed))).await?;
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Ok(message) => socket.write_frame(Frame::text(Payload::Borrowed(&message))).await?,
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return Ok(()),
            },
            frame = socket.read_frame() => if frame?.opcode == OpCode::Close { return Ok(()) },
        }
    }
}
