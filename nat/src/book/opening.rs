//! What a first packet would open: decided from the book, which stays as it is.

use std::net::Ipv4Addr;

use packet::Timestamp;

use super::limits::Lack;
use super::{Address, Book};
use crate::Refused;
use crate::config::{ExternalKind, Filtering, Mapping};
use crate::decision::Basis;
use crate::pending::{GuestClaim, MappingClaim, Pending};
use crate::shares::protocol_index;
use crate::table::{Id, Table, Tuples};
use crate::tuple::{Endpoint, Protocol, Side, Tuple};

/// A connection but for its outside port and its place in the table.
struct Plan {
    basis: Basis,
    guest: GuestClaim,
    /// The outside address.
    external: u8,
    mapping: PlannedMapping,
}

/// The mapping of a planned connection.
#[derive(Clone, Copy)]
enum PlannedMapping {
    /// It needs none, and has this outside port.
    None(u16),
    Known(u32),
    New,
}

impl Book {
    /// The connection that a first packet with this tuple opens. Nothing changes: asked twice, the answer is the same,
    /// until [`Book::turn`].
    pub(crate) fn begin(&self, table: &Table, tuple: &Tuple, hash: u64, owner: u16, now: Timestamp) -> Result<Pending, Refused> {
        if usize::from(owner) >= self.config.port_numbers {
            return Err(Refused::PortShare);
        }
        let mut lack = self.lack_of_room(owner);
        let Plan { basis, guest, external, mapping } = match tuple.side {
            Side::Inside => self.begin_outbound(tuple, owner, &mut lack)?,
            Side::Outside => self.begin_inbound(tuple, owner, &mut lack)?,
        };
        let victim = match lack.refused() {
            Some(refused) => Some(self.victim(table, &lack, owner).ok_or(refused)?),
            None => None,
        };
        let (mapping, port) = match mapping {
            PlannedMapping::None(port) => (MappingClaim::None, port),
            PlannedMapping::Known(known) => (MappingClaim::Known(known), self.mappings.get(known).port),
            PlannedMapping::New => {
                let its_port = victim.filter(|_| lack.needs_its_port()).and_then(|victim| self.outside_port(victim));
                let port = its_port.or_else(|| self.choose_port(external, tuple, now.secs())).ok_or(Refused::PortsExhausted)?;
                (MappingClaim::New { external, port }, port)
            }
        };
        let reply = self.reply(tuple, external, mapping, port)?;
        let hashes = [hash, table.hash(&reply)];
        if table.find(&reply, hashes[1]).is_some_and(|found| Some(found.id) != victim) {
            return Err(Refused::Clash);
        }
        let slots = table.free_slots(hashes).ok_or(Refused::TableFull)?;
        Ok(Pending { tuples: Tuples { original: *tuple, reply }, basis, hashes, slots, owner, guest, mapping, victim })
    }

    /// The tuple of the replies to a first packet.
    fn reply(&self, tuple: &Tuple, external: u8, mapping: MappingClaim, port: u16) -> Result<Tuple, Refused> {
        let Tuple { protocol, src, dst, .. } = *tuple;
        let address = self.address(external).ok_or(Refused::NoAddress)?;
        Ok(match (tuple.side, mapping, address.kind) {
            (Side::Inside, ..) => Tuple { side: Side::Outside, protocol, src: dst, dst: Endpoint::new(address.address, port) },
            (Side::Outside, MappingClaim::Known(known), _) => {
                Tuple { side: Side::Inside, protocol, src: self.mappings.get(known).inside, dst: src }
            }
            (Side::Outside, _, ExternalKind::OneToOne(guest)) => {
                Tuple { side: Side::Inside, protocol, src: Endpoint::new(guest, port), dst: src }
            }
            (Side::Outside, ..) => return Err(Refused::NoMapping),
        })
    }

    fn begin_outbound(&self, tuple: &Tuple, owner: u16, lack: &mut Lack) -> Result<Plan, Refused> {
        let protocol = tuple.protocol;
        let guest = self.guest(tuple.src.address)?;
        let external = guest.external();
        let kind = self.address(external).ok_or(Refused::NoAddress)?.kind;
        let mapping = match kind {
            ExternalKind::OneToOne(_) => PlannedMapping::None(tuple.src.port),
            ExternalKind::Shared if !protocol.has_ports() => return Err(Refused::NotShared),
            _ if !protocol.has_ports() => PlannedMapping::None(0),
            _ => self.known_mapping(protocol, tuple.src).map_or(PlannedMapping::New, PlannedMapping::Known),
        };
        let (basis, external) = match mapping {
            PlannedMapping::Known(known) => (self.basis_of(known), self.mappings.get(known).external),
            PlannedMapping::None(_) if matches!(kind, ExternalKind::OneToOne(_)) => (Basis::OneToOne, external),
            _ => (Basis::NewMapping, external),
        };
        if let PlannedMapping::New = mapping {
            let share = self.shares.find(owner, tuple.src.address);
            self.add_lack_of_ports(lack, external, protocol, owner, share);
            if !self.mappings.has_room() {
                return Err(Refused::TableFull);
            }
        }
        self.address(external).filter(|address| !address.is_retired).ok_or(Refused::NoAddress)?;
        Ok(Plan { basis, guest, external, mapping })
    }

