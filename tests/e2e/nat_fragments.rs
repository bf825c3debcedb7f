//! Fragments through NAT: in any order, in both directions, and attacks with them.

use std::net::SocketAddrV4;

use libtest_mimic::Trial;

use crate::datagrams::{Datagram, TCP, UDP};
use crate::random::Random;
use crate::site::{FAR, Mode, Plan, Site, guest_address, ping, recv_from, udp_on};
use crate::station::{Station, flush};
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for mode in Mode::BOTH {
        let word = mode.word();
        trials.extend([
            trial(format!("nat_fragments/large_datagrams_{word}"), move || large_datagrams(mode)),
            trial(format!("nat_fragments/any_order_{word}"), move || any_order(mode)),
            trial(format!("nat_fragments/interleaved_{word}"), move || interleaved(mode)),
        ]);
    }
    trials.extend([
        trial("nat_fragments/a_large_ping", a_large_ping),
        trial("nat_fragments/overlaps_are_dropped", overlaps_are_dropped),
        trial("nat_fragments/tiny_first_is_dropped", tiny_first_is_dropped),
        trial("nat_fragments/without_a_first_goes_nowhere", without_a_first_goes_nowhere),
        trial("nat_fragments/a_flood_is_bounded", a_flood_is_bounded),
    ]);
    trials
}

/// Fragments made by two kernels of datagrams larger than the MTU, in both directions.
fn large_datagrams(mode: Mode) {
    let site = Site::start_with(mode, 1);
    let server = udp_on(&site.outside, FAR, 53);
    let client = udp_on(site.guest(1), guest_address(1), 0);
    let mut random = Random::new(5);
    for size in [1473, 1480, 2952, 5000, 20_000, 65_507] {
        let data = random.bytes(size);
        client.send_to(&data, (FAR, 53)).expect("sent");
        let (seen, from) = recv_from(&server);
        assert!(seen == data && from.ip() == &site.address(), "{size} bytes out, from {from}");
        server.send_to(&data, from).expect("sent");
        let (seen, from) = recv_from(&client);
        assert!(seen == data && from == SocketAddrV4::new(FAR, 53), "{size} bytes back, from {from}");
    }
    site.finish();
}

/// A ping in three fragments gets a reply in three.
fn a_large_ping() {
    let site = Plan::new(Mode::Own, 1).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    let whole = Datagram::echo(guest.ip, peer.ip, 8, 99, &Random::new(6).bytes(3000));
    whole.fragments(1480).iter().for_each(|piece| guest.send(piece));
    let request = collect(&peer, 3);
    assert_eq!((request.src, request.data()), (site.address(), whole.data()));
    assert!(request.is_sound(), "{request:?}");
    let reply = Datagram::echo(peer.ip, request.src, 0, request.ports()[0], whole.data());
    reply.fragments(1000).iter().rev().for_each(|piece| peer.send(piece));
    let reply = collect(&guest, 4);
    assert!(reply.is_sound() && reply.dst == guest.ip && reply.ports()[0] == 99, "{reply:?}");
    site.finish();
    let site = Site::start_with(Mode::Shared, 1);
    ping(site.guest(1), FAR, 1);
    site.finish();
}

/// Reassembles the datagram from `count` received fragments.
fn collect(station: &Station, count: usize) -> Datagram {
    let mut pieces: Vec<Datagram> = (0..count).map(|_| station.expect("a fragment", Datagram::is_fragment)).collect();
    pieces.sort_by_key(|piece| piece.offset);
    let payload: Vec<u8> = pieces.iter().flat_map(|piece| piece.payload.clone()).collect();
    assert!(pieces.iter().all(|piece| (piece.src, piece.dst, piece.id) == (pieces[0].src, pieces[0].dst, pieces[0].id)));
    let whole = Datagram { payload, more_fragments: false, offset: 0, ..pieces[0].clone() };
    assert!(!pieces[count - 1].more_fragments && whole.is_sound(), "{whole:?}");
    whole
}

/// RFC 4787 REQ-14: fragments that arrive before the first one too.
fn any_order(mode: Mode) {
    let site = Plan::new(mode, 1).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    guest.send_udp(5000, peer.at(53), b"open");
    let outer = peer.next_udp(53).from();
    let mut id = 0;
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        for (from, to, src, dst) in [(&guest, &peer, guest.at(5000), peer.at(53)), (&peer, &guest, peer.at(53), outer)] {
            id += 1;
            let whole = Datagram { id, ..Datagram::udp(src, dst, &Random::new(id.into()).bytes(2500)) };
            let pieces = whole.fragments(1024);
            order.iter().for_each(|n| from.send(&pieces[*n]));
            let seen = collect(to, 3);
            assert_eq!(seen.data(), whole.data(), "{order:?}");
            let expected = if from.ip == guest.ip { (outer, peer.at(53)) } else { (peer.at(53), guest.at(5000)) };
            assert_eq!((seen.from(), seen.to()), expected, "{order:?}");
        }
    }
    site.finish();
}

