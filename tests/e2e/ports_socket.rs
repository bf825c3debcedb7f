//! Guests that join by a stream or datagram socket.

use std::fs;
use std::io::Write;
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::time::Duration;

use libtest_mimic::Trial;
use netio::link::{self, Change};
use packet::MacAddr;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::process::Uid;
use rustix::thread::set_thread_res_uid;

use crate::exchange::{Background, Echo};
use crate::frames::{frame, station};
use crate::guest::{Directory, StreamGuest, dgram_guest, framed, recv_dgram};
use crate::host::{Host, Ip};
use crate::monitor::{Cable, Monitor, hold_tap};
use crate::ports::{at_a_veth, start};
use crate::site::{FAR, GATEWAY, Mode, Plan, connect, default_route, give, guest_address, listen_on, ping};
use crate::switch::{Switch, daemon, run_inside};
use crate::transfer::transfer_through;
use crate::{named, trial, wait};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("ports/stream_frames_each_way", stream_frames_each_way),
        trial("ports/stream_guests_have_vlans", stream_guests_have_vlans),
        trial("ports/stream_many_guests", stream_many_guests),
        trial("ports/stream_guest_gone_and_back", stream_guest_gone_and_back),
        trial("ports/stream_in_pieces", stream_in_pieces),
        trial("ports/stream_hostile_lengths", stream_hostile_lengths),
        trial("ports/stream_slow_guest", stream_slow_guest),
        trial("ports/stream_slow_guest_gets_the_rest", stream_slow_guest_gets_the_rest),
        trial("ports/stream_client", stream_client),
        trial("ports/stream_over_tcp", stream_over_tcp),
        trial("ports/stream_tcp_client", stream_tcp_client),
        trial("ports/stream_tcp_guest_is_late", stream_tcp_guest_is_late),
        trial("ports/stream_flapping_guests", stream_flapping_guests),
        trial("ports/guests_reach_the_outside", guests_reach_the_outside),
        trial("ports/dgram_frames_each_way", dgram_frames_each_way),
        trial("ports/dgram_replies_to_the_last_sender", dgram_replies_to_the_last_sender),
        trial("ports/dgram_confused_deputy", dgram_confused_deputy),
        trial("ports/dgram_slow_guest", dgram_slow_guest),
        trial("ports/socket_files", socket_files),
        trial("ports/check_and_summary", check_and_summary),
    ]
}

/// A user that has nothing here.
const STRANGER: u32 = 64_123;

fn machine() -> Host {
    Host::quiet("machine")
}

fn hello(from: u32) -> Vec<u8> {
    frame(MacAddr::BROADCAST, station(from), &from.to_be_bytes())
}

/// A guest with a place: the switch has answered its frame. `from` is its station.
fn seated(switch: &Switch, path: &std::path::Path, place: &str) -> StreamGuest<UnixStream> {
    let guest = StreamGuest::at(path);
    let line = format!("port=\"{}#{place}\" guest=", path.display());
    wait::until("a place", || switch.has_logged(&line).then_some(()));
    guest
}

fn stream_frames_each_way() {
    let (machine, directory, other) = (machine(), Directory::new(), Host::quiet("other"));
    let (path, port) = (directory.path("s"), format!("stream:{}", directory.text("s")));
    let switch = start(&machine, &["--port", &port, "--tap", &other.port("")]);
    let (mut one, mut two) = (seated(&switch, &path, "1"), seated(&switch, &path, "2"));
    let far = other.raw();
    one.send(&hello(1));
    assert_eq!(two.recv(), hello(1));
    assert_eq!(wait::until("a frame", || far.recv()), hello(1));
    two.send(&hello(2));
    assert_eq!(one.recv(), hello(2));
    // Its address is known now: no other port gets the frame. Frames of all lengths cross, many in one read.
    let lengths = (0..200).map(|n| 46 + 7 * n).chain([1500]);
    let frames: Vec<Vec<u8>> = lengths.map(|len| frame(station(2), station(1), &vec![len as u8; len])).collect();
    let all: Vec<u8> = frames.iter().flat_map(|frame| framed(frame)).collect();
    one.0.write_all(&all).expect("sent");
    for frame in &frames {
        assert_eq!(two.recv(), *frame);
    }
    far.send(&frame(station(1), station(3), b"back")).expect("sent");
    assert_eq!(one.recv(), frame(station(1), station(3), b"back"));
    let report = switch.finish();
    let name = |n: u8| format!("{}#{n}", directory.text("s"));
    assert_eq!((report.received_by(&name(1)), report.received_by(&name(2))), (202, 1));
    assert_eq!((report.sent_by(&name(1)), report.sent_by(&name(2))), (2, 202));
    assert_eq!((report.sent_by("other"), report.all_dropped()), (2, 0));
}

