//! The sockets that send: a pool of source ports.

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

/// How many ports those are, a power of two.
const PORT_COUNT: usize = (*PORTS.end() - *PORTS.start()) as usize + 1;

/// Bytes that may wait in each socket.
const SEND_BUFFER: usize = 4 << 20;

/// The TTL or hop limit of what says no other.
pub(super) const DEFAULT_TTL: u8 = 64;

/// So many trains are refused and then sent as single datagrams before no more are tried.
const REFUSALS: u32 = 3;

/// Which datagrams carry a UDP checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ChecksumPolicy {
    /// All, as the kernel asks for it in trains; over IPv4 none where the kernel knows no trains.
    #[default]
    Auto,
    /// All.
    On,
    /// None, so there are no trains.
    Off,
}

/// How datagrams are to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SourcesSpec {
    /// Our address; unspecified: what the route to each peer says. It also chooses the family.
    pub local: IpAddr,
    /// Send only by this interface.
    pub device: Option<String>,
    /// True: no fragments, here or on the way. False: fragments where a datagram is too long.
    pub dont_fragment: bool,
    /// Who gets a checksum.
    pub checksum: ChecksumPolicy,
    /// How many source ports, at least 1.
    pub count: usize,
}

/// Sockets that send, and that receive nothing.
#[derive(Clone, Debug)]
pub struct Sources {
    writer: Writer,
}

/// The same for workers: any may send.
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
    /// Takes the ports, in the calling thread's namespace. They are spread over [`PORTS`] and the same each
    /// time, so that a flow keeps its way through the network when the switch starts anew; one that somebody
    /// has is passed over.
    pub fn open(spec: &SourcesSpec) -> Result<Sources, UdpError> {
        let count = spec.count.clamp(1, PORT_COUNT);
        // An odd step meets each port once, and no two of a few have the same last bits, which is all that
        // some networks' hashes look at.
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

    /// What to send through.
    #[must_use]
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// The source ports.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.writer.0.ports.iter().map(|port| port.number)
    }
}

impl Writer {
    /// Do trains leave whole (`UDP_SEGMENT`)? It can end: after a few refusals no more are tried.
    #[must_use]
    pub fn segments(&self) -> bool {
        self.0.segments.load(Ordering::Relaxed)
    }

    /// Are these the same sockets?
    #[must_use]
    pub fn is_same(&self, other: &Writer) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(super) fn is_ipv4(&self) -> bool {
        self.0.ipv4
    }

    /// Which port a flow has, by its hash.
    #[inline]
    pub(super) fn port(&self, source: u16) -> u16 {
        // There are at most 2^14 ports.
        (usize::from(source) % self.0.ports.len()) as u16
    }

    /// A port's socket for trains and single datagrams, or for single ones only.
    #[inline]
    pub(super) fn socket(&self, port: u16) -> BorrowedFd<'_> {
        self.0.ports[usize::from(port)].socket.as_fd()
    }

    /// Would single datagrams go where a train was refused as too long?
    pub(super) fn may_fragment(&self) -> bool {
        !self.0.dont_fragment
    }

    /// A train was refused, and its datagrams were not.
    #[cold]
    pub(super) fn train_refused(&self) {
        if self.0.refusals.fetch_add(1, Ordering::Relaxed) + 1 >= REFUSALS {
            self.0.segments.store(false, Ordering::Relaxed);
        }
    }
}

/// The kernel is asked whether it knows the option: 0 is what it is already.
fn knows_trains(spec: &SourcesSpec) -> Result<bool, UdpError> {
    let socket = open_socket(SocketAddr::new(spec.local, 0), None)?;
    Ok(option::set(socket.as_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok())
}

/// Do datagrams get checksums? All of a port's or none: a receiver's kernel merges those that have one, and
/// one that has none would overtake those of its flow that wait to be merged (`udp_gro_receive_segment`).
fn is_checked(spec: &SourcesSpec, knows_trains: bool) -> bool {
    match spec.checksum {
        ChecksumPolicy::On => true,
        ChecksumPolicy::Off => false,
        ChecksumPolicy::Auto => spec.local.is_ipv6() || knows_trains,
    }
}

/// The socket of one port; `None` if somebody has it.
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

/// A socket that only sends, not yet bound.
fn open_source(spec: &SourcesSpec, local: SocketAddr) -> Result<OwnedFd, UdpError> {
    let fd = open_socket(local, spec.device.as_deref())?;
    option::attach_filter(fd.as_fd(), Filter::nothing().instructions())
        .map_err(|error| io_error(local, "setting its filter", error))?;
    // The kernel gives it as little as it gives any.
    let _ = sockopt::set_socket_recv_buffer_size(&fd, 0);
    // More than this is a matter of rights, and less is only less.
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
