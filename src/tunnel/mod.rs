//! Tunnels as the control thread sees them: sockets, peers, and the ways to them.
//!
//! ```text
//!   ports of the bridge at the start:   tap0 .. | uplink | sockets that receive | peers (one each)
//! ```
//!
//! One tunnel of the configuration is several things here: the sockets that it receives by, which it may share
//! with others; the sockets that it sends by, of which there is one set for each address and kind of outer
//! header; and a port for each host at its other end, which is what the bridge knows.
//!
//! *The way to a peer* may change: another route, another MTU, none at all. The kernel is asked once a second
//! (and of many peers some each time). The pipeline answers packets that are too long for the path with ICMP
//! errors, so it has to know the MTU; sockets stay as they are, and errors show when something is sent.
//!
//! *Sources of a group.* A tunnel over multicast has peers that the configuration does not name. One that is believed and has no
//! port gets one of the ports kept for the group; when they are used up, it shares the group's port.

mod attach;
mod change;
mod health;
mod mtu;
mod peer;
mod socket;
mod spec;

use std::fmt::Write as _;
use std::iter;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::{Context, ensure};
use config::{Checksum, DontFragment, GROUP_PORTS};
use netio::udp::{ChecksumPolicy, Sources, SourcesSpec};
use packet::{Ipv4Prefix, MacAddr};
use tunnel::Framing;
use tunnel::peers::Believed;
use vswitch::{BridgeId, IpTunnel, MacTable, NewSource, PortId};

use crate::fabric::slots::Slots;
use crate::worker::PeerSink;
pub(crate) use change::NewTunnels;
pub(crate) use mtu::overlay_mtu;
pub(crate) use peer::PeerControl;
pub(crate) use socket::SocketControl;
pub(crate) use spec::TunnelSpec;

/// Number of peers whose paths are looked at in one turn.
const LOOKS_AT_ONCE: usize = 64;

/// An interface that tunnels are bound to.
#[derive(Clone, PartialEq, Eq, Debug)]
struct BoundDevice {
    name: String,
    /// The index of the interface that their sockets are bound to; `None` if there was none.
    index: Option<u32>,
    /// Why their sockets cannot be opened on the interface that has the name now.
    problem: Option<String>,
}

/// All tunnels of all bridges.
#[derive(Debug)]
pub(crate) struct TunnelControl {
    tunnels: Vec<Tunnel>,
    sockets: Vec<SocketControl>,
    /// Peers of the configuration, then those found in groups.
    peers: Vec<PeerControl>,
    /// The peer whose path is looked at next.
    next_look: usize,
    /// Interfaces that tunnels are bound to.
    devices: Vec<BoundDevice>,
    /// Sets of sending sockets, each for all tunnels that send alike.
    pools: Vec<(SourcesSpec, Sources)>,
    /// Datagrams dropped by the kernel on sockets of tunnels that went.
    dropped_before: u64,
}

/// One tunnel.
#[derive(Debug)]
struct Tunnel {
    spec: TunnelSpec,
    statics: Vec<(MacAddr, IpAddr)>,
    /// The networks that IP packets go to.
    routes: Vec<(Ipv4Prefix, Ipv4Addr)>,
    /// The index of its receiving socket.
    socket: usize,
    sink: Ways,
    /// The port of its group.
    group: Option<PortId>,
}

/// The sockets that a tunnel sends by.
#[derive(Clone, Debug)]
struct Ways {
    /// For datagrams that must not be fragmented.
    whole: Sources,
    /// For datagrams that may be fragmented.
    cut: Sources,
}

