//! A probe: one worker's part of one capture. It selects frames and writes them to the worker's ring.
//!
//! A received frame is copied before its walk through the pipeline, which modifies it, and becomes a record when the
//! verdict of the walk is known. If the capture is of drops only, just the beginning of the frame is copied: behind it the
//! walk modifies nothing but a checksum at a position that the guest determines. If the frame is dropped, the rest is
//! copied afterwards.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use packet::ethernet::ETHERNET_LEN;
use packet::headers::MAX_TAGS;
use packet::vlan::TAG_LEN;
use packet::{icmpv4, icmpv6};

use crate::record::{Direction, HEADER_LEN, Header, Verdict};
use crate::ring::Writer;
use filter::{Filter, Subject};

/// Length of the beginning of a frame that a walk may modify, in bytes: it contains all headers, and the longest reply that
/// is built in the frame itself. Behind it only a partial checksum can be written.
const CHANGED: usize = 2048;
/// Length of the longest reply that is built in the bytes of a frame.
const LONGEST_ANSWER: usize = ETHERNET_LEN + MAX_TAGS * TAG_LEN + icmpv6::MAX_ERROR_LEN;
const _: () = assert!(CHANGED >= LONGEST_ANSWER && icmpv6::MAX_ERROR_LEN >= icmpv4::MAX_ERROR_LEN);

/// What a capture records.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Want {
    /// Only frames of this port.
    pub port: Option<u16>,
    /// Of these, only frames that match the filter.
    pub filter: Option<Filter>,
    /// Only dropped frames.
    pub drops_only: bool,
    /// Maximum number of bytes recorded of each frame.
    pub snaplen: usize,
    /// Record one in this many frames on average, selected at random before the filter is applied; 0 and 1 record all.
    pub sample: u32,
}

impl Default for Want {
    fn default() -> Want {
        Want { port: None, filter: None, drops_only: false, snaplen: usize::MAX, sample: 1 }
    }
}

/// Number of frames that a capture selected and could not record, for each port.
#[derive(Clone, Debug)]
pub struct Lost(Arc<[AtomicU64]>);

impl Lost {
    /// Counters for this number of ports, all zero.
    #[must_use]
    pub fn new(ports: usize) -> Lost {
        Lost(std::iter::repeat_with(AtomicU64::default).take(ports).collect())
    }

    /// The number of lost frames of this port.
    #[must_use]
    pub fn of(&self, port: u16) -> u64 {
        self.0.get(usize::from(port)).map_or(0, |lost| lost.load(Ordering::Relaxed))
    }

    fn add(&self, port: u16) {
        if let Some(lost) = self.0.get(usize::from(port)) {
            lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A frame as a probe sees it.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Time on the switch's monotonic clock, in nanoseconds.
    pub time: u64,
    /// The port's number.
    pub port: u16,
    /// The frame's bytes and headers, for the filter.
    pub subject: Subject<'a>,
}

/// The pieces of a sent frame: MAC addresses, VLAN tag, and the rest.
pub type Leaving<'a> = [&'a [u8]; 3];

/// One worker's part of one capture.
#[derive(Debug)]
pub struct Probe {
    id: u64,
    want: Arc<Want>,
    writer: Writer,
    lost: Lost,
    /// The header of the received frame whose verdict is not known yet.
    pending: Option<Header>,
    /// Number of bytes of that frame copied before its walk.
    copied: usize,
    /// Number of frames to skip before the next sample.
    skip: u32,
    random: u32,
}

impl Probe {
    /// A probe of the capture with this number.
    #[must_use]
    pub fn new(id: u64, want: Arc<Want>, writer: Writer, lost: Lost) -> Probe {
        Probe { id, want, writer, lost, pending: None, copied: 0, skip: 0, random: 0x9e37_79b9 ^ id as u32 | 1 }
    }

    /// The capture's number.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether all that the probe records matches a filter that a frame matches at each port or at none, as long as only its VLAN tag
    /// is changed. Otherwise, and of samples, which are drawn from all frames, each frame has to be offered.
    #[must_use]
    pub fn is_filtered(&self) -> bool {
        self.want.sample <= 1 && self.want.filter.as_ref().is_some_and(|filter| !filter.looks_at_port())
    }

    /// Whether the filter does not match the frame.
    #[inline]
    #[must_use]
    pub fn refuses(&self, subject: &Subject<'_>) -> bool {
        self.want.filter.as_ref().is_some_and(|filter| !filter.matches(subject))
    }