fn stream_guests_have_vlans() {
    let (machine, directory, other) = (machine(), Directory::new(), Host::quiet("other"));
    let port = format!("stream:{}:vlan=10", directory.text("s"));
    let switch = start(&machine, &["--port", &port, "--tap", &other.port("")]);
    let mut guest = seated(&switch, &directory.path("s"), "1");
    let far = other.raw();
    guest.send(&hello(1));
    let tagged = |bytes: &[u8]| crate::frames::tagged(bytes, crate::frames::DOT1Q, 10);
    assert_eq!(wait::until("a frame", || far.recv()), tagged(&hello(1)));
    far.send(&tagged(&hello(2))).expect("sent");
    assert_eq!(guest.recv(), hello(2));
    switch.finish();
}

/// The number of places is limited; a guest that finds none has its connection closed.
fn stream_many_guests() {
    let (machine, directory) = (machine(), Directory::new());
    let (path, port) = (directory.path("s"), format!("stream:{}:guests=40", directory.text("s")));
    let switch = start(&machine, &["--port", &port, "--workers", "2"]);
    let mut guests: Vec<_> = (1..=40).map(|n| seated(&switch, &path, &n.to_string())).collect();
    let mut late = StreamGuest::at(&path);
    late.is_hung_up_on();
    wait::until("a message about it", || switch.has_logged("all places are taken; raise guests=").then_some(()));
    for n in 0..40 {
        guests[n].send(&hello(n as u32));
        for (m, guest) in guests.iter_mut().enumerate().filter(|(m, _)| *m != n) {
            assert_eq!(guest.recv(), hello(n as u32), "from {n} to {m}");
        }
    }
    drop(guests.remove(7));
    wait::until("a free place", || switch.has_logged("the guest is gone").then_some(()));
    let mut late = StreamGuest::at(&path);
    wait::until("its frames", || {
        late.send(&hello(100));
        guests[0].recv_within(Duration::from_millis(50)).filter(|frame| *frame == hello(100))
    });
    let report = switch.finish();
    assert_eq!(report.dropped_for("queue_full"), 0, "{report:?}");
}

/// A guest's MAC entries go with it.
fn stream_guest_gone_and_back() {
    let (machine, directory, other) = (machine(), Directory::new(), Host::quiet("other"));
    let (path, port) = (directory.path("s"), format!("stream:{}:guests=2", directory.text("s")));
    let switch = start(&machine, &["--port", &port, "--tap", &other.port("")]);
    let far = other.raw();
    for _ in 0..20 {
        let mut guest = StreamGuest::at(&path);
        guest.send(&hello(1));
        wait::until("its hello", || far.recv().filter(|frame| *frame == hello(1)));
        // It is still in the middle of a frame.
        guest.0.write_all(&[0, 0, 1]).expect("sent");
        drop(guest);
        wait::until("its entry's end", || (switch.report().table("entries") == 0).then_some(()));
    }
    // To an unknown address: flooded, and no other port has a guest.
    far.send(&frame(station(1), station(2), b"where are you?")).expect("sent");
    switch.settle("a drop", |report| report.dropped("other", "no_destination") == 1);
    let mut guest = seated(&switch, &path, "1");
    wait::until("a place", || {
        guest.send(&hello(1));
        far.recv()
    });
    far.send(&frame(station(1), station(2), b"there you are")).expect("sent");
    assert_eq!(guest.recv(), frame(station(1), station(2), b"there you are"));
    switch.finish();
}

