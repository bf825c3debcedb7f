//! The tunnels' part of the daemon: what they are goes to the workers, and what became of them is looked at.

use std::sync::Arc;

use vswitch::NewSource;

use super::Daemon;
use super::ports::queue_to_read;
use crate::control_socket::What;
use crate::tunnel::PeerControl;
use crate::worker::{Command, Sink};

impl Daemon {
    /// Gives the tunnels' sockets and peers to the workers.
    pub(super) fn attach_tunnels(&self) -> anyhow::Result<()> {
        for peer in self.tunnels.peers() {
            self.attach_peer(peer);
        }
        for at in 0..self.tunnels.endpoints().len() {
            self.attach_endpoint(at, true)?;
        }
        for (at, port) in self.ports.iter().filter(|port| !port.config.is_bridged()).enumerate() {
            let Some((tunnel, peers)) = self.tunnels.ip_tunnel(at, port.id) else { continue };
            for id in peers.into_iter().chain([port.id]) {
                self.tell_workers(|_| Command::IpTunnel { id, tunnel: Arc::clone(&tunnel) });
            }
        }
        Ok(())
    }

    /// What workers know of a socket that receives; and the socket, where it is a new one.
    pub(super) fn attach_endpoint(&self, at: usize, is_new: bool) -> anyhow::Result<()> {
        let endpoint = &self.tunnels.endpoints()[at];
        let (view, mtu) = (self.tunnels.view_of(at)?, self.tunnels.endpoint_mtu(at));
        let (queues, index) = (endpoint.socket.queues(), endpoint.id.index());
        self.tell_workers(|worker| {
            let rx = queue_to_read(queues, index, worker, self.readers, self.workers.len()).filter(|_| is_new);
            Command::Endpoint { id: endpoint.id, endpoint: view.clone(), mtu, rx }
        });
        Ok(())
    }

    pub(super) fn attach_peer(&self, peer: &PeerControl) {
        let (view, sink) = (peer.to_pipeline(self.tunnels.line_of(peer)), self.tunnels.sink_of(peer));
        self.tell_workers(|_| Command::Attach {
            id: peer.id,
            attachment: 0,
            port: Box::new(view.clone()),
            rx: None,
            tx: Sink::Peer(sink.clone()),
        });
    }

    /// A host that spoke in a group gets a port.
    pub(super) fn add_source(&mut self, source: NewSource) {
        let Some((id, at)) = self.tunnels.add_source(source, &mut self.slots) else { return };
        self.begin_to_count(id);
        let Some(peer) = self.tunnels.peers().iter().find(|peer| peer.id == id) else { return };
        let (tunnel, address) = (self.tunnels.line_of(peer).name.clone(), peer.address.to_string());
        tracing::info!("{tunnel}: {address} is a peer now");
        self.attach_peer(peer);
        if let Err(error) = self.attach_endpoint(at, false) {
            tracing::warn!("{error}");
        }
        self.tell(What::PeerFound { tunnel, peer: address });
    }

    pub(super) fn look_at_tunnels(&mut self) {
        let (endpoints, peers) = self.tunnels.look_at_devices();
        for peer in self.tunnels.peers().iter().filter(|peer| peers.contains(&peer.id)) {
            self.attach_peer(peer);
        }
        for at in endpoints {
            if let Err(error) = self.attach_endpoint(at, true) {
                tracing::warn!("{error}");
            }
        }
        let changed = self.tunnels.look();
        for id in &changed {
            let Some(peer) = self.tunnels.peers().iter().find(|peer| peer.id == *id) else { continue };
            let mtu = peer.mtu(self.tunnels.line_of(peer));
            self.tell_workers(|_| Command::Mtu { id: *id, mtu });
            self.tell_of_peer(*id);
        }
        for at in self.tunnels.endpoints_of(&changed) {
            if let Err(error) = self.attach_endpoint(at, false) {
                tracing::warn!("{error}");
            }
        }
    }
}
