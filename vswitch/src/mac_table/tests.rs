use super::*;

const VLAN: VlanId = VlanId::NONE;

fn table(size: usize) -> MacTable {
    MacTable::new(MacTableConfig { size, ports: 8, seed: [1, 2], ..MacTableConfig::default() })
}

fn mac(n: u64) -> MacAddr {
    MacAddr::from_u64(0x0200_0000_0000 | n)
}

fn at(secs: u64) -> Timestamp {
    Timestamp::from_secs(secs)
}

#[test]
fn learn_refresh_move() {
    let table = table(100);
    assert_eq!(table.learn(VLAN, mac(1), PortId(0), at(0)), Learned::Added);
    assert_eq!(table.learn(VLAN, mac(1), PortId(0), at(0)), Learned::Refreshed);
    assert_eq!(table.learn(VLAN, mac(1), PortId(3), at(1)), Learned::Moved { from: PortId(0) });
    assert_eq!(table.lookup(VLAN, mac(1), at(1)), Some(PortId(3)));
    let stats = table.stats();
    assert_eq!((stats.learned, stats.moved, stats.entries), (1, 1, 1));
}

#[test]
fn only_stations_are_learned() {
    let table = table(100);
    for mac in [MacAddr::BROADCAST, MacAddr::default(), MacAddr([1, 0, 0x5e, 0, 0, 1])] {
        assert_eq!(table.learn(VLAN, mac, PortId(0), at(0)), Learned::Refused);
    }
    assert_eq!(table.learn(VLAN, mac(1), PortId(8), at(0)), Learned::Refused, "no such port");
}

#[test]
fn each_vlan_learns_by_itself() {
    let table = table(100);
    let ten = VlanId::new(10).unwrap();
    table.learn(ten, mac(1), PortId(0), at(0));
    table.learn(VLAN, mac(1), PortId(1), at(0));
    assert_eq!(table.lookup(ten, mac(1), at(0)), Some(PortId(0)));
    assert_eq!(table.lookup(VLAN, mac(1), at(0)), Some(PortId(1)));
    assert_eq!(table.flush(None, Some(ten)), 1);
    assert_eq!(table.lookup(ten, mac(1), at(0)), None);
}

#[test]
fn entries_age_unless_renewed() {
    let table = table(100);
    table.learn(VLAN, mac(1), PortId(0), at(0));
    table.learn(VLAN, mac(2), PortId(0), at(0));
    table.learn(VLAN, mac(1), PortId(0), at(200));
    assert_eq!(table.lookup(VLAN, mac(2), at(299)), Some(PortId(0)));
    assert_eq!(table.lookup(VLAN, mac(2), at(300)), None, "gone for look-ups before anybody swept");
    assert_eq!(table.expire(at(300), 10), 1);
    assert_eq!(table.lookup(VLAN, mac(1), at(300)), Some(PortId(0)));
    assert_eq!(table.expire(at(500), 10), 1);
    assert_eq!((table.stats().expired, table.stats().entries), (2, 0));
}

#[test]
fn expiry_keeps_to_its_budget() {
    let table = table(100);
    (0..50).for_each(|n| assert_eq!(table.learn(VLAN, mac(n + 1), PortId(n as u16 % 4), at(0)), Learned::Added));
    assert_eq!(table.expire(at(400), 20), 20);
    assert_eq!(table.expire(at(400), 20), 20);
    assert_eq!(table.expire(at(400), 20), 10);
}

#[test]
fn a_flooder_pushes_out_its_own() {
    let table = table(100);
    for n in 0..10 {
        table.learn(VLAN, mac(n + 1), PortId(1), at(0));
    }
    for n in 0..100_000 {
        table.learn(VLAN, mac(0x10_0000 + n), PortId(2), at(1));
    }
    for n in 0..10 {
        assert_eq!(table.lookup(VLAN, mac(n + 1), at(1)), Some(PortId(1)), "station {n}");
    }
    let stats = table.stats();
    assert_eq!(stats.entries, 100);
    assert_eq!(stats.learned, stats.evicted + 100);
}

#[test]
fn the_victim_is_the_least_recently_used() {
    let table = table(10);
    for n in 0..10 {
        table.learn(VLAN, mac(n + 1), PortId(0), at(n));
    }
    table.learn(VLAN, mac(1), PortId(0), at(20));
    table.learn(VLAN, mac(100), PortId(1), at(21));
    assert_eq!(table.lookup(VLAN, mac(1), at(21)), Some(PortId(0)), "renewed");
    assert_eq!(table.lookup(VLAN, mac(2), at(21)), None, "the oldest now");
}

