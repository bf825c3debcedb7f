//! What verbs of guests leave to the switch: an address, or the port outside of a rule.
//!
//! The choice is made once, when the verb is carried out, and is written down as if it had been in the words: it is the guest's until
//! its words change, also over a restart.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use packet::VlanId;

use crate::address::Cidr;
use crate::bridge::DEFAULT_BRIDGE;
use crate::desired::{Desired, EditError};
use crate::guest::{Guest, GuestRule};
use crate::guest_verbs::GuestWords;
use crate::nat::PortRange;
use crate::problem::{Origin, Problems};
use crate::publish::Publish;
use crate::value::Text;

/// The word for an address that the switch chooses.
const AUTO: &str = "auto";

/// Ports of the uplink for rules that leave the choice: the dynamic ones (RFC 6335 section 6), which Docker gives, too.
const DYNAMIC_PORTS: RangeInclusive<u16> = 49_153..=65_535;

/// Maximum number of rules of one guest. A range is one rule.
const MAX_RULES: usize = 1024;

/// A rule with the ports outside from which one is to be chosen.
#[derive(Clone, Debug)]
struct PortChoice {
    address: Option<Ipv4Addr>,
    ports: RangeInclusive<u16>,
    rule: GuestRule,
}

impl PortChoice {
    /// The choice that a rule leaves: the port outside is 0, or one of a range for one port of the guest.
    fn of(rule: GuestRule) -> Option<PortChoice> {
        let (address, ports) = listen_of(&rule)?;
        let ports = match ports.split_once('-') {
            None if ports == "0" => DYNAMIC_PORTS,
            Some((first, last)) if !rule.port.contains('-') => first.parse().ok()?..=last.parse().ok()?,
            _ => return None,
        };
        Some(PortChoice { address, ports, rule })
    }

    /// The words for the rule with this port.
    fn with(&self, port: u16) -> String {
        let address = self.address.map_or_else(String::new, |address| format!("{address}:"));
        let protocol = self.rule.protocol.as_ref().map_or_else(String::new, |protocol| format!("/{protocol}"));
        format!("{address}{port}:{}{protocol}", self.rule.port)
    }

    fn protocols(&self) -> [bool; 2] {
        protocols_of(&self.rule)
    }
}

/// The address outside, and the ports as they were written.
fn listen_of(rule: &GuestRule) -> Option<(Option<Ipv4Addr>, &str)> {
    match rule.listen.split_once(':') {
        Some((address, ports)) => Some((Some(address.parse().ok()?), ports)),
        None => Some((None, rule.listen.as_str())),
    }
}

/// Whether a rule is for TCP, and for UDP.
fn protocols_of(rule: &GuestRule) -> [bool; 2] {
    let protocol = rule.protocol.as_deref().unwrap_or("tcp");
    [protocol != "udp", protocol != "tcp"]
}

/// A bit for each port.
type Ports = Box<[u64; 1024]>;

/// The ports outside that rules have, for TCP and for UDP.
#[derive(Debug, Default)]
struct TakenPorts {
    /// By address; `None` for rules of all addresses.
    by_address: [HashMap<Option<Ipv4Addr>, Ports>; 2],
    /// Those of any rule for ports.
    any: [Option<Ports>; 2],
}

impl TakenPorts {
    fn take(&mut self, protocols: [bool; 2], address: Option<Ipv4Addr>, ports: RangeInclusive<u16>, is_whole: bool) {
        for (of, _) in protocols.into_iter().enumerate().filter(|(_, is_for)| *is_for) {
            let own = self.by_address[of].entry(address).or_insert_with(|| Box::new([0; 1024]));
            ports.clone().for_each(|port| set(own, port));
            // A rule for all addresses does not use one that is a guest's as a whole.
            if !is_whole {
                let any = self.any[of].get_or_insert_with(|| Box::new([0; 1024]));
                ports.clone().for_each(|port| set(any, port));
            }
        }
    }

    fn take_rule(&mut self, rule: &Publish) {
        match rule {
            Publish::Ports { listen, ports, tcp, udp, .. } => self.take([*tcp, *udp], *listen, ports.clone(), false),
            Publish::Address { listen, .. } => self.take([true, true], Some(*listen), 0..=u16::MAX, true),
        }
    }

    fn is_free(&self, protocols: [bool; 2], address: Option<Ipv4Addr>, port: u16) -> bool {
        protocols.into_iter().enumerate().filter(|(_, is_for)| *is_for).all(|(of, _)| match address {
            None => self.any[of].as_ref().is_none_or(|ports| !is_set(ports, port)),
            Some(_) => [None, address].iter().all(|by| self.by_address[of].get(by).is_none_or(|ports| !is_set(ports, port))),
        })
    }
}

fn set(ports: &mut Ports, port: u16) {
    ports[usize::from(port / 64)] |= 1 << (port % 64);
}

fn is_set(ports: &Ports, port: u16) -> bool {
    ports[usize::from(port / 64)] & (1 << (port % 64)) != 0
}

impl Desired {
    /// These words with an address for `auto`, and a port outside for each rule that leaves the choice.
    pub(crate) fn with_choices(&self, id: &str, words: &GuestWords, origin: &Origin) -> Result<GuestWords, EditError> {
        let addresses = words.addresses.as_ref().map(|addresses| self.chosen_addresses(id, addresses, words, origin));
        let publish = words.publish.as_ref().map(|rules| self.chosen_ports(id, rules, origin));
        Ok(GuestWords { addresses: addresses.transpose()?, publish: publish.transpose()?, ..words.clone() })
    }

