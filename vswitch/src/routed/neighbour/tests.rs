use super::waiting::KEPT_EACH;
use super::*;

const NETWORK: InterfaceId = InterfaceId(1);

fn table() -> Neighbours {
    Neighbours::new(NeighbourConfig::default(), [1, 2]).unwrap()
}

fn resolve(neighbours: &Neighbours, port: u16, number: u16, now: Timestamp) -> Resolve {
    let [high, low] = number.to_be_bytes();
    neighbours.resolve(NETWORK, Ipv4Addr::new(10, port as u8, high, low), &[low; 60], port, now)
}

#[test]
fn what_a_removed_port_left_counts_against_no_port() {
    let (neighbours, now) = (table(), Timestamp::from_secs(1));
    let kept = |number: u16| (0..200).filter(|_| resolve(&neighbours, 7, number, now).kept).count();
    assert_eq!((kept(1), kept(1)), (usize::from(KEPT_EACH), 0));
    neighbours.disown(&[PortId(7)]);
    assert_eq!(kept(2), usize::from(KEPT_EACH), "the new port's own share");
    let mut given = 0;
    let give = |_: &[u8], _| {
        given += 1;
        true
    };
    assert!(!neighbours.release(NETWORK, Ipv4Addr::new(10, 7, 0, 1), give));
    assert_eq!(given, usize::from(KEPT_EACH), "what waited goes on waiting");
}

#[test]
fn ports_that_scan_leave_fresh_neighbours_to_others() {
    for scanning in [4, 40, 200] {
        let neighbours = table();
        for secs in 1..5 {
            let now = Timestamp::from_secs(secs);
            for number in 0..300 {
                for port in 0..scanning {
                    resolve(&neighbours, port, number + secs as u16 * 300, now);
                }
            }
            neighbours.poll(now, usize::MAX, |_| true);
        }
        let now = Timestamp::from_secs(5);
        let mut resolved = 0;
        for number in 0..30 {
            let Resolve { ask, kept } = resolve(&neighbours, 250, number, now);
            let address = Ipv4Addr::new(10, 250, 0, number as u8);
            let is_awaited = neighbours.learn(NETWORK, address, MacAddr([2; 6]), 250, false, now);
            let mut given = 0;
            let give = |_: &[u8], _| {
                given += 1;
                true
            };
            neighbours.release(NETWORK, address, give);
            resolved += u32::from(ask && kept && is_awaited && given == 1);
        }
        assert_eq!(resolved, 30, "beside {scanning}");
    }
}

#[test]
fn known_neighbours_that_do_not_answer_leave_requests_to_unknown_ones() {
    let neighbours = table();
    let address = |number: u16| Ipv4Addr::from_bits(0x0a01_0000 | u32::from(number));
    let learn = |number, secs| {
        neighbours.learn(NETWORK, address(number), MacAddr([2; 6]), 1, true, Timestamp::from_secs(secs));
    };
    (0..1000).for_each(|number| learn(number, 1));
    let mut events = [0; 3];
    for secs in 62..70 {
        let now = Timestamp::from_secs(secs);
        for number in 0..1000 {
            if neighbours.lookup(NETWORK, address(number), now).is_none() {
                learn(number, secs);
            }
        }
        if secs == 62 {
            assert!(resolve(&neighbours, 7, 1, now).kept);
        }
        let mut room = 64;
        neighbours.poll(now, room, |due| {
            let event = match due {
                Due::Request { known: Some(_), .. } => 0,
                Due::Request { known: None, .. } => 1,
                Due::Undeliverable { .. } => 2,
            };
            let has_room = room > 0;
            room -= usize::from(has_room);
            events[event] += u32::from(has_room);
            has_room
        });
    }
    assert_eq!(events[1..], [2, 1], "asked twice more, then given up");
    assert!(events[0] > 400, "{} of the known ones were asked", events[0]);
}

#[test]
fn every_known_neighbour_has_its_turn() {
    let neighbours = Neighbours::new(NeighbourConfig { size: 4096, ports: 8 }, [1, 2]).unwrap();
    let address = |number: u16| Ipv4Addr::from_bits(0x0a01_0000 | u32::from(number));
    let now = Timestamp::from_secs;
    for number in 0..1000 {
        neighbours.learn(NETWORK, address(number), MacAddr([2; 6]), 1, true, now(1));
    }
    let mut asked = std::collections::HashSet::new();
    for secs in 62..80 {
        assert!((0..1000).all(|number| neighbours.lookup(NETWORK, address(number), now(secs)).is_some()));
        let mut answers = Vec::new();
        neighbours.poll(now(secs), 64, |due| {
            if let Due::Request { address, .. } = due {
                answers.push(address);
            }
            true
        });
        for address in answers {
            neighbours.learn(NETWORK, address, MacAddr([2; 6]), 1, true, now(secs));
            asked.insert(address);
        }
    }
    assert_eq!(asked.len(), 1000);
}

#[test]
fn the_table_is_as_large_as_it_is_asked_for() {
    for size in [1, 10, 5000] {
        let neighbours = Neighbours::new(NeighbourConfig { size, ports: 8 }, [1, 2]).unwrap();
        let address = |number: u32| Ipv4Addr::from_bits(0x0a01_0000 | number);
        for number in 0..size as u32 {
            neighbours.learn(NETWORK, address(number), MacAddr([2; 6]), 1, true, Timestamp::from_secs(1));
            let _ = neighbours.lookup(NETWORK, address(number), Timestamp::from_secs(1));
        }
        assert!(neighbours.stats().known * 100 >= size * 98, "{} of {size}", neighbours.stats().known);
        // Beyond that, one takes the place of another.
        for number in 0..1000 {
            neighbours.learn(NETWORK, address(100_000 + number), MacAddr([2; 6]), 1, true, Timestamp::from_secs(2));
        }
        assert!(neighbours.stats().known <= size);
    }
}
