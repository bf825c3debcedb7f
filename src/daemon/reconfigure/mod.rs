//! Changes while it runs: first all that can fail, then all that is seen.
//!
//! ```text
//!   words --> Desired --Plan::between--> Plan --prepare--> Prepared --commit--> the switch that runs
//!                 |                        |                 |
//!              an error: nothing was touched, or what was made is undone by being dropped
//! ```
//!
//! *Plan* compares what is with what is wanted, touches nothing, and refuses what needs a restart. It is all that
//! a dry run does.
//!
//! *Prepare* opens devices and sockets, takes ports of the host, publishes rules: whatever somebody else may say no to. The
//! switch that runs knows nothing of it yet, but for rules, which may be in force a moment before the rest and are taken back
//! if the rest fails. All is held by values that undo it when they are dropped, so that an error leaves
//! by `?` and the old state is whole.
//!
//! *Commit* cannot fail. What is new goes to the workers as ports do that are there from the start: by a command between two
//! batches. What goes is taken out last. A port that stays is not spoken of at all: no command, no new
//! descriptor, so no frame of it can be lost; one whose keys change gets a new view, and keeps device, counters and frames.
//!
//! *A device that must be made anew* for its keys, or that goes from one port to another, cannot be opened before it is let
//! go. Its port comes as one whose device is gone, which is tried for soon (`ManagedPort`). It is away for about 0.1 s, and that
//! it cannot be made is told by the log, as with any device.
//!
//! *One change at a time*, as all of it is done by the control thread. Meanwhile frames pass as always, since workers wait
//! for nobody; devices that go just then are seen a little later.

mod ports;
mod tunnels;
mod verbs;

use anyhow::Context;

use super::{Daemon, warn};
use crate::config::plan::{Change, Desired, Plan};
use crate::edge::router::NewRules;
use crate::tunnel::NewTunnels;
use ports::NewPorts;

/// All that could fail was done.
struct Prepared {
    ports: NewPorts,
    tunnels: Option<NewTunnels>,
    rules: Option<NewRules>,
}

impl Daemon {
    /// SIGHUP: the file that the command line names, and its flags.
    pub(super) fn read_again(&mut self) {
        let Some(path) = self.command_line.config.clone() else {
            tracing::info!("nothing to read again: the configuration is the command line; name a file with --config");
            return;
        };
        let desired = Desired::read(&self.command_line).map_err(anyhow::Error::from);
        match desired.and_then(|desired| self.change_to(desired, false)) {
            Ok(changes) if changes.is_empty() => tracing::info!("{} says what is", path.display()),
            Ok(_) => tracing::info!("all is as {} says", path.display()),
            Err(error) => tracing::error!("nothing was changed: {error:#}"),
        }
    }

    /// Makes the switch what is desired, or says what would be done. An error: nothing was changed.
    pub(super) fn change_to(&mut self, mut desired: Desired, dry_run: bool) -> anyhow::Result<Vec<Change>> {
        let plan = Plan::between(&self.desired, &mut desired)?;
        if dry_run {
            return Ok(plan.changes);
        }
        let new = desired.config.warnings.iter().filter(|warning| !self.desired.config.warnings.contains(warning));
        warn(&new.cloned().collect::<Vec<String>>());
        if !plan.is_empty() {
            self.let_workers_obey();
            let prepared = self.prepare(&plan)?;
            self.commit(&plan, prepared, &desired);
        }
        self.desired = desired;
        plan.changes.iter().for_each(|change| tracing::info!("{change}"));
        self.tell_of_changes(&plan.changes);
        Ok(plan.changes)
    }

    fn prepare(&mut self, plan: &Plan) -> anyhow::Result<Prepared> {
        // Whoever takes one of these takes the next; nobody has it before all is committed.
        let mut ids = self.slots.next(usize::MAX).into_iter();
        let ports = self.prepare_ports(plan, &mut ids)?;
        let tunnels = self.prepare_tunnels(plan, &mut ids)?;
        let now = self.clock.now();
        let rules = match &self.router {
            Some(router) => router.prepare_rules(&plan.withdrawn, &plan.published, self.uplink.as_ref(), now)?,
            None => None,
        };
        // Last, as it is felt by who is there: the one thing that is taken back by hand.
        let changed = self.set_mtus(&plan.altered_ports);
        changed.context("nothing was changed")?;
        Ok(Prepared { ports, tunnels, rules })
    }

    fn commit(&mut self, plan: &Plan, prepared: Prepared, desired: &Desired) {
        let now = self.clock.now();
        let Prepared { ports, tunnels, rules } = prepared;
        self.commit_ports(plan, ports);
        if let Some(tunnels) = tunnels {
            self.commit_tunnels(plan, tunnels);
        }
        if let Some(router) = &mut self.router {
            if let Some(settings) = &plan.nat {
                router.set_nat(settings.clone(), now);
            }
            router.set_tunnel_ports(desired.config.tunnel_ports());
            let all = desired.config.router.as_ref().map_or_else(Vec::new, |router| router.publish.clone());
            router.commit_rules(rules, all, self.uplink.as_mut());
            if let Some(nat) = router.nat() {
                nat.set_ports_of_bridge(self.ports.len() + self.tunnels.peers().len() + 1);
            }
        }
        if plan.nat.is_some() {
            self.route();
        }
    }
}
