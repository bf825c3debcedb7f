//! The host as a neighbour of its guests: what it may send, what goes to it, and in which form.
//!
//! ```text
//!   guest 2 --- port 0 -+-- 10.0.0.1
//!   the host -- port 4 -+            +- port 2 --- 203.0.113.1, shared with the host
//!   guest 5 --- port 3 -+-- 10.0.10.1, without the host
//! ```

use std::net::Ipv4Addr;

use nat::{Endpoint, External, ExternalKind, NatConfig, Protocol, Published};
use packet::VnetHeader;
use packet::ipv4::Ipv4View;
use packet::vnet::{flag, gso};
use testkit::bridge::Write;
use testkit::frames::noise;
use testkit::lab::{
    GATEWAY, GATEWAY_MAC, HOST_PORT, Lab, OUTSIDE, PEER, VLAN_GATEWAY, answer, ethernet, guest, host_port, mac,
    routing_with_host, uplink,
};
use testkit::packets::{self, ACK, SYN, Tcp};
use vswitch::{DropReason, PortId};

const GUEST_PORT: u16 = 0;

fn lab() -> Lab {
    let mut lab = Lab::ready_with(NatConfig::default(), 1500);
    let shared = External { address: OUTSIDE, kind: ExternalKind::Shared };
    lab.nat.set_externals(&[shared], lab.bridge.now).unwrap();
    for protocol in [Protocol::TCP, Protocol::UDP] {
        lab.nat.grant(OUTSIDE, protocol, &(1024..=65_535).collect::<Vec<u16>>());
    }
    lab.bridge.pipeline.set_port(PortId(HOST_PORT), Some(host_port()));
    lab.bridge.pipeline.set_routing(routing_with_host(Some(uplink(1500))));
    lab
}

fn at(address: Ipv4Addr, port: u16) -> Endpoint {
    Endpoint::new(address, port)
}

fn udp(src: Endpoint, dst: Endpoint) -> Vec<u8> {
    packets::udp(src, dst, b"payload")
}

/// The one packet that a guest's packet becomes at the host.
#[track_caller]
fn to_host(lab: &mut Lab, packet: &[u8]) -> Vec<u8> {
    let [(port, vnet, sent)]: [Write; 1] = from_guest(lab, packet).try_into().expect("one");
    assert_eq!((port.0, vnet), (HOST_PORT, VnetHeader::default()));
    sent
}

fn from_guest(lab: &mut Lab, packet: &[u8]) -> Vec<Write> {
    lab.bridge.run(GUEST_PORT, &[ethernet(GATEWAY_MAC, mac(2), packet)])
}

#[test]
fn packets_of_the_host_reach_guests_as_they_are() {
    let mut lab = lab();
    for src in [GATEWAY, OUTSIDE] {
        let packet = udp(at(src, 4000), at(guest(2), 53));
        let [(port, _, frame)]: [Write; 1] = lab.bridge.run(HOST_PORT, std::slice::from_ref(&packet)).try_into().unwrap();
        assert_eq!((port.0, frame), (GUEST_PORT, ethernet(mac(2), GATEWAY_MAC, &packet)));
    }
    for (packet, reason) in [
        (udp(at(PEER, 4000), at(guest(2), 53)), DropReason::NotFromHost),
        (udp(at(guest(3), 4000), at(guest(2), 53)), DropReason::NotFromHost),
        (udp(at(GATEWAY, 4000), at(Ipv4Addr::new(10, 0, 10, 5), 53)), DropReason::NotAllowed),
        (udp(at(GATEWAY, 4000), at(PEER, 53)), DropReason::NoRoute),
        (udp(at(GATEWAY, 4000), at(VLAN_GATEWAY, 53)), DropReason::NoRoute),
        (udp(at(GATEWAY, 4000), at(Ipv4Addr::new(224, 0, 0, 251), 53)), DropReason::MartianDestination),
        (udp(at(GATEWAY, 4000), at(Ipv4Addr::new(10, 0, 0, 255), 53)), DropReason::MartianDestination),
        ([&[0x60, 0, 0, 0, 0, 0, 58, 1][..], &[0; 32]].concat(), DropReason::NotRouted),
        (vec![0x45; 19], DropReason::BadIpHeader),
        (Vec::new(), DropReason::NotRouted),
    ] {
        let before = lab.bridge.dropped(reason);
        assert_eq!(lab.bridge.run(HOST_PORT, std::slice::from_ref(&packet)), [], "{packet:02x?}");
        assert_eq!(lab.bridge.dropped(reason), before + 1, "{}: {packet:02x?}", reason.name());
    }
    // Without the setting the port is nobody's.
    lab.bridge.pipeline.set_routing(testkit::lab::routing(Some(uplink(1500))));
    assert_eq!(lab.bridge.run(HOST_PORT, &[udp(at(GATEWAY, 4000), at(guest(2), 53))]), []);
    assert_eq!(lab.bridge.dropped(DropReason::PortGone), 1);
}