impl TunnelControl {
    /// Opens the sockets of all tunnels, those of bridges first. Sockets take the first free numbers, each with as many
    /// sockets as `queues` says, and peers the next ones.
    pub(crate) fn open(
        configs: &[config::Tunnel],
        ip_configs: &[config::IpTunnel],
        slots: &mut Slots,
        queues: impl Fn(PortId) -> usize,
    ) -> anyhow::Result<TunnelControl> {
        let specs = specs(configs, ip_configs);
        let sockets = socket::open(&specs, &mut iter::from_fn(|| slots.take()), queues)?;
        let mut control = TunnelControl {
            tunnels: Vec::with_capacity(specs.len()),
            sockets,
            peers: Vec::new(),
            next_look: 0,
            devices: devices(specs.iter()),
            pools: Vec::new(),
            dropped_before: 0,
        };
        let statics = configs.iter().map(|config| config.statics.clone()).chain(iter::repeat(Vec::new()));
        let routes = iter::repeat_n(Vec::new(), configs.len()).chain(ip_configs.iter().map(|config| config.routes.clone()));
        for (spec, (statics, routes)) in specs.into_iter().zip(statics.zip(routes)) {
            let socket = socket::of(&control.sockets, &spec).context("a tunnel without a socket")?;
            let sink = open_ways(&mut control.pools, &spec)?;
            control.tunnels.push(Tunnel { spec, statics, routes, socket, sink, group: None });
        }
        control.add_peers(slots)?;
        for peer in &control.peers {
            let spec = control.spec_of(peer);
            ensure!(
                peer.source() != Some(peer.address),
                "tunnel {}: {} is an address of this host; name that of the other one",
                spec.name,
                peer.address
            );
        }
        Ok(control)
    }

    /// Adds a port for each host and each group of the configuration.
    fn add_peers(&mut self, slots: &mut Slots) -> anyhow::Result<()> {
        for at in 0..self.tunnels.len() {
            let spec = &self.tunnels[at].spec;
            let group = spec.group.as_ref().map(|group| group.address);
            let remotes = spec.remotes.clone();
            if let Some(address) = group {
                self.tunnels[at].group = Some(self.add_peer(slots, at, address, true)?);
            }
            for address in remotes {
                self.add_peer(slots, at, address, true)?;
            }
        }
        Ok(())
    }

    fn add_peer(&mut self, slots: &mut Slots, tunnel: usize, address: IpAddr, is_flooded: bool) -> anyhow::Result<PortId> {
        let id = slots.take().context("there is no number left for one more port")?;
        let mut peer = PeerControl::new(id, tunnel, address, is_flooded);
        peer.look(&self.tunnels[tunnel].spec);
        self.peers.push(peer);
        Ok(id)
    }

    /// The sockets that tunnels receive by.
    pub(crate) fn sockets(&self) -> &[SocketControl] {
        &self.sockets
    }

    /// The hosts at the other ends.
    pub(crate) fn peers(&self) -> &[PeerControl] {
        &self.peers
    }

    /// Each tunnel, with the hosts at its other ends.
    pub(crate) fn tunnels(&self) -> impl Iterator<Item = (&TunnelSpec, impl Iterator<Item = &PeerControl>)> {
        let peers_of = |at: usize| self.peers.iter().filter(move |peer| peer.tunnel == at);
        self.tunnels.iter().enumerate().map(move |(at, tunnel)| (&tunnel.spec, peers_of(at)))
    }

    /// The tunnel that a peer belongs to.
    pub(crate) fn spec_of(&self, peer: &PeerControl) -> &TunnelSpec {
        &self.tunnels[peer.tunnel].spec
    }

    /// The sockets that workers send to a peer by.
    pub(crate) fn sink_of(&self, peer: &PeerControl) -> PeerSink {
        let tunnel = &self.tunnels[peer.tunnel];
        PeerSink {
            to: peer::socket_address(peer.address, tunnel.spec.port, tunnel.spec.device.as_deref()),
            whole: tunnel.sink.whole.writer().clone(),
            cut: tunnel.sink.cut.writer().clone(),
        }
    }

