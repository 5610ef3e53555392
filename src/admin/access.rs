//! Who calls: the admin key, or a token.

use std::sync::Arc;

use hyper::HeaderMap;

use super::Admin;
use crate::auth::{Identity, Secret, same_secret};
use crate::ingress::http::HttpErrorCode;
use crate::ingress::http::request;
use crate::ingress::http::response::{self, HttpResponse};
use crate::time::unix_ms;

/// The admin key. Never shown.
#[derive(Clone, Debug)]
pub struct AdminKey(Secret);

impl AdminKey {
    /// A key, which must not be empty.
    #[must_use]
    pub fn new(key: &str) -> Option<Self> {
        (!key.is_empty()).then(|| Self(Secret::new(key.as_bytes())))
    }
}

/// An authenticated caller.
pub(super) enum Caller {
    /// The admin key, or a token of role admin: everything.
    Admin,
    /// Any other good token: may publish what its `publish` covers.
    User(Arc<Identity>),
}

impl Admin {
    /// Who calls, or the 401.
    pub(super) fn caller(&self, headers: &HeaderMap) -> Result<Caller, Box<HttpResponse>> {
        let Some(token) = request::bearer(headers) else {
            let text = "Authorization: Bearer with the admin key or a token is needed";
            return Err(response::error(HttpErrorCode::Unauthenticated, text).into());
        };
        if self
            .key
            .as_ref()
            .is_some_and(|key| same_secret(token.as_bytes(), key.0.expose()))
        {
            return Ok(Caller::Admin);
        }
        match self.verifier.verify(token, unix_ms()) {
            Ok(identity) if identity.permissions.admin => Ok(Caller::Admin),
            Ok(identity) => Ok(Caller::User(identity)),
            // Mostly a mistyped admin key, or that of another gateway: its owner does not think of tokens.
            Err(error) if !token.contains('.') => {
                let text = "this is neither the admin key nor a JSON Web Token";
                Err(response::error(error.code.into(), text).into())
            }
            Err(error) => Err(response::error(error.code.into(), &error.message).into()),
        }
    }

    /// That an admin calls, or the 401 or 403.
    pub(super) fn admin(&self, headers: &HeaderMap) -> Result<(), Box<HttpResponse>> {
        match self.caller(headers)? {
            Caller::Admin => Ok(()),
            Caller::User(_) => Err(forbidden("the admin key or a token of role admin is needed").into()),
        }
    }
}

pub(super) fn forbidden(message: &str) -> HttpResponse {
    response::error(HttpErrorCode::Forbidden, message)
}
