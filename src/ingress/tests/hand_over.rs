//! What a shard gets from the ingress.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use tokio::net::UnixStream;

use super::*;

#[tokio::test]
async fn bytes_behind_the_handshake_reach_the_shard() {
    let mut fixture =
        fixture(|settings| settings.trusted_proxies = TrustedProxies::parse(&["127.0.0.1"]).expect("good"));
    let frames: Vec<u8> = (0..5000u32).map(|n| n.to_le_bytes()[0]).collect();
    for prefix in [
        "",
        "PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n",
        "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
    ] {
        let mut stream = fixture.connect().await;
        let bytes = [prefix.as_bytes(), &handshake("/open", &[]), &frames].concat();
        stream.write_all(&bytes).await.expect("sent");
        if prefix.starts_with("GET") {
            has(&answer(&mut stream).await, 200, &[]);
        }
        has(&answer(&mut stream).await, 101, &[]);
        let adopt = fixture.adopted().await;
        let mut received = adopt.unread.to_vec();
        let mut socket = from_fd(adopt.socket.claim());
        assert!(socket.nodelay().expect("told"));
        let mut rest = vec![0; frames.len() - received.len()];
        socket
            .read_exact(&mut rest)
            .await
            .expect("the rest is still in the socket");
        received.extend(rest);
        assert_eq!(received, frames, "behind {prefix:?}");
        socket.write_all(b"hello").await.expect("sent");
        let mut hello = [0; 5];
        stream
            .read_exact(&mut hello)
            .await
            .expect("the shard writes to the same client");
        assert_eq!(&hello, b"hello");
    }
}

/// The shard's end of an adopted TCP connection.
fn from_fd(fd: OwnedFd) -> TcpStream {
    TcpStream::from_std(std::net::TcpStream::from(fd)).expect("a non-blocking socket")
}

#[tokio::test]
async fn connections_carry_their_identity_and_are_spread_over_shards() {
    let mut fixture = fixture(|_| {});
    let mut held = Vec::new();
    for (target, origin, user, code) in [
        ("/ws?token=user:u1", None, Some("u1"), None),
        ("/ws", None, None, None),
        ("/open?token=user:u1", None, None, None),
        (
            "/ws?token=bad",
            Some("Origin: http://gateway.example"),
            None,
            Some(ErrorCode::TokenInvalid),
        ),
        (
            "/ws?token=expired",
            Some("Origin: http://gateway.example"),
            None,
            Some(ErrorCode::TokenExpired),
        ),
    ] {
        let mut stream = fixture.connect().await;
        has(
            &exchange(&mut stream, &handshake(target, origin.as_slice())).await,
            101,
            &[],
        );
        let adopt = fixture.adopted().await;
        let (identity, error) = match &adopt.identity {
            Ok(identity) => (identity.as_ref().and_then(|identity| identity.user.as_deref()), None),
            Err(error) => (None, Some(error.code)),
        };
        assert_eq!((identity, error), (user, code), "{target}");
        assert_eq!(adopt.address, Some([127, 0, 0, 1].into()));
        held.push((stream, adopt));
    }
    assert_eq!(fixture.ingress.connections(), 5);
    held.clear();
    assert_eq!(fixture.ingress.connections(), 0);

    for n in 1..=10 {
        has(&fixture.exchange(&handshake("/open", &[])).await, 101, &[]);
        until("handed over", || {
            fixture.mailboxes.iter().map(Mailbox::len).sum::<usize>() == n
        })
        .await;
    }
    assert!(
        fixture.mailboxes.iter().all(|mailbox| mailbox.len() == 5),
        "each shard has half of them"
    );
}

#[tokio::test]
async fn unix_sockets_are_served() {
    let directory = tempfile::tempdir().expect("a directory");
    let path: PathBuf = directory.path().join("public.sock");
    let unix = TrustedProxies::parse(&["unix"]).expect("good");
    let mut fixture = fixture_at(&ListenAddress::Unix(path.clone()), |settings| {
        settings.trusted_proxies = unix
    });
    for (changes, address) in [
        (&["X-Forwarded-For: 192.0.2.1"][..], Some([192, 0, 2, 1].into())),
        (&[], None),
    ] {
        let mut stream = UnixStream::connect(&path).await.expect("connected");
        let bytes = [handshake("/open", changes), b"frame".to_vec()].concat();
        has(&exchange(&mut stream, &bytes).await, 101, &[]);
        let adopt = fixture.adopted().await;
        assert_eq!(adopt.address, address);
        let mut socket = std::os::unix::net::UnixStream::from(adopt.socket.claim());
        std::io::Write::write_all(&mut socket, b"hello").expect("sent");
        let mut hello = [0; 5];
        stream.read_exact(&mut hello).await.expect("received");
        assert_eq!(&hello, b"hello");
    }
}