    /// The mapping that an inside endpoint has already.
    fn known_mapping(&self, protocol: Protocol, inside: Endpoint) -> Option<u32> {
        let is_usable =
            |known: &u32| self.config.mapping == Mapping::EndpointIndependent || self.mappings.get(*known).is_published;
        self.mappings.find(protocol, inside).filter(is_usable)
    }

    /// A free port for a new mapping.
    fn choose_port(&self, external: u8, tuple: &Tuple, secs: u32) -> Option<u16> {
        let keeps = self.config.filtering == Filtering::AddressAndPortDependent;
        let ports = &self.address(external)?.ports[protocol_index(tuple.protocol)];
        ports.choose(tuple.src.port, keeps, secs, self.random())
    }

    /// The outside port of a connection with a mapping.
    fn outside_port(&self, id: Id) -> Option<u16> {
        self.cold[id.0 as usize].mapping().map(|mapping| self.mappings.get(mapping).port)
    }

    fn begin_inbound(&self, tuple: &Tuple, owner: u16, lack: &mut Lack) -> Result<Plan, Refused> {
        let external = self.number_of(tuple.dst.address).ok_or(Refused::NoMapping)?;
        let address = self.address(external).filter(|address| !address.is_retired).ok_or(Refused::NoMapping)?;
        let (inside, mapping, basis) = match address.kind {
            ExternalKind::OneToOne(guest) => {
                self.add_lack_at_guest(lack, self.shares.find(owner, guest));
                (guest, PlannedMapping::None(tuple.dst.port), Basis::OneToOne)
            }
            _ => {
                if !matches!(tuple.protocol, Protocol::TCP | Protocol::UDP) {
                    return Err(Refused::NoMapping);
                }
                let known = address.ports[protocol_index(tuple.protocol)].mapping(tuple.dst.port).ok_or(Refused::NoMapping)?;
                let entry = self.mappings.get(known);
                if entry.is_closing || !entry.is_published && self.config.filtering != Filtering::EndpointIndependent {
                    return Err(Refused::NoMapping);
                }
                self.add_lack_at_endpoint(lack, known);
                (entry.inside.address, PlannedMapping::Known(known), self.basis_of(known))
            }
        };
        let guest = match self.guests.find(inside) {
            // It stays paired with the address that its own connections use.
            Some(guest) => GuestClaim::Known { number: guest, external: self.guests.get(guest).external },
            None => GuestClaim::New { external },
        };
        Ok(Plan { basis, guest, external, mapping })
    }

    fn basis_of(&self, mapping: u32) -> Basis {
        if self.is_published(mapping) { Basis::Published } else { Basis::KnownMapping }
    }

    /// A guest and its outside address: its one-to-one address, the one that it is paired with, or one of the pool.
    pub(super) fn guest(&self, address: Ipv4Addr) -> Result<GuestClaim, Refused> {
        let is_own =
            |at: &Option<Address>| at.as_ref().is_some_and(|at| at.kind == ExternalKind::OneToOne(address) && !at.is_retired);
        let is_pooled = |number: u8| self.address(number).is_some_and(|at| !at.is_retired && !at.is_one_to_one());
        let known = self.guests.find(address);
        let paired = known.map(|number| self.guests.get(number).external).filter(|number| is_pooled(*number));
        let external = match (self.addresses.iter().position(is_own), paired) {
            (Some(own), _) => own as u8,
            (None, Some(paired)) => paired,
            (None, None) => self.pooled(self.guests.hash(address)).ok_or(Refused::NoAddress)?,
        };
        Ok(match known {
            Some(number) => GuestClaim::Known { number, external },
            None => GuestClaim::New { external },
        })
    }

    /// The address of the pool that a hash selects.
    fn pooled(&self, hash: u64) -> Option<u8> {
        let is_pooled = |at: &Option<Address>| at.as_ref().is_some_and(|at| !at.is_one_to_one() && !at.is_retired);
        let count = self.addresses.iter().filter(|at| is_pooled(at)).count();
        let pool = self.addresses.iter().enumerate().filter(|(_, at)| is_pooled(at));
        pool.map(|(number, _)| number as u8).nth((hash % count.max(1) as u64) as usize)
    }
}
