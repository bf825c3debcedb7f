//! The IPv4 header (RFC 791).
//!
//! ```text
//!  0   1   2       4       6       8   9   10      12          16          20
//! +---+---+-------+-------+-------+---+---+-------+-----------+-----------+---
//! |v|h|tos| total | id    |fl|off |ttl|pro| check | src       | dst       | options
//! +---+---+-------+-------+-------+---+---+-------+-----------+-----------+---
//! ```

use std::net::Ipv4Addr;

use crate::checksum::{self, Delta};
use crate::ethernet::{put_u16, u16_at, u32_at};
use crate::ipv4_options::{self, Mark};
use crate::options::{MalformedOption, Walk};

/// Length of a header without options.
pub const IPV4_LEN: usize = 20;

/// Minimum MTU of every link, in bytes (RFC 791 section 3.2).
pub const MIN_MTU: usize = 68;

/// Offsets within the header.
pub mod field {
    /// Type of service: DSCP and ECN (RFC 2474, RFC 3168), 8 bits.
    pub const TOS: usize = 1;
    /// Total length of the packet, 16 bits.
    pub const TOTAL_LEN: usize = 2;
    /// Identification, 16 bits.
    pub const ID: usize = 4;
    /// Flags and fragment offset, 16 bits.
    pub const FRAGMENT: usize = 6;
    /// Time to live, 8 bits.
    pub const TTL: usize = 8;
    /// Protocol of the payload, 8 bits.
    pub const PROTOCOL: usize = 9;
    /// Header checksum, 16 bits.
    pub const CHECKSUM: usize = 10;
    /// Source address, 32 bits; the destination follows.
    pub const SRC: usize = 12;
    /// Destination address, 32 bits.
    pub const DST: usize = 16;
}

/// "Don't fragment" in the flags and fragment offset field.
pub const DONT_FRAGMENT: u16 = 0x4000;

/// "More fragments" in the same field.
pub const MORE_FRAGMENTS: u16 = 0x2000;

/// The fragment offset in the same field, in units of 8 bytes.
pub const FRAGMENT_OFFSET: u16 = 0x1fff;

/// Loose source route (RFC 791 section 3.1).
const LOOSE_SOURCE_ROUTE: u8 = 131;

/// Strict source route (RFC 791 section 3.1).
const STRICT_SOURCE_ROUTE: u8 = 137;

/// Classification of a header's options for a router.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ipv4Options {
    /// No options, or only padding.
    None,
    /// Options that do not influence the route. They pass; a router may have to [leave its mark](Ipv4Mut::mark) in them.
    Harmless,
    /// A source route, which bypasses filters: the packet is to be dropped (RFC 7126 section 4.3).
    SourceRouted,
    /// A truncated list, in which another parser might see a source route: the packet is to be dropped.
    Malformed,
}

/// A checked IPv4 header with its payload. The header need not be validated again.
#[derive(Clone, Copy)]
pub struct Ipv4View<'a> {
    /// The header without its options.
    header: &'a [u8; IPV4_LEN],
    /// Options and payload, without Ethernet padding.
    rest: &'a [u8],
}

