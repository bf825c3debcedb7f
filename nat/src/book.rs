//! The book: everything about connections that only their opening and ending needs, under one lock.
//!
//! A packet of a known connection never comes here. A first packet begins a [`Pending`] connection,
//! which has changed nothing yet and may be refused for many reasons; only [`Book::admit`] makes it
//! one. Each opening also ends up to two connections whose time is over, so the work of expiry is
//! spread over that of opening.

use std::net::Ipv4Addr;

use packet::Timestamp;
use siphasher::sip::SipHasher13;

use crate::Refused;
use crate::config::{External, ExternalKind, Filtering, Mapping, NatConfig, Timeouts};
use crate::guests::{Guests, protocol_index};
use crate::mappings::{MappingEntry, Mappings};
use crate::open_ports::OpenPorts;
use crate::ports::Ports;
use crate::rehearse::Manner;
use crate::table::{Id, Table, Tuples};
use crate::tcp::Tracker;
use crate::tuple::{Endpoint, Protocol, Side, Tuple};
use crate::wheel::Wheel;

/// So many connections whose time is over are ended with each that is opened.
const EXPIRE_WITH_EACH: usize = 2;

/// Guests at a time; each takes a few dozen bytes.
const MAX_GUESTS: usize = 65_536;

/// Who opened a connection whose port was taken away. It has no share that could be used up.
const NOBODY: u16 = u16::MAX;

/// One outside address and its ports.
#[derive(Debug)]
pub(crate) struct Address {
    pub(crate) address: Ipv4Addr,
    pub(crate) kind: ExternalKind,
    /// ICMP, TCP, UDP.
    pub(crate) ports: [Ports; 3],
    /// It goes, and takes no more connections.
    is_retired: bool,
}

/// What is known of a connection besides its entry in the table.
#[derive(Clone, Copy, Debug)]
struct Cold {
    mapping: Option<u32>,
    guest: u32,
    owner: u16,
    is_live: bool,
}

/// How often things happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NatStats {
    /// Connections now.
    pub connections: usize,
    /// Mappings now, published ports among them.
    pub mappings: usize,
    /// Connections opened so far.
    pub opened: u64,
    /// Connections whose time was over.
    pub expired: u64,
    /// Connections ended because a rule or an address went.
    pub flushed: u64,
}

/// The ports of one outside address and one protocol; of ICMP the identifiers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortUsage {
    /// The address.
    pub address: Ipv4Addr,
    /// ICMP, TCP or UDP.
    pub protocol: Protocol,
    /// Ports that mappings have now.
    pub used: u32,
    /// Ports that a new mapping could get now. On a shared address, those that are kept from the host's programs.
    pub free: u32,
}

/// A connection that is not yet one. Nothing has been taken for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pending {
    pub(crate) tuples: Tuples,
    /// Those of the two tuples.
    hashes: [u64; 2],
    owner: u16,
    guest: GuestClaim,
    mapping: MappingClaim,
}

#[derive(Clone, Copy, Debug)]
enum GuestClaim {
    Known { number: u32, external: u8 },
    New { address: Ipv4Addr, external: u8 },
}

