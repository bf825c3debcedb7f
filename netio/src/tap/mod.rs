//! TAP and TUN devices (Documentation/networking/tuntap.rst).
//!
//! A TAP has two sides: a network interface, which the stack of a namespace or a bridge uses, and a file descriptor.
//! Frames that the interface sends are read from the descriptor; frames that are written to it, the interface receives.
//! The switch holds the descriptor. Only one process can.
//!
//! A TUN works one layer up: its frames are IP packets without an Ethernet header, and offsets in the virtio-net header
//! count from the IP header. The first four bits of a written packet must say IPv4 or IPv6 (otherwise `EINVAL`). In this
//! file "TAP" means both, unless noted.
//!
//! *Offload.* A 12-byte virtio-net header (`IFF_VNET_HDR`) precedes each frame, so that super-frames and partial checksums
//! pass in both directions. `TUNSETOFFLOAD` sets what the interface's side accepts, and refuses flags that the kernel does
//! not know. Therefore the flags are requested one after the other, and refused ones are kept to be shown. The mask belongs
//! to the device, not to the descriptor, so it is set in any case, if only to zero.
//!
//! *Namespaces.* A device for another namespace is made there, by a thread that enters it: to move it there would take a
//! hundred times as long. Its descriptor keeps that namespace alive. So the name of the namespace is looked at once a second,
//! and when it leads elsewhere, or nowhere, a device that is still there counts as gone and its descriptor is to be closed.
//!
//! *Group.* The devices that this process made are in a link group of its own (`IFLA_GROUP`), by a random number. So all of them
//! are deleted in one request a namespace ([`end::delete`]): one by one, each waits for the kernel's readers. A device that was
//! there before is never put in the group. A switch whose devices outlive it ([`keep`]) has the same group again after a restart.
//!
//! *Link state.* While the link is down, writes return `EIO` and there is nothing to read, without an epoll event. When
//! the device is deleted, epoll reports an event and the descriptor returns `EBADFD`.
//!
//! *Why not a TUN/TAP crate.* It would hide what the switch has to see: the size of the virtio-net header, the answer to
//! each offload flag, and the interface's namespace.

pub mod end;
mod ioctl;
pub mod keep;
mod open;
pub mod visit;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use packet::{Batch, Features, MacAddr};
use rustix::io::{Errno, read, write, writev};
use thiserror::Error;

use crate::link::{self, Link};
use crate::netns::{self, Netns, NetnsId};
use crate::route::{self, Route};
use ioctl::{interface, interface_netns, set_offload};
use open::{DEVICE, io_error};

/// UDP segmentation offload flags, since Linux 6.2. The kernel accepts them only together.
const TUN_F_USO4: u32 = 0x20;
const TUN_F_USO6: u32 = 0x40;

/// Maximum length of an interface name, in bytes.
pub const MAX_NAME_LEN: usize = libc::IFNAMSIZ - 1;

/// The first header of each frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Layer {
    /// An Ethernet header: the device is a TAP.
    #[default]
    Ethernet,
    /// An IP header: the device is a TUN.
    Ip,
}

/// Specification of a TAP.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TapSpec {
    /// The interface's name, at most [`MAX_NAME_LEN`] bytes.
    pub name: String,
    /// Its namespace, if not that of the process.
    pub netns: Option<Netns>,
    /// TAP or TUN.
    pub layer: Layer,
    /// Number of queues, one for each worker that reads. More than one makes it a multi-queue device.
    pub queues: usize,
    /// Its MTU in bytes, if not the kernel's default of 1500.
    pub mtu: Option<u32>,
    /// Number of frames that the kernel queues for us to read. Further frames are dropped.
    pub tx_queue_len: u32,
    /// False: no super-frames and no partial checksums.
    pub offload: bool,
    /// MAC address of the interface, if not one that the kernel chooses.
    pub mac: Option<MacAddr>,
}

