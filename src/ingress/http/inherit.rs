//! Listening sockets that were passed to the process: by systemd, or by the gateway that this process replaces.
//!
//! A gateway that restarts in place replaces its own program (`execve(2)`), so the process id stays and the sockets stay
//! open. Or it starts the new program beside itself, in a child process, which says through a pipe when it accepts. The
//! variable [`RESTART_VARIABLE`] tells the new program which descriptors they are.

use std::io::{self, PipeWriter, Write as _};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::process::Command;
use std::str::FromStr as _;
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::time::{ClockId, clock_gettime};
use socket2::SockRef;

use super::address::{ListenAddress, ListenerName};

/// The variable that tells the program after a restart about its sockets. It does not name a key of the configuration.
pub const RESTART_VARIABLE: &str = "TICKGATE_RESTART";

/// The listening sockets that were passed to this process.
#[derive(Debug, Default)]
pub struct Inherited {
    /// The sockets of systemd for clients: all that are not named `admin` (`LISTEN_FDS`, see `sd_listen_fds(3)`).
    pub public: Vec<Passed>,
    /// The socket of systemd that is named `admin` (`FileDescriptorName=admin`).
    pub admin: Option<Passed>,
    /// The sockets that the program before this one bound itself.
    pub kept: Vec<Kept>,
    /// Since when nobody accepts on the sockets, if the gateway restarts in place: a reading of `CLOCK_MONOTONIC`.
    pub waiting_since: Option<Duration>,
    /// The process that goes on until this one accepts.
    pub predecessor: Option<Predecessor>,
}

/// The process that runs the gateway before this one, and waits until this one takes its place.
#[derive(Debug)]
pub struct Predecessor(PipeWriter);

impl Predecessor {
    /// Says that this process accepts connections: the other one accepts no more from now on.
    ///
    /// # Errors
    ///
    /// When that process has ended.
    pub fn replace(mut self) -> io::Result<()> {
        self.0.write_all(ACCEPTS)
    }
}

/// What goes through the pipe when the new program accepts.
pub const ACCEPTS: &[u8] = b"1";

/// A listening socket that systemd passed.
#[derive(Debug)]
pub struct Passed {
    /// Its name (`FileDescriptorName=`); systemd's default is the name of the socket unit.
    pub name: Box<str>,
    /// The socket.
    pub socket: PassedSocket,
}

/// A listening socket that the gateway bound before it restarted.
#[derive(Debug)]
pub struct Kept {
    /// The address that the configuration named.
    pub address: ListenAddress,
    /// Whether it was the admin listener.
    pub is_admin: bool,
    /// The socket.
    pub socket: PassedSocket,
}