/// Two guests use the same identification to the same peer, interleaved; and two datagrams of one guest.
fn interleaved(mode: Mode) {
    let site = Plan::new(mode, 2).silent().start();
    let (one, two, peer) = (site.guest_station(1), site.guest_station(2), site.stranger(50));
    // Only a few packets wait for an unresolved neighbour.
    one.send_udp(5000, peer.at(53), b"known");
    peer.next_udp(53);
    let datagram = |from: &Station, port, id, fill| {
        Datagram { id, ..Datagram::udp(from.at(port), peer.at(53), &[fill; 2000]) }.fragments(1000)
    };
    let trains = [(&one, datagram(&one, 5000, 7, 1)), (&two, datagram(&two, 5000, 8, 2)), (&one, datagram(&one, 5001, 9, 3))];
    for piece in [2, 0, 1] {
        for (from, pieces) in &trains {
            from.send(&pieces[piece]);
        }
    }
    let mut seen: Vec<Datagram> = (0..9).map(|_| peer.expect("a fragment", Datagram::is_fragment)).collect();
    for (id, fill) in [(7, 1), (8, 2), (9, 3)] {
        let mut pieces: Vec<Datagram> = seen.extract_if(.., |piece| piece.id == id).collect();
        pieces.sort_by_key(|piece| piece.offset);
        let payload: Vec<u8> = pieces.iter().flat_map(|piece| piece.payload.clone()).collect();
        let whole = Datagram { payload, more_fragments: false, offset: 0, ..pieces[0].clone() };
        assert!(whole.is_sound() && whole.data() == [fill; 2000], "{whole:?}");
    }
    site.finish();
}

/// RFC 5722: a datagram with overlapping fragments is dropped.
fn overlaps_are_dropped() {
    let site = Plan::new(Mode::Own, 1).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    guest.send_udp(5000, peer.at(53), b"open");
    let outer = peer.next_udp(53).from();
    let whole = Datagram { id: 55, ..Datagram::udp(peer.at(53), outer, &[9; 2040]) };
    let pieces = whole.fragments(1024);
    peer.send(&pieces[0]);
    guest.next("the first piece");
    peer.send(&Datagram { offset: 512, ..pieces[1].clone() });
    peer.send(&pieces[1]);
    assert_eq!(flush(&peer, &guest, 53, outer), [], "nothing more of it");
    // One contradicts the end of the datagram, and one ends beyond the longest datagram.
    let other = Datagram { id: 56, ..whole.clone() }.fragments(1024);
    peer.send(&other[0]);
    guest.next("the first piece");
    peer.send(&Datagram { more_fragments: false, offset: 4096, payload: vec![1; 8], ..other[1].clone() });
    peer.send(&Datagram { more_fragments: true, offset: 8192, payload: vec![1; 8], ..other[1].clone() });
    peer.send(&Datagram { id: 57, more_fragments: false, offset: 65_528, payload: vec![1; 800], ..other[1].clone() });
    let after = flush(&peer, &guest, 53, outer);
    assert!(after.iter().all(|piece| piece.offset <= 4096), "{after:?}");
    let report = site.finish();
    assert!(report.dropped("up0", "fragment_refused") >= 4, "{report:?}");
}

/// RFC 1858, RFC 3128: the ports must be in the first fragment, and must not be overwritten.
fn tiny_first_is_dropped() {
    let site = Plan::new(Mode::Own, 1).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    let tcp = Datagram { dont_fragment: false, ..Datagram::tcp(guest.at(5000), peer.at(80), 2, [1, 0], &[0; 64]) };
    tcp.fragments(16).iter().for_each(|piece| guest.send(piece));
    // A second fragment overlaps the flags in the first one's TCP header.
    let whole = Datagram { id: 2, dont_fragment: false, ..Datagram::tcp(guest.at(5000), peer.at(80), 2, [1, 0], &[0; 64]) };
    guest.send(&Datagram { more_fragments: true, payload: whole.payload[..24].to_vec(), ..whole.clone() });
    guest.send(&Datagram { offset: 8, payload: whole.payload[8..].to_vec(), ..whole.clone() });
    let empty =
        Datagram { id: 3, more_fragments: true, payload: Vec::new(), ..Datagram::new(guest.ip, peer.ip, UDP, Vec::new()) };
    guest.send(&empty);
    guest.send(&Datagram { id: 4, offset: 8, ..empty });
    let seen = flush(&guest, &peer, 1, peer.at(1));
    assert!(seen.iter().all(|piece| piece.offset == 0 && piece.protocol == TCP && piece.payload.len() >= 20), "{seen:?}");
    site.finish();
}

/// Fragments without a first one are kept for a while and then dropped; each is counted.
fn without_a_first_goes_nowhere() {
    let site = Plan::new(Mode::Own, 1).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    guest.send_udp(5000, peer.at(53), b"open");
    let outer = peer.next_udp(53).from();
    for id in 0..10 {
        let pieces = Datagram { id, ..Datagram::udp(peer.at(53), outer, &[1; 2000]) }.fragments(1000);
        peer.send(&pieces[1]);
    }
    assert_eq!(flush(&peer, &guest, 53, outer), []);
    assert!(site.finish().is_balanced());
}

/// Thousands of incomplete datagrams, from outside and from a guest: those of others still pass.
fn a_flood_is_bounded() {
    let site = Plan::new(Mode::Own, 2).silent().start();
    let (guest, other, peer) = (site.guest_station(1), site.guest_station(2), site.stranger(50));
    guest.send_udp(5000, peer.at(53), b"open");
    let outer = peer.next_udp(53).from();
    for id in 0..4000 {
        let pieces = Datagram { id, ..Datagram::udp(peer.at(53), outer, &[1; 64]) }.fragments(32);
        peer.send(&pieces[usize::from(id) % pieces.len()]);
    }
    flush(&peer, &guest, 53, outer);
    let whole = Datagram { id: 1, ..Datagram::udp(other.at(5000), peer.at(53), &[2; 3000]) };
    whole.fragments(1400).iter().rev().for_each(|piece| other.send(piece));
    assert_eq!(collect(&peer, 3).data(), whole.data());
    let report = site.finish();
    assert!(report.dropped("up0", "fragment_refused") > 2000, "{report:?}");
}
