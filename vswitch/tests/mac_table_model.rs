//! The MAC table, behind the memos of two workers, against a model: a plain `HashMap` with the same rules.

use std::collections::HashMap;

use packet::vlan::VlanId;
use packet::{MacAddr, Timestamp};
use proptest::prelude::*;
use vswitch::mac_table::Full;
use vswitch::{BridgeId, Domain, Learned, MacMemo, MacTable, MacTableConfig, PortId};

const PORTS: u16 = 4;
const AGING: u32 = 300;

type Key = (VlanId, MacAddr);

#[derive(Clone, Copy, Debug)]
struct Entry {
    port: PortId,
    /// When it was last renewed, in seconds and in operations; `None` if static.
    renewed: Option<(u32, u64)>,
}

/// What the module's text says, in the plainest way.
struct Model {
    entries: HashMap<Key, Entry>,
    size: usize,
    operations: u64,
}

impl Model {
    fn is_expired(entry: &Entry, now: u32) -> bool {
        entry.renewed.is_some_and(|(secs, _)| now - secs >= AGING)
    }

    fn lookup(&self, key: Key, now: u32) -> Option<PortId> {
        self.entries.get(&key).filter(|entry| !Model::is_expired(entry, now)).map(|entry| entry.port)
    }

    fn learned(&self) -> usize {
        self.entries.values().filter(|entry| entry.renewed.is_some()).count()
    }

    fn held_by(&self, port: PortId) -> usize {
        self.entries.values().filter(|entry| entry.renewed.is_some() && entry.port == port).count()
    }

    /// Which entries may make room: the least recently used one of each port that holds most.
    fn victims(&self) -> Vec<Key> {
        let most = (0..PORTS).map(|port| self.held_by(PortId(port))).max().unwrap_or(0);
        let ports = (0..PORTS).map(PortId).filter(|port| self.held_by(*port) == most);
        let oldest = |port| {
            let learned = self.entries.iter().filter(|(_, entry)| entry.renewed.is_some() && entry.port == port);
            // Order within the second is by the last change, which a refresh in the same second is not.
            learned.min_by_key(|(_, entry)| entry.renewed.map(|(_, operation)| operation)).map(|(key, _)| *key)
        };
        ports.filter_map(oldest).collect()
    }

    /// The answer, and the entries of which one must go.
    fn learn(&mut self, key: Key, port: PortId, now: u32) -> (Learned, Vec<Key>) {
        self.operations += 1;
        let fresh = Entry { port, renewed: Some((now, self.operations)) };
        if !key.1.is_station() {
            return (Learned::Refused, vec![]);
        }
        match self.entries.get(&key).copied() {
            Some(Entry { port: old, renewed: None }) if old == port => (Learned::Refreshed, vec![]),
            Some(Entry { renewed: None, .. }) => (Learned::Refused, vec![]),
            _ if port.0 >= PORTS => (Learned::Refused, vec![]),
            Some(Entry { port: old, renewed: Some((secs, _)) }) => {
                if old != port || secs != now {
                    self.entries.insert(key, fresh);
                }
                (if old == port { Learned::Refreshed } else { Learned::Moved { from: old } }, vec![])
            }
            None => {
                let victims = if self.learned() >= self.size { self.victims() } else { vec![] };
                self.entries.insert(key, fresh);
                (Learned::Added, victims)
            }
        }
    }

    fn add_static(&mut self, key: Key, port: PortId) -> Result<(), Full> {
        let statics = self.entries.len() - self.learned();
        let is_static = self.entries.get(&key).is_some_and(|entry| entry.renewed.is_none());
        if !is_static && statics >= self.size {
            return Err(Full);
        }
        self.entries.insert(key, Entry { port, renewed: None });
        Ok(())
    }
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Learn { station: u8, vlan: u16, port: u16 },
    Lookup { station: u8, vlan: u16 },
    AddStatic { station: u8, vlan: u16, port: u16 },
    Remove { station: u8, vlan: u16 },
    Flush { port: Option<u16>, vlan: Option<u16> },
    Expire { budget: usize },
    Wait { secs: u32 },
}

