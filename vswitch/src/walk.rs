//! The bridges as the pipeline uses them: ports, MAC tables, and the ways to queue a frame.

use std::sync::Arc;

use packet::vlan::TagAction;
use packet::{Batch, Headers, Malformed, Offload, Span, Timestamp};

use crate::counters::{Counters, DropReason, PortCounters};
use crate::domain::{BridgeId, Domain, MAX_BRIDGES};
use crate::egress::{Egress, Frame};
use crate::fit::{clamp_to, fit, fit_tunnel};
use crate::limit::Errors;
use crate::mac_table::MacTable;
use crate::port::{Port, PortId, PortKind};
use crate::switch::Forward;
use crate::tunnels::ip::IpTunnel;
use crate::watched::{Step, Story};

/// One worker's view of the bridges.
#[derive(Debug)]
pub(crate) struct Bridges {
    /// By the bridge's number; `None` if there is no such bridge.
    pub(crate) tables: [Option<Arc<MacTable>>; MAX_BRIDGES],
    /// Of all bridges.
    pub(crate) ports: Box<[Option<Port>]>,
    /// No port has a number from here on.
    pub(crate) end: usize,
    /// By the port of the TUN device and by those of its peers.
    pub(crate) ip_tunnels: Box<[Option<Arc<IpTunnel>>]>,
    pub(crate) counters: Arc<Counters>,
}

/// One batch on its walk.
pub(crate) struct Walk<'a> {
    pub(crate) bridges: &'a Bridges,
    pub(crate) rx: &'a mut Batch,
    pub(crate) tx: &'a mut Egress,
    pub(crate) errors: &'a mut Errors,
    pub(crate) ingress: PortId,
    pub(crate) counters: &'a PortCounters,
    pub(crate) now: Timestamp,
    /// What happens to the frame at hand, if anybody wants to know.
    pub(crate) story: Option<Box<Story>>,
    /// Why the frame at hand, some copies of it, or an answer that was made of it, were dropped, where the walk's
    /// outcome does not tell.
    pub(crate) also_dropped: Option<DropReason>,
    /// Why an ARP request was dropped that was made for the frame at hand.
    pub(crate) request_dropped: Option<DropReason>,
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

    /// The same, if it is a port of this bridge.
    #[inline]
    pub(crate) fn port_of(&self, bridge: BridgeId, id: PortId) -> Option<&Port> {
        self.port(id).filter(|port| port.bridge == bridge)
    }

    /// The tunnel of IP packets that a port belongs to.
    #[inline]
    pub(crate) fn ip_tunnel(&self, id: PortId) -> Option<&IpTunnel> {
        self.ip_tunnels.get(id.index())?.as_deref()
    }
}

