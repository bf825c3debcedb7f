//! Frames in and out of a packet socket.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use libtest_mimic::Trial;
use netio::link::Change;
use netio::packet_socket::{Filter, PacketError, PacketSpec, Sender};
use netio::{Poller, Received, link};
use packet::vnet::gso;
use packet::{EtherType, MacAddr, VnetHeader};
use rustix::io::Errno;
use testkit::frames::Spec;
use testkit::packets;

use crate::frames::{drain, drain_into, ethernet, expect, plain, send, send_with};
use crate::host::{address, bare_pair, pair, until};
use crate::trial;

const DOWN: Change<'static> = Change { up: Some(false), ..NO_CHANGE };
const UP: Change<'static> = Change { up: Some(true), ..NO_CHANGE };
const NO_CHANGE: Change<'static> = Change {
    mtu: None,
    tx_queue_len: None,
    gso_max_segs: None,
    up: None,
    arp: None,
    netns: None,
    name: None,
    mac: None,
    group: None,
    link_local: None,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("frames_are_received_in_order_without_our_own", || frames_are_received_in_order_without_our_own(false)),
        trial("frames_are_received_in_order_without_our_own_on_old_kernels", || {
            frames_are_received_in_order_without_our_own(true);
        }),
        trial("a_frame_that_does_not_fit_is_empty", a_frame_that_does_not_fit_is_empty),
        trial("a_vlan_tag_is_returned_separately", a_vlan_tag_is_returned_separately),
        trial("super_frames_pass_whole", || super_frames_pass_whole(false)),
        trial("super_frames_pass_whole_on_old_kernels", || super_frames_pass_whole(true)),
        trial("a_burst_reports_each_frame", || a_burst_reports_each_frame(false)),
        trial("a_burst_reports_each_frame_on_old_kernels", || a_burst_reports_each_frame(true)),
        trial("a_filter_applies_from_the_first_frame", a_filter_applies_from_the_first_frame),
        trial("two_queues_share_flows_without_duplicates", || two_queues_share_flows_without_duplicates(false)),
        trial("two_queues_share_flows_without_duplicates_on_old_kernels", || {
            two_queues_share_flows_without_duplicates(true);
        }),
        trial("dropped_frames_are_counted", dropped_frames_are_counted),
        trial("a_link_goes_down_and_up", a_link_goes_down_and_up),
        trial("deleted_links_do_not_come_back", deleted_links_do_not_come_back),
        trial("unsuitable_interfaces_are_refused", unsuitable_interfaces_are_refused),
    ]
}

fn frames_are_received_in_order_without_our_own(old_kernel: bool) {
    let (near, far) = pair();
    let here = near.open(PacketSpec { old_kernel, ..near.spec() });
    let there = far.open(PacketSpec { old_kernel, ..far.spec() });
    for number in 0..200 {
        send(&there, &plain(MacAddr::BROADCAST, number, 60));
        send(&here, &plain(MacAddr::BROADCAST, number, 61));
    }
    // To an address that is nobody's: promiscuous.
    send(&there, &plain(MacAddr([2, 9, 9, 9, 9, 9]), 200, 1514));
    let frames = expect(&here, 201);
    for (number, frame) in (0..=200).zip(&frames) {
        assert_eq!(
            frame.bytes,
            plain(
                if number < 200 { MacAddr::BROADCAST } else { MacAddr([2, 9, 9, 9, 9, 9]) },
                number,
                if number < 200 { 60 } else { 1514 }
            )
        );
        assert_eq!((frame.vnet.gso_type, frame.tag), (gso::NONE, None));
    }
    assert_eq!(expect(&there, 200).len(), 200);
}

fn a_frame_that_does_not_fit_is_empty() {
    let (near, far) = pair();
    let (here, there) = (near.open(near.spec()), far.open(far.spec()));
    for len in [60, 200, 61] {
        send(&there, &plain(MacAddr::BROADCAST, 1, len));
    }
    let mut frames = Vec::new();
    until("frames", || {
        frames.append(&mut drain_into(&here, 0, 2, 4 + 12 + 100).0);
        (frames.len() >= 3).then_some(())
    });
    let told: Vec<_> = frames.iter().map(|frame| (frame.cut, frame.bytes.len())).collect();
    assert_eq!(told, [(false, 60), (true, 0), (false, 61)]);
}

