//! CPU and memory of a process, from `/proc`.

use std::time::{Duration, Instant};

/// What a process had used up to one moment.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) at: Instant,
    /// User and system time of all its threads, including ended ones.
    pub(crate) cpu: Duration,
    threads: Vec<Thread>,
    /// Resident memory, without the kernel's socket buffers.
    pub(crate) rss_bytes: u64,
    /// Resident anonymous memory: heap and stacks, without code and files.
    pub(crate) anonymous_bytes: u64,
}

/// The CPU time of one thread, and the time it was ready to run but waited for a core.
#[derive(Clone, Debug)]
struct Thread {
    id: String,
    cpu_ns: u64,
    waited_ns: u64,
}

impl Sample {
    /// Share of the wall time since `earlier` in which the thread that waited longest waited for a core. More than a
    /// few per cent means that the machine was busy, so latencies are not due to the server alone.
    pub(crate) fn waited_since(&self, earlier: &Self) -> f64 {
        self.most_of(earlier, |thread| thread.waited_ns)
    }

    /// Share of the wall time since `earlier` in which the busiest thread ran. At 1.0 that thread is saturated.
    pub(crate) fn busiest_since(&self, earlier: &Self) -> f64 {
        self.most_of(earlier, |thread| thread.cpu_ns)
    }

    fn most_of(&self, earlier: &Self, of: impl Fn(&Thread) -> u64) -> f64 {
        let wall = self.at.duration_since(earlier.at).as_secs_f64();
        let before = |id: &str| earlier.threads.iter().find(|thread| thread.id == id).map_or(0, &of);
        let most = self
            .threads
            .iter()
            .map(|thread| of(thread).saturating_sub(before(&thread.id)))
            .max();
        most.unwrap_or(0) as f64 / 1e9 / wall.max(1e-9)
    }

    /// CPU time per wall time since `earlier`: 1.0 is one core.
    pub(crate) fn cores_since(&self, earlier: &Self) -> f64 {
        let wall = self.at.duration_since(earlier.at).as_secs_f64();
        self.cpu.saturating_sub(earlier.cpu).as_secs_f64() / wall.max(1e-9)
    }
}

/// Samples the process `pid`.
pub(crate) fn sample(pid: u32) -> Result<Sample, String> {
    let read = |file: &str| {
        std::fs::read_to_string(format!("/proc/{pid}/{file}")).map_err(|error| format!("process {pid}: {error}"))
    };
    let (stat, status) = (read("stat")?, read("status")?);
    let ticks = cpu_ticks(&stat).ok_or_else(|| format!("process {pid}: unknown format of stat"))?;
    let tick = Duration::from_secs(1).div_f64(rustix::param::clock_ticks_per_second() as f64);
    let kib = |key: &str| field_kib(&status, key).ok_or_else(|| format!("process {pid}: no {key} in status"));
    Ok(Sample {
        at: Instant::now(),
        cpu: tick.mul_f64(ticks as f64),
        threads: threads(pid),
        rss_bytes: kib("VmRSS:")? * 1024,
        anonymous_bytes: kib("RssAnon:")? * 1024,
    })
}

/// The threads of a process; empty on kernels without scheduler statistics of threads.
fn threads(pid: u32) -> Vec<Thread> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let of = |thread: std::fs::DirEntry| {
        let counts = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        let mut counts = counts.split_ascii_whitespace();
        Some(Thread {
            id: thread.file_name().to_string_lossy().into_owned(),
            cpu_ns: counts.next()?.parse().ok()?,
            waited_ns: counts.next()?.parse().ok()?,
        })
    };
    threads.flatten().filter_map(of).collect()
}

/// utime + stime: fields 14 and 15, counted after the name, which may contain any character.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn field_kib(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_spaces_and_parentheses_do_not_shift_the_fields() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 98 0 0 0 120 30 0 0 20 0 1 0 5 6 7";
        assert_eq!(cpu_ticks(stat), Some(150));
    }

    #[test]
    fn this_process_has_memory() {
        let sample = sample(std::process::id()).unwrap();
        assert!(sample.anonymous_bytes > 0 && sample.rss_bytes >= sample.anonymous_bytes);
    }

    #[test]
    fn the_busiest_thread_is_not_the_average() {
        let at = Instant::now();
        let sample = |cpu_ns: [u64; 2], waited_ns: [u64; 2], seconds| Sample {
            at: at + Duration::from_secs(seconds),
            cpu: Duration::ZERO,
            threads: (0..2)
                .map(|id| Thread {
                    id: id.to_string(),
                    cpu_ns: cpu_ns[id],
                    waited_ns: waited_ns[id],
                })
                .collect(),
            rss_bytes: 0,
            anonymous_bytes: 0,
        };
        let (before, after) = (
            sample([5, 7], [0, 0], 0),
            sample([5, 1_800_000_007], [200_000_000, 0], 2),
        );
        assert!((after.busiest_since(&before) - 0.9).abs() < 1e-6);
        assert!((after.waited_since(&before) - 0.1).abs() < 1e-6);
    }
}
