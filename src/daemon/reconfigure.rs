//! Changes of the running configuration: first everything that can fail, then everything that has an effect.
//!
//! ```text
//!   words --> Desired ----plan_from---> Plan --prepare--> Prepared --commit--> the switch that runs
//!                 |                        |                 |
//!              an error: nothing was touched, or what was made is undone by being dropped
//! ```
//!
//! *Plan* compares the configuration in force with the desired one, touches nothing, and refuses what needs a restart. A dry run
//! then opens the devices and sockets of new ports, and closes them again.
//!
//! *Prepare* opens devices and sockets, reserves ports of the host, publishes rules: everything that can be refused. It has no
//! effect on the running switch yet, except that rules may be in force a moment before the rest and are withdrawn if the
//! rest fails. All of it is held by values that undo it when they are dropped, so an error returned with `?` leaves the old
//! state intact; only MTUs are given back by hand. Connections that a rule has ended do not come back.
//!
//! *Commit* cannot fail. New ports are attached to the workers like those at the start, by a command between two batches.
//! Removed ports are detached last. A port that stays gets no command and no new descriptor, so none of its frames can be
//! lost; a port whose keys change gets a new view, and keeps its device, counters and frames.
//!
//! *A device that must be created anew* for its keys, or that moves from one port to another, cannot be opened before it is
//! closed. Its port is added like one whose device is gone, which is soon retried (`ManagedPort`). It is away for about 0.1 s;
//! if it cannot be created then, the log says so, as for any device.
//!
//! *One change at a time*, because the control thread does all of it. Meanwhile frames pass, because workers never wait for
//! it; devices that disappear during a change are noticed a little later.

use anyhow::Context;
use api::{Action, Refusal, What};
use config::{Change, Desired, EditError, NeedsRestart, Plan, Port, Problems};
use vswitch::PortId;

use super::check::check_way_out;
use super::{Daemon, warn};
use crate::control_socket::{PortName, Verb};
use crate::edge::places_of;
use crate::edge::router::{CutOff, NewRules, PortNumbers, RouterControl};
use crate::fabric::bridges::Bridge;
use crate::fabric::queues_of;
use crate::model::bridge_id;
use crate::ports::NewPorts;
use crate::tunnel::{NewTunnels, overlay_mtu};

/// All that could fail was done.
struct Prepared {
    /// Those that are new, and those with other settings.
    bridges: Vec<Bridge>,
    /// The router, if there was none.
    router: Option<RouterControl>,
    ports: NewPorts,
    tunnels: Option<NewTunnels>,
    rules: Option<NewRules>,
}

impl Daemon {
    /// Makes the change that a verb of the control socket requests, or with `dry_run` returns it only.
    pub(super) fn reconfigure(&mut self, verb: &Verb, dry_run: bool) -> Result<Vec<api::Change>, Refusal> {
        let desired = self.desired_by(verb).map_err(|error| match error {
            EditError::NoSuch(error) => of_verb(verb, Refusal::not_found(error.to_string())),
            EditError::Refused(problems) => of_verb(verb, refused(verb, &problems)),
        })?;
        let changes = self.change_to(desired, dry_run).map_err(|error| match error.downcast_ref::<NeedsRestart>() {
            Some(settings) => Refusal::unprocessable(error.to_string()).of_field(settings.first()),
            None => {
                let cause = error.chain().find_map(|cause| cause.downcast_ref::<Refusal>());
                let in_the_way = cause.and_then(|cause| cause.in_the_way.clone());
                of_verb(verb, Refusal { in_the_way, ..Refusal::conflict(format!("{error:#}")) })
            }
        })?;
        Ok(changes.iter().map(view).collect())
    }