impl<'a> Ipv4View<'a> {
    /// Checks a header. `None` if version, header length or total length are inconsistent with each other or with the
    /// bytes. Bytes after the packet are allowed, because Ethernet pads short frames.
    #[inline(always)]
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Option<Ipv4View<'a>> {
        let view = Ipv4View::unchecked(bytes)?;
        let total = view.total_len();
        if !is_version_4(view.header) || view.header_len() > total || total > bytes.len() {
            return None;
        }
        Some(Ipv4View { rest: &view.rest[..total - IPV4_LEN], ..view })
    }

    /// A packet quoted by an ICMP error: its header is complete, its payload may be truncated. The total length is not
    /// checked, because it may differ from what the sender wrote.
    #[inline]
    #[must_use]
    pub fn quoted(bytes: &'a [u8]) -> Option<Ipv4View<'a>> {
        let view = Ipv4View::unchecked(bytes)?;
        (is_version_4(view.header) && view.header_len() <= bytes.len()).then_some(view)
    }

    /// The view of a packet whose header was checked before; `packet` has no bytes after it.
    #[inline(always)]
    pub(crate) fn unchecked(packet: &'a [u8]) -> Option<Ipv4View<'a>> {
        packet.split_first_chunk().map(|(header, rest)| Ipv4View { header, rest })
    }

    /// Header length in bytes, 20 to 60.
    #[inline(always)]
    #[must_use]
    pub fn header_len(self) -> usize {
        usize::from(self.header[0] & 0x0f) * 4
    }

    /// The total length field: header and payload in bytes.
    #[inline(always)]
    #[must_use]
    pub fn total_len(self) -> usize {
        usize::from(u16_at(self.header, field::TOTAL_LEN))
    }

    /// Type of service: DSCP and ECN.
    #[inline(always)]
    #[must_use]
    pub fn tos(self) -> u8 {
        self.header[field::TOS]
    }

    /// Identification, which a datagram's fragments share.
    #[inline]
    #[must_use]
    pub fn id(self) -> u16 {
        u16_at(self.header, field::ID)
    }

    /// Whether the packet is one of several fragments: more follow, or it is not the first.
    #[inline(always)]
    #[must_use]
    pub fn is_fragment(self) -> bool {
        u16_at(self.header, field::FRAGMENT) & (MORE_FRAGMENTS | FRAGMENT_OFFSET) != 0
    }

    /// Whether the packet must not be fragmented.
    #[inline(always)]
    #[must_use]
    pub fn dont_fragment(self) -> bool {
        u16_at(self.header, field::FRAGMENT) & DONT_FRAGMENT != 0
    }

    /// Whether more fragments follow.
    #[inline]
    #[must_use]
    pub fn more_fragments(self) -> bool {
        u16_at(self.header, field::FRAGMENT) & MORE_FRAGMENTS != 0
    }

    /// Offset of the payload within its datagram, in bytes: 0 to 65,528.
    #[inline]
    #[must_use]
    pub fn fragment_offset(self) -> usize {
        usize::from(u16_at(self.header, field::FRAGMENT) & FRAGMENT_OFFSET) * 8
    }

    /// Remaining number of hops.
    #[inline(always)]
    #[must_use]
    pub fn ttl(self) -> u8 {
        self.header[field::TTL]
    }

    /// Protocol number of the payload.
    #[inline(always)]
    #[must_use]
    pub fn protocol(self) -> u8 {
        self.header[field::PROTOCOL]
    }

    /// Source address.
    #[inline(always)]
    #[must_use]
    pub fn src(self) -> Ipv4Addr {
        address_at(self.header, field::SRC)
    }

    /// Destination address.
    #[inline(always)]
    #[must_use]
    pub fn dst(self) -> Ipv4Addr {
        address_at(self.header, field::DST)
    }

    /// Source and destination address, as they stand in the header.
    #[inline(always)]
    #[must_use]
    pub fn addresses(self) -> [u8; 8] {
        let mut addresses = [0; 8];
        addresses.copy_from_slice(&self.header[field::SRC..]);
        addresses
    }

    /// The header checksum field.
    #[inline]
    #[must_use]
    pub fn checksum(self) -> u16 {
        u16_at(self.header, field::CHECKSUM)
    }

    /// Whether the header checksum is correct. Routers drop packets with a wrong one (RFC 1812 section 5.2.2).
    #[inline(always)]
    #[must_use]
    pub fn has_valid_checksum(self) -> bool {
        let of_header = checksum::sum_of_20(self.header);
        if self.header_len() == IPV4_LEN {
            return of_header == 0xffff;
        }
        checksum::add(of_header, checksum::sum(self.options_and_payload().0)) == 0xffff
    }

    /// The classification of the options; the first bad one decides.
    #[inline(always)]
    #[must_use]
    pub fn options(self) -> Ipv4Options {
        let mut options = Ipv4Options::None;
        for found in Walk::new(self.options_and_payload().0) {
            match found.map(|found| found.kind) {
                Err(_) => return Ipv4Options::Malformed,
                Ok(LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE) => return Ipv4Options::SourceRouted,
                Ok(_) => options = Ipv4Options::Harmless,
            }
        }
        options
    }

    /// The payload, without Ethernet padding; for a quoted packet, the part that was quoted.
    #[inline(always)]
    #[must_use]
    pub fn payload(self) -> &'a [u8] {
        self.options_and_payload().1
    }

    #[inline(always)]
    fn options_and_payload(self) -> (&'a [u8], &'a [u8]) {
        // The constructors have checked that the options end within `rest`.
        self.rest.split_at(options_len(self.header).min(self.rest.len()))
    }
}

