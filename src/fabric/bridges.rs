//! The bridges: their names and MAC tables, by their numbers. A port says which bridge it belongs to.
//!
//! Bridges come and go while frames flow. A bridge that is removed has no ports any more; its number is free for another one with the
//! next change, because commands reach each worker in their order.
//!
//! *Memory.* A bridge that has no port learns nothing, so all such bridges share one table without room. With its first port a bridge
//! gets a table of its own, which it keeps: a thousand networks without guests cost next to nothing.

use std::collections::HashSet;
use std::sync::Arc;
use std::thread;

use packet::Timestamp;
use vswitch::mac_table::{MacTableStats, Unsizable};
use vswitch::{BridgeId, Counters, MacEntry, MacTable, MacTableConfig, Pipeline, Port, PortId, PortVlan, Rehearsal};

use crate::model::bridge_id;
use crate::seed::random_seed;

/// MAC entries expired in one go; between two goes, workers may take the table's lock.
const EXPIRE_BUDGET: usize = 256;

/// All bridges, by their numbers.
#[derive(Debug)]
pub(crate) struct Bridges {
    /// `None` where a number is free.
    by_number: Vec<Option<Bridge>>,
    /// Port numbers are below this.
    ports: usize,
    /// The table of all bridges that have had no port yet.
    idle: Arc<MacTable>,
}

/// One bridge.
#[derive(Debug)]
pub(crate) struct Bridge {
    pub(crate) config: config::Bridge,
    pub(crate) table: Arc<MacTable>,
}

impl Bridge {
    /// Its number.
    pub(crate) fn id(&self) -> BridgeId {
        bridge_id(self.config.number)
    }
}

impl Bridges {
    /// Bridges whose ports have numbers below `ports`; `occupied` are the numbers of those that have any.
    pub(crate) fn new(configs: Vec<config::Bridge>, occupied: &HashSet<usize>, ports: usize) -> anyhow::Result<Bridges> {
        let idle = Arc::new(MacTable::new(MacTableConfig { size: 0, ports: 0, ..MacTableConfig::default() }));
        let mut bridges = Bridges { by_number: Vec::new(), ports, idle };
        for config in configs {
            let is_occupied = occupied.contains(&config.number);
            let bridge = bridges.make(config, is_occupied)?;
            bridges.set(bridge);
        }
        Ok(bridges)
    }

    /// A bridge that is not one of these yet.
    pub(crate) fn make(&self, config: config::Bridge, has_ports: bool) -> anyhow::Result<Bridge> {
        if !has_ports {
            return Ok(Bridge { config, table: Arc::clone(&self.idle) });
        }
        let table = MacTable::try_new(self.table_config(&config)?).map_err(|_| no_memory(config.mac_table_size))?;
        Ok(Bridge { config, table: Arc::new(table) })
    }

    /// A bridge in place of the one of this number, with the same stations and other settings.
    pub(crate) fn remake(&self, config: config::Bridge, has_ports: bool, now: Timestamp) -> anyhow::Result<Bridge> {
        let before = self.get(bridge_id(config.number)).filter(|before| !self.is_idle(before.id()));
        let Some(before) = before else { return self.make(config, has_ports) };
        let table = match before.config.mac_table_size == config.mac_table_size {
            true => Arc::clone(&before.table),
            false => {
                let table = before.table.resized(self.table_config(&config)?, now);
                Arc::new(table.map_err(|reason| match reason {
                    Unsizable::NoMemory => no_memory(config.mac_table_size),
                    Unsizable::Statics(statics) => too_few(&config, statics),
                })?)
            }
        };
        Ok(Bridge { config, table })
    }

    /// Whether this is a bridge that has had no port yet, so that it has no table of its own.
    pub(crate) fn is_idle(&self, id: BridgeId) -> bool {
        self.get(id).is_some_and(|bridge| Arc::ptr_eq(&bridge.table, &self.idle))
    }

    fn table_config(&self, config: &config::Bridge) -> anyhow::Result<MacTableConfig> {
        let (size, aging_secs) = (config.mac_table_size, config.mac_aging_time);
        Ok(MacTableConfig { size, aging_secs, ports: self.ports, seed: random_seed()? })
    }

    /// Adds a bridge, or puts it in place of the one of this number.
    pub(crate) fn set(&mut self, bridge: Bridge) {
        let at = bridge.id().index();
        if at >= self.by_number.len() {
            self.by_number.resize_with(at + 1, || None);
        }
        if !Arc::ptr_eq(&bridge.table, &self.idle) {
            bridge.table.set_aging(bridge.config.mac_aging_time);
        }
        self.by_number[at] = Some(bridge);
    }

