//! What the router says itself: ARP, echo replies, ICMP errors. Each is written into the frame that
//! caused it.
//!
//! ```text
//!  an ICMP error, in the bytes of the packet that it is about
//!
//!            headroom         | frame as it came
//!  +-----------+--------------+----------+-------------------------------+
//!  |           | (32 bytes)   | Ethernet | IPv4, transport ...           |
//!  +-----------+--------------+----------+-------------------------------+
//!          | Ethernet | IPv4 | ICMP       | quote, at most 548 bytes |
//!          +----------+------+------------+--------------------------+
//! ```
//!
//! An error about a packet that was translated already is sent as any router on its way would send it:
//! it goes through the translation, which finds the packet's connection by the quote.

use std::net::Ipv4Addr;

use nat::Side;
use packet::arp::{ARP_LEN, Arp, ArpOperation};
use packet::ethernet::{ADDRESSES_LEN, ETHERNET_LEN, EtherType};
use packet::icmpv4::{self, ERROR_HEADERS_LEN, IcmpError, MAX_ERROR_LEN, unreachable};
use packet::ipv4::{self, Ipv4Mut};
use packet::vlan::TagAction;
use packet::{MacAddr, VnetHeader};

use crate::counters::DropReason;
use crate::egress::Frame;
use crate::port::PortKind;
use crate::routed::neighbour::{InterfaceId, Resolve};
use crate::routed::routing::{Interface, Uplink};
use crate::routed::{Ip, Left, Own, Packet, Shared, UPLINK, set_addresses, view};
use crate::walk::Walk;
use crate::watched::Step;

/// What became of an ARP message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ArpOutcome {
    /// It was for the router, and nobody else needs it.
    Taken,
    /// It goes on as any frame.
    Pass,
}

/// The router's place on a network: who it is there.
struct Place<'a> {
    id: InterfaceId,
    mac: MacAddr,
    /// Addresses for which it answers.
    own: &'a [Ipv4Addr],
}

impl Own {
    /// An ARP message from a guest: answered if it asks for the gateway, learned from in any case.
    pub(crate) fn arp_inside(
        &mut self,
        shared: &Shared,
        walk: &mut Walk<'_>,
        frame: Frame,
        id: InterfaceId,
    ) -> Result<ArpOutcome, DropReason> {
        let routing = &shared.routing;
        let Some(interface) = routing.interface(id) else { return Ok(ArpOutcome::Pass) };
        let Some(arp) = read_arp(walk, &frame) else { return Ok(ArpOutcome::Pass) };
        if arp.sender_ip == interface.address {
            // Somebody says that he is the gateway; nobody else shall hear it.
            return Err(DropReason::GatewaySpoofed);
        }
        let learns = interface.network.is_host(arp.sender_ip);
        let place = Place { id, mac: interface.mac, own: std::slice::from_ref(&interface.address) };
        self.arp(shared, walk, frame, arp, &place, learns)
    }

    /// An ARP message from outside.
    pub(crate) fn arp_outside(
        &mut self,
        shared: &Shared,
        walk: &mut Walk<'_>,
        frame: Frame,
        uplink: &Uplink,
    ) -> Result<(), DropReason> {
        let Some(arp) = read_arp(walk, &frame) else { return Err(DropReason::NotForUs) };
        if arp.sender_ip == uplink.address || uplink.own.contains(&arp.sender_ip) {
            return Err(DropReason::GatewaySpoofed);
        }
        // Only who is on the link itself: a route leads to everybody.
        let learns = uplink.next_hop(arp.sender_ip) == Some(arp.sender_ip);
        let place = Place { id: UPLINK, mac: uplink.mac, own: &uplink.own };
        match self.arp(shared, walk, frame, arp, &place, learns)? {
            ArpOutcome::Taken => Ok(()),
            // The host answers for its own address, and hears what it needs itself.
            ArpOutcome::Pass => Err(DropReason::NotForUs),
        }
    }

