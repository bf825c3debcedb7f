//! Stories as text.

use std::net::{IpAddr, Ipv4Addr};

use api::{StepKind, VerdictKind};
use nat::{Basis, Side};
use packet::MacAddr;
use packet::vlan::{TagAction, VlanId};
use tunnel::Framing;
use tunnel::entropy::SOURCE_PORTS;
use vswitch::{DropReason, Learned, PortId, Step, Story, Verdict};

use super::headers;

/// Port names, indexed by [`PortId`].
#[derive(Clone, Default, Debug)]
pub(crate) struct Names(pub(crate) Vec<String>);

impl Names {
    /// Updates the names. A removed port keeps its name, because stories of its frames may still come.
    pub(crate) fn take_in(&mut self, now: Vec<String>) {
        self.0.resize(now.len().max(self.0.len()), String::new());
        for (known, name) in self.0.iter_mut().zip(now).filter(|(_, name)| !name.is_empty()) {
            *known = name;
        }
    }

    pub(super) fn of(&self, id: PortId) -> String {
        let name = self.0.get(id.index()).filter(|name| !name.is_empty());
        name.cloned().unwrap_or_else(|| format!("port {id}"))
    }
}

/// A story as shown to users. `assumed` are the assumed values of an imaginary packet, and `time` is that of a real one.
pub(crate) fn story(story: &Story, names: &Names, assumed: Vec<String>, time: Option<String>) -> api::Story {
    let port = story.came_in_by().map(|id| names.of(id));
    let arrived = match &port {
        Some(name) => format!("comes in through {name}"),
        None => "continues after it waited in the switch".to_owned(),
    };
    let first = api::Step { port: port.clone(), ..api::Step::new(StepKind::Arrived, arrived) };
    api::Story {
        at: story.at.as_millis(),
        time,
        packet: headers::describe(story.is_packet(), story.head()),
        len: story.len,
        assumed,
        steps: std::iter::once(first).chain(story.steps().iter().map(|step| telling(*step, names))).collect(),
        left_out: story.left_out,
        verdict: verdict(story, names),
        notes: Vec::new(),
        port,
    }
}

fn verdict(story: &Story, names: &Names) -> api::Verdict {
    let (verdict, reason, text) = match story.verdict() {
        Verdict::Sent(count) => {
            let mut ports: Vec<String> = Vec::new();
            for step in story.steps() {
                if let Step::Sent { port, .. } = step {
                    ports.push(names.of(*port));
                }
            }
            match usize::from(count).saturating_sub(ports.len()) {
                0 => {}
                more if ports.is_empty() => ports.push(format!("{more} ports")),
                more => ports.push(format!("and {more} more")),
            }
            (VerdictKind::Sent, None, format!("sent through {}", ports.join(", ")))
        }
        Verdict::Dropped(reason) => (VerdictKind::Dropped, Some(reason), format!("dropped: {}", why(reason))),
        Verdict::Answered => (VerdictKind::Answered, None, "answered by the switch".to_owned()),
        Verdict::Waits => (VerdictKind::Waits, None, "waits in the switch".to_owned()),
        Verdict::Taken => (VerdictKind::Taken, None, "consumed by the switch, without an answer".to_owned()),
    };
    api::Verdict { verdict, reason: reason.map(|reason| reason.name().to_owned()), text }
}

/// A drop reason with its meaning.
fn why(reason: DropReason) -> String {
    let fix = fix(reason).map_or_else(String::new, |fix| format!("; {fix}"));
    format!("{} ({}{fix})", reason.name(), reason.meaning())
}

/// What to do if a frame was dropped for a setting of its port, and should not have been.
fn fix(reason: DropReason) -> Option<&'static str> {
    match reason {
        DropReason::GuardMac => Some("if the address is its own: 'port set PORT mac=MAC'"),
        DropReason::GuardIp | DropReason::GuardArp | DropReason::GuardNd => {
            Some("if the address is its own: 'port set PORT addresses=ADDRESS+..'")
        }
        DropReason::GuardDhcp | DropReason::GuardRa => Some("if the port is to serve the network: 'port set PORT guard=off'"),
        DropReason::PortIsolated => Some("if the two are to talk: 'port set PORT isolated=off' on one of them"),
        _ => None,
    }
}

