//! What the control socket is told.

use packet::VlanId;
use vswitch::{PortTotals, UPLINK};

use super::Daemon;
use super::bridges::Bridge;
use super::stats::nat_stats;
use super::words::count_of;
use crate::config::{DeviceConfig, Publish};
use crate::control_socket::{MacTableNow, Query, views};
use crate::edge::router::RouterControl;
use crate::edge::uplink::UplinkPort;
use crate::fabric::report::Report;
use crate::ports::ManagedPort;
use crate::ports::device::Device;
use crate::tunnel::{Line, PeerControl};

/// So many are answered before devices have their turn.
const AT_ONCE: usize = 16;

impl Daemon {
    /// Answers who asked. Whoever went away meanwhile is not worth the work.
    pub(super) fn answer_queries(&mut self) {
        for turn in 0..AT_ONCE {
            let at_socket = || self.control.as_ref()?.next_query();
            let of_scraper = || self.scrape.as_ref()?.next_query();
            // Neither waits until the other has no more.
            let query = if turn % 2 == 0 { at_socket().or_else(of_scraper) } else { of_scraper().or_else(at_socket) };
            let Some(query) = query else { return };
            self.answer(query);
        }
        self.poller.waker().wake();
    }

    fn answer(&mut self, query: Query) {
        match query {
            Query::Show(reply) if !reply.is_closed() => drop(reply.send(self.show())),
            Query::Stats(reply) if !reply.is_closed() => drop(reply.send(self.stats())),
            Query::Metrics(reply) if !reply.is_closed() => {
                let report = self.report();
                drop(reply.send((self.stats_of(&report), self.tunnel_views(&report))));
            }
            Query::Health(reply) => drop(reply.send(())),
            Query::MacTable(reply) if !reply.is_closed() => {
                let names = self.port_names();
                drop(reply.send(MacTableNow { bridges: self.mac_entries(), names }));
            }
            Query::Neighbours(reply) if !reply.is_closed() => drop(reply.send(self.neighbours())),
            Query::Connections { which, most, reply } if !reply.is_closed() => {
                let nat = self.router.as_ref().and_then(RouterControl::nat);
                let found = nat.map(|nat| nat.find_connections(self.clock.now(), most, |connection| which.matches(connection)));
                drop(reply.send(found));
            }
            Query::Nat { most, reply } if !reply.is_closed() => drop(reply.send(self.nat_view(most))),
            Query::BeginCapture { port, want, reply } if !reply.is_closed() => {
                drop(reply.send(self.begin_capture(port.as_deref(), want)));
            }
            Query::CapturePorts(reply) if !reply.is_closed() => drop(reply.send(self.capture_ports())),
            Query::Imagine(words, reply) if !reply.is_closed() => drop(reply.send(self.imagine(&words))),
            Query::Follow { count, port, filter, reply } if !reply.is_closed() => {
                drop(reply.send(self.follow(count, port.as_deref(), filter)));
            }
            // What is to be changed is changed whether or not somebody waits for the answer.
            Query::AddMac { vlan, mac, port, reply } => drop(reply.send(self.add_mac(vlan, mac, &port))),
            Query::RemoveMac { bridge, vlan, mac, reply } => drop(reply.send(self.remove_mac(bridge.as_deref(), vlan, mac))),
            Query::FlushMacs { bridge, port, vlan, reply } => {
                drop(reply.send(self.flush_macs(bridge.as_deref(), port.as_deref(), vlan)));
            }
            Query::FlushNeighbours { address, reply } => drop(reply.send(self.flush_neighbours(address))),
            Query::Reconfigure { verb, dry_run, reply } => drop(reply.send(self.reconfigure(&verb, dry_run))),
            Query::FlushConnections { which, reply } => drop(reply.send(self.flush_connections(&which))),
            _ => {}
        }
    }

