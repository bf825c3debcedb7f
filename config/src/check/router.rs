//! Checks of the gateways and of what the router translates.

use super::Check;
use crate::address::{Cidr, not_a_host};
use crate::bridge::{Bridge, Reach};
use crate::document::Document;
use crate::guest::Guest;
use crate::nat::Nat;
use crate::problem::{At, Origin, Problem};
use crate::publish::{Publish, PublishKeys};
use crate::router::{Gateway, Known, MAX_GATEWAYS, Router};
use crate::uplink::NatUplink;
use packet::{Ipv4Prefix, VlanId};

impl<'a> Check<'a> {
    /// The router; `None` without a gateway and a NAT uplink.
    pub(super) fn router(&mut self, bridges: &[Bridge], uplink: Option<NatUplink>, guests: &[(usize, Guest)]) -> Option<Router> {
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
        let routes = self.routes(bridges, &gateways, uplink.as_ref());
        if gateways.is_empty() {
            return None;
        }
        let mut router = Router { gateways, routes, uplink, nat: Nat::default(), publish: Vec::new() };
        let Some(uplink) = &router.uplink else { return Some(router) };
        for network in uplink.network().map(Cidr::network).into_iter().chain(uplink.gateway.map(|hop| Ipv4Prefix::new(hop, 32))) {
            if let Err(Problem { origin, text, .. }) = router.check_uplink_network(network) {
                let uplinks = self.document.uplink.as_ref().map_or(self.whole, |uplink| &uplink.origin);
                self.problems.add(if matches!(origin, Origin::Default) { uplinks } else { &origin }, text);
                break;
            }
        }
        router.nat = nat;
        router.publish = self.publish(rules, &router, uplink);
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
    fn publish(&mut self, written: Vec<Written<'_>>, router: &Router, uplink: &NatUplink) -> Vec<Publish> {
        let gateways = router.gateways.as_slice();
        let mut rules: Vec<(&Origin, Publish)> = Vec::new();
        // The guests of an invalid gateway are unknown.
        let knows_guests = self.document.bridges().all(|(_, keys)| !keys.is_faulty);
        for Written { origin, listen, to, rule } in written {
            let conflict = rules.iter().find_map(|(_, other)| Some((other, rule.conflict(other)?)));
            let mut problem = listen_problem(&rule, gateways, uplink, listen).map(|problem| (listen, problem));
            let is_behind = || router.routes.iter().any(|route| route.to.contains(rule.guest()));
            if problem.is_none() && knows_guests && !is_behind() {
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
