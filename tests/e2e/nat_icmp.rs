//! ICMP errors through NAT (RFC 5508): each reaches the sender of the packet, quotes it as sent, and closes nothing.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddrV4};

use libtest_mimic::Trial;

use crate::datagrams::{ACK, Datagram, ECHO_REQUEST, TIME_EXCEEDED, UNREACHABLE};
use crate::nat_tcp::Pair;
use crate::site::{FAR, MACHINE, Mode, Plan, Site, error_of, guest_address, recv_from, udp_on};
use crate::station::{Station, flush};
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for mode in Mode::BOTH {
        let word = mode.word();
        trials.extend([
            trial(format!("nat_icmp/refused_by_a_server_{word}"), move || refused_by_a_server(mode)),
            trial(format!("nat_icmp/refused_by_a_guest_{word}"), move || refused_by_a_guest(mode)),
            trial(format!("nat_icmp/quote_is_what_was_sent_{word}"), move || quote_is_what_was_sent(mode)),
            trial(format!("nat_icmp/errors_of_guests_{word}"), move || errors_of_guests(mode)),
            trial(format!("nat_icmp/errors_of_hairpins_{word}"), move || errors_of_hairpins(mode)),
        ]);
    }
    trials.extend([
        trial("nat_icmp/bad_errors_are_dropped", bad_errors_are_dropped),
        trial("nat_icmp/errors_end_and_refresh_nothing", errors_end_and_refresh_nothing),
        trial("nat_icmp/options_and_extensions_in_the_quote", options_and_extensions_in_the_quote),
        trial("nat_icmp/quote_of_eight_bytes", quote_of_eight_bytes),
        trial("nat_icmp/other_messages_are_dropped", other_messages_are_dropped),
        trial("nat_icmp/pings_are_told_apart", pings_are_told_apart),
    ]);
    trials
}

/// A router somewhere on the path.
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);

fn refused_by_a_server(mode: Mode) {
    let site = Site::start_with(mode, 1);
    let client = udp_on(site.guest(1), guest_address(1), 0);
    client.connect((FAR, 99)).expect("connected");
    client.send(b"anybody there?").expect("sent");
    assert_eq!(error_of(&client).kind(), ErrorKind::ConnectionRefused);
    site.finish();
}

/// A guest's own error reaches the peer, from the outside address.
fn refused_by_a_guest(mode: Mode) {
    let site = Site::start_with(mode, 1);
    let server = udp_on(&site.outside, FAR, 53);
    let client = udp_on(site.guest(1), guest_address(1), 0);
    client.send_to(b"I shall not wait", (FAR, 53)).expect("sent");
    let (_, from) = recv_from(&server);
    drop(client);
    server.connect(from).expect("connected");
    server.send(b"an answer").expect("sent");
    assert_eq!(error_of(&server).kind(), ErrorKind::ConnectionRefused);
    site.finish();
}

/// An error of an outside router about a translated packet.
fn error_about(seen: &Datagram, kind: [u8; 2], rest: u32) -> Datagram {
    Datagram::error(ROUTER, seen.src, kind, rest, &seen.bytes())
}

/// The quote is the guest's packet as sent, with its checksums, except for the TTL.
fn assert_quotes(error: &Datagram, sent: &Datagram) {
    let quote = error.quote();
    assert_eq!(quote, Datagram { ttl: quote.ttl, ..sent.clone() });
    assert!(quote.is_sound(), "{quote:?}");
}

fn quote_is_what_was_sent(mode: Mode) {
    let site = Plan::new(mode, 1).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    let pair = Pair::open(&guest, 6000, &peer, 80);
    let questions = [
        Datagram::udp(guest.at(5000), peer.at(53), b"odd"),
        Datagram::udp(guest.at(5000), peer.at(53), b"even"),
        Datagram::echo(guest.ip, peer.ip, ECHO_REQUEST, 0x77, b"ping"),
        Datagram::tcp(pair.inner, pair.server, ACK, pair.numbers(), b"data"),
    ];
    for sent in questions {
        guest.send(&sent);
        let seen = peer.next("the packet");
        for (kind, rest) in [([3, 0], 0), ([3, 1], 0), ([3, 3], 0), ([3, 13], 0), ([11, 0], 0), ([11, 1], 0), ([12, 0], 9 << 24)]
        {
            peer.send(&error_about(&seen, kind, rest));
            let error = guest.next("the error");
            assert_eq!((error.kind(), error.src, error.dst), (kind, ROUTER, guest.ip), "type, code and source stay");
            assert_eq!(error.payload[4..8], rest.to_be_bytes());
            assert_quotes(&error, &sent);
        }
        for mtu in [576, 1400, 0] {
            peer.send(&error_about(&seen, [3, 4], mtu));
            let error = guest.next("the MTU");
            assert_eq!(u32::from(error.next_hop_mtu()), mtu);
            assert_quotes(&error, &sent);
        }
    }
    pair.is_alive();
    site.finish();
}

