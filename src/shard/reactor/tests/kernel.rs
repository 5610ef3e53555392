//! How many bytes the kernel takes for a client that does not read, before its outbox fills. `docs/guarantees.md` has
//! the figures.

use super::*;

/// The length of one price frame, and of as many of them as one write may contain.
const LENGTHS: [usize; 2] = [240, 64 * 240];

/// Writes `length` bytes at a time until the kernel has taken no more for a while. Returns how many bytes it took.
fn taken(mut socket: impl Write, length: usize) -> usize {
    let mut bytes = 0;
    loop {
        match socket.write(&vec![0; length]) {
            Ok(count) => bytes += count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return bytes,
            Err(error) => panic!("{error}"),
        }
    }
}

fn taken_by_tcp(is_prepared: bool, length: usize) -> usize {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let _client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
    let (server, _) = listener.accept().expect("accepted");
    server.set_write_timeout(Some(A_WHILE)).expect("set");
    let server = OwnedFd::from(server);
    if is_prepared {
        prepare(&server);
    }
    taken(TcpStream::from(server), length)
}

fn taken_by_unix(length: usize) -> usize {
    let (server, _client) = UnixStream::pair().expect("a pair");
    server.set_write_timeout(Some(A_WHILE)).expect("set");
    taken(server, length)
}

/// Far longer than the loopback device needs to move bytes into the client's buffer.
const A_WHILE: Duration = Duration::from_millis(500);

#[test]
fn the_kernel_buffers_little_for_a_client_that_does_not_read() {
    for length in LENGTHS {
        let (prepared, unprepared) = (taken_by_tcp(true, length), taken_by_tcp(false, length));
        let unix = taken_by_unix(length);
        println!("written by {length}: TCP {prepared}, {unprepared} without the bound; a Unix socket {unix}");
        assert!(prepared < unprepared / 2, "{prepared} of {unprepared}");
    }
}
