//! Tunnels that are added and removed while the switch runs.
//!
//! A new tunnel receives by an open socket, if one has its address and port, and by a new one otherwise; it sends by an open
//! set of sockets, if another tunnel sends alike. Both, and the path to each host, are found by [`TunnelControl::prepare`], while
//! no worker knows of the tunnel. A tunnel that is removed leaves its sockets to those that share them; sockets without a tunnel are
//! closed. Groups are joined and left by [`TunnelControl::commit`], so that a shared socket never hears the group of a tunnel
//! that is refused. A group that cannot be joined is tried again each second, like one whose interface is gone.
//!
//! Indices count the present tunnels first, then the new ones; only [`TunnelControl::commit`] takes old ones out
//! and moves the others up.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, ensure};
use netio::udp::{Sources, SourcesSpec};
use vswitch::{BridgeId, PortId};

use super::socket::{self, SocketControl};
use super::spec::TunnelSpec;
use super::{PeerControl, Tunnel, TunnelControl, devices, open_ways, sources_specs};

/// Tunnels that are open and that no worker knows of yet.
#[derive(Debug, Default)]
pub(crate) struct NewTunnels {
    tunnels: Vec<Tunnel>,
    sockets: Vec<SocketControl>,
    peers: Vec<PeerControl>,
    pools: Vec<(SourcesSpec, Sources)>,
}

/// What a change did.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    /// Numbers of removed peers and sockets.
    pub(crate) removed: Vec<PortId>,
    /// Numbers of new peers and sockets.
    pub(crate) added: Vec<PortId>,
}

impl NewTunnels {
    /// The tunnel of a new peer whose path begins at one of these addresses, if there is one.
    pub(crate) fn leaves_from(&self, bridge: BridgeId, addresses: &[Ipv4Addr], before: &TunnelControl) -> Option<&str> {
        let spec_of = |peer: &PeerControl| &self.tunnels[peer.tunnel - before.tunnels.len()].spec;
        super::leaves_from(&self.peers, spec_of, bridge, addresses)
    }
}

impl TunnelControl {
    /// Opens the sockets of these tunnels, with the next of these numbers. Those of the tunnels that are to be removed, by name,
    /// are still open.
    pub(crate) fn prepare(
        &self,
        removed: &[String],
        configs: &[config::Tunnel],
        ids: &mut dyn Iterator<Item = PortId>,
        queues: impl Fn(PortId) -> usize,
    ) -> anyhow::Result<NewTunnels> {
        let specs: Vec<TunnelSpec> = configs.iter().map(TunnelSpec::of).collect();
        let mut apart = Vec::new();
        for spec in &specs {
            match socket::of(&self.sockets, spec) {
                Some(at) => self.sockets[at].check_room_for(spec, self.in_the_way(at, removed).as_deref())?,
                None => apart.push(spec.clone()),
            }
        }
        let sockets = socket::open(&apart, ids, queues)?;
        let mut new = NewTunnels { sockets, pools: self.pools.clone(), ..NewTunnels::default() };
        for (spec, config) in specs.into_iter().zip(configs) {
            let behind = || Some(self.sockets.len() + socket::of(&new.sockets, &spec)?);
            let socket = socket::of(&self.sockets, &spec).or_else(behind).context("a tunnel without a socket")?;
            let sink = open_ways(&mut new.pools, &spec)?;
            let at = self.tunnels.len() + new.tunnels.len();
            let group = spec.group.as_ref().map(|group| group.address);
            let mut group_id = None;
            for address in group.into_iter().chain(spec.remotes.iter().copied()) {
                let id = ids.next().context("there is no number left for one more port until a restart")?;
                group_id = group_id.or(group.map(|_| id));
                new.peers.push(look_at_new(id, at, address, &spec)?);
            }
            new.tunnels.push(Tunnel { spec, statics: config.statics.clone(), routes: Vec::new(), socket, sink, group: group_id });
        }
        Ok(new)
    }

