//! Packet sockets: uplinks and ports on any Ethernet interface of our own namespace (packet(7), net/packet/af_packet.c).
//!
//! A packet socket gets a copy of what its interface receives, before the host's stack handles it, and sends frames
//! unchanged. The host continues to use the interface: it answers frames that are addressed to it, and it receives
//! everything that we receive.
//!
//! *Sockets.* Each worker that reads has a socket of its own. The kernel chooses among them by a hash of the flow that is
//! the same in both directions (`PACKET_FANOUT_HASH`), so each flow has one reader. (Fragments have no ports: those of one
//! datagram have one reader, which may not be that of their flow.) All workers send through one further socket that
//! receives nothing: a pending error is kept in the socket, and would otherwise be reported to the other direction.
//!
//! *Offload.* As with a TAP, a virtio-net header precedes each frame, so super-frames and partial checksums pass in both
//! directions: what the interface cannot do, the kernel does for it. The kernel writes the header in host byte order and
//! the pipeline expects little-endian, so big-endian hosts are refused. Without `PACKET_VNET_HDR_SZ` the header has 10
//! bytes; the missing two are added by scatter/gather. A frame longer than a slot (`gro_max_size` of an interface can be
//! more than 64 KiB) is dropped and reported as an empty frame.
//!
//! *The queue discipline* of the interface applies to our frames too: `PACKET_QDISC_BYPASS` is not set. Between veth links
//! it made no difference (1.4-1.5 us for a frame of 60 bytes, 3.5 us for one of 64 KB, including the receiver).
//!
//! *Outgoing frames* of the host, and our own, are not received (`PACKET_IGNORE_OUTGOING`, or a filter on kernels that do
//! not have it). So an uplink in bridge mode carries frames between the switch and the wire, but not between the switch
//! and the host that the interface belongs to.
//!
//! *Start.* A socket with protocol 0 receives nothing, so all options and the filter are set before it is bound. Until its
//! fanout group is complete the filter refuses all frames, so none is received twice.
//!
//! *Link state* (measured on Linux 6.18). When the link is set down, the reader gets `ENETDOWN` once, with an epoll event;
//! the socket stays bound and receives again when the link is up. When the link is deleted or moved to another namespace,
//! it is set down first: the reader gets the same error, and after that neither errors nor events. Only the socket's
//! address shows it, by the interface index -1; the socket does not bind again to a new link of that name. Therefore a
//! reader checks the address after `ENETDOWN`. The deletion may follow that check, and a socket may have no reader, so call
//! [`PacketSocket::is_gone`] once in a while. Sending returns `ENETDOWN` or `ENXIO`.

pub mod filter;
pub mod receive;
pub mod send;

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use packet::{MacAddr, VNET_LEN};
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use thiserror::Error;

use crate::link;
use crate::option::{self, check};
use crate::receive_buffer::ReceiveBuffer;

pub use filter::Filter;
pub use receive::Receiver;
pub use send::{Burst, Sender};

/// Length of the virtio-net header without `num_buffers` (`struct virtio_net_hdr`), in bytes.
const SHORT_VNET_LEN: usize = 10;

/// Size of the send buffer, in bytes: more than 1,000 full frames, or 100 super-frames.
const SEND_BUFFER: usize = 8 << 20;

/// Specification of a packet socket.
#[derive(Clone, Debug)]
pub struct PacketSpec {
    /// The interface's name.
    pub interface: String,
    /// Number of receiving sockets, one for each worker that reads.
    pub queues: usize,
    /// Receive frames to any MAC address, as a bridge must.
    pub promiscuous: bool,
    /// MAC addresses to receive in addition to the interface's own.
    pub own_macs: Vec<MacAddr>,
    /// The filter for received frames; `None` accepts all.
    pub filter: Option<Filter>,
    /// Behave as on kernels before 6.4, which do not have `PACKET_VNET_HDR_SZ`, and without `PACKET_IGNORE_OUTGOING`. For
    /// tests; on such kernels the fallbacks are used anyway.
    pub old_kernel: bool,
}

