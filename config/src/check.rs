//! From the written form to the meaning: defaults, and the checks between values.
//!
//! A check for something missing is skipped if it may only be missing because it was invalid, so that each fault is reported once.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use crate::address::{Cidr, not_a_host};
use crate::bridge::{Bridge, BridgeKeys, DEFAULT_BRIDGE, MAX_BRIDGES, Reach, unknown_bridge};
use crate::control::Control;
use crate::document::Document;
use crate::guest::{Guest, Neighbourhood};
use crate::model::Config;
use crate::name::InterfaceName;
use crate::nat::Nat;
use crate::port::{Port, PortKeys, PortKind};
use crate::problem::{At, Origin, Problem, Problems};
use crate::publish::{Publish, PublishKeys};
use crate::router::{Gateway, Known, MAX_GATEWAYS, Router};
use crate::state::StatePath;
use crate::station::Station;
use crate::tunnel::{AnyTunnel, IpTunnel, Position, Tunnel, apart};
use crate::uplink::{BridgeUplink, NatUplink, Uplink, UplinkKeys, UplinkMode};
use crate::value::Text;
use packet::{Ipv4Prefix, VlanId};

/// Maximum number of ports, over all bridges.
pub const MAX_PORTS: usize = 1024;

const DEFAULT_BUSY_POLL: u32 = 200;

/// The meaning of a document. Parts with problems are left out.
pub(crate) fn check(document: &Document, whole: &Origin, problems: &mut Problems) -> Config {
    let mut check = Check { document, whole, problems, warnings: Vec::new() };
    let bridges = check.bridges();
    check.purpose();
    let guests = check.guests(&bridges);
    let mut ports = check.ports(&guests);
    let uplink = check.uplink(&bridges, &ports);
    let (tunnels, ip_tunnels) = check.tunnels(&bridges, &ports);
    let (bridge_uplink, nat_uplink) = match uplink {
        None => (None, None),
        Some(Uplink::Bridge(uplink)) => (Some(uplink), None),
        Some(Uplink::Nat(uplink)) => (None, Some(uplink)),
    };
    let router = check.router(&bridges, nat_uplink, &guests);
    let gateways = router.as_ref().map_or(&[][..], |router| &router.gateways);
    check.settle(&guests, gateways, &mut ports);
    check.counts(&ports, bridge_uplink.is_some(), &tunnels, &ip_tunnels);
    apart::check_against_gateways(&tunnels, &ip_tunnels, gateways, check.problems);
    let control = document.control.as_ref().map_or_else(Control::default, |keys| keys.value.control(check.problems));
    let usual_state = || StatePath::usual(&control);
    let state = document.state.as_ref().map_or_else(usual_state, |keys| keys.value.state(&control, check.problems));
    let metrics = document.metrics.as_ref().and_then(|keys| {
        check.warnings.extend(keys.value.warning());
        keys.value.metrics(&keys.origin, router.as_ref(), check.problems)
    });
    let warnings = check.warnings.iter().map(Problem::to_string).collect();
    let mut config = Config {
        bridges,
        ports: ports.into_iter().chain(ip_tunnels.iter().map(Port::tun)).collect(),
        guests: guests.into_iter().map(|(_, guest)| guest).collect(),
        bridge_uplink,
        tunnels,
        ip_tunnels,
        router,
        workers: 1,
        busy_poll: document.busy_poll.as_ref().map_or(DEFAULT_BUSY_POLL, |busy_poll| busy_poll.value.get()),
        control,
        state,
        metrics,
        warnings,
    };
    tell_apart(&mut config);
    let findings = config.out_of_reach();
    config.warnings.extend(findings.into_iter().map(|finding| match finding.origin {
        Origin::Default => {
            Problem::new(document.uplink.as_ref().map_or(whole, |uplink| &uplink.origin), finding.text).to_string()
        }
        _ => finding.to_string(),
    }));
    config.workers = document.workers.as_ref().map_or_else(|| config.default_workers(), |workers| workers.value.get());
    config
}

struct Check<'a> {
    document: &'a Document,
    /// Origin of problems that no single value has.
    whole: &'a Origin,
    problems: &'a mut Problems,
    warnings: Vec<Problem>,
}

