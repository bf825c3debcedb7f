//! Datagrams and trains, as sent and as received.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use libtest_mimic::Trial;
use netio::link::Change;
use netio::udp::sources::PORTS;
use netio::udp::{ChecksumPolicy, Outgoing, ReceivingSocketSpec, Sender, SourcesSpec};
use packet::VnetHeader;
use packet::vnet::flag;
use rustix::io::Errno;

use crate::host::{PORT, at, bytes, drain, expect, from, pair, send, sniff, to, v4, v6};
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("trains_arrive_whole", || trains_arrive_whole(v4)),
        trial("trains_arrive_whole_over_ipv6", || trains_arrive_whole(v6)),
        trial("checksums_follow_the_policy", checksums_follow_the_policy),
        trial("zero_checksums_over_ipv6_are_received_if_requested", zero_checksums_over_ipv6_are_received_if_requested),
        trial("tos_ttl_and_df_are_as_requested", || tos_ttl_and_df_are_as_requested(v4)),
        trial("traffic_class_and_hop_limit_are_as_requested", || tos_ttl_and_df_are_as_requested(v6)),
        trial("a_flow_keeps_its_port_and_ports_in_use_are_skipped", a_flow_keeps_its_port),
        trial("a_burst_reports_each_result_and_keeps_flows_in_order", a_burst_reports_each_result),
        trial("limits_of_bursts_and_trains", limits_of_bursts_and_trains),
        trial("too_long_datagrams_are_refused_or_fragmented", || too_long_datagrams_are_refused_or_fragmented(v4)),
        trial("too_long_datagrams_are_refused_or_fragmented_over_ipv6", || too_long_datagrams_are_refused_or_fragmented(v6)),
        trial("an_absent_address_is_no_error_until_sending", an_absent_address),
    ]
}

fn trains_arrive_whole(address: fn(u8) -> IpAddr) {
    let (near, far) = pair();
    let (endpoint, sources) = (far.endpoint(&at(address(2))), near.sources(&from(address(1))));
    assert!(endpoint.merges() && sources.writer().segments());
    let train = Outgoing { segment_size: 1400, ..to(address(2)) };
    assert_eq!(send(sources.writer(), &[(train, bytes(10 * 1400 + 700)), (train, bytes(1400)), (train, bytes(5))]), [Ok(()); 3]);
    let got = expect(&endpoint.queues()[0], 3);
    assert_eq!((got[0].from, got[0].segment_size), (address(1), 1400));
    assert!(got[0].payload == bytes(14_700), "in order and complete");
    assert_eq!((got[1].segment_size, got[1].payload.len()), (0, 1400), "a train of one is no train");
    assert_eq!((got[2].segment_size, &got[2].payload), (0, &bytes(5)));
}

/// For each of these packets, whether it has a checksum, complete or partial.
fn with_checksum(packets: &[(VnetHeader, Vec<u8>)]) -> Vec<bool> {
    let checksum = |ip: &[u8]| if ip[0] >> 4 == 4 { [ip[26], ip[27]] } else { [ip[46], ip[47]] };
    packets.iter().map(|(vnet, ip)| checksum(ip) != [0, 0] || vnet.flags & flag::NEEDS_CSUM != 0).collect()
}