/// What is set on the interface of a TAP for whoever uses it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Setup<'a> {
    /// Its addresses with the lengths of their prefixes.
    pub addresses: &'a [(IpAddr, u8)],
    /// The next hop of a default route, unless the interface is in the namespace of this process, which has its own. If the
    /// interface's has one already, this one gets a higher metric.
    pub gateway: Option<Ipv4Addr>,
    /// It stays down, and the IPv6 stack of the namespace in which it is made gives it no address of its own: it is for somebody who takes
    /// it to another namespace and sets it up there.
    pub stays_down: bool,
}

/// Why a TAP cannot be opened.
#[derive(Debug, Error)]
pub enum TapError {
    /// The device node is missing.
    #[error(
        "{DEVICE} is missing; load the module (`modprobe tun`) or make the node (`mkdir -p /dev/net && mknod {DEVICE} c 10 200`)"
    )]
    NoDevice,
    /// The device node cannot be opened.
    #[error("no permission to open {DEVICE}: {0}; run as root, or `chmod 666 {DEVICE}` (creating a TAP is checked separately)")]
    NoAccess(io::Error),
    /// Missing capability.
    #[error(
        "no permission to create or attach {name}: CAP_NET_ADMIN is missing; run as root, give the capability to the binary with \
         `setcap cap_net_admin,cap_sys_admin+ep $(command -v vswitchd)`, or run it in a user namespace of its own with `unshare -rn`"
    )]
    NoPermission {
        /// The interface.
        name: String,
    },
    /// Another process holds the descriptor.
    #[error(
        "{name} is held by another process (a virtual machine's monitor?), and a TAP or TUN has one owner, however many queues; \
         give this switch a TAP of its own, or join it from its network side with --port packet:{name}"
    )]
    Busy {
        /// The interface.
        name: String,
    },
    /// There is an interface of that name that is no TAP, or one of another kind.
    #[error(
        "{name} exists already and is not a {layer} that can be attached; choose another name, or remove that link if nobody needs it"
    )]
    NotTap {
        /// The interface.
        name: String,
        /// What it was to be.
        layer: Layer,
    },
    /// The namespace cannot be entered.
    #[error("network namespace {netns}: {error}")]
    Namespace {
        /// As it was named.
        netns: Netns,
        /// Why.
        error: io::Error,
    },
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

impl fmt::Display for Layer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Layer::Ethernet => "TAP",
            Layer::Ip => "TUN",
        })
    }
}

/// One descriptor of a TAP. One worker reads it; any may write.
#[derive(Clone, Debug)]
pub struct Queue(Arc<OwnedFd>);

/// The result of reading a port into a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// The batch is full; more frames may be waiting.
    More,
    /// No more frames are waiting.
    Drained,
    /// The device or connection no longer exists.
    Gone,
}

/// The present state of an interface, in whatever namespace it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkState {
    /// Its present name.
    pub name: String,
    /// Administratively up.
    pub up: bool,
    /// Its MTU in bytes.
    pub mtu: u32,
}

/// An open TAP or TUN device.
#[derive(Debug)]
pub struct Tap {
    queues: Vec<Queue>,
    features: Features,
    refused: Vec<&'static str>,
    /// Its index when it was opened.
    index: u32,
    /// Its MAC address when it was opened, or as it was set since.
    mac: MacAddr,
    /// It was made by this process, and goes when its descriptors are closed, unless it is kept; or by an earlier process that
    /// kept it.
    is_ours: bool,
    /// Set if the device was opened inside another namespace: our descriptors keep that namespace alive.
    pinned: Option<(Netns, NetnsId)>,
    /// It stays when the process ends.
    is_kept: AtomicBool,
    /// A number that no other device of this process has had.
    serial: u64,
}

/// The number of the next device.
fn next_serial() -> u64 {
    static SERIAL: AtomicU64 = AtomicU64::new(1);
    SERIAL.fetch_add(1, Ordering::Relaxed)
}

