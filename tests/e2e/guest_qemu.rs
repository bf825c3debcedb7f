//! Real guests, joined in every way, beside namespaces and behind the router. QEMU is their monitor; see
//! [`crate::guest_machine`].

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;

use libtest_mimic::Trial;
use netio::link::{self, Change};

use crate::guest_image::what_is_missing;
use crate::guest_machine::{Guest, Place};
use crate::host::{Host, bound_in_time};
use crate::raw::make_persistent_tap;
use crate::site::{FAR, GATEWAY, MACHINE, Mode, Plan, Site, guest_address, listen_on, ping, udp_on};
use crate::transfer::{pattern, receive_all, send_all, transfer_through};
use crate::{trial_with, wait};

pub(crate) fn trials() -> Vec<Trial> {
    [Way::Tap, Way::Stream, Way::Dgram]
        .map(|way| trial_with(format!("guest/joins_by_{}", way.word()), what_is_missing, move || joins(way)))
        .into()
}

/// What joins a guest's monitor to the switch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// A TAP that the monitor holds.
    Tap,
    /// A stream socket: the first guest's monitor connects to the switch, the switch to the second's.
    Stream,
    /// Two datagram sockets.
    Dgram,
}

/// Numbers of the two guests; those of the namespaces are 1 and 2.
const FIRST: u8 = 3;
const SECOND: u8 = 4;

/// Another address at which the first guest can join by a stream.
const BY_TCP: &str = "127.0.0.1:5558";

/// The TCP port on which a guest or a namespace receives a file.
const PORT: u16 = 5001;

impl Way {
    fn word(self) -> &'static str {
        match self {
            Way::Tap => "tap",
            Way::Stream => "stream",
            Way::Dgram => "dgram",
        }
    }

    /// The port of guest `n`, for the switch.
    fn port(self, place: &Place, n: u8) -> String {
        match self {
            Way::Tap => format!("packet:tap{n}"),
            Way::Stream if n == FIRST => format!("stream:{}", place.path("switch")),
            Way::Stream => format!("stream:{}:mode=client", place.path("guest")),
            Way::Dgram => {
                format!("dgram:{}:remote={}", place.path(&format!("switch{n}")), place.path(&format!("guest{n}")))
            }
        }
    }

    /// The same for its monitor.
    fn netdev(self, place: &Place, n: u8) -> String {
        match self {
            Way::Tap => format!("tap,ifname=tap{n},script=no,downscript=no"),
            Way::Stream if n == FIRST => format!("stream,server=off,addr.type=unix,addr.path={}", place.path("switch")),
            Way::Stream => format!("stream,server=on,addr.type=unix,addr.path={}", place.path("guest")),
            Way::Dgram => format!(
                "dgram,local.type=unix,local.path={},remote.type=unix,remote.path={}",
                place.path(&format!("guest{n}")),
                place.path(&format!("switch{n}"))
            ),
        }
    }

    /// The name of that port.
    fn name(self, place: &Place, n: u8) -> String {
        match self {
            Way::Tap => format!("tap{n}"),
            Way::Stream if n == FIRST => format!("{}#1", place.path("switch")),
            Way::Stream => place.path("guest"),
            Way::Dgram => place.path(&format!("switch{n}")),
        }
    }

    fn site(self, place: &Place) -> Site {
        let ports = [FIRST, SECOND].map(|n| self.port(place, n));
        let publish = format!("8080:{}:80", guest_address(FIRST));
        let mut plan = Plan::new(Mode::Shared, 2).args(&["--port", &ports[0], "--port", &ports[1], "--publish", &publish]);
        if self == Way::Stream {
            plan = plan.args(&["--port", &format!("stream:{BY_TCP}")]);
        }
        if self == Way::Tap {
            for name in ["tap3", "tap4"] {
                plan = plan.first(|site| make_tap(&site.machine, name));
            }
        }
        plan.start()
    }

    fn start(self, site: &Site, place: &Place, n: u8) -> Guest {
        Guest::start(&site.machine, place, n, &self.netdev(place, n))
    }
}

/// Least number of frames that 10 MB take.
const FRAMES_OF_A_FILE: u64 = 6850;

/// Creates the TAP as an operator does for a monitor that opens it later.
fn make_tap(machine: &Host, name: &str) {
    machine.inside(|| {
        make_persistent_tap(name)?;
        link::set(link::get(name)?.index, Change { up: Some(true), ..Change::default() })
    });
}

