//! A host that floods or does not read takes nothing from the others.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use libtest_mimic::Trial;
use packet::MacAddr;
use packet::arp::Arp;
use testkit::packets;

use crate::exchange::{Background, Echo, full_speed};
use crate::frames::{frame, is_ours, station};
use crate::guest::{Directory, StreamGuest, framed};
use crate::host::{Host, Ip};
use crate::switch::Switch;
use crate::transfer::transfer;
use crate::{trial, wait};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("fairness/a_stuck_receiver_holds_nobody_up", a_stuck_receiver_holds_nobody_up),
        trial("fairness/full_speed_starves_nobody", full_speed_starves_nobody),
        trial("fairness/one_worker_is_fair_too", one_worker_is_fair_too),
        trial("fairness/a_burst_to_many_ports_is_whole_and_in_order", a_burst_to_many_ports_is_whole_and_in_order),
        trial("fairness/a_burst_before_the_end_is_whole", a_burst_before_the_end_is_whole),
        trial("fairness/what_waited_goes_on_in_further_turns", what_waited_goes_on_in_further_turns),
    ]
}

/// One host sends at full speed to another that never reads, over UDP and TCP; two others transfer 10 MB each way
/// meanwhile.
fn a_stuck_receiver_holds_nobody_up() {
    let hosts = ["greedy", "stuck", "client", "server"].map(Host::new);
    let [greedy, stuck, client, server] = &hosts;
    let switch = Switch::of(&[greedy, stuck, client, server]);
    for (number, host) in (1..).zip(&hosts) {
        host.configure(number);
    }
    let deaf = stuck.udp(Ip::V4, 2);
    let listener = stuck.listen(Ip::V4, 2);
    let flood = full_speed(greedy, Ip::V4, 1, deaf.local_addr().expect("its address"));
    let stream = greedy.connect(listener.local_addr().expect("its address"));
    let (unread, _) = listener.accept().expect("a connection");
    stream.set_nonblocking(true).expect("set");
    let push = Background::run(move || {
        use std::io::Write;
        // The socket is full after a few megabytes and stays full.
        let _ = (&stream).write(&[0x99; 4096]);
        std::thread::sleep(Duration::from_micros(100));
    });
    transfer(client, (server, 4), Ip::V4, true);
    assert!(flood.rounds() > 0 && push.rounds() > 0);
    flood.end();
    push.end();
    drop(unread);
    assert_eq!(switch.finish().lost(), 0);
}

/// A batch of floods to more than 60 ports is carried in parts, with turns of others between them.
fn a_burst_to_many_ports_is_whole_and_in_order() {
    let hosts = ["sender", "listener", "other"].map(Host::quiet);
    let [sender, listener, other] = &hosts;
    let spares = (0..60).map(|number| format!("spare{number}"));
    let ports = hosts.iter().map(|host| host.port("")).chain(spares).collect::<Vec<_>>().join(",");
    let switch = Switch::start(&["--tap", &ports, "--workers", "1"]);
    let [sender, listener, other] = [sender, listener, other].map(Host::raw);
    let numbered = |from, number: u32| frame(MacAddr::BROADCAST, station(from), &number.to_be_bytes());
    for number in 0..500 {
        sender.send(&numbered(1, number)).expect("sent");
        if number % 100 == 0 {
            other.send(&numbered(3, number)).expect("sent");
        }
    }
    // The stacks of spare ports send a few frames of their own.
    let report = switch.settle("all frames", |report| report.received() >= 505);
    assert_eq!(report.all_dropped(), 0);
    let (mut from_sender, mut from_other) = (0, 0);
    while from_sender < 500 || from_other < 500 {
        // The frames of the spare ports are counted above, too.
        let heard = wait::until("a frame", || listener.recv());
        if heard == numbered(1, from_sender) {
            from_sender += 1;
        } else if heard == numbered(3, from_other) {
            from_other += 100;
        } else {
            assert!(!is_ours(&heard), "{heard:x?}");
        }
    }
    switch.finish();
}

