//! ICMP errors: the packet that they quote is translated back, so that its sender knows it again.
//!
//! ```text
//!  from outside                                     to the guest
//!  +--------------+------+----------------------+   +--------------+------+----------------------+
//!  | router > ext | ICMP | ext:p' > peer:q      |   | router > in  | ICMP | in:p > peer:q        |
//!  +--------------+------+----------------------+   +--------------+------+----------------------+
//!                          the quoted packet, cut off somewhere
//! ```
//!
//! Whoever reports may be any router, so its address is not looked at (RFC 5508 REQ-4, RFC 4787
//! REQ-12). The quote must be of a live connection, and for TCP of bytes under way (RFC 5927 section
//! 4.1). An error neither refreshes nor ends a connection (RFC 5508 REQ-6). What is quoted of the
//! transport checksum is patched, not verified: it covers bytes that are not there.

use packet::checksum::{self, Delta};
use packet::icmpv4::{kind, unreachable};

use crate::Refused;
use crate::nat::{Nat, Translated};
use crate::rewrite;
use crate::table::Direction;
use crate::tcp::{Peer, Phase};
use crate::tuple::{Endpoint, Protocol, Side, Tuple};
use crate::view::{address_at, put_u16, query, u16_at, u32_at};

const ICMP_LEN: usize = 8;
const ICMP_CHECKSUM: usize = 2;
const NEXT_HOP_MTU: usize = 6;

/// No path is narrower than what every host must take (RFC 791); a smaller figure is an attack (RFC
/// 5927 section 7.2). 0 comes from routers older than RFC 1191.
const LEAST_MTU: u16 = 576;

/// The quoted packet's own header and the first bytes behind it.
struct Quote {
    /// Where its transport header starts, from the quote's start.
    l4: usize,
    protocol: Protocol,
    src: Endpoint,
    dst: Endpoint,
}

impl Quote {
    fn read(bytes: &[u8]) -> Result<Quote, Refused> {
        if bytes.len() < 20 || bytes[0] >> 4 != 4 {
            return Err(Refused::Malformed);
        }
        let l4 = usize::from(bytes[0] & 0x0f) * 4;
        let protocol = Protocol(bytes[9]);
        let needs = if protocol.has_ports() { 8 } else { 0 };
        if l4 < 20 || bytes.len() < l4 + needs {
            return Err(Refused::Malformed);
        }
        if u16_at(bytes, 6) & 0x1fff != 0 {
            return Err(Refused::IcmpUnrelated);
        }
        let (src, dst) = match protocol {
            Protocol::TCP | Protocol::UDP => (u16_at(bytes, l4), u16_at(bytes, l4 + 2)),
            Protocol::ICMP => query(&bytes[l4..])?,
            _ => (0, 0),
        };
        Ok(Quote { l4, protocol, src: Endpoint::new(address_at(bytes, 12), src), dst: Endpoint::new(address_at(bytes, 16), dst) })
    }
}

impl Nat {
    /// Translates an ICMP error that came in on `side`; its ICMP header starts at `l4`.
    #[cold]
    pub(crate) fn translate_error(&self, side: Side, packet: &mut [u8], l4: usize, secs: u32) -> Result<Translated, Refused> {
        let icmp = &packet[l4..];
        if checksum::sum(icmp) != 0xffff {
            return Err(Refused::BadChecksum);
        }
        if icmp[0] == kind::UNREACHABLE
            && icmp[1] == unreachable::FRAGMENTATION_NEEDED
            && (1..LEAST_MTU).contains(&u16_at(icmp, NEXT_HOP_MTU))
        {
            return Err(Refused::IcmpIgnored);
        }
        let quote = Quote::read(&icmp[ICMP_LEN..])?;
        // An error goes to whoever sent what it is about.
        if address_at(packet, 16) != quote.src.address {
            return Err(Refused::IcmpUnrelated);
        }
        let original = self.original_of(side, &quote, &icmp[ICMP_LEN..], secs)?;
        let delta = rewrite_quote(&mut packet[l4 + ICMP_LEN..], &quote, original.src, original.dst);
        let check = delta.apply(u16_at(packet, l4 + ICMP_CHECKSUM));
        put_u16(packet, l4 + ICMP_CHECKSUM, check);
        let (src, dst) = (Endpoint::new(address_at(packet, 12), 0), Endpoint::new(address_at(packet, 16), 0));
        match side {
            Side::Outside => rewrite::addresses(packet, src, original.src),
            Side::Inside => rewrite::addresses(packet, original.dst, dst),
        };
        Ok(Translated { dst: address_at(packet, 16), first: None })
    }

    /// The quoted packet as its sender sent it. On the side that the error came from, the answers to
    /// it would arrive.
    fn original_of(&self, side: Side, quote: &Quote, bytes: &[u8], secs: u32) -> Result<Tuple, Refused> {
        let answer = Tuple { side, protocol: quote.protocol, src: quote.dst, dst: quote.src };
        let found = self.table.find(&answer, self.table.hash(&answer)).ok_or(Refused::IcmpUnrelated)?;
        let tracker = (quote.protocol == Protocol::TCP).then(|| self.table.tracker(found.id));
        let timeout = self.timeouts.of(quote.protocol, || tracker.map_or(Phase::Opening, |tracker| tracker.phase()));
        if secs.saturating_sub(self.table.used(found.id)) > timeout {
            return Err(Refused::IcmpUnrelated);
        }
        if let Some(tracker) = tracker {
            let sender = if found.direction == Direction::Original { Peer::Responder } else { Peer::Initiator };
            if !tracker.is_acceptable_quote(sender, u32_at(bytes, quote.l4 + 4)) {
                return Err(Refused::IcmpUnrelated);
            }
        }
        Ok(*found.tuples.opposite(found.direction))
    }
}

/// Writes endpoints into a quoted packet, which may be cut off behind the first eight bytes of its
/// transport header. Returns what changed, all checksums included.
fn rewrite_quote(bytes: &mut [u8], quote: &Quote, src: Endpoint, dst: Endpoint) -> Delta {
    const IP_CHECKSUM: usize = 10;
    let old_check = u16_at(bytes, IP_CHECKSUM);
    let of_addresses = rewrite::addresses(bytes, src, dst);
    let of_ip_check = Delta::of_word(old_check, u16_at(bytes, IP_CHECKSUM));
    let outer = of_addresses.and(of_ip_check);
    let transport = &mut bytes[quote.l4..];
    let (changed, covered, at) = match quote.protocol {
        Protocol::TCP => {
            let of_ports = rewrite::ports(transport, src.port, dst.port);
            (of_ports, of_addresses.and(of_ports), 16)
        }
        Protocol::UDP => {
            let of_ports = rewrite::ports(transport, src.port, dst.port);
            (of_ports, of_addresses.and(of_ports), 6)
        }
        Protocol::ICMP => {
            let of_id = rewrite::query_id(transport, src.port, dst.port);
            (of_id, of_id, 2)
        }
        _ => return outer,
    };
    let is_absent = transport.len() < at + 2 || quote.protocol == Protocol::UDP && u16_at(transport, at) == 0;
    if is_absent {
        return outer.and(changed);
    }
    let old = u16_at(transport, at);
    let new = if quote.protocol == Protocol::UDP { covered.apply_to_udp(old) } else { covered.apply(old) };
    put_u16(transport, at, new);
    outer.and(changed).and(Delta::of_word(old, new))
}
