//! Outside addresses, their ports and mappings, and the changes of them.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use nat::{Endpoint, External, ExternalKind, Filtering, Mapping, Protocol, Refused, Side, Tuple};

use super::{Conn, Model, Outside};
use crate::nat_model::few::Addresses;

impl Model {
    pub(in crate::nat_model) fn kind(&self, address: Ipv4Addr) -> Option<ExternalKind> {
        self.externals.iter().find(|external| external.address == address).map(|external| external.kind)
    }

    pub(super) fn one_to_one(&self, guest: Ipv4Addr) -> Option<Ipv4Addr> {
        self.externals.iter().find(|external| external.kind == ExternalKind::OneToOne(guest)).map(|external| external.address)
    }

    /// The outside addresses that a new flow of a guest may get.
    pub(super) fn addresses_for(&self, guest: Ipv4Addr) -> Addresses {
        if let Some(own) = self.one_to_one(guest) {
            return Some(own).into_iter().collect();
        }
        let is_pool = |address: &Ipv4Addr| matches!(self.kind(*address), Some(ExternalKind::Own | ExternalKind::Shared));
        let has_flows = self.live.iter().any(|conn| conn.inside().address == guest);
        if let Some(paired) = self.pairs.get(&guest).filter(|paired| is_pool(paired) && has_flows) {
            return Some(*paired).into_iter().collect();
        }
        self.externals.iter().map(|external| external.address).filter(is_pool).collect()
    }

    /// Whether it accepts packets from any peer: for certain, perhaps.
    pub(super) fn lets_in(&self, tuple: &Tuple) -> (bool, bool) {
        match self.kind(tuple.dst.address) {
            None => return (false, false),
            Some(ExternalKind::OneToOne(_)) => return (true, true),
            Some(_) => {}
        }
        let here = (tuple.protocol, tuple.dst);
        if self.published.contains_key(&here) {
            return (true, true);
        }
        if self.config.filtering != Filtering::EndpointIndependent || !matches!(tuple.protocol, Protocol::TCP | Protocol::UDP) {
            return (false, false);
        }
        let live = self.live.iter().any(|conn| conn.mapping == Some(here));
        (live, live || self.dead.iter().any(|conn| conn.mapping == Some(here)))
    }

    /// The inside endpoints that an unsolicited packet may reach.
    pub(in crate::nat_model) fn insides_of(&self, tuple: &Tuple) -> Vec<Endpoint> {
        if let Some(ExternalKind::OneToOne(guest)) = self.kind(tuple.dst.address) {
            return vec![Endpoint::new(guest, tuple.dst.port)];
        }
        let here = (tuple.protocol, tuple.dst);
        if let Some(guest) = self.published.get(&here) {
            return vec![*guest];
        }
        let held = self.live.iter().filter(|conn| conn.mapping == Some(here)).map(Conn::inside);
        let mut held: Vec<Endpoint> = held.collect();
        if held.is_empty() {
            held = self.dead.iter().filter(|conn| conn.mapping == Some(here)).map(Conn::inside).collect();
        }
        held
    }

    /// The outside endpoints that stand for an inside endpoint now.
    pub(super) fn mappings_of(&self, protocol: Protocol, inside: Endpoint) -> HashSet<Endpoint> {
        let is_independent = self.config.mapping == Mapping::EndpointIndependent;
        let of = |conn: &&Conn| conn.protocol() == protocol && conn.inside() == inside && is_independent;
        let dynamic = self.live.iter().filter(of).filter_map(|conn| conn.mapping).map(|(_, outside)| outside);
        let published = self.published.iter().filter(|((of, _), guest)| *of == protocol && **guest == inside);
        dynamic.chain(published.map(|((_, outside), _)| *outside)).collect()
    }

    /// The outside endpoint that a new flow must get, if the model knows.
    pub(super) fn known_mapping(&self, protocol: Protocol, inside: Endpoint) -> Option<Endpoint> {
        let mappings = self.mappings_of(protocol, inside);
        let only = mappings.iter().next().copied().filter(|_| mappings.len() == 1)?;
        (!self.ambiguous.contains(&(protocol, inside))).then_some(only)
    }

