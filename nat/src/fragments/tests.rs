use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use FragmentError::*;

const UDP: u8 = 17;

fn key(id: u16) -> Key {
    Key { side: 0, src: Ipv4Addr::new(10, 0, 0, 1), dst: Ipv4Addr::new(198, 18, 0, 1), id, protocol: UDP }
}

fn tcp_key() -> Key {
    Key { protocol: tcp::PROTOCOL, ..key(1) }
}

fn table() -> Fragments<u32> {
    Fragments::new([1, 2])
}

fn more(offset: usize, len: usize) -> Fragment {
    Fragment { offset, len, more: true }
}

fn last(offset: usize, len: usize) -> Fragment {
    Fragment { offset, len, more: false }
}

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

const NOW: Timestamp = Timestamp::from_secs(1);

fn released(table: &mut Fragments<u32>, key: Key) -> Vec<(Vec<u8>, u64)> {
    let mut frames = Vec::new();
    table.release(key, |frame, tag| frames.push((frame.to_vec(), tag)));
    frames
}

#[test]
fn in_order() {
    let mut table = table();
    assert_eq!(table.first(key(1), more(0, 1480), 77, 0, NOW), Ok(()));
    assert_eq!(table.follow(key(1), more(1480, 1480), 0, NOW), Ok(Some(77)));
    assert_eq!(table.follow(key(2), more(1480, 1480), 0, NOW), Ok(None), "another datagram");
    assert_eq!(table.len(), 2);
    assert_eq!(table.follow(key(1), last(2960, 5), 0, NOW), Ok(Some(77)));
    assert_eq!(table.len(), 1, "forgotten when complete");
}

#[test]
fn every_part_of_the_key_counts() {
    let mut table = table();
    table.first(key(1), more(0, 8), 77, 0, NOW).unwrap();
    let other = Ipv4Addr::new(203, 0, 113, 9);
    let base = key(1);
    let others = [
        Key { side: 1, ..base },
        Key { src: other, ..base },
        Key { dst: other, ..base },
        Key { id: 2, ..base },
        Key { protocol: 1, ..base },
    ];
    for key in others {
        assert_eq!(table.follow(key, more(8, 8), 0, NOW), Ok(None), "{key:?}");
    }
    assert_eq!(table.follow(base, more(8, 8), 0, NOW), Ok(Some(77)));
}

#[test]
fn out_of_order_with_frames_held() {
    let mut table = table();
    for (tag, fragment) in [(1, last(2960, 5)), (2, more(1480, 1480))] {
        assert_eq!(table.follow(key(1), fragment, 0, NOW), Ok(None));
        assert_eq!(table.hold(key(1), &vec![tag as u8; 1500], tag, 0, NOW), Ok(()));
    }
    table.follow(key(2), more(8, 8), 0, NOW).unwrap();
    table.hold(key(2), &[9], 9, 0, NOW).unwrap();
    assert_eq!(table.first(key(1), more(0, 1480), 77, 0, NOW), Ok(()));
    assert_eq!(table.len(), 1, "complete");
    assert_eq!(released(&mut table, key(1)), [(vec![1; 1500], 1), (vec![2; 1500], 2)]);
    assert_eq!(released(&mut table, key(1)), []);
    assert_eq!(table.held(), 1);
    table.first(key(2), more(0, 8), 78, 0, NOW).unwrap();
    assert_eq!(table.hold(key(2), &[9], 9, 0, NOW), Err(NotWaiting), "the translation is known");
    assert_eq!(table.hold(key(3), &[9], 9, 0, NOW), Err(NotWaiting));
}

