//! Ports: where frames enter and leave a bridge.

use std::fmt;
use std::sync::Arc;

use packet::ethernet::ETHERNET_LEN;
use packet::vlan::TagAction;
use packet::{Features, Headers, Offload};
use tunnel::{Framing, Vni};

use crate::domain::BridgeId;
use crate::guard::Guard;
use crate::storm::StormLimits;
use crate::vlan::PortVlan;

/// A port's number among those of all bridges.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PortId(pub u16);

impl PortId {
    /// No port: the ingress of packets that the router makes or has kept.
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

/// A port as the pipeline sees it.
#[derive(Clone, Debug)]
pub struct Port {
    /// Its bridge; without meaning for a port that is only routed.
    pub bridge: BridgeId,
    /// Its VLANs and VLAN mode.
    pub vlan: PortVlan,
    /// Maximum length of a packet behind Ethernet header and VLAN tags, in bytes.
    pub mtu: u32,
    /// The offloads that it accepts.
    pub features: Features,
    /// Which frames are written as one super-frame.
    pub coalesce: Coalesce,
    /// Several unchanged frames are written in one call.
    pub bursts: bool,
    /// Its kind.
    pub kind: PortKind,
    /// Storm control of its frames.
    pub limits: StormLimits,
    /// What its station may send; for [`PortKind::GuardedLink`].
    pub guard: Option<Arc<Guard>>,
    /// Frames of other isolated ports of its bridge do not leave through it.
    pub isolated: bool,
}

/// Which frames of a batch are coalesced on their way out of a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Coalesce {
    /// None.
    #[default]
    Off,
    /// Neighbours. Frames leave in the order in which they arrived.
    Neighbours,
    /// Frames of one flow. Those of different flows may overtake one another.
    Flows,
}

/// Kind of a port, by what is at its other end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortKind {
    /// A link: its frames are switched.
    Link,
    /// A link whose frames its [guard](Port::guard) checks. A kind of its own, so that those of other ports pay nothing for it.
    GuardedLink,
    /// The outside: its packets are routed, never switched.
    Uplink,
    /// A host at the other end of a tunnel: its frames are switched, but never into another tunnel.
    Peer(Encapsulation),
    /// A host at the other end of a tunnel of IP packets, which are routed and have no Ethernet header.
    IpPeer(Encapsulation),
    /// A TUN device, whose packets are routed into such a tunnel.
    Tun,
    /// A TUN device by which the host is a neighbour of its guests: its packets are routed.
    Host,
}

/// How frames are put into datagrams for a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Encapsulation {
    /// The tunnel's framing and network identifier.
    pub framing: Framing,
    /// Outer type of service or traffic class, without the last two bits, which are ECN; `None` copies the inner packet's.
    pub tos: Option<u8>,
    /// Outer time to live or hop limit; `None` copies the inner packet's.
    pub ttl: Option<u8>,
    /// "Don't fragment" of the outer header; `None` copies the inner packet's.
    pub dont_fragment: Option<bool>,
    /// The peer gets a copy of flooded frames.
    pub is_flooded: bool,
    /// Addresses behind the peer are learned.
    pub learns: bool,
}

impl Encapsulation {
    /// VXLAN with the default outer header.
    #[must_use]
    pub fn vxlan(vni: Vni) -> Encapsulation {
        let framing = Framing::Vxlan(vni);
        Encapsulation { framing, tos: Some(0), ttl: Some(64), dont_fragment: Some(true), is_flooded: true, learns: true }
    }
}

impl Port {
    /// The same port, a link, with this guard.
    #[must_use]
    pub fn guarded_by(self, guard: Guard) -> Port {
        Port { guard: Some(Arc::new(guard)), kind: PortKind::GuardedLink, ..self }
    }

    /// Whether it is a link, guarded or not.
    #[inline]
    pub(crate) fn is_link(&self) -> bool {
        matches!(self.kind, PortKind::Link | PortKind::GuardedLink)
    }

    /// Maximum length of the packet behind this frame's Ethernet header, with the tags that it leaves with. On a link, tags
    /// do not count (IEEE 802.3 allows four more bytes for a tagged frame); in a tunnel they take a part of the MTU.
    #[inline(always)]
    #[must_use]
    pub fn room(&self, headers: &Headers, action: TagAction) -> u32 {
        let tags = match self.kind {
            PortKind::Peer(_) => usize::from(headers.l3).saturating_add_signed(action.growth()).saturating_sub(ETHERNET_LEN),
            PortKind::Link | PortKind::GuardedLink | PortKind::Uplink | PortKind::IpPeer(_) | PortKind::Tun | PortKind::Host => 0,
        };
        self.mtu.saturating_sub(tags as u32)
    }

    /// Whether the packet behind Ethernet header and tags, or a segment of it, is longer than the port allows.
    #[inline(always)]
    #[must_use]
    pub fn is_too_long(&self, headers: &Headers, offload: Offload, frame_len: usize, action: TagAction) -> bool {
        let len = match offload.segmentation {
            Some(segmentation) => usize::from(headers.payload) + usize::from(segmentation.size),
            None => frame_len,
        };
        len > self.room(headers, action) as usize + usize::from(headers.l3)
    }

    /// Whether many stations are behind the port, as behind an uplink or a peer of a tunnel. These have no storm control.
    #[must_use]
    pub fn leads_to_network(&self) -> bool {
        self.is_tunnel() || self.limits == StormLimits::NONE
    }

    /// Whether the port leads into a tunnel.
    #[inline(always)]
    #[must_use]
    pub fn is_tunnel(&self) -> bool {
        self.encapsulation().is_some()
    }

    /// The encapsulation, if the port leads into a tunnel.
    #[inline(always)]
    #[must_use]
    pub fn encapsulation(&self) -> Option<&Encapsulation> {
        match &self.kind {
            PortKind::Peer(encapsulation) | PortKind::IpPeer(encapsulation) => Some(encapsulation),
            PortKind::Link | PortKind::GuardedLink | PortKind::Uplink | PortKind::Tun | PortKind::Host => None,
        }
    }
}
