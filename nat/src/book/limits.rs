//! Who may have how much, and who gives way to whom.
//!
//! *Shares.* What a port of the bridge may have depends on what is left: of the connections no more than are free (and no
//! more than its configured share), of the outside ports of an address no more than three times those that are free. So a
//! port that is alone gets its whole share, and however many take what they can get, there is something left for one that
//! comes later (A. K. Choudhury and E. L. Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches", 1998):
//!
//! | greedy ports | outside ports for each | left |
//! |---|---|---|
//! | 1 | 3/4 | 1/4 |
//! | 2 | 3/7 | 1/7 |
//! | n | 3/(3n + 1) | 1/(3n + 1) |
//!
//! *Giving way.* A new connection that meets a limit takes the place of the oldest half-open one that counts against the
//! same limit, and frees what is missing. Connections that are complete never give way. Only if the whole table is full, or
//! an address has no port left, and its own bridge port has nothing to give, does another bridge port give way: the one that
//! holds most, if that is more than its own holds.
//!
//! *Pressure.* Half-open connections whose bridge port or published endpoint has used three quarters of a limit time out
//! after [`PRESSED_SECS`].
//!
//! *Work.* A search looks at [`INSPECTED`] connections, and at each bridge port once if all its own have nothing to give.

use super::{Address, Book, Cold};
use crate::Refused;
use crate::config::ExternalKind;
use crate::half_open::{Links, Queue};
use crate::shares::protocol_index;
use crate::table::{Id, Table};
use crate::tuple::{Protocol, Side, Tuple};

/// Timeout of half-open connections under pressure, in seconds.
pub(super) const PRESSED_SECS: u32 = 30;

/// Maximum number of connections inspected in a search for one that gives way.
const INSPECTED: usize = 32;

/// Maximum number of connections at the front of each queue that a refused packet takes out or moves to the end, so that the
/// next search gets further.
const TIDIED: usize = INSPECTED / 2;

/// A bridge with two ports, one of them the uplink, has one port with guests.
const UPLINK_AND_ONE: usize = 2;

/// What is in the way of a new connection, as far as another one could give way to it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lack {
    /// The refusal if none gives way: of the first limit that was reached.
    refused: Option<Refused>,
    /// Its bridge port has too many connections.
    of_owner: bool,
    /// The published endpoint that it leads to has too many connections.
    of_endpoint: Option<u32>,
    /// Its share has too many connections, or too many outside ports.
    of_share: Option<u32>,
    port: Option<PortLack>,
}

/// A missing outside port.
#[derive(Clone, Copy, Debug)]
struct PortLack {
    external: u8,
    protocol: Protocol,
    /// Only a port that counts against the same bridge port helps.
    of_owner: bool,
    /// There is no free port, so its port is needed itself.
    is_exhausted: bool,
}

impl Lack {
    fn note(&mut self, refused: Refused) {
        self.refused = self.refused.or(Some(refused));
    }

    /// Whether only a connection that gives way makes the new one possible.
    pub(super) fn refused(&self) -> Option<Refused> {
        self.refused
    }

    /// Whether the new connection needs the port of the one that gives way.
    pub(super) fn needs_its_port(&self) -> bool {
        self.port.is_some_and(|port| port.is_exhausted)
    }

    /// Whether it does not matter which bridge port gives way.
    fn is_of_all(&self) -> bool {
        !self.of_owner && self.of_endpoint.is_none() && self.of_share.is_none() && self.port.is_none_or(|port| !port.of_owner)
    }
}

impl Book {
    /// What a connection of this bridge port lacks before anything else is known of it.
    pub(super) fn lack_of_room(&self, owner: u16) -> Lack {
        let mut lack = Lack::default();
        if self.live() >= self.config.max_connections {
            lack.note(Refused::TableFull);
        }
        if self.owners[usize::from(owner)].connections as usize >= self.most_connections() {
            lack.note(Refused::PortShare);
            lack.of_owner = true;
        }
        lack
    }

    /// Adds what a new mapping of this share lacks.
    pub(super) fn add_lack_of_ports(&self, lack: &mut Lack, external: u8, protocol: Protocol, owner: u16, share: Option<u32>) {
        let Some(address) = self.address(external) else { return };
        let held = share.map_or(0, |share| self.shares.get(share).ports(protocol));
        if held >= self.config.max_ports_per_guest {
            lack.note(Refused::GuestShare);
            lack.of_share = share;
        }
        let of_owner = address.taken_by[usize::from(owner)][protocol_index(protocol)] >= self.most_ports(address, protocol);
        if of_owner {
            lack.note(Refused::PortShare);
        }
        let is_exhausted = address.ports[protocol_index(protocol)].free() == 0;
        if is_exhausted {
            lack.note(Refused::PortsExhausted);
        }
        if of_owner || is_exhausted || lack.of_share.is_some() {
            lack.port = Some(PortLack { external, protocol, of_owner, is_exhausted });
        }
    }