#[test]
fn shapes_that_are_refused() {
    let mut table = table();
    for (fragment, expected) in [
        (more(0, 0), Tiny),
        (last(0, 7), Tiny),
        (more(8, 8), Tiny),
        (more(0, 12), Unaligned),
        (last(0, 65_516), TooLong),
        (last(0, usize::MAX), TooLong),
    ] {
        assert_eq!(table.first(key(1), fragment, 1, 0, NOW), Err(expected), "{fragment:?}");
    }
    for (fragment, expected) in [
        (more(0, 8), Tiny),
        (last(8, 0), Unaligned),
        (more(8, 9), Unaligned),
        (last(9, 8), Unaligned),
        (last(65_512, 4), TooLong),
        (last(65_528, 8), TooLong),
        (more(usize::MAX - 7, 8), TooLong),
    ] {
        assert_eq!(table.follow(key(1), fragment, 0, NOW), Err(expected), "{fragment:?}");
    }
    assert!(table.is_empty(), "none of them took a place");
    assert_eq!(table.follow(key(1), last(65_512, 3), 0, NOW), Ok(None), "the longest datagram");
}

/// RFC 1858 and RFC 3128: flags or ports would arrive in another fragment than the one that was checked.
#[test]
fn tcp_headers_come_whole() {
    let mut table = table();
    for len in [8, 16] {
        assert_eq!(table.first(tcp_key(), more(0, len), 1, 0, NOW), Err(Tiny));
        assert_eq!(table.follow(tcp_key(), last(len, 100), 0, NOW), Err(Tiny));
    }
    assert_eq!(table.first(tcp_key(), last(0, 19), 1, 0, NOW), Err(Tiny));
    assert_eq!(table.first(tcp_key(), more(0, 24), 1, 0, NOW), Ok(()));
    assert_eq!(table.follow(tcp_key(), last(24, 1), 0, NOW), Ok(Some(1)));
}

#[test]
fn duplicates_are_refused_and_harm_nothing() {
    let mut table = table();
    table.first(key(1), more(0, 64), 7, 0, NOW).unwrap();
    table.follow(key(1), more(64, 64), 0, NOW).unwrap();
    assert_eq!(table.first(key(1), more(0, 64), 8, 0, NOW), Err(Duplicate));
    assert_eq!(table.follow(key(1), more(64, 64), 0, NOW), Err(Duplicate));
    assert_eq!(table.follow(key(1), more(56, 16), 0, NOW), Err(Duplicate));
    assert_eq!(table.follow(key(1), last(128, 8), 0, NOW), Ok(Some(7)), "translated as the first time");
}

#[test]
fn overlaps_end_the_datagram() {
    let cases = [
        (more(64, 64), more(120, 16)),
        (more(64, 64), more(56, 16)),
        (more(64, 64), last(40, 8)),
        (last(64, 5), last(72, 8)),
        (last(64, 5), more(72, 8)),
        (last(64, 5), more(64, 16)),
    ];
    for (piece, bad) in cases {
        let mut table = table();
        assert_eq!(table.follow(key(1), piece, 0, NOW), Ok(None));
        table.hold(key(1), &[1], 1, 0, NOW).unwrap();
        assert_eq!(table.follow(key(1), bad, 0, NOW), Err(Overlap), "{piece:?} {bad:?}");
        assert_eq!(table.held(), 0, "what was held goes with it");
        assert_eq!(table.hold(key(1), &[1], 1, 0, NOW), Err(Overlap));
        assert_eq!(table.first(key(1), more(0, 8), 7, 0, NOW), Err(Overlap), "and the rest is refused");
        assert_eq!(table.follow(key(1), more(16, 8), 0, at(15_999)), Err(Overlap));
        assert_eq!(table.follow(key(1), more(16, 8), 0, at(16_000)), Ok(None), "15 s later it is another datagram");
    }
}

#[test]
fn nothing_extends_the_timeout() {
    let mut table = table();
    table.follow(key(1), more(8, 8), 0, at(0)).unwrap();
    table.hold(key(1), &[1], 1, 0, at(0)).unwrap();
    table.follow(key(1), more(16, 8), 0, at(14_999)).unwrap();
    table.hold(key(1), &[2], 2, 0, at(14_999)).unwrap();
    table.follow(key(2), more(16, 8), 0, at(14_999)).unwrap();
    assert_eq!(table.expire(at(14_999), 10), 0);
    assert_eq!(table.poll_timeout(), Some(at(15_000)));
    assert_eq!(table.expire(at(15_000), 10), 1);
    assert_eq!(table.hold(key(1), &[3], 3, 0, at(15_000)), Err(NotWaiting));
    assert_eq!((table.len(), table.held()), (1, 0));
    assert_eq!(table.first(key(1), more(0, 8), 1, 0, at(15_000)), Ok(()));
    assert_eq!(released(&mut table, key(1)), []);
}