fn checksums_follow_the_policy() {
    let (near, far) = pair();
    let wire = far.wire();
    let _ports = (far.endpoint(&at(v4(2))), far.endpoint(&at(v6(2))));
    type Address = fn(u8) -> IpAddr;
    let cases: [(Address, ChecksumPolicy, &[bool]); 6] = [
        (v4, ChecksumPolicy::Auto, &[true, true]),
        (v4, ChecksumPolicy::On, &[true, true]),
        (v4, ChecksumPolicy::Off, &[false, false, false, false]),
        (v6, ChecksumPolicy::Auto, &[true, true]),
        (v6, ChecksumPolicy::On, &[true, true]),
        (v6, ChecksumPolicy::Off, &[false, false, false, false]),
    ];
    for (address, checksum, expected) in cases {
        let sources = near.sources(&SourcesSpec { checksum, ..from(address(1)) });
        let single = to(address(2));
        // Two ports, that of the train the higher one.
        let train = Outgoing { segment_size: 1000, source: 1, ..single };
        assert_eq!(send(sources.writer(), &[(single, bytes(100)), (train, bytes(2500))]), [Ok(()); 2]);
        assert_eq!(with_checksum(&sniff(&wire, expected.len())), expected, "{checksum:?} to {}", address(2));
    }
    // A port's trains and single datagrams leave in their order.
    let sources = near.sources(&from(v4(1)));
    let train = Outgoing { segment_size: 1000, ..to(v4(2)) };
    assert_eq!(send(sources.writer(), &[(train, bytes(2500)), (to(v4(2)), bytes(100))]), [Ok(()); 2]);
    let packets = sniff(&wire, 2);
    assert_eq!((packets[0].1.len(), packets[1].1.len()), (2528, 128));
    assert_eq!(with_checksum(&packets), [true, true]);
}

fn zero_checksums_over_ipv6_are_received_if_requested() {
    let (near, far) = pair();
    let sources = near.sources(&SourcesSpec { checksum: ChecksumPolicy::Off, ..from(v6(1)) });
    let (strict, lenient) = (at(v6(2)), ReceivingSocketSpec { port: PORT + 1, zero_checksum: true, ..at(v6(2)) });
    let (strict, lenient) = (far.endpoint(&strict), far.endpoint(&lenient));
    let other = Outgoing { to: SocketAddr::new(v6(2), PORT + 1), ..to(v6(2)) };
    assert_eq!(send(sources.writer(), &[(to(v6(2)), bytes(10)), (other, bytes(11))]), [Ok(()); 2]);
    assert_eq!(expect(&lenient.queues()[0], 1)[0].payload, bytes(11));
    assert_eq!(drain(&strict.queues()[0]), []);
}

fn tos_ttl_and_df_are_as_requested(address: fn(u8) -> IpAddr) {
    let (near, far) = pair();
    let wire = far.wire();
    let endpoint = far.endpoint(&at(address(2)));
    for dont_fragment in [true, false] {
        let sources = near.sources(&SourcesSpec { dont_fragment, ..from(address(1)) });
        let marked = Outgoing { tos: 0xb9, ttl: 7, ..to(address(2)) };
        let train = Outgoing { segment_size: 1000, ..marked };
        let messages = [(to(address(2)), bytes(1)), (marked, bytes(2)), (train, bytes(2000)), (to(address(2)), bytes(4))];
        assert_eq!(send(sources.writer(), &messages), [Ok(()); 4]);
        let told: Vec<(u8, usize)> = expect(&endpoint.queues()[0], 4).iter().map(|got| (got.tos, got.payload.len())).collect();
        assert_eq!(told, [(0, 1), (0xb9, 2), (0xb9, 2000), (0, 4)]);
        let seen = sniff(&wire, 4).into_iter().map(|(_, ip)| match ip[0] >> 4 {
            4 => (ip[1], ip[8], ip[6] & 0x40 != 0),
            _ => (ip[0] << 4 | ip[1] >> 4, ip[7], dont_fragment),
        });
        let df = dont_fragment;
        assert_eq!(seen.collect::<Vec<_>>(), [(0, 64, df), (0xb9, 7, df), (0xb9, 7, df), (0, 64, df)]);
    }
}

