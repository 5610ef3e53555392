//! The client's address behind proxies.

use super::*;

#[tokio::test]
async fn proxy_headers_count_at_any_split_and_only_from_trusted_proxies() {
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\x0a\0\0\x01\0\x01\0\x02".as_slice();
    let v1 = b"PROXY TCP4 192.0.2.1 10.0.0.1 1 2\r\n".as_slice();
    let mut fixture =
        fixture(|settings| settings.trusted_proxies = TrustedProxies::parse(&["127.0.0.1"]).expect("good"));
    for header in [v1, v2] {
        for split in [1, 5, 12, 15, 20, header.len() - 1, header.len()] {
            let mut stream = fixture.connect().await;
            stream.set_nodelay(true).expect("set");
            stream.write_all(&header[..split]).await.expect("sent");
            stream.flush().await.expect("sent");
            tokio::task::yield_now().await;
            stream.write_all(&header[split..]).await.expect("sent");
            // The client in the header is not a trusted proxy, so its X-Forwarded-For does not count.
            let answer = exchange(&mut stream, &handshake("/open", &["X-Forwarded-For: 203.0.113.9"])).await;
            has(&answer, 101, &[]);
            assert_eq!(fixture.adopted().await.address, Some([192, 0, 2, 1].into()));
        }
    }
    has(
        &fixture
            .exchange(&handshake("/open", &["X-Forwarded-For: 203.0.113.9"]))
            .await,
        101,
        &[],
    );
    assert_eq!(fixture.adopted().await.address, Some([203, 0, 113, 9].into()));
    assert_eq!(fixture.exchange(b"PROXY NONSENSE\r\n").await, "");
    fixture.refused(RefusalReason::ProxyHeader, 1).await;

    let mut fixture = super::fixture(|_| {});
    has(
        &fixture
            .exchange(&handshake(
                "/open",
                &["X-Forwarded-For: 203.0.113.9", "X-Real-IP: 203.0.113.9"],
            ))
            .await,
        101,
        &[],
    );
    assert_eq!(fixture.adopted().await.address, Some([127, 0, 0, 1].into()));
    has(
        &fixture.exchange(&[v1, &handshake("/open", &[])].concat()).await,
        400,
        &[],
    );
}

/// Such as HAProxy's health check, which may send its own address and extensions.
#[tokio::test]
async fn a_request_behind_a_long_local_header_is_served() {
    let mut fixture =
        fixture(|settings| settings.trusted_proxies = TrustedProxies::parse(&["127.0.0.1"]).expect("good"));
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x20\xff\xff\xff".to_vec();
    header.extend(vec![b'x'; usize::from(u16::MAX)]);
    has(
        &fixture.exchange(&[header, handshake("/open", &[])].concat()).await,
        101,
        &[],
    );
    assert_eq!(fixture.adopted().await.address, Some([127, 0, 0, 1].into()));
}
