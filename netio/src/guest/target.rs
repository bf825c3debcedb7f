//! The socket that a guest's frames are sent to: found by its name, checked, and held open.
//!
//! The daemon may write to sockets that its guests may not. So a guest must not be able to make it send to a socket of another
//! user by giving it a name that leads there:
//!
//! - A guest in a mount namespace of its own binds a name that is another socket here.
//! - A symbolic link, or any other entry of a directory that the guest may write to, leads to somebody else's socket.
//! - An abstract name (unix(7)) belongs to whoever binds it first, and to no user.
//!
//! *The rule.* A name that a datagram came from is taken only if it is a path, and the file there is a socket that belongs to
//! the user who sent the datagram (`SCM_CREDENTIALS`, which the kernel fills in). The path of a configuration is the
//! operator's; but if anything on the way belongs to another user than root or ours, so does the socket at its end.
//!
//! *No waiting.* Workers look names up, and a name may lead to a file system that takes its time. So a path is followed one step at a
//! time, and only on file systems that make nobody wait (`mounts`).
//!
//! *Held.* The file is opened with `O_PATH`, which connects to nothing, then checked, and frames are sent to it through
//! `/proc/PID/fd/N`: to the file that was checked, whatever its name leads to now. When the guest starts anew it makes a
//! new file, and the next frame finds nobody at the old one; then the name is looked up again.
//!
//! *Limits.* Users are compared as the daemon's user namespace knows them. All that have no number there share one
//! (`/proc/sys/kernel/overflowuid`), so a sender with it is refused. A process of root's that is in a mount namespace, but not in a
//! user namespace of its own, counts as root.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use rustix::fs::{CWD, FileType, Mode, OFlags, Stat, fstat, openat, readlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::mounts::{Mounts, mount_of};

/// Maximum number of symbolic links on the way, as in the kernel (`MAXSYMLINKS`).
const MAX_LINKS: usize = 40;

const HOLD: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Offset of the path in a socket address, in bytes.
pub(super) const BEFORE_PATH: usize = mem::offset_of!(libc::sockaddr_un, sun_path);

/// Where a guest's socket is said to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Name {
    /// By the configuration.
    Configured(PathBuf),
    /// By the datagrams of this user.
    Sender { name: SocketName, user: u32 },
}

/// The name of a Unix socket: a path, or an abstract name, which begins with a zero. It is copied without an allocation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SocketName {
    bytes: [u8; MAX_NAME_LEN],
    len: usize,
}

/// Size of `sun_path` in unix(7), in bytes.
const MAX_NAME_LEN: usize = size_of::<libc::sockaddr_un>() - BEFORE_PATH;

impl SocketName {
    /// Takes what fits, up to the zero that ends a path.
    pub(super) fn new(name: impl Iterator<Item = u8>) -> SocketName {
        let (mut bytes, mut len) = ([0; MAX_NAME_LEN], 0);
        for byte in name.take(MAX_NAME_LEN) {
            if byte == 0 && len > 0 && bytes[0] != 0 {
                break;
            }
            bytes[len] = byte;
            len += 1;
        }
        SocketName { bytes, len }
    }

    fn of_path(path: &Path) -> SocketName {
        SocketName::new(path.as_os_str().as_bytes().iter().copied())
    }

    fn path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.bytes[..self.len]))
    }
}

impl fmt::Debug for SocketName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path().fmt(out)
    }
}

impl fmt::Display for SocketName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.path().to_string_lossy().escape_debug().fmt(out)
    }
}

/// Why a guest's name is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// It is an abstract name or a relative path.
    NotPath,
    /// It leads to a file system that may make the switch wait.
    Waits {
        /// The path.
        path: SocketName,
    },
    /// The user who sent from there has no number in the daemon's user namespace.
    Unmapped {
        /// The number that all such users share.
        user: u32,
    },
    /// It is not a socket.
    NotSocket {
        /// The path.
        path: SocketName,
    },
    /// It belongs to another user than the guest.
    Owner {
        /// The path.
        path: SocketName,
        /// The socket's owner.
        owner: u32,
        /// The user who sent from there, or to whom something on the way belongs.
        user: u32,
    },
}

impl fmt::Display for Refusal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::NotPath => out.write_str("the guest's socket has no absolute path"),
            Refusal::Waits { path } => write!(
                out,
                "{path} leads to a file system that may make the switch wait, such as NFS, FUSE or autofs; use a path on a local one, \
                 such as /run"
            ),
            Refusal::Unmapped { user } => write!(
                out,
                "the guest's user has no number in vswitchd's user namespace, where all such users are {user}; map it there, or name \
                 the socket with remote="
            ),
            Refusal::NotSocket { path } => write!(out, "{path} is not a socket"),
            Refusal::Owner { path, owner, user } => write!(
                out,
                "{path} belongs to user {owner} and not to user {user}, who sends from there or could have put it there"
            ),
        }
    }
}

