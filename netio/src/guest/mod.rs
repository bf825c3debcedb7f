//! Guests connected by a socket: virtual machine monitors and other processes that exchange frames with the switch.
//!
//! A [`stream`] carries each frame after its length, as QEMU (`-netdev stream`), passt and libkrun do. A [`dgram`] socket
//! carries one frame in each datagram, as QEMU (`-netdev dgram`) and vfkit do. Neither has a virtio-net header, so there is
//! no offload: checksums are complete and no frame is longer than the MTU permits.
//!
//! *Access.* Whoever may write to the socket file is a guest. The file has mode 0660 (owner and group) from the moment it
//! is created. A TCP listener accepts connections from anywhere.
//!
//! *Socket files.* A socket file outlives its process. On start, a file that no process listens on is replaced; one that is
//! in use, or that is not a socket, is not. To find out, we connect with a socket of another type (`SOCK_SEQPACKET`): the
//! kernel then distinguishes "wrong type" from "not listening" without notifying the listener. Two processes that replace
//! a file at the same moment are not prevented from it. On exit the file is removed if it is still ours.
//!
//! *Trust.* A peer may send any length, stop in the middle of a frame, or never read. It uses no more than the buffers of
//! its connection, which are allocated at the start, and no worker waits for it. A socket that a guest names as its own gets
//! frames only if it is its own (`target`).

pub mod connection;
pub mod dgram;
mod mounts;
pub mod stream;
mod target;

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
pub use stream::{MAX_BACKLOG, StreamReader, StreamWriter};
pub use target::Refusal;

/// Permissions of a socket file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Access {
    /// Its mode bits.
    pub mode: u32,
    /// Its group, if not that of the process.
    pub group: Option<u32>,
}

impl Default for Access {
    /// Mode 0660, and the group of the process.
    fn default() -> Access {
        Access { mode: 0o660, group: None }
    }
}

/// Send buffer of each socket, in bytes, unless `net.core.wmem_max` is lower: hundreds of full frames.
const SEND_BUFFER: usize = 1 << 20;

/// Maximum number of pieces of one frame.
pub const MAX_PIECES: usize = 127;

/// Maximum number of lines of /proc/net/unix that are searched for an error message.
const LOOKED_AT: usize = 100_000;

/// The address of a guest connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Address {
    /// The path of a Unix socket.
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

/// Why a guest socket cannot be opened.
#[derive(Debug, Error)]
pub enum GuestError {
    /// The path exists and is not a socket.
    #[error("{} exists and is not a socket; choose another path, or remove it", path.display())]
    NotSocket {
        /// The path.
        path: PathBuf,
    },
    /// The path or port is in use.
    #[error("{address} is in use by {}; stop that, or choose another one", owner(process))]
    InUse {
        /// The path or port.
        address: Address,
        /// The process that uses it, if visible to us.
        process: Option<(u32, String)>,
    },
    /// The group of the socket file cannot be set.
    #[error("no permission to set the group of {} to {group}: run as a member of that group, or as root", path.display())]
    NotGiven {
        /// The path.
        path: PathBuf,
        /// The group's number.
        group: u32,
    },
    /// Missing permissions.
    #[error(
        "no permission to use {address} ({what}); choose a directory that you can write to (ports below 1024 need CAP_NET_BIND_SERVICE)"
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
    /// The directory of the socket file does not exist.
    #[error("the directory of {} does not exist; create it first", path.display())]
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

/// Maximum length of a socket path, in bytes (`sun_path` in unix(7), less the terminating zero).
pub const MAX_PATH_LEN: usize = 107;

fn owner(process: &Option<(u32, String)>) -> String {
    match process {
        Some((pid, name)) => format!("{name} (process {pid})"),
        None => "a process that is not visible".to_owned(),
    }
}

/// The frame after its virtio-net header. An error if its length is not that of a frame.
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

/// A socket file, removed on drop if it is still ours.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: Option<(u64, u64)>,
}

impl SocketFile {
    /// Binds a socket to a path. Replaces a socket file that no process listens on.
    fn bind(socket: BorrowedFd<'_>, path: &Path, access: Access) -> Result<SocketFile, GuestError> {
        let address = unix_address(path)?;
        make_way(path, &address)?;
        // The file gets the socket's mode, less the umask, so at no moment it has more permissions than at the end.
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

/// Sets the group, and the mode without the umask. A symbolic link in place of the file, which anyone who may write to the
/// directory could create, is not followed.
fn give_rights(path: &Path, access: Access) -> Result<(), Errno> {
    let file = open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&file)?.st_mode) != FileType::Socket {
        return Err(Errno::NOTSOCK);
    }
    if let Some(group) = access.group {
        chownat(&file, "", None, Some(Gid::from_raw(group)), AtFlags::EMPTY_PATH)?;
    }
    // The mode behind an `O_PATH` descriptor can be changed only through this path.
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

/// Removes a socket file that no process listens on.
fn make_way(path: &Path, address: &SocketAddrUnix) -> Result<(), GuestError> {
    match fs::symlink_metadata(path) {
        Ok(file) if !file.file_type().is_socket() => return Err(GuestError::NotSocket { path: path.to_owned() }),
        Ok(_) => {}
        // bind(2) reports what is wrong with the path.
        Err(_) => return Ok(()),
    }
    let probe =
        open_socket(AddressFamily::UNIX, SocketType::SEQPACKET).map_err(|errno| io_error(path, "opening a socket", errno))?;
    match connect(&probe, address) {
        Err(Errno::CONNREFUSED) => match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                Err(io_error(path, "removing the stale socket file", errno))
            }
            _ => Ok(()),
        },
        Ok(()) | Err(Errno::PROTOTYPE | Errno::AGAIN) => Err(in_use(path)),
        Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(io_error(path, "checking whether it is in use", errno)),
    }
}

fn open_socket(family: AddressFamily, kind: SocketType) -> Result<OwnedFd, Errno> {
    socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}

/// Enlarges the send buffer. More than net.core.wmem_max takes CAP_NET_ADMIN; without it the kernel grants less.
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

/// The process whose socket is bound to a path. Used in error messages; `None` if it is not found or not visible to us.
fn process_of_path(path: &Path) -> Option<(u32, String)> {
    let table = fs::File::open("/proc/thread-self/net/unix").ok()?;
    let lines = BufReader::new(table).split(b'\n').map_while(Result::ok).take(LOOKED_AT);
    let inodes = lines.filter_map(|line| inode_of(&line, path.as_os_str().as_bytes()));
    inodes.filter_map(process_of_socket).next()
}

/// The inode of the socket in a line of /proc/net/unix, if it is bound to this path.
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
    fn lines_of_proc_net_unix_are_parsed() {
        let line = b"00000000a4e3a1b2: 00000002 00000000 00010000 0001 01 17263 /run/a b";
        assert_eq!(inode_of(line, b"/run/a b"), Some(17263));
        assert_eq!(inode_of(line, b"/run/a"), None);
        assert_eq!(inode_of(line, b"b"), None, "the end of a path is not the path");
        assert_eq!(inode_of(b"0: 2 0 0 1 1 17263", b"/run/a"), None);
        assert_eq!(inode_of(b"", b"/run/a"), None);
    }
}