/// Why a packet socket cannot be opened.
#[derive(Debug, Error)]
pub enum PacketError {
    /// The namespace has no interface of this name.
    #[error("there is no interface {name} in this network namespace; `ip link` shows those that are")]
    NoInterface {
        /// The interface.
        name: String,
    },
    /// The interface does not carry Ethernet frames.
    #[error("{name} is not an Ethernet interface; an uplink or a packet port must be one")]
    NotEthernet {
        /// The interface.
        name: String,
    },
    /// Missing capability.
    #[error(
        "no permission to use packet sockets on {name}: CAP_NET_RAW or CAP_NET_ADMIN is missing; run as root, or give them to the \
         binary with `setcap cap_net_raw,cap_net_admin,cap_sys_admin+ep $(command -v vswitchd)`"
    )]
    NoPermission {
        /// The interface.
        name: String,
    },
    /// The host is big-endian.
    #[error("packet sockets need a little-endian host: the kernel describes frames in the host's byte order")]
    BigEndian,
    /// Anything else.
    #[error("{name}: {what}: {error}")]
    Io {
        /// The interface.
        name: String,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        error: io::Error,
    },
}

/// A receiving socket, read by one worker with its own [`Receiver`].
#[derive(Clone, Debug)]
pub struct Queue {
    fd: Arc<OwnedFd>,
    short_header: bool,
    buffer: Arc<ReceiveBuffer>,
}

/// The sending socket, shared by all workers.
#[derive(Clone, Debug)]
pub struct Writer {
    fd: Arc<OwnedFd>,
    short_header: bool,
}

/// The kernel's counters since the socket was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Frames that passed the filter, including dropped ones.
    pub frames: u64,
    /// Frames that the kernel dropped because the receive buffer was full.
    pub dropped: u64,
}

/// The packet sockets on one interface.
#[derive(Debug)]
pub struct PacketSocket {
    index: u32,
    queues: Vec<Queue>,
    writer: Writer,
    /// True if the kernel delivers outgoing frames as well, so that a filter must refuse them.
    hears_outgoing: bool,
    statistics: Statistics,
}

impl Queue {
    /// True if the interface was deleted or moved to another namespace.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        address(self.fd.as_fd()).is_ok_and(|address| address.sll_ifindex <= 0)
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsFd for Writer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl PacketSocket {
    /// Opens sockets on an interface of the calling thread's namespace, whether its link is up or down.
    pub fn open(spec: &PacketSpec) -> Result<PacketSocket, PacketError> {
        if cfg!(target_endian = "big") {
            return Err(PacketError::BigEndian);
        }
        let index = match link::get(&spec.interface) {
            Ok(link) => link.index,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(PacketError::NoInterface { name: spec.interface.clone() });
            }
            Err(error) => return Err(io_error(spec, "finding its link", error)),
        };
        let writer = open_writer(spec, index)?;
        let mut socket =
            PacketSocket { index, queues: Vec::new(), writer, hears_outgoing: false, statistics: Statistics::default() };
        socket.add_queues(spec)?;
        socket.join(spec)?;
        socket.set_filter(spec.filter.as_ref()).map_err(|error| io_error(spec, "setting its filter", error))?;
        Ok(socket)
    }

    /// Adds bound sockets whose filter refuses every frame.
    fn add_queues(&mut self, spec: &PacketSpec) -> Result<(), PacketError> {
        for _ in 0..spec.queues.max(1) {
            let fd = open_socket(spec)?;
            let short_header =
                set_vnet_header(fd.as_fd(), spec.old_kernel).map_err(|error| io_error(spec, "PACKET_VNET_HDR", error))?;
            let set = |name, value| option::set(fd.as_fd(), libc::SOL_PACKET, name, value);
            set(libc::PACKET_AUXDATA, 1).map_err(|error| io_error(spec, "PACKET_AUXDATA", error))?;
            self.hears_outgoing |= spec.old_kernel || set(libc::PACKET_IGNORE_OUTGOING, 1).is_err();
            option::attach_filter(fd.as_fd(), Filter::nothing().instructions())
                .map_err(|error| io_error(spec, "setting its filter", error))?;
            let buffer = Arc::new(ReceiveBuffer::set_up(&fd));
            bind(fd.as_fd(), self.index, libc::ETH_P_ALL as u16).map_err(|error| io_error(spec, "binding", error))?;
            self.queues.push(Queue { fd: Arc::new(fd), short_header, buffer });
        }
        Ok(())
    }

