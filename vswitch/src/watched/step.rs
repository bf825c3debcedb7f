//! The steps of a frame through the switch, as traces show them.

use std::net::{IpAddr, Ipv4Addr};

use nat::{Basis, Endpoint, Side};
use packet::MacAddr;
use packet::icmpv4::IcmpError;
use packet::vlan::{TagAction, VlanId};
use tunnel::Framing;

use crate::drop_reason::DropReason;
use crate::mac_table::Learned;
use crate::port::PortId;

/// One step of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// It continues after it waited for its next hop or for its datagram's first fragment.
    Resumed,
    /// It came out of a tunnel.
    Decapsulated {
        /// The tunnel's framing and network identifier.
        framing: Framing,
        /// The host that sent it.
        from: IpAddr,
    },
    /// It belongs to this VLAN.
    Classified(VlanId),
    /// Its source address was offered to the MAC table.
    Learned {
        /// Its VLAN.
        vlan: VlanId,
        /// Its source address.
        mac: MacAddr,
        /// The result.
        learned: Learned,
    },
    /// The router learned a neighbour from an ARP message.
    NeighbourLearned {
        /// Its address.
        address: Ipv4Addr,
        /// Its MAC address.
        mac: MacAddr,
    },
    /// An ARP request for an address of the router was answered.
    ArpAnswered(Ipv4Addr),
    /// An echo request for an address of the router was answered.
    EchoAnswered(Ipv4Addr),
    /// It is for a gateway's MAC address, and so for the router.
    ForGateway(Ipv4Addr),
    /// It came in through the uplink, and so is for the router.
    FromOutside,
    /// The host sent it to its guests.
    FromHost,
    /// It is for the host, at this address.
    ToHost(Ipv4Addr),
    /// Its destination is in a network inside.
    RouteInside {
        /// The destination.
        dst: Ipv4Addr,
        /// The VLAN of the destination's network.
        vlan: VlanId,
    },
    /// Its destination is in a network behind a guest.
    RouteBehind {
        /// The destination.
        dst: Ipv4Addr,
        /// The guest.
        hop: Ipv4Addr,
    },
    /// It keeps its source address on its way outside, as its route says.
    Untranslated(Ipv4Addr),
    /// Its destination is outside.
    RouteOutside {
        /// The destination.
        dst: Ipv4Addr,
        /// The next hop.
        hop: Ipv4Addr,
    },
    /// It goes into a tunnel of IP packets, by a route of that tunnel.
    RouteTunnel {
        /// The destination.
        dst: Ipv4Addr,
        /// The port of the peer that it goes to.
        port: PortId,
    },
    /// It goes to an outside address of the router, and so out and in again (RFC 4787 section 6).
    Hairpin(Ipv4Addr),
    /// It was translated.
    Translated {
        /// The side that it came from.
        side: Side,
        /// The reason.
        basis: Basis,
        /// Source after the translation.
        src: Endpoint,
        /// Destination after the translation.
        dst: Endpoint,
    },
    /// The next hop's MAC address is known.
    Neighbour {
        /// Its address.
        address: Ipv4Addr,
        /// Its MAC address.
        mac: MacAddr,
    },
    /// The next hop's MAC address is not known.
    Waits {
        /// Its address.
        address: Ipv4Addr,
        /// An ARP request was sent.
        asked: bool,
        /// The packet is kept until the reply; false if there was no room.
        kept: bool,
    },
    /// The ARP request that was made for it was dropped.
    RequestDropped(DropReason),
    /// A fragment waits for the first one of its datagram.
    FragmentKept,
    /// It is too long for its egress link and leaves in fragments of at most this number of bytes.
    Fragmented(u16),
    /// It is a super-frame, and leaves in segments with this number of payload bytes.
    Segmented(u16),
    /// Its sender gets an ICMP error.
    Told {
        /// The sender.
        to: IpAddr,
        /// The error; `None` for IPv6's "packet too big".
        error: Option<IcmpError>,
    },
    /// No ICMP error is sent, because none is allowed about this packet or the rate limit is reached.
    NotTold,
    /// The MAC table knows the port of its destination.
    Forwarded {
        /// The destination.
        mac: MacAddr,
        /// The port.
        port: PortId,
    },
    /// It goes to all ports of its VLAN, because its destination is a group or unknown.
    Flooded {
        /// The destination.
        mac: MacAddr,
        /// Number of ports.
        ports: u16,
    },
    /// It is queued for a port.
    Queued {
        /// The port.
        port: PortId,
        /// Change of its VLAN tag.
        action: TagAction,
    },
    /// It was put into datagrams.
    Encapsulated {
        /// The peer's port.
        port: PortId,
        /// The tunnel's framing and network identifier.
        framing: Framing,
        /// Index of the outer source port, which its flow selects.
        source: u16,
    },
    /// It was written to a port.
    Sent {
        /// The port.
        port: PortId,
        /// Number of frames or datagrams written.
        writes: u16,
        /// Number of frames that these contain: more than one if frames were coalesced.
        frames: u16,
    },
    /// It, or one of its copies, was dropped.
    Dropped {
        /// The reason.
        reason: DropReason,
        /// The egress port, if it was dropped there.
        port: Option<PortId>,
    },
}
