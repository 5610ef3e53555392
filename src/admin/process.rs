//! The process's own figures, from `/proc/self`.

use std::time::Duration;

/// CPU time and memory of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Process {
    /// User and system time of all threads.
    pub(super) cpu: Duration,
    /// Bytes in memory.
    pub(super) resident_bytes: u64,
}

impl Process {
    /// Reads them; zero where the system does not tell.
    pub(super) fn read() -> Self {
        let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
        let cpu = Duration::new(
            u64::try_from(cpu.tv_sec).unwrap_or(0),
            u32::try_from(cpu.tv_nsec).unwrap_or(0),
        );
        let pages = std::fs::read_to_string("/proc/self/statm").ok();
        let pages = pages
            .and_then(|pages| pages.split(' ').nth(1)?.parse::<u64>().ok())
            .unwrap_or(0);
        Self {
            cpu,
            resident_bytes: pages * rustix::param::page_size() as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_used_time_and_memory() {
        let process = Process::read();
        assert!(process.cpu > Duration::ZERO);
        assert!(process.resident_bytes > 64 * 1024);
    }
}
