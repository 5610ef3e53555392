//! CPU time and memory of this process, as the operating system reports them.

use std::io;

/// CPU time and memory of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// CPU time of all threads since the start, user and system, in microseconds.
    pub cpu_us: u64,
    /// Resident memory in bytes. It excludes the kernel's memory for the process's sockets.
    pub rss_bytes: u64,
}

impl Process {
    /// Reads the current values. The memory is 0 when `/proc` is not mounted.
    #[must_use]
    pub fn read() -> Self {
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let seconds = u64::try_from(cpu.tv_sec).unwrap_or(0);
        Self {
            cpu_us: seconds * 1_000_000 + u64::try_from(cpu.tv_nsec / 1000).unwrap_or(0),
            rss_bytes: rss_bytes().unwrap_or(0),
        }
    }
}

fn rss_bytes() -> io::Result<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm")?;
    let pages = resident_pages(&statm).ok_or(io::ErrorKind::InvalidData)?;
    Ok(pages * rustix::param::page_size() as u64)
}

/// The second field of `/proc/<pid>/statm`; see proc_pid_statm(5).
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statm_is_read_by_field() {
        assert_eq!(resident_pages("9072 1538 1062 30 0 7000 0\n"), Some(1538));
        assert_eq!(resident_pages("9072"), None);
        assert_eq!(resident_pages("9072 x"), None);
    }

    #[test]
    fn this_process_uses_memory_and_time() {
        let before = Process::read();
        assert!(before.rss_bytes > 100_000);
        let mut work = 0u64;
        while Process::read().cpu_us == before.cpu_us {
            work = std::hint::black_box(work + 1);
        }
    }
}
