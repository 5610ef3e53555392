//! The `tickgate` binary: a command line for the library.

mod cli;

// The address sanitizer checks only the system's allocator.
#[cfg(not(asan))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    purge_freed_memory_at_once();
    cli::run()
}

/// `mi_option_purge_delay`. The bindings do not name this option.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Returns freed memory to the system at once, in small pages.
///
/// By default mimalloc waits for a second and then for the next allocation, which an idle gateway does not make. Huge
/// pages stay mapped when only a little of each is in use. With these defaults, each of 10,000 idle connections took 840
/// bytes, and 1,880 after a burst. Now each takes 470 and 500 (`docs/performance.md`). `MIMALLOC_PURGE_DELAY` overrides
/// this.
fn purge_freed_memory_at_once() {
    // This fails only on a kernel without huge pages.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    // SAFETY: setting an option is not thread-safe, and this is still the only thread.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, 0) };
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_number_of_the_purge_option_is_right() {
        // 1000 ms is the documented default of this option alone.
        if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
            // SAFETY: the call only reads a number.
            assert_eq!(unsafe { libmimalloc_sys::mi_option_get(super::PURGE_DELAY) }, 1000);
        }
    }
}