impl<'a> Check<'a> {
    /// The bridges by their numbers.
    fn bridges(&mut self) -> Vec<Bridge> {
        let mut bridges: Vec<Bridge> = Vec::new();
        for (at, (name, keys)) in self.document.bridges().enumerate() {
            if let Err(problem) = InterfaceName::parse(&name.value, "a bridge", &name.origin) {
                self.problems.add(&name.origin, problem);
            }
            if at == MAX_BRIDGES {
                let count = self.document.bridges().count();
                self.problems.add(&name.origin, format!("{count} bridges, but there are at most {MAX_BRIDGES}: leave some out"));
            }
            bridges.push(keys.bridge(at, &name.value));
        }
        bridges
    }

    /// Reports a switch without a port that cannot get one later either.
    fn purpose(&mut self) {
        let has_port = |keys: &BridgeKeys| keys.is_faulty || keys.ports.as_ref().is_some_and(|ports| !ports.value.0.is_empty());
        let document = self.document;
        let is_closed =
            document.control.as_ref().and_then(|control| control.value.path.as_ref()).is_some_and(|path| path.value == "none");
        if !is_closed
            || document.is_faulty
            || document.bridges().any(|(_, keys)| has_port(keys))
            || !document.tunnels().is_empty()
        {
            return;
        }
        let example = self.whole.say("tap = \"tap0\" in [[bridge.br0.port]]", "--tap tap0,tap1");
        let problem =
            format!("a switch without a control socket needs a port from the start: name at least one, such as {example}");
        self.problems.add(self.whole, problem);
    }

    /// The ports of all bridges. Two ports with the same interface, path or address are a problem.
    fn ports(&mut self, guests: &[(usize, Guest)]) -> Vec<Port> {
        let mut ports: Vec<Port> = Vec::new();
        let mut ids = HashMap::new();
        for (number, (_, bridge_keys)) in self.document.bridges().enumerate() {
            for keys in bridge_keys.ports.iter().flat_map(|ports| &ports.value.0) {
                if !self.note_id(keys, &mut ids) {
                    continue;
                }
                let made = keys.value.ports(&keys.origin, self.problems);
                let clash = made.iter().find_map(|port| Some((port, ports.iter().find(|other| other.clashes_with(port))?)));
                if let Some((port, other)) = clash {
                    self.same_place(port, other);
                    continue;
                }
                self.warnings.extend(made.iter().filter_map(Port::warning));
                let of_bridge = bridge_keys.isolated.as_ref().is_some_and(|isolated| isolated.value);
                let of_port = keys.value.common().and_then(|keys| keys.station.isolated.as_ref());
                let isolated = of_port.map_or(of_bridge, |isolated| isolated.value);
                ports.extend(made.into_iter().map(|port| Port {
                    bridge: number,
                    station: Station { isolated, ..port.station },
                    ..port
                }));
            }
        }
        for (bridge, guest) in guests {
            let port = guest.port(*bridge);
            if let Some(other) = ids.get(guest.id.as_str()) {
                let problem = format!("id {} is that of a port, '{}': use another id", guest.id, other.port);
                self.problems.add_clash(&guest.origin, problem, &guest.id);
            } else if let Some(other) = ports.iter().find(|other| other.clashes_with(&port)) {
                let problem = format!("{} is the interface of another port: use another one", port.full_name());
                self.problems.add_clash(&guest.origin, problem, other.full_name());
            } else {
                ports.push(port);
            }
        }
        // In each bridge, TAPs come first.
        ports.sort_by_key(|port| (port.bridge, !matches!(port.kind, PortKind::Tap(_))));
        ports
    }

    /// Remembers the id of a port, if it has one. Returns false if it is that of another port, which is a problem.
    fn note_id(&mut self, keys: &'a At<PortKeys>, ids: &mut HashMap<&'a str, PortId<'a>>) -> bool {
        let Some(id) = keys.value.id() else { return true };
        let text = id.value.0.as_str();
        let Some(other) = ids.get(text) else {
            ids.insert(text, PortId { port: &keys.origin, id: &id.origin });
            return true;
        };
        let what = format!("id {text}");
        let (at, problem) = match (keys.origin.is_verb(), other.port.is_verb()) {
            (true, _) => (other.id, of_a_verb(&what, &keys.origin, text)),
            (false, true) => (&id.origin, of_a_verb(&what, other.port, text)),
            (false, false) => (&id.origin, format!("{what} is that of another port, '{}': use another id", other.port)),
        };
        self.problems.add_clash(at, problem, text);
        false
    }