/// Version 4, and a header length of at least five words.
#[inline(always)]
fn is_version_4(header: &[u8; IPV4_LEN]) -> bool {
    matches!(header[0], 0x45..=0x4f)
}

#[inline(always)]
fn options_len(header: &[u8; IPV4_LEN]) -> usize {
    (usize::from(header[0] & 0x0f) * 4).saturating_sub(IPV4_LEN)
}

/// A checked IPv4 header that can be changed in place. Each change patches the header checksum, so a wrong one stays
/// wrong.
pub struct Ipv4Mut<'a> {
    header: &'a mut [u8; IPV4_LEN],
    rest: &'a mut [u8],
}

impl<'a> Ipv4Mut<'a> {
    /// Checks a header like [`Ipv4View::new`].
    #[inline(always)]
    #[must_use]
    pub fn new(bytes: &'a mut [u8]) -> Option<Ipv4Mut<'a>> {
        let total = Ipv4View::new(bytes)?.total_len();
        Ipv4Mut::unchecked(&mut bytes[..total])
    }

    /// Checks the header of a quoted packet like [`Ipv4View::quoted`].
    #[inline]
    #[must_use]
    pub fn quoted(bytes: &'a mut [u8]) -> Option<Ipv4Mut<'a>> {
        Ipv4View::quoted(bytes)?;
        Ipv4Mut::unchecked(bytes)
    }

    /// The packet of a header that was checked before, like [`Ipv4View::unchecked`].
    #[inline(always)]
    pub(crate) fn unchecked(packet: &'a mut [u8]) -> Option<Ipv4Mut<'a>> {
        packet.split_first_chunk_mut().map(|(header, rest)| Ipv4Mut { header, rest })
    }

    /// A read-only view of the packet.
    #[inline(always)]
    #[must_use]
    pub fn view(&self) -> Ipv4View<'_> {
        Ipv4View { header: self.header, rest: self.rest }
    }

    /// The payload, to be changed in place; see [`Ipv4View::payload`].
    #[inline(always)]
    #[must_use]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        let start = options_len(self.header).min(self.rest.len());
        &mut self.rest[start..]
    }

    /// Changes both addresses. Returns the change of the pseudo-header of TCP and UDP.
    #[inline(always)]
    pub fn set_addresses(&mut self, src: Ipv4Addr, dst: Ipv4Addr) -> Delta {
        let old = [field::SRC, field::DST].map(|at| u32_at(self.header, at));
        let delta = Delta::of_words(old, [src.to_bits(), dst.to_bits()]);
        self.header[field::SRC..field::DST].copy_from_slice(&src.octets());
        self.header[field::DST..].copy_from_slice(&dst.octets());
        self.patch(delta);
        delta
    }

    /// Changes both addresses. `delta` is the change from those that the header has.
    #[inline(always)]
    pub fn replace_addresses(&mut self, new: [u8; 8], delta: Delta) {
        self.header[field::SRC..].copy_from_slice(&new);
        self.patch(delta);
    }

    /// Changes the source address. Returns the change of the pseudo-header of TCP and UDP.
    #[inline]
    pub fn set_src(&mut self, address: Ipv4Addr) -> Delta {
        self.set_address(field::SRC, address)
    }

    /// Changes the destination address. Returns the change of the pseudo-header of TCP and UDP.
    #[inline]
    pub fn set_dst(&mut self, address: Ipv4Addr) -> Delta {
        self.set_address(field::DST, address)
    }

    /// Changes the time to live.
    #[inline]
    pub fn set_ttl(&mut self, ttl: u8) {
        let before = u16_at(self.header, field::TTL);
        self.header[field::TTL] = ttl;
        self.patch(Delta::of_word(before, u16_at(self.header, field::TTL)));
    }

    /// Decrements the time to live, which no other checksum covers. Returns false, and changes nothing, if it would
    /// become 0: the packet is not forwarded (RFC 1812 section 5.3.1).
    #[inline(always)]
    #[must_use]
    pub fn decrement_ttl(&mut self) -> bool {
        match self.header[field::TTL].checked_sub(1) {
            None | Some(0) => false,
            Some(ttl) => {
                self.header[field::TTL] = ttl;
                self.patch(Delta::TTL_STEP);
                true
            }
        }
    }

    /// Leaves a router's mark in the options that take one: record route and timestamp.
    pub fn mark(&mut self, mark: Mark, is_ours: impl Fn(Ipv4Addr) -> bool) -> Result<(), MalformedOption> {
        let len = options_len(self.header).min(self.rest.len());
        let mut before = [0; ipv4_options::MAX_LEN];
        before[..len].copy_from_slice(&self.rest[..len]);
        let outcome = ipv4_options::mark(&mut self.rest[..len], mark, is_ours);
        self.patch(Delta::of(&before[..len], &self.rest[..len]));
        outcome
    }

    #[inline]
    fn set_address(&mut self, at: usize, address: Ipv4Addr) -> Delta {
        let field = &mut self.header[at..at + 4];
        let delta = Delta::of(field, &address.octets());
        field.copy_from_slice(&address.octets());
        self.patch(delta);
        delta
    }

    #[inline(always)]
    fn patch(&mut self, delta: Delta) {
        let check = delta.apply(u16_at(self.header, field::CHECKSUM));
        put_u16(self.header, field::CHECKSUM, check);
    }
}

/// The fields of a new header without options.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipv4Header {
    /// Type of service: DSCP and ECN.
    pub tos: u8,
    /// Length of header and payload in bytes.
    pub total_len: u16,
    /// Identification; without meaning if the packet must not be fragmented (RFC 6864 section 4.1).
    pub id: u16,
    /// The packet must not be fragmented.
    pub dont_fragment: bool,
    /// Maximum number of hops.
    pub ttl: u8,
    /// Protocol number of the payload.
    pub protocol: u8,
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
}