    /// Joins the queues in a fanout group, if there are several, and requests frames to our MAC addresses.
    fn join(&mut self, spec: &PacketSpec) -> Result<(), PacketError> {
        if let [first, others @ ..] = self.queues.as_slice()
            && !others.is_empty()
        {
            let group = Fanout::start(first.as_fd(), spec.old_kernel).map_err(|error| io_error(spec, "PACKET_FANOUT", error))?;
            for queue in others {
                group.join(queue.as_fd()).map_err(|error| io_error(spec, "PACKET_FANOUT", error))?;
            }
            self.hears_outgoing |= !group.ignores_outgoing();
        }
        if spec.promiscuous {
            self.add_membership(libc::PACKET_MR_PROMISC, None)
                .map_err(|error| io_error(spec, "setting it promiscuous", error))?;
        }
        for mac in &spec.own_macs {
            self.add_membership(libc::PACKET_MR_UNICAST, Some(*mac))
                .map_err(|error| io_error(spec, "adding an address", error))?;
        }
        Ok(())
    }

    /// The interface's index.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The receiving sockets, one for each worker that reads.
    #[must_use]
    pub fn queues(&self) -> &[Queue] {
        &self.queues
    }

    /// The sending socket.
    #[must_use]
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Replaces the filter; `None` accepts everything that the interface receives. Frames that are queued already are
    /// not filtered again.
    pub fn set_filter(&self, filter: Option<&Filter>) -> io::Result<()> {
        let incoming = self.hears_outgoing.then(Filter::incoming);
        for queue in &self.queues {
            match filter.or(incoming.as_ref()) {
                Some(filter) => option::attach_filter(queue.as_fd(), filter.instructions())?,
                None => match option::detach_filter(queue.as_fd()) {
                    // There was no filter.
                    Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                    detached => detached?,
                },
            }
        }
        Ok(())
    }

    /// Requests frames to a further MAC address, until the sockets are closed.
    pub fn add_mac(&self, mac: MacAddr) -> io::Result<()> {
        self.add_membership(libc::PACKET_MR_UNICAST, Some(mac))
    }

    fn add_membership(&self, kind: libc::c_int, mac: Option<MacAddr>) -> io::Result<()> {
        let Some(queue) = self.queues.first() else { return Ok(()) };
        let mut address = [0; 8];
        if let Some(mac) = mac {
            address[..mac.0.len()].copy_from_slice(&mac.0);
        }
        let request = libc::packet_mreq {
            mr_ifindex: self.index as libc::c_int,
            mr_type: kind as libc::c_ushort,
            mr_alen: if mac.is_some() { 6 } else { 0 },
            mr_address: address,
        };
        option::set(queue.as_fd(), libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, request)
    }

    /// True if the interface was deleted or moved to another namespace.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.queues.first().is_some_and(Queue::is_gone)
    }

    /// Received and dropped frames since the sockets were opened. The kernel's counters have 32 bits and are reset by each
    /// read, so call this every few seconds.
    pub fn statistics(&mut self) -> Statistics {
        for queue in &self.queues {
            let nothing = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
            if let Ok(new) = option::get(queue.as_fd(), libc::SOL_PACKET, libc::PACKET_STATISTICS, nothing) {
                self.statistics.frames += u64::from(new.tp_packets);
                self.statistics.dropped += u64::from(new.tp_drops);
            }
        }
        self.statistics
    }
}

/// A group of sockets among which the kernel distributes an interface's frames.
#[derive(Clone, Copy, Debug)]
struct Fanout {
    id: u32,
    flags: u32,
}