/// RFC 5508 REQ-5: an error of a guest about a packet to it.
fn errors_of_guests(mode: Mode) {
    let site = Plan::new(mode, 1).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    guest.send_udp(5000, peer.at(53), b"question");
    let outer = peer.next_udp(53).from();
    let sent = Datagram::udp(peer.at(53), outer, b"answer");
    peer.send(&sent);
    let answer = guest.next("the answer");
    for kind in [[3, 3], [3, 2], [11, 1]] {
        guest.send(&Datagram::error(guest.ip, peer.ip, kind, 0, &answer.bytes()));
        let error = peer.next("the error");
        assert_eq!((error.kind(), error.src), (kind, site.address()));
        assert_quotes(&error, &sent);
    }
    site.finish();
}

/// RFC 5508 REQ-7: errors pass a hairpin and reveal no inside address.
fn errors_of_hairpins(mode: Mode) {
    let site = Plan::new(mode, 2).args(&["--nat", "filtering=endpoint-independent"]).silent().start();
    let (one, two, peer) = (site.guest_station(1), site.guest_station(2), site.stranger(50));
    let outside = |station: &Station| {
        station.send_udp(5000, peer.at(53), b"who am I?");
        peer.next_udp(53).from()
    };
    let (outer_one, outer_two) = (outside(&one), outside(&two));
    let sent = Datagram::udp(one.at(5000), outer_two, b"by the hairpin");
    one.send(&sent);
    let seen = two.next("the packet");
    assert_eq!((seen.from(), seen.to()), (outer_one, two.at(5000)));
    two.send(&Datagram::error(two.ip, seen.src, [3, 3], 0, &seen.bytes()));
    let error = one.next("the error");
    assert!(error.is_icmp(UNREACHABLE, 3) && error.src == site.address(), "{error:?}");
    assert_quotes(&error, &sent);
    site.finish();
}

/// Wrong checksums, quotes of unknown packets, truncated quotes, and impossible MTUs.
fn bad_errors_are_dropped() {
    let site = Plan::new(Mode::Own, 1).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    let pair = Pair::open(&guest, 6000, &peer, 80);
    guest.send_udp(5000, peer.at(53), b"question");
    let seen = peer.next_udp(53);
    let good = error_about(&seen, [3, 3], 0);
    for at in [0, 2, 4, 8 + 12, 8 + 20, good.payload.len() - 1] {
        let mut bad = good.clone();
        bad.payload[at] ^= 0x10;
        peer.send(&bad);
    }
    let quotes = [
        Datagram::udp(SocketAddrV4::new(seen.src, 5001), peer.at(53), b"of nobody's port"),
        Datagram::udp(seen.from(), peer.at(54), b"to nobody's peer"),
        Datagram::udp(SocketAddrV4::new(FAR, 5000), peer.at(53), b"of nobody's address"),
        Datagram::tcp(seen.from(), peer.at(53), ACK, [1, 1], b"of another protocol"),
        Datagram::tcp(pair.outer, pair.server, ACK, [1 << 20, 1], b"of bytes that nobody sent"),
        Datagram { offset: 64, ..seen.clone() },
    ];
    for quote in &quotes {
        peer.send(&Datagram::error(ROUTER, seen.src, [3, 3], 0, &quote.bytes()));
    }
    for len in 0..28 {
        peer.send(&Datagram::error(ROUTER, seen.src, [3, 3], 0, &seen.bytes()[..len]));
    }
    for mtu in [1, 68, 575] {
        peer.send(&error_about(&seen, [3, 4], mtu));
    }
    assert_eq!(flush(&peer, &guest, 53, seen.from()), []);
    pair.is_alive();
    let report = site.finish();
    let reasons = ["nat_bad_checksum", "nat_icmp_unrelated", "nat_malformed", "nat_icmp_ignored"];
    let dropped = reasons.map(|reason| report.dropped("up0", reason));
    assert!(dropped[0] >= 4 && dropped[1] >= 6 && dropped[2] >= 20 && dropped[3] >= 3, "{report:?}");
    assert_eq!(report.nat("opened"), 2);
}

/// RFC 5508 REQ-6, RFC 4787 REQ-12.
fn errors_end_and_refresh_nothing() {
    let site = Plan::new(Mode::Own, 1).args(&["--nat", "udp=3"]).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    let pair = Pair::open(&guest, 6000, &peer, 80);
    guest.send_udp(5000, peer.at(53), b"question");
    let seen = peer.next_udp(53);
    let [ours, theirs] = pair.numbers();
    let segment = Datagram::tcp(pair.outer, pair.server, ACK, [ours, theirs], b"?");
    for code in 0..=13 {
        peer.send(&error_about(&seen, [3, code], 1400));
        guest.next("an error");
        pair.is_alive();
        peer.send(&error_about(&segment, [3, code], 1400));
        guest.next("an error");
        pair.is_alive();
    }
    peer.send_udp(53, seen.from(), b"still let in");
    guest.next("the answer");
    // If errors refreshed it, the mapping would never expire.
    site.switch().settle("the mapping to end under errors", |report| {
        peer.send(&error_about(&seen, [3, 3], 0));
        report.nat("connections") == 1
    });
    pair.is_alive();
    site.finish();
}