    /// A receiving socket as workers know it.
    pub(crate) fn view_of(&self, at: usize) -> anyhow::Result<vswitch::ReceivingSocket> {
        let of_it = |tunnel: &Tunnel| tunnel.socket == at;
        let peers: Vec<tunnel::peers::Peer> = self
            .peers
            .iter()
            .filter(|peer| of_it(&self.tunnels[peer.tunnel]) && self.tunnels[peer.tunnel].group != Some(peer.id))
            .map(|peer| tunnel::peers::Peer {
                framing: self.tunnels[peer.tunnel].spec.framing,
                address: peer.address,
                port: peer.id.0,
            })
            .collect();
        let groups = self.tunnels.iter().filter(|tunnel| of_it(tunnel));
        let believed: Vec<Believed> = groups
            .filter_map(|tunnel| Some((tunnel, tunnel.group?, tunnel.spec.group.as_ref()?)))
            .flat_map(|(tunnel, id, group)| {
                group.peers.iter().map(move |prefix| Believed {
                    framing: tunnel.spec.framing,
                    address: prefix.network(),
                    prefix_len: prefix.prefix_len(),
                    port: id.0,
                })
            })
            .collect();
        let peers = tunnel::Peers::new(&peers, &believed)
            .map_err(|conflict| anyhow::anyhow!("{} is a peer of two tunnels on one port", conflict.address))?;
        Ok(vswitch::ReceivingSocket {
            framing: self.sockets[at].key.framing,
            peers: Arc::new(peers),
            locals: Arc::new(self.locals(at)),
            strangers: Arc::clone(&self.sockets[at].strangers),
        })
    }

    /// The longest packet that a socket receives in one datagram, in bytes.
    pub(crate) fn socket_mtu(&self, at: usize) -> u32 {
        let peers = self.peers.iter().filter(|peer| self.tunnels[peer.tunnel].socket == at);
        peers.map(|peer| peer.mtu(self.spec_of(peer))).min().unwrap_or(tunnel::mtu::MIN_MTU)
    }

    /// The sockets of these peers.
    pub(crate) fn sockets_of(&self, peers: &[PortId]) -> Vec<usize> {
        let peers = self.peers.iter().filter(|peer| peers.contains(&peer.id));
        let mut sockets: Vec<usize> = peers.map(|peer| self.tunnels[peer.tunnel].socket).collect();
        sockets.sort_unstable();
        sockets.dedup();
        sockets
    }

    /// The addresses at which a socket is reached: those that its peers are sent from, and its groups.
    fn locals(&self, at: usize) -> tunnel::Locals {
        let socket = &self.sockets[at];
        let tunnels = self.tunnels.iter().filter(|tunnel| tunnel.socket == at);
        let groups = tunnels.filter_map(|tunnel| Some(tunnel.spec.group.as_ref()?.address));
        let sources = self.peers.iter().filter(|peer| self.tunnels[peer.tunnel].socket == at).filter_map(PeerControl::source);
        let addresses = sources.chain(groups).chain([socket.key.local]).filter(|address| !address.is_unspecified());
        tunnel::Locals::new(socket.key.port, addresses)
    }

    /// The tunnel of a peer whose path begins at one of these addresses, if one of this bridge or beside the bridges has one.
    pub(crate) fn leaves_from(&self, bridge: BridgeId, addresses: &[Ipv4Addr]) -> Option<&str> {
        leaves_from(&self.peers, |peer| self.spec_of(peer), bridge, addresses)
    }

    /// A line for each socket and each peer, for the start's summary.
    pub(crate) fn summary(&self) -> String {
        let mut text = String::new();
        for socket in &self.sockets {
            let merged = if socket.udp.merges() { "merged" } else { "one by one (the kernel refused UDP_GRO)" };
            let _ = writeln!(text, "socket {}: datagrams come {merged}", socket.name());
        }
        for peer in &self.peers {
            let spec = self.spec_of(peer);
            let sent = if self.tunnels[peer.tunnel].sink.whole.writer().segments() { "in trains" } else { "one by one" };
            let _ = writeln!(text, "peer {}/{}: mtu {}, datagrams go {sent}", spec.name, peer.address, peer.mtu(spec));
        }
        text
    }

