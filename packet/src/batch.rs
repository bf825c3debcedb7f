//! A batch: the frames of one drain of one port, in one piece of memory.
//!
//! Each worker owns one arena. Frames are read into it one behind the other, so that 64 small frames
//! lie in a few KiB of the first-level cache, and four super-frames of 64 KiB in the second-level
//! cache, from the read to the write. A frame is a [`Span`] of the arena: nothing is allocated,
//! nothing is copied, and forgetting the spans empties the batch.
//!
//! ```text
//!  slot, a multiple of 64 bytes, and on a cache line
//!  |
//!  v 38           12               14        frame.len
//!  +-------------+----------------+--------+---------------------+-------+----
//!  |  headroom   | virtio-net hdr | dst .. | network header ..   |  pad  | next slot
//!  +-------------+----------------+--------+---------------------+-------+----
//!                ^ the kernel reads and writes from here
//!                                          ^ 64: an untagged frame's network header begins a cache line
//! ```
//!
//! *Answers.* What is sent back is written where it came: [`Batch::move_start`] makes room before a
//! frame (28 bytes for the headers of an ICMP error), [`Batch::set_len`] changes where it ends. The
//! virtio-net header moves along. A frame stays within its slot, so no two frames ever overlap, and
//! has room for the shortest that Ethernet carries. What these calls add to a frame is zero: an
//! earlier frame's bytes must not leave with a later one ("Etherleak", CVE-2003-0001).
//!
//! *Two layouts.* A TAP says how long a frame is before the room for the next one is chosen, so slots
//! are as long as their frames. `recvmmsg` wants the room for all frames first: [`Batch::strided`] has
//! slots for the longest frame at fixed distances. Memory that no frame reaches is never touched, so
//! it is address space only.

use std::ops::Range;

use crate::ethernet::ADDRESSES_LEN;
use crate::vlan::{TAG_LEN, Tag};
use crate::vnet::{VNET_LEN, VnetHeader, flag, gso};

/// A batch ends after so many frames,
pub const MAX_FRAMES: usize = 64;

/// or after so many bytes, whichever comes first: more would fall out of the second-level cache
/// between read and write. Not so in a strided batch.
pub const MAX_BYTES: usize = 256 * 1024;

/// The longest frame: 64 KiB of IP behind an Ethernet header with two VLAN tags.
pub const MAX_FRAME_LEN: usize = 65_535 + 22;

/// The shortest frame on a wire, without its check sequence: each slot has room for it.
pub const MIN_FRAME_LEN: usize = 60;

/// A frame that nobody has moved can grow to the front by so many bytes.
pub const HEADROOM: usize = 32;

const SLOT_ALIGN: usize = 64;
const LEAD: usize = HEADROOM + 6;
const SLOT_LEN: usize = (LEAD + VNET_LEN + MAX_FRAME_LEN + 1).next_multiple_of(SLOT_ALIGN);

/// Distance of two slots of a strided batch. A first-level cache has 64 sets of 64 bytes, so that
/// slots at a multiple of 4 KiB would all fight for the same few sets: 64 headers, 8 or 12 ways. 25
/// lines more, as long as a frame of 1500 bytes with its headroom, and frames fall into the sets as if
/// they lay one behind the other; 25 is odd, so 64 slots begin in 64 different sets. The same holds
/// for the second level.
const STRIDE: usize = SLOT_LEN.next_multiple_of(4096) + 25 * SLOT_ALIGN;

/// Where one frame lies in its batch's arena.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    start: u32,
    len: u32,
}

impl Span {
    /// The frame's bytes.
    #[inline]
    #[must_use]
    pub fn range(self) -> Range<usize> {
        self.start as usize..(self.start + self.len) as usize
    }

    /// The virtio-net header's bytes and the frame's behind them.
    #[inline]
    #[must_use]
    pub fn range_with_vnet(self) -> Range<usize> {
        self.start as usize - VNET_LEN..(self.start + self.len) as usize
    }

    /// Length of the frame in bytes.
    #[inline]
    #[must_use]
    pub fn len(self) -> usize {
        self.len as usize
    }

