//! Published ports: published, changed, withdrawn.
//!
//! A change has two halves. The first can fail, and is undone when its result is dropped ([`NewRules`]): the host's ports are
//! reserved, and new rules published, since only that shows whether there is room. The second cannot fail: it redirects rules that
//! stay on their port, and withdraws old ones. So a new rule is in force a moment before an old one ends.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use anyhow::ensure;
use config::Publish;
use nat::{Endpoint, ExternalKind, Nat, Protocol, Published, Refused};
use netio::reservation::{PortProtocol, Reservation};
use netio::route::UplinkState;
use packet::Timestamp;

use super::RouterControl;
use super::settings::timeouts;
use crate::edge::UplinkPort;
use crate::edge::door::of_host;

/// Rules that are in force and can still be taken back.
#[derive(Debug)]
pub(crate) struct NewRules {
    nat: Arc<Nat>,
    now: Timestamp,
    /// Rules that are published, with the host's port if it was not reserved before.
    added: Vec<(Published, Option<Reservation>)>,
    /// Rules that were published to another guest before.
    redirected: Vec<Published>,
    withdrawn: Vec<Published>,
}

impl Drop for NewRules {
    fn drop(&mut self) {
        for (rule, _) in self.added.drain(..) {
            self.nat.unpublish(rule.address, rule.protocol, rule.port, self.now);
        }
    }
}

impl RouterControl {
    /// A rule for an address of the host needs the host to have it.
    pub(super) fn check_listen(&self, rules: &[Publish], state: &UplinkState) -> anyhow::Result<()> {
        let is_shared = self.config.uplink.as_ref().is_some_and(|uplink| uplink.addresses.is_empty());
        for rule in rules.iter().filter(|_| is_shared) {
            if let Publish::Ports { listen: Some(listen), .. } = rule {
                let first = state.addresses.first().map(|(address, _)| *address);
                ensure!(
                    first == Some(*listen),
                    "--publish {rule}: {listen} is not the address that {} is used with ({}); leave it out",
                    state.name,
                    first.map_or_else(|| "none".to_owned(), |address| address.to_string())
                );
            }
        }
        Ok(())
    }

    /// Puts the rules in force on these addresses, which are new.
    pub(super) fn publish(&mut self, nat: &Nat, addresses: &[Ipv4Addr], now: Timestamp) -> anyhow::Result<()> {
        // A rule that cannot be published does not stop the others.
        let mut outcome = Ok(());
        let rules = self.published_by(&self.config.publish).into_iter();
        for rule in rules.filter(|rule| addresses.contains(&rule.address)) {
            let Published { protocol, port, .. } = rule;
            let reserved = match (&self.gate, &mut self.reserved) {
                (Some(gate), _) => gate.check_free(protocol, port),
                (None, Some(reserved)) => reserved.publish(protocol, port),
                (None, None) => Ok(()),
            };
            outcome =
                outcome.and(reserved.and_then(|()| nat.publish(&rule, now).map_err(|refused| not_published(&rule, refused))));
        }
        outcome
    }

    /// Prepares a change of rules: everything that can fail.
    pub(crate) fn prepare_rules(
        &self,
        withdrawn: &[Publish],
        published: &[Publish],
        uplink: Option<&UplinkPort>,
        now: Timestamp,
    ) -> anyhow::Result<Option<NewRules>> {
        let Some(nat) = self.nat.clone() else { return Ok(None) };
        if let Some(state) = uplink.and_then(UplinkPort::state) {
            self.check_listen(published, state)?;
        }
        let new = self.published_by(published);
        let mut old: HashMap<_, Published> = self.published_by(withdrawn).iter().map(|rule| (port_of(rule), *rule)).collect();
        let mut rules = NewRules { nat, now, added: Vec::new(), redirected: Vec::new(), withdrawn: Vec::new() };
        let mut wanted = Vec::new();
        for rule in new {
            if let Some(before) = old.remove(&port_of(&rule)) {
                if before.guest != rule.guest {
                    rules.redirected.push(rule);
                }
                continue;
            }
            let reserved = match (&self.gate, &self.reserved) {
                (Some(gate), _) => gate.check_free(rule.protocol, rule.port).map(|()| None)?,
                (None, Some(reserved)) => reserved.reserve(rule.protocol, rule.port)?,
                (None, None) => None,
            };
            wanted.push((rule, reserved));
        }
        // Not before all ports are reserved, since publishing one ends a guest's connection that uses it.
        for (rule, reserved) in wanted {
            rules.nat.publish(&rule, now).map_err(|refused| not_published(&rule, refused))?;
            rules.added.push((rule, reserved));
        }
        rules.withdrawn = old.into_values().collect();
        Ok(Some(rules))
    }

    /// Applies those settings that can change while packets flow.
    pub(crate) fn set_nat(&mut self, settings: config::Nat, now: Timestamp) {
        if let Some(nat) = &self.nat {
            nat.set_timeouts(timeouts(&settings), now);
        }
        self.config.nat = settings;
        self.reroute();
    }