/// Packets wait for a neighbour whose answer names a MAC address that nobody has, so that each is flooded. A turn ends before all of
/// them are written, and the rest follows although nobody sends anything more.
fn what_waited_goes_on_in_further_turns() {
    const WAITING: u16 = 100;
    let hosts = ["sender", "answerer", "listener"].map(Host::quiet);
    let [sender, answerer, listener] = &hosts;
    let spares = (0..30).map(|number| format!("spare{number}:vlan=20"));
    let ports = [sender.port(":vlan=10"), answerer.port(":vlan=20"), listener.port(":vlan=20")];
    let taps = ports.into_iter().chain(spares).collect::<Vec<_>>().join(",");
    let switch = Switch::start(&["--tap", &taps, "--gateway", "10=10.1.0.1/24,20=10.2.0.1/24", "--workers", "1"]);
    let [sender, answerer, listener] = [sender, answerer, listener].map(Host::raw);
    let gateways = [[10, 1, 0, 1], [10, 2, 0, 1]].map(|[a, b, c, d]| (MacAddr([2, 0x76, a, b, c, d]), Ipv4Addr::new(a, b, c, d)));
    let (from, absent) = (Ipv4Addr::new(10, 1, 0, 2), Ipv4Addr::new(10, 2, 0, 9));
    let ethernet = |to: MacAddr, from: MacAddr, kind: [u8; 2], packet: &[u8]| [&to.0[..], &from.0, &kind, packet].concat();
    for number in 0..WAITING {
        let packet = packets::udp(SocketAddrV4::new(from, 9), SocketAddrV4::new(absent, number), b"wait");
        sender.send(&ethernet(gateways[0].0, station(1), [8, 0], &packet)).expect("sent");
    }
    switch.settle("packets that wait", |report| report.received_by("sender") >= u64::from(WAITING));
    let answer = Arp::request(gateways[1].0, gateways[1].1, absent).reply(station(99)).to_bytes();
    answerer.send(&ethernet(gateways[1].0, station(2), [8, 6], &answer)).expect("sent");
    for number in 0..WAITING {
        let heard = wait::until("a packet that waited", || listener.recv().filter(|heard| heard[..6] == station(99).0));
        assert_eq!(heard[36..38], number.to_be_bytes(), "in their order");
    }
    let report = switch.finish();
    assert_eq!(report.all_dropped(), 0);
}

/// A guest sends a batch that is carried in parts, and something behind it that ends the connection: all of the batch is carried.
fn a_burst_before_the_end_is_whole() {
    let (listener, directory) = (Host::quiet("listener"), Directory::new());
    let path = directory.path("guest");
    let spares = (0..60).map(|number| format!("spare{number}"));
    let taps = std::iter::once(listener.port("")).chain(spares).collect::<Vec<_>>().join(",");
    let stream = format!("stream:{}", path.display());
    let switch = Switch::start(&["--tap", &taps, "--port", &stream, "--workers", "1"]);
    let socket = listener.raw();
    let numbered = |number: u32| frame(MacAddr::BROADCAST, station(1), &number.to_be_bytes());
    let hears_next = |number| {
        let heard = wait::until("a frame of the guest", || socket.recv().filter(|heard| is_ours(heard)));
        assert_eq!(heard, numbered(number));
    };
    let mut guest = StreamGuest::at(&path);
    guest.send(&numbered(0));
    hears_next(0);
    let impossible_length = [0xff; 4];
    let frames = (1..200).flat_map(|number| framed(&numbered(number)));
    guest.0.write_all(&frames.chain(impossible_length).collect::<Vec<u8>>()).expect("sent at once");
    (1..200).for_each(hears_next);
    switch.finish();
}

fn full_speed_starves_nobody() {
    questions_between_two_floods(&["--workers", "2"]);
}

fn one_worker_is_fair_too() {
    questions_between_two_floods(&["--workers", "1"]);
}

/// Two hosts send at full speed to a third; a fourth sends requests to a fifth and gets every reply. A request may be
/// repeated, because the queue of the client's TAP belongs to the kernel.
fn questions_between_two_floods(extra: &[&str]) {
    let hosts = ["left", "right", "target", "asker", "answerer"].map(Host::new);
    let ports = hosts.iter().map(|host| host.port("")).collect::<Vec<_>>().join(",");
    let switch = Switch::start(&[&["--tap", &ports], extra].concat());
    for (number, host) in (1..).zip(&hosts) {
        host.configure(number);
    }
    let [left, right, target, asker, answerer] = &hosts;
    let deaf = target.udp(Ip::V4, 3).local_addr().expect("its address");
    let floods = [full_speed(left, Ip::V4, 1, deaf), full_speed(right, Ip::V4, 2, deaf)];
    let echo = Echo::on(answerer, Ip::V6, 5);
    let mut asker = echo.asked_from(asker, Ip::V6, 4);
    for _ in 0..500 {
        asker.ask_within(Duration::from_secs(2), 5);
    }
    for flood in floods {
        assert!(flood.rounds() > 0);
        flood.end();
    }
    let report = switch.finish();
    assert!(report.received_by("left") > 0 && report.received_by("right") > 0);
    assert_eq!(report.lost(), 0, "{report:?}");
}
