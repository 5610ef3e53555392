//! The event names that client libraries use for themselves.

/// Whether client libraries of Socket.IO emit an event with this name themselves, besides the names that the typed dialect
/// renames too. An application could not tell such an event of a publisher from the library's own.
///
/// The names that the libraries emit on the object to which applications add their handlers:
///
/// | library | source | names |
/// |---|---|---|
/// | `socket.io-client` 1.7.4, 2.5.0 | `lib/socket.js` (`events`), `lib/manager.js` (`emitAll`) | `connect`, `connect_error`, `connect_timeout`, `connecting`, `disconnect`, `error`, `ping`, `pong`, `reconnect`, `reconnect_attempt`, `reconnect_error`, `reconnect_failed`, `reconnecting` |
/// | `socket.io-client` 3.1.3, 4.8.4 | `build/socket.js` (`RESERVED_EVENTS`) | `connect`, `connect_error`, `disconnect`, `disconnecting`, `newListener`, `removeListener` |
/// | `socket.io-client-java` 1.0.2 | `Socket.java` (`events`) | those of `socket.io-client` 1 and 2 |
/// | `socket.io-client-java` 2.1.2 | `Socket.java` (`RESERVED_EVENTS`) | those of `socket.io-client` 3 and 4 |
/// | `socket.io-client-swift` 2 to 16.1.1 | `SocketIOClientSpec.swift` (`SocketClientEvent`) | `connect`, `disconnect`, `error`, `ping`, `pong`, `reconnect`, `reconnectAttempt`, `statusChange`, `websocketUpgrade` |
/// | `socket.io-client-dart` | `lib/src/socket.dart` (`EVENTS`, `onclose`) | those of `socket.io-client` 1 and 2, `disconnecting` |
/// | `python-socketio` 4.6.1, 5.18.1 | `client.py` (`_trigger_event`), `base_client.py` (`reserved_events`) | `connect`, `connect_error`, `disconnect`, `__disconnect_final` |
///
/// The clients for C++ and C# tell of their state by functions, not by names. `open`, `close` and `packet` are events of the
/// JavaScript and Java managers, which get no events of publishers.
pub(super) fn is_client_event(name: &str) -> bool {
    matches!(
        name,
        "__disconnect_final"
            | "connect_timeout"
            | "connecting"
            | "reconnectAttempt"
            | "reconnect_attempt"
            | "reconnect_error"
            | "reconnect_failed"
            | "reconnecting"
            | "statusChange"
            | "websocketUpgrade"
    )
}