    /// Adds what a connection from outside to a published endpoint lacks.
    pub(super) fn add_lack_at_endpoint(&self, lack: &mut Lack, mapping: u32) {
        if self.mappings.get(mapping).connections >= self.most_to_endpoint() {
            lack.note(Refused::PortShare);
            lack.of_endpoint = Some(mapping);
        }
    }

    /// Adds what a connection from outside to a guest with a one-to-one address lacks.
    pub(super) fn add_lack_at_guest(&self, lack: &mut Lack, share: Option<u32>) {
        if let Some(share) = share
            && self.shares.get(share).connections() >= self.most_to_endpoint()
        {
            lack.note(Refused::PortShare);
            lack.of_share = Some(share);
        }
    }

    /// Maximum number of connections of one bridge port now.
    fn most_connections(&self) -> usize {
        let (max, each) = (self.config.max_connections, self.config.max_connections_per_port);
        match max.checked_sub(each) {
            None | Some(0) => max,
            Some(rest) => {
                let free = max.saturating_sub(self.live()) as u64;
                let share = free.max(free * each as u64 / rest as u64);
                each.min(usize::try_from(share).unwrap_or(each))
            }
        }
    }

    /// Maximum number of connections from outside to one published endpoint, or to one guest with a one-to-one address: a
    /// published port must not fill the table at the expense of the rest.
    fn most_to_endpoint(&self) -> u32 {
        (self.config.max_connections_per_port / 2) as u32
    }

    /// Maximum number of ports of an outside address for the guests behind one bridge port now, whatever addresses they
    /// claim. A guest port that is the only one has all.
    fn most_ports(&self, address: &Address, protocol: Protocol) -> u32 {
        if self.config.ports_of_bridge <= UPLINK_AND_ONE {
            return u32::MAX;
        }
        (self.free_ports(address, protocol) * 3).max(1)
    }

    /// Number of ports of an outside address that mappings may still get. On a shared address without a gate, ports are granted
    /// when they are needed.
    fn free_ports(&self, address: &Address, protocol: Protocol) -> u32 {
        let ports = &address.ports[protocol_index(protocol)];
        if self.gate.is_some() || protocol == Protocol::ICMP {
            return ports.free();
        }
        let all = u32::from(self.config.ports.end() - self.config.ports.start()) + 1;
        all.saturating_sub(ports.taken())
    }

    /// Whether the bridge port or the published endpoint of a connection has used three quarters of a limit.
    pub(super) fn is_pressed(&self, id: Id) -> bool {
        let is_near = |used: u64, most: u64| used * 4 >= most * 3;
        let cold = &self.cold[id.0 as usize];
        let owned = &self.owners[usize::from(cold.owner)];
        let of_all = is_near(self.live() as u64, self.config.max_connections as u64);
        let of_owner = is_near(owned.connections.into(), self.most_connections() as u64);
        of_all
            || of_owner
            || cold.mapping().is_some_and(|mapping| {
                let entry = self.mappings.get(mapping);
                if cold.is_to_endpoint {
                    return is_near(entry.connections.into(), self.most_to_endpoint().into());
                }
                self.address(entry.external).is_some_and(|address| {
                    let index = protocol_index(entry.protocol);
                    let taken = address.ports[index].taken();
                    let owned = address.taken_by[usize::from(cold.owner)][index];
                    is_near(owned.into(), self.most_ports(address, entry.protocol).into())
                        || is_near(taken.into(), (taken + self.free_ports(address, entry.protocol)).into())
                })
            })
    }

    /// The connection that gives way to one with this lack. Changes nothing.
    pub(super) fn victim(&self, table: &Table, lack: &Lack, owner: u16) -> Option<Id> {
        let of_owner = |owner: u16| (&self.by_owner, self.owners[usize::from(owner)].half_open);
        let own = match (lack.of_endpoint, lack.of_share) {
            (Some(mapping), _) => (&self.by_class, self.mappings.get(mapping).half_open),
            (None, Some(share)) => (&self.by_class, self.shares.get(share).half_open),
            (None, None) => of_owner(owner),
        };
        let search = |(links, queue): (&Links, Queue), owner: u16| {
            let near = links.walk(queue).take(INSPECTED).map(Id);
            near.into_iter().find(|id| self.would_help(table, *id, lack, owner))
        };
        search(own, owner).or_else(|| {
            let other = lack.is_of_all().then(|| self.greediest(lack, owner)).flatten()?;
            search(of_owner(other), other)
        })
    }

