//! Tunnels that come and go.

use std::net::Ipv4Addr;

use anyhow::ensure;
use vswitch::PortId;

use crate::config::plan::Plan;
use crate::config::{PortConfig, queues_of};
use crate::daemon::Daemon;
use crate::tunnel::NewTunnels;

impl Daemon {
    /// Opens what new tunnels need, with the next of these numbers.
    pub(super) fn prepare_tunnels(
        &mut self,
        plan: &Plan,
        ids: &mut dyn Iterator<Item = PortId>,
    ) -> anyhow::Result<Option<NewTunnels>> {
        if plan.added_tunnels.is_empty() && plan.removed_tunnels.is_empty() {
            return Ok(None);
        }
        for port in plan.added_tunnels.iter().map(|tunnel| tunnel.port) {
            if let Some(router) = &mut self.router {
                router.let_go(port)?;
            }
        }
        let queues = |id: PortId| queues_of(id.index().min(self.readers), self.readers, self.workers.len());
        let new = self.tunnels.prepare(&plan.added_tunnels, ids, queues)?;
        let stays = |port: &&PortConfig| !plan.removed_ports.iter().any(|removed| removed.is_same_port(port));
        let as_it_will_be = |port| plan.altered_ports.iter().find(|altered| altered.is_same_port(port)).unwrap_or(port);
        let ports = self.ports.iter().map(|port| &port.config).filter(stays).map(as_it_will_be).chain(&plan.added_ports);
        let uplink = self.uplink.iter().filter_map(|uplink| Some((uplink.bridge()?, uplink.interface.as_str())));
        for (bridge, name) in ports.filter_map(|port| Some((port.bridge, port.shared_interface()?))).chain(uplink) {
            let addresses = netio::link::get(name).and_then(|link| netio::route::addresses(link.index));
            let addresses: Vec<Ipv4Addr> = addresses.unwrap_or_default().into_iter().map(|(address, _)| address).collect();
            let leaves = new.leaves_from(bridge, &addresses, &self.tunnels);
            ensure!(
                leaves.is_none(),
                "tunnel {} goes out by {name}, which is a port of the bridge: its datagrams would be bridged into it again; \
                 give the tunnel another interface",
                leaves.unwrap_or_default()
            );
        }
        Ok(Some(new))
    }

    /// Workers get the new hosts and sockets, and let go of those that are no more.
    pub(super) fn commit_tunnels(&mut self, plan: &Plan, new: NewTunnels) {
        let committed = self.tunnels.commit(&plan.removed_tunnels, new);
        for id in &committed.added {
            self.slots.mark(*id);
            self.begin_to_count(*id);
        }
        if !committed.removed.is_empty() {
            self.remove(committed.removed);
        }
        for peer in self.tunnels.peers().iter().filter(|peer| committed.added.contains(&peer.id)) {
            self.attach_peer(peer);
        }
        // Those that stay have other peers now.
        for at in 0..self.tunnels.endpoints().len() {
            let is_new = committed.added.contains(&self.tunnels.endpoints()[at].id);
            if let Err(error) = self.attach_endpoint(at, is_new) {
                tracing::warn!("{error}");
            }
        }
        let is_new = |id: PortId| committed.added.contains(&id);
        if let Err(error) = self.tunnels.add_statics(|bridge| self.bridges.table(bridge), is_new) {
            tracing::warn!("{error}");
        }
    }
}
