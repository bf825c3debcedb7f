//! A worker's cache of recent flows, so that most packets need no keyed hash and no look at their connection's endpoints.
//!
//! It has one place for each of 512 values of a cheap hash. Anybody can compute that hash, but an attack on a place only
//! has the effect that packets are looked up in the table, as without the cache.
//!
//! ```text
//!  packet --> FlowKey --> place --> connection still current? > track, refresh --> Rewrite: endpoints and checksums
//! ```
//!
//! *A cached flow is used* only if its connection's version has not changed, and each packet still goes through the connection's
//! TCP tracker, timeout and refresh. What is kept ready is only what is the same for each packet of a flow: what is written into
//! it. The old endpoints are those of the key, so the differences of the checksums are known as well.

use packet::ethernet::u16_at;
use packet::ipv4::Ipv4View;
use packet::tcp::TCP_LEN;
use packet::udp::UDP_LEN;

use crate::rewrite::Rewrite;
use crate::table::Found;
use crate::tuple::{Endpoint, Protocol, Side, Tuple};

const PLACES: usize = 512;

/// The flow of an unfragmented TCP segment or UDP datagram, as two words that are compared at once. Ports and addresses are in
/// the order of the packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct FlowKey {
    /// Source and destination address.
    addresses: [u8; 8],
    /// Source and destination port, protocol, side. A protocol of 0 is no packet's.
    rest: [u8; 8],
}

impl FlowKey {
    /// The flow of a packet that is TCP or UDP and not fragmented, the common case. `None` for everything else, and for a
    /// truncated header; see [`view`](crate::view::view).
    #[inline(always)]
    pub(crate) fn of(packet: Ipv4View<'_>, side: Side) -> Option<FlowKey> {
        let protocol = Protocol(packet.protocol());
        let header = match protocol {
            Protocol::TCP => TCP_LEN,
            Protocol::UDP => UDP_LEN,
            _ => return None,
        };
        let transport = packet.payload();
        if packet.is_fragment() || transport.len() < header {
            return None;
        }
        let [a, b, c, d] = *transport.first_chunk()?;
        Some(FlowKey { addresses: packet.addresses(), rest: [a, b, c, d, protocol.0, side as u8, 0, 0] })
    }

    /// The same as a tuple.
    pub(crate) fn tuple(&self) -> Tuple {
        let [a, b, c, d, e, f, g, h] = self.addresses;
        let (src, dst) = (u16_at(&self.rest, 0), u16_at(&self.rest, 2));
        Tuple {
            side: if self.rest[5] == Side::Inside as u8 { Side::Inside } else { Side::Outside },
            protocol: Protocol(self.rest[4]),
            src: Endpoint::new([a, b, c, d].into(), src),
            dst: Endpoint::new([e, f, g, h].into(), dst),
        }
    }

    #[inline(always)]
    fn place(self) -> usize {
        let (addresses, rest) = (u64::from_ne_bytes(self.addresses), u64::from_ne_bytes(self.rest));
        // After multiplication by the golden ratio the upper bits depend on all bits (Knuth, volume 3, section 6.4).
        ((addresses ^ rest.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 55) as usize % PLACES
    }
}

/// A flow, its connection, and what is written into its packets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    key: FlowKey,
    pub(crate) rewrite: Rewrite,
    pub(crate) found: Found,
}

/// One worker's recent flows.
#[derive(Debug)]
pub struct FlowCache(Box<[Option<Known>; PLACES]>);

impl Default for FlowCache {
    fn default() -> FlowCache {
        FlowCache(Box::new([None; PLACES]))
    }
}

impl FlowCache {
    /// Forgets all flows.
    pub fn clear(&mut self) {
        self.0.fill(None);
    }

    /// The flow as it was found before.
    #[inline(always)]
    pub(crate) fn get(&self, key: FlowKey) -> Option<&Known> {
        match &self.0[key.place()] {
            Some(known) if known.key == key => Some(known),
            _ => None,
        }
    }

    /// Remembers the connection that was found for a flow.
    #[inline]
    pub(crate) fn put(&mut self, key: FlowKey, found: &Found) {
        let (src, dst) = found.tuples.opposite(found.direction).reversed();
        self.0[key.place()] = Some(Known { key, rewrite: Rewrite::new(&key.tuple(), src, dst), found: *found });
    }
}
