//! The router's walk: from the gateway's MAC address to the next hop.
//!
//! ```text
//!  from a guest    sound? > own? > ttl > way out > fits? > mss > translate > next hop > queue
//!  from outside    for us? > sound? > translate > ttl > mss > network > next hop > fits? > queue
//! ```
//!
//! A packet that goes from one network inside to another is not translated. One whose destination is
//! an outside address of our own is translated as if it went out, and then as if it came in (hairpin,
//! RFC 4787 section 6): so it meets the rules that a stranger's would, and its receiver sees an
//! outside address.

use std::net::Ipv4Addr;
use std::sync::Arc;

use nat::{FirstFragment, FlowCache, Manner, Nat, Refused, Rehearsed, Side};
use packet::ethernet::EtherType;
use packet::icmpv4::{IcmpError, unreachable};
use packet::ipv4::{Ipv4Mut, Ipv4Options, Ipv4View};
use packet::tcp;
use packet::vlan::{TAG_LEN, TagAction};
use packet::{Headers, MacAddr, Network, Transport};

use crate::counters::DropReason;
use crate::domain::Domain;
use crate::egress::Frame;
use crate::fit::fit;
use crate::routed::neighbour::{InterfaceId, Neighbours};
use crate::routed::resume::Held;
use crate::routed::routing::{Routing, Uplink};
use crate::switch::Forward;
use crate::walk::Walk;
use crate::watched::{Addressed, Step};

pub(crate) mod answer;
pub mod neighbour;
pub(crate) mod resume;
pub mod routing;

/// The uplink's number among the networks of the neighbours.
pub const UPLINK: InterfaceId = InterfaceId(0x7fff);

/// So many things can be left over by one batch.
const MAX_LEFT: usize = packet::batch::MAX_FRAMES;

const ETHERNET: usize = packet::ethernet::ETHERNET_LEN;

/// What a batch left to be done behind it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Left {
    /// An address became known for which packets wait.
    Neighbour(InterfaceId, Ipv4Addr),
    /// A datagram's first fragment came, for which later ones wait.
    Fragments(FirstFragment),
}

/// One worker's router.
#[derive(Debug)]
pub struct Router {
    pub(crate) shared: Shared,
    pub(crate) own: Own,
}

/// What a worker's router shares with those of the others: what is looked up.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) routing: Arc<Routing>,
    pub(crate) nat: Option<Arc<Nat>>,
    pub(crate) neighbours: Arc<Neighbours>,
}

/// What it has for itself: who walks the packets.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) left: Vec<Left>,
    /// How the fragment that comes in once more is translated.
    pub(crate) told: Option<FirstFragment>,
    /// Connections seen last.
    flows: FlowCache,
    /// Next hops of this second, by the last bits of their addresses.
    hops: Box<[Hop; HOPS]>,
}

const HOPS: usize = 256;

/// A neighbour as it was known in this second.
#[derive(Clone, Copy, Debug, Default)]
struct Hop {
    address: Option<(InterfaceId, Ipv4Addr)>,
    mac: MacAddr,
    secs: u32,
    version: u32,
}

/// What the router looks at of a packet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ip {
    pub(crate) src: Ipv4Addr,
    pub(crate) dst: Ipv4Addr,
    ttl: u8,
    dont_fragment: bool,
}

/// A packet in the batch, whose frame may be changed on the way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    /// Its place in the batch.
    pub(crate) at: usize,
    pub(crate) frame: Frame,
}

impl Router {
    /// A router that shares translation and neighbours with those of the other workers.
    #[must_use]
    pub fn new(routing: Arc<Routing>, nat: Option<Arc<Nat>>, neighbours: Arc<Neighbours>) -> Router {
        let left = Vec::with_capacity(MAX_LEFT);
        Router {
            shared: Shared { routing, nat, neighbours },
            own: Own { left, told: None, flows: FlowCache::default(), hops: Box::new([Hop::default(); HOPS]) },
        }
    }
}

impl Shared {
    /// The network that a domain is, if there is a gateway on it, and the gateway's MAC address.
    #[inline]
    pub(crate) fn at(&self, domain: Domain) -> Option<(InterfaceId, MacAddr)> {
        let id = self.routing.of_domain(domain)?;
        Some((id, self.routing.interface(id)?.mac))
    }
}

