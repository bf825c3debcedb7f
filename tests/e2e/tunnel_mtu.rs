//! Frames that are too long for a tunnel: links get an MTU that fits; a host with a larger one gets an error,
//! fragments, or a lower MSS.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsFd;

use libtest_mimic::Trial;
use netio::link::{self, Change};

use crate::datagrams::{ACK, Datagram, SYN, checksum};
use crate::frames::{DOT1Q, frame, station, tagged};
use crate::host::{Host, Ip};
use crate::raw::set_option;
use crate::site::{default_route, forwards};
use crate::switch::Switch;
use crate::transfer::transfer;
use crate::tunnel_site::{Between, Peer, Underlay, arrives, overhead};
use crate::{trial, wait};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (ip, word) in [(Ip::V4, "ipv4"), (Ip::V6, "ipv6")] {
        trials.extend([
            trial(format!("tunnel_mtu/links_get_what_fits_{word}"), move || links_get_what_fits(ip)),
            trial(format!("tunnel_mtu/who_sends_too_much_is_told_{word}"), move || long_packets_cause_errors(ip)),
            trial(format!("tunnel_mtu/mss_is_lowered_both_ways_{word}"), move || mss_is_lowered_both_ways(ip)),
        ]);
    }
    trials.extend([
        trial("tunnel_mtu/fragmentable_packets_are_fragmented", fragmentable_packets_are_fragmented),
        trial("tunnel_mtu/a_smaller_mtu_is_noticed", a_smaller_mtu_is_noticed),
        trial("tunnel_mtu/a_narrow_link_on_the_path", a_narrow_link_on_the_path),
        trial("tunnel_mtu/datagrams_that_may_be_fragmented", datagrams_that_may_be_fragmented),
        trial("tunnel_mtu/a_tag_takes_room", a_tag_takes_room),
    ]);
    trials
}

/// With flags for hosts with another MTU.
fn links_get_what_fits(ip: Ip) {
    for mtu in [1500, 9000, 1400] {
        let underlay = Underlay::pair_of_mtu(ip, mtu);
        let hosts = ["h1", "h2"].map(Host::quiet);
        let fits = mtu - overhead(ip);
        let ports = [hosts[0].port(""), hosts[1].port(":mtu=1300")];
        let switch = underlay.daemon(1, &ports, &underlay.vxlan(42, 1, &[2], ""));
        assert_eq!([hosts[0].link().mtu, hosts[1].link().mtu], [fits, 1300]);
        assert!(!switch.has_logged("mtu="), "nothing to say");
        switch.finish();
        let hosts = ["h1", "h2"].map(Host::quiet);
        let ports = [hosts[0].port(&format!(":mtu={}", fits + 1)), hosts[1].port("")];
        let switch = underlay.daemon(1, &ports, &underlay.vxlan(42, 1, &[2], ""));
        assert_eq!([hosts[0].link().mtu, hosts[1].link().mtu], [fits + 1, fits], "an explicit MTU is kept");
        let words = format!("h1 has mtu={}", fits + 1);
        assert!(switch.has_logged(&words) && switch.has_logged(&format!("use mtu={fits}")), "a warning");
        switch.finish();
    }
}

/// Sets "don't fragment" on all datagrams of this socket.
fn never_fragment(socket: &UdpSocket, inner: Ip) {
    match inner {
        Ip::V4 => set_option(socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO),
        Ip::V6 => set_option(socket, libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO),
    }
    .expect("set");
}