    /// Records a frame that starts its walk; [`judge`](Self::judge) must follow. Returns whether it is recorded. If a partial checksum will be finished in
    /// it, `checksum_end` returns the offset behind the checksum, otherwise 0.
    #[inline]
    pub fn arrives(&mut self, seen: &Seen<'_>, direction: Direction, checksum_end: impl FnOnce() -> usize) -> bool {
        self.pending = None;
        let is_taken = self.takes(seen);
        if is_taken {
            self.begin(seen, direction, checksum_end());
        }
        is_taken
    }

    #[inline(never)]
    fn begin(&mut self, seen: &Seen<'_>, direction: Direction, checksum_end: usize) {
        let frame = seen.subject.bytes;
        let header = header(seen, direction, Verdict::Passed, frame.len());
        self.pending = Some(header);
        let kept = frame.len().min(self.want.snaplen);
        let copied = if self.want.drops_only { kept.min(CHANGED.max(checksum_end)) } else { kept };
        self.copied = copied;
        if let Some(room) = self.writer.begin(HEADER_LEN + kept) {
            room[HEADER_LEN..HEADER_LEN + copied].copy_from_slice(&frame[..copied]);
        }
    }

    /// Adds the verdict of the walk. `frame` is the frame as the walk has modified it.
    #[inline]
    pub fn judge(&mut self, verdict: Verdict, frame: &[u8]) {
        let Some(header) = self.pending.take() else { return };
        if verdict == Verdict::Passed && (self.want.drops_only || header.direction == Direction::Within) {
            return;
        }
        if let Some(record) = self.writer.pending() {
            record[..HEADER_LEN].copy_from_slice(&Header { verdict, ..header }.to_bytes());
            if self.want.drops_only {
                let kept = record.len() - HEADER_LEN;
                if let Some(rest) = frame.get(self.copied..kept) {
                    record[HEADER_LEN + self.copied..].copy_from_slice(rest);
                }
            }
        }
        self.commit(header.port);
    }

    /// Whether the probe has to know the VLAN and the tunnel of frames.
    #[must_use]
    pub fn looks_at_port(&self) -> bool {
        self.want.filter.as_ref().is_some_and(Filter::looks_at_port)
    }

    /// Records a frame that was sent, or dropped at the egress port.
    #[inline]
    pub fn leaves(&mut self, seen: &Seen<'_>, pieces: Leaving<'_>, verdict: Verdict) {
        if self.want.drops_only && verdict == Verdict::Passed || !self.takes(seen) {
            return;
        }
        let len: usize = pieces.iter().map(|piece| piece.len()).sum();
        let kept = len.min(self.want.snaplen);
        if let Some(room) = self.writer.begin(HEADER_LEN + kept) {
            let (head, mut rest) = room.split_at_mut(HEADER_LEN);
            head.copy_from_slice(&header(seen, Direction::Sent, verdict, len).to_bytes());
            for piece in pieces {
                let (here, behind) = rest.split_at_mut(piece.len().min(rest.len()));
                here.copy_from_slice(&piece[..here.len()]);
                rest = behind;
            }
        }
        self.commit(seen.port);
    }

    /// Counts a frame as lost whose verdict came too late to be recorded.
    pub fn forget(&mut self, port: u16) {
        if self.want.port.is_none_or(|wanted| wanted == port) {
            self.writer.count_lost(1);
            self.lost.add(port);
        }
    }

    /// Hands the records of a batch over to the reader.
    #[inline]
    pub fn end_batch(&mut self) {
        self.writer.hand_over();
    }

    #[inline]
    fn takes(&mut self, seen: &Seen<'_>) -> bool {
        let Want { port, filter, sample, .. } = &*self.want;
        if port.is_some_and(|port| port != seen.port) {
            return false;
        }
        if *sample > 1 {
            if self.skip > 0 {
                self.skip -= 1;
                return false;
            }
            // A random distance: with every N-th frame, of alternating frames (received, sent) only one kind might be seen.
            self.random ^= self.random << 13;
            self.random ^= self.random >> 17;
            self.random ^= self.random << 5;
            self.skip = (u64::from(self.random) % (2 * u64::from(*sample) - 1)) as u32;
        }
        filter.as_ref().is_none_or(|filter| filter.matches(&seen.subject))
    }

