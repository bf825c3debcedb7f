//! What the ways of the tunnels mean for the links of the bridge.

use tunnel::Protocol;
use tunnel::mtu::MIN_MTU_IPV6;

use super::TunnelControl;
use crate::config::{DeviceConfig, PortConfig};

/// The longest packet that all peers can be sent, in bytes, and what is to be thought over.
pub(crate) fn overlay_mtu(tunnels: &TunnelControl, ports: &[PortConfig]) -> (Option<u32>, Vec<String>) {
    let mut warnings = Vec::new();
    for peer in tunnels.peers() {
        if let Some(problem) = peer.problem() {
            warnings.push(format!("tunnel {}: no way to {}: {problem}", tunnels.line_of(peer).name, peer.address));
        }
    }
    let bridged = tunnels.peers().iter().filter(|peer| tunnels.line_of(peer).protocol != Protocol::Ip);
    let least = bridged.map(|peer| (peer.mtu(tunnels.line_of(peer)), peer)).min_by_key(|(mtu, _)| *mtu);
    let Some((mtu, peer)) = least else { return (None, warnings) };
    if mtu < MIN_MTU_IPV6 {
        warnings.push(format!(
            "frames to {} of tunnel {} hold packets of {mtu} bytes, and IPv6 needs {MIN_MTU_IPV6}: guests' IPv6 will not pass there",
            peer.address,
            tunnels.line_of(peer).name
        ));
    }
    for port in ports.iter().filter(|port| port.is_bridged()) {
        // Said once of all places for guests of one path.
        let (Some(title), Some(own)) = (port.title(), port.mtu().filter(|own| *own > mtu)) else { continue };
        let fix = match port.device {
            DeviceConfig::Tap { .. } | DeviceConfig::Packet(_) => format!("use mtu={mtu}, or leave it out"),
            DeviceConfig::Stream(_) | DeviceConfig::Dgram(_) => format!("use mtu={mtu} here and in the guest"),
        };
        warnings.push(format!(
            "{title} has mtu={own}, but frames to {} of tunnel {} hold packets of {mtu} bytes: what is longer is cut or refused \
             there; {fix}",
            peer.address,
            tunnels.line_of(peer).name
        ));
    }
    (Some(mtu), warnings)
}
