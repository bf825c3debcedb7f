//! TCP connection tracking: is this segment part of that connection, and how far along is it?
//!
//! The endpoints run the protocol; the tracker observes it from the middle. It never answers, buffers or waits.
//! The state of a connection is 28 bytes.
//!
//! *Windows.* What one side may send is bounded by the other: it has acknowledged up to `ack`, and has never offered
//! more than `window` beyond. So a segment belongs to this connection if
//!
//! ```text
//!             ack - window            ack             ack + window
//!  -------------+----------------------+----------------------+-------------> sequence numbers
//!               |<-- its last byte is after this, its first byte before that -->|
//! ```
//!
//! and if its acknowledgment is neither beyond what the other side has sent, nor more than a window older than the
//! highest acknowledgment so far (RFC 5961 section 5.2). `ack` and `window` are the highest seen, because segments
//! overtake each other. This is the insight of Guido van Rooij, "Real Stateful TCP Packet
//! Filtering in IP Filter" (2001), with the highest acknowledgment kept in place of the highest right
//! edge: from it both bounds follow, and also where a reset must be.
//!
//! *Window scale* (RFC 7323) counts if both SYNs offer it, and not for the windows of SYNs.
//!
//! *Opening.* Both sides have sent a SYN and have acknowledged the other's, in any order: simultaneous
//! open is valid (RFC 5382 REQ-2). An unacknowledged SYN proves nothing, so a later SYN or an exact SYN-ACK
//! replaces it: a forged SYN cannot keep the genuine one out.
//!
//! *Resets.* A RST counts only where the receiver must obey it: exactly at the next sequence number
//! (RFC 5961 section 3.2), or as an answer to a SYN. One elsewhere in the window is forwarded without a change of
//! state, because the endpoint will challenge it. The next valid segment returns a reset connection to its state before (RFC 6146 section 3.5.2.2, TRANS).
//!
//! *Closing.* Both sides have sent a FIN. A half-closed connection may live on for long, so it counts as established.
//!
//! *Reopening.* A SYN after the end (both FINs acknowledged, or reset) starts anew at once, if its
//! sequence number is after those used before (RFC 9293 section 3.10.7.4, TIME-WAIT). Any other SYN may be a delayed
//! copy, or come from an endpoint that lost the connection. It is forwarded and remembered: an endpoint that still has
//! the old connection challenges it, which ends in a reset; one that lost it too answers with a SYN-ACK that fits, and
//! the new connection replaces the old one.
//!
//! *Pick-up.* If the SYNs were not seen (before a restart), windows and scales are unknown. The largest possible window,
//! 1 GiB, is assumed.

use packet::ethernet::u32_at;
use packet::tcp::{TCP_LEN, TcpView, field, flag};

const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const URG: u8 = 0x20;

/// Largest shift count of windows (RFC 7323 section 2.3).
const MAX_SCALE: u8 = 14;
/// Value of a shift count if the side's SYN had none.
const NO_SCALE: u8 = 15;

/// The options of nearly every segment: timestamps, padded as in RFC 7323 appendix A.
const TIMESTAMPS: [u8; 4] = [1, 1, 8, 10];
const TIMESTAMPS_LEN: usize = 12;

/// Bytes that segments and acknowledgments may be old even if the window is smaller: one super-frame.
const MIN_PAST: u32 = 66_000;

/// The sides of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Peer {
    /// Sent the segment with which the tracker was opened.
    Initiator,
    /// The other one.
    Responder,
}

impl Peer {
    /// The other side.
    #[inline]
    #[must_use]
    pub fn other(self) -> Peer {
        match self {
            Peer::Initiator => Peer::Responder,
            Peer::Responder => Peer::Initiator,
        }
    }
}

/// The tracker's judgment of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It belongs to this connection: forward it.
    Pass,
    /// Forward it, but do not refresh the connection: nothing shows that an endpoint of it sent the segment, and the
    /// receiver will challenge or ignore it.
    Doubtful,
    /// It starts a new connection between the same endpoints, which the tracker follows now: forward it.
    Reopened,
    /// It cannot belong to this connection: drop it. The state is unchanged.
    Invalid,
}

/// The phase of a connection, which its timeout depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Not yet acknowledged by both sides: transitory.
    Opening,
    /// Open, or closed in one direction at most.
    Established,
    /// Both sides have sent a FIN: transitory.
    Closing,
    /// The last valid segment was a RST: transitory.
    Reset,
}

/// Deviations from strict tracking that the operator allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Policy {
    /// Connections may be picked up in the middle (netfilter's `tcp_loose`).
    pub pick_up: bool,
    /// Segments outside of the windows pass, unless they are resets (netfilter's `tcp_be_liberal`).
    pub liberal: bool,
}

