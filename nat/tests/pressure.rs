//! Connections under pressure: shares, and half-open connections that give way to new ones.

use std::net::Ipv4Addr;

use nat::{Endpoint, External, ExternalKind, Filtering, Nat, NatConfig, Protocol, Published, Refused, Side, Timeouts};
use packet::Timestamp;
use packet::checksum::Checksum;
use testkit::packets::{self, ACK, RST, SYN, Tcp, address, ipv4_mut, word};

const OWN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const ONE_TO_ONE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 2);
const PEER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
/// The bridge port of the uplink.
const UPLINK: u16 = 7;
const HTTP: u16 = 80;

/// A translation and its clock.
struct Bench {
    nat: Nat,
    millis: u64,
}

fn guest(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, last)
}

/// An outside client of its own number.
fn client(number: u32) -> Endpoint {
    let [_, a, b, c] = (number / 60_000).to_be_bytes();
    Endpoint::new(Ipv4Addr::new(9, a, b, c), (number % 60_000) as u16 + 1024)
}

fn config() -> NatConfig {
    NatConfig { ports_of_bridge: 8, port_numbers: 8, ..NatConfig::default() }
}

impl Bench {
    fn new(config: NatConfig) -> Bench {
        let bench = Bench { nat: Nat::new(config, [1, 2]).unwrap(), millis: 1000 };
        let externals = [
            External { address: OWN, kind: ExternalKind::Own },
            External { address: ONE_TO_ONE, kind: ExternalKind::OneToOne(guest(99)) },
        ];
        bench.nat.set_externals(&externals, bench.now()).unwrap();
        bench
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.millis)
    }

    fn wait(&mut self, millis: u64) {
        self.millis += millis;
        while self.nat.expire(self.now(), 1000) {}
    }

    fn send(&self, side: Side, mut packet: Vec<u8>, owner: u16) -> Result<Vec<u8>, Refused> {
        self.nat.translate(side, &mut ipv4_mut(&mut packet), Checksum::Verified, owner, self.now()).map(|_| packet)
    }

    /// A first packet of a guest: its outside endpoint.
    fn open(&self, protocol: Protocol, from: Endpoint, to: u16, owner: u16) -> Result<Endpoint, Refused> {
        let to = Endpoint::new(PEER, to);
        let packet = match protocol {
            Protocol::TCP => packets::tcp(from, to, &Tcp::new(SYN, 1000, 0), &[]),
            Protocol::UDP => packets::udp(from, to, b"?"),
            _ => packets::query(8, from.port, from.address, to.address, b"?"),
        };
        let out = self.send(Side::Inside, packet, owner)?;
        Ok(Endpoint::new(address(&out, 12), word(&out, if protocol == Protocol::ICMP { 24 } else { 20 })))
    }

    /// The peer answers, and a guest's handshake is completed. Whether it arrived.
    fn complete(&self, protocol: Protocol, from: Endpoint, outside: Endpoint, to: u16, owner: u16) -> bool {
        let to = Endpoint::new(PEER, to);
        let answer = match protocol {
            Protocol::TCP => packets::tcp(to, outside, &Tcp::new(SYN | ACK, 5000, 1001), &[]),
            Protocol::UDP => packets::udp(to, outside, b"!"),
            _ => packets::query(0, outside.port, to.address, outside.address, b"!"),
        };
        let is_answered = self.send(Side::Outside, answer, UPLINK).is_ok_and(|back| address(&back, 16) == from.address);
        let ack = packets::tcp(from, to, &Tcp::new(ACK, 1001, 5001), &[]);
        is_answered && (protocol != Protocol::TCP || self.send(Side::Inside, ack, owner).is_ok())
    }

    /// A connection of a guest that both ends take part in.
    fn connect(&self, protocol: Protocol, from: Endpoint, to: u16, owner: u16) -> bool {
        self.open(protocol, from, to, owner).is_ok_and(|outside| self.complete(protocol, from, outside, to, owner))
    }

    /// A first packet of an outside client to a published port.
    fn knock(&self, protocol: Protocol, from: Endpoint, to: Endpoint) -> Result<(), Refused> {
        let packet = match protocol {
            Protocol::TCP => packets::tcp(from, to, &Tcp::new(SYN, 1000, 0), &[]),
            _ => packets::udp(from, to, b"?"),
        };
        self.send(Side::Outside, packet, UPLINK).map(drop)
    }

    /// The guest's answer to a client.
    fn answer(&self, protocol: Protocol, from: Endpoint, client: Endpoint, owner: u16) -> bool {
        let packet = match protocol {
            Protocol::TCP => packets::tcp(from, client, &Tcp::new(SYN | ACK, 5000, 1001), &[]),
            _ => packets::udp(from, client, b"!"),
        };
        self.send(Side::Inside, packet, owner).is_ok_and(|out| address(&out, 16) == client.address)
    }

    /// The client's part in an exchange that the guest has answered.
    fn confirm(&self, protocol: Protocol, from: Endpoint, to: Endpoint) -> bool {
        let packet = match protocol {
            Protocol::TCP => packets::tcp(from, to, &Tcp::new(ACK, 1001, 5001), &[]),
            _ => packets::udp(from, to, b"again"),
        };
        self.send(Side::Outside, packet, UPLINK).is_ok()
    }

    /// A client's whole handshake.
    fn serve(&self, protocol: Protocol, from: Endpoint, to: Endpoint, guest: Endpoint, owner: u16) -> bool {
        self.knock(protocol, from, to).is_ok() && self.answer(protocol, guest, from, owner) && self.confirm(protocol, from, to)
    }

    fn publish(&self, protocol: Protocol, port: u16, guest: Endpoint) -> Endpoint {
        self.nat.publish(&Published { protocol, address: OWN, port, guest }, self.now()).unwrap();
        Endpoint::new(OWN, port)
    }

    fn evicted(&self) -> u64 {
        self.nat.stats().evicted
    }
}

