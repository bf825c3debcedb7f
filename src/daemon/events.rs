//! What the daemon tells those who follow events, besides what its parts tell themselves: stations that move, and
//! tables that are full.
//!
//! Both are looked for once a second, and only while somebody listens. Moves are noted by the MAC table, a few for
//! each second; that something is full shows by counters that grow. It is told at its first sign, and again only after
//! a minute without any.

use std::time::Duration;

use packet::Timestamp;
use vswitch::{DropReason, PortId};

use super::Daemon;
use crate::config::plan::Change;
use crate::control_socket::{ControlSocket, What};
use crate::edge::router::RouterControl;

/// What is full is told again only after so long without a sign of it.
const QUIET: Duration = Duration::from_secs(60);

/// Signs of something full: a counter that grows.
#[derive(Clone, Copy, Debug, Default)]
struct Edge {
    count: u64,
    /// When it last grew.
    seen: Option<Timestamp>,
}

/// All that can be full.
#[derive(Debug, Default)]
pub(super) struct Edges {
    /// By bridges.
    mac_tables: Vec<Edge>,
    nat_table: Edge,
    nat_ports: Edge,
    /// Did somebody listen a second ago? What was before is no news.
    is_warm: bool,
}

impl Edge {
    /// Notes the counter, and says whether that is to be told.
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

impl Daemon {
    /// Tells those who follow events, if there are any.
    pub(super) fn tell(&mut self, what: What) {
        if let Some(control) = &mut self.control {
            control.tell(what);
        }
    }

    /// Once a second.
    pub(super) fn tell_of_tables(&mut self) {
        if !self.control.as_ref().is_some_and(ControlSocket::has_readers) {
            self.edges.is_warm = false;
            return;
        }
        let moves = self.bridges.iter().map(|bridge| (bridge.config.name.clone(), bridge.table.take_moves()));
        let moves: Vec<_> = moves.filter(|(_, (moves, _))| self.edges.is_warm && !moves.is_empty()).collect();
        for (bridge, (moves, more)) in moves {
            self.tell_of_moves(&bridge, &moves, more);
        }
        self.tell_what_is_full();
        self.edges.is_warm = true;
    }

    /// The uplink is otherwise than before.
    pub(super) fn tell_of_uplink(&mut self) {
        let Some(uplink) = &self.uplink else { return };
        let view = self.uplink_view(uplink);
        self.tell(What::UplinkChanged { interface: view.interface, state: view.state, outside: view.outside });
    }

    /// Another configuration is in force.
    pub(super) fn tell_of_changes(&mut self, changes: &[Change]) {
        for change in changes {
            let (action, name, text) = (change.action.name().to_owned(), change.name.clone(), change.text.clone());
            self.tell(match change.kind {
                "port" => What::PortChanged { action, port: name, text },
                "tunnel" => What::TunnelChanged { action, tunnel: name, text },
                "rule" => What::RuleChanged { action, rule: name, text },
                kind => What::SettingChanged { action, setting: format!("{kind} {name}").trim_end().to_owned(), text },
            });
        }
        if !changes.is_empty() {
            self.tell(What::ConfigApplied { changes: changes.len() });
        }
    }

    /// The way to a peer is another.
    pub(super) fn tell_of_peer(&mut self, id: PortId) {
        let Some(peer) = self.tunnels.peers().iter().find(|peer| peer.id == id) else { return };
        let line = self.tunnels.line_of(peer);
        let (tunnel, mtu, problem) = (line.name.clone(), peer.mtu(line), peer.problem().map(str::to_owned));
        let peer = peer.address.to_string();
        self.tell(What::PeerChanged { tunnel, peer, mtu, problem });
    }

    fn tell_of_moves(&mut self, bridge: &str, moves: &[vswitch::MacMove], more: u64) {
        let names = self.port_names();
        let name = |id: PortId| names.get(id.index()).cloned().unwrap_or_default();
        for (at, moved) in moves.iter().enumerate() {
            // The last one tells of those that were not noted.
            let more = if at + 1 == moves.len() { more } else { 0 };
            let (bridge, vlan, mac) = (bridge.to_owned(), moved.vlan.get(), moved.mac.to_string());
            self.tell(What::MacMoved { bridge, vlan, mac, from: name(moved.from), to: name(moved.to), more });
        }
    }

    fn tell_what_is_full(&mut self) {
        let (now, is_warm) = (self.clock.now(), self.edges.is_warm);
        let tables: Vec<_> = self.bridges.iter().map(|bridge| (bridge.config.name.clone(), bridge.table.stats())).collect();
        self.edges.mac_tables.resize(tables.len(), Edge::default());
        for (at, (bridge, table)) in tables.into_iter().enumerate() {
            if self.edges.mac_tables[at].note(table.evicted, is_warm, now) {
                self.tell(What::MacTableFull { bridge, entries: table.entries });
            }
        }
        let Some(stats) = self.router.as_ref().and_then(RouterControl::nat).map(|nat| nat.stats()) else { return };
        let full = self.dropped_for(DropReason::NatTableFull);
        if self.edges.nat_table.note(full, is_warm, now) {
            self.tell(What::NatTableFull { connections: stats.connections });
        }
        let exhausted = self.dropped_for(DropReason::NatPortsExhausted);
        if self.edges.nat_ports.note(exhausted, is_warm, now) {
            self.tell(What::NatPortsExhausted { mappings: stats.mappings });
        }
    }

    /// Frames that were dropped for this reason, at whichever port.
    fn dropped_for(&self, reason: DropReason) -> u64 {
        let counters = self.workers.iter().flat_map(|worker| (0..).map_while(|id| worker.counters.port(PortId(id))));
        counters.map(|port| port.dropped(reason)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_at_the_first_sign_and_after_quiet() {
        let at = |seconds: u64| Timestamp::from_millis(seconds * 1000);
        let mut edge = Edge::default();
        assert!(!edge.note(10, false, at(0)), "what was before is no news");
        assert!(!edge.note(10, true, at(1)));
        assert!(edge.note(11, true, at(2)));
        assert!(!edge.note(12, true, at(3)) && !edge.note(12, true, at(60)));
        assert!(!edge.note(13, true, at(62)), "59 s of quiet");
        assert!(edge.note(14, true, at(122)));
    }
}