#[test]
fn a_guest_that_is_not_there() {
    let mut lab = lab();
    let packet = udp(at(GATEWAY, 4000), at(guest(77), 53));
    let asked = lab.bridge.run(HOST_PORT, std::slice::from_ref(&packet));
    assert!(asked.iter().all(|(_, _, frame)| frame[12..14] == [8, 6]) && !asked.is_empty(), "an ARP request");
    let mut told = Vec::new();
    for _ in 0..5 {
        lab.bridge.now = lab.bridge.now.after(std::time::Duration::from_secs(1));
        told.extend(lab.bridge.poll().into_iter().filter(|(port, _, _)| port.0 == HOST_PORT));
    }
    let [(_, _, error)]: [Write; 1] = told.try_into().unwrap();
    let ip = Ipv4View::new(&error).unwrap();
    assert_eq!((ip.src(), ip.dst(), &ip.payload()[..2]), (guest(77), GATEWAY, &[3, 1][..]), "from where it was to go");
    // And one that answers late.
    let mut lab = self::lab();
    lab.bridge.run(HOST_PORT, &[udp(at(GATEWAY, 4000), at(guest(8), 53))]);
    let sent = lab.bridge.run(GUEST_PORT, &[answer(GATEWAY_MAC, mac(8), guest(8), GATEWAY)]);
    assert!(sent.iter().any(|(_, _, frame)| frame[..6] == mac(8).0 && frame[12..14] == [8, 0]), "{sent:02x?}");
}

#[test]
fn packets_for_the_gateway_go_to_the_host() {
    let mut lab = lab();
    for packet in [
        udp(at(guest(2), 4000), at(GATEWAY, 9999)),
        packets::tcp(at(guest(2), 4000), at(GATEWAY, 22), &Tcp::new(SYN, 1, 0), &[]),
        packets::error([3, 3], 0, guest(2), GATEWAY, &udp(at(GATEWAY, 53), at(guest(2), 1))),
        packets::ip(47, guest(2), GATEWAY, &[0; 8]),
        packets::fragment(&packets::udp(at(guest(2), 4000), at(GATEWAY, 53), &[0; 72]), 0..40, 7, true),
        packets::fragment(&packets::udp(at(guest(2), 4000), at(GATEWAY, 53), &[0; 72]), 40..80, 7, false),
    ] {
        assert_eq!(to_host(&mut lab, &packet), packet);
    }
    let echo = packets::query(8, 1, guest(2), GATEWAY, b"ping");
    let [(port, ..)]: [Write; 1] = from_guest(&mut lab, &echo).try_into().unwrap();
    assert_eq!(port.0, GUEST_PORT, "ping stays the router's");
    // The gateway of a network without the host, and a guest of that network.
    let other = udp(at(guest(2), 4000), at(VLAN_GATEWAY, 9999));
    assert!(from_guest(&mut lab, &other).iter().all(|(port, ..)| port.0 != HOST_PORT));
    let theirs = udp(at(Ipv4Addr::new(10, 0, 10, 5), 4000), at(GATEWAY, 9999));
    let sent = lab.bridge.run(3, &[ethernet(testkit::lab::VLAN_GATEWAY_MAC, mac(5), &theirs)]);
    assert!(sent.iter().all(|(port, ..)| port.0 != HOST_PORT));
    assert_eq!(lab.bridge.dropped(DropReason::NotServed), 2);
}

