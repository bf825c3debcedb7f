//! Frames for the router itself: ARP, ping and everything else that is sent to a gateway's address.
//!
//! Answers are written into the frame that caused them.

use std::net::Ipv4Addr;

use packet::MacAddr;
use packet::arp::{ARP_LEN, Arp, ArpOperation};
use packet::icmpv4::{self, IcmpError, IcmpView, unreachable};
use packet::ipv4::Ipv4Options;
use packet::vlan::TagAction;

use super::neighbour::{InterfaceId, NeighbourEntry};
use super::reassembly::{Key, Refused};
use super::routing::Uplink;
use super::v4::{Ip, is_echo_request, mark, set_addresses, view, view_mut};
use super::{Deferred, RouterTables, RouterWorker, UPLINK};
use crate::domain::Domain;
use crate::drop_reason::DropReason;
use crate::egress::Frame;
use crate::fit::fit;
use crate::intake::made;
use crate::port::PortKind;
use crate::walk::Walk;
use crate::watched::step::Step;

/// Time to live of echo replies (the assigned default, RFC 1700).
const ECHO_TTL: u8 = 64;

/// The outcome of an ARP message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ArpOutcome {
    /// The router consumed it.
    Taken,
    /// It is switched like any frame.
    Pass,
}

/// The router's identity on a network.
struct Identity<'a> {
    id: InterfaceId,
    /// Its bridge and VLAN; `None` outside.
    domain: Option<Domain>,
    mac: MacAddr,
    /// Addresses for which it answers.
    addresses: &'a [Ipv4Addr],
}

impl RouterWorker {
    /// An ARP message from a guest: answered if it asks for the gateway. Its sender is learned in any case.
    pub(crate) fn arp_inside(
        &mut self,
        tables: &RouterTables,
        walk: &mut Walk<'_>,
        frame: &mut Frame,
        id: InterfaceId,
    ) -> Result<ArpOutcome, DropReason> {
        let Some(interface) = tables.routing.interface(id) else { return Ok(ArpOutcome::Pass) };
        let Some(arp) = read_arp(walk, frame) else { return Ok(ArpOutcome::Pass) };
        if arp.sender_ip == interface.address {
            // A guest claims the gateway's address: dropped, so that no other guest believes it.
            return Err(DropReason::GatewaySpoofed);
        }
        let learns = interface.network.is_host(arp.sender_ip);
        let identity = Identity {
            id,
            domain: Some(interface.domain),
            mac: interface.mac,
            addresses: std::slice::from_ref(&interface.address),
        };
        self.arp(tables, walk, frame, arp, &identity, learns)
    }

    /// An ARP message from outside.
    pub(crate) fn arp_outside(
        &mut self,
        tables: &RouterTables,
        walk: &mut Walk<'_>,
        frame: &mut Frame,
        uplink: &Uplink,
    ) -> Result<(), DropReason> {
        let Some(arp) = read_arp(walk, frame) else { return Err(DropReason::NotForUs) };
        if arp.sender_ip == uplink.address || uplink.own.contains(&arp.sender_ip) {
            return Err(DropReason::GatewaySpoofed);
        }
        // Only hosts on the link itself are neighbours.
        let learns = tables.routing.next_hop(arp.sender_ip) == Some(arp.sender_ip);
        let identity = Identity { id: UPLINK, domain: None, mac: uplink.mac, addresses: &uplink.own };
        match self.arp(tables, walk, frame, arp, &identity, learns)? {
            ArpOutcome::Taken => Ok(()),
            // The host answers for its own address, and receives the message itself.
            ArpOutcome::Pass => Err(DropReason::NotForUs),
        }
    }

