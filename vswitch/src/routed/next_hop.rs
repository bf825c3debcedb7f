//! The last step of routing: the next hop's MAC address, and the queue of its port.
//!
//! A packet whose next hop is not known is copied aside, and its bytes become the ARP request.

use std::net::Ipv4Addr;

use packet::MacAddr;
use packet::arp::{ARP_LEN, Arp};
use packet::ethernet::{ADDRESSES_LEN, ETHERNET_LEN, EtherType};
use packet::ipv4::Ipv4View;
use packet::vlan::TagAction;

use super::error::Stop;
use super::neighbour::{InterfaceId, Resolve};
use super::routing::{Interface, Uplink};
use super::v4::{set_addresses, view};
use super::{Deferred, HOPS, Hop, RouterTables, RouterWorker, UPLINK};
use crate::drop_reason::DropReason;
use crate::egress::Frame;
use crate::fit::{cut, fit, fits};
use crate::intake::made;
use crate::storm::FloodClass;
use crate::walk::Walk;
use crate::watched::step::Step;

impl RouterWorker {
    /// Sends a packet to a guest on network `to`, for itself or for a network behind it.
    #[inline(always)]
    pub(crate) fn deliver(
        &mut self,
        tables: &RouterTables,
        walk: &mut Walk<'_>,
        frame: &mut Frame,
        to: InterfaceId,
        hop: Ipv4Addr,
    ) -> Result<(), Stop> {
        let interface = tables.routing.interface(to).ok_or(DropReason::NoRoute)?;
        if walk.story.is_some() {
            note_route(walk, frame, hop, interface);
        }
        if !interface.network.is_host(hop) {
            return Err(Stop::Drop(DropReason::MartianDestination));
        }
        let Some(mac) = self.mac_of(tables, walk, to, hop) else {
            self.wait(tables, walk, frame, to, hop);
            return Ok(());
        };
        set_addresses(walk, frame, mac, interface.mac);
        let domain = interface.domain;
        let table = walk.bridges.table(domain.bridge).ok_or(DropReason::PortGone)?;
        let Some(port) = walk.locate(table, domain, mac) else {
            self.doubt(tables, walk, to, hop);
            walk.admit_flood(domain, FloodClass::Unknown, frame)?;
            return Ok(walk.flood(domain, frame, None, walk.is_isolated_on(domain.bridge))?);
        };
        walk.note(|| Step::Forwarded { mac, port });
        let link = walk.bridges.port_of(domain.bridge, port).ok_or(DropReason::PortGone)?;
        if link.isolated && walk.is_isolated_on(domain.bridge) && port != walk.ingress {
            return Err(Stop::Drop(DropReason::PortIsolated));
        }
        let action = link.vlan.leave(domain.vlan, &frame.headers).ok_or(DropReason::VlanNotCarried)?;
        let mtu = link.room(&frame.headers, action);
        if !fits(frame, mtu) {
            let dont_fragment = view(walk, frame).ok_or(DropReason::BadIpHeader)?.dont_fragment();
            cut(walk.rx, frame, mtu, dont_fragment).map_err(|error| Stop::Report(error, DropReason::FragmentationNeeded))?;
        }
        walk.note_cut(frame);
        if link.is_tunnel() {
            return Ok(walk.queue(port, domain, frame)?);
        }
        walk.push(port, action, frame);
        Ok(())
    }

    /// The same, where it is seldom done.
    #[cold]
    #[inline(never)]
    pub(crate) fn deliver_cold(
        &mut self,
        tables: &RouterTables,
        walk: &mut Walk<'_>,
        frame: &mut Frame,
        to: InterfaceId,
        hop: Ipv4Addr,
    ) -> Result<(), Stop> {
        self.deliver(tables, walk, frame, to, hop)
    }

    /// Sends a packet to a neighbour outside.
    #[inline(always)]
    pub(crate) fn hand_to(
        &mut self,
        tables: &RouterTables,
        walk: &mut Walk<'_>,
        frame: &mut Frame,
        uplink: &Uplink,
        hop: Ipv4Addr,
    ) {
        let Some(mac) = self.mac_of(tables, walk, UPLINK, hop) else { return self.wait(tables, walk, frame, UPLINK, hop) };
        set_addresses(walk, frame, mac, uplink.mac);
        walk.push(uplink.port, TagAction::Keep, frame);
    }

    /// Marks a packet that had waited to be cut where the MTU of its route is too small for it; whether it may be cut was
    /// checked before it waited.
    pub(crate) fn fit_outside(
        &self,
        tables: &RouterTables,
        walk: &mut Walk<'_>,
        frame: &mut Frame,
        uplink: &Uplink,
    ) -> Result<(), DropReason> {
        let ip = view(walk, frame).ok_or(DropReason::BadIpHeader)?;
        let (dst, dont_fragment) = (ip.dst(), ip.dont_fragment());
        let mtu = tables.routing.route(dst).map_or(uplink.mtu, |route| route.mtu);
        fit(walk.rx, frame, mtu, dont_fragment).map_err(|_| DropReason::FragmentationNeeded)
    }

    /// A neighbour's MAC address. A look-up is remembered for the rest of the second, until any neighbour changes.
    #[inline(always)]
    fn mac_of(&mut self, tables: &RouterTables, walk: &mut Walk<'_>, id: InterfaceId, address: Ipv4Addr) -> Option<MacAddr> {
        if walk.story.is_some() {
            return mac_of_traced(tables, walk, id, address);
        }
        let now = walk.now;
        let hop = &mut self.hops[address.to_bits() as usize % HOPS];
        let (secs, version) = (now.secs(), tables.neighbours.version());
        if hop.key == Hop::key_of(id, address) && hop.secs == secs && hop.version == version {
            return Some(hop.mac);
        }
        let mac = tables.neighbours.lookup(id, address, now)?;
        *hop = Hop { key: Hop::key_of(id, address), mac, secs, version };
        Some(mac)
    }