/// Two guests scan with all of their ports; a third opens connections as if they were not there.
#[test]
fn two_floods_from_inside_leave_a_third_guest_its_connections() {
    for (protocol, ports) in [(Protocol::TCP, 1024..=65_535), (Protocol::UDP, 60_000..=65_535), (Protocol::ICMP, 1..=1)] {
        let bench = Bench::new(NatConfig { ports, ..config() });
        for port in 1..=if protocol == Protocol::UDP { 6000 } else { 60_000 } {
            for last in [1, 2] {
                let _ = bench.open(protocol, Endpoint::new(guest(last), port), 443, u16::from(last));
            }
        }
        let connected = (0..20).filter(|n| bench.connect(protocol, Endpoint::new(guest(3), 20_000 + n), 443, 3)).count();
        assert_eq!(connected, 20, "{protocol}");
        assert_eq!(bench.nat.stats().connections as u64 + bench.evicted(), bench.nat.stats().opened);
    }
}

/// The same if all of the floods' connections are complete, so that none gives way.
#[test]
fn complete_connections_of_two_guests_leave_a_third_its_own() {
    for protocol in [Protocol::TCP, Protocol::UDP] {
        let bench = Bench::new(NatConfig { ports: 60_001..=65_000, ..config() });
        let flood = |last: u8, port: u16| bench.connect(protocol, Endpoint::new(guest(last), port), 443, u16::from(last));
        let counts = [1u8, 2].map(|last| (1..=5000).filter(|port| flood(last, *port)).count());
        assert!(counts[0] > 3000 && counts.iter().sum::<usize>() < 5000, "{protocol}: {counts:?}");
        let connected = (0..20).filter(|n| bench.connect(protocol, Endpoint::new(guest(3), 20_000 + n), 443, 3)).count();
        assert_eq!((connected, bench.evicted()), (20, 0), "{protocol}");
    }
}

/// Connections that give no port, because they are complete or share it, do not hide those that would.
#[test]
fn a_greedy_port_cannot_hide_what_it_could_give() {
    for completes in [true, false] {
        let bench = Bench::new(NatConfig { ports: 60_001..=60_300, ports_of_bridge: 2, ..config() });
        for n in 0..200 {
            if completes {
                assert!(bench.connect(Protocol::UDP, Endpoint::new(guest(1), 100 + n), 443, 1));
            } else {
                bench.open(Protocol::UDP, Endpoint::new(guest(1), 99), 1000 + n, 1).unwrap();
            }
        }
        for n in 0..if completes { 100 } else { 299 } {
            bench.open(Protocol::UDP, Endpoint::new(guest(1), 1000 + n), 443, 1).unwrap();
        }
        let connected = (0..40).filter(|n| bench.connect(Protocol::UDP, Endpoint::new(guest(3), 20_000 + n), 443, 3)).count();
        assert!(connected > 25, "{connected} of 40");
    }
}