    fn arp(
        &mut self,
        shared: &Shared,
        walk: &mut Walk<'_>,
        frame: Frame,
        arp: Arp,
        place: &Place<'_>,
        learns: bool,
    ) -> Result<ArpOutcome, DropReason> {
        let asks_us = arp.operation == ArpOperation::Request && place.own.contains(&arp.target_ip);
        // A probe claims nothing (RFC 5227 section 1.1); a sender that is not who sent the frame lies.
        if learns && !arp.is_probe() && arp.sender_mac == frame.headers.src && !arp.sender_mac.is_multicast() {
            let (address, mac) = (arp.sender_ip, arp.sender_mac);
            walk.note(|| Step::NeighbourLearned { address, mac });
            let awaited = !walk.is_rehearsal() && shared.neighbours.learn(place.id, address, mac, asks_us, walk.now);
            if awaited && self.left.len() < self.left.capacity() {
                self.left.push(Left::Neighbour(place.id, arp.sender_ip));
            }
        }
        if asks_us {
            let reply = arp.reply(place.mac).to_bytes();
            let at = usize::from(frame.headers.l3);
            walk.rx.frame_mut(frame.span)[at..at + ARP_LEN].copy_from_slice(&reply);
            let mut packet = Packet { at: 0, frame };
            set_addresses(walk, &mut packet, frame.headers.src, place.mac);
            walk.counters.taken.add(1);
            walk.note(|| Step::ArpAnswered(arp.target_ip));
            let answer = walk.own(frame.span)?;
            walk.push(walk.ingress, answer, TagAction::Keep);
            return Ok(ArpOutcome::Taken);
        }
        if frame.headers.dst == place.mac {
            walk.counters.taken.add(1);
            return Ok(ArpOutcome::Taken);
        }
        Ok(ArpOutcome::Pass)
    }

    /// A packet to the gateway itself: it answers ping, and says that nothing else is there.
    #[cold]
    pub(crate) fn for_gateway(&mut self, shared: &Shared, walk: &mut Walk<'_>, packet: Packet, ip: Ip) -> Result<(), DropReason> {
        if self.is_echo_request(walk, &packet) {
            return self.echo(shared, walk, packet);
        }
        // ICMP errors about what the gateway itself sent end here, and so do fragments.
        let code = match view(walk, &packet).map(|ip| (ip.protocol(), ip.is_fragment())) {
            Some((icmpv4::PROTOCOL, _) | (_, true)) | None => return Err(DropReason::NotServed),
            Some((packet::tcp::PROTOCOL | packet::udp::PROTOCOL, _)) => unreachable::PORT,
            Some(_) => unreachable::PROTOCOL,
        };
        self.report_from(shared, walk, packet, IcmpError::unreachable(code), ip.dst, DropReason::NotServed)
    }

    /// Answers an echo request in its own bytes, to where it came from.
    #[cold]
    pub(crate) fn echo(&mut self, shared: &Shared, walk: &mut Walk<'_>, mut packet: Packet) -> Result<(), DropReason> {
        let Frame { span, headers, .. } = packet.frame;
        let bytes = &mut walk.rx.frame_mut(span)[usize::from(headers.l3)..headers.end as usize];
        let Some(mut ip) = Ipv4Mut::new(bytes) else { return Err(DropReason::BadIpHeader) };
        let (src, dst) = (ip.view().src(), ip.view().dst());
        if !icmpv4::IcmpView::new(ip.payload_mut()).is_some_and(icmpv4::IcmpView::has_valid_checksum) {
            return Err(DropReason::NatBadChecksum);
        }
        ip.set_src(dst);
        ip.set_dst(src);
        ip.set_ttl(ECHO_TTL);
        if !icmpv4::answer_echo(ip.payload_mut()) {
            return Err(DropReason::NotServed);
        }
        set_addresses(walk, &mut packet, headers.src, headers.dst);
        walk.counters.taken.add(1);
        walk.note(|| Step::EchoAnswered(dst));
        self.send_back(shared, walk, packet)
    }

    /// Tells a packet's sender of an error, from the router's address on the way back. Always an
    /// error itself: the packet goes no further.
    #[cold]
    pub(crate) fn report(
        &mut self,
        shared: &Shared,
        walk: &mut Walk<'_>,
        packet: Packet,
        error: IcmpError,
        reason: DropReason,
    ) -> Result<(), DropReason> {
        let Some(to) = view(walk, &packet).map(ipv4::Ipv4View::src) else { return Err(reason) };
        let from = match (shared.routing.to_inside(to).and_then(|id| shared.routing.interface(id)), shared.routing.uplink()) {
            (Some(interface), _) => interface.address,
            (None, Some(uplink)) => match shared.routing.interface(InterfaceId(0)) {
                // An error about a packet for a guest: the translation gives it the outside address. One
                // about a packet of a guest, which has its outside address by now, says who we are there.
                Some(Interface { address, .. }) if !shared.nat.as_ref().is_some_and(|nat| nat.is_external(to)) => *address,
                _ => uplink.address,
            },
            (None, None) => return Err(reason),
        };
        self.report_from(shared, walk, packet, error, from, reason)
    }

