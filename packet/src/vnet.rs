//! The virtio-net header that precedes every frame of a TAP opened with `IFF_VNET_HDR`
//! (virtio 1.3 section 5.1.6, `include/uapi/linux/virtio_net.h`).
//!
//! ```text
//!  0     1        2         4          6            8             10            12
//! +-----+--------+---------+----------+------------+-------------+-------------+-------
//! |flags|gso_type| hdr_len | gso_size | csum_start | csum_offset | num_buffers | frame
//! +-----+--------+---------+----------+------------+-------------+-------------+-------
//! ```
//!
//! The kernel is asked for little-endian fields, as in virtio 1.0. The header is untrusted:
//! [`Offload::judge`](crate::Offload::judge) decides whether it is believed.

/// Length of the header with `num_buffers` (`struct virtio_net_hdr_v1`).
pub const VNET_LEN: usize = 12;

/// Bits of `flags`.
pub mod flag {
    /// The checksum at `csum_start + csum_offset` holds only the pseudo-header's sum.
    pub const NEEDS_CSUM: u8 = 1;
    /// The checksum was verified.
    pub const DATA_VALID: u8 = 2;
}

/// Values of `gso_type`.
pub mod gso {
    /// One packet.
    pub const NONE: u8 = 0;
    /// Several TCP segments over IPv4.
    pub const TCPV4: u8 = 1;
    /// Several TCP segments over IPv6.
    pub const TCPV6: u8 = 4;
    /// Several UDP datagrams (USO), over IPv4 or IPv6.
    pub const UDP_L4: u8 = 5;
    /// Together with a TCP type: the first segment has CWR set.
    pub const ECN: u8 = 0x80;
}

/// The header's fields, believed or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct VnetHeader {
    /// [`flag`] bits.
    pub flags: u8,
    /// A value of [`gso`].
    pub gso_type: u8,
    /// Length of all headers, in bytes; only a hint.
    pub hdr_len: u16,
    /// Payload bytes of one segment.
    pub gso_size: u16,
    /// Where the checksum's coverage begins, in bytes from the frame's start.
    pub csum_start: u16,
    /// Where the checksum is, in bytes from `csum_start`.
    pub csum_offset: u16,
}

impl VnetHeader {
    /// Reads the fields from the header's 12 bytes.
    #[inline]
    #[must_use]
    pub fn from_bytes(b: &[u8; VNET_LEN]) -> VnetHeader {
        VnetHeader {
            flags: b[0],
            gso_type: b[1],
            hdr_len: u16::from_le_bytes([b[2], b[3]]),
            gso_size: u16::from_le_bytes([b[4], b[5]]),
            csum_start: u16::from_le_bytes([b[6], b[7]]),
            csum_offset: u16::from_le_bytes([b[8], b[9]]),
        }
    }

    /// End of the checksum that is to be completed, in bytes from the frame's start; 0 if there is none. It may be beyond
    /// the frame's end.
    #[inline]
    #[must_use]
    pub fn checksum_end(self) -> usize {
        let end = usize::from(self.csum_start) + usize::from(self.csum_offset) + 2;
        if self.flags & flag::NEEDS_CSUM == 0 { 0 } else { end }
    }

    /// The header as 12 bytes; bytes without a field are 0.
    #[inline]
    #[must_use]
    pub fn to_bytes(self) -> [u8; VNET_LEN] {
        let [a, b] = self.hdr_len.to_le_bytes();
        let [c, d] = self.gso_size.to_le_bytes();
        let [e, f] = self.csum_start.to_le_bytes();
        let [g, h] = self.csum_offset.to_le_bytes();
        [self.flags, self.gso_type, a, b, c, d, e, f, g, h, 0, 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_bytes_there_and_back() {
        let bytes = [1, 1, 54, 0, 0xa8, 0x05, 34, 0, 16, 0, 0, 0];
        let header = VnetHeader::from_bytes(&bytes);
        assert_eq!(header, VnetHeader { flags: 1, gso_type: 1, hdr_len: 54, gso_size: 1448, csum_start: 34, csum_offset: 16 });
        assert_eq!(header.to_bytes(), bytes);
    }
}