    /// Reports two ports with the same interface, path or address.
    fn same_place(&mut self, port: &Port, other: &Port) {
        let place = port.where_it_is();
        let (of_verb, of_other) = if port.origin.is_verb() { (port, other) } else { (other, port) };
        let (problem, at) = match (of_verb.origin.is_verb(), &of_verb.identity.id) {
            (true, Some(id)) => (of_a_verb(&place, &of_verb.origin, id), &of_other.origin),
            _ => (format!("{place} is named twice: leave one of both out"), &port.origin),
        };
        let netns = other.link().and_then(|(_, netns)| netns).map_or_else(String::new, |netns| format!("@{netns}"));
        self.problems.add_clash(at, problem, other.where_it_is() + &netns);
    }

    fn uplink(&mut self, bridges: &[Bridge], ports: &[Port]) -> Option<Uplink> {
        let uplink = self.document.uplink.as_ref();
        let Some(At { value: keys, origin, .. }) = uplink else {
            self.lonely_nat();
            return None;
        };
        let Some(interface) = &keys.interface else {
            if !keys.is_faulty {
                let in_file = "which interface? Add interface = \"eth0\", the host's that leads outside";
                self.problems.add(origin, origin.say(in_file, "there is no uplink: name its interface, such as --uplink eth0"));
            }
            return None;
        };
        let name = &interface.value.0;
        // In another namespace it is another interface.
        if let Some(port) = ports.iter().find(|port| port.link() == Some((name, None))) {
            let what = if port.shared_interface().is_some() { "a port" } else { "a TAP port" };
            let problem = format!("{name} is {what} of the bridge: name the host's interface that leads outside");
            self.problems.add(&interface.origin, problem);
        }
        let mode = keys.mode.as_ref().map_or(UplinkMode::Nat, |mode| mode.value);
        match mode {
            UplinkMode::Bridge => {
                self.nothing_translated(keys);
                let bridge = self.uplink_bridge(keys, bridges)?;
                Some(Uplink::Bridge(BridgeUplink { interface: name.clone(), bridge }))
            }
            UplinkMode::Nat => {
                if let Some(bridge) = &keys.bridge {
                    let problem = "an uplink in nat mode is that of all bridges: leave bridge out, or use mode = \"bridge\"";
                    self.problems.add(&bridge.origin, problem);
                }
                keys.nat(name, self.problems).map(Uplink::Nat)
            }
        }
    }

    /// Reports settings of the translation without an uplink.
    fn lonely_nat(&mut self) {
        let nat = self.document.nat.as_ref().map(|nat| &nat.origin);
        for origin in nat.into_iter().chain(self.document.publish().first().map(|rule| &rule.origin)) {
            let cure = origin.say("interface = \"eth0\" in [uplink]", "--uplink eth0");
            self.problems.add(origin, format!("there is no uplink: name its interface, such as {cure}"));
        }
    }

    /// Reports settings of the translation beside an uplink that is a port of a bridge.
    fn nothing_translated(&mut self, keys: &UplinkKeys) {
        let address = keys.address.as_ref().map(|address| &address.origin);
        let gateway = keys.gateway.as_ref().map(|gateway| &gateway.origin);
        let nat = self.document.nat.as_ref().map(|nat| &nat.origin);
        let publish = self.document.publish().first().map(|rule| &rule.origin);
        let gate = keys.gate.as_ref().map(|gate| &gate.origin);
        for origin in [address, gateway, gate, nat, publish].into_iter().flatten() {
            let cure = origin.say("leave this out, or use mode = \"nat\"", "leave this flag out, or use --uplink-mode nat");
            self.problems.add(origin, format!("an uplink in bridge mode is a plain port, nothing is translated: {cure}"));
        }
    }

    /// The bridge of an uplink in bridge mode.
    fn uplink_bridge(&mut self, keys: &UplinkKeys, bridges: &[Bridge]) -> Option<usize> {
        let mode = keys.mode.as_ref().map(|mode| &mode.origin);
        let bridge = keys.bridge.as_ref();
        let origin = bridge.map(|bridge| &bridge.origin).or(mode)?;
        self.find_bridge(bridge, bridges, "which bridge is the uplink a port of?", origin)
    }

