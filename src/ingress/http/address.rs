//! The addresses and names of listeners.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// An address to listen on: `127.0.0.1:8080`, `[::1]:8080` or `unix:/run/tickgate/public.sock`.
///
/// Port 0 asks the system for a free port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddress {
    /// A TCP socket.
    Tcp(SocketAddr),
    /// A Unix stream socket; an absolute path.
    Unix(PathBuf),
}

/// The address that a listener is bound to: port 0 is replaced by the real port.
pub type LocalAddress = ListenAddress;

/// Why a text is not a [`ListenAddress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Neither `address:port` nor `unix:/path`.
    #[error("must be an IP address with a port, such as 127.0.0.1:8080 or [::1]:8080, or unix:/path")]
    Syntax,
    /// The path is relative, holds a zero byte, or is longer than a socket address allows (107 bytes).
    #[error("must be unix: and an absolute path of at most 107 bytes")]
    Path,
}

/// `sun_path` holds 108 bytes with the final zero (`unix(7)`).
const UNIX_PATH_BYTES_MAX: usize = 107;

impl ListenAddress {
    /// Whether only processes of this machine can reach the listener.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().to_canonical().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// The TCP address; `None` for a Unix socket.
    #[must_use]
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }
}

impl FromStr for ListenAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let fits = path.starts_with('/') && path.len() <= UNIX_PATH_BYTES_MAX && !path.contains('\0');
            return if fits {
                Ok(Self::Unix(path.into()))
            } else {
                Err(AddressError::Path)
            };
        }
        text.parse().map(Self::Tcp).map_err(|_| AddressError::Syntax)
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// A listener by its name: the address of `server.listen`, or the name of a socket that systemd passed
/// (`FileDescriptorName=`), written `systemd:name`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenerName {
    /// The configured or the bound address.
    Address(ListenAddress),
    /// The name of a passed socket.
    Systemd(Box<str>),
}

/// What an endpoint may call a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerNames {
    /// The configured address, or the name that systemd passed.
    pub configured: ListenerName,
    /// The address that it is bound to.
    pub bound: LocalAddress,
}

impl ListenerNames {
    /// Whether `name` is one of these.
    #[must_use]
    pub fn include(&self, name: &ListenerName) -> bool {
        self.configured == *name || matches!(name, ListenerName::Address(address) if *address == self.bound)
    }
}

/// A text is neither an address nor `systemd:name`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListenerNameError {
    /// The address is not valid.
    #[error("{0}, or systemd:name")]
    Address(#[from] AddressError),
    /// `systemd:` without a name, or with one that systemd does not allow.
    #[error("must have a name behind systemd:, without a colon or white space")]
    Systemd,
}

impl FromStr for ListenerName {
    type Err = ListenerNameError;

    fn from_str(text: &str) -> Result<Self, ListenerNameError> {
        let Some(name) = text.strip_prefix("systemd:") else {
            return Ok(Self::Address(text.parse()?));
        };
        // systemd.socket(5): printable ASCII without a colon.
        let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
        if is_name {
            Ok(Self::Systemd(name.into()))
        } else {
            Err(ListenerNameError::Systemd)
        }
    }
}

impl fmt::Display for ListenerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_alike() {
        for text in [
            "127.0.0.1:8080",
            "[::1]:0",
            "0.0.0.0:80",
            "unix:/run/tickgate/public.sock",
        ] {
            assert_eq!(text.parse::<ListenAddress>().expect(text).to_string(), text);
        }
        let long = format!("unix:/{}", "x".repeat(UNIX_PATH_BYTES_MAX));
        for (text, error) in [
            ("", AddressError::Syntax),
            ("8080", AddressError::Syntax),
            ("localhost:8080", AddressError::Syntax),
            ("127.0.0.1", AddressError::Syntax),
            ("unix:", AddressError::Path),
            ("unix:run/x.sock", AddressError::Path),
            (long.as_str(), AddressError::Path),
        ] {
            assert_eq!(text.parse::<ListenAddress>(), Err(error), "{text}");
        }
    }

    #[test]
    fn listeners_have_an_address_or_a_name() {
        for text in ["127.0.0.1:8080", "unix:/x", "systemd:market"] {
            assert_eq!(text.parse::<ListenerName>().expect(text).to_string(), text);
        }
        for (text, error) in [
            ("market", ListenerNameError::Address(AddressError::Syntax)),
            ("systemd:", ListenerNameError::Systemd),
            ("systemd:a b", ListenerNameError::Systemd),
            ("systemd:a:b", ListenerNameError::Systemd),
        ] {
            assert_eq!(text.parse::<ListenerName>(), Err(error), "{text}");
        }
    }

    #[test]
    fn only_loopback_and_unix_are_local() {
        for (text, local) in [
            ("127.9.0.1:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("unix:/x", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("192.0.2.1:1", false),
        ] {
            assert_eq!(text.parse::<ListenAddress>().expect(text).is_local(), local, "{text}");
        }
    }
}