    fn desired_by(&self, verb: &Verb) -> Result<Desired, EditError> {
        Ok(match verb {
            Verb::Apply { file, text, prune: false } => self.desired.beside(file, text, &[])?,
            Verb::Apply { file, text, prune: true } => self.desired.replaced_by(file, text)?,
            Verb::AddPort(word) => self.desired.with_port(word)?,
            Verb::SetPort(PortName::Name(name), keys) => self.desired.with_port_set(name, keys)?,
            Verb::SetPort(PortName::Id(id), keys) => self.desired.with_port_of_id_set(id, keys)?,
            Verb::DeletePort(PortName::Name(name)) => self.desired.without_port(name)?,
            Verb::DeletePort(PortName::Id(id)) => self.desired.without_port_of_id(id)?,
            Verb::Publish(word) => self.desired.with_rule(word)?,
            Verb::Unpublish(text) => self.desired.without_rule(text)?,
            Verb::AddRoute(word) => self.desired.with_route(word)?,
            Verb::DeleteRoute(word) => self.desired.without_route(word)?,
            Verb::AddBridge(word) => self.desired.with_bridge(word)?,
            Verb::SetBridge(word) => self.desired.with_bridge_set(word)?,
            Verb::DeleteBridge(name) => self.desired.without_bridge(name)?,
            Verb::AddGuest(id, words) => self.desired.with_guest(id, words)?,
            Verb::AddGuestInstead { prefix, id, words } => self.desired.with_guest_instead(prefix, id, words)?,
            Verb::SetGuest(id, words) => self.desired.with_guest_set(id, words)?,
            Verb::DeleteGuest(id) => self.desired.without_guest(id)?,
            Verb::KeepGuests { prefix, keep } => self.desired.without_left_over_guests(prefix, keep)?,
            Verb::AddTunnel(word) => self.desired.with_tunnel(word)?,
            Verb::DeleteTunnel(name) => self.desired.without_tunnel(name)?,
        })
    }

    /// Removes the transient ports whose devices have gone. Returns whether none of them is left.
    pub(super) fn remove_ports_that_are_over(&mut self) -> bool {
        let over: Vec<&config::Port> = self.ports.over().map(|port| &port.config).collect();
        if over.is_empty() {
            return true;
        }
        let desired = self.desired.without_ports(&over).map_err(anyhow::Error::from);
        let removed = desired.and_then(|desired| self.change_to(desired, false));
        if let Err(error) = &removed {
            tracing::warn!("cannot remove transient ports whose devices are gone: {error:#}");
        }
        removed.is_ok()
    }

    /// SIGHUP: reads the file that the command line names, and applies it.
    pub(super) fn read_again(&mut self) {
        let Some(path) = self.command_line.config.clone() else {
            tracing::info!("nothing to read again: the configuration is the command line; name a file with --config");
            return;
        };
        let file = path.display();
        let desired = self.desired.read_again(&path, &self.command_line.words()).map_err(anyhow::Error::from);
        match desired.and_then(|desired| self.change_to(desired, false)) {
            Ok(changes) if changes.is_empty() => tracing::info!(%file, "configuration unchanged"),
            Ok(changes) => tracing::info!(%file, changes = changes.len(), "configuration applied"),
            Err(error) => tracing::error!(%file, "nothing was changed: {error:#}"),
        }
    }

    /// Puts a configuration in force; with `dry_run`, only plans it. After an error nothing has changed.
    pub(super) fn change_to(&mut self, mut desired: Desired, dry_run: bool) -> anyhow::Result<Vec<Change>> {
        let plan = desired.plan_from(&self.desired)?;
        if dry_run {
            self.let_workers_obey();
            self.try_out(&plan, &desired)?;
            return Ok(plan.changes);
        }
        let new = desired.config.warnings.iter().filter(|warning| !self.desired.config.warnings.contains(warning));
        warn(&new.cloned().collect::<Vec<String>>());
        if !plan.is_empty() {
            self.let_workers_obey();
        }
        // Also where nothing changes but who owns it.
        let state = self.state.prepare(&desired)?;
        if !plan.is_empty() {
            let prepared = self.prepare(&plan, &desired)?;
            self.commit(&plan, prepared, &desired);
        }
        self.state.commit(state);
        self.desired = desired;
        self.keep();
        self.tell_of_changes(&plan.changes);
        Ok(plan.changes)
    }

    /// Opens the ports that the plan adds, and closes them again. Rules and tunnels are not tried: a host's port that they get may be
    /// taken from a guest's connection.
    fn try_out(&mut self, plan: &Plan, desired: &Desired) -> anyhow::Result<()> {
        let mut ids = self.fabric.slots.next(usize::MAX).into_iter();
        let now = self.fabric.now();
        self.check_ports(plan)?;
        self.prepare_networks(plan, desired)?;
        let mtu_of = |bridge| overlay_mtu(&self.tunnels, &[], bridge).0;
        self.ports.prepare(plan, &mut ids, &mtu_of, &self.poller, now).map(drop)
    }