/// One step as text, with its details as data.
fn telling(step: Step, names: &Names) -> api::Step {
    api::Step {
        port: port(step).map(|port| names.of(port)),
        reason: reason(step).map(|reason| reason.name().to_owned()),
        vlan: vlan(step).map(VlanId::get),
        mac: mac(step).map(|mac| mac.to_string()),
        address: address(step).map(|address| address.to_string()),
        src: if let Step::Translated { src, .. } = step { Some(src.to_string()) } else { None },
        dst: destination(step),
        ..api::Step::new(kind(step), text(step, names))
    }
}

fn kind(step: Step) -> StepKind {
    match step {
        Step::Resumed => StepKind::Resumed,
        Step::Decapsulated { .. } => StepKind::Decapsulated,
        Step::Classified(_) => StepKind::Classified,
        Step::Learned { .. } => StepKind::Learned,
        Step::NeighbourLearned { .. } => StepKind::NeighbourLearned,
        Step::ArpAnswered(_) => StepKind::ArpAnswered,
        Step::EchoAnswered(_) => StepKind::EchoAnswered,
        Step::ForGateway(_) => StepKind::ForGateway,
        Step::FromOutside => StepKind::FromOutside,
        Step::FromHost => StepKind::FromHost,
        Step::ToHost(_) => StepKind::ToHost,
        Step::RouteInside { .. } => StepKind::RouteInside,
        Step::RouteBehind { .. } => StepKind::RouteBehind,
        Step::Untranslated(_) => StepKind::Untranslated,
        Step::RouteOutside { .. } => StepKind::RouteOutside,
        Step::RouteTunnel { .. } => StepKind::RouteTunnel,
        Step::Hairpin(_) => StepKind::Hairpin,
        Step::Translated { .. } => StepKind::Translated,
        Step::Neighbour { .. } => StepKind::Neighbour,
        Step::Waits { .. } => StepKind::Waits,
        Step::RequestDropped(_) => StepKind::RequestDropped,
        Step::FragmentKept => StepKind::FragmentKept,
        Step::Fragmented(_) => StepKind::Fragmented,
        Step::Segmented(_) => StepKind::Segmented,
        Step::Told { .. } => StepKind::Told,
        Step::NotTold => StepKind::NotTold,
        Step::Forwarded { .. } => StepKind::Forwarded,
        Step::Flooded { .. } => StepKind::Flooded,
        Step::Queued { .. } => StepKind::Queued,
        Step::Encapsulated { .. } => StepKind::Encapsulated,
        Step::Sent { .. } => StepKind::Sent,
        Step::Dropped { .. } => StepKind::Dropped,
    }
}

fn port(step: Step) -> Option<PortId> {
    match step {
        Step::RouteTunnel { port, .. }
        | Step::Forwarded { port, .. }
        | Step::Queued { port, .. }
        | Step::Encapsulated { port, .. }
        | Step::Sent { port, .. } => Some(port),
        Step::Dropped { port, .. } => port,
        _ => None,
    }
}

fn reason(step: Step) -> Option<DropReason> {
    match step {
        Step::RequestDropped(reason) | Step::Dropped { reason, .. } => Some(reason),
        _ => None,
    }
}

fn vlan(step: Step) -> Option<VlanId> {
    match step {
        Step::Classified(vlan) | Step::Learned { vlan, .. } => Some(vlan),
        _ => None,
    }
}

fn mac(step: Step) -> Option<MacAddr> {
    match step {
        Step::Learned { mac, .. }
        | Step::NeighbourLearned { mac, .. }
        | Step::Neighbour { mac, .. }
        | Step::Forwarded { mac, .. }
        | Step::Flooded { mac, .. } => Some(mac),
        _ => None,
    }
}

