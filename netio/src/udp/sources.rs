//! The sending sockets: a pool of source ports.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use rustix::net::bind;
use rustix::net::sockopt::{self, Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery};
use socket2::SockRef;

use super::{UdpError, index_of, io_error, open_socket, path};
use crate::option;
use crate::packet_socket::Filter;

/// The dynamic ports (RFC 6335 section 6), which RFC 7348 section 5 recommends.
pub const PORTS: RangeInclusive<u16> = 49_152..=65_535;

/// Number of dynamic ports, a power of two.
const PORT_COUNT: usize = (*PORTS.end() - *PORTS.start()) as usize + 1;

/// Send buffer of each socket, in bytes.
const SEND_BUFFER: usize = 4 << 20;

/// The sockets' default TTL or hop limit.
pub(super) const DEFAULT_TTL: u8 = 64;

/// Number of refused trains after which only single datagrams are sent.
const REFUSALS: u32 = 3;

/// Whether datagrams carry a UDP checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ChecksumPolicy {
    /// With a checksum, which trains require; without one over IPv4 if the kernel does not support trains.
    #[default]
    Auto,
    /// With a checksum.
    On,
    /// Without a checksum, and therefore without trains.
    Off,
}

/// Specification of sending sockets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourcesSpec {
    /// The source address; unspecified: that of the route to each peer. Also determines the address family.
    pub local: IpAddr,
    /// Send only through this interface.
    pub device: Option<String>,
    /// True: datagrams are not fragmented, by the host or by routers. False: too long ones are.
    pub dont_fragment: bool,
    /// Whether datagrams have a checksum.
    pub checksum: ChecksumPolicy,
    /// Number of source ports, at least 1.
    pub count: usize,
}

/// A pool of sending sockets. They receive nothing.
#[derive(Clone, Debug)]
pub struct Sources {
    writer: Writer,
}

/// A handle to [`Sources`] for workers; any of them may send.
#[derive(Clone, Debug)]
pub struct Writer(Arc<Pool>);

#[derive(Debug)]
struct Pool {
    ports: Box<[Port]>,
    ipv4: bool,
    dont_fragment: bool,
    segments: AtomicBool,
    refusals: AtomicU32,
}

#[derive(Debug)]
struct Port {
    number: u16,
    socket: OwnedFd,
}

impl Sources {
    /// Binds the ports, in the calling thread's namespace. They are spread over [`PORTS`], in the same way each time, so that
    /// a flow keeps its path through the network when the switch restarts. Ports in use are skipped.
    pub fn open(spec: &SourcesSpec) -> Result<Sources, UdpError> {
        let count = spec.count.clamp(1, PORT_COUNT);
        // An odd step visits each port once, and gives neighbours different low bits, which are all that some networks
        // hash.
        let step = (PORT_COUNT / count) | 1;
        let numbers = (0..PORT_COUNT).map(|at| *PORTS.start() + (at * step % PORT_COUNT) as u16);
        let knows_trains = knows_trains(spec)?;
        let checked = is_checked(spec, knows_trains);
        let free = numbers.filter_map(|number| open_port(spec, number, checked).transpose());
        let ports = free.take(count).collect::<Result<Box<[Port]>, UdpError>>()?;
        if ports.len() < count {
            return Err(UdpError::NoPort { local: spec.local });
        }
        let pool = Pool {
            ipv4: spec.local.is_ipv4(),
            dont_fragment: spec.dont_fragment,
            segments: AtomicBool::new(knows_trains && checked),
            refusals: AtomicU32::new(0),
            ports,
        };
        Ok(Sources { writer: Writer(Arc::new(pool)) })
    }

    /// The handle for workers.
    #[must_use]
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// The source ports of the pool.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.writer.0.ports.iter().map(|port| port.number)
    }
}

impl Writer {
    /// True while trains are sent whole (`UDP_SEGMENT`). Turned off after a few refusals.
    #[must_use]
    pub fn segments(&self) -> bool {
        self.0.segments.load(Ordering::Relaxed)
    }

    /// True if both handles are of the same pool.
    #[must_use]
    pub fn is_same(&self, other: &Writer) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn is_ipv4(&self) -> bool {
        self.0.ipv4
    }

    /// The index of a flow's port, by its hash.
    #[inline]
    pub(super) fn port(&self, source: u16) -> u16 {
        // There are at most 2^14 ports.
        (usize::from(source) % self.0.ports.len()) as u16
    }

