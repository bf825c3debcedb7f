//! The guard of a port: a truth table, and any frame at all against a receiver that understands more than the switch does.

use std::net::{IpAddr, Ipv6Addr};

use packet::{MacAddr, Prefix};
use proptest::prelude::*;
use testkit::bridge::{Bridge, port};
use testkit::packets;
use vswitch::{DropReason, Guard, PortId, PortVlan};

const OWN: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 1]);
const OTHER: MacAddr = MacAddr([0x52, 0x54, 0, 0, 0, 2]);
const OWN_V4: [u8; 4] = [10, 0, 0, 5];
const OTHER_V4: [u8; 4] = [10, 0, 0, 6];
/// Of a network behind the station.
const BEHIND_V4: [u8; 4] = [10, 9, 200, 1];
const OWN_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 5);
const OTHER_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 6);
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5054, 0xff, 0xfe00, 1);
const OTHER_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x5054, 0xff, 0xfe00, 2);

fn guard() -> Guard {
    let host = |address: IpAddr| Prefix::new(address, if address.is_ipv4() { 32 } else { 128 });
    let behind = Prefix::new(IpAddr::from([10, 9, 0, 0]), 16);
    Guard::new(Some(OWN), &[host(OWN_V4.into()), host(OWN_V6.into()), behind])
}

/// A bridge of three ports, of which the first has this guard.
fn guarded_by(guard: Guard) -> Bridge {
    let mut bridge = Bridge::new(std::iter::repeat_with(|| port(PortVlan::default())).take(3));
    *bridge.port(0) = port(PortVlan::default()).guarded_by(guard);
    bridge
}

fn ethernet(src: MacAddr, kind: u16, body: &[u8]) -> Vec<u8> {
    [&[2, 0, 0, 0, 0, 9][..], &src.0, &kind.to_be_bytes(), body].concat()
}

fn with_tags(frame: &[u8], tags: &[u8]) -> Vec<u8> {
    [&frame[..12], tags, &frame[12..]].concat()
}

fn v4(src: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    packets::ip(protocol, src.into(), [255, 255, 255, 255].into(), payload)
}

fn udp(from: u16, to: u16) -> Vec<u8> {
    [from.to_be_bytes(), to.to_be_bytes(), 12u16.to_be_bytes(), [0, 0], [1, 2], [3, 4]].concat()
}

fn v6(src: Ipv6Addr, next: u8, payload: &[u8]) -> Vec<u8> {
    let len = (payload.len() as u16).to_be_bytes();
    [
        &[0x60, 0, 0, 0, len[0], len[1], next, 255][..],
        &src.octets(),
        &[0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
        payload,
    ]
    .concat()
}

/// A message of neighbour discovery about a target, with the option that has this link-layer address.
fn nd(kind: u8, target: Option<Ipv6Addr>, option: Option<(u8, MacAddr)>) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    message.extend(target.iter().flat_map(Ipv6Addr::octets));
    message.extend(option.iter().flat_map(|(kind, mac)| [&[*kind, 1][..], &mac.0].concat()));
    message
}

fn arp(mac: MacAddr, ip: [u8; 4], operation: u8) -> Vec<u8> {
    [&[0, 1, 8, 0, 6, 4, 0, operation][..], &mac.0, &ip, &[0; 6], &[10, 0, 0, 9]].concat()
}