/// Frames arrive whole wherever the stream is cut.
fn stream_in_pieces() {
    let (machine, directory) = (machine(), Directory::new());
    let (path, port) = (directory.path("s"), format!("stream:{}", directory.text("s")));
    let switch = start(&machine, &["--port", &port]);
    let (mut one, mut two) = (seated(&switch, &path, "1"), seated(&switch, &path, "2"));
    let all = [framed(&hello(1)), framed(&frame(MacAddr::BROADCAST, station(1), &[0x55; 300]))].concat();
    for byte in &all {
        one.0.write_all(&[*byte]).expect("sent");
        std::thread::yield_now();
    }
    for cut in 1..all.len() {
        one.0.write_all(&all[..cut]).expect("sent");
        one.0.write_all(&all[cut..]).expect("sent");
    }
    for _ in 0..all.len() {
        assert_eq!(two.recv(), hello(1));
        assert_eq!(two.recv(), frame(MacAddr::BROADCAST, station(1), &[0x55; 300]));
    }
    switch.finish();
}

/// An invalid length closes the connection and nothing else; a frame that is too short is dropped under that name.
fn stream_hostile_lengths() {
    let (machine, directory) = (machine(), Directory::new());
    let (path, port) = (directory.path("s"), format!("stream:{}:guests=3", directory.text("s")));
    let switch = start(&machine, &["--port", &port]);
    let mut bystander = seated(&switch, &path, "1");
    let mut honest = seated(&switch, &path, "2");
    for length in [u32::MAX, 1 << 31, 1 << 24, 70_000, 1 << 17] {
        let mut guest = StreamGuest::at(&path);
        // Frames before it are accepted.
        guest.0.write_all(&framed(&hello(7))).expect("sent");
        assert_eq!((bystander.recv(), honest.recv()), (hello(7), hello(7)));
        let _ = guest.0.write_all(&length.to_be_bytes());
        let _ = guest.0.write_all(&[0x55; 5000]);
        guest.is_hung_up_on();
        wait::until("its entry's end", || (switch.report().table("entries") == 0).then_some(()));
    }
    let place = format!("{}#3", path.display());
    let mut guest = StreamGuest::at(&path);
    for len in [0, 1, 13] {
        guest.send(&vec![0xff; len]);
    }
    // The longest valid frame, which is longer than a guest accepts.
    guest.send(&frame(MacAddr::BROADCAST, station(7), &vec![0x55; 65_000]));
    guest.send(&hello(8));
    assert_eq!((bystander.recv(), honest.recv()), (hello(8), hello(8)));
    let report = switch.settle("all drops", |report| report.dropped(&place, "runt") == 3);
    assert_eq!(report.dropped(&place, "too_long"), 1, "no port takes it, so it is one drop: {report:?}");
    honest.send(&hello(2));
    assert_eq!(bystander.recv(), hello(2));
    switch.finish();
}

/// A guest that does not read costs the others nothing; frames that it does not take are counted.
fn stream_slow_guest() {
    let (machine, directory) = (machine(), Directory::new());
    let (a, b) = (Host::new("a"), Host::new("b"));
    let (path, port) = (directory.path("s"), format!("stream:{}", directory.text("s")));
    let taps = [a.port(""), b.port("")].join(",");
    let switch = start(&machine, &["--port", &port, "--tap", &taps]);
    a.configure(1);
    b.configure(2);
    let (_asleep, mut awake) = (seated(&switch, &path, "1"), seated(&switch, &path, "2"));
    let echo = Echo::on(&b, Ip::V4, 2);
    let mut asker = echo.asked_from(&a, Ip::V4, 1);
    let name = format!("{}#1", path.display());
    let wide = frame(MacAddr::BROADCAST, station(9), &[0x55; 1400]);
    wait::until("a full queue", || {
        for _ in 0..200 {
            awake.send(&wide);
        }
        asker.ask();
        (switch.report().dropped(&name, "queue_full") > 1000).then_some(())
    });
    for _ in 0..1000 {
        asker.ask();
    }
    let report = switch.finish();
    assert_eq!(report.dropped("a", "queue_full") + report.dropped("b", "queue_full"), 0, "{report:?}");
    assert!(report.sent_by(&name) > 100);
}

