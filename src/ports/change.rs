//! Ports that are added, removed or altered while the switch runs.
//!
//! [`Ports::prepare`] opens devices and sockets, which is what can fail; all of it is closed again if its result is dropped.
//! [`Ports::commit`] cannot fail. A port that stays is not touched; one whose keys change keeps its device and its counters and
//! gets a new view in the workers.

use anyhow::{Context, ensure};
use config::{Origin, Plan, Port};
use netio::netns::Began;
use netio::{Poller, TapError};
use packet::Timestamp;
use vswitch::{BridgeId, PortId};

use super::Ports;
use super::attach::follow;
use super::device::DeviceError;
use super::guests::{self, Entrance};
use super::managed::ManagedPort;
use crate::fabric::Fabric;
use crate::model::{bridge_id, netns_of_process, port_vlan};
use crate::worker::Command;

/// Ports that have their devices and that no worker knows of yet.
#[derive(Debug)]
pub(crate) struct NewPorts {
    ports: Vec<ManagedPort>,
    entrances: Vec<Entrance>,
}

/// The result of a change.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    /// Ports that are not attached yet.
    pub(crate) added: Vec<PortId>,
    /// Ports that workers still know; their devices are closed when this is dropped.
    pub(crate) removed: Vec<ManagedPort>,
}

/// The MTUs of devices before a change, in bytes.
#[derive(Debug, Default)]
pub(crate) struct FormerMtus(Vec<(PortId, u32)>);

/// The words of a verb, which are those of the flag that it stands for without the flag's name; or the line of a file.
fn as_said(origin: &Origin) -> Origin {
    match origin {
        Origin::Flag(text) => Origin::Flag(text.split_once(' ').map_or_else(|| text.clone(), |(_, value)| value.into())),
        Origin::File { .. } | Origin::Verb(_) | Origin::Default => origin.clone(),
    }
}

/// When the process began in whose namespace a port is to be.
fn process_of(port: &Port) -> Result<Option<Began>, DeviceError> {
    let Some(netns) = netns_of_process(port) else { return Ok(None) };
    netns.process_now().map_err(|error| TapError::Namespace { netns, error }.into())
}

/// The longest packet that the tunnels of a bridge can carry, in bytes.
pub(crate) type OverlayMtu<'a> = &'a dyn Fn(BridgeId) -> Option<u32>;

impl Ports {
    /// Opens the devices of the ports that are added, with the next of these numbers, and the sockets that their guests
    /// connect to.
    pub(crate) fn prepare(
        &self,
        plan: &Plan,
        ids: &mut dyn Iterator<Item = PortId>,
        overlay_mtu: OverlayMtu<'_>,
        poller: &Poller,
        now: Timestamp,
    ) -> anyhow::Result<NewPorts> {
        let ids: Vec<PortId> = ids.take(plan.added_ports.len()).collect();
        ensure!(
            ids.len() == plan.added_ports.len(),
            "{} more ports, but there is room for {} until a restart",
            plan.added_ports.len(),
            ids.len()
        );
        let entrances = self.entrances.prepare(plan.added_ports.iter(), now)?;
        guests::watch(&entrances, poller)?;
        let mut new = NewPorts { ports: Vec::with_capacity(ids.len()), entrances };
        for (port, id) in plan.added_ports.iter().zip(ids) {
            let mut port = port.clone();
            let origin = as_said(&port.origin);
            port.propose_mtu(overlay_mtu(bridge_id(port.bridge)));
            let waits = plan.removed_ports.iter().any(|removed| removed.clashes_with(&port))
                || self.is_closing() && port.link().is_some();
            new.ports.push(match waits {
                true => {
                    // That of now, whenever the device can be opened.
                    let process = process_of(&port).map_err(|error| error.with_hint(&origin))?;
                    ManagedPort::later(id, port, process, now)
                }
                false => ManagedPort::open(id, port, 1, None, now).map_err(|error| error.with_hint(&origin))?,
            });
        }
        Ok(new)
    }