fn a_flow_keeps_its_port() {
    let (near, far) = pair();
    let wire = far.wire();
    let _endpoint = far.endpoint(&at(v4(2)));
    let usual: Vec<u16> = near.sources(&from(v4(1))).ports().collect();
    assert!(usual.len() == 8 && usual.iter().all(|port| PORTS.contains(port)));
    assert_eq!(near.sources(&from(v4(1))).ports().collect::<Vec<_>>(), usual, "the same each time");

    let _taken = near.inside(|| UdpSocket::bind(("0.0.0.0", usual[2])));
    let sources = near.sources(&from(v4(1)));
    let other = near.sources(&from(v4(1)));
    let ports: Vec<u16> = sources.ports().collect();
    assert!(ports.len() == 8 && !ports.contains(&usual[2]), "{ports:?}");
    assert!(other.ports().all(|port| !ports.contains(&port)), "two pools share nothing");
    let messages: Vec<_> = (0..24).map(|source| (Outgoing { source, ..to(v4(2)) }, vec![source as u8])).collect();
    assert_eq!(send(sources.writer(), &messages), [Ok(()); 24]);
    for (_, ip) in sniff(&wire, 24) {
        assert_eq!(u16::from_be_bytes([ip[20], ip[21]]), ports[usize::from(ip[28]) % 8], "flow {}", ip[28]);
    }
    // What comes to a source port is taken without a word.
    let refused = near.inside(|| {
        let stranger = UdpSocket::bind((v4(1), 0))?;
        stranger.set_nonblocking(true)?;
        stranger.connect((v4(1), ports[0]))?;
        stranger.send(b"anybody?")?;
        Ok(stranger.recv(&mut [0]).map_err(|error| error.kind()))
    });
    assert_eq!(refused, Err(ErrorKind::WouldBlock));
}

fn a_burst_reports_each_result() {
    let (near, far) = pair();
    let (endpoint, sources) = (far.endpoint(&at(v4(2))), near.sources(&from(v4(1))));
    let nowhere = Outgoing { to: "198.51.100.1:4789".parse().unwrap(), ..to(v4(2)) };
    let flow = |source, segment_size| Outgoing { source, segment_size, ..to(v4(2)) };
    let messages = [
        (flow(5, 0), vec![0; 10]),
        (flow(3, 500), vec![1; 1400]),
        (nowhere, vec![2; 10]),
        (flow(5, 500), vec![3; 1400]),
        (flow(3, 0), vec![4; 10]),
        (flow(3, 0), vec![5; 2000]),
        (flow(5, 0), vec![6; 10]),
        (flow(3, 500), vec![7; 1400]),
        (flow(5, 0), Vec::new()),
    ];
    let results = send(sources.writer(), &messages);
    let mut expected = [Ok(()); 9];
    (expected[2], expected[5]) = (Err(Errno::NETUNREACH), Err(Errno::MSGSIZE));
    assert_eq!(results, expected);
    let order = |got: &[u8]| got.first().copied().unwrap_or(8);
    let got: Vec<u8> = expect(&endpoint.queues()[0], 7).iter().map(|got| order(&got.payload)).collect();
    let of_flow = |numbers: &[u8]| got.iter().copied().filter(|number| numbers.contains(number)).collect::<Vec<_>>();
    assert_eq!((of_flow(&[0, 3, 6, 8]), of_flow(&[1, 4, 7])), (vec![0, 3, 6, 8], vec![1, 4, 7]));
}

fn limits_of_bursts_and_trains() {
    let (near, far) = pair();
    let endpoint = far.endpoint(&at(v4(2)));
    let sources = near.sources(&SourcesSpec { dont_fragment: false, ..from(v4(1)) });
    let queue = &endpoint.queues()[0];
    let train = |segment_size| Outgoing { segment_size, ..to(v4(2)) };
    assert_eq!(send(sources.writer(), &[(train(1000), bytes(64_000)), (train(1472), bytes(65_493))]), [Ok(()); 2]);
    let got: Vec<_> = expect(queue, 2).iter().map(|got| (got.segment_size, got.payload == bytes(got.payload.len()))).collect();
    assert_eq!(got, [(1000, true), (1472, true)]);
    // One datagram more than a train can have, more than the link takes at once, and longer than a train can be.
    for (segment_size, len) in [(100, 6401), (1472, 65_507), (1400, 100_000)] {
        assert_eq!(send(sources.writer(), &[(train(segment_size), bytes(len))]), [Ok(())]);
        let got = expect(queue, len.div_ceil(segment_size.into()));
        assert!(got.iter().flat_map(|got| &got.payload).eq(&bytes(len)));
        assert!(got.iter().all(|got| got.segment_size == 0));
    }
    // In fragments, since there may be any.
    assert_eq!(send(sources.writer(), &[(to(v4(2)), bytes(65_507)), (to(v4(2)), bytes(65_508))]), [Ok(()), Err(Errno::MSGSIZE)]);
    assert!(expect(queue, 1)[0].payload == bytes(65_507));

    let payload = bytes(1025);
    let mut sender = Sender::new();
    let mut burst = sender.burst(sources.writer());
    assert!(burst.push(&to(v4(2)), payload.chunks(1)), "taken, and refused when flushed");
    assert!(!burst.push(&to(v4(2)), payload.chunks(1)), "no room for its pieces");
    burst.flush(|index, result| assert_eq!((index, result), (0, Err(Errno::MSGSIZE))));
    assert!(burst.push(&to(v4(2)), payload[..1024].chunks(1)), "as many as there can be");
    burst.flush(|_, result| assert_eq!(result, Ok(())));
    for count in 1..=65 {
        assert_eq!(burst.push(&to(v4(2)), [&payload[..count]]), count <= 64);
    }
    let mut sent = 0;
    burst.flush(|index, result| {
        assert_eq!((index, result), (sent, Ok(())));
        sent += 1;
    });
    assert!(sent == 64 && burst.is_empty());
    let lens: Vec<usize> = expect(queue, 65).iter().map(|got| got.payload.len()).collect();
    assert!(lens.iter().copied().eq([1024].into_iter().chain(1..=64)));
    assert!(sources.writer().segments(), "none of this is the kernel's inability");
}