    /// The number of the named bridge, or of the default bridge.
    fn find_bridge(&mut self, name: Option<&At<String>>, bridges: &[Bridge], which: &str, origin: &Origin) -> Option<usize> {
        let wanted = name.map_or(DEFAULT_BRIDGE, |name| name.value.as_str());
        let found = bridges.iter().position(|bridge| bridge.name == wanted);
        if found.is_none() {
            let names = bridges.iter().map(|bridge| bridge.name.as_str());
            let first = names.clone().next().unwrap_or(DEFAULT_BRIDGE);
            let problem = match name {
                Some(name) => unknown_bridge(&name.value, names),
                None => format!("{which} There is no {DEFAULT_BRIDGE}: add bridge = \"{first}\""),
            };
            self.problems.add(name.map_or(origin, |name| &name.origin), problem);
        }
        found
    }

    /// The tunnels of bridges and those beside them, each with a name of its own.
    fn tunnels(&mut self, bridges: &[Bridge], ports: &[Port]) -> (Vec<Tunnel>, Vec<IpTunnel>) {
        let (mut tunnels, mut ip_tunnels): (Vec<Tunnel>, Vec<IpTunnel>) = (Vec::new(), Vec::new());
        for (at, At { value: keys, origin, .. }) in self.document.tunnels().iter().enumerate() {
            let place = Position(at);
            let bridge = match keys.is_bridged() {
                true => self.find_bridge(keys.bridge(), bridges, "which bridge is it a port of?", origin),
                false => None,
            };
            match (keys.tunnel(origin, self.problems), bridge) {
                (Some(AnyTunnel::Bridged(tunnel)), Some(bridge)) => tunnels.push(Tunnel { place, bridge, ..tunnel }),
                (Some(AnyTunnel::Ip(tunnel)), _) => self.add_ip_tunnel(IpTunnel { place, ..tunnel }, &mut ip_tunnels, ports),
                (Some(AnyTunnel::Bridged(_)) | None, _) => {}
            }
        }
        // In the order of their bridges, and there those with a network identifier first.
        tunnels.sort_by_key(|tunnel| (tunnel.bridge, !tunnel.framing.kind().has_vni()));
        let mut names: Vec<String> = ports.iter().map(|port| port.name.clone()).collect();
        names.extend(ip_tunnels.iter().map(|tunnel| tunnel.name.clone()));
        for tunnel in &mut tunnels {
            tunnel.name = free_name(&tunnel.usual_name(), &names);
            names.push(tunnel.name.clone());
        }
        apart::check_apart(&tunnels, &ip_tunnels, self.problems);
        self.warnings.extend(tunnels.iter().filter_map(Tunnel::warning));
        (tunnels, ip_tunnels)
    }

    fn add_ip_tunnel(&mut self, tunnel: IpTunnel, tunnels: &mut Vec<IpTunnel>, ports: &[Port]) {
        let name = &tunnel.name;
        if ports.iter().any(|port| port.link() == Some((name, tunnel.netns.as_ref()))) {
            self.problems.add_clash(&tunnel.origin, format!("{name} is a port of the bridge: use another name"), name);
        } else if tunnels.iter().any(|other| other.name == *name && other.netns == tunnel.netns) {
            self.problems.add_clash(&tunnel.origin, format!("{name} is named twice: use another name"), name);
        } else {
            tunnels.push(tunnel);
        }
    }

    /// The router; `None` without a gateway and a NAT uplink.
    fn router(&mut self, bridges: &[Bridge], uplink: Option<NatUplink>, guests: &[(usize, Guest)]) -> Option<Router> {
        let mut gateways = self.gateways(bridges);
        let (nat, mut rules) = (self.nat(), self.rules());
        if uplink.is_some() {
            rules.extend(guests.iter().flat_map(|(_, guest)| guest.publish.iter().map(|rule| Written::of_guest(guest, rule))));
        } else {
            self.nothing_published(guests);
        }
        if uplink.is_some() && !self.has_own_gateway() {
            let on_it = self.document.bridges().next().map(|(_, keys)| keys);
            let reach = on_it.and_then(|keys| keys.routing.as_ref()).map_or(Reach::All, |routing| routing.value);
            let host = on_it.and_then(|keys| keys.host.as_ref()).is_some_and(|host| host.value);
            let usual = Gateway { reach, host, ..Gateway::usual() };
            for other in &gateways {
                if let Some(problem) = other.conflict(&usual, bridges.first().map(|bridge| bridge.name.as_str())) {
                    self.problems.add_clash(&other.origin, problem, usual.to_string());
                }
            }
            gateways.push(usual);
        }
        if gateways.is_empty() {
            return None;
        }
        let mut router = Router { gateways, uplink, nat: Nat::default(), publish: Vec::new() };
        let Some(uplink) = &router.uplink else { return Some(router) };
        for network in uplink.network().map(Cidr::network).into_iter().chain(uplink.gateway.map(|hop| Ipv4Prefix::new(hop, 32))) {
            if let Err(Problem { origin, text, .. }) = router.check_uplink_network(network) {
                let uplinks = self.document.uplink.as_ref().map_or(self.whole, |uplink| &uplink.origin);
                self.problems.add(if matches!(origin, Origin::Default) { uplinks } else { &origin }, text);
                break;
            }
        }
        router.nat = nat;
        router.publish = self.publish(rules, &router.gateways, uplink);
        Some(router)
    }

