//! Key sets in files and behind URLs: rotation, unknown keys, and sources that fail.

use std::str::FromStr as _;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::auth::tests::sign::Signer;
use crate::auth::verifier::{Settings, TokenRules};
use crate::auth::{self, Algorithm, KeySet};
use tickgate_protocol::channel::Tenant;
use tickgate_protocol::message::ErrorCode;

/// The shortest time between two attempts in these tests.
const INTERVAL: Duration = Duration::from_millis(50);

/// A self-signed certificate of `localhost` and its key, made by `openssl req -x509`, valid until 2126.
const CERTIFICATE: &[u8] = include_bytes!("testdata/localhost.crt");
const PRIVATE_KEY: &[u8] = include_bytes!("testdata/localhost.key");

struct Issuer {
    signer: Signer,
    kid: &'static str,
}

impl Issuer {
    fn new(kid: &'static str) -> Self {
        let (signer, _) = Signer::generate(Algorithm::Es256);
        Self { signer, kid }
    }

    fn jwk(&self) -> Value {
        let mut key = self.signer.jwk();
        key["kid"] = self.kid.into();
        key
    }

    fn token(&self, user: u32) -> String {
        let header = json!({"alg": "ES256", "kid": self.kid}).to_string();
        self.signer
            .token(&header, &format!(r#"{{"sub":{user},"exp":253402300000}}"#))
    }
}

fn set(issuers: &[&Issuer]) -> String {
    let keys: Vec<Value> = issuers.iter().map(|issuer| issuer.jwk()).collect();
    json!({"keys": keys}).to_string()
}

/// A verifier whose only keys are those of a set.
fn keep(location: Location, refresh: Duration) -> (Arc<Verifier>, KeySets) {
    let keys = Arc::<KeySource>::default();
    let key_set = KeySet::default().with_sources(vec![Arc::clone(&keys)]);
    let settings = Settings::new(key_set, auth::Settings::default());
    let verifier = Arc::new(Verifier::start(settings, Vec::new()).expect("started"));
    let settings = SetSettings {
        location,
        algorithm: None,
        refresh,
        keys,
    };
    let sets = KeySets::with_interval(vec![settings], Arc::clone(&verifier), Handle::current(), INTERVAL);
    (verifier, sets)
}

fn code(verifier: &Verifier, token: &str) -> Option<ErrorCode> {
    verifier
        .verify(Tenant::DEFAULT, token, unix_ms())
        .err()
        .map(|error| error.code)
}

/// Waits until verifying the token gives this. Each attempt may ask for the keys.
async fn until(verifier: &Verifier, token: &str, wanted: Option<ErrorCode>) {
    let reached = async {
        while code(verifier, token) != wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let reached = timeout(Duration::from_secs(20), reached).await;
    reached.unwrap_or_else(|_| panic!("{:?} instead of {wanted:?}", code(verifier, token)));
}

/// The answers of a server: each connection gets the present body, or is closed without an answer if there is none.
#[derive(Default)]
struct Answers {
    body: Mutex<Option<String>>,
    count: AtomicUsize,
}

impl Answers {
    async fn give(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        self.count.fetch_add(1, SeqCst);
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await;
        let body = self.body.lock().clone();
        if let Some(body) = body {
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
        }
        let _ = stream.shutdown().await;
    }
}

/// A server on this machine, with TLS if there is an acceptor. Returns the port.
async fn serve(answers: &Arc<Answers>, tls: Option<TlsAcceptor>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("bound").port();
    let answers = Arc::clone(answers);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (answers, tls) = (Arc::clone(&answers), tls.clone());
            tokio::spawn(async move {
                match tls {
                    None => answers.give(stream).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            answers.give(stream).await;
                        }
                    }
                }
            });
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_come_from_a_file_and_rotate_when_a_token_names_a_new_one() {
    let (old, new) = (Issuer::new("old"), Issuer::new("new"));
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("jwks.json");
    std::fs::write(&path, set(&[&old])).expect("written");
    // Its age never leads to a second reading.
    let (verifier, sets) = keep(Location::File(path.clone()), Duration::from_secs(3600));
    sets.wait_for_first();
    let old_token = old.token(1);
    assert_eq!(code(&verifier, &old_token), None);

    std::fs::write(&path, set(&[&old, &new])).expect("written");
    until(&verifier, &new.token(1), None).await;
    std::fs::write(&path, set(&[&new])).expect("written");
    // Tokens differ even for one user, because their signatures are random.
    assert_eq!(
        code(&verifier, &old_token),
        None,
        "it is in the cache, and nobody has asked yet"
    );
    let unknown = Issuer::new("unknown").token(1);
    let removed = async {
        while code(&verifier, &old_token) != Some(ErrorCode::TokenInvalid) {
            let refused = code(&verifier, &unknown);
            assert!(
                matches!(refused, Some(ErrorCode::TokenInvalid | ErrorCode::Internal)),
                "{refused:?}"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), removed)
        .await
        .expect("the key is not used any more");

    std::fs::write(&path, "{").expect("written");
    let failed = async {
        while sets.read()[0].counts.failing == 0 {
            // After the interval it asks again.
            let _ = code(&verifier, &unknown);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), failed).await.expect("read again");
    assert_eq!(code(&verifier, &new.token(2)), None, "the last keys stay");
    assert_eq!(sets.read()[0].counts.keys, 1);

    // A reload of the configuration keeps the keys, too, although the file is still broken.
    let again = SetSettings {
        location: Location::File(path),
        algorithm: None,
        refresh: Duration::from_secs(60),
        keys: Arc::default(),
    };
    let key_set = KeySet::default().with_sources(vec![Arc::clone(&again.keys)]);
    sets.replace(vec![again]);
    verifier.replace(vec![TokenRules {
        keys: key_set,
        settings: auth::Settings::default(),
    }]);
    assert_eq!(code(&verifier, &new.token(2)), None);
    assert_eq!(code(&verifier, &old.token(2)), Some(ErrorCode::Internal), "it may come");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_down_at_the_start_is_asked_again_and_clients_may_come_back() {
    let issuer = Issuer::new("a");
    let answers = Arc::<Answers>::default();
    let port = serve(&answers, None).await;
    let url = JwksUrl::from_str(&format!("http://127.0.0.1:{port}/jwks?token=secret")).expect("a URL");
    let (verifier, sets) = keep(Location::Url(url), Duration::from_millis(200));
    sets.wait_for_first();
    assert_eq!(sets.read()[0].counts.failing, 1);
    assert!(sets.read()[0].set.ends_with("/jwks?hidden"), "{}", sets.read()[0].set);
    assert_eq!(code(&verifier, &issuer.token(1)), Some(ErrorCode::Internal), "for now");
    *answers.body.lock() = Some(set(&[&issuer]));
    until(&verifier, &issuer.token(1), None).await;
    *answers.body.lock() = None;
    let failures = sets.read()[0].counts.failures;
    let failed = async {
        while sets.read()[0].counts.failures == failures {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), failed)
        .await
        .expect("read again, because of its age");
    assert_eq!(code(&verifier, &issuer.token(2)), None, "the last keys stay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_with_unknown_keys_do_not_flood_the_source() {
    let issuer = Issuer::new("a");
    let answers = Arc::new(Answers {
        body: Mutex::new(Some(set(&[&issuer]))),
        ..Answers::default()
    });
    let port = serve(&answers, None).await;
    let url = JwksUrl::from_str(&format!("http://localhost:{port}/")).expect("a URL");
    let start = Instant::now();
    let (verifier, sets) = keep(Location::Url(url), Duration::from_secs(3600));
    sets.wait_for_first();
    let unknown = Issuer::new("unknown");
    for user in 0..2_000 {
        let refused = code(&verifier, &unknown.token(user));
        assert!(
            matches!(refused, Some(ErrorCode::TokenInvalid | ErrorCode::Internal)),
            "{refused:?}"
        );
    }
    let most = start.elapsed().as_millis() / INTERVAL.as_millis() + 2;
    let asked = answers.count.load(SeqCst);
    assert!(asked as u128 <= most, "{asked} requests, at most {most} were allowed");
    assert_eq!(code(&verifier, &issuer.token(1)), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn https_needs_a_certificate_that_is_trusted() {
    let issuer = Issuer::new("a");
    let certificate = CertificateDer::from_pem_slice(CERTIFICATE).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(PRIVATE_KEY).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key)
        .expect("they fit");
    let answers = Arc::new(Answers {
        body: Mutex::new(Some(set(&[&issuer]))),
        ..Answers::default()
    });
    let port = serve(&answers, Some(TlsAcceptor::from(Arc::new(config)))).await;
    let url = JwksUrl::from_str(&format!("https://localhost:{port}/jwks.json")).expect("a URL");
    let mut roots = RootCertStore::empty();
    roots.add(certificate).expect("added");
    let body = Client::with_roots(roots)
        .get(&url, JWKS_BYTES_MAX)
        .await
        .expect("trusted");
    assert_eq!(Jwks::parse(&body, None).expect("a set").keys.len(), 1);
    let refused = Client::with_roots(RootCertStore::empty())
        .get(&url, JWKS_BYTES_MAX)
        .await;
    let refused = refused.expect_err("not trusted");
    assert!(refused.contains("certificate"), "{refused}");
    assert_eq!(
        answers.count.load(SeqCst),
        1,
        "nothing was asked over the connection that is not trusted"
    );
}

#[test]
fn only_https_and_this_machine_are_accepted() {
    for url in [
        "https://login.example.com/jwks",
        "http://localhost:1/x",
        "http://127.9.0.1/",
        "http://[::1]:8/x",
    ] {
        url.parse::<JwksUrl>().expect(url);
    }
    for url in [
        "",
        "/jwks",
        "ftp://x/",
        "http://login.example.com/jwks",
        "http://192.0.2.1/",
        "https://user:password@x/",
        "https://login.example.com/jwks?hidden",
    ] {
        url.parse::<JwksUrl>().expect_err(url);
    }
}
