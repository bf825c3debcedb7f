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

use packet::icmpv4::{IcmpError, unreachable};
use packet::ipv4::Ipv4View;
use packet::vlan::TagAction;

use crate::drop_reason::DropReason;
use crate::egress::Frame;
use crate::fit::fit;
use crate::icmp_error::write_error;
use crate::routed::v4::{Ip, decrement_ttl, sound, view};
use crate::tunnels::ip_routes::IpTunnel;
use crate::walk::Walk;
use crate::watched::step::Step;

/// Sends a packet of the host, parsed and judged, into the tunnel.
#[inline]
pub(crate) fn send(tunnel: &IpTunnel, walk: &mut Walk<'_>, frame: &mut Frame) -> Result<(), DropReason> {
    let ip = admit(walk, frame)?;
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
    walk.push(id, TagAction::Keep, frame);
    Ok(())
}

/// Receives a packet from another host.
#[inline]
pub(crate) fn receive(tunnel: &IpTunnel, walk: &mut Walk<'_>, frame: &mut Frame) -> Result<(), DropReason> {
    let ip = admit(walk, frame)?;
    if tunnel.route(ip.src) != Some(walk.ingress) {
        return Err(DropReason::MartianSource);
    }
    if ip.ttl <= 1 {
        return Err(DropReason::TtlExceeded);
    }
    let device = walk.bridges.port(tunnel.tun).ok_or(DropReason::PortGone)?;
    fit(walk.rx, frame, device.mtu, ip.dont_fragment).map_err(|_| DropReason::TooLong)?;
    decrement_ttl(walk, frame);
    walk.push(tunnel.tun, TagAction::Keep, frame);
    Ok(())
}

/// Checks that a packet is IPv4 that may be forwarded, and removes bytes behind it.
#[inline]
fn admit(walk: &mut Walk<'_>, frame: &mut Frame) -> Result<Ip, DropReason> {
    frame.span = walk.rx.set_len(walk.at, frame.headers.end as usize).ok_or(DropReason::BadIpHeader)?;
    sound(walk, frame)
}

/// Turns the packet into the ICMP error about itself and returns it to the host. Returns `reason`.
#[cold]
fn tell(tunnel: &IpTunnel, walk: &mut Walk<'_>, frame: &mut Frame, error: IcmpError, reason: DropReason) -> DropReason {
    let from = view(walk, frame).map(Ipv4View::dst);
    if from.and_then(|from| write_error(walk, frame, error, from)).is_some() {
        walk.counters.made.add(1);
        walk.push(tunnel.tun, TagAction::Keep, frame);
    }
    reason
}