fn a_vlan_tag_is_returned_separately() {
    let (near, far) = pair();
    let (here, there) = (near.open(near.spec()), far.open(far.spec()));
    for tpid in [[0x81, 0x00], [0x88, 0xa8]] {
        let mut frame = plain(MacAddr::BROADCAST, 3, 100);
        frame.splice(12..12, [tpid[0], tpid[1], 0xa0, 0x0a]);
        send(&there, &frame);
        let [got] = &expect(&here, 1)[..] else { panic!("one frame") };
        let tag = got.tag.expect("a tag");
        assert_eq!((tag.protocol, tag.vlan().get(), tag.priority()), (EtherType(u16::from_be_bytes(tpid)), 10, 5));
        assert_eq!(got.bytes, plain(MacAddr::BROADCAST, 3, 100), "taken out");
    }
    // Of two tags the inner one stays.
    let mut frame = plain(MacAddr::BROADCAST, 3, 100);
    frame.splice(12..12, [0x88, 0xa8, 0, 7, 0x81, 0, 0, 8]);
    send(&there, &frame);
    let [got] = &expect(&here, 1)[..] else { panic!("one frame") };
    assert_eq!(got.tag.map(|tag| tag.vlan().get()), Some(7));
    assert_eq!(got.bytes[12..18], [0x81, 0, 0, 8, 0x88, 0xb5]);
}

fn super_frames_pass_whole(old_kernel: bool) {
    let (near, far) = pair();
    let here = near.open(PacketSpec { old_kernel, ..near.spec() });
    let there = far.open(PacketSpec { old_kernel, ..far.spec() });
    let payload: Vec<u8> = (0..64_000u32).map(|byte| (byte % 251) as u8).collect();
    let spec = Spec { dst: [2, 9, 9, 9, 9, 9], options: Vec::new(), payload, ..Spec::default() };
    let (vnet, tcp) = spec.super_frame(1448);
    assert_eq!((vnet.gso_type, vnet.csum_start), (gso::TCPV4, 34));
    send_with(&there, vnet, &tcp).expect("a TCP super-frame is taken");
    let [got] = &expect(&here, 1)[..] else { panic!("one frame") };
    assert_eq!(got.bytes, tcp);
    assert_eq!(VnetHeader { hdr_len: 54, ..got.vnet }, vnet);

    let spec = Spec { tcp: false, payload: spec.payload[..40_000].to_vec(), ..spec };
    let (vnet, udp) = spec.super_frame(1200);
    assert_eq!((vnet.gso_type, vnet.csum_start), (gso::UDP_L4, 34));
    send_with(&there, vnet, &udp).expect("a UDP super-frame is taken");
    let [got] = &expect(&here, 1)[..] else { panic!("one frame") };
    assert_eq!(got.bytes, udp);
    assert_eq!(VnetHeader { hdr_len: 42, ..got.vnet }, vnet);
}

fn a_burst_reports_each_frame(old_kernel: bool) {
    let (near, far) = pair();
    let (here, there) = (near.open(near.spec()), far.open(PacketSpec { old_kernel, ..far.spec() }));
    let frames: Vec<Vec<u8>> = (0..100)
        .map(|number| {
            // Every tenth is longer than the MTU and no super-frame.
            let len = if number % 10 == 3 { 1600 } else { 60 };
            [&[0; 12][..], &plain(MacAddr::BROADCAST, number, len)].concat()
        })
        .collect();
    let mut sender = Sender::new();
    let mut burst = sender.burst(there.writer());
    let mut results = Vec::new();
    for frame in &frames {
        if !burst.push(frame) {
            burst.flush(|result| results.push(result));
            assert!(burst.is_empty() && burst.push(frame));
        }
    }
    burst.flush(|result| results.push(result));
    for (number, result) in results.iter().enumerate() {
        assert_eq!(*result, if number % 10 == 3 { Err(Errno::MSGSIZE) } else { Ok(()) }, "{number}");
    }
    assert_eq!(results.len(), 100);
    let got: Vec<u8> = expect(&here, 90).iter().map(|frame| frame.bytes[14]).collect();
    assert_eq!(got, (0..100).filter(|number| number % 10 != 3).collect::<Vec<u8>>());
}

