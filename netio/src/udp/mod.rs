//! UDP sockets for tunnels (udp(7), net/ipv4/udp.c), with many datagrams per system call and segmentation offload.
//!
//! *Sockets.* A [`ReceivingSocket`] receives. It is bound to the tunnel's port; each worker that reads has a socket of its own,
//! and the kernel chooses among them by a hash of the outer addresses and ports (`SO_REUSEPORT`). [`Sources`] send. The
//! outer source port of a datagram is a hash of the inner flow, so that the underlay network and the peer can spread flows
//! and keep each of them in order (RFC 7348 section 5). A socket has one port, so there is a pool of sockets, bound to
//! dynamic ports (RFC 6335 section 6). They receive nothing: a filter drops what arrives.
//!
//! *Trains.* Datagrams of one flow and equal length pass the kernel as one message that carries the length of each:
//! `UDP_SEGMENT` when sending, `UDP_GRO` when receiving. Between two namespaces, and on cards with this offload, a train
//! stays whole from end to end. The kernel builds no train without checksums. Single datagrams have checksums as well:
//! without them they would overtake trains of their flow where the receiver's kernel merges datagrams.
//!
//! *Exclusive ports.* The first socket of a port is bound without `SO_REUSEPORT`, which fails if the port is in use. The
//! option is set afterwards, so that the other sockets can be bound; there is no gap between check and bind. A second
//! switch on the same port is refused for the same reason. (With several workers, another program of the same user that
//! sets `SO_REUSEPORT` could still join.)
//!
//! *Multicast.* The kernel delivers a copy to each socket that has joined a group, and by default to sockets that have not
//! (`IP_MULTICAST_ALL`). So the default is turned off, and only the first socket joins. Linux 6.18 nevertheless passes
//! IPv4 datagrams on to one socket of the port, by the hash (`inet_steal_sock` after early demultiplexing). Each datagram
//! is received once in either case.
//!
//! *Errors.* The kernel reports ICMP errors to unconnected sockets only on request, and these do not request it. From ICMP
//! errors the kernel learns the path MTU, which [`path()`] reads.
//!
//! *Absent addresses and devices.* Sockets are bound to an address whether the host has it or not (`IP_FREEBIND`);
//! while it does not, sending returns `EINVAL` or `ENETUNREACH`. A socket bound to a device is bound to its index: after the device was
//! deleted, sending returns `ENODEV`, nothing is received, and a new device of that name needs new sockets.
//!
//! *Measured on Linux 6.18.* `SO_REUSEPORT` set after the bind is enough to share load evenly, for IPv4 and IPv6. A train
//! has at most 128 datagrams, before Linux 6.9 64. A train whose datagrams are longer than the MTU returns `EMSGSIZE`
//! (on older kernels `EINVAL`), even where single datagrams would be fragmented; so does one of 65,508 bytes over IPv4. A
//! train longer than 65,535 bytes including all headers is segmented before it reaches its link.

mod message;
pub mod path;
pub mod receive;
pub mod send;
pub mod sources;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, getsockname, socket_with};
use socket2::{InterfaceIndexOrAddress, SockRef};
use thiserror::Error;

use crate::link;
use crate::option;
use crate::receive_buffer::ReceiveBuffer;
use crate::reservation::{PortProtocol, process_of_port};

pub use path::{Path, path};
pub use receive::Receiver;
pub use send::{Burst, Outgoing, Sender};
pub use sources::{ChecksumPolicy, Sources, SourcesSpec, Writer};

/// Specification of a receiving socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReceivingSocketSpec {
    /// The local address; unspecified: all addresses of its family.
    pub local: IpAddr,
    /// The local port; 0: the kernel chooses one.
    pub port: u16,
    /// Number of sockets, one for each worker that reads.
    pub queues: usize,
    /// Receive only from this interface, and join the groups there.
    pub device: Option<String>,
    /// Multicast groups to join. `local` must be unspecified.
    pub groups: Vec<IpAddr>,
    /// Over IPv6, accept datagrams without a checksum, which RFC 6936 permits for tunnels. (Over IPv4 they are always
    /// accepted.)
    pub zero_checksum: bool,
}