#[test]
fn static_entries_stay() {
    let table = table(10);
    table.learn(VLAN, mac(1), PortId(0), at(0));
    table.add_static(VLAN, mac(1), PortId(5)).unwrap();
    assert_eq!(table.learn(VLAN, mac(1), PortId(0), at(0)), Learned::Refused);
    assert_eq!(table.learn(VLAN, mac(1), PortId(5), at(0)), Learned::Refreshed);
    for n in 0..1000 {
        table.learn(VLAN, mac(n + 2), PortId(0), at(0));
    }
    assert_eq!(table.expire(at(1000), 1000), 10);
    table.flush(None, None);
    assert_eq!(table.lookup(VLAN, mac(1), at(100_000)), Some(PortId(5)));
    assert_eq!((table.stats().entries, table.stats().statics), (0, 1));
    assert!(table.remove(VLAN, mac(1)));
    assert!(!table.remove(VLAN, mac(1)));
    assert_eq!(table.stats().statics, 0);
}

#[test]
fn static_entries_have_a_limit() {
    let table = table(10);
    let added = (0..100).filter(|n| table.add_static(VLAN, mac(n + 1), PortId(0)).is_ok()).count();
    assert_eq!((added, table.stats().statics), (10, 10));
}

#[test]
fn a_port_that_goes_takes_its_entries_with_it() {
    let table = table(100);
    for n in 0..20 {
        table.learn(VLAN, mac(n + 1), PortId(n as u16 % 2), at(0));
    }
    assert_eq!(table.flush(Some(PortId(0)), None), 10);
    assert_eq!(table.entries(at(0)).len(), 10);
    assert!(table.entries(at(0)).iter().all(|entry| entry.port == PortId(1)));
}

#[test]
fn a_full_bucket_makes_room_by_itself() {
    // 10 entries in 8 buckets of 4, but 1,000,000 addresses: many meet in the same two buckets.
    let table = MacTable::new(MacTableConfig { size: 10, ports: 2, ..MacTableConfig::default() });
    for n in 0..10_000 {
        assert_eq!(table.learn(VLAN, mac(n + 1), PortId(0), at(n / 100)), Learned::Added);
        assert_eq!(table.lookup(VLAN, mac(n + 1), at(n / 100)), Some(PortId(0)));
    }
    assert!(table.stats().entries <= 10);
}

/// Workers learn and look up at once: no look-up may ever show a port where its address never was.
#[test]
fn readers_never_see_half_a_change() {
    let table = table(16);
    std::thread::scope(|scope| {
        for worker in 0..2u64 {
            let table = &table;
            scope.spawn(move || {
                for n in 0..100_000u64 {
                    let station = (n * 7 + worker * 13) % 64;
                    table.learn(VLAN, mac(station + 1), PortId((station % 4) as u16), at(n / 1000));
                    let other = (n * 11 + worker) % 64;
                    if let Some(port) = table.lookup(VLAN, mac(other + 1), at(n / 1000)) {
                        assert_eq!(port, PortId((other % 4) as u16));
                    }
                }
            });
        }
    });
    let stats = table.stats();
    assert_eq!(stats.moved, 0);
    assert_eq!(stats.learned, stats.evicted + stats.expired + stats.entries as u64);
}

#[test]
fn a_port_that_is_none_any_more_leaves_nothing() {
    let table = table(100);
    for (n, port) in [(1, 0), (2, 1), (3, 1)] {
        assert_eq!(table.learn(VLAN, mac(n), PortId(port), at(0)), Learned::Added);
    }
    table.add_static(VLAN, mac(4), PortId(1)).unwrap();
    assert_eq!(table.remove_port(PortId(1), |_| false), 3);
    assert_eq!(table.entries(at(0)).iter().map(|entry| entry.mac).collect::<Vec<_>>(), [mac(1)]);
    assert_eq!((table.stats().entries, table.stats().statics), (1, 0));
    assert_eq!(table.learn(VLAN, mac(4), PortId(1), at(1)), Learned::Added, "its number is another port's");
}

#[test]
fn a_port_keeps_the_entries_of_the_vlans_that_it_carries() {
    let table = table(100);
    let other = VlanId::new(VLAN.get() + 1).unwrap();
    for (vlan, mac, port) in [(VLAN, mac(1), 1), (other, mac(1), 1), (other, mac(2), 0)] {
        table.add_static(vlan, mac, PortId(port)).unwrap();
    }
    assert_eq!(table.learn(other, mac(3), PortId(1), at(0)), Learned::Added);
    assert_eq!(table.remove_port(PortId(1), |vlan| vlan == VLAN), 2);
    let left = table.entries(at(0));
    assert_eq!(left.len(), 2);
    assert!(left.iter().all(|entry| (entry.vlan, entry.port) == (VLAN, PortId(1)) || entry.port == PortId(0)));
}

