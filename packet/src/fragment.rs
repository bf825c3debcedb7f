//! IPv4 fragmentation, for packets that are too long for their egress link (RFC 791 section 3.2).
//!
//! Like [`segment`](crate::segment), it writes headers into a [`Head`] and leaves the payload where it is. The
//! result is that of the kernel's `ip_do_fragment`:
//!
//! ```text
//!  | IPv4 20..60 | payload ........................................ |   3000 bytes, MTU 1500
//!  | IPv4 | 1480 | + | IPv4 | 1480 | + | IPv4 | 20 |
//!    MF, 0             MF, 185            185 + 185
//! ```
//!
//! Every fragment but the last carries the largest multiple of 8 bytes that fits. Identification, time to live and
//! addresses are the packet's. The first fragment keeps all options; in the others, options without the copy flag
//! become no-operations, so that all headers have one length. The packet may be a fragment itself: offsets add up,
//! and the last new fragment keeps "more fragments".
//!
//! *Offloads* are the caller's duty: a transport checksum covers bytes of all fragments, so a partial checksum must be
//! completed before, and a super-frame segmented.

use crate::checksum;
use crate::ethernet::{put_u16, u16_at};
use crate::head::Head;
use crate::headers::{Headers, Network};
use crate::ipv4::{FRAGMENT_OFFSET, IPV4_LEN, MORE_FRAGMENTS, field};
use crate::options::{NO_OPERATION, Walk};
use crate::vlan::TagAction;

/// Maximum length of an IPv4 datagram in bytes, all fragments together.
const MAX_IP_LEN: usize = 65_535;

/// Unit of fragment offsets, in bytes.
const UNIT: usize = 8;

const MAX_OPTIONS_LEN: usize = 40;

/// The copy flag in an option's kind: the option is copied into every fragment.
const COPIED: u8 = 0x80;

/// Fragments one packet; see [`Fragments::next`].
#[derive(Debug)]
pub struct Fragments<'a> {
    l3: u16,
    header_len: usize,
    payload: &'a [u8],
    /// Payload bytes of each fragment but the last.
    size: usize,
    sent: usize,
    is_done: bool,
    /// Offset of the packet's payload within the datagram, in bytes.
    offset: usize,
    /// Flags of the packet, which every fragment keeps.
    flags: u16,
    /// The options of all fragments but the first.
    options: [u8; MAX_OPTIONS_LEN],
}

impl<'a> Fragments<'a> {
    /// `headers` are the frame's own. `mtu` is the longest IPv4 packet that the link takes, in bytes.
    /// `head` keeps the headers from here to the last call of [`Fragments::next`].
    ///
    /// `None` if the packet must not be fragmented and is to be dropped: it is not IPv4, has "don't fragment" set,
    /// has malformed options, or is itself an impossible fragment (it ends beyond byte 65,535 of its datagram, or is
    /// not the last and not a multiple of 8 bytes long). Also if not even 8 bytes fit, which cannot happen with an
    /// MTU of at least [`MIN_MTU`](crate::ipv4::MIN_MTU).
    #[must_use]
    pub fn new(frame: &'a [u8], headers: &Headers, mtu: usize, action: TagAction, head: &mut Head) -> Option<Fragments<'a>> {
        if headers.network != Network::Ipv4 {
            return None;
        }
        let l3 = usize::from(headers.l3);
        let ip = headers.ipv4(frame)?;
        let (payload, header_len) = (ip.payload(), ip.header_len());
        let size = mtu.saturating_sub(header_len) / UNIT * UNIT;
        let fits_nowhere = ip.fragment_offset() + payload.len() > MAX_IP_LEN - IPV4_LEN
            || ip.more_fragments() && !payload.len().is_multiple_of(UNIT);
        if ip.dont_fragment() || fits_nowhere || size == 0 {
            return None;
        }
        let options = copied_options(&frame[l3 + IPV4_LEN..l3 + header_len])?;
        if !head.copy(frame, l3 + header_len, action) {
            return None;
        }
        Some(Fragments {
            l3: headers.l3,
            header_len,
            payload,
            // A packet that fits is one piece of any length.
            size: if header_len + payload.len() <= mtu { payload.len() } else { size },
            sent: 0,
            is_done: false,
            offset: ip.fragment_offset(),
            flags: u16_at(frame, l3 + field::FRAGMENT) & !FRAGMENT_OFFSET,
            options,
        })
    }

    /// Length of all payloads together, in bytes.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.payload.len()
    }

    /// Writes the next fragment's headers into `head` and returns its payload; `None` after the last.
    pub fn next(&mut self, head: &mut Head) -> Option<&'a [u8]> {
        if self.is_done {
            return None;
        }
        let rest = &self.payload[self.sent..];
        let payload = &rest[..rest.len().min(self.size)];
        self.is_done = payload.len() == rest.len();
        let offset = self.offset + self.sent;
        let more = if self.is_done { 0 } else { MORE_FRAGMENTS };
        let ip = &mut head.headers_from(self.l3)[..self.header_len];
        if offset > 0 {
            let options = &mut ip[IPV4_LEN..];
            options.copy_from_slice(&self.options[..options.len()]);
        }
        put_u16(ip, field::TOTAL_LEN, (self.header_len + payload.len()) as u16);
        put_u16(ip, field::FRAGMENT, self.flags | more | (offset / UNIT) as u16);
        put_u16(ip, field::CHECKSUM, 0);
        let check = !checksum::sum(ip);
        put_u16(ip, field::CHECKSUM, check);
        self.sent += payload.len();
        Some(payload)
    }
}

