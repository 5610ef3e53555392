//! Listening sockets: bound by the gateway, or passed to it.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use socket2::{Domain, Protocol, Type};
use tokio::net::{TcpListener, UnixListener};

use super::address::{ListenAddress, ListenerName, ListenerNames, LocalAddress};
use super::inherit::{Kept, Passed, PassedSocket};
use super::socket::Accepted;

/// How many connections may wait in the kernel for `accept`. The kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

/// An open listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: Kind,
    address: LocalAddress,
    // The configured address, or the name that systemd passed.
    name: ListenerName,
    // Removes the socket's file when the listener is dropped.
    file: Option<SocketFile>,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// Binds a listening socket. A Unix socket's file gets the permissions `mode`, such as `0o660`.
    ///
    /// The IPv6 wildcard also accepts IPv4 connections unless `ipv6_only`, whatever the system's default is. With
    /// `ipv6_only`, the IPv4 addresses of the port are free for another listener.
    ///
    /// The file of a Unix socket that no process listens on any more is replaced. Any other file at the path is kept and
    /// is an error. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// When the socket cannot be bound, or when its path is taken.
    pub fn bind(address: &ListenAddress, mode: u32, ipv6_only: bool) -> io::Result<Self> {
        match address {
            ListenAddress::Tcp(address) => {
                let socket = socket2::Socket::new(Domain::for_address(*address), Type::STREAM, Some(Protocol::TCP))?;
                // Connections of the previous process in TIME_WAIT must not keep a restarted gateway from binding.
                socket.set_reuse_address(true)?;
                if address.is_ipv6() {
                    socket.set_only_v6(ipv6_only)?;
                }
                socket.set_nonblocking(true)?;
                socket.bind(&(*address).into())?;
                socket.listen(BACKLOG)?;
                Self::from_tcp(socket.into(), ListenerName::Address(ListenAddress::Tcp(*address)))
            }
            ListenAddress::Unix(path) => {
                remove_stale(path)?;
                let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM, None)?;
                socket.set_nonblocking(true)?;
                socket.bind(&socket2::SockAddr::unix(path)?)?;
                let file = SocketFile::new(path)?;
                fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
                socket.listen(BACKLOG)?;
                let mut listener =
                    Self::from_unix(socket.into(), path.clone(), ListenerName::Address(address.clone()))?;
                listener.file = Some(file);
                Ok(listener)
            }
        }
    }

    /// Takes over a socket that was passed to the process. Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// When the socket cannot be registered with the runtime.
    pub fn inherit(passed: Passed) -> io::Result<Self> {
        let name = ListenerName::Systemd(passed.name);
        match passed.socket {
            PassedSocket::Tcp(listener) => Self::from_tcp(listener, name),
            PassedSocket::Unix(listener) => {
                let path = listener
                    .local_addr()?
                    .as_pathname()
                    .map(Path::to_owned)
                    .unwrap_or_default();
                Self::from_unix(listener, path, name)
            }
        }
    }

    /// Takes over a socket that the gateway bound before it restarted. A Unix socket's file gets the permissions `mode`. Must
    /// be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// When the socket cannot be registered with the runtime, or its file is gone.
    pub fn keep(kept: Kept, mode: u32) -> io::Result<Self> {
        let name = ListenerName::Address(kept.address.clone());
        match (kept.socket, kept.address) {
            (PassedSocket::Unix(listener), ListenAddress::Unix(path)) => {
                let file = SocketFile::new(&path)?;
                fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
                let mut listener = Self::from_unix(listener, path, name)?;
                listener.file = Some(file);
                Ok(listener)
            }
            (PassedSocket::Tcp(listener), ListenAddress::Tcp(_)) => Self::from_tcp(listener, name),
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }

    fn from_tcp(listener: std::net::TcpListener, name: ListenerName) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        // Accepted sockets inherit the option. The gateway writes whole responses and, after the upgrade, all that a
        // shard has for a connection: Nagle's algorithm would only delay them.
        socket2::SockRef::from(&listener).set_tcp_nodelay(true)?;
        let address = LocalAddress::Tcp(listener.local_addr()?);
        Ok(Self {
            socket: Kind::Tcp(TcpListener::from_std(listener)?),
            address,
            name,
            file: None,
        })
    }

    fn from_unix(listener: StdUnixListener, path: PathBuf, name: ListenerName) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = LocalAddress::Unix(path);
        Ok(Self {
            socket: Kind::Unix(UnixListener::from_std(listener)?),
            address,
            name,
            file: None,
        })
    }

    /// The address that it is bound to.
    #[must_use]
    pub fn address(&self) -> &LocalAddress {
        &self.address
    }

    /// Whether the socket was passed to the process. Connections that are not accepted wait for the next process.
    #[must_use]
    pub fn is_inherited(&self) -> bool {
        matches!(self.name, ListenerName::Systemd(_))
    }

    /// What an endpoint may call it.
    #[must_use]
    pub fn names(&self) -> ListenerNames {
        ListenerNames {
            configured: self.name.clone(),
            bound: self.address.clone(),
        }
    }

    /// The name of the listener, and the socket for the program that takes this one's place.
    ///
    /// # Errors
    ///
    /// When the process is out of descriptors.
    pub fn hand_over(&self) -> io::Result<(ListenerName, OwnedFd)> {
        let socket = match &self.socket {
            Kind::Tcp(listener) => listener.as_fd(),
            Kind::Unix(listener) => listener.as_fd(),
        };
        Ok((self.name.clone(), socket.try_clone_to_owned()?))
    }

    /// Leaves the file of a Unix socket to the program that takes this one's place.
    pub fn leave_file(&self) {
        if let Some(file) = &self.file {
            file.is_kept.store(true, Relaxed);
        }
    }

    /// Accepts the next connection, which may be served on another runtime.
    ///
    /// # Errors
    ///
    /// Those of `accept(2)`. [`accept_until_closed`](super::accept_until_closed) tells which of them pass.
    pub async fn accept(&self) -> io::Result<Accepted> {
        match &self.socket {
            Kind::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok(Accepted::tcp(stream.into_std()?, peer))
            }
            Kind::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                Ok(Accepted::unix(stream.into_std()?))
            }
        }
    }
}

