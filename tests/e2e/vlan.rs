//! VLANs, with the expected results of Open vSwitch's own tests (`tests/ofproto-dpif.at`, "VLAN handling").

use std::collections::BTreeMap;

use libtest_mimic::Trial;
use packet::MacAddr;

use crate::frames::{DOT1AD, DOT1Q, frame, station, tagged};
use crate::host::Host;
use crate::raw::RawSocket;
use crate::switch::Switch;
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("vlan/open_vswitch_table", open_vswitch_table),
        trial("vlan/priority_tag_keeps_its_priority", priority_tag_keeps_its_priority),
        trial("vlan/tags_pass_a_bridge_without_settings", tags_pass_a_bridge_without_settings),
    ]
}

const PORTS: [(&str, &str); 9] = [
    ("p1", ":trunks=10+12"),
    ("p2", ":vlan=10"),
    ("p3", ":vlan=12"),
    ("p4", ":vlan=12"),
    ("p5", ":vlan=10:vlan-mode=native-tagged"),
    ("p6", ":vlan=10:vlan-mode=native-tagged:trunks=10+12"),
    ("p7", ":vlan=12:vlan-mode=native-untagged"),
    ("p8", ":vlan=12:vlan-mode=native-untagged:trunks=10+12"),
    // The bridge's own port in those tests.
    ("p100", ""),
];

/// For each port and VLAN: which ports get a broadcast frame, `t` tagged with that VLAN (`t10` with VLAN 10, where it
/// came untagged), `u` untagged.
const TABLE: [(&str, [&str; 4]); 9] = [
    // untagged, VLAN 10, VLAN 11, VLAN 12
    ("p1", ["", "t10:5,6,7,8,100 u:2", "", "t12:5,6,100 u:3,4,7,8"]),
    ("p2", ["t10:1,5,6,7,8,100", "", "", ""]),
    ("p3", ["u:4,7,8 t12:1,5,6,100", "", "", ""]),
    ("p4", ["u:3,7,8 t12:1,5,6,100", "", "", ""]),
    ("p5", ["u:2 t10:1,6,7,8,100", "t10:1,6,7,8,100 u:2", "t11:7,100", "t12:1,6,100 u:3,4,7,8"]),
    ("p6", ["u:2 t10:1,5,7,8,100", "t10:1,5,7,8,100 u:2", "", "t12:1,5,100 u:3,4,7,8"]),
    ("p7", ["u:3,4,8 t12:1,5,6,100", "t10:1,5,6,8,100 u:2", "t11:5,100", "t12:1,5,6,100 u:3,4,8"]),
    ("p8", ["u:3,4,7 t12:1,5,6,100", "t10:1,5,6,7,100 u:2", "", "t12:1,5,6,100 u:3,4,7"]),
    ("p100", ["", "t10:1,5,6,7,8 u:2", "t11:5,7", "t12:1,5,6 u:3,4,7,8"]),
];

const VLANS: [Option<u16>; 4] = [None, Some(10), Some(11), Some(12)];

fn open_vswitch_table() {
    let hosts: Vec<Host> = PORTS.iter().map(|(name, _)| Host::quiet(name)).collect();
    let ports: Vec<String> = hosts.iter().zip(PORTS).map(|(host, (_, keys))| host.port(keys)).collect();
    let switch = Switch::between(&ports);
    let sockets: BTreeMap<&str, RawSocket> = hosts.iter().map(|host| (host.name(), host.raw())).collect();

    for (row, (ingress, _)) in TABLE.iter().enumerate() {
        for (column, vlan) in VLANS.into_iter().enumerate() {
            let plain = case_frame(row, column);
            let bytes = vlan.map_or_else(|| plain.clone(), |vlan| tagged(&plain, DOT1Q, vlan));
            sockets[ingress].send(&bytes).expect("sent");
        }
    }
    let cases = (TABLE.len() * VLANS.len()) as u64;
    switch.settle("all cases", |report| report.received() == cases);

    let mut seen: BTreeMap<Vec<u8>, Vec<&str>> = BTreeMap::new();
    for (port, socket) in &sockets {
        while let Some(bytes) = socket.recv() {
            seen.entry(bytes).or_default().push(port);
        }
    }
    let (mut dropped, mut wrong) = (0, Vec::new());
    for (row, (ingress, answers)) in TABLE.iter().enumerate() {
        for (column, answer) in answers.iter().enumerate() {
            dropped += u64::from(answer.is_empty());
            let mut expected = expected_frames(&case_frame(row, column), answer);
            expected.retain(|bytes, ports| seen.remove(bytes).as_ref() != Some(ports));
            wrong.extend(expected.into_iter().map(|(bytes, ports)| (ingress, VLANS[column], ports, bytes)));
        }
    }
    assert!(wrong.is_empty(), "not received so: {wrong:?}");
    assert!(seen.is_empty(), "received what should not have been: {seen:?}");

    let report = switch.finish();
    assert_eq!(report.all_dropped(), dropped);
    assert_eq!(report.dropped("p2", "vlan_not_allowed"), 3);
    assert_eq!(report.dropped("p100", "no_destination"), 1);
}

