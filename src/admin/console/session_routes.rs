//! `/api/session`: signing in, who is signed in, and signing out.

use hyper::header::{HeaderValue, ORIGIN, SET_COOKIE};
use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::sessions::{Credential, LIFETIME_MS, cookie_name, is_own_origin, session_token};
use crate::admin::Admin;
use crate::admin::access::{Caller, forbidden, viewer};
use crate::admin::routes::Call;
use crate::ingress::http::HttpErrorCode;
use crate::ingress::http::response::{self, HttpResponse};
use tickgate_protocol::channel::DEFAULT_TENANT;

/// Longest body of a sign-in: a token, and the JSON around it.
const BODY_BYTES_MAX: u64 = 16 * 1024;

#[derive(Deserialize)]
struct SignIn {
    key: String,
}

#[derive(Serialize)]
struct SessionReply<'a> {
    role: &'static str,
    user: Option<&'a str>,
    node: &'a str,
    version: &'static str,
    /// The only tenant that the caller sees; null: all.
    tenant: Option<&'a str>,
    /// The tenants that the caller may choose from; empty without tenants.
    tenants: Vec<&'a str>,
    /// Null for a caller who presents a key or token with each request.
    expires_in_seconds: Option<u64>,
}

impl Admin {
    /// `GET`, `POST` and `DELETE /api/session`
    pub(in crate::admin) async fn session_route(&self, call: Call) -> HttpResponse {
        let answer = match *call.request.method() {
            Method::POST => self.sign_in(call).await,
            Method::DELETE => self.sign_out(&call),
            _ => self.who(&call),
        };
        answer.unwrap_or_else(|refused| *refused)
    }

    fn who(&self, call: &Call) -> Result<HttpResponse, Box<HttpResponse>> {
        let caller = self.authenticate(&call.request)?;
        let now_ms = self.parts.clock.now().mono_ms;
        let token = session_token(call.request.headers());
        let left_ms = token.and_then(|token| self.sessions.left_ms(token, now_ms));
        self.tell(caller, left_ms)
    }

    fn tell(&self, caller: Caller, left_ms: Option<u64>) -> Result<HttpResponse, Box<HttpResponse>> {
        let user = match &caller {
            Caller::Operator(operator) => Some(Box::<str>::from(operator.name())),
            Caller::Viewer(_) | Caller::User(_) => None,
        };
        let bound = caller.bound();
        let names = std::iter::once(DEFAULT_TENANT).chain(self.tenants.iter().map(|(_, name)| name));
        let reply = SessionReply {
            role: viewer(caller)?.role().as_str(),
            user: user.as_deref(),
            node: &self.parts.node,
            version: env!("CARGO_PKG_VERSION"),
            tenant: bound.map(|tenant| self.tenants.label(tenant)),
            tenants: if bound.is_some() || self.tenants.is_empty() {
                Vec::new()
            } else {
                names.collect()
            },
            expires_in_seconds: left_ms.map(|ms| ms / 1000),
        };
        Ok(response::json(StatusCode::OK, &reply))
    }

    async fn sign_in(&self, call: Call) -> Result<HttpResponse, Box<HttpResponse>> {
        let headers = call.request.headers();
        if !is_own_origin(headers) {
            return Err(forbidden("only the console's own page may sign in").into());
        }
        let name = cookie_name(headers);
        let is_secure = headers
            .get(ORIGIN)
            .is_some_and(|origin| origin.as_bytes().starts_with(b"https:"));
        let body = match self.body(call.request) {
            Ok(body) => body.whole(BODY_BYTES_MAX).await,
            Err(refused) => Err(refused),
        };
        let body = body.map_err(|refused| refused.response())?;
        let Ok(SignIn { key }) = serde_json::from_slice(&body.bytes) else {
            let text = "the body must be {\"key\":\"…\"}, with an admin key, a viewer key or a token of the role admin";
            return Err(response::error(HttpErrorCode::InvalidMessage, text).into());
        };
        let key = key.trim();
        let caller = self.present(key)?;
        if let Caller::User(_) = caller {
            return Err(forbidden("this token does not have the role admin").into());
        }
        let holder = self.holder_of(key);
        let credential = holder.map_or_else(|| Credential::Token(key.into()), Credential::Key);
        let Ok(token) = self.sessions.begin(credential, self.parts.clock.now().mono_ms) else {
            return Err(response::error(HttpErrorCode::Internal, "the system has no randomness to give").into());
        };
        let secure = if is_secure { "; Secure" } else { "" };
        let cookie = format!(
            "{name}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={}{secure}",
            LIFETIME_MS / 1000
        );
        let mut response = self.tell(caller, Some(LIFETIME_MS))?;
        set_cookie(&mut response, &cookie);
        Ok(response)
    }

    fn sign_out(&self, call: &Call) -> Result<HttpResponse, Box<HttpResponse>> {
        let headers = call.request.headers();
        if !is_own_origin(headers) {
            return Err(forbidden("only the console's own page may sign out").into());
        }
        if let Some(token) = session_token(headers) {
            self.sessions.end(token);
        }
        let mut response = response::empty(StatusCode::NO_CONTENT);
        let name = cookie_name(headers);
        set_cookie(
            &mut response,
            &format!("{name}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0"),
        );
        Ok(response)
    }
}

fn set_cookie(response: &mut HttpResponse, cookie: &str) {
    // Its name is ASCII digits and letters, its value hexadecimal.
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        response.headers_mut().insert(SET_COOKIE, cookie);
    }
}