    fn arp(
        &mut self,
        tables: &RouterTables,
        walk: &mut Walk<'_>,
        frame: &mut Frame,
        arp: Arp,
        identity: &Identity<'_>,
        learns: bool,
    ) -> Result<ArpOutcome, DropReason> {
        let asks_us = arp.operation == ArpOperation::Request && identity.addresses.contains(&arp.target_ip);
        // A probe claims no address (RFC 5227 section 1.1). The frame may come from another MAC address than the one that it
        // speaks of, as it does for a virtual router (RFC 5798 section 8.1.2).
        if learns && !arp.is_probe() && arp.sender_mac.is_station() && arp.sender_mac != identity.mac {
            let (address, mac) = (arp.sender_ip, arp.sender_mac);
            let learn = || tables.neighbours.learn(identity.id, address, mac, walk.ingress.0, asks_us, walk.now);
            if !walk.is_rehearsal() && learn() {
                self.defer(Deferred::Neighbour(identity.id, address));
            }
            if walk.story.is_some() && is_learned(tables, walk, identity.id, address, mac, asks_us) {
                walk.note(|| Step::NeighbourLearned { address, mac });
            }
        }
        if asks_us {
            let reply = arp.reply(identity.mac).to_bytes();
            let at = usize::from(frame.headers.l3);
            walk.rx.frame_mut(frame.span)[at..at + ARP_LEN].copy_from_slice(&reply);
            set_addresses(walk, frame, frame.headers.src, identity.mac);
            walk.counters.taken.add(1);
            walk.note(|| Step::ArpAnswered(arp.target_ip));
            made(walk, frame, frame.span)?;
            // With the tag of its VLAN where the port has one: a request may have been tagged for its priority alone.
            match identity.domain {
                Some(domain) => walk.queue(walk.ingress, domain, frame)?,
                None => walk.push(walk.ingress, TagAction::Keep, frame),
            }
            return Ok(ArpOutcome::Taken);
        }
        if frame.headers.dst == identity.mac {
            walk.counters.taken.add(1);
            return Ok(ArpOutcome::Taken);
        }
        Ok(ArpOutcome::Pass)
    }

    /// A packet from the first of these networks to the gateway of the second: ping is answered, and all else is the host's if it is a
    /// neighbour of both; otherwise it is reported as unreachable.
    #[cold]
    pub(crate) fn for_gateway(
        &mut self,
        tables: &RouterTables,
        walk: &mut Walk<'_>,
        frame: &mut Frame,
        ip: Ip,
        networks: [InterfaceId; 2],
    ) -> Result<(), DropReason> {
        if is_echo_request(walk, frame) {
            return self.echo(tables, walk, frame);
        }
        let host = networks.map(|id| tables.routing.host_of(tables.routing.interface(id)?));
        // A gateway's address that the host could not get is not the host's.
        if let [Some(host), Some(_)] = host
            && host.is_own(ip.dst)
        {
            let outcome = RouterWorker::hand_to_host(walk, frame, host, ip);
            return outcome.map_err(|stop| self.stop(tables, walk, frame, stop));
        }
        // ICMP errors about what the gateway itself sent end here, and so do fragments of other protocols.
        let code = match view(walk, frame).map(|ip| (ip.protocol(), ip.is_fragment())) {
            Some((icmpv4::PROTOCOL, true)) => {
                let from = tables.routing.to_inside(ip.src).ok_or(DropReason::NoRoute)?;
                return self.gather(walk, frame, from);
            }
            Some((icmpv4::PROTOCOL, _) | (_, true)) | None => return Err(DropReason::NotServed),
            Some((packet::tcp::PROTOCOL | packet::udp::PROTOCOL, _)) => unreachable::PORT,
            Some(_) => unreachable::PROTOCOL,
        };
        self.report_from(tables, walk, frame, IcmpError::unreachable(code), ip.dst);
        Err(DropReason::NotServed)
    }