    /// No bytes at all.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.len == 0
    }
}

/// The frames of one drain of one port.
#[derive(Debug)]
pub struct Batch {
    arena: Box<[u8]>,
    /// The first slot, which begins a cache line.
    base: usize,
    /// Where the next slot begins, and the last one ends.
    used: usize,
    /// No slot begins behind this.
    limit: usize,
    layout: Layout,
    spans: Vec<Span>,
    /// Where each frame's slot begins. It ends where the next begins.
    slots: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
enum Layout {
    Packed,
    Strided { frames: usize },
}

impl Default for Batch {
    fn default() -> Batch {
        Batch::new()
    }
}

impl Batch {
    /// An empty batch with all the memory that it will ever use. Frames lie one behind the other.
    #[must_use]
    pub fn new() -> Batch {
        Batch::with_layout(Layout::Packed, MAX_BYTES + SLOT_LEN, MAX_BYTES)
    }

    /// An empty batch of `frames` slots at fixed distances, at least 1 and at most [`MAX_FRAMES`]: see
    /// [`Batch::slots`].
    #[must_use]
    pub fn strided(frames: usize) -> Batch {
        let frames = frames.clamp(1, MAX_FRAMES);
        Batch::with_layout(Layout::Strided { frames }, frames * STRIDE, (frames - 1) * STRIDE)
    }

    fn with_layout(layout: Layout, len: usize, limit: usize) -> Batch {
        let arena = vec![0; len + SLOT_ALIGN].into_boxed_slice();
        let base = arena.as_ptr().align_offset(SLOT_ALIGN) % SLOT_ALIGN;
        let (spans, slots) = (Vec::with_capacity(MAX_FRAMES), Vec::with_capacity(MAX_FRAMES));
        Batch { arena, base, used: base, limit: base + limit, layout, spans, slots }
    }

    /// Forgets all frames.
    #[inline]
    pub fn clear(&mut self) {
        self.used = self.base;
        self.spans.clear();
        self.slots.clear();
    }

    /// Room for the next virtio-net header and frame, or `None` when the batch is full. The room is
    /// always enough for the longest frame.
    #[inline]
    pub fn slot(&mut self) -> Option<&mut [u8]> {
        if self.spans.len() == MAX_FRAMES || self.used > self.limit {
            return None;
        }
        Some(&mut self.arena[self.used + LEAD..self.used + SLOT_LEN])
    }

    /// The first `filled` bytes of the slot are now a virtio-net header and a frame. Less than a
    /// header makes an empty frame, which the pipeline drops and counts.
    #[inline]
    pub fn commit(&mut self, filled: usize) {
        debug_assert!(self.spans.len() < MAX_FRAMES && filled <= SLOT_LEN - LEAD);
        let start = self.used + LEAD + VNET_LEN;
        let len = filled.saturating_sub(VNET_LEN);
        self.spans.push(Span { start: start as u32, len: len as u32 });
        self.slots.push(self.used as u32);
        self.used = match self.layout {
            Layout::Packed => self.base + (start - self.base + len.max(MIN_FRAME_LEN)).next_multiple_of(SLOT_ALIGN),
            Layout::Strided { .. } => self.used + STRIDE,
        };
    }

    /// Forgets all frames and gives the room of each slot of a strided batch, in their order; there
    /// are none in a packed one. The first [`TAG_LEN`] bytes stay free: a virtio-net header is to be
    /// put behind them, and a frame behind that, both of which [`Batch::commit_all`] then takes.
    pub fn slots(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.clear();
        let frames = match self.layout {
            Layout::Packed => 0,
            Layout::Strided { frames } => frames,
        };
        let slots = self.arena[self.base..].chunks_exact_mut(STRIDE);
        slots.take(frames).map(|slot| &mut slot[LEAD - TAG_LEN..SLOT_LEN])
    }

