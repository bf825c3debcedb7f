//! The control thread's side of the router: outside addresses, published ports, the way out.
//!
//! Workers share the [`Nat`] and the [`Neighbours`], and get a new [`Routing`] whenever something changes.
//!
//! *When an address disappears* (a DHCP lease that is renewed late, a cable that is unplugged), its connections end only
//! after [`GRACE`]: until then nothing leaves, and if the address returns, the connections continue.

mod gateways;
mod kept;
mod places;
mod routes;
mod rules;
mod settings;

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use config::{GateMode, NatUplink, Publish};
use nat::{External, ExternalKind, Nat};
use netio::gate::TrafficFilter;
use netio::memory::prefer_huge_pages;
use netio::packet_socket::Filter;
use netio::route::UplinkState;
use packet::{Ipv4Prefix, MacAddr, Timestamp};
use vswitch::{
    Domain, HostPort, Interface, InterfaceId, NeighbourConfig, Neighbours, PortId, Reach, Route, Router, Routing, Uplink,
};

use super::door::Door;
use super::gate::{Lost, UplinkGate};
use super::reserve::Reserved;
use super::uplink::UplinkPort;
use crate::model::bridge_id;
pub(crate) use gateways::CutOff;
pub(crate) use kept::KeptTable;
pub(crate) use places::{Place, places_of};
pub(crate) use rules::NewRules;

/// Pause between two rounds of reserving ports of the host.
const PORTS_PAUSE: Duration = Duration::from_millis(10);

/// How long an address may be away before its connections are ended.
const GRACE: Duration = Duration::from_secs(30);

/// The number of ports, at the start and at most.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PortNumbers {
    /// At the start, the uplink among them.
    pub(crate) at_start: usize,
    /// Their numbers are below this one, then and later.
    pub(crate) capacity: usize,
}

/// The router as the control thread sees it.
#[derive(Debug)]
pub(crate) struct RouterControl {
    config: config::Router,
    /// The networks inside by number; `None` where a number is free.
    interfaces: Vec<Option<Interface>>,
    nat: Option<Arc<Nat>>,
    /// The connection table over a restart.
    kept: KeptTable,
    neighbours: Arc<Neighbours>,
    /// What keeps the host silent on an address that is shared with it: a gate, or else reserved ports.
    gate: Option<UplinkGate>,
    reserved: Option<Reserved>,
    /// Networks that were cut off, until all workers have obeyed.
    cut_off: Vec<CutOff>,
    /// The outside addresses now; the router sends from the first one.
    externals: Vec<External>,
    /// Since when the shared address is away.
    lost_at: Option<Timestamp>,
    /// They were asked for.
    has_huge_pages: bool,
    has_taken_ports: bool,
    wants_ports: bool,
    ports_due: Timestamp,
    /// UDP ports of the host that tunnels receive by, sorted.
    tunnel_ports: Vec<u16>,
    /// The networks of the uplink at the last look.
    networks: Vec<(Ipv4Addr, u8)>,
    /// The port by which the host is a neighbour of guests, and its addresses.
    pub(super) host: Option<(PortId, Arc<[Ipv4Addr]>)>,
    routing: Arc<Routing>,
}

impl RouterControl {
    /// The router without its way out; see [`RouterControl::follow`].
    pub(crate) fn new(
        config: config::Router,
        numbers: PortNumbers,
        neighbours: usize,
        tunnel_ports: Vec<u16>,
        (mut kept, seed): (KeptTable, [u64; 2]),
    ) -> anyhow::Result<RouterControl> {
        let nat = match &config.uplink {
            Some(_) => Some(Arc::new(
                kept.translation(settings::nat_config(&config.nat, numbers), seed)
                    .context("not enough memory for so many connections")?,
            )),
            None => None,
        };
        let interfaces: Vec<Option<Interface>> = config.gateways.iter().map(|gateway| Some(interface_of(gateway))).collect();
        let settings = settings::routing(&config.nat);
        let routes = routes::guest_routes(&config.routes, &interfaces);
        let routing = Routing::with_guest_routes(interfaces.clone(), routes, None, settings);
        let neighbours = Arc::new(
            Neighbours::new(NeighbourConfig { size: neighbours, ports: numbers.capacity }, [seed[1], !seed[0]])
                .context("not enough memory for so many neighbours")?,
        );
        Ok(RouterControl {
            config,
            interfaces,
            nat,
            kept,
            neighbours,
            gate: None,
            reserved: None,
            cut_off: Vec::new(),
            externals: Vec::new(),
            lost_at: None,
            has_huge_pages: false,
            has_taken_ports: false,
            wants_ports: false,
            ports_due: Timestamp::default(),
            tunnel_ports,
            networks: Vec::new(),
            host: None,
            routing,
        })
    }