/// Whoever has the lock: a static entry needs none, whichever port a frame with its address comes in through.
#[test]
fn an_address_with_a_static_entry_takes_no_lock() {
    let table = table(100);
    table.add_static(VLAN, mac(1), PortId(0)).unwrap();
    let _held = table.lock();
    assert_eq!(table.learn(VLAN, mac(1), PortId(0), at(5)), Learned::Refreshed);
    assert_eq!(table.learn(VLAN, mac(1), PortId(1), at(5)), Learned::Refused);
}

/// A table that the machine has no memory for is an error, and so is its copy.
#[test]
fn a_table_without_memory() {
    // No address space has room for the lists of so many ports.
    let config = MacTableConfig { ports: usize::MAX >> 5, ..MacTableConfig::default() };
    assert!(matches!(MacTable::try_new(config), Err(NoMemory)));
    assert!(matches!(MacTable::new(MacTableConfig::default()).resized(config, at(1)), Err(Unsizable::NoMemory)));
}

#[test]
fn another_size_keeps_ages_statics_loops_and_counters() {
    let config = |size| MacTableConfig { size, ports: 4, ..MacTableConfig::default() };
    let table = MacTable::new(config(100));
    (0..12).for_each(|n| table.add_static(VLAN, mac(1000 + n), PortId(3)).unwrap());
    (0..40).for_each(|n| assert_eq!(table.learn(VLAN, mac(n), PortId(0), at(100 + n)), Learned::Added));
    // A loop between ports 1 and 2.
    while table.take_loops().is_empty() {
        [1, 2].into_iter().for_each(|port| assert_ne!(table.learn(VLAN, mac(99), PortId(port), at(139)), Learned::Refused));
    }
    let (stats, blocked) = (table.stats(), table.blocked(at(140)));
    assert_eq!(blocked.len(), 1);

    let larger = table.resized(config(1000), at(140)).unwrap();
    assert_eq!((larger.entries(at(140)), larger.stats()), (table.entries(at(140)), stats));
    assert_eq!(larger.blocked(at(140)), blocked);
    assert!(larger.is_blocked(blocked[0].port, VLAN, at(140)) && !larger.is_blocked(blocked[0].port, VLAN, at(145)));
    assert_eq!(larger.expire(at(402), 100), 3, "as old as before");

    let smaller = table.resized(config(12), at(140)).unwrap();
    let kept: Vec<MacEntry> = smaller.entries(at(140)).into_iter().filter(|entry| entry.age.is_some()).collect();
    assert!(kept.len() >= 10 && kept.iter().all(|entry| entry.age.is_some_and(|age| age < 15)), "{kept:?}");
    assert_eq!(table.resized(config(11), at(140)).err(), Some(Unsizable::Statics(12)));
}

/// A full table of stations that come and move, some of them static: what is learned and what is evicted was decided
/// before.
#[test]
fn what_is_decided_is_what_happens() {
    let table = MacTable::new(MacTableConfig { size: 10, ports: 4, ..MacTableConfig::default() });
    for n in 0..6 {
        table.add_static(VLAN, mac(1000 + n), PortId(3)).unwrap();
    }
    let (mut state, mut evictions) = (1u64, 0);
    for step in 0..5000u64 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let station = mac(if state >> 60 == 0 { 1000 + (state >> 40) % 6 } else { (state >> 40) % 40 });
        let (port, now) = (PortId((state >> 33) as u16 % 5), at(step / 20));
        let before = table.entries(now);
        let stats = table.stats();
        let decision = table.decide(VLAN, station, port, now);
        assert_eq!((table.entries(now), table.stats()), (before.clone(), stats), "deciding changed something");
        assert_eq!(table.learn(VLAN, station, port, now), decision.learned, "step {step}");
        let after = table.entries(now);
        let is_there = |mac: MacAddr| after.iter().any(|entry| entry.mac == mac);
        let gone: Vec<MacAddr> = before.iter().map(|entry| entry.mac).filter(|mac| !is_there(*mac)).collect();
        let decided: Vec<MacAddr> = decision.evicted.into_iter().flatten().map(|(_, mac)| mac).collect();
        assert!(gone.iter().all(|mac| decided.contains(mac)) && decided.iter().all(|mac| !is_there(*mac)), "step {step}");
        evictions += gone.len();
    }
    assert!(evictions > 500, "{evictions}");
}