/// Removes the file of a Unix socket that no process listens on.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "the file exists and is not a socket",
            ));
        }
        Ok(_) => {}
    }
    match StdUnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another process listens on the socket",
        )),
    }
}

/// A socket file that this process made. Dropping it removes the file, unless another file has taken its path or the
/// socket was handed over.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
    is_kept: AtomicBool,
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        let file = fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            device: file.dev(),
            inode: file.ino(),
            is_kept: AtomicBool::new(false),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours =
            fs::symlink_metadata(&self.path).is_ok_and(|file| file.dev() == self.device && file.ino() == self.inode);
        if ours && !self.is_kept.load(Relaxed) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unix(path: &Path) -> ListenAddress {
        ListenAddress::Unix(path.to_owned())
    }

    #[tokio::test]
    async fn a_stale_socket_file_is_replaced_and_removed_on_drop() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("s");
        drop(StdUnixListener::bind(&path).expect("bound"));
        assert!(path.exists(), "std leaves the file behind");

        let listener = Listener::bind(&unix(&path), 0o660, false).expect("bound over the stale file");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o660);
        let (_client, accepted) = (
            StdUnixStream::connect(&path).expect("connected"),
            listener.accept().await,
        );
        accepted.expect("accepted").open().expect("opened");
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_live_listener_and_other_files_are_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("s");
        let first = Listener::bind(&unix(&path), 0o660, false).expect("bound");
        let error = Listener::bind(&unix(&path), 0o660, false).expect_err("taken");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(first);

        fs::write(&path, "precious").expect("written");
        let error = Listener::bind(&unix(&path), 0o660, false).expect_err("a file");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).expect("still there"), b"precious");
    }

    #[tokio::test]
    async fn a_listener_does_not_remove_the_socket_file_of_its_successor() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("s");
        let first = Listener::bind(&unix(&path), 0o660, false).expect("bound");
        fs::remove_file(&path).expect("removed");
        let _second = Listener::bind(&unix(&path), 0o660, false).expect("bound");
        drop(first);
        assert!(path.exists());
    }
}
