//! Streams and datagrams between two kernels arrive unchanged, for every pair of settings of ports and hosts.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::sync::OnceLock;
use std::thread;

use libtest_mimic::Trial;

use crate::host::{Host, Ip, bound_in_time};
use crate::raw::set_option;
use crate::switch::{Report, Switch};
use crate::trial;

/// Bytes of one transfer.
const TRANSFER: usize = 10_000_000;

/// The settings of one transfer: nine factors of two levels.
#[derive(Clone, Copy, Debug)]
struct Case {
    client_offload: bool,
    client_gro: bool,
    server_offload: bool,
    server_gro: bool,
    client_stack_alone: bool,
    server_stack_alone: bool,
    ip: Ip,
    both_ways: bool,
    tagged_trunk: bool,
}

impl Case {
    /// The columns of an orthogonal array of sixteen rows: any two factors meet at each of their four pairs of levels,
    /// in four rows each.
    fn of_row(row: u32) -> Case {
        let level = |column: u32| (row & column).count_ones() % 2 == 1;
        Case {
            client_offload: level(1),
            client_gro: level(2),
            server_offload: level(4),
            server_gro: level(8),
            client_stack_alone: level(3),
            server_stack_alone: level(5),
            ip: if level(6) { Ip::V6 } else { Ip::V4 },
            both_ways: level(9),
            tagged_trunk: level(15),
        }
    }

    fn name(self) -> String {
        let word = |on: bool, word: &'static str| if on { word } else { "" };
        [
            "transfer/tcp",
            if self.ip == Ip::V6 { "_v6" } else { "_v4" },
            word(self.client_offload, "_from_offload"),
            word(self.client_gro, "_from_gro"),
            word(self.server_offload, "_to_offload"),
            word(self.server_gro, "_to_gro"),
            word(self.client_stack_alone, "_plain_client"),
            word(self.server_stack_alone, "_plain_server"),
            word(self.both_ways, "_both_ways"),
            word(self.tagged_trunk, "_vlan"),
        ]
        .concat()
    }
}

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials: Vec<Trial> = (0..16).map(Case::of_row).map(|case| trial(case.name(), move || tcp(case))).collect();
    for (name, from, to) in [
        ("transfer/udp_offload_to_offload", true, true),
        ("transfer/udp_offload_to_plain", true, false),
        ("transfer/udp_plain_to_offload", false, true),
        ("transfer/udp_plain_to_plain", false, false),
    ] {
        trials.push(trial(name, move || udp(from, to)));
    }
    trials
}

fn keys(offload: bool, gro: bool, vlan: bool) -> String {
    let word = |on: bool| if on { "on" } else { "off" };
    format!(":offload={}:gro={}{}", word(offload), word(gro), if vlan { ":vlan=10" } else { "" })
}

fn tcp(case: Case) {
    let (client, server) = (Host::new("client"), Host::new("server"));
    let mut ports = vec![
        client.port(&keys(case.client_offload, case.client_gro, case.tagged_trunk)),
        server.port(&keys(case.server_offload, case.server_gro, case.tagged_trunk)),
    ];
    let bystander = Host::quiet("bystander");
    if case.tagged_trunk {
        // Floods leave this port tagged and the server's untagged, in the same batch.
        ports.push(bystander.port(":trunks=10:offload=off"));
    }
    let switch = Switch::between(&ports);
    client.configure(1);
    server.configure(2);
    for (host, alone) in [(&client, case.client_stack_alone), (&server, case.server_stack_alone)] {
        if alone {
            host.turn_offloads_off();
        }
    }
    transfer(&client, (&server, 2), case.ip, case.both_ways);
    let report = switch.finish();
    assert!(report.received_by("client") > 0 && report.sent_by("server") > 0);
    assert_eq!(report.lost(), 0, "{report:?}");
}

/// Sends 10 MB to host `number`, and the same back at the same time if `both_ways`.
pub(crate) fn transfer(client: &Host, (server, number): (&Host, u8), ip: Ip, both_ways: bool) {
    let listener = server.listen(ip, number);
    let to = listener.local_addr().expect("its address");
    let near = client.connect(to);
    let (far, _) = listener.accept().expect("a connection");
    bound_in_time(&far);
    transfer_through(near, far, both_ways);
}

/// The same over an open connection.
pub(crate) fn transfer_through(mut near: TcpStream, mut far: TcpStream, both_ways: bool) {
    thread::scope(|scope| {
        let mut near_again = near.try_clone().expect("a clone");
        let mut far_again = far.try_clone().expect("a clone");
        scope.spawn(move || send_all(&mut near));
        if both_ways {
            scope.spawn(move || send_all(&mut far));
            scope.spawn(move || receive_all(&mut near_again));
        }
        receive_all(&mut far_again);
    });
}

