//! What happened to a frame, step by step: a story, told by the walk itself.
//!
//! A frame that nobody asked for is walked as ever: where a step would be noted there is one branch. One that is
//! watched carries a [`Story`], a fixed number of [`Step`]s of numbers and addresses; words are made of them
//! elsewhere, and nothing is allocated. There are two reasons to tell a story:
//!
//! - *live*: the frame is a real one that somebody waits for ([`Live`](super::Live)). Its story is handed over, once all that
//!   became of it was written, through a queue that never waits: what finds no room is lost and counted.
//! - *rehearsal*: the frame is imagined ([`Rehearsal`](crate::Rehearsal)). The same walk asks the same tables, but
//!   where it would learn, open, refresh, ask or keep, it asks what that would have led to.
//!
//! ```text
//!   process:   begin (does anybody want it?) > steps of the walk > end (how it ended)
//!   transmit:  each write that succeeds or fails is a step of the stories whose frames it carried > handed over
//! ```

use std::net::{IpAddr, Ipv4Addr};

use nat::{Endpoint, Manner, Side};
use packet::icmpv4::IcmpError;
use packet::vlan::{TagAction, VlanId};
use packet::{MacAddr, Timestamp};
use tunnel::Vni;

use crate::counters::DropReason;
use crate::domain::Domain;
use crate::egress::Frame;
use crate::mac_table::{Learned, MacTable};
use crate::port::PortId;
use crate::routed::NOWHERE;
use crate::switch::{Forward, forward};
use crate::walk::Walk;

/// So many steps a story has at most; further ones are counted. A flood to many ports is what makes it long.
pub const MAX_STEPS: usize = 48;

/// So much of the frame is kept as it came: enough for the headers that are shown.
pub const HEAD_LEN: usize = 128;

/// One step of a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// It had waited, for its next hop or its datagram's first fragment, and goes on.
    Resumed,
    /// It came out of a tunnel.
    Decapsulated {
        /// VXLAN's network; none for bare Ethernet or IP.
        vni: Option<Vni>,
        /// The host that sent it.
        from: IpAddr,
    },
    /// It belongs to this VLAN.
    Classified(VlanId),
    /// The MAC table heard its source.
    Learned {
        /// In this VLAN,
        vlan: VlanId,
        /// this address,
        mac: MacAddr,
        /// and what came of it.
        learned: Learned,
    },
    /// An ARP message told the router of a neighbour.
    NeighbourLearned {
        /// Its address.
        address: Ipv4Addr,
        /// Its MAC address.
        mac: MacAddr,
    },
    /// An ARP request for an address of the router was answered.
    ArpAnswered(Ipv4Addr),
    /// An echo request for an address of the router was answered.
    EchoAnswered(Ipv4Addr),
    /// It is for a gateway's MAC address, and so for the router.
    ForGateway(Ipv4Addr),
    /// It came in through the uplink, and so is for the router.
    FromOutside,
    /// Its destination is in a network inside.
    RouteInside {
        /// The destination,
        dst: Ipv4Addr,
        /// and the VLAN that its network is.
        vlan: VlanId,
    },
    /// Its destination is outside.
    RouteOutside {
        /// The destination,
        dst: Ipv4Addr,
        /// and the neighbour to whom it is handed.
        hop: Ipv4Addr,
    },
    /// It goes into a tunnel of IP packets, by a route of that tunnel.
    RouteTunnel {
        /// The destination,
        dst: Ipv4Addr,
        /// and the port of the host behind which it is.
        port: PortId,
    },
    /// It goes to an outside address of our own, and so out and in again (RFC 4787 section 6).
    Hairpin(Ipv4Addr),
    /// It was translated.
    Translated {
        /// The side that it came from.
        side: Side,
        /// By which right.
        manner: Option<Manner>,
        /// Source and
        src: Endpoint,
        /// destination as they are now.
        dst: Endpoint,
    },
    /// The next hop's MAC address is known.
    Neighbour {
        /// Its address.
        address: Ipv4Addr,
        /// Its MAC address.
        mac: MacAddr,
    },
    /// The next hop's MAC address is not known.
    Waits {
        /// Its address.
        address: Ipv4Addr,
        /// An ARP request was made.
        asked: bool,
        /// The packet waits for the answer; else there was no room.
        kept: bool,
    },
    /// The ARP request that was made for it was dropped.
    RequestDropped(DropReason),
    /// A fragment waits for the first one of its datagram.
    FragmentKept,
    /// It is longer than its way out and leaves in fragments of at most so many bytes.
    Fragmented(u16),
    /// It is a super-frame, and fits in segments of so many bytes of payload.
    Segmented(u16),
    /// Its sender is told of an error.
    Told {
        /// The sender.
        to: IpAddr,
        /// The error; `None`: IPv6's "packet too big".
        error: Option<IcmpError>,
    },
    /// There is an error of which its sender may not be told, or not so often.
    NotTold,
    /// The MAC table knows behind which port its destination is.
    Forwarded {
        /// The destination.
        mac: MacAddr,
        /// The port.
        port: PortId,
    },
    /// It goes to all ports of its VLAN, as its destination is a group or not known.
    Flooded {
        /// The destination.
        mac: MacAddr,
        /// To so many ports.
        ports: u16,
    },
    /// It is to leave by a port.
    Queued {
        /// The port.
        port: PortId,
        /// What becomes of its VLAN tag.
        action: TagAction,
    },
    /// It was put into datagrams.
    Encapsulated {
        /// The peer's port.
        port: PortId,
        /// VXLAN's network; none for bare Ethernet or IP.
        vni: Option<Vni>,
        /// Hash of its flow, which chooses the outer source port.
        flow: u16,
    },
    /// It was written to a port's far side.
    Sent {
        /// The port.
        port: PortId,
        /// So many frames or datagrams were written.
        writes: u16,
        /// So many frames shared them: more than one were coalesced.
        frames: u16,
    },
    /// It, or one of its copies, was dropped.
    Dropped {
        /// Why.
        reason: DropReason,
        /// At this port on its way out; before, if there is none.
        port: Option<PortId>,
    },
}

