//! Changes while packets flow: outside addresses, published ports, ports granted on a shared address, connections ended
//! by the operator.
//!
//! A change ends the connections that it concerns, so that none outlives its rule.

use std::net::Ipv4Addr;

use packet::Timestamp;

use crate::Refused;
use crate::book::{AT_ONCE, Book};
use crate::config::{External, ExternalKind, Published, Timeouts};
use crate::demand::Demand;
use crate::nat::Nat;
use crate::shares::protocol_index;
use crate::show::Connection;
use crate::table::Id;
use crate::tuple::{Protocol, Side, Tuple};

/// Maximum number of repeated attempts, over all connections of a walk, to end a connection that a worker is using.
const MAX_RETRIES: usize = 10_000;

impl Nat {
    /// Whether this is an outside address.
    #[inline]
    #[must_use]
    pub fn is_external(&self, address: Ipv4Addr) -> bool {
        self.addresses.find(address).is_some()
    }

    /// Whether this outside address belongs to one guest alone.
    #[must_use]
    pub fn is_one_to_one(&self, address: Ipv4Addr) -> bool {
        self.addresses.find(address).is_some_and(|(_, one_to_one)| one_to_one)
    }

    /// Sets the outside addresses, at most `MAX_EXTERNALS`. Addresses that stay keep their connections. Connections and
    /// published ports of an address that is removed, or whose kind changes, end.
    pub fn set_externals(&self, externals: &[External], now: Timestamp) -> Result<(), Refused> {
        let now_there: Vec<External> =
            self.book().addresses().map(|at| External { address: at.address, kind: at.kind }).collect();
        for gone in now_there.iter().filter(|there| !externals.contains(there)) {
            self.remove_external(gone.address, now);
        }
        for (at, new) in externals.iter().enumerate() {
            // An address that is named several times is one record.
            if now_there.contains(new) || externals[..at].iter().any(|other| other.address == new.address) {
                continue;
            }
            // Under one lock: the reply to the first connection by this address may come at once.
            let mut book = self.book();
            let number = book.add_address(*new).ok_or(Refused::TableFull)?;
            self.addresses.set(number, Some(*new));
        }
        Ok(())
    }

    fn remove_external(&self, address: Ipv4Addr, now: Timestamp) {
        let Some(number) = self.book().number_of(address) else { return };
        // First no new connections are accepted, then the existing ones end.
        self.addresses.set(number, None);
        self.book().retire(number);
        let is_of = |tuple: &Tuple| tuple.side == Side::Outside && tuple.dst.address == address;
        self.flush(now, |connection| is_of(&connection.original) || is_of(&connection.reply));
        let mut book = self.book();
        for mapping in book.published_at(number) {
            book.unpublish(mapping, now, &self.open_ports);
        }
        book.remove_address(number);
    }

    /// Publishes a port. Connections of guests that happen to use it end. An error if another rule has the port, or the
    /// address does not exist.
    pub fn publish(&self, rule: &Published, now: Timestamp) -> Result<(), Refused> {
        let index = protocol_index(rule.protocol);
        let (number, held, was_usable) = {
            let mut book = self.book();
            let number = book.number_of(rule.address).ok_or(Refused::NoAddress)?;
            let held = book.mapping_of(number, rule.protocol, rule.port);
            if held.is_some_and(|mapping| book.is_published(mapping)) {
                return Err(Refused::Clash);
            }
            if let Some(mapping) = held {
                book.close_mapping(mapping, &self.open_ports);
            }
            // No new mapping can take the port meanwhile.
            let ports = &mut book.address_mut(number).ok_or(Refused::NoAddress)?.ports[index];
            let was_usable = ports.is_usable(rule.port);
            ports.forbid(rule.port);
            (number, held, was_usable)
        };
        if held.is_some() {
            self.end_where(now, |book, id| book.mapping_in_use(id) == held);
        }
        let mut book = self.book();
        let published = book.publish(number, rule.protocol, rule.port, rule.guest, &self.open_ports);
        if was_usable && let Some(address) = book.address_mut(number) {
            address.ports[index].allow([rule.port]);
        }
        published
    }

    /// Removes a rule and ends all of its connections. False if there is no such rule.
    pub fn unpublish(&self, address: Ipv4Addr, protocol: Protocol, port: u16, now: Timestamp) -> bool {
        let mapping = {
            let mut book = self.book();
            let Some(number) = book.number_of(address) else { return false };
            let Some(mapping) = book.mapping_of(number, protocol, port).filter(|mapping| book.is_published(*mapping)) else {
                return false;
            };
            book.close_mapping(mapping, &self.open_ports);
            if book.is_unused(mapping) {
                book.unpublish(mapping, now, &self.open_ports);
                return true;
            }
            mapping
        };
        self.end_where(now, |book, id| book.mapping_in_use(id) == Some(mapping));
        self.book().unpublish(mapping, now, &self.open_ports);
        true
    }

