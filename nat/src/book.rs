//! The book: what opening and ending a connection needs, under one lock.
//!
//! Packets of known connections do not use it. For a first packet [`Book::begin`] decides on a [`Pending`] connection,
//! which has changed nothing yet and may be refused for many reasons; [`Book::admit`] carries it out. Each opening also
//! looks at two connections that may have expired, so that the work of expiry is spread over that of opening.

use std::net::Ipv4Addr;
use std::sync::Arc;

use packet::Timestamp;
use siphasher::sip::SipHasher13;

use crate::Refused;
use crate::config::{ExternalKind, Filtering, Mapping, NatConfig, Timeouts};
use crate::demand::Wanted;
use crate::gate::{Gate, PortMarks, PortOwner};
use crate::guests::{Guests, protocol_index};
use crate::mappings::{MappingEntry, Mappings};
use crate::open_ports::OpenPorts;
use crate::pending::{GuestClaim, MappingClaim, Pending};
use crate::ports::Ports;
use crate::table::{Id, Table};
use crate::tcp::{Phase, Tracker};
use crate::tuple::{Protocol, Tuple};
use crate::wheel::Wheel;

mod externals;
mod opening;

/// Number of connections visited at a time for a walk over all of them; workers can take the lock in between.
pub(crate) const AT_ONCE: usize = 256;

/// Number of connections due for expiry that each opening looks at.
const EXPIRE_WITH_EACH: usize = 2;

/// Maximum number of guests; each takes a few dozen bytes.
const MAX_GUESTS: usize = 65_536;

/// The owner of connections whose bridge port was removed. They count against no port's share.
const NOBODY: u16 = u16::MAX;

/// One outside address and its ports.
#[derive(Debug)]
pub(crate) struct Address {
    pub(crate) address: Ipv4Addr,
    pub(crate) kind: ExternalKind,
    /// ICMP, TCP, UDP.
    pub(crate) ports: [Ports; 3],
    /// It is being removed, and opens no further connections.
    is_retired: bool,
    /// Where the owners of its ports are marked, if it is shared behind a gate.
    marks: Option<Arc<dyn PortMarks>>,
}

impl Address {
    /// Gives a port to a mapping.
    fn take(&mut self, protocol: Protocol, port: u16, mapping: u32, owner: PortOwner) {
        self.ports[protocol_index(protocol)].take(port, mapping);
        if let Some(marks) = &self.marks {
            marks.mark(protocol, port, owner);
        }
    }

    /// Frees the port of a mapping.
    fn give_back(&mut self, protocol: Protocol, port: u16, secs: u32) {
        self.ports[protocol_index(protocol)].give_back(port, secs);
        if let Some(marks) = &self.marks {
            marks.mark(protocol, port, PortOwner::Host);
        }
    }

    fn is_one_to_one(&self) -> bool {
        matches!(self.kind, ExternalKind::OneToOne(_))
    }
}

/// A connection's record besides its entry in the table, which every packet reads.
#[derive(Clone, Copy, Debug)]
struct Cold {
    mapping: Option<u32>,
    guest: u32,
    owner: u16,
    is_live: bool,
}

/// Counters of the translation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NatStats {
    /// Connections now.
    pub connections: usize,
    /// Mappings now, published ports among them.
    pub mappings: usize,
    /// Connections opened so far.
    pub opened: u64,
    /// Connections that timed out.
    pub expired: u64,
    /// Connections ended because a rule or an address was removed.
    pub flushed: u64,
}

/// The ports of one outside address and one protocol; of ICMP the identifiers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortUsage {
    /// The address.
    pub address: Ipv4Addr,
    /// ICMP, TCP or UDP.
    pub protocol: Protocol,
    /// Ports in use by mappings.
    pub used: u32,
    /// Ports that a new mapping can get. On a shared address without a gate, those reserved with the host.
    pub free: u32,
}

/// Everything that the lock guards.
#[derive(Debug)]
pub(crate) struct Book {
    config: NatConfig,
    addresses: Vec<Option<Address>>,
    guests: Guests,
    mappings: Mappings,
    /// Number of connections by the bridge port that opened them.
    owners: Vec<u32>,
    /// Number of outside ports by the same: ICMP, TCP, UDP.
    owner_ports: Vec<[u32; 3]>,
    cold: Vec<Cold>,
    free: Vec<u32>,
    wheel: Wheel,
    random: u64,
    hasher: SipHasher13,
    stats: NatStats,
    /// Blocks of ports that guests would use on a shared address.
    pub(crate) wanted: Wanted,
    /// What keeps the host's packets and the guests' apart on a shared address, if all of its ports may be used.
    pub(crate) gate: Option<Gate>,
}

