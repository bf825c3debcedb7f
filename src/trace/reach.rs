//! Why an imaginary packet does not reach its destination, although the switch knows where that is: in another VLAN.
//!
//! A frame for a station of another VLAN is flooded in its own, or dropped if nobody else is there. Its story alone would read as
//! if the station were unknown, or as if the frame arrived at it.

use std::net::Ipv4Addr;

use packet::{MacAddr, VlanId};
use vswitch::{BridgeId, Domain, Interface, Step, Story, Verdict};

use super::Names;
use crate::fabric::Fabric;

/// Where a destination is looked for.
pub(crate) struct Elsewhere<'a> {
    pub(crate) fabric: &'a Fabric,
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) names: &'a Names,
}

impl Elsewhere<'_> {
    /// A line for each place of another VLAN that has the destination of a packet that was switched, and not answered. `frame` came in
    /// through a port of `bridge`; `dst` is the packet's destination.
    pub(crate) fn notes(&self, story: &Story, frame: &[u8], bridge: BridgeId, dst: Option<Ipv4Addr>) -> Vec<String> {
        let is_routed = |step: &Step| matches!(step, Step::ForGateway(_) | Step::FromOutside);
        let vlan = story.steps().iter().find_map(|step| if let Step::Classified(vlan) = step { Some(*vlan) } else { None });
        let Some(vlan) = vlan.filter(|_| story.verdict() != Verdict::Answered && !story.steps().iter().any(is_routed)) else {
            return Vec::new();
        };
        let here = Domain { bridge, vlan };
        let mac = frame.get(..6).and_then(|bytes| bytes.try_into().ok()).map(MacAddr);
        let mut notes: Vec<String> = mac.filter(|mac| !mac.is_multicast()).map_or_else(Vec::new, |mac| self.stations(mac, here));
        let is_flooded = story.steps().iter().any(|step| matches!(step, Step::Flooded { .. }));
        notes.extend(dst.and_then(|dst| self.gateway(dst, here, is_flooded)));
        notes
    }

    /// Where this address is known in other VLANs, unless it is known in this one.
    fn stations(&self, mac: MacAddr, here: Domain) -> Vec<String> {
        let now = self.fabric.now();
        let port = |domain: Domain| self.fabric.bridges.table(domain.bridge)?.lookup(domain.vlan, mac, now);
        if port(here).is_some() {
            return Vec::new();
        }
        let entries = self.fabric.bridges.iter().flat_map(|bridge| {
            let of_it = bridge.table.entries(now).into_iter().filter(|entry| entry.mac == mac);
            of_it.map(|entry| (Domain { bridge: bridge.id(), vlan: entry.vlan }, entry.port))
        });
        let known = entries.map(|(domain, port)| (domain, self.names.of(port)));
        let station = |(there, port): (Domain, String)| {
            format!(
                "{mac} is known in {}, behind {port}, and this packet is in {}: without a router nothing passes between them",
                self.name(there),
                self.name(here)
            )
        };
        known.map(station).collect()
    }

    /// What this address has to do with a gateway of another VLAN; for a frame that `is_flooded`, also that there is no gateway.
    fn gateway(&self, dst: Ipv4Addr, here: Domain, is_flooded: bool) -> Option<String> {
        let own = self.interfaces.iter().find(|interface| interface.domain == here);
        let others = self.interfaces.iter().filter(|interface| interface.domain != here);
        if let Some(other) = others.clone().find(|interface| interface.address == dst) {
            let ours = match own {
                Some(own) => format!("whose gateway is {}", own.address),
                None => "which has no gateway".to_owned(),
            };
            let (there, here) = (self.frames(other.domain), self.name(here));
            return Some(format!("{dst} is the gateway of {there}, and this packet is in {here}, {ours}"));
        }
        let Some(other) = others.clone().find(|interface| interface.network.contains(dst)) else {
            let is_lost = is_flooded && own.is_none() && !self.interfaces.is_empty();
            let here = self.name(here);
            return is_lost
                .then(|| format!("the router has no gateway for {here}, so packets from there reach no other network"));
        };
        if own.is_some() {
            return None;
        }
        let (there, here) = (self.frames(other.domain), self.name(here));
        Some(format!("{dst} is behind gateway {} of {there}, and this packet is in {here}, which has no gateway", other.address))
    }

    /// "VLAN 10", "untagged frames": what a gateway is for.
    fn frames(&self, domain: Domain) -> String {
        match domain.vlan {
            VlanId::NONE => self.name(domain).replace("no VLAN", "untagged frames"),
            _ => self.name(domain),
        }
    }

    /// "VLAN 10", "no VLAN"; with the bridge's name if there are several.
    fn name(&self, domain: Domain) -> String {
        let on = self.fabric.bridges.name_among_several(domain.bridge).map_or_else(String::new, |name| format!(" of {name}"));
        match domain.vlan {
            VlanId::NONE => format!("no VLAN{on}"),
            vlan => format!("VLAN {vlan}{on}"),
        }
    }
}