#[test]
fn frames_of_a_complete_datagram_expire_if_nobody_takes_them() {
    let mut table = table();
    table.follow(key(1), last(8, 8), 0, at(0)).unwrap();
    table.hold(key(1), &[1], 1, 0, at(0)).unwrap();
    table.first(key(1), more(0, 8), 1, 0, at(1)).unwrap();
    assert_eq!((table.len(), table.held()), (0, 1));
    table.expire(at(15_000), 10);
    assert_eq!(table.held(), 0);
}

#[test]
fn owners_have_half_of_it_and_no_more_than_is_free() {
    let mut table = table();
    for id in 0..2000 {
        let expected = if id < 512 { Ok(None) } else { Err(OwnerFull) };
        assert_eq!(table.follow(key(id), more(8, 8), 0, at(0)), expected, "{id}");
    }
    for (owner, share) in [(1, 256), (2, 128), (3, 64)] {
        let ids = owner * 3000..owner * 3000 + 2000;
        let taken = ids.filter(|id| table.first(key(*id), more(0, 8), 1, owner, at(5000)).is_ok()).count();
        assert_eq!(taken, share, "as many as are left");
    }
    assert_eq!(table.first(key(20_000), more(0, 8), 1, 3, at(5000)), Err(OwnerFull));
    assert_eq!(table.follow(key(3000), last(8, 8), 1, at(5000)), Ok(Some(1)));
    assert_eq!(table.first(key(20_000), more(0, 8), 1, 3, at(5000)), Ok(()), "a complete one made room");
    assert_eq!(table.first(key(20_001), more(0, 8), 1, 3, at(14_999)), Err(OwnerFull));
    assert_eq!(table.first(key(20_001), more(0, 8), 1, 3, at(15_000)), Ok(()), "the old ones go on demand");
    assert_eq!(table.len(), 255 + 128 + 64 + 2);
    assert_eq!(table.expire(at(20_000), 100), 100);
    assert_eq!(table.expire(at(20_000), 1000), 348);
    assert_eq!(table.len(), 1);
    let again = (0..2000).filter(|id| table.follow(key(*id), more(8, 8), 0, at(20_000)).is_ok()).count();
    assert_eq!(again, 512, "what went no longer counts");
}

#[test]
fn nobody_speaks_for_the_datagram_of_another() {
    let mut table = table();
    table.first(key(1), more(0, 8), 1, 0, NOW).unwrap();
    assert_eq!(table.follow(key(1), more(0, 16), 1, NOW), Err(Tiny));
    assert_eq!(table.follow(key(1), more(8, 8), 1, NOW), Err(Foreign));
    assert_eq!(table.follow(key(1), last(8, 8), 0, NOW), Ok(Some(1)));
    table.follow(key(2), more(8, 8), 0, NOW).unwrap();
    assert_eq!(table.hold(key(2), &[1], 1, 1, NOW), Err(Foreign));
}

#[test]
fn an_owner_that_is_no_more_leaves_nothing() {
    let mut table = table();
    for id in 0..512 {
        table.follow(key(id), more(8, 8), 7, NOW).unwrap();
    }
    for id in 0..16 {
        table.hold(key(id), &[1], 1, 7, NOW).unwrap();
    }
    table.follow(key(1000), more(8, 8), 8, NOW).unwrap();
    table.hold(key(1000), &[2], 2, 8, NOW).unwrap();
    table.disown(7);
    assert_eq!((table.len(), table.held()), (1, 1), "another one's");
    assert_eq!(table.follow(key(0), more(16, 8), 7, NOW), Ok(None), "the next one's own");
    assert_eq!(released(&mut table, key(1000)), [(vec![2], 2)]);
    assert_eq!(table.expire(at(60_000), 10), 2);
}

