//! Endpoints: receiving, refused ports, multicast groups, and the path to a peer.

use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};

use libtest_mimic::Trial;
use netio::link::Change;
use netio::udp::{Outgoing, Path, ReceivingSocket, ReceivingSocketSpec, Sources, SourcesSpec, UdpError, path};

use crate::host::{Host, at, bytes, drain, expect, from, pair, send, to, until, v4, v6};
use crate::trial;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("several_queues_share_the_load_and_the_port_is_exclusive", || several_queues_share_the_load(v4, "0.0.0.0")),
        trial("several_queues_share_the_load_and_the_port_is_exclusive_over_ipv6", || several_queues_share_the_load(v6, "::")),
        trial("a_port_in_use_is_refused_and_its_owner_named", a_port_in_use_is_refused),
        trial("missing_devices_and_addresses_are_named", missing_devices_and_addresses_are_named),
        trial("groups_are_received_once_with_any_number_of_queues", || groups_are_received_once(v4, "0.0.0.0", "239.1.1.1")),
        trial("groups_are_received_once_over_ipv6", || groups_are_received_once(v6, "::", "ff05::1:1")),
        trial("datagrams_dropped_by_the_kernel_are_counted", datagrams_dropped_by_the_kernel_are_counted),
        trial("an_endpoint_on_a_device_receives_from_it_only", an_endpoint_on_a_device_receives_from_it_only),
        trial("the_path_follows_the_interface", the_path_follows_the_interface),
    ]
}

fn several_queues_share_the_load(address: fn(u8) -> IpAddr, any: &str) {
    let (near, far) = pair();
    let any: IpAddr = any.parse().expect("an address");
    let spec = ReceivingSocketSpec { queues: 3, ..at(any) };
    let endpoint = far.endpoint(&spec);
    assert_eq!(endpoint.queues().len(), 3);
    for second in [any, address(2)] {
        for queues in [1, 3] {
            let refused = far.inside(|| Ok(ReceivingSocket::open(&ReceivingSocketSpec { queues, ..at(second) })));
            assert!(matches!(refused, Err(UdpError::InUse { .. })), "{second}: {refused:?}");
        }
    }
    let sources = near.sources(&SourcesSpec { count: 64, ..from(address(1)) });
    let messages: Vec<_> = (0..64).map(|source| (Outgoing { source, ..to(address(2)) }, vec![source as u8])).collect();
    let mut readers = Vec::new();
    for _ in 0..2 {
        let _ = send(sources.writer(), &messages);
        let mut got = vec![Vec::new(); 3];
        until("all flows", || {
            for (queue, got) in endpoint.queues().iter().zip(&mut got) {
                got.extend(drain(queue).into_iter().map(|got| got.payload[0]));
            }
            (got.iter().map(Vec::len).sum::<usize>() == 64).then_some(())
        });
        assert!(got.iter().all(|got| !got.is_empty()), "{got:?}");
        readers.push(got);
    }
    assert_eq!(readers[0], readers[1], "a flow has one reader, and keeps its order");
    drop(endpoint);
    far.endpoint(&spec);
}

fn a_port_in_use_is_refused() {
    let (near, _far) = pair();
    let _program = near.inside(|| UdpSocket::bind("0.0.0.0:4789"));
    let refused = near.inside(|| Ok(ReceivingSocket::open(&at(v4(1))))).expect_err("a program has it").to_string();
    let own = format!("(process {})", std::process::id());
    assert!(refused.contains("UDP port 4789 of 192.0.2.1 is in use by ") && refused.contains(&own), "{refused}");
    near.endpoint(&at(v6(1)));
    let chosen = near.endpoint(&ReceivingSocketSpec { port: 0, queues: 2, ..at(v4(1)) });
    assert_ne!(chosen.local().port(), 0);
}

fn missing_devices_and_addresses_are_named() {
    let (near, _far) = pair();
    let text = |spec: &ReceivingSocketSpec| near.inside(|| Ok(ReceivingSocket::open(spec))).expect_err("refused").to_string();
    let nowhere = ReceivingSocketSpec { device: Some("eth7".to_owned()), ..at(v4(1)) };
    assert!(text(&nowhere).starts_with("there is no interface eth7 in"), "{}", text(&nowhere));
    let sources = near.inside(|| Ok(Sources::open(&SourcesSpec { device: Some("e".repeat(16)), ..from(v4(1)) })));
    assert!(matches!(sources, Err(UdpError::NoInterface { .. })), "{sources:?}");
    let deaf = ReceivingSocketSpec { groups: vec![IpAddr::from([239, 1, 1, 1])], ..at(v4(1)) };
    assert!(text(&deaf).starts_with("multicast group 239.1.1.1 cannot be received on 192.0.2.1"), "{}", text(&deaf));
}

