//! Network namespaces: finding, entering and creating them (network_namespaces(7)).

use std::fmt;
use std::fs::File;
use std::io;
use std::num::ParseIntError;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// The directory in which `ip netns add` creates its files.
pub const NAMED: &str = "/run/netns";

/// A network namespace as configured: a name under `/run/netns`, a path, or `pid:N`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Netns {
    text: String,
    path: PathBuf,
}

/// The identity of a namespace, as text two numbers with a hyphen between, which stays the same when a path is made to refer to another one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NetnsId {
    device: u64,
    inode: u64,
}

impl Netns {
    /// Parses one of the three forms. Does not check that the namespace exists.
    #[must_use]
    pub fn new(text: &str) -> Netns {
        let path = match text.strip_prefix("pid:") {
            Some(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
            None if text.contains('/') => PathBuf::from(text),
            None => Path::new(NAMED).join(text),
        };
        Netns { text: text.to_owned(), path }
    }

    /// As it was named.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The namespace that the path refers to now; an error if there is none.
    pub fn id(&self) -> io::Result<NetnsId> {
        self.open().and_then(|file| NetnsId::of(&file))
    }

    /// Opens the namespace's file. Does not block, even if the path is a pipe without a writer.
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

    /// The namespace of the calling thread.
    pub fn own() -> io::Result<NetnsId> {
        NetnsId::of(&own()?)
    }
}

impl fmt::Display for NetnsId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}-{}", self.device, self.inode)
    }
}

impl FromStr for NetnsId {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<NetnsId, ParseIntError> {
        let (device, inode) = text.split_once('-').unwrap_or((text, ""));
        Ok(NetnsId { device: device.parse()?, inode: inode.parse()? })
    }
}

/// Opens the namespace of the calling thread.
pub fn own() -> io::Result<File> {
    File::open("/proc/thread-self/ns/net")
}

/// Runs `work` inside a namespace, on a temporary thread: the calling thread does not change its namespace. Sockets
/// that `work` opens keep the namespace alive until they are closed.
pub fn inside<T: Send>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let worker = thread::Builder::new().spawn_scoped(scope, || {
            move_into_link_name_space(namespace, Some(LinkNameSpaceType::Network))?;
            work()
        })?;
        worker.join().unwrap_or_else(|_| Err(io::Error::other("the thread inside the namespace panicked")))
    })
}

/// Creates a network namespace, which lives as long as this file is open or a process or socket is in it.
pub fn create() -> io::Result<File> {
    thread::scope(|scope| {
        let maker = thread::Builder::new().spawn_scoped(scope, || {
            leave(UnshareFlags::NEWNET)?;
            own()
        })?;
        maker.join().unwrap_or_else(|_| Err(io::Error::other("the thread that makes the namespace panicked")))
    })
}

/// Makes the calling process root of a new user namespace, with all capabilities in the network namespaces that it
/// creates later. Must be called before the process starts further threads.
pub fn become_root_of_own_users() -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    leave(UnshareFlags::NEWUSER)?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// Moves the calling thread into a new network namespace, which has only a loopback link, and that is down.
pub fn leave_network() -> io::Result<()> {
    leave(UnshareFlags::NEWNET)
}

fn leave(what: UnshareFlags) -> io::Result<()> {
    // SAFETY: unshare(2) is unsafe where it splits what threads share and code relies on, such as the
    // descriptor table (`CLONE_FILES`); only namespaces are split here.
    Ok(unsafe { unshare_unsafe(what) }?)
}

/// The path by which other processes can open a namespace file that this process holds open.
#[must_use]
pub fn path_of(file: &impl AsFd) -> String {
    use std::os::fd::AsRawFd;
    format!("/proc/{}/fd/{}", std::process::id(), file.as_fd().as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_forms_are_parsed() {
        for (text, path) in [("blue", "/run/netns/blue"), ("/proc/self/ns/net", "/proc/self/ns/net"), ("pid:7", "/proc/7/ns/net")]
        {
            assert_eq!(Netns::new(text).path, Path::new(path));
            assert_eq!(Netns::new(text).to_string(), text);
        }
    }
}
