//! Opening a TAP in the namespace of the calling thread: one that is made, or one that is there.
//!
//! | there is | then |
//! |---|---|
//! | no link of this name | the TAP is made, with as many queues as are wanted |
//! | a TAP that no process holds | it is attached to; one that has a single queue keeps that |
//! | one of these that an earlier process kept, without an address that is to be set up | it is made anew: it was made for other addresses |
//! | a TAP that a process holds | [`TapError::Busy`]. Of one with several queues we could have another one, and with it a part of the guest's flows, but the rest of them would go past the switch |
//! | any other link | [`TapError::NotTap`] |
//!
//! The kernel says which it is (`IFLA_INFO_DATA`, since Linux 4.17). Between the question and the answer the link may change:
//! then `TUNSETIFF` refuses.

use std::fs::OpenOptions;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;

use packet::offload::MAX_TCP_SEGMENTS;
use packet::{Features, MacAddr};

use super::end::group;
use super::ioctl::{interface, set_interface, set_persist, set_vnet_header};
use super::{Layer, Queue, Setup, Tap, TapError, TapSpec, next_serial};
use crate::link::{self, Change, Link};
use crate::route::{self, Limits, Route};

/// The device stays when no process holds it (`include/uapi/linux/if_tun.h`); in the answer of `TUNGETIFF` only.
const IFF_PERSIST: libc::c_int = 0x0800;

/// A device with several queues (`include/uapi/linux/if_tun.h`).
pub(super) const IFF_MULTI_QUEUE: libc::c_int = libc::IFF_MULTI_QUEUE;

/// Metrics of default routes: the interfaces of a guest in several networks have one each.
const DEFAULT_METRICS: [u32; 8] = [0, 100, 200, 300, 400, 500, 600, 700];

pub(super) const DEVICE: &str = "/dev/net/tun";

/// Makes the TAP or attaches to it, configures it, and sets the link up.
pub(super) fn open(spec: &TapSpec, setup: &Setup<'_>) -> Result<Tap, TapError> {
    let queues = match link::get(&spec.name) {
        Ok(link) => queues_of(spec, &link)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => (spec.queues.max(1), spec.queues > 1),
        Err(error) => return Err(io_error(spec, "looking for a link of this name", error)),
    };
    let mut queues = open_queues(spec, queues)?;
    // What is there without a process was there before, as somebody else's or as what an earlier process of this switch kept.
    let mut persists = persists(spec, &queues)?;
    let link = link::get(&spec.name).map_err(|error| io_error(spec, "finding its link", error))?;
    let is_ours = !persists || link.group == group();
    if is_ours && persists && lacks_address(link.index, setup) {
        if let Some(Queue(first)) = queues.first() {
            set_persist(first, false).map_err(|error| io_error(spec, "TUNSETPERSIST", error))?;
        }
        drop(queues);
        (queues, persists) = (open_queues(spec, (spec.queues.max(1), spec.queues > 1))?, false);
    }
    let (index, mac) = configure(spec, setup, is_ours)?;
    let mut tap = Tap {
        queues,
        features: Features::NONE,
        refused: Vec::new(),
        index,
        mac,
        is_ours,
        pinned: None,
        is_kept: (is_ours && persists).into(),
        serial: next_serial(),
    };
    tap.request_offload(spec)?;
    Ok(tap)
}

/// Whether the device stays without a process.
fn persists(spec: &TapSpec, queues: &[Queue]) -> Result<bool, TapError> {
    let described = queues.first().map(|Queue(fd)| interface(fd)).transpose();
    let (_, flags) = described.map_err(|error| io_error(spec, "TUNGETIFF", error))?.unwrap_or_default();
    Ok(flags & IFF_PERSIST != 0)
}

/// Whether an interface lacks an address that is to be set up there; then it may have it now.
pub(super) fn lacks_address(index: u32, setup: &Setup<'_>) -> bool {
    setup.addresses.iter().any(|(address, prefix_len)| link::add_address(index, *address, *prefix_len).is_ok())
}