    /// For one worker.
    pub(crate) fn for_worker(&self) -> Router {
        Router::new(Arc::clone(&self.routing), self.nat.clone(), Arc::clone(&self.neighbours))
    }

    pub(crate) fn nat(&self) -> Option<&Arc<Nat>> {
        self.nat.as_ref()
    }

    /// The networks and routes, as workers use them.
    pub(crate) fn routing(&self) -> Arc<Routing> {
        Arc::clone(&self.routing)
    }

    /// MAC addresses besides the interface's own that the uplink receives by.
    pub(crate) fn own_macs(config: &NatUplink) -> Vec<MacAddr> {
        own_mac(config).into_iter().collect()
    }

    /// The networks inside.
    pub(crate) fn interfaces(&self) -> impl Iterator<Item = &Interface> + Clone {
        self.interfaces.iter().flatten()
    }

    /// A network inside by its number.
    pub(crate) fn interface(&self, id: InterfaceId) -> Option<&Interface> {
        self.interfaces.get(usize::from(id.0))?.as_ref()
    }

    pub(crate) fn shared_neighbours(&self) -> Arc<Neighbours> {
        Arc::clone(&self.neighbours)
    }

    pub(crate) fn neighbours(&self) -> &Neighbours {
        &self.neighbours
    }

    /// The outside addresses now.
    pub(crate) fn externals(&self) -> &[External] {
        &self.externals
    }

    /// The configuration in force.
    pub(crate) fn config(&self) -> &config::Router {
        &self.config
    }

    /// The outside address that guests' packets leave from.
    pub(crate) fn outside(&self) -> Option<Ipv4Addr> {
        self.externals.first().map(|external| external.address)
    }

    /// The outside address that guests share with the host, if they do.
    pub(super) fn shared_address(&self) -> Option<Ipv4Addr> {
        shared_of(&self.externals)
    }

    /// The first look at the uplink: a conflict is an error here, and later only a warning.
    pub(crate) fn start(&mut self, uplink: &mut UplinkPort, now: Timestamp) -> anyhow::Result<()> {
        if let Some(state) = uplink.state() {
            for (address, prefix_len) in &state.addresses {
                self.config.check_uplink_network(Ipv4Prefix::new(*address, *prefix_len))?;
            }
            self.check_listen(&self.config.publish, state)?;
        }
        self.open_gate(uplink)?;
        self.follow(uplink, now)
    }

    /// Chooses what keeps the host silent about guests' packets, if they leave from its address.
    fn open_gate(&mut self, uplink: &UplinkPort) -> anyhow::Result<()> {
        let (Some(nat), Some(config)) = (&self.nat, &self.config.uplink) else { return Ok(()) };
        let index = uplink.state().map(|state| state.index);
        if !config.addresses.is_empty() || config.gate == GateMode::Sockets {
            // It would go on dropping packets to ports that are the host's now.
            index.into_iter().for_each(TrafficFilter::remove_left);
            return Ok(());
        }
        for mode in [GateMode::Tcx, GateMode::Filter] {
            if config.gate != GateMode::Auto && config.gate != mode {
                continue;
            }
            match Door::open(mode, index) {
                Ok(door) => {
                    let gate = UplinkGate::new(door, self.config.nat.ports.clone(), index);
                    gate.serve(nat);
                    self.gate = Some(gate);
                    return Ok(());
                }
                Err(error) if config.gate == GateMode::Auto => {
                    let instead = if mode == GateMode::Tcx {
                        "a filter is used, and guests do not keep ports that the host gives to its own programs"
                    } else {
                        "a socket is bound to each port of guests, and a firewall of the host that rejects ends their connections"
                    };
                    tracing::warn!(uplink = uplink.interface, gate = mode.name(), %error, needs = needs_of(mode), "no gate: {instead}");
                }
                Err(error) => {
                    let (mode, interface, needs) = (mode.name(), &uplink.interface, needs_of(mode));
                    return Err(error).context(format!("--uplink-gate {mode}: no gate on {interface}; it needs {needs}"));
                }
            }
        }
        Ok(())
    }

    /// What keeps the host silent about guests' packets; `None` if guests do not leave from its address.
    pub(crate) fn gate(&self) -> Option<api::Gate> {
        let shares = self.config.uplink.as_ref().is_some_and(|uplink| uplink.addresses.is_empty());
        shares.then(|| self.gate.as_ref().map_or(api::Gate::Sockets, UplinkGate::kind))
    }