fn too_long_datagrams_are_refused_or_fragmented(address: fn(u8) -> IpAddr) {
    let (near, far) = pair();
    let endpoint = far.endpoint(&at(address(2)));
    let short = Change { mtu: Some(1400), ..Change::default() };
    near.change("near0", short);
    let single = to(address(2));
    let train = Outgoing { segment_size: 1400, ..single };
    let messages = [(single, bytes(1400)), (train, bytes(4000)), (single, bytes(5))];

    let sources = near.sources(&from(address(1)));
    assert_eq!(send(sources.writer(), &messages), [Err(Errno::MSGSIZE), Err(Errno::MSGSIZE), Ok(())]);
    assert_eq!(expect(&endpoint.queues()[0], 1)[0].payload, bytes(5));
    assert!(sources.writer().segments());

    let sources = near.sources(&SourcesSpec { dont_fragment: false, ..from(address(1)) });
    for _ in 0..5 {
        assert_eq!(send(sources.writer(), &messages), [Ok(()); 3]);
        let lens: Vec<usize> = expect(&endpoint.queues()[0], 5).iter().map(|got| got.payload.len()).collect();
        assert_eq!(lens, [1400, 1400, 1400, 1200, 5]);
    }
    assert!(sources.writer().segments(), "a length is no reason to send no trains");
}

fn an_absent_address() {
    let (near, far) = pair();
    for away in [v4(9), v6(9)] {
        let remote = if away.is_ipv4() { v4(2) } else { v6(2) };
        let (endpoint, sources) = (near.endpoint(&at(away)), near.sources(&from(away)));
        let theirs = far.endpoint(&at(remote));
        let train = Outgoing { segment_size: 1000, ..to(remote) };
        let results = send(sources.writer(), &[(to(remote), bytes(1)), (train, bytes(5000))]);
        if away.is_ipv4() {
            let refusals = [Err(Errno::NETUNREACH), Err(Errno::INVAL)];
            assert!(results.iter().all(|result| refusals.contains(result)), "{results:?}");
            assert!(sources.writer().segments());
        }
        drain(&theirs.queues()[0]);
        let prefix_len = if away.is_ipv4() { 24 } else { 64 };
        near.inside(|| netio::link::add_address(netio::link::get("near0")?.index, away, prefix_len));
        assert_eq!(send(sources.writer(), &[(to(remote), bytes(1)), (train, bytes(5000))]), [Ok(()); 2]);
        assert!(expect(&theirs.queues()[0], 2).iter().all(|got| got.from == away));
        let back = far.sources(&from(remote));
        assert_eq!(send(back.writer(), &[(to(away), bytes(3))]), [Ok(())]);
        assert_eq!(expect(&endpoint.queues()[0], 1)[0].from, remote);
    }
}
