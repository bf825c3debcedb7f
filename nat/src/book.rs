//! The book: what opening and ending a connection needs, under one lock.
//!
//! Packets of known connections do not use it. For a first packet [`Book::begin`] decides on a [`Pending`] connection,
//! which has changed nothing yet and may be refused for many reasons; [`Book::admit`] carries it out. Each opening also
//! looks at two connections that may have expired, so that the work of expiry is spread over that of opening.
//!
//! Who may have how much, and who gives way to whom, is in [`limits`].

use std::net::Ipv4Addr;
use std::sync::Arc;

use packet::{PortSet, Timestamp};
use siphasher::sip::SipHasher13;

use crate::Refused;
use crate::config::{ExternalKind, Filtering, Mapping, NatConfig};
use crate::demand::Wanted;
use crate::gate::{Gate, PortMarks, PortOwner};
use crate::guests::Guests;
use crate::half_open::{Links, Queue};
use crate::mappings::{MappingEntry, Mappings};
use crate::open_ports::OpenPorts;
use crate::pending::{GuestClaim, MappingClaim, Pending};
use crate::ports::Ports;
use crate::shares::{Shares, protocol_index};
use crate::table::{Id, Table};
use crate::tcp::Tracker;
use crate::tuple::{Endpoint, Protocol, Side, Tuple};
use crate::wheel::Wheel;

mod ending;
mod externals;
mod limits;
mod lock;
mod opening;
mod restoring;

pub(crate) use lock::BookLock;

/// Number of connections visited at a time for a walk over all of them; workers can take the lock in between.
pub(crate) const AT_ONCE: usize = 256;

/// Time after which a new connection is looked at first, in seconds: most have been answered by then, and leave the queues
/// of half-open ones.
const FIRST_LOOK: u32 = 5;

/// The number of no mapping.
const NONE: u32 = u32::MAX;

/// One outside address and its ports.
#[derive(Debug)]
pub(crate) struct Address {
    pub(crate) address: Ipv4Addr,
    pub(crate) kind: ExternalKind,
    /// ICMP, TCP, UDP.
    pub(crate) ports: [Ports; 3],
    /// Number of ports that mappings have, by the bridge port that they count against: ICMP, TCP, UDP.
    taken_by: Box<[[u32; 3]]>,
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

    /// Its ports as those of an address that is not used yet.
    fn into_ports(self) -> [Ports; 3] {
        let mut ports = self.ports;
        ports.iter_mut().for_each(Ports::reset);
        ports
    }

    fn is_one_to_one(&self) -> bool {
        matches!(self.kind, ExternalKind::OneToOne(_))
    }
}

/// A connection's record besides its entry in the table, which every packet reads.
#[derive(Clone, Copy, Debug)]
struct Cold {
    /// Its mapping, or [`NONE`].
    mapping: u32,
    guest: u32,
    share: u32,
    /// The bridge port that opened it.
    owner: u16,
    is_live: bool,
    /// It is in the queues of half-open connections.
    is_queued: bool,
    /// An outside host opened it through its mapping.
    is_to_endpoint: bool,
}

impl Cold {
    fn mapping(&self) -> Option<u32> {
        (self.mapping != NONE).then_some(self.mapping)
    }
}

/// What a port of the bridge holds.
#[derive(Clone, Copy, Debug, Default)]
struct Owner {
    /// Number of connections that it opened.
    connections: u32,
    /// The half-open ones among them.
    half_open: Queue,
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
    /// Half-open connections that gave their place to new ones.
    pub evicted: u64,
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
    /// The ports that the configuration allows.
    configured: PortSet,
    /// Ports of addresses that were removed, for those to come.
    spare: Vec<[Ports; 3]>,
    guests: Guests,
    mappings: Mappings,
    shares: Shares,
    /// By the number of the bridge port; the last one stands for all ports that were removed.
    owners: Vec<Owner>,
    /// Links of the queues of [`Owner`].
    by_owner: Links,
    /// Links of the queues of shares and published endpoints.
    by_class: Links,
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
            configured: PortSet::from(config.ports.clone()),
            spare: Vec::new(),
            guests: Guests::new(most, hasher),
            // Each connection has one mapping at most, and published ports have one without connections.
            mappings: Mappings::new(most * 2, hasher),
            shares: Shares::new(most * 2, hasher),
            owners: vec![Owner::default(); config.port_numbers + 1],
            by_owner: Links::new(most),
            by_class: Links::new(most),
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

