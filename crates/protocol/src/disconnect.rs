//! Every way a connection ends: the close code, whose fault it was, and what the client should do.
//!
//! Invariant: a session ends with exactly one [`Disconnect`], and the numbers live here and nowhere else.

/// Whose doing an ending was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Blame {
    /// The client, its network or its token.
    Client,
    /// The gateway itself.
    Gateway,
    /// A person or program that operates the gateway.
    Operator,
}

/// What a client library does after this ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Advice {
    /// Come back with back-off and jitter.
    Reconnect,
    /// Come back only with a new token.
    ReconnectWithNewToken,
    /// Come back after ten seconds or more.
    ReconnectLater,
    /// Do not come back by itself.
    Stay,
}

macro_rules! endings {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $label:literal, $reason:literal, $blame:ident, $advice:ident;)*) => {
        /// Why a connection ended.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Disconnect { $($(#[$doc])* $name,)* }

        impl Disconnect {
            /// All endings, in the order of their close codes.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The close code (RFC 6455, section 7.4). 1006 is never sent: it stands for a peer that vanished.
            #[must_use]
            pub const fn code(self) -> u16 { match self { $(Self::$name => $code,)* } }

            /// A short name for metrics and logs.
            #[must_use]
            pub const fn label(self) -> &'static str { match self { $(Self::$name => $label,)* } }

            /// The reason sent in the Close frame, at most 123 bytes.
            #[must_use]
            pub const fn reason(self) -> &'static str { match self { $(Self::$name => $reason,)* } }

            /// Whose doing it was.
            #[must_use]
            pub const fn blame(self) -> Blame { match self { $(Self::$name => Blame::$blame,)* } }

            /// What the client should do next.
            #[must_use]
            pub const fn advice(self) -> Advice { match self { $(Self::$name => Advice::$advice,)* } }
        }
    };
}

endings! {
    /// The client closed.
    Normal = 1000, "normal", "closed", Client, Stay;
    /// The drain deadline passed before the connection's turn came.
    DrainDeadline = 1001, "drain_deadline", "gateway going away", Operator, Reconnect;
    /// The client broke RFC 6455.
    Protocol = 1002, "protocol", "protocol error", Client, Stay;
    /// A binary message on a text dialect.
    Unsupported = 1003, "unsupported", "binary messages are not supported", Client, Stay;
    /// The socket ended without a Close frame. Never sent.
    Lost = 1006, "lost", "connection lost", Client, Reconnect;
    /// A text message that is not UTF-8.
    InvalidUtf8 = 1007, "invalid_utf8", "invalid UTF-8", Client, Stay;
    /// The client broke a rule that no other code names.
    Policy = 1008, "policy", "policy violation", Client, Stay;
    /// A message above the endpoint's limit.
    TooBig = 1009, "too_big", "message too big", Client, Stay;
    /// The gateway failed.
    Internal = 1011, "internal", "internal error", Gateway, Reconnect;
    /// Drain: the gateway restarts.
    Restart = 1012, "restart", "gateway restarting", Operator, Reconnect;
    /// The gateway has no room (memory budget over all connections).
    Overload = 1013, "overload", "gateway overloaded", Gateway, Reconnect;
    /// The token's `exp` passed, or the handshake brought an expired one.
    TokenExpired = 4001, "token_expired", "token expired", Client, ReconnectWithNewToken;
    /// No valid `auth` within the authentication time.
    AuthTimeout = 4002, "auth_timeout", "authentication timeout", Client, ReconnectWithNewToken;
    /// Disconnected through the admin API.
    ByOperator = 4003, "by_operator", "disconnected by an operator", Operator, Stay;
    /// The handshake brought a bad token.
    TokenInvalid = 4004, "token_invalid", "token invalid", Client, ReconnectWithNewToken;
    /// An outbox or the replies' bound overflowed.
    SlowConsumer = 4008, "slow_consumer", "slow consumer", Client, Reconnect;
    /// Nothing was received within the heartbeat timeout.
    HeartbeatTimeout = 4009, "heartbeat_timeout", "heartbeat timeout", Client, Reconnect;
    /// Persistent flooding.
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