fn joins(way: Way) {
    let place = Place::new();
    let mut site = way.site(&place);
    let guests = [FIRST, SECOND].map(|n| way.start(&site, &place, n));
    let [mut first, mut second] = guests.map(Guest::boot);
    all_hear_each_other(&site, &mut first, &mut second);
    gets_a_page_from_outside(&site, &mut first);
    is_reached_from_outside(&site, &mut first);
    files_arrive(&site, &mut first, &mut second);
    if way == Way::Tap {
        let writes = site.switch().report().writes_of(&way.name(&place, FIRST));
        assert!(writes < FRAMES_OF_A_FILE / 2, "super-frames cross whole: {writes} writes");
    }
    a_stopped_monitor_slows_nobody(&site, &mut second);
    let report = site.switch().report();
    let dropped = |port: &str| report.dropped(port, "queue_full");
    // The kernel counts the frames of a TAP.
    assert_eq!(dropped(&way.name(&place, SECOND)) > 0, way != Way::Tap, "{report:?}");
    assert_eq!(dropped("g1") + dropped("g2"), 0, "{report:?}");

    drop(first);
    let mut first = way.start(&site, &place, FIRST).boot();
    all_hear_each_other(&site, &mut first, &mut second);

    site.restart();
    site.configure_guests();
    // QEMU 7.2 does not reconnect by itself. It is started again, with the options of older versions and of libvirt.
    if way == Way::Stream {
        drop(first);
        first = Guest::start(&site.machine, &place, FIRST, &format!("socket,connect={BY_TCP}")).boot();
    }
    all_hear_each_other(&site, &mut first, &mut second);
    site.finish();
}

/// Guests, namespaces and the router. A namespace's MAC address changes at a restart; it speaks first, so that the
/// others learn it at once.
fn all_hear_each_other(site: &Site, first: &mut Guest, second: &mut Guest) {
    for guest in [&mut *first, &mut *second] {
        guest.pings(GATEWAY);
        assert_eq!(ping(site.guest(1), guest.address(), 1).0, guest.address());
        guest.pings(guest_address(1));
    }
    first.pings(second.address());
}

fn gets_a_page_from_outside(site: &Site, guest: &mut Guest) {
    let listener = listen_on(&site.outside, FAR, 80);
    let page = thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, from) = accept(&listener);
            assert_eq!(from.ip(), MACHINE, "translated");
            read_head(&mut stream);
            stream.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 15\r\n\r\nthe wide world\n").expect("sent");
        });
        guest.says(&format!("wget -q -O - http://{FAR}/"))
    });
    assert_eq!(page, "the wide world");
}

/// Reads to the empty line that ends a request.
fn read_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("received in time");
        head.extend(byte);
    }
}

fn is_reached_from_outside(site: &Site, guest: &mut Guest) {
    guest.says("echo a guest at home > /www/page && httpd -h /www");
    let mut stream = site.outside.connect((MACHINE, 8080).into());
    stream.write_all(b"GET /page HTTP/1.0\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("received in time");
    assert!(answer.contains(" 200 OK\r\n") && answer.ends_with("\r\n\r\na guest at home\n"), "{answer}");
}

/// From a namespace to a guest, from there to another guest, and from there to a namespace.
fn files_arrive(site: &Site, first: &mut Guest, second: &mut Guest) {
    first.says(&receive());
    send_all(&mut first.connect(site.guest(1), PORT));
    assert_eq!(first.says(RECEIVED), digest());

    second.says(&receive());
    first.says(&format!("until nc {} {PORT} < /tmp/file; do sleep 0.1; done", second.address()));
    assert_eq!(second.says(RECEIVED), digest());

    let listener = listen_on(site.guest(2), guest_address(2), PORT);
    second.says(&format!("nc {} {PORT} < /tmp/file &", guest_address(2)));
    receive_all(&mut accept(&listener).0);
}

/// A guest that writes the next connection's bytes to a file.
fn receive() -> String {
    format!("nc -l -p {PORT} -e dd of=/tmp/file bs=64k 2> /dev/null &")
}

/// Returns the checksum of that file.
const RECEIVED: &str = "wait $! && sha256sum < /tmp/file | cut -d ' ' -f 1";

fn digest() -> String {
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sha256sum");
    child.stdin.take().expect("its input").write_all(pattern()).expect("read");
    let output = child.wait_with_output().expect("its output");
    String::from_utf8(output.stdout).expect("text").split_whitespace().next().expect("a digest").to_owned()
}

/// The next connection, and the address that it comes from.
fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    listener.set_nonblocking(true).expect("set");
    let (stream, from) = wait::until("a connection", || listener.accept().ok());
    bound_in_time(&stream);
    (stream, from)
}

/// More datagrams than all queues to a guest hold.
const FLOOD: usize = 5000;

/// Other hosts' frames pass while a guest reads none; later that guest goes on too.
fn a_stopped_monitor_slows_nobody(site: &Site, guest: &mut Guest) {
    guest.says(&receive());
    let mut stream = guest.connect(site.guest(1), PORT);
    let listener = listen_on(site.guest(2), guest_address(2), PORT);
    let (begin, rest) = pattern().split_at(pattern().len() / 4);
    stream.write_all(begin).expect("sent");
    guest.stop();
    thread::scope(|scope| {
        scope.spawn(move || {
            stream.write_all(rest).expect("sent");
            stream.shutdown(Shutdown::Write).expect("shut down");
        });
        let flood = udp_on(site.guest(1), guest_address(1), 0);
        for _ in 0..FLOOD {
            flood.send_to(&[0; 1400], (guest.address(), PORT)).expect("sent");
        }
        let near = site.guest(1).connect(SocketAddr::from((guest_address(2), PORT)));
        transfer_through(near, accept(&listener).0, true);
        guest.go_on();
    });
    assert_eq!(guest.says(RECEIVED), digest());
}
