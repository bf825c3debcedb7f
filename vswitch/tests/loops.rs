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

/// A station that falls silent at one port and is heard behind a blocked one, or that stops circulating and moves elsewhere.
#[test]
fn stations_that_really_move_are_found() {
    let mut bridge = Bridge::open(5);
    // The loop stays, so that the port is blocked for long.
    let mut port = 0;
    for _ in 0..1000 {
        bridge.now = bridge.now.after(Duration::from_millis(20));
        send(&mut bridge, 2, frame(MacAddr::BROADCAST, mac(2)));
        port = bridge.table.blocked(bridge.now).first().map_or(port, |found| found.port.0);
    }
    assert!(bridge.table.blocked(bridge.now)[0].seconds >= 8, "{:?}", bridge.table.blocked(bridge.now));
    bridge.run(3, &[frame(mac(2), mac(3))]);
    bridge.run(4, &[frame(mac(3), mac(4))]);
    // What was just heard at its port has come back.
    assert!(bridge.run(port, &[frame(mac(4), mac(3))]).is_empty());
    assert_eq!(bridge.table.lookup(VlanId::NONE, mac(3), bridge.now), Some(PortId(3)));
    bridge.now = bridge.now.after(Duration::from_secs(3));
    bridge.run(4, &[frame(mac(3), mac(4))]);
    assert!(bridge.table.is_blocked(PortId(port), VlanId::NONE, bridge.now));
    assert_eq!(bridge.run(port, &[frame(mac(4), mac(3))]).len(), 1, "it has moved");
    assert_eq!(bridge.table.lookup(VlanId::NONE, mac(3), bridge.now), Some(PortId(port)));
    assert_eq!(bridge.run(3, &[frame(mac(4), mac(2))]).len(), 1, "so has the one that circulated");
    assert_eq!(bridge.table.lookup(VlanId::NONE, mac(2), bridge.now), Some(PortId(3)));
}

/// A loop in one VLAN of two trunks blocks no other, until there are many.
#[test]
fn a_port_is_blocked_in_the_vlan_of_the_loop() {
    let tagged = |vlan: u16, dst, src| {
        let mut tagged = frame(dst, src);
        tagged.splice(12..12, [0x81, 0, (vlan >> 8) as u8, vlan as u8]);
        tagged
    };
    let vlan = |vlan| VlanId::new(vlan).unwrap();
    let mut bridge = Bridge::open(4);
    let (frames, _) = send(&mut bridge, 2, tagged(10, MacAddr::BROADCAST, mac(2)));
    assert!(frames < 100, "{frames} frames circulated");
    let found = bridge.table.blocked(bridge.now);
    assert!(found.len() == 1 && found[0].vlan == vlan(10) && !found[0].in_all_vlans, "{found:?}");
    let port = found[0].port;
    let is_blocked = |bridge: &Bridge, vlan| bridge.table.is_blocked(port, vlan, bridge.now);
    assert_eq!([vlan(10), vlan(11), VlanId::NONE].map(|vlan| is_blocked(&bridge, vlan)), [true, false, false]);
    assert_eq!(bridge.run(port.0, &[tagged(10, MacAddr::BROADCAST, mac(7))]).len(), 0);
    assert_eq!(bridge.run(port.0, &[tagged(11, MacAddr::BROADCAST, mac(7))]).len(), 3);
    assert_eq!(bridge.run(3, &[tagged(10, MacAddr::BROADCAST, mac(8))]).len(), 2);
    assert_eq!(bridge.run(3, &[tagged(11, MacAddr::BROADCAST, mac(8))]).len(), 3);
    for vlan in 11..20 {
        send(&mut bridge, 2, tagged(vlan, MacAddr::BROADCAST, mac(2)));
    }
    assert!(bridge.table.blocked(bridge.now).iter().any(|found| found.in_all_vlans), "{:?}", bridge.table.blocked(bridge.now));
    let (frames, _) = send(&mut bridge, 2, tagged(99, MacAddr::BROADCAST, mac(2)));
    assert!(frames <= 3, "{frames} frames circulated");
}

/// Stations that were silent for a while are no work of a loop, and stay known.
#[test]
fn silent_stations_stay_known() {
    let mut bridge = Bridge::open(4);
    for station in 10..20 {
        bridge.run(1, &[frame(MacAddr::BROADCAST, mac(station))]);
    }
    bridge.now = bridge.now.after(Duration::from_secs(20));
    send(&mut bridge, 2, frame(MacAddr::BROADCAST, mac(2)));
    for found in bridge.table.take_loops() {
        bridge.table.flush_loop(&found, bridge.now);
    }
    assert!((10..20).all(|station| bridge.table.lookup(VlanId::NONE, mac(station), bridge.now) == Some(PortId(1))));
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