    /// Whether a gateway is written, besides those of bridges that verbs have added.
    fn has_own_gateway(&self) -> bool {
        let own = self.document.bridges().filter(|(name, _)| !name.origin.is_verb());
        own.into_iter().any(|(_, keys)| keys.gateway.is_some() || keys.gateways.is_some())
    }

    /// The gateways of all bridges. Overlapping networks are a problem.
    fn gateways(&mut self, bridges: &[Bridge]) -> Vec<Gateway> {
        let mut gateways: Vec<Gateway> = Vec::new();
        let mut known = Known::default();
        for (number, (_, keys)) in self.document.bridges().enumerate() {
            let untagged = keys.gateway.iter().map(|gateway| (VlanId::NONE, &gateway.origin, gateway.value.0));
            let by_vlan = keys.gateways.iter().flat_map(|gateways| &gateways.value.0);
            let by_vlan =
                by_vlan.filter_map(|(vlan, gateway)| Some((VlanId::new(vlan.value.0.get())?, &gateway.origin, gateway.value.0)));
            for (vlan, origin, address) in untagged.chain(by_vlan) {
                let reach = keys.routing.as_ref().map_or(Reach::All, |routing| routing.value);
                let host = keys.host.as_ref().is_some_and(|host| host.value);
                let gateway = Gateway { origin: origin.clone(), bridge: number, vlan, address, reach, host };
                let name_of = |other: &Gateway| {
                    bridges.get(other.bridge).filter(|_| other.bridge != number).map(|bridge| bridge.name.as_str())
                };
                let mut others = known.in_the_way_of(&gateway).into_iter().flatten().filter_map(|at| gateways.get(at));
                match others.find_map(|other| Some((other, gateway.conflict(other, name_of(other))?))) {
                    Some((other, problem)) => self.problems.add_clash(origin, problem, other.to_string()),
                    None => {
                        known.add(&gateway, gateways.len());
                        gateways.push(gateway);
                    }
                }
            }
        }
        if gateways.len() > MAX_GATEWAYS {
            let count = gateways.len();
            self.problems.add(self.whole, format!("{count} gateways, but there are at most {MAX_GATEWAYS}: leave some out"));
        }
        gateways
    }

    /// The guests, each with the number of its bridge.
    fn guests(&mut self, bridges: &[Bridge]) -> Vec<(usize, Guest)> {
        let mut guests: Vec<(usize, Guest)> = Vec::new();
        let mut ids: HashMap<String, &Origin> = HashMap::new();
        let document = self.document;
        for At { value: keys, origin, .. } in document.guests() {
            let bridge = self.find_bridge(keys.network.as_ref(), bridges, "which network is the guest in?", origin);
            let (Some(guest), Some(bridge)) = (keys.guest(origin, self.problems), bridge) else { continue };
            if let Some(other) = ids.insert(guest.id.clone(), origin) {
                let problem = format!("guest {} is there twice, the first time by '{other}': leave one of both out", guest.id);
                self.problems.add_clash(origin, problem, &guest.id);
                continue;
            }
            guests.push((bridge, guest));
        }
        guests
    }

    /// Checks the addresses of guests against their networks and each other, and gives their ports a way out.
    fn settle(&mut self, guests: &[(usize, Guest)], gateways: &[Gateway], ports: &mut [Port]) {
        let mut taken = Neighbourhood::default();
        let mut next_hops: HashMap<&str, Ipv4Addr> = HashMap::new();
        for (bridge, guest) in guests {
            if let Some((problem, in_the_way)) = guest.conflict(*bridge, gateways).or_else(|| taken.add(*bridge, guest)) {
                self.problems.add_clash(&guest.origin, problem, in_the_way);
            }
            next_hops.extend(guest.gateway(*bridge, gateways).map(|gateway| (guest.id.as_str(), gateway)));
        }
        for Port { kind, identity, .. } in ports {
            if let (PortKind::Tap(tap), Some(id)) = (kind, &identity.id) {
                tap.setup.gateway = next_hops.get(id.as_str()).copied();
            }
        }
    }

