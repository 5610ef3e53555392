//! `tickgate health`: asks a running gateway how it is, for containers without a shell and an HTTP client.

use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use clap::Args;
use tickgate::config::duration_from_text;
use tickgate::ingress::ListenAddress;

use super::{ConfigFile, FAILED, Failure, load, print_out};

#[derive(Args)]
pub(super) struct Arguments {
    /// Asks /readyz instead of /healthz: whether the gateway takes new clients.
    #[arg(long)]
    ready: bool,
    /// How long to wait for the connection and for each part of the answer, such as 500ms or 3s.
    #[arg(long, default_value = "3s", value_parser = timeout)]
    timeout: Duration,
    #[command(flatten)]
    file: ConfigFile,
}

fn timeout(text: &str) -> Result<Duration, String> {
    match duration_from_text(text) {
        Some(timeout) if !timeout.is_zero() => Ok(timeout),
        _ => Err("must be a time above zero, such as 500ms or 3s".to_owned()),
    }
}

/// Asks the admin listener that the configuration names.
///
/// # Errors
///
/// No answer came, or its status is not 200.
pub(super) fn ask(arguments: &Arguments) -> Result<(), Failure> {
    let (config, _) = load(arguments.file.config.as_deref())?;
    let address = config.gateway(0).admin.listen;
    let path = if arguments.ready { "/readyz" } else { "/healthz" };
    let failed = |reason: String| Failure {
        message: format!("{path} of {address}: {reason}"),
        code: FAILED,
    };
    let head = get(&address, path, arguments.timeout).map_err(|error| {
        failed(format!(
            "{error}; is the gateway running, with this server.admin_listen?"
        ))
    })?;
    match status(&head) {
        Some(200) => {
            print_out(&format!("{path} of {address}: 200\n"));
            Ok(())
        }
        Some(status) => Err(failed(status.to_string())),
        None => Err(failed(
            "the answer is not HTTP; is server.admin_listen the gateway's?".to_owned(),
        )),
    }
}

/// The first line of the response to `GET path`, without its end.
fn get(address: &ListenAddress, path: &str, timeout: Duration) -> io::Result<String> {
    match address {
        ListenAddress::Tcp(address) => {
            let stream = TcpStream::connect_timeout(&reachable(*address), timeout)?;
            stream.set_read_timeout(Some(timeout))?;
            stream.set_write_timeout(Some(timeout))?;
            exchange(stream, path)
        }
        ListenAddress::Unix(socket) => {
            let stream = UnixStream::connect(socket)?;
            stream.set_read_timeout(Some(timeout))?;
            stream.set_write_timeout(Some(timeout))?;
            exchange(stream, path)
        }
    }
}

/// The address at which this machine reaches a listener: a wildcard is no address to connect to.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// A status line is shorter than this.
const STATUS_LINE_BYTES_MAX: u64 = 256;

fn exchange(mut stream: impl Read + Write, path: &str) -> io::Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut line = Vec::new();
    BufReader::new(stream.take(STATUS_LINE_BYTES_MAX)).read_until(b'\n', &mut line)?;
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

/// The status of `HTTP/1.1 200 OK`.
fn status(line: &str) -> Option<u16> {
    line.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_and_other_protocols_are_not() {
        assert_eq!(status("HTTP/1.1 200 OK"), Some(200));
        assert_eq!(status("HTTP/1.0 503"), Some(503));
        for line in [
            "",
            "200",
            "SSH-2.0-OpenSSH_9.2",
            "HTTP/1.1",
            "HTTP/1.1 OK",
            "HTTP/2 200",
        ] {
            assert_eq!(status(line), None, "{line:?}");
        }
    }

    #[test]
    fn a_wildcard_is_asked_on_loopback() {
        for (listen, asked) in [
            ("0.0.0.0:8081", "127.0.0.1:8081"),
            ("[::]:8081", "[::1]:8081"),
            ("10.0.0.7:8081", "10.0.0.7:8081"),
        ] {
            assert_eq!(reachable(listen.parse().expect("an address")).to_string(), asked);
        }
    }

    #[test]
    fn an_answer_without_an_end_of_line_is_bounded() {
        struct Endless;
        impl Read for Endless {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                buffer.fill(b'x');
                Ok(buffer.len())
            }
        }
        impl Write for Endless {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let line = exchange(Endless, "/healthz").expect("read");
        assert_eq!(line.len() as u64, STATUS_LINE_BYTES_MAX);
    }
}
