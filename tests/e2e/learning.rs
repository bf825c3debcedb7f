//! Learning: which hosts receive a frame, which entries survive a flood of addresses, and the names of the drops.

use std::ops::Range;

use libtest_mimic::Trial;
use packet::MacAddr;

use crate::frames::{frame, is_ours, station};
use crate::host::Host;
use crate::raw::RawSocket;
use crate::switch::Switch;
use crate::{trial, wait};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("learning/unknown_to_all_known_to_one", unknown_to_all_known_to_one),
        trial("learning/a_station_moves", a_station_moves),
        trial("learning/link_local_stays", link_local_stays),
        trial("learning/a_flood_of_addresses_pushes_out_its_own", a_flood_of_addresses_pushes_out_its_own),
        trial("learning/too_long_for_the_port", too_long_for_the_port),
    ]
}

/// Three quiet hosts, a daemon, and a packet socket on each host's interface.
struct Bench {
    switch: Switch,
    sockets: [RawSocket; 3],
    _hosts: [Host; 3],
    sent: u64,
}

impl Bench {
    fn new(extra: &[&str]) -> Bench {
        let hosts = ["a", "b", "c"].map(Host::quiet);
        let ports = hosts.iter().map(|host| host.port("")).collect::<Vec<_>>().join(",");
        let switch = Switch::start(&[&["--tap", &ports], extra].concat());
        let sockets = [&hosts[0], &hosts[1], &hosts[2]].map(Host::raw);
        Bench { switch, sockets, _hosts: hosts, sent: 0 }
    }

    /// Sends a frame from one host. Returns a bit mask of the hosts that received it: 1, 2 and 4.
    fn hear(&mut self, from: usize, bytes: &[u8]) -> u8 {
        self.sockets[from].send(bytes).expect("sent");
        self.sent += 1;
        let sent = self.sent;
        self.switch.settle("the frame", |report| report.received() == sent);
        let mut heard = 0;
        for (n, socket) in self.sockets.iter().enumerate() {
            while let Some(got) = socket.recv() {
                assert_eq!(got, bytes);
                heard |= 1 << n;
            }
        }
        heard
    }

    /// Sends frames from a station until its address is learned, `entries` in all. A worker does not wait for the
    /// table's lock, held for a report for example, but leaves the source unlearned.
    fn teach(&mut self, from: usize, number: u32, entries: u64) {
        wait::until("the address to be learned", || {
            self.hear(from, &frame(MacAddr::BROADCAST, station(number), b"here"));
            (self.switch.report().table("entries") == entries).then_some(())
        });
    }

    /// Sends a frame from each of these invented stations to another of them; receivers are not checked.
    fn invent(&mut self, from: usize, numbers: Range<u32>) {
        const FIRST: u32 = 1000;
        // As many at a time as the TAP's queue holds.
        for n in numbers {
            let invented = frame(station(FIRST - 1), station(FIRST + n), b"invented");
            self.sockets[from].send(&invented).expect("sent");
            self.sent += 1;
            if n % 500 == 499 {
                let sent = self.sent;
                self.switch.settle("the flood so far", |report| report.received() == sent);
                for socket in &self.sockets {
                    while let Some(bytes) = socket.recv() {
                        assert!(is_ours(&bytes));
                    }
                }
            }
        }
    }
}

const A: usize = 0;
const B: usize = 1;
const C: usize = 2;

fn unknown_to_all_known_to_one() {
    let mut bench = Bench::new(&[]);
    assert_eq!(bench.hear(A, &frame(station(2), station(1), b"who is 2?")), 0b110);
    bench.teach(A, 1, 1);
    assert_eq!(bench.hear(B, &frame(station(1), station(2), b"I am")), 0b001);
    bench.teach(B, 2, 2);
    assert_eq!(bench.hear(A, &frame(station(2), station(1), b"good")), 0b010);
    assert_eq!(bench.hear(C, &frame(station(2), station(3), b"me too")), 0b010);
    bench.teach(C, 3, 3);
    assert_eq!(bench.hear(A, &frame(MacAddr::BROADCAST, station(1), b"all")), 0b110);
    assert_eq!(bench.hear(A, &frame(MacAddr([1, 0, 0x5e, 0, 0, 251]), station(1), b"a group")), 0b110);
    assert_eq!(bench.hear(A, &frame(station(11), station(10), b"one more behind A")), 0b110);
    bench.teach(A, 10, 4);
    assert_eq!(bench.hear(A, &frame(station(10), station(1), b"both behind A")), 0);
    let report = bench.switch.finish();
    assert_eq!((report.table("entries"), report.table("learned"), report.table("moved")), (4, 4, 0));
    assert_eq!((report.dropped("a", "same_port"), report.all_dropped()), (1, 1));
}