/// What is dropped, and what is not.
#[test]
fn what_a_station_may_send() {
    use DropReason::{GuardArp, GuardDhcp, GuardIp, GuardMac, GuardNd, GuardRa};
    let ip4 = |packet: Vec<u8>| ethernet(OWN, 0x0800, &packet);
    let ip6 = |packet: Vec<u8>| ethernet(OWN, 0x86dd, &packet);
    let of_v4 = |src| ip4(v4(src, 17, &udp(4000, 53)));
    let of_v6 = |src| ip6(v6(src, 17, &udp(4000, 53)));
    let by_arp = |mac, ip| ethernet(OWN, 0x0806, &arp(mac, ip, 1));
    let by_nd = |src, message: Vec<u8>| ip6(v6(src, 58, &message));
    let options = |next: u8| [next, 0, 0, 0, 0, 0, 0, 0];
    let ra = nd(134, None, None);
    let (hop_by_hop, tail) = (options(60), [&options(58)[..], &ra].concat());
    let first = |next: u8, payload: &[u8]| [&[next, 0, 0, 1, 0, 0, 0, 7][..], payload].concat();
    let later = |next: u8, payload: &[u8]| [&[next, 0, 0, 9, 0, 0, 0, 7][..], payload].concat();
    let fragment = |src, range, more| packets::fragment(&v4(src, 17, &udp(67, 68)), range, 7, more);
    let snap = [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0][..], &v4(OTHER_V4, 17, &udp(1, 2))].concat();
    let cases: Vec<(&str, Vec<u8>, Option<DropReason>)> = vec![
        ("its own", of_v4(OWN_V4), None),
        ("a network behind it", of_v4(BEHIND_V4), None),
        ("IPv6", of_v6(OWN_V6), None),
        ("link-local", of_v6(LINK_LOCAL), None),
        ("another protocol", ethernet(OWN, 0x88b5, &[0; 46]), None),
        ("LLC", ethernet(OWN, 40, &[0x42; 46]), None),
        ("another MAC address", ethernet(OTHER, 0x0800, &v4(OWN_V4, 17, &udp(1, 2))), Some(GuardMac)),
        ("another address", of_v4(OTHER_V4), Some(GuardIp)),
        ("another IPv6 address", of_v6(OTHER_V6), Some(GuardIp)),
        ("another's link-local address", of_v6(OTHER_LINK_LOCAL), Some(GuardIp)),
        ("behind a tag", with_tags(&of_v4(OTHER_V4), &[0x81, 0, 0, 7]), Some(GuardIp)),
        ("behind two tags", with_tags(&of_v6(OTHER_V6), &[0x88, 0xa8, 0, 7, 0x81, 0, 0, 0]), Some(GuardIp)),
        ("behind three tags", with_tags(&of_v4(OWN_V4), &[0x81, 0, 0, 0, 0x81, 0, 0, 0, 0x81, 0, 0, 0]), Some(GuardIp)),
        ("behind SNAP", ethernet(OWN, snap.len() as u16, &snap), Some(GuardIp)),
        ("a header of another version", ethernet(OWN, 0x0800, &v6(OWN_V6, 17, &udp(1, 2))), Some(GuardIp)),
        ("a header that ends", ethernet(OWN, 0x86dd, &v6(OWN_V6, 17, &udp(1, 2))[..39]), Some(GuardIp)),
        ("DHCP client", ip4(v4([0; 4], 17, &udp(68, 67))), None),
        ("DHCP client with an address", ip4(v4(OWN_V4, 17, &udp(68, 67))), None),
        ("no address, other ports", ip4(v4([0; 4], 17, &udp(68, 53))), Some(GuardIp)),
        ("DHCP server", ip4(v4(OWN_V4, 17, &udp(67, 68))), Some(GuardDhcp)),
        ("from a server's port", ip4(v4(OWN_V4, 17, &udp(67, 4000))), Some(GuardDhcp)),
        ("to a client's port", ip4(v4(OWN_V4, 17, &udp(4000, 68))), Some(GuardDhcp)),
        ("DHCP server without an address", ip4(v4([0; 4], 17, &udp(67, 68))), Some(GuardIp)),
        ("DHCP server with a wrong length", ip4(v4(OWN_V4, 17, &udp(67, 68)[..10])), Some(GuardDhcp)),
        ("a first fragment of a DHCP server", ip4(fragment(OWN_V4, 0..8, true)), Some(GuardDhcp)),
        ("a later fragment", ip4(fragment(OWN_V4, 8..12, false)), None),
        ("a later fragment of another", ip4(fragment(OTHER_V4, 8..12, false)), Some(GuardIp)),
        ("half of a UDP header", ip4(v4(OWN_V4, 17, &udp(4000, 53)[..6])), Some(GuardIp)),
        ("DHCPv6 client", ip6(v6(LINK_LOCAL, 17, &udp(546, 547))), None),
        ("DHCPv6 server", ip6(v6(LINK_LOCAL, 17, &udp(547, 546))), Some(GuardDhcp)),
        ("ARP", by_arp(OWN, OWN_V4), None),
        ("an ARP probe", by_arp(OWN, [0; 4]), None),
        ("ARP of another MAC address", by_arp(OTHER, OWN_V4), Some(GuardArp)),
        ("ARP of another address", by_arp(OWN, OTHER_V4), Some(GuardArp)),
        ("ARP of another kind", ethernet(OWN, 0x0806, &arp(OWN, OWN_V4, 9)), Some(GuardArp)),
        ("ARP that ends", ethernet(OWN, 0x0806, &arp(OWN, OWN_V4, 1)[..27]), Some(GuardArp)),
        ("tagged ARP of another", with_tags(&by_arp(OWN, OTHER_V4), &[0x81, 0, 0, 7]), Some(GuardArp)),
        ("an advertisement", by_nd(LINK_LOCAL, nd(136, Some(OWN_V6), Some((2, OWN)))), None),
        ("an advertisement of another", by_nd(LINK_LOCAL, nd(136, Some(OTHER_V6), Some((2, OWN)))), Some(GuardNd)),
        ("an advertisement to another", by_nd(LINK_LOCAL, nd(136, Some(OWN_V6), Some((2, OTHER)))), Some(GuardNd)),
        ("an advertisement that ends", by_nd(LINK_LOCAL, nd(136, None, None)), Some(GuardNd)),
        ("an option of no length", by_nd(LINK_LOCAL, [&nd(136, Some(OWN_V6), None)[..], &[2, 0, 1, 2]].concat()), Some(GuardNd)),
        ("a solicitation", by_nd(OWN_V6, nd(135, Some(OTHER_V6), Some((1, OWN)))), None),
        ("a solicitation of another", by_nd(OWN_V6, nd(135, Some(OTHER_V6), Some((1, OTHER)))), Some(GuardNd)),
        ("duplicate address detection", by_nd(Ipv6Addr::UNSPECIFIED, nd(135, Some(OWN_V6), None)), None),
        ("a router solicitation", by_nd(Ipv6Addr::UNSPECIFIED, nd(133, None, None)), None),
        ("a listener report", by_nd(Ipv6Addr::UNSPECIFIED, nd(143, None, None)), None),
        ("an echo without an address", by_nd(Ipv6Addr::UNSPECIFIED, nd(128, None, None)), Some(GuardIp)),
        ("a router advertisement", by_nd(LINK_LOCAL, ra.clone()), Some(GuardRa)),
        ("a redirect", by_nd(LINK_LOCAL, nd(137, Some(OWN_V6), None)), Some(GuardRa)),
        ("behind options", ip6(v6(LINK_LOCAL, 0, &[&hop_by_hop[..], &tail].concat())), Some(GuardRa)),
        ("behind many options", ip6(v6(LINK_LOCAL, 60, &[&options(60).repeat(9)[..], &tail].concat())), Some(GuardIp)),
        ("in an atomic fragment", ip6(v6(LINK_LOCAL, 44, &first(58, &ra))), Some(GuardRa)),
        ("in a first fragment behind options", ip6(v6(LINK_LOCAL, 44, &first(60, &tail))), Some(GuardRa)),
        ("a first fragment of options", ip6(v6(LINK_LOCAL, 44, &first(60, &options(58)))), Some(GuardIp)),
        ("a fragment in a fragment", ip6(v6(LINK_LOCAL, 44, &first(44, &first(58, &ra)))), Some(GuardIp)),
        ("a later IPv6 fragment", ip6(v6(OWN_V6, 44, &later(58, &ra))), None),
        ("a later IPv6 fragment of another", ip6(v6(OTHER_V6, 44, &later(58, &ra))), Some(GuardIp)),
    ];
    for (what, frame, expected) in cases {
        let mut bridge = guarded_by(guard());
        let writes = bridge.run(0, std::slice::from_ref(&frame));
        let dropped: Vec<DropReason> =
            DropReason::ALL.into_iter().filter(|reason| bridge.counts(0).dropped(*reason) > 0).collect();
        assert_eq!(dropped, expected.into_iter().collect::<Vec<_>>(), "{what}");
        assert_eq!(writes.len(), if expected.is_some() { 0 } else { 2 }, "{what}");
        let learned: Vec<MacAddr> = bridge.table.entries(bridge.now).iter().map(|entry| entry.mac).collect();
        assert_eq!(
            learned,
            if expected.is_some() { vec![] } else { vec![OWN] },
            "{what}: nothing is learned from what is dropped"
        );
        let mut free = Bridge::open(3);
        assert_eq!(free.run(0, &[frame]).len(), 2, "{what}: a port without a guard sends it");
    }
}

