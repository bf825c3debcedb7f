//! A capture with a filter has a frame if the filter matches it as it came, and as it leaves if it matches that.

use std::io::IoSlice;
use std::sync::Arc;

use capture::probe::Lost;
use capture::ring;
use capture::{Direction, Header, Probe, Want};
use nat::Endpoint;
use packet::vlan::{TAG_LEN, VlanId};
use packet::{Batch, MacAddr, VnetHeader};
use vswitch::{Egress, PortId, PortVlan};

use testkit::bridge::{Bridge, port};
use testkit::lab::{GATEWAY, GATEWAY_MAC, Lab, PEER, ethernet, guest, mac, request};
use testkit::{overlay, packets};

/// What a capture with this filter alone has of a frame that comes in through port 0: as it came, and as it left.
fn seen(bridge: &mut Bridge, filter: &str, frame: &[u8]) -> [usize; 2] {
    // A capture of everything beside it would have each frame looked at.
    bridge.pipeline.end_capture(1);
    let (writer, mut reader) = ring::ring(4, 256 << 10);
    let want = Want { filter: Some(filter.parse().expect("a filter")), ..Want::default() };
    bridge.pipeline.begin_capture(Box::new(Probe::new(2, Arc::new(want), writer, Lost::new(8)))).expect("room");
    let (mut batch, mut egress) = (Batch::new(), Egress::new(8));
    let mut counts = [0; 2];
    // The second batch has another frame in the first place, which is not counted.
    let other = [0; 33];
    for frames in [&[frame][..], &[&other, frame]] {
        batch.clear();
        frames.iter().for_each(|frame| assert!(batch.push(VnetHeader::default(), frame)));
        bridge.pipeline.process(PortId(0), &mut batch, bridge.now, &mut egress);
        bridge.pipeline.transmit(&batch, &mut egress, |_, _: &[IoSlice<'_>]| Ok(()));
        while let Some(chunk) = reader.take() {
            for record in chunk.records() {
                let (header, _) = Header::split(record).expect("a record");
                let is_counted = header.original_len as usize > other.len() + TAG_LEN;
                counts[usize::from(header.direction == Direction::Sent)] += usize::from(is_counted);
            }
            reader.give_back(chunk);
        }
    }
    bridge.pipeline.end_capture(2);
    assert!(counts.iter().all(|count| count % 2 == 0), "the same in both batches: {counts:?}");
    counts.map(|count| count / 2)
}

fn udp() -> Vec<u8> {
    packets::udp(Endpoint::new(guest(2), 4000), Endpoint::new(PEER, 53), b"abc")
}

#[test]
fn a_switched_frame_both_times_or_not_at_all() {
    let mut bridge = Bridge::open(2);
    let frame = ethernet(mac(9), mac(2), &udp());
    for (filter, records) in
        [("udp port 53", 1), ("udp port 54", 0), ("not udp port 54", 1), ("tcp or ether src 02:00:00:00:00:99", 0)]
    {
        assert_eq!(seen(&mut bridge, filter, &frame), [records; 2], "{filter}");
    }
}

#[test]
fn a_tag_that_is_added() {
    let vlan = VlanId::new(7).expect("a VLAN");
    let mut bridge = Bridge::new([port(PortVlan::access(vlan)), port(PortVlan::default())]);
    let frame = ethernet(mac(9), mac(2), &udp());
    assert_eq!(seen(&mut bridge, "vlan", &frame), [0, 1]);
    assert_eq!(seen(&mut bridge, "not vlan", &frame), [1, 0]);
    assert_eq!(seen(&mut bridge, "vlan 7", &frame), [1, 1]);
    assert_eq!(seen(&mut bridge, "vlan 8", &frame), [0, 0]);
}

#[test]
fn a_packet_that_is_translated() {
    let mut lab = Lab::ready();
    let packet = udp();
    lab.out(2, &packet);
    let frame = ethernet(GATEWAY_MAC, mac(2), &packet);
    let inside = format!("src host {}", guest(2));
    assert_eq!(seen(&mut lab.bridge, &inside, &frame), [1, 0]);
    assert_eq!(seen(&mut lab.bridge, &format!("not {inside}"), &frame), [0, 1]);
    assert_eq!(seen(&mut lab.bridge, "udp port 53", &frame), [1, 1]);
}

#[test]
fn an_answer_in_the_bytes_of_the_question() {
    let mut bridge = Lab::ready().bridge;
    let frame = request(mac(2), guest(2), GATEWAY);
    let filter = format!("ether src {GATEWAY_MAC}");
    assert_eq!(seen(&mut bridge, &filter, &frame), [0, 1]);
    assert_eq!(seen(&mut bridge, &format!("not {filter}"), &frame), [1, 0]);
}

/// The other frames of the train are those before and behind it, of the same flow.
#[test]
fn one_frame_of_a_train() {
    let links = [port(PortVlan::default()), port(PortVlan::default())];
    let mut bridge = overlay::host_with(links, vec![(overlay::plain_peer(), overlay::address(1))], overlay::address(0));
    let (writer, mut reader) = ring::ring(4, 256 << 10);
    let want = Want { filter: format!("ether src {}", mac(3)).parse().ok(), ..Want::default() };
    bridge.pipeline.begin_capture(Box::new(Probe::new(2, Arc::new(want), writer, Lost::new(8)))).expect("room");
    let frames = [2, 3, 2, 3, 2, 2].map(|from| ethernet(MacAddr::BROADCAST, mac(from), &udp()));
    bridge.run(0, &frames);
    let mut records = Vec::new();
    while let Some(chunk) = reader.take() {
        for (header, frame) in chunk.records().filter_map(Header::split) {
            assert_eq!(frame, frames[1], "{header:?}");
            records.push((header.direction, header.port));
        }
        reader.give_back(chunk);
    }
    // The other link, and the peer.
    records.sort_by_key(|(direction, port)| (*direction == Direction::Sent, *port));
    let [received, sent] = [Direction::Received, Direction::Sent];
    assert_eq!(records, [(received, 0), (received, 0), (sent, 1), (sent, 1), (sent, 3), (sent, 3)]);
}
