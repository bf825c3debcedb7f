//! ICMP errors about routed packets: from which address, and by which way they return.
//!
//! An error about a packet that was already translated is sent as any router on its way would send it:
//! through the translation, which finds the packet's connection by the quote.

use std::net::Ipv4Addr;

use nat::Side;
use packet::MacAddr;
use packet::icmpv4::{self, IcmpError};
use packet::ipv4::Ipv4View;

use super::routing::Interface;
use super::translate::Ttl;
use super::v4::{set_addresses, view, view_mut};
use super::{RouterTables, RouterWorker};
use crate::drop_reason::DropReason;
use crate::egress::Frame;
use crate::icmp_error::write_error;
use crate::port::PortKind;
use crate::walk::Walk;

/// Why a packet is not forwarded.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stop {
    /// It is dropped silently.
    Drop(DropReason),
    /// It is dropped, and its sender is sent this error.
    Report(IcmpError, DropReason),
}

impl From<DropReason> for Stop {
    fn from(reason: DropReason) -> Stop {
        Stop::Drop(reason)
    }
}

impl Stop {
    /// The reason that is counted.
    pub(crate) fn reason(self) -> DropReason {
        match self {
            Stop::Drop(reason) | Stop::Report(_, reason) => reason,
        }
    }
}

impl RouterWorker {
    /// Sends the error, if there is one. Returns the reason of the drop.
    #[inline(always)]
    pub(crate) fn stop(&mut self, tables: &RouterTables, walk: &mut Walk<'_>, frame: &mut Frame, stop: Stop) -> DropReason {
        if let Stop::Report(error, _) = stop {
            self.report(tables, walk, frame, error);
        }
        stop.reason()
    }

    /// Sends a packet's sender an error, from the router's address on the way back.
    #[cold]
    fn report(&mut self, tables: &RouterTables, walk: &mut Walk<'_>, frame: &mut Frame, error: IcmpError) {
        if walk.port.is_some_and(|port| port.kind == PortKind::Host) {
            return RouterWorker::tell_host(walk, frame, error);
        }
        let Some((to, about)) = view(walk, frame).map(|ip| (ip.src(), ip.dst())) else { return };
        let from = match (tables.routing.to_inside(to).and_then(|id| tables.routing.interface(id)), tables.routing.uplink()) {
            (Some(interface), _) => interface.address,
            (None, Some(uplink)) => match tables.routing.first_interface() {
                // About a packet for a guest: the translation gives the error the outside address. About a packet of a
                // guest, which has its outside address by now, or one for a network that is not translated: the router's address on
                // that side.
                Some(Interface { address, .. })
                    if !tables.nat.as_ref().is_some_and(|nat| nat.is_external(to))
                        && tables.routing.untranslated(about).is_none() =>
                {
                    *address
                }
                _ => uplink.address,
            },
            (None, None) => return,
        };
        self.report_from(tables, walk, frame, error, from);
    }

    /// Sends a packet's sender an error from this address.
    pub(crate) fn report_from(
        &mut self,
        tables: &RouterTables,
        walk: &mut Walk<'_>,
        frame: &mut Frame,
        error: IcmpError,
        from: Ipv4Addr,
    ) {
        // Of the frame that the packet came in.
        let (dst, src) = (frame.headers.dst, frame.headers.src);
        if write_error(walk, frame, error, from).is_some() {
            walk.counters.made.add(1);
            if let Err(stop) = self.send_error(tables, walk, frame, dst, src) {
                walk.lose(stop.reason(), 1);
            }
        }
    }

    /// Sends an error back to where the packet came from, in a frame from `src` to `dst`; through the translation, if the
    /// packet had passed it.
    fn send_error(
        &mut self,
        tables: &RouterTables,
        walk: &mut Walk<'_>,
        error: &mut Frame,
        dst: MacAddr,
        src: MacAddr,
    ) -> Result<(), Stop> {
        let routing = &tables.routing;
        let to = view(walk, error).map(Ipv4View::dst).ok_or(DropReason::BadIpHeader)?;
        if let Some(id) = routing.to_inside(to) {
            let interface = routing.interface(id).ok_or(DropReason::NoRoute)?;
            let came_from_there = walk.port.is_some_and(|port| port.kind != PortKind::Uplink);
            if came_from_there && dst == interface.mac {
                set_addresses(walk, error, src, interface.mac);
                return Ok(walk.queue(walk.ingress, interface.domain, error)?);
            }
            let (id, hop) = routing.to_guest(to).ok_or(DropReason::NoRoute)?;
            return self.deliver_cold(tables, walk, error, id, hop);
        }
        let nat = tables.nat.as_deref().ok_or(DropReason::NoRoute)?;
        if nat.is_external(to) {
            if quoted_dst(walk, error).is_some_and(|dst| routing.to_inside(dst).is_some()) {
                // It is about a packet that was translated twice, and so is the error.
                self.translate(walk, error, nat, Side::Inside, Ttl::Kept).map_err(DropReason::from)?;
            }
            let dst = self.translate(walk, error, nat, Side::Outside, Ttl::Kept).map_err(DropReason::from)?;
            let (id, hop) = routing.to_guest(dst).ok_or(DropReason::NoRoute)?;
            // From the address that the guest knows the router by (RFC 1812 section 4.3.2.4).
            if let Some(interface) = routing.interface(id)
                && let Some(mut ip) = view_mut(walk, error)
            {
                ip.set_src(interface.address);
            }
            return self.deliver_cold(tables, walk, error, id, hop);
        }
        let dst = match quoted_dst(walk, error).and_then(|dst| routing.untranslated(dst)) {
            Some(_) => to,
            None => self.translate(walk, error, nat, Side::Inside, Ttl::Kept).map_err(DropReason::from)?,
        };
        let uplink = routing.uplink().ok_or(DropReason::NoRoute)?;
        let hop = routing.next_hop(dst).ok_or(DropReason::NoRoute)?;
        self.hand_to(tables, walk, error, uplink, hop);
        Ok(())
    }
}

/// The destination of the packet that an error quotes.
fn quoted_dst(walk: &Walk<'_>, error: &Frame) -> Option<Ipv4Addr> {
    let quote = view(walk, error)?.payload().get(icmpv4::ICMP_LEN..)?;
    Ipv4View::quoted(quote).map(Ipv4View::dst)
}
