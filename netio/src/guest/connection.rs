//! Stream connections: listening, accepting, connecting, and the identity of the peer.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, accept_with, bind, connect, getpeername, getsockname, listen, sockopt,
};

use super::{Access, Address, GuestError, SocketFile, io_error, open_socket, tcp_error, unix_address, widen};
use crate::option;

/// Maximum number of connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// TCP keepalive: idle time before the first probe, interval between probes, and number of probes.
const SILENCE: Duration = Duration::from_secs(30);
const ASK_EVERY: Duration = Duration::from_secs(10);
const ASK_TIMES: u32 = 3;

/// A TCP connection ends when sent data is not acknowledged for this time (`TCP_USER_TIMEOUT`). The kernel sends no
/// keepalive probes while data is in flight (`tcp_keepalive_timer`), which in a switch is nearly always. This also
/// disconnects a guest that is paused for longer.
const UNANSWERED: Duration = Duration::from_secs(180);

/// A socket that guests connect to.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    address: Address,
    _file: Option<SocketFile>,
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Listener {
    /// Listens at an address. Replaces a socket file that no process listens on.
    pub fn open(address: &Address) -> Result<Listener, GuestError> {
        Listener::open_to(address, Access::default())
    }

    /// Listens at an address, with these permissions of the socket file.
    pub fn open_to(address: &Address, access: Access) -> Result<Listener, GuestError> {
        match address {
            Address::Unix(path) => {
                let failed = |what| move |errno| io_error(path, what, errno);
                let socket = open_socket(AddressFamily::UNIX, SocketType::STREAM).map_err(failed("opening a socket"))?;
                let file = SocketFile::bind(socket.as_fd(), path, access)?;
                listen(&socket, BACKLOG).map_err(failed("listening"))?;
                Ok(Listener { socket, address: address.clone(), _file: Some(file) })
            }
            Address::Tcp(local) => {
                let failed = |what| move |errno| tcp_error(*local, what, errno);
                let socket = open_socket(family(local.ip()), SocketType::STREAM).map_err(failed("opening a socket"))?;
                // Connections of an earlier process in TIME_WAIT do not block the port.
                sockopt::set_socket_reuseaddr(&socket, true).map_err(failed("SO_REUSEADDR"))?;
                if local.is_ipv6() {
                    sockopt::set_ipv6_v6only(&socket, true).map_err(failed("IPV6_V6ONLY"))?;
                }
                bind(&socket, local).map_err(failed("binding"))?;
                listen(&socket, BACKLOG).map_err(failed("listening"))?;
                let bound = getsockname(&socket).and_then(SocketAddr::try_from).map_err(failed("looking at it"))?;
                Ok(Listener { socket, address: Address::Tcp(bound), _file: None })
            }
        }
    }

    /// The address that it listens at, with the port that the kernel chose if 0 was specified.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Accepts the next connection, if one is waiting. After an error (no file descriptors or no memory left) the connection
    /// is still waiting, so a level-triggered poller reports it again.
    pub fn accept(&self) -> io::Result<Option<Stream>> {
        match accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => Ok(Some(Stream::new(socket, &self.address))),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// The peer of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Peer {
    /// A process on this host.
    Process {
        /// Its process ID; 0 if it is in a PID namespace that is not visible to us.
        pid: u32,
        /// Its name; empty if unknown.
        name: String,
    },
    /// A host, with its TCP port.
    Host(SocketAddr),
}

impl fmt::Display for Peer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Process { pid: 0, .. } => out.write_str("a process that is not visible"),
            Peer::Process { pid, name } => write!(out, "{name} (process {pid})"),
            Peer::Host(address) => address.fmt(out),
        }
    }
}

/// A connection. A TCP connection may not be established yet: see [`is_connected`](Self::is_connected).
#[derive(Debug)]
pub struct Stream {
    pub(super) socket: OwnedFd,
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Stream {
    /// Connects to a listening guest or switch. Does not block: a TCP connection is established later, or its reader gets
    /// `Received::Gone`.
    pub fn connect(address: &Address) -> io::Result<Stream> {
        let (socket, connected) = match address {
            Address::Unix(path) => {
                let to = unix_address(path).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
                let socket = open_socket(AddressFamily::UNIX, SocketType::STREAM)?;
                let connected = connect(&socket, &to);
                (socket, connected)
            }
            Address::Tcp(to) => {
                let socket = open_socket(family(to.ip()), SocketType::STREAM)?;
                let connected = connect(&socket, to);
                (socket, connected)
            }
        };
        match connected {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(Stream::new(socket, address)),
            Err(errno) => Err(errno.into()),
        }
    }

    fn new(socket: OwnedFd, address: &Address) -> Stream {
        match address {
            Address::Unix(_) => widen(&socket),
            Address::Tcp(_) => {
                // Optional: without them frames are delayed, or a dead peer is detected later.
                let _ = sockopt::set_tcp_nodelay(&socket, true);
                let _ = sockopt::set_tcp_keepidle(&socket, SILENCE);
                let _ = sockopt::set_tcp_keepintvl(&socket, ASK_EVERY);
                let _ = sockopt::set_tcp_keepcnt(&socket, ASK_TIMES);
                let _ = sockopt::set_socket_keepalive(&socket, true);
                let _ = sockopt::set_tcp_user_timeout(&socket, UNANSWERED.as_millis() as u32);
            }
        }
        Stream { socket }
    }

    /// True if the connection is established, false if not yet. An error if connecting failed.
    pub fn is_connected(&self) -> io::Result<bool> {
        sockopt::socket_error(&self.socket)??;
        match getpeername(&self.socket) {
            // If no process listens on a port of this host, the kernel may choose that port as our source port and connect
            // the socket to itself (RFC 9293 section 3.5, simultaneous open).
            Ok(Some(peer)) if SocketAddr::try_from(peer.clone()).is_ok() && getsockname(&self.socket)? == peer => {
                Err(Errno::CONNREFUSED.into())
            }
            Ok(_) => Ok(true),
            Err(Errno::NOTCONN) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }

    /// The peer, to be shown to users; `None` before the connection is established.
    #[must_use]
    pub fn peer(&self) -> Option<Peer> {
        let address = getpeername(&self.socket).ok()?;
        if let Some(host) = address.and_then(|address| SocketAddr::try_from(address).ok()) {
            return Some(Peer::Host(host));
        }
        // `struct ucred`: process, user, group.
        let [pid, ..] = option::get(self.socket.as_fd(), libc::SOL_SOCKET, libc::SO_PEERCRED, [0u32; 3]).ok()?;
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Some(Peer::Process { pid, name: name.trim_end().to_owned() })
    }
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 }
}
