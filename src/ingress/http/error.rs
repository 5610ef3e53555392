//! The error codes of HTTP responses.
//!
//! Every JSON error body of the public and the admin listener is `{"error":{"code","message"}}`. The codes are declared
//! here, each with its status, and nowhere else.

use hyper::StatusCode;
use serde::{Serialize, Serializer};
use tickgate_protocol::message::ErrorCode;

use crate::event::Refusal;

macro_rules! http_error_codes {
    ($($(#[$doc:meta])* $name:ident = $status:ident, $text:literal;)*) => {
        /// The code of an HTTP error response. It decides the status.
        ///
        /// Two codes may share their text when the same failure has two statuses.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum HttpErrorCode { $($(#[$doc])* $name,)* }

        impl HttpErrorCode {
            /// All codes.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The code as it is written in a body, such as `NOT_FOUND`.
            #[must_use]
            pub const fn as_str(self) -> &'static str { match self { $(Self::$name => $text,)* } }

            /// The status of a response with this code: 400 to 599.
            #[must_use]
            pub const fn status(self) -> StatusCode { match self { $(Self::$name => StatusCode::$status,)* } }
        }
    };
}

http_error_codes! {
    /// A parameter, header or field is missing or wrong; the message names it.
    InvalidMessage = BAD_REQUEST, "INVALID_MESSAGE";
    /// The body is not JSON, or is nested too deeply.
    InvalidJson = BAD_REQUEST, "INVALID_JSON";
    /// A channel or pattern breaks the grammar; the message names it.
    InvalidChannel = BAD_REQUEST, "INVALID_CHANNEL";
    /// The request has no credentials, or the admin key is wrong.
    Unauthenticated = UNAUTHORIZED, "UNAUTHENTICATED";
    /// The token is invalid.
    TokenInvalid = UNAUTHORIZED, "TOKEN_INVALID";
    /// The token was valid until it expired.
    TokenExpired = UNAUTHORIZED, "TOKEN_EXPIRED";
    /// The caller is known and lacks the permission, or the page's origin may not connect.
    Forbidden = FORBIDDEN, "FORBIDDEN";
    /// No resource has this path, or the named channel, client or user does not exist.
    NotFound = NOT_FOUND, "NOT_FOUND";
    /// The path exists and has other methods.
    MethodNotAllowed = METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED";
    /// The body did not arrive in time.
    Timeout = REQUEST_TIMEOUT, "TIMEOUT";
    /// The body or an event in it is longer than its limit.
    MessageTooLarge = PAYLOAD_TOO_LARGE, "MESSAGE_TOO_LARGE";
    /// The body is compressed or encoded in another way.
    UnsupportedMediaType = UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE";
    /// The path is a WebSocket endpoint and the request is not a handshake of version 13.
    UpgradeRequired = UPGRADE_REQUIRED, "UPGRADE_REQUIRED";
    /// Too many connections of one address or user, or too many handshakes per second.
    RateLimited = TOO_MANY_REQUESTS, "RATE_LIMITED";
    /// The gateway failed.
    Internal = INTERNAL_SERVER_ERROR, "INTERNAL";
    /// A backend could not be reached or failed.
    BackendUnavailable = BAD_GATEWAY, "BACKEND_UNAVAILABLE";
    /// The broker, which carries events between gateways, cannot be reached.
    BrokerUnavailable = SERVICE_UNAVAILABLE, "BROKER_UNAVAILABLE";
    /// The broker did not confirm an event in time, so it may have been published.
    OutcomeUnknown = GATEWAY_TIMEOUT, "OUTCOME_UNKNOWN";
    /// The gateway is at one of its limits, or is shutting down.
    Overloaded = SERVICE_UNAVAILABLE, "OVERLOADED";
    /// The gateway is draining: new connections belong to another gateway.
    Draining = SERVICE_UNAVAILABLE, "DRAINING";
    /// `/readyz`: the gateway should not get new clients.
    NotReady = SERVICE_UNAVAILABLE, "NOT_READY";
}

impl From<ErrorCode> for HttpErrorCode {
    /// The HTTP code of the same failure. A code that only WebSocket messages have becomes `INVALID_MESSAGE`.
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::InvalidJson => Self::InvalidJson,
            ErrorCode::InvalidChannel => Self::InvalidChannel,
            ErrorCode::Unauthenticated => Self::Unauthenticated,
            ErrorCode::TokenInvalid => Self::TokenInvalid,
            ErrorCode::TokenExpired => Self::TokenExpired,
            ErrorCode::Forbidden => Self::Forbidden,
            ErrorCode::RateLimited => Self::RateLimited,
            ErrorCode::Overloaded => Self::Overloaded,
            ErrorCode::MessageTooLarge => Self::MessageTooLarge,
            ErrorCode::Internal => Self::Internal,
            ErrorCode::BackendUnavailable => Self::BackendUnavailable,
            ErrorCode::BrokerUnavailable => Self::BrokerUnavailable,
            ErrorCode::OutcomeUnknown => Self::OutcomeUnknown,
            ErrorCode::Timeout => Self::Timeout,
            ErrorCode::InvalidMessage
            | ErrorCode::UnknownType
            | ErrorCode::AuthSubjectMismatch
            | ErrorCode::SubscriptionLimit
            | ErrorCode::UnknownAction
            | ErrorCode::DuplicateId
            | ErrorCode::KeyReused
            | ErrorCode::Unknown
            | ErrorCode::UnknownKey => Self::InvalidMessage,
        }
    }
}

impl From<Refusal> for HttpErrorCode {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Unavailable | Refusal::Rejected => Self::BrokerUnavailable,
            Refusal::Unknown => Self::OutcomeUnknown,
        }
    }
}

impl Serialize for HttpErrorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_is_an_error() {
        for code in HttpErrorCode::ALL {
            assert!(
                code.status().is_client_error() || code.status().is_server_error(),
                "{code:?}"
            );
        }
    }

    #[test]
    fn message_codes_keep_their_text() {
        for code in ErrorCode::ALL {
            let http = HttpErrorCode::from(*code);
            assert!(
                http.as_str() == code.as_str() || http == HttpErrorCode::InvalidMessage,
                "{code:?} becomes {http:?}"
            );
        }
    }
}