    /// The socket of a port.
    #[inline]
    pub(super) fn socket(&self, port: u16) -> BorrowedFd<'_> {
        self.0.ports[usize::from(port)].socket.as_fd()
    }

    /// True if single datagrams are fragmented, so that they can be sent where a train is refused as too long.
    pub(super) fn may_fragment(&self) -> bool {
        !self.0.dont_fragment
    }

    /// Records that the kernel refused a train and accepted its datagrams.
    #[cold]
    pub(super) fn train_refused(&self) {
        if self.0.refusals.fetch_add(1, Ordering::Relaxed) + 1 >= REFUSALS {
            self.0.segments.store(false, Ordering::Relaxed);
        }
    }
}

/// True if the kernel has `UDP_SEGMENT`. Sets it to 0, the default.
fn knows_trains(spec: &SourcesSpec) -> Result<bool, UdpError> {
    let socket = open_socket(SocketAddr::new(spec.local, 0), None)?;
    Ok(option::set(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok())
}

/// True if datagrams get checksums: all datagrams of a port or none. A receiver's kernel merges datagrams with a checksum,
/// and one without would overtake those of its flow that wait to be merged (`udp_gro_receive_segment`).
fn is_checked(spec: &SourcesSpec, knows_trains: bool) -> bool {
    match spec.checksum {
        ChecksumPolicy::On => true,
        ChecksumPolicy::Off => false,
        ChecksumPolicy::Auto => spec.local.is_ipv6() || knows_trains,
    }
}

/// Opens the socket of one port; `None` if the port is in use.
fn open_port(spec: &SourcesSpec, number: u16, checked: bool) -> Result<Option<Port>, UdpError> {
    let local = SocketAddr::new(spec.local, number);
    let socket = open_source(spec, local)?;
    match bind(&socket, &local) {
        Err(rustix::io::Errno::ADDRINUSE) => return Ok(None),
        bound => bound.map_err(|errno| io_error(local, "binding", errno.into()))?,
    }
    if !checked {
        let unchecked = match spec.local {
            IpAddr::V4(_) => option::set(socket.as_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1),
            IpAddr::V6(_) => option::set(socket.as_fd(), libc::SOL_UDP, libc::UDP_NO_CHECK6_TX, 1),
        };
        unchecked.map_err(|error| io_error(local, "sending without checksums", error))?;
    }
    Ok(Some(Port { number, socket }))
}

/// An unbound socket that only sends.
fn open_source(spec: &SourcesSpec, local: SocketAddr) -> Result<OwnedFd, UdpError> {
    let fd = open_socket(local, spec.device.as_deref())?;
    option::attach_filter(fd.as_fd(), Filter::nothing().instructions())
        .map_err(|error| io_error(local, "setting its filter", error))?;
    // The kernel rounds 0 up to its minimum.
    let _ = sockopt::set_socket_recv_buffer_size(&fd, 0);
    // A larger buffer than net.core.wmem_max takes CAP_NET_ADMIN; without it the kernel grants less.
    let _ = sockopt::set_socket_send_buffer_size_force(&fd, SEND_BUFFER)
        .or_else(|_| sockopt::set_socket_send_buffer_size(&fd, SEND_BUFFER));
    set_up(fd.as_fd(), spec).map_err(|error| io_error(local, "setting its options", error))?;
    if let Some(name) = &spec.device {
        path::send_groups_to(fd.as_fd(), local.is_ipv4(), index_of(name)?)
            .map_err(|error| io_error(local, "choosing the interface of multicast groups", error))?;
    }
    Ok(fd)
}

/// Sets fragmentation, the default TTL, and no loopback of our own multicast datagrams.
fn set_up(fd: BorrowedFd<'_>, spec: &SourcesSpec) -> io::Result<()> {
    let socket = SockRef::from(&fd);
    let ttl = u32::from(DEFAULT_TTL);
    if spec.local.is_ipv4() {
        let discover = if spec.dont_fragment { Ipv4PathMtuDiscovery::DO } else { Ipv4PathMtuDiscovery::DONT };
        sockopt::set_ip_mtu_discover(fd, discover)?;
        socket.set_ttl_v4(ttl)?;
        socket.set_multicast_ttl_v4(ttl)?;
        return socket.set_multicast_loop_v4(false);
    }
    let discover = if spec.dont_fragment { Ipv6PathMtuDiscovery::DO } else { Ipv6PathMtuDiscovery::DONT };
    sockopt::set_ipv6_mtu_discover(fd, discover)?;
    option::set(fd, libc::SOL_IPV6, libc::IPV6_DONTFRAG, libc::c_int::from(spec.dont_fragment))?;
    socket.set_unicast_hops_v6(ttl)?;
    socket.set_multicast_hops_v6(ttl)?;
    socket.set_multicast_loop_v6(false)
}