    fn prepare(&mut self, plan: &Plan, desired: &Desired) -> anyhow::Result<Prepared> {
        // Each part takes the next of these numbers; they are marked as taken when all is committed.
        let mut ids = self.fabric.slots.next(usize::MAX).into_iter();
        let now = self.fabric.now();
        self.check_ports(plan)?;
        let (bridges, router) = self.prepare_networks(plan, desired)?;
        let mtu_of = |bridge| overlay_mtu(&self.tunnels, &[], bridge).0;
        let ports = self.ports.prepare(plan, &mut ids, &mtu_of, &self.poller, now)?;
        let tunnels = self.prepare_tunnels(plan, &mut ids)?;
        let mtu_of = |bridge| overlay_mtu(&self.tunnels, &[], bridge).0;
        let former = self.ports.set_mtus(plan, &mtu_of).context("nothing was changed")?;
        // Last, since a rule that is published ends the connections of guests that use its port, and they do not come back.
        let rules = match &self.edge.router {
            Some(router) => router.prepare_rules(&plan.withdrawn, &plan.published, self.edge.uplink.as_ref(), now),
            None => Ok(None),
        };
        match rules {
            Ok(rules) => Ok(Prepared { bridges, router, ports, tunnels, rules }),
            Err(error) => {
                self.ports.restore_mtus(former);
                Err(error)
            }
        }
    }

    /// Makes the tables of new bridges, of those with other settings, and of those that get their first port; and the router for the
    /// first gateways.
    fn prepare_networks(&self, plan: &Plan, desired: &Desired) -> anyhow::Result<(Vec<Bridge>, Option<RouterControl>)> {
        let now = self.fabric.now();
        let (bridges, occupied) = (&self.fabric.bridges, desired.config.occupied_bridges());
        let added = plan.added_bridges.iter().map(|bridge| bridges.make(bridge.clone(), occupied.contains(&bridge.number)));
        let others = occupied.iter().filter(|number| bridges.is_idle(bridge_id(**number)));
        let others = others.filter(|number| !plan.altered_bridges.iter().any(|altered| altered.number == **number));
        let others = others.filter_map(|number| desired.config.bridge(*number));
        let altered = plan.altered_bridges.iter().chain(others);
        let altered = altered.map(|bridge| bridges.remake(bridge.clone(), occupied.contains(&bridge.number), now));
        let bridges = added.chain(altered).collect::<anyhow::Result<Vec<Bridge>>>()?;
        if let Some(router) = &self.edge.router {
            router.check_gateways(&plan.added_gateways)?;
            if plan.reroutes {
                router.check_routes(desired.config.router.as_ref().map_or(&[], |router| &router.routes))?;
            }
        }
        let capacity = self.fabric.slots.capacity();
        let router =
            self.edge.prepare_router(&desired.config, PortNumbers { at_start: self.fabric.workers.readers(), capacity })?;
        Ok((bridges, router))
    }

    /// Checks that no tunnel of a bridge leaves through a port of the same bridge.
    fn check_ports(&self, plan: &Plan) -> anyhow::Result<()> {
        for port in plan.altered_ports.iter().chain(&plan.added_ports) {
            if let Some(name) = port.shared_interface() {
                check_way_out(bridge_id(port.bridge), name, |bridge, from| self.tunnels.leaves_from(bridge, from))?;
            }
        }
        for bridge in self.fabric.bridges.iter() {
            warn(&overlay_mtu(&self.tunnels, &plan.added_ports, bridge.id()).1);
        }
        Ok(())
    }

    /// Opens the sockets of new tunnels, which get the next of these port numbers.
    fn prepare_tunnels(&mut self, plan: &Plan, ids: &mut dyn Iterator<Item = PortId>) -> anyhow::Result<Option<NewTunnels>> {
        if plan.added_tunnels.is_empty() && plan.removed_tunnels.is_empty() {
            return Ok(None);
        }
        for tunnel in &plan.added_tunnels {
            if let Some(router) = &mut self.edge.router {
                router.let_go(tunnel.local, tunnel.port, self.fabric.now())?;
            }
        }
        let (readers, workers) = (self.fabric.workers.readers(), self.fabric.workers.len());
        let queues = |id: PortId| queues_of(id.index().min(readers), readers, workers);
        let new = self.tunnels.prepare(&plan.removed_tunnels, &plan.added_tunnels, ids, queues)?;
        let stays = |port: &&Port| !plan.removed_ports.iter().any(|removed| removed.is_same_port(port));
        let as_it_will_be = |port| plan.altered_ports.iter().find(|altered| altered.is_same_port(port)).unwrap_or(port);
        let ports = self.ports.iter().map(|port| &port.config).filter(stays).map(as_it_will_be).chain(&plan.added_ports);
        let uplink = self.edge.uplink.iter().filter_map(|uplink| Some((uplink.bridge()?, uplink.interface.as_str())));
        for (bridge, name) in ports.filter_map(|port| Some((bridge_id(port.bridge), port.shared_interface()?))).chain(uplink) {
            check_way_out(bridge, name, |bridge, from| new.leaves_from(bridge, from, &self.tunnels))?;
        }
        Ok(Some(new))
    }