/// A guest's own flood does not lock the guest out, and its complete connections go on.
#[test]
fn a_guest_that_scans_can_still_open_connections() {
    for ports_of_bridge in [2, 8] {
        let limits = NatConfig { max_connections: 8192, max_connections_per_port: 8192, max_ports_per_guest: 65_536, ..config() };
        let bench = Bench::new(NatConfig { ports: 60_000..=65_535, ports_of_bridge, ..limits });
        let mine = Endpoint::new(guest(1), 5000);
        assert!(bench.connect(Protocol::TCP, mine, 80, 1));
        for n in 0..20_000 {
            let _ = bench.open(Protocol::TCP, Endpoint::new(guest(1), 5001 + n), 1000, 1);
        }
        assert!(bench.evicted() > 10_000, "{}", bench.evicted());
        for port in 40_000..40_020 {
            assert!(bench.connect(Protocol::TCP, Endpoint::new(guest(1), port), 22, 1));
        }
        assert!(bench.complete(Protocol::TCP, mine, mine_outside(&bench, mine), 80, 1), "the oldest was complete");
    }
}

fn mine_outside(bench: &Bench, mine: Endpoint) -> Endpoint {
    let found = bench.nat.connections(bench.now()).into_iter().find(|connection| connection.original.src == mine);
    found.unwrap().reply.dst
}

/// The place that a new connection takes is that of the oldest half-open one.
#[test]
fn the_oldest_half_open_connection_gives_way() {
    let bench = Bench::new(NatConfig { max_connections: 1024, max_connections_per_port: 4, ..config() });
    let from = |last| Endpoint::new(guest(1), 2000 + last);
    assert!(bench.connect(Protocol::UDP, from(1), 53, 1));
    for port in 2..5 {
        assert!(bench.open(Protocol::UDP, from(port), 53, 1).is_ok());
    }
    let there = |bench: &Bench| {
        let mut ports: Vec<u16> = bench.nat.connections(bench.now()).iter().map(|conn| conn.original.src.port - 2000).collect();
        ports.sort_unstable();
        ports
    };
    assert!(bench.open(Protocol::UDP, from(5), 53, 1).is_ok());
    assert_eq!((there(&bench), bench.evicted()), (vec![1, 3, 4, 5], 1));
    assert!(bench.complete(Protocol::UDP, from(3), Endpoint::new(OWN, 2003), 53, 1));
    assert!(bench.open(Protocol::UDP, from(6), 53, 1).is_ok());
    assert_eq!((there(&bench), bench.evicted()), (vec![1, 3, 5, 6], 2));
    for port in [5, 6] {
        assert!(bench.complete(Protocol::UDP, from(port), Endpoint::new(OWN, 2000 + port), 53, 1));
    }
    assert_eq!(bench.open(Protocol::UDP, from(7), 53, 1), Err(Refused::PortShare), "complete ones do not");
    assert_eq!(bench.open(Protocol::UDP, Endpoint::new(guest(2), 2007), 53, 2), Ok(Endpoint::new(OWN, 2007)));
}

/// What a rehearsal says of a packet that takes another's place comes true, and changes nothing before.
#[test]
fn the_place_is_decided_before_it_is_taken() {
    let config = NatConfig { ports: 40_000..=40_003, max_connections: 1024, ports_of_bridge: 2, ..config() };
    let bench = Bench::new(config);
    for port in 1..5 {
        assert!(bench.open(Protocol::UDP, Endpoint::new(guest(1), port), 53, 1).is_ok());
    }
    let mut packet = packets::udp(Endpoint::new(guest(2), 9), Endpoint::new(PEER, 53), b"?");
    let decide = |packet: &mut Vec<u8>| {
        let ip = ipv4_mut(packet);
        bench.nat.decide(Side::Inside, ip.view(), Checksum::Verified, 1, bench.now()).unwrap()
    };
    let before = bench.nat.stats();
    let decision = decide(&mut packet);
    assert_eq!((decide(&mut packet), bench.nat.stats()), (decision, before));
    let mut decided = packet.clone();
    decision.write(&mut ipv4_mut(&mut decided), Checksum::Verified);
    assert_eq!(bench.send(Side::Inside, packet, 1), Ok(decided));
    assert_eq!((bench.evicted(), bench.nat.stats().mappings), (1, 4));
}

