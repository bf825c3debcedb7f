//! A worker's memo of the MAC tables: the answers of its last look-ups.
//!
//! Most frames go between stations that sent or received another frame a moment ago. For these, the keyed hash of two addresses
//! is a third of all the work of switching a frame. So a worker remembers answers, in one place for each of 256 values of a cheap
//! hash.
//!
//! *A place is believed* only while the table's version and the second are those of the look-up. The version changes with each
//! entry that is added, removed or moved to another port, and with the ageing time; so at the same version an entry is there
//! still, with the same port. Within one second an entry does not age, and one that was renewed is not due again. So the memo
//! gives the answer that the table would give. The version is read before the table: a change in between makes the new place
//! worthless, not wrong.
//!
//! *Misses are not remembered*: a frame to an unknown station is flooded, which costs more than its look-up.
//!
//! *An attacker* can compute the cheap hash, and can change the table's version with each frame by inventing addresses. Both make
//! workers look up in the table, as they would without a memo, and no more.

use packet::{MacAddr, Timestamp};

use super::slots::{is_settled, key_of};
use super::{Learned, MacTable};
use crate::domain::{BridgeId, Domain};
use crate::port::PortId;

const PLACES: usize = 256;

/// One worker's memo of the tables of all bridges.
#[derive(Debug)]
pub struct MacMemo(Box<[Place; PLACES]>);

/// The answer for one address.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// The table's key for VLAN and address, which is never 0.
    key: u64,
    /// Version of the table.
    version: u64,
    /// Second of the look-up.
    secs: u32,
    port: PortId,
    bridge: BridgeId,
    /// Whether the entry needs no renewal in this second: it was renewed, or it is static.
    is_fresh: bool,
}

impl Default for MacMemo {
    fn default() -> MacMemo {
        MacMemo(Box::new([Place::FREE; PLACES]))
    }
}

impl MacMemo {
    /// [`MacTable::learn`] of the table of this domain's bridge.
    #[inline(always)]
    pub fn learn(&mut self, table: &MacTable, domain: Domain, mac: MacAddr, port: PortId, now: Timestamp) -> Learned {
        let key = key_of(domain.vlan, mac);
        let version = table.slots.version();
        let place = self.place(key, domain.bridge);
        if place.answers(key, domain.bridge, version, now) && place.is_fresh && place.port == port {
            return Learned::Refreshed;
        }
        learn_anew(place, table, domain, mac, port, now)
    }

    /// [`MacTable::lookup`] in the table of this domain's bridge.
    #[inline(always)]
    pub fn lookup(&mut self, table: &MacTable, domain: Domain, mac: MacAddr, now: Timestamp) -> Option<PortId> {
        let key = key_of(domain.vlan, mac);
        let version = table.slots.version();
        let place = self.place(key, domain.bridge);
        if place.answers(key, domain.bridge, version, now) {
            return Some(place.port);
        }
        look_up_anew(place, table, domain, mac, now)
    }

    /// Forgets everything. To be called when a bridge gets another table, whose versions mean nothing for the old places.
    pub fn clear(&mut self) {
        self.0.fill(Place::FREE);
    }

    #[inline(always)]
    fn place(&mut self, key: u64, bridge: BridgeId) -> &mut Place {
        // After multiplication by the golden ratio the upper bits depend on all bits (Knuth, volume 3, section 6.4).
        let mixed = (key ^ u64::from(bridge.0)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &mut self.0[usize::from((mixed >> 56) as u8)]
    }
}

impl Place {
    const FREE: Place = Place { key: 0, version: 0, secs: 0, port: PortId::NOWHERE, bridge: BridgeId(0), is_fresh: false };