impl Book {
    pub(crate) fn new(config: &NatConfig, seed: [u64; 2]) -> Book {
        let hasher = SipHasher13::new_with_keys(seed[1], seed[0]);
        let most = config.max_connections;
        Book {
            addresses: Vec::with_capacity(crate::config::MAX_EXTERNALS),
            guests: Guests::new(most.min(MAX_GUESTS), hasher),
            mappings: Mappings::new(most, hasher),
            owners: vec![0; config.port_numbers],
            owner_ports: vec![[0; 3]; config.port_numbers],
            cold: Vec::with_capacity(most),
            free: Vec::with_capacity(most),
            wheel: Wheel::new(most),
            random: 0,
            hasher,
            stats: NatStats::default(),
            wanted: Wanted::default(),
            gate: None,
            config: config.clone(),
        }
    }

    pub(crate) fn stats(&self) -> NatStats {
        NatStats { connections: self.live(), mappings: self.mappings.len(), ..self.stats }
    }

    /// The ports in use and free on each outside address that is not one-to-one.
    pub(crate) fn port_usage(&self) -> Vec<PortUsage> {
        let shared = self.addresses().filter(|at| !at.is_one_to_one());
        let usage = |at: &Address| {
            [Protocol::ICMP, Protocol::TCP, Protocol::UDP].map(|protocol| {
                let ports = &at.ports[protocol_index(protocol)];
                PortUsage { address: at.address, protocol, used: ports.taken(), free: ports.free() }
            })
        };
        shared.flat_map(usage).collect()
    }

    fn live(&self) -> usize {
        self.cold.len() - self.free.len()
    }

    /// Carries out what [`Book::begin`] has decided.
    pub(crate) fn admit(
        &mut self,
        table: &Table,
        open: &OpenPorts,
        pending: &Pending,
        tracker: Option<&Tracker>,
        now: Timestamp,
    ) -> Result<Id, Refused> {
        let secs = now.secs();
        let id = self.free.last().map_or(Id(self.cold.len() as u32), |id| Id(*id));
        if !table.put_in(id, &pending.tuples, (pending.hashes, pending.slots), tracker, secs) {
            return Err(Refused::TableFull);
        }
        let guest = match pending.guest {
            GuestClaim::Known { number, .. } => number,
            GuestClaim::New { address, external } => self.guests.add(address, external),
        };
        self.guests.opened(guest, pending.guest.external());
        let mapping = match pending.mapping {
            MappingClaim::None => None,
            MappingClaim::Known(number) => Some(number),
            MappingClaim::New { external, port } => Some(self.add_mapping(pending, guest, external, port, open)),
        };
        if let Some(mapping) = mapping {
            self.mappings.get_mut(mapping).connections += 1;
        }
        self.owners[usize::from(pending.owner)] += 1;
        let cold = Cold { mapping, guest, owner: pending.owner, is_live: true };
        if self.free.pop().is_some() {
            self.cold[id.0 as usize] = cold;
        } else {
            self.cold.push(cold);
        }
        let timeout = self.timeout(&pending.tuples.original, tracker);
        self.look_at_again(id, pending.tuples.original.protocol, secs, secs.saturating_add(timeout).saturating_add(1));
        self.stats.opened += 1;
        Ok(id)
    }

    fn add_mapping(&mut self, pending: &Pending, guest: u32, external: u8, port: u16, open: &OpenPorts) -> u32 {
        let Tuple { protocol, src, .. } = pending.tuples.original;
        let entry = MappingEntry {
            protocol,
            inside: src,
            external,
            port,
            connections: 0,
            owner: pending.owner,
            is_published: false,
            is_indexed: self.config.mapping == Mapping::EndpointIndependent,
            is_closing: false,
        };
        let number = self.mappings.add(entry);
        if let Some(address) = &mut self.addresses[usize::from(external)] {
            address.take(protocol, port, number, PortOwner::Mapping);
        }
        self.guests.took_port(guest, protocol);
        self.owner_ports[usize::from(pending.owner)][protocol_index(protocol)] += 1;
        if self.config.filtering == Filtering::EndpointIndependent && protocol != Protocol::ICMP {
            open.set(external, protocol, port, true);
        }
        number
    }

    fn timeout(&self, tuple: &Tuple, tracker: Option<&Tracker>) -> u32 {
        self.config.timeouts.of(tuple.protocol, || tracker.map_or(Phase::Opening, Tracker::phase))
    }

    /// Schedules the next look at a connection for when it is due. A TCP connection is looked at sooner: it may be
    /// closed at any time, and has a shorter timeout then.
    fn look_at_again(&mut self, id: Id, protocol: Protocol, secs: u32, due: u32) {
        let soon = secs.saturating_add(self.config.timeouts.tcp_transitory).saturating_add(1);
        self.wheel.insert(id.0, if protocol == Protocol::TCP { due.min(soon) } else { due });
    }

    /// Whether a connection has timed out.
    pub(crate) fn is_over(&self, table: &Table, id: Id, secs: u32) -> bool {
        secs.saturating_sub(table.used(id)) > self.timeout_of(table, id)
    }

    fn timeout_of(&self, table: &Table, id: Id) -> u32 {
        self.timeout(&table.tuples(id).original, Some(&table.tracker(id)))
    }

