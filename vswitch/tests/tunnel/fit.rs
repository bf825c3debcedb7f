//! Packets that are too long for a tunnel: told, cut, or made smaller.

use packet::VnetHeader;
use packet::icmpv4::IcmpView;
use packet::ipv4::Ipv4View;
use packet::ipv6::Ipv6View;
use packet::vlan::VlanId;
use vswitch::{DropReason, Encapsulation, Port, PortId, PortVlan};

use crate::{between, mac, vlan};
use testkit::bridge::{Write, port};
use testkit::checksum::{add, sum};
use testkit::frames::{Spec, noise};
use testkit::overlay::{MTU, Overlay, PEER, datagram, peer_port, places, vni};
use testkit::packets::CWR;

/// From station 1 at host 0 to station 2 at host 1, in an IP packet of so many bytes.
fn of_len(len: usize) -> Spec {
    Spec { payload: noise(1, len - 52), ..between(1, 2) }
}

fn v6_of_len(len: usize) -> Spec {
    Spec { v6: true, payload: noise(1, len - 72), ..between(1, 2) }
}

/// Takes "don't fragment" away.
fn may_be_cut(mut frame: Vec<u8>, l3: usize) -> Vec<u8> {
    frame[l3 + 6] &= !0x40;
    frame[l3 + 10..l3 + 12].fill(0);
    let check = !sum(&frame[l3..l3 + 20]);
    frame[l3 + 10..l3 + 12].copy_from_slice(&check.to_be_bytes());
    frame
}

/// Two hosts, of which each knows where station 2 is.
fn ready_with(link: impl Fn() -> Port, peer: impl Fn() -> Port, vlans: &[VlanId]) -> Overlay {
    let overlay = Overlay::with(2, |_| [link(), link()], |_, _| peer());
    for vlan in vlans {
        for (host, port) in [(0, PEER), (1, 0)] {
            let host = &overlay.hosts[host];
            host.table.learn(*vlan, mac(2), PortId(port), host.now);
        }
    }
    overlay
}

fn ready() -> Overlay {
    ready_with(|| port(PortVlan::default()), testkit::overlay::plain_peer, &[VlanId::NONE])
}

#[track_caller]
fn only(mut writes: Vec<(usize, Write)>) -> (usize, Write) {
    assert_eq!(writes.len(), 1, "{:?}", places(&writes));
    writes.remove(0)
}

/// One frame in at host 0, and the frame that comes back from there.
#[track_caller]
fn told(overlay: &mut Overlay, vnet: VnetHeader, frame: &[u8]) -> Vec<u8> {
    let (host, (port, vnet, error)) = only(overlay.run_with(0, 0, &[(vnet, frame.to_vec())]));
    assert_eq!((host, port, vnet), (0, PortId(0), VnetHeader::default()));
    assert_eq!(overlay.hosts[0].counts(0).dropped(DropReason::FragmentationNeeded), 1);
    assert!(overlay.log.is_empty(), "nothing was sent");
    error
}

/// "Fragmentation needed" about this frame, in the name of its destination.
#[track_caller]
fn assert_told_v4(error: &[u8], about: &[u8], l3: usize, mtu: u16) {
    assert_eq!(error[..12], [&about[6..12], &about[..6]].concat(), "to its sender, from its destination");
    assert_eq!(error[12..l3], about[12..l3], "its VLAN tags");
    let packet = &error[l3..];
    assert_eq!((packet.len(), usize::from(u16::from_be_bytes([packet[2], packet[3]]))), (576, 576));
    assert_eq!(sum(&packet[..20]), 0xffff);
    assert_eq!(sum(&packet[20..]), 0xffff);
    let ip = Ipv4View::new(packet).unwrap();
    let of = Ipv4View::new(&about[l3..]).unwrap();
    assert_eq!((ip.src(), ip.dst(), ip.protocol()), (of.dst(), of.src(), 1));
    let icmp = IcmpView::new(ip.payload()).unwrap();
    assert_eq!((icmp.kind(), icmp.code(), icmp.next_hop_mtu()), (3, 4, Some(mtu)));
    assert_eq!(icmp.quote(), &about[l3..l3 + icmp.quote().len()]);
}

#[test]
fn what_fits_exactly_passes_and_a_byte_more_is_told() {
    let mut overlay = ready();
    let fits = of_len(1450).bytes();
    assert_eq!(only(overlay.run(0, 0, std::slice::from_ref(&fits))).1.2, fits);
    overlay.log.clear();
    let about = of_len(1451).bytes();
    assert_told_v4(&told(&mut overlay, VnetHeader::default(), &about), &about, 14, 1450);
    assert_eq!(overlay.hosts[0].counts(0).made.load(), 1);
}

