//! The trace of one frame: what the pipeline did with it, step by step.
//!
//! A frame that is not traced costs one branch where a step would be noted. One that is traced carries a [`Story`]: a
//! fixed number of [`Step`]s made of numbers and addresses. Text is made of them elsewhere, and nothing is allocated.
//! There are two kinds:
//!
//! - *live*: the frame is a real one that a trace request matches ([`Live`](super::live::Live)). Its story is handed over
//!   once all its copies are written, through a bounded queue: a story that finds no room is lost and counted.
//! - *rehearsal*: the frame is imagined ([`Rehearsal`](crate::Rehearsal)). The same code asks the same tables, but where
//!   it would learn, open, refresh, resolve or keep something, it asks for the result only.
//!
//! ```text
//!   process:   begin (is it wanted?) > steps > end (outcome)
//!   transmit:  each write, successful or not, is a step of the stories of its frames > handed over
//! ```

use std::net::Ipv4Addr;

use nat::Side;
use packet::vlan::TagAction;
use packet::{MacAddr, Timestamp};

use super::step::Step;
use crate::domain::Domain;
use crate::drop_reason::DropReason;
use crate::port::PortId;

/// Maximum number of steps in a story; further ones are counted in [`Story::left_out`]. A flood has one step per port.
pub const MAX_STEPS: usize = 48;

/// Bytes kept from the start of the frame as it was received: enough for the headers that are shown.
pub const HEAD_LEN: usize = 128;

/// Source and destination of a packet before a translation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addressed {
    pub(crate) side: Side,
    pub(crate) src: Ipv4Addr,
    pub(crate) dst: Ipv4Addr,
}

/// The outcome of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It left through this number of ports.
    Sent(u16),
    /// It was dropped.
    Dropped(DropReason),
    /// The router answered it.
    Answered,
    /// It waits for the MAC address of its next hop, or for the first fragment of its datagram.
    Waits,
    /// The router consumed it without an answer, as it does with ARP replies.
    Taken,
}

/// The trace of one frame.
#[derive(Clone, Debug)]
pub struct Story {
    /// The ingress port; [`PortId::NOWHERE`] if the frame had waited and its port was removed.
    pub ingress: PortId,
    /// Time of the batch.
    pub at: Timestamp,
    /// Time at which the batch was read, in nanoseconds of the worker's clock. A reply is read after its request was sent, so
    /// its time is later, whichever story is handed over first.
    pub nanoseconds: u64,
    /// Length of the frame, in bytes.
    pub len: u32,
    /// Number of steps beyond [`MAX_STEPS`].
    pub left_out: u16,
    head: [u8; HEAD_LEN],
    steps: [Step; MAX_STEPS],
    count: u8,
    /// The frame is imagined: nothing may change by it.
    pub(crate) is_rehearsal: bool,
    /// The frame is an IP packet without an Ethernet header.
    pub(super) is_packet: bool,
    /// Outcome of the walk, before egress.
    ended: Result<(), DropReason>,
    sent: u16,
    lost: Option<DropReason>,
    waits: bool,
    answered: bool,
    /// The frame's number in the egress queues, if it is queued.
    pub(super) frame: Option<u16>,
    /// Bit n is set if request n of the [`Watch`](super::live::Watch) wants this story.
    pub(super) wanted: u8,
    /// What a rehearsed frame would have entered in the MAC table, and the entries that would have been evicted.
    taught: Option<(Domain, MacAddr, PortId)>,
    evicted: [Option<(Domain, MacAddr)>; 2],
    /// A rehearsed packet before each of its translations.
    addressed: [Option<Addressed>; 2],
}

impl Story {
    /// An empty story, with all the memory that it will ever use.
    #[must_use]
    pub fn blank() -> Story {
        Story {
            ingress: PortId(0),
            at: Timestamp::default(),
            nanoseconds: 0,
            len: 0,
            left_out: 0,
            head: [0; HEAD_LEN],
            steps: [Step::Resumed; MAX_STEPS],
            count: 0,
            is_rehearsal: false,
            is_packet: false,
            ended: Ok(()),
            sent: 0,
            lost: None,
            waits: false,
            answered: false,
            frame: None,
            wanted: 0,
            taught: None,
            evicted: [None; 2],
            addressed: [None; 2],
        }
    }

