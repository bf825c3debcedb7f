//! ICMP errors: the packet that they quote is translated back, so that its sender recognizes it.
//!
//! ```text
//!  from outside                                     to the guest
//!  +--------------+------+----------------------+   +--------------+------+----------------------+
//!  | router > ext | ICMP | ext:p' > peer:q      |   | router > in  | ICMP | in:p > peer:q        |
//!  +--------------+------+----------------------+   +--------------+------+----------------------+
//!                          the quoted packet, cut off somewhere
//! ```
//!
//! Any router on the way may report, so the source address is not checked (RFC 5508 REQ-4, RFC 4787 REQ-12). The quote
//! must belong to a live connection, and for TCP to bytes in flight (RFC 5927 section 4.1). An error neither refreshes
//! nor ends a connection (RFC 5508 REQ-6), so to translate one changes no table.

use packet::checksum;
use packet::ethernet::u16_at;
use packet::icmpv4::{kind, unreachable};
use packet::ipv4::Ipv4View;

use crate::Refused;
use crate::decision::{Basis, Change, Decision};
use crate::icmp_quote::Quote;
use crate::nat::Nat;
use crate::table::Direction;
use crate::tcp::{Peer, Phase};
use crate::tuple::{Protocol, Side, Tuple};

/// Offset of the next hop's MTU in "fragmentation needed" (RFC 1191 section 4).
const NEXT_HOP_MTU: usize = 6;

/// Smallest MTU that is believed. Every host accepts packets of this length (RFC 791), so a smaller value is an attack
/// (RFC 5927 section 7.2). Routers older than RFC 1191 send 0, which passes.
const LEAST_MTU: u16 = 576;

impl Nat {
    /// How an ICMP error that came in on `side` is translated.
    #[cold]
    pub(crate) fn decide_error(&self, side: Side, packet: Ipv4View<'_>, secs: u32) -> Result<Decision, Refused> {
        let icmp = packet.payload();
        if checksum::sum(icmp) != 0xffff {
            return Err(Refused::BadChecksum);
        }
        if icmp[0] == kind::UNREACHABLE
            && icmp[1] == unreachable::FRAGMENTATION_NEEDED
            && (1..LEAST_MTU).contains(&u16_at(icmp, NEXT_HOP_MTU))
        {
            return Err(Refused::IcmpIgnored);
        }
        let quote = Quote::read(icmp)?;
        // An error is sent to the source of the packet that it quotes.
        if packet.dst() != quote.src.address {
            return Err(Refused::IcmpUnrelated);
        }
        let quoted = self.original_of(side, &quote, secs)?;
        let (src, dst) = match side {
            Side::Outside => (packet.src(), quoted.src.address),
            Side::Inside => (quoted.dst.address, packet.dst()),
        };
        Ok(Decision { basis: Basis::Error, change: Change::Error { src, dst, quoted } })
    }

    /// The quoted packet as its sender sent it. Answers to it would arrive on the side that the error came from.
    fn original_of(&self, side: Side, quote: &Quote, secs: u32) -> Result<Tuple, Refused> {
        let answer = Tuple { side, protocol: quote.protocol, src: quote.dst, dst: quote.src };
        let found = self.table.find(&answer, self.table.hash(&answer)).ok_or(Refused::IcmpUnrelated)?;
        let tracker = (quote.protocol == Protocol::TCP).then(|| self.table.tracker(found.id));
        let timeout = self.timeouts.of(quote.protocol, || tracker.map_or(Phase::Opening, |tracker| tracker.phase()));
        if secs.saturating_sub(self.table.used(found.id)) > timeout {
            return Err(Refused::IcmpUnrelated);
        }
        if let Some(tracker) = tracker {
            let sender = if found.direction == Direction::Original { Peer::Responder } else { Peer::Initiator };
            if !tracker.is_acceptable_quote(sender, quote.sequence) {
                return Err(Refused::IcmpUnrelated);
            }
        }
        Ok(*found.tuples.opposite(found.direction))
    }
}