/// Hosts with an MTU of 1500 bytes learn the path MTU, in both directions, and streams pass.
fn long_packets_cause_errors(ip: Ip) {
    let between = Between::daemons(Underlay::pair(ip));
    for host in &between.hosts {
        host.set_link(Change { mtu: Some(1500), ..Change::default() });
        host.turn_offloads_off();
    }
    let [first, second] = &between.hosts;
    for ((from, from_number), (to, to_number)) in [((first, 1), (second, 2)), ((second, 2), (first, 1))] {
        for inner in [Ip::V4, Ip::V6] {
            let headers = if inner == Ip::V4 { 28 } else { 48 };
            let fits = (1500 - overhead(ip) - headers) as usize;
            let (sender, receiver) = (from.udp(inner, from_number), to.udp(inner, to_number));
            sender.connect(receiver.local_addr().expect("its address")).expect("connected");
            never_fragment(&sender, inner);
            // Both hosts know each other's MAC address by then: a frame to an unknown station causes no error.
            sender.send(b"first").expect("sent");
            let mut bytes = [0; 2048];
            assert_eq!(receiver.recv(&mut bytes).expect("a datagram"), 5);
            wait::until("the limit to be known", || match sender.send(&vec![1; fits + 1]) {
                Err(error) => (error.raw_os_error() == Some(libc::EMSGSIZE)).then_some(()),
                Ok(_) => None,
            });
            assert_eq!(mtu_known_to(&sender, inner), 1500 - overhead(ip));
            // The socket may still have to report an earlier error.
            sender.take_error().expect("asked");
            sender.send(&vec![2; fits]).expect("as long as the MTU of the path");
            assert_eq!(receiver.recv(&mut bytes).expect("it arrives"), fits);
        }
    }
    for inner in [Ip::V4, Ip::V6] {
        transfer(first, (second, 2), inner, true);
    }
    for report in between.finish() {
        assert!(report.dropped_for("fragmentation_needed") >= 2, "{report:?}");
        assert_eq!(report.lost(), report.dropped_for("fragmentation_needed"), "{report:?}");
    }
}

/// The path MTU that a host knows for this connected socket.
fn mtu_known_to(socket: &UdpSocket, inner: Ip) -> u32 {
    let (level, name) = if inner == Ip::V4 { (libc::IPPROTO_IP, libc::IP_MTU) } else { (libc::IPPROTO_IPV6, libc::IPV6_MTU) };
    crate::raw::option(socket, level, name).expect("its MTU") as u32
}

/// A SYN or SYN-ACK with this MSS; `back` is the other direction.
fn syn(inner: Ip, flags: u8, mss: u16, back: bool) -> Vec<u8> {
    let ends = if back { [2, 1] } else { [1, 2] };
    let [a, b] = mss.to_be_bytes();
    let [from, to] = ends.map(|last| SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, last), 80));
    let datagram = Datagram::tcp_with_options(from, to, flags, [1, 1], &[1, 3, 3, 7, 2, 4, a, b], b"");
    let [src, dst] = ends.map(|last: u8| station(last.into()));
    if inner == Ip::V4 {
        return datagram.frame(dst, src);
    }
    let addresses = ends.map(|last| [&[0xfd, 0, 0, 0, 0, 0, 0, 0][..], &[0, 0, 0, 0, 0, 0, 0, last]].concat()).concat();
    let mut segment = datagram.payload;
    segment[16..18].fill(0);
    let len = segment.len() as u8;
    let check = checksum(&[&addresses, &[0, 0, 0, len, 0, 0, 0, 6], &segment]);
    segment[16..18].copy_from_slice(&check.to_be_bytes());
    let header = [0x60, 0, 0, 0, 0, len, 6, 64];
    [&dst.0[..], &src.0, &[0x86, 0xdd], &header, &addresses, &segment].concat()
}

/// The MSS is lowered into the tunnel and out of it, in either inner family, and never raised. The whole segment is
/// compared, with its checksum.
fn mss_is_lowered_both_ways(ip: Ip) {
    let underlay = Underlay::pair(ip);
    let peer = Peer::on(&underlay, 2, 2);
    let host = Host::quiet("h1");
    let switch = underlay.daemon(1, &[host.port(":mtu=1500:offload=off")], &underlay.vxlan(42, 1, &[2], ""));
    let raw = host.raw();
    for inner in [Ip::V4, Ip::V6] {
        let most = (1500 - overhead(ip) - if inner == Ip::V4 { 40 } else { 60 }) as u16;
        for (mss, expected) in [(1460, most), (most + 1, most), (most, most), (536, 536), (65_495, most)] {
            raw.send(&syn(inner, SYN, mss, false)).expect("sent");
            assert_eq!(peer.recv_frame(42), syn(inner, SYN, expected, false), "{inner:?} {mss}");
            peer.send_frame(42, &syn(inner, SYN | ACK, mss, true));
            arrives(&raw, &format!("{inner:?}: {expected} for {mss}"), &syn(inner, SYN | ACK, expected, true));
        }
        // Other segments keep their bytes.
        raw.send(&syn(inner, ACK, 1460, false)).expect("sent");
        assert_eq!(peer.recv_frame(42), syn(inner, ACK, 1460, false));
    }
    switch.finish();
}

