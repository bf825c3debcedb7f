//! Events about tables: MAC addresses that moved to another port, and tables that are full.
//!
//! Both are looked for once a second, and only while somebody follows events. The MAC table notes moves, a few for each second;
//! a table that is full shows by a counter that grows. A full table is reported at the first sign, and again only after a
//! minute without any.

use std::time::Duration;

use api::What;
use packet::Timestamp;
use vswitch::{DropReason, MacMove, PortId};

use crate::edge::Edge;
use crate::fabric::Fabric;

/// A full table is reported again after this time without a sign of it.
const QUIET: Duration = Duration::from_secs(60);

/// A counter that grows while a table is full.
#[derive(Clone, Copy, Debug, Default)]
struct Alarm {
    count: u64,
    /// When it last grew.
    seen: Option<Timestamp>,
}

/// The tables that can be full.
#[derive(Debug, Default)]
pub(crate) struct Alarms {
    /// One for each bridge.
    mac_tables: Vec<Alarm>,
    nat_table: Alarm,
    nat_ports: Alarm,
    /// Somebody followed events at the last tick. What happened before that is not reported.
    is_warm: bool,
}

impl Alarm {
    /// Takes the counter's value, and says whether that is to be reported.
    fn note(&mut self, count: u64, is_warm: bool, now: Timestamp) -> bool {
        let grew = count > self.count && is_warm;
        self.count = count;
        let is_first = self.seen.is_none_or(|seen| now.since(seen) >= QUIET);
        if grew {
            self.seen = Some(now);
        }
        grew && is_first
    }
}

impl Alarms {
    /// Once a second: reports moves and full tables. `names` are those of all ports, by their numbers.
    pub(crate) fn tick(&mut self, names: &[String], edge: &Edge, fabric: &mut Fabric) {
        if !fabric.events.has_readers() {
            self.is_warm = false;
            return;
        }
        let moves = fabric.bridges.iter().map(|bridge| (bridge.config.name.clone(), bridge.table.take_moves()));
        let moves: Vec<_> = moves.filter(|(_, (moves, _))| self.is_warm && !moves.is_empty()).collect();
        for (bridge, (moves, more)) in moves {
            tell_of_moves(&bridge, &moves, more, names, fabric);
        }
        self.tell_what_is_full(edge, fabric);
        self.is_warm = true;
    }

    fn tell_what_is_full(&mut self, edge: &Edge, fabric: &mut Fabric) {
        let (now, is_warm) = (fabric.now(), self.is_warm);
        let tables = fabric.bridges.stats();
        self.mac_tables.resize(tables.len(), Alarm::default());
        for (alarm, (bridge, table)) in self.mac_tables.iter_mut().zip(tables) {
            if alarm.note(table.evicted, is_warm, now) {
                fabric.events.tell(What::MacTableFull { bridge, entries: table.entries });
            }
        }
        let Some(stats) = edge.nat().map(|nat| nat.stats()) else { return };
        if self.nat_table.note(dropped_for(DropReason::NatTableFull, fabric), is_warm, now) {
            fabric.events.tell(What::NatTableFull { connections: stats.connections });
        }
        if self.nat_ports.note(dropped_for(DropReason::NatPortsExhausted, fabric), is_warm, now) {
            fabric.events.tell(What::NatPortsExhausted { mappings: stats.mappings });
        }
    }
}

fn tell_of_moves(bridge: &str, moves: &[MacMove], more: u64, names: &[String], fabric: &mut Fabric) {
    let name = |id: PortId| names.get(id.index()).cloned().unwrap_or_default();
    for (at, moved) in moves.iter().enumerate() {
        // The last one reports those that were not noted.
        let more = if at + 1 == moves.len() { more } else { 0 };
        let (bridge, vlan, mac) = (bridge.to_owned(), moved.vlan.get(), moved.mac.to_string());
        fabric.events.tell(What::MacMoved { bridge, vlan, mac, from: name(moved.from), to: name(moved.to), more });
    }
}

/// Frames that were dropped for this reason, at whichever port.
fn dropped_for(reason: DropReason, fabric: &Fabric) -> u64 {
    let ids = (0..fabric.slots.end()).map(|id| PortId(id as u16));
    let counters = fabric.workers.counters().flat_map(|counters| ids.clone().filter_map(|id| counters.port(id)));
    counters.map(|port| port.dropped(reason)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reported_at_the_first_sign_and_after_quiet() {
        let at = |seconds: u64| Timestamp::from_millis(seconds * 1000);
        let mut alarm = Alarm::default();
        assert!(!alarm.note(10, false, at(0)), "what was before is no news");
        assert!(!alarm.note(10, true, at(1)));
        assert!(alarm.note(11, true, at(2)));
        assert!(!alarm.note(12, true, at(3)) && !alarm.note(12, true, at(60)));
        assert!(!alarm.note(13, true, at(62)), "59 s of quiet");
        assert!(alarm.note(14, true, at(122)));
    }
}
