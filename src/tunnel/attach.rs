//! Commands to the workers for tunnels: their sockets, and the hosts at their other ends.

use std::sync::Arc;

use api::What;
use vswitch::{NewSource, PortId};

use super::{PeerControl, TunnelControl};
use crate::fabric::Fabric;
use crate::worker::{Command, Sink};

impl TunnelControl {
    /// Gives all sockets and peers to the workers. `tun_ports` are the TUN ports, in the order of the tunnels behind them.
    pub(crate) fn attach_all(&self, tun_ports: impl Iterator<Item = PortId>, fabric: &Fabric) -> anyhow::Result<()> {
        for peer in self.peers() {
            self.attach_peer(peer, fabric);
        }
        for at in 0..self.sockets().len() {
            self.attach_socket(at, true, fabric)?;
        }
        for (nth, port) in tun_ports.enumerate() {
            let Some((tunnel, peers)) = self.ip_tunnel(nth, port) else { continue };
            for id in peers.into_iter().chain([port]) {
                fabric.tell(|_| Command::IpTunnel { id, tunnel: Arc::clone(&tunnel) });
            }
        }
        Ok(())
    }

    /// Gives the peers of these numbers to the workers.
    pub(crate) fn attach_peers(&self, ids: &[PortId], fabric: &Fabric) {
        self.peers().iter().filter(|peer| ids.contains(&peer.id)).for_each(|peer| self.attach_peer(peer, fabric));
    }

    /// Tells the workers the peers of a receiving socket, and gives them the socket if it is new.
    pub(crate) fn attach_socket(&self, at: usize, is_new: bool, fabric: &Fabric) -> anyhow::Result<()> {
        let socket = &self.sockets()[at];
        let (view, mtu) = (self.view_of(at)?, self.socket_mtu(at));
        let (queues, id) = (socket.udp.queues(), socket.id);
        fabric.tell(|worker| {
            let rx = fabric.workers.queue_to_read(queues, id, worker).filter(|_| is_new);
            Command::ReceivingSocket { id, socket: view.clone(), mtu, rx }
        });
        Ok(())
    }

    fn attach_peer(&self, peer: &PeerControl, fabric: &Fabric) {
        let (view, sink) = (peer.to_pipeline(self.spec_of(peer)), self.sink_of(peer));
        fabric.tell(|_| Command::Attach {
            id: peer.id,
            attachment: 0,
            port: Box::new(view.clone()),
            rx: None,
            tx: Sink::Peer(sink.clone()),
        });
    }

    /// A host that sent to a group gets a port of its own, if one is left; its number is returned, and workers are told of it
    /// with [`TunnelControl::attach_source`].
    pub(crate) fn add_source(&mut self, source: NewSource, fabric: &mut Fabric) -> Option<(PortId, usize)> {
        let added = self.find_place_for(source, &mut fabric.slots)?;
        fabric.begin_to_count(added.0);
        Some(added)
    }

    /// Tells the workers of a host that [was added](TunnelControl::add_source).
    pub(crate) fn attach_source(&self, (id, socket): (PortId, usize), fabric: &mut Fabric) {
        let Some(peer) = self.peers().iter().find(|peer| peer.id == id) else { return };
        let (tunnel, address) = (self.spec_of(peer).name.clone(), peer.address.to_string());
        tracing::info!(tunnel, peer = address, "a host that sent to the group is a peer now");
        self.attach_peer(peer, fabric);
        self.update_socket(socket, false, fabric);
        fabric.events.tell(What::PeerFound { tunnel, peer: address });
    }

    /// Once a second: looks at interfaces that tunnels are bound to, and at the ways to some of the peers.
    pub(crate) fn tick(&mut self, fabric: &mut Fabric) {
        self.look_at_far_ends(fabric);
        let (sockets, peers) = self.look_at_devices();
        self.attach_peers(&peers, fabric);
        for at in sockets {
            self.update_socket(at, true, fabric);
        }
        let changed = self.look();
        for peer in self.peers().iter().filter(|peer| changed.contains(&peer.id)) {
            let (id, spec) = (peer.id, self.spec_of(peer));
            let mtu = peer.mtu(spec);
            fabric.tell(|_| Command::Mtu { id, mtu });
            let (tunnel, problem) = (spec.name.clone(), peer.problem().map(str::to_owned));
            fabric.events.tell(What::PeerChanged { tunnel, peer: peer.address.to_string(), mtu, problem });
        }
        for at in self.sockets_of(&changed) {
            self.update_socket(at, false, fabric);
        }
    }

    /// The same as [`TunnelControl::attach_socket`], where an error can only be logged.
    pub(crate) fn update_socket(&self, at: usize, is_new: bool, fabric: &Fabric) {
        if let Err(error) = self.attach_socket(at, is_new, fabric) {
            tracing::warn!(socket = self.sockets()[at].name(), %error, "the workers keep the former peers of a tunnel's socket");
        }
    }
}