fn groups_are_received_once(address: fn(u8) -> IpAddr, any: &str, group: &str) {
    let (near, far) = pair();
    let (any, group): (IpAddr, IpAddr) = (any.parse().expect("an address"), group.parse().expect("a group"));
    let on = |host: &Host, groups: Vec<IpAddr>| {
        host.endpoint(&ReceivingSocketSpec { queues: 3, device: Some(host.name.to_owned()), groups, ..at(any) })
    };
    let (joined, own) = (on(&far, vec![group]), on(&near, vec![group]));
    let sources = near.sources(&SourcesSpec { device: Some("near0".to_owned()), ..from(address(1)) });
    let train = Outgoing { segment_size: 1000, ttl: 3, ..to(group) };
    assert_eq!(send(sources.writer(), &[(to(group), bytes(9)), (train, bytes(2500))]), [Ok(()); 2]);
    let mut got = Vec::new();
    until("both", || {
        got.extend(joined.queues().iter().flat_map(drain));
        (got.len() >= 2).then_some(())
    });
    assert_eq!((got[0].from, got[0].payload.len(), got[1].segment_size), (address(1), 9, 1000));
    // When this has come, any copies have come as well.
    assert_eq!(send(sources.writer(), &[(to(address(2)), bytes(8))]), [Ok(())]);
    let mut rest = Vec::new();
    until("the last one", || {
        rest.extend(joined.queues().iter().flat_map(drain).map(|got| got.payload.len()));
        (!rest.is_empty()).then_some(())
    });
    assert_eq!(rest, [8]);
    assert!(own.queues().iter().all(|queue| drain(queue).is_empty()), "nobody hears themselves");

    // Who left hears no more of it, and may join again.
    let spec = ReceivingSocketSpec { device: Some(far.name.to_owned()), groups: vec![group], ..at(any) };
    for _ in 0..2 {
        far.inside(|| Ok(joined.leave(&spec, group))).expect("left, or was no member");
    }
    assert_eq!(send(sources.writer(), &[(to(group), bytes(9)), (to(address(2)), bytes(8))]), [Ok(()); 2]);
    let first = until("the last one", || joined.queues().iter().flat_map(drain).next());
    assert_eq!(first.payload.len(), 8);
    far.inside(|| Ok(joined.join_again(&spec))).expect("joined");
    assert_eq!(send(sources.writer(), &[(to(group), bytes(9))]), [Ok(())]);
    until("what is for the group", || joined.queues().iter().flat_map(drain).next());

    drop(joined);
    let others = on(&far, Vec::new());
    assert_eq!(send(sources.writer(), &[(to(group), bytes(9)), (to(address(2)), bytes(8))]), [Ok(()); 2]);
    until("the last one", || others.queues().iter().flat_map(drain).next().map(|got| assert_eq!(got.payload.len(), 8)));
}

fn datagrams_dropped_by_the_kernel_are_counted() {
    let (near, far) = pair();
    let (mut endpoint, sources) = (far.endpoint(&at(v4(2))), near.sources(&from(v4(1))));
    assert_eq!(endpoint.dropped(), 0);
    let messages: Vec<_> = (0..64).map(|_| (Outgoing { segment_size: 1400, ..to(v4(2)) }, bytes(64_000))).collect();
    for _ in 0..8 {
        assert_eq!(send(sources.writer(), &messages), [Ok(()); 64]);
    }
    let dropped = until("drops", || Some(endpoint.dropped()).filter(|dropped| *dropped > 0));
    let received = drain(&endpoint.queues()[0]).iter().map(|got| got.payload.len()).sum::<usize>();
    assert!(dropped > 0 && received > 1 << 20, "{dropped} {received}");
    let total = endpoint.dropped();
    assert_eq!(endpoint.dropped(), total, "counted once");
}

fn an_endpoint_on_a_device_receives_from_it_only() {
    let (near, far) = pair();
    let any = IpAddr::from([0, 0, 0, 0]);
    let on_cable = far.endpoint(&ReceivingSocketSpec { device: Some("far0".to_owned()), ..at(any) });
    let on_loopback = far.endpoint(&ReceivingSocketSpec { device: Some("lo".to_owned()), ..at(any) });
    let sources = near.sources(&from(any));
    assert_eq!(send(sources.writer(), &[(to(v4(2)), bytes(7))]), [Ok(())]);
    assert_eq!(expect(&on_cable.queues()[0], 1)[0].from, v4(1), "the route chooses the address");
    assert_eq!(drain(&on_loopback.queues()[0]), []);
    let confined = near.sources(&SourcesSpec { device: Some("lo".to_owned()), ..from(any) });
    let _ = send(confined.writer(), &[(to(v4(2)), bytes(7))]);
    assert_eq!(drain(&on_cable.queues()[0]), []);
}

fn the_path_follows_the_interface() {
    let (near, _far) = pair();
    let ask = |local, remote, device| near.inside(|| Ok(path(local, remote, device)));
    for mtu in [1500, 1400, 9000] {
        near.change("near0", Change { mtu: Some(mtu), ..Change::default() });
        for (own, remote) in [(v4(1), v4(2)), (v6(1), v6(2))] {
            let expected = Path { mtu, source: own };
            assert_eq!(ask(None, remote, None).expect("a path"), expected);
            assert_eq!(ask(Some(own), remote, Some("near0")).expect("a path"), expected);
        }
        let group = ask(None, IpAddr::from([239, 1, 1, 1]), Some("near0")).expect("a path");
        assert_eq!(group, Path { mtu, source: v4(1) });
    }
    let refusal = |remote, device| ask(None, remote, device).map_err(|error| error.kind());
    assert_eq!(refusal(IpAddr::from([198, 51, 100, 1]), None), Err(ErrorKind::NetworkUnreachable));
    assert_eq!(refusal(v4(2), Some("eth7")), Err(ErrorKind::NotFound));
}