    fn commit(&mut self, plan: &Plan, prepared: Prepared, desired: &Desired) {
        let now = self.fabric.now();
        let Prepared { bridges, router, ports, tunnels, rules } = prepared;
        if let Some(router) = &mut self.edge.router {
            router.set_places(places_of(&desired.config));
        }
        self.commit_networks(plan, desired, bridges, router);
        self.commit_ports(plan, ports);
        self.cut_off(CutOff::of_guests(&plan.lost_addresses));
        if let Some(tunnels) = tunnels {
            self.commit_tunnels(plan, tunnels);
        }
        let of_bridge = self.ports.len() + self.tunnels.peers().len() + 1;
        if let Some(router) = &mut self.edge.router {
            if let Some(settings) = &plan.nat {
                router.set_nat(settings.clone(), now);
            }
            router.set_tunnel_ports(desired.config.tunnel_ports());
            let all = desired.config.router.as_ref().map_or_else(Vec::new, |router| router.publish.clone());
            router.commit_rules(rules, all, self.edge.uplink.as_mut());
            if let Some(nat) = router.nat() {
                nat.set_ports_of_bridge(of_bridge);
            }
        }
        if plan.nat.is_some() {
            self.edge.route(&self.fabric);
        }
        let one_to_one = plan.one_to_one_guests();
        if !one_to_one.is_empty() {
            self.edge.follow_rules(&self.fabric);
            self.cut_off(CutOff::of_guests(&one_to_one));
        }
        self.settle();
        self.edge.serve_local_clients();
        // Their ports are gone.
        for bridge in &plan.removed_bridges {
            self.fabric.remove_bridge(bridge_id(bridge.number));
            self.loops.forget(bridge_id(bridge.number));
        }
    }

    /// Workers get the new bridges and gateways, before the ports that come to them.
    fn commit_networks(&mut self, plan: &Plan, desired: &Desired, bridges: Vec<Bridge>, router: Option<RouterControl>) {
        bridges.into_iter().for_each(|bridge| self.fabric.set_bridge(bridge));
        if let Some(router) = router {
            self.edge.begin_to_route(router, &self.fabric);
        }
        let has_other_gateways = !plan.removed_gateways.is_empty() || !plan.added_gateways.is_empty();
        let Some(router) = self.edge.router.as_mut().filter(|_| has_other_gateways || plan.reroutes) else { return };
        let before = router.routing();
        let (gateways, routes) = desired
            .config
            .router
            .as_ref()
            .map_or_else(Default::default, |router| (router.gateways.clone(), router.routes.clone()));
        let mut cut_off = CutOff::default();
        if has_other_gateways {
            cut_off = router.set_gateways(&plan.removed_gateways, &plan.added_gateways, gateways);
        }
        if plan.reroutes {
            router.set_routes(routes, self.edge.uplink.as_mut());
        }
        let lost = router.lost_since(&before);
        self.edge.route(&self.fabric);
        self.set_host();
        self.cut_off(cut_off);
        self.cut_off(lost);
    }

    /// Ends what is left of networks and guests. The next change waits until no worker has anything of them at hand.
    fn cut_off(&mut self, gone: CutOff) {
        self.edge.end_local_clients(&gone);
        if let Some(router) = self.edge.router.as_mut().filter(|_| !gone.is_empty()) {
            router.cut_off(gone, self.fabric.now());
            self.fabric.remove(Vec::new());
        }
    }

    /// Workers get the new ports and views, and let go of those that are removed.
    fn commit_ports(&mut self, plan: &Plan, new: NewPorts) {
        let mtu_of = |bridge| overlay_mtu(&self.tunnels, &[], bridge).0;
        let changed = self.ports.commit(plan, new, &mtu_of, &mut self.fabric);
        self.name_in_traces();
        self.ports.attach(&changed.added, &self.fabric);
        self.remove(changed.removed.iter().map(|port| port.id).collect());
        self.ports.close(changed.removed);
        self.ports.close_unused_entrances(&self.poller);
    }

