//! A table that an earlier process left: what goes on in the next one, and what damage does to it.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nat::{Endpoint, External, ExternalKind, LeftTable, Nat, NatConfig, Protocol, Published, Rest, Restored, Side, TableMemory};
use packet::Timestamp;
use packet::checksum::Checksum;
use proptest::prelude::*;
use testkit::packets::{self, ACK, SYN, Tcp, address, ipv4_mut, word};

const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const FAR: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const MOST: usize = 1024;
const SEED: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];
const NOW: Timestamp = Timestamp::from_secs(5);

/// Memory for a table, which is kept after its translation.
fn memory(entry_words: usize) -> (&'static [AtomicU64], &'static [AtomicU32]) {
    let slots = TableMemory::slots(MOST);
    let entries = TableMemory::entries(MOST, entry_words);
    let slots: &'static [AtomicU64] = (0..slots + 8).map(|_| AtomicU64::new(0)).collect::<Vec<_>>().leak();
    let entries: &'static [AtomicU32] = (0..entries + 16).map(|_| AtomicU32::new(0)).collect::<Vec<_>>().leak();
    // At the beginning of a cache line.
    (&slots[slots.as_ptr().align_offset(64)..], &entries[entries.as_ptr().align_offset(64)..])
}

fn config() -> NatConfig {
    NatConfig { max_connections: MOST, ..NatConfig::default() }
}

fn begin(nat: &Nat, kind: ExternalKind) {
    nat.set_externals(&[External { address: OUTSIDE, kind }], NOW).unwrap();
    if kind == ExternalKind::Own {
        let guest = Endpoint::new(GUEST, 80);
        nat.publish(&Published { protocol: Protocol::TCP, address: OUTSIDE, port: 8080, guest }, NOW).unwrap();
    }
}

fn translate(nat: &Nat, side: Side, mut packet: Vec<u8>) -> Option<Vec<u8>> {
    nat.translate(side, &mut ipv4_mut(&mut packet), Checksum::Complete, 3, NOW).ok().map(|_| packet)
}

/// A packet of a connection, each way: the sender's and receiver's endpoints are those of the inside.
type Flow = (Vec<u8>, Vec<u8>);

/// Opens connections of all kinds. Returns for each a packet as the guest sends it and one as the far host does.
fn open(nat: &Nat) -> Vec<Flow> {
    let mut flows = Vec::new();
    for n in 0..8 {
        let inside = Endpoint::new(Ipv4Addr::new(10, 0, 0, 2 + n as u8 % 3), 4000 + n / 2);
        let far = Endpoint::new(FAR, 443 + n % 2);
        // TCP that is established, in both directions.
        let syn = translate(nat, Side::Inside, packets::tcp(inside, far, &Tcp::new(SYN, 1000, 0), b"")).unwrap();
        let outside = Endpoint::new(address(&syn, 12), word(&syn, 20));
        translate(nat, Side::Outside, packets::tcp(far, outside, &Tcp::new(SYN | ACK, 5000, 1001), b"")).unwrap();
        let out = packets::tcp(inside, far, &Tcp::new(ACK, 1001, 5001), b"up");
        translate(nat, Side::Inside, out.clone()).unwrap();
        flows.push((out, packets::tcp(far, outside, &Tcp::new(ACK, 5001, 1003), b"down")));
        let out = packets::udp(inside, far, b"up");
        let sent = translate(nat, Side::Inside, out.clone()).unwrap();
        flows.push((out, packets::udp(far, Endpoint::new(address(&sent, 12), word(&sent, 20)), b"down")));
    }
    // To a published port.
    let far = Endpoint::new(FAR, 5555);
    translate(nat, Side::Outside, packets::tcp(far, Endpoint::new(OUTSIDE, 8080), &Tcp::new(SYN, 7000, 0), b"")).unwrap();
    let inside = Endpoint::new(GUEST, 80);
    translate(nat, Side::Inside, packets::tcp(inside, far, &Tcp::new(SYN | ACK, 9000, 7001), b"")).unwrap();
    let back = packets::tcp(far, Endpoint::new(OUTSIDE, 8080), &Tcp::new(ACK, 7001, 9001), b"up");
    translate(nat, Side::Outside, back.clone()).unwrap();
    flows.push((packets::tcp(inside, far, &Tcp::new(ACK, 9001, 7003), b"down"), back));
    // A protocol without ports.
    let out = packets::ip(47, GUEST, FAR, b"GRE without a header");
    translate(nat, Side::Inside, out.clone()).unwrap();
    flows.push((out, packets::ip(47, FAR, OUTSIDE, b"GRE without a header")));
    flows
}

