//! The part of the pcapng format that captures use (draft-ietf-opsawg-pcapng).
//!
//! ```text
//!  section header                               once
//!  interface description                        for each port, before its first packet
//!  enhanced packet  enhanced packet ..
//!  interface statistics                         lost packets; the last one of an interface is valid
//! ```
//!
//! A block consists of its type, its length, a body padded to 32 bits, options, and its length again. Numbers are
//! little-endian, as the section header says. Only whole blocks are written, so a file may end after any block.
//!
//! *Metadata of a packet.* The direction is in `epb_flags`, the drop reason in a comment. The option `epb_verdict` is
//! reserved for verdicts of hardware and of eBPF programs, so it is not used.
//!
//! *Link types.* tcpdump reads only files whose interfaces have one link type and snap length, so ports of another type
//! than the first are not described before their first packet.
//!
//! *Why not a crate.* The writer is a few functions that append to a byte vector, without another copy of each packet,
//! and the reader takes single blocks from a stream that is still being written.

/// Link type: packets begin with an Ethernet header.
pub const LINKTYPE_ETHERNET: u16 = 1;
/// Link type: packets begin with an IP header.
pub const LINKTYPE_RAW: u16 = 101;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const STATISTICS: u32 = 5;
/// The type of an enhanced packet block.
pub const PACKET: u32 = 6;
/// The type of an interface statistics block.
pub const INTERFACE_STATISTICS: u32 = STATISTICS;
/// The type of an interface description block.
pub const INTERFACE_DESCRIPTION: u32 = INTERFACE;

const BYTE_ORDER: u32 = 0x1a2b_3c4d;

/// Option codes. Except for `END` and `COMMENT` their meaning depends on the block.
mod option {
    pub(super) const END: u16 = 0;
    pub(super) const COMMENT: u16 = 1;
    pub(super) const SECTION_APPLICATION: u16 = 4;
    pub(super) const IF_NAME: u16 = 2;
    pub(super) const IF_DESCRIPTION: u16 = 3;
    pub(super) const IF_TIME_RESOLUTION: u16 = 9;
    pub(super) const PACKET_FLAGS: u16 = 2;
    pub(super) const STATISTICS_START: u16 = 2;
    pub(super) const STATISTICS_END: u16 = 3;
    pub(super) const STATISTICS_RECEIVED: u16 = 4;
    pub(super) const STATISTICS_DROPPED: u16 = 5;
}

/// Timestamps are in units of 10^-9 seconds.
const TIME_RESOLUTION: u8 = 9;

/// Maximum length of a text option, in bytes. Longer texts are truncated.
const MAX_TEXT: usize = 1024;

/// The direction of a packet at its interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PacketDirection {
    /// Received.
    Inbound,
    /// Sent.
    Outbound,
    /// Not specified.
    Unknown,
}

/// One packet.
#[derive(Clone, Copy, Debug)]
pub struct Packet<'a> {
    /// The index of its interface, in the order of the interface descriptions.
    pub interface: u32,
    /// Time since 1970, in nanoseconds.
    pub time: u64,
    /// Its direction.
    pub direction: PacketDirection,
    /// The length of the whole packet, in bytes.
    pub original_len: u32,
    /// The captured bytes: the packet or its beginning.
    pub bytes: &'a [u8],
    /// A comment; empty for none.
    pub comment: &'a str,
}

/// The statistics of one interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Statistics {
    /// The index of the interface.
    pub interface: u32,
    /// Start of the capture, in nanoseconds since 1970.
    pub from: u64,
    /// Time of these statistics, in nanoseconds since 1970.
    pub to: u64,
    /// Number of selected packets, written or lost.
    pub received: u64,
    /// Number of lost packets.
    pub dropped: u64,
}

/// Writes a section header.
pub fn section(out: &mut Vec<u8>, application: &str) {
    block(out, SECTION, |out| {
        put(out, &[&BYTE_ORDER.to_le_bytes(), &1u16.to_le_bytes(), &0u16.to_le_bytes(), &[0xff; 8]]);
        text(out, option::SECTION_APPLICATION, application);
    });
}

/// Writes an interface description. A `snaplen` of 0 is no limit.
pub fn interface(out: &mut Vec<u8>, link_type: u16, snaplen: u32, name: &str, description: &str) {
    block(out, INTERFACE, |out| {
        put(out, &[&link_type.to_le_bytes(), &[0; 2], &snaplen.to_le_bytes()]);
        text(out, option::IF_NAME, name);
        text(out, option::IF_DESCRIPTION, description);
        add_option(out, option::IF_TIME_RESOLUTION, &[TIME_RESOLUTION]);
        end_options(out);
    });
}

