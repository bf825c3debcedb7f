//! What a tunnel puts between the UDP header and the inner packet.
//!
//! ```text
//!           UDP | VXLAN header | Ethernet header | IP ...      Framing::Vxlan
//!           UDP |                Ethernet header | IP ...      Framing::Ethernet
//!           UDP |                                  IP ...      Framing::Ip
//! ```
//!
//! A tunnel has a [`Framing`], with its VNI if it has one, from the configuration to the datagram. A receiving
//! socket has a [`FramingKind`]: several VXLAN networks share one socket, and each datagram says which
//! network it belongs to. The bytes and the facts of each framing are in the file of its name; this one
//! only dispatches. A new framing is one such file, a variant of both enums, a place in [`FramingKind::ALL`],
//! and the arms below that the compiler asks for.

pub mod ethernet;
pub mod ip;
pub mod vxlan;

use packet::Headers;

use crate::malformed::Malformed;
use crate::vni::Vni;

/// The framing of one tunnel.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Framing {
    /// A VXLAN header with this network identifier, then an Ethernet frame (RFC 7348).
    Vxlan(Vni),
    /// An Ethernet frame.
    Ethernet,
    /// An IP packet.
    Ip,
}

/// The framing of all datagrams of one receiving socket.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FramingKind {
    /// A VXLAN header, then an Ethernet frame.
    Vxlan,
    /// An Ethernet frame.
    Ethernet,
    /// An IP packet.
    Ip,
}

/// What other rooms need to know of a framing, the same for all its tunnels.
#[derive(Clone, Copy, Debug)]
struct Facts {
    /// The name in the configuration, in metrics and in the API.
    name: &'static str,
    /// The name in sentences.
    title: &'static str,
    /// The UDP port of tunnels for which none is configured; `None` if one must be.
    default_port: Option<u16>,
    /// Bytes between the UDP header and the inner IP packet.
    overhead: usize,
    /// True if the payload is an Ethernet frame, false if it is an IP packet.
    carries_ethernet: bool,
    /// True if the tunnel header has a network identifier.
    has_vni: bool,
}

/// What a datagram carries.
#[derive(Clone, Copy, Debug)]
pub struct Inner<'a> {
    /// The framing, with the VNI from the tunnel header.
    pub framing: Framing,
    /// The parsed headers of `frame`.
    pub headers: Headers,
    /// The inner Ethernet frame, or with [`Framing::Ip`] the inner IP packet.
    pub frame: &'a [u8],
}

/// The bytes that [`Framing::encode`] puts before the inner frame.
#[derive(Clone, Copy, Debug)]
pub struct TunnelHeader {
    bytes: [u8; TunnelHeader::MAX_LEN],
    len: u8,
}

impl Framing {
    /// The framing without the network identifier.
    #[inline]
    #[must_use]
    pub const fn kind(self) -> FramingKind {
        match self {
            Framing::Vxlan(_) => FramingKind::Vxlan,
            Framing::Ethernet => FramingKind::Ethernet,
            Framing::Ip => FramingKind::Ip,
        }
    }

    /// The network identifier, if the tunnel header has one.
    #[inline]
    #[must_use]
    pub const fn vni(self) -> Option<Vni> {
        match self {
            Framing::Vxlan(vni) => Some(vni),
            Framing::Ethernet | Framing::Ip => None,
        }
    }

    /// The number of bytes between the UDP header and the inner IP packet.
    #[inline]
    #[must_use]
    pub const fn overhead(self) -> usize {
        self.kind().overhead()
    }

    /// The header that goes before each inner frame.
    #[inline]
    #[must_use]
    pub fn encode(self) -> TunnelHeader {
        match self {
            Framing::Vxlan(vni) => TunnelHeader { bytes: vxlan::encode(vni), len: vxlan::VXLAN_LEN as u8 },
            Framing::Ethernet | Framing::Ip => TunnelHeader { bytes: [0; TunnelHeader::MAX_LEN], len: 0 },
        }
    }
}

impl FramingKind {
    /// All framings.
    pub const ALL: [FramingKind; 3] = [FramingKind::Vxlan, FramingKind::Ethernet, FramingKind::Ip];

    const fn facts(self) -> &'static Facts {
        match self {
            FramingKind::Vxlan => &vxlan::FACTS,
            FramingKind::Ethernet => &ethernet::FACTS,
            FramingKind::Ip => &ip::FACTS,
        }
    }

    /// The framing with this [`name`](Self::name).
    #[must_use]
    pub fn named(name: &str) -> Option<FramingKind> {
        FramingKind::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The name in the configuration, in metrics and in the API: `vxlan`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.facts().name
    }

    /// The name in sentences: `VXLAN`, or `Ethernet in UDP`.
    #[must_use]
    pub const fn title(self) -> &'static str {
        self.facts().title
    }

    /// The UDP port of tunnels for which none is configured; `None` if one must be.
    #[must_use]
    pub const fn default_port(self) -> Option<u16> {
        self.facts().default_port
    }

    /// The number of bytes between the UDP header and the inner IP packet.
    #[inline]
    #[must_use]
    pub const fn overhead(self) -> usize {
        self.facts().overhead
    }

    /// True if the tunnel header has a network identifier.
    #[inline]
    #[must_use]
    pub const fn has_vni(self) -> bool {
        self.facts().has_vni
    }

    /// True if the tunnel carries Ethernet frames, and its peers are ports of a bridge; false if it carries IP
    /// packets, which are routed.
    #[inline]
    #[must_use]
    pub const fn carries_ethernet(self) -> bool {
        self.facts().carries_ethernet
    }

    /// Takes the tunnel header off a datagram and parses the inner headers.
    #[inline]
    pub fn decode(self, datagram: &[u8]) -> Result<Inner<'_>, Malformed> {
        match self {
            FramingKind::Vxlan => {
                let (vni, frame) = vxlan::decode(datagram)?;
                Ok(Inner { framing: Framing::Vxlan(vni), headers: ethernet::decode(frame)?, frame })
            }
            FramingKind::Ethernet => {
                Ok(Inner { framing: Framing::Ethernet, headers: ethernet::decode(datagram)?, frame: datagram })
            }
            FramingKind::Ip => Ok(Inner { framing: Framing::Ip, headers: ip::decode(datagram)?, frame: datagram }),
        }
    }
}

impl TunnelHeader {
    /// The length of the longest header.
    const MAX_LEN: usize = vxlan::VXLAN_LEN;

    /// The header's bytes; empty for a framing without a header.
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An Ethernet header and an IPv4 header.
    const FRAME: [u8; 34] = [
        2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0, // Ethernet
        0x45, 0, 0, 20, 0, 1, 0, 0, 64, 99, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, // IPv4
    ];

    #[test]
    fn what_is_encoded_is_decoded() {
        for framing in [Framing::Vxlan(Vni::new(42).unwrap()), Framing::Ethernet, Framing::Ip] {
            let inner = if framing.kind().carries_ethernet() { &FRAME[..] } else { &FRAME[14..] };
            let datagram = [framing.encode().as_bytes(), inner].concat();
            let decoded = framing.kind().decode(&datagram).unwrap();
            assert_eq!((decoded.framing, decoded.frame), (framing, inner));
            let ip = datagram.len() - inner.len() + usize::from(decoded.headers.l3);
            assert_eq!(ip, framing.overhead(), "{framing:?}");
        }
    }
}
