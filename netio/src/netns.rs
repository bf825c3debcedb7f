//! Network namespaces: named, entered for a moment, or made.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// Where `ip netns add` keeps its names.
pub const NAMED: &str = "/run/netns";

/// A network namespace as a person names it: a name under `/run/netns`, a path, or `pid:N`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Netns {
    text: String,
    path: PathBuf,
}

/// Which namespace a path led to, whatever the path leads to later.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NetnsId {
    device: u64,
    inode: u64,
}

impl Netns {
    /// Reads the three forms. Nothing is looked up yet.
    #[must_use]
    pub fn new(text: &str) -> Netns {
        let path = match text.strip_prefix("pid:") {
            Some(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
            None if text.contains('/') => PathBuf::from(text),
            None => Path::new(NAMED).join(text),
        };
        Netns { text: text.to_owned(), path }
    }

    /// Which namespace it is now; an error if there is none.
    pub fn id(&self) -> io::Result<NetnsId> {
        self.open().and_then(|file| NetnsId::of(&file))
    }

    /// Opens the namespace's file. Whatever else is at that path is not waited for, such as a pipe that nobody writes to.
    pub fn open(&self) -> io::Result<File> {
        File::options().read(true).custom_flags(libc::O_NONBLOCK).open(&self.path)
    }
}

impl fmt::Display for Netns {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.text)
    }
}

impl NetnsId {
    /// The namespace behind an open file.
    pub fn of(file: &File) -> io::Result<NetnsId> {
        let metadata = file.metadata()?;
        Ok(NetnsId { device: metadata.dev(), inode: metadata.ino() })
    }

    /// That of the calling thread.
    pub fn own() -> io::Result<NetnsId> {
        NetnsId::of(&own()?)
    }
}

/// The calling thread's own namespace.
pub fn own() -> io::Result<File> {
    File::open("/proc/thread-self/ns/net")
}

/// Runs `work` inside a namespace, on a thread of its own that ends with it: the caller stays where
/// it is. Files that `work` opens keep the namespace alive as long as they are open.
pub fn inside<T: Send>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().spawn_scoped(scope, || {
            move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?;
            work()
        })?;
        worker.join().unwrap_or_else(|_| Err(io::Error::other("the thread inside the namespace panicked")))
    })
}

/// A new network namespace, which lives as long as this file or a process or device refers to it.
pub fn create() -> io::Result<File> {
    thread::scope(|scope| {
        let maker = thread::Builder::new().spawn_scoped(scope, || {
            leave(UnshareFlags::NEWNET)?;
            own()
        })?;
        maker.join().unwrap_or_else(|_| Err(io::Error::other("the thread that makes the namespace panicked")))
    })
}

/// Makes the calling process root of a new user namespace, with all rights over the network
/// namespaces that it makes from now on. Only before other threads have started.
pub fn become_root_of_own_users() -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    leave(UnshareFlags::NEWUSER)?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// Moves the calling thread into a new network namespace, empty but for a loopback link that is down.
pub fn leave_network() -> io::Result<()> {
    leave(UnshareFlags::NEWNET)
}

fn leave(what: UnshareFlags) -> io::Result<()> {
    // SAFETY: unshare(2) is unsafe where it splits what threads share and code relies on, such as the
    // descriptor table (`CLONE_FILES`); only namespaces are split here.
    Ok(unsafe { unshare_unsafe(what) }?)
}

/// A namespace that a process made and keeps open, by a path that other processes can open too.
#[must_use]
pub fn path_of(file: &impl AsFd) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/{}/fd/{}", std::process::id(), file.as_fd().as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_forms() {
        for (text, path) in [("blue", "/run/netns/blue"), ("/proc/self/ns/net", "/proc/self/ns/net"), ("pid:7", "/proc/7/ns/net")]
        {
            assert_eq!(Netns::new(text).path, Path::new(path));
            assert_eq!(Netns::new(text).to_string(), text);
        }
    }
}