impl Fanout {
    /// Creates a group with one member. The kernel chooses an unused number.
    fn start(socket: BorrowedFd<'_>, old_kernel: bool) -> io::Result<Fanout> {
        // In a group, the group's flag decides about outgoing frames, not the socket's option.
        let ignoring = Fanout { id: 0, flags: libc::PACKET_FANOUT_HASH | libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING };
        let hearing = Fanout { id: 0, flags: libc::PACKET_FANOUT_HASH };
        let unique = |group: Fanout| Fanout { flags: group.flags | libc::PACKET_FANOUT_FLAG_UNIQUEID, ..group };
        let group = if !old_kernel && unique(ignoring).join(socket).is_ok() {
            ignoring
        } else {
            unique(hearing).join(socket).map(|()| hearing)?
        };
        let told = option::get(socket, libc::SOL_PACKET, libc::PACKET_FANOUT, 0)?;
        Ok(Fanout { id: told as u32 & 0xffff, ..group })
    }

    fn join(self, socket: BorrowedFd<'_>) -> io::Result<()> {
        option::set(socket, libc::SOL_PACKET, libc::PACKET_FANOUT, (self.id | self.flags << 16) as libc::c_int)
    }

    fn ignores_outgoing(self) -> bool {
        self.flags & libc::PACKET_FANOUT_FLAG_IGNORE_OUTGOING != 0
    }
}

fn open_socket(spec: &PacketSpec) -> Result<OwnedFd, PacketError> {
    socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
        .map_err(|errno| io_error(spec, "opening a packet socket", errno.into()))
}

/// Opens the sending socket. With protocol 0 it receives nothing.
fn open_writer(spec: &PacketSpec, index: u32) -> Result<Writer, PacketError> {
    let fd = open_socket(spec)?;
    let short_header = set_vnet_header(fd.as_fd(), spec.old_kernel).map_err(|error| io_error(spec, "PACKET_VNET_HDR", error))?;
    let _ = sockopt::set_socket_send_buffer_size_force(&fd, SEND_BUFFER)
        .or_else(|_| sockopt::set_socket_send_buffer_size(&fd, SEND_BUFFER));
    bind(fd.as_fd(), index, 0).map_err(|error| io_error(spec, "binding", error))?;
    let bound = address(fd.as_fd()).map_err(|error| io_error(spec, "looking at it", error))?;
    if bound.sll_hatype != libc::ARPHRD_ETHER {
        return Err(PacketError::NotEthernet { name: spec.interface.clone() });
    }
    Ok(Writer { fd: Arc::new(fd), short_header })
}

/// Requests a virtio-net header of 12 bytes. Returns true if the kernel's has only 10.
fn set_vnet_header(socket: BorrowedFd<'_>, old_kernel: bool) -> io::Result<bool> {
    let set = |name, value| option::set(socket, libc::SOL_PACKET, name, value);
    if !old_kernel && set(libc::PACKET_VNET_HDR_SZ, VNET_LEN as libc::c_int).is_ok() {
        return Ok(false);
    }
    set(libc::PACKET_VNET_HDR, 1).map(|()| true)
}

fn bind(socket: BorrowedFd<'_>, index: u32, protocol: u16) -> io::Result<()> {
    let mut address = no_address();
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = index as libc::c_int;
    let len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: bind(2) reads `len` bytes of an address that is valid for the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) }).map(drop)
}

/// The address that a socket is bound to.
fn address(socket: BorrowedFd<'_>) -> io::Result<libc::sockaddr_ll> {
    let mut address = no_address();
    let mut len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: getsockname(2) writes at most `len` bytes of an address that is valid for the call.
    check(unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut address).cast(), &raw mut len) })?;
    Ok(address)
}

fn no_address() -> libc::sockaddr_ll {
    // SAFETY: an all-zero `sockaddr_ll` is a valid one.
    unsafe { mem::zeroed() }
}

fn io_error(spec: &PacketSpec, what: &'static str, error: io::Error) -> PacketError {
    let name = spec.interface.clone();
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => PacketError::NoPermission { name },
        Some(libc::ENODEV | libc::ENXIO) => PacketError::NoInterface { name },
        _ => PacketError::Io { name, what, error },
    }
}
