//! Guests behind a tunnel, whose gateway and uplink are on another machine.
//!
//! ```text
//!  r1 --TAP--[ daemon ]-- u2 --- tunnel --- u1 --[ daemon with a router ]-- up0 --- outside
//!                                   g1 --TAP--'
//! ```

use std::net::{Ipv4Addr, SocketAddrV4};

use libtest_mimic::Trial;

use crate::host::{Host, Ip};
use crate::raw::set_option;
use crate::site::{
    FAR, GATEWAY, MACHINE, Mode, NEIGHBOUR, NEXT_HOP, Plan, Site, connect, default_route, error_of, give, guest_address,
    listen_on, ping, recv_from, udp_on,
};
use crate::switch::Switch;
use crate::transfer::transfer_through;
use crate::trial;
use crate::tunnel_site::Underlay;

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for mode in Mode::BOTH {
        let word = mode.word();
        trials.extend([
            trial(format!("tunnel_router/by_another_link_{word}"), move || by_another_link(mode)),
            trial(format!("tunnel_router/by_the_uplink_itself_{word}"), move || by_the_uplink_itself(mode)),
        ]);
    }
    trials
}

/// The last byte of the address of the guest behind the tunnel.
const REMOTE: u8 = 9;

/// The underlay is a link of its own.
fn by_another_link(mode: Mode) {
    let mut underlay = None;
    let plan = Plan::new(mode, 1).first(|site| {
        let machine = Host::in_namespace("u1", site.machine.netns().try_clone().expect("a clone"));
        underlay = Some(Underlay::from_machine(Ip::V4, machine, 1500));
    });
    let underlay = underlay.expect("it was made");
    let flags = underlay.vxlan(42, 1, &[2], "");
    let published = format!("8080:{}:80", guest_address(REMOTE));
    let site = plan.args(&[&flags[0], &flags[1], "--publish", &published]).start();
    let remote = Host::quiet("r1");
    let far = underlay.daemon_for(2, &[1], &remote);
    guest_is_at_home(&site, &remote);
    finish(site, far);
}

/// The tunnel's datagrams and translated packets share a link and, in shared mode, an address.
fn by_the_uplink_itself(mode: Mode) {
    let tunnel = |local: Ipv4Addr, remote: Ipv4Addr| format!("vni=42,local={local},remote={remote}");
    let published = format!("8080:{}:80", guest_address(REMOTE));
    let plan = Plan::new(mode, 1).args(&["--vxlan", &tunnel(MACHINE, NEXT_HOP), "--publish", &published]);
    let site = plan.start();
    let remote = Host::quiet("r1");
    let netns = site.outside.netns().try_clone().expect("a clone");
    let far = Switch::start_inside(netns, &["--tap", &remote.port(""), "--vxlan", &tunnel(NEXT_HOP, MACHINE)]);
    guest_is_at_home(&site, &remote);
    finish(site, far);
}

/// A guest behind the tunnel is equal to one on the bridge.
fn guest_is_at_home(site: &Site, remote: &Host) {
    give(remote, guest_address(REMOTE), 24);
    default_route(remote, GATEWAY);
    assert_eq!(ping(remote, GATEWAY, 1).0, GATEWAY);
    assert_eq!(ping(remote, FAR, 2), (FAR, 63));
    assert_eq!(ping(remote, guest_address(1), 3).0, guest_address(1));
    let (outside, inside) = (listen_on(&site.outside, FAR, 80), listen_on(remote, guest_address(REMOTE), 80));
    // Out, in by a published port, and between guests; as streams of full segments.
    for _ in 0..2 {
        let (near, far, peer) = connect(remote, &outside, SocketAddrV4::new(FAR, 80));
        assert_eq!(*peer.ip(), site.address());
        transfer_through(near, far, true);
        let (near, far, _) = connect(&site.outside, &inside, SocketAddrV4::new(site.address(), 8080));
        transfer_through(near, far, true);
        let (near, far, _) = connect(site.guest(1), &inside, SocketAddrV4::new(guest_address(REMOTE), 80));
        transfer_through(near, far, true);
        remote.turn_offloads_off();
        site.guest(1).turn_offloads_off();
    }
    what_is_too_long_is_told(site, remote);
}

/// The tunnel has the smallest MTU on the path from outside: the sender gets an error.
fn what_is_too_long_is_told(site: &Site, remote: &Host) {
    let client = udp_on(remote, guest_address(REMOTE), 5000);
    let server = udp_on(&site.outside, NEIGHBOUR, 53);
    client.send_to(b"question", (NEIGHBOUR, 53)).expect("sent");
    let (_, from) = recv_from(&server);
    server.connect(from).expect("connected");
    set_option(&server, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO).expect("set");
    server.send(&[1; 1423]).expect("sent");
    assert_eq!(error_of(&server).raw_os_error(), Some(libc::EMSGSIZE));
    server.send(&[2; 1422]).expect("as long as the MTU of the path");
    assert_eq!(recv_from(&client).0, [2; 1422]);
    set_option(&server, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_INTERFACE).expect("set");
    server.send(&[3; 1472]).expect("sent");
    assert_eq!(recv_from(&client).0, [3; 1472]);
}

fn finish(site: Site, far: Switch) {
    let (near, far) = (site.finish(), far.finish());
    assert_eq!(far.lost(), 0, "{far:?}");
    assert_eq!(near.dropped_for("too_long"), 0, "{near:?}");
}