/// Writes a packet.
pub fn packet(out: &mut Vec<u8>, packet: &Packet<'_>) {
    block(out, PACKET, |out| {
        put(out, &[&packet.interface.to_le_bytes(), &time(packet.time), &(packet.bytes.len() as u32).to_le_bytes()]);
        put(out, &[&packet.original_len.to_le_bytes(), packet.bytes]);
        pad(out);
        let flags: u32 = match packet.direction {
            PacketDirection::Inbound => 1,
            PacketDirection::Outbound => 2,
            PacketDirection::Unknown => 0,
        };
        if flags != 0 {
            add_option(out, option::PACKET_FLAGS, &flags.to_le_bytes());
        }
        text(out, option::COMMENT, packet.comment);
        if flags != 0 || !packet.comment.is_empty() {
            end_options(out);
        }
    });
}

/// Writes the statistics of an interface.
pub fn statistics(out: &mut Vec<u8>, statistics: &Statistics) {
    block(out, STATISTICS, |out| {
        put(out, &[&statistics.interface.to_le_bytes(), &time(statistics.to)]);
        add_option(out, option::STATISTICS_START, &time(statistics.from));
        add_option(out, option::STATISTICS_END, &time(statistics.to));
        add_option(out, option::STATISTICS_RECEIVED, &statistics.received.to_le_bytes());
        add_option(out, option::STATISTICS_DROPPED, &statistics.dropped.to_le_bytes());
        end_options(out);
    });
}

/// A block at the start of a byte string.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block<'a> {
    /// Its type.
    pub kind: u32,
    /// The whole block, with type and lengths.
    pub bytes: &'a [u8],
}

/// The bytes do not begin with a block.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoBlock;

impl<'a> Block<'a> {
    /// The first block of these bytes; `None` if it is incomplete.
    pub fn first(bytes: &'a [u8]) -> Result<Option<Block<'a>>, NoBlock> {
        let (Some(kind), Some(len)) = (u32_at(bytes, 0), u32_at(bytes, 4)) else { return Ok(None) };
        if len < 12 || !len.is_multiple_of(4) || len > 1 << 24 {
            return Err(NoBlock);
        }
        Ok(bytes.get(..len as usize).map(|bytes| Block { kind, bytes }))
    }

    /// The interface and its number of lost packets, if this is a statistics block.
    #[must_use]
    pub fn lost(&self) -> Option<(u32, u64)> {
        if self.kind != STATISTICS {
            return None;
        }
        let dropped = self.option(20, option::STATISTICS_DROPPED)?;
        Some((u32_at(self.bytes, 8)?, u64::from_le_bytes(*dropped.first_chunk()?)))
    }

    /// The link type, if this is an interface description.
    #[must_use]
    pub fn link_type(&self) -> Option<u16> {
        u32_at(self.bytes, 8).filter(|_| self.kind == INTERFACE).map(|number| number as u16)
    }

    /// The packet, without its comment, if this is a packet block.
    #[must_use]
    pub fn packet(&self) -> Option<Packet<'a>> {
        if self.kind != PACKET {
            return None;
        }
        let number = |at| u32_at(self.bytes, at);
        let len = number(20)? as usize;
        let bytes = self.bytes.get(28..)?.get(..len)?;
        let flags = self.option(28 + len.next_multiple_of(4), option::PACKET_FLAGS).and_then(|flags| u32_at(flags, 0));
        Some(Packet {
            interface: number(8)?,
            time: u64::from(number(12)?) << 32 | u64::from(number(16)?),
            direction: match flags.map(|flags| flags & 3) {
                Some(1) => PacketDirection::Inbound,
                Some(2) => PacketDirection::Outbound,
                _ => PacketDirection::Unknown,
            },
            original_len: number(24)?,
            bytes,
            comment: "",
        })
    }

    /// The value of the first option with this code; `at` is the offset of the options.
    fn option(&self, mut at: usize, wanted: u16) -> Option<&'a [u8]> {
        // The options are followed by the block's length.
        let end = self.bytes.len().checked_sub(4)?;
        while let Some(head) = u32_at(self.bytes.get(..end)?, at) {
            let (code, len) = (head as u16, (head >> 16) as usize);
            let value = self.bytes.get(at + 4..at + 4 + len)?;
            match code {
                _ if code == wanted => return Some(value),
                option::END => return None,
                _ => at += 4 + len.next_multiple_of(4),
            }
        }
        None
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn block(out: &mut Vec<u8>, kind: u32, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    put(out, &[&kind.to_le_bytes(), &[0; 4]]);
    body(out);
    let len = (out.len() + 4 - start) as u32;
    out[start + 4..start + 8].copy_from_slice(&len.to_le_bytes());
    out.extend(len.to_le_bytes());
}

/// A timestamp: the upper 32 bits first, independent of the byte order.
fn time(nanoseconds: u64) -> [u8; 8] {
    let (upper, lower) = ((nanoseconds >> 32) as u32, nanoseconds as u32);
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&upper.to_le_bytes());
    bytes[4..].copy_from_slice(&lower.to_le_bytes());
    bytes
}