/// Bytes that a socket did not take are kept, and leave when there is room, without another frame.
fn stream_slow_guest_gets_the_rest() {
    let (machine, directory) = (machine(), Directory::new());
    let (path, port) = (directory.path("s"), format!("stream:{}", directory.text("s")));
    let switch = start(&machine, &["--port", &port, "--workers", "2"]);
    let (mut slow, mut fast) = (seated(&switch, &path, "1"), seated(&switch, &path, "2"));
    let wide = |n: u32| frame(station(1), station(9), &[&n.to_be_bytes()[..], &[0x55; 1400]].concat());
    slow.send(&hello(1));
    assert_eq!(fast.recv(), hello(1));
    let name = format!("{}#1", path.display());
    let mut sent = 0;
    while switch.report().dropped(&name, "queue_full") == 0 {
        fast.send(&wide(sent));
        sent += 1;
    }
    let report = switch.settle("all sent", |report| report.received() == u64::from(sent) + 1);
    let taken = report.sent_by(&name);
    assert!(taken * 1400 > 256 << 10, "{report:?}");
    for n in 0..taken as u32 {
        assert_eq!(slow.recv(), wide(n), "in order, and none but the last are missing");
    }
    assert_eq!(slow.recv_within(Duration::from_millis(100)), None);
    switch.finish();
}

/// The switch connects where the guest listens: at start, later, and again.
fn stream_client() {
    let (machine, directory, other) = (machine(), Directory::new(), Host::quiet("other"));
    let path = directory.path("s");
    let port = format!("stream:{}:mode=client", path.display());
    let switch = start(&machine, &["--port", &port, "--tap", &other.port("")]);
    wait::until("a message about it", || switch.has_logged("no guest yet").then_some(()));
    let far = other.raw();
    for round in 10..13 {
        let listener = UnixListener::bind(&path).expect("bound");
        let (stream, _) = listener.accept().expect("it comes");
        let mut guest = StreamGuest::new(stream);
        wait::until("a frame from it", || {
            guest.send(&hello(round));
            far.recv().filter(|frame| *frame == hello(round))
        });
        far.send(&hello(2)).expect("sent");
        assert_eq!(guest.recv(), hello(2));
        drop((listener, guest));
        fs::remove_file(&path).expect("removed");
        wait::until("its entry's end", || (switch.report().table("entries") == 1).then_some(()));
    }
    switch.finish();
}

fn loopback_up(machine: &Host) {
    machine.inside(|| link::set(link::get("lo")?.index, Change { up: Some(true), ..Change::default() }));
}

fn stream_over_tcp() {
    let (machine, other) = (machine(), Host::quiet("other"));
    loopback_up(&machine);
    for address in ["127.0.0.1:5555", "[::1]:5555"] {
        machine.inside(|| fs::write("/proc/sys/net/ipv6/conf/lo/disable_ipv6", "0"));
        let far_host = Host::quiet("far");
        let switch = start(&machine, &["--port", &format!("stream:{address}"), "--tap", &far_host.port("")]);
        let far = far_host.raw();
        let mut guest = StreamGuest::new(machine.inside(|| TcpStream::connect(address)));
        guest.send(&hello(1));
        assert_eq!(wait::until("a frame", || far.recv()), hello(1));
        far.send(&hello(2)).expect("sent");
        assert_eq!(guest.recv(), hello(2));
        let report = switch.finish();
        assert_eq!(report.received_by(&format!("{address}#1")), 1);
    }
    drop(other);
}

fn stream_tcp_client() {
    let (machine, other) = (machine(), Host::quiet("other"));
    loopback_up(&machine);
    let switch = start(&machine, &["--port", "stream:127.0.0.1:5555:mode=client", "--tap", &other.port("")]);
    let far = other.raw();
    for round in 10..12 {
        let listener = machine.inside(|| TcpListener::bind("127.0.0.1:5555"));
        let (stream, _) = listener.accept().expect("it comes");
        let mut guest = StreamGuest::new(stream);
        wait::until("a frame from it", || {
            guest.send(&hello(round));
            far.recv().filter(|frame| *frame == hello(round))
        });
        far.send(&hello(2)).expect("sent");
        assert_eq!(guest.recv(), hello(2));
    }
    switch.finish();
}

/// A connection attempt without an answer is given up and repeated.
fn stream_tcp_guest_is_late() {
    let (machine, guest_host, other) = (machine(), Host::quiet("a"), Host::quiet("other"));
    at_a_veth(&machine, "va", &guest_host);
    machine.inside(|| link::add_address(link::get("va")?.index, Host::address(Ip::V4, 9), 24));
    let address = format!("{}:5555", Host::address(Ip::V4, 1));
    let switch = start(&machine, &["--port", &format!("stream:{address}:mode=client"), "--tap", &other.port("")]);
    let far = other.raw();
    // Until then no host answers the switch's ARP request.
    std::thread::sleep(Duration::from_millis(300));
    guest_host.configure(1);
    let listener = guest_host.inside(|| TcpListener::bind(&address));
    let (stream, _) = listener.accept().expect("it comes");
    let mut guest = StreamGuest::new(stream);
    wait::until("a frame from it", || {
        guest.send(&hello(1));
        far.recv().filter(|frame| *frame == hello(1))
    });
    far.send(&hello(2)).expect("sent");
    assert_eq!(guest.recv(), hello(2));
    switch.finish();
}

