//! The end of connections: their timeouts, the timer wheel, and what an end frees.

use packet::Timestamp;

use super::{Book, limits};
use crate::config::Timeouts;
use crate::mappings::MappingEntry;
use crate::open_ports::OpenPorts;
use crate::table::{Id, Table};
use crate::tcp::{Phase, Tracker};
use crate::tuple::{Protocol, Tuple};

/// Number of connections due for expiry that each opening looks at.
const EXPIRE_WITH_EACH: usize = 2;

impl Book {
    pub(super) fn timeout(&self, tuple: &Tuple, tracker: Option<&Tracker>) -> u32 {
        self.config.timeouts.of(tuple.protocol, || tracker.map_or(Phase::Opening, Tracker::phase))
    }

    /// Schedules the next look at a connection for when it is due. A TCP connection is looked at sooner: it may be
    /// closed at any time, and has a shorter timeout then. So is a half-open one, which times out sooner under pressure.
    fn look_at_again(&mut self, id: Id, protocol: Protocol, secs: u32, due: u32) {
        let sooner = |within: u32| due.min(secs.saturating_add(within).saturating_add(1));
        let at = match protocol {
            _ if self.cold[id.0 as usize].is_queued => sooner(limits::PRESSED_SECS),
            Protocol::TCP => sooner(self.config.timeouts.tcp_transitory),
            _ => due,
        };
        self.wheel.insert(id.0, at);
    }

    /// Whether a connection has timed out.
    pub(crate) fn is_over(&self, table: &Table, id: Id, secs: u32) -> bool {
        secs.saturating_sub(table.used(id)) > self.timeout_of(table, id)
    }

    fn timeout_of(&self, table: &Table, id: Id) -> u32 {
        self.timeout(&table.tuples(id).original, Some(&table.tracker(id)))
    }

    /// The timeout of a connection that is being looked at: shorter if it is half-open and its port is under pressure. Takes
    /// one that is complete out of its queues.
    fn timeout_now(&mut self, table: &Table, id: Id) -> u32 {
        let timeout = self.timeout_of(table, id);
        if !self.cold[id.0 as usize].is_queued {
            return timeout;
        }
        if !table.is_half_open(id) {
            self.dequeue(id);
            return timeout;
        }
        if self.is_pressed(id) { timeout.min(limits::PRESSED_SECS) } else { timeout }
    }

    /// Ends connections that have timed out, looking at up to `budget`. Returns the number looked at: fewer than the
    /// budget means that no more are due.
    pub(crate) fn expire(&mut self, table: &Table, open: &OpenPorts, now: Timestamp, budget: usize) -> usize {
        let secs = now.secs();
        for looked_at in 0..budget {
            let Some(number) = self.wheel.next(secs) else { return looked_at };
            let id = Id(number);
            let due = table.used(id).saturating_add(self.timeout_now(table, id)).saturating_add(1);
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
    pub(super) fn forget(&mut self, id: Id, secs: u32, open: &OpenPorts) {
        self.dequeue(id);
        let cold = self.cold[id.0 as usize];
        self.cold[id.0 as usize].is_live = false;
        self.free.push(id.0);
        self.owners[usize::from(cold.owner)].connections -= 1;
        if let Some(number) = cold.mapping() {
            let entry = self.mappings.get_mut(number);
            entry.connections -= 1;
            if entry.connections == 0 && !entry.is_published {
                let entry = *entry;
                self.mappings.remove(number);
                self.give_back(&entry, secs, open);
                self.discount_port(&entry);
            }
        }
        self.shares.closed(cold.share);
        self.guests.closed(cold.guest);
    }

    pub(super) fn give_back(&mut self, entry: &MappingEntry, secs: u32, open: &OpenPorts) {
        open.set(entry.external, entry.protocol, entry.port, false);
        if let Some(address) = &mut self.addresses[usize::from(entry.external)] {
            address.give_back(entry.protocol, entry.port, secs);
        }
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
}