impl Ipv4Header {
    /// The header as 20 bytes, including its checksum.
    #[inline]
    #[must_use]
    pub fn to_bytes(self) -> [u8; IPV4_LEN] {
        let mut bytes = [0; IPV4_LEN];
        bytes[0] = 0x45;
        bytes[field::TOS] = self.tos;
        put_u16(&mut bytes, field::TOTAL_LEN, self.total_len);
        put_u16(&mut bytes, field::ID, self.id);
        put_u16(&mut bytes, field::FRAGMENT, if self.dont_fragment { DONT_FRAGMENT } else { 0 });
        bytes[field::TTL] = self.ttl;
        bytes[field::PROTOCOL] = self.protocol;
        bytes[field::SRC..field::DST].copy_from_slice(&self.src.octets());
        bytes[field::DST..].copy_from_slice(&self.dst.octets());
        let check = !checksum::sum(&bytes);
        put_u16(&mut bytes, field::CHECKSUM, check);
        bytes
    }
}

/// The address at `at`; the caller has checked that it is there.
#[inline(always)]
pub(crate) fn address_at(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32_at(bytes, at))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKET: [u8; 24] = [0x45, 0, 0, 22, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0xaa, 0xbb, 0, 0];

    #[test]
    fn fields_of_literal_bytes() {
        let view = Ipv4View::new(&PACKET).unwrap();
        assert_eq!((view.header_len(), view.total_len(), view.protocol()), (20, 22, 17));
        assert_eq!((view.tos(), view.id(), view.ttl(), view.payload()), (0, 1, 64, &[0xaa, 0xbb][..]));
        assert_eq!((view.src(), view.dst()), (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)));
        assert!(!view.is_fragment() && !view.more_fragments() && view.dont_fragment() && !view.has_valid_checksum());
    }

    #[test]
    fn fragments_of_literal_bytes() {
        let mut packet = PACKET;
        for (field, fragment, more, offset) in [(0x2000, true, true, 0), (0x00b9, true, false, 1480), (0x8000, false, false, 0)] {
            put_u16(&mut packet, field::FRAGMENT, field);
            let view = Ipv4View::new(&packet).unwrap();
            assert_eq!((view.is_fragment(), view.more_fragments(), view.fragment_offset()), (fragment, more, offset));
            assert!(!view.dont_fragment());
        }
    }

    #[test]
    fn options_of_literal_lists() {
        let options = |list: &[u8]| {
            let mut packet = vec![0x40 | (5 + list.len() / 4) as u8, 0, 0, 20 + list.len() as u8];
            packet.resize(IPV4_LEN, 0);
            packet.extend_from_slice(list);
            Ipv4View::new(&packet).unwrap().options()
        };
        assert_eq!(options(&[]), Ipv4Options::None);
        assert_eq!(options(&[1, 1, 1, 0]), Ipv4Options::None);
        assert_eq!(options(&[148, 4, 0, 0]), Ipv4Options::Harmless, "router alert");
        assert_eq!(options(&[1, 131, 7, 4, 10, 0, 0, 9]), Ipv4Options::SourceRouted);
        assert_eq!(options(&[137, 7, 4, 10, 0, 0, 9, 0]), Ipv4Options::SourceRouted);
        assert_eq!(options(&[148, 4, 0, 0, 131, 7, 4, 10, 0, 0, 9, 0]), Ipv4Options::SourceRouted);
        assert_eq!(options(&[0, 131, 3, 4]), Ipv4Options::None, "behind the end");
        for malformed in [[148, 0, 0, 0], [148, 1, 0, 0], [148, 5, 0, 0], [1, 1, 1, 131]] {
            assert_eq!(options(&malformed), Ipv4Options::Malformed, "{malformed:?}");
        }
    }

    #[test]
    fn a_header_is_written_and_changed_in_place() {
        let (src, dst) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
        let header = Ipv4Header { tos: 0xc0, total_len: 24, id: 0x1234, dont_fragment: true, ttl: 2, protocol: 17, src, dst };
        let mut packet = [&header.to_bytes()[..], &[1, 2, 3, 4]].concat();
        assert_eq!(packet[..20], [0x45, 0xc0, 0, 24, 0x12, 0x34, 0x40, 0, 2, 17, 0x51, 0xdf, 10, 0, 0, 1, 10, 0, 0, 2]);
        let mut ip = Ipv4Mut::new(&mut packet).unwrap();
        let new = Ipv4Addr::new(192, 0, 2, 1);
        let delta = ip.set_src(new).and(ip.set_dst(src));
        assert_eq!(delta, Delta::of(&[10, 0, 0, 1, 10, 0, 0, 2], &[192, 0, 2, 1, 10, 0, 0, 1]));
        assert!(ip.decrement_ttl() && !ip.decrement_ttl());
        ip.payload_mut().fill(9);
        let expected = Ipv4Header { src: new, dst: src, ttl: 1, ..header };
        assert_eq!(packet, [&expected.to_bytes()[..], &[9; 4]].concat());
        assert!(Ipv4View::new(&packet).unwrap().has_valid_checksum());
    }

    #[test]
    fn a_quoted_packet_may_be_cut_behind_its_header() {
        assert!(Ipv4View::new(&PACKET[..21]).is_none());
        assert_eq!(Ipv4View::quoted(&PACKET[..21]).unwrap().payload(), [0xaa]);
        assert!(Ipv4View::quoted(&PACKET[..19]).is_none());
        let mut bytes = PACKET;
        assert!(Ipv4Mut::quoted(&mut bytes[..20]).unwrap().payload_mut().is_empty());
    }

    #[test]
    fn contradictions_are_refused() {
        for (at, value) in [(0, 0x65), (0, 0x44), (0, 0x4f), (3, 19), (3, 25)] {
            let mut bad = PACKET;
            bad[at] = value;
            assert!(Ipv4View::new(&bad).is_none(), "byte {at} = {value:#x}");
        }
        for len in 0..22 {
            assert!(Ipv4View::new(&PACKET[..len]).is_none(), "{len} bytes");
        }
    }
}
