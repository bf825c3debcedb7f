//! The segment size that a SYN asks for, lowered on its way into a tunnel and out of it.

use packet::vlan::VlanId;
use packet::{Datagram, VnetHeader};
use tunnel::FramingKind;
use vswitch::{Encapsulation, PortId, PortVlan};

use crate::{between, mac, vlan};
use testkit::bridge::port;
use testkit::frames::Spec;
use testkit::overlay::{ENDPOINT, MTU, Overlay, PEER, address, datagram, peer_port, vni};
use testkit::wire::on_the_wire;

const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// A SYN that asks for segments of this size.
fn syn(v6: bool, size: u16) -> Spec {
    let [high, low] = size.to_be_bytes();
    Spec { v6, flags: SYN, options: vec![1, 3, 3, 7, 2, 4, high, low], payload: vec![], ..between(1, 2) }
}

/// The longest segments that fit.
fn most(v6: bool) -> u16 {
    if v6 { 1390 } else { 1410 }
}

#[test]
fn on_its_way_in() {
    for v6 in [false, true] {
        for known in [false, true] {
            let mut overlay = Overlay::new(2);
            if known {
                overlay.hosts[0].table.learn(VlanId::NONE, mac(2), PortId(PEER), overlay.hosts[0].now);
            }
            for flags in [SYN, SYN | ACK] {
                for (asked, expected) in [(1460, most(v6)), (most(v6) + 1, most(v6)), (most(v6), most(v6)), (500, 500)] {
                    let spec = |size| Spec { flags, ..syn(v6, size) };
                    overlay.log.clear();
                    overlay.run(0, 0, &[spec(asked).bytes()]);
                    assert_eq!(overlay.log[0].sent.datagrams, [datagram(vni(), &spec(expected).bytes())], "flooded: {}", !known);
                    overlay.log.clear();
                    overlay.run_with(0, 0, &[spec(asked).partial()]);
                    assert_eq!(overlay.log[0].sent.datagrams, [datagram(vni(), &spec(expected).bytes())], "unfinished");
                }
            }
            overlay.log.clear();
            let established = Spec { flags: ACK, ..syn(v6, 1460) }.bytes();
            overlay.run(0, 0, std::slice::from_ref(&established));
            assert_eq!(overlay.log[0].sent.datagrams, [datagram(vni(), &established)]);
        }
    }
}

/// From a host that does not lower it.
#[test]
fn on_its_way_out() {
    for v6 in [false, true] {
        let mut overlay = Overlay::new(2);
        let mut arrive = |frame: &[u8]| {
            let payload = datagram(vni(), frame);
            let datagram = Datagram { from: address(1), tos: 0, segment_size: 0, payload: &payload };
            let writes = overlay.hosts[0].receive(ENDPOINT, FramingKind::Vxlan, MTU, &[datagram]);
            assert_eq!(writes.len(), 2);
            let (_, vnet, frame) = &writes[0];
            on_the_wire(&[&vnet.to_bytes()[..], frame].concat())
        };
        assert_eq!(arrive(&syn(v6, 1460).bytes()), [syn(v6, most(v6)).bytes()]);
        assert_eq!(arrive(&syn(v6, 1460).partial().1), [syn(v6, most(v6)).bytes()], "unfinished");
        assert_eq!(arrive(&syn(v6, 1000).bytes()), [syn(v6, 1000).bytes()]);
    }
}

#[test]
fn it_stays_between_links() {
    let mut overlay = Overlay::new(2);
    overlay.hosts[0].table.learn(VlanId::NONE, mac(2), PortId(1), overlay.hosts[0].now);
    let frame = syn(false, 1460).bytes();
    assert_eq!(overlay.hosts[0].run_with(0, &[(VnetHeader::default(), frame.clone())], |_, _, _| Ok(()))[0].2, frame);
}

/// A tag inside takes four bytes of the tunnel's room: going in to where the station is known or not, and
/// coming out.
#[test]
fn a_tag_inside_counts() {
    let access = || port(PortVlan::access(vlan(10)));
    let trunk = || peer_port(PortVlan::default(), Encapsulation::vxlan(vni()));
    let tagged = |size| Spec { tags: vec![(0x8100, 10)], ..syn(false, size) }.bytes();
    for known in [true, false] {
        let mut overlay = Overlay::with(2, |_| [access(), access()], |_, _| trunk());
        if known {
            overlay.hosts[0].table.learn(vlan(10), mac(2), PortId(PEER), overlay.hosts[0].now);
        }
        overlay.run(0, 0, &[syn(false, 1460).bytes()]);
        assert_eq!(overlay.log[0].sent.datagrams, [datagram(vni(), &tagged(1406))], "flooded: {}", !known);
    }
    let mut overlay = Overlay::with(2, |_| [access(), access()], |_, _| trunk());
    let payload = datagram(vni(), &tagged(1460));
    let arrived = Datagram { from: address(1), tos: 0, segment_size: 0, payload: &payload };
    let writes = overlay.hosts[0].receive(ENDPOINT, FramingKind::Vxlan, MTU, &[arrived]);
    assert_eq!(writes[0].2, syn(false, 1406).bytes(), "coming out");
}

/// The way to another peer may be narrower: a SYN for everybody asks for what the narrowest takes.
#[test]
fn the_narrowest_of_several_ways_counts() {
    let mut overlay = Overlay::new(3);
    overlay.hosts[0].port(PEER + 1).mtu = 1350;
    overlay.run(0, 0, &[syn(false, 1460).bytes()]);
    let sent: Vec<Vec<u8>> = overlay.log.iter().flat_map(|flying| flying.sent.datagrams.clone()).collect();
    assert_eq!(sent, vec![datagram(vni(), &syn(false, 1310).bytes()); 2]);
}