/// A guest that sends with another's address uses up its own share, never the other's.
#[test]
fn forged_addresses_count_at_the_port_that_sent_them() {
    let bench = Bench::new(NatConfig { max_ports_per_guest: 100, ..config() });
    for port in 1..=10_000 {
        let _ = bench.open(Protocol::UDP, Endpoint::new(guest(2), port), 443, 1);
    }
    let connected = (0..20).filter(|n| bench.connect(Protocol::UDP, Endpoint::new(guest(2), 61_000 + n), 443, 2)).count();
    assert_eq!(connected, 20);
    // However many addresses it invents: none of a guest's own ports, nor a place among the guests, is missing.
    for n in 0..100_000_u32 {
        let [_, a, b, c] = n.to_be_bytes();
        let _ = bench.open(Protocol::UDP, Endpoint::new(Ipv4Addr::new(10, a + 1, b, c), 5000), 443, 1);
    }
    let connected = (0..20).filter(|n| bench.connect(Protocol::UDP, Endpoint::new(guest(3), 62_000 + n), 443, 3)).count();
    assert_eq!(connected, 20);
}

/// 40,000 SYNs a second to a published port, a quarter of which the guest answers: clients come through, with a round-trip
/// time of a tenth of a second. The same with datagrams and a tenth of all.
#[test]
fn a_flood_from_outside_leaves_clients_their_connections() {
    for (protocol, scale) in [(Protocol::TCP, 1), (Protocol::UDP, 10)] {
        let each = NatConfig::default().max_connections_per_port / scale;
        let limits = NatConfig { max_connections: 2 * each, max_connections_per_port: each, ..config() };
        let mut bench = Bench::new(limits);
        let (server, rate) = (Endpoint::new(guest(1), HTTP), 4000 / scale as u32);
        let web = bench.publish(protocol, HTTP, server);
        let old = client(10_000_000);
        assert!(bench.serve(protocol, old, web, server, 1));
        let mut served = 0;
        for turn in 0..30_u32 {
            let honest = client(9_000_000 + turn);
            let is_open = bench.knock(protocol, honest, web).is_ok() && bench.answer(protocol, server, honest, 1);
            for n in 0..rate {
                let forged = client(turn * rate + n);
                let _ = bench.knock(protocol, forged, web);
                if n % 4 == 0 {
                    bench.answer(protocol, server, forged, 1);
                }
            }
            bench.wait(100);
            served += u32::from(is_open && bench.confirm(protocol, honest, web));
        }
        assert_eq!(served, 30, "{protocol}");
        assert!(bench.confirm(protocol, old, web), "{protocol}: a complete connection goes on");
        assert!(bench.evicted() > 50_000 / scale as u64, "{}", bench.evicted());
        // Guests get out, too.
        assert!(bench.connect(protocol, Endpoint::new(guest(3), 5000), 443, 3));
    }
}

/// The same at a guest with an outside address of its own; packets that others send with its address do not count there.
#[test]
fn a_flood_to_a_guest_with_its_own_address_leaves_clients_their_connections() {
    let bench = Bench::new(NatConfig { max_connections: 4096, max_connections_per_port: 2048, ..config() });
    let (web, server) = (Endpoint::new(ONE_TO_ONE, HTTP), Endpoint::new(guest(99), HTTP));
    for port in 0..1500 {
        // Complete connections, so that none of them gives way.
        let from = Endpoint::new(guest(99), 2000 + port);
        assert!(bench.connect(Protocol::UDP, from, 53, 2));
    }
    for n in 0..5000 {
        let _ = bench.knock(Protocol::TCP, client(n), web);
    }
    for n in 0..10 {
        assert!(bench.serve(Protocol::TCP, client(100_000 + n), web, server, 1));
    }
}

/// A flood of one published port takes nothing from another one of the same guest.
#[test]
fn published_ports_are_flooded_one_by_one() {
    let bench = Bench::new(NatConfig { max_connections: 4096, max_connections_per_port: 2048, ..config() });
    let servers = [80, 443].map(|port| Endpoint::new(guest(1), port));
    let published = servers.map(|server| bench.publish(Protocol::TCP, server.port, server));
    for n in 0..2000 {
        let _ = bench.knock(Protocol::TCP, client(n), published[0]);
    }
    for n in 0..2000 {
        let _ = bench.knock(Protocol::TCP, client(10_000 + n), published[1]);
    }
    for n in 0..10 {
        for (server, published) in servers.into_iter().zip(published) {
            assert!(bench.serve(Protocol::TCP, client(100_000 + n), published, server, 1));
        }
    }
}