/// A checked socket.
pub(super) struct Target {
    file: OwnedFd,
    identity: Identity,
    /// The way to the file.
    address: libc::sockaddr_un,
    len: libc::socklen_t,
}

impl fmt::Debug for Target {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Target").field("file", &self.file).field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// Tells a file from a later one in the same place: device, inode, and the time of its last change of status.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Identity([i128; 4]);

impl Identity {
    fn of(stat: &Stat) -> Identity {
        Identity([i128::from(stat.st_dev), i128::from(stat.st_ino), i128::from(stat.st_ctime), i128::from(stat.st_ctime_nsec)])
    }
}

/// Why there is no target.
#[derive(Debug)]
pub(super) enum Missing {
    /// It is not there, or has been found dead before.
    Absent,
    /// It is not to be taken.
    Refused(Refusal),
}

impl Name {
    /// Looks the socket up and checks it. One that is known to be dead is not taken again. Besides local file systems, the path may
    /// lead over that with the mount `own`.
    #[expect(clippy::result_large_err, reason = "a refusal holds the name, because no datagram may cause an allocation")]
    pub(super) fn find(&self, dead: Option<Identity>, own: Option<u64>) -> Result<Target, Missing> {
        let path = match self {
            Name::Configured(path) => path.as_path(),
            Name::Sender { name, .. } if name.bytes[0] == b'/' => name.path(),
            Name::Sender { .. } => return Err(Missing::Refused(Refusal::NotPath)),
        };
        if let Name::Sender { user, .. } = self
            && unmapped_users() == Some(*user)
        {
            return Err(Missing::Refused(Refusal::Unmapped { user: *user }));
        }
        let name = SocketName::of_path(path);
        let refuse = |owner, user| Missing::Refused(Refusal::Owner { path: name, owner, user });
        let walked = Walk::along(path, own, matches!(self, Name::Configured(_))).map_err(|stopped| match stopped {
            Stopped::Failed => Missing::Absent,
            Stopped::Waits => Missing::Refused(Refusal::Waits { path: name }),
            Stopped::Strangers([first, second]) => refuse(second, first),
        })?;
        let Walked { stat, file, stranger } = walked;
        if Some(Identity::of(&stat)) == dead {
            return Err(Missing::Absent);
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
            return Err(Missing::Refused(Refusal::NotSocket { path: name }));
        }
        let user = match self {
            Name::Sender { user, .. } => Some(*user),
            Name::Configured(_) => stranger,
        };
        match user {
            Some(user) if user != stat.st_uid => Err(refuse(stat.st_uid, user)),
            _ => Ok(Target::new(file, Identity::of(&stat))),
        }
    }
}

/// What is at the end of a path.
struct Walked {
    stat: Stat,
    file: OwnedFd,
    /// The one user besides root and ourselves to whom something on the way there belongs.
    stranger: Option<u32>,
}

/// Why a path has no end.
enum Stopped {
    /// Something is not there, or is not a directory.
    Failed,
    /// It leads to a file system that may make us wait.
    Waits,
    /// Two users of whom each owns something on the way of a configured path.
    Strangers([u32; 2]),
}

impl From<Errno> for Stopped {
    fn from(_: Errno) -> Stopped {
        Stopped::Failed
    }
}

/// The way along a path.
struct Walk {
    mounts: Mounts,
    /// Mounts that are good even if they are not local.
    trusted: [Option<u64>; 3],
    here: OwnedFd,
    /// The path of `here`, without links.
    at: PathBuf,
    rest: VecDeque<OsString>,
}

impl Walk {
    /// Follows a path one step at a time. A link at its end is followed only if the path is configured.
    fn along(path: &Path, own: Option<u64>, is_configured: bool) -> Result<Walked, Stopped> {
        let ours = geteuid().as_raw();
        let (mut stranger, mut links) = (None, 0);
        let (here, at) = begin(path)?;
        // Without the file systems of its directories the daemon would not run.
        let trusted = [mount_of(begin(Path::new("/"))?.0), mount_of(&here), own];
        let mut walk = Walk { mounts: Mounts::now(), trusted, here, at, rest: VecDeque::new() };
        walk.go_on_by(path);
        while let Some(step) = walk.rest.pop_front() {
            let (next, at) = walk.open(&step)?;
            let stat = fstat(&next)?;
            let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
            if walk.rest.is_empty() && (!is_link || !is_configured) {
                return Ok(Walked { stat, file: next, stranger });
            }
            match stranger {
                Some(other) if ![0, ours, other].contains(&stat.st_uid) && is_configured => {
                    return Err(Stopped::Strangers([other, stat.st_uid]));
                }
                None if ![0, ours].contains(&stat.st_uid) => stranger = Some(stat.st_uid),
                _ => {}
            }
            if !is_link {
                (walk.here, walk.at) = (next, at);
                continue;
            }
            links += 1;
            if links > MAX_LINKS {
                return Err(Stopped::Failed);
            }
            let leads_to = PathBuf::from(OsString::from_vec(readlinkat(&next, "", Vec::new())?.into_bytes()));
            if leads_to.is_absolute() {
                (walk.here, walk.at) = begin(&leads_to)?;
            }
            walk.go_on_by(&leads_to);
        }
        Err(Stopped::Failed)
    }

