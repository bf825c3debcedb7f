//! The host as a neighbour of its guests: packets of the host's TUN device to guests, and of guests to the host.
//!
//! ```text
//!  the host's routes > TUN > from the host? > network with the host? > next hop > guest
//!  the host's sockets < TUN < for a gateway's address, or the one shared with the host < guest
//! ```
//!
//! Packets have no Ethernet header at the TUN device, and one inside. Source addresses are kept both ways and no hop is taken, since
//! the host and the router are one machine.
//!
//! *Who may send.* The host's kernel forwards what others send to it, if it is told to: its route for the guests' network leads here
//! for a neighbour's packet as well. So a packet is taken only if its source is an address of the host, which no packet has that the
//! host forwards: the kernel drops what comes to it from an own address.
//!
//! *An error* about a packet of the host comes from the address that the packet was for: the host would take one from an address of
//! its own for forged.

use packet::ethernet::{ADDRESSES_LEN, ETHERNET_LEN, EtherType};
use packet::icmpv4::IcmpError;
use packet::ipv4::Ipv4View;
use packet::vlan::TagAction;
use packet::{Headers, MacAddr};

use super::error::Stop;
use super::places::Place;
use super::routing::HostPort;
use super::v4::{Ip, is_one_host, sound, view};
use super::{RouterTables, RouterWorker};
use crate::drop_reason::DropReason;
use crate::egress::Frame;
use crate::fit::fit;
use crate::icmp_error::write_error;
use crate::intake::admit_packet;
use crate::walk::Walk;
use crate::watched::step::Step;

impl RouterWorker {
    /// Routes a packet that the host sent to a guest.
    #[inline]
    pub(crate) fn route_from_host(
        &mut self,
        tables: &RouterTables,
        walk: &mut Walk<'_>,
        frame: &mut Frame,
    ) -> Result<(), DropReason> {
        admit_packet(walk, frame)?;
        walk.note(|| Step::FromHost);
        frame.span = walk.rx.set_len(walk.at, frame.headers.end as usize).ok_or(DropReason::BadIpHeader)?;
        let ip = sound(walk, frame)?;
        let routing = &tables.routing;
        let host = routing.host().filter(|host| host.port == walk.ingress).ok_or(DropReason::PortGone)?;
        if !host.is_own(ip.src) {
            return Err(DropReason::NotFromHost);
        }
        if !is_one_host(ip.dst) {
            return Err(DropReason::MartianDestination);
        }
        let (to, hop) = match routing.place(ip.dst) {
            Place::Inside(to) => (to, ip.dst),
            Place::Behind(to, number) => (to, routing.guest_route(number).ok_or(DropReason::NoRoute)?.via),
            Place::Gateway(_) | Place::Route(_) | Place::Nowhere => return Err(DropReason::NoRoute),
        };
        if routing.interface(to).is_none_or(|interface| routing.host_of(interface).is_none()) {
            return Err(DropReason::NotAllowed);
        }
        put_ethernet(walk, frame)?;
        let outcome = self.deliver(tables, walk, frame, to, hop);
        outcome.map_err(|stop| self.stop(tables, walk, frame, stop))
    }

    /// Sends a packet of a guest to the host, which has its destination.
    #[inline]
    pub(crate) fn hand_to_host(walk: &mut Walk<'_>, frame: &mut Frame, host: &HostPort, ip: Ip) -> Result<(), Stop> {
        walk.note(|| Step::ToHost(ip.dst));
        let mtu = walk.bridges.port(host.port).ok_or(DropReason::PortGone)?.mtu;
        fit(walk.rx, frame, mtu, ip.dont_fragment).map_err(|error| Stop::Report(error, DropReason::FragmentationNeeded))?;
        walk.note_cut(frame);
        take_ethernet(walk, frame)?;
        walk.push(host.port, TagAction::Keep, frame);
        Ok(())
    }

    /// Sends the host an error about a packet of its own.
    #[cold]
    pub(crate) fn tell_host(walk: &mut Walk<'_>, frame: &mut Frame, error: IcmpError) {
        let port = walk.ingress;
        let Some(about) = view(walk, frame).map(Ipv4View::dst) else { return };
        if write_error(walk, frame, error, about).is_some() {
            walk.counters.made.add(1);
            match take_ethernet(walk, frame) {
                Ok(()) => walk.push(port, TagAction::Keep, frame),
                Err(reason) => walk.lose(reason, 1),
            }
        }
    }
}

/// Puts an Ethernet header before an IPv4 packet; its addresses are written with the next hop.
#[inline]
fn put_ethernet(walk: &mut Walk<'_>, frame: &mut Frame) -> Result<(), DropReason> {
    frame.span = walk.rx.move_start(walk.at, -(ETHERNET_LEN as isize)).ok_or(DropReason::NotRouted)?;
    walk.rx.frame_mut(frame.span)[ADDRESSES_LEN..ETHERNET_LEN].copy_from_slice(&EtherType::IPV4.0.to_be_bytes());
    move_headers(walk, frame, ETHERNET_LEN as i16);
    Ok(())
}

/// Takes the Ethernet header off.
#[inline]
fn take_ethernet(walk: &mut Walk<'_>, frame: &mut Frame) -> Result<(), DropReason> {
    let l3 = frame.headers.l3 as i16;
    frame.span = walk.rx.move_start(walk.at, l3 as isize).ok_or(DropReason::NotRouted)?;
    move_headers(walk, frame, -l3);
    Ok(())
}

/// The headers of a frame have moved by this number of bytes from its start.
#[inline]
fn move_headers(walk: &mut Walk<'_>, frame: &mut Frame, by: i16) {
    let headers = frame.headers;
    frame.headers = Headers {
        dst: MacAddr::default(),
        src: MacAddr::default(),
        tag: None,
        l3: headers.l3.wrapping_add_signed(by),
        l4: headers.l4.wrapping_add_signed(by),
        payload: headers.payload.wrapping_add_signed(by),
        end: headers.end.wrapping_add_signed(by.into()),
        ..headers
    };
    walk.rx.set_vnet(frame.span, frame.offload.to_vnet(&frame.headers, 0));
}
