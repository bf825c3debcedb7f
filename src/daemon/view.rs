//! A read-only view of the daemon, from which queries are answered.
//!
//! Everything here is computed from what the parts know at this moment; nothing is changed and no device is asked, but for the
//! counters of a [`Report`], which is made before.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::{Duration, SystemTime};

use ::tunnel::FramingKind;
use api::{AddressKind, PortKind, Protocol, Refusal, State, TunnelKind, UplinkMode};
use config::{Publish, Trunks, Vlans};
use packet::VlanId;
use vswitch::UPLINK;
use vswitch::{BridgeId, PortId, PortTotals};

use crate::docker::Network;
use crate::edge::router::RouterControl;
use crate::edge::{Edge, HostDevice, UplinkPort};
use crate::fabric::Fabric;
use crate::fabric::bridges::Bridge;
use crate::fabric::report::Report;
use crate::model::bridge_id;
use crate::ports::device::PortDevice;
use crate::ports::{ManagedPort, Ports};
use crate::tunnel::{PeerControl, TunnelControl, TunnelSpec};
use crate::watch::captures::PortNow;

use super::check::count_of;
use super::names::{self, Named};

/// How long a loop is a problem after its last block. Blocks follow one another while a loop is there.
const RECENT_LOOP: Duration = Duration::from_secs(60);

/// The daemon's parts, to be looked at.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) fabric: &'a Fabric,
    pub(super) ports: &'a Ports,
    pub(super) edge: &'a Edge,
    pub(super) tunnels: &'a TunnelControl,
    /// The configuration in force.
    pub(super) config: &'a config::Config,
    /// What is wrong with the state of before.
    pub(super) state_problem: Option<&'a str>,
    /// When the daemon started, by the calendar.
    pub(super) started: SystemTime,
}

