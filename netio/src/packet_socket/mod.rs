//! Uplinks: any Ethernet interface of our own namespace, through packet sockets (packet(7),
//! net/packet/af_packet.c).
//!
//! A packet socket sees what its interface receives, before and besides the host's own stack, and
//! sends frames as they are. The host goes on using the interface: it answers what is meant for it,
//! and what we receive it receives too.
//!
//! *Two directions, two kinds of socket.* Each worker that reads has a socket of its own; of several
//! the kernel chooses by a hash of the flow that is the same both ways (`PACKET_FANOUT_HASH`), so one
//! flow has one reader. (Fragments carry no ports: those of one datagram have one reader, which need
//! not be their flow's.) All send through one more socket that receives nothing: an error of one
//! direction is kept in the socket and would else be told to the other.
//!
//! *Offload.* Each frame comes and goes behind a virtio-net header, as with a TAP, so super-frames and
//! partial checksums cross whole both ways: what the interface cannot do, the kernel does after us.
//! The header's fields are in the host's byte order and ours are little-endian, so a big-endian host
//! is refused. A kernel without `PACKET_VNET_HDR_SZ` has a header of 10 bytes; the two that are missing
//! are put in by a list of pieces. A frame longer than a slot (a host may let its interface merge
//! beyond 64 KiB: `gro_max_size`) is dropped, and reported as an empty one.
//!
//! *The queue discipline* is not gone around (`PACKET_QDISC_BYPASS`): what its owner set for an
//! interface holds for us too, and between veth links it made no difference (1.4-1.5 us a frame of 60
//! bytes, 3.5 us one of 64 KB, receiver's side included, with it and without).
//!
//! *What is not seen.* Frames that the host itself sends, ours among them, are not received
//! (`PACKET_IGNORE_OUTGOING`, or a filter where it is not known). So an uplink in bridge mode carries
//! frames between the switch and the wire, but not between the switch and the host whose interface it is.
//!
//! *Nothing before its time.* Protocol 0 receives nothing, so a socket is complete, filter included,
//! before it is bound; and it refuses all frames until its group is complete, so that none comes in
//! twice.
//!
//! *Life* (measured on Linux 6.18). A link set down is told to a reader once, as `ENETDOWN` with an
//! event; the socket stays bound and receives again when the link is up. A link that is deleted, or
//! moved to another namespace, is first set down: the reader hears the same, and nothing more, neither
//! an error nor an event, ever. Only the socket's own address says it, an interface number of -1; it
//! does not bind again when a link of that name comes back. So after `ENETDOWN` a reader looks at its
//! address, but it may look between the two events, or have been read by nobody: ask
//! [`PacketSocket::is_gone`] as well from time to time. Sending says `ENETDOWN` and `ENXIO`.

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

pub use filter::Filter;
pub use receive::Receiver;
pub use send::{Burst, Sender};

/// The virtio-net header without `num_buffers` (`struct virtio_net_hdr`).
const SHORT_VNET_LEN: usize = 10;

/// Bytes that may wait in each socket: more than a thousand full frames, or 100 super-frames.
const BUFFER: usize = 8 << 20;

/// Which interface, and what of it.
#[derive(Clone, Debug)]
pub struct PacketSpec {
    /// The interface's name.
    pub interface: String,
    /// How many workers read from it.
    pub queues: usize,
    /// Frames to whatever address, as a bridge needs them.
    pub promiscuous: bool,
    /// Addresses of ours besides the interface's own.
    pub own_macs: Vec<MacAddr>,
    /// What is to be received; `None` is everything that comes in.
    pub filter: Option<Filter>,
    /// True: do without what kernels before 6.4 do not know (`PACKET_VNET_HDR_SZ`,
    /// `PACKET_IGNORE_OUTGOING`). On such kernels that is so in any case; here it is for tests.
    pub old_kernel: bool,
}

/// Why an interface cannot be used.
#[derive(Debug, Error)]
pub enum PacketError {
    /// There is none of that name here.
    #[error("there is no interface {name} in this network namespace; `ip link` shows those that are")]
    NoInterface {
        /// The interface.
        name: String,
    },
    /// It carries no Ethernet frames.
    #[error("{name} is not an Ethernet interface, and only such a one can be an uplink or a packet port")]
    NotEthernet {
        /// The interface.
        name: String,
    },
    /// Missing capability.
    #[error(
        "no right to the packets of {name}: CAP_NET_RAW or CAP_NET_ADMIN is missing; run as root, or give the rights to the \
         binary with `setcap cap_net_raw,cap_net_admin,cap_sys_admin+ep $(command -v vswitchd)`"
    )]
    NoPermission {
        /// The interface.
        name: String,
    },
    /// The host's byte order.
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

