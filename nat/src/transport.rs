//! What the translation asks of a transport header: the TCP segment, whether it may open a connection, and whether its
//! checksum is right.

use packet::checksum::{self, Checksum};
use packet::ethernet::u16_at;
use packet::icmpv4::kind;
use packet::udp;

use crate::Refused;
use crate::config::NatConfig;
use crate::tcp::{Policy, Segment, Tracker};
use crate::tuple::{Protocol, Side, Tuple};

/// Longest payload of a segment that came in fragments.
const LONGEST_SEGMENT: u32 = 65_535 - 40;

/// A packet's transport header and what follows.
pub(crate) struct Transport<'a> {
    pub(crate) bytes: &'a [u8],
    /// What is known of its checksum.
    pub(crate) checksum: Checksum,
    /// Only the first fragment of it is here.
    pub(crate) is_fragment: bool,
}

impl Transport<'_> {
    /// The TCP segment. The length of a fragmented one is not known, so it counts as the longest possible.
    #[inline(always)]
    pub(crate) fn segment(&self) -> Result<Segment, Refused> {
        let segment = Segment::parse(self.bytes).ok_or(Refused::OutOfWindow)?;
        Ok(if self.is_fragment { Segment { len: LONGEST_SEGMENT, ..segment } } else { segment })
    }

    /// Whether a connection may start with this packet; for TCP, the state that it starts in.
    pub(crate) fn opens(&self, tuple: &Tuple, config: &NatConfig) -> Result<Option<Tracker>, Refused> {
        match tuple.protocol {
            Protocol::TCP => {
                let segment = Segment::parse(self.bytes).filter(|_| !self.is_fragment).ok_or(Refused::NotOpening)?;
                let policy = Policy { pick_up: config.tcp_loose && tuple.side == Side::Inside, liberal: config.tcp_liberal };
                let tracker = Tracker::open(&segment, policy);
                tracker.map(Some).ok_or(Refused::NotOpening)
            }
            Protocol::ICMP if !matches!(self.bytes[0], kind::ECHO_REQUEST | kind::TIMESTAMP_REQUEST) => Err(Refused::IcmpIgnored),
            _ => Ok(None),
        }
    }

    /// Whether the checksum is right, as far as the packet holds what it covers.
    pub(crate) fn is_sound(&self, tuple: &Tuple) -> bool {
        if self.is_fragment || self.checksum != Checksum::Complete {
            return true;
        }
        // A datagram may be shorter than the packet.
        let bytes = match tuple.protocol {
            Protocol::UDP => self.bytes.get(..usize::from(u16_at(self.bytes, udp::field::LENGTH))).unwrap_or(&[]),
            _ => self.bytes,
        };
        let sum = checksum::sum(bytes);
        let (a, b) = (tuple.src.address.octets(), tuple.dst.address.octets());
        let addresses = [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]];
        let with_pseudo = || checksum::add(sum, checksum::pseudo_header(&addresses, tuple.protocol.0, bytes.len()));
        match tuple.protocol {
            Protocol::TCP => with_pseudo() == 0xffff,
            Protocol::UDP => u16_at(self.bytes, udp::field::CHECKSUM) == 0 || with_pseudo() == 0xffff,
            Protocol::ICMP => sum == 0xffff,
            _ => true,
        }
    }
}
