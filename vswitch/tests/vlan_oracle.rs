//! Open vSwitch's VLAN handling, case by case: the table in its `tests/ofproto-dpif.at`, "VLAN
//! handling", without the dot1q-tunnel ports.

use packet::{EtherType, Headers, Tag, VlanId};
use testkit::bridge::{Bridge, Write, port};
use vswitch::{DropReason, PortVlan, VlanSet};

/// Names of the ports there; `local` is called 100.
const NAMES: [u16; 9] = [1, 2, 3, 4, 5, 6, 7, 8, 100];

fn vlan(id: u16) -> VlanId {
    VlanId::new(id).unwrap()
}

fn oracle() -> Bridge {
    let some = || VlanSet::from_iter([vlan(10), vlan(12)]);
    let vlans = [
        PortVlan::trunk(some()),
        PortVlan::access(vlan(10)),
        PortVlan::access(vlan(12)),
        PortVlan::access(vlan(12)),
        PortVlan::native_tagged(vlan(10), VlanSet::all()),
        PortVlan::native_tagged(vlan(10), some()),
        PortVlan::native_untagged(vlan(12), VlanSet::all()),
        PortVlan::native_untagged(vlan(12), some()),
        PortVlan::default(),
    ];
    Bridge::new(vlans.map(port))
}

fn broadcast(tag: Option<(u16, u16)>) -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1]].concat();
    if let Some((protocol, tci)) = tag {
        frame.extend([protocol.to_be_bytes(), tci.to_be_bytes()].concat());
    }
    frame.extend([0x08, 0x06]);
    frame.extend(1..=46);
    frame
}

fn index_of(name: u16) -> u16 {
    NAMES.iter().position(|candidate| *candidate == name).unwrap() as u16
}

/// The writes as the table has them: `u:2 t10:1,5`, untagged first.
fn describe(writes: &[Write]) -> String {
    let mut groups: Vec<(Option<u16>, Vec<String>)> = Vec::new();
    for (port, vnet, frame) in writes {
        assert_eq!(vnet.to_bytes(), [0; 12]);
        let tag = Headers::parse(frame).unwrap().tag.map(|tag| tag.vlan().get());
        let name = NAMES[port.index()].to_string();
        match groups.iter_mut().find(|(other, _)| *other == tag) {
            Some((_, names)) => names.push(name),
            None => groups.push((tag, vec![name])),
        }
    }
    groups.sort();
    let group = |(tag, names): &(Option<u16>, Vec<String>)| match tag {
        None => format!("u:{}", names.join(",")),
        Some(vlan) => format!("t{vlan}:{}", names.join(",")),
    };
    groups.iter().map(group).collect::<Vec<_>>().join(" ")
}

/// Port, VLAN (0 for untagged), what leaves ("" for nothing).
const TABLE: [(u16, u16, &str); 36] = [
    (1, 0, ""),
    (1, 10, "u:2 t10:5,6,7,8,100"),
    (1, 11, ""),
    (1, 12, "u:3,4,7,8 t12:5,6,100"),
    (2, 0, "t10:1,5,6,7,8,100"),
    (2, 10, ""),
    (2, 11, ""),
    (2, 12, ""),
    (3, 0, "u:4,7,8 t12:1,5,6,100"),
    (3, 10, ""),
    (3, 11, ""),
    (3, 12, ""),
    (4, 0, "u:3,7,8 t12:1,5,6,100"),
    (4, 10, ""),
    (4, 11, ""),
    (4, 12, ""),
    (5, 0, "u:2 t10:1,6,7,8,100"),
    (5, 10, "u:2 t10:1,6,7,8,100"),
    (5, 11, "t11:7,100"),
    (5, 12, "u:3,4,7,8 t12:1,6,100"),
    (6, 0, "u:2 t10:1,5,7,8,100"),
    (6, 10, "u:2 t10:1,5,7,8,100"),
    (6, 11, ""),
    (6, 12, "u:3,4,7,8 t12:1,5,100"),
    (7, 0, "u:3,4,8 t12:1,5,6,100"),
    (7, 10, "u:2 t10:1,5,6,8,100"),
    (7, 11, "t11:5,100"),
    (7, 12, "u:3,4,8 t12:1,5,6,100"),
    (8, 0, "u:3,4,7 t12:1,5,6,100"),
    (8, 10, "u:2 t10:1,5,6,7,100"),
    (8, 11, ""),
    (8, 12, "u:3,4,7 t12:1,5,6,100"),
    (100, 0, ""),
    (100, 10, "u:2 t10:1,5,6,7,8"),
    (100, 11, "t11:5,7"),
    (100, 12, "u:3,4,7,8 t12:1,5,6"),
];

#[test]
fn every_case_of_the_table() {
    for (ingress, vid, expected) in TABLE {
        let mut bridge = oracle();
        let frame = broadcast((vid != 0).then_some((0x8100, vid)));
        let writes = bridge.run(index_of(ingress), &[frame]);
        assert_eq!(describe(&writes), expected, "VLAN {vid} into port {ingress}");
        let dropped = bridge.dropped(DropReason::VlanNotAllowed) + bridge.dropped(DropReason::NoDestination);
        assert_eq!(dropped == 1, expected.is_empty(), "VLAN {vid} into port {ingress}");
        // Only the local port takes an untagged frame that nobody else carries.
        assert_eq!(bridge.dropped(DropReason::NoDestination) == 1, (ingress, vid) == (100, 0));
    }
}

