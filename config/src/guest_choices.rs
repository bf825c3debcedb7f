//! What verbs of guests leave to the switch: an address, or the port outside of a rule.
//!
//! The choice is made once, when the verb is carried out, and is written down as if it had been in the words: it is the guest's until
//! its words change, also over a restart.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use packet::VlanId;

use crate::address::Cidr;
use crate::bridge::DEFAULT_BRIDGE;
use crate::desired::{Desired, EditError};
use crate::guest::{Guest, GuestRule};
use crate::guest_verbs::GuestWords;
use crate::problem::{Origin, Problems};
use crate::publish::Publish;
use crate::value::Text;

/// The word for an address that the switch chooses.
const AUTO: &str = "auto";

/// Ports of the uplink for rules that leave the choice, those that Docker gives, too.
const CHOICE: RangeInclusive<u16> = 49_153..=65_535;

/// A rule that leaves the choice of the port outside.
#[derive(Clone, Debug)]
struct Choice {
    address: Option<Ipv4Addr>,
    ports: RangeInclusive<u16>,
    rule: GuestRule,
}

impl Choice {
    /// The possible rules, with the words for them. The guest's own part plays no role yet.
    fn candidates(&self) -> impl Iterator<Item = (Publish, String)> {
        let Choice { address, ports, rule } = self;
        let protocol = rule.protocol.as_deref().unwrap_or("tcp");
        let (tcp, udp) = (protocol != "udp", protocol != "tcp");
        ports.clone().map(move |port| {
            let ports = port..=port;
            let (listen, guest) = (*address, Ipv4Addr::UNSPECIFIED);
            let address = address.map_or_else(String::new, |address| format!("{address}:"));
            let rule = Publish::Ports { listen, ports: ports.clone(), guest, guest_ports: ports, tcp, udp };
            (rule, format!("{address}{port}:{}/{protocol}", self.rule.port))
        })
    }
}

impl GuestRule {
    /// The choice that it leaves: the port outside is 0, or one of a range for one port of the guest.
    fn choice(self) -> Option<Choice> {
        let (address, ports) = match self.listen.split_once(':') {
            Some((address, ports)) => (Some(address.parse().ok()?), ports),
            None => (None, self.listen.as_str()),
        };
        let ports = match ports.split_once('-') {
            None if ports == "0" => CHOICE,
            Some((first, last)) if !self.port.contains('-') => first.parse().ok()?..=last.parse().ok()?,
            _ => return None,
        };
        Some(Choice { address, ports, rule: self })
    }
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
        if !addresses.iter().any(|address| address == AUTO) {
            return Ok(addresses.to_vec());
        }
        let own = self.config.guests.iter().find(|guest| guest.id == id).map(|guest| guest.network.as_str());
        let network = words.network.as_deref().or(own).unwrap_or(DEFAULT_BRIDGE);
        let mut problems = Problems::default();
        let Some(gateway) = self.untagged_gateway(network) else {
            let problem =
                format!("{network} has no gateway, so no address can be chosen: add one with 'bridge set', or name the address");
            problems.add(origin, problem);
            return Err(problems.into());
        };
        let others = self.config.guests.iter().filter(|guest| guest.network == network && guest.id != id);
        let mut taken: HashSet<Ipv4Addr> = others.flat_map(Guest::ipv4).chain([gateway.address]).collect();
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

    /// These rules with one port outside for each rule that leaves the choice: `0:80`, any of [`CHOICE`]; `8000-8010:80`, any of these.
    fn chosen_ports(&self, id: &str, rules: &[String], origin: &Origin) -> Result<Vec<String>, EditError> {
        let own = self.config.guests.iter().find(|guest| guest.id == id).map_or(&[][..], |guest| &guest.publish);
        let all = self.config.router.iter().flat_map(|router| &router.publish);
        let mut taken: Vec<Publish> = all.filter(|rule| !own.contains(rule)).cloned().collect();
        let mut problems = Problems::default();
        let mut chosen = Vec::with_capacity(rules.len());
        for text in rules {
            // What cannot be read is reported with the other words.
            let choice = GuestRule::parse(text, "publish", origin).ok().and_then(GuestRule::choice);
            let Some(choice) = choice else {
                chosen.push(text.clone());
                continue;
            };
            let mut candidates = choice.candidates();
            match candidates.find(|(rule, _)| taken.iter().all(|other| rule.conflict(other).is_none())) {
                Some((rule, text)) => {
                    taken.push(rule);
                    chosen.push(text);
                }
                None => {
                    problems.add_clash(origin, format!("none of the ports of {text} is free: name another one"), text.as_str());
                }
            }
        }
        if problems.is_empty() { Ok(chosen) } else { Err(problems.into()) }
    }
}
