//! Packets from guests: to another network inside, to the outside, or to a guest by its outside address.

use std::net::Ipv4Addr;

use nat::{Nat, Refused, Side};
use packet::MacAddr;
use packet::icmpv4::{IcmpError, unreachable};

use super::error::Stop;
use super::neighbour::InterfaceId;
use super::places::Place;
use super::routing::{HostPort, Reach};
use super::translate::{Ttl, clamp};
use super::v4::{Ip, decrement_ttl, is_echo_request, is_one_host, mark, mark_inside, sound, untag, view};
use super::{RouterTables, RouterWorker};
use crate::drop_reason::DropReason;
use crate::egress::Frame;
use crate::fit::fit;
use crate::walk::Walk;
use crate::watched::step::Step;

impl RouterWorker {
    /// Routes a frame to the gateway's MAC address on network `from`.
    #[inline]
    pub(crate) fn route_out(
        &mut self,
        tables: &RouterTables,
        walk: &mut Walk<'_>,
        frame: &mut Frame,
        from: InterfaceId,
    ) -> Result<(), DropReason> {
        untag(walk, frame)?;
        let outcome = self.leave_network(tables, walk, frame, from);
        outcome.map_err(|stop| self.stop(tables, walk, frame, stop))
    }

    #[inline(always)]
    fn leave_network(
        &mut self,
        tables: &RouterTables,
        walk: &mut Walk<'_>,
        frame: &mut Frame,
        from: InterfaceId,
    ) -> Result<(), Stop> {
        let ip = sound(walk, frame)?;
        let routing = &tables.routing;
        let interface = routing.interface(from).ok_or(DropReason::NoRoute)?;
        walk.note(|| Step::ForGateway(interface.address));
        let mut is_translated = true;
        if !interface.network.is_host(ip.src) || ip.src == interface.address {
            is_translated = self.check_behind(tables, walk, from, ip.src, frame.headers.src)?;
        } else {
            self.compare(tables, walk, from, ip.src, frame.headers.src);
        }
        let not_allowed = Stop::Report(IcmpError::unreachable(unreachable::PROHIBITED), DropReason::NotAllowed);
        let place = routing.place(ip.dst);
        if let Place::Gateway(to) = place {
            // The gateways of other networks are as far away as their guests.
            if !routing.routes_between(interface, to) {
                return Err(not_allowed);
            }
            return Ok(self.for_gateway(tables, walk, frame, ip, [from, to])?);
        }
        if !is_one_host(ip.dst) {
            return Err(Stop::Drop(DropReason::MartianDestination));
        }
        if !routing.forwards([ip.src, ip.dst]) {
            return Err(Stop::Report(IcmpError::unreachable(unreachable::PROHIBITED), DropReason::LinkLocalAddress));
        }
        if ip.ttl <= 1 {
            return Err(Stop::Report(IcmpError::TIME_EXCEEDED, DropReason::TtlExceeded));
        }
        match place {
            Place::Inside(to) | Place::Gateway(to) => {
                if !routing.routes_between(interface, to) {
                    return Err(not_allowed);
                }
                if ip.has_options {
                    mark_inside(walk, frame, routing, to)?;
                }
                decrement_ttl(walk, frame);
                self.deliver(tables, walk, frame, to, ip.dst)
            }
            Place::Behind(to, number) => {
                if !routing.routes_between(interface, to) {
                    return Err(not_allowed);
                }
                self.enter_behind(tables, walk, frame, ip, (to, number))
            }
            Place::Route(_) | Place::Nowhere if interface.reach == Reach::Nothing => Err(not_allowed),
            Place::Route(_) | Place::Nowhere => self.leave_inside(tables, walk, frame, ip, (place, is_translated)),
        }
    }

    /// Checks that an address which is none of network `from` is behind a guest of it, to which it sends by the MAC address
    /// from. Returns whether its packets are translated on their way outside.
    #[cold]
    #[inline(never)]
    fn check_behind(
        &mut self,
        tables: &RouterTables,
        walk: &Walk<'_>,
        from: InterfaceId,
        src: Ipv4Addr,
        mac: MacAddr,
    ) -> Result<bool, DropReason> {
        let route = tables.routing.behind(src).filter(|route| route.interface == from).ok_or(DropReason::MartianSource)?;
        self.compare(tables, walk, from, route.via, mac);
        Ok(route.is_translated)
    }

    /// Routes a packet from inside to a network behind a guest of network `to`, by the route of this number.
    #[cold]
    #[inline(never)]
    fn enter_behind(
        &mut self,
        tables: &RouterTables,
        walk: &mut Walk<'_>,
        frame: &mut Frame,
        ip: Ip,
        (to, number): (InterfaceId, u16),
    ) -> Result<(), Stop> {
        let hop = tables.routing.guest_route(number).ok_or(DropReason::NoRoute)?.via;
        if ip.has_options {
            mark_inside(walk, frame, &tables.routing, to)?;
        }
        decrement_ttl(walk, frame);
        self.deliver_cold(tables, walk, frame, to, hop)
    }

