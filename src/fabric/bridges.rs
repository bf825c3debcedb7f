//! The bridges: their names and MAC tables, by their numbers. A port says which bridge it belongs to.

use std::sync::Arc;
use std::thread;

use packet::Timestamp;
use vswitch::mac_table::MacTableStats;
use vswitch::{BridgeId, Counters, MacEntry, MacTable, MacTableConfig, Pipeline, PortId, PortVlan, Rehearsal};

use crate::seed::random_seed;

/// MAC entries expired in one go; between two goes, workers may take the table's lock.
const EXPIRE_BUDGET: usize = 256;

/// All bridges, by their numbers.
#[derive(Debug)]
pub(crate) struct Bridges(Vec<Bridge>);

/// One bridge.
#[derive(Debug)]
pub(crate) struct Bridge {
    pub(crate) config: config::Bridge,
    pub(crate) table: Arc<MacTable>,
}

impl Bridges {
    /// Bridges whose ports have numbers below `ports`.
    pub(crate) fn new(configs: Vec<config::Bridge>, ports: usize) -> anyhow::Result<Bridges> {
        let bridge = |config: config::Bridge| {
            let (size, aging_secs) = (config.mac_table_size, config.mac_aging_time);
            let table = MacTable::new(MacTableConfig { size, aging_secs, ports, seed: random_seed()? });
            Ok(Bridge { config, table: Arc::new(table) })
        };
        Ok(Bridges(configs.into_iter().map(bridge).collect::<anyhow::Result<_>>()?))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Bridge> {
        self.0.iter()
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> + Clone {
        self.0.iter().map(|bridge| bridge.config.name.as_str())
    }

    pub(crate) fn table(&self, id: BridgeId) -> Option<&MacTable> {
        self.0.get(id.index()).map(|bridge| &*bridge.table)
    }

    /// The name of a bridge; empty if no bridge has this number.
    pub(crate) fn name(&self, id: BridgeId) -> &str {
        self.0.get(id.index()).map_or("", |bridge| &bridge.config.name)
    }

    /// The name, if there are several bridges to tell apart.
    pub(crate) fn name_among_several(&self, id: BridgeId) -> Option<&str> {
        (self.0.len() > 1).then(|| self.name(id))
    }

    /// A pipeline that knows the bridges, for one worker.
    pub(crate) fn pipeline(&self, ports: usize, counters: Arc<Counters>) -> Option<Pipeline> {
        let mut pipeline = Pipeline::new(Arc::clone(&self.0.first()?.table), ports, counters);
        self.tell(&mut pipeline);
        Some(pipeline)
    }

    /// The same for imaginary frames.
    pub(crate) fn rehearsal(&self, ports: usize) -> Option<Rehearsal> {
        let mut rehearsal = Rehearsal::new(Arc::clone(&self.0.first()?.table), ports);
        self.tell(rehearsal.pipeline_mut());
        Some(rehearsal)
    }

    fn tell(&self, pipeline: &mut Pipeline) {
        for (number, bridge) in self.0.iter().enumerate() {
            pipeline.set_bridge(BridgeId(number as u8), Some(Arc::clone(&bridge.table)));
        }
    }

    /// Removes the entries learned from a port, on whichever bridge it is or was.
    pub(crate) fn flush(&self, port: PortId) {
        for bridge in &self.0 {
            bridge.table.flush(Some(port), None);
        }
    }

    /// Removes all entries of a port that is removed, static ones too.
    pub(crate) fn remove_port(&self, port: PortId) {
        for bridge in &self.0 {
            bridge.table.remove_port(port, |_| false);
        }
    }

    /// Removes the entries of a port on all bridges but this one, and there those of VLANs that it does not carry; static ones
    /// too.
    pub(crate) fn remove_astray(&self, port: PortId, home: BridgeId, vlans: &PortVlan) {
        for (number, bridge) in self.0.iter().enumerate() {
            bridge.table.remove_port(port, |vlan| BridgeId(number as u8) == home && vlans.carries(vlan));
        }
    }

    /// Removes expired entries.
    pub(crate) fn expire(&self, now: Timestamp) {
        for bridge in &self.0 {
            while bridge.table.expire(now, EXPIRE_BUDGET) == EXPIRE_BUDGET {
                thread::yield_now();
            }
        }
    }

    /// The MAC entries of each bridge, by its name. While a table's entries are collected, workers learn nothing there.
    pub(crate) fn entries(&self, now: Timestamp) -> Vec<(String, Vec<MacEntry>)> {
        self.0.iter().map(|bridge| (bridge.config.name.clone(), bridge.table.entries(now))).collect()
    }

    /// The counters of each bridge's table, by its name.
    pub(crate) fn stats(&self) -> Vec<(String, MacTableStats)> {
        self.0.iter().map(|bridge| (bridge.config.name.clone(), bridge.table.stats())).collect()
    }
}