impl Kept {
    /// Closes a socket that the gateway does not use any more, and removes its file.
    pub fn close(self) {
        if let ListenAddress::Unix(path) = &self.address {
            // The file may be gone.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A socket that was passed.
#[derive(Debug)]
pub enum PassedSocket {
    /// A TCP socket.
    Tcp(std::net::TcpListener),
    /// A Unix stream socket.
    Unix(StdUnixListener),
}

impl Inherited {
    /// Takes the sockets over, once per process.
    ///
    /// It removes systemd's variables from the environment, so that child processes do not take the sockets for theirs. So
    /// it must be called before threads are started.
    ///
    /// # Errors
    ///
    /// When a passed descriptor is not a listening stream socket.
    pub fn from_env() -> io::Result<Self> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut descriptors = listenfd::ListenFd::from_env();
        let mut inherited = Self::default();
        for index in 0..descriptors.len() {
            let name = names.next().unwrap_or_default().into();
            let socket = match descriptors.take_unix_listener(index) {
                Ok(Some(listener)) => PassedSocket::Unix(listener),
                _ => match descriptors.take_tcp_listener(index)? {
                    Some(listener) => PassedSocket::Tcp(listener),
                    None => continue,
                },
            };
            inherited.add_passed(Passed { name, socket });
        }
        if let Ok(text) = std::env::var(RESTART_VARIABLE) {
            inherited.add_handed_over(&text)?;
        }
        Ok(inherited)
    }

    fn add_passed(&mut self, passed: Passed) {
        if *passed.name == *"admin" {
            self.admin = Some(passed);
        } else {
            self.public.push(passed);
        }
    }

    /// Takes over the sockets that the text of [`RESTART_VARIABLE`] names, unless it is meant for another process.
    fn add_handed_over(&mut self, text: &str) -> io::Result<()> {
        let mut words = text.split(' ');
        let to = words.next().unwrap_or_default();
        if let Some((parent, pipe)) = to.strip_prefix(BESIDE).and_then(|to| to.split_once(':')) {
            if parent.parse() != Ok(std::os::unix::process::parent_id()) {
                return Ok(());
            }
            let pipe = own(pipe.parse().map_err(|_| malformed())?)?;
            self.predecessor = Some(Predecessor(PipeWriter::from(pipe)));
        } else if to.parse() == Ok(std::process::id()) {
            let since = words.next().and_then(|since| since.parse().ok());
            self.waiting_since = Some(Duration::from_nanos(since.ok_or_else(malformed)?));
        } else {
            return Ok(());
        }
        for word in words {
            let entry = Entry::parse(word).ok_or_else(malformed)?;
            let socket = take(entry.descriptor)?;
            match entry.name {
                ListenerName::Systemd(name) => self.add_passed(Passed { name, socket }),
                ListenerName::Address(address) => self.kept.push(Kept {
                    address,
                    is_admin: entry.is_admin,
                    socket,
                }),
            }
        }
        Ok(())
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{RESTART_VARIABLE} is malformed"))
}

/// What the text of [`RESTART_VARIABLE`] begins with if it is meant for a child process. The id of the parent and the
/// descriptor of the pipe follow.
const BESIDE: &str = "beside:";

/// One socket in the text of [`RESTART_VARIABLE`].
struct Entry {
    descriptor: RawFd,
    is_admin: bool,
    name: ListenerName,
}

impl Entry {
    fn parse(word: &str) -> Option<Self> {
        let mut parts = word.splitn(3, ',');
        let descriptor = parts.next()?.parse().ok()?;
        let is_admin = parts.next()? == "admin";
        let name = percent_decode_str(parts.next()?).decode_utf8().ok()?;
        // systemd may pass a socket without a name, which the configuration cannot write.
        let name = match name.strip_prefix("systemd:") {
            Some(name) => ListenerName::Systemd(name.into()),
            None => ListenerName::from_str(&name).ok()?,
        };
        Some(Self {
            descriptor,
            is_admin,
            name,
        })
    }

    fn write(&self) -> String {
        let name = self.name.to_string();
        let name = utf8_percent_encode(&name, NON_ALPHANUMERIC);
        let role = if self.is_admin { "admin" } else { "public" };
        format!(" {},{role},{name}", self.descriptor)
    }
}

/// Takes over a descriptor that the program before this one left open.
fn own(descriptor: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the caller has read the number from the variable that the gateway set for this process when it left the
    // descriptor open. Nothing else in this process knows it, and the variable is read once.
    let descriptor = unsafe { OwnedFd::from_raw_fd(descriptor) };
    fcntl_setfd(&descriptor, fcntl_getfd(&descriptor)? | FdFlags::CLOEXEC)?;
    Ok(descriptor)
}

fn take(descriptor: RawFd) -> io::Result<PassedSocket> {
    let socket = own(descriptor)?;
    let is_unix = {
        let socket = SockRef::from(&socket);
        if !socket.is_listener()? {
            return Err(malformed());
        }
        socket.local_addr()?.is_unix()
    };
    Ok(if is_unix {
        PassedSocket::Unix(socket.into())
    } else {
        PassedSocket::Tcp(socket.into())
    })
}

/// The reading of the clock that goes on over a restart.
#[must_use]
pub fn monotonic() -> Duration {
    let now = clock_gettime(ClockId::Monotonic);
    Duration::try_from(now).unwrap_or_default()
}

/// The listening sockets of a gateway, for the program that takes its place.
#[derive(Debug)]
pub struct Handover {
    sockets: Vec<HandedOver>,
    since: Duration,
}

/// One listening socket of a [`Handover`].
#[derive(Debug)]
pub struct HandedOver {
    /// Whether it is the admin listener's.
    pub is_admin: bool,
    /// The configured address, or the name that systemd passed.
    pub name: ListenerName,
    /// The socket.
    pub socket: OwnedFd,
}

impl Handover {
    /// Takes over sockets on which nobody has accepted since the given reading of [`monotonic`].
    #[must_use]
    pub const fn new(sockets: Vec<HandedOver>, since: Duration) -> Self {
        Self { sockets, since }
    }

    /// Gives the sockets to the program that this command will execute in this process.
    ///
    /// # Errors
    ///
    /// Those of `fcntl(2)`.
    pub fn pass_to(&self, command: &mut Command) -> io::Result<()> {
        let text = format!("{} {}", std::process::id(), self.since.as_nanos());
        self.pass(command, text)
    }

    /// Gives the sockets to the program that this command will run in a child process, and the pipe through which it says
    /// that it accepts.
    ///
    /// # Errors
    ///
    /// Those of `fcntl(2)`.
    pub fn pass_to_child(&self, command: &mut Command, pipe: &PipeWriter) -> io::Result<()> {
        fcntl_setfd(pipe, FdFlags::empty())?;
        let text = format!("{BESIDE}{}:{}", std::process::id(), pipe.as_raw_fd());
        self.pass(command, text)
    }

    fn pass(&self, command: &mut Command, mut text: String) -> io::Result<()> {
        for handed_over in &self.sockets {
            fcntl_setfd(&handed_over.socket, FdFlags::empty())?;
            let entry = Entry {
                descriptor: handed_over.socket.as_raw_fd(),
                is_admin: handed_over.is_admin,
                name: handed_over.name.clone(),
            };
            text.push_str(&entry.write());
        }
        command.env(RESTART_VARIABLE, text);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd as _;

    use super::*;

    #[test]
    fn handed_over_sockets_are_found_again_by_role_and_name() {
        let open = || std::net::TcpListener::bind("127.0.0.1:0").expect("bound").into_raw_fd();
        let mut text = format!("{} 5", std::process::id());
        for (is_admin, name) in [
            (false, "127.0.0.1:0"),
            (false, "unix:/run/a b,c/ü"),
            (false, "systemd:"),
            (true, "127.0.0.1:0"),
        ] {
            let name = match name.strip_prefix("systemd:") {
                Some(name) => ListenerName::Systemd(name.into()),
                None => name.parse().expect("a name"),
            };
            let descriptor = open();
            text.push_str(
                &Entry {
                    descriptor,
                    is_admin,
                    name,
                }
                .write(),
            );
        }
        let mut inherited = Inherited::default();
        inherited.add_handed_over(&text).expect("taken over");
        assert_eq!(inherited.waiting_since, Some(Duration::from_nanos(5)));
        assert_eq!(inherited.public.len(), 1);
        let kept: Vec<_> = inherited
            .kept
            .iter()
            .map(|kept| (kept.is_admin, kept.address.to_string()))
            .collect();
        assert_eq!(
            kept,
            [
                (false, "127.0.0.1:0".to_owned()),
                (false, "unix:/run/a b,c/ü".to_owned()),
                (true, "127.0.0.1:0".to_owned())
            ]
        );
    }

    #[test]
    fn a_child_finds_the_sockets_and_the_pipe_of_its_parent() {
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let parent = std::os::unix::process::parent_id();
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("bound").into_raw_fd();
        let text = format!(
            "{BESIDE}{parent}:{} {socket},public,127%2E0%2E0%2E1%3A0",
            OwnedFd::from(writer).into_raw_fd()
        );
        let mut inherited = Inherited::default();
        inherited.add_handed_over(&text).expect("taken over");
        assert_eq!((inherited.kept.len(), inherited.waiting_since), (1, None));
        inherited.predecessor.expect("it waits").replace().expect("said");
        let mut said = Vec::new();
        io::Read::read_to_end(&mut reader, &mut said).expect("read");
        assert_eq!(said, ACCEPTS);
        // The process of the test is no child of itself.
        let mut inherited = Inherited::default();
        let own = std::process::id();
        inherited.add_handed_over(&format!("{BESIDE}{own}:1")).expect("ignored");
        assert!(inherited.predecessor.is_none());
    }

    #[test]
    fn a_text_for_another_process_is_ignored_and_a_malformed_one_is_refused() {
        let mut inherited = Inherited::default();
        let other = std::process::id() + 1;
        inherited
            .add_handed_over(&format!("{other} 5 3,public,x"))
            .expect("ignored");
        assert!(inherited.waiting_since.is_none() && inherited.kept.is_empty());
        let own = std::process::id();
        for text in [
            format!("{own}"),
            format!("{own} x"),
            format!("{own} 5 three"),
            format!("{own} 5 3,public,%"),
        ] {
            inherited.add_handed_over(&text).expect_err(&text);
        }
        // A descriptor that is open, but no listening socket.
        let file = std::fs::File::open("/dev/null").expect("opened").into_raw_fd();
        inherited
            .add_handed_over(&format!("{own} 5 {file},public,127%2E0%2E0%2E1%3A1"))
            .expect_err("not a socket");
    }
}
