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
//! *Namespaces.* A descriptor keeps the namespace alive in which it was opened, not the one that the interface is in. A
//! device for another namespace is therefore created in ours and moved: when that namespace is deleted, so is the device,
//! and the descriptor returns `EBADFD`. Only a device that already exists there has to be opened there.
//!
//! *Link state.* While the link is down, writes return `EIO` and there is nothing to read, without an epoll event. When
//! the device is deleted, epoll reports an event and the descriptor returns `EBADFD`.
//!
//! *Why not a TUN/TAP crate.* It would hide what the switch has to see: the size of the virtio-net header, the answer to
//! each offload flag, and the interface's namespace. The ioctls are the last functions of this file.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use packet::offload::MAX_TCP_SEGMENTS;
use packet::{Batch, Features, VNET_LEN};
use rustix::io::{Errno, read, write, writev};
use thiserror::Error;

use crate::link::{self, Change, Link};
use crate::netns::{self, Netns, NetnsId};
use crate::option::check;
use crate::route::{self, Route};

const DEVICE: &str = "/dev/net/tun";

/// `TUNGETDEVNETNS` (`include/uapi/linux/if_tun.h`): opens the interface's namespace.
const TUNGETDEVNETNS: libc::Ioctl = 0x54e3;

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
        "{name} is held by another process (a virtual machine's monitor?), and a TAP or TUN has one owner; \
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
    /// Set if the device was opened inside another namespace: our descriptors keep that namespace alive.
    pinned: Option<(Netns, NetnsId)>,
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

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Tap {
    /// Creates the TAP, or attaches to an existing one that no process holds, configures it, and sets the link up.
    pub fn open(spec: &TapSpec) -> Result<Tap, TapError> {
        let Some(netns) = &spec.netns else {
            let (queues, name) = open_queues(spec, &spec.name)?;
            return Tap::finish(queues, spec, None).and_then(|tap| configure(&name, spec, None).map(|()| tap));
        };
        let enter = |error| TapError::Namespace { netns: netns.clone(), error };
        let namespace = netns.open().map_err(enter)?;
        let exists = netns::inside(namespace.as_fd(), || match link::get(&spec.name) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        });
        if exists.map_err(enter)? {
            let queues = netns::inside(namespace.as_fd(), || Ok(open_queues(spec, &spec.name))).map_err(enter)??.0;
            netns::inside(namespace.as_fd(), || Ok(configure(&spec.name, spec, None))).map_err(enter)??;
            let id = NetnsId::of(&namespace).map_err(enter)?;
            return Tap::finish(queues, spec, Some((netns.clone(), id)));
        }
        let (queues, name) = open_queues(spec, "vsw%d")?;
        let tap = Tap::finish(queues, spec, None)?;
        configure(&name, spec, Some(&namespace))?;
        netns::inside(namespace.as_fd(), || Ok(set_up(&spec.name, spec))).map_err(enter)??;
        Ok(tap)
    }

    fn finish(queues: Vec<Queue>, spec: &TapSpec, pinned: Option<(Netns, NetnsId)>) -> Result<Tap, TapError> {
        let mut tap = Tap { queues, features: Features::NONE, refused: Vec::new(), pinned };
        tap.set_offload(spec)?;
        Ok(tap)
    }

    /// Requests each offload in turn and records which ones the kernel grants.
    fn set_offload(&mut self, spec: &TapSpec) -> Result<(), TapError> {
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

    /// The names of the offloads that the kernel refused.
    #[must_use]
    pub fn refused(&self) -> &[&'static str] {
        &self.refused
    }

    /// The present state of the interface, in whatever namespace it is. `None` if it was deleted, or if only our
    /// descriptor keeps its namespace alive. An error is temporary: call again.
    pub fn state(&self) -> io::Result<Option<LinkState>> {
        let Some(Queue(fd)) = self.queues.first() else { return Ok(None) };
        if let Some((netns, id)) = &self.pinned {
            match netns.id() {
                Ok(now) if now == *id => {}
                Ok(_) => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        let name = match interface_name(fd) {
            Err(error) if error.raw_os_error() == Some(libc::EBADFD) => return Ok(None),
            name => name?,
        };
        // If it is not found, it was moved or renamed after its name was read. Only the descriptor can say that it was
        // deleted.
        with_link(fd, &name, |link| Ok(Some(LinkState { name: link.name, up: link.up, mtu: link.mtu })))
    }

    /// Sets the MTU of the interface, in bytes, in whatever namespace it is.
    pub fn set_mtu(&self, mtu: u32) -> io::Result<()> {
        self.change(|index| link::set(index, link::Change { mtu: Some(mtu), ..link::Change::default() }))
    }

    /// Packets that the interface sent and the kernel dropped because the queue was full, since the interface was created:
    /// we, or an earlier process, did not read fast enough.
    pub fn dropped(&self) -> io::Result<u64> {
        let Some(Queue(fd)) = self.queues.first() else { return Ok(0) };
        with_link(fd, &interface_name(fd)?, |link| Ok(link.tx_dropped))
    }

    /// Adds an IP address to the interface, in whatever namespace it is. No error if it has the address already.
    pub fn add_address(&self, address: IpAddr, prefix_len: u8) -> io::Result<()> {
        self.change(|index| match link::add_address(index, address, prefix_len) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            added => added,
        })
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
        with_link(fd, &interface_name(fd)?, |link| work(link.index))
    }
}

/// Runs `work` in the namespace that the interface is in.
fn with_link<T: Send>(fd: &OwnedFd, name: &str, work: impl FnOnce(Link) -> io::Result<T> + Send) -> io::Result<T> {
    let namespace = interface_netns(fd)?;
    let work = || work(link::get(name)?);
    if NetnsId::of(&namespace)? == NetnsId::own()? { work() } else { netns::inside(namespace.as_fd(), work) }
}

/// Opens one descriptor for each queue. Returns them and the device's name.
fn open_queues(spec: &TapSpec, name: &str) -> Result<(Vec<Queue>, String), TapError> {
    let multi_queue = if spec.queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
    let kind = match spec.layer {
        Layer::Ethernet => libc::IFF_TAP,
        Layer::Ip => libc::IFF_TUN,
    };
    let flags = kind | libc::IFF_NO_PI | libc::IFF_VNET_HDR | multi_queue;
    let mut queues = Vec::with_capacity(spec.queues);
    let mut name = name.to_owned();
    for _ in 0..spec.queues.max(1) {
        let fd = open_device(spec)?;
        name = set_interface(&fd, &name, flags).map_err(|error| refusal(spec, error))?;
        set_vnet_header(&fd).map_err(|error| io_error(spec, "TUNSETVNETHDRSZ", error))?;
        queues.push(Queue(Arc::new(fd)));
    }
    Ok((queues, name))
}

fn open_device(spec: &TapSpec) -> Result<OwnedFd, TapError> {
    // Besides not blocking, this enables the driver's fast path for writes (`tun_can_build_skb` in drivers/net/tun.c).
    match OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(DEVICE) {
        Ok(file) => Ok(file.into()),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENXIO | libc::ENODEV)) => Err(TapError::NoDevice),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(TapError::NoAccess(error)),
        Err(error) => Err(io_error(spec, "opening /dev/net/tun", error)),
    }
}

