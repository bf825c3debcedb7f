//! Guests that join by a socket: virtual machines and others that hold their end of a cable as a file descriptor.
//!
//! A [`stream`] carries frames behind their lengths, as QEMU (`-netdev stream`), passt and libkrun do; a
//! [`dgram`] socket one frame a datagram, as QEMU (`-netdev dgram`) and vfkit do. Neither says anything beside the
//! frame: no offload, so checksums are complete and no frame is longer than its MTU allows.
//!
//! *Whom we let in.* A path's rights are those of its socket file, which is for its owner and group (0660) from the
//! moment that it is there. Who may write to it is a guest. A TCP listener lets in whoever reaches it.
//!
//! *Files.* A socket file outlives its process, so one that nobody listens to any more is replaced; one that is in
//! use, or no socket at all, is not. Whether it is in use is asked with a socket of a kind that nobody has there
//! (`SOCK_SEQPACKET`): the kernel tells "wrong kind" from "nobody" without letting the other side know. Two that
//! replace a file at the same moment are not kept apart. A file that is still ours is removed in the end.
//!
//! *A peer is a stranger.* It may send any length, stop in the middle, or never read. It costs its connection's
//! buffers, which are there from the start, and nobody waits for it.

pub mod connection;
pub mod dgram;
pub mod stream;

use std::fmt;
use std::fs;
use std::io::{self, BufRead, BufReader, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use packet::VNET_LEN;
use packet::batch::MAX_FRAME_LEN;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, chmod, chownat, fchmod, fstat, open};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, connect, socket_with, sockopt};
use thiserror::Error;

use crate::reservation::{PortProtocol, process_of_port, process_of_socket};

pub use connection::{Listener, Peer, Stream};
pub use dgram::{Dgram, DgramQueue, DgramReceiver};
pub use stream::{MAX_LEFT, StreamReader, StreamWriter};

/// Who may connect to a socket file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// The file's mode.
    pub mode: u32,
    /// The file's group, if not that of the process.
    pub group: Option<u32>,
}

impl Default for Access {
    /// Its owner and its group.
    fn default() -> Access {
        Access { mode: 0o660, group: None }
    }
}

/// Bytes that may wait in a socket for its peer to read them, where the host's limit (`net.core.wmem_max`) is not
/// lower: hundreds of full frames.
const SEND_BUFFER: usize = 1 << 20;

/// Pieces of one frame, at most.
pub const MAX_PIECES: usize = 127;

/// How many lines of the kernel's table of sockets are looked at for the sake of an error's text.
const LOOKED_AT: usize = 100_000;

/// Where a guest is met.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// A socket file.
    Unix(PathBuf),
    /// An address and TCP port.
    Tcp(SocketAddr),
}

impl fmt::Display for Address {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => path.display().fmt(out),
            Address::Tcp(address) => address.fmt(out),
        }
    }
}

/// Why guests cannot be met there.
#[derive(Debug, Error)]
pub enum GuestError {
    /// The path is taken by something else.
    #[error("{} exists and is no socket; choose another path, or remove it", path.display())]
    NotSocket {
        /// The path.
        path: PathBuf,
    },
    /// Somebody else listens there.
    #[error("{address} is in use by {}; stop that, or choose another one", owner(process))]
    InUse {
        /// The path or port.
        address: Address,
        /// The process, if we may see it.
        process: Option<(u32, String)>,
    },
    /// The file cannot be given to the group.
    #[error("no right to give {} to group {group}: be a member of it, or root", path.display())]
    NotGiven {
        /// The path.
        path: PathBuf,
        /// The group's number.
        group: u32,
    },
    /// Missing rights.
    #[error(
        "no right to use {address} ({what}); choose a directory that is yours to write to (ports below 1024 need CAP_NET_BIND_SERVICE)"
    )]
    NoPermission {
        /// The path or port.
        address: Address,
        /// What was tried.
        what: &'static str,
    },
    /// The path does not fit into a socket's address.
    #[error("{} is too long for a socket: at most {MAX_PATH_LEN} bytes, and at least one", path.display())]
    PathLength {
        /// The path.
        path: PathBuf,
    },
    /// Where the file was to be.
    #[error("there is no directory for {}; make it first", path.display())]
    NoDirectory {
        /// The path.
        path: PathBuf,
    },
    /// Anything else.
    #[error("{address}: {what}: {error}")]
    Io {
        /// The path or port.
        address: Address,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

/// How long a socket's path can be (`sun_path` in unix(7), with the zero at its end).
pub const MAX_PATH_LEN: usize = 107;

fn owner(process: &Option<(u32, String)>) -> String {
    match process {
        Some((pid, name)) => format!("{name} (process {pid})"),
        None => "a process that we cannot see".to_owned(),
    }
}

/// A frame without its virtio-net header, if it is one.
#[inline]
fn body<'f>(frame: &'f IoSlice<'_>) -> Result<&'f [u8], Errno> {
    let body = frame.get(VNET_LEN..).ok_or(Errno::INVAL)?;
    checked(body.len()).map(|_| body)
}

#[inline]
fn checked(len: usize) -> Result<usize, Errno> {
    match len {
        0 => Err(Errno::INVAL),
        1..=MAX_FRAME_LEN => Ok(len),
        _ => Err(Errno::MSGSIZE),
    }
}

/// A socket's name in the file system; removed in the end, if it is still ours.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: Option<(u64, u64)>,
}