    fn report_from(
        &mut self,
        shared: &Shared,
        walk: &mut Walk<'_>,
        packet: Packet,
        error: IcmpError,
        from: Ipv4Addr,
        reason: DropReason,
    ) -> Result<(), DropReason> {
        if let Some(made) = self.write_error(walk, packet, error, from) {
            walk.counters.made.add(1);
            if let Err(reason) = self.send_error(shared, walk, made, packet.frame) {
                walk.lose(reason, 1);
            }
        }
        Err(reason)
    }

    /// Puts the error's headers before the packet that it quotes. `None` if nobody may be told.
    fn write_error(&mut self, walk: &mut Walk<'_>, packet: Packet, error: IcmpError, from: Ipv4Addr) -> Option<Packet> {
        let ip = view(walk, &packet)?;
        let to = ip.src();
        if IcmpError::is_forbidden_about(ip) || packet.frame.headers.dst.is_multicast() || !walk.may_tell(to.into(), Some(error))
        {
            return None;
        }
        let quote = (packet.frame.span.len() - ETHERNET_LEN).min(MAX_ERROR_LEN - ERROR_HEADERS_LEN);
        walk.rx.set_len(packet.at, ETHERNET_LEN + quote)?;
        let span = walk.rx.move_start(packet.at, -(ERROR_HEADERS_LEN as isize))?;
        let id = walk.errors.next_id();
        let bytes = walk.rx.frame_mut(span);
        bytes[ADDRESSES_LEN..ETHERNET_LEN].copy_from_slice(&EtherType::IPV4.0.to_be_bytes());
        if !error.write_headers(&mut bytes[ETHERNET_LEN..], from, to, id) {
            return None;
        }
        walk.rx.set_vnet(span, VnetHeader::default());
        let headers = crate::walk::parse(span, walk.rx).ok()?;
        Some(Packet { at: packet.at, frame: Frame::new(span, headers, packet::Offload::default()) })
    }

    /// An error goes back to where the packet came from; through the translation, if the packet had
    /// passed it.
    fn send_error(&mut self, shared: &Shared, walk: &mut Walk<'_>, mut error: Packet, about: Frame) -> Result<(), DropReason> {
        let routing = &shared.routing;
        let Some(to) = view(walk, &error).map(ipv4::Ipv4View::dst) else { return Err(DropReason::BadIpHeader) };
        if let Some(id) = routing.to_inside(to) {
            let Some(interface) = routing.interface(id) else { return Err(DropReason::NoRoute) };
            let came_from_there = walk.bridges.port(walk.ingress).is_some_and(|port| port.kind != PortKind::Uplink);
            if came_from_there && about.headers.dst == interface.mac {
                set_addresses(walk, &mut error, about.headers.src, interface.mac);
                return walk.queue(walk.ingress, interface.domain, error.frame);
            }
            return self.deliver(shared, walk, error, id, to);
        }
        let Some(nat) = shared.nat.as_deref() else { return Err(DropReason::NoRoute) };
        if nat.is_external(to) {
            if quoted_dst(walk, &error).is_some_and(|dst| routing.to_inside(dst).is_some()) {
                // It is about a packet that was translated twice, and is so itself.
                self.translate(walk, &mut error, nat, Side::Inside)?;
            }
            let dst = self.translate(walk, &mut error, nat, Side::Outside)?;
            let id = routing.to_inside(dst).ok_or(DropReason::NoRoute)?;
            // From the address that the guest knows the router by (RFC 1812 section 4.3.2.4).
            if let Some(interface) = routing.interface(id) {
                set_source(walk, &error, interface.address);
            }
            return self.deliver(shared, walk, error, id, dst);
        }
        let dst = self.translate(walk, &mut error, nat, Side::Inside)?;
        let uplink = routing.uplink().ok_or(DropReason::NoRoute)?;
        let hop = uplink.next_hop(dst).ok_or(DropReason::NoRoute)?;
        self.hand_to(shared, walk, error, uplink, hop)
    }

