//! The loop guard in the pipeline: a guest bridges its ports 0 and 1; stations are at ports 2 and 3.

use std::collections::VecDeque;
use std::time::Duration;

use packet::MacAddr;
use packet::vlan::VlanId;
use testkit::bridge::Bridge;
use testkit::lab::{ethernet, mac};
use vswitch::mac_table::FIRST_BLOCK;
use vswitch::{DropReason, PortId};

/// More frames than ever circulate until a loop is found.
const ENDLESS: usize = 10_000;

fn frame(dst: MacAddr, src: MacAddr) -> Vec<u8> {
    ethernet(dst, src, &[0; 46])
}

/// Sends a frame from a station, and what leaves through one of the two ports comes back through the other. Returns the number of
/// frames that came in, and the ports other than these that a frame left through.
fn send(bridge: &mut Bridge, ingress: u16, frame: Vec<u8>) -> (usize, Vec<u16>) {
    let (mut waiting, mut frames, mut reached) = (VecDeque::from([(ingress, frame)]), 0, Vec::new());
    while let Some((ingress, frame)) = waiting.pop_front()
        && frames < ENDLESS
    {
        frames += 1;
        for (port, _, written) in bridge.run(ingress, &[frame]) {
            match port.0 {
                0 => waiting.push_back((1, written)),
                1 => waiting.push_back((0, written)),
                other => reached.push(other),
            }
        }
    }
    (frames, reached)
}

#[test]
fn a_loop_ends_and_stations_go_on() {
    let mut bridge = Bridge::open(4);
    bridge.table.learn(VlanId::NONE, mac(3), PortId(3), bridge.now);
    let (frames, reached) = send(&mut bridge, 2, frame(MacAddr::BROADCAST, mac(2)));
    assert!(frames < 100, "{frames} frames circulated");
    assert!(reached.contains(&3));
    let blocked = bridge.table.blocked(bridge.now);
    assert!(blocked.len() == 1 && blocked[0].port.0 < 2 && blocked[0].other.0 < 2, "{blocked:?}");
    assert_eq!(bridge.table.take_loops(), blocked);
    // The address is home again, whatever circulated last.
    let (frames, reached) = send(&mut bridge, 3, frame(mac(2), mac(3)));
    assert_eq!((frames, reached), (1, vec![2]));
    let (frames, reached) = send(&mut bridge, 2, frame(mac(3), mac(2)));
    assert_eq!((frames, reached), (1, vec![3]));
    // A broadcast comes back once, and is dropped.
    let dropped = bridge.dropped(DropReason::LoopBlocked);
    let (frames, reached) = send(&mut bridge, 3, frame(MacAddr::BROADCAST, mac(3)));
    assert_eq!((frames, reached), (2, vec![2]));
    assert_eq!(bridge.dropped(DropReason::LoopBlocked), dropped + 1);
    assert_eq!(bridge.table.lookup(VlanId::NONE, mac(3), bridge.now), Some(PortId(3)));
}

#[test]
fn a_loop_that_stays_is_found_again() {
    let mut bridge = Bridge::open(4);
    let mut all = 0;
    for _ in 0..10_000 {
        bridge.now = bridge.now.after(Duration::from_millis(20));
        all += send(&mut bridge, 2, frame(MacAddr::BROADCAST, mac(2))).0;
    }
    assert!(all < 25_000, "{all} frames for 10,000 that were sent in 200 s");
    assert!(bridge.table.blocked(bridge.now).iter().all(|found| found.port.0 < 2));
}

#[test]
fn the_guest_behind_a_blocked_port_reaches_known_stations() {
    let mut bridge = Bridge::open(4);
    send(&mut bridge, 2, frame(MacAddr::BROADCAST, mac(2)));
    let port = bridge.table.blocked(bridge.now)[0].port.0;
    bridge.table.learn(VlanId::NONE, mac(3), PortId(3), bridge.now);
    let written = bridge.run(port, &[frame(mac(3), mac(7))]);
    assert!(written.len() == 1 && written[0].0 == PortId(3));
    assert_eq!(bridge.run(3, &[frame(mac(7), mac(3))]).len(), 1);
    assert_eq!(
        bridge.run(port, &[frame(mac(8), mac(7))]).len() + bridge.run(port, &[frame(MacAddr::BROADCAST, mac(7))]).len(),
        0
    );
    bridge.now = bridge.now.after(FIRST_BLOCK);
    assert_eq!(bridge.run(port, &[frame(MacAddr::BROADCAST, mac(7))]).len(), 3, "released");
}

/// A thousand stations move from one port to another, once, as in a failover.
#[test]
fn a_failover_is_no_loop() {
    let mut bridge = Bridge::open(4);
    let station = |n: u16| MacAddr([2, 1, 0, 0, (n >> 8) as u8, n as u8]);
    for port in [0, 1, 0] {
        for n in 0..1000 {
            bridge.run(port, &[frame(MacAddr::BROADCAST, station(n))]);
        }
    }
    assert!(bridge.table.stats().moved > 1900 && bridge.table.blocked(bridge.now).is_empty());
    assert_eq!(bridge.drops(), []);
}