#[test]
fn the_error_goes_back_in_its_vlan() {
    let ten = [vlan(10)];
    let trunk = || port(PortVlan::default());
    let mut overlay = ready_with(trunk, || peer_port(PortVlan::access(vlan(10)), Encapsulation::vxlan(vni())), &ten);
    let tagged = |len| Spec { tags: vec![(0x8100, 0x600a)], ..of_len(len) }.bytes();
    assert_eq!(places(&overlay.run(0, 0, &[tagged(1450)])), [(1, 0)]);
    overlay.log.clear();
    let about = tagged(1451);
    assert_told_v4(&told(&mut overlay, VnetHeader::default(), &about), &about, 18, 1450);
}

#[test]
fn tags_inside_take_room() {
    for tagged_link in [false, true] {
        let link = || port(if tagged_link { PortVlan::default() } else { PortVlan::access(vlan(10)) });
        let mut overlay = ready_with(link, testkit::overlay::plain_peer, &[vlan(10)]);
        let tags = if tagged_link { vec![(0x8100, 10)] } else { vec![] };
        let of_len = |len| Spec { tags: tags.clone(), ..of_len(len) }.bytes();
        assert_eq!(only(overlay.run(0, 0, &[of_len(1446)])).0, 1);
        assert_eq!(overlay.log.drain(..).next().unwrap().sent.datagrams[0].len(), 1472);
        let about = of_len(1447);
        assert_told_v4(&told(&mut overlay, VnetHeader::default(), &about), &about, 14 + 4 * tags.len(), 1446);
    }
}

#[test]
fn ipv6_is_told_that_it_is_too_big() {
    let mut overlay = ready();
    assert_eq!(only(overlay.run(0, 0, &[v6_of_len(1450).bytes()])).0, 1);
    overlay.log.clear();
    let about = v6_of_len(1451).bytes();
    let error = told(&mut overlay, VnetHeader::default(), &about);
    assert_eq!(error[..14], [&about[6..12], &about[..6], &[0x86, 0xdd]].concat());
    let packet = &error[14..];
    assert_eq!(packet.len(), 1280);
    let (ip, of) = (Ipv6View::new(packet).unwrap(), Ipv6View::new(&about[14..]).unwrap());
    assert_eq!((ip.src(), ip.dst(), packet[6]), (of.dst(), of.src(), 58));
    let message = &packet[40..];
    assert_eq!(message[..2], [2, 0]);
    assert_eq!(message[4..8], 1450u32.to_be_bytes());
    assert_eq!(message[8..], about[14..14 + message.len() - 8]);
    let pseudo = [&packet[8..40], &(message.len() as u32).to_be_bytes(), &[0, 0, 0, 58]].concat();
    assert_eq!(add(sum(&pseudo), sum(message)), 0xffff);
}

/// What nobody may be told of is dropped as too long.
#[test]
fn errors_groups_and_what_is_not_ip_are_not_told_of() {
    let with_icmp = |kind: u8| {
        let mut frame = of_len(1451).bytes();
        frame[23] = 1;
        frame[24..26].fill(0);
        let check = !sum(&frame[14..34]);
        frame[24..26].copy_from_slice(&check.to_be_bytes());
        frame[34] = kind;
        frame
    };
    let icmpv6_error = {
        let mut frame = v6_of_len(1451).bytes();
        (frame[20], frame[54]) = (58, 1);
        frame
    };
    let mut other = of_len(1451).bytes();
    other[12..14].copy_from_slice(&[0x88, 0xb5]);
    let mut to_group = of_len(1451).bytes();
    to_group[30] = 224;
    let mut group_v6 = v6_of_len(1451).bytes();
    group_v6[38] = 0xff;
    for silent in [with_icmp(3), with_icmp(11), icmpv6_error, other, to_group, group_v6] {
        let mut overlay = ready();
        assert!(overlay.run(0, 0, &[silent]).is_empty());
        assert_eq!(overlay.hosts[0].counts(0).dropped(DropReason::TooLong), 1);
    }
    let mut overlay = ready();
    let ping = with_icmp(8);
    assert_told_v4(&told(&mut overlay, VnetHeader::default(), &ping), &ping, 14, 1450);
    for dst in [[0xff; 6], [1, 0, 0x5e, 0, 0, 9], mac(99).0] {
        let mut overlay = ready();
        let writes = overlay.run(0, 0, &[Spec { dst, ..of_len(1451) }.bytes()]);
        assert_eq!(places(&writes), [(0, 1)], "flooded to where it fits");
        assert_eq!(overlay.hosts[0].counts(0).dropped(DropReason::TooLong), 1);
    }
}

#[test]
fn a_sender_is_told_so_often() {
    let mut overlay = ready();
    let burst = |overlay: &mut Overlay, spec: Spec| overlay.run(0, 0, &vec![spec.bytes(); 30]).len();
    assert_eq!(burst(&mut overlay, of_len(1451)), 10);
    let counts = overlay.hosts[0].counts(0);
    assert_eq!((counts.dropped(DropReason::FragmentationNeeded), counts.dropped(DropReason::TooLong)), (10, 20));
    assert_eq!(burst(&mut overlay, v6_of_len(1451)), 10, "another address");
    overlay.hosts[0].now = overlay.hosts[0].now.after(std::time::Duration::from_secs(1));
    assert_eq!(burst(&mut overlay, of_len(1451)), 10);
}