    /// As [`Book::new`]. The memory of ports is kept; the rest, too, if the sizes are the same.
    pub(crate) fn reset(&mut self, config: &NatConfig, seed: [u64; 2], open: &OpenPorts) {
        self.mappings.scan(0, usize::MAX, |entry| open.set(entry.external, entry.protocol, entry.port, false));
        let mut spare = std::mem::take(&mut self.spare);
        spare.extend(self.addresses.drain(..).flatten().map(Address::into_ports));
        let sizes = |config: &NatConfig| (config.max_connections, config.port_numbers);
        if sizes(config) != sizes(&self.config) {
            *self = Book { spare, ..Book::new(config, seed) };
            return;
        }
        let hasher = SipHasher13::new_with_keys(seed[1], seed[0]);
        // All fields, so that the compiler names one that is forgotten.
        let Book {
            config: config_now,
            addresses: _,
            configured,
            spare: no_spare,
            guests,
            mappings,
            shares,
            owners,
            by_owner,
            by_class,
            cold,
            free,
            wheel,
            random,
            hasher: hasher_now,
            stats,
            wanted,
            gate,
        } = self;
        if config.ports != config_now.ports {
            *configured = PortSet::from(config.ports.clone());
        }
        guests.reset(hasher);
        mappings.reset(hasher);
        shares.reset(hasher);
        owners.fill(Owner::default());
        by_owner.clear();
        by_class.clear();
        cold.clear();
        free.clear();
        wheel.reset();
        (*config_now, *no_spare, *hasher_now, *gate) = (config.clone(), spare, hasher, None);
        (*random, *stats, *wanted) = (0, NatStats::default(), Wanted::default());
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
        let id = match pending.victim {
            Some(victim) if table.take_out(victim) => victim,
            Some(_) => return Err(Refused::TableFull),
            None => self.free.last().map_or(Id(self.cold.len() as u32), |id| Id(*id)),
        };
        let is_in = table.put_in(id, &pending.tuples, (pending.hashes, pending.slots), tracker, secs);
        let held = is_in.then(|| self.hold_known(pending));
        if pending.victim.is_some() {
            self.wheel.remove(id.0);
            self.forget(id, secs, open);
            self.stats.evicted += 1;
        }
        let Some((guest, mapping)) = held else { return Err(Refused::TableFull) };
        let guest = guest.unwrap_or_else(|| self.add_guest(pending));
        let share = self.shares.find_or_add(pending.owner, pending.inside().address);
        self.shares.opened(share);
        let mapping = match (mapping, pending.mapping) {
            (None, MappingClaim::New { external, port }) => {
                let Tuple { protocol, src, .. } = pending.tuples.original;
                self.add_mapping((protocol, src), (external, port), share, open)
            }
            (known, _) => known.unwrap_or(NONE),
        };
        self.note(id, &pending.tuples.original, (mapping, guest, share), pending.owner);
        let timeout = self.timeout(&pending.tuples.original, tracker);
        self.wheel.insert(id.0, secs.saturating_add(FIRST_LOOK.min(timeout.saturating_add(1))));
        self.stats.opened += 1;
        Ok(id)
    }

    /// Notes whose a connection in the table is, with the first free number, and puts it in its queues.
    fn note(&mut self, id: Id, original: &Tuple, (mapping, guest, share): (u32, u32, u32), owner: u16) {
        self.owners[usize::from(owner)].connections += 1;
        let is_to_endpoint = mapping != NONE && original.side == Side::Outside;
        let cold = Cold { mapping, guest, share, owner, is_live: true, is_queued: false, is_to_endpoint };
        if self.free.pop().is_some() {
            self.cold[id.0 as usize] = cold;
        } else {
            self.cold.push(cold);
        }
        self.enqueue(id);
    }

    /// Counts a connection at the guest and the mapping that it uses, if they exist already: they stay, even if a connection
    /// that gives way is the last one of theirs. Returns their numbers.
    fn hold_known(&mut self, pending: &Pending) -> (Option<u32>, Option<u32>) {
        let guest = match pending.guest {
            GuestClaim::Known { number, external } => {
                self.guests.opened(number, external);
                Some(number)
            }
            GuestClaim::New { .. } => None,
        };
        let mapping = match pending.mapping {
            MappingClaim::None => Some(NONE),
            MappingClaim::Known(number) => {
                self.mappings.get_mut(number).connections += 1;
                Some(number)
            }
            MappingClaim::New { .. } => None,
        };
        (guest, mapping)
    }

    fn add_guest(&mut self, pending: &Pending) -> u32 {
        let external = pending.guest.external();
        let number = self.guests.add(pending.inside().address, external);
        self.guests.opened(number, external);
        number
    }