/// Sets MTU and queue length. Then moves the device to the namespace and renames it, or without a namespace sets it up.
fn configure(name: &str, spec: &TapSpec, namespace: Option<&File>) -> Result<(), TapError> {
    let index = link::get(name).map_err(|error| io_error(spec, "finding its link", error))?.index;
    let change = Change { mtu: spec.mtu, tx_queue_len: Some(spec.tx_queue_len), ..Change::default() };
    link::set(index, change).map_err(|error| io_error(spec, "setting MTU and queue length", error))?;
    // With a small MTU, a super-frame of 64 KiB would have more segments than the pipeline accepts. Old kernels do not
    // have the setting, and there is no other.
    let _ = link::set(index, Change { gso_max_segs: Some(MAX_TCP_SEGMENTS as u32), ..Change::default() });
    match namespace {
        None => set_up(name, spec),
        Some(namespace) => {
            let change = Change { netns: Some(namespace.as_fd()), name: Some(&spec.name), ..Change::default() };
            link::set(index, change).map_err(|error| io_error(spec, "moving it to its namespace", error))
        }
    }
}

fn set_up(name: &str, spec: &TapSpec) -> Result<(), TapError> {
    link::get(name)
        .and_then(|link| link::set(link.index, Change { up: Some(true), ..Change::default() }))
        .map_err(|error| io_error(spec, "setting it up", error))
}