/// IPv4 packets that may be fragmented arrive, in fragments that fit.
fn fragmentable_packets_are_fragmented() {
    for ip in [Ip::V4, Ip::V6] {
        let between = Between::daemons(Underlay::pair(ip));
        between.hosts[0].set_link(Change { mtu: Some(1500), ..Change::default() });
        between.underlay.machine(1).turn_offloads_off();
        let (sender, receiver) = (between.hosts[0].udp(Ip::V4, 1), between.hosts[1].udp(Ip::V4, 2));
        let mtu = 1500 - overhead(ip);
        set_option(&sender, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DONT).expect("set");
        sender.connect(receiver.local_addr().expect("its address")).expect("connected");
        let wire = between.underlay.machine(2).raw();
        let mut bytes = [0; 8192];
        for size in [5, mtu as usize - 28, mtu as usize - 27, 1472, 4000] {
            let data: Vec<u8> = (0..size).map(|n| (n % 253) as u8).collect();
            sender.send(&data).expect("sent");
            let len = receiver.recv(&mut bytes).expect("it arrives");
            assert!(bytes[..len] == data, "{size} bytes arrived as others, {len}");
        }
        let longest = std::iter::from_fn(|| wire.recv()).map(|frame| frame.len()).max();
        assert!(longest <= Some(1514), "the tunnel's own datagrams are never cut: {longest:?}");
        for report in between.finish() {
            assert_eq!(report.lost(), 0, "{report:?}");
        }
    }
}

/// The MTU of the underlay falls while the daemons run: the new limits take effect within a second or two.
fn a_smaller_mtu_is_noticed() {
    let between = Between::daemons(Underlay::pair(Ip::V4));
    let (sender, receiver) = (between.hosts[0].udp(Ip::V4, 1), between.hosts[1].udp(Ip::V4, 2));
    sender.connect(receiver.local_addr().expect("its address")).expect("connected");
    never_fragment(&sender, Ip::V4);
    sender.send(&[0; 1422]).expect("sent");
    let mut bytes = [0; 2048];
    assert_eq!(receiver.recv(&mut bytes).expect("it arrives"), 1422);
    for number in [1, 2] {
        between.underlay.machine(number).set_link(Change { mtu: Some(1300), ..Change::default() });
    }
    wait::until("the limit to be known", || match sender.send(&[0; 1422]) {
        Err(error) => (error.raw_os_error() == Some(libc::EMSGSIZE)).then_some(()),
        Ok(_) => None,
    });
    assert_eq!(mtu_known_to(&sender, Ip::V4), 1250);
    transfer(&between.hosts[0], (&between.hosts[1], 2), Ip::V4, true);
    let switch: &Switch = between.switch(1);
    assert!(switch.has_logged("mtu=1250"), "it says so");
    between.finish();
}