    pub(super) fn may_be_known(&self, protocol: Protocol, inside: Endpoint) -> bool {
        let is_independent = self.config.mapping == Mapping::EndpointIndependent;
        let of = |conn: &Conn| conn.protocol() == protocol && conn.inside() == inside && conn.mapping.is_some();
        !self.mappings_of(protocol, inside).is_empty() || is_independent && self.dead.iter().any(of)
    }

    /// Whether a new mapping may take this port. `sure`: ports that may still be held count as taken.
    pub(super) fn is_free(&self, protocol: Protocol, outside: Endpoint, sure: bool) -> bool {
        let is_in = |conns: &[Conn]| conns.iter().any(|conn| conn.mapping == Some((protocol, outside)));
        let is_held = || is_in(&self.live) || sure && is_in(&self.dead);
        let is_usable = self.usable.contains(outside.address, protocol, outside.port);
        is_usable && !self.published.contains_key(&(protocol, outside)) && !is_held()
    }

    /// Whether a new mapping may take any port of this address.
    pub(super) fn has_free(&self, protocol: Protocol, address: Ipv4Addr, sure: bool) -> bool {
        let usable = || self.usable.within(address, protocol, &(0..=u16::MAX));
        // With more usable ports than there are holders of ports, one is free.
        let holders = self.live.len() + self.dead.len() + self.published.len();
        if usable().take(holders + 1).count() > holders {
            return true;
        }
        usable().map(|port| Endpoint::new(address, port)).any(|outside| self.is_free(protocol, outside, sure))
    }

    pub(in crate::nat_model) fn set_externals(&mut self, externals: &[External]) {
        let gone: Vec<External> = self.externals.iter().filter(|old| !externals.contains(old)).copied().collect();
        for External { address, .. } in gone {
            let is_of = |tuple: &Tuple| tuple.side == Side::Outside && tuple.dst.address == address;
            self.end(|conn| is_of(&conn.original) || is_of(&conn.reply));
            self.published.retain(|(_, outside), _| outside.address != address);
            self.usable.remove(address);
            self.pairs.retain(|_, paired| *paired != address);
        }
        for new in externals.iter().filter(|new| !self.externals.contains(new)) {
            for protocol in [Protocol::ICMP, Protocol::TCP, Protocol::UDP] {
                let usable = match new.kind {
                    _ if protocol == Protocol::ICMP => Some(0..=u16::MAX),
                    ExternalKind::Own => Some(self.config.ports.clone()),
                    _ => None,
                };
                self.usable.add(new.address, protocol, usable);
            }
        }
        self.externals = externals.to_vec();
    }

    pub(in crate::nat_model) fn publish(&mut self, outside: Outside, guest: Endpoint) -> Result<(), Refused> {
        self.kind(outside.1.address).ok_or(Refused::NoAddress)?;
        if self.published.contains_key(&outside) {
            return Err(Refused::Clash);
        }
        self.end(|conn| conn.mapping == Some(outside));
        if self.may_be_known(outside.0, guest) {
            self.ambiguous.insert((outside.0, guest));
        }
        self.published.insert(outside, guest);
        self.used_once.insert(outside);
        Ok(())
    }

    pub(in crate::nat_model) fn unpublish(&mut self, outside: Outside) -> bool {
        if self.published.remove(&outside).is_none() {
            return false;
        }
        self.end(|conn| conn.mapping == Some(outside));
        true
    }

    pub(in crate::nat_model) fn grant(&mut self, address: Ipv4Addr, protocol: Protocol, ports: &[u16]) {
        for port in ports.iter().filter(|port| self.config.ports.contains(port)) {
            self.usable.set(address, protocol, *port, true);
        }
    }

    /// Where the reply may go: for certain, perhaps.
    pub(in crate::nat_model) fn revoke(&mut self, address: Ipv4Addr, protocol: Protocol, port: u16, answer: bool) {
        let held = (protocol, Endpoint::new(address, port));
        let is_held = self.published.contains_key(&held) || self.live.iter().any(|conn| conn.mapping == Some(held));
        if is_held {
            assert!(!answer, "{held:?} is in use");
        } else if !self.dead.iter().any(|conn| conn.mapping == Some(held)) {
            assert!(answer, "{held:?} is not in use");
        }
        if answer {
            self.usable.set(address, protocol, port, false);
        }
    }
}