    #[inline(always)]
    fn answers(&self, key: u64, bridge: BridgeId, version: u64, now: Timestamp) -> bool {
        self.key == key && self.version == version && self.secs == now.secs() && self.bridge == bridge
    }
}

#[inline(never)]
fn learn_anew(place: &mut Place, table: &MacTable, domain: Domain, mac: MacAddr, port: PortId, now: Timestamp) -> Learned {
    let Domain { bridge, vlan } = domain;
    let version = table.slots.version();
    let learned = table.learn(vlan, mac, port, now);
    if learned == Learned::Refreshed && is_settled(version) {
        *place = Place { key: key_of(vlan, mac), version, secs: now.secs(), port, bridge, is_fresh: true };
    }
    learned
}

#[inline(never)]
fn look_up_anew(place: &mut Place, table: &MacTable, domain: Domain, mac: MacAddr, now: Timestamp) -> Option<PortId> {
    let Domain { bridge, vlan } = domain;
    let version = table.slots.version();
    let port = table.lookup(vlan, mac, now)?;
    if is_settled(version) {
        *place = Place { key: key_of(vlan, mac), version, secs: now.secs(), port, bridge, is_fresh: false };
    }
    Some(port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mac_table::MacTableConfig;
    use packet::vlan::VlanId;

    const DOMAIN: Domain = Domain { bridge: BridgeId(3), vlan: VlanId::NONE };
    const NOW: Timestamp = Timestamp::from_secs(5);

    fn table() -> MacTable {
        MacTable::new(MacTableConfig { ports: 8, seed: [1, 2], ..MacTableConfig::default() })
    }

    fn mac(n: u64) -> MacAddr {
        MacAddr::from_u64(0x0200_0000_0000 | n)
    }

    /// Two stations that share a place.
    fn rivals(memo: &mut MacMemo) -> [MacAddr; 2] {
        let mut place = |n| std::ptr::from_ref(memo.place(key_of(VlanId::NONE, mac(n)), DOMAIN.bridge));
        let first = place(0);
        [mac(0), mac((1..).find(|n| place(*n) == first).unwrap())]
    }

    #[test]
    fn stations_that_share_a_place_are_told_apart() {
        let (table, mut memo) = (table(), MacMemo::default());
        let rivals = rivals(&mut memo);
        for _ in 0..3 {
            for (port, mac) in [(1, rivals[0]), (2, rivals[1])] {
                memo.learn(&table, DOMAIN, mac, PortId(port), NOW);
                assert_eq!(memo.lookup(&table, DOMAIN, mac, NOW), Some(PortId(port)));
            }
        }
        assert_eq!(memo.lookup(&table, DOMAIN, rivals[0], NOW), Some(PortId(1)));
    }

    #[test]
    fn an_address_of_another_bridge_is_another_address() {
        let (here, there, mut memo) = (table(), table(), MacMemo::default());
        let elsewhere = Domain { bridge: BridgeId(4), ..DOMAIN };
        for _ in 0..2 {
            memo.learn(&here, DOMAIN, mac(1), PortId(1), NOW);
            memo.learn(&there, elsewhere, mac(1), PortId(2), NOW);
            assert_eq!(memo.lookup(&here, DOMAIN, mac(1), NOW), Some(PortId(1)));
            assert_eq!(memo.lookup(&there, elsewhere, mac(1), NOW), Some(PortId(2)));
        }
    }

    #[test]
    fn a_change_by_another_worker_is_seen() {
        let (table, mut memo) = (table(), MacMemo::default());
        for _ in 0..2 {
            memo.learn(&table, DOMAIN, mac(1), PortId(1), NOW);
        }
        assert_eq!(table.learn(VlanId::NONE, mac(1), PortId(2), NOW), Learned::Moved { from: PortId(1) });
        assert_eq!(memo.lookup(&table, DOMAIN, mac(1), NOW), Some(PortId(2)));
        assert_eq!(memo.learn(&table, DOMAIN, mac(1), PortId(1), NOW), Learned::Moved { from: PortId(2) });
        table.add_static(VlanId::NONE, mac(1), PortId(3)).unwrap();
        assert_eq!(memo.learn(&table, DOMAIN, mac(1), PortId(1), NOW), Learned::Refused);
        assert_eq!(memo.lookup(&table, DOMAIN, mac(1), NOW), Some(PortId(3)));
        table.add_static(VlanId::NONE, mac(1), PortId(4)).unwrap();
        assert_eq!(memo.lookup(&table, DOMAIN, mac(1), NOW), Some(PortId(4)));
        assert!(table.remove(VlanId::NONE, mac(1)));
        assert_eq!(memo.lookup(&table, DOMAIN, mac(1), NOW), None);
    }

    #[test]
    fn a_station_is_renewed_in_each_second() {
        let (table, mut memo) = (table(), MacMemo::default());
        for secs in 5..10 {
            for _ in 0..3 {
                memo.learn(&table, DOMAIN, mac(1), PortId(1), Timestamp::from_secs(secs));
                memo.lookup(&table, DOMAIN, mac(1), Timestamp::from_secs(secs));
            }
            assert_eq!(table.entries(Timestamp::from_secs(secs))[0].age, Some(0));
        }
        assert_eq!(memo.lookup(&table, DOMAIN, mac(1), Timestamp::from_secs(400)), None);
    }
}
