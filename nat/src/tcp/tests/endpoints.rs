//! Two conforming endpoints with the tracker between them, over a network that loses, duplicates and reorders segments:
//! no segment of theirs may be invalid.

use std::collections::{BTreeMap, VecDeque};

use super::*;

/// Parameters of a simulated connection.
#[derive(Clone, Copy, Debug)]
struct Setup {
    numbers: [u32; 2],
    scales: [Option<u8>; 2],
    buffers: [u32; 2],
    /// Bytes that each side sends.
    bytes: [u32; 2],
    /// Largest payload of one segment; up to 64 KiB with segmentation offload.
    payload: u32,
    simultaneous: bool,
    /// Number of segments before the tracker is inserted; 0 for the start.
    from: usize,
}

/// Sequence numbers here start at 0, the SYN, so that offsets are plain numbers.
#[derive(Debug)]
struct Endpoint {
    peer: Peer,
    setup: Setup,
    is_opening: bool,
    sent: u32,
    highest_sent: u32,
    acked: u32,
    allowed: u32,
    received: u32,
    /// Pieces received out of order: start and end.
    early: BTreeMap<u32, u32>,
    fin_at: Option<u32>,
    /// Bytes received, but not yet read by the application.
    unread: u32,
}

impl Endpoint {
    fn new(peer: Peer, setup: Setup) -> Endpoint {
        Endpoint {
            peer,
            setup,
            is_opening: peer == I || setup.simultaneous,
            sent: 0,
            highest_sent: 0,
            acked: 0,
            allowed: 0,
            received: 0,
            early: BTreeMap::new(),
            fin_at: None,
            unread: 0,
        }
    }

    fn me(&self) -> usize {
        self.peer as usize
    }

    fn shift(&self) -> u32 {
        let [Some(_), Some(_)] = self.setup.scales else { return 0 };
        self.setup.scales[self.me()].map_or(0, u32::from)
    }

    /// SYN, data and FIN.
    fn total(&self) -> u32 {
        self.setup.bytes[self.me()] + 2
    }

    fn make(&self, from: u32, to: u32) -> Segment {
        let free = self.setup.buffers[self.me()] - self.unread;
        let is_syn = from == 0;
        let flags = if is_syn { SYN } else { 0 }
            | if self.received > 0 { ACK } else { 0 }
            | if to == self.total() { flag::FIN } else { 0 };
        let window = if is_syn { free } else { free >> self.shift() };
        Segment {
            sequence: self.setup.numbers[self.me()].wrapping_add(from),
            acknowledgment: self.setup.numbers[1 - self.me()].wrapping_add(self.received),
            window: window.min(65_535) as u16,
            flags,
            len: to - from,
            scale: self.setup.scales[self.me()].filter(|_| is_syn),
            sack: self.early.values().next_back().map(|end| self.setup.numbers[1 - self.me()].wrapping_add(*end)),
        }
    }

    /// New data within the other side's window; with `is_late`, retransmissions and probes.
    fn send(&mut self, is_late: bool) -> Option<Segment> {
        if !self.is_opening && self.received == 0 {
            return None;
        }
        if self.sent == 0 {
            self.sent = 1;
            self.highest_sent = self.highest_sent.max(1);
            return Some(self.make(0, 1));
        }
        if is_late && self.acked < self.sent {
            let end = if self.acked == 0 { 1 } else { self.highest_sent.min(self.acked + self.setup.payload) };
            return Some(self.make(self.acked, end));
        }
        if self.acked == 0 || self.received == 0 {
            return None;
        }
        let probe = u32::from(is_late && self.acked == self.sent);
        let end = self.total().min(self.sent + self.setup.payload).min(self.allowed.max(self.sent + probe));
        if end > self.sent {
            let segment = self.make(self.sent, end);
            self.sent = end;
            self.highest_sent = self.highest_sent.max(end);
            return Some(segment);
        }
        // Keep-alive.
        is_late.then(|| Segment {
            sequence: self.make(self.sent, self.sent).sequence.wrapping_sub(1),
            ..self.make(self.sent, self.sent)
        })
    }

