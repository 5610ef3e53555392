//! Authentication: the admin key or a token.

use std::sync::Arc;

use hyper::HeaderMap;

use super::Admin;
use crate::auth::{Identity, Secret, same_secret};
use crate::ingress::http::HttpErrorCode;
use crate::ingress::http::request;
use crate::ingress::http::response::{self, HttpResponse};
use crate::time::unix_ms;

/// The admin key. `Debug` does not show it.
#[derive(Clone, Debug)]
pub struct AdminKey(Secret);

impl AdminKey {
    /// Creates a key. `None` for an empty text.
    #[must_use]
    pub fn new(key: &str) -> Option<Self> {
        (!key.is_empty()).then(|| Self(Secret::new(key.as_bytes())))
    }
}

/// Proof that the caller presented the admin key or a token with the role admin. Only this module creates it.
#[derive(Debug)]
pub(super) struct Operator(());

/// An authenticated caller.
pub(super) enum Caller {
    /// May do everything.
    Operator(Operator),
    /// Presented any other valid token. May publish to the channels that its `publish` covers.
    User(Arc<Identity>),
}

impl Admin {
    /// Authenticates the caller.
    ///
    /// # Errors
    ///
    /// The response 401 when there is no valid key or token, or 400 when `Authorization` is given twice.
    pub(super) fn authenticate(&self, headers: &HeaderMap) -> Result<Caller, Box<HttpResponse>> {
        let token = request::bearer(headers)
            .map_err(|error| response::error(HttpErrorCode::InvalidMessage, &error.to_string()))?;
        let Some(token) = token else {
            let text = "send the admin key or a token as `Authorization: Bearer`";
            return Err(response::error(HttpErrorCode::Unauthenticated, text).into());
        };
        if self
            .key
            .as_ref()
            .is_some_and(|key| same_secret(token.as_bytes(), key.0.expose()))
        {
            return Ok(Caller::Operator(Operator(())));
        }
        match self.parts.verifier.verify(token, unix_ms()) {
            Ok(identity) if identity.permissions.admin => Ok(Caller::Operator(Operator(()))),
            Ok(identity) => Ok(Caller::User(identity)),
            // Usually a mistyped admin key or the key of another gateway. A message about tokens alone would mislead.
            Err(error) if !token.contains('.') => {
                let text = "this is neither the admin key nor a JSON Web Token";
                Err(response::error(error.code.into(), text).into())
            }
            Err(error) => Err(response::error(error.code.into(), &error.message).into()),
        }
    }

    /// Authenticates the caller and requires an operator.
    ///
    /// # Errors
    ///
    /// The response 400 or 401 as [`Admin::authenticate`], or 403 for any other caller.
    pub(super) fn authenticate_operator(&self, headers: &HeaderMap) -> Result<Operator, Box<HttpResponse>> {
        match self.authenticate(headers)? {
            Caller::Operator(operator) => Ok(operator),
            Caller::User(_) => Err(forbidden("this needs the admin key or a token with the role admin").into()),
        }
    }
}

pub(super) fn forbidden(message: &str) -> HttpResponse {
    response::error(HttpErrorCode::Forbidden, message)
}