    /// These addresses with the lowest free one of the network's gateway for `auto`.
    fn chosen_addresses(
        &self,
        id: &str,
        addresses: &[String],
        words: &GuestWords,
        origin: &Origin,
    ) -> Result<Vec<String>, EditError> {
        let count = addresses.iter().filter(|address| *address == AUTO).count();
        if count == 0 {
            return Ok(addresses.to_vec());
        }
        let own = self.config.guests.iter().find(|guest| guest.id == id).map(|guest| guest.network.as_str());
        let network = words.network.as_deref().or(own).unwrap_or(DEFAULT_BRIDGE);
        let mut problems = Problems::default();
        if count > 1 {
            problems.add(
                origin,
                format!("{AUTO} is there {count} times, and a network has one address for a guest: leave the others out"),
            );
            return Err(problems.into());
        }
        let Some(gateway) = self.untagged_gateway(network) else {
            let problem =
                format!("{network} has no gateway, so no address can be chosen: add one with 'bridge set', or name the address");
            problems.add(origin, problem);
            return Err(problems.into());
        };
        let others = self.config.guests.iter().filter(|guest| guest.network == network && guest.id != id);
        let named = addresses.iter().filter_map(|text| text.split('/').next()?.parse().ok());
        let mut taken: HashSet<Ipv4Addr> = others.flat_map(Guest::ipv4).chain(named).chain([gateway.address]).collect();
        let mut chosen = Vec::with_capacity(addresses.len());
        for text in addresses {
            if text != AUTO {
                chosen.push(text.clone());
                continue;
            }
            let (first, size) = (u32::from(gateway.network().network()), 1_u64 << (32 - u32::from(gateway.prefix_len)));
            let hosts = (1..size - 1).map(|host| Ipv4Addr::from(first + host as u32));
            let Some(free) = hosts.into_iter().find(|address| !taken.contains(address)) else {
                problems.add_clash(origin, format!("no address of {} is free: remove a guest", gateway.network()), network);
                return Err(problems.into());
            };
            taken.insert(free);
            chosen.push(format!("{free}/{}", gateway.prefix_len));
        }
        Ok(chosen)
    }

    /// The gateway of untagged frames on the bridge of this name.
    fn untagged_gateway(&self, network: &str) -> Option<Cidr> {
        let bridge = self.config.bridges.iter().find(|bridge| bridge.name == network)?;
        let mut gateways = self.config.router.iter().flat_map(|router| &router.gateways);
        let gateway = gateways.find(|gateway| gateway.bridge == bridge.number && gateway.vlan == VlanId::NONE)?;
        Some(gateway.address)
    }

    /// These rules with one port outside for each that leaves the choice: `0:80`, any of [`DYNAMIC_PORTS`]; `8000-8010:80`, any of these.
    fn chosen_ports(&self, id: &str, rules: &[String], origin: &Origin) -> Result<Vec<String>, EditError> {
        let mut problems = Problems::default();
        if rules.len() > MAX_RULES {
            problems.add(
                origin,
                format!("{} published ports, and there is room for {MAX_RULES} of a guest: publish ranges", rules.len()),
            );
            return Err(problems.into());
        }
        // What cannot be read is reported with the other words.
        let parsed: Vec<Option<GuestRule>> = rules.iter().map(|text| GuestRule::parse(text, "publish", origin).ok()).collect();
        let choices: Vec<Option<PortChoice>> = parsed.iter().map(|rule| rule.clone().and_then(PortChoice::of)).collect();
        let mut taken = TakenPorts::default();
        let is_own = |guest: &&Guest| guest.id == id;
        let own: Vec<&Publish> = self.config.guests.iter().filter(is_own).flat_map(|guest| &guest.publish).collect();
        let all = self.config.router.iter().flat_map(|router| &router.publish);
        all.filter(|rule| !own.contains(rule)).for_each(|rule| taken.take_rule(rule));
        for rule in parsed.iter().zip(&choices).filter(|(_, choice)| choice.is_none()).filter_map(|(rule, _)| rule.as_ref()) {
            let listen =
                listen_of(rule).and_then(|(address, ports)| Some((address, PortRange::parse(ports, "", origin).ok()?.0)));
            if let Some((address, ports)) = listen {
                taken.take(protocols_of(rule), address, ports, false);
            }
        }
        let mut chosen = Vec::with_capacity(rules.len());
        for (text, choice) in rules.iter().zip(choices) {
            let Some(choice) = choice else {
                chosen.push(text.clone());
                continue;
            };
            let (protocols, address) = (choice.protocols(), choice.address);
            match choice.ports.clone().find(|port| taken.is_free(protocols, address, *port)) {
                Some(port) => {
                    taken.take(protocols, address, port..=port, false);
                    chosen.push(choice.with(port));
                }
                None => {
                    problems.add_clash(origin, format!("none of the ports of {text} is free: name another one"), text.as_str());
                }
            }
        }
        if problems.is_empty() { Ok(chosen) } else { Err(problems.into()) }
    }
}