    /// The reply to a segment, if it requires one.
    fn receive(&mut self, segment: &Segment) -> Option<Segment> {
        // In SYN-SENT a segment without SYN is dropped, with what it acknowledges and offers (RFC 9293 section 3.10.7.3).
        if self.received == 0 && !segment.has(SYN) {
            return None;
        }
        let start = segment.sequence.wrapping_sub(self.setup.numbers[1 - self.me()]).cast_signed().max(0).cast_unsigned();
        let end = segment.end().wrapping_sub(self.setup.numbers[1 - self.me()]);
        if segment.has(ACK) {
            let ack = segment.acknowledgment.wrapping_sub(self.setup.numbers[self.me()]);
            assert!(ack <= self.highest_sent);
            if ack >= self.acked {
                self.acked = ack;
                let shift = match self.setup.scales {
                    [Some(_), Some(_)] if !segment.has(SYN) => self.setup.scales[1 - self.me()].map_or(0, u32::from),
                    _ => 0,
                };
                self.allowed = self.allowed.max(ack + (u32::from(segment.window) << shift));
            }
        }
        if segment.has(flag::FIN) {
            self.fin_at = Some(end);
        }
        if segment.len == 0 {
            return (start < self.received).then(|| self.make(self.sent, self.sent)).filter(|_| self.sent > 0);
        }
        let before = self.received;
        let room = self.received + self.setup.buffers[self.me()] - self.unread;
        if end <= room.max(1) + u32::from(self.fin_at == Some(end)) {
            self.early.entry(start).and_modify(|old| *old = end.max(*old)).or_insert(end);
        }
        while let Some((&start, &end)) = self.early.first_key_value()
            && start <= self.received
        {
            self.early.pop_first();
            self.received = self.received.max(end);
        }
        if before > 0 && self.fin_at.is_none() {
            self.unread += self.received - before;
        }
        let is_syn = self.sent == 0 || self.acked == 0 && before == 0;
        if is_syn {
            self.sent = 1;
            self.highest_sent = self.highest_sent.max(1);
            return Some(self.make(0, 1));
        }
        Some(self.make(self.sent, self.sent))
    }

    fn is_done(&self) -> bool {
        self.acked == self.total() && self.fin_at == Some(self.received)
    }
}

/// One hop of the network; no segment is overtaken more often than `patience`.
#[derive(Debug, Default)]
struct Leg {
    segments: VecDeque<(Segment, usize)>,
}

impl Leg {
    fn take(&mut self, pick: usize, patience: usize) -> Option<Segment> {
        let reach =
            self.segments.iter().position(|(_, overtaken)| *overtaken >= patience).map_or(patience, |at| at.min(patience));
        let at = if pick.is_multiple_of(3) { pick / 3 % (reach + 1) } else { 0 }.min(self.segments.len().checked_sub(1)?);
        self.segments.iter_mut().take(at).for_each(|(_, overtaken)| *overtaken += 1);
        self.segments.remove(at).map(|(segment, _)| segment)
    }
}

