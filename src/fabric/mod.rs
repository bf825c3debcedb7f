//! The switching fabric as the control thread sees it: workers, port numbers, the bridges' MAC tables and the counters.
//!
//! Everything that frames come and go by acts on the fabric: ports, the uplink and tunnels attach their devices to the workers,
//! detach them, and give their numbers back when they are removed.
//!
//! *A port that is removed.* Its number is an index in every worker, so it is free only when all workers have let go of it:
//! [`Fabric::remove`] tells them, and [`Fabric::obeyed`] frees the number when the last one has answered ([`slots`]).
//!
//! *MAC entries* of a port whose device or link is gone are flushed twice, now and at the next tick: a worker may be
//! learning from the last frames of the port right now.
//!
//! *Threads.* Owned by the control thread. Workers share the MAC tables and write the counters that are read here.

pub(crate) mod bridges;
pub(crate) mod report;
pub(crate) mod slots;
mod workers;

use std::sync::Arc;

use netio::memory;
use packet::Timestamp;
use vswitch::{BridgeId, PortId};

use crate::events::Events;
use crate::worker::{Clock, Command};
use bridges::{Bridge, Bridges};
use report::{Ledger, Report};
use slots::Slots;
pub(crate) use workers::{Setup, Workers, queues_of};

/// What ports, uplink and tunnels are attached to.
pub(crate) struct Fabric {
    pub(crate) workers: Workers,
    pub(crate) slots: Slots,
    pub(crate) bridges: Bridges,
    pub(crate) events: Events,
    pub(crate) clock: Clock,
    ledger: Ledger,
    /// Ports whose MAC entries are flushed once more at the next tick.
    stale: Vec<PortId>,
    /// Ticks until the memory of bridges that went is given back, once no more go.
    gives_back_in: u32,
    /// Panics of workers, each of which lost the batch at hand.
    pub(crate) panics: u64,
}

