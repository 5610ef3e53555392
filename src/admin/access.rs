//! Authentication: the admin key, the viewer key, a token, or the session of the console.
//!
//! Invariant: a request that changes something and is authenticated by a cookie comes from a page of this listener. A page
//! of another origin can make a browser send the cookie, but not the `Origin` of this listener.
//!
//! Invariant: a request is about one tenant, or about all. Only whoever has a key of `[admin]` chooses it. Anybody else is
//! bound to the tenant whose key they presented, or whose key signed their token.

use std::sync::Arc;

use hyper::header::HeaderMap;
use hyper::{Method, Request};

use super::console::{Credential, is_own_origin, session_token};
use super::query::Query;
use super::{Admin, TenantAccess};
use crate::auth::{Identity, Permissions, Secret, same_secret};
use crate::ingress::http::HttpErrorCode;
use crate::ingress::http::request;
use crate::ingress::http::response::{self, HttpResponse};
use crate::time::unix_ms;
use tickgate_protocol::channel::{Pattern, Tenant};

/// The parameter by which the operator of all tenants chooses one.
pub(super) const TENANT: &str = "tenant";

/// A key of `[admin]` or `[tenant.admin]`. `Debug` does not show it.
#[derive(Clone, Debug)]
pub struct AdminKey(Secret);

impl AdminKey {
    /// Creates a key. `None` for an empty text.
    #[must_use]
    pub fn new(key: &str) -> Option<Self> {
        (!key.is_empty()).then(|| Self(Secret::new(key.as_bytes())))
    }

    pub(super) fn is(&self, given: &str) -> bool {
        same_secret(given.as_bytes(), self.0.expose())
    }
}

/// What the holder of a key may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    role: Role,
    /// The only tenant that the key is for; `None`: all.
    tenant: Option<Tenant>,
}

/// The keys of `[admin]`, the operator's first, and those of all tenants.
pub(super) fn keys(of_all: [Option<AdminKey>; 2], tenants: &[TenantAccess]) -> Vec<(AdminKey, Holder)> {
    let of_tenants = (1..).map(Tenant::new).zip(tenants);
    let of_tenants = of_tenants.map(|(tenant, access)| (tenant, [access.key.clone(), access.viewer_key.clone()]));
    let mut keys = Vec::new();
    for (tenant, pair) in std::iter::once((None, of_all)).chain(of_tenants) {
        for (key, role) in pair.into_iter().zip([Role::Operator, Role::Viewer]) {
            keys.extend(key.map(|key| (key, Holder { role, tenant })));
        }
    }
    keys
}

/// What a caller may do on the admin listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// May look.
    Viewer,
    /// May look and act.
    Operator,
}

impl Role {
    /// `viewer` or `operator`.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Operator => "operator",
        }
    }
}

/// The tenants that a caller may look at, and the one that the request is about.
#[derive(Clone, Copy, Debug)]
struct Scope {
    tenant: Tenant,
    // Whether the caller has a key of `[admin]`.
    is_of_all: bool,
    // Whether the request names the tenant.
    is_chosen: bool,
}

impl Scope {
    const ALL: Self = Self {
        tenant: Tenant::DEFAULT,
        is_of_all: true,
        is_chosen: false,
    };

    const fn tenant(self) -> Option<Tenant> {
        if self.is_of_all && !self.is_chosen {
            None
        } else {
            Some(self.tenant)
        }
    }

    const fn bound(self) -> Option<Tenant> {
        if self.is_of_all { None } else { Some(self.tenant) }
    }

    /// What the administrators of one tenant see.
    const fn of(tenant: Tenant) -> Self {
        Self {
            tenant,
            is_of_all: false,
            is_chosen: false,
        }
    }
}

/// Proof that the caller may look and act. Only this module creates it.
#[derive(Debug)]
pub(super) struct Operator {
    name: Box<str>,
    scope: Scope,
}

/// Proof that the caller may look. Only this module creates it.
#[derive(Debug)]
pub(super) struct Viewer {
    role: Role,
    scope: Scope,
}

impl Operator {
    /// Who acts, for the audit log: the user of a token, or which key was presented.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The tenant that the request is about.
    pub(super) const fn tenant(&self) -> Tenant {
        self.scope.tenant
    }

    /// The tenant whose connections the caller sees; `None`: those of all.
    pub(super) const fn scope(&self) -> Option<Tenant> {
        self.scope.tenant()
    }

    /// The only tenant that the caller administers; `None`: all.
    pub(super) const fn bound(&self) -> Option<Tenant> {
        self.scope.bound()
    }

    /// Requires that the caller may act for all tenants.
    ///
    /// # Errors
    ///
    /// The response 403.
    pub(super) fn acts_for_all(&self) -> Result<(), Box<HttpResponse>> {
        if self.scope.is_of_all {
            Ok(())
        } else {
            Err(forbidden("this is about all tenants: it needs a key of [admin]").into())
        }
    }
}

impl Viewer {
    pub(super) const fn role(&self) -> Role {
        self.role
    }

    /// The tenant that the request is about.
    pub(super) const fn tenant(&self) -> Tenant {
        self.scope.tenant
    }