#[test]
fn every_byte_behind_the_tag_is_kept() {
    for (ingress, vid, _) in TABLE {
        let writes = oracle().run(index_of(ingress), &[broadcast((vid != 0).then_some((0x8100, vid)))]);
        for (_, _, frame) in writes {
            let untagged = if frame[12..14] == [0x81, 0] { [&frame[..12], &frame[16..]].concat() } else { frame };
            assert_eq!(untagged, broadcast(None));
        }
    }
}

/// VID 0 is untagged, and its priority goes into the tag that is written.
#[test]
fn priority_tags_are_untagged_and_keep_their_priority() {
    for (ingress, vid, expected) in TABLE.into_iter().filter(|(_, vid, _)| *vid == 0) {
        for priority in 0..8u16 {
            for drop_eligible in [0, 0x1000] {
                let mut bridge = oracle();
                let tci = priority << 13 | drop_eligible | vid;
                let writes = bridge.run(index_of(ingress), &[broadcast(Some((0x8100, tci)))]);
                assert_eq!(describe(&writes), expected, "into port {ingress}");
                for (_, _, frame) in &writes {
                    if let Some(tag) = Headers::parse(frame).unwrap().tag {
                        assert_eq!(u16::from(tag.priority()), priority);
                        assert_eq!(frame[14] & 0x10 != 0, drop_eligible != 0);
                    }
                }
            }
        }
    }
}

#[test]
fn tags_keep_their_priority_between_trunks() {
    let writes = oracle().run(index_of(1), &[broadcast(Some((0x8100, 0x600a)))]);
    let tagged: Vec<Tag> = writes.iter().filter_map(|(_, _, frame)| Headers::parse(frame).unwrap().tag).collect();
    assert_eq!(tagged, [Tag::new(EtherType::VLAN, 0x600a); 5]);
}

/// Without any setting ports carry all VLANs as they came: VLAN 0 floods.
#[test]
fn ports_without_a_setting_pass_everything_untouched() {
    for tag in [None, Some((0x8100, 0)), Some((0x8100, 0xe000)), Some((0x8100, 4095)), Some((0x88a8, 100))] {
        let mut bridge = Bridge::open(4);
        let frame = broadcast(tag);
        let writes = bridge.run(2, std::slice::from_ref(&frame));
        assert_eq!(writes.len(), 3);
        assert!(writes.iter().all(|(port, _, written)| port.0 != 2 && *written == frame), "{tag:?}");
    }
}

/// 802.1ad: the outer tag decides, the inner one passes.
#[test]
fn service_tags_are_tags() {
    let mut frame = broadcast(Some((0x8100, 12)));
    frame.splice(12..12, [0x88, 0xa8, 0x20, 10]);
    let mut bridge = oracle();
    let writes = bridge.run(index_of(1), std::slice::from_ref(&frame));
    let ports: Vec<u16> = writes.iter().map(|(port, ..)| NAMES[port.index()]).collect();
    assert_eq!(ports, [2, 5, 6, 7, 8, 100]);
    for (port, _, written) in writes {
        if NAMES[port.index()] == 2 {
            assert_eq!(written, broadcast(Some((0x8100, 12))), "an access port takes off the outer tag only");
        } else {
            assert_eq!(written, frame);
        }
    }
}

/// A second tag does not carry a frame past an access port (VLAN hopping).
#[test]
fn double_tags_do_not_enter_access_ports() {
    for outer in [10, 12, 1] {
        let mut frame = broadcast(Some((0x8100, 12)));
        frame.splice(12..12, [0x81, 0, 0, outer]);
        let mut bridge = oracle();
        assert!(bridge.run(index_of(2), &[frame]).is_empty());
        assert_eq!(bridge.dropped(DropReason::VlanNotAllowed), 1);
    }
}

/// Who ignores a tag of VLAN 0 would see the one behind it, which nobody has checked.
#[test]
fn a_tag_hidden_behind_vlan_0_passes_only_where_tags_mean_nothing() {
    let mut frame = broadcast(Some((0x8100, 12)));
    frame.splice(12..12, [0x81, 0, 0, 0]);
    for name in NAMES {
        let mut bridge = oracle();
        assert!(bridge.run(index_of(name), std::slice::from_ref(&frame)).is_empty(), "port {name}");
        let reason = if name == 100 { DropReason::NoDestination } else { DropReason::VlanNotAllowed };
        assert_eq!(bridge.dropped(reason), 1, "port {name}");
    }
    let mut restricted = Bridge::new([PortVlan::default(), PortVlan::trunk(VlanSet::from_iter([vlan(0)]))].map(port));
    assert!(restricted.run(0, std::slice::from_ref(&frame)).is_empty());
    let mut open = Bridge::open(2);
    let writes = open.run(0, std::slice::from_ref(&frame));
    assert_eq!(writes.into_iter().map(|(.., bytes)| bytes).collect::<Vec<_>>(), [frame]);
}

/// Each VLAN learns by itself: what is behind a port in VLAN 10 is unknown in VLAN 12.
#[test]
fn known_stations_stay_in_their_vlan() {
    let mut bridge = oracle();
    bridge.run(index_of(2), &[broadcast(None)]);
    let mut answer = broadcast(Some((0x8100, 10)));
    answer[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    let writes = bridge.run(index_of(1), &[answer.clone()]);
    assert_eq!(describe(&writes), "u:2");
    answer[15] = 12;
    let writes = bridge.run(index_of(1), &[answer]);
    assert_eq!(describe(&writes), "u:3,4,7,8 t12:5,6,100");
}