/// The action of a byte of the schedule: (kind, pick).
fn simulate(setup: Setup, schedule: &[(u8, u16)]) -> Option<Tracker> {
    let mut ends = [Endpoint::new(I, setup), Endpoint::new(R, setup)];
    // One hop before and one behind the tracker, for each direction.
    let mut legs: [[Leg; 2]; 2] = Default::default();
    let mut tracker: Option<Tracker> = None;
    let mut first = I;
    let mut seen = 0;
    let policy = Policy { pick_up: setup.from > 0, liberal: false };
    let patience = if setup.payload > 1460 { 1 } else { 8 };
    // Finally everything is delivered in order, until both sides are done.
    let calm = (0..).map(|n: u32| (if n.is_multiple_of(40) { 7 } else { (n % 6) as u8 }, 1));
    let mut rounds = 0;
    for (kind, pick) in schedule.iter().copied().chain(calm.take(200_000)) {
        rounds += 1;
        let is_calm = rounds > schedule.len();
        for by in [I, R] {
            let me = by as usize;
            match kind {
                0 | 1 => legs[me][0].segments.extend(ends[me].send(false).map(|segment| (segment, 0))),
                7 if is_calm || pick % 4 == 0 => legs[me][0].segments.extend(ends[me].send(true).map(|segment| (segment, 0))),
                8 => drop(legs[me][usize::from(pick % 2)].take(0, 0)),
                9 => {
                    let copy = legs[me][0].segments.front().copied();
                    legs[me][0].segments.extend(copy.filter(|_| setup.payload <= 1460));
                }
                2 | 3 => {
                    let Some(segment) = legs[me][0].take(usize::from(pick), patience) else { continue };
                    seen += 1;
                    if seen > setup.from {
                        match &mut tracker {
                            Some(tracker) => {
                                let before = *tracker;
                                let from = if first == I { by } else { by.other() };
                                let verdict = tracker.follow(from, &segment);
                                assert!(verdict != Invalid, "{verdict:?}: {by:?} {segment:?}\n{before:?}\n{ends:#?}");
                            }
                            // A delayed copy of a SYN would open another connection.
                            None if setup.from > 0 && segment.has(SYN) => {}
                            None => {
                                tracker = Tracker::open(&segment, policy);
                                first = by;
                            }
                        }
                    }
                    legs[me][1].segments.push_back((segment, 0));
                }
                4 | 5 => {
                    let Some(segment) = legs[me][1].take(usize::from(pick), patience) else { continue };
                    let answer = ends[1 - me].receive(&segment);
                    legs[1 - me][0].segments.extend(answer.map(|segment| (segment, 0)));
                }
                _ => {}
            }
            if kind == 6 || is_calm {
                let read = ends[me].unread.min(if is_calm { u32::MAX } else { u32::from(pick) });
                ends[me].unread -= read;
            }
        }
        if is_calm && ends.iter().all(Endpoint::is_done) && legs.iter().flatten().all(|leg| leg.segments.is_empty()) {
            return tracker;
        }
    }
    panic!("{ends:#?} never end");
}

fn setups() -> impl Strategy<Value = Setup> {
    let scale = || prop::option::weighted(0.8, 0u8..=14);
    let buffer = || prop_oneof![Just(1u32), 1u32..5000, 5000u32..65_536, 65_536u32..400_000];
    let numbers = || prop_oneof![any::<u32>(), (0u32..100_000).prop_map(u32::wrapping_neg)];
    let bytes = || prop_oneof![Just(0u32), 1u32..20_000, 100_000u32..1_000_000];
    let payload = prop_oneof![Just(1460u32), 1u32..1460, Just(65_000u32)];
    let from = prop_oneof![4 => Just(0usize), 1 => 3usize..60];
    ([numbers(), numbers()], [scale(), scale()], [buffer(), buffer()], [bytes(), bytes()], payload, any::<bool>(), from).prop_map(
        |(numbers, scales, mut buffers, mut bytes, payload, simultaneous, from)| {
            for side in [0, 1] {
                // A window smaller than one unit of the scale would stay closed.
                let unit = scales[side].map_or(1, |scale| 1 << scale);
                buffers[side] = buffers[side].max(unit);
                bytes[1 - side] = bytes[1 - side].min(buffers[side] * 400).min(payload * 1000);
            }
            Setup { numbers, scales, buffers, bytes, payload, simultaneous, from }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn honest_endpoints_are_never_invalid(
        setup in setups(),
        schedule in prop::collection::vec((0u8..10, any::<u16>()), 0..2000),
    ) {
        if let Some(tracker) = simulate(setup, &schedule) && setup.from == 0 {
            prop_assert_eq!(tracker.phase(), Closing);
        }
    }
}