/// The address that is shared with the host: guests' ports go before those of the host, and nothing is opened for the latter.
#[test]
fn packets_for_the_shared_address_are_a_guests_or_the_hosts() {
    let mut lab = lab();
    let rule = Published { protocol: Protocol::UDP, address: OUTSIDE, port: 8080, guest: at(guest(3), 80) };
    lab.nat.publish(&rule, lab.bridge.now).unwrap();
    for port in [9999, 22] {
        let packet = udp(at(guest(2), 4000), at(OUTSIDE, port));
        assert_eq!(to_host(&mut lab, &packet), packet);
        let reply = packets::tcp(at(guest(2), 80), at(OUTSIDE, port), &Tcp::new(SYN | ACK, 1, 1), &[]);
        assert_eq!(to_host(&mut lab, &reply), reply, "of a connection of the host");
    }
    let error = packets::error([3, 3], 0, guest(2), OUTSIDE, &udp(at(OUTSIDE, 40_000), at(guest(2), 1)));
    assert_eq!(to_host(&mut lab, &error), error);
    assert_eq!(lab.nat.stats().opened, 0);
    let sent = from_guest(&mut lab, &udp(at(guest(2), 4000), at(OUTSIDE, 8080)));
    assert!(sent.iter().all(|(port, ..)| port.0 != HOST_PORT));
    assert!(lab.nat.stats().opened > 0, "translated as without the host");
    // A mapping of a guest.
    from_guest(&mut lab, &udp(at(guest(2), 5000), at(PEER, 53)));
    let mapped = lab.nat.mappings(10).1.into_iter().find(|mapping| mapping.inside == at(guest(2), 5000)).unwrap().outside;
    let before = lab.bridge.dropped(DropReason::NatNoMapping);
    assert_eq!(from_guest(&mut lab, &udp(at(guest(2), 6000), mapped)), []);
    assert_eq!(lab.bridge.dropped(DropReason::NatNoMapping), before + 1, "the guest's filter has the say");
}

/// Super-frames and partial checksums pass both ways, with offsets from the header that the packet has there.
#[test]
fn offloads_are_kept() {
    let mut lab = lab();
    let payload = noise(3, 5000);
    let packet = |src, dst| packets::tcp(at(src, 4000), at(dst, 80), &Tcp::new(ACK, 1, 1), &payload);
    let vnet = |l3: u16| VnetHeader {
        flags: flag::NEEDS_CSUM,
        gso_type: gso::TCPV4,
        hdr_len: l3 + 40,
        gso_size: 1000,
        csum_start: l3 + 20,
        csum_offset: 16,
    };
    let to_guest = packet(GATEWAY, guest(2));
    let [(port, header, frame)]: [Write; 1] =
        lab.bridge.run_with(HOST_PORT, &[(vnet(0), to_guest.clone())], |_, _, _| Ok(())).try_into().unwrap();
    assert_eq!((port.0, header, &frame[14..]), (GUEST_PORT, vnet(14), &to_guest[..]));
    let to_host = packet(guest(2), GATEWAY);
    let frame = ethernet(GATEWAY_MAC, mac(2), &to_host);
    let [(port, header, sent)]: [Write; 1] =
        lab.bridge.run_with(GUEST_PORT, &[(vnet(14), frame)], |_, _, _| Ok(())).try_into().unwrap();
    assert_eq!((port.0, header, sent), (HOST_PORT, vnet(0), to_host));
}