    /// Leaves a neighbour to be asked after the batch: something contradicts what is known of it.
    #[cold]
    fn doubt(&mut self, tables: &RouterTables, walk: &Walk<'_>, id: InterfaceId, address: Ipv4Addr) {
        if !walk.is_rehearsal() && tables.neighbours.doubt(id, address, walk.now) {
            self.defer(Deferred::Doubt(id, address));
        }
    }

    /// Compares the MAC address that a packet came from with that to which packets for its source were sent last.
    #[inline(always)]
    pub(crate) fn compare(&mut self, tables: &RouterTables, walk: &Walk<'_>, id: InterfaceId, address: Ipv4Addr, mac: MacAddr) {
        let hop = &self.hops[address.to_bits() as usize % HOPS];
        if hop.key == Hop::key_of(id, address) && hop.mac != mac {
            self.contradict(tables, walk, id, address, mac);
        }
    }

    /// A packet came from another MAC address than its source had in an earlier look-up.
    #[cold]
    fn contradict(&mut self, tables: &RouterTables, walk: &Walk<'_>, id: InterfaceId, address: Ipv4Addr, mac: MacAddr) {
        if tables.neighbours.peek(id, address).is_some_and(|known| known != mac) {
            self.doubt(tables, walk, id, address);
        }
    }

    /// Keeps a packet whose next hop is not known, and makes an ARP request of its bytes.
    #[cold]
    fn wait(&mut self, tables: &RouterTables, walk: &mut Walk<'_>, frame: &mut Frame, id: InterfaceId, hop: Ipv4Addr) {
        let bytes = &walk.rx.arena()[frame.span.range_with_vnet()];
        let Resolve { ask, kept } = if walk.is_rehearsal() {
            tables.neighbours.decide(id, hop, bytes.len(), walk.ingress.0, walk.now)
        } else {
            tables.neighbours.resolve(id, hop, bytes, walk.ingress.0, walk.now)
        };
        walk.note(|| Step::Waits { address: hop, asked: ask, kept });
        if kept {
            walk.counters.taken.add(1);
        } else {
            walk.lose(DropReason::NeighbourQueueFull, 1);
        }
        if ask && walk.rx.set_len(walk.at, ETHERNET_LEN + ARP_LEN).is_some() {
            // The outcome for the packet is known, whatever happens to the request.
            if let Err(reason) = self.ask(tables, walk, frame, id, hop, None) {
                walk.lose_request(reason);
            }
        }
    }

    /// Makes an ARP request of a frame of the batch that is as long as one, and queues it: to the neighbour itself if its
    /// MAC address is `known`, else to all.
    pub(crate) fn ask(
        &mut self,
        tables: &RouterTables,
        walk: &mut Walk<'_>,
        frame: &mut Frame,
        id: InterfaceId,
        hop: Ipv4Addr,
        known: Option<MacAddr>,
    ) -> Result<(), DropReason> {
        let routing = &tables.routing;
        let (mac, address) = match (routing.interface(id), routing.uplink()) {
            (Some(interface), _) => (interface.mac, interface.address),
            (None, Some(uplink)) if id == UPLINK => (uplink.mac, uplink.address),
            // The network is gone. Nothing was made, so nothing is lost.
            (None, _) => return Ok(()),
        };
        let span = walk.rx.spans()[walk.at];
        let bytes = walk.rx.frame_mut(span);
        bytes[..6].copy_from_slice(&known.unwrap_or(MacAddr::BROADCAST).0);
        bytes[6..ADDRESSES_LEN].copy_from_slice(&mac.0);
        bytes[ADDRESSES_LEN..ETHERNET_LEN].copy_from_slice(&EtherType::ARP.0.to_be_bytes());
        bytes[ETHERNET_LEN..ETHERNET_LEN + ARP_LEN].copy_from_slice(&Arp::request(mac, address, hop).to_bytes());
        made(walk, frame, span)?;
        match (routing.interface(id), routing.uplink()) {
            (Some(interface), _) => walk.flood(interface.domain, frame, None, false),
            (None, Some(uplink)) => {
                walk.push(uplink.port, TagAction::Keep, frame);
                Ok(())
            }
            (None, None) => Err(DropReason::NoRoute),
        }
    }
}

/// Tells by which route a packet goes to a guest.
#[cold]
fn note_route(walk: &mut Walk<'_>, frame: &Frame, hop: Ipv4Addr, interface: &Interface) {
    match view(walk, frame).map(Ipv4View::dst) {
        Some(dst) if dst != hop => walk.note(|| Step::RouteBehind { dst, hop }),
        _ => walk.note(|| Step::RouteInside { dst: hop, vlan: interface.domain.vlan }),
    }
}

#[cold]
fn mac_of_traced(tables: &RouterTables, walk: &mut Walk<'_>, id: InterfaceId, address: Ipv4Addr) -> Option<MacAddr> {
    let neighbours = &tables.neighbours;
    let mac = if walk.is_rehearsal() { neighbours.peek(id, address) } else { neighbours.lookup(id, address, walk.now) };
    let mac = mac?;
    walk.note(|| Step::Neighbour { address, mac });
    Some(mac)
}