    /// What was made of a frame goes out of the port that the frame came from.
    fn send_back(&mut self, shared: &Shared, walk: &mut Walk<'_>, packet: Packet) -> Result<(), DropReason> {
        let answer = walk.own(packet.frame.span)?;
        match walk.bridges.port(walk.ingress) {
            Some(port) if port.kind == PortKind::Uplink => {
                walk.push(walk.ingress, answer, TagAction::Keep);
                Ok(())
            }
            _ => {
                // It was made, so it is dropped as what it is now.
                let interface = shared.routing.by_mac(answer.headers.src).ok_or(DropReason::NoRoute)?;
                walk.queue(walk.ingress, interface.domain, answer)
            }
        }
    }

    /// A packet whose next hop is not known waits for it; its bytes become the question.
    #[cold]
    pub(crate) fn wait(
        &mut self,
        shared: &Shared,
        walk: &mut Walk<'_>,
        packet: Packet,
        id: InterfaceId,
        hop: Ipv4Addr,
    ) -> Result<(), DropReason> {
        let frame = &walk.rx.arena()[packet.frame.span.range_with_vnet()];
        let Resolve { ask, kept } = if walk.is_rehearsal() {
            shared.neighbours.would_resolve(id, hop, frame.len(), walk.ingress.0, walk.now)
        } else {
            shared.neighbours.resolve(id, hop, frame, walk.ingress.0, walk.now)
        };
        walk.note(|| Step::Waits { address: hop, asked: ask, kept });
        if kept {
            walk.counters.taken.add(1);
        } else {
            walk.lose(DropReason::NeighbourQueueFull, 1);
        }
        if ask && walk.rx.set_len(packet.at, ETHERNET_LEN + ARP_LEN).is_some() {
            // What became of the packet is said, whatever becomes of the request.
            if let Err(reason) = self.ask(shared, walk, packet.at, id, hop, None) {
                walk.lose_request(reason);
            }
        }
        Ok(())
    }

    /// Makes an ARP request of a frame of the batch that is as long as one, and queues it.
    pub(crate) fn ask(
        &mut self,
        shared: &Shared,
        walk: &mut Walk<'_>,
        at: usize,
        id: InterfaceId,
        hop: Ipv4Addr,
        known: Option<MacAddr>,
    ) -> Result<(), DropReason> {
        let routing = &shared.routing;
        let (mac, address) = match (routing.interface(id), routing.uplink()) {
            (Some(interface), _) => (interface.mac, interface.address),
            (None, Some(uplink)) => (uplink.mac, uplink.address),
            // Nothing was made, so nothing is lost.
            (None, None) => return Ok(()),
        };
        let span = walk.rx.spans()[at];
        let bytes = walk.rx.frame_mut(span);
        bytes[..6].copy_from_slice(&known.unwrap_or(MacAddr::BROADCAST).0);
        bytes[6..ADDRESSES_LEN].copy_from_slice(&mac.0);
        bytes[ADDRESSES_LEN..ETHERNET_LEN].copy_from_slice(&EtherType::ARP.0.to_be_bytes());
        bytes[ETHERNET_LEN..ETHERNET_LEN + ARP_LEN].copy_from_slice(&Arp::request(mac, address, hop).to_bytes());
        let request = walk.own(span)?;
        match (routing.interface(id), routing.uplink()) {
            (Some(interface), _) => walk.flood(interface.domain, request, None),
            (None, Some(uplink)) => {
                walk.push(uplink.port, request, TagAction::Keep);
                Ok(())
            }
            (None, None) => Err(DropReason::NoRoute),
        }
    }
}

/// Time to live of what the router answers (the assigned default, RFC 1700).
const ECHO_TTL: u8 = 64;

fn read_arp(walk: &Walk<'_>, frame: &Frame) -> Option<Arp> {
    Arp::parse(&walk.rx.frame(frame.span)[usize::from(frame.headers.l3)..])
}

fn set_source(walk: &mut Walk<'_>, error: &Packet, src: Ipv4Addr) {
    let Frame { span, headers, .. } = error.frame;
    let bytes = &mut walk.rx.frame_mut(span)[usize::from(headers.l3)..headers.end as usize];
    if let Some(mut ip) = Ipv4Mut::new(bytes) {
        ip.set_src(src);
    }
}

/// Where the packet was going that an error quotes, whose header is whole.
fn quoted_dst(walk: &Walk<'_>, error: &Packet) -> Option<Ipv4Addr> {
    let quote = view(walk, error)?.payload().get(icmpv4::ICMP_LEN..)?;
    ipv4::Ipv4View::quoted(quote).map(ipv4::Ipv4View::dst)
}
