//! What [`MacTable::learn`] would do, if a frame came now. Nothing is learned, renewed or evicted.

use std::sync::atomic::Ordering;

use packet::vlan::VlanId;
use packet::MacAddr;

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