    /// Sets the MTU of the devices of altered ports whose `mtu` is another. Returns the former MTUs; if a device refuses, the
    /// others get theirs back.
    pub(crate) fn set_mtus(&mut self, plan: &Plan, overlay_mtu: OverlayMtu<'_>) -> anyhow::Result<FormerMtus> {
        let mut former = FormerMtus::default();
        for port in plan.altered_ports.iter().filter(|port| plan.has_new_mtu(port)) {
            let mut port = port.clone();
            port.propose_mtu(overlay_mtu(bridge_id(port.bridge)));
            let Some(at) = self.ports.position(&port) else { continue };
            match self.ports[at].set_mtu(port.mtu) {
                Ok(before) => former.0.extend(before.map(|mtu| (self.ports[at].id, mtu))),
                Err(error) => {
                    self.restore_mtus(former);
                    return Err(error).with_context(|| format!("{}: setting its MTU", port.name));
                }
            }
        }
        Ok(former)
    }

    /// Undoes [`Ports::set_mtus`].
    pub(crate) fn restore_mtus(&mut self, former: FormerMtus) {
        for (id, mtu) in former.0 {
            let Some(port) = self.ports.of_mut(id) else { continue };
            if let Err(error) = port.set_mtu(Some(mtu)) {
                tracing::warn!(port = port.name(), mtu, %error, "cannot set the port's former MTU again");
            }
        }
    }

    /// Adds the prepared ports, alters ports in place, and removes ports.
    pub(crate) fn commit(&mut self, plan: &Plan, new: NewPorts, overlay_mtu: OverlayMtu<'_>, fabric: &mut Fabric) -> Changed {
        let NewPorts { ports, entrances } = new;
        self.entrances.add(entrances);
        for port in &plan.altered_ports {
            self.alter(port, plan.has_new_mtu(port), overlay_mtu, fabric);
        }
        for port in &plan.renamed_ports {
            if let Some(at) = self.ports.position(port) {
                self.ports[at].config.name.clone_from(&port.name);
            }
        }
        // Of two ports of one device, the old one is found first.
        let removed = self.ports.take(&plan.removed_ports);
        let added: Vec<PortId> = ports.iter().map(|port| port.id).collect();
        for id in &added {
            fabric.slots.mark(*id);
            fabric.begin_to_count(*id);
        }
        self.ports.extend(ports);
        Changed { added, removed }
    }

    /// Closes the sockets that no port's guests connect to any more.
    pub(crate) fn close_unused_entrances(&mut self, poller: &Poller) {
        self.entrances.close_unused(&self.ports, poller);
    }

    fn alter(&mut self, to: &Port, has_new_mtu: bool, overlay_mtu: OverlayMtu<'_>, fabric: &mut Fabric) {
        let Some(at) = self.ports.position(to) else { return };
        let mut to = to.clone();
        let port = &mut self.ports[at];
        match has_new_mtu {
            true => to.propose_mtu(overlay_mtu(bridge_id(to.bridge))),
            false => to.mtu = port.config.mtu,
        }
        if let Some(mac) = to.station.mac.filter(|mac| port.config.station.mac != Some(*mac))
            && let Some(device) = port.device_mut()
            && let Err(error) = device.set_station_mac(mac)
        {
            tracing::warn!(port = port.config.name, %mac, %error, "cannot give the device this MAC address");
        }
        let moves = port.config.vlans != to.vlans || port.config.bridge != to.bridge;
        port.config.adopt(&to);
        let id = port.id;
        if let Some(view) = port.to_pipeline() {
            fabric.tell(|_| Command::View { id, port: Box::new(view.clone()) });
            // Its MTU, if that is another now.
            let found = port.look_now(fabric.now());
            let gone = follow(port, found, fabric);
            port.looked_at = self.looks;
            self.lost.extend(gone);
        }
        if moves {
            // Stations behind it are in another VLAN or on another bridge now.
            fabric.bridges.remove_astray(id, bridge_id(to.bridge), &port_vlan(&to.vlans));
            fabric.flush(id);
        }
    }
}