    /// The tenant whose connections and statistics the caller sees; `None`: those of all.
    pub(super) const fn scope(&self) -> Option<Tenant> {
        self.scope.tenant()
    }

    /// The only tenant that the caller may see; `None`: all.
    pub(super) const fn bound(&self) -> Option<Tenant> {
        self.scope.bound()
    }
}

/// An authenticated caller.
pub(super) enum Caller {
    /// May do everything.
    Operator(Operator),
    /// May look.
    Viewer(Viewer),
    /// Presented any other valid token. May publish to the channels that its `publish` covers.
    User(Arc<Identity>),
}

impl Caller {
    /// The tenant that the request is about.
    pub(super) fn tenant(&self) -> Tenant {
        match self {
            Self::Operator(operator) => operator.scope.tenant,
            Self::Viewer(viewer) => viewer.scope.tenant,
            Self::User(identity) => identity.tenant,
        }
    }

    /// The only tenant that the caller may see; `None`: all.
    pub(super) fn bound(&self) -> Option<Tenant> {
        match self {
            Self::Operator(operator) => operator.scope.bound(),
            Self::Viewer(viewer) => viewer.scope.bound(),
            Self::User(identity) => Some(identity.tenant),
        }
    }
}

impl Admin {
    /// Authenticates the caller, by `Authorization` or else by the cookie of the console, and finds the tenant that the
    /// request is about.
    ///
    /// # Errors
    ///
    /// The response 401 when there is no valid key, token or session, 400 when `Authorization` is given twice, or 403 when a
    /// page of another origin acts with the cookie or the query names a tenant that the caller may not choose. 404 when it
    /// names none that exists.
    pub(super) fn authenticate<B>(&self, request: &Request<B>) -> Result<Caller, Box<HttpResponse>> {
        let caller = self.caller(request)?;
        self.choose(caller, Query::of(request.uri().query().unwrap_or_default()))
    }

    /// The caller, about the tenant that the query names.
    ///
    /// # Errors
    ///
    /// As [`Admin::authenticate`].
    fn choose(&self, mut caller: Caller, query: Query<'_>) -> Result<Caller, Box<HttpResponse>> {
        let named = query
            .get(TENANT)
            .map_err(|message| response::error(HttpErrorCode::InvalidMessage, &message))?;
        let Some(name) = named else { return Ok(caller) };
        let found = self.tenants.find(&name);
        let own = caller.tenant();
        let scope = match &mut caller {
            Caller::Operator(Operator { scope, .. }) | Caller::Viewer(Viewer { scope, .. }) if scope.is_of_all => scope,
            _ if found == Some(own) => return Ok(caller),
            _ => return Err(forbidden("this key or token is for another tenant").into()),
        };
        let Some(tenant) = found else {
            let text = format!("there is no tenant {name:?}");
            return Err(response::error(HttpErrorCode::NotFound, &text).into());
        };
        scope.tenant = tenant;
        scope.is_chosen = !self.tenants.is_empty();
        Ok(caller)
    }

    fn caller<B>(&self, request: &Request<B>) -> Result<Caller, Box<HttpResponse>> {
        let headers = request.headers();
        let token = request::bearer(headers).map_err(|error| {
            self.metrics.credentials_refused.add(1);
            response::error(HttpErrorCode::InvalidMessage, &error.to_string())
        })?;
        if let Some(token) = token {
            return self.present(token);
        }
        let Some(credential) = self.session(headers) else {
            let text = "send the admin key or a token as `Authorization: Bearer`";
            return Err(response::error(HttpErrorCode::Unauthenticated, text).into());
        };
        if !matches!(*request.method(), Method::GET | Method::HEAD) && !is_own_origin(headers) {
            return Err(forbidden("a page of another origin may not act with the session of the console").into());
        }
        self.accept(&credential)
    }

    /// The credential of the console's session that a request names.
    fn session(&self, headers: &HeaderMap) -> Option<Credential> {
        let token = session_token(headers)?;
        self.sessions.find(token, self.parts.clock.now().mono_ms)
    }

    /// The caller that signed in with this credential. A token may have expired meanwhile, or its key may be gone.
    fn accept(&self, credential: &Credential) -> Result<Caller, Box<HttpResponse>> {
        match credential {
            Credential::Key(holder) => Ok(self.holds(*holder)),
            Credential::Token(token) => self.present(token),
        }
    }

    /// The caller that presents a key or token.
    ///
    /// # Errors
    ///
    /// The response 401 when it is neither.
    pub(super) fn present(&self, token: &str) -> Result<Caller, Box<HttpResponse>> {
        if let Some(holder) = self.holder_of(token) {
            return Ok(self.holds(holder));
        }
        match self.parts.verifier.verify_any(token, unix_ms()) {
            Ok(identity) if identity.permissions.admin => {
                let user = identity.user.as_deref().unwrap_or("admin token");
                Ok(Caller::Operator(Operator {
                    name: user.into(),
                    scope: Scope {
                        tenant: identity.tenant,
                        is_of_all: self.tenants.is_empty(),
                        is_chosen: false,
                    },
                }))
            }
            Ok(identity) => Ok(Caller::User(identity)),
            // Usually a mistyped admin key or the key of another gateway. A message about tokens alone would mislead.
            Err(error) if !token.contains('.') => {
                let text = "this is neither the admin key nor a JSON Web Token";
                Err(response::error(error.code.into(), text).into())
            }
            Err(error) => Err(response::error(error.code.into(), &error.message).into()),
        }
    }