fn text(out: &mut Vec<u8>, code: u16, text: &str) {
    if !text.is_empty() {
        add_option(out, code, &text.as_bytes()[..text.floor_char_boundary(MAX_TEXT)]);
    }
}

fn add_option(out: &mut Vec<u8>, code: u16, value: &[u8]) {
    put(out, &[&code.to_le_bytes(), &(value.len() as u16).to_le_bytes(), value]);
    pad(out);
}

fn end_options(out: &mut Vec<u8>) {
    put(out, &[&option::END.to_le_bytes(), &[0; 2]]);
}

fn put(out: &mut Vec<u8>, pieces: &[&[u8]]) {
    for piece in pieces {
        out.extend_from_slice(piece);
    }
}

/// Pads to a multiple of four bytes.
fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<u8> {
        let mut out = Vec::new();
        section(&mut out, "vswitchd");
        interface(&mut out, LINKTYPE_ETHERNET, 65_535, "tap0", "tap, VLAN 10");
        let one = Packet {
            interface: 0,
            time: 0,
            direction: PacketDirection::Inbound,
            original_len: 60,
            bytes: &[1; 5],
            comment: "dropped: runt",
        };
        packet(&mut out, &one);
        packet(&mut out, &Packet { direction: PacketDirection::Unknown, comment: "", ..one });
        statistics(&mut out, &Statistics { interface: 0, from: 1, to: 1 << 32, received: 3, dropped: 1 });
        out
    }

    #[test]
    fn literal_bytes() {
        let mut out = Vec::new();
        section(&mut out, "");
        assert_eq!(
            out,
            [
                0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255,
                28, 0, 0, 0
            ]
        );
        out.clear();
        let time = (7 << 32) + 9;
        packet(
            &mut out,
            &Packet { interface: 2, time, direction: PacketDirection::Outbound, original_len: 60, bytes: b"abcde", comment: "x" },
        );
        let head = [6, 0, 0, 0, 60, 0, 0, 0, 2, 0, 0, 0, 7, 0, 0, 0, 9, 0, 0, 0, 5, 0, 0, 0, 60, 0, 0, 0];
        let options = [2, 0, 4, 0, 2, 0, 0, 0, 1, 0, 1, 0, b'x', 0, 0, 0, 0, 0, 0, 0, 60, 0, 0, 0];
        assert_eq!(out, [&head[..], b"abcde\0\0\0", &options].concat());
    }

    #[test]
    fn blocks_are_parsed() {
        let bytes = all();
        let (mut rest, mut kinds, mut lost) = (&bytes[..], Vec::new(), None);
        while let Some(block) = Block::first(rest).unwrap() {
            kinds.push(block.kind);
            lost = lost.or(block.lost());
            rest = &rest[block.bytes.len()..];
        }
        assert!(rest.is_empty());
        assert_eq!((kinds, lost), (vec![SECTION, INTERFACE, PACKET, PACKET, STATISTICS], Some((0, 1))));
        for end in 0..28 {
            assert_eq!(Block::first(&bytes[..end]), Ok(None));
        }
        assert_eq!(Block::first(&[0; 8]), Err(NoBlock));
        assert_eq!(Block::first(&[0xff; 8]), Err(NoBlock));
    }

    #[test]
    fn packets_are_parsed() {
        let mut out = Vec::new();
        interface(&mut out, LINKTYPE_RAW, 96, "tun0", "");
        assert_eq!(Block::first(&out).unwrap().unwrap().link_type(), Some(LINKTYPE_RAW));
        for (direction, comment) in [
            (PacketDirection::Inbound, "dropped: runt"),
            (PacketDirection::Outbound, ""),
            (PacketDirection::Unknown, "x"),
            (PacketDirection::Unknown, ""),
        ] {
            out.clear();
            let time = (7 << 32) + 9;
            packet(&mut out, &Packet { interface: 2, time, direction, original_len: 60, bytes: b"abcde", comment });
            let block = Block::first(&out).unwrap().unwrap();
            let read = block.packet().unwrap();
            assert_eq!(
                (read.interface, read.time, read.direction, read.original_len, read.bytes),
                (2, time, direction, 60, &b"abcde"[..])
            );
            assert_eq!((block.link_type(), block.lost()), (None, None));
        }
        // A packet length beyond the end of the block.
        out[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Block::first(&out).unwrap().unwrap().packet().is_none());
    }

    #[test]
    fn long_texts_are_truncated_between_characters() {
        let mut out = Vec::new();
        interface(&mut out, LINKTYPE_RAW, 0, &"ä".repeat(1000), "");
        assert!(Block::first(&out).unwrap().is_some_and(|block| block.bytes.len() == out.len() && out.len() < 1100));
    }
}