    /// Routes a packet from inside to a place outside, translated or not.
    #[inline(always)]
    fn leave_inside(
        &mut self,
        tables: &RouterTables,
        walk: &mut Walk<'_>,
        frame: &mut Frame,
        ip: Ip,
        (place, is_translated): (Place, bool),
    ) -> Result<(), Stop> {
        let no_route = Stop::Report(IcmpError::unreachable(unreachable::NETWORK), DropReason::NoRoute);
        let (Some(nat), Some(uplink)) = (tables.nat.as_deref(), tables.routing.uplink()) else { return Err(no_route) };
        if nat.is_external(ip.dst) {
            return self.hairpin(tables, walk, frame, ip, nat);
        }
        let Some(route) = tables.routing.route_at(place) else { return Err(no_route) };
        let hop = route.hop(ip.dst);
        walk.note(|| Step::RouteOutside { dst: ip.dst, hop });
        fit(walk.rx, frame, route.mtu, ip.dont_fragment).map_err(|error| Stop::Report(error, DropReason::FragmentationNeeded))?;
        walk.note_cut(frame);
        clamp(walk, frame, || route.max_segment_size);
        if !is_translated {
            walk.note(|| Step::Untranslated(ip.src));
            decrement_ttl(walk, frame);
        } else if let Err(refused) = self.translate(walk, frame, nat, Side::Inside, Ttl::Decremented) {
            return self.refuse(tables, walk, frame, nat, refused);
        }
        if ip.has_options {
            mark(walk, frame, &tables.routing, uplink.address)?;
        }
        self.hand_to(tables, walk, frame, uplink, hop);
        Ok(())
    }

    /// Routes a packet from inside to an outside address of the router.
    #[cold]
    fn hairpin(&mut self, tables: &RouterTables, walk: &mut Walk<'_>, frame: &mut Frame, ip: Ip, nat: &Nat) -> Result<(), Stop> {
        if is_echo_request(walk, frame) && !nat.is_one_to_one(ip.dst) {
            return Ok(self.echo(tables, walk, frame)?);
        }
        if let Some(host) = for_host(tables, walk, frame, ip, nat) {
            return RouterWorker::hand_to_host(walk, frame, host, ip);
        }
        walk.note(|| Step::Hairpin(ip.dst));
        if !tables.routing.reaches(ip.dst) {
            return Err(Stop::Drop(DropReason::NoRoute));
        }
        clamp(walk, frame, || tables.routing.max_segment_size(ip.dst));
        if let Err(refused) = self.translate(walk, frame, nat, Side::Inside, Ttl::Kept) {
            return self.refuse(tables, walk, frame, nat, refused);
        }
        let dst = self.translate(walk, frame, nat, Side::Outside, Ttl::Decremented).map_err(DropReason::from)?;
        let (to, hop) = tables.routing.to_guest(dst).ok_or(DropReason::NoRoute)?;
        if !tables.routing.is_reached_from_outside(to) {
            return Err(Stop::Drop(DropReason::NotAllowed));
        }
        if ip.has_options {
            mark_inside(walk, frame, &tables.routing, to)?;
        }
        self.deliver_cold(tables, walk, frame, to, hop)
    }

    /// The consequence when the translation refuses a packet from inside: a silent drop, or an error to its sender.
    #[cold]
    fn refuse(
        &mut self,
        tables: &RouterTables,
        walk: &mut Walk<'_>,
        frame: &Frame,
        nat: &Nat,
        refused: Refused,
    ) -> Result<(), Stop> {
        let reason = DropReason::from(refused);
        match refused {
            Refused::FragmentEarly => {
                let from = view(walk, frame).and_then(|ip| tables.routing.to_inside(ip.src()));
                Ok(self.keep_fragment(walk, frame, nat, from)?)
            }
            // RFC 5508 REQ-8; RFC 6888 REQ-11 would have code 1.
            Refused::NotShared
            | Refused::TableFull
            | Refused::PortShare
            | Refused::GuestShare
            | Refused::PortsExhausted
            | Refused::Clash => Err(Stop::Report(IcmpError::unreachable(unreachable::PROHIBITED), reason)),
            Refused::NoAddress => Err(Stop::Report(IcmpError::unreachable(unreachable::NETWORK), reason)),
            _ => Err(Stop::Drop(reason)),
        }
    }
}

/// The host's port, if a packet from inside is for the address that is shared with the host, and there not for a guest.
#[cold]
fn for_host<'t>(tables: &'t RouterTables, walk: &Walk<'_>, frame: &Frame, ip: Ip, nat: &Nat) -> Option<&'t HostPort> {
    let routing = &tables.routing;
    let from = routing.interface(routing.to_inside(ip.src)?)?;
    // An address that has just gone is not the host's any more: its kernel would forward the packet.
    let host = routing.host_of(from).filter(|host| host.shared == Some(ip.dst) && host.is_own(ip.dst))?;
    (!nat.is_for_guest(view(walk, frame)?, walk.ingress.0, walk.now)).then_some(host)
}
