//! Egress queues: the frames of a batch by the port that they leave through, until they are written.
//!
//! A queue holds a frame's place in the batch and what happens to its VLAN tag, not bytes: a flood of one frame to
//! ten ports is ten small entries, and each port writes from the same arena.
//!
//! *Each place of the batch has one `Frame`.* The walk fills it in where it stands, changes it there, and `transmit` reads it
//! there: it is never moved, because reading a block of memory that was just written field by field stalls the processor.
//! An answer is written into the bytes of the frame that caused it, which then no longer exists, so it takes that frame's place.

use std::io::IoSlice;

use packet::batch::MAX_FRAMES;
use packet::head::Head;
use packet::vlan::TagAction;
use packet::{Headers, Offload, Span};
use tunnel::{Train, Trains};

use crate::drop_reason::DropReason;
use crate::flows::Flows;
use crate::payload_sums::PayloadSums;
use crate::port::PortId;

/// A frame of the batch at hand, parsed and judged.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Frame {
    pub(crate) span: Span,
    pub(crate) headers: Headers,
    pub(crate) offload: Offload,
    /// An IPv4 packet that is to leave in fragments of at most this number of bytes.
    pub(crate) cut_to: Option<u16>,
    /// What a local kernel left to be cut (TCP with a partial checksum, out of a tunnel), and did not say how: the
    /// segments' size is ours to choose.
    pub(crate) is_size_free: bool,
    /// No capture's filter matches it as it is; at the end of its walk also, no trace follows it. Only the observer sets this, and
    /// only what changes the frame's addresses or makes another frame of it clears it.
    pub(crate) is_unwatched: bool,
}

impl Frame {
    /// Becomes a frame as it came or was made, with nothing left to offload. Its headers are to be read next.
    #[inline(always)]
    pub(crate) fn begin(&mut self, span: Span) {
        self.span = span;
        self.offload = Offload::default();
        self.cut_to = None;
        self.is_size_free = false;
        self.is_unwatched = false;
    }

    /// The number of frames that it leaves as, where super-frames are not accepted.
    #[inline]
    pub(crate) fn segments(&self) -> u32 {
        self.offload
            .segmentation
            .map_or(1, |segmentation| self.headers.payload_len().div_ceil(usize::from(segmentation.size).max(1)) as u32)
    }

    /// Number of fragments of at most `mtu` bytes that it leaves in.
    pub(crate) fn fragments(&self, mtu: u16) -> u32 {
        let Headers { l3, l4, end, .. } = self.headers;
        let room = usize::from(mtu).saturating_sub(usize::from(l4 - l3)) & !7;
        (end.saturating_sub(u32::from(l4)) as usize).div_ceil(room.max(8)) as u32
    }
}

/// One frame on its way out of one port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Queued {
    pub(crate) frame: u16,
    pub(crate) action: TagAction,
}

/// The frames and queues of one worker; empty between batches.
#[derive(Debug)]
pub struct Egress {
    /// By place in the batch. Those that are in no queue have no meaning.
    frames: Box<[Frame; MAX_FRAMES]>,
    queues: Queues,
    head: Head,
    flows: Flows,
    sums: PayloadSums,
    pub(crate) trains: Trains,
}

/// The queues by port.
#[derive(Debug)]
pub(crate) struct Queues {
    by_port: Vec<Vec<Queued>>,
    /// Ports whose queue is not empty.
    waiting: Vec<PortId>,
    /// Writes that the frames in the queues take beyond one for each: copies of floods, segments and fragments.
    pub(crate) more_writes: u32,
}

impl Egress {
    /// Queues for this number of ports. Ports with higher numbers need [`Egress::make_room`].
    #[must_use]
    pub fn new(ports: usize) -> Egress {
        let mut egress = Egress {
            frames: Box::new([Frame::default(); MAX_FRAMES]),
            queues: Queues { by_port: Vec::new(), waiting: Vec::new(), more_writes: 0 },
            head: Head::default(),
            flows: Flows::new(),
            sums: PayloadSums::new(MAX_FRAMES),
            trains: Trains::new(),
        };
        (0..ports).for_each(|port| egress.make_room(PortId(port as u16)));
        egress
    }

    /// Makes a queue for a port, with room for a whole batch: all the memory that it will use. To be called before frames leave
    /// through the port.
    pub fn make_room(&mut self, port: PortId) {
        self.make_queues(port.index() + 1);
        let queue = &mut self.queues.by_port[port.index()];
        queue.reserve_exact(MAX_FRAMES - queue.len());
    }

    /// Makes queues for ports with numbers below `ports`, whose memory is allocated with their first frames.
    pub(crate) fn make_queues(&mut self, ports: usize) {
        let Queues { by_port, waiting, .. } = &mut self.queues;
        if ports > by_port.len() {
            by_port.resize_with(ports, Vec::new);
            waiting.reserve(ports - waiting.len());
        }
    }