    /// The tunnels that receive by a socket, if all of them are to be removed.
    fn in_the_way(&self, socket: usize, removed: &[String]) -> Option<String> {
        let of_it = self.tunnels.iter().filter(|tunnel| tunnel.socket == socket);
        let names: Vec<&str> = of_it.map(|tunnel| tunnel.spec.name.as_str()).collect();
        names.iter().all(|name| removed.iter().any(|removed| removed == name)).then(|| names.join(", "))
    }

    /// Takes in what was prepared, and takes out the tunnels of these names.
    pub(crate) fn commit(&mut self, removed: &[String], new: NewTunnels) -> Committed {
        let NewTunnels { tunnels, sockets, peers, pools } = new;
        let added = sockets.iter().map(|socket| socket.id).chain(peers.iter().map(|peer| peer.id)).collect();
        let is_old = |tunnel: &Tunnel| removed.contains(&tunnel.spec.name);
        let old: Vec<usize> = self.tunnels.iter().enumerate().filter(|(_, tunnel)| is_old(tunnel)).map(|(at, _)| at).collect();
        self.tunnels.extend(tunnels);
        self.sockets.extend(sockets);
        self.peers.extend(peers);
        self.pools = pools;
        let mut gone = Vec::new();
        for at in old.into_iter().rev() {
            gone.extend(self.take_out(at));
        }
        gone.extend(self.close_unused());
        for (at, socket) in self.sockets.iter_mut().enumerate() {
            socket.hear_groups_of(self.tunnels.iter().filter(|tunnel| tunnel.socket == at).map(|tunnel| &tunnel.spec));
        }
        let known = std::mem::take(&mut self.devices);
        self.devices = devices(self.tunnels.iter().map(|tunnel| &tunnel.spec));
        for device in &mut self.devices {
            // One that became another just now is found to be so by the next look.
            if let Some(known) = known.iter().find(|known| known.name == device.name) {
                device.clone_from(known);
            }
        }
        let used: Vec<SourcesSpec> = self.tunnels.iter().flat_map(|tunnel| sources_specs(&tunnel.spec)).collect();
        self.pools.retain(|(set, _)| used.contains(set));
        Committed { removed: gone, added }
    }

    /// Takes a tunnel and its hosts out. Returns the hosts' numbers.
    fn take_out(&mut self, at: usize) -> Vec<PortId> {
        self.tunnels.remove(at);
        let gone = self.peers.iter().filter(|peer| peer.tunnel == at).map(|peer| peer.id).collect();
        self.peers.retain(|peer| peer.tunnel != at);
        self.peers.iter_mut().filter(|peer| peer.tunnel > at).for_each(|peer| peer.tunnel -= 1);
        gone
    }

    /// Closes sockets by which no tunnel receives. Returns their numbers.
    fn close_unused(&mut self) -> Vec<PortId> {
        let mut gone = Vec::new();
        for at in (0..self.sockets.len()).rev() {
            if self.tunnels.iter().any(|tunnel| tunnel.socket == at) {
                continue;
            }
            let mut socket = self.sockets.remove(at);
            self.dropped_before += socket.dropped();
            gone.push(socket.id);
            self.tunnels.iter_mut().filter(|tunnel| tunnel.socket > at).for_each(|tunnel| tunnel.socket -= 1);
        }
        gone
    }
}

fn look_at_new(id: PortId, tunnel: usize, address: IpAddr, spec: &TunnelSpec) -> anyhow::Result<PeerControl> {
    let mut peer = PeerControl::new(id, tunnel, address, true);
    peer.look(spec);
    ensure!(
        peer.source() != Some(address),
        "tunnel {}: {address} is an address of this host; name that of the other one",
        spec.name
    );
    if let Some(problem) = peer.problem() {
        tracing::warn!(tunnel = spec.name, peer = %address, problem, "no route to the peer");
    }
    Ok(peer)
}