fn refusal(spec: &TapSpec, error: io::Error) -> TapError {
    let name = spec.name.clone();
    match error.raw_os_error() {
        Some(libc::EPERM) => TapError::NoPermission { name },
        Some(libc::EBUSY) => TapError::Busy { name },
        Some(libc::EINVAL | libc::EEXIST) => TapError::NotTap { name, layer: spec.layer },
        _ => io_error(spec, "TUNSETIFF", error),
    }
}

fn io_error(spec: &TapSpec, what: &'static str, error: io::Error) -> TapError {
    if error.raw_os_error() == Some(libc::EPERM) {
        return TapError::NoPermission { name: spec.name.clone() };
    }
    TapError::Io { name: spec.name.clone(), what, error }
}

/// `TUNSETIFF`: attaches the descriptor to an interface, and creates it if it does not exist. The kernel replaces `%d` in
/// the name by the first free number. Returns the interface's name.
fn set_interface(fd: &OwnedFd, name: &str, flags: libc::c_int) -> io::Result<String> {
    let mut request = empty_request();
    if name.len() > MAX_NAME_LEN {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which is valid for the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as libc::Ioctl, &raw mut request) })?;
    Ok(name_of(&request))
}

/// `TUNGETIFF`: the interface's present name.
fn interface_name(fd: &OwnedFd) -> io::Result<String> {
    let mut request = empty_request();
    // SAFETY: TUNGETIFF writes one `ifreq`, which is valid for the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF as libc::Ioctl, &raw mut request) })?;
    Ok(name_of(&request))
}

/// Opens the namespace that the interface is in.
fn interface_netns(fd: &OwnedFd) -> io::Result<File> {
    // SAFETY: TUNGETDEVNETNS has no argument, and returns a new descriptor or an error.
    let netns = check(unsafe { libc::ioctl(fd.as_raw_fd(), TUNGETDEVNETNS) })?;
    // SAFETY: the descriptor is new and has no other owner.
    Ok(unsafe { OwnedFd::from_raw_fd(netns) }.into())
}

/// Requests a virtio-net header of 12 bytes with little-endian fields.
fn set_vnet_header(fd: &OwnedFd) -> io::Result<()> {
    let len = VNET_LEN as libc::c_int;
    // SAFETY: TUNSETVNETHDRSZ reads one int, which is valid for the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ as libc::Ioctl, &raw const len) })?;
    let little_endian: libc::c_int = 1;
    // SAFETY: TUNSETVNETLE reads one int, which is valid for the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETLE as libc::Ioctl, &raw const little_endian) }).map(drop)
}

/// `TUNSETOFFLOAD`: sets all of these flags, or returns an error and changes nothing.
fn set_offload(fd: &OwnedFd, bits: u32) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD as libc::Ioctl, libc::c_ulong::from(bits)) }).map(drop)
}

fn empty_request() -> libc::ifreq {
    libc::ifreq { ifr_name: [0; libc::IFNAMSIZ], ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: 0 } }
}

fn name_of(request: &libc::ifreq) -> String {
    let bytes: Vec<u8> = request.ifr_name.iter().map(|c| *c as u8).take_while(|b| *b != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