impl Own {
    /// A frame to the gateway's MAC address.
    #[inline]
    pub(crate) fn route_out(
        &mut self,
        shared: &Shared,
        walk: &mut Walk<'_>,
        at: usize,
        frame: Frame,
        from: InterfaceId,
    ) -> Result<(), DropReason> {
        let mut packet = untag(walk, at, frame)?;
        let ip = sound(walk, &packet)?;
        let routing = &shared.routing;
        let interface = routing.interface(from).ok_or(DropReason::NoRoute)?;
        walk.note(|| Step::ForGateway(interface.address));
        if !interface.network.is_host(ip.src) || ip.src == interface.address {
            return Err(DropReason::MartianSource);
        }
        if routing.is_gateway(ip.dst) {
            return self.for_gateway(shared, walk, packet, ip);
        }
        if !is_one_host(ip.dst) {
            return Err(DropReason::MartianDestination);
        }
        if ip.ttl <= 1 {
            return self.report(shared, walk, packet, IcmpError::TIME_EXCEEDED, DropReason::TtlExceeded);
        }
        match routing.to_inside(ip.dst) {
            Some(to) => {
                decrement_ttl(walk, &packet);
                self.deliver(shared, walk, packet, to, ip.dst)
            }
            None => self.out(shared, walk, &mut packet, ip),
        }
    }

    /// A packet from inside to somewhere outside.
    #[inline]
    fn out(&mut self, shared: &Shared, walk: &mut Walk<'_>, packet: &mut Packet, ip: Ip) -> Result<(), DropReason> {
        let routing = &shared.routing;
        let unreachable_network = IcmpError::unreachable(unreachable::NETWORK);
        let (Some(nat), Some(uplink)) = (shared.nat.as_deref(), routing.uplink()) else {
            return self.report(shared, walk, *packet, unreachable_network, DropReason::NoRoute);
        };
        if nat.is_external(ip.dst) {
            return self.hairpin(shared, walk, packet, ip, nat, uplink);
        }
        let Some(hop) = uplink.next_hop(ip.dst) else {
            return self.report(shared, walk, *packet, unreachable_network, DropReason::NoRoute);
        };
        walk.note(|| Step::RouteOutside { dst: ip.dst, hop });
        if let Err(error) = fit(walk.rx, &mut packet.frame, uplink.mtu, ip.dont_fragment) {
            return self.report(shared, walk, *packet, error, DropReason::FragmentationNeeded);
        }
        walk.note_cut(&packet.frame);
        clamp(walk, packet, routing);
        if let Err(refused) = self.translate(walk, packet, nat, Side::Inside) {
            return self.refuse(shared, walk, *packet, refused);
        }
        decrement_ttl(walk, packet);
        self.hand_to(shared, walk, *packet, uplink, hop)
    }

    /// A packet from inside to an outside address of our own.
    #[cold]
    fn hairpin(
        &mut self,
        shared: &Shared,
        walk: &mut Walk<'_>,
        packet: &mut Packet,
        ip: Ip,
        nat: &Nat,
        uplink: &Uplink,
    ) -> Result<(), DropReason> {
        if self.is_echo_request(walk, packet) && !nat.is_one_to_one(ip.dst) {
            return self.echo(shared, walk, *packet);
        }
        walk.note(|| Step::Hairpin(ip.dst));
        if !routes_back(uplink, ip.dst) {
            return Err(DropReason::NoRoute);
        }
        clamp(walk, packet, &shared.routing);
        if let Err(refused) = self.translate(walk, packet, nat, Side::Inside) {
            return self.refuse(shared, walk, *packet, refused);
        }
        let dst = self.translate(walk, packet, nat, Side::Outside).map_err(DropReason::from)?;
        decrement_ttl(walk, packet);
        let to = shared.routing.to_inside(dst).ok_or(DropReason::NoRoute)?;
        self.deliver(shared, walk, *packet, to, dst)
    }