/// Guests that connect and leave as fast as they can, some in the middle of a frame, harm no others and leave nothing
/// behind.
fn stream_flapping_guests() {
    let (machine, directory) = (machine(), Directory::new());
    let (a, b) = (Host::new("a"), Host::new("b"));
    let (path, port) = (directory.path("s"), format!("stream:{}:guests=4", directory.text("s")));
    let taps = [a.port(""), b.port("")].join(",");
    let switch = start(&machine, &["--port", &port, "--tap", &taps]);
    a.configure(1);
    b.configure(2);
    let before = switch.descriptors();
    let echo = Echo::on(&b, Ip::V4, 2);
    let mut asker = echo.asked_from(&a, Ip::V4, 1);
    let flapping: Vec<Background> = (0..2)
        .map(|n| {
            let path = path.clone();
            let mut round = n;
            Background::run(move || {
                round += 2;
                let Ok(mut guest) = UnixStream::connect(&path) else { return };
                let bytes = framed(&frame(MacAddr::BROADCAST, station(1000 + round), &[0x55; 900]));
                let _ = guest.write_all(&bytes[..bytes.len() - round as usize % 3 * 100]);
            })
        })
        .collect();
    for _ in 0..2000 {
        asker.ask();
    }
    assert!(flapping.iter().map(Background::rounds).sum::<u64>() > 50);
    flapping.into_iter().for_each(Background::end);
    wait::until("the end of all connections", || (switch.descriptors() == before).then_some(()));
    wait::until("the end of their entries", || (switch.report().table("entries") <= 2).then_some(()));
    // Connections that still wait are accepted first, 64 a second, and one of them may take the last place: then the
    // guest connects again, as monitors do.
    let mut guest = None;
    wait::until("its frame", || {
        let guest = guest.insert(StreamGuest::at(&path));
        guest.send(&hello(1));
        std::thread::sleep(Duration::from_millis(500));
        (switch.report().table("entries") == 3).then_some(())
    });
    switch.finish();
}

/// Guests on every kind of port, behind the router.
fn guests_reach_the_outside() {
    let directory = Directory::new();
    let (stream, dgram) = (directory.path("s"), directory.path("d"));
    let plan = Plan::new(Mode::Own, 1);
    let held = std::cell::Cell::new(None);
    let site = plan
        .args(&["--port", &format!("stream:{}", stream.display()), "--port", "packet:held"])
        .args(&["--port", &format!("dgram:{}", dgram.display())])
        .first(|site| held.set(Some(hold_tap(&site.machine, "held", true))))
        .start();
    let guests = ["stream", "held", "dgram"].map(Host::quiet);
    let cables = [
        Cable::Stream(UnixStream::connect(&stream).expect("connected")),
        Cable::Tap(held.take().expect("a TAP")),
        Cable::Dgram(dgram_guest(&directory.path("guest"), &dgram)),
    ];
    let _monitors: Vec<Monitor> = guests.iter().zip(cables).map(|(guest, cable)| Monitor::of(guest, cable)).collect();
    let listener = listen_on(&site.outside, FAR, 80);
    for (guest, n) in guests.iter().zip(2..) {
        give(guest, guest_address(n), 24);
        default_route(guest, GATEWAY);
        wait::until("the gateway", || guest.try_inside(|| TcpStream::connect((FAR, 80))).ok());
        listener.accept().expect("that one");
        assert_eq!(ping(guest, FAR, u16::from(n)), (FAR, 63));
        let (near, far, peer) = connect(guest, &listener, SocketAddrV4::new(FAR, 80));
        assert_eq!(*peer.ip(), site.address());
        transfer_through(near, far, true);
        // Together with guests on other kinds of port.
        let here = listen_on(site.guest(1), guest_address(1), 81);
        let (near, far, peer) = connect(guest, &here, SocketAddrV4::new(guest_address(1), 81));
        assert_eq!(*peer.ip(), guest_address(n));
        transfer_through(near, far, true);
    }
    site.finish();
}

