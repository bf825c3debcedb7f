//! What filters of captures and traces see of a frame.

use filter::Subject;
use packet::Headers;

use crate::port::PortId;
use crate::walk::Bridges;

/// The headers of a frame that came in through this port, which may be a packet without Ethernet header.
#[inline]
pub(crate) fn headers_of(bridges: &Bridges, id: PortId, bytes: &[u8]) -> Option<Headers> {
    if bridges.carries_packets(id) { Some(Headers::of_packet(bytes)) } else { Headers::parse(bytes).ok() }
}

/// A frame at this port, with the VLAN that the port puts it in, and the network identifier of its tunnel.
#[inline]
pub(crate) fn subject<'a>(bridges: &Bridges, id: PortId, headers: Option<&'a Headers>, bytes: &'a [u8]) -> Subject<'a> {
    let port = bridges.port(id);
    let vlan = port.zip(headers).and_then(|(port, headers)| port.vlan.classify(headers)).map(packet::VlanId::get);
    let vni = port.and_then(|port| port.encapsulation()?.framing.vni()).map(tunnel::Vni::number);
    Subject { headers, bytes, vlan: vlan.filter(|vlan| *vlan != 0), vni }
}