    /// A frame that came in through the uplink.
    #[inline]
    pub(crate) fn route_in(&mut self, shared: &Shared, walk: &mut Walk<'_>, at: usize, frame: Frame) -> Result<(), DropReason> {
        let routing = &shared.routing;
        let uplink = routing.uplink().ok_or(DropReason::NotForUs)?;
        if frame.headers.ether_type == EtherType::ARP {
            return self.arp_outside(shared, walk, frame, uplink);
        }
        let nat = shared.nat.as_deref().ok_or(DropReason::NotForUs)?;
        if frame.headers.dst != uplink.mac || frame.headers.ether_type != EtherType::IPV4 {
            return Err(DropReason::NotForUs);
        }
        let mut packet = untag(walk, at, frame)?;
        let ip = sound(walk, &packet)?;
        if !nat.is_external(ip.dst) {
            return Err(DropReason::NotForUs);
        }
        if !is_one_host(ip.src) || nat.is_external(ip.src) || routing.to_inside(ip.src).is_some() {
            return Err(DropReason::MartianSource);
        }
        let dst = match self.translate(walk, &mut packet, nat, Side::Outside) {
            Ok(dst) => dst,
            Err(Refused::NoMapping | Refused::IcmpIgnored)
                if uplink.own.contains(&ip.dst) && self.is_echo_request(walk, &packet) =>
            {
                return self.echo(shared, walk, packet);
            }
            Err(Refused::FragmentEarly) => return self.keep_fragment(walk, packet, nat, None),
            Err(refused) => return Err(DropReason::from(refused)),
        };
        if ip.ttl <= 1 {
            return self.report(shared, walk, packet, IcmpError::TIME_EXCEEDED, DropReason::TtlExceeded);
        }
        clamp(walk, &packet, routing);
        decrement_ttl(walk, &packet);
        let to = routing.to_inside(dst).ok_or(DropReason::NoRoute)?;
        self.deliver(shared, walk, packet, to, dst)
    }

    /// Translates in place; where the packet goes now.
    #[inline]
    pub(crate) fn translate(
        &mut self,
        walk: &mut Walk<'_>,
        packet: &mut Packet,
        nat: &Nat,
        side: Side,
    ) -> Result<Ipv4Addr, Refused> {
        if walk.story.is_some() {
            return self.translate_aloud(walk, packet, nat, side);
        }
        let Frame { span, headers, offload, .. } = packet.frame;
        let bytes = &mut walk.rx.frame_mut(span)[usize::from(headers.l3)..headers.end as usize];
        if let Some(first) = self.told.take() {
            return Ok(first.translate(bytes));
        }
        let translated = nat.translate_by(Some(&mut self.flows), side, bytes, offload.checksum, walk.ingress.0, walk.now)?;
        if let Some(first) = translated.first
            && self.left.len() < MAX_LEFT
        {
            self.left.push(Left::Fragments(first));
        }
        Ok(translated.dst)
    }

    /// The same for a packet that is watched, or imagined.
    #[cold]
    fn translate_aloud(&mut self, walk: &mut Walk<'_>, packet: &mut Packet, nat: &Nat, side: Side) -> Result<Ipv4Addr, Refused> {
        if walk.is_rehearsal() {
            return rehearse(walk, packet, nat, side);
        }
        let Frame { span, headers, .. } = packet.frame;
        let l3 = usize::from(headers.l3)..headers.end as usize;
        let is_told = self.told.is_some();
        let manner = if is_told { Some(Manner::Fragment) } else { nat.manner(side, &walk.rx.frame(span)[l3.clone()], walk.now) };
        let story = walk.story.take();
        let translated = self.translate(walk, packet, nat, side);
        walk.story = story;
        translated?;
        let (src, dst) = nat::endpoints(&walk.rx.frame(span)[l3]);
        walk.note(|| Step::Translated { side, manner, src, dst });
        Ok(dst.address)
    }

    /// A guest is told where an error exists for it.
    #[cold]
    fn refuse(&mut self, shared: &Shared, walk: &mut Walk<'_>, packet: Packet, refused: Refused) -> Result<(), DropReason> {
        match refused {
            Refused::FragmentEarly => {
                let Some(nat) = shared.nat.as_deref() else { return Err(DropReason::from(refused)) };
                let from = view(walk, &packet).and_then(|ip| shared.routing.to_inside(ip.src()));
                self.keep_fragment(walk, packet, nat, from)
            }
            // RFC 5508 REQ-8; RFC 6888 REQ-11 would have code 1.
            Refused::NotShared
            | Refused::TableFull
            | Refused::PortShare
            | Refused::GuestShare
            | Refused::PortsExhausted
            | Refused::Clash => {
                self.report(shared, walk, packet, IcmpError::unreachable(unreachable::PROHIBITED), DropReason::from(refused))
            }
            Refused::NoAddress => {
                self.report(shared, walk, packet, IcmpError::unreachable(unreachable::NETWORK), DropReason::from(refused))
            }
            _ => Err(DropReason::from(refused)),
        }
    }