    /// Ends connections that have timed out, looking at up to `budget`. Returns the number looked at: fewer than the
    /// budget means that no more are due.
    pub(crate) fn expire(&mut self, table: &Table, open: &OpenPorts, now: Timestamp, budget: usize) -> usize {
        let secs = now.secs();
        for looked_at in 0..budget {
            let Some(number) = self.wheel.next(secs) else { return looked_at };
            let id = Id(number);
            let due = table.used(id).saturating_add(self.timeout_of(table, id)).saturating_add(1);
            if due > secs || !table.take_out(id) {
                self.look_at_again(id, table.tuples(id).original.protocol, secs, due.max(secs.saturating_add(1)));
            } else {
                self.forget(id, secs, open);
                self.stats.expired += 1;
            }
        }
        budget
    }

    /// The share of expiry that each opening does.
    pub(crate) fn expire_some(&mut self, table: &Table, open: &OpenPorts, now: Timestamp) {
        self.expire(table, open, now, EXPIRE_WITH_EACH);
    }

    /// Ends one connection. False if a worker is changing its tracker at the moment.
    pub(crate) fn end(&mut self, table: &Table, open: &OpenPorts, id: Id, now: Timestamp) -> bool {
        if !self.cold[id.0 as usize].is_live || !table.take_out(id) {
            return false;
        }
        self.wheel.remove(id.0);
        self.forget(id, now.secs(), open);
        true
    }

    /// Frees what a connection held.
    fn forget(&mut self, id: Id, secs: u32, open: &OpenPorts) {
        let Cold { mapping, guest, owner, .. } = self.cold[id.0 as usize];
        self.cold[id.0 as usize].is_live = false;
        self.free.push(id.0);
        if let Some(owned) = self.owners.get_mut(usize::from(owner)) {
            *owned -= 1;
        }
        if let Some(number) = mapping {
            let entry = self.mappings.get_mut(number);
            entry.connections -= 1;
            if entry.connections == 0 && !entry.is_published {
                let entry = *entry;
                self.mappings.remove(number);
                self.give_back(&entry, secs, open);
                self.guests.gave_port(guest, entry.protocol);
                if let Some(ports) = self.owner_ports.get_mut(usize::from(entry.owner)) {
                    ports[protocol_index(entry.protocol)] -= 1;
                }
            }
        }
        self.guests.closed(guest);
    }

    fn give_back(&mut self, entry: &MappingEntry, secs: u32, open: &OpenPorts) {
        open.set(entry.external, entry.protocol, entry.port, false);
        if let Some(address) = &mut self.addresses[usize::from(entry.external)] {
            address.give_back(entry.protocol, entry.port, secs);
        }
    }

    /// Visits up to `most` connections from number `from` on. Returns where to continue; `None` at the end.
    pub(crate) fn scan(&self, from: u32, most: usize, mut visit: impl FnMut(Id)) -> Option<u32> {
        let end = self.cold.len().min(from as usize + most);
        for number in from as usize..end {
            if self.cold[number].is_live {
                visit(Id(number as u32));
            }
        }
        (end < self.cold.len()).then_some(end as u32)
    }

    /// Sets the timeouts by which connections are scheduled from now on.
    pub(crate) fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.config.timeouts = timeouts;
    }

    /// Schedules a connection anew, by the timeouts in force.
    pub(crate) fn reschedule(&mut self, table: &Table, id: Id, secs: u32) {
        let due = table.used(id).saturating_add(self.timeout_of(table, id)).saturating_add(1);
        self.wheel.remove(id.0);
        self.look_at_again(id, table.tuples(id).original.protocol, secs, due.max(secs.saturating_add(1)));
    }

    /// Sets the number of ports that the bridge has.
    pub(crate) fn set_ports_of_bridge(&mut self, ports: usize) {
        self.config.ports_of_bridge = ports;
    }

    /// Whether anything counts against the share of this bridge port.
    pub(crate) fn is_owner(&self, owner: u16) -> bool {
        let at = usize::from(owner);
        self.owners.get(at).is_some_and(|owned| *owned > 0) || self.owner_ports.get(at).is_some_and(|ports| *ports != [0; 3])
    }

    /// Takes a connection and its mapping off the share of a bridge port.
    pub(crate) fn disown(&mut self, id: Id, owner: u16) {
        let cold = &mut self.cold[id.0 as usize];
        if cold.owner == owner {
            cold.owner = NOBODY;
            if let Some(owned) = self.owners.get_mut(usize::from(owner)) {
                *owned -= 1;
            }
        }
        let Some(entry) = cold.mapping.map(|mapping| self.mappings.get_mut(mapping)) else { return };
        if entry.owner == owner && !entry.is_published {
            entry.owner = NOBODY;
            if let Some(ports) = self.owner_ports.get_mut(usize::from(owner)) {
                ports[protocol_index(entry.protocol)] -= 1;
            }
        }
    }

    pub(crate) fn note_flushed(&mut self) {
        self.stats.flushed += 1;
    }

    /// Moves on to the next random number.
    pub(crate) fn turn(&mut self) {
        self.random += 1;
    }

    fn random(&self) -> u64 {
        self.hasher.hash(&self.random.to_ne_bytes())
    }
}