    /// Whether a connection is half-open, and frees what is missing if it ends.
    fn would_help(&self, table: &Table, id: Id, lack: &Lack, owner: u16) -> bool {
        let cold = &self.cold[id.0 as usize];
        (!lack.of_owner || cold.owner == owner)
            && lack.port.is_none_or(|port| self.would_free(cold, &port, lack.of_share, owner))
            && table.is_half_open(id)
    }

    /// Whether the end of a connection frees an outside port of the kind that is missing.
    fn would_free(&self, cold: &Cold, lack: &PortLack, of_share: Option<u32>, owner: u16) -> bool {
        let Some(entry) = cold.mapping().map(|mapping| self.mappings.get(mapping)) else { return false };
        let Some(address) = self.address(entry.external) else { return false };
        let ports = &address.ports[protocol_index(entry.protocol)];
        (entry.external, entry.protocol) == (lack.external, lack.protocol)
            && entry.connections == 1
            && !(entry.is_published || entry.is_closing)
            && of_share.is_none_or(|share| entry.share == share)
            && (!lack.of_owner || self.shares.get(entry.share).owner == owner)
            && (!lack.is_exhausted || ports.is_usable(entry.port))
    }

    /// The bridge port that holds most of what is missing, if that is more than this one holds.
    fn greediest(&self, lack: &Lack, owner: u16) -> Option<u16> {
        let held = |owner: usize| match lack.port.and_then(|port| Some((self.address(port.external)?, port.protocol))) {
            Some((address, protocol)) => address.taken_by[owner][protocol_index(protocol)],
            None => self.owners[owner].connections,
        };
        let greediest = (0..self.owners.len()).max_by_key(|owner| held(*owner))?;
        (held(greediest) > held(usize::from(owner))).then_some(greediest as u16)
    }

    /// Lets the next search get further, after one that found none to give way: complete connections leave the front of the
    /// queues that it looked at, and those that free nothing of what is missing go to the end of another bridge port's.
    pub(crate) fn tidy(&mut self, table: &Table, tuple: &Tuple, owner: u16, refused: Refused) {
        let of_class = self.class_of(tuple, owner).map(|queue| (&self.by_class, queue));
        let of_owner = |owner: u16| self.owners.get(usize::from(owner)).map(|owned| (&self.by_owner, owned.half_open));
        let fronts = [of_class, of_owner(owner)].into_iter().flatten();
        let (mut complete, mut count) = ([0; TIDIED * 2], 0);
        for number in fronts.flat_map(|(links, queue)| links.walk(queue).take(TIDIED)) {
            if !table.is_half_open(Id(number)) {
                complete[count] = number;
                count += 1;
            }
        }
        // One that is at the front of both queues is taken out once.
        complete[..count].iter().for_each(|number| self.dequeue(Id(*number)));
        let lack = self.lack_of_all(tuple, refused);
        if let Some((lack, other)) = lack.and_then(|lack| Some((lack, self.greediest(&lack, owner)?))) {
            for _ in 0..TIDIED {
                let Some(oldest) = self.owners[usize::from(other)].half_open.oldest().map(Id) else { break };
                if !table.is_half_open(oldest) {
                    self.dequeue(oldest);
                } else if self.would_help(table, oldest, &lack, other) {
                    break;
                } else {
                    let queue = &mut self.owners[usize::from(other)].half_open;
                    self.by_owner.remove(queue, oldest.0);
                    self.by_owner.push(queue, oldest.0);
                }
            }
        }
    }

    /// What a packet lacks that was refused for this, if it does not matter which bridge port gives way.
    fn lack_of_all(&self, tuple: &Tuple, refused: Refused) -> Option<Lack> {
        let port = match refused {
            Refused::TableFull => None,
            Refused::PortsExhausted => {
                let external = self.external_of(tuple.src.address)?;
                Some(PortLack { external, protocol: tuple.protocol, of_owner: false, is_exhausted: true })
            }
            _ => return None,
        };
        Some(Lack { port, ..Lack::default() })
    }

    /// The queue of what a first packet counts against besides its bridge port.
    fn class_of(&self, tuple: &Tuple, owner: u16) -> Option<Queue> {
        let of_share = |address| Some(self.shares.get(self.shares.find(owner, address)?).half_open);
        if tuple.side == Side::Inside {
            return of_share(tuple.src.address);
        }
        let external = self.number_of(tuple.dst.address)?;
        match self.address(external)?.kind {
            ExternalKind::OneToOne(guest) => of_share(guest),
            _ => Some(self.mappings.get(self.mapping_of(external, tuple.protocol, tuple.dst.port)?).half_open),
        }
    }
}
