//! Ports: where frames enter and leave a bridge.

use std::fmt;

use packet::ethernet::ETHERNET_LEN;
use packet::vlan::TagAction;
use packet::{Features, Headers, Offload};
use tunnel::{Framing, Vni};

use crate::domain::BridgeId;
use crate::vlan::PortVlan;

/// A port's number among those of all bridges.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortId(pub u16);

impl PortId {
    /// No port: the ingress of packets that the router sends itself or had kept.
    pub const NOWHERE: PortId = PortId(u16::MAX);

    /// The number as an index.
    #[inline]
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// What the pipeline knows of a port.
#[derive(Clone, Debug)]
pub struct Port {
    /// Which bridge it is of; of no meaning for what is routed only.
    pub bridge: BridgeId,
    /// Which VLANs it carries and how.
    pub vlan: PortVlan,
    /// The longest packet behind the Ethernet header and VLAN tags, in bytes.
    pub mtu: u32,
    /// What its far side takes without help.
    pub features: Features,
    /// Are consecutive frames of one flow written as one super-frame?
    pub coalesce: bool,
    /// Are frames that leave as they came written many in one call?
    pub bursts: bool,
    /// What is at its other end.
    pub kind: PortKind,
}

/// What is at a port's other end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortKind {
    /// A link: what comes in is switched.
    Link,
    /// The outside: what comes in is routed, never switched.
    Uplink,
    /// A host at the other end of a tunnel: what comes in is switched, but never into a tunnel again.
    Peer(Encapsulation),
    /// A host at the other end of a tunnel of IP packets, which are routed and have no Ethernet header.
    IpPeer(Encapsulation),
    /// A TUN device, whose packets are routed into such a tunnel.
    Tun,
}

/// How frames are put into datagrams for a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Encapsulation {
    /// The tunnel's framing and network identifier.
    pub framing: Framing,
    /// Outer type of service or traffic class, whose last two bits are ECN's and not counted; `None` is the
    /// inner packet's.
    pub tos: Option<u8>,
    /// Outer time to live or hop limit; `None` is the inner packet's.
    pub ttl: Option<u8>,
    /// May routers on the way not cut the datagram? `None`: as the inner packet says.
    pub dont_fragment: Option<bool>,
    /// Gets a copy of what is for everybody.
    pub is_flooded: bool,
    /// Are addresses behind it learned?
    pub learns: bool,
}

impl Encapsulation {
    /// VXLAN with the usual outer header.
    #[must_use]
    pub fn vxlan(vni: Vni) -> Encapsulation {
        let framing = Framing::Vxlan(vni);
        Encapsulation { framing, tos: Some(0), ttl: Some(64), dont_fragment: Some(true), is_flooded: true, learns: true }
    }
}

impl Port {
    /// The longest packet that fits behind the Ethernet header of this frame, tags as they leave. On a link
    /// tags do not count (IEEE 802.3 has four bytes more for a tagged frame); a tunnel has its path's MTU
    /// for all that is in it.
    #[inline]
    #[must_use]
    pub fn room(&self, headers: &Headers, action: TagAction) -> u32 {
        let tags = match self.kind {
            PortKind::Peer(_) => usize::from(headers.l3).saturating_add_signed(action.growth()).saturating_sub(ETHERNET_LEN),
            PortKind::Link | PortKind::Uplink | PortKind::IpPeer(_) | PortKind::Tun => 0,
        };
        self.mtu.saturating_sub(tags as u32)
    }

    /// Would the packet behind the Ethernet header and tags, or a segment of it, be longer than there is room?
    #[inline]
    #[must_use]
    pub fn is_too_long(&self, headers: &Headers, offload: Offload, frame_len: usize, action: TagAction) -> bool {
        let len = match offload.segmentation {
            Some(segmentation) => usize::from(headers.payload) + usize::from(segmentation.size),
            None => frame_len,
        };
        len > self.room(headers, action) as usize + usize::from(headers.l3)
    }

    /// Does it lead into a tunnel?
    #[inline]
    #[must_use]
    pub fn is_tunnel(&self) -> bool {
        self.encapsulation().is_some()
    }

    /// How it puts frames into datagrams, if it is a tunnel's.
    #[inline]
    #[must_use]
    pub fn encapsulation(&self) -> Option<&Encapsulation> {
        match &self.kind {
            PortKind::Peer(encapsulation) | PortKind::IpPeer(encapsulation) => Some(encapsulation),
            PortKind::Link | PortKind::Uplink | PortKind::Tun => None,
        }
    }
}