/// A refused connection counts as half-open: a reset does not keep its place.
#[test]
fn connections_that_were_refused_by_the_peer_give_way() {
    let bench = Bench::new(NatConfig { max_connections: 1024, max_connections_per_port: 4, ..config() });
    for port in 0..20 {
        let from = Endpoint::new(guest(1), 2000 + port);
        let outside = bench.open(Protocol::TCP, from, 80, 1).unwrap();
        let reset = packets::tcp(Endpoint::new(PEER, 80), outside, &Tcp::new(RST | ACK, 0, 1001), &[]);
        assert!(bench.send(Side::Outside, reset, UPLINK).is_ok());
    }
    assert_eq!(bench.evicted(), 16);
}

/// Half-open connections time out after half a minute while three quarters of a limit are used, and after their usual
/// time otherwise.
#[test]
fn half_open_connections_time_out_sooner_under_pressure() {
    for (protocol, usual) in [(Protocol::TCP, 240), (Protocol::UDP, 300), (Protocol::ICMP, 60)] {
        let mut bench = Bench::new(NatConfig { max_connections: 1024, max_connections_per_port: 100, ..config() });
        let open = |bench: &Bench, count: u16, last: u8| {
            for port in 0..count {
                assert!(bench.open(protocol, Endpoint::new(guest(last), 2000 + port), 443, u16::from(last)).is_ok());
            }
        };
        open(&bench, 80, 1);
        open(&bench, 20, 2);
        assert!(bench.connect(protocol, Endpoint::new(guest(1), 9000), 443, 1));
        bench.wait(29_000);
        assert_eq!(bench.nat.stats().connections, 101, "{protocol}");
        (0..6).for_each(|_| bench.wait(1000));
        let left = bench.nat.stats().connections;
        assert!((20 + 1..20 + 75 + 1).contains(&left), "{protocol}: {left} are left");
        (0..usual).for_each(|_| bench.wait(1000));
        // TCP that is complete goes on.
        assert_eq!(bench.nat.stats().connections, usize::from(protocol == Protocol::TCP), "{protocol}");
        assert_eq!(bench.evicted(), 0);
    }
}

/// What a removed port has left gives way to those that are there.
#[test]
fn connections_of_a_removed_port_give_way() {
    let bench = Bench::new(NatConfig { ports_of_bridge: 2, max_ports_per_guest: 65_536, ..config() });
    for port in 1024..=u16::MAX {
        assert!(bench.open(Protocol::UDP, Endpoint::new(guest(1), port), 53, 1).is_ok());
    }
    bench.nat.disown(1);
    let connected = (0..20).filter(|n| bench.connect(Protocol::UDP, Endpoint::new(guest(2), 2000 + n), 53, 1)).count();
    assert_eq!((connected, bench.evicted()), (20, 20));
}

/// The last place of a mapping or a guest can be taken by a connection of the same mapping or guest.
#[test]
fn a_connection_may_take_the_place_of_the_last_one_of_its_own_mapping() {
    for (max_connections_per_port, filtering) in
        [(1, Filtering::AddressAndPortDependent), (2, Filtering::AddressAndPortDependent), (2, Filtering::EndpointIndependent)]
    {
        let bench = Bench::new(NatConfig { max_connections: 1024, max_connections_per_port, filtering, ..config() });
        for to in 0..50 {
            let from = Endpoint::new(guest(1), 5000);
            assert_eq!(bench.open(Protocol::UDP, from, 1000 + to, 1), Ok(Endpoint::new(OWN, 5000)));
        }
        let stats = bench.nat.stats();
        assert_eq!((stats.connections, stats.mappings), (max_connections_per_port, 1));
        bench.nat.flush(bench.now(), |_| true);
        assert_eq!((bench.nat.stats().connections, bench.nat.stats().mappings), (0, 0));
    }
}

/// A half-open connection that is used goes on as long as nobody needs its place: timeouts are those of the configuration.
#[test]
fn without_pressure_nothing_gives_way() {
    let timeouts = Timeouts { udp: 120, ..Timeouts::default() };
    let mut bench = Bench::new(NatConfig { timeouts, ..config() });
    assert!(bench.open(Protocol::UDP, Endpoint::new(guest(1), 5000), 514, 1).is_ok());
    for _ in 0..10 {
        (0..100).for_each(|_| bench.wait(1000));
        assert!(bench.open(Protocol::UDP, Endpoint::new(guest(1), 5000), 514, 1).is_ok());
    }
    let stats = bench.nat.stats();
    assert_eq!((stats.opened, stats.expired, stats.evicted), (1, 0, 0));
}