/// Why a receiving socket or sources cannot be opened.
#[derive(Debug, Error)]
pub enum UdpError {
    /// The port is in use.
    #[error("UDP port {} of {} is in use by {}; stop that, or choose another port", local.port(), local.ip(), owner(process))]
    InUse {
        /// The address and port.
        local: SocketAddr,
        /// The process that uses it, if visible to us.
        process: Option<(u32, String)>,
    },
    /// Too few dynamic ports are free.
    #[error("no free UDP port is left on {local} between {} and {}", sources::PORTS.start(), sources::PORTS.end())]
    NoPort {
        /// The address.
        local: IpAddr,
    },
    /// The namespace has no interface of this name.
    #[error("there is no interface {name} in this network namespace; `ip link` shows those that are")]
    NoInterface {
        /// The interface.
        name: String,
    },
    /// Missing capability.
    #[error(
        "no permission to use UDP port {} ({what}): CAP_NET_BIND_SERVICE (ports below 1024) or CAP_NET_RAW (interfaces) is missing; run as root",
        local.port()
    )]
    NoPermission {
        /// The address and port.
        local: SocketAddr,
        /// What was tried.
        what: &'static str,
    },
    /// A multicast group that the socket cannot receive.
    #[error("multicast group {group} cannot be received on {local}: it needs an unspecified local address of its family")]
    Group {
        /// The group.
        group: IpAddr,
        /// The address of the socket.
        local: IpAddr,
    },
    /// Anything else.
    #[error("UDP on {local}: {what}: {error}")]
    Io {
        /// The address and port.
        local: SocketAddr,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

fn owner(process: &Option<(u32, String)>) -> String {
    match process {
        Some((pid, name)) => format!("{name} (process {pid})"),
        None => "a process that is not visible, or by the kernel itself (`ip -d link show type vxlan`)".to_owned(),
    }
}

/// A receiving socket, read by one worker with its own [`Receiver`].
#[derive(Clone, Debug)]
pub struct Queue {
    fd: Arc<OwnedFd>,
    buffer: Arc<ReceiveBuffer>,
}

impl Queue {
    fn new(socket: OwnedFd) -> Queue {
        let buffer = Arc::new(ReceiveBuffer::set_up(&socket));
        Queue { fd: Arc::new(socket), buffer }
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The receiving sockets of one local address and port.
#[derive(Debug)]
pub struct ReceivingSocket {
    local: SocketAddr,
    queues: Vec<Queue>,
    merges: bool,
    /// The kernel's drop counter of each queue, as last read.
    drops: Vec<u32>,
    dropped: u64,
}

impl ReceivingSocket {
    /// Binds the port, in the calling thread's namespace.
    pub fn open(spec: &ReceivingSocketSpec) -> Result<ReceivingSocket, UdpError> {
        let local = SocketAddr::new(spec.local, spec.port);
        let device = spec.device.as_deref();
        let first = open_socket(local, device)?;
        bind(&first, &local).map_err(|errno| io_error(local, "binding", errno.into()))?;
        let bound = local_address(&first).map_err(|error| io_error(local, "looking at it", error))?;
        let mut sockets = vec![first];
        if spec.queues > 1 {
            share(&sockets[0]).map_err(|error| io_error(bound, "SO_REUSEPORT", error))?;
        }
        for _ in 1..spec.queues {
            let next = open_socket(bound, device)?;
            share(&next).map_err(|error| io_error(bound, "SO_REUSEPORT", error))?;
            bind(&next, &bound).map_err(|errno| io_error(bound, "binding", errno.into()))?;
            sockets.push(next);
        }
        let mut merges = true;
        for socket in &sockets {
            merges &= set_up(socket.as_fd(), spec).map_err(|error| io_error(bound, "setting its options", error))?;
        }
        for group in &spec.groups {
            match join(sockets[0].as_fd(), spec, *group) {
                // There is no route to the group yet: see `join_again`.
                Err(UdpError::Io { error, .. }) if error.raw_os_error() == Some(libc::ENODEV) => {}
                joined => joined?,
            }
        }
        let queues: Vec<Queue> = sockets.into_iter().map(Queue::new).collect();
        Ok(ReceivingSocket { local: bound, drops: vec![0; queues.len()], queues, merges, dropped: 0 })
    }

    /// Joins all groups again, after an interface was added or came back. No error for a group that is joined already.
    pub fn join_again(&self, spec: &ReceivingSocketSpec) -> Result<(), UdpError> {
        let Some(first) = self.queues.first() else { return Ok(()) };
        for group in &spec.groups {
            join(first.as_fd(), spec, *group)?;
        }
        Ok(())
    }

    /// Leaves a group on all interfaces. No error if the group is not joined.
    pub fn leave(&self, spec: &ReceivingSocketSpec, group: IpAddr) -> Result<(), UdpError> {
        let Some(first) = self.queues.first() else { return Ok(()) };
        // A deleted interface has taken the membership with it; there may be another one, by another route.
        let index = spec.device.as_deref().and_then(|name| index_of(name).ok()).unwrap_or(0);
        loop {
            // The group may have been joined on several interfaces over time.
            match change_membership(first.as_fd(), group, index, Membership::Drop) {
                Ok(()) => {}
                Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => return Ok(()),
                Err(error) => return Err(io_error(SocketAddr::new(group, spec.port), "leaving the group", error)),
            }
        }
    }

    /// The local address as specified, and the port.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// The sockets, one for each worker that reads.
    #[must_use]
    pub fn queues(&self) -> &[Queue] {
        &self.queues
    }

    /// True if the kernel merges datagrams (`UDP_GRO`).
    #[must_use]
    pub fn merges(&self) -> bool {
        self.merges
    }

    /// Datagrams that the kernel dropped since the socket was opened, because a receive buffer was full or a checksum was
    /// wrong. The kernel's counters have 32 bits, so call this every few minutes.
    pub fn dropped(&mut self) -> u64 {
        const VARIABLES: usize = libc::SK_MEMINFO_DROPS as usize + 1;
        for (queue, before) in self.queues.iter().zip(&mut self.drops) {
            if let Ok(memory) = option::get(queue.as_fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, [0u32; VARIABLES]) {
                let now = memory[VARIABLES - 1];
                self.dropped += u64::from(now.wrapping_sub(*before));
                *before = now;
            }
        }
        self.dropped
    }
}

/// An unbound socket with the options that sending and receiving sockets have in common.
fn open_socket(local: SocketAddr, device: Option<&str>) -> Result<OwnedFd, UdpError> {
    let family = if local.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = socket_with(family, SocketType::DGRAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
        .map_err(|errno| io_error(local, "opening a socket", errno.into()))?;
    let socket = SockRef::from(&fd);
    // Where the kernel refuses this, an absent address is reported by bind(2).
    if local.is_ipv4() {
        let _ = socket.set_freebind_v4(true);
    } else {
        socket.set_only_v6(true).map_err(|error| io_error(local, "IPV6_V6ONLY", error))?;
        let _ = socket.set_freebind_v6(true);
    }
    if let Some(name) = device {
        bind_to_device(socket, name).map_err(|error| match error.raw_os_error() {
            Some(libc::ENODEV) => UdpError::NoInterface { name: name.to_owned() },
            _ => io_error(local, "SO_BINDTODEVICE", error),
        })?;
    }
    Ok(fd)
}

fn bind_to_device(socket: SockRef<'_>, name: &str) -> io::Result<()> {
    // The kernel cuts longer names, and would find another interface.
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    socket.bind_device(Some(name.as_bytes()))
}

/// Lets further sockets with this option bind to the same port.
fn share(socket: &OwnedFd) -> io::Result<()> {
    SockRef::from(socket).set_reuse_port(true)
}

/// Sets the options of a receiving socket. True if the kernel merges datagrams (`UDP_GRO`).
fn set_up(fd: BorrowedFd<'_>, spec: &ReceivingSocketSpec) -> io::Result<bool> {
    let socket = SockRef::from(&fd);
    if spec.local.is_ipv4() {
        socket.set_recv_tos_v4(true)?;
        socket.set_multicast_all_v4(false)?;
    } else {
        socket.set_recv_tclass_v6(true)?;
        // Since Linux 4.20.
        let _ = socket.set_multicast_all_v6(false);
        if spec.zero_checksum {
            option::set(fd, libc::SOL_UDP, libc::UDP_NO_CHECK6_RX, 1)?;
        }
    }
    Ok(option::set(fd, libc::SOL_UDP, libc::UDP_GRO, 1).is_ok())
}

fn join(socket: BorrowedFd<'_>, spec: &ReceivingSocketSpec, group: IpAddr) -> Result<(), UdpError> {
    if !spec.local.is_unspecified() || spec.local.is_ipv4() != group.is_ipv4() || !group.is_multicast() {
        return Err(UdpError::Group { group, local: spec.local });
    }
    let index = spec.device.as_deref().map_or(Ok(0), index_of)?;
    match change_membership(socket, group, index, Membership::Add) {
        // The group is joined already.
        Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) => Ok(()),
        joined => joined.map_err(|error| io_error(SocketAddr::new(group, spec.port), "joining the group", error)),
    }
}

#[derive(Clone, Copy)]
enum Membership {
    Add,
    Drop,
}

fn change_membership(socket: BorrowedFd<'_>, group: IpAddr, index: u32, what: Membership) -> io::Result<()> {
    let socket = SockRef::from(&socket);
    let interface = InterfaceIndexOrAddress::Index(index);
    match (what, group) {
        (Membership::Add, IpAddr::V4(group)) => socket.join_multicast_v4_n(&group, &interface),
        (Membership::Add, IpAddr::V6(group)) => socket.join_multicast_v6(&group, index),
        (Membership::Drop, IpAddr::V4(group)) => socket.leave_multicast_v4_n(&group, &interface),
        (Membership::Drop, IpAddr::V6(group)) => socket.leave_multicast_v6(&group, index),
    }
}

/// The index of an interface of the calling thread's namespace.
fn index_of(name: &str) -> Result<u32, UdpError> {
    link::get(name).map(|link| link.index).map_err(|_| UdpError::NoInterface { name: name.to_owned() })
}

fn local_address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    SocketAddr::try_from(getsockname(socket)?).map_err(|_| io::ErrorKind::InvalidData.into())
}

fn io_error(local: SocketAddr, what: &'static str, error: io::Error) -> UdpError {
    match error.raw_os_error() {
        Some(libc::EADDRINUSE) => UdpError::InUse { local, process: process_of_port(PortProtocol::Udp, local.port()) },
        Some(libc::EPERM | libc::EACCES) => UdpError::NoPermission { local, what },
        _ => UdpError::Io { local, what, error },
    }
}