    /// The UDP ports of the host that tunnels receive by, in their order; in force with the next filter.
    pub(crate) fn set_tunnel_ports(&mut self, ports: Vec<u16>) {
        self.tunnel_ports = ports;
    }

    /// A tunnel is to receive by this UDP port of the host: it is not taken in advance for guests any more.
    /// If the tunnel is refused after all, it is taken again when guests need more.
    pub(crate) fn let_go(&mut self, local: Option<IpAddr>, port: u16, now: Timestamp) -> anyhow::Result<()> {
        let published = self.published_by(&self.config.publish);
        let is_published = published.iter().any(|rule| rule.protocol == Protocol::UDP && rule.port == port);
        if let (Some(nat), Some(gate)) = (&self.nat, &mut self.gate) {
            ensure!(!is_published, "UDP port {port} is published: choose another port, or unpublish it");
            gate.let_go(nat, port, now);
            return Ok(());
        }
        let (Some(nat), Some(reserved)) = (&self.nat, &mut self.reserved) else { return Ok(()) };
        // A socket of another address has the port beside it.
        if local.is_some_and(|local| !local.is_unspecified() && local != IpAddr::V4(reserved.address())) {
            return Ok(());
        }
        ensure!(!is_published, "UDP port {port} is published: choose another port, or unpublish it");
        ensure!(
            reserved.let_go(nat, Protocol::UDP, port),
            "UDP port {port} of {} is a guest's connection's at the moment; try again later, or choose another port",
            reserved.address()
        );
        Ok(())
    }

    /// The other half: these are the rules from now on.
    pub(crate) fn commit_rules(&mut self, rules: Option<NewRules>, all: Vec<Publish>, uplink: Option<&mut UplinkPort>) {
        self.config.publish = all;
        let Some(mut rules) = rules else { return };
        for (rule, reservation) in rules.added.drain(..) {
            if let Some(reserved) = &mut self.reserved {
                reserved.keep(rule.protocol, rule.port, reservation);
            }
        }
        for rule in &rules.redirected {
            if !rules.nat.redirect(rule, rules.now) {
                tracing::warn!(
                    protocol = %rule.protocol,
                    port = rule.port,
                    "cannot publish the port to another guest: a guest's connection has it"
                );
            }
        }
        for rule in &rules.withdrawn {
            rules.nat.unpublish(rule.address, rule.protocol, rule.port, rules.now);
            if let Some(reserved) = &mut self.reserved {
                reserved.withdraw(&rules.nat, rule.protocol, rule.port);
            }
        }
        if let Some(gate) = &mut self.gate {
            gate.publish();
        }
        if let (Some(filter), Some(uplink)) = (self.filter(), uplink) {
            uplink.set_filter(filter);
        }
    }

    /// The published ports that programs of the host may use, and their guests: of those networks that have the host.
    pub(in crate::edge) fn rules_for_host(&self) -> BTreeMap<(PortProtocol, u16), SocketAddrV4> {
        let home = |guest: Ipv4Addr| self.interface(self.routing.to_inside(guest)?);
        let has_host = |guest: Ipv4Addr| home(guest).is_some_and(|network| network.has_host);
        let rules = self.published_by(&self.config.publish).into_iter().filter(|rule| has_host(rule.guest.address));
        let ports = rules.filter_map(|rule| Some(((of_host(rule.protocol)?, rule.port), rule.guest)));
        ports.map(|(port, guest)| (port, SocketAddrV4::new(guest.address, guest.port))).collect()
    }

    /// The published ports of rules, one by one, on the present addresses.
    fn published_by(&self, rules: &[Publish]) -> Vec<Published> {
        let mut published = Vec::new();
        for rule in rules {
            let Publish::Ports { listen, ports, guest, guest_ports, tcp, udp } = rule else { continue };
            let protocols =
                [(Protocol::TCP, *tcp), (Protocol::UDP, *udp)].into_iter().filter_map(|(protocol, is)| is.then_some(protocol));
            for protocol in protocols {
                for (port, guest_port) in ports.clone().zip(guest_ports.clone()) {
                    let pool = self.externals.iter().filter(|external| !matches!(external.kind, ExternalKind::OneToOne(_)));
                    for external in pool.filter(|external| listen.is_none_or(|listen| listen == external.address)) {
                        let guest = Endpoint::new(*guest, guest_port);
                        published.push(Published { protocol, address: external.address, port, guest });
                    }
                }
            }
        }
        published
    }
}

/// The protocol, address and port of a rule, which no other rule can have.
fn port_of(rule: &Published) -> (Protocol, Ipv4Addr, u16) {
    (rule.protocol, rule.address, rule.port)
}

fn not_published(rule: &Published, refused: Refused) -> anyhow::Error {
    let Published { protocol, address, port, .. } = rule;
    match refused {
        Refused::Clash => anyhow::anyhow!("--publish: {protocol} port {port} of {address} is published twice"),
        _ => {
            anyhow::anyhow!("--publish: {protocol} port {port} of {address}: no room for more rules; raise --nat max-connections")
        }
    }
}