fn operations(stations: u8) -> impl Strategy<Value = Vec<Operation>> {
    let station = 0..stations;
    let vlan = 0u16..2;
    let operation = prop_oneof![
        // One number above the last port there is.
        12 => (station.clone(), vlan.clone(), 0..=PORTS).prop_map(|(station, vlan, port)| Operation::Learn { station, vlan, port }),
        6 => (station.clone(), vlan.clone()).prop_map(|(station, vlan)| Operation::Lookup { station, vlan }),
        2 => (station.clone(), vlan.clone(), 0..PORTS)
            .prop_map(|(station, vlan, port)| Operation::AddStatic { station, vlan, port }),
        1 => (station, vlan.clone()).prop_map(|(station, vlan)| Operation::Remove { station, vlan }),
        1 => (prop::option::of(0..PORTS), prop::option::of(vlan)).prop_map(|(port, vlan)| Operation::Flush { port, vlan }),
        1 => (0usize..20).prop_map(|budget| Operation::Expire { budget }),
        3 => prop_oneof![0u32..3, 0u32..200].prop_map(|secs| Operation::Wait { secs }),
    ];
    prop::collection::vec(operation, 1..200)
}

fn key(station: u8, vlan: u16) -> Key {
    // Station 0 is no station: the zero address.
    let mac = if station == 0 { MacAddr::default() } else { MacAddr::from_u64(0x0200_0000_0000 | u64::from(station)) };
    (VlanId::new(vlan).unwrap(), mac)
}

fn domain(key: Key) -> Domain {
    Domain { bridge: BridgeId::default(), vlan: key.0 }
}

/// The table and the model, kept in step.
struct Pair {
    table: MacTable,
    /// Those of the workers that learn and look up in turn.
    memos: [MacMemo; 2],
    model: Model,
    now: u32,
    /// Entries may make room for others in full buckets before the limit: the model follows.
    crowded: bool,
}

impl Pair {
    fn new(size: usize, seed: [u64; 2], crowded: bool) -> Pair {
        let table = MacTable::new(MacTableConfig { size, aging_secs: AGING, ports: usize::from(PORTS), seed });
        Pair { table, memos: Default::default(), model: Model { entries: HashMap::new(), size, operations: 0 }, now: 0, crowded }
    }

    fn at(&self) -> Timestamp {
        Timestamp::from_secs(u64::from(self.now))
    }

    /// The keys that are in the table, aged or not.
    fn holds(&self, key: Key) -> bool {
        // Nothing is older than nothing: at time 0 no entry is expired.
        self.table.lookup(key.0, key.1, Timestamp::default()).is_some()
    }

    /// Enough static entries to fill both buckets of a key?
    fn may_be_static_only(&self) -> bool {
        self.crowded && self.model.entries.len() - self.model.learned() >= 8
    }

    /// Takes out of the model what the table evicted; it must be one of those that may go.
    fn follow(&mut self, kept: Key, victims: &[Key]) -> Result<(), TestCaseError> {
        let gone: Vec<Key> = self.model.entries.keys().copied().filter(|key| !self.holds(*key)).collect();
        if victims.is_empty() {
            prop_assert!(gone.is_empty() || self.crowded, "{gone:?} went, the limit not reached");
        } else {
            prop_assert!(!gone.is_empty() && (gone.len() == 1 || self.crowded), "{gone:?} went at the limit");
            prop_assert!(gone.iter().any(|key| victims.contains(key)), "{gone:?} went instead of one of {victims:?}");
        }
        prop_assert!(!gone.contains(&kept));
        for key in gone {
            let entry = self.model.entries.remove(&key).unwrap();
            prop_assert!(entry.renewed.is_some(), "a static entry was evicted");
        }
        Ok(())
    }