    /// Workers get the new peers and sockets, and let go of those that are removed.
    fn commit_tunnels(&mut self, plan: &Plan, new: NewTunnels) {
        let committed = self.tunnels.commit(&plan.removed_tunnels, new);
        for id in &committed.added {
            self.fabric.slots.mark(*id);
            self.fabric.begin_to_count(*id);
        }
        self.name_in_traces();
        self.remove(committed.removed);
        self.tunnels.attach_peers(&committed.added, &self.fabric);
        // Sockets that stay have other peers now.
        for at in 0..self.tunnels.sockets().len() {
            let is_new = committed.added.contains(&self.tunnels.sockets()[at].id);
            self.tunnels.update_socket(at, is_new, &self.fabric);
        }
        let is_new = |id: PortId| committed.added.contains(&id);
        if let Err(error) = self.tunnels.add_statics(|bridge| self.fabric.bridges.table(bridge), is_new) {
            tracing::warn!(%error, "not all static MAC entries of the new tunnels are in force");
        }
    }

    /// Takes these ports away from workers, captures and traces. Their numbers are free once all workers have obeyed.
    fn remove(&mut self, ids: Vec<PortId>) {
        if !ids.is_empty() {
            self.traces.end_of(&ids);
            self.captures.end_of(&ids, &self.fabric);
            self.fabric.remove(ids);
        }
    }

    /// Logs the changes, and sends events about them.
    fn tell_of_changes(&mut self, changes: &[Change]) {
        for change in changes {
            tracing::info!("{change}");
            let (action, name, text) = (shown(change.action), change.name.clone(), change.text.clone());
            self.fabric.events.tell(match change.kind {
                "port" => What::PortChanged { action, port: name, text },
                "bridge" => What::BridgeChanged { action, bridge: name, text },
                "guest" => What::GuestChanged { action, guest: name, text },
                "gateway" => What::GatewayChanged { action, gateway: name, text },
                "tunnel" => What::TunnelChanged { action, tunnel: name, text },
                "route" => What::RouteChanged { action, route: name, text },
                "rule" => What::RuleChanged { action, rule: name, text },
                kind => What::SettingChanged { action, setting: format!("{kind} {name}").trim_end().to_owned(), text },
            });
        }
        if !changes.is_empty() {
            self.fabric.events.tell(What::ConfigApplied { changes: changes.len() });
        }
    }
}

/// The refusal of a configuration that is invalid. What a verb adds can be in the way of what is there already.
fn refused(verb: &Verb, problems: &Problems) -> Refusal {
    let text = problems.to_string();
    let in_the_way = problems.iter().find_map(|problem| problem.in_the_way.clone());
    match (verb, in_the_way) {
        (Verb::Apply { .. }, _) | (_, None) => Refusal::bad_request(text),
        (_, Some(thing)) => Refusal::conflict(text).in_the_way(thing),
    }
}

/// Names the parameter or member of a verb's request in its refusal.
fn of_verb(verb: &Verb, refusal: Refusal) -> Refusal {
    match verb {
        Verb::Apply { .. } | Verb::AddGuest(..) | Verb::AddGuestInstead { .. } | Verb::KeepGuests { .. } => refusal,
        Verb::AddPort(_) => refusal.of_field("port"),
        Verb::Publish(_) | Verb::Unpublish(_) => refusal.of_field("rule"),
        Verb::AddRoute(_) => refusal.of_field("route"),
        Verb::DeleteRoute(_) => refusal.of_field("to"),
        Verb::AddBridge(_) | Verb::SetBridge(_) => refusal.of_field("bridge"),
        Verb::AddTunnel(_) => refusal.of_field("tunnel"),
        Verb::SetPort(..) => refusal.of_field("keys"),
        Verb::DeletePort(PortName::Id(_)) | Verb::SetGuest(..) | Verb::DeleteGuest(_) => refusal.of_field("id"),
        Verb::DeletePort(PortName::Name(_)) | Verb::DeleteTunnel(_) | Verb::DeleteBridge(_) => refusal.of_field("name"),
    }
}

fn shown(action: config::Action) -> Action {
    match action {
        config::Action::Add => Action::Add,
        config::Action::Remove => Action::Remove,
        config::Action::Alter => Action::Alter,
        config::Action::Replace => Action::Replace,
    }
}

fn view(change: &Change) -> api::Change {
    api::Change {
        action: shown(change.action),
        kind: change.kind.to_owned(),
        name: change.name.clone(),
        text: change.text.clone(),
        line: change.to_string(),
    }
}
