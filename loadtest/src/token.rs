//! Tokens for the clients: one for all, or one for each of many users, signed with the server's secret (HS256).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

/// Lifetime of a token. It exceeds any run, because a server may disconnect clients whose token has expired.
const LIFE: Duration = Duration::from_secs(7 * 24 * 3600);

/// The clients' tokens. Client `n` has token `n` modulo the number of tokens.
#[derive(Clone, Debug)]
pub(crate) struct Tokens(Vec<Arc<str>>);

impl Tokens {
    /// The same token for all clients, or none.
    pub(crate) fn one(token: Option<&str>) -> Self {
        Self(token.map(Arc::from).into_iter().collect())
    }

    /// A token for each of the users `load-0` to `load-<users - 1>`. Each may subscribe to `load.*`, publish to it and
    /// send its commands.
    pub(crate) fn mint(secret: &str, users: usize) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        Self(
            (0..users.max(1))
                .map(|user| mint(&key, user, now + LIFE).into())
                .collect(),
        )
    }

    pub(crate) fn of(&self, client: usize) -> Option<&Arc<str>> {
        self.0.get(client % self.0.len().max(1))
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }
}

fn mint(key: &hmac::Key, user: usize, expires: Duration) -> String {
    let exp = expires.as_secs();
    let claims = format!(
        "{{\"sub\":\"load-{user}\",\"exp\":{exp},\"channels\":[\"load.*\"],\"commands\":[\"load.*\"],\"publish\":[\"load.*\"]}}"
    );
    let encode = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let signed = format!(
        "{}.{}",
        encode(br#"{"alg":"HS256","typ":"JWT"}"#),
        encode(claims.as_bytes())
    );
    let signature = hmac::sign(key, signed.as_bytes());
    format!("{signed}.{}", encode(signature.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_share_the_users_in_rotation() {
        let tokens = Tokens::mint("a secret of at least thirty-two bytes", 3);
        assert_eq!(tokens.count(), 3);
        assert_eq!(tokens.of(1), tokens.of(4));
        assert_ne!(tokens.of(1), tokens.of(2));
        assert_eq!(Tokens::one(None).of(7), None);
        assert_eq!(Tokens::one(Some("t")).of(7).map(|token| &**token), Some("t"));
    }

    /// Checks the signature of the example in RFC 7515, appendix A.1, which has this header, payload and key.
    #[test]
    fn the_signature_matches_the_example_of_rfc_7515() {
        let key = BASE64_URL_SAFE_NO_PAD
            .decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
            .unwrap();
        let signed = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
        let signature = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), signed.as_bytes());
        assert_eq!(
            BASE64_URL_SAFE_NO_PAD.encode(signature),
            "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
        );
    }
}