    /// What the holder of this key may do; `None`: it is not a key.
    pub(super) fn holder_of(&self, given: &str) -> Option<Holder> {
        let (_, holder) = self.keys.iter().find(|(key, _)| key.is(given))?;
        Some(*holder)
    }

    /// The caller who holds a key.
    fn holds(&self, Holder { role, tenant }: Holder) -> Caller {
        let scope = tenant.map_or(Scope::ALL, Scope::of);
        match role {
            Role::Viewer => Caller::Viewer(Viewer { role, scope }),
            Role::Operator => Caller::Operator(Operator {
                name: match tenant {
                    Some(tenant) => format!("admin key of {}", self.tenants.label(tenant)).into(),
                    None => "admin key".into(),
                },
                scope,
            }),
        }
    }

    /// Authenticates the caller and requires an operator.
    ///
    /// # Errors
    ///
    /// As [`Admin::authenticate`], or 403 for any other caller.
    pub(super) fn authenticate_operator<B>(&self, request: &Request<B>) -> Result<Operator, Box<HttpResponse>> {
        match self.authenticate(request)? {
            Caller::Operator(operator) => Ok(operator),
            Caller::Viewer(_) => Err(forbidden("the viewer key may look, but not do this").into()),
            Caller::User(_) => Err(forbidden("this needs the admin key or a token with the role admin").into()),
        }
    }

    /// Authenticates the caller and requires a viewer or an operator.
    ///
    /// # Errors
    ///
    /// As [`Admin::authenticate`], or 403 for any other caller.
    pub(super) fn authenticate_viewer<B>(&self, request: &Request<B>) -> Result<Viewer, Box<HttpResponse>> {
        viewer(self.authenticate(request)?)
    }

    /// Whom a page of the console is, and for which tenant, by its session and the query. A token is verified again.
    ///
    /// # Errors
    ///
    /// As [`Admin::authenticate`].
    pub(super) fn console_caller<B>(&self, request: &Request<B>) -> Result<(Tenant, Arc<Identity>), Box<HttpResponse>> {
        let sign_in = || response::error(HttpErrorCode::Unauthenticated, "sign in to the console first");
        let headers = request.headers();
        let now_ms = self.parts.clock.now().mono_ms;
        let token = session_token(headers).ok_or_else(sign_in)?;
        let credential = self.sessions.find(token, now_ms).ok_or_else(sign_in)?;
        let left_ms = self.sessions.left_ms(token, now_ms).ok_or_else(sign_in)?;
        let query = Query::of(request.uri().query().unwrap_or_default());
        let caller = self.choose(self.accept(&credential)?, query)?;
        let tenant = caller.tenant();
        let role = viewer(caller)?.role();
        if let Credential::Token(token) = &credential {
            // It is an admin's, and ends with the token.
            let identity = self.parts.verifier.verify_any(token, unix_ms());
            return identity
                .map(|identity| (tenant, identity))
                .map_err(|error| response::error(error.code.into(), &error.message).into());
        }
        let (role, permissions) = match role {
            Role::Operator => (
                "admin",
                Permissions {
                    admin: true,
                    ..Permissions::default()
                },
            ),
            Role::Viewer => (
                "viewer",
                Permissions {
                    gateway: true,
                    channels: Pattern::parse("system.health").into_iter().collect(),
                    ..Permissions::default()
                }
                .in_tenant(tenant),
            ),
        };
        let ends_ms = unix_ms().saturating_add(left_ms);
        let identity = Identity {
            tenant,
            role: Some(role.into()),
            expires_at_ms: Some(ends_ms),
            exp_ms: Some(ends_ms),
            ..Identity::anonymous(Arc::new(permissions))
        };
        Ok((tenant, Arc::new(identity)))
    }
}

/// A backend that the broker lets publish to the subjects of a tenant. The permissions of the broker are its credentials.
pub(super) fn backend_of(tenant: Tenant) -> Caller {
    Caller::Operator(Operator {
        name: "broker".into(),
        scope: Scope::of(tenant),
    })
}

/// Requires a viewer or an operator.
///
/// # Errors
///
/// The response 403.
pub(super) fn viewer(caller: Caller) -> Result<Viewer, Box<HttpResponse>> {
    match caller {
        Caller::Operator(Operator { scope, .. }) => Ok(Viewer {
            role: Role::Operator,
            scope,
        }),
        Caller::Viewer(viewer) => Ok(viewer),
        Caller::User(_) => Err(forbidden("this needs the admin key or a token with the role admin").into()),
    }
}

pub(super) fn forbidden(message: &str) -> HttpResponse {
    response::error(HttpErrorCode::Forbidden, message)
}