    pub(super) fn begin(&mut self, ingress: PortId, frame: &[u8], now: Timestamp, nanoseconds: u64) {
        let head = frame.len().min(HEAD_LEN);
        self.head[..head].copy_from_slice(&frame[..head]);
        (self.ingress, self.at, self.nanoseconds, self.len) = (ingress, now, nanoseconds, frame.len() as u32);
        (self.count, self.left_out, self.ended) = (0, 0, Ok(()));
        (self.sent, self.lost, self.waits, self.answered) = (0, None, false, false);
        (self.frame, self.wanted, self.is_rehearsal) = (None, 0, false);
        (self.taught, self.evicted, self.addressed) = (None, [None; 2], [None; 2]);
    }

    /// The ingress port; `None` if the frame had waited and its port was removed.
    #[must_use]
    pub fn came_in_by(&self) -> Option<PortId> {
        Some(self.ingress).filter(|ingress| *ingress != PortId::NOWHERE)
    }

    /// The first bytes of the frame as it was received, at most [`HEAD_LEN`].
    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.head[..HEAD_LEN.min(self.len as usize)]
    }

    /// Whether it is an IP packet without an Ethernet header, as TUN devices and their tunnels carry.
    #[must_use]
    pub fn is_packet(&self) -> bool {
        self.is_packet
    }

    /// The steps in order, at most [`MAX_STEPS`].
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps[..usize::from(self.count)]
    }

    /// The outcome.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match (self.ended, self.lost) {
            (Err(reason), _) => Verdict::Dropped(reason),
            _ if self.answered => Verdict::Answered,
            _ if self.waits => Verdict::Waits,
            _ if self.sent > 0 => Verdict::Sent(self.sent),
            (Ok(()), Some(reason)) => Verdict::Dropped(reason),
            (Ok(()), None) => Verdict::Taken,
        }
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn note(&mut self, step: Step) {
        match step {
            Step::Sent { .. } => self.sent = self.sent.saturating_add(1),
            Step::Dropped { reason, .. } => self.lost = Some(reason),
            Step::ArpAnswered(_) | Step::EchoAnswered(_) => self.answered = true,
            Step::Waits { kept: true, .. } | Step::FragmentKept => self.waits = true,
            // The ARP request leaves, but the packet that caused it found no room and is dropped.
            Step::Waits { kept: false, .. } => self.ended = Err(DropReason::NeighbourQueueFull),
            _ => {}
        }
        match self.steps.get_mut(usize::from(self.count)) {
            Some(place) => {
                *place = step;
                self.count += 1;
            }
            None => self.left_out = self.left_out.saturating_add(1),
        }
    }

    /// A copy of the frame is queued for a port.
    #[cold]
    #[inline(never)]
    pub(crate) fn note_queued(&mut self, frame: u16, port: PortId, action: TagAction) {
        self.frame = Some(frame);
        self.note(Step::Queued { port, action });
    }

    /// A rehearsed frame would have entered this address in the MAC table.
    pub(crate) fn teach(&mut self, domain: Domain, mac: MacAddr, port: PortId) {
        self.taught = Some((domain, mac, port));
    }

    /// A rehearsed frame would have evicted these addresses from the MAC table.
    pub(crate) fn evict(&mut self, evicted: [Option<(Domain, MacAddr)>; 2]) {
        self.evicted = evicted;
    }

    /// Where a rehearsed frame would have put an address: behind a port, or out of the table (`Some(None)`). `None` if it
    /// would not have touched it.
    #[cold]
    pub(crate) fn relocated(&self, domain: Domain, mac: MacAddr) -> Option<Option<PortId>> {
        match self.taught {
            Some((of, taught, port)) if (of, taught) == (domain, mac) => Some(Some(port)),
            _ => self.evicted.contains(&Some((domain, mac))).then_some(None),
        }
    }

    /// Remembers how a rehearsed packet was addressed. No connection is open for it, so the way back of an ICMP error about
    /// it is found here.
    pub(crate) fn push_addressed(&mut self, addressed: Addressed) {
        if let Some(place) = self.addressed.iter_mut().find(|place| place.is_none()) {
            *place = Some(addressed);
        }
    }

    /// Takes the translation that an ICMP error about the packet undoes next, if the error comes from this side.
    pub(crate) fn pop_addressed(&mut self, side: Side) -> Option<Addressed> {
        let place = self.addressed.iter_mut().rev().find(|place| place.is_some())?;
        place.take_if(|addressed| addressed.side == side.other())
    }

    pub(super) fn end(&mut self, outcome: Result<(), DropReason>) {
        if let Err(reason) = outcome {
            self.ended = outcome;
            self.note(Step::Dropped { reason, port: None });
        }
    }
}
