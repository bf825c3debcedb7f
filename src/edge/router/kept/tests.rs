//! Tests of the table that is kept.

use std::net::Ipv4Addr;

use packet::checksum::Checksum;
use testkit::packets;

use super::*;

const HEADER_NOW: Header = Header { entry_words: TableMemory::ENTRY_WORDS, connections: 1024, seed: [3, 4], generation: 7 };

fn descriptor(memory: &SharedMemory) -> OwnedFd {
    memory.as_fd().try_clone_to_owned().unwrap()
}

#[test]
fn a_header_is_read_as_it_was_written() {
    let memory = HEADER_NOW.create().unwrap();
    let left = LeftMemory::open(descriptor(&memory)).unwrap();
    assert_eq!(left.header, HEADER_NOW);
    let older = Header { generation: 6, ..HEADER_NOW }.create().unwrap();
    let table = KeptTable::after(vec![descriptor(&memory), descriptor(&older)], Vec::new());
    assert_eq!((table.generation, table.left.map(|left| left.header.generation)), (7, Some(7)));
}

/// A process without outside addresses leaves what it found, without the places that went meanwhile.
#[test]
fn what_was_not_taken_over_is_left_once_more() {
    let place = |number| Place::from_words([number, number]);
    let memory = HEADER_NOW.create().unwrap();
    write_places(&memory, &[place(1), place(2)]);
    let mut left = vec![descriptor(&memory)];
    for round in 0..3 {
        let mut table = KeptTable::after(left, vec![place(1), place(2), place(3)]);
        let nat = table.translation(NatConfig::default(), [5, 6]).unwrap();
        table.set_places(vec![place(2), place(3)]);
        let (generation, kept) = table.descriptor().unwrap();
        assert_eq!(generation, 7, "{round}");
        left = vec![kept.try_clone_to_owned().unwrap()];
        let again = LeftMemory::open(kept.try_clone_to_owned().unwrap()).unwrap();
        assert_eq!((again.header, again.places), (HEADER_NOW, vec![place(2)]), "{round}");
        table.restore(&nat, Timestamp::default());
        assert_eq!(table.descriptor().map(|(generation, _)| generation), Some(8), "{round}");
    }
}

#[test]
fn what_is_no_table_is_refused() {
    for (at, value) in [(0, 0), (1, 9), (2, 1), (2, u64::MAX), (3, 0), (3, 1 << 40), (4, 5), (6, 0), (7, 1)] {
        let memory = HEADER_NOW.create().unwrap();
        memory.words(0, HEADER).unwrap()[at].store(value, Ordering::Relaxed);
        assert!(matches!(LeftMemory::open(descriptor(&memory)), Err(NoTable::Damaged)), "word {at}");
    }
    // With a good checksum.
    for (at, value) in [(1, 2), (2, 15), (3, 1 << 20), (3, u64::MAX), (2, u64::MAX)] {
        let memory = HEADER_NOW.create().unwrap();
        let words = memory.words(0, HEADER).unwrap();
        words[at].store(value, Ordering::Relaxed);
        let now: Vec<u64> = words[..HEADER - 1].iter().map(|word| word.load(Ordering::Relaxed)).collect();
        words[HEADER - 1].store(checksum_of(&now), Ordering::Relaxed);
        let refused = LeftMemory::open(descriptor(&memory)).unwrap_err();
        let expected = if at == 1 { "its layout is 2, and this version knows 3" } else { "its header or its places are damaged" };
        assert_eq!(refused.to_string(), expected, "word {at}");
    }
    let short = SharedMemory::create("short", PAGE).unwrap();
    assert!(LeftMemory::open(descriptor(&short)).is_err());
    let table = KeptTable::after(vec![descriptor(&short), std::fs::File::open("/dev/null").unwrap().into()], Vec::new());
    assert!(table.left.is_none() && table.is_wanted);
}

/// What the next process finds of a table whose memory this one keeps.
fn found(table: &KeptTable) -> LeftMemory {
    LeftMemory::open(descriptor(table.own.unwrap())).unwrap()
}

#[test]
fn places_hold_one_way_or_the_other() {
    let place = |n: u32| Place::new(packet::Ipv4Prefix::new((0x0a00_0000 + (n << 8)).into(), 24), "a network");
    let [a, b, c] = [1, 2, 3].map(place);
    let mut table = KeptTable::after(Vec::new(), vec![a, b]);
    let config = NatConfig { max_connections: 1024, ..NatConfig::default() };
    assert!(table.translation(config, [1, 2]).is_some());
    assert_eq!(found(&table).places, [a, b]);
    table.left = Some(found(&table));
    table.set_places(vec![c, a]);
    assert_eq!(found(&table).places, [a], "what goes is not there any more, and what comes not yet");
    table.settle();
    assert_eq!(found(&table).places, [c, a]);
    table.set_places(vec![a, b]);
    assert_eq!(table.left.take().unwrap().places, [a], "one that went between belongs to somebody else");
    table.set_places((0..MAX_PLACES as u32 + 1).map(place).collect());
    table.settle();
    assert_eq!(found(&table).places.len(), MAX_PLACES);
    let memory = table.own.unwrap();
    memory.words(WHICH_PLACES * size_of::<u64>(), 1).unwrap()[0].store((MAX_PLACES as u64 + 1) << 1, Ordering::Relaxed);
    assert!(LeftMemory::open(descriptor(memory)).is_err());
}