    /// Puts the addresses that are known to be behind a peer into its bridge's table, of those peers that are meant.
    pub(crate) fn add_statics<'a>(
        &self,
        table_of: impl Fn(BridgeId) -> Option<&'a MacTable>,
        is_meant: impl Fn(PortId) -> bool,
    ) -> anyhow::Result<()> {
        for (at, tunnel) in self.tunnels.iter().enumerate() {
            for (mac, address) in &tunnel.statics {
                let peer = self.peers.iter().find(|peer| peer.tunnel == at && peer.address == *address && is_meant(peer.id));
                let (Some(peer), Some(table)) = (peer, table_of(tunnel.spec.bridge)) else { continue };
                table
                    .add_static(tunnel.spec.vlan.native(), *mac, peer.id)
                    .map_err(|_| anyhow::anyhow!("the MAC table is full of static entries; raise --mac-table-size"))?;
            }
        }
        Ok(())
    }

    /// One of the tunnels of IP packets, in their order, whose TUN device is a port; and its peers' ports.
    pub(crate) fn ip_tunnel(&self, nth: usize, tun: PortId) -> Option<(Arc<IpTunnel>, Vec<PortId>)> {
        let at = self.nth_of_ip(nth)?;
        let peers = || self.peers.iter().filter(|peer| peer.tunnel == at);
        let routes = self.tunnels[at].routes.iter().filter_map(|(network, remote)| {
            let peer = peers().find(|peer| peer.address == *remote)?;
            Some((*network, peer.id))
        });
        let tunnel = IpTunnel::new(tun, routes.collect());
        Some((Arc::new(tunnel), peers().map(|peer| peer.id).collect()))
    }

    /// The longest packet that all hosts of one of the tunnels of IP packets can be sent, in bytes.
    pub(crate) fn ip_mtu(&self, nth: usize) -> Option<u32> {
        let at = self.nth_of_ip(nth)?;
        self.peers.iter().filter(|peer| peer.tunnel == at).map(|peer| peer.mtu(self.spec_of(peer))).min()
    }

    fn nth_of_ip(&self, nth: usize) -> Option<usize> {
        let of_ip = self.tunnels.iter().enumerate().filter(|(_, tunnel)| tunnel.spec.framing == Framing::Ip);
        of_ip.map(|(at, _)| at).nth(nth)
    }

    /// Looks at the paths to some of the peers. Returns those whose MTU, or whose local address, has changed.
    pub(crate) fn look(&mut self) -> Vec<PortId> {
        let count = self.peers.len();
        let mut changed = Vec::new();
        for _ in 0..count.min(LOOKS_AT_ONCE) {
            let at = self.next_look % count;
            self.next_look = at + 1;
            let peer = &mut self.peers[at];
            let spec = &self.tunnels[peer.tunnel].spec;
            let state = |peer: &PeerControl| (peer.mtu(spec), peer.source());
            let (before, problem) = (state(peer), peer.problem().map(str::to_owned));
            peer.look(spec);
            match peer.problem() {
                now if now == problem.as_deref() => {}
                Some(problem) => tracing::warn!(tunnel = spec.name, peer = %peer.address, problem, "no route to the peer"),
                None => tracing::info!(tunnel = spec.name, peer = %peer.address, "there is a way to the peer again"),
            }
            if state(peer) != before {
                let mtu = peer.mtu(spec);
                tracing::info!(tunnel = spec.name, peer = %peer.address, mtu, "the way to the peer changed");
                changed.push(peer.id);
            }
        }
        changed
    }

    /// A socket that is bound to an interface is bound to one that may have been deleted and made anew: then it
    /// is opened again. Returns the receiving sockets that are new, and the peers that have new ones.
    pub(crate) fn look_at_devices(&mut self) -> (Vec<usize>, Vec<PortId>) {
        self.sockets.iter_mut().for_each(SocketControl::join_again);
        let mut found = (Vec::new(), Vec::new());
        for at in 0..self.devices.len() {
            let BoundDevice { name, index, .. } = self.devices[at].clone();
            let now = index_of(&name);
            if now.is_none() || now == index {
                continue;
            }
            let problem = self.reopen(&name, &mut found).err().map(|error| format!("{error:#}"));
            let device = &mut self.devices[at];
            match &problem {
                None => {
                    tracing::info!(interface = name, "the interface was made anew; its tunnels' sockets are open again");
                    device.index = now;
                }
                Some(error) if device.problem.as_ref() == Some(error) => {}
                Some(error) => tracing::warn!(
                    interface = name,
                    error,
                    "the interface was made anew; cannot open its tunnels' sockets again; trying each second"
                ),
            }
            device.problem = problem;
        }
        found
    }

    /// Opens all sockets that are bound to an interface.
    fn reopen(&mut self, device: &str, (sockets, peers): &mut (Vec<usize>, Vec<PortId>)) -> anyhow::Result<()> {
        let is_on = |other: &Option<String>| other.as_deref() == Some(device);
        for (at, socket) in self.sockets.iter_mut().enumerate().filter(|(_, socket)| is_on(&socket.key.device)) {
            socket.reopen()?;
            sockets.push(at);
        }
        self.pools.retain(|(set, _)| !is_on(&set.device));
        for tunnel in self.tunnels.iter_mut().filter(|tunnel| is_on(&tunnel.spec.device)) {
            tunnel.sink = open_ways(&mut self.pools, &tunnel.spec)?;
        }
        peers.extend(self.peers.iter().filter(|peer| is_on(&self.tunnels[peer.tunnel].spec.device)).map(|peer| peer.id));
        Ok(())
    }

    /// Finds a port for a host that sent to a group, if one is left. Returns its number, and the place of the socket that the
    /// group is received by.
    fn find_place_for(&mut self, source: NewSource, slots: &mut Slots) -> Option<(PortId, usize)> {
        let of_it = |tunnel: &Tunnel| {
            self.sockets[tunnel.socket].id == source.socket && tunnel.spec.framing == source.framing && tunnel.group.is_some()
        };
        let at = self.tunnels.iter().position(of_it)?;
        let of_tunnel = || self.peers.iter().filter(|peer| peer.tunnel == at);
        let is_known = of_tunnel().any(|peer| peer.address == source.address);
        // One is the group.
        if is_known || of_tunnel().count() > GROUP_PORTS {
            return None;
        }
        let id = self.add_peer(slots, at, source.address, false).ok()?;
        Some((id, self.tunnels[at].socket))
    }

    /// Datagrams that the kernel dropped before we read them.
    pub(crate) fn dropped(&mut self) -> u64 {
        self.dropped_before + self.sockets.iter_mut().map(SocketControl::dropped).sum::<u64>()
    }

    /// The ports' numbers and names.
    pub(crate) fn names(&self) -> impl Iterator<Item = (PortId, String)> {
        let sockets = self.sockets.iter().map(|socket| (socket.id, socket.name()));
        let peers = self.peers.iter().map(|peer| (peer.id, format!("{}/{}", self.spec_of(peer).name, peer.address)));
        sockets.chain(peers)
    }
}