impl View<'_> {
    /// The names of ports by their numbers; empty where no port has one.
    pub(super) fn port_names(&self) -> Vec<String> {
        let uplink = self.edge.uplink.as_ref().map(|uplink| (uplink.id, uplink.interface.clone()));
        let ports = self.ports.iter().map(|port| (port.id, port.name().to_owned()));
        let mut names = vec![String::new(); self.fabric.slots.end()];
        let host = self.edge.host.device().map(|host| (host.id, host.name.clone()));
        for (id, name) in ports.chain(uplink).chain(host).chain(self.tunnels.names()) {
            names[id.index()] = name;
        }
        names
    }

    /// The port that a name stands for.
    pub(super) fn find_port(&self, name: &str) -> Result<PortId, Refusal> {
        let of = |port: &ManagedPort| {
            let bare = port.config.link().map_or_else(|| port.name().to_owned(), |(link, _)| link.to_owned());
            Named { id: port.id, name: port.name().to_owned(), full: port.config.full_name(), bare }
        };
        let uplink = self.edge.uplink.as_ref().map(|uplink| Named::plain(uplink.id, uplink.interface.clone()));
        let tunnels = self.tunnels.names().map(|(id, name)| Named::plain(id, name));
        let host = self.edge.host.device().map(|host| Named::plain(host.id, host.name.clone()));
        let ports: Vec<Named> = self.ports.iter().map(of).chain(uplink).chain(host).chain(tunnels).collect();
        names::find(&ports, name)
    }

    /// The bridge that a port belongs to now.
    pub(super) fn bridge_of(&self, id: PortId) -> Option<BridgeId> {
        let port = self.ports.get(id).filter(|port| port.config.is_bridged()).map(|port| bridge_id(port.config.bridge));
        let uplink = || self.edge.uplink.as_ref().filter(|uplink| uplink.id == id)?.bridge();
        let peer = || self.tunnels.spec_of(self.tunnels.peers().iter().find(|peer| peer.id == id)?).bridge();
        port.or_else(uplink).or_else(peer)
    }

    /// The bridges that all ports belong to now, by port number.
    pub(super) fn bridges_of_ports(&self) -> Vec<Option<BridgeId>> {
        let bridged = self.ports.iter().filter(|port| port.config.is_bridged());
        let ports = bridged.map(|port| (port.id, Some(bridge_id(port.config.bridge))));
        let uplink = self.edge.uplink.as_ref().map(|uplink| (uplink.id, uplink.bridge()));
        let peers = self.tunnels.peers().iter().map(|peer| (peer.id, self.tunnels.spec_of(peer).bridge()));
        let mut bridges = vec![None; self.fabric.slots.end()];
        for (id, bridge) in ports.chain(uplink).chain(peers) {
            bridges[id.index()] = bridge;
        }
        bridges
    }

    /// The guests with their ports and rules.
    pub(super) fn guests(&self) -> Vec<api::Guest> {
        let mut names: HashMap<&str, &str> = HashMap::new();
        names.extend(self.config.ports.iter().filter_map(|port| Some((port.identity.id.as_deref()?, port.name.as_str()))));
        let isolated = self.config.ports.iter().filter(|port| port.station.isolated);
        let isolated: HashSet<&str> = isolated.filter_map(|port| port.identity.id.as_deref()).collect();
        let view = |guest: &config::Guest| api::Guest {
            id: guest.id.clone(),
            network: guest.network.clone(),
            port: names.get(guest.id.as_str()).map_or_else(String::new, |name| (*name).to_owned()),
            interface: guest.interface.clone(),
            netns: guest.netns.as_ref().map(ToString::to_string),
            mac: guest.mac.as_ref().map(ToString::to_string),
            addresses: guest.addresses.iter().map(|(address, prefix_len)| format!("{address}/{prefix_len}")).collect(),
            gateway: self.network(&guest.network).and_then(|network| network.gateway).map(|gateway| gateway.to_string()),
            names: guest.names.clone(),
            publish: guest.publish.iter().map(ToString::to_string).collect(),
            isolated: isolated.contains(guest.id.as_str()),
            labels: guest.labels.iter().cloned().collect(),
            made_by_verb: matches!(guest.origin, config::Origin::Verb(_)),
        };
        self.config.guests.iter().map(view).collect()
    }

    /// What a network driver asks of the bridge of this name.
    pub(super) fn network(&self, bridge: &str) -> Option<Network> {
        let bridge = self.config.bridges.iter().find(|known| known.name == bridge)?;
        let gateways = self.config.router.iter().flat_map(|router| &router.gateways);
        let untagged = gateways.into_iter().find(|gateway| gateway.bridge == bridge.number && gateway.vlan == VlanId::NONE);
        Some(Network {
            gateway: untagged.map(|gateway| gateway.address.address),
            is_internal: untagged.is_some_and(|gateway| gateway.reach == config::Reach::Nothing),
        })
    }

    /// The switch as a whole.
    pub(super) fn show(&self, report: &Report) -> api::Show {
        let interfaces = self.edge.interfaces();
        let gateway = |interface: &vswitch::Interface| api::Gateway {
            bridge: self.fabric.bridges.name(interface.domain.bridge).to_owned(),
            routing: match interface.reach {
                vswitch::Reach::All => api::Reach::All,
                vswitch::Reach::Outside => api::Reach::Outside,
                vswitch::Reach::Nothing => api::Reach::Nothing,
            },
            vlan: interface.domain.vlan.get(),
            address: interface.address.to_string(),
            prefix_len: interface.network.prefix_len(),
            mac: interface.mac.to_string(),
            host: interface.has_host,
        };
        let mut ports_of: HashMap<usize, usize> = HashMap::new();
        for port in self.ports.iter().filter(|port| port.config.is_bridged() && !port.is_unused()) {
            *ports_of.entry(port.config.bridge).or_default() += 1;
        }
        let bridge = |bridge: &Bridge| api::Bridge {
            name: bridge.config.name.clone(),
            workers: self.fabric.workers.len(),
            ports: ports_of.get(&bridge.config.number).copied().unwrap_or(0),
            mac_entries: bridge.table.stats().entries,
            mac_table_size: bridge.config.mac_table_size,
            mac_aging_time: bridge.config.mac_aging_time,
            gateways: interfaces.clone().filter(|one| one.domain.bridge == bridge.id()).map(gateway).collect(),
        };
        let bridges: Vec<api::Bridge> = self.fabric.bridges.iter().map(bridge).collect();
        let uplink = self.edge.uplink.as_ref().and_then(|uplink| self.bridged_uplink_view(uplink));
        let host = self.edge.host.device().map(host_view);
        api::Show {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime: self.fabric.now().secs().into(),
            bridge: bridges[0].clone(),
            bridges,
            ports: self.ports.iter().filter_map(|port| self.port_view(port)).chain(uplink).chain(host).collect(),
            gateways: interfaces.map(gateway).collect(),
            routes: self.routes(),
            uplink: self.edge.uplink.as_ref().map(|uplink| self.uplink_view(uplink)),
            tunnels: self.tunnels(report),
            latency: self.latency(),
            problems: self.problems(|id| {
                report.ports.get(id.index()).map_or((0, 0), |port| (port.totals.rx_frames, port.totals.tx_frames))
            }),
        }
    }

    /// All tunnels and their peers.
    pub(super) fn tunnels(&self, report: &Report) -> Vec<api::Tunnel> {
        self.tunnels.tunnels().map(|(spec, peers)| self.tunnel_view(spec, peers, report)).collect()
    }

    fn uplink_view(&self, uplink: &UplinkPort) -> api::Uplink {
        api::Uplink {
            interface: uplink.interface.clone(),
            mode: if uplink.is_bridged() { UplinkMode::Bridge } else { UplinkMode::Nat },
            state: uplink.shown_state(),
            mtu: uplink.state().map(|state| state.mtu),
            outside: self.edge.router.as_ref().and_then(RouterControl::outside).map(|address| address.to_string()),
            gate: self.edge.router.as_ref().and_then(RouterControl::gate),
        }
    }

    /// The status line for the service manager: the first problem, or the number of ports.
    pub(super) fn status(&self) -> String {
        // Without counters, which take a while: a silent peer is no news for a service manager.
        let problems = self.problems(|_| (0, 0));
        let ports = self.ports.iter().filter(|port| !port.is_free()).count();
        match problems.as_slice() {
            [] => format!("carrying frames of {}", count_of(ports, "port")),
            [problem] => problem.clone(),
            [first, others @ ..] => format!("{first}; and {}", count_of(others.len(), "other problem")),
        }
    }

    /// The problems. `counted` are the frames received from a peer of a tunnel and sent to it.
    fn problems(&self, counted: impl Fn(PortId) -> (u64, u64)) -> Vec<String> {
        let bad = |state: State| matches!(state, State::Down | State::Gone);
        let ports = self.ports.iter().filter_map(|port| self.port_view(port)).filter(|port| bad(port.state));
        let mut problems: Vec<String> = ports.map(|port| format!("port {} is {}", port.name, port.state)).collect();
        let uplink = self.edge.uplink.as_ref().filter(|uplink| bad(uplink.shown_state()));
        problems.extend(uplink.map(|uplink| format!("uplink {} is {}", uplink.interface, uplink.shown_state())));
        if self.edge.router.as_ref().is_some_and(|router| router.nat().is_some() && router.outside().is_none()) {
            problems.push("the uplink has no address, so no guest gets out".to_owned());
        }
        if self.edge.host.is_missing() {
            problems.push("no TUN device could be made, so the host is no neighbour of its guests".to_owned());
        }
        problems.extend(self.state_problem.map(str::to_owned));
        problems.extend(self.config.out_of_reach().into_iter().map(|finding| finding.text));
        problems.extend(self.loops());
        let peers = self.tunnels.peers().iter().filter_map(|peer| Some((peer, peer.problem()?)));
        let way = |(peer, problem): (&PeerControl, &str)| {
            format!("tunnel {}: no route to {}: {problem}", self.tunnels.spec_of(peer).name, peer.address)
        };
        problems.extend(peers.map(way));
        problems.extend(self.tunnels.far_ends(self.fabric.now(), counted));
        problems.extend(self.ports.problems(self.fabric.now()));
        if self.fabric.panics > 0 {
            problems.push(format!("workers panicked {} times", self.fabric.panics));
        }
        problems
    }

    /// A sentence for each port that the loop guard has blocked, or had blocked a short time ago: a loop lasts longer than a block.
    fn loops(&self) -> Vec<String> {
        let now = self.fabric.now();
        let recent = |bridge: &Bridge| bridge.table.blocked_within(now, RECENT_LOOP);
        let blocked: Vec<_> = self.fabric.bridges.iter().flat_map(recent).collect();
        if blocked.is_empty() {
            return Vec::new();
        }
        let names = self.port_names();
        let name = |id: PortId| names.get(id.index()).cloned().unwrap_or_default();
        let sentence = |found: vswitch::mac_table::Loop| {
            let (port, other) = (name(found.port), name(found.other));
            let vlans = api::blocked_vlans(found.vlan.get(), found.in_all_vlans);
            let state = match found.until.since(now).as_secs() {
                _ if now >= found.until => format!("was blocked{vlans} until {} s ago", now.since(found.until).as_secs() + 1),
                left => format!("is blocked{vlans} for {} s more", left + 1),
            };
            format!(
                "port {port} {state}: a loop with port {other}, {mac} keeps moving between them; remove the bridge or cable that \
                 connects the two",
                mac = found.mac
            )
        };
        blocked.into_iter().map(sentence).collect()
    }

    /// The neighbours that the router knows, by network and address.
    pub(super) fn neighbours(&self) -> Vec<api::Neighbour> {
        let Some(router) = &self.edge.router else { return Vec::new() };
        let domain = |id: vswitch::InterfaceId| router.interface(id).filter(|_| id != UPLINK).map(|interface| interface.domain);
        let mut entries = router.neighbours().entries(self.fabric.now());
        // Of a network that is gone, a worker may just have resolved an address.
        entries.retain(|entry| entry.interface == UPLINK || router.interface(entry.interface).is_some());
        entries.sort_unstable_by_key(|entry| (entry.interface.0, entry.address));
        let view = |entry: vswitch::NeighbourEntry| api::Neighbour {
            bridge: domain(entry.interface).map(|domain| self.fabric.bridges.name(domain.bridge).to_owned()),
            vlan: domain(entry.interface).map(|domain| domain.vlan.get()),
            address: entry.address.to_string(),
            mac: entry.mac.map(|mac| mac.to_string()),
            age: entry.age,
        };
        entries.into_iter().map(view).collect()
    }

    /// The translation, and at most `most` of its mappings.
    pub(super) fn nat(&self, most: usize) -> Option<(api::Nat, Vec<nat::PortMapping>)> {
        let router = self.edge.router.as_ref()?;
        let (total, mappings) = router.nat()?.mappings(most);
        let stats = nat_stats(router.nat()?);
        let address = |external: &nat::External| api::OutsideAddress {
            address: external.address.to_string(),
            kind: match external.kind {
                nat::ExternalKind::Own => AddressKind::Own,
                nat::ExternalKind::Shared => AddressKind::Shared,
                nat::ExternalKind::OneToOne(_) => AddressKind::OneToOne,
            },
            guest: match external.kind {
                nat::ExternalKind::OneToOne(guest) => Some(guest.to_string()),
                nat::ExternalKind::Own | nat::ExternalKind::Shared => None,
            },
        };
        let view = api::Nat {
            addresses: router.externals().iter().map(address).collect(),
            published: router.config().publish.iter().map(Publish::to_string).collect(),
            total,
            mappings: Vec::new(),
            stats,
        };
        Some((view, mappings))
    }

    /// The state of a port. Places for guests that never had a guest are shown as one.
    fn port_view(&self, port: &ManagedPort) -> Option<api::Port> {
        let name = if port.is_unused() { port.config.title()? } else { port.name().to_owned() };
        let (vlan_mode, vlan, trunks) = vlans_view(port.config.is_bridged().then_some(&port.config.vlans));
        Some(api::Port {
            name,
            id: port.config.identity.id.clone(),
            labels: port.config.identity.labels.iter().cloned().collect(),
            bridge: port.config.is_bridged().then(|| self.fabric.bridges.name(bridge_id(port.config.bridge)).to_owned()),
            kind: port.kind(),
            namespace: port.config.link().and_then(|(_, netns)| netns).map(ToString::to_string),
            vlan_mode,
            vlan,
            trunks,
            state: port.state(),
            loop_blocked: port.config.is_bridged() && self.is_blocked(port.id, bridge_id(port.config.bridge)),
            mtu: port.link().map(|link| link.mtu).or(port.config.mtu),
            device: port.device().map_or_else(String::new, PortDevice::summary),
            limits: port.config.is_bridged().then(|| {
                let config::Limits { broadcast, multicast, unknown } = port.config.limits;
                api::Limits { broadcast, multicast, unknown }
            }),
            mac: port.config.station.mac.or(port.device().and_then(PortDevice::station_mac)).map(|mac| mac.to_string()),
            addresses: port.config.station.addresses.iter().map(|prefix| config::address_text(*prefix)).collect(),
            guard: port.config.station.guard,
            isolated: port.config.station.isolated,
            wait: port.config.absence.waits,
            transient: port.config.absence.is_transient,
        })
    }

    /// Whether the loop guard has blocked a port.
    fn is_blocked(&self, id: PortId, bridge: BridgeId) -> bool {
        self.fabric.bridges.table(bridge).is_some_and(|table| table.is_blocked_anywhere(id, self.fabric.now()))
    }

    /// An uplink in bridge mode is a port of a bridge like others.
    fn bridged_uplink_view(&self, uplink: &UplinkPort) -> Option<api::Port> {
        uplink.bridge().map(|bridge| api::Port {
            name: uplink.interface.clone(),
            id: None,
            labels: BTreeMap::new(),
            bridge: Some(self.fabric.bridges.name(bridge).to_owned()),
            kind: PortKind::Uplink,
            namespace: None,
            vlan_mode: Some(api::VlanMode::Trunk),
            vlan: None,
            trunks: None,
            state: uplink.shown_state(),
            loop_blocked: self.is_blocked(uplink.id, bridge),
            mtu: uplink.state().map(|state| state.mtu),
            device: String::new(),
            limits: None,
            mac: None,
            addresses: Vec::new(),
            guard: false,
            isolated: false,
            wait: false,
            transient: false,
        })
    }

    fn tunnel_view<'a>(&self, spec: &TunnelSpec, peers: impl Iterator<Item = &'a PeerControl>, report: &Report) -> api::Tunnel {
        let peer = |peer: &PeerControl| {
            let counted = report.ports.get(peer.id.index());
            let number = |of: fn(&PortTotals) -> u64| counted.map_or(0, |port| of(&port.totals));
            api::Peer {
                address: peer.address.to_string(),
                mtu: peer.mtu(spec),
                source: peer.source().map(|source| source.to_string()),
                problem: peer.problem().map(str::to_owned).or_else(|| self.tunnels.far_end_of(peer, self.fabric.now())),
                last_heard: peer.last_heard(number(|port| port.rx_frames), self.fabric.now()),
                rx_frames: number(|port| port.rx_frames),
                rx_bytes: number(|port| port.rx_bytes),
                tx_frames: number(|port| port.tx_frames),
                tx_bytes: number(|port| port.tx_bytes),
                dropped: number(PortTotals::dropped),
            }
        };
        api::Tunnel {
            name: spec.name.clone(),
            bridge: spec.bridge().map(|bridge| self.fabric.bridges.name(bridge).to_owned()),
            kind: match spec.framing.kind() {
                FramingKind::Vxlan => TunnelKind::Vxlan,
                FramingKind::Ethernet => TunnelKind::Udp,
                FramingKind::Ip => TunnelKind::UdpIp,
            },
            vni: spec.framing.vni().map(::tunnel::Vni::number),
            local: spec.local.map(|local| local.to_string()),
            port: spec.port,
            device: spec.device.clone(),
            peers: peers.map(peer).collect(),
        }
    }

    /// All ports that can have frames, by their numbers.
    pub(super) fn capture_ports(&self) -> Vec<PortNow> {
        let mut ports: Vec<PortNow> = Vec::new();
        for port in self.ports.iter() {
            let (kind, vlan) = (port.kind(), port.config.vlan_text());
            let is_raw = !port.config.is_bridged();
            let description = if is_raw || vlan.is_empty() { kind.to_string() } else { format!("{kind}, {vlan}") };
            ports.push(PortNow { id: port.id.0, name: port.name().to_owned(), description, is_raw, is_there: !port.is_unused() });
        }
        let uplink = |uplink: &UplinkPort| {
            let description = if uplink.is_bridged() { "uplink, bridged" } else { "uplink, routed" };
            PortNow {
                id: uplink.id.0,
                name: uplink.interface.clone(),
                description: description.to_owned(),
                is_raw: false,
                is_there: true,
            }
        };
        ports.extend(self.edge.uplink.as_ref().map(uplink));
        let host = |host: &HostDevice| PortNow {
            id: host.id.0,
            name: host.name.clone(),
            description: PortKind::Host.to_string(),
            is_raw: true,
            is_there: true,
        };
        ports.extend(self.edge.host.device().map(host));
        let specs: HashMap<PortId, &TunnelSpec> =
            self.tunnels.peers().iter().map(|peer| (peer.id, self.tunnels.spec_of(peer))).collect();
        for (id, name) in self.tunnels.names() {
            let spec = specs.get(&id);
            let is_raw = spec.is_some_and(|spec| !spec.framing.kind().carries_ethernet());
            let vni = spec.and_then(|spec| spec.framing.vni()).map_or_else(String::new, |vni| format!(", VNI {vni}"));
            let description = match spec {
                Some(spec) => format!("peer of tunnel {}{vni}", spec.name),
                None => "datagrams of no peer".to_owned(),
            };
            ports.push(PortNow { id: id.0, name, description, is_raw, is_there: spec.is_some() });
        }
        ports.sort_by_key(|port| port.id);
        ports
    }
}