    /// Keeps a fragment that came before its datagram's first.
    #[cold]
    fn keep_fragment(
        &mut self,
        walk: &mut Walk<'_>,
        packet: Packet,
        nat: &Nat,
        from: Option<InterfaceId>,
    ) -> Result<(), DropReason> {
        let side = if from.is_some() { Side::Inside } else { Side::Outside };
        let Frame { span, headers, .. } = packet.frame;
        let bytes = &walk.rx.frame(span)[usize::from(headers.l3)..headers.end as usize];
        let frame = &walk.rx.arena()[span.range_with_vnet()];
        let held = Held { port: walk.ingress, from };
        let (owner, now) = (walk.ingress.0, walk.now);
        let is_kept = if walk.is_rehearsal() {
            nat.would_hold(frame.len(), owner, now)
        } else {
            nat.hold(side, bytes, frame, held.to_tag(), owner, now)
        };
        if !is_kept {
            return Err(DropReason::FragmentRefused);
        }
        walk.note(|| Step::FragmentKept);
        walk.counters.taken.add(1);
        Ok(())
    }

    /// A neighbour's MAC address. What was looked up in this second is remembered, until any neighbour
    /// changes.
    #[inline]
    fn mac_of(&mut self, shared: &Shared, walk: &mut Walk<'_>, id: InterfaceId, address: Ipv4Addr) -> Option<MacAddr> {
        if walk.story.is_some() {
            return mac_of_aloud(shared, walk, id, address);
        }
        let now = walk.now;
        let hop = &mut self.hops[address.to_bits() as usize % HOPS];
        let (secs, version) = (now.secs(), shared.neighbours.version());
        if hop.address == Some((id, address)) && hop.secs == secs && hop.version == version {
            return Some(hop.mac);
        }
        let mac = shared.neighbours.lookup(id, address, now)?;
        *hop = Hop { address: Some((id, address)), mac, secs, version };
        Some(mac)
    }

    /// To a guest: its MAC address, its port, and whether it fits there.
    #[inline]
    pub(crate) fn deliver(
        &mut self,
        shared: &Shared,
        walk: &mut Walk<'_>,
        mut packet: Packet,
        to: InterfaceId,
        dst: Ipv4Addr,
    ) -> Result<(), DropReason> {
        let routing = &shared.routing;
        let interface = routing.interface(to).ok_or(DropReason::NoRoute)?;
        walk.note(|| Step::RouteInside { dst, vlan: interface.domain.vlan });
        if !interface.network.is_host(dst) {
            return Err(DropReason::MartianDestination);
        }
        let Some(mac) = self.mac_of(shared, walk, to, dst) else { return self.wait(shared, walk, packet, to, dst) };
        set_addresses(walk, &mut packet, mac, interface.mac);
        let domain = interface.domain;
        let table = walk.bridges.table(domain.bridge).ok_or(DropReason::PortGone)?;
        let out = walk.choose(table, domain, mac, NOWHERE);
        let Forward::Port(port) = out else { return walk.flood(domain, packet.frame, None) };
        let link = walk.bridges.port_of(domain.bridge, port).ok_or(DropReason::PortGone)?;
        let action = link.vlan.leave(domain.vlan, &packet.frame.headers).ok_or(DropReason::VlanNotCarried)?;
        let mtu = link.room(&packet.frame.headers, action);
        let Some(view) = view(walk, &packet) else { return Err(DropReason::BadIpHeader) };
        let dont_fragment = view.dont_fragment();
        if let Err(error) = fit(walk.rx, &mut packet.frame, mtu, dont_fragment) {
            return self.report(shared, walk, packet, error, DropReason::FragmentationNeeded);
        }
        walk.note_cut(&packet.frame);
        walk.queue(port, domain, packet.frame)
    }

