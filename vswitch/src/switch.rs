//! The learning bridge: five steps from a parsed frame to the queues of its egress ports, in this order.
//!
//! ```text
//!  1 classify    which VLAN is it in, and does the ingress port carry that VLAN?
//!  2 learn       the source address is behind the ingress port
//!  3 gateway     ARP for the gateway, and frames to its MAC address, are the router's
//!  4 forward     one port, if the MAC table knows the destination; else all of the VLAN, within the port's limits
//!                  and not through ports that the loop guard has blocked
//!  5 queue       for each egress port: tag action, and whether the frame fits its MTU
//! ```
//!
//! Frames from the uplink are the router's before step 1. Frames from a tunnel never leave by a tunnel again (split
//! horizon): a full mesh of tunnels has no loops by that. Frames from an isolated port do not leave by another isolated port of the
//! bridge, and neither do packets that the router forwards between two such ports. A [guard](crate::guard) has judged a frame before
//! step 1.

use packet::ethernet::{ETHERNET_LEN, EtherType};
use packet::vlan::{TAG_LEN, TagAction};
use packet::{Headers, MacAddr};

use crate::domain::{BridgeId, Domain};
use crate::drop_reason::DropReason;
use crate::egress::Frame;
use crate::fit::{clamp_to, fit, fit_tunnel};
use crate::mac_table::{Learned, MacTable};
use crate::port::{Port, PortId, PortKind};
use crate::routed::Router;
use crate::routed::local::ArpOutcome;
use crate::storm::FloodClass;
use crate::walk::Walk;
use crate::watched::step::Step;

/// Maximum number of segments of a super-frame that is flooded to a port which takes only segments. One frame of 256 segments
/// and 30 such ports would be 7,680 writes, 12 ms in which the worker serves nobody else. The kernel's UDP super-frames had at most
/// 64 segments for long, and one of 64 KiB for an MTU of 1500 has 45. TCP, which is flooded only until the receiver is known,
/// resends single segments.
const MAX_FLOODED_SEGMENTS: u32 = 64;

/// The same through all such ports together.
const MAX_SEGMENTS_OF_FLOOD: u32 = 2048;

/// Takes a frame from its ingress port to the queues of its egress ports.
#[inline(always)]
pub(crate) fn switch(router: &mut Option<Router>, walk: &mut Walk<'_>, frame: &mut Frame) -> Result<(), DropReason> {
    let port = walk.port.ok_or(DropReason::PortGone)?;
    // No station sends from a group address (IEEE 802.3 section 3.2.3), and an answer to it would reach the whole group.
    if frame.headers.src.is_multicast() {
        return Err(DropReason::MulticastSource);
    }
    let mut learns = true;
    match port.kind {
        PortKind::Link => {}
        PortKind::GuardedLink => {
            let guard = port.guard.as_deref().ok_or(DropReason::PortGone)?;
            guard.check(&frame.headers, walk.rx.frame(frame.span))?;
        }
        PortKind::Peer(encapsulation) => {
            learns = encapsulation.learns;
            clamp_to(walk.rx, frame, port.room(&frame.headers, TagAction::Keep));
        }
        PortKind::Uplink => {
            let Router { tables, worker } = router.as_mut().ok_or(DropReason::NotForUs)?;
            walk.note(|| Step::FromOutside);
            return worker.route_in(tables, walk, frame);
        }
        PortKind::IpPeer(_) | PortKind::Tun | PortKind::Host => return Err(DropReason::NotRouted),
    }

    // 1. Classify.
    let vlan = port.vlan.classify(&frame.headers).ok_or(DropReason::VlanNotAllowed)?;
    let domain = Domain { bridge: port.bridge, vlan };
    let gateway = match router {
        Some(router) => router.tables.at(domain).map(|(interface, mac)| (router, interface, mac)),
        None => None,
    };
    if let Some((_, _, mac)) = gateway
        && frame.headers.src == mac
    {
        return Err(DropReason::GatewaySpoofed);
    }

    // 2. Learn.
    let table = walk.bridges.table(domain.bridge).ok_or(DropReason::PortGone)?;
    if learns && learn(walk, table, domain, frame.headers.src) == Learned::Blocked {
        return Err(DropReason::LoopBlocked);
    }

    // 3. Gateway.
    if let Some((Router { tables, worker }, interface, mac)) = gateway {
        // A packet behind two tags, or behind a tag of VLAN 0 and another one, is in a network that the gateway is not in.
        let is_ours = usize::from(frame.headers.l3) <= ETHERNET_LEN + TAG_LEN && !frame.headers.hides_tag();
        if frame.headers.ether_type == EtherType::ARP
            && is_ours
            && worker.arp_inside(tables, walk, frame, interface)? == ArpOutcome::Taken
        {
            return Ok(());
        }
        if frame.headers.dst == mac {
            return worker.route_out(tables, walk, frame, interface);
        }
    }

    forward(walk, port, table, domain, frame)
}

