//! Gateways that come and go while packets flow.
//!
//! A network has a number, by which neighbours and waiting packets know it. It keeps the number for as long as its gateway exists; the
//! number of a gateway that is gone is free with the next change, when no worker uses the routes with the old one any more.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use config::Gateway;
use nat::Connection;
use packet::{Ipv4Prefix, Timestamp};
use vswitch::{Domain, Interface, InterfaceId, Reach};

use super::{RouterControl, interface_of};

/// Networks that are gone, or reach nothing from now on, and addresses that are no guest's any more. [`RouterControl::cut_off`] ends
/// what is left of them.
#[derive(Debug, Default)]
pub(crate) struct CutOff {
    /// Numbers of networks that are gone.
    numbers: Vec<InterfaceId>,
    networks: Vec<Ipv4Prefix>,
    ranges: Vec<RangeInclusive<Ipv4Addr>>,
}

impl CutOff {
    /// Addresses that guests have lost. Whatever others have at these addresses from now on has nothing of what was theirs.
    pub(crate) fn of_guests(lost: &[Ipv4Addr]) -> CutOff {
        CutOff { networks: lost.iter().map(|address| Ipv4Prefix::new(*address, 32)).collect(), ..CutOff::default() }
    }

    /// Addresses behind guests that are not in their network any more, in ascending order.
    pub(super) fn of_ranges(ranges: Vec<RangeInclusive<Ipv4Addr>>) -> CutOff {
        CutOff { ranges, ..CutOff::default() }
    }

    /// Networks whose guests are cut off.
    pub(crate) fn networks(&self) -> &[Ipv4Prefix] {
        &self.networks
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.numbers.is_empty() && self.networks.is_empty() && self.ranges.is_empty()
    }
}

impl RouterControl {
    /// Checks gateways that are to be added: their networks are not the uplink's.
    pub(crate) fn check_gateways(&self, added: &[Gateway]) -> anyhow::Result<()> {
        let new = config::Router { gateways: added.to_vec(), ..self.config.clone() };
        for (address, prefix_len) in &self.networks {
            new.check_uplink_network(Ipv4Prefix::new(*address, *prefix_len))?;
        }
        Ok(())
    }

    /// Removes and adds gateways in the routes for the workers; `all` are those from now on.
    pub(crate) fn set_gateways(&mut self, removed: &[Gateway], added: &[Gateway], all: Vec<Gateway>) -> CutOff {
        let mut cut_off = CutOff::default();
        // A network that stays, and forwards other packets from now on, keeps its number and all that is known of it.
        let places = |gateways: &[Gateway]| gateways.iter().map(interface_of).map(place).collect::<HashMap<_, _>>();
        let (went, came) = (places(removed), places(added));
        let numbers: HashMap<Domain, usize> = self.numbered().map(|(number, interface)| (interface.domain, number)).collect();
        let free: Vec<usize> = (0..self.interfaces.len()).filter(|number| self.interfaces[*number].is_none()).collect();
        for (gone, (reach, _)) in &went {
            let Some(number) = numbers.get(&gone.0) else { continue };
            match came.get(gone) {
                Some(new) => self.interfaces[*number].iter_mut().for_each(|now| (now.reach, now.has_host) = *new),
                None => {
                    self.interfaces[*number] = None;
                    cut_off.numbers.push(InterfaceId(*number as u16));
                }
            }
            if came.get(gone).is_none_or(|(new, _)| *new == Reach::Nothing && *reach != Reach::Nothing) {
                cut_off.networks.push(gone.1);
            }
        }
        // Numbers that have just become free are others' with the next change.
        let mut free = free.into_iter().chain(self.interfaces.len()..);
        for new in added.iter().map(interface_of).filter(|new| !went.contains_key(&place(*new).0)) {
            let Some(number) = free.next() else { continue };
            if number >= self.interfaces.len() {
                self.interfaces.resize(number + 1, None);
            }
            self.interfaces[number] = Some(new);
        }
        self.config.gateways = all;
        self.reroute();
        cut_off
    }

    fn numbered(&self) -> impl Iterator<Item = (usize, &Interface)> {
        self.interfaces.iter().enumerate().filter_map(|(number, interface)| Some((number, interface.as_ref()?)))
    }

    /// Ends the connections of networks that are cut off, and forgets their neighbours: now, and [again](Self::cut_off_again), since a
    /// worker may have a batch at hand. Workers route no more by what they had, once they have obeyed.
    pub(crate) fn cut_off(&mut self, cut_off: CutOff, now: Timestamp) {
        self.end_what_is_left(&cut_off, now);
        self.cut_off.push(cut_off);
    }

    /// All workers have obeyed: the same once more, and nothing is left of what was cut off. Nothing of an heir ends, because the change
    /// that lets it in waits for that.
    pub(crate) fn cut_off_again(&mut self, now: Timestamp) {
        for cut_off in std::mem::take(&mut self.cut_off) {
            self.end_what_is_left(&cut_off, now);
        }
        self.kept.settle();
    }

    fn end_what_is_left(&self, CutOff { numbers, networks, ranges }: &CutOff, now: Timestamp) {
        // An heir of the number resolves its neighbours again.
        numbers.iter().for_each(|id| self.neighbours.flush(*id));
        let Some(nat) = self.nat.as_ref().filter(|_| !networks.is_empty() || !ranges.is_empty()) else { return };
        let is_in_range = |address: Ipv4Addr| {
            let before = ranges.partition_point(|range| *range.start() <= address);
            before.checked_sub(1).and_then(|at| ranges.get(at)).is_some_and(|range| range.contains(&address))
        };
        let is_inside = |address| networks.iter().any(|network| network.contains(address)) || is_in_range(address);
        // The guest is the one who opened it, or the one that answers.
        nat.flush(now, |Connection { original, reply, .. }: &Connection| {
            is_inside(original.src.address) || is_inside(reply.src.address)
        });
    }
}

/// What identifies a network; and what it reaches, with or without the host.
fn place(interface: Interface) -> ((Domain, Ipv4Prefix, Ipv4Addr), (Reach, bool)) {
    ((interface.domain, interface.network, interface.address), (interface.reach, interface.has_host))
}