#[test]
fn what_is_not_known_is_not_checked() {
    let ip4 = |mac, src| ethernet(mac, 0x0800, &v4(src, 17, &udp(4000, 53)));
    let ip6 = |mac, src| ethernet(mac, 0x86dd, &v6(src, 17, &udp(4000, 53)));
    let host = Prefix::new(OWN_V4.into(), 32);
    for (guard, frames) in [
        (Guard::new(Some(OWN), &[]), [ip4(OWN, OTHER_V4), ip6(OWN, OTHER_V6), ethernet(OWN, 0x0806, &arp(OWN, OTHER_V4, 2))]),
        (
            Guard::new(None, &[host]),
            [ip4(OTHER, OWN_V4), ip6(OTHER, LINK_LOCAL), ethernet(OTHER, 0x0806, &arp(OTHER, OWN_V4, 2))],
        ),
    ] {
        let mut bridge = guarded_by(guard.clone());
        assert_eq!(bridge.run(0, &frames).len(), 6, "{guard:?}");
        let refused = [
            ethernet(OWN, 0x0800, &v4(OWN_V4, 17, &udp(67, 68))),
            ethernet(OWN, 0x86dd, &v6(LINK_LOCAL, 58, &nd(134, None, None))),
        ];
        assert_eq!(bridge.run(0, &refused), [], "{guard:?}");
    }
    // Addresses of one family alone: the other has none.
    let mut bridge = guarded_by(Guard::new(None, &[host]));
    assert_eq!(bridge.run(0, &[ip6(OWN, OTHER_V6)]), []);
}