    /// The slots of [`Batch::slots`] are filled: each with so many bytes behind its first
    /// [`TAG_LEN`], virtio-net header included. A VLAN tag that the kernel took out of a frame is put
    /// back, into the frame and into the header's offsets, which a packet socket counts without it
    /// (`packet_rcv_vnet` in `net/packet/af_packet.c`). The payload stays where it is.
    pub fn commit_all(&mut self, filled: impl IntoIterator<Item = (usize, Option<Tag>)>) {
        self.clear();
        for (filled, tag) in filled {
            if self.slot().is_none() {
                return;
            }
            self.commit(filled.min(SLOT_LEN - LEAD));
            if let Some(tag) = tag {
                self.put_back(self.spans.len() - 1, tag);
            }
        }
    }

    /// Inserts a tag behind the addresses, which move to the front with what stands before them.
    fn put_back(&mut self, index: usize, tag: Tag) {
        let growth = -(TAG_LEN as isize);
        if self.spans[index].len() < ADDRESSES_LEN {
            return;
        }
        let Some(span) = self.move_start(index, growth) else { return };
        let frame = self.frame_mut(span);
        frame.copy_within(TAG_LEN..TAG_LEN + ADDRESSES_LEN, 0);
        frame[ADDRESSES_LEN..ADDRESSES_LEN + TAG_LEN].copy_from_slice(&tag.to_bytes());
        let mut vnet = self.vnet(span);
        if vnet.flags & flag::NEEDS_CSUM != 0 {
            vnet.csum_start = vnet.csum_start.saturating_add(TAG_LEN as u16);
        }
        if vnet.gso_type != gso::NONE {
            vnet.hdr_len = vnet.hdr_len.saturating_add(TAG_LEN as u16);
        }
        self.set_vnet(span, vnet);
    }

    /// Makes a frame end `len` bytes after its start. It can shrink, and grow to its slot's end, with
    /// zeros: to [`MIN_FRAME_LEN`] at least, counted from where the frame came. `None`, and nothing
    /// changes, where that is not enough or there is no such frame.
    pub fn set_len(&mut self, index: usize, len: usize) -> Option<Span> {
        let room = self.room(index)?;
        let span = self.spans.get_mut(index)?;
        let (start, old) = (span.start as usize, span.len());
        if len > room.end - start {
            return None;
        }
        span.len = len as u32;
        let span = *span;
        if len > old {
            self.arena[start + old..start + len].fill(0);
        }
        Some(span)
    }

    /// Moves a frame's start by so many bytes: negative adds zeros in front, positive takes bytes off
    /// the front. The end stays, and the virtio-net header moves along; what its offsets say is the
    /// caller's matter. Where the frame came, it can grow by [`HEADROOM`]. `None`, and nothing
    /// changes, where the headroom or the frame is shorter or there is no such frame.
    pub fn move_start(&mut self, index: usize, by: isize) -> Option<Span> {
        let room = self.room(index)?;
        let span = self.spans.get_mut(index)?;
        let (old, end) = (span.range().start, span.range().end);
        let start = old.checked_add_signed(by)?;
        if start < room.start + VNET_LEN || start > end {
            return None;
        }
        *span = Span { start: start as u32, len: (end - start) as u32 };
        let span = *span;
        self.arena.copy_within(old - VNET_LEN..old, start - VNET_LEN);
        if start < old {
            self.arena[start..old].fill(0);
        }
        Some(span)
    }

    /// The slot that a frame must not leave.
    fn room(&self, index: usize) -> Option<Range<usize>> {
        let start = *self.slots.get(index)? as usize;
        let end = self.slots.get(index + 1).map_or(self.used, |next| *next as usize);
        Some(start..end)
    }

    /// Appends a frame from elsewhere; `false` if it is too long or the batch is full.
    pub fn push(&mut self, vnet: VnetHeader, frame: &[u8]) -> bool {
        let len = VNET_LEN + frame.len();
        match self.slot() {
            Some(slot) if slot.len() >= len => {
                slot[..VNET_LEN].copy_from_slice(&vnet.to_bytes());
                slot[VNET_LEN..len].copy_from_slice(frame);
                self.commit(len);
                true
            }
            _ => false,
        }
    }

