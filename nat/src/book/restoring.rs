//! Connections of an earlier process, opened again as they were.

use packet::Timestamp;

use super::{Book, NONE};
use crate::config::ExternalKind;
use crate::open_ports::OpenPorts;
use crate::pending::MappingClaim;
use crate::shares::protocol_index;
use crate::table::{Id, LeftConnection, Table, Tuples};
use crate::tuple::{Endpoint, Protocol};

impl Book {
    /// Opens a connection as it was. False, and nothing changes, if its outside address or port is not to be had.
    pub(crate) fn restore(&mut self, table: &Table, open: &OpenPorts, left: &LeftConnection, now: Timestamp) -> bool {
        let Tuples { original, reply } = left.tuples;
        let protocol = original.protocol;
        let Some((inside, outside)) = left.ends() else { return false };
        let Some(external) = self.number_of(outside.address) else { return false };
        let Some(claim) = self.claim_again(protocol, inside, external, outside.port) else { return false };
        let hashes = [table.hash(&original), table.hash(&reply)];
        let is_there = table.find(&original, hashes[0]).is_some() || table.find(&reply, hashes[1]).is_some();
        let (Some(slots), true) = (table.free_slots(hashes), self.live() < self.config.max_connections && !is_there) else {
            return false;
        };
        let secs = now.secs();
        let id = self.free.last().map_or(Id(self.cold.len() as u32), |id| Id(*id));
        if !table.put_in(id, &left.tuples, (hashes, slots), left.tracker.as_ref(), secs) {
            return false;
        }
        table.set_flags(id, left.flags);
        let guest = self.guests.find(inside.address).unwrap_or_else(|| self.guests.add(inside.address, external));
        self.guests.opened(guest, external);
        let owner = self.nobody();
        let share = self.shares.find_or_add(owner, inside.address);
        self.shares.opened(share);
        let mapping = match claim {
            MappingClaim::None => NONE,
            MappingClaim::Known(known) => {
                self.mappings.get_mut(known).connections += 1;
                known
            }
            MappingClaim::New { external, port } => self.add_mapping((protocol, inside), (external, port), share, open),
        };
        // Its place in the queues is made in any case.
        self.note(id, &original, (mapping, guest, share), owner);
        if !table.is_half_open(id) {
            self.dequeue(id);
        }
        self.wheel.insert(id.0, secs.saturating_add(super::FIRST_LOOK));
        true
    }

    /// Whether a connection that was idle for so many seconds has timed out.
    pub(crate) fn is_past(&self, left: &LeftConnection, idle: u32) -> bool {
        idle > self.timeout(&left.tuples.original, left.tracker.as_ref())
    }

    /// What an endpoint needs to have an outside port again; `None` if it cannot have it.
    fn claim_again(&self, protocol: Protocol, inside: Endpoint, external: u8, port: u16) -> Option<MappingClaim> {
        let address = self.address(external).filter(|address| !address.is_retired)?;
        match address.kind {
            ExternalKind::OneToOne(guest) => (guest == inside.address).then_some(MappingClaim::None),
            ExternalKind::Shared if !protocol.has_ports() => None,
            _ if !protocol.has_ports() => Some(MappingClaim::None),
            _ => {
                let ports = &address.ports[protocol_index(protocol)];
                match ports.mapping(port) {
                    Some(known) => {
                        let entry = self.mappings.get(known);
                        (entry.inside == inside && !entry.is_closing).then_some(MappingClaim::Known(known))
                    }
                    None if ports.is_usable(port) && self.mappings.has_room() => Some(MappingClaim::New { external, port }),
                    None => None,
                }
            }
        }
    }
}