    fn apply(&mut self, operation: Operation) -> Result<(), TestCaseError> {
        match operation {
            Operation::Learn { station, vlan, port } => {
                let (key, port) = (key(station, vlan), PortId(port));
                let (expected, victims) = self.model.learn(key, port, self.now);
                let now = self.at();
                self.memos.swap(0, 1);
                let answer = self.memos[0].learn(&self.table, domain(key), key.1, port, now);
                if expected == Learned::Added && answer == Learned::Refused && self.may_be_static_only() {
                    self.model.entries.remove(&key);
                    return self.follow(key, &victims);
                }
                prop_assert_eq!(answer, expected);
                if expected == Learned::Added {
                    self.follow(key, &victims)?;
                }
            }
            Operation::Lookup { station, vlan } => {
                let key = key(station, vlan);
                let now = self.at();
                self.memos.swap(0, 1);
                let answer = self.memos[0].lookup(&self.table, domain(key), key.1, now);
                prop_assert_eq!(answer, self.model.lookup(key, self.now));
            }
            Operation::AddStatic { station, vlan, port } => {
                let (key, port) = (key(station.max(1), vlan), PortId(port));
                let before = self.model.entries.get(&key).copied();
                let may_be_static_only = self.may_be_static_only();
                let expected = self.model.add_static(key, port);
                let answer = self.table.add_static(key.0, key.1, port);
                if expected.is_ok() && answer == Err(Full) && before.is_none() && may_be_static_only {
                    self.model.entries.remove(&key);
                    return Ok(());
                }
                prop_assert_eq!(answer, expected);
                if expected.is_ok() {
                    self.follow(key, &[])?;
                }
            }
            Operation::Remove { station, vlan } => {
                let key = key(station, vlan);
                prop_assert_eq!(self.table.remove(key.0, key.1), self.model.entries.remove(&key).is_some());
            }
            Operation::Flush { port, vlan } => {
                let (port, vlan) = (port.map(PortId), vlan.and_then(VlanId::new));
                let before = self.model.entries.len();
                self.model.entries.retain(|key, entry| {
                    entry.renewed.is_none()
                        || port.is_some_and(|port| port != entry.port)
                        || vlan.is_some_and(|vlan| vlan != key.0)
                });
                prop_assert_eq!(self.table.flush(port, vlan), before - self.model.entries.len());
            }
            Operation::Expire { budget } => {
                let old = self.model.entries.values().filter(|entry| Model::is_expired(entry, self.now)).count();
                prop_assert_eq!(self.table.expire(self.at(), budget), old.min(budget));
                let (holds, now) = (|key| self.holds(key), self.now);
                let gone: Vec<Key> = self.model.entries.keys().copied().filter(|key| !holds(*key)).collect();
                prop_assert_eq!(gone.len(), old.min(budget));
                for key in gone {
                    prop_assert!(Model::is_expired(&self.model.entries.remove(&key).unwrap(), now), "too young to go");
                }
            }
            Operation::Wait { secs } => self.now += secs,
        }
        self.compare()
    }

    fn compare(&self) -> Result<(), TestCaseError> {
        let stats = self.table.stats();
        let learned = self.model.learned();
        prop_assert_eq!((stats.entries, stats.statics), (learned, self.model.entries.len() - learned));
        prop_assert!(stats.entries <= self.model.size && stats.statics <= self.model.size);
        let shown: HashMap<Key, (PortId, Option<u32>)> =
            self.table.entries(self.at()).iter().map(|entry| ((entry.vlan, entry.mac), (entry.port, entry.age))).collect();
        let now = self.now;
        let alive = self.model.entries.iter().filter(|(_, entry)| !Model::is_expired(entry, now));
        let expected: HashMap<Key, (PortId, Option<u32>)> =
            alive.map(|(key, entry)| (*key, (entry.port, entry.renewed.map(|(secs, _)| now - secs)))).collect();
        prop_assert_eq!(shown, expected);
        Ok(())
    }
}

proptest! {
    /// Fewer stations than the limit, in a table so large that no bucket fills up.
    #[test]
    fn below_the_limit(operations in operations(30), seed: [u64; 2]) {
        let mut pair = Pair::new(1000, seed, false);
        for operation in operations {
            pair.apply(operation)?;
        }
        prop_assert_eq!(pair.table.stats().evicted, 0);
    }

    /// More stations than the limit, learned and static.
    #[test]
    fn at_the_limit(operations in operations(40), seed: [u64; 2]) {
        let mut pair = Pair::new(10, seed, true);
        for operation in operations {
            pair.apply(operation)?;
        }
    }

    /// Fairness: whoever holds no more than its share keeps it, whatever another port invents.
    #[test]
    fn a_flooder_pushes_out_its_own(quiet in prop::collection::vec(1u64..30, 3), flood in 500u64..3000, seed: [u64; 2]) {
        let table = MacTable::new(MacTableConfig { size: 400, aging_secs: AGING, ports: 4, seed });
        let mac = |port: usize, n: u64| MacAddr::from_u64(0x0200_0000_0000 | (port as u64) << 32 | n);
        for (port, stations) in quiet.iter().enumerate() {
            (0..*stations).for_each(|n| assert_eq!(table.learn(VlanId::NONE, mac(port, n), PortId(port as u16), Timestamp::default()), Learned::Added));
        }
        for n in 0..flood {
            prop_assert_eq!(table.learn(VlanId::NONE, mac(3, n), PortId(3), Timestamp::from_secs(1)), Learned::Added);
        }
        for (port, stations) in quiet.iter().enumerate() {
            for n in 0..*stations {
                prop_assert_eq!(table.lookup(VlanId::NONE, mac(port, n), Timestamp::from_secs(1)), Some(PortId(port as u16)));
            }
        }
        let stats = table.stats();
        prop_assert!(stats.entries <= 400);
        prop_assert_eq!(stats.learned, stats.evicted + stats.entries as u64);
    }
}