fn a_station_moves() {
    let mut bench = Bench::new(&[]);
    bench.teach(A, 1, 1);
    bench.teach(C, 3, 2);
    assert_eq!(bench.hear(C, &frame(station(1), station(3), b"to A")), 0b001);
    wait::until("the move", || {
        bench.hear(B, &frame(MacAddr::BROADCAST, station(1), b"now at B"));
        (bench.switch.report().table("moved") == 1).then_some(())
    });
    assert_eq!(bench.hear(C, &frame(station(1), station(3), b"to B")), 0b010);
    let report = bench.switch.finish();
    assert_eq!((report.table("entries"), report.table("moved")), (2, 1));
}

/// Link-local group addresses (IEEE 802.1D table 7-10) are dropped under a name of their own; the next address is
/// flooded like any group address.
fn link_local_stays() {
    let mut bench = Bench::new(&[]);
    for last in [0x00, 0x02, 0x0e, 0x0f] {
        assert_eq!(bench.hear(A, &frame(MacAddr([1, 0x80, 0xc2, 0, 0, last]), station(1), b"next box")), 0);
    }
    assert_eq!(bench.hear(A, &frame(MacAddr([1, 0x80, 0xc2, 0, 0, 0x10]), station(1), b"all")), 0b110);
    let report = bench.switch.finish();
    assert_eq!((report.dropped("a", "link_local"), report.all_dropped()), (4, 4));
}

/// 20,000 invented sources on a table of 64 entries: two other stations' entries survive, so a third host receives
/// nothing of what they send to each other.
fn a_flood_of_addresses_pushes_out_its_own() {
    const FLOOD: u32 = 20_000;
    let mut bench = Bench::new(&["--mac-table-size", "64"]);
    bench.teach(A, 1, 1);
    bench.teach(B, 2, 2);
    for numbers in [0..1000, 1000..FLOOD] {
        bench.invent(C, numbers);
        assert_eq!(bench.hear(A, &frame(station(2), station(1), b"to one only")), 0b010);
        assert_eq!(bench.hear(B, &frame(station(1), station(2), b"to one only")), 0b001);
    }
    let report = bench.switch.finish();
    // Not every invented source is learned: a worker never waits for the table's lock, and a source whose eight slots
    // are taken evicts an entry although others are free.
    assert!(report.table("learned") > u64::from(FLOOD) / 2);
    assert!((60..=64).contains(&report.table("entries")), "{report:?}");
    assert_eq!(report.table("evicted"), report.table("learned") - report.table("entries"));
}

/// A frame longer than the MTU of its egress port is dropped there, with and without a tag, known and flooded; a frame
/// of exactly that length passes.
fn too_long_for_the_port() {
    let hosts = ["a", "b", "c"].map(Host::quiet);
    let switch = Switch::between(&[hosts[A].port(":mtu=1500"), hosts[B].port(":mtu=1000"), hosts[C].port("")]);
    let sockets = [&hosts[0], &hosts[1], &hosts[2]].map(Host::raw);
    assert_eq!(hosts[B].link().mtu, 1000);
    let mut bench = Bench { switch, sockets, _hosts: hosts, sent: 0 };
    let of_len = |dst, len: usize| frame(dst, station(1), &vec![0x77; len]);
    assert_eq!(bench.hear(A, &of_len(MacAddr::BROADCAST, 1000)), 0b110);
    assert_eq!(bench.hear(A, &of_len(MacAddr::BROADCAST, 1001)), 0b100);
    bench.teach(A, 1, 1);
    bench.teach(B, 2, 2);
    assert_eq!(bench.hear(A, &of_len(station(2), 1000)), 0b010);
    assert_eq!(bench.hear(A, &of_len(station(2), 1001)), 0);
    let tag = |bytes: &[u8]| crate::frames::tagged(bytes, crate::frames::DOT1Q, 10);
    assert_eq!(bench.hear(A, &tag(&of_len(MacAddr::BROADCAST, 1000))), 0b110);
    assert_eq!(bench.hear(A, &tag(&of_len(MacAddr::BROADCAST, 1001))), 0b100);
    let report = bench.switch.finish();
    assert_eq!((report.dropped("a", "too_long"), report.all_dropped()), (3, 3));
}