/// RFC 5508 REQ-3: options of the quoted header are skipped; extensions after the quote (RFC 4884) stay.
fn options_and_extensions_in_the_quote() {
    let site = Plan::new(Mode::Own, 1).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    // A router alert option passes.
    let sent = Datagram { options: vec![0x94, 4, 0, 0], ..Datagram::udp(guest.at(5000), peer.at(53), b"with options") };
    guest.send(&sent);
    let seen = peer.next_udp(53);
    assert_eq!(seen.options, [0x94, 4, 0, 0]);
    peer.send(&error_about(&seen, [3, 3], 0));
    assert_quotes(&guest.next("the error"), &sent);
    // A quote of 128 bytes, its length in words in the second byte of the rest, and a label stack.
    let sent = Datagram::udp(guest.at(5000), peer.at(53), &[7; 200]);
    guest.send(&sent);
    let seen = peer.next_udp(53);
    let extension = [0x20, 0, 0, 0, 0, 8, 1, 1, 0, 1, 0x21, 0xff];
    let quote = [&seen.bytes()[..128], &extension].concat();
    peer.send(&Datagram::error(ROUTER, seen.src, [11, 0], 32 << 16, &quote));
    let error = guest.next("the error");
    assert_eq!((error.kind(), &error.payload[4..8]), ([TIME_EXCEEDED, 0], &[0, 32, 0, 0][..]));
    assert_eq!(error.payload[8 + 128..], extension);
    let quote = &error.payload[8..8 + 128];
    assert_eq!((Datagram::read(quote).expect("a header").src, &quote[20..]), (guest.ip, &sent.bytes()[20..128]));
    site.finish();
}

/// A quote as in RFC 792: the header and eight bytes, without the TCP checksum.
fn quote_of_eight_bytes() {
    let site = Plan::new(Mode::Own, 1).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    let pair = Pair::open(&guest, 6000, &peer, 80);
    let sent = Datagram::tcp(pair.inner, pair.server, ACK, pair.numbers(), b"data");
    guest.send(&sent);
    let seen = peer.next("the segment");
    peer.send(&Datagram::error(ROUTER, seen.src, [3, 4], 1400, &seen.bytes()[..28]));
    let error = guest.next("the error");
    assert_eq!((error.next_hop_mtu(), error.payload.len()), (1400, 8 + 28));
    let quote = error.quote();
    assert_eq!((quote.from(), &quote.payload[..]), (pair.inner, &sent.payload[..8]));
    site.finish();
}

/// Redirects, obsolete messages, and unsolicited replies.
fn other_messages_are_dropped() {
    let site = Plan::new(Mode::Own, 1).silent().start();
    let (guest, peer) = (site.guest_station(1), site.stranger(50));
    guest.send_udp(5000, peer.at(53), b"question");
    let seen = peer.next_udp(53);
    for kind in [[4, 0], [5, 0], [5, 1], [0, 0], [9, 0], [14, 0], [18, 0], [40, 0], [255, 0]] {
        peer.send(&Datagram::error(ROUTER, seen.src, kind, 0x0a4d_0001, &seen.bytes()));
        guest.send(&Datagram::error(guest.ip, peer.ip, kind, 0x0a4d_0001, &seen.bytes()));
    }
    flush(&guest, &peer, 1, peer.at(1));
    assert_eq!(flush(&peer, &guest, 53, seen.from()), []);
    let report = site.finish();
    assert_eq!(report.dropped("g1", "nat_icmp_ignored"), 9, "{report:?}");
    assert_eq!(report.dropped("up0", "nat_icmp_ignored") + report.dropped("up0", "nat_no_mapping"), 9, "{report:?}");
}

/// Two guests ping the same peer with the same identifier (RFC 5508 REQ-1); an identifier is mapped the same for all
/// peers.
fn pings_are_told_apart() {
    let site = Plan::new(Mode::Shared, 2).silent().start();
    let (peer, other) = (site.stranger(50), site.stranger(51));
    let guests = [site.guest_station(1), site.guest_station(2)];
    let mut ids = Vec::new();
    for guest in &guests {
        for to in [&peer, &other] {
            guest.send(&Datagram::echo(guest.ip, to.ip, ECHO_REQUEST, 4242, guest.ip.octets().as_slice()));
            let request = to.next("a ping");
            assert_eq!(request.src, MACHINE);
            ids.push(request.ports()[0]);
            to.send(&Datagram::echo(to.ip, MACHINE, 0, request.ports()[0], request.data()));
            let reply = guest.next("the reply");
            assert_eq!((reply.ports()[0], reply.src, reply.data()), (4242, to.ip, &guest.ip.octets()[..]));
        }
    }
    assert!(ids[0] == ids[1] && ids[2] == ids[3] && ids[0] != ids[2], "{ids:?}");
    site.finish();
}