fn dgram_frames_each_way() {
    let (machine, directory, other) = (machine(), Directory::new(), Host::quiet("other"));
    let (path, remote) = (directory.path("d"), directory.path("guest"));
    let port = format!("dgram:{}:remote={}", path.display(), remote.display());
    let switch = start(&machine, &["--port", &port, "--tap", &other.port("")]);
    let far = other.raw();
    for round in 0..3 {
        let guest = dgram_guest(&remote, &path);
        // The peer is configured, so the guest need not send first.
        far.send(&hello(2)).expect("sent");
        assert_eq!(recv_dgram(&guest), hello(2));
        for len in [46, 100, 1500] {
            let frame = frame(MacAddr::BROADCAST, station(1), &vec![len as u8; len]);
            guest.send(&frame).expect("sent");
            assert_eq!(wait::until("a frame", || far.recv()), frame);
        }
        drop(guest);
        fs::remove_file(&remote).expect("removed");
        // There is no guest: a named drop.
        far.send(&hello(2)).expect("sent");
        switch.settle("a drop", |report| report.dropped(&path.display().to_string(), "port_gone") == round + 1);
    }
    switch.finish();
    assert!(!path.exists(), "the socket file is removed");
}

/// Without `remote=`: vfkit sends first, with four bytes that are not a frame.
fn dgram_replies_to_the_last_sender() {
    let (machine, directory, other) = (machine(), Directory::new(), Host::quiet("other"));
    let path = directory.path("d");
    let switch = start(&machine, &["--port", &format!("dgram:{}", path.display()), "--tap", &other.port("")]);
    let (far, name) = (other.raw(), path.display().to_string());
    far.send(&hello(2)).expect("sent");
    switch.settle("no receiver yet", |report| report.dropped(&name, "port_gone") == 1);
    for n in 0..3 {
        let guest = dgram_guest(&directory.path(&format!("guest{n}")), &path);
        guest.send(b"VFKT").expect("sent");
        switch.settle("no frame", |report| report.dropped(&name, "runt") == 2 * n + 1);
        far.send(&hello(2)).expect("sent");
        assert_eq!(recv_dgram(&guest), hello(2));
        guest.send(&hello(1)).expect("sent");
        assert_eq!(wait::until("a frame", || far.recv()), hello(1));
        // Longer than any frame, so not a frame either.
        guest.send(&[0xff; 69_000]).expect("sent");
        switch.settle("no frame", |report| report.dropped(&name, "runt") == 2 * n + 2);
    }
    // A socket without a path cannot be answered, but its frames are accepted.
    let nameless = UnixDatagram::unbound().expect("a socket");
    nameless.send_to(&hello(5), &path).expect("sent");
    assert_eq!(wait::until("a frame", || far.recv().filter(|frame| *frame == hello(5))), hello(5));
    switch.finish();
}

/// A guest without rights cannot make the switch send to a socket of the host's: neither by a name that is its own only in its
/// mount namespace, nor by a link in its own directory.
fn dgram_confused_deputy() {
    let (machine, directory, other) = (machine(), Directory::new(), Host::quiet("other"));
    let (hosts, home) = (directory.path("host"), directory.path("home"));
    for place in [&hosts, &home] {
        fs::create_dir(place).expect("a directory");
    }
    std::os::unix::fs::chown(&home, Some(STRANGER), None).expect("the guest's directory");
    let (path, remote) = (directory.path("d"), home.join("guest"));
    let ports = [format!("dgram:{}", path.display()), format!("dgram:{}2:remote={}", path.display(), remote.display())];
    let switch = start(&machine, &["--port", &ports[0], "--port", &ports[1], "--tap", &other.port("")]);
    let victim = UnixDatagram::bind(hosts.join("notify")).expect("the host's socket");
    fs::set_permissions(hosts.join("notify"), fs::Permissions::from_mode(0o600)).expect("root's alone");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("open to the guest");
    std::os::unix::fs::symlink(hosts.join("notify"), &remote).expect("a link");
    std::os::unix::fs::lchown(&remote, Some(STRANGER), None).expect("the guest's link");
    let guest = || {
        crate::raw::leave_mounts()?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        named::hide(&hosts.display().to_string())?;
        fs::set_permissions(&hosts, fs::Permissions::from_mode(0o777))?;
        let user = Uid::from_raw(STRANGER);
        set_thread_res_uid(user, user, user)?;
        let guest = UnixDatagram::bind(hosts.join("notify"))?;
        guest.send_to(&hello(1), &path)?;
        std::io::Result::Ok(guest)
    };
    let far = other.raw();
    let guest = std::thread::scope(|scope| scope.spawn(guest).join().expect("no panic")).expect("a guest");
    assert_eq!(wait::until("the guest's frame", || far.recv()), hello(1));
    far.send(&hello(2)).expect("sent");
    let names = ["d", "d2"].map(|name| directory.text(name));
    switch.settle("two drops", |report| names.iter().all(|name| report.dropped(name, "port_gone") >= 1));
    for socket in [&victim, &guest] {
        socket.set_nonblocking(true).expect("set");
        assert!(socket.recv(&mut [0; 2000]).is_err(), "a frame was sent to the host's socket");
    }
    wait::until("the reasons", || (switch.times_logged("frames are not sent to the guest: ") >= 2).then_some(()));
    switch.finish();
}

