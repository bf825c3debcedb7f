//! Commands to the workers for a port whose device appears, changes or disappears.

use api::What;
use netio::LinkState;

use super::device::Device;
use super::managed::{Found, ManagedPort};
use crate::fabric::Fabric;
use crate::worker::Command;

/// Tells the workers about what was found of a port's device. Returns the device if it is to be closed.
#[must_use]
pub(super) fn follow(port: &mut ManagedPort, found: Found, fabric: &mut Fabric) -> Option<Device> {
    match found {
        Found::Same => {}
        Found::Gone(device) => {
            detach(port, fabric);
            return device;
        }
        Found::Link(link) => change_link(port, &link, fabric),
        Found::Back => {
            tracing::info!(
                port = port.name(),
                "{}",
                if port.config.absence.waits && port.attachment() == Some(1) {
                    "the port's device has come"
                } else {
                    "port is back"
                }
            );
            attach(port, fabric);
            fabric.events.tell(What::PortBack { port: port.name().to_owned() });
        }
    }
    None
}

/// Gives a port's device to the workers, if it has one: one reads each queue, all may write.
pub(super) fn attach(port: &mut ManagedPort, fabric: &Fabric) {
    let (id, Some(view), Some(attachment)) = (port.id, port.to_pipeline(), port.attachment()) else { return };
    let Some(device) = port.device_mut() else { return };
    fabric.tell(|worker| {
        let (rx, tx) = device.ends(id, worker, &fabric.workers);
        Command::Attach { id, attachment, port: Box::new(view.clone()), rx, tx }
    });
}

/// A port's device is gone, and its MAC entries go too.
pub(super) fn detach(port: &ManagedPort, fabric: &mut Fabric) {
    let (id, name) = (port.id, port.name().to_owned());
    let what = if port.config.slot().is_some() {
        tracing::info!(port = name, "the guest is gone; its place is free");
        What::GuestWent { port: name }
    } else if port.config.absence.is_transient {
        tracing::info!(port = name, "the device is gone, and its transient port with it");
        What::PortGone { port: name }
    } else {
        tracing::warn!(port = name, "port is gone; waiting for its device to come back");
        What::PortGone { port: name }
    };
    fabric.events.tell(what);
    fabric.tell(|_| Command::Detach(id));
    fabric.flush(id);
}

fn change_link(port: &ManagedPort, link: &LinkState, fabric: &mut Fabric) {
    let (id, mtu, name) = (port.id, link.mtu, port.name().to_owned());
    tracing::info!(port = name, mtu, "link is {}", if link.up { "up" } else { "down" });
    fabric.events.tell(if link.up { What::PortUp { port: name, mtu } } else { What::PortDown { port: name } });
    fabric.tell(|_| Command::Mtu { id, mtu });
    if !link.up {
        fabric.flush(id);
    }
}
