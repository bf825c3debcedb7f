//! Loops that the MAC tables' loop guards have found, as events and log lines.
//!
//! The guard acts by itself, at once; what it did is looked for here once a second. What is blocked at a port or bridge that is
//! removed meanwhile ends with it, and is not reported as released.

use api::What;
use packet::vlan::VlanId;
use vswitch::mac_table::Loop;
use vswitch::{BridgeId, PortId};

use crate::fabric::Fabric;

/// A VLAN that is blocked at a port; `None` stands for all.
type Block = (BridgeId, PortId, Option<VlanId>);

/// What was blocked at the last look.
#[derive(Debug, Default)]
pub(crate) struct Loops {
    blocked: Vec<Block>,
}

/// What has changed since the last look.
#[derive(Debug)]
pub(crate) struct News {
    found: Vec<(BridgeId, Loop)>,
    released: Vec<Block>,
}

impl Loops {
    /// Once a second: takes the loops that were found, and compares the ports that are blocked.
    pub(crate) fn look(&mut self, fabric: &Fabric) -> News {
        let now = fabric.now();
        let (mut found, mut blocked) = (Vec::new(), Vec::new());
        for bridge in fabric.bridges.iter() {
            let id = bridge.id();
            let loops = bridge.table.take_loops();
            // The guard has forgotten the last addresses that the loop may have brought there.
            loops.iter().for_each(|found| bridge.table.flush_loop(found, now));
            found.extend(loops.into_iter().map(|found| (id, found)));
            blocked.extend(bridge.table.blocked(now).iter().map(|found| block(id, found)));
        }
        // A port that was blocked and released between two looks is reported as released at the next one.
        blocked.extend(found.iter().map(|(id, found)| block(*id, found)));
        blocked.sort_unstable();
        blocked.dedup();
        let released = self.blocked.iter().filter(|was| !blocked.contains(was)).copied().collect();
        self.blocked = blocked;
        News { found, released }
    }
}

impl Loops {
    /// A bridge is removed: another one may get its number before the next look.
    pub(crate) fn forget(&mut self, bridge: BridgeId) {
        self.blocked.retain(|(of, ..)| *of != bridge);
    }
}

fn block(bridge: BridgeId, found: &Loop) -> Block {
    (bridge, found.port, (!found.in_all_vlans).then_some(found.vlan))
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
            let all_vlans = found.in_all_vlans;
            tracing::warn!(
                bridge,
                port,
                other,
                mac,
                vlan,
                all_vlans,
                seconds,
                "a loop: the address keeps moving between the two ports; nothing is flooded to and from the port for a while"
            );
            fabric.events.tell(What::PortBlocked { bridge, port, other, vlan, all_vlans, mac, seconds });
        }
        let is_there = |bridge, port: PortId| {
            fabric.bridges.get(bridge).is_some() && names.get(port.index()).is_some_and(|name| !name.is_empty())
        };
        let released: Vec<Block> = self.released.into_iter().filter(|(bridge, port, _)| is_there(*bridge, *port)).collect();
        for (bridge, port, vlan) in released {
            let (bridge, port) = (fabric.bridges.name(bridge).to_owned(), name(port));
            let (vlan, all_vlans) = (vlan.map_or(0, VlanId::get), vlan.is_none());
            tracing::info!(bridge, port, vlan, all_vlans, "no loop any more: frames are flooded to and from the port again");
            fabric.events.tell(What::PortReleased { bridge, port, vlan, all_vlans });
        }
    }
}

#[cfg(test)]
mod tests {
    use vswitch::BridgeId;

    use super::*;
    use crate::fabric::tests::fabric;

    #[test]
    fn what_is_gone_is_not_released() {
        let mut fabric = fabric(1, 4);
        let mut events = fabric.events.sender().subscribe();
        let names: Vec<String> = ["a", "", "", ""].map(str::to_owned).into();
        let there = (BridgeId(0), PortId(0), None);
        let released = vec![there, (BridgeId(0), PortId(1), None), (BridgeId(7), PortId(0), None)];
        News { found: Vec::new(), released }.tell(&names, &mut fabric);
        assert!(
            matches!(&events.try_recv().unwrap().what, What::PortReleased { bridge, port, .. } if bridge == "br0" && port == "a")
        );
        assert!(events.try_recv().is_err(), "neither a port nor a bridge that is gone");
        let mut loops = Loops { blocked: vec![there, (BridgeId(1), PortId(0), None)] };
        loops.forget(BridgeId(0));
        assert_eq!(loops.blocked, [(BridgeId(1), PortId(0), None)]);
    }
}