/// A socket that receives. One worker reads it, with a [`Receiver`] of its own.
#[derive(Clone, Debug)]
pub struct Queue {
    fd: Arc<OwnedFd>,
    short_header: bool,
}

/// A socket that sends. Any worker may.
#[derive(Clone, Debug)]
pub struct Writer {
    fd: Arc<OwnedFd>,
    short_header: bool,
}

/// Frames that the kernel had for us since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Statistics {
    /// Those that passed the filter, received or dropped.
    pub frames: u64,
    /// Those of them that the kernel dropped because we had not read enough of the others.
    pub dropped: u64,
}

/// An interface in use as an uplink.
#[derive(Debug)]
pub struct PacketSocket {
    index: u32,
    queues: Vec<Queue>,
    writer: Writer,
    /// Set where only a filter keeps the host's own frames out.
    hears_outgoing: bool,
    statistics: Statistics,
}

impl Queue {
    /// Has the interface been deleted, or moved away?
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
    /// Binds to an interface of the calling thread's namespace, up or down.
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

    /// Bound sockets that refuse every frame.
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
            // More than this is a matter of rights, and less is only less.
            let _ = sockopt::set_socket_recv_buffer_size_force(&fd, BUFFER)
                .or_else(|_| sockopt::set_socket_recv_buffer_size(&fd, BUFFER));
            bind(fd.as_fd(), self.index, libc::ETH_P_ALL as u16).map_err(|error| io_error(spec, "binding", error))?;
            self.queues.push(Queue { fd: Arc::new(fd), short_header });
        }
        Ok(())
    }

    /// Makes the queues one group, if there are several, and asks for frames to our addresses.
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

    /// The interface's number.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// The sockets to read, one for each worker that does.
    #[must_use]
    pub fn queues(&self) -> &[Queue] {
        &self.queues
    }

    /// The socket to send through.
    #[must_use]
    pub fn writer(&self) -> &Writer {
        &self.writer
    }

    /// Receives what the filter keeps from now on; `None` is everything that comes in. What is queued
    /// already stays.
    pub fn set_filter(&self, filter: Option<&Filter>) -> io::Result<()> {
        let incoming = self.hears_outgoing.then(Filter::incoming);
        for queue in &self.queues {
            match filter.or(incoming.as_ref()) {
                Some(filter) => option::attach_filter(queue.as_fd(), filter.instructions())?,
                None => match option::detach_filter(queue.as_fd()) {
                    // There was none.
                    Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
                    detached => detached?,
                },
            }
        }
        Ok(())
    }

    /// Asks the interface for frames to an address of ours besides its own, until it is closed.
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

    /// Has the interface been deleted, or moved to another namespace?
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.queues.first().is_some_and(Queue::is_gone)
    }

    /// How many frames there were, and how many we were too slow for. The kernel's counters start
    /// anew with each reading and have 32 bits, so read them every few seconds.
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

/// A group of sockets among which the kernel deals out an interface's frames.
#[derive(Clone, Copy, Debug)]
struct Fanout {
    id: u32,
    flags: u32,
}

impl Fanout {
    /// A group of its own, of one socket: the kernel chooses a number that nobody uses.
    fn start(socket: BorrowedFd<'_>, old_kernel: bool) -> io::Result<Fanout> {
        // In a group it is the group that hears outgoing frames or does not.
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

/// A socket that sends and, with protocol 0, receives nothing.
fn open_writer(spec: &PacketSpec, index: u32) -> Result<Writer, PacketError> {
    let fd = open_socket(spec)?;
    let short_header = set_vnet_header(fd.as_fd(), spec.old_kernel).map_err(|error| io_error(spec, "PACKET_VNET_HDR", error))?;
    let _ =
        sockopt::set_socket_send_buffer_size_force(&fd, BUFFER).or_else(|_| sockopt::set_socket_send_buffer_size(&fd, BUFFER));
    bind(fd.as_fd(), index, 0).map_err(|error| io_error(spec, "binding", error))?;
    let bound = address(fd.as_fd()).map_err(|error| io_error(spec, "looking at it", error))?;
    if bound.sll_hatype != libc::ARPHRD_ETHER {
        return Err(PacketError::NotEthernet { name: spec.interface.clone() });
    }
    Ok(Writer { fd: Arc::new(fd), short_header })
}

/// Asks for a virtio-net header of 12 bytes; true if it has but 10.
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

/// What a socket is bound to now.
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