fn left<'m>((slots, entries): (&'m [AtomicU64], &'m [AtomicU32]), entry_words: usize) -> LeftTable<'m> {
    LeftTable::new(slots, entries, MOST, entry_words, SEED, Rest::default()).unwrap()
}

fn first(memory: (&'static [AtomicU64], &'static [AtomicU32])) -> Nat {
    let nat = Nat::new_in(config(), SEED, TableMemory { slots: memory.0, entries: memory.1 }).unwrap();
    begin(&nat, ExternalKind::Own);
    nat
}

fn tuples(nat: &Nat) -> HashSet<String> {
    nat.connections(NOW).iter().map(|connection| format!("{:?} {:?}", connection.original, connection.reply)).collect()
}

#[test]
fn connections_go_on() {
    let memory = memory(TableMemory::ENTRY_WORDS);
    let nat = first(memory);
    let flows = open(&nat);
    let (before, mappings) = (tuples(&nat), nat.mappings(99).0);
    drop(nat);
    let next = Nat::new(config(), [1, 2]).unwrap();
    begin(&next, ExternalKind::Own);
    let restored = next.restore(&left(memory, TableMemory::ENTRY_WORDS), |_| true, NOW);
    assert_eq!(restored, Restored { connections: flows.len(), ..Restored::default() });
    assert_eq!((tuples(&next), next.mappings(99).0), (before, mappings));
    for (out, back) in flows {
        assert!(translate(&next, Side::Outside, back).is_some());
        assert!(translate(&next, Side::Inside, out).is_some());
    }
    assert_eq!(next.stats().opened, 0, "each belongs to its connection");
    // Twice makes no difference, and a port that a connection has is not given out.
    assert_eq!(next.restore(&left(memory, TableMemory::ENTRY_WORDS), |_| true, NOW).connections, 0);
    next.flush(NOW, |_| true);
    assert_eq!((next.stats().connections, next.stats().mappings), (0, 1), "all that they held is free, but for the rule");
}

/// With another address, or none, nothing is taken over; with the address of one guest only what is that guest's.
#[test]
fn what_has_no_address_ends() {
    let memory = memory(TableMemory::ENTRY_WORDS);
    let flows = open(&first(memory));
    let next = Nat::new(config(), [1, 2]).unwrap();
    let refused = next.restore(&left(memory, TableMemory::ENTRY_WORDS), |_| true, NOW);
    assert_eq!(refused, Restored { connections: 0, refused: flows.len(), ..Restored::default() });
    begin(&next, ExternalKind::OneToOne(GUEST));
    let restored = next.restore(&left(memory, TableMemory::ENTRY_WORDS), |_| true, NOW);
    assert!(restored.connections > 0 && restored.refused > 0, "{restored:?}");
    assert!(next.connections(NOW).iter().all(|one| [one.original.src.address, one.reply.src.address].contains(&GUEST)));
}

/// What belongs to another guest now, or to none, ends.
#[test]
fn what_is_anothers_inside_ends() {
    let memory = memory(TableMemory::ENTRY_WORDS);
    let flows = open(&first(memory));
    let next = Nat::new(config(), [1, 2]).unwrap();
    begin(&next, ExternalKind::Own);
    let restored = next.restore(&left(memory, TableMemory::ENTRY_WORDS), |address| address != GUEST, NOW);
    assert!(restored.connections > 0 && restored.moved > 0, "{restored:?}");
    assert_eq!(restored.connections + restored.moved, flows.len());
    assert!(next.connections(NOW).iter().all(|one| ![one.original.src.address, one.reply.src.address].contains(&GUEST)));
}

/// The time for which no process ran counts.
#[test]
fn what_has_timed_out_meanwhile_ends() {
    let memory = memory(TableMemory::ENTRY_WORDS);
    let flows = open(&first(memory));
    let after = |last: u32, passed: u32| {
        let next = Nat::new(config(), [1, 2]).unwrap();
        begin(&next, ExternalKind::Own);
        let rest = Rest { last, passed };
        let table = LeftTable::new(memory.0, memory.1, MOST, TableMemory::ENTRY_WORDS, SEED, rest).unwrap();
        let restored = next.restore(&table, |_| true, NOW);
        assert_eq!(restored.connections + restored.expired, flows.len());
        restored.expired
    };
    let [udp, tcp] = [NatConfig::default().timeouts.udp, NatConfig::default().timeouts.tcp_established];
    assert_eq!((after(0, 0), after(5, 0), after(5, udp)), (0, 0, 0));
    let datagrams = after(5, udp + 1);
    assert!(datagrams > 0 && datagrams < flows.len(), "{datagrams}");
    assert_eq!((after(5 + udp + 1, 0), after(6, udp)), (datagrams, datagrams), "idle before the end");
    assert_eq!((after(5, tcp + 1), after(5, u32::MAX)), (flows.len(), flows.len()));
}

