//! The state that all steps of one frame share: its batch, its ingress port and the tables it is looked up in.
//!
//! Steps are functions of a [`Walk`]: intake, the switch, the router and tunnels. This file imports none of them.

use std::net::IpAddr;
use std::sync::Arc;

use packet::icmpv4::IcmpError;
use packet::vlan::TagAction;
use packet::{Batch, Timestamp};

use crate::counters::{Counters, PortCounters};
use crate::domain::BridgeId;
use crate::drop_reason::DropReason;
use crate::egress::{Frame, Queues};
use crate::limit::Errors;
use crate::mac_table::{MacMemo, MacTable};
use crate::port::{Port, PortId, PortKind};
use crate::storm::StormControl;
use crate::tunnels::ip_routes::IpTunnel;
use crate::watched::step::Step;
use crate::watched::story::Story;

/// One worker's view of the bridges.
#[derive(Debug)]
pub(crate) struct Bridges {
    /// MAC tables by bridge number, up to the highest one in use; `None` where there is no bridge.
    pub(crate) tables: Vec<Option<Arc<MacTable>>>,
    /// The ports of all bridges, by port number, up to the highest one so far.
    pub(crate) ports: Vec<Option<Port>>,
    /// One more than the highest port number in use.
    pub(crate) end: usize,
    /// Tunnels of IP packets, by the port of their TUN device and by the ports of their peers.
    pub(crate) ip_tunnels: Vec<Option<Arc<IpTunnel>>>,
    pub(crate) counters: Arc<Counters>,
}

impl Bridges {
    /// The MAC table of a bridge.
    #[inline]
    pub(crate) fn table(&self, bridge: BridgeId) -> Option<&MacTable> {
        self.tables.get(bridge.index())?.as_deref()
    }

    #[inline]
    pub(crate) fn port(&self, id: PortId) -> Option<&Port> {
        self.ports.get(id.index()).and_then(Option::as_ref)
    }

    /// The port, if it belongs to this bridge.
    #[inline]
    pub(crate) fn port_of(&self, bridge: BridgeId, id: PortId) -> Option<&Port> {
        self.port(id).filter(|port| port.bridge == bridge)
    }

    /// Whether frames of a port are IP packets without an Ethernet header.
    #[inline]
    pub(crate) fn carries_packets(&self, id: PortId) -> bool {
        self.ip_tunnel(id).is_some() || self.port(id).is_some_and(|port| port.kind == PortKind::Host)
    }

    /// The tunnel of IP packets that a port belongs to.
    #[inline]
    pub(crate) fn ip_tunnel(&self, id: PortId) -> Option<&IpTunnel> {
        self.ip_tunnels.get(id.index())?.as_deref()
    }
}

/// What the frames of one worker leave for those that come after them.
#[derive(Debug)]
pub(crate) struct WorkerState {
    pub(crate) errors: Errors,
    pub(crate) storm: StormControl,
    pub(crate) macs: MacMemo,
}

/// One batch on its way through the pipeline, and the frame of it that is processed now.
pub(crate) struct Walk<'a> {
    pub(crate) bridges: &'a Bridges,
    pub(crate) rx: &'a mut Batch,
    pub(crate) tx: &'a mut Queues,
    pub(crate) errors: &'a mut Errors,
    pub(crate) storm: &'a mut StormControl,
    pub(crate) macs: &'a mut MacMemo,
    /// The frame's place in the batch.
    pub(crate) at: usize,
    /// The port that the frame came in through; [`PortId::NOWHERE`] for one that the router made.
    pub(crate) ingress: PortId,
    /// That port, unless it is gone or `NOWHERE`.
    pub(crate) port: Option<&'a Port>,
    /// The counters of that port; those of port 0 for `NOWHERE`.
    pub(crate) counters: &'a PortCounters,
    pub(crate) now: Timestamp,
    /// The trace of the frame, if it is traced.
    pub(crate) story: Option<Box<Story>>,
    /// Why some copies of the frame, or an answer written in its bytes, were dropped although the frame was not, or in
    /// addition to it.
    pub(crate) also_dropped: Option<DropReason>,
    /// Why the ARP request was dropped that was made for the frame.
    pub(crate) request_dropped: Option<DropReason>,
}