/// The address of the other host in a step: a next hop, a neighbour, the receiver of an ICMP error.
fn address(step: Step) -> Option<IpAddr> {
    match step {
        Step::Decapsulated { from, .. } => Some(from),
        Step::Told { to, .. } => Some(to),
        Step::ArpAnswered(address)
        | Step::EchoAnswered(address)
        | Step::ForGateway(address)
        | Step::ToHost(address)
        | Step::Hairpin(address)
        | Step::NeighbourLearned { address, .. }
        | Step::Untranslated(address)
        | Step::RouteBehind { hop: address, .. }
        | Step::RouteOutside { hop: address, .. }
        | Step::Neighbour { address, .. }
        | Step::Waits { address, .. } => Some(address.into()),
        _ => None,
    }
}

fn destination(step: Step) -> Option<String> {
    match step {
        Step::RouteInside { dst, .. }
        | Step::RouteBehind { dst, .. }
        | Step::RouteOutside { dst, .. }
        | Step::RouteTunnel { dst, .. } => Some(dst.to_string()),
        Step::Translated { dst, .. } => Some(dst.to_string()),
        _ => None,
    }
}

fn text(step: Step, names: &Names) -> String {
    match step {
        Step::Resumed => "its neighbour or first fragment has arrived, or the wait timed out".to_owned(),
        Step::Decapsulated { framing, from } => {
            let tunnel = network(framing).unwrap_or_else(|| "a tunnel".to_owned());
            format!("decapsulated from {tunnel}, sent by {from}")
        }
        Step::Classified(VlanId::NONE) => "is in no VLAN".to_owned(),
        Step::Classified(vlan) => format!("is in VLAN {vlan}"),
        Step::Learned { mac, learned, .. } => learned_text(mac, learned, names),
        Step::NeighbourLearned { address, mac } => format!("ARP: {address} is at {mac}"),
        Step::ArpAnswered(address) => format!("ARP request for the router's address {address}: answered"),
        Step::EchoAnswered(address) => format!("ping to the router's address {address}: answered"),
        Step::ForGateway(address) => format!("is addressed to the MAC address of gateway {address}, so it is routed"),
        Step::FromOutside => "comes in through the uplink, so it is routed".to_owned(),
        Step::FromHost => "comes from the host, so it is routed to a guest".to_owned(),
        Step::ToHost(address) => format!("is for the host, which has the address {address}"),
        Step::RouteInside { dst, vlan: VlanId::NONE } => format!("{dst} is in an inside network"),
        Step::RouteInside { dst, vlan } => format!("{dst} is in an inside network on VLAN {vlan}"),
        Step::RouteBehind { dst, hop } => format!("the route to {dst} is through guest {hop}"),
        Step::Untranslated(src) => format!("keeps its source {src}: its route is not translated"),
        Step::RouteOutside { dst, hop } if hop == dst => format!("{dst} is in the uplink's network"),
        Step::RouteOutside { dst, hop } => format!("the route to {dst} is through {hop} on the uplink"),
        Step::RouteTunnel { dst, port } => format!("{dst} is behind {}", names.of(port)),
        Step::Hairpin(address) => {
            format!("{address} is an outside address of the router: translated out and in again (hairpin)")
        }
        Step::Translated { side, basis, src, dst } => translated_text(side, basis, src, dst),
        Step::Neighbour { address, mac } => format!("{address} is at {mac}"),
        Step::Waits { address, asked, kept } => waits_text(address, asked, kept),
        Step::RequestDropped(reason) => format!("the ARP request is dropped: {}", why(reason)),
        Step::FragmentKept => "a fragment: kept until the others of its datagram that are needed arrive".to_owned(),
        Step::Fragmented(mtu) => format!("too long: leaves in fragments of at most {mtu} bytes"),
        Step::Segmented(size) => format!("a super-frame of TCP segments of {size} bytes"),
        Step::Told { to, error: None } => format!("ICMP error to {to}: packet too big"),
        Step::Told { to, error: Some(error) } => format!("ICMP error to {to}: {error}"),
        Step::NotTold => "no ICMP error is sent: none is allowed about this packet, or the rate limit is reached".to_owned(),
        Step::Forwarded { mac, port } => format!("{mac} is behind {}", names.of(port)),
        Step::Flooded { mac, ports } => {
            let who = if mac.is_multicast() { "is a group address" } else { "is unknown" };
            format!("{mac} {who}: flooded to {ports} port{}", if ports == 1 { "" } else { "s" })
        }
        Step::Queued { port, action } => format!("queued for {}{}", names.of(port), tag_text(action)),
        Step::Encapsulated { port, framing, source } => {
            let header = network(framing).map_or_else(String::new, |network| format!(" with {network}"));
            format!(
                "encapsulated in UDP{header} for {}; its flow selects source port {} of {SOURCE_PORTS}",
                names.of(port),
                source + 1
            )
        }
        Step::Sent { port, writes, frames } => format!("sent through {}{}", names.of(port), manner_text(writes, frames)),
        Step::Dropped { reason, port: None } => format!("dropped: {}", why(reason)),
        Step::Dropped { reason, port: Some(port) } => format!("dropped at {}: {}", names.of(port), why(reason)),
    }
}