    /// Keeps a fragment of a ping to the gateway. The last one that comes leaves the whole ping to be answered after the batch.
    #[cold]
    fn gather(&mut self, walk: &mut Walk<'_>, frame: &Frame, from: InterfaceId) -> Result<(), DropReason> {
        if !walk.is_rehearsal() {
            let Frame { span, headers, .. } = frame;
            let bytes = walk.rx.frame(*span);
            let ip = headers.ipv4(bytes).ok_or(DropReason::BadIpHeader)?;
            let key = Key::new(walk.ingress, from, ip);
            let headers = &bytes[..usize::from(headers.l3) + ip.header_len()];
            let whole = self.reassembly.add(key, headers, ip, walk.now).map_err(|Refused| DropReason::FragmentRefused)?;
            if let Some(number) = whole {
                self.defer(Deferred::Whole(number));
            }
        }
        walk.note(|| Step::FragmentKept);
        walk.counters.taken.add(1);
        Ok(())
    }

    /// Answers an echo request in its own bytes, through the port that it came from.
    #[cold]
    pub(crate) fn echo(&mut self, tables: &RouterTables, walk: &mut Walk<'_>, frame: &mut Frame) -> Result<(), DropReason> {
        let (their_mac, our_mac) = (frame.headers.src, frame.headers.dst);
        let Some(mut ip) = view_mut(walk, frame) else { return Err(DropReason::BadIpHeader) };
        let (src, dst) = (ip.view().src(), ip.view().dst());
        if !IcmpView::new(ip.payload_mut()).is_some_and(IcmpView::has_valid_checksum) {
            return Err(DropReason::NatBadChecksum);
        }
        ip.set_src(dst);
        ip.set_dst(src);
        ip.set_ttl(ECHO_TTL);
        let has_options = ip.view().options() != Ipv4Options::None;
        if !icmpv4::answer_echo(ip.payload_mut()) {
            return Err(DropReason::NotServed);
        }
        // The reply has the options of the request, with a mark in them (RFC 1122 section 3.2.2.6).
        if has_options {
            mark(walk, frame, &tables.routing, dst)?;
        }
        set_addresses(walk, frame, their_mac, our_mac);
        walk.counters.taken.add(1);
        walk.note(|| Step::EchoAnswered(dst));
        made(walk, frame, frame.span)?;
        match walk.port {
            Some(port) if port.kind == PortKind::Uplink => {
                walk.push(walk.ingress, TagAction::Keep, frame);
                Ok(())
            }
            _ => {
                // The reply is counted as made, so a reason from here on is the reply's.
                let domain = tables.routing.by_mac(frame.headers.src).ok_or(DropReason::NoRoute)?.domain;
                let link = walk.bridges.port_of(domain.bridge, walk.ingress).ok_or(DropReason::PortGone)?;
                let action = link.vlan.leave(domain.vlan, &frame.headers).ok_or(DropReason::VlanNotCarried)?;
                let mtu = link.room(&frame.headers, action);
                // One that came in fragments is answered in fragments.
                fit(walk.rx, frame, mtu, false).map_err(|_| DropReason::TooLong)?;
                walk.note_cut(frame);
                walk.queue(walk.ingress, domain, frame)
            }
        }
    }
}

/// Whether a message has taught, or in a rehearsal would teach, this neighbour: others' messages teach nothing about stations
/// that the router neither knows nor waits for.
#[cold]
fn is_learned(tables: &RouterTables, walk: &Walk<'_>, id: InterfaceId, address: Ipv4Addr, mac: MacAddr, asks_us: bool) -> bool {
    if !walk.is_rehearsal() {
        return tables.neighbours.peek(id, address) == Some(mac);
    }
    let is_it = |entry: &NeighbourEntry| (entry.interface, entry.address) == (id, address);
    asks_us || tables.neighbours.entries(walk.now).iter().any(is_it)
}

fn read_arp(walk: &Walk<'_>, frame: &Frame) -> Option<Arp> {
    Arp::parse(&walk.rx.frame(frame.span)[usize::from(frame.headers.l3)..])
}