/// The device by which the host is a neighbour, as a port.
fn host_view(host: &HostDevice) -> api::Port {
    api::Port {
        name: host.name.clone(),
        id: None,
        labels: BTreeMap::new(),
        bridge: None,
        kind: PortKind::Host,
        namespace: None,
        vlan_mode: None,
        vlan: None,
        trunks: None,
        state: host.state(),
        loop_blocked: false,
        mtu: Some(host.mtu()),
        device: PortDevice::summary(host.tun()),
        limits: None,
        mac: None,
        addresses: Vec::new(),
        guard: false,
        isolated: false,
        wait: false,
        transient: false,
    }
}

/// Mode, own VLAN and trunk VLANs of a port of a bridge; nothing for a TUN device.
fn vlans_view(vlans: Option<&Vlans>) -> (Option<api::VlanMode>, Option<u16>, Option<Vec<u16>>) {
    let listed = |trunks: &Trunks| match trunks {
        Trunks::All => None,
        Trunks::Listed(vlans) => Some(vlans.iter().map(|vlan| vlan.get()).collect()),
    };
    match vlans {
        None => (None, None, None),
        Some(Vlans::Access(vlan)) => (Some(api::VlanMode::Access), Some(vlan.get()), None),
        Some(Vlans::Trunk(trunks)) => (Some(api::VlanMode::Trunk), None, listed(trunks)),
        Some(Vlans::NativeTagged(vlan, trunks)) => (Some(api::VlanMode::NativeTagged), Some(vlan.get()), listed(trunks)),
        Some(Vlans::NativeUntagged(vlan, trunks)) => (Some(api::VlanMode::NativeUntagged), Some(vlan.get()), listed(trunks)),
    }
}

/// Connections, mappings, ports and fragments of the translation.
pub(super) fn nat_stats(nat: &nat::Nat) -> api::NatStats {
    let nat::NatStats { connections, mappings, opened, expired, flushed, evicted } = nat.stats();
    let (datagrams, held_frames) = nat.fragments_now();
    let ports = |usage: nat::PortUsage| api::NatPorts {
        address: usage.address.to_string(),
        protocol: Protocol(usage.protocol.0),
        used: usage.used,
        free: usage.free,
    };
    api::NatStats {
        connections,
        mappings,
        opened,
        expired,
        flushed,
        evicted,
        max_connections: nat.config().max_connections,
        ports: nat.port_usage().into_iter().map(ports).collect(),
        fragments: api::FragmentStats { datagrams, max_datagrams: nat::fragments::DATAGRAMS, held_frames },
    }
}
