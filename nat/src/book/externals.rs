//! The outside addresses and their published ports, as the book keeps them.

use std::net::Ipv4Addr;

use packet::Timestamp;

use super::{Address, Book};
use crate::Refused;
use crate::config::{External, ExternalKind, MAX_EXTERNALS};
use crate::gate::{Gate, PortOwner};
use crate::half_open::Queue;
use crate::mappings::MappingEntry;
use crate::open_ports::OpenPorts;
use crate::pending::GuestClaim;
use crate::ports::Ports;
use crate::shares::protocol_index;
use crate::table::Id;
use crate::tuple::{Endpoint, Protocol, Tuple};

impl Book {
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

    /// Adds an outside address and returns its number; `None` if there are [`MAX_EXTERNALS`] already.
    pub(crate) fn add_address(&mut self, external: External) -> Option<u8> {
        if self.addresses().count() == MAX_EXTERNALS {
            return None;
        }
        let mut ports = self.spare.pop().unwrap_or_else(|| [false, true, true].map(Ports::new));
        // ICMP identifiers need no grant: the host's stack does not answer echo replies.
        ports[0].allow_all();
        if external.kind == ExternalKind::Own {
            ports[1].allow_only(&self.configured);
            ports[2].allow_only(&self.configured);
        }
        let gate = self.gate.as_ref().filter(|_| external.kind == ExternalKind::Shared);
        let marks = gate.map(Gate::marks);
        if let Some(gate) = gate {
            for protocol in [Protocol::TCP, Protocol::UDP] {
                let ports = &mut ports[protocol_index(protocol)];
                ports.allow_only(&gate.allowed(protocol, &self.config.ports));
                ports.shun(gate.shunned());
            }
        }
        let taken_by = vec![[0; 3]; self.owners.len()].into_boxed_slice();
        let External { address, kind } = external;
        let address = Some(Address { address, kind, ports, taken_by, is_retired: false, marks });
        let number = match self.addresses.iter().position(Option::is_none) {
            Some(number) => {
                self.addresses[number] = address;
                number
            }
            None => {
                self.addresses.push(address);
                self.addresses.len() - 1
            }
        };
        Some(number as u8)
    }

    /// The outside address of a guest, or the one that it would get.
    pub(crate) fn external_of(&self, guest: Ipv4Addr) -> Option<u8> {
        self.guest(guest).ok().map(GuestClaim::external)
    }

    /// Opens no further connections by an outside address.
    pub(crate) fn retire(&mut self, number: u8) {
        if let Some(address) = self.address_mut(number) {
            address.is_retired = true;
        }
    }

    /// Removes an outside address, whose connections and published ports have ended.
    pub(crate) fn remove_address(&mut self, number: u8) {
        let Some(slot) = self.addresses.get_mut(usize::from(number)) else { return };
        if let Some(Address { marks: Some(marks), ports, .. }) = slot {
            for protocol in [Protocol::TCP, Protocol::UDP] {
                let left = ports[protocol_index(protocol)].mappings();
                left.for_each(|(port, _)| marks.mark(protocol, port, PortOwner::Host));
            }
        }
        self.spare.extend(slot.take().map(Address::into_ports));
    }

    /// The published ports of an outside address.
    pub(crate) fn published_at(&self, number: u8) -> Vec<u32> {
        let ports = self.address(number).into_iter().flat_map(|address| &address.ports);
        ports.flat_map(Ports::mappings).map(|(_, mapping)| mapping).filter(|mapping| self.is_published(*mapping)).collect()
    }

    /// The mapping that has an outside port.
    pub(crate) fn mapping_of(&self, number: u8, protocol: Protocol, port: u16) -> Option<u32> {
        self.address(number)?.ports[protocol_index(protocol)].mapping(port)
    }

    pub(crate) fn is_published(&self, mapping: u32) -> bool {
        self.mappings.get(mapping).is_published
    }

    /// Whether no connection uses the mapping.
    pub(crate) fn is_unused(&self, mapping: u32) -> bool {
        self.mappings.get(mapping).connections == 0
    }

    /// Visits up to `most` mappings from number `from` on, with their outside addresses. Returns where to continue;
    /// `None` at the end.
    pub(crate) fn scan_mappings(&self, from: u32, most: usize, mut visit: impl FnMut(&MappingEntry, Ipv4Addr)) -> Option<u32> {
        self.mappings.scan(from, most, |entry| {
            if let Some(address) = self.address(entry.external) {
                visit(entry, address.address);
            }
        })
    }

    /// The mapping that a connection uses.
    pub(crate) fn mapping_in_use(&self, id: Id) -> Option<u32> {
        self.cold[id.0 as usize].mapping()
    }

    /// Opens no further connections by a mapping.
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
            share: 0,
            half_open: Queue::default(),
            is_published: true,
            is_indexed: true,
            is_closing: false,
        };
        let Some(Some(address)) = self.addresses.get_mut(usize::from(number)) else { return Err(Refused::NoAddress) };
        let mapping = self.mappings.add(entry);
        address.take(protocol, port, mapping, PortOwner::Published);
        open.set(number, protocol, port, true);
        Ok(())
    }

    /// Ends a published mapping whose connections have ended.
    pub(crate) fn unpublish(&mut self, mapping: u32, now: Timestamp, open: &OpenPorts) {
        let entry = *self.mappings.get(mapping);
        self.mappings.remove(mapping);
        self.give_back(&entry, now.secs(), open);
    }

    /// Notes that a guest's port lies in a block that was not granted. True if the control thread should act: grant that
    /// block, or any, because fewer than `few` ports are free.
    pub(crate) fn note_demand(&mut self, tuple: &Tuple, is_refused: bool, few: u32) -> bool {
        if self.gate.is_some() || !matches!(tuple.protocol, Protocol::TCP | Protocol::UDP) {
            return false;
        }
        let Some(external) = self.external_of(tuple.src.address) else { return false };
        let Some(address) = self.address(external).filter(|address| address.kind == ExternalKind::Shared) else { return false };
        let ports = &address.ports[protocol_index(tuple.protocol)];
        let is_low = ports.free() < few || is_refused;
        let is_usable = ports.is_usable(tuple.src.port);
        !is_usable && self.wanted.note(external, tuple.protocol, tuple.src.port) || is_low
    }
}