    /// Adds a mapping of an inside endpoint to an outside port, for one connection. Returns its number.
    fn add_mapping(
        &mut self,
        (protocol, inside): (Protocol, Endpoint),
        (external, port): (u8, u16),
        share: u32,
        open: &OpenPorts,
    ) -> u32 {
        let entry = MappingEntry {
            protocol,
            inside,
            external,
            port,
            connections: 1,
            share,
            half_open: Queue::default(),
            is_published: false,
            is_indexed: self.config.mapping == Mapping::EndpointIndependent,
            is_closing: false,
        };
        let number = self.mappings.add(entry);
        if let Some(address) = &mut self.addresses[usize::from(external)] {
            address.take(protocol, port, number, PortOwner::Mapping);
        }
        self.count_port(&entry, share);
        if self.config.filtering == Filtering::EndpointIndependent && protocol != Protocol::ICMP {
            open.set(external, protocol, port, true);
        }
        number
    }

    /// Counts a mapping's port at a share, and at its bridge port.
    fn count_port(&mut self, entry: &MappingEntry, share: u32) {
        self.shares.took_port(share, entry.protocol);
        let owner = usize::from(self.shares.get(share).owner);
        if let Some(address) = &mut self.addresses[usize::from(entry.external)] {
            address.taken_by[owner][protocol_index(entry.protocol)] += 1;
        }
    }

    /// The opposite of [`Book::count_port`].
    fn discount_port(&mut self, entry: &MappingEntry) {
        let owner = usize::from(self.shares.get(entry.share).owner);
        if let Some(address) = &mut self.addresses[usize::from(entry.external)] {
            address.taken_by[owner][protocol_index(entry.protocol)] -= 1;
        }
        self.shares.gave_port(entry.share, entry.protocol);
    }

    /// Adds a new connection to the queues of half-open ones.
    fn enqueue(&mut self, id: Id) {
        let cold = &mut self.cold[id.0 as usize];
        cold.is_queued = true;
        let Cold { mapping, share, owner, is_to_endpoint, .. } = *cold;
        self.by_owner.push(&mut self.owners[usize::from(owner)].half_open, id.0);
        let class = if is_to_endpoint {
            &mut self.mappings.get_mut(mapping).half_open
        } else {
            &mut self.shares.get_mut(share).half_open
        };
        self.by_class.push(class, id.0);
    }

    /// Takes a connection out of the queues of half-open ones, if it is there.
    fn dequeue(&mut self, id: Id) {
        let cold = &mut self.cold[id.0 as usize];
        if !std::mem::take(&mut cold.is_queued) {
            return;
        }
        let Cold { mapping, share, owner, is_to_endpoint, .. } = *cold;
        self.by_owner.remove(&mut self.owners[usize::from(owner)].half_open, id.0);
        let class = if is_to_endpoint {
            &mut self.mappings.get_mut(mapping).half_open
        } else {
            &mut self.shares.get_mut(share).half_open
        };
        self.by_class.remove(class, id.0);
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

    /// Sets the number of ports that the bridge has.
    pub(crate) fn set_ports_of_bridge(&mut self, ports: usize) {
        self.config.ports_of_bridge = ports;
    }

    /// The owner that stands for all bridge ports that were removed.
    fn nobody(&self) -> u16 {
        self.config.port_numbers as u16
    }

    /// Whether anything counts against this bridge port.
    pub(crate) fn is_owner(&self, owner: u16) -> bool {
        let at = usize::from(owner);
        let has_ports = || self.addresses().any(|address| address.taken_by[at] != [0; 3]);
        at < self.config.port_numbers && (self.owners[at].connections > 0 || has_ports())
    }

    /// Takes a connection and its mapping off a bridge port.
    pub(crate) fn disown(&mut self, id: Id, owner: u16) {
        let nobody = self.nobody();
        let cold = self.cold[id.0 as usize];
        if let Some(entry) = cold.mapping().map(|mapping| *self.mappings.get(mapping))
            && !entry.is_published
            && self.shares.get(entry.share).owner == owner
        {
            let share = self.shares.find_or_add(nobody, entry.inside.address);
            self.count_port(&entry, share);
            self.discount_port(&entry);
            self.mappings.get_mut(cold.mapping).share = share;
        }
        if cold.owner == owner {
            self.dequeue(id);
            let share = self.shares.find_or_add(nobody, self.shares.get(cold.share).address());
            self.shares.opened(share);
            self.shares.closed(cold.share);
            self.owners[usize::from(owner)].connections -= 1;
            self.owners[usize::from(nobody)].connections += 1;
            self.cold[id.0 as usize] = Cold { owner: nobody, share, is_queued: false, ..cold };
            if cold.is_queued {
                self.enqueue(id);
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