#[test]
fn the_pool_is_limited() {
    let mut table = table();
    for (owner, share) in [(0, 16), (1, 16), (2, 16), (3, 8), (4, 4)] {
        table.follow(key(owner), more(8, 8), owner, NOW).unwrap();
        assert_eq!(table.hold(key(owner), &[0; HELD_LEN + 1], 1, owner, NOW), Err(FrameTooLong));
        for n in 0..17 {
            let expected = if n < share { Ok(()) } else { Err(OwnerHeldFull) };
            assert_eq!(table.hold(key(owner), &[n; HELD_LEN], n.into(), owner, NOW), expected);
        }
    }
    assert_eq!(table.held(), 60);
    table.first(key(2), more(0, 8), 1, 2, NOW).unwrap();
    let frames = released(&mut table, key(2));
    assert_eq!(frames, (0..16u8).map(|n| (vec![n; HELD_LEN], n.into())).collect::<Vec<_>>());
    assert_eq!(table.hold(key(4), &[1], 1, 4, NOW), Ok(()));
}

/// A reference model of the same rules, with a map and lists.
#[derive(Default)]
struct Model {
    datagrams: HashMap<Key, ModelDatagram>,
    held: Vec<(Key, u8, u16, Timestamp)>,
}

struct ModelDatagram {
    owner: u16,
    deadline: Timestamp,
    is_refused: bool,
    pieces: Vec<Fragment>,
    translation: Option<u32>,
}

impl Model {
    fn piece(
        &mut self,
        key: Key,
        piece: Fragment,
        translation: Option<u32>,
        owner: u16,
        now: Timestamp,
    ) -> Result<Option<u32>, FragmentError> {
        self.expire(now);
        let header = if key.protocol == tcp::PROTOCOL { 20 } else { 8 };
        if translation.is_some() != (piece.offset == 0)
            || piece.offset == 0 && piece.len < header
            || header == 20 && (1..20).contains(&piece.offset)
        {
            return Err(Tiny);
        }
        if piece.len == 0 || !piece.offset.is_multiple_of(8) || piece.more && !piece.len.is_multiple_of(8) {
            return Err(Unaligned);
        }
        if piece.offset + piece.len > 65_515 {
            return Err(TooLong);
        }
        if !self.datagrams.contains_key(&key) {
            if self.datagrams.len() == 1024 {
                return Err(Full);
            }
            let owned = self.datagrams.values().filter(|datagram| datagram.owner == owner).count();
            if owned >= 512.min(1024 - self.datagrams.len()) {
                return Err(OwnerFull);
            }
        }
        let datagram = self.datagrams.entry(key).or_insert_with(|| ModelDatagram {
            owner,
            deadline: now.after(TIMEOUT),
            is_refused: false,
            pieces: Vec::new(),
            translation: None,
        });
        if datagram.owner != owner {
            return Err(Foreign);
        }
        if datagram.is_refused {
            return Err(Overlap);
        }
        let units = |piece: &Fragment| piece.offset / 8..(piece.offset + piece.len).div_ceil(8);
        let is_taken = |unit: usize| datagram.pieces.iter().any(|old| units(old).contains(&unit));
        if units(&piece).all(is_taken) {
            return Err(Duplicate);
        }
        let end = datagram.pieces.iter().find(|old| !old.more).map(|old| units(old).end);
        let is_contradiction = match end {
            Some(end) => !piece.more || units(&piece).end > end,
            None => !piece.more && datagram.pieces.iter().any(|old| units(old).end > units(&piece).end),
        };
        if units(&piece).any(is_taken) || is_contradiction {
            datagram.is_refused = true;
            self.held.retain(|held| held.0 != key);
            return Err(Overlap);
        }
        datagram.pieces.push(piece);
        datagram.translation = datagram.translation.or(translation);
        let result = datagram.translation;
        let end = datagram.pieces.iter().find(|old| !old.more).map(|old| units(old).end);
        let seen: usize = datagram.pieces.iter().map(|piece| units(piece).len()).sum();
        if end == Some(seen) {
            self.datagrams.remove(&key);
        }
        Ok(result)
    }