fn waits_text(address: Ipv4Addr, asked: bool, kept: bool) -> String {
    let asks = if asked { ", an ARP request is sent" } else { ", it has been requested already" };
    let waits = if kept { "the packet waits for the answer, at most 3 s" } else { "there is no room to keep the packet" };
    format!("the MAC address of {address} is unknown{asks}: {waits}")
}

/// How many writes sent a frame, or how many frames one write.
fn manner_text(writes: u16, frames: u16) -> String {
    match (writes, frames) {
        (_, 2) => ", coalesced with another one".to_owned(),
        (_, 3..) => format!(", coalesced with {} others", frames - 1),
        (2.., _) => format!(", in {writes} pieces"),
        _ => String::new(),
    }
}

/// The network that a tunnel header names: `VXLAN 42`.
fn network(framing: Framing) -> Option<String> {
    Some(format!("{} {}", framing.kind().title(), framing.vni()?.number()))
}

fn learned_text(mac: MacAddr, learned: Learned, names: &Names) -> String {
    match learned {
        Learned::Added => format!("{mac} is learned on this port"),
        Learned::Refreshed => format!("{mac} is already known on this port"),
        Learned::Moved { from } => format!("{mac} moved to this port from {}", names.of(from)),
        Learned::Refused => format!("{mac} is not learned"),
        Learned::Blocked => format!("{mac} is behind another port: the frame came back through a loop"),
    }
}

fn translated_text(side: Side, basis: Basis, src: nat::Endpoint, dst: nat::Endpoint) -> String {
    let right = match basis {
        Basis::Known => "belongs to a known connection",
        Basis::KnownMapping => "opens a connection with the existing outside endpoint of its guest",
        Basis::NewMapping => "opens a connection with a new outside endpoint",
        Basis::Published => "opens a connection to a published port",
        Basis::OneToOne => "opens a connection with its guest's own outside address",
        Basis::Error => "ICMP error about a known connection",
        Basis::Fragment => "translated like the first fragment of its datagram",
    };
    let now = match side {
        Side::Inside => format!("its source is now {src}"),
        Side::Outside => format!("its destination is now {dst}"),
    };
    format!("{right}: {now}")
}

fn tag_text(action: TagAction) -> String {
    match action {
        TagAction::Keep => String::new(),
        TagAction::Pop => ", without its tag".to_owned(),
        TagAction::Push(tag) | TagAction::Replace(tag) => format!(", tagged with VLAN {}", tag.vlan().get()),
    }
}