impl Walk<'_> {
    /// Chooses the way out by the MAC table and queues the frame.
    #[inline]
    pub(crate) fn forward(&mut self, table: &MacTable, domain: Domain, frame: Frame) -> Result<(), DropReason> {
        match self.choose(table, domain, frame.headers.dst, self.ingress) {
            Forward::Port(port) if self.is_tunnel(domain, port) && self.is_tunnel(domain, self.ingress) => {
                Err(DropReason::SplitHorizon)
            }
            Forward::Port(port) => self.queue(port, domain, frame),
            Forward::Flood => self.flood(domain, frame, Some(self.ingress)),
            Forward::Drop(reason) => Err(reason),
        }
    }

    /// Leads this port of the domain's bridge into a tunnel?
    #[inline]
    fn is_tunnel(&self, domain: Domain, id: PortId) -> bool {
        self.bridges.port_of(domain.bridge, id).is_some_and(|port| port.encapsulation().is_some())
    }

    /// Queues a frame for the one port behind which its destination is.
    #[inline]
    pub(crate) fn queue(&mut self, id: PortId, domain: Domain, mut frame: Frame) -> Result<(), DropReason> {
        let port = self.bridges.port_of(domain.bridge, id).ok_or(DropReason::PortGone)?;
        let action = port.vlan.leave(domain.vlan, &frame.headers).ok_or(DropReason::VlanNotCarried)?;
        let is_too_long = frame.cut_to.is_none() && port.is_too_long(&frame.headers, frame.offload, frame.span.len(), action);
        if port.encapsulation().is_some() {
            let room = port.room(&frame.headers, action);
            clamp_to(self.rx, &frame, room);
            if is_too_long {
                fit_tunnel(self, &mut frame, room)?;
            }
        } else if is_too_long {
            let room = port.room(&frame.headers, action);
            if !frame.is_size_free || fit(self.rx, &mut frame, room, true).is_err() {
                return Err(DropReason::TooLong);
            }
        }
        self.push(id, frame, action);
        Ok(())
    }

    /// Queues a frame for a port, whatever its length.
    #[inline(always)]
    pub(crate) fn push(&mut self, id: PortId, frame: Frame, action: TagAction) {
        let frame = self.tx.add(frame);
        self.tx.push(id, frame, action);
        self.note_queued(frame, id, action);
    }

    /// What fits through all links of this domain; those that are too narrow for anything do not count.
    #[cold]
    fn least_room(&self, domain: Domain, frame: &Frame) -> u32 {
        let ports = self.bridges.ports[..self.bridges.end].iter().flatten();
        let links = ports.filter(|port| port.kind == PortKind::Link && port.bridge == domain.bridge);
        let rooms = links.filter_map(|port| Some(port.room(&frame.headers, port.vlan.leave(domain.vlan, &frame.headers)?)));
        rooms.filter(|room| *room >= tunnel::mtu::MIN_MTU).min().unwrap_or(tunnel::mtu::MIN_MTU)
    }

    /// Queues a frame for every port of its domain, but not the one that it came from.
    pub(crate) fn flood(&mut self, domain: Domain, mut frame: Frame, from: Option<PortId>) -> Result<(), DropReason> {
        if frame.is_size_free {
            let least = self.least_room(domain, &frame);
            let _ = fit(self.rx, &mut frame, least, true);
        }
        let added = self.tx.add(frame);
        let from_tunnel = from.is_some_and(|from| self.is_tunnel(domain, from));
        let (mut copies, mut too_long) = (0u64, 0);
        for (index, port) in self.bridges.ports[..self.bridges.end].iter().enumerate() {
            let id = PortId(index as u16);
            let is_reached = |port: &&Port| port.bridge == domain.bridge && Some(id) != from;
            let Some(port) = port.as_ref().filter(is_reached) else { continue };
            match port.kind {
                PortKind::Link => {}
                PortKind::Peer(encapsulation) if encapsulation.is_flooded && !from_tunnel => {}
                PortKind::Peer(_) | PortKind::Uplink | PortKind::IpPeer(_) | PortKind::Tun => continue,
            }
            let Some(action) = port.vlan.leave(domain.vlan, &frame.headers) else { continue };
            if port.encapsulation().is_some() {
                clamp_to(self.rx, &frame, port.room(&frame.headers, action));
            }
            if port.is_too_long(&frame.headers, frame.offload, frame.span.len(), action) {
                too_long += 1;
            } else {
                self.tx.push(id, added, action);
                self.note_queued(added, id, action);
            }
            copies += 1;
        }
        self.note(|| Step::Flooded { mac: frame.headers.dst, ports: copies as u16 });
        if copies == 0 {
            return Err(DropReason::NoDestination);
        }
        if copies == too_long {
            // No port takes it, so that nothing was copied: it is dropped as what it is, once.
            return Err(DropReason::TooLong);
        }
        self.lose(DropReason::TooLong, too_long);
        self.counters.copies.add(copies - 1);
        Ok(())
    }

    /// A frame that was written into the batch here: what stands in it, and nothing owed.
    pub(crate) fn own(&mut self, span: Span) -> Result<Frame, DropReason> {
        let headers = parse(span, self.rx)?;
        self.rx.set_vnet(span, Offload::default().to_vnet(&headers, 0));
        self.counters.made.add(1);
        Ok(Frame::new(span, headers, Offload::default()))
    }
}

#[inline]
pub(crate) fn parse(span: Span, rx: &Batch) -> Result<Headers, DropReason> {
    Headers::parse(rx.frame(span)).map_err(|malformed| match malformed {
        Malformed::Runt => DropReason::Runt,
        Malformed::TruncatedTag => DropReason::TruncatedTag,
    })
}
