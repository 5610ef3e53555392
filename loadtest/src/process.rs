//! CPU and memory of a process, from `/proc`.

use std::time::{Duration, Instant};

/// What a process had used at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) at: Instant,
    /// User and system time of all its threads, living and ended.
    pub(crate) cpu: Duration,
    /// How long each of its threads, ready to run, has waited for a core that others used.
    waited_ns: Vec<(String, u64)>,
    /// Resident memory, kernel buffers of sockets not included.
    pub(crate) rss_bytes: u64,
    /// Resident anonymous memory: heap and stacks, without code and files.
    pub(crate) anonymous_bytes: u64,
}

impl Sample {
    /// Share of the wall time since `earlier` in which its most hindered thread waited for a core; more than a few
    /// per cent says that the machine was busy with other things, and that latencies are not the server's alone.
    pub(crate) fn waited_since(&self, earlier: &Self) -> f64 {
        let wall = self.at.duration_since(earlier.at).as_secs_f64();
        let before = |name: &str| {
            earlier
                .waited_ns
                .iter()
                .find(|(of, _)| of == name)
                .map_or(0, |(_, waited)| *waited)
        };
        let waited = self
            .waited_ns
            .iter()
            .map(|(name, waited)| waited.saturating_sub(before(name)))
            .max();
        waited.unwrap_or(0) as f64 / 1e9 / wall.max(1e-9)
    }

    /// CPU per wall time since `earlier`: 1.0 is one core.
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
    let ticks = cpu_ticks(&stat).ok_or_else(|| format!("process {pid}: unknown form of stat"))?;
    let tick = Duration::from_secs(1).div_f64(rustix::param::clock_ticks_per_second() as f64);
    let kib = |key: &str| field_kib(&status, key).ok_or_else(|| format!("process {pid}: no {key} in status"));
    Ok(Sample {
        at: Instant::now(),
        cpu: tick.mul_f64(ticks as f64),
        waited_ns: waited_ns(pid),
        rss_bytes: kib("VmRSS:")? * 1024,
        anonymous_bytes: kib("RssAnon:")? * 1024,
    })
}

/// By thread; empty on kernels that do not count it.
fn waited_ns(pid: u32) -> Vec<(String, u64)> {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    let of = |thread: std::fs::DirEntry| {
        let counts = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        let waited = counts.split_ascii_whitespace().nth(1)?.parse().ok()?;
        Some((thread.file_name().to_string_lossy().into_owned(), waited))
    };
    threads.flatten().filter_map(of).collect()
}

/// utime + stime: the 14th and 15th field, counted behind the name, which may contain anything.
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
}
