//! The MTU that tunnels leave to the ports of their bridges.

use tunnel::mtu::MIN_MTU_IPV6;
use vswitch::BridgeId;

use super::{PeerControl, TunnelControl};
use crate::model::bridge_id;

impl TunnelControl {
    /// A warning for each peer without a path.
    pub(crate) fn ways_missing(&self) -> Vec<String> {
        let way = |peer: &PeerControl| {
            Some(format!("tunnel {}: no route to {}: {}", self.spec_of(peer).name, peer.address, peer.problem()?))
        };
        self.peers().iter().filter_map(way).collect()
    }
}

/// The longest packet that can be sent to all peers of a bridge, in bytes, and warnings about ports that send longer ones.
pub(crate) fn overlay_mtu(tunnels: &TunnelControl, ports: &[config::Port], bridge: BridgeId) -> (Option<u32>, Vec<String>) {
    let mut warnings = Vec::new();
    let bridged = tunnels.peers().iter().filter(|peer| tunnels.spec_of(peer).bridge() == Some(bridge));
    let least = bridged.map(|peer| (peer.mtu(tunnels.spec_of(peer)), peer)).min_by_key(|(mtu, _)| *mtu);
    let Some((mtu, peer)) = least else { return (None, warnings) };
    if mtu < MIN_MTU_IPV6 {
        warnings.push(format!(
            "frames to {} of tunnel {} hold packets of {mtu} bytes at most, and IPv6 needs {MIN_MTU_IPV6}: guests' IPv6 will not pass there",
            peer.address,
            tunnels.spec_of(peer).name
        ));
    }
    for port in ports.iter().filter(|port| port.is_bridged() && bridge_id(port.bridge) == bridge) {
        // Said once of all places for guests of one path.
        let (Some(title), Some(own)) = (port.title(), port.mtu.filter(|own| *own > mtu)) else { continue };
        let fix = if port.kind.is_guest_socket() { " here and in the guest" } else { ", or leave it out" };
        warnings.push(format!(
            "{title} has mtu={own}, but frames to {} of tunnel {} hold packets of {mtu} bytes: what is longer is cut or refused \
             there; use mtu={mtu}{fix}",
            peer.address,
            tunnels.spec_of(peer).name
        ));
    }
    (Some(mtu), warnings)
}
