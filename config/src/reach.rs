//! Gateways that no guest reaches, and guests that reach no gateway: settings that are allowed, and are mostly mistakes.
//!
//! A gateway is in one VLAN of one bridge. Guests whose ports carry other VLANs only do not reach it, and without a gateway they
//! reach neither the uplink nor guests in other VLANs.

use packet::VlanId;

use crate::model::Config;
use crate::problem::{Origin, Problem};
use crate::router::Gateway;
use crate::vlan::Vlans;

/// Maximum number of ports that a finding names.
const NAMED: usize = 3;

impl Config {
    /// A line for each gateway that no port reaches, and for ports that do not reach the only gateway, which nobody has written.
    #[must_use]
    pub fn out_of_reach(&self) -> Vec<Problem> {
        let occupied = self.occupied_bridges();
        let gateways = self.router.iter().flat_map(|router| &router.gateways);
        let gateways = gateways.filter(|gateway| occupied.contains(&gateway.bridge));
        gateways.filter_map(|gateway| self.lonely(gateway).or_else(|| self.left_out(gateway))).collect()
    }

    /// The finding that no port of a bridge carries the VLAN of its gateway.
    fn lonely(&self, gateway: &Gateway) -> Option<Problem> {
        let vlans = self.vlans_of(gateway.bridge);
        if vlans.is_empty() || vlans.iter().any(|(_, vlans)| vlans.carries(gateway.vlan)) {
            return None;
        }
        let what = match gateway.vlan {
            VlanId::NONE => "untagged frames".to_owned(),
            vlan => format!("VLAN {vlan}"),
        };
        let bridge = self.bridge(gateway.bridge).map_or("", |bridge| bridge.name.as_str());
        let cure = match vlans.iter().find_map(|(_, vlans)| first_of(vlans)) {
            Some(vlan) => format!("give the guests one in their VLAN, such as {}", self.gateway_in(vlan, gateway)),
            None => "let a port carry it".to_owned(),
        };
        let text = format!(
            "gateway {} is for {what}, which no port of {bridge} carries, so no guest reaches it: {cure}",
            gateway.address
        );
        Some(Problem::new(&gateway.origin, text))
    }

    /// The finding that some guests do not reach the gateway that an uplink has by default.
    fn left_out(&self, gateway: &Gateway) -> Option<Problem> {
        if !matches!(gateway.origin, Origin::Default) {
            return None;
        }
        let vlans = self.vlans_of(gateway.bridge);
        let out: Vec<&(String, &Vlans)> = vlans.iter().filter(|(_, vlans)| !vlans.carries(gateway.vlan)).collect();
        let vlan = out.iter().find_map(|(_, vlans)| first_of(vlans))?;
        let mut names: Vec<&str> = out.iter().take(NAMED).map(|(name, _)| name.as_str()).collect();
        let more = format!("{} more", out.len().saturating_sub(NAMED));
        if out.len() > NAMED {
            names.push(&more);
        }
        let cure = self.gateway_in(vlan, gateway);
        let text = format!(
            "gateway {} is for untagged frames, and guests of {} are in VLANs without a gateway, so they do not reach the uplink: \
             name all gateways, such as {cure}",
            gateway.address,
            names.join(", ")
        );
        Some(Problem::new(&gateway.origin, text))
    }

    /// The ports of a bridge, its uplink and its tunnels, with their VLANs.
    fn vlans_of(&self, bridge: usize) -> Vec<(String, &Vlans)> {
        const ALL: &Vlans = &Vlans::Trunk(crate::vlan::Trunks::All);
        let ports = self.ports.iter().filter(|port| port.is_bridged() && port.bridge == bridge);
        let ports = ports.filter_map(|port| Some((port.title()?, &port.vlans)));
        let uplink = self.bridge_uplink.iter().filter(|uplink| uplink.bridge == bridge);
        let tunnels = self.tunnels.iter().filter(|tunnel| tunnel.bridge == bridge);
        ports
            .chain(uplink.map(|uplink| (uplink.interface.clone(), ALL)))
            .chain(tunnels.map(|tunnel| (tunnel.name.clone(), &tunnel.vlans)))
            .collect()
    }

