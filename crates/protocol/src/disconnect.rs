//! The reasons for the end of a connection, each with its close code, its cause and advice for the client.
//!
//! Invariant: a session ends with exactly one [`Disconnect`]. Close codes are defined only here.

/// The party that caused the end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    /// The client, its network or its token.
    Client,
    /// The gateway itself.
    Gateway,
    /// A person or a program that operates the gateway.
    Operator,
}

/// What a client library should do after the connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Advice {
    /// Reconnect with back-off and jitter.
    Reconnect,
    /// Reconnect only with a new token.
    ReconnectWithNewToken,
    /// Reconnect after ten seconds or more.
    ReconnectLater,
    /// Do not reconnect automatically.
    Stay,
}

macro_rules! endings {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $label:literal, $reason:literal, $blame:ident, $advice:ident;)*) => {
        /// The reason for the end of a connection.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Disconnect { $($(#[$doc])* $name,)* }

        impl Disconnect {
            /// All reasons, in the order of their close codes.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The close code (RFC 6455, section 7.4). The code 1006 is never sent; it means that the connection was lost.
            #[must_use]
            pub const fn code(self) -> u16 { match self { $(Self::$name => $code,)* } }

            /// The name in metrics and logs.
            #[must_use]
            pub const fn label(self) -> &'static str { match self { $(Self::$name => $label,)* } }

            /// The reason text of the Close frame, at most 123 bytes.
            #[must_use]
            pub const fn reason(self) -> &'static str { match self { $(Self::$name => $reason,)* } }

            /// The party that caused the end.
            #[must_use]
            pub const fn blame(self) -> Blame { match self { $(Self::$name => Blame::$blame,)* } }

            /// What the client should do afterwards.
            #[must_use]
            pub const fn advice(self) -> Advice { match self { $(Self::$name => Advice::$advice,)* } }
        }
    };
}

endings! {
    /// The client closed the connection.
    Normal = 1000, "normal", "closed", Client, Stay;
    /// The deadline of a drain passed before this connection was closed in its order.
    DrainDeadline = 1001, "drain_deadline", "gateway going away", Operator, Reconnect;
    /// The client broke RFC 6455.
    Protocol = 1002, "protocol", "protocol error", Client, Stay;
    /// The client sent a binary message on an endpoint whose dialect is text.
    Unsupported = 1003, "unsupported", "binary messages are not supported", Client, Stay;
    /// The socket ended without a Close frame. This code is never sent.
    Lost = 1006, "lost", "connection lost", Client, Reconnect;
    /// The client sent a text message that is not UTF-8.
    InvalidUtf8 = 1007, "invalid_utf8", "invalid UTF-8", Client, Stay;
    /// The client broke a rule for which there is no other code.
    Policy = 1008, "policy", "policy violation", Client, Stay;
    /// The client sent a message above the endpoint's size limit.
    TooBig = 1009, "too_big", "message too big", Client, Stay;
    /// The gateway had an internal error.
    Internal = 1011, "internal", "internal error", Gateway, Reconnect;
    /// The gateway drains its connections before a restart.
    Restart = 1012, "restart", "gateway restarting", Operator, Reconnect;
    /// The memory budget of all connections is exhausted.
    Overload = 1013, "overload", "gateway overloaded", Gateway, Reconnect;
    /// The token expired (`exp`), or the handshake had an expired token.
    TokenExpired = 4001, "token_expired", "token expired", Client, ReconnectWithNewToken;
    /// The client sent no valid `auth` within the authentication timeout.
    AuthTimeout = 4002, "auth_timeout", "authentication timeout", Client, ReconnectWithNewToken;
    /// An operator disconnected the client through the admin API.
    ByOperator = 4003, "by_operator", "disconnected by an operator", Operator, Stay;
    /// The handshake had an invalid token.
    TokenInvalid = 4004, "token_invalid", "token invalid", Client, ReconnectWithNewToken;
    /// A newer connection of the same user took this one's place.
    Displaced = 4005, "displaced", "displaced by a newer connection of this user", Client, Stay;
    /// An operator revoked the client's token through the admin API.
    TokenRevoked = 4006, "token_revoked", "token revoked", Operator, ReconnectWithNewToken;
    /// The client reads too slowly: its outbox or its queue of replies overflowed.
    SlowConsumer = 4008, "slow_consumer", "slow consumer", Client, Reconnect;
    /// The client sent nothing within the heartbeat timeout.
    HeartbeatTimeout = 4009, "heartbeat_timeout", "heartbeat timeout", Client, Reconnect;
    /// Events may be missing from what the client got, because the gateway has lost its place among the other gateways.
    Resync = 4010, "resync", "events may be missing: reconnect and recover", Gateway, Reconnect;
    /// The client kept exceeding its rate limit.
    RateLimitAbuse = 4029, "rate_limit_abuse", "rate limit abuse", Client, ReconnectLater;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_fit_a_close_frame_and_codes_ascend() {
        for pair in Disconnect::ALL.windows(2) {
            assert!(pair[0].code() < pair[1].code());
        }
        for ending in Disconnect::ALL {
            assert!(ending.reason().len() <= 123, "{ending:?}");
        }
    }
}