    /// What holds the gate on the uplink, with a number that changes with it.
    pub(crate) fn gate_link(&self) -> Option<(u64, BorrowedFd<'_>)> {
        self.gate.as_ref()?.link()
    }

    /// Inside addresses belong to these places from now on, for the process that takes the connections over.
    pub(crate) fn set_places(&mut self, places: Vec<Place>) {
        self.kept.set_places(places);
    }

    /// What holds the connection table, with its generation.
    pub(crate) fn kept_table(&self) -> Option<(u64, BorrowedFd<'_>)> {
        self.kept.descriptor()
    }

    /// Puts the gate on the interface of this name, if it is a new one. It may have its addresses before changes of the uplink have
    /// settled, and what arrives until then, such as a segment that is sent again, would make the host reset a guest's connection.
    pub(crate) fn guard_interface(&mut self, name: &str) {
        if let Some(gate) = &mut self.gate
            && let Ok(link) = netio::link::get(name)
        {
            gate.follow(Some(link.index), None);
        }
    }

    /// Updates addresses and routes from the present state of the uplink.
    pub(crate) fn follow(&mut self, uplink: &mut UplinkPort, now: Timestamp) -> anyhow::Result<()> {
        let (Some(nat), Some(config)) = (self.nat.clone(), self.config.uplink.clone()) else { return Ok(()) };
        let state = uplink.state().cloned();
        let wanted = self.wanted_externals(&config, state.as_ref());
        if let Some(gate) = &mut self.gate {
            gate.follow(state.as_ref().map(|state| state.index), shared_of(&wanted));
            // Before the first mapping takes a port.
            gate.look(&nat, now);
        }
        // Replies to the first packets by a new address are received.
        if !wanted.is_empty()
            && wanted != self.externals
            && let Some(filter) = self.filter_of(&wanted)
        {
            uplink.set_filter(filter);
        }
        let outcome = if wanted.is_empty() { self.miss_address(now) } else { self.set_externals(&nat, wanted, now) };
        if let Some(filter) = self.filter() {
            uplink.set_filter(filter);
        }
        if let (Some(mac), Some(state)) = (own_mac(&config), &state)
            && state.up
        {
            for external in &self.externals {
                if let Err(error) = uplink.announce(mac, external.address) {
                    tracing::debug!(address = %external.address, %error, "cannot announce the address by ARP");
                }
            }
        }
        let networks = state.as_ref().map_or_else(Vec::new, |state| state.addresses.clone());
        let way_out = state.filter(|state| state.up && self.lost_at.is_none() && !self.externals.is_empty());
        let way_out = way_out.map(|state| self.way_out(&config, &state, uplink));
        if way_out.is_none() || networks != self.networks {
            // The uplink may come back in another network.
            self.neighbours.flush(vswitch::UPLINK);
        }
        if networks != self.networks {
            for (address, prefix_len) in &networks {
                if let Err(error) = self.config.check_uplink_network(Ipv4Prefix::new(*address, *prefix_len)) {
                    tracing::warn!(network = %Ipv4Prefix::new(*address, *prefix_len), "{error}");
                }
            }
            self.networks = networks;
        }
        self.route_by(way_out);
        outcome
    }

    /// Makes the routes anew, with the way out that there is.
    pub(super) fn reroute(&mut self) {
        self.route_by(self.routing.uplink().cloned());
    }

    fn route_by(&mut self, way_out: Option<Uplink>) {
        let shared = shared_of(&self.externals);
        let host = self.host.clone().map(|(port, addresses)| HostPort { port, addresses, shared });
        let routes = self.guest_routes();
        let routing = Routing::with_guest_routes(self.interfaces.clone(), routes, way_out, settings::routing(&self.config.nat));
        self.routing = match host {
            Some(host) => routing.with_host(host),
            None => routing,
        };
    }

    /// The outside addresses of the configuration; without any, the uplink's first address, if it has one.
    fn wanted_externals(&self, config: &NatUplink, state: Option<&UplinkState>) -> Vec<External> {
        let one_to_one = |address: Ipv4Addr| {
            self.config.publish.iter().find_map(|rule| match rule {
                Publish::Address { listen, guest } if *listen == address => Some(*guest),
                _ => None,
            })
        };
        if !config.addresses.is_empty() {
            let own = config.addresses.iter().map(|address| External {
                address: *address,
                kind: one_to_one(*address).map_or(ExternalKind::Own, ExternalKind::OneToOne),
            });
            return own.collect();
        }
        let shared = state.and_then(|state| state.addresses.first());
        shared.map(|(address, _)| External { address: *address, kind: ExternalKind::Shared }).into_iter().collect()
    }