/// A table is read as far as it was used.
#[test]
fn nothing_follows_an_entry_that_was_never_used() {
    let memory = memory(TableMemory::ENTRY_WORDS);
    let flows = open(&first(memory));
    let end = flows.len() * TableMemory::ENTRY_WORDS;
    let is_unused = |word: &AtomicU32| word.load(Ordering::Relaxed) == 0;
    assert!(!memory.1[end - TableMemory::ENTRY_WORDS..end].iter().all(is_unused) && memory.1[end..].iter().all(is_unused));
    memory.1[end + TableMemory::ENTRY_WORDS].store(2, Ordering::Relaxed);
    let next = Nat::new(config(), [1, 2]).unwrap();
    begin(&next, ExternalKind::Own);
    assert_eq!(next.restore(&left(memory, TableMemory::ENTRY_WORDS), |_| true, NOW).torn, 0);
    memory.1[end].store(2, Ordering::Relaxed);
    assert_eq!(next.restore(&left(memory, TableMemory::ENTRY_WORDS), |_| true, NOW).torn, 2);
}

/// A build whose entries are 8 bytes longer, and this one, read each other's tables.
#[test]
fn longer_entries_are_read() {
    let memory_now = memory(TableMemory::ENTRY_WORDS);
    let flows = open(&first(memory_now));
    let longer = TableMemory::ENTRY_WORDS + 2;
    let (_, entries) = memory(longer);
    for (to, from) in entries.chunks(longer).zip(memory_now.1.chunks(TableMemory::ENTRY_WORDS)) {
        to.iter().zip(from).for_each(|(to, from)| to.store(from.load(Ordering::Relaxed), Ordering::Relaxed));
        to.iter().skip(TableMemory::ENTRY_WORDS).for_each(|word| word.store(u32::MAX, Ordering::Relaxed));
    }
    let next = Nat::new(config(), [1, 2]).unwrap();
    begin(&next, ExternalKind::Own);
    assert_eq!(next.restore(&left((memory_now.0, entries), longer), |_| true, NOW).connections, flows.len());
    assert!(LeftTable::new(memory_now.0, memory_now.1, MOST, longer, SEED, Rest::default()).is_none(), "too short for that");
    assert!(LeftTable::new(memory_now.0, entries, MOST, TableMemory::ENTRY_WORDS - 1, SEED, Rest::default()).is_none());
}

proptest! {
    /// Whatever is damaged, what goes on is what was there.
    #[test]
    fn damage_costs_connections_and_nothing_else(
        damage in prop::collection::vec((any::<bool>(), any::<prop::sample::Index>(), any::<u64>()), 1..200),
        is_other_key in prop::bool::weighted(0.1),
    ) {
        let memory = memory(TableMemory::ENTRY_WORDS);
        let nat = first(memory);
        let flows = open(&nat);
        let before = tuples(&nat);
        drop(nat);
        // Where connections are, mostly.
        let used = flows.len() * TableMemory::ENTRY_WORDS;
        for (is_slot, at, value) in damage {
            if is_slot {
                memory.0[at.index(memory.0.len())].store(value, Ordering::Relaxed);
            } else {
                memory.1[at.index(used)].store(value as u32, Ordering::Relaxed);
            }
        }
        let next = Nat::new(config(), [1, 2]).unwrap();
        begin(&next, ExternalKind::Own);
        let seed = if is_other_key { [1, 1] } else { SEED };
        let table = LeftTable::new(memory.0, memory.1, MOST, TableMemory::ENTRY_WORDS, seed, Rest::default()).unwrap();
        let restored = next.restore(&table, |_| true, NOW);
        prop_assert!(tuples(&next).is_subset(&before));
        prop_assert!(restored.connections <= flows.len() && (!is_other_key || restored.connections == 0));
        // And the translation works.
        prop_assert!(translate(&next, Side::Inside, packets::udp(Endpoint::new(GUEST, 9), Endpoint::new(FAR, 9), b"")).is_some());
        next.flush(NOW, |_| true);
        prop_assert_eq!(next.stats().connections, 0);
    }
}