#[test]
fn the_time_at_rest() {
    let mut table = KeptTable::after(Vec::new(), Vec::new());
    let config = NatConfig { max_connections: 1024, ..NatConfig::default() };
    assert!(table.translation(config, [1, 2]).is_some());
    table.tick(Timestamp::from_secs(70));
    let memory = found(&table).memory;
    let rest = |now| rest_of(&memory, now);
    let now = boot_second();
    assert!(rest(now).last == 70 && rest(now).passed <= 1, "{:?}", rest(now));
    assert_eq!(rest(now + 3600).passed - rest(now).passed, 3600);
    assert_eq!((rest(0).passed, rest(u64::MAX).passed), (0, u32::MAX));
}

/// A table with connections of 16 guests, and what they are.
fn with_connections(places: &[Place]) -> (Vec<u64>, HashSet<String>) {
    let mut table = KeptTable::after(Vec::new(), places.to_vec());
    let nat = table.translation(config(), [1, 2]).unwrap();
    nat.set_externals(&[OUTSIDE], Timestamp::default()).unwrap();
    for n in 0..64 {
        let from = nat::Endpoint::new([10, 0, 0, n % 16].into(), 4000 + u16::from(n));
        let mut packet = packets::udp(from, nat::Endpoint::new([198, 51, 100, 7].into(), 53), b"");
        nat.translate(nat::Side::Inside, &mut packets::ipv4_mut(&mut packet), Checksum::Complete, 1, Timestamp::default())
            .unwrap();
    }
    let memory = table.own.unwrap();
    let words = memory.words(0, memory.byte_len() / size_of::<u64>()).unwrap();
    (words.iter().map(|word| word.load(Ordering::Relaxed)).collect(), tuples(&nat))
}

fn config() -> NatConfig {
    NatConfig { max_connections: 1024, ..NatConfig::default() }
}

const OUTSIDE: nat::External = nat::External { address: Ipv4Addr::new(203, 0, 113, 1), kind: nat::ExternalKind::Own };

fn tuples(nat: &Nat) -> HashSet<String> {
    let text = |connection: &nat::Connection| format!("{:?} {:?}", connection.original, connection.reply);
    nat.connections(Timestamp::default()).iter().map(text).collect()
}

/// Whatever is damaged, what is taken over was there and is still its guest's. What is missing is counted, or the table is refused;
/// only an entry whose slots are gone, or which has other tuples now, is as one that has ended.
#[test]
fn damage_is_no_wrong_delivery() {
    let guest = |n: u8, id: &str| Place::new(packet::Ipv4Prefix::new([10, 0, 0, n].into(), 32), id);
    let before: Vec<Place> = (0..16).map(|n| guest(n, "before")).collect();
    // Every second address is another guest's by now.
    let now: Vec<Place> = (0..16).map(|n| guest(n, if n % 2 == 0 { "before" } else { "heir" })).collect();
    let (whole, connections) = with_connections(&before);
    let used: Vec<usize> = (0..whole.len()).filter(|at| whole[*at] != 0).collect();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 20) as usize % below
    };
    let (mut refused, mut silent) = (0, 0);
    for round in 0..400 {
        let memory = SharedMemory::create("damaged", whole.len() * size_of::<u64>()).unwrap();
        let words = memory.words(0, whole.len()).unwrap();
        used.iter().for_each(|at| words[*at].store(whole[*at], Ordering::Relaxed));
        let count = if round == 0 { 0 } else { 1 + next(20) };
        for _ in 0..count {
            // The header and the clock in every tenth round; else what was used, or anything.
            let at = match round % 10 {
                0 => next(16),
                5 => next(whole.len()),
                _ => used[next(used.len())].max(CLOCK),
            };
            let value = if next(2) == 0 { whole[at] ^ 1 << next(64) } else { next(1 << 40) as u64 };
            words[at].store(value, Ordering::Relaxed);
        }
        let mut table = KeptTable::after(vec![descriptor(&memory)], now.clone());
        let nat = table.translation(config(), [3, 4]).unwrap();
        nat.set_externals(&[OUTSIDE], Timestamp::default()).unwrap();
        let Some(restored) = table.take_over(&nat, Timestamp::default()) else {
            refused += 1;
            continue;
        };
        let there = tuples(&nat);
        assert!(there.is_subset(&connections), "{there:?}");
        let odd = |text: &String| (0..8).any(|n| text.contains(&format!("10.0.0.{}:", 2 * n + 1)));
        assert!(!there.iter().any(odd), "{there:?}");
        let counted = restored.connections + restored.refused + restored.moved + restored.expired + restored.torn;
        silent += connections.len().saturating_sub(counted);
        assert!(round > 0 || (restored.connections, restored.moved) == (32, 32), "{restored:?}");
    }
    assert!(refused > 20, "{refused}");
    assert!(silent < 400, "{silent}");
}