    /// Notes the steps of a path before those that remain.
    fn go_on_by(&mut self, path: &Path) {
        let behind = mem::take(&mut self.rest);
        let steps = path.components().filter(|component| !matches!(component, Component::RootDir | Component::CurDir));
        self.rest.extend(steps.map(|component| component.as_os_str().to_owned()).chain(behind));
    }

    /// Opens the next step, unless that may take long. Returns it, and its path.
    fn open(&self, step: &OsStr) -> Result<(OwnedFd, PathBuf), Stopped> {
        let at = match step == ".." {
            true => self.at.parent().unwrap_or(&self.at).to_owned(),
            false => self.at.join(step),
        };
        if self.mounts.waits_at(&at, &self.trusted) {
            return Err(Stopped::Waits);
        }
        let next = openat(&self.here, step, HOLD, Mode::empty())?;
        if self.mounts.is_local(&next, &self.trusted) { Ok((next, at)) } else { Err(Stopped::Waits) }
    }
}

/// The directory in which a path begins, and its path.
fn begin(path: &Path) -> Result<(OwnedFd, PathBuf), Stopped> {
    let (name, at) = match path.is_absolute() {
        true => ("/", PathBuf::from("/")),
        false => (".", std::env::current_dir().map_err(|_| Stopped::Failed)?),
    };
    Ok((openat(CWD, name, HOLD, Mode::empty())?, at))
}

impl Target {
    fn new(file: OwnedFd, identity: Identity) -> Target {
        let path = format!("{}/{}", descriptors(), file.as_raw_fd());
        let mut address = nobody();
        address.sun_family = libc::AF_UNIX as libc::sa_family_t;
        // The last byte stays zero.
        for (to, byte) in address.sun_path[..MAX_NAME_LEN - 1].iter_mut().zip(path.bytes()) {
            *to = byte as libc::c_char;
        }
        Target { file, identity, address, len: (BEFORE_PATH + path.len() + 1) as libc::socklen_t }
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    /// The address to send to, and its length. It is good for as long as this is there.
    pub(super) fn address(&self) -> (&libc::sockaddr_un, libc::socklen_t) {
        (&self.address, self.len)
    }
}

/// The number of all users that have none in this user namespace, if there are such users.
fn unmapped_users() -> Option<u32> {
    static USER: OnceLock<Option<u32>> = OnceLock::new();
    *USER.get_or_init(|| {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        unmapped_by(&read("/proc/self/uid_map"), &read("/proc/sys/kernel/overflowuid"))
    })
}

/// The same by the map of a user namespace (user_namespaces(7)) and the number of those that it leaves out.
fn unmapped_by(map: &str, overflow: &str) -> Option<u32> {
    let are_all_mapped = map.split_whitespace().eq(["0", "0", "4294967295"]);
    if are_all_mapped { None } else { overflow.trim().parse().ok() }
}

/// The directory of our descriptors, by our number where /proc knows it: that is quicker than to follow `/proc/self`.
fn descriptors() -> &'static str {
    static DIRECTORY: OnceLock<String> = OnceLock::new();
    DIRECTORY.get_or_init(|| {
        let own = std::fs::read_link("/proc/self").unwrap_or_else(|_| PathBuf::from("self"));
        format!("/proc/{}/fd", own.display())
    })
}

pub(super) fn nobody() -> libc::sockaddr_un {
    // SAFETY: an all-zero `sockaddr_un` is a valid value.
    unsafe { mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_partial_map_leaves_users_out() {
        assert_eq!(unmapped_by("         0          0 4294967295\n", "65534\n"), None);
        for map in ["         0       1000          1\n", "0 0 1000\n 1000 100000 65536\n", ""] {
            assert_eq!(unmapped_by(map, "65534\n"), Some(65_534), "{map}");
        }
    }

    #[test]
    fn a_path_has_each_step_once() {
        let here = std::env::current_dir().unwrap();
        let (_, at) = begin(Path::new("a/b")).ok().unwrap();
        assert_eq!(at, here);
        let mut walk = Walk {
            mounts: Mounts::now(),
            trusted: [None; 3],
            here: begin(Path::new("/")).ok().unwrap().0,
            at,
            rest: VecDeque::new(),
        };
        walk.go_on_by(Path::new("c/../d"));
        walk.go_on_by(Path::new("/a/./b"));
        assert_eq!(walk.rest, ["a", "b", "c", "..", "d"]);
    }
}
