//! Tunnels that discover their remotes by a multicast group.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use libtest_mimic::Trial;
use packet::MacAddr;

use crate::frames::{frame, station};
use crate::host::{Host, Ip};
use crate::raw::set_option;
use crate::switch::Switch;
use crate::tunnel_site::{Between, PORT, Peer, Underlay, arrives, ip as iproute, kernel_is_missing, vxlan};
use crate::wait::NEVER;
use crate::{trial, trial_with, wait};

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for (ip, word) in [(Ip::V4, "ipv4"), (Ip::V6, "ipv6")] {
        trials.extend([
            trial(format!("tunnel_group/sources_are_found_{word}"), move || sources_are_found(ip)),
            trial(format!("tunnel_group/daemons_{word}"), move || daemons(ip)),
            trial_with(format!("tunnel_group/daemon_and_kernel_{word}"), kernel_is_missing, move || daemon_and_kernel(ip)),
        ]);
    }
    trials.push(trial("tunnel_group/more_sources_than_ports", more_sources_than_ports));
    trials
}

/// Organization-local or site-local scope.
fn group(ip: Ip) -> IpAddr {
    if ip == Ip::V4 { [239, 0, 0, 42].into() } else { [0xff05, 0, 0, 0, 0, 0, 0, 0x42].into() }
}

/// Sends from machine `number`; hosts below 16 are accepted, in IPv4 below 128.
fn flags(underlay: &Underlay, number: u8) -> [String; 2] {
    let (local, group) = (underlay.address(number), group(underlay.ip));
    let peers = if underlay.ip == Ip::V4 { "192.0.2.0/25" } else { "2001:db8:1::/124" };
    ["--vxlan".to_owned(), format!("vni=42,group={group},peers={peers},local={local},dev=u{number}")]
}

/// A member of the group on machine 2.
fn listen(underlay: &Underlay) -> UdpSocket {
    let group = group(underlay.ip);
    let machine = underlay.machine(2);
    let index = machine.link().index;
    let here = underlay.address(2);
    let socket = machine.inside(move || {
        let socket = UdpSocket::bind((group, PORT))?;
        match (group, here) {
            (IpAddr::V4(group), IpAddr::V4(here)) => socket.join_multicast_v4(&group, &here)?,
            (IpAddr::V6(group), _) => socket.join_multicast_v6(&group, index)?,
            _ => unreachable!("one family"),
        }
        Ok(socket)
    });
    socket.set_read_timeout(Some(NEVER)).expect("a read timeout");
    socket
}

impl Peer {
    /// Sends to the group.
    fn send_to_group(&self, underlay: &Underlay, frame: &[u8]) {
        let index = underlay.machine(2).link().index as i32;
        let set = |level, name, value| set_option(self.socket(), level, name, value).expect("set");
        match self.socket().local_addr().expect("its address").ip() {
            IpAddr::V4(here) => set(libc::IPPROTO_IP, libc::IP_MULTICAST_IF, i32::from_ne_bytes(here.octets())),
            IpAddr::V6(_) => set(libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, index),
        }
        self.socket().send_to(&vxlan(42, frame), SocketAddr::new(group(underlay.ip), PORT)).expect("sent");
    }
}

fn drain(socket: &UdpSocket) -> usize {
    socket.set_nonblocking(true).expect("set");
    let count = std::iter::from_fn(|| socket.recv(&mut [0; 2048]).ok()).count();
    socket.set_nonblocking(false).expect("set");
    count
}