/// Enters the source address in the MAC table.
#[inline(always)]
fn learn(walk: &mut Walk<'_>, table: &MacTable, domain: Domain, mac: MacAddr) -> Learned {
    if walk.story.is_some() {
        learn_traced(walk, table, domain, mac)
    } else {
        walk.macs.learn(table, domain, mac, walk.ingress, walk.now)
    }
}

/// The same for a traced frame. For a rehearsed one the table decides and changes nothing; its story remembers the
/// decision.
#[cold]
fn learn_traced(walk: &mut Walk<'_>, table: &MacTable, domain: Domain, mac: MacAddr) -> Learned {
    let (vlan, port) = (domain.vlan, walk.ingress);
    walk.note(|| Step::Classified(vlan));
    let learned = match &mut walk.story {
        Some(story) if story.is_rehearsal => {
            let decision = table.decide(vlan, mac, port, walk.now);
            if !matches!(decision.learned, Learned::Refused | Learned::Blocked) {
                story.teach(domain, mac, port);
            }
            story.evict(decision.evicted.map(|evicted| evicted.map(|(vlan, mac)| (Domain { vlan, ..domain }, mac))));
            decision.learned
        }
        _ => table.learn(vlan, mac, port, walk.now),
    };
    walk.note(|| Step::Learned { vlan, mac, learned });
    learned
}

/// Step 4, forward: never back through the ingress port, and no further if the address is reserved for bridges
/// themselves (IEEE 802.1D section 7.7).
#[inline(always)]
fn forward(walk: &mut Walk<'_>, ingress: &Port, table: &MacTable, domain: Domain, frame: &mut Frame) -> Result<(), DropReason> {
    let dst = frame.headers.dst;
    if dst.is_multicast() {
        if dst.is_link_local() {
            return Err(DropReason::LinkLocal);
        }
        return walk.flood_received(domain, frame);
    }
    let Some(id) = walk.locate(table, domain, dst) else { return walk.flood_received(domain, frame) };
    if id == walk.ingress {
        return Err(DropReason::SamePort);
    }
    walk.note(|| Step::Forwarded { mac: dst, port: id });
    let egress = walk.bridges.port_of(domain.bridge, id).ok_or(DropReason::PortGone)?;
    if egress.is_tunnel() && ingress.is_tunnel() {
        return Err(DropReason::SplitHorizon);
    }
    if egress.isolated && ingress.isolated {
        return Err(DropReason::PortIsolated);
    }
    walk.queue_at(egress, id, domain, frame)
}

impl Port {
    /// Whether a super-frame leaves through the port in segments, each of them in a write.
    #[inline]
    fn takes_only_segments(&self, frame: &Frame) -> bool {
        !self.is_tunnel() && !self.features.take(frame.offload)
    }
}