    fn miss_address(&mut self, now: Timestamp) -> anyhow::Result<()> {
        if self.lost_at.is_none() && !self.externals.is_empty() {
            tracing::warn!("the uplink has no address; connections are kept for {} s", GRACE.as_secs());
        }
        self.lost_at = self.lost_at.or(Some(now));
        Ok(())
    }

    fn set_externals(&mut self, nat: &Nat, wanted: Vec<External>, now: Timestamp) -> anyhow::Result<()> {
        self.lost_at = None;
        if wanted == self.externals {
            return Ok(());
        }
        let shared = shared_of(&wanted);
        nat.set_externals(&wanted, now)
            .map_err(|_| anyhow::anyhow!("at most {} outside addresses", nat::config::MAX_EXTERNALS))?;
        let new = wanted.iter().filter(|external| !self.externals.contains(external));
        let new: Vec<Ipv4Addr> = new.map(|external| external.address).collect();
        self.externals = wanted;
        let reserved = shared.filter(|_| self.gate.is_none());
        self.reserved = reserved.map(|address| Reserved::new(address, self.config.nat.ports.clone()));
        let outcome = self.publish(nat, &new, now);
        self.kept.restore(nat, now);
        if let Some(gate) = &mut self.gate {
            gate.publish();
        }
        if let Some(address) = shared {
            tracing::info!(%address, "guests' packets leave from this address");
        }
        // At the start, devices are opened first.
        if self.has_taken_ports {
            self.take_ports();
        }
        outcome
    }

    /// Reserves the first ports with the host, unless a gate makes that needless.
    pub(crate) fn take_ports(&mut self) {
        self.has_taken_ports = true;
        if let (Some(nat), Some(reserved)) = (&self.nat, &mut self.reserved) {
            reserved.start(nat);
        }
    }

    /// Once a second: which ports the host's programs have. Returns those on which mappings ended.
    pub(crate) fn look_at_host(&mut self, now: Timestamp) -> Vec<Lost> {
        match (&self.nat, &mut self.gate) {
            (Some(nat), Some(gate)) => gate.look(nat, now),
            _ => Vec::new(),
        }
    }

    fn filter(&self) -> Option<Filter> {
        self.filter_of(&self.externals)
    }

    /// Selects packets to these addresses from what the uplink receives.
    fn filter_of(&self, externals: &[External]) -> Option<Filter> {
        let addresses: Vec<Ipv4Addr> = externals.iter().map(|external| external.address).collect();
        let is_own = externals.iter().all(|external| external.kind != ExternalKind::Shared);
        let mut ports = vec![if is_own { 0..=u16::MAX } else { self.config.nat.ports.clone() }];
        for rule in self.config.publish.iter().filter(|_| !is_own) {
            if let Publish::Ports { ports: published, .. } = rule {
                ports.push(published.clone());
            }
        }
        if !is_own {
            // Datagrams of tunnels are read by the host's own sockets.
            ports = ports.into_iter().flat_map(|range| without(range, &self.tunnel_ports)).collect();
        }
        // Too many ranges: everything, which only costs time.
        let networks: Vec<Ipv4Prefix> =
            self.config.routes.iter().filter(|route| is_own && route.no_nat).map(|route| route.to).collect();
        Filter::nat(&addresses, &networks, &ports).or_else(|| Filter::nat(&addresses, &networks, &[0..=u16::MAX]))
    }

    fn way_out(&self, config: &NatUplink, state: &UplinkState, uplink: &UplinkPort) -> Uplink {
        let route = |route: &netio::route::Route| Route {
            to: Ipv4Prefix::new(route.prefix, route.prefix_len),
            via: route.gateway,
            metric: route.metric,
            mtu: route.limits.mtu.unwrap_or(u32::MAX),
            max_segment_size: route.limits.max_segment_size.and_then(|size| size.try_into().ok()).unwrap_or(u16::MAX),
        };
        let mut routes: Vec<Route> = state.routes.iter().map(route).collect();
        if let Some(network) = config.network() {
            routes.push(Route::new(network.network(), None, 0));
        }
        if let Some(gateway) = config.gateway {
            routes.push(Route::new(Ipv4Prefix::new(gateway, 32), None, 0));
            routes.push(Route::new(Ipv4Prefix::new(Ipv4Addr::UNSPECIFIED, 0), Some(gateway), 0));
        }
        let own = config.addresses.clone();
        Uplink {
            port: uplink.id,
            mac: own_mac(config).unwrap_or(state.mac),
            address: self.outside().unwrap_or(Ipv4Addr::UNSPECIFIED),
            own,
            mtu: state.mtu,
            routes,
        }
    }