/// The name of the first of these peers' tunnels whose path begins at one of these addresses.
fn leaves_from<'a>(
    peers: &'a [PeerControl],
    spec_of: impl Fn(&'a PeerControl) -> &'a TunnelSpec,
    bridge: BridgeId,
    addresses: &[Ipv4Addr],
) -> Option<&'a str> {
    let from = |peer: &&'a PeerControl| {
        let is_of_it = spec_of(peer).bridge().is_none_or(|other| other == bridge);
        is_of_it && peer.source().is_some_and(|source| addresses.iter().any(|address| source == *address))
    };
    peers.iter().find(from).map(|peer| spec_of(peer).name.as_str())
}

/// The interfaces that these tunnels name.
fn devices<'a>(specs: impl Iterator<Item = &'a TunnelSpec>) -> Vec<BoundDevice> {
    let mut names: Vec<String> = specs.filter_map(|spec| spec.device.clone()).collect();
    names.sort_unstable();
    names.dedup();
    names.into_iter().map(|name| BoundDevice { index: index_of(&name), name, problem: None }).collect()
}

fn index_of(device: &str) -> Option<u32> {
    netio::link::get(device).ok().map(|link| link.index)
}

fn open_ways(pools: &mut Vec<(SourcesSpec, Sources)>, spec: &TunnelSpec) -> anyhow::Result<Ways> {
    let mut open = |dont_fragment| open_sources(pools, spec, dont_fragment);
    Ok(match spec.outer.dont_fragment {
        DontFragment::Set => open(true).map(|whole| Ways { cut: whole.clone(), whole })?,
        DontFragment::Unset => open(false).map(|cut| Ways { whole: cut.clone(), cut })?,
        DontFragment::Inherit => Ways { whole: open(true)?, cut: open(false)? },
    })
}