    /// Changes the guest of a published port, and ends all connections of the rule. False if there is no such rule. Unlike
    /// [`Nat::unpublish`] followed by [`Nat::publish`], it never fails for lack of room.
    pub fn redirect(&self, rule: &Published, now: Timestamp) -> bool {
        let (number, mapping) = {
            let mut book = self.book();
            let Some(number) = book.number_of(rule.address) else { return false };
            let mapping = book.mapping_of(number, rule.protocol, rule.port);
            let Some(mapping) = mapping.filter(|mapping| book.is_published(*mapping)) else { return false };
            book.close_mapping(mapping, &self.open_ports);
            (number, mapping)
        };
        self.end_where(now, |book, id| book.mapping_in_use(id) == Some(mapping));
        let mut book = self.book();
        book.unpublish(mapping, now, &self.open_ports);
        book.publish(number, rule.protocol, rule.port, rule.guest, &self.open_ports).is_ok()
    }

    /// Allows new mappings to use these ports of a shared address, which the caller has reserved on the host.
    pub fn grant(&self, address: Ipv4Addr, protocol: Protocol, ports: &[u16]) {
        let mut book = self.book();
        let range = self.config.ports.clone();
        if let Some(number) = book.number_of(address)
            && let Some(address) = book.address_mut(number)
        {
            address.ports[protocol_index(protocol)].allow(ports.iter().copied().filter(|port| range.contains(port)));
        }
    }

    /// Revokes the grant of a port. Returns false, and the grant stays, if a mapping has the port.
    pub fn revoke(&self, address: Ipv4Addr, protocol: Protocol, port: u16) -> bool {
        let mut book = self.book();
        let Some(number) = book.number_of(address) else { return true };
        let Some(address) = book.address_mut(number) else { return true };
        let ports = &mut address.ports[protocol_index(protocol)];
        if ports.mapping(port).is_some() {
            return false;
        }
        ports.forbid(port);
        true
    }

    /// Number of ports of an address that are allowed and free.
    #[must_use]
    pub fn free_ports(&self, address: Ipv4Addr, protocol: Protocol) -> u32 {
        let book = self.book();
        let number = book.number_of(address);
        number.and_then(|number| book.address(number)).map_or(0, |address| address.ports[protocol_index(protocol)].free())
    }

    /// The ports that are wanted, by shared address and protocol. Clears the notes.
    #[must_use]
    pub fn demand(&self) -> Vec<Demand> {
        let mut book = self.book();
        let shared = book.addresses().filter(|at| at.kind == ExternalKind::Shared);
        let demands = shared.filter_map(|at| book.number_of(at.address).map(|number| (number, at))).flat_map(|(number, at)| {
            let wanted = &book.wanted;
            [Protocol::TCP, Protocol::UDP].map(|protocol| Demand {
                address: at.address,
                protocol,
                free: at.ports[protocol_index(protocol)].free(),
                blocks: wanted.blocks(number, protocol),
            })
        });
        let demands = demands.collect();
        book.wanted.clear();
        demands
    }

    /// Ends all connections that `concerned` accepts. Returns their number.
    pub fn flush(&self, now: Timestamp, concerned: impl Fn(&Connection) -> bool) -> usize {
        self.end_where(now, |_, id| concerned(&self.connection(id, now)))
    }

    /// Sets the timeouts, for existing connections too.
    pub fn set_timeouts(&self, timeouts: Timeouts, now: Timestamp) {
        self.timeouts.set(timeouts);
        self.book().set_timeouts(timeouts);
        let mut from = Some(0);
        while let Some(start) = from {
            let mut book = self.book();
            let mut ids = Vec::with_capacity(AT_ONCE);
            from = book.scan(start, AT_ONCE, |id| ids.push(id));
            ids.into_iter().for_each(|id| book.reschedule(&self.table, id, now.secs()));
        }
    }

    /// Sets the number of ports of the bridge, including the uplink. A single port is not limited to a share.
    pub fn set_ports_of_bridge(&self, ports: usize) {
        self.book().set_ports_of_bridge(ports);
    }

    /// Removes a port of the bridge whose number will be reused. Its connections live on, because their guest may be
    /// behind another port now, but count against no port; its incomplete datagrams are forgotten. To be called when no
    /// more packets can come from the port.
    pub fn disown(&self, owner: u16) {
        self.fragments().disown(owner);
        let mut from = self.book().is_owner(owner).then_some(0);
        while let Some(start) = from {
            let mut book = self.book();
            let mut ids = Vec::with_capacity(AT_ONCE);
            from = book.scan(start, AT_ONCE, |id| ids.push(id));
            ids.into_iter().for_each(|id| book.disown(id, owner));
        }
    }

    pub(crate) fn end_where(&self, now: Timestamp, concerned: impl Fn(&Book, Id) -> bool) -> usize {
        let (mut ended, mut from, mut patience) = (0, Some(0), MAX_RETRIES);
        while let Some(start) = from {
            let mut book = self.book();
            let mut ids = Vec::with_capacity(AT_ONCE);
            let next = book.scan(start, AT_ONCE, |id| {
                if concerned(&book, id) {
                    ids.push(id);
                }
            });
            let gone = ids.iter().filter(|id| book.end(&self.table, &self.open_ports, **id, now)).count();
            (0..gone).for_each(|_| book.note_flushed());
            ended += gone;
            drop(book);
            // A worker uses a connection only for a moment: try again.
            if gone < ids.len() && patience > 0 {
                patience -= 1;
                std::thread::yield_now();
            } else {
                from = next;
            }
        }
        ended
    }
}
