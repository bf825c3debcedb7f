//! Stories as text.

use api::{StepKind, VerdictKind};
use nat::{Basis, Side};
use packet::vlan::TagAction;
use packet::{EtherType, MacAddr};
use tunnel::Framing;
use vswitch::{DropReason, Learned, PortId, Step, Story, Verdict};

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

/// A story as shown to users. `assumed` are the assumed values of an imaginary packet.
pub(crate) fn story(story: &Story, names: &Names, assumed: Vec<String>) -> api::Story {
    let port = story.came_in_by().map(|id| names.of(id));
    let arrived = match &port {
        Some(name) => format!("comes in through {name}"),
        None => "continues after it waited in the switch".to_owned(),
    };
    let first = api::Step { port: port.clone(), ..api::Step::new(StepKind::Arrived, arrived) };
    api::Story {
        at: story.at.as_millis(),
        packet: describe(story.is_packet(), story.head()),
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
    format!("{} ({})", reason.name(), reason.meaning())
}

/// One step as text.
fn telling(step: Step, names: &Names) -> api::Step {
    let of = |step: StepKind, text: String| api::Step::new(step, text);
    match step {
        Step::Resumed => of(StepKind::Resumed, "its neighbour or first fragment has arrived, or the wait timed out".to_owned()),
        Step::Decapsulated { framing, from } => {
            let tunnel = network(framing).unwrap_or_else(|| "a tunnel".to_owned());
            api::Step {
                address: Some(from.to_string()),
                ..of(StepKind::Decapsulated, format!("decapsulated from {tunnel}, sent by {from}"))
            }
        }
        Step::Classified(vlan) => {
            let text = if vlan.get() == 0 { "is in no VLAN".to_owned() } else { format!("is in VLAN {}", vlan.get()) };
            api::Step { vlan: Some(vlan.get()), ..of(StepKind::Classified, text) }
        }
        Step::Learned { vlan, mac, learned } => api::Step {
            vlan: Some(vlan.get()),
            mac: Some(mac.to_string()),
            ..of(StepKind::Learned, learned_text(mac, learned, names))
        },
        Step::NeighbourLearned { address, mac } => api::Step {
            address: Some(address.to_string()),
            mac: Some(mac.to_string()),
            ..of(StepKind::NeighbourLearned, format!("ARP: {address} is at {mac}"))
        },
        Step::ArpAnswered(address) => api::Step {
            address: Some(address.to_string()),
            ..of(StepKind::ArpAnswered, format!("ARP request for the router's address {address}: answered"))
        },
        Step::EchoAnswered(address) => api::Step {
            address: Some(address.to_string()),
            ..of(StepKind::EchoAnswered, format!("ping to the router's address {address}: answered"))
        },
        Step::ForGateway(address) => api::Step {
            address: Some(address.to_string()),
            ..of(StepKind::ForGateway, format!("is addressed to the MAC address of gateway {address}, so it is routed"))
        },
        Step::FromOutside => of(StepKind::FromOutside, "comes in through the uplink, so it is routed".to_owned()),
        Step::RouteInside { dst, vlan } => {
            let vlan = if vlan.get() == 0 { String::new() } else { format!(" on VLAN {}", vlan.get()) };
            api::Step { dst: Some(dst.to_string()), ..of(StepKind::RouteInside, format!("{dst} is in an inside network{vlan}")) }
        }
        Step::RouteOutside { dst, hop } => {
            let text = if hop == dst {
                format!("{dst} is in the uplink's network")
            } else {
                format!("the route to {dst} is through {hop} on the uplink")
            };
            api::Step { dst: Some(dst.to_string()), address: Some(hop.to_string()), ..of(StepKind::RouteOutside, text) }
        }
        Step::RouteTunnel { dst, port } => {
            let name = names.of(port);
            api::Step {
                dst: Some(dst.to_string()),
                port: Some(name.clone()),
                ..of(StepKind::RouteTunnel, format!("{dst} is behind {name}"))
            }
        }
        Step::Hairpin(address) => api::Step {
            address: Some(address.to_string()),
            ..of(
                StepKind::Hairpin,
                format!("{address} is an outside address of the router: translated out and in again (hairpin)"),
            )
        },
        Step::Translated { side, basis, src, dst } => api::Step {
            src: Some(src.to_string()),
            dst: Some(dst.to_string()),
            ..of(StepKind::Translated, translated_text(side, basis, src, dst))
        },
        Step::Neighbour { address, mac } => api::Step {
            address: Some(address.to_string()),
            mac: Some(mac.to_string()),
            ..of(StepKind::Neighbour, format!("{address} is at {mac}"))
        },
        Step::Waits { address, asked, kept } => {
            let asks = if asked { ", an ARP request is sent" } else { ", it has been requested already" };
            let waits = if kept { "the packet waits" } else { "there is no room to keep the packet" };
            let text = format!("the MAC address of {address} is unknown{asks}: {waits}");
            api::Step { address: Some(address.to_string()), ..of(StepKind::Waits, text) }
        }
        Step::RequestDropped(reason) => api::Step {
            reason: Some(reason.name().to_owned()),
            ..of(StepKind::RequestDropped, format!("the ARP request is dropped: {}", why(reason)))
        },
        Step::FragmentKept => {
            of(StepKind::FragmentKept, "a fragment: kept until the others of its datagram that are needed arrive".to_owned())
        }
        Step::Fragmented(mtu) => of(StepKind::Fragmented, format!("too long: leaves in fragments of at most {mtu} bytes")),
        Step::Segmented(size) => of(StepKind::Segmented, format!("a super-frame of TCP segments of {size} bytes")),
        Step::Told { to, error } => {
            let error = error.map_or_else(|| "packet too big".to_owned(), |error| error.to_string());
            api::Step { address: Some(to.to_string()), ..of(StepKind::Told, format!("ICMP error to {to}: {error}")) }
        }
        Step::NotTold => of(
            StepKind::NotTold,
            "no ICMP error is sent: none is allowed about this packet, or the rate limit is reached".to_owned(),
        ),
        Step::Forwarded { mac, port } => {
            let name = names.of(port);
            api::Step {
                mac: Some(mac.to_string()),
                port: Some(name.clone()),
                ..of(StepKind::Forwarded, format!("{mac} is behind {name}"))
            }
        }
        Step::Flooded { mac, ports } => {
            let who = if mac.is_multicast() { "is a group address" } else { "is unknown" };
            let text = format!("{mac} {who}: flooded to {ports} port{}", if ports == 1 { "" } else { "s" });
            api::Step { mac: Some(mac.to_string()), ..of(StepKind::Flooded, text) }
        }
        Step::Queued { port, action } => {
            let name = names.of(port);
            api::Step { port: Some(name.clone()), ..of(StepKind::Queued, format!("queued for {name}{}", tag_text(action))) }
        }
        Step::Encapsulated { port, framing, flow } => {
            let name = names.of(port);
            let header = network(framing).map_or_else(String::new, |network| format!(" with {network}"));
            let text = format!("encapsulated in UDP{header} for {name}; flow hash {flow:#06x} selects the source port");
            api::Step { port: Some(name), ..of(StepKind::Encapsulated, text) }
        }
        Step::Sent { port, writes, frames } => {
            let name = names.of(port);
            let manner = match (writes, frames) {
                (_, 2..) => format!(", coalesced with {} others", frames - 1),
                (2.., _) => format!(", in {writes} pieces"),
                _ => String::new(),
            };
            api::Step { port: Some(name.clone()), ..of(StepKind::Sent, format!("sent through {name}{manner}")) }
        }
        Step::Dropped { reason, port } => {
            let name = port.map(|port| names.of(port));
            let place = name.as_ref().map_or_else(String::new, |name| format!(" at {name}"));
            api::Step {
                port: name,
                reason: Some(reason.name().to_owned()),
                ..of(StepKind::Dropped, format!("dropped{place}: {}", why(reason)))
            }
        }
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

/// The headers of a frame in tcpdump's notation, as far as `head` contains them.
fn describe(is_packet: bool, head: &[u8]) -> String {
    if is_packet {
        let is_ipv4 = head.first().is_some_and(|first| first >> 4 == 4);
        return is_ipv4.then(|| ipv4(head)).flatten().unwrap_or_else(|| "a packet without Ethernet header, not IPv4".to_owned());
    }
    let mac = |at: usize| head.get(at..at + 6).and_then(|bytes| bytes.try_into().ok()).map(MacAddr);
    let (Some(dst), Some(src)) = (mac(0), mac(6)) else { return "a runt".to_owned() };
    let mut at = 12;
    let mut vlan = String::new();
    let mut kind = word(head, at);
    while let Some(tag) = kind.filter(|kind| EtherType(*kind).is_vlan()).and(word(head, at + 2)) {
        vlan += &format!("vlan {} ", tag & 0xfff);
        at += 4;
        kind = word(head, at);
    }
    let payload = head.get(at + 2..).unwrap_or(&[]);
    let what = match kind.map(EtherType) {
        Some(EtherType::IPV4) => ipv4(payload),
        Some(EtherType::ARP) => arp(payload),
        _ => None,
    };
    let what = what.unwrap_or_else(|| kind.map_or_else(String::new, |kind| format!("ethertype {kind:#06x}")));
    format!("{src} > {dst} {vlan}{what}")
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn address(bytes: &[u8], at: usize) -> Option<std::net::Ipv4Addr> {
    let octets: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(octets.into())
}

fn arp(bytes: &[u8]) -> Option<String> {
    let (sender, target) = (address(bytes, 14)?, address(bytes, 24)?);
    Some(match word(bytes, 6)? {
        1 => format!("arp who-has {target} tell {sender}"),
        _ => format!("arp {sender} is-at"),
    })
}

fn ipv4(bytes: &[u8]) -> Option<String> {
    let (src, dst, protocol) = (address(bytes, 12)?, address(bytes, 16)?, *bytes.get(9)?);
    let l4 = bytes.get(usize::from(bytes[0] & 15) * 4..)?;
    let is_later = word(bytes, 6)? & 0x1fff != 0;
    let ports = || Some((word(l4, 0)?, word(l4, 2)?));
    Some(match (protocol, ports()) {
        _ if is_later => format!("{src} > {dst} proto {protocol} (a later fragment)"),
        (6, Some((sport, dport))) => {
            let flags = l4.get(13).map_or_else(String::new, |flags| tcp_flags(*flags));
            format!("{src}:{sport} > {dst}:{dport} tcp [{flags}]")
        }
        (17, Some((sport, dport))) => format!("{src}:{sport} > {dst}:{dport} udp"),
        (1, _) => format!("{src} > {dst} icmp type {} code {}", l4.first()?, l4.get(1)?),
        _ => format!("{src} > {dst} proto {protocol}"),
    })
}

fn tcp_flags(flags: u8) -> String {
    let letters = [(2, 'S'), (1, 'F'), (4, 'R'), (8, 'P'), (16, '.')];
    letters.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, letter)| letter).collect()
}