/// What a generous receiver makes of a frame: it skips any number of tags and options, and unpacks SNAP.
#[derive(Debug, Default)]
struct Understood {
    sources: Vec<IpAddr>,
    claims: Vec<(Option<MacAddr>, IpAddr)>,
    is_server: bool,
    is_router: bool,
}

fn understand(frame: &[u8]) -> Understood {
    let mut understood = Understood::default();
    let word = |at: usize| frame.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    let mut at = 12;
    while word(at).is_some_and(|kind| kind == 0x8100 || kind == 0x88a8) {
        at += 4;
    }
    let Some(mut kind) = word(at) else { return understood };
    if kind <= 1500 && frame.get(at + 2..at + 8) == Some(&[0xaa, 0xaa, 3, 0, 0, 0]) {
        at += 8;
        kind = word(at).unwrap_or_default();
    }
    let body = frame.get(at + 2..).unwrap_or_default();
    match kind {
        0x0806 if body.len() >= 28 => {
            let ip: [u8; 4] = body[14..18].try_into().unwrap();
            understood.claims.push((Some(MacAddr(body[8..14].try_into().unwrap())), ip.into()));
        }
        0x0800 if body.len() >= 20 && body[0] >> 4 == 4 => {
            let len = usize::from(body[0] & 15) * 4;
            let src: [u8; 4] = body[12..16].try_into().unwrap();
            let payload = body.get(len..).unwrap_or_default();
            let is_first = u16::from_be_bytes([body[6], body[7]]) & 0x1fff == 0;
            let is_client = body[9] == 17 && payload.starts_with(&[0, 68, 0, 67]);
            if !(src == [0; 4] && is_client && is_first) {
                understood.sources.push(src.into());
            }
            understood.is_server |= is_first && body[9] == 17 && is_server(payload, 67, 68);
        }
        0x86dd if body.len() >= 40 && body[0] >> 4 == 6 => understand_v6(body, &mut understood),
        _ => {}
    }
    understood
}