fn dgram_slow_guest() {
    let (machine, directory) = (machine(), Directory::new());
    let (a, b) = (Host::new("a"), Host::new("b"));
    let path = directory.path("d");
    let taps = [a.port(""), b.port("")].join(",");
    let switch = start(&machine, &["--port", &format!("dgram:{}", path.display()), "--tap", &taps]);
    a.configure(1);
    b.configure(2);
    let asleep = dgram_guest(&directory.path("guest"), &path);
    asleep.send(&hello(1)).expect("sent");
    let far = a.raw();
    let echo = Echo::on(&b, Ip::V4, 2);
    let mut asker = echo.asked_from(&a, Ip::V4, 1);
    let name = path.display().to_string();
    wait::until("a full queue", || {
        for n in 0..50 {
            far.send(&hello(100 + n)).expect("sent");
        }
        asker.ask();
        (switch.report().dropped(&name, "queue_full") > 100).then_some(())
    });
    for _ in 0..500 {
        asker.ask();
    }
    switch.finish();
}

/// A socket file in use is left alone; a stale one is replaced; the switch removes its own.
fn socket_files() {
    let (machine, directory) = (machine(), Directory::new());
    let refused = |args: &[&str], say: &str| {
        let ended = run_inside(machine.netns(), &mut daemon(args));
        assert_eq!(ended.code, Some(1), "{args:?}: {ended:?}");
        assert!(ended.log.contains(say), "{args:?}: not said: {say}\n{}", ended.log);
    };
    let (path, text) = (directory.path("s"), directory.text("s"));
    for kind in ["stream", "dgram"] {
        let port = format!("{kind}:{text}");
        fs::write(&path, "precious").expect("written");
        refused(&["--port", &port], "exists and is not a socket");
        assert_eq!(fs::read(&path).expect("still there"), b"precious");
        fs::remove_file(&path).expect("removed");
        let first = start(&machine, &["--port", &port]);
        refused(&["--port", &port], "is in use by vswitchd");
        // Left behind by a process that was killed.
        drop(first);
        assert!(path.exists());
        let second = start(&machine, &["--port", &port]);
        second.finish();
        assert!(!path.exists());
        refused(&["--port", &format!("{kind}:{text}/no/such")], "create it first");
    }
}

fn check_and_summary() {
    let (machine, directory) = (machine(), Directory::new());
    let (stream, dgram) = (directory.text("s"), directory.text("d"));
    let ports = [format!("stream:{stream}:vlan=10"), format!("dgram:{dgram}:mtu=9000")];
    let args = ["--port", &ports[0], "--port", &ports[1]];
    let ended = run_inside(machine.netns(), &mut daemon(&["--check", args[0], args[1], args[2], args[3]]));
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for line in [format!("port {stream}#1..16: access VLAN 10\n"), format!("port {dgram}: all VLANs\n")] {
        assert!(ended.output.contains(&line), "not said: {line}\n{}", ended.output);
    }
    assert!(!directory.path("s").exists() && !directory.path("d").exists());
    let switch = start(&machine, &args);
    for line in [
        format!("port {stream}#1..16: access VLAN 10, mtu 1500, waits for guests"),
        format!("port {dgram}: all VLANs, mtu 9000, one plain frame per datagram"),
    ] {
        assert!(switch.summary().contains(&line), "not said: {line}\n{:#?}", switch.summary());
    }
    switch.finish();
}
