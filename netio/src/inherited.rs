//! Descriptors that were left for this process: by the service manager (sd_listen_fds(3), `FileDescriptorStoreMax=` in
//! systemd.service(5)), or by the program that this process was before.
//!
//! The latter hands over a file that lists the others, a number and a name a line, and names that by an environment variable: there
//! may be more of them than the environment has room for.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::process::getpid;

/// The first descriptor that is passed (`SD_LISTEN_FDS_START`).
const FIRST: RawFd = 3;

/// Maximum number of descriptors that are taken.
const MOST: RawFd = 20_000;

/// The variable that names the list: the number of this process, and that of the list's descriptor.
pub const LIST: &str = "VSWITCHD_INHERITED";

/// Takes the descriptors that were left, with their names. The second call returns none.
#[must_use]
pub fn take() -> Vec<(String, OwnedFd)> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::Relaxed) {
        return Vec::new();
    }
    let mut left = handed_over();
    left.extend(kept_by_manager());
    left
}

/// Hands descriptors over to the program that the command executes in this process. They are closed when the result is dropped.
pub fn hand_over(descriptors: Vec<(String, OwnedFd)>, command: &mut Command) -> io::Result<Vec<OwnedFd>> {
    let mut list = File::from(memfd_create("vswitchd-inherited", MemfdFlags::empty())?);
    let mut open = Vec::with_capacity(descriptors.len() + 1);
    for (name, descriptor) in descriptors {
        fcntl_setfd(&descriptor, FdFlags::empty())?;
        writeln!(list, "{} {name}", descriptor.as_raw_fd())?;
        open.push(descriptor);
    }
    list.rewind()?;
    command.env(LIST, format!("{} {}", getpid().as_raw_nonzero(), list.as_raw_fd()));
    for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        command.env_remove(name);
    }
    open.push(list.into());
    Ok(open)
}

/// What the program before has handed over.
fn handed_over() -> Vec<(String, OwnedFd)> {
    let list = || {
        let value = std::env::var(LIST).ok()?;
        let (pid, list) = value.split_once(' ')?;
        let is_for_us = pid.parse() == Ok(getpid().as_raw_nonzero().get());
        own(list.parse().ok().filter(|_| is_for_us)?)
    };
    let Some(list) = list() else { return Vec::new() };
    let mut text = String::new();
    if File::from(list).take(MOST as u64 * 256).read_to_string(&mut text).is_err() {
        return Vec::new();
    }
    let mut left: Vec<(String, OwnedFd)> = Vec::new();
    for line in text.lines() {
        let Some((number, name)) = line.split_once(' ') else { continue };
        let Ok(number) = number.parse::<RawFd>() else { continue };
        // Each once, and none of the standard ones.
        if number >= FIRST && left.iter().all(|(_, other)| other.as_raw_fd() != number) {
            left.extend(own(number).map(|descriptor| (name.to_owned(), descriptor)));
        }
    }
    left
}

fn kept_by_manager() -> Vec<(String, OwnedFd)> {
    let number = |name| std::env::var(name).ok()?.parse::<RawFd>().ok();
    if number("LISTEN_PID") != Some(getpid().as_raw_nonzero().get()) {
        return Vec::new();
    }
    let count = number("LISTEN_FDS").unwrap_or(0).clamp(0, MOST);
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(str::to_owned).chain(std::iter::repeat_with(String::new));
    (FIRST..FIRST + count).filter_map(|fd| Some((names.next()?, own(fd)?))).collect()
}

/// The descriptor of this number, if it is open.
fn own(fd: RawFd) -> Option<OwnedFd> {
    // SAFETY: the service manager, or the program before, has passed this descriptor to this process (`LISTEN_PID`, `LIST`). No
    // other code uses its number, and `take` returns each descriptor once.
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
