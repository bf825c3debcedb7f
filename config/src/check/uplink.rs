//! Checks of the uplink and the tunnels.

use super::{Check, free_name};
use crate::bridge::Bridge;
use crate::port::Port;
use crate::problem::At;
use crate::tunnel::{AnyTunnel, IpTunnel, Position, Tunnel, apart};
use crate::uplink::{BridgeUplink, Uplink, UplinkKeys, UplinkMode};

impl<'a> Check<'a> {
    pub(super) fn uplink(&mut self, bridges: &[Bridge], ports: &[Port]) -> Option<Uplink> {
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

    /// The tunnels of bridges and those beside them, each with a name of its own.
    pub(super) fn tunnels(&mut self, bridges: &[Bridge], ports: &[Port]) -> (Vec<Tunnel>, Vec<IpTunnel>) {
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
}