impl GuestClaim {
    fn external(self) -> u8 {
        match self {
            GuestClaim::Known { external, .. } | GuestClaim::New { external, .. } => external,
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum MappingClaim {
    None,
    Known(u32),
    New { external: u8, port: u16 },
}

/// All that the lock guards.
#[derive(Debug)]
pub(crate) struct Book {
    config: NatConfig,
    addresses: Vec<Option<Address>>,
    guests: Guests,
    mappings: Mappings,
    /// Connections by the port of the bridge whose packet opened them.
    owners: Vec<u32>,
    /// Outside ports by the same: ICMP, TCP, UDP.
    owner_ports: Vec<[u32; 3]>,
    cold: Vec<Cold>,
    free: Vec<u32>,
    wheel: Wheel,
    random: u64,
    hasher: SipHasher13,
    stats: NatStats,
    /// Ports that guests would like and that were not granted.
    pub(crate) wanted: Vec<crate::rules::Wanted>,
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
            wanted: Vec::with_capacity(64),
            config: config.clone(),
        }
    }

    pub(crate) fn stats(&self) -> NatStats {
        NatStats { connections: self.live(), mappings: self.mappings.len(), ..self.stats }
    }

    /// What is used of the outside addresses' ports. One guest's own addresses have no ports to give out.
    pub(crate) fn port_usage(&self) -> Vec<PortUsage> {
        let shared = self.addresses().filter(|at| !matches!(at.kind, ExternalKind::OneToOne(_)));
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

    /// What a first packet with this tuple would open. Nothing changes: two that ask one after the other get the
    /// same answer, until [`Book::turn`].
    pub(crate) fn begin(&self, table: &Table, tuple: &Tuple, hash: u64, owner: u16, now: Timestamp) -> Result<Pending, Refused> {
        if self.live() >= self.config.max_connections {
            return Err(Refused::TableFull);
        }
        if self.owners.get(usize::from(owner)).is_none_or(|owned| *owned as usize >= self.config.max_connections_per_port) {
            return Err(Refused::PortShare);
        }
        let mut pending = match tuple.side {
            Side::Inside => self.begin_outbound(tuple, owner, now.secs())?,
            Side::Outside => self.begin_inbound(tuple, owner)?,
        };
        pending.hashes = [hash, table.hash(&pending.tuples.reply)];
        if table.find(&pending.tuples.reply, pending.hashes[1]).is_some() {
            return Err(Refused::Clash);
        }
        Ok(pending)
    }

    fn begin_outbound(&self, tuple: &Tuple, owner: u16, secs: u32) -> Result<Pending, Refused> {
        let protocol = tuple.protocol;
        let guest = self.guest(tuple.src.address)?;
        let number = guest.external();
        let kind = self.address(number).ok_or(Refused::NoAddress)?.kind;
        let (mapping, port) = match kind {
            ExternalKind::OneToOne(_) => (MappingClaim::None, tuple.src.port),
            ExternalKind::Shared if !protocol.has_ports() => return Err(Refused::NotShared),
            _ if !protocol.has_ports() => (MappingClaim::None, 0),
            _ => self.mapping(protocol, tuple.src, guest, owner, secs)?,
        };
        let (number, port) = match mapping {
            MappingClaim::Known(known) => (self.mappings.get(known).external, self.mappings.get(known).port),
            _ => (number, port),
        };
        let address = self.address(number).filter(|address| !address.is_retired).ok_or(Refused::NoAddress)?;
        let outside = Endpoint::new(address.address, port);
        let reply = Tuple { side: Side::Outside, protocol, src: tuple.dst, dst: outside };
        Ok(Pending { tuples: Tuples { original: *tuple, reply }, hashes: [0; 2], owner, guest, mapping })
    }

    /// The mapping of an inside endpoint, or a port for a new one.
    fn mapping(
        &self,
        protocol: Protocol,
        inside: Endpoint,
        guest: GuestClaim,
        owner: u16,
        secs: u32,
    ) -> Result<(MappingClaim, u16), Refused> {
        if let Some(known) = self.mappings.find(protocol, inside)
            && (self.config.mapping == Mapping::EndpointIndependent || self.mappings.get(known).is_published)
        {
            return Ok((MappingClaim::Known(known), 0));
        }
        if let GuestClaim::Known { number, .. } = guest
            && self.guests.get(number).ports(protocol) >= self.config.max_ports_per_guest
        {
            return Err(Refused::GuestShare);
        }
        let external = guest.external();
        if self.owner_ports[usize::from(owner)][protocol_index(protocol)] >= self.most_ports_of_owner(protocol) {
            return Err(Refused::PortShare);
        }
        if !self.mappings.has_room() {
            return Err(Refused::TableFull);
        }
        let random = self.random();
        let Some(address) = &self.addresses[usize::from(external)] else { return Err(Refused::NoAddress) };
        let keeps = self.config.filtering == Filtering::AddressAndPortDependent;
        let ports = &address.ports[protocol_index(protocol)];
        let port = ports.choose(inside.port, keeps, secs, random).ok_or(Refused::PortsExhausted)?;
        Ok((MappingClaim::New { external, port }, port))
    }

    /// How many outside ports the guests behind one port of the bridge may hold: three quarters of all,
    /// so that the others have some whatever addresses these say they have. Who is alone has all.
    fn most_ports_of_owner(&self, protocol: Protocol) -> u32 {
        const BRIDGE_OF_ONE: usize = 2;
        if self.config.ports_of_bridge <= BRIDGE_OF_ONE {
            return u32::MAX;
        }
        let range = match protocol {
            Protocol::ICMP => 0x1_0000,
            _ => u32::from(self.config.ports.end() - self.config.ports.start()) + 1,
        };
        let addresses = self.addresses().filter(|at| !matches!(at.kind, ExternalKind::OneToOne(_))).count() as u32;
        (range * addresses / 4 * 3).max(1)
    }

    fn begin_inbound(&self, tuple: &Tuple, owner: u16) -> Result<Pending, Refused> {
        // What is published to everybody must not fill the table against the rest.
        let strangers = (self.config.max_connections_per_port / 2) as u32;
        let number = self.number_of(tuple.dst.address).ok_or(Refused::NoMapping)?;
        let address = self.address(number).filter(|address| !address.is_retired).ok_or(Refused::NoMapping)?;
        let (inside, mapping) = match address.kind {
            ExternalKind::OneToOne(guest) => {
                if self.guests.find(guest).is_some_and(|number| self.guests.get(number).connections() >= strangers) {
                    return Err(Refused::PortShare);
                }
                (Endpoint::new(guest, tuple.dst.port), MappingClaim::None)
            }
            _ => {
                if !matches!(tuple.protocol, Protocol::TCP | Protocol::UDP) {
                    return Err(Refused::NoMapping);
                }
                let known = address.ports[protocol_index(tuple.protocol)].mapping(tuple.dst.port).ok_or(Refused::NoMapping)?;
                let entry = self.mappings.get(known);
                if entry.connections >= strangers {
                    return Err(Refused::PortShare);
                }
                if entry.is_closing || !entry.is_published && self.config.filtering != Filtering::EndpointIndependent {
                    return Err(Refused::NoMapping);
                }
                (entry.inside, MappingClaim::Known(known))
            }
        };
        let guest = match self.guests.find(inside.address) {
            // It stays paired with the address that it goes out by.
            Some(guest) => GuestClaim::Known { number: guest, external: self.guests.get(guest).external },
            None if self.guests.has_room() => GuestClaim::New { address: inside.address, external: number },
            None => return Err(Refused::TableFull),
        };
        let reply = Tuple { side: Side::Inside, protocol: tuple.protocol, src: inside, dst: tuple.src };
        Ok(Pending { tuples: Tuples { original: *tuple, reply }, hashes: [0; 2], owner, guest, mapping })
    }

    /// A guest, with the outside address that it has or gets: its own one-to-one, the one that it is
    /// paired with, or one of the pool.
    fn guest(&self, address: Ipv4Addr) -> Result<GuestClaim, Refused> {
        let is_there = |number: u8| self.address(number).is_some_and(|at| !at.is_retired);
        let is_own =
            |at: &Option<Address>| at.as_ref().is_some_and(|at| at.kind == ExternalKind::OneToOne(address) && !at.is_retired);
        let is_pool = |number: u8| self.address(number).is_some_and(|at| !matches!(at.kind, ExternalKind::OneToOne(_)));
        let known = self.guests.find(address);
        let paired = known.map(|number| self.guests.get(number).external).filter(|number| is_there(*number) && is_pool(*number));
        let external = match (self.addresses.iter().position(is_own), paired) {
            (Some(own), _) => own as u8,
            (None, Some(paired)) => paired,
            (None, None) => self.pooled(self.guests.hash(address)).ok_or(Refused::NoAddress)?,
        };
        match known {
            Some(number) => Ok(GuestClaim::Known { number, external }),
            None if self.guests.has_room() => Ok(GuestClaim::New { address, external }),
            None => Err(Refused::TableFull),
        }
    }

    /// The pool's address that a hash leads to.
    fn pooled(&self, hash: u64) -> Option<u8> {
        let is_pool =
            |at: &Option<Address>| at.as_ref().is_some_and(|at| !matches!(at.kind, ExternalKind::OneToOne(_)) && !at.is_retired);
        let count = self.addresses.iter().filter(|at| is_pool(at)).count();
        let pool = self.addresses.iter().enumerate().filter(|(_, at)| is_pool(at));
        pool.map(|(number, _)| number as u8).nth((hash % count.max(1) as u64) as usize)
    }

    /// Would a pending connection find its slots?
    pub(crate) fn has_room_for(&self, table: &Table, pending: &Pending) -> bool {
        pending.hashes.iter().all(|hash| table.has_free_slot(*hash))
    }

    /// By which right a packet would open a connection; `None` if by none.
    pub(crate) fn right_of(&self, tuple: &Tuple) -> Option<Manner> {
        let mapping = match tuple.side {
            Side::Inside => {
                let guest = self.guest(tuple.src.address).ok()?;
                if matches!(self.address(guest.external())?.kind, ExternalKind::OneToOne(_)) {
                    return Some(Manner::OneToOne);
                }
                self.mappings.find(tuple.protocol, tuple.src)
            }
            Side::Outside => {
                let address = self.address(self.number_of(tuple.dst.address)?)?;
                if matches!(address.kind, ExternalKind::OneToOne(_)) {
                    return Some(Manner::OneToOne);
                }
                Some(address.ports[protocol_index(tuple.protocol)].mapping(tuple.dst.port)?)
            }
        };
        Some(match mapping {
            Some(mapping) if self.is_published(mapping) => Manner::Published,
            Some(_) if tuple.side == Side::Outside || self.config.mapping == Mapping::EndpointIndependent => Manner::KnownMapping,
            _ => Manner::NewMapping,
        })
    }

    /// Makes a pending connection one.
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
        if !table.put_in(id, &pending.tuples, pending.hashes, tracker, secs) {
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
            address.ports[protocol_index(protocol)].take(port, number);
        }
        self.guests.took_port(guest, protocol);
        self.owner_ports[usize::from(pending.owner)][protocol_index(protocol)] += 1;
        if self.config.filtering == Filtering::EndpointIndependent && protocol != Protocol::ICMP {
            open.set(external, protocol, port, true);
        }
        number
    }

    fn timeout(&self, tuple: &Tuple, tracker: Option<&Tracker>) -> u32 {
        self.config.timeouts.of(tuple.protocol, || tracker.map_or(crate::tcp::Phase::Opening, Tracker::phase))
    }

    /// Has a connection looked at when it is due; one of TCP sooner, since it may be closed at any time, and
    /// its time then is that of closing.
    fn look_at_again(&mut self, id: Id, protocol: Protocol, secs: u32, due: u32) {
        let soon = secs.saturating_add(self.config.timeouts.tcp_transitory).saturating_add(1);
        self.wheel.insert(id.0, if protocol == Protocol::TCP { due.min(soon) } else { due });
    }

    /// Is a connection's time over?
    pub(crate) fn is_over(&self, table: &Table, id: Id, secs: u32) -> bool {
        secs.saturating_sub(table.used(id)) > self.timeout_of(table, id)
    }

    fn timeout_of(&self, table: &Table, id: Id) -> u32 {
        self.timeout(&table.tuples(id).original, Some(&table.tracker(id)))
    }

    /// Ends connections whose time is over, looking at no more than `budget`. Returns how many it
    /// looked at: fewer than the budget means that it is done for now.
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

    /// With each connection that opens.
    pub(crate) fn expire_some(&mut self, table: &Table, open: &OpenPorts, now: Timestamp) {
        self.expire(table, open, now, EXPIRE_WITH_EACH);
    }

    /// Ends one connection. False if a worker is just at its tracker.
    pub(crate) fn end(&mut self, table: &Table, open: &OpenPorts, id: Id, now: Timestamp) -> bool {
        if !self.cold[id.0 as usize].is_live || !table.take_out(id) {
            return false;
        }
        self.wheel.remove(id.0);
        self.forget(id, now.secs(), open);
        true
    }

    /// What a connection held is free again.
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
            address.ports[protocol_index(entry.protocol)].give_back(entry.port, secs);
        }
    }

    /// The numbers of all connections from `from` on for which `wanted` says yes, at most `most` looked
    /// at; and where to go on, if that was not the end.
    pub(crate) fn scan(&self, from: u32, most: usize, mut visit: impl FnMut(Id)) -> Option<u32> {
        let end = self.cold.len().min(from as usize + most);
        for number in from as usize..end {
            if self.cold[number].is_live {
                visit(Id(number as u32));
            }
        }
        (end < self.cold.len()).then_some(end as u32)
    }

    /// Connections that are looked at again from now on are so by these.
    pub(crate) fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.config.timeouts = timeouts;
    }

    /// Looks at a connection again when it is due by the timeouts that hold now.
    pub(crate) fn reschedule(&mut self, table: &Table, id: Id, secs: u32) {
        let due = table.used(id).saturating_add(self.timeout_of(table, id)).saturating_add(1);
        self.wheel.remove(id.0);
        self.look_at_again(id, table.tuples(id).original.protocol, secs, due.max(secs.saturating_add(1)));
    }

    /// How many ports the bridge has now.
    pub(crate) fn set_ports_of_bridge(&mut self, ports: usize) {
        self.config.ports_of_bridge = ports;
    }

    /// Does anything count against this port of the bridge?
    pub(crate) fn is_owner(&self, owner: u16) -> bool {
        let at = usize::from(owner);
        self.owners.get(at).is_some_and(|owned| *owned > 0) || self.owner_ports.get(at).is_some_and(|ports| *ports != [0; 3])
    }

    /// What this connection and its mapping count against a port of the bridge counts against nobody any more.
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

    /// The number of an outside address.
    pub(crate) fn number_of(&self, address: Ipv4Addr) -> Option<u8> {
        let is_it = |at: &Option<Address>| at.as_ref().is_some_and(|at| at.address == address);
        self.addresses.iter().position(is_it).map(|number| number as u8)
    }

    pub(crate) fn address(&self, number: u8) -> Option<&Address> {
        self.addresses.get(usize::from(number))?.as_ref()
    }

    pub(crate) fn address_mut(&mut self, number: u8) -> Option<&mut Address> {
        self.addresses.get_mut(usize::from(number))?.as_mut()
    }

    pub(crate) fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.addresses.iter().flatten()
    }

    /// Adds an outside address. Returns its number; `None` if there are too many.
    pub(crate) fn add_address(&mut self, external: External) -> Option<u8> {
        let mut ports = [false, true, true].map(Ports::new);
        // ICMP's identifiers are nobody's: the host's stack answers no replies.
        ports[0].allow(0..=u16::MAX);
        if external.kind == ExternalKind::Own {
            ports[1].allow(self.config.ports.clone());
            ports[2].allow(self.config.ports.clone());
        }
        let address = Some(Address { address: external.address, kind: external.kind, ports, is_retired: false });
        let number = match self.addresses.iter().position(Option::is_none) {
            Some(number) => {
                self.addresses[number] = address;
                number
            }
            None if self.addresses.len() < crate::config::MAX_EXTERNALS => {
                self.addresses.push(address);
                self.addresses.len() - 1
            }
            None => return None,
        };
        Some(number as u8)
    }

    /// The outside address that a guest is paired with, or would be.
    pub(crate) fn external_of(&self, guest: Ipv4Addr) -> Option<u8> {
        self.guest(guest).ok().map(GuestClaim::external)
    }

    /// Gives an outside address to no newcomer any more.
    pub(crate) fn retire(&mut self, number: u8) {
        if let Some(address) = self.address_mut(number) {
            address.is_retired = true;
        }
    }

    /// Takes an outside address away, whose connections and published ports have ended.
    pub(crate) fn remove_address(&mut self, number: u8) {
        if let Some(slot) = self.addresses.get_mut(usize::from(number)) {
            *slot = None;
        }
    }

    /// The mapping that has an outside port.
    pub(crate) fn mapping_of(&self, number: u8, protocol: Protocol, port: u16) -> Option<u32> {
        self.address(number)?.ports[protocol_index(protocol)].mapping(port)
    }

    pub(crate) fn is_published(&self, mapping: u32) -> bool {
        self.mappings.get(mapping).is_published
    }

    /// Has it no connection?
    pub(crate) fn is_unused(&self, mapping: u32) -> bool {
        self.mappings.get(mapping).connections == 0
    }

    /// Visits the mappings from `from` on, at most `most` of them, with their outside addresses; and where to go on, if
    /// that was not the end.
    pub(crate) fn scan_mappings(&self, from: u32, most: usize, mut visit: impl FnMut(&MappingEntry, Ipv4Addr)) -> Option<u32> {
        self.mappings.scan(from, most, |entry| {
            if let Some(address) = self.address(entry.external) {
                visit(entry, address.address);
            }
        })
    }

    /// The mapping that a connection uses.
    pub(crate) fn mapping_in_use(&self, id: Id) -> Option<u32> {
        self.cold[id.0 as usize].mapping
    }

    /// Lets a mapping take no more connections.
    pub(crate) fn close_mapping(&mut self, mapping: u32, open: &OpenPorts) {
        let entry = *self.mappings.get(mapping);
        open.set(entry.external, entry.protocol, entry.port, false);
        self.mappings.close(mapping);
    }

    /// Publishes a port that no mapping has.
    pub(crate) fn publish(
        &mut self,
        number: u8,
        protocol: Protocol,
        port: u16,
        guest: Endpoint,
        open: &OpenPorts,
    ) -> Result<(), Refused> {
        if !self.mappings.has_room() {
            return Err(Refused::TableFull);
        }
        let entry = MappingEntry {
            protocol,
            inside: guest,
            external: number,
            port,
            connections: 0,
            owner: 0,
            is_published: true,
            is_indexed: true,
            is_closing: false,
        };
        let Some(Some(address)) = self.addresses.get_mut(usize::from(number)) else { return Err(Refused::NoAddress) };
        let mapping = self.mappings.add(entry);
        address.ports[protocol_index(protocol)].take(port, mapping);
        open.set(number, protocol, port, true);
        Ok(())
    }

    /// Ends a published mapping whose connections have ended.
    pub(crate) fn unpublish(&mut self, mapping: u32, now: Timestamp, open: &OpenPorts) {
        let entry = *self.mappings.get(mapping);
        self.mappings.remove(mapping);
        self.give_back(&entry, now.secs(), open);
    }

    /// Another random number for who comes next.
    pub(crate) fn turn(&mut self) {
        self.random += 1;
    }

    fn random(&self) -> u64 {
        self.hasher.hash(&self.random.to_ne_bytes())
    }
}