    /// Gives back the memory of a port's queue. No frame may leave through the port from now on.
    pub fn remove(&mut self, port: PortId) {
        if let Some(queue) = self.queues.by_port.get_mut(port.index()).filter(|queue| queue.is_empty()) {
            *queue = Vec::new();
        }
    }

    /// A new batch begins. Returns the places of its frames and the queues.
    pub(crate) fn begin(&mut self) -> (&mut [Frame], &mut Queues) {
        // Neither is empty only if the batch before ended in a panic.
        self.flows.clear();
        if !self.trains.is_empty() {
            self.trains.clear();
        }
        while let Some(port) = self.queues.waiting.pop() {
            self.queues.by_port[port.index()].clear();
        }
        self.queues.more_writes = 0;
        self.sums.clear();
        (&mut self.frames[..], &mut self.queues)
    }

    /// The frames by their places in the batch.
    pub(crate) fn frames(&self) -> &[Frame] {
        &self.frames[..]
    }

    /// The next port with something to write, and the means to do so.
    pub(crate) fn next(&mut self) -> Option<(PortId, Queue<'_>)> {
        let Egress { frames, queues: Queues { by_port, waiting, .. }, head, flows, sums, trains } = self;
        let port = waiting.pop()?;
        let queue = Queue { frames: &frames[..], queued: &mut by_port[port.index()], head, flows, sums, trains };
        Some((port, queue))
    }
}

impl Queues {
    /// Queues the frame at this place of the batch for a port. A queue has room for each frame of the batch once.
    #[inline(always)]
    pub(crate) fn push(&mut self, port: PortId, frame: u16, action: TagAction) {
        let queue = &mut self.by_port[port.index()];
        if queue.is_empty() {
            self.waiting.push(port);
        }
        queue.push(Queued { frame, action });
    }
}

/// One port's queue; empty once dropped.
pub(crate) struct Queue<'a> {
    pub(crate) frames: &'a [Frame],
    pub(crate) queued: &'a mut Vec<Queued>,
    pub(crate) head: &'a mut Head,
    pub(crate) flows: &'a mut Flows,
    pub(crate) sums: &'a mut PayloadSums,
    /// For what goes into tunnels, until all ports had their turn.
    pub(crate) trains: &'a mut Trains,
}

impl Queue<'_> {
    /// How many frames wait.
    pub(crate) fn len(&self) -> usize {
        self.queued.len()
    }
}

impl Drop for Queue<'_> {
    fn drop(&mut self) {
        self.queued.clear();
    }
}

/// The work of writing frames out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Work {
    /// System calls, or datagrams and frames among several in one call.
    pub writes: u64,
    /// Bytes of frames, as they came in.
    pub bytes: u64,
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, other: Work) {
        self.writes += other.writes;
        self.bytes += other.bytes;
    }
}

/// What became of some frames that left, or did not, with one or more writes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Written {
    pub(crate) frames: u64,
    pub(crate) bytes: u64,
    pub(crate) writes: u64,
    pub(crate) result: Result<(), SendError>,
    pub(crate) refused: bool,
}

/// Why a write did not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendError {
    /// The kernel calls the frame or its header invalid; a super-frame is worth a try in segments.
    Invalid,
    /// Anything else, by its reason.
    Drop(DropReason),
}

impl SendError {
    /// The counter for a frame that this stopped.
    pub(crate) fn reason(self) -> DropReason {
        match self {
            SendError::Invalid => DropReason::WriteFailed,
            SendError::Drop(reason) => reason,
        }
    }
}

/// What carries frames away: one port's far side, as the shell has it.
pub trait Transmit {
    /// Writes the pieces of one frame or super-frame, of which the first begins with a virtio-net
    /// header.
    fn send(&mut self, port: PortId, pieces: &[IoSlice<'_>]) -> Result<(), SendError>;

    /// Writes frames of one piece each, and tells in their order how it went.
    fn send_many(&mut self, port: PortId, frames: &[IoSlice<'_>], mut sent: impl FnMut(Result<(), SendError>)) {
        for frame in frames {
            sent(self.send(port, std::slice::from_ref(frame)));
        }
    }

    /// Sends trains of datagrams, each to the peer behind its port, and tells of each how it went.
    fn send_trains(&mut self, trains: &Trains, arena: &[u8], mut sent: impl FnMut(&Train, Result<(), SendError>)) {
        for train in trains.trains() {
            let port = PortId(train.outer.port);
            let mut datagrams = trains.datagrams(train, arena);
            sent(train, datagrams.try_for_each(|[head, body]| self.send(port, &[IoSlice::new(head), IoSlice::new(body)])));
        }
    }
}

impl<F: FnMut(PortId, &[IoSlice<'_>]) -> Result<(), SendError>> Transmit for F {
    #[inline]
    fn send(&mut self, port: PortId, pieces: &[IoSlice<'_>]) -> Result<(), SendError> {
        self(port, pieces)
    }
}