fn a_filter_applies_from_the_first_frame() {
    let (near, far) = pair();
    let there = far.open(far.spec());
    let to = near.link().mac;
    let filter = Filter::nat(&[address(1)], &[], &[40_000..=50_000]);
    let here = near.open(PacketSpec { filter, promiscuous: false, ..near.spec() });
    let frames = |port: u16| {
        // From where the host has no route to, so that it does not answer.
        let from = Ipv4Addr::new(198, 51, 100, 9);
        ethernet(to, &packets::udp(SocketAddrV4::new(from, 53), SocketAddrV4::new(address(1), port), b"answer"))
    };
    let mut tagged = frames(45_000);
    tagged.splice(12..12, [0x81, 0, 0, 1]);
    for frame in [&frames(53), &tagged, &plain(MacAddr::BROADCAST, 1, 60), &frames(45_000)] {
        send(&there, frame);
    }
    let [other_vlan, got] = &expect(&here, 2)[..] else { panic!("two frames") };
    assert_eq!((other_vlan.tag.map(|tag| tag.vlan().get()), &other_vlan.bytes), (Some(1), &frames(45_000)));
    assert_eq!((got.tag, &got.bytes), (None, &frames(45_000)));
    here.set_filter(None).expect("no filter");
    send(&there, &frames(53));
    assert_eq!(expect(&here, 1)[0].bytes, frames(53));
    here.set_filter(Some(&Filter::nothing())).expect("another filter");
    send(&there, &frames(45_000));
    here.set_filter(Some(&Filter::incoming())).expect("another filter");
    send(&there, &frames(1));
    assert_eq!(expect(&here, 1)[0].bytes, frames(1));
}

fn two_queues_share_flows_without_duplicates(old_kernel: bool) {
    let (near, far) = pair();
    let here = near.open(PacketSpec { queues: 2, old_kernel, ..near.spec() });
    let there = far.open(far.spec());
    let to = MacAddr([2, 9, 9, 9, 9, 9]);
    for port in 0..64 {
        let a = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 1), 1000 + port);
        let b = SocketAddrV4::new(Ipv4Addr::new(198, 51, 100, 2), 53);
        send(&there, &ethernet(to, &packets::udp(a, b, b"there")));
        send(&there, &ethernet(to, &packets::udp(b, a, b"back")));
    }
    let mut queues = [Vec::new(), Vec::new()];
    until("frames", || {
        for (number, queue) in queues.iter_mut().enumerate() {
            queue.append(&mut drain(&here, number).0);
        }
        (queues[0].len() + queues[1].len() >= 128).then_some(())
    });
    assert_eq!(queues[0].len() + queues[1].len(), 128);
    assert!(queues.iter().all(|queue| queue.len() >= 16), "{} and {}", queues[0].len(), queues[1].len());
    let client = |bytes: &[u8]| {
        let (from, to) = (u16::from_be_bytes([bytes[34], bytes[35]]), u16::from_be_bytes([bytes[36], bytes[37]]));
        from.max(to)
    };
    for frame in &queues[0] {
        assert!(!queues[1].iter().any(|other| client(&other.bytes) == client(&frame.bytes)), "both ways of a flow go together");
    }
    for number in 0..50 {
        send(&here, &plain(MacAddr::BROADCAST, number, 60));
    }
    expect(&there, 50);
    assert!(drain(&here, 0).0.is_empty() && drain(&here, 1).0.is_empty(), "our own frames do not come back");
    // A second group gets a number of its own.
    let other = near.open(PacketSpec { queues: 2, ..near.spec() });
    send(&there, &plain(to, 1, 60));
    until("both groups", || {
        let count = drain(&other, 0).0.len() + drain(&other, 1).0.len();
        (count > 0).then_some(())
    });
    assert_eq!(drain(&here, 0).0.len() + drain(&here, 1).0.len(), 1);
}