    /// Where the frames are, in the order of their arrival.
    #[inline]
    #[must_use]
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// The memory in which the spans lie.
    #[inline]
    #[must_use]
    pub fn arena(&self) -> &[u8] {
        &self.arena
    }

    /// One frame's bytes.
    #[inline]
    #[must_use]
    pub fn frame(&self, span: Span) -> &[u8] {
        &self.arena[span.range()]
    }

    /// One frame's bytes, to be changed in place.
    #[inline]
    pub fn frame_mut(&mut self, span: Span) -> &mut [u8] {
        &mut self.arena[span.range()]
    }

    /// The virtio-net header before a frame.
    #[inline]
    #[must_use]
    pub fn vnet(&self, span: Span) -> VnetHeader {
        let at = span.start as usize - VNET_LEN;
        self.arena[at..].first_chunk().map_or_else(VnetHeader::default, VnetHeader::from_bytes)
    }

    /// Writes the virtio-net header before a frame, all twelve bytes.
    #[inline]
    pub fn set_vnet(&mut self, span: Span, vnet: VnetHeader) {
        let at = span.start as usize - VNET_LEN;
        self.arena[at..at + VNET_LEN].copy_from_slice(&vnet.to_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_lie_one_behind_the_other_and_keep_their_headers() {
        let mut batch = Batch::new();
        let vnet = VnetHeader { flags: 1, csum_start: 34, csum_offset: 6, ..VnetHeader::default() };
        assert!(batch.push(VnetHeader::default(), &[0xaa; 60]));
        assert!(batch.push(vnet, &[0xbb; 61]));
        let (first, second) = (batch.spans()[0], batch.spans()[1]);
        assert_eq!((batch.frame(first), batch.frame(second)), (&[0xaa; 60][..], &[0xbb; 61][..]));
        assert_eq!((batch.vnet(first), batch.vnet(second)), (VnetHeader::default(), vnet));
        for network in [&batch.frame(first)[14..], &batch.frame(second)[14..]] {
            assert_eq!(network.as_ptr().align_offset(SLOT_ALIGN), 0);
        }
    }

    #[test]
    fn full_by_frames_and_by_bytes() {
        let mut batch = Batch::new();
        let small = std::iter::repeat_with(|| batch.push(VnetHeader::default(), &[0; 60])).take_while(|pushed| *pushed).count();
        assert_eq!(small, MAX_FRAMES);
        batch.clear();
        let large = std::iter::repeat_with(|| batch.push(VnetHeader::default(), &[0; MAX_FRAME_LEN]))
            .take_while(|pushed| *pushed)
            .count();
        assert_eq!(large, 4);
        batch.clear();
        assert!(!batch.push(VnetHeader::default(), &[0; MAX_FRAME_LEN + 1024]));
        assert!(batch.spans().is_empty());
    }

    #[test]
    fn less_than_a_header_is_an_empty_frame() {
        let mut batch = Batch::new();
        batch.slot().unwrap();
        batch.commit(5);
        assert!(batch.spans()[0].is_empty());
    }

    #[test]
    fn an_answer_is_written_where_the_frame_came() {
        let mut batch = Batch::new();
        let vnet = VnetHeader { flags: 2, ..VnetHeader::default() };
        for byte in [0xaa, 0xbb, 0xcc] {
            assert!(batch.push(vnet, &[byte; 100]));
        }
        let span = batch.move_start(1, -28).unwrap();
        assert_eq!(batch.frame(span), [&[0; 28][..], &[0xbb; 100]].concat());
        let span = batch.set_len(1, 30).unwrap();
        assert_eq!((batch.spans()[1], batch.vnet(span)), (span, vnet));
        assert_eq!(batch.frame(span), [&[0; 28][..], &[0xbb; 2]].concat());
        let span = batch.move_start(1, 29).unwrap();
        assert_eq!((batch.frame(span), batch.vnet(span)), (&[0xbb][..], vnet));
        for (at, byte) in [(0, 0xaa), (2, 0xcc)] {
            assert_eq!((batch.frame(batch.spans()[at]), batch.vnet(batch.spans()[at])), (&[byte; 100][..], vnet));
        }
    }

    #[test]
    fn short_frames_grow_to_what_ethernet_carries_and_show_nothing_old() {
        let mut batch = Batch::new();
        assert!(batch.push(VnetHeader::default(), &[0xee; 200]));
        batch.clear();
        assert!(batch.push(VnetHeader::default(), &[0xaa; 42]) && batch.push(VnetHeader::default(), &[0xbb; 42]));
        for (index, byte) in [(0, 0xaa), (1, 0xbb)] {
            let span = batch.set_len(index, MIN_FRAME_LEN).unwrap();
            assert_eq!(batch.frame(span), [[byte; 42].as_slice(), &[0; 18]].concat());
        }
        assert_eq!(batch.set_len(0, SLOT_LEN), None);
        assert_eq!(batch.set_len(2, 0), None);
    }

    #[test]
    fn frames_do_not_leave_their_slots() {
        let mut batch = Batch::new();
        assert!(batch.push(VnetHeader::default(), &[0xaa; 60]) && batch.push(VnetHeader::default(), &[0xbb; 60]));
        let before = [batch.spans()[0], batch.spans()[1]];
        for by in [isize::MIN, -(LEAD as isize) - 1, 61, isize::MAX] {
            assert_eq!(batch.move_start(1, by), None, "{by}");
        }
        assert_eq!(batch.move_start(2, 0), None);
        assert_eq!(batch.spans(), before);
        assert!(batch.move_start(1, -(HEADROOM as isize)).is_some());
        assert_eq!(batch.frame(before[0]), [0xaa; 60]);
    }

    #[test]
    fn slots_at_fixed_distances_take_tags_back() {
        let mut batch = Batch::strided(3);
        let vnet = VnetHeader { flags: 1, gso_type: 1, hdr_len: 54, gso_size: 1448, csum_start: 34, csum_offset: 16 };
        let frame: Vec<u8> = (0..70).collect();
        for slot in batch.slots() {
            slot[4..16].copy_from_slice(&vnet.to_bytes());
            slot[16..86].copy_from_slice(&frame);
        }
        let tag = Tag::new(crate::EtherType::VLAN, 0xb00a);
        // The last slot has a frame that is too short to have had a tag.
        batch.commit_all([(82, None), (82, Some(tag)), (12 + 11, Some(tag)), (82, None)]);
        let [plain, tagged, runt] = batch.spans() else { panic!("three slots") };
        assert_eq!((batch.frame(*plain), batch.vnet(*plain)), (&frame[..], vnet));
        assert_eq!(batch.frame(*tagged), [&frame[..12], &[0x81, 0, 0xb0, 0x0a], &frame[12..]].concat());
        assert_eq!(batch.vnet(*tagged), VnetHeader { hdr_len: 58, csum_start: 38, ..vnet });
        assert_eq!((batch.frame(*runt), batch.vnet(*runt)), (&frame[..11], vnet));
        let span = batch.move_start(1, -(HEADROOM as isize)).unwrap();
        assert_eq!((span.len(), batch.slots().count()), (74 + HEADROOM, 3));
        assert!(batch.spans().is_empty());
        assert_eq!(Batch::new().slots().count(), 0);
    }

    #[test]
    fn a_strided_batch_is_full_of_the_longest_frames() {
        let mut batch = Batch::strided(MAX_FRAMES + 1);
        assert!(batch.slots().all(|slot| slot.len() >= TAG_LEN + VNET_LEN + MAX_FRAME_LEN));
        batch.commit_all(std::iter::repeat_n((VNET_LEN + MAX_FRAME_LEN, None), MAX_FRAMES + 1));
        assert_eq!(batch.spans().len(), MAX_FRAMES);
        assert!(!batch.push(VnetHeader::default(), &[0; 60]));
        let sets: std::collections::BTreeSet<u32> = batch.spans().iter().map(|span| span.start / 64 % 64).collect();
        assert_eq!(sets.len(), 64, "no two heads in one set of the first-level cache");
    }
}
