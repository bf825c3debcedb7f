//! Ports that come, go, and change their keys.

use anyhow::{Context, ensure};
use vswitch::{BridgeId, PortId};

use crate::config::PortConfig;
use crate::config::plan::Plan;
use crate::daemon::guests::{self, Entrance};
use crate::daemon::words::{check_way_out, with_nearest};
use crate::daemon::{Daemon, warn};
use crate::ports::ManagedPort;
use crate::tunnel::overlay_mtu;
use crate::worker::Command;

/// Ports that have their devices and are known to nobody yet.
pub(super) struct NewPorts {
    ports: Vec<ManagedPort>,
    entrances: Vec<Entrance>,
}

impl Daemon {
    /// Opens the devices of ports that are to come, and where their guests connect to.
    pub(super) fn prepare_ports(&mut self, plan: &Plan, ids: &mut dyn Iterator<Item = PortId>) -> anyhow::Result<NewPorts> {
        let ids: Vec<PortId> = ids.take(plan.added_ports.len()).collect();
        ensure!(
            ids.len() == plan.added_ports.len(),
            "{} more ports, but there is room for {} until a restart",
            plan.added_ports.len(),
            ids.len()
        );
        let mut new = NewPorts { ports: Vec::with_capacity(ids.len()), entrances: self.open_entrances(&plan.added_ports)? };
        for port in &plan.altered_ports {
            if let Some(name) = port.shared_interface() {
                check_way_out(&self.tunnels, port.bridge, name)?;
            }
        }
        for number in 0..self.bridges.iter().count() {
            warn(&overlay_mtu(&self.tunnels, &plan.added_ports, BridgeId(number as u8)).1);
        }
        for (port, id) in plan.added_ports.iter().zip(ids) {
            let mut port = port.clone();
            port.propose_mtu(self.overlay_mtu_of(&port));
            port.set_queues(1);
            if let Some(name) = port.shared_interface() {
                check_way_out(&self.tunnels, port.bridge, name)?;
            }
            let now = self.clock.now();
            let waits = plan.removed_ports.iter().any(|removed| removed.clashes_with(&port));
            new.ports.push(match waits {
                true => ManagedPort::later(id, port, now),
                false => ManagedPort::open(id, port, now).map_err(with_nearest)?,
            });
        }
        Ok(new)
    }

    /// What the tunnels of its bridge leave.
    fn overlay_mtu_of(&self, port: &PortConfig) -> Option<u32> {
        overlay_mtu(&self.tunnels, &[], port.bridge).0
    }

    /// Those that are not there yet.
    fn open_entrances(&self, ports: &[PortConfig]) -> anyhow::Result<Vec<Entrance>> {
        let is_there = |port: &PortConfig| self.entrances.iter().any(|entrance| entrance.is_of(port));
        let new: Vec<PortConfig> = ports.iter().filter(|port| !is_there(port)).cloned().collect();
        let entrances = guests::open(&new, self.next_token, self.clock.now())?;
        guests::watch(&entrances, &self.poller)?;
        Ok(entrances)
    }

    /// Gives devices the MTU that is wanted of them. If one says no, the others have theirs again.
    pub(super) fn set_mtus(&mut self, ports: &[PortConfig]) -> anyhow::Result<()> {
        let mut before: Vec<(usize, u32)> = Vec::new();
        for port in ports {
            let mut port = port.clone();
            port.propose_mtu(self.overlay_mtu_of(&port));
            let Some(at) = self.ports.iter().position(|other| other.config.is_same_port(&port)) else { continue };
            match self.ports[at].set_mtu(port.mtu()) {
                Ok(was) => before.extend(was.map(|mtu| (at, mtu))),
                Err(error) => {
                    for (at, mtu) in before {
                        if let Err(error) = self.ports[at].set_mtu(Some(mtu)) {
                            tracing::warn!("{}: its MTU is not {mtu} again: {error}", self.ports[at].name());
                        }
                    }
                    return Err(error).with_context(|| format!("{}: setting its MTU", port.name));
                }
            }
        }
        Ok(())
    }

    /// Workers get the new ports and views, and let go of those that are no more.
    pub(super) fn commit_ports(&mut self, plan: &Plan, new: NewPorts) {
        let NewPorts { ports, entrances } = new;
        self.next_token += entrances.len() as u64;
        self.entrances.extend(entrances);
        for port in &plan.altered_ports {
            self.alter_port(port);
        }
        // Of two ports of one device, it is the old one that is found first.
        let gone: Vec<ManagedPort> = plan.removed_ports.iter().filter_map(|port| self.take_out(port)).collect();
        for port in ports {
            self.slots.mark(port.id);
            let id = port.id;
            self.ports.push(port);
            self.begin_to_count(id);
            self.attach(self.ports.len() - 1);
        }
        if !gone.is_empty() {
            let ids: Vec<PortId> = gone.iter().map(|port| port.id).collect();
            self.remove(ids);
        }
        drop(gone);
        let is_used = |entrance: &Entrance| self.ports.iter().any(|port| entrance.is_of(&port.config));
        let (used, unused) = std::mem::take(&mut self.entrances).into_iter().partition(is_used);
        self.entrances = used;
        let unused: Vec<Entrance> = unused;
        unused.into_iter().for_each(|entrance| entrance.close(&self.poller));
    }

    fn take_out(&mut self, port: &PortConfig) -> Option<ManagedPort> {
        let at = self.ports.iter().position(|other| other.config.is_same_port(port))?;
        Some(self.ports.remove(at))
    }

    fn alter_port(&mut self, to: &PortConfig) {
        let Some(at) = self.ports.iter().position(|other| other.config.is_same_port(to)) else { return };
        let mut to = to.clone();
        to.propose_mtu(self.overlay_mtu_of(&to));
        let port = &mut self.ports[at];
        let moves = port.config.vlan != to.vlan || port.config.bridge != to.bridge;
        port.config.adopt(&to);
        let id = port.id;
        let Some(view) = port.to_pipeline() else { return };
        self.tell_workers(|_| Command::View { id, port: Box::new(view.clone()) });
        // Its MTU, if that is another now.
        self.look_at(at);
        if moves {
            // Who is behind it is in another VLAN or on another bridge now.
            self.forget(id);
        }
    }
}