/// The fields of a segment that the tracker reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Sequence number of the first byte, or of the SYN.
    pub sequence: u32,
    /// Acknowledgment number; valid only with the ACK flag.
    pub acknowledgment: u32,
    /// The window field, not scaled.
    pub window: u16,
    /// The flags byte.
    pub flags: u8,
    /// Number of sequence numbers that it occupies: payload bytes (of the whole super-frame if it is one), and one each
    /// for SYN and FIN.
    pub len: u32,
    /// Shift count that a SYN offers, at most 14.
    pub scale: Option<u8>,
    /// Highest right edge of the SACK option (RFC 2018).
    pub sack: Option<u32>,
}

impl Segment {
    /// Reads a TCP header and its payload, without Ethernet padding. `None` if the header is invalid, or has a
    /// combination of flags that no stack sends (port scans do).
    #[inline(always)]
    #[must_use]
    pub fn parse(tcp: &[u8]) -> Option<Segment> {
        let view = TcpView::new(tcp)?;
        let (header, flags) = (view.header_len(), view.flags());
        if !is_sane(flags) {
            return None;
        }
        let controls = usize::from(flags & SYN != 0) + usize::from(flags & flag::FIN != 0);
        let Options { scale, sack } = Options::parse(&tcp[TCP_LEN..header], flags);
        Some(Segment {
            sequence: view.sequence(),
            acknowledgment: u32_at(tcp, field::ACKNOWLEDGMENT),
            window: u16::from_be_bytes([tcp[field::WINDOW], tcp[field::WINDOW + 1]]),
            flags,
            len: (tcp.len() - header + controls) as u32,
            scale,
            sack,
        })
    }

    /// Whether it is a RST, which does not refresh a connection (RFC 7857 section 7).
    #[inline(always)]
    #[must_use]
    pub fn is_reset(&self) -> bool {
        self.has(RST)
    }

    #[inline(always)]
    fn has(&self, flags: u8) -> bool {
        self.flags & flags != 0
    }

    #[inline(always)]
    fn end(&self) -> u32 {
        self.sequence.wrapping_add(self.len)
    }
}

#[derive(Clone, Copy, Default)]
struct Options {
    scale: Option<u8>,
    sack: Option<u32>,
}

impl Options {
    #[inline(always)]
    fn parse(options: &[u8], flags: u8) -> Options {
        let are_timestamps = options.len() == TIMESTAMPS_LEN && options.starts_with(&TIMESTAMPS);
        if options.is_empty() || are_timestamps { Options::default() } else { Options::walk(options, flags) }
    }

    #[inline(never)]
    fn walk(mut options: &[u8], flags: u8) -> Options {
        let mut found = Options::default();
        loop {
            match options {
                [] | [0, ..] => return found,
                [1, rest @ ..] => options = rest,
                [kind, len, ..] if (2..=options.len()).contains(&usize::from(*len)) => {
                    let (option, rest) = options.split_at(usize::from(*len));
                    found.note(*kind, &option[2..], flags);
                    options = rest;
                }
                _ => return found,
            }
        }
    }

    fn note(&mut self, kind: u8, value: &[u8], flags: u8) {
        match (kind, value) {
            (3, [scale]) if flags & SYN != 0 => self.scale = Some((*scale).min(MAX_SCALE)),
            (5, blocks) if flags & SYN == 0 => {
                self.sack = blocks.chunks_exact(8).map(|block| u32_at(block, 4)).reduce(later);
            }
            _ => {}
        }
    }
}

/// Sets of flags that stacks send (netfilter's `tcp_valid_flags`); PSH and the ECN flags never matter.
#[inline(always)]
fn is_sane(flags: u8) -> bool {
    const ACK: u8 = flag::ACK;
    const FIN_ACK: u8 = flag::FIN | ACK;
    const SYN_ACK: u8 = SYN | ACK;
    const RST_ACK: u8 = RST | ACK;
    matches!(flags & (FIN_ACK | SYN | RST), ACK | FIN_ACK | SYN | SYN_ACK | RST | RST_ACK)
        && (flags & URG == 0 || !matches!(flags & (SYN_ACK | RST), SYN_ACK | RST | RST_ACK))
}

/// Whether `a` comes after `b` on the circle of sequence numbers.
#[inline(always)]
fn is_after(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

#[inline(always)]
fn later(a: u32, b: u32) -> u32 {
    if is_after(b, a) { b } else { a }
}

mod tracker;
pub use tracker::Tracker;

#[cfg(test)]
mod tests;