    /// To a neighbour outside.
    #[inline]
    pub(crate) fn hand_to(
        &mut self,
        shared: &Shared,
        walk: &mut Walk<'_>,
        mut packet: Packet,
        uplink: &Uplink,
        hop: Ipv4Addr,
    ) -> Result<(), DropReason> {
        let Some(mac) = self.mac_of(shared, walk, UPLINK, hop) else { return self.wait(shared, walk, packet, UPLINK, hop) };
        set_addresses(walk, &mut packet, mac, uplink.mac);
        walk.push(uplink.port, packet.frame, TagAction::Keep);
        Ok(())
    }

    /// A packet that waited may have to be cut still; whether it may be was asked before.
    pub(crate) fn fit_outside(&self, walk: &mut Walk<'_>, packet: &mut Packet, uplink: &Uplink) -> Result<(), DropReason> {
        let dont_fragment = view(walk, packet).is_none_or(Ipv4View::dont_fragment);
        fit(walk.rx, &mut packet.frame, uplink.mtu, dont_fragment).map_err(|_| DropReason::FragmentationNeeded)
    }

    #[inline]
    pub(crate) fn is_echo_request(&self, walk: &Walk<'_>, packet: &Packet) -> bool {
        view(walk, packet).is_some_and(|ip| {
            ip.protocol() == packet::icmpv4::PROTOCOL
                && !ip.is_fragment()
                && ip.payload().first() == Some(&packet::icmpv4::kind::ECHO_REQUEST)
        })
    }
}

/// Translates an imagined packet in place. Of the connection that it would open only its story knows, so that says what
/// an error about it becomes.
#[cold]
fn rehearse(walk: &mut Walk<'_>, packet: &Packet, nat: &Nat, side: Side) -> Result<Ipv4Addr, Refused> {
    let Frame { span, headers, offload, .. } = packet.frame;
    let (owner, now) = (walk.ingress.0, walk.now);
    let bytes = &mut walk.rx.frame_mut(span)[usize::from(headers.l3)..headers.end as usize];
    let (src, dst) = nat::endpoints(bytes);
    let rehearsed = nat.rehearse(side, bytes, offload.checksum, owner, now);
    let mut undone = || walk.story.as_mut().and_then(|story| story.pop_addressed(side));
    let manner = match rehearsed {
        Ok(Rehearsed { manner: Manner::Error, .. }) => {
            undone();
            Manner::Error
        }
        Err(Refused::IcmpUnrelated) => {
            let original = undone().ok_or(Refused::IcmpUnrelated)?;
            let mut ip = Ipv4Mut::new(bytes).ok_or(Refused::IcmpUnrelated)?;
            match side {
                Side::Inside => ip.set_src(original.dst),
                Side::Outside => ip.set_dst(original.src),
            };
            Manner::Error
        }
        Ok(Rehearsed { manner, .. }) => {
            if let Some(story) = &mut walk.story {
                story.push_addressed(Addressed { side, src: src.address, dst: dst.address });
            }
            manner
        }
        Err(refused) => return Err(refused),
    };
    let (src, dst) = nat::endpoints(&walk.rx.frame(span)[usize::from(headers.l3)..headers.end as usize]);
    walk.note(|| Step::Translated { side, manner: Some(manner), src, dst });
    Ok(dst.address)
}

/// A neighbour's MAC address, for a packet that is watched or imagined.
#[cold]
fn mac_of_aloud(shared: &Shared, walk: &mut Walk<'_>, id: InterfaceId, address: Ipv4Addr) -> Option<MacAddr> {
    let neighbours = &shared.neighbours;
    let mac = if walk.is_rehearsal() { neighbours.peek(id, address) } else { neighbours.lookup(id, address, walk.now) };
    let mac = mac?;
    walk.note(|| Step::Neighbour { address, mac });
    Some(mac)
}

/// No port at all: a packet that the router sends came from none.
pub(crate) const NOWHERE: crate::port::PortId = crate::port::PortId(u16::MAX);

/// Could the packet come back in, had it gone out?
fn routes_back(uplink: &Uplink, to: Ipv4Addr) -> bool {
    uplink.own.contains(&to) || uplink.address == to || uplink.next_hop(to).is_some()
}

/// Neither everybody nor nobody nor this host (RFC 1122 section 3.2.1.3, RFC 1812 section 5.3.7).
#[inline]
fn is_one_host(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    (1..224).contains(&first) && first != 127
}