fn dropped_frames_are_counted() {
    let (near, far) = pair();
    let (mut here, there) = (near.open(near.spec()), far.open(far.spec()));
    // Full frames, whose memory counts as 2 KiB and more each.
    let sent = 20_000;
    for _ in 0..sent {
        send(&there, &plain(MacAddr::BROADCAST, 1, 1514));
    }
    let statistics = until("all to arrive", || Some(here.statistics()).filter(|statistics| statistics.frames == sent));
    assert!(statistics.dropped > 0 && statistics.dropped < sent - 1000, "{statistics:?}");
    let (frames, end) = drain(&here, 0);
    assert_eq!((frames.len() as u64, end), (sent - statistics.dropped, Received::Drained));
    assert_eq!(here.statistics(), statistics, "what was read stays read");
}

fn a_link_goes_down_and_up() {
    let (near, far) = pair();
    let (here, there) = (near.open(near.spec()), far.open(far.spec()));
    let poller = Poller::new().expect("a poller");
    poller.add(&here.queues()[0], 1).expect("watched");
    for number in 0..20 {
        near.change(DOWN);
        let mut heard = 0;
        poller.wait(Some(Duration::from_secs(5)), |_| heard += 1).expect("an event");
        assert_eq!(heard, 1, "the event");
        assert_eq!(drain(&here, 0), (Vec::new(), Received::Drained));
        poller.wait(Some(Duration::ZERO), |_| panic!("said twice")).expect("a look");
        assert!(!here.is_gone());
        assert_eq!(send_with(&here, VnetHeader::default(), &plain(MacAddr::BROADCAST, 1, 60)), Err(Errno::NETDOWN));
        near.change(UP);
        until("carrier", || far.link().carrier.then_some(()));
        send(&there, &plain(MacAddr::BROADCAST, number, 60));
        let got = expect(&here, 1);
        assert_eq!(got[0].bytes[14], number);
    }
    // One that is down at first.
    let (near, far) = bare_pair();
    let here = near.open(PacketSpec { queues: 2, ..near.spec() });
    near.change(UP);
    far.change(UP);
    send(&far.open(far.spec()), &plain(MacAddr::BROADCAST, 9, 60));
    until("a frame", || (drain(&here, 0).0.len() + drain(&here, 1).0.len() == 1).then_some(()));
}

fn deleted_links_do_not_come_back() {
    let (near, far) = pair();
    let here = near.open(near.spec());
    let poller = Poller::new().expect("a poller");
    poller.add(&here.queues()[0], 1).expect("watched");
    let index = near.link().index;
    near.inside(|| link::delete(index));
    let mut heard = 0;
    poller.wait(Some(Duration::from_secs(5)), |_| heard += 1).expect("an event");
    assert_eq!(heard, 1);
    assert_eq!(drain(&here, 0), (Vec::new(), Received::Gone));
    // Said once; then only the address says it.
    assert_eq!(drain(&here, 0), (Vec::new(), Received::Drained));
    assert!(here.is_gone());
    assert_eq!(send_with(&here, VnetHeader::default(), &plain(MacAddr::BROADCAST, 1, 60)), Err(Errno::NXIO));
    near.inside(|| link::add_pair("up0", "far0", None));
    near.change(UP);
    assert!(here.is_gone(), "another link of that name is another link");
    drop(far);

    // Moved away while up, and while down.
    for change in [None, Some(DOWN)] {
        let (near, far) = pair();
        let here = near.open(near.spec());
        change.into_iter().for_each(|change| near.change(change));
        let elsewhere = netio::netns::create().expect("a namespace");
        use std::os::fd::AsFd;
        near.change(Change { netns: Some(elsewhere.as_fd()), ..NO_CHANGE });
        assert!(here.is_gone());
        assert_eq!(drain(&here, 0).1, Received::Gone);
        drop(far);
    }
}

fn unsuitable_interfaces_are_refused() {
    let (near, _far) = pair();
    let named = |name: &str| PacketSpec { interface: name.to_owned(), ..near.spec() };
    assert!(matches!(near.try_open(named("lo")), Err(PacketError::NotEthernet { name }) if name == "lo"));
    assert!(matches!(near.try_open(named("none")), Err(PacketError::NoInterface { name }) if name == "none"));
    let own_macs = vec![MacAddr([2, 0, 0, 0, 0, 7])];
    let socket = near.open(PacketSpec { promiscuous: false, own_macs, ..near.spec() });
    socket.add_mac(MacAddr([2, 0, 0, 0, 0, 8])).expect("one more address");
}