fn is_server(payload: &[u8], server: u8, client: u8) -> bool {
    let port = if server == 67 { 0 } else { 2 };
    payload.starts_with(&[port, server]) || payload.get(2..4) == Some(&[port, client])
}

fn understand_v6(body: &[u8], understood: &mut Understood) {
    let src: [u8; 16] = body[8..24].try_into().unwrap();
    let (mut next, mut at) = (body[6], 40);
    while let (0 | 43 | 44 | 60, Some(header)) = (next, body.get(at..at + 8)) {
        if next == 44 && u16::from_be_bytes([header[2], header[3]]) & !7 != 0 {
            break;
        }
        at += if next == 44 { 8 } else { 8 + usize::from(header[1]) * 8 };
        next = header[0];
    }
    let payload = body.get(at..).unwrap_or_default();
    let kind = payload.first().copied().filter(|_| next == 58);
    if src != [0; 16] || !kind.is_some_and(|kind| [131, 132, 133, 135, 143].contains(&kind)) {
        understood.sources.push(src.into());
    }
    understood.is_server |= next == 17 && is_server(payload, 35, 34);
    understood.is_router |= matches!(kind, Some(134 | 137));
    if let (Some(136), Some(target)) = (kind, payload.get(8..24)) {
        let target: [u8; 16] = target.try_into().unwrap();
        let mac = payload.get(26..32).filter(|_| payload[24..26] == [2, 1]).map(|mac| MacAddr(mac.try_into().unwrap()));
        understood.claims.push((mac, target.into()));
    }
}

fn is_own(address: IpAddr) -> bool {
    let behind = Prefix::new(IpAddr::from([10, 9, 0, 0]), 16);
    address == IpAddr::from(OWN_V4) || address == OWN_V6 || address == LINK_LOCAL || behind.contains(address)
}

fn any_v4() -> impl Strategy<Value = Vec<u8>> {
    let source = prop::sample::select(vec![OWN_V4, OTHER_V4, BEHIND_V4, [0; 4]]);
    let ports = prop::sample::select(vec![(68, 67), (67, 68), (67, 9), (9, 68), (4000, 53)]);
    (source, prop::sample::select(vec![6u8, 17, 17, 1, 58]), ports, 0..3usize, 0..16usize, any::<bool>()).prop_map(
        |(src, protocol, (from, to), words, cut, more)| {
            let mut payload = udp(from, to);
            payload.truncate(payload.len() - cut.min(payload.len()));
            let mut packet = packets::ip_with(&[1, 1, 1, 0].repeat(words), protocol, src.into(), [255; 4].into(), &payload);
            if more {
                packet[6] |= 0x20;
            }
            packet
        },
    )
}

