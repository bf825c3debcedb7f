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
    neighbours.disown(7);
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
            neighbours.poll(now, |_| true);
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