    /// Reports published ports of guests without an uplink that translates.
    fn nothing_published(&mut self, guests: &[(usize, Guest)]) {
        if self.document.uplink.as_ref().is_some_and(|uplink| uplink.value.is_faulty) {
            return;
        }
        for (_, guest) in guests.iter().filter(|(_, guest)| !guest.publish.is_empty()) {
            let cure = guest.origin.say("interface = \"eth0\" in [uplink]", "--uplink eth0");
            self.problems.add(&guest.origin, format!("published ports need an uplink in nat mode: add {cure}"));
        }
    }

    fn nat(&mut self) -> Nat {
        let Some(nat) = &self.document.nat else { return Nat::default() };
        self.warnings.extend(nat.value.warnings());
        nat.value.nat(self.problems)
    }

    /// The rules whose own keys are valid.
    fn rules<'w>(&mut self) -> Vec<Written<'w>>
    where
        'a: 'w,
    {
        let document: &'a Document = self.document;
        let rules = document.publish().iter();
        rules.filter_map(|keys| Some(Written::of_keys(keys, keys.value.rule(&keys.origin, self.problems)?))).collect()
    }

    /// Checks rules against the router's addresses and against those before them.
    fn publish(&mut self, written: Vec<Written<'_>>, gateways: &[Gateway], uplink: &NatUplink) -> Vec<Publish> {
        let mut rules: Vec<(&Origin, Publish)> = Vec::new();
        // The guests of an invalid gateway are unknown.
        let knows_guests = self.document.bridges().all(|(_, keys)| !keys.is_faulty);
        for Written { origin, listen, to, rule } in written {
            let conflict = rules.iter().find_map(|(_, other)| Some((other, rule.conflict(other)?)));
            let mut problem = listen_problem(&rule, gateways, uplink, listen).map(|problem| (listen, problem));
            if problem.is_none() && knows_guests {
                problem = guest_problem(rule.guest(), gateways).map(|problem| (to, problem));
            }
            match (problem, conflict) {
                (Some((origin, problem)), _) => self.problems.add(origin, problem),
                (None, Some((other, why))) => {
                    let problem = format!("in conflict with {other}: {why}, leave one of both out");
                    self.problems.add_clash(origin, problem, other.to_string());
                }
                (None, None) => rules.push((origin, rule)),
            }
        }
        let whole = rules.iter().filter(|(_, rule)| rule.is_whole_address()).count();
        if whole > 0 && whole == uplink.addresses.len() {
            self.left_over(&rules);
        }
        rules.into_iter().map(|(_, rule)| rule).collect()
    }

    /// All own addresses are published 1:1, which leaves none for other rules and guests.
    fn left_over(&mut self, rules: &[(&Origin, Publish)]) {
        for (origin, rule) in rules.iter().filter(|(_, rule)| rule.listen().is_none()) {
            let cure = format!("add one to {}", origin.say("address in [uplink]", "--uplink-address"));
            let problem = format!("{rule} is left without an address: all own ones are published 1:1, {cure}");
            self.problems.add(origin, problem);
        }
        let origin = rules.first().map_or(self.whole, |(origin, _)| *origin);
        let text = "all own addresses are published 1:1; other guests have no way out";
        self.warnings.push(Problem::new(origin, text));
    }

    /// Checks the number of ports, including the uplink and the hosts of tunnels.
    fn counts(&mut self, ports: &[Port], has_uplink: bool, tunnels: &[Tunnel], ip_tunnels: &[IpTunnel]) {
        let peers: usize = tunnels.iter().map(Tunnel::port_count).chain(ip_tunnels.iter().map(|ip| ip.remotes().len())).sum();
        let count = ports.len() + usize::from(has_uplink) + peers;
        if count <= MAX_PORTS {
            return;
        }
        let hosts = if peers == 0 { "" } else { "; each remote of a tunnel is one, and a group is 65" };
        let has_slots = ports.iter().any(|port| port.slot().is_some());
        let guests =
            if has_slots { "; a guest's place is one, of which a stream has 16 unless guests says otherwise" } else { "" };
        self.problems.add(self.whole, format!("{count} ports, but there are at most {MAX_PORTS}{hosts}{guests}"));
    }
}