impl Queue {
    /// Reads frames into the batch until none is waiting or the batch is full. One system call per frame.
    #[inline]
    pub fn recv(&self, rx: &mut Batch) -> Received {
        while let Some(slot) = rx.slot() {
            match read(&self.0, slot) {
                Ok(filled) => rx.commit(filled),
                Err(Errno::AGAIN) => return Received::Drained,
                Err(Errno::INTR) => {}
                // The kernel has dropped one frame that a virtio-net header cannot describe.
                Err(Errno::INVAL) => rx.commit(0),
                Err(_) => return Received::Gone,
            }
        }
        Received::More
    }

    /// Writes one frame or super-frame, with its virtio-net header first, in one system call.
    #[inline]
    pub fn send(&self, pieces: &[io::IoSlice<'_>]) -> Result<(), Errno> {
        let sent = match pieces {
            [whole] => write(&self.0, whole),
            pieces => writev(&self.0, pieces),
        };
        sent.map(drop)
    }
}

impl Queue {
    /// The interface, in whatever namespace it is; `None` if it was deleted.
    fn link(&self) -> io::Result<Option<Link>> {
        let Queue(fd) = self;
        let name = match interface(fd) {
            Err(error) if error.raw_os_error() == Some(libc::EBADFD) => return Ok(None),
            name => name?.0,
        };
        // If it is not found, it was moved or renamed after its name was read. Only the descriptor can say that it was
        // deleted.
        with_link(fd, &name, |link| Ok(Some(link)))
    }