fn case_frame(row: usize, column: usize) -> Vec<u8> {
    frame(MacAddr::BROADCAST, station(row as u32), &[0xca, 0x5e, row as u8, column as u8])
}

/// The expected frames, with the ports that they leave by.
fn expected_frames<'a>(plain: &[u8], answer: &'a str) -> BTreeMap<Vec<u8>, Vec<&'a str>> {
    let mut expected: BTreeMap<Vec<u8>, Vec<&str>> = BTreeMap::new();
    for group in answer.split_whitespace() {
        let (tag, numbers) = group.split_once(':').expect("tag:ports");
        let bytes = match tag.strip_prefix('t') {
            Some(vlan) => tagged(plain, DOT1Q, vlan.parse().expect("a VLAN")),
            None => plain.to_vec(),
        };
        let ports = PORTS.iter().map(|(name, _)| *name).filter(|name| numbers.split(',').any(|number| name[1..] == *number));
        let mut ports: Vec<&str> = ports.collect();
        ports.sort_unstable();
        expected.insert(bytes, ports);
    }
    expected
}

/// Priority-tagged (VID 0): treated as untagged; the priority is kept where a tag is written.
fn priority_tag_keeps_its_priority() {
    let [access, trunk, other] = ["a", "t", "u"].map(Host::quiet);
    let switch = Switch::between(&[access.port(":vlan=10"), trunk.port(":trunks=10"), other.port(":vlan=10")]);
    let [access, trunk, other] = [&access, &trunk, &other].map(Host::raw);
    let plain = frame(MacAddr::BROADCAST, station(1), b"priority 5");
    access.send(&tagged(&plain, DOT1Q, 5 << 13)).expect("sent");
    switch.settle("the frame", |report| report.received() == 1);
    assert_eq!(trunk.recv(), Some(tagged(&plain, DOT1Q, 5 << 13 | 10)));
    assert_eq!(other.recv(), Some(plain));
    assert_eq!(access.recv(), None);
    switch.finish();
}

/// Every kind of tag passes byte for byte, both for flooded frames and for known unicast.
fn tags_pass_a_bridge_without_settings() {
    let [a, b] = ["a", "b"].map(Host::quiet);
    let switch = Switch::of(&[&a, &b]);
    let [a, b] = [&a, &b].map(Host::raw);
    let mut sent = 0;
    for dst in [MacAddr::BROADCAST, station(2)] {
        let plain = frame(dst, station(1), b"whatever it is");
        let inner = tagged(&plain, DOT1Q, 3 << 13 | 20);
        for bytes in [
            plain.clone(),
            tagged(&plain, DOT1Q, 10),
            tagged(&plain, DOT1Q, 7 << 13),
            tagged(&plain, DOT1AD, 1 << 13 | 100),
            tagged(&inner, DOT1AD, 100),
            tagged(&inner, DOT1Q, 0x1fff),
            tagged(&tagged(&inner, DOT1AD, 30), DOT1AD, 40),
        ] {
            a.send(&bytes).expect("sent");
            sent += 1;
            switch.settle("the frame", |report| report.received() == sent);
            assert_eq!(b.recv(), Some(bytes));
        }
        b.send(&frame(station(1), station(2), b"here")).expect("sent");
        sent += 1;
    }
    let report = switch.settle("the last frame", |report| report.received() == sent);
    assert_eq!(report.all_dropped(), 0);
    switch.finish();
}