    /// How a gateway in a VLAN is written, beside or in place of this one.
    fn gateway_in(&self, vlan: VlanId, gateway: &Gateway) -> String {
        let bridge = self.bridge(gateway.bridge).map_or("br0", |bridge| bridge.name.as_str());
        let address = gateway.address;
        match gateway.origin {
            Origin::File { .. } => format!("gateways = {{ {vlan} = \"{address}\" }} in [bridge.{bridge}]"),
            Origin::Verb(_) => format!("bridge set {bridge}:gateways={vlan}@{address}"),
            Origin::Flag(_) | Origin::Default => format!("--gateway {vlan}={address}"),
        }
    }
}

/// A VLAN that a port carries.
fn first_of(vlans: &Vlans) -> Option<VlanId> {
    match vlans {
        Vlans::Access(vlan) | Vlans::NativeTagged(vlan, _) | Vlans::NativeUntagged(vlan, _) => Some(*vlan),
        Vlans::Trunk(crate::vlan::Trunks::Listed(vlans)) => vlans.iter().copied().find(|vlan| *vlan != VlanId::NONE),
        Vlans::Trunk(crate::vlan::Trunks::All) => None,
    }
}

#[cfg(test)]
mod tests {
    use crate::tests::{config, flag};

    fn said(flags: &[&str]) -> Vec<String> {
        let flags: Vec<_> = flags.iter().map(|text| flag(text)).collect();
        let config = config(&flags).unwrap();
        let found: Vec<String> = config.out_of_reach().into_iter().map(|problem| problem.text).collect();
        assert!(found.iter().all(|text| config.warnings.iter().any(|warning| warning.ends_with(text.as_str()))), "{found:?}");
        found
    }

    #[test]
    fn a_gateway_that_no_guest_reaches() {
        let [lonely] = said(&["--tap a:vlan=10,b:vlan=20", "--uplink eth0"]).try_into().unwrap();
        assert_eq!(
            lonely,
            "gateway 10.77.0.1/24 is for untagged frames, which no port of br0 carries, so no guest reaches it: give the guests one in \
             their VLAN, such as --gateway 10=10.77.0.1/24"
        );
        let [other] = said(&["--tap a,b:trunks=20+30", "--gateway 10=10.0.10.1/24,10.0.0.1/24"]).try_into().unwrap_or_default();
        assert!(other.is_empty(), "all VLANs pass at a: {other}");
        let [lost] = said(&["--tap a:vlan=20,b:trunks=20+30", "--gateway 10=10.0.10.1/24,20=10.0.20.1/24"]).try_into().unwrap();
        assert!(lost.starts_with("gateway 10.0.10.1/24 is for VLAN 10, which no port of br0 carries"), "{lost}");
    }

    #[test]
    fn guests_without_the_gateway_that_nobody_wrote() {
        let [out] = said(&["--tap a,b:vlan=10,c:vlan=20,d:vlan=20,e:vlan=20", "--uplink eth0"]).try_into().unwrap();
        assert!(
            out.contains("guests of b, c, d, 1 more are in VLANs without a gateway")
                && out.ends_with("--gateway 10=10.77.0.1/24")
        );
        for fine in [
            &["--tap a,b", "--uplink eth0"][..],
            &["--tap a:vlan=10:vlan-mode=native-untagged:trunks=0", "--uplink eth0"],
            &["--tap a:vlan=10,b", "--uplink eth0", "--gateway 10.0.0.1/24"],
            &["--tap a:vlan=10", "--uplink eth0", "--uplink-mode bridge"],
            &["--tap a:vlan=10", "--gateway 10.0.0.1/24", "--vxlan vni=1,remote=192.0.2.2"],
        ] {
            assert_eq!(said(fine), [""; 0], "{fine:?}");
        }
    }
}
