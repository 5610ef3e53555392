//! The `tickgate` binary: the command line around the library.

mod cli;

// The address sanitizer watches the system's allocator and no other.
#[cfg(not(asan))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    return_memory_at_once();
    cli::run()
}

/// `mi_option_purge_delay`; the bindings name only some of mimalloc's options.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

/// Has memory that was freed go back to the system at once, in small pages.
///
/// By default mimalloc waits for a second, and then for the next allocation, which an idle gateway does not make; and
/// huge pages are kept for the little that is in use in each. 10,000 idle connections took 840 bytes each and 1,880
/// after a burst so; they take 470 and 500 (`docs/performance.md`). `MIMALLOC_PURGE_DELAY` still wins.
fn return_memory_at_once() {
    // Fails only where the kernel has no huge pages to give.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    // SAFETY: setting an option is not thread-safe, and there is only this thread yet.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, 0) };
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_option_is_the_one_that_is_meant() {
        // 1000 ms is documented as this option's default, and no other's.
        if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
            // SAFETY: it only reads a number.
            assert_eq!(unsafe { libmimalloc_sys::mi_option_get(super::PURGE_DELAY) }, 1000);
        }
    }
}