    /// When ports that workers want are reserved next.
    pub(crate) fn ports_due(&self) -> Option<Timestamp> {
        self.wants_ports.then_some(self.ports_due)
    }

    /// Reserves ports that workers want, a few at a time, so that a guest that wants ever more does not keep
    /// this thread from anything else.
    pub(crate) fn serve_ports(&mut self, now: Timestamp) {
        let (Some(nat), Some(reserved)) = (&self.nat, &mut self.reserved) else { return };
        self.wants_ports |= nat.take_wants();
        if !self.wants_ports || now < self.ports_due || self.lost_at.is_some() {
            return;
        }
        self.wants_ports = false;
        self.ports_due = now.after(PORTS_PAUSE);
        let address = reserved.address();
        for demand in nat.demand().iter().filter(|demand| demand.address == address) {
            reserved.serve(nat, demand);
        }
    }

    /// Once a second: expired connections end, and unused ports go back to the host.
    pub(crate) fn tick(&mut self, now: Timestamp) {
        self.kept.tick(now);
        let Some(nat) = &self.nat else { return };
        while nat.expire(now, EXPIRE_BUDGET) {
            std::thread::yield_now();
        }
        if let Some(reserved) = &mut self.reserved {
            reserved.trim(nat);
        }
        if !self.has_huge_pages && nat.stats().connections >= MANY_CONNECTIONS {
            self.has_huge_pages = true;
            let advised = nat.memory().iter().try_for_each(prefer_huge_pages);
            tracing::debug!("{MANY_CONNECTIONS} connections: huge pages asked for: {advised:?}");
        }
        if self.lost_at.is_some_and(|lost| now.since(lost) > GRACE) && !self.externals.is_empty() {
            tracing::warn!("the uplink has had no address for {} s; all connections are ended", GRACE.as_secs());
            let _ = nat.set_externals(&[], now);
            self.externals.clear();
            self.reserved = None;
        }
    }
}

/// Connections expired in one go; between two goes, workers may take the lock.
const EXPIRE_BUDGET: usize = 256;

/// Number of connections from which on huge pages are asked for. A router with fewer keeps small ones: it would take up to
/// 2 MiB more for each part of its tables that it touches.
const MANY_CONNECTIONS: usize = 65_536;

/// The network inside that a gateway leads into.
fn interface_of(gateway: &config::Gateway) -> Interface {
    let domain = Domain { bridge: bridge_id(gateway.bridge), vlan: gateway.vlan };
    let reach = match gateway.reach {
        config::Reach::All => Reach::All,
        config::Reach::Outside => Reach::Outside,
        config::Reach::Nothing => Reach::Nothing,
    };
    let has_host = gateway.has_host();
    Interface { reach, has_host, ..Interface::new(domain, gateway.address.address, gateway.address.prefix_len) }
}

/// What a gate needs.
fn needs_of(mode: GateMode) -> &'static str {
    match mode {
        GateMode::Filter => "CAP_NET_ADMIN and a kernel with CONFIG_NET_CLS_BPF",
        _ => "Linux 6.6, CAP_BPF and CAP_NET_ADMIN",
    }
}

/// The address among them that is shared with the host.
fn shared_of(externals: &[External]) -> Option<Ipv4Addr> {
    externals.iter().find(|external| external.kind == ExternalKind::Shared).map(|external| external.address)
}

/// A range without these ports, which are sorted.
fn without(range: RangeInclusive<u16>, ports: &[u16]) -> Vec<RangeInclusive<u16>> {
    let mut left = Vec::new();
    let mut from = u32::from(*range.start());
    for port in ports.iter().filter(|port| range.contains(port)) {
        if from < u32::from(*port) {
            left.push(from as u16..=port - 1);
        }
        from = u32::from(*port) + 1;
    }
    if from <= u32::from(*range.end()) {
        left.push(from as u16..=*range.end());
    }
    left
}

/// The router's own MAC address on the uplink, if it has own addresses there.
fn own_mac(config: &NatUplink) -> Option<MacAddr> {
    config.network().map(|network| vswitch::routing::mac_of(network.address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_without_ports() {
        assert_eq!(without(1024..=65_535, &[4789, 8472]), [1024..=4788, 4790..=8471, 8473..=65_535]);
        assert_eq!(without(10..=12, &[1, 10, 12, 13]), [11..=11]);
        assert_eq!(without(0..=u16::MAX, &[0, u16::MAX]), [1..=u16::MAX - 1]);
        assert!(without(7..=7, &[7]).is_empty());
        assert_eq!(without(7..=9, &[]), [7..=9]);
    }
}