/// The options of all fragments but the first: options without the copy flag become no-operations. `None` if the list
/// is malformed.
fn copied_options(list: &[u8]) -> Option<[u8; MAX_OPTIONS_LEN]> {
    let mut options = [0; MAX_OPTIONS_LEN];
    options[..list.len()].copy_from_slice(list);
    for found in Walk::new(list) {
        let found = found.ok()?;
        if found.kind & COPIED == 0 {
            options[found.range].fill(NO_OPERATION);
        }
    }
    Some(options)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipv4::Ipv4Header;
    use crate::vnet::VNET_LEN;

    /// A frame with this much payload, each byte its place modulo 251.
    fn frame(payload: usize, options: &[u8], fragment: u16) -> Vec<u8> {
        let header_len = IPV4_LEN + options.len();
        let header = Ipv4Header {
            tos: 0,
            total_len: (header_len + payload) as u16,
            id: 0x1234,
            dont_fragment: false,
            ttl: 64,
            protocol: 17,
            src: [10, 0, 0, 1].into(),
            dst: [10, 0, 0, 2].into(),
        };
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
        frame.extend(header.to_bytes());
        frame.extend(options);
        frame[14] = 0x40 | (header_len / 4) as u8;
        put_u16(&mut frame, 14 + field::FRAGMENT, fragment);
        frame.extend((0..payload).map(|at| (at % 251) as u8));
        frame
    }

    /// IPv4 headers and lengths of the payloads.
    fn cut(frame: &[u8], mtu: usize) -> Option<Vec<(Vec<u8>, usize)>> {
        let headers = Headers::parse(frame).unwrap();
        let mut head = Head::default();
        let mut fragments = Fragments::new(frame, &headers, mtu, TagAction::Keep, &mut head)?;
        let mut cut = Vec::new();
        while let Some(payload) = fragments.next(&mut head) {
            cut.push((head.as_bytes()[VNET_LEN + 14..].to_vec(), payload.len()));
        }
        Some(cut)
    }

    #[test]
    fn literal_headers_of_three_fragments() {
        let cut = cut(&frame(2980, &[], 0), 1500).unwrap();
        let header = |total: [u8; 2], fragment: [u8; 2], check: [u8; 2]| {
            [&[0x45, 0][..], &total, &[0x12, 0x34], &fragment, &[64, 17], &check, &[10, 0, 0, 1, 10, 0, 0, 2]].concat()
        };
        assert_eq!(
            cut,
            [
                (header([0x05, 0xdc], [0x20, 0x00], [0x2e, 0xdb]), 1480),
                (header([0x05, 0xdc], [0x20, 0xb9], [0x2e, 0x22]), 1480),
                (header([0x00, 0x28], [0x01, 0x72], [0x53, 0x1d]), 20),
            ]
        );
    }

    #[test]
    fn options_that_are_not_copied_stay_in_the_first() {
        // Record route (not copied), router alert (copied), end.
        let options = [7, 7, 4, 1, 2, 3, 4, 148, 4, 0, 0, 0];
        let cut = cut(&frame(100, &options, 0), 80).unwrap();
        assert_eq!(cut.iter().map(|(_, len)| *len).collect::<Vec<_>>(), [48, 48, 4]);
        assert_eq!(cut[0].0[20..], options);
        for (header, _) in &cut[1..] {
            assert_eq!(header[20..], [1, 1, 1, 1, 1, 1, 1, 148, 4, 0, 0, 0]);
        }
    }

    #[test]
    fn a_fragment_is_cut_again() {
        // The last one first: offset 1480.
        let last = cut(&frame(1000, &[], 185), 576).unwrap();
        let fields = |cut: &[(Vec<u8>, usize)]| cut.iter().map(|(header, _)| u16_at(header, field::FRAGMENT)).collect::<Vec<_>>();
        assert_eq!(fields(&last), [0x2000 | 185, 185 + 69]);
        let middle = cut(&frame(1000, &[], 0x2000 | 185), 576).unwrap();
        assert_eq!(fields(&middle), [0x2000 | 185, 0x2000 | (185 + 69)]);
    }

    #[test]
    fn what_fits_is_left_whole() {
        assert_eq!(cut(&frame(0, &[], 0), 68).unwrap()[0].1, 0);
        let frame = frame(1479, &[], 0);
        assert_eq!(cut(&frame, 1499).unwrap(), [(frame[14..34].to_vec(), 1479)]);
        assert_eq!(cut(&frame, 1498).unwrap().len(), 2);
    }

    #[test]
    fn what_must_not_be_cut_is_refused() {
        assert!(cut(&frame(1000, &[], 0x4000), 576).is_none(), "don't fragment");
        assert!(cut(&frame(1000, &[7, 0, 0, 0], 0), 576).is_none(), "malformed options");
        assert!(cut(&frame(1001, &[], 0x2000), 576).is_none(), "no multiple of 8, and more follow");
        assert!(cut(&frame(1000, &[], 0x1fff), 576).is_none(), "behind the longest datagram's end");
        assert!(cut(&frame(1000, &[], 0), 27).is_none(), "no room for 8 bytes");
        assert!(cut(&frame(1000, &[1; 40], 0), crate::ipv4::MIN_MTU).is_some());
        let mut other = frame(1000, &[], 0);
        other[12..14].copy_from_slice(&[0x86, 0xdd]);
        assert!(cut(&other, 576).is_none(), "not IPv4");
    }
}