    /// Whether the interface is in another namespace than this one: it does not end with it.
    fn is_outside(&self, namespace: NetnsId) -> bool {
        interface_netns(&self.0).and_then(|file| NetnsId::of(&file)).is_ok_and(|now| now != namespace)
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Tap {
    /// Creates the TAP, or attaches to an existing one that no process holds, configures it, and sets the link up.
    pub fn open(spec: &TapSpec) -> Result<Tap, TapError> {
        Tap::open_for(spec, &Setup::default())
    }

    /// The same, and sets up the interface for whoever uses it. Without all of it there is no TAP.
    pub fn open_for(spec: &TapSpec, setup: &Setup<'_>) -> Result<Tap, TapError> {
        let here = Setup { gateway: None, ..*setup };
        let Some(netns) = &spec.netns else { return open::open(spec, &here) };
        let enter = |error| TapError::Namespace { netns: netns.clone(), error };
        let (found, namespace) = netns.found().map_err(enter)?;
        let id = NetnsId::of(&namespace).map_err(enter)?;
        let setup = if NetnsId::own().is_ok_and(|own| own != id) { setup } else { &here };
        let opened = netns::inside(namespace.as_fd(), || Ok(open::open(spec, setup))).map_err(enter)?;
        Ok(Tap { pinned: Some((found, id)), ..opened? })
    }

    /// Requests each offload in turn and records which ones the kernel grants.
    fn request_offload(&mut self, spec: &TapSpec) -> Result<(), TapError> {
        let Some(Queue(fd)) = self.queues.first() else { return Ok(()) };
        let mut granted = 0;
        set_offload(fd, granted).map_err(|error| io_error(spec, "TUNSETOFFLOAD", error))?;
        if !spec.offload {
            return Ok(());
        }
        let features = &mut self.features;
        let wanted: [(u32, &'static str, &mut bool); 5] = [
            (libc::TUN_F_CSUM, "checksum", &mut features.checksum),
            (libc::TUN_F_TSO4, "tso4", &mut features.tso4),
            (libc::TUN_F_TSO6, "tso6", &mut features.tso6),
            (libc::TUN_F_TSO_ECN, "tso-ecn", &mut features.tso_ecn),
            (TUN_F_USO4 | TUN_F_USO6, "uso", &mut features.uso),
        ];
        for (bits, name, feature) in wanted {
            if set_offload(fd, granted | bits).is_ok() {
                granted |= bits;
                *feature = true;
            } else {
                self.refused.push(name);
            }
        }
        // A refused request leaves the mask unchanged, so the last granted one is in force.
        Ok(())
    }

    /// The descriptors, one for each worker that reads.
    #[must_use]
    pub fn queues(&self) -> &[Queue] {
        &self.queues
    }

    /// The offloads that the interface's side accepts.
    #[must_use]
    pub fn features(&self) -> Features {
        self.features
    }

    /// Whether it was opened in the namespace of this process.
    #[must_use]
    pub fn is_here(&self) -> bool {
        self.pinned.as_ref().is_none_or(|(_, id)| NetnsId::own().is_ok_and(|own| own == *id))
    }

    /// The names of the offloads that the kernel refused.
    #[must_use]
    pub fn refused(&self) -> &[&'static str] {
        &self.refused
    }

    /// The present state of the interface, in whatever namespace it is. `None` if it was deleted, or if only our
    /// descriptor keeps its namespace alive. An error is temporary: call again.
    pub fn state(&self) -> io::Result<Option<LinkState>> {
        let Some(queue) = self.queues.first() else { return Ok(None) };
        if let Some((netns, id)) = &self.pinned {
            let leads_there = match netns.id() {
                Ok(now) => now == *id,
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                Err(error) => return Err(error),
            };
            if !leads_there && !queue.is_outside(*id) {
                return Ok(None);
            }
        }
        Ok(queue.link()?.map(|link| LinkState { name: link.name, up: link.up, mtu: link.mtu }))
    }

    /// Sets the MTU of the interface, in bytes, in whatever namespace it is.
    pub fn set_mtu(&self, mtu: u32) -> io::Result<()> {
        self.change(|index| link::set(index, link::Change { mtu: Some(mtu), ..link::Change::default() }))
    }

    /// The MAC address that the interface had when it was opened, or that [`Tap::set_mac`] gave it: not one that others gave it since.
    #[must_use]
    pub fn mac(&self) -> MacAddr {
        self.mac
    }

    /// Sets the MAC address of the interface, in whatever namespace it is.
    pub fn set_mac(&mut self, mac: MacAddr) -> io::Result<()> {
        self.change(|index| link::set(index, link::Change { mac: Some(mac), ..link::Change::default() }))?;
        self.mac = mac;
        Ok(())
    }

    /// Packets that the interface sent and the kernel dropped because the queue was full, since the interface was created:
    /// we, or an earlier process, did not read fast enough.
    pub fn dropped(&self) -> io::Result<u64> {
        let Some(Queue(fd)) = self.queues.first() else { return Ok(0) };
        with_link(fd, &interface(fd)?.0, |link| Ok(link.tx_dropped))
    }

    /// Adds a route through the interface, in whatever namespace it is. No error if the route exists already.
    /// `AlreadyExists` if the namespace has another route with that prefix and metric.
    pub fn add_route(&self, route: Route) -> io::Result<()> {
        self.change(|index| match route::add(index, route) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if route::routes(index)?.0.contains(&route) {
                    Ok(())
                } else {
                    Err(error)
                }
            }
            added => added,
        })
    }

    fn change(&self, work: impl FnOnce(u32) -> io::Result<()> + Send) -> io::Result<()> {
        let Some(Queue(fd)) = self.queues.first() else { return Ok(()) };
        with_link(fd, &interface(fd)?.0, |link| work(link.index))
    }
}

/// Runs `work` in the namespace that the interface is in.
fn with_link<T: Send>(fd: &OwnedFd, name: &str, work: impl FnOnce(Link) -> io::Result<T> + Send) -> io::Result<T> {
    let namespace = interface_netns(fd)?;
    let work = || work(link::get(name)?);
    if NetnsId::of(&namespace)? == NetnsId::own()? { work() } else { netns::inside(namespace.as_fd(), work) }
}
