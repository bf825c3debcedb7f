//! Loops that the MAC tables' loop guards have found, as events and log lines.
//!
//! The guard acts by itself, at once; what it did is looked for here once a second.

use api::What;
use vswitch::mac_table::Loop;
use vswitch::{BridgeId, PortId};

use crate::fabric::Fabric;

/// The ports that were blocked at the last look.
#[derive(Debug, Default)]
pub(crate) struct Loops {
    blocked: Vec<(BridgeId, PortId)>,
}

/// What has changed since the last look.
#[derive(Debug)]
pub(crate) struct News {
    found: Vec<(BridgeId, Loop)>,
    released: Vec<(BridgeId, PortId)>,
}

impl Loops {
    /// Once a second: takes the loops that were found, and compares the ports that are blocked.
    pub(crate) fn look(&mut self, fabric: &Fabric) -> News {
        let now = fabric.now();
        let (mut found, mut blocked) = (Vec::new(), Vec::new());
        for bridge in fabric.bridges.iter() {
            let id = bridge.id();
            let loops = bridge.table.take_loops();
            // The guard has forgotten the first addresses that the loop may have brought there.
            for port in loops.iter().flat_map(|found| [found.port, found.other]) {
                bridge.table.flush(Some(port), None);
            }
            found.extend(loops.into_iter().map(|found| (id, found)));
            blocked.extend(bridge.table.blocked(now).into_iter().map(|blocked| (id, blocked.port)));
        }
        // A port that was blocked and released between two looks is reported as released at the next one.
        blocked.extend(found.iter().map(|(id, found)| (*id, found.port)));
        blocked.sort_unstable();
        blocked.dedup();
        let released = self.blocked.iter().filter(|was| !blocked.contains(was)).copied().collect();
        self.blocked = blocked;
        News { found, released }
    }
}

impl News {
    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty() && self.released.is_empty()
    }

    /// Reports everything. `names` are those of all ports, by their numbers.
    pub(crate) fn tell(self, names: &[String], fabric: &mut Fabric) {
        let name = |id: PortId| names.get(id.index()).cloned().unwrap_or_default();
        for (bridge, found) in self.found {
            let (bridge, port, other) = (fabric.bridges.name(bridge).to_owned(), name(found.port), name(found.other));
            let (mac, vlan, seconds) = (found.mac.to_string(), found.vlan.get(), found.seconds);
            tracing::warn!(
                bridge,
                port,
                other,
                mac,
                vlan,
                seconds,
                "a loop: the address keeps moving between the two ports; nothing is flooded to and from the port for a while"
            );
            fabric.events.tell(What::PortBlocked { bridge, port, other, vlan, mac, seconds });
        }
        for (bridge, port) in self.released {
            let (bridge, port) = (fabric.bridges.name(bridge).to_owned(), name(port));
            tracing::info!(bridge, port, "no loop any more: frames are flooded to and from the port again");
            fabric.events.tell(What::PortReleased { bridge, port });
        }
    }
}