/// A flood is one datagram to the group. A discovered remote that is accepted gets frames for its stations alone;
/// others are ignored.
fn sources_are_found(ip: Ip) {
    let underlay = Underlay::pair(ip);
    let heard = listen(&underlay);
    let [peer, stranger] = [2, 200].map(|number| Peer::on(&underlay, 2, number));
    let host = Host::quiet("h1");
    let switch = underlay.daemon(1, &[host.port("")], &flags(&underlay, 1));
    let raw = host.raw();
    let call = frame(MacAddr::BROADCAST, station(1), b"anybody?");
    raw.send(&call).expect("sent");
    let mut bytes = [0; 2048];
    let (len, from) = heard.recv_from(&mut bytes).expect("the group hears it");
    assert_eq!((&bytes[..len], from.ip()), (&vxlan(42, &call)[..], underlay.address(1)));
    let lie = frame(station(1), station(9), b"me");
    stranger.send_frame(42, &lie);
    stranger.send_to_group(&underlay, &lie);
    let answer = frame(MacAddr::BROADCAST, station(2), b"me");
    peer.send_to_group(&underlay, &answer);
    arrives(&raw, "the answer", &answer);
    // Once the remote has a port, the group gets no more frames for it.
    let told = frame(station(2), station(1), b"for you alone");
    wait::until("a port of its own", || {
        raw.send(&told).expect("sent");
        peer.send_frame(42, &answer);
        peer.drain().contains(&vxlan(42, &told)).then_some(())
    });
    drain(&heard);
    for _ in 0..5 {
        raw.send(&told).expect("sent");
        wait::until("a frame for it", || peer.drain().contains(&vxlan(42, &told)).then_some(()));
    }
    assert_eq!(drain(&heard), 0);
    raw.send(&call).expect("sent");
    wait::until("the second call", || (drain(&heard) == 1).then_some(()));
    assert!(peer.drain().is_empty(), "the group is enough");
    assert!(std::iter::from_fn(|| raw.recv()).all(|frame| frame == answer), "nothing of strangers or of its own");
    let report = switch.finish();
    assert_eq!((report.dropped_for("tunnel_unknown_peer"), report.all_dropped()), (2, 2), "{report:?}");
}

fn daemons(ip: Ip) {
    let underlay = Underlay::pair(ip);
    let hosts = ["h1", "h2"].map(Host::new);
    let switches: Vec<Switch> = [(1, &hosts[0]), (2, &hosts[1])]
        .map(|(number, host)| underlay.daemon(number, &[host.port("")], &flags(&underlay, number)))
        .into();
    let between = Between::configured(underlay, hosts, switches);
    between.carries_everything();
    for report in between.finish() {
        assert_eq!(report.lost(), 0, "{report:?}");
    }
}

fn daemon_and_kernel(ip: Ip) {
    let underlay = Underlay::pair(ip);
    let hosts = ["h1", "h2"].map(Host::new);
    underlay.kernel(2, 1, &hosts[1]);
    let machine = underlay.machine(2);
    let (here, group) = (underlay.address(2), group(ip));
    iproute(machine, "link delete vx0");
    iproute(machine, &format!("link add vx0 type vxlan id 42 local {here} group {group} dev u2 dstport {PORT}"));
    iproute(machine, "link set vx0 master br0 up");
    let switches = vec![underlay.daemon(1, &[hosts[0].port("")], &flags(&underlay, 1))];
    let between = Between::configured(underlay, hosts, switches);
    between.carries_everything();
    between.finish();
}

/// Remotes beyond the limit get their frames by the group.
fn more_sources_than_ports() {
    let underlay = Underlay::pair(Ip::V4);
    let heard = listen(&underlay);
    let host = Host::quiet("h1");
    let switch = underlay.daemon(1, &[host.port("")], &flags(&underlay, 1));
    let raw = host.raw();
    let peers: Vec<(u8, Peer)> = (20..100).map(|number| (number, Peer::on(&underlay, 2, number))).collect();
    for (number, peer) in &peers {
        let hello = frame(station(1), station(u32::from(*number)), b"hello");
        peer.send_frame(42, &hello);
        arrives(&raw, "a hello", &hello);
    }
    let reached_alone = || {
        peers.iter().filter(|(number, peer)| {
            let hello = frame(station(1), station(u32::from(*number)), b"hello again");
            peer.send_frame(42, &hello);
            arrives(&raw, "a hello", &hello);
            let told = frame(station(u32::from(*number)), station(1), b"for you");
            raw.send(&told).expect("sent");
            let mut by_group = false;
            let alone = wait::until("an answer", || {
                let alone = peer.drain().contains(&vxlan(42, &told));
                by_group = drain(&heard) > 0;
                (alone || by_group).then_some(alone)
            });
            assert!(alone != by_group, "one way, not both");
            alone
        })
    };
    wait::until("all ports to be taken", || (reached_alone().count() == 64).then_some(()));
    assert_eq!(reached_alone().count(), 64);
    assert_eq!(switch.finish().all_dropped(), 0);
}
