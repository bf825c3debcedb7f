//! The rewritten headers of a frame, copied and patched here while the payload stays where it is.
//!
//! A frame that leaves changed (another VLAN tag, one of many segments, several frames merged into one) is written
//! from two or more pieces: this head, and slices of the arena.
//!
//! ```text
//!  head (rewritten)                                  arena (untouched)
//!  +----------------+--------+-----+------+-----+    +----------------------+
//!  | virtio-net hdr | dst src| tag | IP   | TCP | +  | payload              |
//!  +----------------+--------+-----+------+-----+    +----------------------+
//! ```

use crate::checksum;
use crate::ethernet::{ADDRESSES_LEN, put_u16};
use crate::headers::{Headers, Network};
use crate::offload::MAX_HEADERS_LEN;
use crate::vlan::{TAG_LEN, TagAction};
use crate::vnet::{VNET_LEN, VnetHeader};
use crate::{ipv4, ipv6};

/// Room for a virtio-net header, [`MAX_HEADERS_LEN`] bytes of headers and one more VLAN tag.
#[derive(Debug)]
pub struct Head {
    bytes: [u8; VNET_LEN + MAX_HEADERS_LEN + TAG_LEN],
    len: usize,
    growth: isize,
}

impl Default for Head {
    fn default() -> Head {
        Head { bytes: [0; VNET_LEN + MAX_HEADERS_LEN + TAG_LEN], len: VNET_LEN, growth: 0 }
    }
}

impl Head {
    /// Copies the first `upto` bytes of a frame behind a zeroed virtio-net header and changes the VLAN tag.
    /// `upto` must include the addresses and any tag that is removed, and must not exceed [`MAX_HEADERS_LEN`] or the
    /// frame. Otherwise returns false and copies nothing.
    #[inline]
    #[must_use]
    pub fn copy(&mut self, frame: &[u8], upto: usize, action: TagAction) -> bool {
        let from = match action {
            TagAction::Keep | TagAction::Push(_) => ADDRESSES_LEN,
            TagAction::Pop | TagAction::Replace(_) => ADDRESSES_LEN + TAG_LEN,
        };
        if upto > MAX_HEADERS_LEN || upto > frame.len() || upto < from {
            return false;
        }
        self.bytes[..VNET_LEN].fill(0);
        self.bytes[VNET_LEN..][..ADDRESSES_LEN].copy_from_slice(&frame[..ADDRESSES_LEN]);
        let mut to = VNET_LEN + ADDRESSES_LEN;
        if let TagAction::Push(tag) | TagAction::Replace(tag) = action {
            self.bytes[to..to + TAG_LEN].copy_from_slice(&tag.to_bytes());
            to += TAG_LEN;
        }
        self.len = to + upto - from;
        self.growth = action.growth();
        self.bytes[to..self.len].copy_from_slice(&frame[from..upto]);
        true
    }

    /// Number of bytes by which the change of the VLAN tag moved the headers behind it.
    #[inline]
    #[must_use]
    pub fn growth(&self) -> isize {
        self.growth
    }

    /// Writes the virtio-net header.
    #[inline]
    pub fn set_vnet(&mut self, vnet: VnetHeader) {
        self.bytes[..VNET_LEN].copy_from_slice(&vnet.to_bytes());
    }

    /// The virtio-net header and the headers behind it.
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Position in this buffer of the byte at `offset` (behind the tag) of the frame.
    #[inline]
    fn position(&self, offset: usize) -> usize {
        (VNET_LEN + offset).wrapping_add_signed(self.growth)
    }

    /// The headers from `offset` on.
    #[inline]
    pub(crate) fn headers_from(&mut self, offset: u16) -> &mut [u8] {
        let at = self.position(usize::from(offset));
        &mut self.bytes[at..self.len]
    }

    /// Sets the length of the IP packet for a payload of `payload_len` bytes and, for IPv4, the identification and a
    /// new header checksum. Returns the length of transport header and payload.
    #[inline]
    pub(crate) fn set_ip(&mut self, headers: &Headers, payload_len: usize, id: u16) -> usize {
        let l4_len = usize::from(headers.payload - headers.l4) + payload_len;
        let total = usize::from(headers.l4 - headers.l3) + l4_len;
        let header_len = usize::from(headers.l4 - headers.l3);
        let ip = self.headers_from(headers.l3);
        match headers.network {
            Network::Ipv4 => {
                put_u16(ip, ipv4::field::TOTAL_LEN, total as u16);
                put_u16(ip, ipv4::field::ID, id);
                put_u16(ip, ipv4::field::CHECKSUM, 0);
                let check = !checksum::sum(&ip[..header_len]);
                put_u16(ip, ipv4::field::CHECKSUM, check);
            }
            Network::Ipv6 => put_u16(ip, ipv6::field::PAYLOAD_LEN, (total - ipv6::IPV6_LEN) as u16),
            Network::Other => {}
        }
        l4_len
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vlan::{Tag, VlanId};

    #[test]
    fn tags_are_pushed_popped_and_replaced() {
        let untagged: Vec<u8> = (0..40).collect();
        let tag = Tag::of(VlanId::new(10).unwrap());
        let tagged = [&untagged[..12], &tag.to_bytes(), &untagged[12..]].concat();
        let rewritten = |frame: &[u8], action| {
            let mut head = Head::default();
            assert!(head.copy(frame, 30, action));
            [&head.as_bytes()[VNET_LEN..], &frame[30..]].concat()
        };
        assert_eq!(rewritten(&untagged, TagAction::Keep), untagged);
        assert_eq!(rewritten(&untagged, TagAction::Push(tag)), tagged);
        assert_eq!(rewritten(&tagged, TagAction::Pop), untagged);
        let other = tag.with_vlan(VlanId::new(12).unwrap());
        assert_eq!(rewritten(&tagged, TagAction::Replace(other))[12..16], other.to_bytes());
        assert!(!Head::default().copy(&untagged, 41, TagAction::Keep));
        assert!(!Head::default().copy(&untagged, 15, TagAction::Pop));
        assert!(Head::default().copy(&untagged, 14, TagAction::Push(tag)));
    }
}