impl Walk<'_> {
    /// The port behind which the MAC table has this address. A rehearsed frame sees the table as it would have changed it.
    #[inline(always)]
    pub(crate) fn locate(&mut self, table: &MacTable, domain: Domain, mac: MacAddr) -> Option<PortId> {
        let known = self.macs.lookup(table, domain, mac, self.now);
        match &self.story {
            None => known,
            Some(story) => story.relocated(domain, mac).unwrap_or(known),
        }
    }

    /// Step 5: queues a frame for the one port behind which its destination is.
    #[inline]
    pub(crate) fn queue(&mut self, id: PortId, domain: Domain, frame: &mut Frame) -> Result<(), DropReason> {
        let port = self.bridges.port_of(domain.bridge, id).ok_or(DropReason::PortGone)?;
        self.queue_at(port, id, domain, frame)
    }

    #[inline(always)]
    fn queue_at(&mut self, port: &Port, id: PortId, domain: Domain, frame: &mut Frame) -> Result<(), DropReason> {
        let action = port.vlan.leave(domain.vlan, &frame.headers).ok_or(DropReason::VlanNotCarried)?;
        let is_too_long = frame.cut_to.is_none() && port.is_too_long(&frame.headers, frame.offload, frame.span.len(), action);
        if port.is_tunnel() {
            let room = port.room(&frame.headers, action);
            clamp_to(self.rx, frame, room);
            if is_too_long {
                fit_tunnel(self, frame, room)?;
            }
        } else if is_too_long {
            let room = port.room(&frame.headers, action);
            if !frame.is_size_free || fit(self.rx, frame, room, true).is_err() {
                return Err(DropReason::TooLong);
            }
        }
        self.push(id, action, frame);
        Ok(())
    }

    /// Whether a frame may be flooded: its ingress port is not blocked by the loop guard, and has tokens left of its storm control.
    /// A rehearsed frame takes none.
    #[inline]
    pub(crate) fn admit_flood(&mut self, domain: Domain, class: FloodClass, frame: &Frame) -> Result<(), DropReason> {
        if self.bridges.table(domain.bridge).is_some_and(|table| table.is_blocked(self.ingress, domain.vlan, self.now)) {
            return Err(DropReason::LoopBlocked);
        }
        if self.is_rehearsal() { Ok(()) } else { self.storm.admit(self.ingress, class, frame.segments(), self.now) }
    }

    /// Floods a frame of the ingress port, within the limits of that port. Not inlined, because frames to known stations are to
    /// pay nothing for it.
    #[inline(never)]
    fn flood_received(&mut self, domain: Domain, frame: &mut Frame) -> Result<(), DropReason> {
        let dst = frame.headers.dst;
        let class = match (dst == MacAddr::BROADCAST, dst.is_multicast()) {
            (true, _) => FloodClass::Broadcast,
            (_, true) => FloodClass::Multicast,
            _ => FloodClass::Unknown,
        };
        self.admit_flood(domain, class, frame)?;
        self.flood(domain, frame, Some(self.ingress), self.is_isolated_on(domain.bridge))
    }

    /// Whether the frame came in through an isolated port of this bridge.
    #[inline]
    pub(crate) fn is_isolated_on(&self, bridge: BridgeId) -> bool {
        self.port.is_some_and(|port| port.isolated && port.bridge == bridge)
    }

    /// Step 5: queues a frame for every port of its domain except `from`; if it `is_isolated`, also except isolated ports.
    pub(crate) fn flood(
        &mut self,
        domain: Domain,
        frame: &mut Frame,
        from: Option<PortId>,
        is_isolated: bool,
    ) -> Result<(), DropReason> {
        if frame.is_size_free {
            let least = self.least_room(domain, &frame.headers);
            let _ = fit(self.rx, frame, least, true);
        }
        let from_tunnel = from.and_then(|from| self.bridges.port_of(domain.bridge, from)).is_some_and(Port::is_tunnel);
        let (mut copies, mut too_long, mut too_many, mut isolated) = (0u64, 0, 0, 0);
        let has_many_segments = frame.offload.segmentation.is_some() && self.has_many_segments(domain, frame, from);
        let guard = self.bridges.table(domain.bridge).filter(|table| table.has_blocked(self.now));
        for (index, port) in self.bridges.ports[..self.bridges.end].iter().enumerate() {
            let id = PortId(index as u16);
            let is_reached = |port: &&Port| port.bridge == domain.bridge && Some(id) != from;
            let Some(port) = port.as_ref().filter(is_reached) else { continue };
            match port.kind {
                PortKind::Link | PortKind::GuardedLink => {}
                PortKind::Peer(encapsulation) if encapsulation.is_flooded && !from_tunnel => {}
                PortKind::Peer(_) | PortKind::Uplink | PortKind::IpPeer(_) | PortKind::Tun | PortKind::Host => continue,
            }
            if guard.is_some_and(|table| table.is_blocked(id, domain.vlan, self.now)) {
                continue;
            }
            let Some(action) = port.vlan.leave(domain.vlan, &frame.headers) else { continue };
            if is_isolated && port.isolated {
                isolated += 1;
                continue;
            }
            if port.is_tunnel() {
                clamp_to(self.rx, frame, port.room(&frame.headers, action));
            }
            if port.is_too_long(&frame.headers, frame.offload, frame.span.len(), action) {
                too_long += 1;
            } else if has_many_segments && port.takes_only_segments(frame) {
                too_many += 1;
            } else {
                self.push(id, action, frame);
            }
            copies += 1;
        }
        self.note(|| Step::Flooded { mac: frame.headers.dst, ports: copies as u16 });
        if copies == 0 {
            return Err(match guard {
                _ if isolated > 0 => DropReason::PortIsolated,
                Some(_) => DropReason::LoopBlocked,
                None => DropReason::NoDestination,
            });
        }
        if copies == too_long + too_many {
            // No port takes it, so that nothing was copied: the frame itself is dropped, once.
            return Err(if too_many > 0 { DropReason::TooManySegments } else { DropReason::TooLong });
        }
        self.lose(DropReason::TooLong, too_long);
        if has_many_segments {
            self.lose(DropReason::TooManySegments, too_many);
        }
        self.counters.copies.add(copies - 1);
        self.tx.more_writes += copies as u32 - 1;
        Ok(())
    }

    /// Whether a super-frame would be flooded in too many segments: through one port, or all together.
    #[cold]
    fn has_many_segments(&self, domain: Domain, frame: &Frame, from: Option<PortId>) -> bool {
        let ports = self.bridges.ports[..self.bridges.end].iter().enumerate();
        let cutting = ports.filter(|(index, port)| {
            port.as_ref().is_some_and(|port| {
                port.bridge == domain.bridge
                    && from.is_none_or(|from| from.index() != *index)
                    && port.is_link()
                    && port.takes_only_segments(frame)
                    && port.vlan.leave(domain.vlan, &frame.headers).is_some()
            })
        });
        let segments = frame.segments();
        segments > MAX_FLOODED_SEGMENTS || segments * cutting.count() as u32 > MAX_SEGMENTS_OF_FLOOD
    }

    /// The largest packet that fits through all links of this domain, in bytes. Links with an MTU below what tunnels
    /// can have are left out.
    #[cold]
    fn least_room(&self, domain: Domain, headers: &Headers) -> u32 {
        let ports = self.bridges.ports[..self.bridges.end].iter().flatten();
        let links = ports.filter(|port| port.is_link() && port.bridge == domain.bridge);
        let rooms = links.filter_map(|port| Some(port.room(headers, port.vlan.leave(domain.vlan, headers)?)));
        rooms.filter(|room| *room >= tunnel::mtu::MIN_MTU).min().unwrap_or(tunnel::mtu::MIN_MTU)
    }
}