impl SocketFile {
    /// Gives a socket its name, in place of a file that nobody listens to.
    fn bind(socket: BorrowedFd<'_>, path: &Path, access: Access) -> Result<SocketFile, GuestError> {
        let address = unix_address(path)?;
        make_way(path, &address)?;
        // The socket's own mode is what the file gets, less the umask; so it never has more rights than in the end.
        let failed = |what| move |errno| io_error(path, what, errno);
        fchmod(socket, Mode::from_raw_mode(access.mode)).map_err(failed("setting its rights"))?;
        bind(socket, &address).map_err(failed("binding"))?;
        let file = SocketFile { identity: identity(path), path: path.to_owned() };
        give_rights(path, access).map_err(|errno| match (errno, access.group) {
            (Errno::PERM, Some(group)) => GuestError::NotGiven { path: path.to_owned(), group },
            _ => io_error(path, "setting its rights", errno),
        })?;
        Ok(file)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// What the umask took, and the group. Whoever may write to the directory may have put a link in the file's place, which is not
/// followed.
fn give_rights(path: &Path, access: Access) -> Result<(), Errno> {
    let file = open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::Socket {
        return Err(Errno::NOTSOCK);
    }
    if let Some(group) = access.group {
        chownat(&file, "", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?;
    }
    // A descriptor of this kind can be changed by this name only.
    chmod(format!("/proc/thread-self/fd/{}", file.as_raw_fd()), Mode::from_raw_mode(access.mode))
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|file| (file.dev(), file.ino()))
}

fn unix_address(path: &Path) -> Result<SocketAddrUnix, GuestError> {
    let length = || GuestError::PathLength { path: path.to_owned() };
    if !(1..=MAX_PATH_LEN).contains(&path.as_os_str().len()) {
        return Err(length());
    }
    SocketAddrUnix::new(path).map_err(|_| length())
}

/// Removes a socket file that nobody listens to.
fn make_way(path: &Path, address: &SocketAddrUnix) -> Result<(), GuestError> {
    match fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => return Err(GuestError::NotSocket { path: path.to_owned() }),
        Ok(_) => {}
        // What is wrong with the path, binding says.
        Err(_) => return Ok(()),
    }
    let probe =
        open_socket(AddressFamily::UNIX, SocketType::SEQPACKET).map_err(|errno| io_error(path, "opening a socket", errno))?;
    match connect(&probe, address) {
        Err(Errno::CONNREFUSED) => match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                Err(io_error(path, "removing the socket file that is left there", errno))
            }
            _ => Ok(()),
        },
        Ok(()) | Err(Errno::PROTOTYPE | Errno::AGAIN) => Err(in_use(path)),
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(io_error(path, "asking who listens there", errno)),
    }
}

fn open_socket(family: AddressFamily, kind: SocketType) -> Result<OwnedFd, Errno> {
    socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

/// More than this is a matter of rights, and less is only less.
fn widen(socket: &OwnedFd) {
    let _ = sockopt::set_socket_send_buffer_size_force(socket, SEND_BUFFER)
        .or_else(|_| sockopt::set_socket_send_buffer_size(socket, SEND_BUFFER));
}

fn in_use(path: &Path) -> GuestError {
    GuestError::InUse { address: Address::Unix(path.to_owned()), process: process_of_path(path) }
}

fn io_error(path: &Path, what: &'static str, errno: Errno) -> GuestError {
    let address = Address::Unix(path.to_owned());
    match errno {
        Errno::ADDRINUSE => in_use(path),
        Errno::NOENT => GuestError::NoDirectory { path: path.to_owned() },
        Errno::ACCESS | Errno::PERM | Errno::ROFS => GuestError::NoPermission { address, what },
        errno => GuestError::Io { address, what, error: errno.into() },
    }
}

fn tcp_error(address: SocketAddr, what: &'static str, errno: Errno) -> GuestError {
    match errno {
        Errno::ADDRINUSE => {
            let process = process_of_port(PortProtocol::Tcp, address.port());
            GuestError::InUse { address: Address::Tcp(address), process }
        }
        Errno::ACCESS | Errno::PERM => GuestError::NoPermission { address: Address::Tcp(address), what },
        errno => GuestError::Io { address: Address::Tcp(address), what, error: errno.into() },
    }
}

/// Which process has bound a socket to that path. For people; `None` where it is not found or not ours to see.
fn process_of_path(path: &Path) -> Option<(u32, String)> {
    let table = fs::File::open("/proc/thread-self/net/unix").ok()?;
    let lines = BufReader::new(table).split(b'\n').map_while(Result::ok).take(LOOKED_AT);
    let inodes = lines.filter_map(|line| inode_of(&line, path.as_os_str().as_bytes()));
    inodes.filter_map(process_of_socket).next()
}

/// The inode of a line's socket, if its name is that path.
fn inode_of(line: &[u8], path: &[u8]) -> Option<u64> {
    // Num RefCount Protocol Flags Type St Inode Path
    let rest = line.strip_suffix(path)?.strip_suffix(b" ")?;
    let inode = rest.rsplit(|byte| *byte == b' ').find(|field| !field.is_empty())?;
    std::str::from_utf8(inode).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_the_kernels_table() {
        let line = b"00000000a4e3a1b2: 00000002 00000000 00010000 0001 01 17263 /run/a b";
        assert_eq!(inode_of(line, b"/run/a b"), Some(17263));
        assert_eq!(inode_of(line, b"/run/a"), None);
        assert_eq!(inode_of(line, b"b"), None, "the end of a path is not the path");
        assert_eq!(inode_of(b"0: 2 0 0 1 1 17263", b"/run/a"), None);
        assert_eq!(inode_of(b"", b"/run/a"), None);
    }
}
