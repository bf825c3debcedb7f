//! Network namespaces: finding, entering and creating them (network_namespaces(7)).
//!
//! *Numbers of processes* are used again, after a boot from the beginning. So the namespace of a process (`pid:N`, or a path below
//! `/proc/N`) has the time when the process began, once it was [found](Netns::found): from then on it is that process's or nobody's.

use std::fmt;
use std::fs::File;
use std::io;
use std::num::ParseIntError;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread;

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// The directory in which `ip netns add` creates its files.
pub const NAMED: &str = "/run/netns";

/// A network namespace as configured: a name under `/run/netns`, a path, or `pid:N`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Netns {
    text: String,
    place: Place,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Place {
    Path(PathBuf),
    /// A path below the directory of the process of this number, which began then.
    Process {
        pid: u32,
        path: PathBuf,
        began: Option<Began>,
    },
}

/// When a process began, in clock ticks since the boot (field 22 of proc_pid_stat(5)): no two processes of one number have this in
/// common.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Began(pub u64);

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
        let of_process = path.strip_prefix("/proc").ok().and_then(|path| {
            let pid = path.components().next()?.as_os_str().to_str()?.parse().ok()?;
            Some((pid, path.components().skip(1).collect()))
        });
        let place = match of_process {
            Some((pid, path)) => Place::Process { pid, path, began: None },
            None => Place::Path(path),
        };
        Netns { text: text.to_owned(), place }
    }

    /// Whether it is named by the number of a process.
    #[must_use]
    pub fn is_of_process(&self) -> bool {
        matches!(self.place, Place::Process { .. })
    }

    /// The same, if it is of a process, as that of the process which began then.
    #[must_use]
    pub fn of(mut self, process: Option<Began>) -> Netns {
        if let Place::Process { began, .. } = &mut self.place {
            *began = process.or(*began);
        }
        self
    }

    /// When its process began, if that is known.
    #[must_use]
    pub fn began(&self) -> Option<Began> {
        match self.place {
            Place::Process { began, .. } => began,
            Place::Path(_) => None,
        }
    }

    /// When the process of this number began; `None` if it is named otherwise.
    pub fn process_now(&self) -> io::Result<Option<Began>> {
        let Place::Process { pid, .. } = &self.place else { return Ok(None) };
        Began::of(&directory_of(*pid)?).map(Some)
    }

    /// The namespace that is meant from now on, and its file.
    pub fn found(&self) -> io::Result<(Netns, File)> {
        // Does not block, even if the path is a pipe without a writer.
        let mut options = File::options();
        options.read(true).custom_flags(libc::O_NONBLOCK);
        match &self.place {
            Place::Path(path) => Ok((self.clone(), options.open(path)?)),
            Place::Process { pid, path, began } => {
                // Of the same process, however long this takes.
                let process = directory_of(*pid)?;
                let now = Began::of(&process)?;
                if began.is_some_and(|began| began != now) {
                    let error = format!("process {pid} is another one now");
                    return Err(io::Error::new(io::ErrorKind::NotFound, error));
                }
                Ok((self.clone().of(Some(now)), options.open(below(&process).join(path))?))
            }
        }
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

    /// Opens the namespace's file.
    pub fn open(&self) -> io::Result<File> {
        self.found().map(|(_, file)| file)
    }
}

impl Began {
    /// When the process of this directory began.
    fn of(process: &File) -> io::Result<Began> {
        let stat = match std::fs::read(below(process).join("stat")) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Err(io::ErrorKind::NotFound.into()),
            stat => stat?,
        };
        // The second field is a name, which may have any bytes but is the last in parentheses.
        let from_third = stat.rsplit(|byte| *byte == b')').next().unwrap_or_default();
        let began = String::from_utf8_lossy(from_third).split_ascii_whitespace().nth(19).and_then(|field| field.parse().ok());
        began.map(Began).ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// The directory of the process of this number, which is no other's even if it ends.
fn directory_of(pid: u32) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_DIRECTORY).open(format!("/proc/{pid}"))
}

/// The path of a directory that is open.
fn below(directory: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()))
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
    format!("/proc/{}/fd/{}", std::process::id(), file.as_fd().as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_forms_are_parsed() {
        for (text, path) in [("blue", "/run/netns/blue"), ("/proc/self/ns/net", "/proc/self/ns/net"), ("pid:7", "/proc/7/ns/net")]
        {
            let netns = Netns::new(text);
            let place = match &netns.place {
                Place::Path(path) => path.clone(),
                Place::Process { pid, path, .. } => Path::new("/proc").join(pid.to_string()).join(path),
            };
            assert_eq!((place.as_path(), netns.to_string().as_str()), (Path::new(path), text));
        }
        for (text, is) in [("pid:7", true), ("/proc/7/ns/net", true), ("/proc/7/fd/9", true), ("pid:self", false), ("7", false)] {
            assert_eq!(Netns::new(text).is_of_process(), is, "{text}");
        }
    }

    #[test]
    fn another_process_of_that_number() {
        let own = NetnsId::own().unwrap();
        for text in [format!("pid:{}", std::process::id()), format!("/proc/{}/task/{0}/ns/net", std::process::id())] {
            let (netns, file) = Netns::new(&text).found().unwrap();
            assert_eq!(NetnsId::of(&file).unwrap(), own);
            let Began(began) = netns.began().unwrap();
            assert!(began > 0 && netns.id().unwrap() == own);
            let earlier = Netns::new(&text).of(Some(Began(began - 1)));
            let error = earlier.open().unwrap_err();
            assert_eq!((error.kind(), earlier.began()), (io::ErrorKind::NotFound, Some(Began(began - 1))));
            assert_eq!(error.to_string(), format!("process {} is another one now", std::process::id()));
        }
        assert_eq!(Netns::new("pid:4194304").open().unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