impl<'a> Walk<'a> {
    /// A walk for the frames of `rx`, which came in through `ingress`. `None` if there are no counters for that port.
    #[inline]
    pub(crate) fn new(
        bridges: &'a Bridges,
        state: &'a mut WorkerState,
        rx: &'a mut Batch,
        tx: &'a mut Queues,
        ingress: PortId,
        now: Timestamp,
    ) -> Option<Walk<'a>> {
        let counted = if ingress == PortId::NOWHERE { PortId(0) } else { ingress };
        let counters = bridges.counters.port(counted)?;
        let WorkerState { errors, storm, macs } = state;
        Some(Walk {
            bridges,
            rx,
            tx,
            errors,
            storm,
            macs,
            at: 0,
            ingress,
            port: bridges.port(ingress),
            counters,
            now,
            story: None,
            also_dropped: None,
            request_dropped: None,
        })
    }

    /// Sets the ingress port of the next frame.
    #[inline]
    pub(crate) fn set_ingress(&mut self, ingress: PortId) {
        if ingress == self.ingress {
            return;
        }
        self.ingress = ingress;
        self.port = self.bridges.port(ingress);
        if let Some(counters) = self.bridges.counters.port(ingress).or_else(|| self.bridges.counters.port(PortId(0))) {
            self.counters = counters;
        }
    }

    /// Queues the frame that is processed now for a port, whatever its length.
    #[inline(always)]
    pub(crate) fn push(&mut self, id: PortId, action: TagAction, frame: &Frame) {
        if frame.offload.segmentation.is_some() || frame.cut_to.is_some() {
            self.count_pieces(id, frame);
        }
        self.tx.push(id, self.at as u16, action);
        if let Some(story) = &mut self.story {
            story.note_queued(self.at as u16, id, action);
        }
    }

    /// Counts the writes, or datagrams, that a super-frame or a packet to be fragmented takes through a port.
    #[inline(never)]
    fn count_pieces(&mut self, id: PortId, frame: &Frame) {
        let pieces = match frame.cut_to {
            Some(mtu) => frame.fragments(mtu),
            None if self.bridges.port(id).is_some_and(|port| port.features.take(frame.offload)) => return,
            None => frame.segments(),
        };
        self.tx.more_writes += pieces.saturating_sub(1);
    }

    /// Adds a step to the frame's trace, if it is traced.
    #[inline(always)]
    pub(crate) fn note(&mut self, step: impl FnOnce() -> Step) {
        if let Some(story) = &mut self.story {
            story.note(step());
        }
    }

    /// Adds how the frame will be cut to its trace, if it is traced and will be cut.
    #[inline(always)]
    pub(crate) fn note_cut(&mut self, frame: &Frame) {
        if let Some(story) = &mut self.story {
            let segments = frame.offload.segmentation.map(|segmentation| Step::Segmented(segmentation.size));
            if let Some(step) = frame.cut_to.map(Step::Fragmented).or(segments) {
                story.note(step);
            }
        }
    }

    /// Whether this is a rehearsal, which must not change shared tables.
    #[inline]
    pub(crate) fn is_rehearsal(&self) -> bool {
        self.story.as_ref().is_some_and(|story| story.is_rehearsal)
    }

    /// Counts and traces a drop of copies or of an answer, besides the outcome for the frame itself.
    pub(crate) fn lose(&mut self, reason: DropReason, frames: u64) {
        self.counters.drop(reason, frames);
        if frames > 0 {
            self.also_dropped = Some(reason);
            self.note(|| Step::Dropped { reason, port: None });
        }
    }

    /// Whether neither copies of the frame nor an answer or a request that it caused were dropped, unless reported already.
    #[inline]
    pub(crate) fn is_lossless(&self) -> bool {
        self.also_dropped.is_none() && self.request_dropped.is_none()
    }

    /// Counts and traces a drop of the ARP request that was made for the frame.
    #[cold]
    pub(crate) fn lose_request(&mut self, reason: DropReason) {
        self.counters.drop(reason, 1);
        self.request_dropped = Some(reason);
        self.note(|| Step::RequestDropped(reason));
    }

    /// Whether an ICMP error may be sent to this address now, about a packet about which none may be sent if `is_forbidden`. Takes
    /// a token of the rate limit, except in a rehearsal.
    #[cold]
    pub(crate) fn may_tell(&mut self, is_forbidden: bool, to: IpAddr, error: Option<IcmpError>) -> bool {
        let may = !is_forbidden && (self.is_rehearsal() || self.errors.limit.take(to, self.now));
        self.note(|| if may { Step::Told { to, error } } else { Step::NotTold });
        may
    }
}
