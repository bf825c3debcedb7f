//! The state of one TCP connection, and how a segment changes it.

use packet::tcp::flag;

use super::{MAX_SCALE, MIN_PAST, NO_SCALE, Peer, Phase, Policy, RST, SYN, Segment, Verdict, is_after, later};

/// One connection; see the module's text.
///
/// ```text
///  word  0        1        2        3        4        5                6
///       +--------+--------+--------+--------+--------+----------------+----------------+
///       | end    | ack    | end    | ack    | offer  | window, window | flags, scales  |
///       +--------+--------+--------+--------+--------+----------------+----------------+
///       |    initiator    |    responder    |
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tracker {
    sides: [Side; 2],
    /// Sequence number of a SYN that came out of turn; see [`OFFERED`].
    offer: u32,
    /// Largest window that each side advertised, in units of its shift count.
    windows: [u16; 2],
    /// Five bits for each side, then those of the connection.
    flags: u16,
    /// Shift counts of initiator, responder and offer, four bits each.
    scales: u16,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Side {
    /// One after the last sequence number sent.
    end: u32,
    /// Highest acknowledgment sent; the sequence number of the SYN as long as there is none.
    ack: u32,
}

/// Flag of a side: it has sent a segment.
const SEEN: u16 = 1 << 0;
/// Flag of a side: it has acknowledged the other side's segments.
const ACKED: u16 = 1 << 1;
/// Flag of a side: it has sent a FIN.
const FIN: u16 = 1 << 2;
/// Flag of a side: its FIN was acknowledged.
const FIN_ACKED: u16 = 1 << 3;
/// Flag of a side: it has sent the SYN remembered in `offer`.
const OFFERED: u16 = 1 << 4;
/// Number of bits from the initiator's flags to the responder's.
const RESPONDER: u16 = 5;

const RESET: u16 = 1 << 10;
const PICKED_UP: u16 = 1 << 11;
const LIBERAL: u16 = 1 << 12;
/// Both sides offered a shift count, so windows are shifted.
const SCALED: u16 = 1 << 13;

const fn both(flags: u16) -> u16 {
    flags | flags << RESPONDER
}

/// Flags that are ignored while data flows.
const STANDING: u16 = PICKED_UP | LIBERAL | SCALED | both(OFFERED);

/// Value of `scales` if no SYN offered a shift count.
const NO_SCALES: u16 = 0x0fff;

impl Tracker {
    /// Starts with the first segment of a connection, sent by [`Peer::Initiator`]: a SYN, or an ACK in mid-connection if
    /// the policy allows that. `None` for any other segment.
    #[must_use]
    pub fn open(segment: &Segment, policy: Policy) -> Option<Tracker> {
        let liberal = if policy.liberal { LIBERAL } else { 0 };
        match segment.flags & (SYN | RST | flag::FIN | flag::ACK) {
            SYN => Some(Tracker::start(Peer::Initiator, segment, liberal)),
            flag::ACK if policy.pick_up => Some(Tracker::pick_up(segment, liberal)),
            _ => None,
        }
    }

    fn start(from: Peer, syn: &Segment, standing: u16) -> Tracker {
        let mut tracker = Tracker { sides: [Side::default(); 2], offer: 0, windows: [0; 2], flags: standing, scales: NO_SCALES };
        tracker.begin(from, syn);
        tracker
    }

    /// Starts in mid-connection. Both windows count as 1 GiB until more is known.
    fn pick_up(segment: &Segment, standing: u16) -> Tracker {
        let initiator = Side { end: segment.end(), ack: segment.acknowledgment };
        let responder = Side { end: segment.acknowledgment, ack: 0 };
        let scale = u16::from(MAX_SCALE);
        Tracker {
            sides: [initiator, responder],
            offer: 0,
            windows: [u16::MAX; 2],
            flags: standing | PICKED_UP | SCALED | both(SEEN) | ACKED,
            scales: scale | scale << 4,
        }
    }

    /// Judges a segment, and updates the state by it unless it is invalid.
    #[inline]
    pub fn follow(&mut self, from: Peer, segment: &Segment) -> Verdict {
        let is_flowing = self.flags & !STANDING == both(SEEN | ACKED);
        if !is_flowing || segment.has(SYN | RST | flag::FIN) {
            return self.follow_change(from, segment);
        }
        let (due, acked) = (self.side(from.other()).ack, self.side(from).ack);
        if !self.fits(from, segment, due, acked) {
            return self.outside();
        }
        self.note(from, segment);
        Verdict::Pass
    }

    /// The phase of the connection.
    #[inline]
    #[must_use]
    pub fn phase(&self) -> Phase {
        if self.flags & RESET != 0 {
            Phase::Reset
        } else if self.flags & both(FIN) == both(FIN) {
            Phase::Closing
        } else if self.has_opened() {
            Phase::Established
        } else {
            Phase::Opening
        }
    }

    /// Whether each side has acknowledged the other's SYN, so that both take part; also after a reset or the end.
    #[inline]
    #[must_use]
    pub fn has_opened(&self) -> bool {
        self.flags & both(ACKED) == both(ACKED)
    }

    /// Whether a segment of `from` with this sequence number can have caused an ICMP error now: it was
    /// sent, and is not acknowledged for longer than a window (RFC 5927 section 4.1).
    #[must_use]
    pub fn is_acceptable_quote(&self, from: Peer, sequence: u32) -> bool {
        let oldest = self.due(from).wrapping_sub(self.past(from.other()));
        self.has(from, SEEN) && !is_after(sequence, self.side(from).end) && !is_after(oldest, sequence)
    }

    /// The connection of a state that may not be exact: segments that do not fit pass, as with `tcp-liberal`.
    #[must_use]
    pub fn doubt(self) -> Tracker {
        Tracker { flags: self.flags | LIBERAL, windows: [u16::MAX; 2], ..self }
    }

    /// The whole state, for tables of atomics.
    #[inline]
    #[must_use]
    pub fn to_words(self) -> [u32; 7] {
        let [initiator, responder] = self.sides;
        let pair = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
        let windows = pair(self.windows[0], self.windows[1]);
        [initiator.end, initiator.ack, responder.end, responder.ack, self.offer, windows, pair(self.flags, self.scales)]
    }

    /// The state that [`Tracker::to_words`] wrote. Any words are safe, if not sensible.
    #[inline]
    #[must_use]
    pub fn from_words(words: [u32; 7]) -> Tracker {
        let [initiator_end, initiator_ack, responder_end, responder_ack, offer, windows, rest] = words;
        let pair = |word: u32| [word as u16, (word >> 16) as u16];
        let [flags, scales] = pair(rest);
        let initiator = Side { end: initiator_end, ack: initiator_ack };
        let responder = Side { end: responder_end, ack: responder_ack };
        Tracker { sides: [initiator, responder], offer, windows: pair(windows), flags, scales }
    }

    /// Any segment but data in an established connection.
    #[inline(never)]
    fn follow_change(&mut self, from: Peer, segment: &Segment) -> Verdict {
        if segment.has(RST) {
            return self.follow_reset(from, segment);
        }
        if segment.has(SYN) {
            return if segment.has(flag::ACK) { self.follow_syn_ack(from, segment) } else { self.follow_syn(from, segment) };
        }
        if !self.has(from, SEEN) {
            // Answers a SYN whose sender lost this connection; the sender will answer with a RST.
            return Verdict::Doubtful;
        }
        if !self.has(from.other(), SEEN) || !self.is_within(from, segment) {
            return self.outside();
        }
        let is_new = is_after(segment.end(), self.side(from).end);
        self.advance(from, segment);
        if segment.has(flag::FIN) {
            self.set(from, FIN);
        } else if is_new {
            // More data after its FIN: the FIN was not its own.
            self.clear(from, FIN | FIN_ACKED);
        }
        if self.has(from.other(), FIN) && segment.acknowledgment == self.side(from.other()).end {
            self.set(from.other(), FIN_ACKED);
        }
        self.flags &= !RESET;
        Verdict::Pass
    }

    fn follow_syn(&mut self, from: Peer, segment: &Segment) -> Verdict {
        let is_over = self.flags & RESET != 0 || self.flags & both(FIN_ACKED) == both(FIN_ACKED);
        let is_new = !self.has(from, SEEN) || is_after(segment.sequence, self.side(from).end);
        if is_over && is_new {
            *self = Tracker::start(from, segment, self.flags & LIBERAL);
            return Verdict::Reopened;
        }
        if !self.has(from, ACKED) {
            if !self.has(from.other(), ACKED) {
                self.begin(from, segment);
                return Verdict::Pass;
            }
            if self.has(from, SEEN) && segment.sequence == self.side(from).ack {
                return Verdict::Pass;
            }
        }
        self.offer = segment.sequence;
        self.scales = self.scales & 0x00ff | offered_scale(segment) << 8;
        self.clear(from.other(), OFFERED);
        self.set(from, OFFERED);
        Verdict::Doubtful
    }

    fn follow_syn_ack(&mut self, from: Peer, segment: &Segment) -> Verdict {
        let other = from.other();
        let is_repeated = self.has(from, ACKED) || self.flags & PICKED_UP != 0;
        if is_repeated && self.is_within(from, segment) {
            return Verdict::Doubtful;
        }
        if self.is_answer_to_offer(other, segment.acknowledgment) {
            self.accept_offer(from, segment);
            return Verdict::Reopened;
        }
        if is_repeated || !self.is_answer_to_syn(other, segment.acknowledgment) {
            return self.outside();
        }
        if !self.has(from, SEEN) || segment.sequence != self.side(from).ack {
            // Earlier acknowledgments of the other side were not for this one's SYN.
            if self.has(other, ACKED) {
                self.clear(other, ACKED);
                self.sides[other as usize].ack = self.side(other).end.wrapping_sub(1);
            }
            self.begin(from, segment);
        }
        self.sides[from as usize].ack = segment.acknowledgment;
        self.set(from, ACKED);
        self.flags &= !RESET;
        Verdict::Pass
    }

    /// Starts anew with the SYN that came out of turn, which `from` has answered.
    fn accept_offer(&mut self, from: Peer, segment: &Segment) {
        let scale = (self.scales >> 8 & 0xf) as u8;
        let syn = Segment {
            sequence: self.offer,
            acknowledgment: 0,
            window: u16::MAX,
            flags: SYN,
            len: 1,
            scale: (scale <= MAX_SCALE).then_some(scale),
            sack: None,
        };
        *self = Tracker::start(from.other(), &syn, self.flags & LIBERAL);
        self.begin(from, segment);
        self.sides[from as usize].ack = segment.acknowledgment;
        self.set(from, ACKED);
    }

    fn follow_reset(&mut self, from: Peer, segment: &Segment) -> Verdict {
        let other = from.other();
        let is_exact = self.has(from, SEEN) && segment.sequence == self.side(from).end
            || self.has(other, ACKED) && segment.sequence == self.side(other).ack;
        let answers_syn =
            !self.has(from, ACKED) && !self.has(other, ACKED) && self.is_answer_to_syn(other, segment.acknowledgment);
        let is_refusal = segment.has(flag::ACK) && (answers_syn || self.is_answer_to_offer(other, segment.acknowledgment));
        if is_exact || is_refusal {
            self.flags |= RESET;
            return Verdict::Pass;
        }
        if !self.has(other, SEEN) {
            // Rejects a segment of a connection that this side lost.
            return Verdict::Doubtful;
        }
        let is_inside = segment.sequence.wrapping_sub(self.due(from)) <= self.window(other);
        if self.has(from, SEEN) && is_inside { Verdict::Doubtful } else { Verdict::Invalid }
    }

    /// Takes in the first SYN of a side. Its window is never scaled.
    fn begin(&mut self, from: Peer, syn: &Segment) {
        self.sides[from as usize] = Side { end: syn.end(), ack: syn.sequence };
        let theirs = self.window(from.other());
        let place = 4 * from as u16;
        self.scales = self.scales & !(0xf << place) | offered_scale(syn) << place;
        let is_scaled = ![self.scales & 0xf, self.scales >> 4 & 0xf].contains(&u16::from(NO_SCALE));
        self.flags = self.flags & !SCALED | if is_scaled { SCALED } else { 0 };
        self.set(from, SEEN);
        self.note_window(from, u32::from(syn.window));
        self.note_window(from.other(), theirs);
    }

    /// Stores a window, given in bytes and rounded up to the unit that it is kept in.
    fn note_window(&mut self, peer: Peer, bytes: u32) {
        let units = bytes.div_ceil(1 << self.shift(peer)).max(1);
        self.windows[peer as usize] = u16::try_from(units).unwrap_or(u16::MAX);
    }

    /// Whether the other endpoint can accept this segment, which is not a RST.
    fn is_within(&self, from: Peer, segment: &Segment) -> bool {
        let acked = if self.has(from, ACKED) { self.side(from).ack } else { self.side(from.other()).end };
        self.fits(from, segment, self.due(from), acked)
    }

    /// The window rule. The other side expects the sequence number `due`, and this one has acknowledged `acked` before.
    #[inline]
    fn fits(&self, from: Peer, segment: &Segment, due: u32, acked: u32) -> bool {
        let other = from.other();
        let is_too_new = is_after(segment.sequence, due.wrapping_add(self.window(other)));
        let is_too_old = is_after(due.wrapping_sub(self.past(other)), segment.end());
        // Before a connection was picked up, more may have been sent than was seen.
        let unseen = if self.flags & PICKED_UP != 0 { self.window(from) } else { 0 };
        let newest = segment.sack.map_or(segment.acknowledgment, |sack| later(sack, segment.acknowledgment));
        let acks_too_much = is_after(newest, self.side(other).end.wrapping_add(unseen));
        let acks_too_little = is_after(acked.wrapping_sub(self.past(from)), segment.acknowledgment);
        !(is_too_new | is_too_old | acks_too_much | acks_too_little)
    }

    /// Takes in a valid segment, possibly the first acknowledgment of a side.
    fn advance(&mut self, from: Peer, segment: &Segment) {
        if !self.has(from, ACKED) {
            self.sides[from as usize].ack = segment.acknowledgment;
            self.set(from, ACKED);
        }
        self.note(from, segment);
    }

    /// Updates both sides by a valid segment.
    #[inline]
    fn note(&mut self, from: Peer, segment: &Segment) {
        let mine = &mut self.sides[from as usize];
        mine.end = later(mine.end, segment.end());
        mine.ack = later(mine.ack, segment.acknowledgment);
        let ack = mine.ack;
        let theirs = &mut self.sides[from.other() as usize];
        theirs.end = later(theirs.end, ack);
        let window = &mut self.windows[from as usize];
        *window = segment.window.max(*window);
    }

    fn outside(&self) -> Verdict {
        if self.flags & LIBERAL != 0 { Verdict::Pass } else { Verdict::Invalid }
    }

    /// Whether this acknowledges the SYN of `to`, with or without the data in it (RFC 7413).
    fn is_answer_to_syn(&self, to: Peer, acknowledgment: u32) -> bool {
        let Side { end, ack: sequence } = *self.side(to);
        if self.has(to, ACKED) {
            return acknowledgment == end;
        }
        self.has(to, SEEN) && is_after(acknowledgment, sequence) && !is_after(acknowledgment, end)
    }

    /// Whether this acknowledges a SYN of `to` that came out of turn.
    fn is_answer_to_offer(&self, to: Peer, acknowledgment: u32) -> bool {
        self.has(to, OFFERED) && acknowledgment == self.offer.wrapping_add(1)
    }

    /// The sequence number that the other side expects of `from`, as far as is known.
    #[inline]
    fn due(&self, from: Peer) -> u32 {
        if self.has(from.other(), ACKED) { self.side(from.other()).ack } else { self.side(from).end }
    }

    /// Receive window of this side in bytes, below 2^30.
    #[inline]
    fn window(&self, peer: Peer) -> u32 {
        u32::from(self.windows[peer as usize]) << self.shift(peer)
    }

    /// The shift count of this side's windows.
    #[inline]
    fn shift(&self, peer: Peer) -> u32 {
        if self.flags & SCALED == 0 { 0 } else { u32::from(self.scales >> (4 * peer as u16) & 0xf) }
    }

    /// Bytes that a segment may be older than the expected one.
    #[inline]
    fn past(&self, peer: Peer) -> u32 {
        self.window(peer).max(MIN_PAST)
    }

    #[inline]
    fn side(&self, peer: Peer) -> &Side {
        &self.sides[peer as usize]
    }

    #[inline]
    fn has(&self, peer: Peer, flag: u16) -> bool {
        self.flags >> (RESPONDER * peer as u16) & flag != 0
    }

    #[inline]
    fn set(&mut self, peer: Peer, flags: u16) {
        self.flags |= flags << (RESPONDER * peer as u16);
    }

    fn clear(&mut self, peer: Peer, flags: u16) {
        self.flags &= !(flags << (RESPONDER * peer as u16));
    }
}

fn offered_scale(syn: &Segment) -> u16 {
    u16::from(syn.scale.map_or(NO_SCALE, |scale| scale.min(MAX_SCALE)))
}