fn any_v6() -> impl Strategy<Value = Vec<u8>> {
    let address = || prop::sample::select(vec![OWN_V6, OTHER_V6, LINK_LOCAL, OTHER_LINK_LOCAL, Ipv6Addr::UNSPECIFIED]);
    let kind = prop::sample::select(vec![128u8, 131, 133, 134, 135, 136, 136, 137, 143]);
    let mac = prop::sample::select(vec![OWN, OTHER]);
    let message = (kind, address(), prop::option::of((1..3u8, mac)))
        .prop_map(|(kind, target, option)| (58u8, nd(kind, Some(target), option)));
    let ports = prop::sample::select(vec![(546, 547), (547, 546), (547, 9), (9, 546), (4000, 53)]);
    let upper = prop_oneof![message, ports.prop_map(|(from, to)| (17, udp(from, to)))];
    let headers = prop::collection::vec(prop::sample::select(vec![0u8, 43, 60, 60, 44]), 0..11);
    (address(), upper, headers, prop::bool::weighted(0.1)).prop_map(|(src, (protocol, mut payload), headers, is_later)| {
        let mut next = protocol;
        for header in headers {
            let offset = if is_later { 9 } else { 1 };
            payload = [&if header == 44 { [next, 0, 0, offset, 0, 0, 0, 7] } else { [next, 0, 1, 4, 0, 0, 0, 0] }[..], &payload]
                .concat();
            next = header;
        }
        v6(src, next, &payload)
    })
}

fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let mac = || prop::sample::select(vec![OWN, OWN, OWN, OTHER]);
    let address = prop::sample::select(vec![OWN_V4, OTHER_V4, [0; 4]]);
    let body = prop_oneof![
        3 => any_v4().prop_map(|packet| (0x0800u16, packet)),
        4 => any_v6().prop_map(|packet| (0x86dd, packet)),
        2 => (mac(), address, 1..3u8).prop_map(|(mac, ip, operation)| (0x0806, arp(mac, ip, operation))),
        1 => any_v4().prop_map(|packet| (40, [&[0xaa, 0xaa, 3, 0, 0, 0, 8, 0][..], &packet].concat())),
    ];
    let tags = prop::collection::vec(prop::sample::select(vec![[0x81u8, 0, 0, 0], [0x81, 0, 0, 7], [0x88, 0xa8, 0, 7]]), 0..4);
    (mac(), body, tags, prop::option::weighted(0.1, 0..60usize), prop::option::weighted(0.1, (14..80usize, any::<u8>())))
        .prop_map(|(src, (kind, body), tags, cut, flip)| {
            let mut frame = with_tags(&ethernet(src, kind, &body), &tags.concat());
            frame.truncate(frame.len() - cut.unwrap_or(0).min(frame.len() - 14));
            if let Some((at, byte)) = flip
                && let Some(there) = frame.get_mut(at)
            {
                *there = byte;
            }
            frame
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1000, ..ProptestConfig::default() })]

    /// Whatever a receiver may understand of what passes is the station's own; and no foreign address is learned.
    #[test]
    fn nothing_forbidden_passes(frames in prop::collection::vec(any_frame(), 1..8)) {
        let mut bridge = guarded_by(guard());
        for (_, _, frame) in bridge.run(0, &frames) {
            prop_assert_eq!(&frame[6..12], &OWN.0[..]);
            let understood = understand(&frame);
            prop_assert!(understood.sources.iter().all(|src| is_own(*src)), "{:?}", understood);
            prop_assert!(!understood.is_server && !understood.is_router, "{:?}", understood);
            for (mac, ip) in &understood.claims {
                prop_assert!(mac.is_none_or(|mac| mac == OWN), "{:?}", understood);
                prop_assert!(is_own(*ip) || ip.is_unspecified(), "{:?}", understood);
            }
        }
        for entry in bridge.table.entries(bridge.now) {
            prop_assert_eq!((entry.mac, entry.port), (OWN, PortId(0)));
        }
    }
}