    /// Removes a bridge.
    pub(crate) fn remove(&mut self, id: BridgeId) {
        if let Some(bridge) = self.by_number.get_mut(id.index()) {
            *bridge = None;
        }
    }

    /// The bridges, by number.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Bridge> + Clone {
        self.by_number.iter().flatten()
    }

    pub(crate) fn get(&self, id: BridgeId) -> Option<&Bridge> {
        self.by_number.get(id.index())?.as_ref()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.iter().map(|bridge| bridge.config.name.as_str())
    }

    pub(crate) fn table(&self, id: BridgeId) -> Option<&MacTable> {
        self.get(id).map(|bridge| &*bridge.table)
    }

    /// The name of a bridge; empty if no bridge has this number.
    pub(crate) fn name(&self, id: BridgeId) -> &str {
        self.get(id).map_or("", |bridge| &bridge.config.name)
    }

    /// The name, if there are several bridges to tell apart.
    pub(crate) fn name_among_several(&self, id: BridgeId) -> Option<&str> {
        (self.iter().nth(1).is_some()).then(|| self.name(id))
    }

    /// A pipeline that knows the bridges, for one worker.
    pub(crate) fn pipeline(&self, ports: usize, counters: Arc<Counters>) -> Option<Pipeline> {
        let mut pipeline = Pipeline::new(Arc::clone(&self.iter().next()?.table), ports, counters);
        self.tell(&mut pipeline);
        Some(pipeline)
    }

    /// The same for imaginary frames.
    pub(crate) fn rehearsal(&self, ports: usize) -> Option<Rehearsal> {
        let mut rehearsal = Rehearsal::new(Arc::clone(&self.iter().next()?.table), ports);
        self.tell(rehearsal.pipeline_mut());
        Some(rehearsal)
    }

    fn tell(&self, pipeline: &mut Pipeline) {
        for bridge in self.iter() {
            pipeline.set_bridge(bridge.id(), Some(Arc::clone(&bridge.table)));
        }
    }

    /// Tells the loop guard of a port's bridge whether many stations are behind the port.
    pub(crate) fn set_leads_to_network(&self, id: PortId, port: &Port) {
        if let Some(table) = self.table(port.bridge).filter(|_| !self.is_idle(port.bridge)) {
            table.set_leads_to_network(id, port.leads_to_network());
        }
    }

    /// Removes the entries learned from a port, on whichever bridge it is or was.
    pub(crate) fn flush(&self, port: PortId) {
        for bridge in self.iter() {
            bridge.table.flush(Some(port), None);
        }
    }

    /// Removes all entries of a port that is removed, static ones too.
    pub(crate) fn remove_port(&self, port: PortId) {
        for bridge in self.iter() {
            bridge.table.remove_port(port, |_| false);
        }
    }

    /// Removes the entries of a port on all bridges but this one, and there those of VLANs that it does not carry; static ones
    /// too.
    pub(crate) fn remove_astray(&self, port: PortId, home: BridgeId, vlans: &PortVlan) {
        for bridge in self.iter() {
            bridge.table.remove_port(port, |vlan| bridge.id() == home && vlans.carries(vlan));
        }
    }

    /// Removes expired entries.
    pub(crate) fn expire(&self, now: Timestamp) {
        for bridge in self.iter() {
            while bridge.table.expire(now, EXPIRE_BUDGET) == EXPIRE_BUDGET {
                thread::yield_now();
            }
        }
    }

    /// The MAC entries of each bridge, by its name. While a table's entries are collected, workers learn nothing there.
    pub(crate) fn entries(&self, now: Timestamp) -> Vec<(String, Vec<MacEntry>)> {
        self.iter().map(|bridge| (bridge.config.name.clone(), bridge.table.entries(now))).collect()
    }

    /// The counters of each bridge's table, by its name.
    pub(crate) fn stats(&self) -> Vec<(String, MacTableStats)> {
        self.iter().map(|bridge| (bridge.config.name.clone(), bridge.table.stats())).collect()
    }
}

fn too_few(config: &config::Bridge, statics: usize) -> anyhow::Error {
    let config::Bridge { name, mac_table_size, .. } = config;
    anyhow::anyhow!(
        "bridge '{name}': mac-table-size {mac_table_size} has no room for its {statics} static entries: choose a larger one, or remove some with `vswitchctl fdb del`"
    )
}

fn no_memory(entries: usize) -> anyhow::Error {
    anyhow::anyhow!("not enough memory for a MAC table of {entries} entries: choose a smaller mac-table-size")
}