/// The packet's IPv4 header, which was found sound.
#[inline]
pub(crate) fn view<'a>(walk: &'a Walk<'_>, packet: &Packet) -> Option<Ipv4View<'a>> {
    let Frame { span, headers, .. } = packet.frame;
    Ipv4View::new(&walk.rx.frame(span)[usize::from(headers.l3)..headers.end as usize])
}

/// Takes the VLAN tag off a frame that is to be routed, and what pads it. Only one tag: what stands
/// deeper belongs to somebody else's network.
#[inline]
fn untag(walk: &mut Walk<'_>, at: usize, frame: Frame) -> Result<Packet, DropReason> {
    let mut packet = Packet { at, frame };
    let headers = &mut packet.frame.headers;
    if headers.end as usize != frame.span.len() {
        packet.frame.span = walk.rx.set_len(at, headers.end as usize).ok_or(DropReason::BadIpHeader)?;
    }
    match usize::from(headers.l3) {
        ETHERNET => {}
        tagged if tagged == ETHERNET + TAG_LEN => {
            walk.rx.frame_mut(frame.span).copy_within(..packet::ethernet::ADDRESSES_LEN, TAG_LEN);
            packet.frame.span = walk.rx.move_start(at, TAG_LEN as isize).ok_or(DropReason::NotRouted)?;
            *headers = without_tag(*headers);
            walk.rx.set_vnet(packet.frame.span, frame.offload.to_vnet(headers, 0));
        }
        _ => return Err(DropReason::NotRouted),
    }
    Ok(packet)
}

fn without_tag(headers: Headers) -> Headers {
    let tag = TAG_LEN as u16;
    Headers {
        tag: None,
        l3: headers.l3 - tag,
        l4: headers.l4 - tag,
        payload: headers.payload - tag,
        end: headers.end - u32::from(tag),
        ..headers
    }
}

/// Is it IPv4 that a router may pass on (RFC 1812 section 5.2.2)?
#[inline]
fn sound(walk: &Walk<'_>, packet: &Packet) -> Result<Ip, DropReason> {
    match (packet.frame.headers.ether_type, packet.frame.headers.network) {
        (EtherType::IPV4, Network::Ipv4) => {}
        (EtherType::IPV4, _) => return Err(DropReason::BadIpHeader),
        _ => return Err(DropReason::NotRouted),
    }
    let Some(ip) = view(walk, packet).filter(|ip| ip.has_valid_checksum()) else { return Err(DropReason::BadIpHeader) };
    match ip.options() {
        Ipv4Options::None | Ipv4Options::Harmless => {}
        _ => return Err(DropReason::IpOptions),
    }
    Ok(Ip { src: ip.src(), dst: ip.dst(), ttl: ip.ttl(), dont_fragment: ip.dont_fragment() })
}

#[inline]
fn decrement_ttl(walk: &mut Walk<'_>, packet: &Packet) {
    let Frame { span, headers, .. } = packet.frame;
    let bytes = &mut walk.rx.frame_mut(span)[usize::from(headers.l3)..headers.end as usize];
    // One that must not go further was reported before.
    let _ = Ipv4Mut::new(bytes).is_some_and(|mut ip| ip.decrement_ttl());
}

/// Lowers the segment size that a SYN asks for to what fits through the uplink.
#[inline]
fn clamp(walk: &mut Walk<'_>, packet: &Packet, routing: &Routing) {
    let Frame { span, headers, offload, .. } = packet.frame;
    if headers.transport == Transport::Tcp
        && let Some(most) = routing.max_segment_size()
    {
        let segment = &mut walk.rx.frame_mut(span)[usize::from(headers.l4)..headers.end as usize];
        tcp::clamp_mss(segment, most, offload.checksum);
    }
}

#[inline]
pub(crate) fn set_addresses(walk: &mut Walk<'_>, packet: &mut Packet, dst: MacAddr, src: MacAddr) {
    let bytes = walk.rx.frame_mut(packet.frame.span);
    bytes[..6].copy_from_slice(&dst.0);
    bytes[6..12].copy_from_slice(&src.0);
    packet.frame.headers.dst = dst;
    packet.frame.headers.src = src;
}
