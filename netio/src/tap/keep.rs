//! TAPs that outlive the process.
//!
//! *Kept* devices persist (`TUNSETPERSIST`): they stay when no process holds a descriptor, with their index, MAC address, addresses
//! and routes, but without a carrier. While another process holds a descriptor of the first queue, the carrier stays too, and up to
//! `tx_queue_len` frames wait there to be read. The next process gets that descriptor and takes the device over ([`Tap::adopt`]),
//! without entering the device's namespace; or it attaches to the device by its name ([`Tap::open`]), which needs nobody in between.
//!
//! A device is known as one of ours by its link group, which the processes of one switch have in common ([`use_group`]).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use packet::Features;
use packet::offload::MAX_TCP_SEGMENTS;

use super::end::group;
use super::ioctl::{interface, interface_netns, set_persist};
use super::open::{IFF_MULTI_QUEUE, lacks_address, open_further, open_kind};
use super::{Queue, Setup, Tap, TapSpec, next_serial, with_link};
use crate::link::{self, Change};
use crate::netns::{self, Began, Netns, NetnsId};

pub use super::end::use_group;

impl Tap {
    /// From now on the device stays when the process ends, unless [`Tap::let_go`] is called before.
    pub fn keep(&self) -> io::Result<()> {
        if let Some(Queue(fd)) = self.queues.first().filter(|_| self.is_ours) {
            set_persist(fd, true)?;
            self.is_kept.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// The device goes with its last descriptor, or when it is deleted.
    pub fn let_go(&self) {
        if self.is_kept.swap(false, Ordering::Relaxed)
            && let Some(Queue(fd)) = self.queues.first()
        {
            // It fails only if the device is gone.
            let _ = set_persist(fd, false);
        }
    }

    /// Whether the device stays when the process ends.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.is_kept.load(Ordering::Relaxed)
    }

    /// Whether this process, or an earlier one of the same switch, made the device.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.is_ours
    }

    /// A number that no other device of this process has had.
    #[must_use]
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// The descriptor that keeps the carrier while another process holds it, too.
    #[must_use]
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.queues.first().map(AsFd::as_fd)
    }

    /// The namespace that it was made in, if that is another than the process's.
    #[must_use]
    pub fn made_in(&self) -> Option<NetnsId> {
        self.pinned.as_ref().map(|(_, id)| *id)
    }

    /// When the process began whose namespace it was made in, if that was named by the number of a process.
    #[must_use]
    pub fn process(&self) -> Option<Began> {
        self.pinned.as_ref().and_then(|(netns, _)| netns.began())
    }

    /// Takes over a device that an earlier process made in the namespace `made_in`, by its descriptor. It gets the specified MAC
    /// address. `None` if it was deleted, if it is another than the specification says, if it lacks an address that is to be set up
    /// there, or if its namespace has gone: then it does not persist any more.
    pub fn adopt(spec: &TapSpec, setup: &Setup<'_>, descriptor: OwnedFd, made_in: Option<NetnsId>) -> io::Result<Option<Tap>> {
        match Tap::check_left(spec, &descriptor, made_in) {
            Ok(Some((name, ..))) if is_without_address(&descriptor, &name, setup) => {
                discard(descriptor);
                Ok(None)
            }
            Ok(Some((name, flags, pinned))) => Tap::take_over(spec, descriptor, (name, flags), pinned),
            none => {
                discard(descriptor);
                none.map(|_| None)
            }
        }
    }

    /// The name and flags of a device that is the one specified, and the namespace that it ends with.
    fn check_left(spec: &TapSpec, descriptor: &OwnedFd, made_in: Option<NetnsId>) -> io::Result<Option<LeftTap>> {
        let (name, flags) = match interface(descriptor) {
            Err(error) if error.raw_os_error() == Some(libc::EBADFD) => return Ok(None),
            described => described?,
        };
        let kind = libc::IFF_TAP | libc::IFF_TUN;
        if flags & kind != open_kind(spec) & kind || spec.netns.is_some() != made_in.is_some() {
            return Ok(None);
        }
        let is_now_in = NetnsId::of(&interface_netns(descriptor)?)?;
        match (&spec.netns, made_in) {
            // One that was moved elsewhere does not end with the namespace of its making.
            (Some(netns), Some(made_in)) if is_now_in == made_in && netns.id().ok() != Some(made_in) => Ok(None),
            (Some(netns), Some(made_in)) => {
                let found = netns.found().map_or_else(|_| netns.clone(), |(found, _)| found);
                Ok(Some((name, flags, Some((found, made_in)))))
            }
            _ => Ok(Some((name, flags, None))),
        }
    }

    fn take_over(
        spec: &TapSpec,
        descriptor: OwnedFd,
        (name, flags): (String, libc::c_int),
        pinned: Option<(Netns, NetnsId)>,
    ) -> io::Result<Option<Tap>> {
        let namespace = interface_netns(&descriptor)?;
        let is_now_in = NetnsId::of(&namespace)?;
        let mut queues = vec![Queue(Arc::new(descriptor))];
        if flags & IFF_MULTI_QUEUE != 0 && spec.queues > 1 {
            let further = || Ok(open_further(&TapSpec { name: name.clone(), ..spec.clone() }, spec.queues - 1));
            let opened = if is_now_in == NetnsId::own()? { further() } else { netns::inside(namespace.as_fd(), further) };
            // Without them, one worker reads all of its frames.
            queues.extend(opened.ok().and_then(Result::ok).into_iter().flatten());
        }
        let Queue(first) = &queues[0];
        let found = with_link(first, &name, |link| {
            let other_mac = spec.mac.filter(|wanted| *wanted != link.mac);
            let change = Change { mtu: spec.mtu, mac: other_mac, group: Some(group()), ..Change::default() };
            link::set(link.index, change)?;
            let _ = link::set(link.index, Change { gso_max_segs: Some(MAX_TCP_SEGMENTS as u32), ..Change::default() });
            Ok((link.index, spec.mac.unwrap_or(link.mac)))
        });
        // Without the right to enter its namespace, the device stays as it is. Its index is only a hint, and its MAC address is what
        // was asked for.
        let (index, mac) = found.unwrap_or((0, spec.mac.unwrap_or_default()));
        let mut tap = Tap {
            queues,
            features: Features::NONE,
            refused: Vec::new(),
            index,
            mac,
            is_ours: true,
            pinned,
            is_kept: true.into(),
            serial: next_serial(),
        };
        tap.request_offload(spec).map_err(io::Error::other)?;
        Ok(Some(tap))
    }
}

/// Whether the device lacks an address that is to be set up there: it was made for others, which only a new device is rid of. Without
/// the right to enter its namespace, it has them.
fn is_without_address(descriptor: &OwnedFd, name: &str, setup: &Setup<'_>) -> bool {
    with_link(descriptor, name, |link| Ok(lacks_address(link.index, setup))).unwrap_or(false)
}

/// The name, the flags and the namespace of a device that was left.
type LeftTap = (String, libc::c_int, Option<(Netns, NetnsId)>);

/// The name of the device behind a descriptor, and the namespace that it is in.
pub fn device_behind(descriptor: &OwnedFd) -> io::Result<(String, NetnsId)> {
    Ok((interface(descriptor)?.0, NetnsId::of(&interface_netns(descriptor)?)?))
}

/// Deletes a device that an earlier process kept, and that nobody needs: it goes with its last descriptor.
pub fn discard(descriptor: OwnedFd) {
    let _ = set_persist(&descriptor, false);
}