/// Which sets of sending sockets a tunnel has.
fn sources_specs(spec: &TunnelSpec) -> impl Iterator<Item = SourcesSpec> {
    let kinds: &[bool] = match spec.outer.dont_fragment {
        DontFragment::Set => &[true],
        DontFragment::Unset => &[false],
        DontFragment::Inherit => &[true, false],
    };
    kinds.iter().map(|dont_fragment| sources_spec(spec, *dont_fragment))
}

fn sources_spec(spec: &TunnelSpec, dont_fragment: bool) -> SourcesSpec {
    SourcesSpec {
        local: spec.local.unwrap_or_else(|| socket::unspecified(spec.is_ipv6())),
        device: spec.device.clone(),
        dont_fragment,
        checksum: match spec.outer.checksum {
            Checksum::Auto => ChecksumPolicy::Auto,
            Checksum::On => ChecksumPolicy::On,
            Checksum::Off => ChecksumPolicy::Off,
        },
        count: usize::from(tunnel::entropy::SOURCE_PORTS),
    }
}

/// A set of sending sockets, the same for all tunnels that send alike.
fn open_sources(pools: &mut Vec<(SourcesSpec, Sources)>, spec: &TunnelSpec, dont_fragment: bool) -> anyhow::Result<Sources> {
    let set = sources_spec(spec, dont_fragment);
    if let Some((_, sources)) = pools.iter().find(|(other, _)| *other == set) {
        return Ok(sources.clone());
    }
    let sources = Sources::open(&set).with_context(|| format!("tunnel {}", spec.name))?;
    pools.push((set, sources.clone()));
    Ok(sources)
}

/// Those of the bridge, and those of IP packets behind them.
fn specs(configs: &[config::Tunnel], ip_configs: &[config::IpTunnel]) -> Vec<TunnelSpec> {
    configs.iter().map(TunnelSpec::of).chain(ip_configs.iter().map(TunnelSpec::of_ip)).collect()
}

/// How many ports the tunnels need at most, besides their receiving sockets.
pub(crate) fn peer_count(configs: &[config::Tunnel], ip_configs: &[config::IpTunnel]) -> usize {
    specs(configs, ip_configs).iter().map(|spec| spec.ports(GROUP_PORTS)).sum()
}

/// How many sockets they receive by.
pub(crate) fn socket_count(configs: &[config::Tunnel], ip_configs: &[config::IpTunnel]) -> usize {
    socket::keys(&specs(configs, ip_configs)).len()
}
