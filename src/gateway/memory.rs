//! The memory that the process may use, for the default of `limits.memory`.

use std::fs;
use std::path::{Path, PathBuf};

/// The least default: what a few thousand clients take.
const LEAST_BYTES: u64 = 64 << 20;

/// The default budget of clients: half of the memory that the process may use, after `state_bytes`. At least 64 MiB.
pub(super) fn default_budget(state_bytes: u64) -> u64 {
    let cgroup = cgroup_bytes(Path::new("/sys/fs/cgroup"), &read("/proc/self/cgroup"));
    let machine = machine_bytes(&read("/proc/meminfo"));
    let usable = [cgroup, machine].into_iter().flatten().min();
    half_of_the_rest(usable, state_bytes)
}

fn half_of_the_rest(usable: Option<u64>, state_bytes: u64) -> u64 {
    // Without `/proc` nothing is known.
    usable.map_or(u64::MAX, |usable| {
        (usable.saturating_sub(state_bytes) / 2).max(LEAST_BYTES)
    })
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The smallest limit of the process's control group and those that contain it.
fn cgroup_bytes(root: &Path, own: &str) -> Option<u64> {
    // Version 2 has one line, `0::/path`; version 1 has one for each controller, `4:memory:/path`.
    let path_after = |prefix: &str| {
        own.lines()
            .find_map(|line| line.split_once(prefix))
            .map(|(_, path)| path)
    };
    let (root, path, file) = match path_after(":memory:") {
        Some(path) => (root.join("memory"), path, "memory.limit_in_bytes"),
        None => (root.to_owned(), path_after("::")?, "memory.max"),
    };
    let own = root.join(path.trim_start_matches('/'));
    let groups = own.ancestors().take_while(|group| group.starts_with(&root));
    // Within a container, the path may be that of the host.
    let files = groups
        .map(PathBuf::from)
        .chain([root.clone()])
        .map(|group| group.join(file));
    // `max` stands for no limit.
    let limits = files.filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok());
    limits.min()
}

/// The memory of the machine: `MemTotal:       16324240 kB`.
fn machine_bytes(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn the_default_is_half_of_what_the_state_leaves() {
        assert_eq!(half_of_the_rest(Some(4 * GIB), GIB), 3 * GIB / 2);
        assert_eq!(half_of_the_rest(Some(GIB / 8), GIB), LEAST_BYTES);
        assert_eq!(half_of_the_rest(None, GIB), u64::MAX);
    }

    #[test]
    fn the_smallest_limit_of_the_control_groups_counts() {
        let root = tempfile::tempdir().expect("a folder");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        };
        let bytes = |own: &str| cgroup_bytes(root.path(), own);
        assert_eq!(bytes("0::/system.slice/tickgate.service\n"), None);
        write("system.slice/tickgate.service/memory.max", "max\n");
        write("system.slice/memory.max", "2147483648\n");
        assert_eq!(bytes("0::/system.slice/tickgate.service\n"), Some(2 * GIB));
        write("memory.max", "1073741824\n");
        assert_eq!(bytes("0::/system.slice/tickgate.service\n"), Some(GIB));
        assert_eq!(bytes("0::/not/here\n"), Some(GIB), "a container");
        write("memory/docker/memory.limit_in_bytes", "536870912\n");
        assert_eq!(bytes("5:cpu:/\n4:memory:/docker\n0::/\n"), Some(GIB / 2));
        assert_eq!(bytes(""), None);
    }

    #[test]
    fn the_memory_of_the_machine_is_read() {
        let meminfo = "MemTotal:       16324240 kB\nMemFree:         1000000 kB\n";
        assert_eq!(machine_bytes(meminfo), Some(16_324_240 * 1024));
        assert_eq!(machine_bytes(""), None);
        assert!(default_budget(0) >= LEAST_BYTES);
    }
}