/// Where a packet came from and whereto it went.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Addressed {
    pub(crate) side: Side,
    pub(crate) src: Ipv4Addr,
    pub(crate) dst: Ipv4Addr,
}

/// How a story ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It left by so many ports.
    Sent(u16),
    /// It went no further.
    Dropped(DropReason),
    /// It was for the router, which answered.
    Answered,
    /// It waits for its next hop or for its datagram's first fragment.
    Waits,
    /// It was for the router, and nothing came of it but what it told.
    Taken,
}

/// What happened to one frame.
#[derive(Clone, Debug)]
pub struct Story {
    /// The port that it came in through; no port of the bridge if it had waited for a neighbour.
    pub ingress: PortId,
    /// When.
    pub at: Timestamp,
    /// Length of the frame, in bytes.
    pub len: u32,
    /// Steps that found no room.
    pub left_out: u16,
    head: [u8; HEAD_LEN],
    steps: [Step; MAX_STEPS],
    count: u8,
    /// Nothing of this really happens.
    pub(super) is_rehearsal: bool,
    /// It is a packet without an Ethernet header.
    pub(super) is_packet: bool,
    /// How the walk ended.
    ended: Result<(), DropReason>,
    sent: u16,
    lost: Option<DropReason>,
    waits: bool,
    answered: bool,
    /// Its frame's number among those that leave.
    pub(super) frame: Option<u16>,
    /// Who waits for it, a bit each.
    pub(super) wanted: u8,
    /// What a rehearsed frame would have taught the MAC table, and who would have made room.
    taught: Option<(Domain, MacAddr, PortId)>,
    evicted: [Option<(Domain, MacAddr)>; 2],
    /// How it was addressed before each of its translations, and the side that it came from.
    addressed: [Option<Addressed>; 2],
}

impl Story {
    /// An empty one, with all the memory that it will ever use.
    pub(super) fn blank() -> Story {
        Story {
            ingress: PortId(0),
            at: Timestamp::default(),
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

    pub(super) fn begin(&mut self, ingress: PortId, frame: &[u8], now: Timestamp) {
        let head = frame.len().min(HEAD_LEN);
        self.head[..head].copy_from_slice(&frame[..head]);
        (self.ingress, self.at, self.len) = (ingress, now, frame.len() as u32);
        (self.count, self.left_out, self.ended) = (0, 0, Ok(()));
        (self.sent, self.lost, self.waits, self.answered) = (0, None, false, false);
        (self.frame, self.wanted, self.is_rehearsal) = (None, 0, false);
        (self.taught, self.evicted, self.addressed) = (None, [None; 2], [None; 2]);
    }

    /// The port that it came in through; `None` if it had waited for a neighbour.
    #[must_use]
    pub fn came_in_by(&self) -> Option<PortId> {
        Some(self.ingress).filter(|ingress| *ingress != NOWHERE)
    }

    /// The beginning of the frame as it came.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.head[..HEAD_LEN.min(self.len as usize)]
    }

    /// Does it begin with an IP header, as what a TUN device and its tunnel carry?
    #[must_use]
    pub fn is_packet(&self) -> bool {
        self.is_packet
    }

    /// What happened, in order.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps[..usize::from(self.count)]
    }

