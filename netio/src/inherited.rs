//! Descriptors that the service manager kept for this process (sd_listen_fds(3), `FileDescriptorStoreMax=` in systemd.service(5)).

use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::process::getpid;

/// The first descriptor that is passed (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;

/// Maximum number of descriptors that are taken.
const MOST: RawFd = 20_000;

/// Takes the descriptors that were kept, with their names. The second call returns none.
#[must_use]
pub fn take() -> Vec<(String, OwnedFd)> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let number = |name| std::env::var(name).ok()?.parse::<RawFd>().ok();
    let is_for_us = number("LISTEN_PID") == Some(getpid().as_raw_nonzero().get());
    if !is_for_us || TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let count = number("LISTEN_FDS").unwrap_or(0).clamp(0, MOST);
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(str::to_owned).chain(std::iter::repeat_with(String::new));
    (FIRST..FIRST + count).filter_map(|fd| Some((names.next()?, own(fd)?))).collect()
}

/// The descriptor of this number, if it is open.
fn own(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: the service manager has passed this descriptor to this process (`LISTEN_PID`). No other code uses its number, and
    // `take` returns each descriptor once.
    let owned = unsafe { OwnedFd::from_raw_fd(fd) };
    match fcntl_getfd(&owned) {
        Ok(flags) => {
            let _ = fcntl_setfd(&owned, flags | FdFlags::CLOEXEC);
            Some(owned)
        }
        Err(_) => {
            // It is not open, so there is nothing to close.
            std::mem::forget(owned);
            None
        }
    }
}