/// What fragments are when put together; each has a valid header and fits.
fn reassembled(fragments: &[Vec<u8>], l3: usize) -> Vec<u8> {
    let mut payload = Vec::new();
    for (n, fragment) in fragments.iter().enumerate() {
        let ip = Ipv4View::new(&fragment[l3..]).unwrap();
        assert!(ip.has_valid_checksum() && ip.total_len() <= MTU as usize && ip.total_len() == fragment.len() - l3);
        assert_eq!((ip.fragment_offset(), ip.more_fragments()), (payload.len(), n + 1 < fragments.len()));
        payload.extend_from_slice(ip.payload());
    }
    let mut frame = fragments[0][..l3 + 20].to_vec();
    frame.extend(payload);
    let len = (frame.len() - l3) as u16;
    frame[l3 + 2..l3 + 4].copy_from_slice(&len.to_be_bytes());
    frame[l3 + 6..l3 + 8].fill(0);
    may_be_cut(frame, l3)
}

#[test]
fn what_may_be_cut_is_cut_and_fits_together_again() {
    for tags in [vec![], vec![(0x8100, 10)]] {
        let mut overlay = ready_with(|| port(PortVlan::default()), testkit::overlay::plain_peer, &[VlanId::NONE, vlan(10)]);
        overlay.hosts[0].port(0).mtu = 9000;
        let l3 = 14 + 4 * tags.len();
        for len in [1451, 1500, 2900, 9000] {
            let spec = Spec { tcp: false, tags: tags.clone(), payload: noise(1, len - 28), ..between(1, 2) };
            let frame = may_be_cut(spec.bytes(), l3);
            let (vnet, partial) = spec.partial();
            for (vnet, sent) in [(VnetHeader::default(), frame.clone()), (vnet, may_be_cut(partial, l3))] {
                let writes = overlay.run_with(0, 0, &[(vnet, sent)]);
                let fragments: Vec<Vec<u8>> = writes.into_iter().map(|(_, (_, _, frame))| frame).collect();
                assert!(fragments.len() > 1);
                assert_eq!(reassembled(&fragments, l3), frame, "{len} bytes");
                assert!(overlay.log.windows(2).all(|pair| pair[0].sent.outer == pair[1].sent.outer), "one way for all");
                overlay.log.clear();
            }
        }
        let counts = overlay.hosts[0].counts(PEER);
        assert_eq!((counts.tx_frames.load(), overlay.hosts[0].dropped(DropReason::TooLong)), (8, 0));
    }
}

#[test]
fn long_segments_are_told_of_or_made_shorter() {
    for (v6, flags) in [(false, 0x10), (true, 0x10), (false, 0x10 | CWR)] {
        let headers = if v6 { 72 } else { 52 };
        let spec = Spec { v6, flags, payload: noise(1, 20_000), ..between(1, 2) };
        let mut overlay = ready();
        let (vnet, frame) = spec.super_frame(1450 - headers);
        assert_eq!(overlay.run_with(0, 0, &[(vnet, frame.clone())]).len(), frame.len().div_ceil(usize::from(1450 - headers)));
        overlay.log.clear();
        let error = told(&mut overlay, spec.super_frame(1451 - headers).0, &frame);
        if !v6 {
            assert_told_v4(&error, &frame, 14, 1450);
        }
    }
    // Without "don't fragment" the segments become smaller, and are whole packets still.
    let spec = Spec { payload: noise(1, 20_000), ..between(1, 2) };
    let (vnet, frame) = spec.super_frame(1448);
    let mut overlay = ready();
    let writes = overlay.run_with(0, 0, &[(vnet, may_be_cut(frame, 14))]);
    let payloads: Vec<u8> = writes.iter().flat_map(|(_, (_, _, frame))| frame[14 + 52..].to_vec()).collect();
    assert_eq!((writes.len(), payloads), (20_000usize.div_ceil(1398), spec.payload));
    assert!(writes.iter().all(|(_, (_, _, frame))| !Ipv4View::new(&frame[14..]).unwrap().is_fragment()));
}

#[test]
fn who_receives_has_links_of_any_length() {
    let mut overlay = ready();
    overlay.hosts[1].port(0).mtu = 1000;
    assert!(overlay.run(0, 0, &[of_len(1001).bytes()]).is_empty());
    assert_eq!(overlay.hosts[1].counts(PEER).dropped(DropReason::TooLong), 1);
    let counts = overlay.hosts[0].counts(PEER);
    assert_eq!(counts.tx_bytes.load(), 1001 + 14);
    assert_eq!(overlay.log[0].sent.datagrams, [datagram(vni(), &of_len(1001).bytes())]);
}