    fn hold(&mut self, key: Key, tag: u8, owner: u16, now: Timestamp) -> Result<(), FragmentError> {
        self.expire(now);
        match self.datagrams.get(&key) {
            Some(datagram) if datagram.is_refused => return Err(Overlap),
            Some(datagram) if datagram.owner != owner => return Err(Foreign),
            Some(datagram) if datagram.translation.is_none() => {
                if self.held.len() == 64 {
                    return Err(HeldFull);
                }
                if self.held.iter().filter(|held| held.2 == owner).count() >= 16.min(64 - self.held.len()) {
                    return Err(OwnerHeldFull);
                }
                self.held.push((key, tag, owner, datagram.deadline));
            }
            _ => return Err(NotWaiting),
        }
        Ok(())
    }

    fn expire(&mut self, now: Timestamp) {
        self.datagrams.retain(|_, datagram| datagram.deadline > now);
        self.held.retain(|held| held.3 > now);
    }
}

#[derive(Clone, Debug)]
struct Step {
    key: Key,
    owner: u16,
    fragment: Fragment,
    waits: u64,
}

fn steps(ids: u16, steps: usize) -> impl Strategy<Value = Vec<Step>> {
    let id = (0..ids, prop::sample::select(vec![UDP, tcp::PROTOCOL])).prop_map(|(id, protocol)| Key { protocol, ..key(id) });
    let owner = prop_oneof![30 => Just(None), 1 => (0u16..3).prop_map(Some)];
    let fragment =
        (prop_oneof![2 => Just(0usize), 8 => 0usize..8, 1 => 8180usize..8195], 0usize..5, 0usize..8, any::<bool>(), 0u8..20)
            .prop_map(|(unit, units, rest, more, odd)| Fragment {
                offset: unit * 8 + usize::from(odd == 0),
                len: units * 8 + if more && odd > 1 { 0 } else { rest },
                more,
            });
    let waits = prop_oneof![20 => Just(0u64), 5 => 1u64..3000, 1 => 14_000u64..16_000];
    let step = (id, owner, fragment, waits).prop_map(|(key, owner, fragment, waits)| Step {
        key,
        owner: owner.unwrap_or(key.id % 2),
        fragment,
        waits,
    });
    prop::collection::vec(step, 0..steps)
}

fn agrees_with_the_model(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let (mut table, mut model) = (table(), Model::default());
    let mut now = 0;
    for (n, Step { key, owner, fragment, waits }) in steps.into_iter().enumerate() {
        now += waits;
        let tag = n as u8;
        let time = at(now);
        if n % 3 == 0 {
            table.expire(time, DATAGRAMS);
        }
        if fragment.offset == 0 {
            let got = table.first(key, fragment, n as u32, owner, time).map(|()| Some(n as u32));
            prop_assert_eq!(got, model.piece(key, fragment, Some(n as u32), owner, time), "step {}", n);
            if got.is_ok() {
                let expected: Vec<_> =
                    model.held.iter().filter(|held| held.0 == key).map(|held| (vec![held.1], held.1.into())).collect();
                model.held.retain(|held| held.0 != key);
                prop_assert_eq!(released(&mut table, key), expected);
            }
        } else {
            let got = table.follow(key, fragment, owner, time);
            prop_assert_eq!(got, model.piece(key, fragment, None, owner, time), "step {}", n);
            if got == Ok(None) || n % 7 == 0 {
                let held = table.hold(key, &[tag], tag.into(), owner, time);
                prop_assert_eq!(held, model.hold(key, tag, owner, time));
            }
        }
        if n % 3 == 0 {
            prop_assert_eq!((table.len(), table.held()), (model.datagrams.len(), model.held.len()));
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn few_datagrams(steps in steps(4, 300)) {
        agrees_with_the_model(steps)?;
    }

    #[test]
    fn many_frames_held(steps in steps(60, 600)) {
        agrees_with_the_model(steps)?;
    }
}