    #[inline]
    fn commit(&mut self, port: u16) {
        if !self.writer.commit() {
            self.lost.add(port);
        }
    }
}

fn header(seen: &Seen<'_>, direction: Direction, verdict: Verdict, len: usize) -> Header {
    Header { time: seen.time, port: seen.port, direction, verdict, original_len: len as u32 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::{Reader, ring};

    fn probe(want: Want) -> (Probe, Reader, Lost) {
        let (writer, reader) = ring(4, 4096);
        let lost = Lost::new(4);
        (Probe::new(1, Arc::new(want), writer, lost.clone()), reader, lost)
    }

    fn seen(port: u16, bytes: &[u8]) -> Seen<'_> {
        Seen { time: 7, port, subject: Subject { headers: None, bytes, vlan: None, vni: None } }
    }

    fn read(probe: &mut Probe, reader: &mut Reader) -> Vec<(Header, Vec<u8>)> {
        probe.end_batch();
        let mut all = Vec::new();
        while let Some(chunk) = reader.take() {
            all.extend(
                chunk.records().map(|record| Header::split(record).unwrap()).map(|(header, frame)| (header, frame.to_vec())),
            );
            reader.give_back(chunk);
        }
        all
    }

    #[test]
    fn a_received_frame_is_recorded_unmodified_with_its_verdict() {
        let (mut probe, mut reader, _) = probe(Want { port: Some(2), snaplen: 3, ..Want::default() });
        probe.arrives(&seen(1, b"other"), Direction::Received, || 0);
        probe.judge(Verdict::Dropped(1), b"other");
        probe.arrives(&seen(2, b"frame"), Direction::Received, || 0);
        probe.judge(Verdict::Dropped(4), b"moved");
        probe.arrives(&seen(2, b"waits"), Direction::Within, || 0);
        probe.judge(Verdict::Passed, b"waits");
        let all = read(&mut probe, &mut reader);
        let verdict = Verdict::Dropped(4);
        let header = Header { time: 7, port: 2, direction: Direction::Received, verdict, original_len: 5 };
        assert_eq!(all, [(header, b"fra".to_vec())]);
    }

    #[test]
    fn drops_only_records_whole_dropped_frames() {
        let (mut probe, mut reader, _) = probe(Want { drops_only: true, ..Want::default() });
        let came: Vec<u8> = (0..3000).map(|n| n as u8).collect();
        let mut now = came.clone();
        now[..LONGEST_ANSWER].fill(0);
        probe.arrives(&seen(0, &came), Direction::Received, || 0);
        probe.judge(Verdict::Passed, &now);
        probe.leaves(&seen(0, &came), [&came, &[], &[]], Verdict::Passed);
        probe.arrives(&seen(0, &came), Direction::Received, || 0);
        probe.judge(Verdict::CopiesDropped(8), &now);
        let all = read(&mut probe, &mut reader);
        assert_eq!(all.len(), 1);
        assert_eq!((all[0].0.verdict, &all[0].1), (Verdict::CopiesDropped(8), &came));
    }

    #[test]
    fn sent_frames_are_assembled_and_truncated() {
        let (mut probe, mut reader, _) = probe(Want { snaplen: 6, ..Want::default() });
        probe.leaves(&seen(3, b"addresses"), [b"addr", b"tag", b"rest"], Verdict::Passed);
        let all = read(&mut probe, &mut reader);
        assert_eq!((all[0].0.direction, all[0].0.original_len, &all[0].1[..]), (Direction::Sent, 11, &b"addrta"[..]));
    }

    #[test]
    fn lost_frames_are_counted_by_port() {
        let (mut probe, reader, lost) = probe(Want { drops_only: true, ..Want::default() });
        let frame = [0; 1000];
        for n in 0..100 {
            probe.arrives(&seen(1, &frame), Direction::Received, || 0);
            probe.judge(if n % 2 == 0 { Verdict::Passed } else { Verdict::Dropped(0) }, &frame);
        }
        // Four chunks with four frames each.
        assert_eq!((lost.of(1), lost.of(0), lost.of(100), reader.lost()), (50 - 16, 0, 0, 34));
    }

    #[test]
    fn a_sample_has_frames_of_all_alternating_kinds() {
        let (mut probe, mut reader, _) = probe(Want { sample: 10, ..Want::default() });
        let mut counts = [0; 2];
        for n in 0..20_000 {
            probe.leaves(&seen(n % 2, b"x"), [b"x", &[], &[]], Verdict::Passed);
            for (header, _) in read(&mut probe, &mut reader) {
                counts[usize::from(header.port)] += 1;
            }
        }
        assert!(counts.iter().all(|count| (700..1300).contains(count)), "{counts:?}");
    }
}
