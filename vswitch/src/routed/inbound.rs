//! Packets from outside, which are translated and sent to a guest.

use nat::{Nat, Refused, Side};
use packet::ethernet::EtherType;
use packet::icmpv4::IcmpError;
use packet::vlan::VlanId;

use super::error::Stop;
use super::guest_routes::GuestRoute;
use super::routing::Uplink;
use super::translate::{Ttl, clamp};
use super::v4::{decrement_ttl, is_echo_request, is_icmp_error, is_one_host, mark_inside, sound, untag};
use super::{RouterTables, RouterWorker};
use crate::drop_reason::DropReason;
use crate::egress::Frame;
use crate::walk::Walk;

impl RouterWorker {
    /// Routes a frame that came in through the uplink.
    #[inline]
    pub(crate) fn route_in(&mut self, tables: &RouterTables, walk: &mut Walk<'_>, frame: &mut Frame) -> Result<(), DropReason> {
        if frame.headers.tag.is_some() {
            return self.route_tagged_in(tables, walk, frame);
        }
        self.route_untagged_in(tables, walk, frame)
    }

    /// Takes off a tag that is there for its priority alone (VID 0). The uplink is in no other VLAN.
    #[cold]
    fn route_tagged_in(&mut self, tables: &RouterTables, walk: &mut Walk<'_>, frame: &mut Frame) -> Result<(), DropReason> {
        if frame.headers.tag.is_some_and(|tag| tag.vlan() != VlanId::NONE) {
            return Err(DropReason::VlanNotAllowed);
        }
        untag(walk, frame)?;
        self.route_untagged_in(tables, walk, frame)
    }

    #[inline(always)]
    fn route_untagged_in(&mut self, tables: &RouterTables, walk: &mut Walk<'_>, frame: &mut Frame) -> Result<(), DropReason> {
        let uplink = tables.routing.uplink().ok_or(DropReason::NotForUs)?;
        if frame.headers.ether_type == EtherType::ARP {
            return self.arp_outside(tables, walk, frame, uplink);
        }
        let nat = tables.nat.as_deref().ok_or(DropReason::NotForUs)?;
        if frame.headers.dst != uplink.mac || frame.headers.ether_type != EtherType::IPV4 {
            return Err(DropReason::NotForUs);
        }
        untag(walk, frame)?;
        let outcome = self.enter_inside(tables, walk, frame, nat, uplink);
        outcome.map_err(|stop| self.stop(tables, walk, frame, stop))
    }

    #[inline(always)]
    fn enter_inside(
        &mut self,
        tables: &RouterTables,
        walk: &mut Walk<'_>,
        frame: &mut Frame,
        nat: &Nat,
        uplink: &Uplink,
    ) -> Result<(), Stop> {
        let routing = &tables.routing;
        let ip = sound(walk, frame)?;
        if !nat.is_external(ip.dst) {
            return self.enter_untranslated(tables, walk, frame);
        }
        if !is_one_host(ip.src) || nat.is_external(ip.src) || routing.to_inside(ip.src).is_some() {
            return Err(Stop::Drop(DropReason::MartianSource));
        }
        // Without errors of routers whose own links have only such addresses, path MTU discovery would fail.
        if !routing.forwards([ip.src]) && !is_icmp_error(walk, frame) {
            return Err(Stop::Drop(DropReason::LinkLocalAddress));
        }
        let dst = match self.translate(walk, frame, nat, Side::Outside, Ttl::Decremented) {
            Ok(dst) => dst,
            Err(Refused::NoMapping | Refused::IcmpIgnored) if uplink.own.contains(&ip.dst) && is_echo_request(walk, frame) => {
                return Ok(self.echo(tables, walk, frame)?);
            }
            Err(Refused::FragmentEarly) => return Ok(self.keep_fragment(walk, frame, nat, None)?),
            Err(refused) => return Err(Stop::Drop(DropReason::from(refused))),
        };
        if ip.ttl <= 1 {
            return Err(Stop::Report(IcmpError::TIME_EXCEEDED, DropReason::TtlExceeded));
        }
        clamp(walk, frame, || routing.max_segment_size(ip.src));
        let (to, hop) = routing.to_guest(dst).ok_or(DropReason::NoRoute)?;
        if !routing.is_reached_from_outside(to) {
            return Err(Stop::Drop(DropReason::NotAllowed));
        }
        if ip.has_options {
            mark_inside(walk, frame, routing, to)?;
        }
        self.deliver(tables, walk, frame, to, hop)
    }

    /// Routes a packet to a network behind a guest that is not translated.
    #[cold]
    #[inline(never)]
    fn enter_untranslated(&mut self, tables: &RouterTables, walk: &mut Walk<'_>, frame: &mut Frame) -> Result<(), Stop> {
        let routing = &tables.routing;
        let ip = sound(walk, frame)?;
        let is_external = |address| tables.nat.as_ref().is_some_and(|nat| nat.is_external(address));
        let &GuestRoute { interface: to, via, .. } = routing.untranslated(ip.dst).ok_or(DropReason::NotForUs)?;
        if !is_one_host(ip.src) || is_external(ip.src) || routing.to_inside(ip.src).is_some() {
            return Err(Stop::Drop(DropReason::MartianSource));
        }
        if !routing.forwards([ip.src]) && !is_icmp_error(walk, frame) {
            return Err(Stop::Drop(DropReason::LinkLocalAddress));
        }
        if ip.ttl <= 1 {
            return Err(Stop::Report(IcmpError::TIME_EXCEEDED, DropReason::TtlExceeded));
        }
        if !routing.is_reached_from_outside(to) {
            return Err(Stop::Drop(DropReason::NotAllowed));
        }
        clamp(walk, frame, || routing.max_segment_size(ip.src));
        if ip.has_options {
            mark_inside(walk, frame, routing, to)?;
        }
        decrement_ttl(walk, frame);
        self.deliver_cold(tables, walk, frame, to, via)
    }
}
