//! What [`MacTable::learn`] would do, if a frame came now. Nothing is learned, renewed or evicted.

use std::sync::atomic::Ordering;

use packet::MacAddr;
use packet::vlan::VlanId;

use super::{Book, Learned, MacTable, Value, WAYS, key_of, key_parts};
use crate::port::PortId;

/// What a frame would do to the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WouldLearn {
    /// Of its source.
    pub learned: Learned,
    /// Who would make room for it.
    pub evicted: [Option<(VlanId, MacAddr)>; 2],
}

impl MacTable {
    /// What [`MacTable::learn`] would answer, and whom it would evict.
    #[must_use]
    pub fn would_learn(&self, vlan: VlanId, mac: MacAddr, port: PortId) -> WouldLearn {
        let mut would = WouldLearn { learned: Learned::Refused, evicted: [None; 2] };
        let book = self.lock();
        if !mac.is_station() || port.index() >= book.usage.ports() {
            return would;
        }
        let key = key_of(vlan, mac);
        let places = self.places(key);
        if let Some((_, value)) = self.scan(key, places) {
            would.learned = match (value.port == port, value.is_static) {
                (true, _) => Learned::Refreshed,
                (false, true) => Learned::Refused,
                (false, false) => Learned::Moved { from: value.port },
            };
            return would;
        }
        let oldest = if book.stats.entries >= self.size { book.usage.busiest() } else { None };
        let oldest = oldest.and_then(|port| book.usage.oldest(port));
        let named = |slot: usize| key_parts(self.slot(slot).key.load(Ordering::Relaxed));
        would.evicted[0] = oldest.map(named);
        if let Ok(crowded_out) = self.victim_in(&book, places, oldest) {
            would.evicted[1] = crowded_out.map(named);
            would.learned = Learned::Added;
        }
        would
    }

    /// Who in two buckets would make room, if none is free once the entry of slot `gone` is; an error if nobody may.
    fn victim_in(&self, book: &Book, places: [usize; 2], gone: Option<usize>) -> Result<Option<usize>, ()> {
        let slots = || places.into_iter().flat_map(|bucket| bucket * WAYS..(bucket + 1) * WAYS);
        if slots().any(|slot| Some(slot) == gone || self.slot(slot).key.load(Ordering::Relaxed) == 0) {
            return Ok(None);
        }
        let value = |slot: usize| Value::unpack(self.slot(slot).value.load(Ordering::Relaxed));
        // The one that is gone counts no more for its port.
        let gone_from = gone.map(|slot| value(slot).port);
        let len = |port: PortId| book.usage.len(port) - u32::from(gone_from == Some(port));
        let learned = slots().filter(|slot| !value(*slot).is_static);
        let victim = learned.min_by_key(|slot| (std::cmp::Reverse(len(value(*slot).port)), value(*slot).secs));
        victim.map(Some).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use packet::Timestamp;

    use super::*;
    use crate::mac_table::MacTableConfig;

    /// A full table of stations that come and move, some of them static: who is learned and who goes was said before.
    #[test]
    fn what_would_be_learned_is_learned_and_who_would_go_goes() {
        let table = MacTable::new(MacTableConfig { size: 10, ports: 4, ..MacTableConfig::default() });
        let mac = |n: u64| MacAddr([2, 0, 0, 0, (n >> 8) as u8, n as u8]);
        for n in 0..6 {
            table.add_static(VlanId::NONE, mac(1000 + n), PortId(3)).unwrap();
        }
        let (mut state, mut evictions) = (1u64, 0);
        for step in 0..5000u64 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let station = mac(if state >> 60 == 0 { 1000 + (state >> 40) % 6 } else { (state >> 40) % 40 });
            let (port, now) = (PortId((state >> 33) as u16 % 5), Timestamp::from_secs(step / 20));
            let before = table.entries(now);
            let stats = table.stats();
            let would = table.would_learn(VlanId::NONE, station, port);
            assert_eq!((table.entries(now), table.stats()), (before.clone(), stats), "asking changed something");
            assert_eq!(table.learn(VlanId::NONE, station, port, now), would.learned, "step {step}");
            let after = table.entries(now);
            let is_there = |mac: MacAddr| after.iter().any(|entry| entry.mac == mac);
            let gone: Vec<MacAddr> = before.iter().map(|entry| entry.mac).filter(|mac| !is_there(*mac)).collect();
            let said: Vec<MacAddr> = would.evicted.into_iter().flatten().map(|(_, mac)| mac).collect();
            assert!(gone.iter().all(|mac| said.contains(mac)) && said.iter().all(|mac| !is_there(*mac)), "step {step}");
            evictions += gone.len();
        }
        assert!(evictions > 500, "{evictions}");
    }
}
