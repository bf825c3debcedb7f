//! Many workers share one translation while rules change: no flow gets the endpoint of another.
//!
//! The flows of steady guests keep their translation throughout, whatever happens to the fleeting ones, whose
//! connections expire, are flushed, lose their ports to published ones and change addresses.

#![expect(clippy::disallowed_methods, reason = "the test runs for a time, and with threads of its own")]

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use nat::{Endpoint, External, ExternalKind, Nat, NatConfig, Protocol, Published, Refused, Side, Timeouts};
use packet::Timestamp;
use packet::checksum::Checksum;
use testkit::packets::{self, ipv4_mut};
use testkit::packets::{ACK, SYN, Tcp, address, word};

const WORKERS: u8 = 4;
const FLOWS: u16 = 40;
const DURATION: Duration = Duration::from_secs(3);
const OWN: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2)];
const THEIRS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 3);
const PEER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);

struct Bench {
    nat: Nat,
    millis: AtomicU64,
    is_over: AtomicBool,
    /// The inside endpoint of each outside endpoint of a steady flow.
    holders: Mutex<HashMap<(u8, Endpoint), Endpoint>>,
}

impl Bench {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.millis.load(Ordering::Relaxed))
    }

    fn send(&self, side: Side, mut packet: Vec<u8>, owner: u8) -> Result<Vec<u8>, Refused> {
        self.nat.translate(side, &mut ipv4_mut(&mut packet), Checksum::Complete, u16::from(owner), self.now()).map(|_| packet)
    }

    /// Checks that no other inside endpoint has this outside endpoint.
    fn claim(&self, protocol: u8, outside: Endpoint, inside: Endpoint) {
        let holder = *self.holders.lock().unwrap().entry((protocol, outside)).or_insert(inside);
        assert_eq!(holder, inside, "{outside} is {holder}'s");
    }
}

fn steady(worker: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, worker + 1)
}

fn fleeting(worker: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 1, worker + 1)
}

fn src(packet: &[u8]) -> Endpoint {
    Endpoint::new(address(packet, 12), word(packet, 20))
}

fn dst(packet: &[u8]) -> Endpoint {
    Endpoint::new(address(packet, 16), word(packet, 22))
}

/// A packet of a flow and its reply. `known` is the flow's outside endpoint so far.
fn round_trip(bench: &Bench, worker: u8, port: u16, peer: Endpoint, known: &mut Option<Endpoint>) {
    let inside = Endpoint::new(steady(worker % 2), port);
    let out = bench.send(Side::Inside, packets::udp(inside, peer, b"there"), worker).unwrap();
    assert_eq!(dst(&out), peer);
    let outside = *known.get_or_insert(src(&out));
    assert_eq!(src(&out), outside, "{inside} has another outside endpoint");
    assert_eq!(Some(word(&out, 26)), packets::transport_checksum(&out));
    bench.claim(17, outside, inside);
    let back = bench.send(Side::Outside, packets::udp(peer, outside, b"back"), worker).unwrap();
    assert_eq!((src(&back), dst(&back)), (peer, inside));
}

/// Data of a TCP connection whose directions are carried by different workers.
fn data(bench: &Bench, worker: u8, port: u16, outside: Endpoint) {
    let inside = Endpoint::new(steady(worker % 2), port);
    let peer = Endpoint::new(PEER, 443);
    if worker < 2 {
        let out = bench.send(Side::Inside, packets::tcp(inside, peer, &Tcp::new(ACK, 1001, 5001), b"data"), worker).unwrap();
        assert_eq!((src(&out), dst(&out)), (outside, peer));
    } else {
        let back = bench.send(Side::Outside, packets::tcp(peer, outside, &Tcp::new(ACK, 5001, 1001), b"data"), worker).unwrap();
        assert_eq!((src(&back), dst(&back)), (peer, inside));
    }
}

fn open_tcp(bench: &Bench, guest: Ipv4Addr, port: u16) -> Endpoint {
    let (inside, peer) = (Endpoint::new(guest, port), Endpoint::new(PEER, 443));
    let out = bench.send(Side::Inside, packets::tcp(inside, peer, &Tcp::new(SYN, 1000, 0), &[]), 0).unwrap();
    let outside = src(&out);
    bench.send(Side::Outside, packets::tcp(peer, outside, &Tcp::new(SYN | ACK, 5000, 1001), &[]), 0).unwrap();
    bench.send(Side::Inside, packets::tcp(inside, peer, &Tcp::new(ACK, 1001, 5001), &[]), 0).unwrap();
    bench.claim(6, outside, inside);
    outside
}

/// Two workers carry the flows of one steady guest, so that both open the same flows at once.
fn work(bench: &Bench, worker: u8, tcp: &[[Endpoint; 4]; 2]) -> u64 {
    let mut rounds = 0;
    let mut known = vec![None; usize::from(FLOWS)];
    while !bench.is_over.load(Ordering::Relaxed) {
        for flow in 0..FLOWS {
            let peer = Endpoint::new(PEER, 1000 + (rounds % 500) as u16 + u16::from(worker / 2) * 500);
            round_trip(bench, worker, 2000 + flow, peer, &mut known[usize::from(flow)]);
        }
        for (at, outside) in tcp[usize::from(worker % 2)].iter().enumerate() {
            data(bench, worker, 3000 + at as u16, *outside);
        }
        for n in 0..20u16 {
            flee(bench, worker, 4000 + (rounds as u16).wrapping_mul(7) % 40 + n);
        }
        rounds += 1;
    }
    rounds
}

