//! Deleting many TAPs at once.
//!
//! The kernel waits for its readers when a device is deleted, some 20 ms, and as long again for each further one if they are
//! deleted one by one, or by closing their descriptors. All devices of a group are deleted with one wait (`RTM_DELLINK` with
//! `IFLA_GROUP`). Each process has a group number, at random or in common with
//! the other processes of its switch, for the devices that it makes; those that are deleted before its end get one of their own.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use super::ioctl::interface_netns;
use super::{Queue, Tap};
use crate::link::{self, Change};
use crate::netns::{self, NetnsId};
use crate::random;

/// Set in each number, so that it is none of those that people use.
const FIRST_GROUP: u32 = 1 << 30;

static GROUP: OnceLock<u32> = OnceLock::new();
/// Whether other processes may have devices of that group.
static IS_SHARED: AtomicBool = AtomicBool::new(false);

/// The group of the devices that this process makes. Devices about to be deleted get another one at random.
pub(super) fn group() -> u32 {
    *GROUP.get_or_init(|| group_of(random::number()))
}

/// Sets the group of the devices that this process makes by a number that all processes of one switch have in common. Only before
/// the first device.
pub fn use_group(number: u32) {
    IS_SHARED.store(true, Ordering::Relaxed);
    let _ = GROUP.set(group_of(number));
}

fn group_of(number: u32) -> u32 {
    FIRST_GROUP | (number << 1 & (FIRST_GROUP - 1))
}

/// Deletes these TAPs, except those that were there before this process and those that are kept; those it leaves. With `all`, they
/// are all that the process has, and the devices need not be told apart from others. What cannot be deleted goes when its descriptors are
/// closed.
pub fn delete<'t>(taps: impl Iterator<Item = &'t Tap>, all: bool) {
    let mut places: Vec<(NetnsId, File, Vec<&Tap>)> = Vec::new();
    let mut all = all && !IS_SHARED.load(Ordering::Relaxed);
    for tap in taps.filter(|tap| tap.is_ours) {
        if tap.is_kept() {
            all = false;
            continue;
        }
        let Some(Queue(fd)) = tap.queues.first() else { continue };
        // Wherever it has been moved. One that is gone has no namespace.
        let Ok(namespace) = interface_netns(fd) else { continue };
        let Ok(id) = NetnsId::of(&namespace) else { continue };
        match places.iter_mut().rev().find(|(known, ..)| *known == id) {
            Some((.., taps)) => taps.push(tap),
            None => places.push((id, namespace, vec![tap])),
        }
    }
    let own = NetnsId::own().ok();
    for (id, namespace, taps) in places {
        let work = || delete_here(&taps, all);
        if Some(id) == own {
            work();
        } else {
            let _ = netns::inside(namespace.as_fd(), || {
                work();
                Ok(())
            });
        }
    }
}

fn delete_here(taps: &[&Tap], all: bool) {
    if all {
        let _ = link::delete_group(group());
        return;
    }
    // Nobody else's, even if others share the group of living devices.
    let doomed = group_of(random::number()) + 1;
    for tap in taps {
        let Some(Queue(fd)) = tap.queues.first() else { continue };
        let Ok(link) = super::interface(fd).and_then(|(name, _)| link::get(&name)) else { continue };
        let _ = link::set(link.index, Change { group: Some(doomed), ..Change::default() });
    }
    let _ = link::delete_group(doomed);
}
