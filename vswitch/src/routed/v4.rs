//! A packet that is routed: its IPv4 header, and the changes that routing makes to it in the bytes of its frame.

use std::net::Ipv4Addr;

use packet::ethernet::{ADDRESSES_LEN, ETHERNET_LEN, EtherType};
use packet::icmpv4;
use packet::ipv4::{IPV4_LEN, Ipv4Mut, Ipv4Options, Ipv4View};
use packet::ipv4_options::Mark;
use packet::vlan::TAG_LEN;
use packet::{Headers, MacAddr, Network};

use super::neighbour::InterfaceId;
use super::routing::Routing;
use crate::drop_reason::DropReason;
use crate::egress::Frame;
use crate::walk::Walk;

/// The fields of an IPv4 header that routing decides by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ip {
    pub(crate) src: Ipv4Addr,
    pub(crate) dst: Ipv4Addr,
    pub(crate) ttl: u8,
    pub(crate) dont_fragment: bool,
    /// Whether it has options in which the router may have to leave its mark.
    pub(crate) has_options: bool,
}

/// Removes the VLAN tag and the padding of a frame that is to be routed. A frame with a second tag is not routed: it
/// belongs to another network.
#[inline(always)]
pub(crate) fn untag(walk: &mut Walk<'_>, frame: &mut Frame) -> Result<(), DropReason> {
    let headers = &mut frame.headers;
    if headers.end as usize != frame.span.len() {
        frame.span = walk.rx.set_len(walk.at, headers.end as usize).ok_or(DropReason::BadIpHeader)?;
    }
    match usize::from(headers.l3) {
        ETHERNET_LEN => {}
        tagged if tagged == ETHERNET_LEN + TAG_LEN => {
            walk.rx.frame_mut(frame.span).copy_within(..ADDRESSES_LEN, TAG_LEN);
            frame.span = walk.rx.move_start(walk.at, TAG_LEN as isize).ok_or(DropReason::NotRouted)?;
            *headers = without_tag(*headers);
            walk.rx.set_vnet(frame.span, frame.offload.to_vnet(headers, 0));
        }
        _ => return Err(DropReason::NotRouted),
    }
    Ok(())
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

/// Checks that the packet is IPv4 that a router may forward (RFC 1812 section 5.2.2).
#[inline(always)]
pub(crate) fn sound(walk: &Walk<'_>, frame: &Frame) -> Result<Ip, DropReason> {
    match (frame.headers.ether_type, frame.headers.network) {
        (EtherType::IPV4, Network::Ipv4) => {}
        (EtherType::IPV4, _) => return Err(DropReason::BadIpHeader),
        _ => return Err(DropReason::NotRouted),
    }
    let Some(ip) = view(walk, frame) else { return Err(DropReason::BadIpHeader) };
    if !ip.has_valid_checksum() {
        return Err(DropReason::BadIpHeader);
    }
    let has_options = ip.header_len() > IPV4_LEN && has_options(ip)?;
    Ok(Ip { src: ip.src(), dst: ip.dst(), ttl: ip.ttl(), dont_fragment: ip.dont_fragment(), has_options })
}

/// Whether the options of a header that may have some are such that a router may have to leave its mark in them.
#[cold]
fn has_options(ip: Ipv4View<'_>) -> Result<bool, DropReason> {
    match ip.options() {
        Ipv4Options::None => Ok(false),
        Ipv4Options::Harmless => Ok(true),
        Ipv4Options::SourceRouted | Ipv4Options::Malformed => Err(DropReason::IpOptions),
    }
}

/// The packet's IPv4 header, which parsing has validated.
#[inline(always)]
pub(crate) fn view<'a>(walk: &'a Walk<'_>, frame: &Frame) -> Option<Ipv4View<'a>> {
    frame.headers.ipv4(walk.rx.frame(frame.span))
}

/// The packet's IPv4 header, to be changed in place.
#[inline(always)]
pub(crate) fn view_mut<'a>(walk: &'a mut Walk<'_>, frame: &Frame) -> Option<Ipv4Mut<'a>> {
    frame.headers.ipv4_mut(walk.rx.frame_mut(frame.span))
}

#[inline]
pub(crate) fn is_echo_request(walk: &Walk<'_>, frame: &Frame) -> bool {
    view(walk, frame).is_some_and(|ip| {
        ip.protocol() == icmpv4::PROTOCOL && !ip.is_fragment() && ip.payload().first() == Some(&icmpv4::kind::ECHO_REQUEST)
    })
}

#[cold]
pub(crate) fn is_icmp_error(walk: &Walk<'_>, frame: &Frame) -> bool {
    view(walk, frame).is_some_and(|ip| {
        ip.protocol() == icmpv4::PROTOCOL && !ip.is_fragment() && ip.payload().first().is_some_and(|kind| icmpv4::is_error(*kind))
    })
}

/// Whether this is a unicast address that a host can have (RFC 1122 section 3.2.1.3, RFC 1812 section 5.3.7).
#[inline(always)]
pub(crate) fn is_one_host(address: Ipv4Addr) -> bool {
    let first = address.octets()[0];
    (1..224).contains(&first) && first != 127
}

/// Leaves the router's mark in the packet's options (RFC 1812 section 4.2.2.2). `address` is the router's on the link that the
/// packet leaves by. The time counts from the start of the switch, which the highest bit says (RFC 791 section 3.1).
#[cold]
pub(crate) fn mark(walk: &mut Walk<'_>, frame: &Frame, routing: &Routing, address: Ipv4Addr) -> Result<(), DropReason> {
    let mark = Mark { address, time: walk.now.as_millis() as u32 | 1 << 31 };
    let mut ip = view_mut(walk, frame).ok_or(DropReason::BadIpHeader)?;
    ip.mark(mark, |named| named == address || routing.is_own(named)).map_err(|_| DropReason::IpOptions)
}

/// The same for a packet that leaves to a network inside.
#[cold]
pub(crate) fn mark_inside(walk: &mut Walk<'_>, frame: &Frame, routing: &Routing, to: InterfaceId) -> Result<(), DropReason> {
    let interface = routing.interface(to).ok_or(DropReason::NoRoute)?;
    mark(walk, frame, routing, interface.address)
}

#[inline(always)]
pub(crate) fn decrement_ttl(walk: &mut Walk<'_>, frame: &Frame) {
    // A packet whose TTL runs out was reported before.
    if let Some(mut ip) = view_mut(walk, frame) {
        let _ = ip.decrement_ttl();
    }
}

#[inline(always)]
pub(crate) fn set_addresses(walk: &mut Walk<'_>, frame: &mut Frame, dst: MacAddr, src: MacAddr) {
    let addresses = &mut walk.rx.frame_mut(frame.span)[..ADDRESSES_LEN];
    addresses[..6].copy_from_slice(&dst.0);
    addresses[6..].copy_from_slice(&src.0);
    frame.headers.dst = dst;
    frame.headers.src = src;
    // Translated, or an answer: captures look at it again.
    frame.is_unwatched = false;
}
