//! The connections, mappings and ports as an operator sees them.

use std::ops::Range;

use packet::Timestamp;

use crate::book::{AT_ONCE, Book, NatStats, PortUsage};
use crate::nat::Nat;
use crate::table::Id;
use crate::tcp::Phase;
use crate::tuple::{Endpoint, Protocol, Tuple};

/// A connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Connection {
    /// The direction of the packet that opened it.
    pub original: Tuple,
    /// The direction of its replies.
    pub reply: Tuple,
    /// For TCP.
    pub phase: Option<Phase>,
    /// Seconds until it ends if no packet comes.
    pub expires_in: u32,
}

/// An inside endpoint and the outside one that stands for it. A guest's mapping lives as long as a connection uses it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortMapping {
    /// The protocol.
    pub protocol: Protocol,
    /// The guest's endpoint.
    pub inside: Endpoint,
    /// The endpoint that peers outside see.
    pub outside: Endpoint,
    /// Number of connections that use it.
    pub connections: u32,
    /// It belongs to a published port, and stays without connections.
    pub is_published: bool,
}

impl Nat {
    /// Counters so far.
    #[must_use]
    pub fn stats(&self) -> NatStats {
        self.book().stats()
    }

    /// The memory that packets of known connections read, in no order of addresses.
    #[must_use]
    pub fn memory(&self) -> [Range<*const u8>; 2] {
        self.table.memory()
    }

    /// The ports in use and free on each outside address. Allocates; holds the lock for a look at each port's bit.
    #[must_use]
    pub fn port_usage(&self) -> Vec<PortUsage> {
        self.book().port_usage()
    }

    /// Number of fragmented datagrams that are tracked, at most [`fragments::DATAGRAMS`](crate::fragments::DATAGRAMS), and
    /// of frames held until the first fragment comes.
    #[must_use]
    pub fn fragments_now(&self) -> (usize, usize) {
        let fragments = self.fragments();
        (fragments.len(), fragments.held())
    }

    /// All connections, in no order. Allocates, and takes the lock for a moment at a time.
    #[must_use]
    pub fn connections(&self, now: Timestamp) -> Vec<Connection> {
        let mut connections = Vec::with_capacity(self.stats().connections);
        self.for_each(|book, id| {
            if !book.is_over(&self.table, id, now.secs()) {
                connections.push(self.connection(id, now));
            }
        });
        connections
    }

    /// The number of connections that `matches` accepts, and the first `most` of them, in no order. Takes the lock for a
    /// moment at a time.
    #[must_use]
    pub fn find_connections(
        &self,
        now: Timestamp,
        most: usize,
        matches: impl Fn(&Connection) -> bool,
    ) -> (usize, Vec<Connection>) {
        let (mut count, mut found) = (0, Vec::new());
        self.for_each(|book, id| {
            if book.is_over(&self.table, id, now.secs()) {
                return;
            }
            let connection = self.connection(id, now);
            if matches(&connection) {
                count += 1;
                if found.len() < most {
                    found.push(connection);
                }
            }
        });
        (count, found)
    }

    /// The number of mappings, and the first `most` of them, in no order. Takes the lock for a moment at a time.
    #[must_use]
    pub fn mappings(&self, most: usize) -> (usize, Vec<PortMapping>) {
        let (mut count, mut found, mut from) = (0, Vec::new(), Some(0));
        while let Some(start) = from {
            from = self.book().scan_mappings(start, AT_ONCE, |entry, address| {
                count += 1;
                if found.len() < most {
                    found.push(PortMapping {
                        protocol: entry.protocol,
                        inside: entry.inside,
                        outside: Endpoint::new(address, entry.port),
                        connections: entry.connections,
                        is_published: entry.is_published,
                    });
                }
            });
        }
        (count, found)
    }

    /// A connection by its number. Only with the book's lock held.
    pub(crate) fn connection(&self, id: Id, now: Timestamp) -> Connection {
        let tuples = self.table.tuples(id);
        let phase = (tuples.original.protocol == Protocol::TCP).then(|| self.table.tracker(id).phase());
        let timeout = self.timeouts.of(tuples.original.protocol, || phase.unwrap_or(Phase::Opening));
        let idle = now.secs().saturating_sub(self.table.used(id));
        Connection { original: tuples.original, reply: tuples.reply, phase, expires_in: timeout.saturating_sub(idle) }
    }

    /// Visits all connections, [`AT_ONCE`] at a time under the lock.
    fn for_each(&self, mut visit: impl FnMut(&Book, Id)) {
        let mut from = Some(0);
        while let Some(start) = from {
            let book = self.book();
            from = book.scan(start, AT_ONCE, |id| visit(&book, id));
        }
    }
}
