//! Sends the frames without a server around it: a lower bound for every server that sends each event separately.

use std::io::Write;
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::sync::mpsc::Receiver;

use io_uring::{IoUring, opcode, types};

/// How the loop sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loop {
    Write,
    IoUring,
}

const DEPTH: usize = 1024;

/// Sends the frame to every socket, as many times as each order says.
pub(crate) fn run(kind: Loop, sockets: &[TcpStream], frame: &[u8], orders: Receiver<usize>) {
    let mut ring = IoUring::new(DEPTH as u32).expect("io_uring is allowed here");
    for events in orders {
        for _ in 0..events {
            match kind {
                Loop::Write => {
                    for mut socket in sockets {
                        socket.write_all(frame).expect("the client reads");
                    }
                }
                Loop::IoUring => sockets
                    .chunks(DEPTH)
                    .for_each(|sockets| submit(&mut ring, sockets, frame)),
            }
        }
    }
}

fn submit(ring: &mut IoUring, sockets: &[TcpStream], frame: &[u8]) {
    for socket in sockets {
        let socket = types::Fd(socket.as_raw_fd());
        let entry = opcode::Send::new(socket, frame.as_ptr(), frame.len() as u32)
            .flags(libc::MSG_NOSIGNAL)
            .build();
        // SAFETY: the frame and the sockets outlive the operation, because all completions are awaited below.
        unsafe { ring.submission().push(&entry) }.expect("the ring has an entry for each socket of a chunk");
    }
    ring.submit_and_wait(sockets.len()).expect("submitted");
    for completion in ring.completion() {
        assert_eq!(completion.result(), frame.len() as i32, "the client reads");
    }
}