/// Sends the 10 MB.
pub(crate) fn send_all(stream: &mut TcpStream) {
    stream.write_all(pattern()).expect("sent");
    stream.shutdown(std::net::Shutdown::Write).expect("shut down");
}

/// Receives the 10 MB. Bytes are compared as they arrive, so that a difference is found where it begins.
pub(crate) fn receive_all(stream: &mut TcpStream) {
    let mut bytes = vec![0; 256 * 1024];
    let mut at = 0;
    loop {
        let len = match stream.read(&mut bytes) {
            // The machine was stopped for a moment.
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            read => read.expect("received in time"),
        };
        if len == 0 {
            break;
        }
        let expected = pattern().get(at..at + len).expect("no more than was sent");
        if bytes[..len] != *expected {
            let first = bytes.iter().zip(expected).position(|(a, b)| a != b);
            panic!("another byte at {}", at + first.unwrap_or(len));
        }
        at += len;
    }
    assert_eq!(at, TRANSFER, "all arrived");
}

/// Bytes without a period that could hide a lost or duplicated piece (xorshift).
pub(crate) fn pattern() -> &'static [u8] {
    static PATTERN: OnceLock<Vec<u8>> = OnceLock::new();
    PATTERN.get_or_init(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let words = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        words.take(TRANSFER / 8).flatten().collect()
    })
}

/// Single datagrams, and many in one send that the kernel segments or passes on whole (USO).
fn udp(from_offload: bool, to_offload: bool) {
    let (sender, receiver) = (Host::new("sender"), Host::new("receiver"));
    let switch = Switch::between(&[sender.port(&keys(from_offload, true, false)), receiver.port(&keys(to_offload, true, false))]);
    sender.configure(1);
    receiver.configure(2);
    let mut largest = 0;
    for ip in [Ip::V4, Ip::V6] {
        let from = sender.udp(ip, 1);
        let to = receiver.udp(ip, 2);
        from.connect(to.local_addr().expect("its address")).expect("connected");
        // While a host resolves an address, its kernel may let later datagrams overtake those that wait.
        send_datagrams(&from, &to, 1, 1);
        for size in [1, 2, 511, 1000, 1452] {
            send_datagrams(&from, &to, size, 100);
        }
        for (size, count) in [(1000, 2), (1452, 44), (100, 128), (1, 100)] {
            // A multiple of the size, and one with a shorter datagram at the end.
            send_segmented(&from, &to, size, count * size);
            send_segmented(&from, &to, size, count * size - size / 3);
            largest = largest.max(count * size);
        }
    }
    let report = switch.finish();
    assert!(largest > 63_000);
    expect_whole(&report, from_offload, to_offload);
}

/// Sends `count` datagrams of this size, each of which arrives.
pub(crate) fn send_datagrams(from: &UdpSocket, to: &UdpSocket, size: usize, count: usize) {
    for n in 0..count {
        assert_eq!(from.send(&pattern()[n..n + size]).expect("sent"), size);
    }
    let mut bytes = [0; 2048];
    for n in 0..count {
        let len = to.recv(&mut bytes).expect("each arrives");
        assert!(bytes[..len] == pattern()[n..n + size], "datagram {n} of {size} bytes arrived as another, of {len}");
    }
}

/// Sends datagrams of this size in one call.
pub(crate) fn send_segmented(from: &UdpSocket, to: &UdpSocket, size: usize, total: usize) {
    set_option(from, libc::SOL_UDP, libc::UDP_SEGMENT, size as i32).expect("UDP_SEGMENT");
    let payload = &pattern()[..total];
    assert_eq!(from.send(payload).expect("sent"), total);
    set_option(from, libc::SOL_UDP, libc::UDP_SEGMENT, 0).expect("UDP_SEGMENT");
    let mut bytes = [0; 2048];
    for (n, expected) in payload.chunks(size).enumerate() {
        let len = to.recv(&mut bytes).expect("each arrives");
        assert!(bytes[..len] == *expected, "segment {n} of {} bytes arrived as another, of {len}", expected.len());
    }
}

/// With offload at both ends a super-frame crosses whole: as many frames and writes out as frames in.
fn expect_whole(report: &Report, from_offload: bool, to_offload: bool) {
    let (received, writes) = (report.received_by("sender"), report.writes_of("receiver"));
    match (from_offload, to_offload) {
        (true, true) => assert!(writes <= received, "{received} frames in {writes} writes"),
        (true, false) => assert!(writes > received, "{received} frames in {writes} writes"),
        (false, false) => assert!(writes >= received, "{received} frames in {writes} writes"),
        (false, true) => assert!(writes <= received, "{received} frames in {writes} writes"),
    }
    assert_eq!(report.lost(), 0, "{report:?}");
}