/// Where the id of a port was written, and the port itself.
struct PortId<'a> {
    port: &'a Origin,
    id: &'a Origin,
}

/// A rule, and where its parts were written.
struct Written<'a> {
    origin: &'a Origin,
    listen: &'a Origin,
    to: &'a Origin,
    rule: Publish,
}

impl<'a> Written<'a> {
    fn of_keys(At { value: keys, origin, .. }: &'a At<PublishKeys>, rule: Publish) -> Written<'a> {
        let listen = keys.listen.as_ref().map_or(origin, |listen| &listen.origin);
        Written { origin, listen, to: keys.to.as_ref().map_or(origin, |to| &to.origin), rule }
    }

    fn of_guest(guest: &'a Guest, rule: &Publish) -> Written<'a> {
        Written { origin: &guest.origin, listen: &guest.origin, to: &guest.origin, rule: rule.clone() }
    }
}

/// The problem with a port of a file that claims what a port has that a verb owns.
fn of_a_verb(what: &str, verb: &Origin, id: &str) -> String {
    format!(
        "{what} is there already, and is not the file's, but made by '{verb}': use another one, or remove the port first with 'port del \
         --id {id}', or use apply --prune"
    )
}

/// Gives each port a name of its own: where interfaces in several namespaces have the same name, the name with the namespace. A port
/// in vswitchd's own namespace keeps its name. So does a TUN device beside ports, since its tunnel has that name too.
fn tell_apart(config: &mut Config) {
    let mut count: HashMap<(String, bool), usize> = HashMap::new();
    let uplink = config.uplink_interface().map(|name| (name.to_owned(), true));
    for key in config.ports.iter().map(|port| (port.name.clone(), port.is_bridged())).chain(uplink) {
        *count.entry(key).or_default() += 1;
    }
    let with = |port: &Port, is_bridged: bool| count.get(&(port.name.clone(), is_bridged)).copied().unwrap_or(0);
    for port in &mut config.ports {
        let namesakes = with(port, port.is_bridged()) + if port.is_bridged() { with(port, false) } else { 0 };
        if namesakes > 1 {
            port.name = port.full_name();
        }
    }
}

/// The usual name if it is free, or else the name with the first number from 2 that is not taken.
pub(crate) fn free_name(usual: &str, taken: &[String]) -> String {
    let numbered = (2..).map(|number: u32| format!("{usual}-{number}"));
    let mut names = [usual.to_owned()].into_iter().chain(numbered);
    names.find(|name| !taken.contains(name)).unwrap_or_default()
}

/// The problem with the address of a rule, if there is one.
fn listen_problem(rule: &Publish, gateways: &[Gateway], uplink: &NatUplink, origin: &Origin) -> Option<String> {
    let listen = rule.listen()?;
    let key = origin.say("address in [uplink]", "--uplink-address");
    if let Some(inside) = gateways.iter().find(|gateway| gateway.address.network().contains(listen)) {
        let network = inside.address.network();
        return Some(format!("{listen} is in {network}, the guests' side: name an address of the uplink"));
    }
    if uplink.addresses.contains(&listen) {
        return None;
    }
    if !uplink.addresses.is_empty() {
        let own = uplink.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        return Some(format!("{listen} is not an own address of the uplink ({own}): name one of these, or add it to {key}"));
    }
    // The host's addresses are known only at the start of the switch.
    rule.is_whole_address()
        .then(|| format!("the host's address cannot be given away whole: make {listen} an own address with {key}"))
}

/// The problem with the guest of a rule, if there is one.
fn guest_problem(guest: std::net::Ipv4Addr, gateways: &[Gateway]) -> Option<String> {
    let Some(home) = gateways.iter().find(|gateway| gateway.address.network().contains(guest)).map(|gateway| gateway.address)
    else {
        let networks: Vec<String> = gateways.iter().map(|gateway| gateway.address.network().to_string()).collect();
        let networks = networks.join(", ");
        return Some(format!("{guest} is in no gateway's network ({networks}): name a guest there, or add its gateway"));
    };
    let what = if guest == home.address { Some("the gateway itself") } else { not_a_host(home.network(), guest) };
    what.map(|what| format!("{guest} is {what} of {}: name a guest's address", home.network()))
}
