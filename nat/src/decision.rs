//! What becomes of a packet, as a value: decided without changing anything, and written into the packet afterwards.

use std::net::Ipv4Addr;

use packet::checksum::Checksum;
use packet::ipv4::Ipv4Mut;

use crate::icmp_quote;
use crate::rewrite;
use crate::tuple::{Endpoint, Protocol, Tuple};

/// The reason why a packet is translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Basis {
    /// It belongs to a connection.
    Known,
    /// It opens a connection, and its inside endpoint has a mapping already.
    KnownMapping,
    /// It opens a connection, and its inside endpoint gets a new mapping.
    NewMapping,
    /// It opens a connection through a published port.
    Published,
    /// It opens a connection through a guest's one-to-one outside address.
    OneToOne,
    /// It is an ICMP error about a packet of a connection.
    Error,
    /// It is a later fragment of a datagram whose first fragment was translated.
    Fragment,
}

/// How a packet is translated. Nothing has been written into the packet, and no table has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// The reason.
    pub basis: Basis,
    pub(crate) change: Change,
}

/// What is written into the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// Addresses, and the ports or ICMP identifier of its transport header.
    Endpoints { protocol: Protocol, src: Endpoint, dst: Endpoint },
    /// Addresses alone: a later fragment has no transport header.
    Addresses { src: Ipv4Addr, dst: Ipv4Addr },
    /// An ICMP error's addresses, and the endpoints of the packet that it quotes.
    Error { src: Ipv4Addr, dst: Ipv4Addr, quoted: Tuple },
}

impl Decision {
    /// The packet's new destination.
    #[must_use]
    pub fn dst(&self) -> Ipv4Addr {
        match self.change {
            Change::Endpoints { dst, .. } => dst.address,
            Change::Addresses { dst, .. } | Change::Error { dst, .. } => dst,
        }
    }

    /// Writes the translation into the packet that was decided on. `checksum` is what is known of its transport
    /// checksum.
    pub fn write(&self, packet: &mut Ipv4Mut<'_>, checksum: Checksum) {
        match self.change {
            Change::Endpoints { protocol, src, dst } => rewrite::endpoints(packet, protocol, src, dst, checksum),
            Change::Addresses { src, dst } => {
                packet.set_addresses(src, dst);
            }
            Change::Error { src, dst, quoted } => {
                icmp_quote::write(packet.payload_mut(), &quoted);
                packet.set_addresses(src, dst);
            }
        }
    }
}