/// A fleeting guest's packet leaves with an outside address, or is refused for a valid reason.
fn flee(bench: &Bench, worker: u8, port: u16) {
    let inside = Endpoint::new(fleeting(worker % 3), port);
    let peer = Endpoint::new(PEER, 53);
    match bench.send(Side::Inside, packets::tcp(inside, peer, &Tcp::new(SYN, 1000, 0), &[]), worker) {
        Ok(out) => {
            let outside = src(&out);
            assert!(OWN.contains(&outside.address) || outside.address == THEIRS, "{outside}");
            assert_eq!(dst(&out), peer);
            let answer = bench.send(Side::Outside, packets::tcp(peer, outside, &Tcp::new(SYN | ACK, 5000, 1001), &[]), worker);
            // It may have ended, and its port belong to another guest, but only to one that has sent to this peer.
            if let Ok(back) = answer {
                assert!((4000..4100).contains(&dst(&back).port), "{}", dst(&back));
                assert_eq!(address(&back, 16).octets()[2], 1, "a steady guest got it");
            }
        }
        Err(refused) => assert!(matches!(refused, Refused::NoAddress | Refused::Clash | Refused::OutOfWindow), "{refused:?}"),
    }
}

/// Changes rules, advances time, ends connections.
fn disturb(bench: &Bench) {
    let own = OWN.map(|address| External { address, kind: ExternalKind::Own });
    let theirs = External { address: THEIRS, kind: ExternalKind::OneToOne(fleeting(0)) };
    let mut published = Vec::new();
    for round in 0u16.. {
        if bench.is_over.load(Ordering::Relaxed) {
            break;
        }
        bench.millis.fetch_add(200, Ordering::Relaxed);
        let (now, port) = (bench.now(), 4000 + round % 60 * 13 % 60);
        match round % 8 {
            0 => assert_eq!(bench.nat.set_externals(&[own[0], own[1], theirs], now), Ok(())),
            4 => assert_eq!(bench.nat.set_externals(&own, now), Ok(())),
            1 | 5 => {
                for address in OWN {
                    let rule = Published { protocol: Protocol::TCP, address, port, guest: Endpoint::new(fleeting(3), port) };
                    if bench.nat.publish(&rule, now).is_ok() {
                        published.push((address, port));
                    }
                }
            }
            2 | 6 => drop(bench.nat.flush(now, |connection| connection.original.src.address == fleeting(round as u8 % 3))),
            3 => drop(bench.nat.expire(now, 100)),
            _ => {
                for (address, port) in published.drain(..) {
                    assert!(bench.nat.unpublish(address, Protocol::TCP, port, now));
                }
            }
        }
    }
    for (address, port) in published {
        assert!(bench.nat.unpublish(address, Protocol::TCP, port, bench.now()));
    }
}

#[test]
fn nobody_gets_anothers_endpoint() {
    let forever = 10_000_000;
    let timeouts = Timeouts { udp: forever, tcp_established: forever, tcp_opening: 5, ..Timeouts::default() };
    let config = NatConfig { max_connections: 200_000, max_connections_per_port: 200_000, timeouts, ..NatConfig::default() };
    let bench = Bench {
        nat: Nat::new(config, [1, 2]).unwrap(),
        millis: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
        holders: Mutex::new(HashMap::new()),
    };
    let own = OWN.map(|address| External { address, kind: ExternalKind::Own });
    bench.nat.set_externals(&own, bench.now()).unwrap();
    let tcp = [0, 1].map(|guest| [3000, 3001, 3002, 3003].map(|port| open_tcp(&bench, steady(guest), port)));
    let rounds = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                scope.spawn({
                    let (bench, tcp) = (&bench, &tcp);
                    move || work(bench, worker, tcp)
                })
            })
            .collect();
        let disturber = scope.spawn(|| disturb(&bench));
        let start = Instant::now();
        while start.elapsed() < DURATION && !workers.iter().any(ScopedJoinHandle::is_finished) && !disturber.is_finished() {
            std::thread::sleep(Duration::from_millis(20));
        }
        bench.is_over.store(true, Ordering::Relaxed);
        let rounds: Vec<u64> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        disturber.join().unwrap();
        rounds
    });
    assert!(rounds.iter().all(|rounds| *rounds > 0), "{rounds:?}");
    each_endpoint_is_one_guests(&bench);
    bench.nat.flush(bench.now(), |_| true);
    let stats = bench.nat.stats();
    assert_eq!((stats.connections, stats.mappings), (0, 0), "all is given back");
}

fn each_endpoint_is_one_guests(bench: &Bench) {
    let mut tuples = std::collections::HashSet::new();
    let mut holders = HashMap::new();
    for connection in bench.nat.connections(bench.now()) {
        let (original, reply) = (connection.original, connection.reply);
        assert!(tuples.insert(original) && tuples.insert(reply), "{original:?} twice");
        let (outside, inside) = if original.side == Side::Inside { (reply.dst, original.src) } else { (original.dst, reply.src) };
        let holder = *holders.entry((original.protocol, outside)).or_insert(inside);
        assert_eq!(holder, inside, "two have {outside}");
    }
}