    /// How it ended.
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
    pub(super) fn note(&mut self, step: Step) {
        match step {
            Step::Sent { .. } => self.sent = self.sent.saturating_add(1),
            Step::Dropped { reason, .. } => self.lost = Some(reason),
            Step::ArpAnswered(_) | Step::EchoAnswered(_) => self.answered = true,
            Step::Waits { kept: true, .. } | Step::FragmentKept => self.waits = true,
            // The request that goes out instead of a packet that found no room is not the packet.
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

    /// Lets the MAC table hear of the frame's source, or asks what it would make of it.
    #[cold]
    fn learn(&mut self, table: &MacTable, domain: Domain, mac: MacAddr, port: PortId, now: Timestamp) {
        let vlan = domain.vlan;
        self.note(Step::Classified(vlan));
        let learned = if self.is_rehearsal {
            let would = table.would_learn(vlan, mac, port);
            self.taught = (would.learned != Learned::Refused).then_some((domain, mac, port));
            self.evicted = would.evicted.map(|evicted| evicted.map(|(vlan, mac)| (Domain { vlan, ..domain }, mac)));
            would.learned
        } else {
            table.learn(vlan, mac, port, now)
        };
        self.note(Step::Learned { vlan, mac, learned });
    }

    /// The table's choice, but for what a rehearsed frame would have taught it.
    #[cold]
    fn choose(&mut self, by_table: Forward, domain: Domain, mac: MacAddr, from: PortId) -> Forward {
        let way = match self.taught {
            Some((of, taught, port)) if (of, taught) == (domain, mac) => {
                if port == from {
                    Forward::Drop(DropReason::SamePort)
                } else {
                    Forward::Port(port)
                }
            }
            _ if self.evicted.contains(&Some((domain, mac))) => Forward::Flood,
            _ => by_table,
        };
        if let Forward::Port(port) = way {
            self.note(Step::Forwarded { mac, port });
        }
        way
    }

    /// A rehearsed packet was translated, but no connection knows of it: an error about it must find back all the same.
    pub(crate) fn push_addressed(&mut self, addressed: Addressed) {
        if let Some(place) = self.addressed.iter_mut().find(|place| place.is_none()) {
            *place = Some(addressed);
        }
    }

    /// The translation that an error about it undoes next, coming from this side.
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

impl Walk<'_> {
    /// Notes a step, if anybody listens.
    #[inline(always)]
    pub(crate) fn note(&mut self, step: impl FnOnce() -> Step) {
        if let Some(story) = &mut self.story {
            story.note(step());
        }
    }

    /// Is the frame imagined?
    #[inline]
    pub(crate) fn is_rehearsal(&self) -> bool {
        self.story.as_ref().is_some_and(|story| story.is_rehearsal)
    }

    /// A frame is to leave by a port.
    #[inline(always)]
    pub(crate) fn note_queued(&mut self, frame: u16, port: PortId, action: TagAction) {
        if let Some(story) = &mut self.story {
            story.frame = Some(frame);
            story.note(Step::Queued { port, action });
        }
    }

    /// A frame fits, perhaps in pieces.
    #[inline(always)]
    pub(crate) fn note_cut(&mut self, frame: &Frame) {
        self.note_each(|| {
            let of_segments = frame.offload.segmentation.map(|segmentation| Step::Segmented(segmentation.size));
            frame.cut_to.map(Step::Fragmented).or(of_segments)
        });
    }

    #[inline(always)]
    fn note_each(&mut self, steps: impl FnOnce() -> Option<Step>) {
        if let Some(story) = &mut self.story
            && let Some(step) = steps()
        {
            story.note(step);
        }
    }

    /// Counts and notes a drop besides that of the frame itself.
    pub(crate) fn lose(&mut self, reason: DropReason, frames: u64) {
        self.counters.drop(reason, frames);
        if frames > 0 {
            self.also_dropped = Some(reason);
            self.note(|| Step::Dropped { reason, port: None });
        }
    }

    /// The same of an ARP request that was made for it.
    #[cold]
    pub(crate) fn lose_request(&mut self, reason: DropReason) {
        self.counters.drop(reason, 1);
        self.request_dropped = Some(reason);
        self.note(|| Step::RequestDropped(reason));
    }

    /// Lets the bridge's MAC table hear of a source.
    #[inline(always)]
    pub(crate) fn learn(&mut self, table: &MacTable, domain: Domain, mac: MacAddr) {
        match &mut self.story {
            None => {
                table.learn(domain.vlan, mac, self.ingress, self.now);
            }
            Some(story) => story.learn(table, domain, mac, self.ingress, self.now),
        }
    }

    /// Chooses the way of a frame that came from `from`, by the bridge's MAC table.
    #[inline(always)]
    pub(crate) fn choose(&mut self, table: &MacTable, domain: Domain, mac: MacAddr, from: PortId) -> Forward {
        let way = forward(table, domain.vlan, mac, from, self.now);
        match &mut self.story {
            None => way,
            Some(story) => story.choose(way, domain, mac, from),
        }
    }

    /// May this sender be told of an error now? Takes of what it may be told, unless nothing happens really.
    #[cold]
    pub(crate) fn may_tell(&mut self, to: IpAddr, error: Option<IcmpError>) -> bool {
        let may = self.is_rehearsal() || self.errors.limit.take(to, self.now);
        self.note(|| if may { Step::Told { to, error } } else { Step::NotTold });
        may
    }
}