/// The number of queues to attach to a link that is there, and whether it is a multi-queue device.
fn queues_of(spec: &TapSpec, link: &Link) -> Result<(usize, bool), TapError> {
    let name = spec.name.clone();
    match &link.tun {
        Some(tun) if tun.is_tap.is_none_or(|is_tap| is_tap == (spec.layer == Layer::Ethernet)) => match tun.queues {
            Some(0) => Ok((spec.queues.max(1), true)),
            Some(_) => Err(TapError::Busy { name }),
            None => Ok((1, false)),
        },
        _ => Err(TapError::NotTap { name, layer: spec.layer }),
    }
}

/// The flag of a TAP or a TUN.
pub(super) fn open_kind(spec: &TapSpec) -> libc::c_int {
    match spec.layer {
        Layer::Ethernet => libc::IFF_TAP,
        Layer::Ip => libc::IFF_TUN,
    }
}

/// Opens descriptors for further queues of a multi-queue device.
pub(super) fn open_further(spec: &TapSpec, count: usize) -> Result<Vec<Queue>, TapError> {
    open_queues(spec, (count, true))
}

/// Opens one descriptor for each queue.
fn open_queues(spec: &TapSpec, (count, is_multi_queue): (usize, bool)) -> Result<Vec<Queue>, TapError> {
    let multi_queue = if is_multi_queue { IFF_MULTI_QUEUE } else { 0 };
    let flags = open_kind(spec) | libc::IFF_NO_PI | libc::IFF_VNET_HDR | multi_queue;
    let mut queues = Vec::with_capacity(count);
    for _ in 0..count {
        let fd = open_device(spec)?;
        set_interface(&fd, &spec.name, flags).map_err(|error| refusal(spec, error))?;
        set_vnet_header(&fd).map_err(|error| io_error(spec, "TUNSETVNETHDRSZ", error))?;
        queues.push(Queue(Arc::new(fd)));
    }
    Ok(queues)
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

/// Sets MTU, queue length, MAC address and group, and sets it up unless it is to stay down. Returns its index and its MAC address.
fn configure(spec: &TapSpec, setup: &Setup<'_>, is_ours: bool) -> Result<(u32, MacAddr), TapError> {
    let Link { index, mac, .. } = link::get(&spec.name).map_err(|error| io_error(spec, "finding its link", error))?;
    let group = is_ours.then(group);
    let other_mac = spec.mac.filter(|wanted| *wanted != mac);
    let change = Change { mtu: spec.mtu, tx_queue_len: Some(spec.tx_queue_len), mac: other_mac, group, ..Change::default() };
    link::set(index, change).map_err(|error| io_error(spec, "setting MTU, queue length and MAC address", error))?;
    // With a small MTU, a super-frame of 64 KiB would have more segments than the pipeline accepts. Old kernels do not
    // have the setting, and there is no other.
    let _ = link::set(index, Change { gso_max_segs: Some(MAX_TCP_SEGMENTS as u32), ..Change::default() });
    if setup.stays_down {
        // Without IPv6 there is nothing to turn off.
        let _ = link::set(index, Change { link_local: Some(false), ..Change::default() });
    } else {
        let up = Change { up: Some(true), ..Change::default() };
        link::set(index, up).map_err(|error| io_error(spec, "setting it up", error))?;
    }
    for (address, prefix_len) in setup.addresses {
        match link::add_address(index, *address, *prefix_len) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io_error(spec, "adding an address", error)),
            _ => {}
        }
    }
    if let Some(Err(error)) = setup.gateway.map(|gateway| add_default_route(index, gateway)) {
        return Err(io_error(spec, "adding a default route", error));
    }
    Ok((index, spec.mac.unwrap_or(mac)))
}

/// Adds a default route with the first metric that is free.
fn add_default_route(index: u32, gateway: Ipv4Addr) -> io::Result<()> {
    let mut last = Ok(());
    for metric in DEFAULT_METRICS {
        let limits = Limits::default();
        let route = Route { prefix: Ipv4Addr::UNSPECIFIED, prefix_len: 0, metric, gateway: Some(gateway), limits };
        last = match route::add(index, route) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && route::routes(index)?.0.contains(&route) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                last = Err(error);
                continue;
            }
            added => added,
        };
        break;
    }
    last
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

pub(super) fn io_error(spec: &TapSpec, what: &'static str, error: io::Error) -> TapError {
    if error.raw_os_error() == Some(libc::EPERM) {
        return TapError::NoPermission { name: spec.name.clone() };
    }
    TapError::Io { name: spec.name.clone(), what, error }
}
