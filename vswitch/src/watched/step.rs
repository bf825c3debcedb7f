//! What can happen to a frame on its way: the vocabulary of traces.

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
    /// It had waited, for its next hop or its datagram's first fragment, and goes on.
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
    /// The MAC table heard its source.
    Learned {
        /// In this VLAN,
        vlan: VlanId,
        /// this address,
        mac: MacAddr,
        /// and what came of it.
        learned: Learned,
    },
    /// An ARP message told the router of a neighbour.
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
    /// Its destination is in a network inside.
    RouteInside {
        /// The destination,
        dst: Ipv4Addr,
        /// and the VLAN that its network is.
        vlan: VlanId,
    },
    /// Its destination is outside.
    RouteOutside {
        /// The destination,
        dst: Ipv4Addr,
        /// and the neighbour to whom it is handed.
        hop: Ipv4Addr,
    },
    /// It goes into a tunnel of IP packets, by a route of that tunnel.
    RouteTunnel {
        /// The destination,
        dst: Ipv4Addr,
        /// and the port of the host behind which it is.
        port: PortId,
    },
    /// It goes to an outside address of our own, and so out and in again (RFC 4787 section 6).
    Hairpin(Ipv4Addr),
    /// It was translated.
    Translated {
        /// The side that it came from.
        side: Side,
        /// On which grounds.
        basis: Basis,
        /// Source and
        src: Endpoint,
        /// destination as they are now.
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
        /// An ARP request was made.
        asked: bool,
        /// The packet waits for the answer; else there was no room.
        kept: bool,
    },
    /// The ARP request that was made for it was dropped.
    RequestDropped(DropReason),
    /// A fragment waits for the first one of its datagram.
    FragmentKept,
    /// It is longer than its way out and leaves in fragments of at most so many bytes.
    Fragmented(u16),
    /// It is a super-frame, and fits in segments of so many bytes of payload.
    Segmented(u16),
    /// Its sender is told of an error.
    Told {
        /// The sender.
        to: IpAddr,
        /// The error; `None`: IPv6's "packet too big".
        error: Option<IcmpError>,
    },
    /// There is an error of which its sender may not be told, or not so often.
    NotTold,
    /// The MAC table knows behind which port its destination is.
    Forwarded {
        /// The destination.
        mac: MacAddr,
        /// The port.
        port: PortId,
    },
    /// It goes to all ports of its VLAN, as its destination is a group or not known.
    Flooded {
        /// The destination.
        mac: MacAddr,
        /// To so many ports.
        ports: u16,
    },
    /// It is to leave by a port.
    Queued {
        /// The port.
        port: PortId,
        /// What becomes of its VLAN tag.
        action: TagAction,
    },
    /// It was put into datagrams.
    Encapsulated {
        /// The peer's port.
        port: PortId,
        /// The tunnel's framing and network identifier.
        framing: Framing,
        /// Hash of its flow, which chooses the outer source port.
        flow: u16,
    },
    /// It was written to a port's far side.
    Sent {
        /// The port.
        port: PortId,
        /// So many frames or datagrams were written.
        writes: u16,
        /// So many frames shared them: more than one were coalesced.
        frames: u16,
    },
    /// It, or one of its copies, was dropped.
    Dropped {
        /// Why.
        reason: DropReason,
        /// At this port on its way out; before, if there is none.
        port: Option<PortId>,
    },
}