    fn show(&mut self) -> views::Show {
        let report = self.report();
        let interfaces = self.router.as_ref().map_or(&[][..], RouterControl::interfaces);
        let gateway = |interface: &vswitch::Interface| views::Gateway {
            bridge: self.bridges.name(interface.domain.bridge).to_owned(),
            vlan: interface.domain.vlan.get(),
            address: interface.address.to_string(),
            prefix_len: interface.network.prefix_len(),
            mac: interface.mac.to_string(),
        };
        let bridge = |(number, bridge): (usize, &Bridge)| views::Bridge {
            name: bridge.config.name.clone(),
            workers: self.workers.len(),
            mac_entries: bridge.table.stats().entries,
            mac_table_size: bridge.config.mac_table_size,
            mac_aging_time: bridge.config.mac_aging_time,
            gateways: interfaces.iter().filter(|one| one.domain.bridge.index() == number).map(gateway).collect(),
        };
        let bridges: Vec<views::Bridge> = self.bridges.iter().enumerate().map(bridge).collect();
        let uplink = self.uplink.as_ref().and_then(|uplink| self.bridged_uplink_view(uplink));
        views::Show {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime: self.clock.now().secs().into(),
            bridge: bridges[0].clone(),
            bridges,
            ports: self.ports.iter().filter_map(|port| self.port_view(port)).chain(uplink).collect(),
            gateways: interfaces.iter().map(gateway).collect(),
            uplink: self.uplink.as_ref().map(|uplink| self.uplink_view(uplink)),
            tunnels: self.tunnel_views(&report),
            latency: self.latency(),
            problems: self.problems(),
        }
    }

    fn tunnel_views(&self, report: &Report) -> Vec<views::Tunnel> {
        self.tunnels.tunnels().map(|(line, peers)| self.tunnel_view(line, peers, report)).collect()
    }

    pub(super) fn uplink_view(&self, uplink: &UplinkPort) -> views::Uplink {
        views::Uplink {
            interface: uplink.interface.clone(),
            mode: if uplink.is_bridged() { "bridge" } else { "nat" }.to_owned(),
            state: uplink_state(uplink).to_owned(),
            mtu: uplink.state().map(|state| state.mtu),
            outside: self.router.as_ref().and_then(RouterControl::outside).map(|address| address.to_string()),
        }
    }

    /// In one line: what is wrong, or how much is carried.
    pub(super) fn status(&self) -> String {
        let problems = self.problems();
        let ports = self.ports.iter().filter(|port| !port.is_free()).count();
        match problems.as_slice() {
            [] => format!("carrying frames of {}", count_of(ports, "port")),
            [problem] => problem.clone(),
            [first, others @ ..] => format!("{first}; and {}", count_of(others.len(), "other problem")),
        }
    }

    fn problems(&self) -> Vec<String> {
        let bad = |state: &str| matches!(state, "down" | "gone");
        let ports = self.ports.iter().filter_map(|port| self.port_view(port)).filter(|port| bad(&port.state));
        let mut problems: Vec<String> = ports.map(|port| format!("port {} is {}", port.name, port.state)).collect();
        let uplink = self.uplink.as_ref().filter(|uplink| bad(uplink_state(uplink)));
        problems.extend(uplink.map(|uplink| format!("uplink {} is {}", uplink.interface, uplink_state(uplink))));
        if self.router.as_ref().is_some_and(|router| router.nat().is_some() && router.outside().is_none()) {
            problems.push("the uplink has no address, so no guest gets out".to_owned());
        }
        let peers = self.tunnels.peers().iter().filter_map(|peer| Some((peer, peer.problem()?)));
        let way = |(peer, problem): (&PeerControl, &str)| {
            format!("tunnel {}: no way to {}: {problem}", self.tunnels.line_of(peer).name, peer.address)
        };
        problems.extend(peers.map(way));
        if self.panics > 0 {
            problems.push(format!("workers panicked {} times", self.panics));
        }
        problems
    }

    fn neighbours(&self) -> Vec<views::Neighbour> {
        let Some(router) = &self.router else { return Vec::new() };
        let network = |id: vswitch::InterfaceId| {
            let Some(interface) = router.interfaces().get(usize::from(id.0)).filter(|_| id != UPLINK) else {
                return "uplink".to_owned();
            };
            let bridge = self.bridges.name_among_several(interface.domain.bridge);
            let bridge = bridge.map_or_else(String::new, |name| format!("{name} "));
            match interface.domain.vlan {
                VlanId::NONE => format!("{bridge}untagged"),
                vlan => format!("{bridge}vlan {vlan}"),
            }
        };
        let mut entries = router.neighbours().entries(self.clock.now());
        entries.sort_unstable_by_key(|entry| (entry.interface.0, entry.address));
        let view = |entry: vswitch::NeighbourEntry| views::Neighbour {
            network: network(entry.interface),
            address: entry.address.to_string(),
            mac: entry.mac.map(|mac| mac.to_string()),
            age: entry.age,
        };
        entries.into_iter().map(view).collect()
    }

