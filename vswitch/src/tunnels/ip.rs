//! IP packets in UDP, without Ethernet: a TUN device of the host, and routes to other hosts.
//!
//! ```text
//!  host's routes --> TUN --> which host? > TTL > fits? --> UDP to that host
//!  host's routes <-- TUN <-- TTL <- is its sender there? <-- UDP from that host
//! ```
//!
//! This interoperates with flannel's udp backend (port 8285): IPv4 only, no header before the packet, and each end
//! decrements the time to live. It bypasses the bridge and has no MAC addresses; the host's own routes lead into it.
//!
//! A packet from another host is accepted only if its source address is routed to that host. The source of an ICMP error
//! about a packet is the packet's destination: a packet that comes out of a TUN device with the device's own address
//! would look forged to the host.

use std::net::Ipv4Addr;

use packet::icmpv4::{ERROR_HEADERS_LEN, IcmpError, MAX_ERROR_LEN, unreachable};
use packet::vlan::TagAction;
use packet::{Headers, Network, VnetHeader};

use crate::drop_reason::DropReason;
use crate::egress::Frame;
use crate::fit::fit;
use crate::intake::admit_packet;
use crate::tunnels::ip_routes::IpTunnel;
use crate::walk::Walk;
use crate::watched::step::Step;

/// Sends a packet of the host into the tunnel.
#[inline]
pub(crate) fn send(tunnel: &IpTunnel, walk: &mut Walk<'_>, frame: &mut Frame) -> Result<(), DropReason> {
    admit_packet(walk, frame)?;
    let ip = sound(walk, frame)?;
    let Some(id) = tunnel.route(ip.dst) else {
        return Err(tell(tunnel, walk, frame, IcmpError::unreachable(unreachable::NETWORK), DropReason::NoRoute));
    };
    walk.note(|| Step::RouteTunnel { dst: ip.dst, port: id });
    if ip.ttl <= 1 {
        return Err(tell(tunnel, walk, frame, IcmpError::TIME_EXCEEDED, DropReason::TtlExceeded));
    }
    let mtu = walk.bridges.port(id).ok_or(DropReason::PortGone)?.mtu;
    if let Err(error) = fit(walk.rx, frame, mtu, ip.dont_fragment) {
        return Err(tell(tunnel, walk, frame, error, DropReason::FragmentationNeeded));
    }
    walk.note_cut(frame);
    decrement_ttl(walk, frame);
    walk.push(id, TagAction::Keep);
    Ok(())
}

/// Receives a packet from another host.
#[inline]
pub(crate) fn receive(tunnel: &IpTunnel, walk: &mut Walk<'_>, frame: &mut Frame) -> Result<(), DropReason> {
    let ip = sound(walk, frame)?;
    if tunnel.route(ip.src) != Some(walk.ingress) {
        return Err(DropReason::MartianSource);
    }
    if ip.ttl <= 1 {
        return Err(DropReason::TtlExceeded);
    }
    let device = walk.bridges.port(tunnel.tun).ok_or(DropReason::PortGone)?;
    fit(walk.rx, frame, device.mtu, ip.dont_fragment).map_err(|_| DropReason::TooLong)?;
    decrement_ttl(walk, frame);
    walk.push(tunnel.tun, TagAction::Keep);
    Ok(())
}

/// The fields of a packet that are checked.
struct Ip {
    src: Ipv4Addr,
    dst: Ipv4Addr,
    ttl: u8,
    dont_fragment: bool,
}

/// Checks that a packet is IPv4 that may be forwarded, and removes bytes behind it.
#[inline]
fn sound(walk: &mut Walk<'_>, frame: &mut Frame) -> Result<Ip, DropReason> {
    if frame.headers.network != Network::Ipv4 {
        return Err(DropReason::NotRouted);
    }
    frame.span = walk.rx.set_len(walk.at, frame.headers.end as usize).ok_or(DropReason::BadIpHeader)?;
    let view =
        frame.headers.ipv4(walk.rx.frame(frame.span)).filter(|ip| ip.has_valid_checksum()).ok_or(DropReason::BadIpHeader)?;
    Ok(Ip { src: view.src(), dst: view.dst(), ttl: view.ttl(), dont_fragment: view.dont_fragment() })
}

#[inline]
fn decrement_ttl(walk: &mut Walk<'_>, frame: &Frame) {
    // A packet whose TTL runs out was reported before.
    let _ = frame.headers.ipv4_mut(walk.rx.frame_mut(frame.span)).is_some_and(|mut ip| ip.decrement_ttl());
}

/// Turns the packet into the ICMP error about itself and returns it to the host. Returns `reason`.
#[cold]
fn tell(tunnel: &IpTunnel, walk: &mut Walk<'_>, frame: &mut Frame, error: IcmpError, reason: DropReason) -> DropReason {
    if answer(walk, frame, error).is_some() {
        walk.counters.made.add(1);
        walk.push(tunnel.tun, TagAction::Keep);
    }
    reason
}

fn answer(walk: &mut Walk<'_>, frame: &mut Frame, error: IcmpError) -> Option<()> {
    let about = frame.headers.ipv4(walk.rx.frame(frame.span))?;
    let (to, from) = (about.src(), about.dst());
    let is_forbidden = IcmpError::is_forbidden_about(about);
    if !walk.may_tell(is_forbidden, to.into(), Some(error)) {
        return None;
    }
    let quote = frame.span.len().min(MAX_ERROR_LEN - ERROR_HEADERS_LEN);
    walk.rx.set_len(walk.at, quote)?;
    let span = walk.rx.move_start(walk.at, -(ERROR_HEADERS_LEN as isize))?;
    let id = walk.errors.next_id();
    let bytes = walk.rx.frame_mut(span);
    if !error.write_headers(bytes, from, to, id) {
        return None;
    }
    frame.begin(span);
    frame.headers = Headers::of_packet(bytes);
    walk.rx.set_vnet(span, VnetHeader::default());
    Some(())
}
