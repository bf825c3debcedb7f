//! What a first packet would open: decided from the book, which stays as it is.

use std::net::Ipv4Addr;

use packet::Timestamp;

use super::{Address, Book};
use crate::Refused;
use crate::config::{ExternalKind, Filtering, Mapping};
use crate::decision::Basis;
use crate::guests::protocol_index;
use crate::pending::{GuestClaim, MappingClaim, Pending};
use crate::table::{Table, Tuples};
use crate::tuple::{Endpoint, Protocol, Side, Tuple};

/// A connection but for its place in the table.
struct Plan {
    reply: Tuple,
    basis: Basis,
    guest: GuestClaim,
    mapping: MappingClaim,
}

impl Book {
    /// The connection that a first packet with this tuple opens. Nothing changes: asked twice, the answer is the same,
    /// until [`Book::turn`].
    pub(crate) fn begin(&self, table: &Table, tuple: &Tuple, hash: u64, owner: u16, now: Timestamp) -> Result<Pending, Refused> {
        if self.live() >= self.config.max_connections {
            return Err(Refused::TableFull);
        }
        if self.owners.get(usize::from(owner)).is_none_or(|owned| *owned as usize >= self.config.max_connections_per_port) {
            return Err(Refused::PortShare);
        }
        let Plan { reply, basis, guest, mapping } = match tuple.side {
            Side::Inside => self.begin_outbound(tuple, owner, now.secs())?,
            Side::Outside => self.begin_inbound(tuple)?,
        };
        let hashes = [hash, table.hash(&reply)];
        if table.find(&reply, hashes[1]).is_some() {
            return Err(Refused::Clash);
        }
        let slots = table.free_slots(hashes).ok_or(Refused::TableFull)?;
        Ok(Pending { tuples: Tuples { original: *tuple, reply }, basis, hashes, slots, owner, guest, mapping })
    }

    fn begin_outbound(&self, tuple: &Tuple, owner: u16, secs: u32) -> Result<Plan, Refused> {
        let protocol = tuple.protocol;
        let guest = self.guest(tuple.src.address)?;
        let number = guest.external();
        let kind = self.address(number).ok_or(Refused::NoAddress)?.kind;
        let (mapping, number, port) = match kind {
            ExternalKind::OneToOne(_) => (MappingClaim::None, number, tuple.src.port),
            ExternalKind::Shared if !protocol.has_ports() => return Err(Refused::NotShared),
            _ if !protocol.has_ports() => (MappingClaim::None, number, 0),
            _ => match self.mapping(protocol, tuple.src, guest, owner, secs)? {
                MappingClaim::Known(known) => {
                    (MappingClaim::Known(known), self.mappings.get(known).external, self.mappings.get(known).port)
                }
                new @ MappingClaim::New { external, port } => (new, external, port),
                MappingClaim::None => (MappingClaim::None, number, 0),
            },
        };
        let basis = match mapping {
            MappingClaim::Known(known) => self.basis_of(known),
            MappingClaim::None if matches!(kind, ExternalKind::OneToOne(_)) => Basis::OneToOne,
            _ => Basis::NewMapping,
        };
        let address = self.address(number).filter(|address| !address.is_retired).ok_or(Refused::NoAddress)?;
        let outside = Endpoint::new(address.address, port);
        let reply = Tuple { side: Side::Outside, protocol, src: tuple.dst, dst: outside };
        Ok(Plan { reply, basis, guest, mapping })
    }

    /// The mapping of an inside endpoint, or a port for a new one.
    fn mapping(
        &self,
        protocol: Protocol,
        inside: Endpoint,
        guest: GuestClaim,
        owner: u16,
        secs: u32,
    ) -> Result<MappingClaim, Refused> {
        if let Some(known) = self.mappings.find(protocol, inside)
            && (self.config.mapping == Mapping::EndpointIndependent || self.mappings.get(known).is_published)
        {
            return Ok(MappingClaim::Known(known));
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
        Ok(MappingClaim::New { external, port })
    }

    /// Maximum number of outside ports for the guests behind one bridge port: three quarters of all, so that other
    /// guests have some, whatever addresses these claim. A guest port that is the only one has all.
    fn most_ports_of_owner(&self, protocol: Protocol) -> u32 {
        const UPLINK_AND_ONE: usize = 2;
        if self.config.ports_of_bridge <= UPLINK_AND_ONE {
            return u32::MAX;
        }
        let range = match protocol {
            Protocol::ICMP => 0x1_0000,
            _ => u32::from(self.config.ports.end() - self.config.ports.start()) + 1,
        };
        let addresses = self.addresses().filter(|at| !at.is_one_to_one()).count() as u32;
        (range * addresses / 4 * 3).max(1)
    }

    fn begin_inbound(&self, tuple: &Tuple) -> Result<Plan, Refused> {
        // A published port must not fill the table at the expense of the rest.
        let most = (self.config.max_connections_per_port / 2) as u32;
        let number = self.number_of(tuple.dst.address).ok_or(Refused::NoMapping)?;
        let address = self.address(number).filter(|address| !address.is_retired).ok_or(Refused::NoMapping)?;
        let (inside, mapping, basis) = match address.kind {
            ExternalKind::OneToOne(guest) => {
                if self.guests.find(guest).is_some_and(|number| self.guests.get(number).connections() >= most) {
                    return Err(Refused::PortShare);
                }
                (Endpoint::new(guest, tuple.dst.port), MappingClaim::None, Basis::OneToOne)
            }
            _ => {
                if !matches!(tuple.protocol, Protocol::TCP | Protocol::UDP) {
                    return Err(Refused::NoMapping);
                }
                let known = address.ports[protocol_index(tuple.protocol)].mapping(tuple.dst.port).ok_or(Refused::NoMapping)?;
                let entry = self.mappings.get(known);
                if entry.connections >= most {
                    return Err(Refused::PortShare);
                }
                if entry.is_closing || !entry.is_published && self.config.filtering != Filtering::EndpointIndependent {
                    return Err(Refused::NoMapping);
                }
                (entry.inside, MappingClaim::Known(known), self.basis_of(known))
            }
        };
        let guest = match self.guests.find(inside.address) {
            // It stays paired with the address that its own connections use.
            Some(guest) => GuestClaim::Known { number: guest, external: self.guests.get(guest).external },
            None if self.guests.has_room() => GuestClaim::New { address: inside.address, external: number },
            None => return Err(Refused::TableFull),
        };
        let reply = Tuple { side: Side::Inside, protocol: tuple.protocol, src: inside, dst: tuple.src };
        Ok(Plan { reply, basis, guest, mapping })
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
        match known {
            Some(number) => Ok(GuestClaim::Known { number, external }),
            None if self.guests.has_room() => Ok(GuestClaim::New { address, external }),
            None => Err(Refused::TableFull),
        }
    }

    /// The address of the pool that a hash selects.
    fn pooled(&self, hash: u64) -> Option<u8> {
        let is_pooled = |at: &Option<Address>| at.as_ref().is_some_and(|at| !at.is_one_to_one() && !at.is_retired);
        let count = self.addresses.iter().filter(|at| is_pooled(at)).count();
        let pool = self.addresses.iter().enumerate().filter(|(_, at)| is_pooled(at));
        pool.map(|(number, _)| number as u8).nth((hash % count.max(1) as u64) as usize)
    }
}
