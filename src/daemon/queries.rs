//! Queries of the control socket and of scrapers: each goes to the part that answers it.

use super::Daemon;
use crate::control_socket::{MacTableNow, Query, matches};
use crate::watch::traces;

/// Queries that are answered before devices have their turn.
const AT_ONCE: usize = 16;

impl Daemon {
    /// Answers waiting queries. A query whose client is gone is not computed.
    pub(super) fn answer_queries(&mut self) {
        for turn in 0..AT_ONCE {
            let at_socket = || self.control.as_ref()?.next_query();
            let of_scraper = || self.scrape.as_ref()?.next_query();
            let of_docker = || self.docker.as_ref()?.next_query();
            // None waits until the others have no more.
            let query = match turn % 3 {
                0 => at_socket().or_else(of_scraper).or_else(of_docker),
                1 => of_scraper().or_else(of_docker).or_else(at_socket),
                _ => of_docker().or_else(at_socket).or_else(of_scraper),
            };
            let Some(query) = query else { return };
            self.answer(query);
        }
        self.poller.waker().wake();
    }

    fn answer(&mut self, query: Query) {
        if query.is_abandoned() {
            return;
        }
        match query {
            Query::Show(reply) => {
                let report = self.report();
                drop(reply.send(self.view().show(&report)));
            }
            Query::Stats(reply) => {
                let report = self.report();
                drop(reply.send(self.view().stats(&report)));
            }
            Query::Metrics(reply) => {
                let report = self.report();
                let view = self.view();
                drop(reply.send((view.stats(&report), view.tunnels(&report))));
            }
            Query::Configuration(reply) => drop(reply.send(self.desired.to_toml())),
            Query::Upgrade { upgrade, reply } => {
                let outlives = self.state.outlives();
                let refusal = "without a state directory nothing would outlive this program: start it with --state DIR";
                self.state.next = Some(upgrade).filter(|_| outlives);
                drop(reply.send(if outlives { Ok(()) } else { Err(api::Refusal::conflict(refusal)) }));
            }
            Query::Health(reply) => drop(reply.send(())),
            Query::MacTable(reply) => {
                drop(reply.send(MacTableNow { bridges: self.mac_entries(), names: self.view().port_names() }));
            }
            Query::Routes(reply) => drop(reply.send(self.view().routes())),
            Query::Guests(reply) => drop(reply.send(self.view().guests())),
            Query::Network { bridge, reply } => drop(reply.send(self.view().network(&bridge))),
            Query::Neighbours(reply) => drop(reply.send(self.view().neighbours())),
            Query::Connections { filter, most, reply } => {
                let now = self.fabric.now();
                let find = |nat: &nat::Nat| nat.find_connections(now, most, |connection| matches(&filter, connection));
                drop(reply.send(self.edge.nat().map(|nat| find(nat))));
            }
            Query::Nat { most, reply } => drop(reply.send(self.view().nat(most))),
            Query::BeginCapture { port, want, reply } => {
                let port = port.map(|name| self.view().find_port(&name).map_err(|refusal| refusal.of_field("port"))).transpose();
                let ports = self.view().capture_ports();
                let control = self.poller.waker();
                drop(reply.send(port.and_then(|port| self.captures.begin(port, want, ports, control, &self.fabric))));
            }
            Query::CapturePorts(reply) => drop(reply.send(self.view().capture_ports())),
            Query::Imagine(words, reply) => {
                let id = self.view().find_port(&words.port).map_err(|refusal| refusal.of_field("packet"));
                let names = self.view().port_names();
                drop(reply.send(id.and_then(|id| traces::imagine(id, &words, names, &self.edge, &self.fabric))));
            }
            Query::Follow { count, port, filter, reply } => {
                let port = port.map(|name| self.view().find_port(&name).map_err(|refusal| refusal.of_field("port"))).transpose();
                let names = self.view().port_names();
                drop(reply.send(port.and_then(|port| self.traces.follow(count, port, filter, names, &self.fabric))));
            }
            Query::AddMac { vlan, mac, port, reply } => drop(reply.send(self.view().add_mac(vlan, mac, &port))),
            Query::RemoveMac { bridge, vlan, mac, reply } => {
                drop(reply.send(self.view().remove_mac(bridge.as_deref(), vlan, mac)));
            }
            Query::FlushMacs { bridge, port, vlan, reply } => {
                drop(reply.send(self.view().flush_macs(bridge.as_deref(), port.as_deref(), vlan)));
            }
            Query::FlushNeighbours { address, reply } => drop(reply.send(self.view().flush_neighbours(address))),
            Query::FlushConnections { filter, reply } => drop(reply.send(self.view().flush_connections(&filter))),
            Query::Reconfigure { verb, dry_run, reply } => drop(reply.send(self.reconfigure(&verb, dry_run))),
        }
    }
}