    fn nat_view(&self, most: usize) -> Option<(views::Nat, Vec<nat::PortMapping>)> {
        let router = self.router.as_ref()?;
        let (total, mappings) = router.nat()?.mappings(most);
        let stats = nat_stats(router.nat()?);
        let address = |external: &nat::External| views::OutsideAddress {
            address: external.address.to_string(),
            kind: match external.kind {
                nat::ExternalKind::Own => "own",
                nat::ExternalKind::Shared => "shared",
                nat::ExternalKind::OneToOne(_) => "one-to-one",
            }
            .to_owned(),
            guest: match external.kind {
                nat::ExternalKind::OneToOne(guest) => Some(guest.to_string()),
                nat::ExternalKind::Own | nat::ExternalKind::Shared => None,
            },
        };
        let view = views::Nat {
            addresses: router.externals().iter().map(address).collect(),
            published: router.config().publish.iter().map(Publish::to_string).collect(),
            total,
            mappings: Vec::new(),
            stats,
        };
        Some((view, mappings))
    }
}

impl Daemon {
    /// A port as it is now; of several places for guests that never had one, all are shown as the first.
    fn port_view(&self, port: &ManagedPort) -> Option<views::Port> {
        let name = if port.is_unused() { port.config.title()? } else { port.name().to_owned() };
        Some(views::Port {
            name,
            bridge: port.config.is_bridged().then(|| self.bridges.name(port.config.bridge).to_owned()),
            kind: kind_of(port).to_owned(),
            namespace: port.config.link().and_then(|(_, netns)| netns).map(ToString::to_string),
            vlan: port.config.vlan_text.clone(),
            state: port_state(port).to_owned(),
            mtu: port.link().map(|link| link.mtu).or(port.config.mtu()),
            device: port.device().map_or_else(String::new, Device::summary),
        })
    }

    /// An uplink in bridge mode is a port of a bridge like others.
    fn bridged_uplink_view(&self, uplink: &UplinkPort) -> Option<views::Port> {
        uplink.bridge().map(|bridge| views::Port {
            name: uplink.interface.clone(),
            bridge: Some(self.bridges.name(bridge).to_owned()),
            kind: "uplink".to_owned(),
            namespace: None,
            vlan: "trunk of all VLANs".to_owned(),
            state: uplink_state(uplink).to_owned(),
            mtu: uplink.state().map(|state| state.mtu),
            device: String::new(),
        })
    }

    fn tunnel_view<'a>(&self, line: &Line, peers: impl Iterator<Item = &'a PeerControl>, report: &Report) -> views::Tunnel {
        let peer = |peer: &PeerControl| {
            let counted = report.ports.get(peer.id.index());
            let number = |of: fn(&PortTotals) -> u64| counted.map_or(0, |port| of(&port.totals));
            views::Peer {
                address: peer.address.to_string(),
                mtu: peer.mtu(line),
                source: peer.source().map(|source| source.to_string()),
                problem: peer.problem().map(str::to_owned),
                rx_frames: number(|port| port.rx_frames),
                rx_bytes: number(|port| port.rx_bytes),
                tx_frames: number(|port| port.tx_frames),
                tx_bytes: number(|port| port.tx_bytes),
                dropped: number(PortTotals::dropped),
            }
        };
        views::Tunnel {
            name: line.name.clone(),
            bridge: line.bridge().map(|bridge| self.bridges.name(bridge).to_owned()),
            kind: line.framing.kind().name().to_owned(),
            vni: line.framing.vni().map(::tunnel::Vni::number),
            local: line.local.map(|local| local.to_string()),
            port: line.port,
            device: line.device.clone(),
            peers: peers.map(peer).collect(),
        }
    }
}

pub(super) fn kind_of(port: &ManagedPort) -> &'static str {
    match &port.config.device {
        DeviceConfig::Tap { .. } if !port.config.is_bridged() => "tun",
        DeviceConfig::Tap { .. } => "tap",
        DeviceConfig::Packet(_) => "packet",
        DeviceConfig::Stream(_) => "stream",
        DeviceConfig::Dgram(_) => "dgram",
    }
}

pub(super) fn port_state(port: &ManagedPort) -> &'static str {
    match port.link() {
        Some(link) if link.up => "up",
        Some(_) => "down",
        None if port.is_free() => "waiting",
        None => "gone",
    }
}

pub(super) fn uplink_state(uplink: &UplinkPort) -> &'static str {
    match uplink.state() {
        Some(state) if state.up => "up",
        Some(_) => "down",
        None => "gone",
    }
}
