//! Tunnels that come and go while the switch runs.
//!
//! A tunnel that comes receives by a socket that is there, if one has its address and port, and else by a new one; it sends by a
//! set of sockets that is there, if another tunnel sends alike. Both, and the way to each host, are found first
//! ([`TunnelControl::prepare`]), when nothing is known of the tunnel yet. A tunnel that goes leaves its sockets to those that share
//! them; what nobody uses any more is closed. Groups are joined and left when all is sure: a socket that others share hears no
//! group of a tunnel that is refused. A group that cannot be joined then is tried for each second, as one whose interface is away.
//!
//! Places in lists are those of the tunnels that are there, then the new ones; only [`TunnelControl::commit`] takes old ones out
//! and moves the others up.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, ensure};
use netio::udp::{Sources, SourcesSpec};
use vswitch::{BridgeId, PortId};

use super::endpoint::{self, EndpointControl};
use super::line::Line;
use super::{PeerControl, Tunnel, TunnelControl, devices, open_ways, specs_of};
use crate::config::tunnel::TunnelConfig;

/// Tunnels that have all they need, and of which nobody knows.
#[derive(Debug, Default)]
pub(crate) struct NewTunnels {
    tunnels: Vec<Tunnel>,
    endpoints: Vec<EndpointControl>,
    peers: Vec<PeerControl>,
    pools: Vec<(SourcesSpec, Sources)>,
}

/// What workers are to be told.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    /// Numbers of hosts and sockets that are none any more.
    pub(crate) removed: Vec<PortId>,
    /// Those of new hosts and sockets.
    pub(crate) added: Vec<PortId>,
}

impl NewTunnels {
    /// Does the way to a new host begin at one of these addresses? Then its tunnel's name is returned.
    pub(crate) fn leaves_from(&self, bridge: BridgeId, addresses: &[Ipv4Addr], before: &TunnelControl) -> Option<&str> {
        let line_of = |peer: &PeerControl| &self.tunnels[peer.tunnel - before.tunnels.len()].line;
        let from = |peer: &&PeerControl| {
            let is_of_it = line_of(peer).bridge().is_none_or(|other| other == bridge);
            is_of_it && peer.source().is_some_and(|source| addresses.iter().any(|address| source == *address))
        };
        self.peers.iter().find(from).map(|peer| line_of(peer).name.as_str())
    }
}

impl TunnelControl {
    /// Opens what these tunnels need, with the next of these numbers.
    pub(crate) fn prepare(
        &self,
        configs: &[TunnelConfig],
        ids: &mut dyn Iterator<Item = PortId>,
        queues: impl Fn(PortId) -> usize,
    ) -> anyhow::Result<NewTunnels> {
        let lines: Vec<Line> = configs.iter().map(Line::of).collect();
        let mut apart = Vec::new();
        for line in &lines {
            match endpoint::of(&self.endpoints, line) {
                Some(at) => self.endpoints[at].check_room_for(line)?,
                None => apart.push(line.clone()),
            }
        }
        let endpoints = endpoint::open(&apart, ids, queues)?;
        let mut new = NewTunnels { endpoints, pools: self.pools.clone(), ..NewTunnels::default() };
        for (line, config) in lines.into_iter().zip(configs) {
            let behind = || Some(self.endpoints.len() + endpoint::of(&new.endpoints, &line)?);
            let endpoint = endpoint::of(&self.endpoints, &line).or_else(behind).context("a tunnel without a socket")?;
            let sink = open_ways(&mut new.pools, &line)?;
            let at = self.tunnels.len() + new.tunnels.len();
            let group = line.group.as_ref().map(|group| group.address);
            let mut group_id = None;
            for address in group.into_iter().chain(line.remotes.iter().copied()) {
                let id = ids.next().context("there is no number left for one more port until a restart")?;
                group_id = group_id.or(group.map(|_| id));
                new.peers.push(look_at_new(id, at, address, &line)?);
            }
            new.tunnels.push(Tunnel {
                line,
                statics: config.statics.clone(),
                routes: Vec::new(),
                endpoint,
                sink,
                group: group_id,
            });
        }
        Ok(new)
    }

    /// The new ones are there from now on, and those of these names no more.
    pub(crate) fn commit(&mut self, removed: &[String], new: NewTunnels) -> Committed {
        let NewTunnels { tunnels, endpoints, peers, pools } = new;
        let added = endpoints.iter().map(|endpoint| endpoint.id).chain(peers.iter().map(|peer| peer.id)).collect();
        let is_old = |tunnel: &Tunnel| removed.contains(&tunnel.line.name);
        let old: Vec<usize> = self.tunnels.iter().enumerate().filter(|(_, tunnel)| is_old(tunnel)).map(|(at, _)| at).collect();
        self.tunnels.extend(tunnels);
        self.endpoints.extend(endpoints);
        self.peers.extend(peers);
        self.pools = pools;
        let mut gone = Vec::new();
        for at in old.into_iter().rev() {
            gone.extend(self.take_out(at));
        }
        gone.extend(self.close_unused());
        for (at, endpoint) in self.endpoints.iter_mut().enumerate() {
            endpoint.hear_groups_of(self.tunnels.iter().filter(|tunnel| tunnel.endpoint == at).map(|tunnel| &tunnel.line));
        }
        let known = std::mem::take(&mut self.devices);
        self.devices = devices(self.tunnels.iter().map(|tunnel| &tunnel.line));
        for (name, index) in &mut self.devices {
            // One that became another just now is found to be so by the next look.
            *index = known.iter().find(|(known, _)| known == name).map_or(*index, |(_, known)| *known);
        }
        let used: Vec<SourcesSpec> = self.tunnels.iter().flat_map(|tunnel| specs_of(&tunnel.line)).collect();
        self.pools.retain(|(spec, _)| used.contains(spec));
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
        for at in (0..self.endpoints.len()).rev() {
            if self.tunnels.iter().any(|tunnel| tunnel.endpoint == at) {
                continue;
            }
            let mut endpoint = self.endpoints.remove(at);
            self.dropped_before += endpoint.dropped();
            gone.push(endpoint.id);
            self.tunnels.iter_mut().filter(|tunnel| tunnel.endpoint > at).for_each(|tunnel| tunnel.endpoint -= 1);
        }
        gone
    }
}

fn look_at_new(id: PortId, tunnel: usize, address: IpAddr, line: &Line) -> anyhow::Result<PeerControl> {
    let mut peer = PeerControl::new(id, tunnel, address, true);
    peer.look(line);
    ensure!(
        peer.source() != Some(address),
        "tunnel {}: {address} is an address of this host; name that of the other one",
        line.name
    );
    if let Some(problem) = peer.problem() {
        tracing::warn!(tunnel = line.name, peer = %address, problem, "no way to the peer");
    }
    Ok(peer)
}