impl Fabric {
    pub(crate) fn new(workers: Workers, slots: Slots, bridges: Bridges, clock: Clock) -> Fabric {
        let ledger = Ledger::new();
        Fabric { workers, slots, bridges, events: Events::new(), clock, ledger, stale: Vec::new(), gives_back_in: 0, panics: 0 }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Sends a command to each worker, made for its number. What it says about shared tables is done here, once.
    pub(crate) fn tell(&self, mut command: impl FnMut(usize) -> Command) {
        self.workers.tell(|worker| {
            let command = command(worker);
            if let (0, Command::Attach { id, port, .. } | Command::View { id, port }) = (worker, &command) {
                self.bridges.set_leads_to_network(*id, port);
            }
            command
        });
    }

    /// A new port has this number: its counters begin at zero.
    pub(crate) fn begin_to_count(&mut self, id: PortId) {
        self.ledger.begin(id, self.workers.counters());
    }

    /// Adds a bridge, or puts it in place of the one of its number.
    pub(crate) fn set_bridge(&mut self, bridge: Bridge) {
        let (id, table) = (bridge.id(), &bridge.table);
        self.workers.tell(|_| Command::Bridge { id, table: Some(Arc::clone(table)) });
        self.bridges.set(bridge);
    }

    /// Removes a bridge, whose ports are removed already.
    pub(crate) fn remove_bridge(&mut self, id: BridgeId) {
        self.workers.tell(|_| Command::Bridge { id, table: None });
        self.bridges.remove(id);
        // By then the workers have let go of its table.
        self.gives_back_in = 2;
    }

    /// Removes the MAC entries learned from a port, now and at the next tick.
    pub(crate) fn flush(&mut self, id: PortId) {
        self.bridges.flush(id);
        // A guest may come and go a thousand times a second.
        if !self.stale.contains(&id) {
            self.stale.push(id);
        }
    }

    /// Takes these ports away from the workers. Their numbers are free once all workers have obeyed.
    pub(crate) fn remove(&mut self, ids: Vec<PortId>) {
        for id in &ids {
            self.workers.tell(|_| Command::Remove(*id));
            self.bridges.remove_port(*id);
        }
        let rest = self.slots.give_back(ids, self.workers.len());
        self.workers.tell(|_| Command::Barrier(rest));
    }

    /// A worker has obeyed. Returns the numbers for which it was the last; they are [free](Fabric::free) once shared tables
    /// hold nothing of them.
    #[must_use]
    pub(crate) fn obeyed(&mut self, rest: u64) -> Vec<PortId> {
        self.slots.answered(rest)
    }

    /// No worker can learn or count anything more by these numbers: others may have them.
    pub(crate) fn free(&mut self, ids: &[PortId]) {
        ids.iter().for_each(|id| self.bridges.remove_port(*id));
        self.stale.retain(|id| !ids.contains(id));
        self.slots.put_back(ids);
    }

    /// Once a second: old MAC entries go, and those of ports that were lost since the last tick.
    pub(crate) fn tick(&mut self, now: Timestamp) {
        self.bridges.expire(now);
        for id in std::mem::take(&mut self.stale) {
            self.bridges.flush(id);
        }
        if self.gives_back_in > 0 {
            self.gives_back_in -= 1;
            if self.gives_back_in == 0 {
                memory::give_back();
            }
        }
    }

    /// The counters of all ports now, under these names, which are empty for numbers that no port has.
    pub(crate) fn report(&self, names: Vec<String>) -> Report {
        Report::new(names, self.workers.counters(), &self.ledger, self.bridges.stats(), self.panics)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use netio::Poller;

    use super::*;
    use crate::worker::Event;

    /// A fabric of one bridge and this many workers, whose threads the test starts, for ports below `capacity`.
    pub(crate) fn fabric(workers: usize, capacity: usize) -> Fabric {
        let config = config::Bridge { number: 0, name: "br0".to_owned(), mac_table_size: 1024, mac_aging_time: 300 };
        let bridges = Bridges::new(vec![config], &[0].into(), capacity).unwrap();
        let clock = Clock::start();
        let setup = Setup {
            workers,
            readers: 1,
            capacity,
            bridges: &bridges,
            router: &|| None,
            nat: None,
            clock,
            busy_poll: Duration::ZERO,
            control: Poller::new().unwrap().waker(),
        };
        let workers = Workers::new(&setup).unwrap();
        Fabric::new(workers, Slots::new(capacity), bridges, clock)
    }

    #[test]
    fn a_number_is_free_once_all_workers_have_obeyed() {
        let mut fabric = fabric(2, 4);
        fabric.workers.start().unwrap();
        let id = fabric.slots.take().unwrap();
        fabric.remove(vec![id]);
        let mut freed = Vec::new();
        for _ in 0..2 {
            assert_ne!(fabric.slots.take().as_ref(), Some(&id), "a worker may still use it");
            let event = fabric.workers.wait_for_event(Duration::from_secs(10));
            let Some(Event::Obeyed(rest)) = event else { panic!("{event:?}") };
            freed = fabric.obeyed(rest);
        }
        assert_eq!(freed, [id]);
        fabric.free(&freed);
        assert_eq!(fabric.slots.take(), Some(id));
        fabric.workers.stop();
    }

    #[test]
    fn entries_learned_after_a_loss_go_at_the_next_tick() {
        let mut fabric = fabric(1, 4);
        let learn = |fabric: &Fabric| {
            let table = fabric.bridges.table(vswitch::BridgeId(0)).unwrap();
            let _ = table.learn(packet::VlanId::NONE, packet::MacAddr([2, 0, 0, 0, 0, 1]), PortId(1), fabric.now());
        };
        let known = |fabric: &Fabric| fabric.bridges.entries(fabric.now())[0].1.len();
        learn(&fabric);
        fabric.flush(PortId(1));
        assert_eq!(known(&fabric), 0);
        learn(&fabric);
        assert_eq!(known(&fabric), 1, "by a worker that had frames of the port at hand");
        fabric.tick(fabric.now());
        assert_eq!(known(&fabric), 0);
    }
}