/// A router between the machines sends "fragmentation needed": the kernel learns the path MTU, and later the hosts.
fn a_narrow_link_on_the_path() {
    let underlay = Underlay::pair(Ip::V4);
    let (machine, router) = (underlay.machine(1), underlay.machine(2));
    let beyond = Host::new("u3");
    let before = Host::in_namespace("u0", router.netns().try_clone().expect("a clone"));
    before.inside(|| link::add_pair("u0", "u3", Some(beyond.netns().as_fd())));
    let (here, there) = (Ipv4Addr::new(198, 51, 100, 1), Ipv4Addr::new(198, 51, 100, 2));
    for (host, address) in [(&before, here), (&beyond, there)] {
        host.set_link(Change { up: Some(true), mtu: Some(1400), ..Change::default() });
        crate::site::give(host, address, 24);
    }
    forwards(router);
    default_route(machine, Ipv4Addr::new(192, 0, 2, 2));
    default_route(&beyond, here);
    let hosts = ["h1", "h2"].map(Host::new);
    let daemon = |netns: &File, host: &Host, local, remote| {
        let tunnel = format!("vni=42,local={local},remote={remote}");
        Switch::start_inside(netns.try_clone().expect("a clone"), &["--tap", &host.port(""), "--vxlan", &tunnel])
    };
    let switches = vec![
        daemon(machine.netns(), &hosts[0], Ipv4Addr::new(192, 0, 2, 1), there),
        daemon(beyond.netns(), &hosts[1], there, Ipv4Addr::new(192, 0, 2, 1)),
    ];
    assert_eq!([hosts[0].link().mtu, hosts[1].link().mtu], [1450, 1350]);
    let between = Between::configured(underlay, hosts, switches);
    transfer(&between.hosts[0], (&between.hosts[1], 2), Ip::V4, true);
    // The MSS fits both links, so it takes datagrams to discover the path MTU.
    let (sender, receiver) = (between.hosts[0].udp(Ip::V4, 1), between.hosts[1].udp(Ip::V4, 2));
    sender.connect(receiver.local_addr().expect("its address")).expect("connected");
    never_fragment(&sender, Ip::V4);
    wait::until("the limit to be known", || match sender.send(&[1; 1422]) {
        Err(error) => (error.raw_os_error() == Some(libc::EMSGSIZE)).then_some(()),
        Ok(_) => None,
    });
    assert_eq!(mtu_known_to(&sender, Ip::V4), 1350);
    sender.take_error().expect("asked");
    sender.send(&[2; 1322]).expect("as long as the MTU of the path");
    let mut bytes = [0; 2048];
    assert_eq!(receiver.recv(&mut bytes).expect("it arrives"), 1322);
    between.finish();
}

/// Where the tunnel's own datagrams may be fragmented, hosts keep the usual MTU.
fn datagrams_that_may_be_fragmented() {
    for ip in [Ip::V4, Ip::V6] {
        let underlay = Underlay::pair(ip);
        let hosts = ["h1", "h2"].map(Host::new);
        let daemon = |number: u8, other, host: &Host| {
            underlay.daemon(number, &[host.port("")], &underlay.vxlan(42, number, &[other], ",mtu=1500,df=unset"))
        };
        let switches = vec![daemon(1, 2, &hosts[0]), daemon(2, 1, &hosts[1])];
        assert_eq!([hosts[0].link().mtu, hosts[1].link().mtu], [1500, 1500]);
        let between = Between::configured(underlay, hosts, switches);
        between.carries_everything();
        for report in between.finish() {
            assert_eq!(report.lost(), 0, "{report:?}");
        }
    }
}

/// A frame that keeps its tag in the tunnel has room for a packet four bytes shorter, and the error says so.
fn a_tag_takes_room() {
    let underlay = Underlay::pair(Ip::V4);
    let peer = Peer::on(&underlay, 2, 2);
    let host = Host::quiet("h1");
    let switch = underlay.daemon(1, &[host.port(":mtu=1500:offload=off")], &underlay.vxlan(42, 1, &[2], ""));
    let raw = host.raw();
    let [from, to] = [1, 2].map(|last| SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, last), 53));
    let datagram = |len: usize| Datagram { dont_fragment: true, ..Datagram::udp(from, to, &vec![7; len - 28]) };
    let framed = |len| tagged(&datagram(len).frame(station(2), station(1)), DOT1Q, 0x600a);
    peer.send_frame(42, &frame(station(1), station(2), b"here"));
    arrives(&raw, "a message", &frame(station(1), station(2), b"here"));
    // The neighbour is known untagged; tagged it is in another network.
    peer.send_frame(42, &tagged(&frame(station(1), station(2), b"here"), DOT1Q, 10));
    arrives(&raw, "a message", &tagged(&frame(station(1), station(2), b"here"), DOT1Q, 10));
    raw.send(&framed(1446)).expect("sent");
    assert_eq!(peer.recv_frame(42), framed(1446));
    raw.send(&framed(1447)).expect("sent");
    let error = wait::until("the error", || raw.recv());
    assert_eq!(error[..12], [station(1).0, station(2).0].concat());
    assert_eq!(error[12..16], [0x81, 0, 0x60, 10], "in the same network, with the same priority");
    let error = Datagram::read(&error[18..]).expect("a packet");
    assert!(error.is_icmp(3, 4) && error.is_sound() && error.next_hop_mtu() == 1446, "{error:?}");
    assert_eq!((error.src, error.dst, error.quote().from()), (*to.ip(), *from.ip(), from));
    assert_eq!(switch.finish().dropped_for("fragmentation_needed"), 1);
}
