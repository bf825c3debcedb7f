//! Workers with a cache of flows against one without: the same packets, rules, timeouts and ends of connections in both. Whatever
//! happens, each packet gets the same answer and becomes the same bytes.

use std::net::Ipv4Addr;

use nat::{Endpoint, External, ExternalKind, FlowCache, Nat, NatConfig, Protocol, Published, Side, Timeouts};
use packet::Timestamp;
use packet::checksum::Checksum;
use proptest::prelude::*;
use testkit::packets::{self, ACK, FIN, RST, SYN, Tcp, address, ipv4_mut, word};

const OUTSIDE: [Ipv4Addr; 2] = [Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2)];

/// What happens.
#[derive(Clone, Debug)]
enum Step {
    /// A packet of a guest, or one that comes back for what the last such packet became.
    Packet {
        guest: u8,
        port: u16,
        peer: u8,
        tcp: bool,
        comes_back: bool,
        flags: u8,
        sequence: u32,
        checksum: Checksum,
    },
    Wait {
        millis: u64,
    },
    Externals {
        kinds: [Option<ExternalKind>; 2],
    },
    Publish {
        port: u16,
        guest: u8,
    },
    Unpublish {
        port: u16,
    },
    Flush {
        guest: u8,
    },
    Timeouts {
        secs: u32,
    },
    Expire,
}

fn any_step() -> impl Strategy<Value = Step> {
    let flags = prop::sample::select(vec![SYN, SYN | ACK, ACK, ACK, ACK, ACK, FIN | ACK, RST, RST | ACK, 0]);
    let checksum = prop::sample::select(vec![Checksum::Complete, Checksum::Verified, Checksum::Partial]);
    let packet = (0..3u8, 0..3u16, 0..2u8, any::<bool>(), any::<bool>(), flags, 0..3u32, checksum);
    let guest = Ipv4Addr::new(10, 0, 0, 2);
    let kind =
        prop::sample::select(vec![None, Some(ExternalKind::Own), Some(ExternalKind::Own), Some(ExternalKind::OneToOne(guest))]);
    prop_oneof![
        40 => packet.prop_map(|(guest, port, peer, tcp, comes_back, flags, sequence, checksum)| {
            Step::Packet { guest, port, peer, tcp, comes_back, flags, sequence, checksum }
        }),
        4 => prop_oneof![0..1500u64, 0..400_000u64].prop_map(|millis| Step::Wait { millis }),
        1 => [kind.clone(), kind].prop_map(|kinds| Step::Externals { kinds }),
        1 => (0..3u16, 0..3u8).prop_map(|(port, guest)| Step::Publish { port, guest }),
        1 => (0..3u16).prop_map(|port| Step::Unpublish { port }),
        1 => (0..3u8).prop_map(|guest| Step::Flush { guest }),
        1 => prop::sample::select(vec![1u32, 30, 300, 7440]).prop_map(|secs| Step::Timeouts { secs }),
        1 => Just(Step::Expire),
    ]
}

fn guest_of(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 0, 1 + number)
}

/// A translation whose packets go through the caches of two workers in turn, and one without.
struct Pair {
    cached: Nat,
    plain: Nat,
    flows: [FlowCache; 2],
    now: Timestamp,
}

impl Pair {
    fn new() -> Pair {
        let new = || {
            let nat = Nat::new(NatConfig { tcp_loose: true, ..NatConfig::default() }, [1, 2]).unwrap();
            nat.set_externals(&[External { address: OUTSIDE[0], kind: ExternalKind::Own }], Timestamp::default()).unwrap();
            nat
        };
        Pair { cached: new(), plain: new(), flows: Default::default(), now: Timestamp::from_secs(1) }
    }

    fn both<T: PartialEq + std::fmt::Debug>(&self, work: impl Fn(&Nat) -> T) -> T {
        let result = work(&self.cached);
        assert_eq!(result, work(&self.plain));
        result
    }

    /// Translates a packet in both, and returns what it becomes.
    fn translate(&mut self, side: Side, packet: &[u8], checksum: Checksum) -> Option<Vec<u8>> {
        let [mut cached, mut plain] = [packet.to_vec(), packet.to_vec()];
        self.flows.swap(0, 1);
        let outcome = self.cached.translate_by(Some(&mut self.flows[0]), side, &mut ipv4_mut(&mut cached), checksum, 3, self.now);
        assert_eq!(outcome, self.plain.translate(side, &mut ipv4_mut(&mut plain), checksum, 3, self.now));
        assert_eq!(cached, plain);
        outcome.ok().map(|_| cached)
    }

    fn apply(&mut self, step: &Step) {
        let now = self.now;
        match *step {
            Step::Packet { guest, port, peer, tcp, comes_back, flags, sequence, checksum } => {
                let inside = Endpoint::new(guest_of(guest), 4000 + port);
                let peer = Endpoint::new(Ipv4Addr::new(198, 51, 100, peer), 443);
                let make = |src, dst, sequence: u32, acknowledgment: u32| {
                    let mut packet = if tcp {
                        packets::tcp(src, dst, &Tcp::new(flags, sequence, acknowledgment), b"data")
                    } else {
                        packets::udp(src, dst, b"data")
                    };
                    if checksum == Checksum::Partial {
                        packets::set_partial_checksum(&mut packet);
                    }
                    packet
                };
                let translated = self.translate(Side::Inside, &make(inside, peer, 1000 + sequence, 5001), checksum);
                if let Some(packet) = translated.filter(|_| comes_back) {
                    let outside = Endpoint::new(address(&packet, 12), word(&packet, 20));
                    self.translate(Side::Outside, &make(peer, outside, 5000 + sequence, 1001), checksum);
                }
            }
            Step::Wait { millis } => self.now = now.after(std::time::Duration::from_millis(millis)),
            Step::Externals { kinds } => {
                let externals: Vec<External> = OUTSIDE
                    .into_iter()
                    .zip(kinds)
                    .filter_map(|(address, kind)| Some(External { address, kind: kind? }))
                    .collect();
                self.both(|nat| nat.set_externals(&externals, now).is_ok());
            }
            Step::Publish { port, guest } => {
                let guest = Endpoint::new(guest_of(guest), 4000);
                let rule = Published { protocol: Protocol::UDP, address: OUTSIDE[0], port: 4000 + port, guest };
                self.both(|nat| nat.publish(&rule, now).is_ok());
            }
            Step::Unpublish { port } => {
                self.both(|nat| nat.unpublish(OUTSIDE[0], Protocol::UDP, 4000 + port, now));
            }
            Step::Flush { guest } => {
                self.both(|nat| nat.flush(now, |connection| connection.original.src.address == guest_of(guest)));
            }
            Step::Timeouts { secs } => {
                let (tcp, udp) = (secs, secs);
                let timeouts =
                    Timeouts { tcp_established: tcp, tcp_opening: tcp, tcp_transitory: tcp, udp, ..Timeouts::default() };
                self.both(|nat| nat.set_timeouts(timeouts, now));
            }
            Step::Expire => {
                self.both(|nat| nat.expire(now, 2));
            }
        }
    }
}

proptest! {
    #[test]
    fn a_cache_changes_nothing_but_the_time(steps in prop::collection::vec(any_step(), 1..200)) {
        let mut pair = Pair::new();
        for step in &steps {
            pair.apply(step);
        }
        let now = pair.now;
        pair.both(Nat::stats);
        pair.both(|nat| {
            let mut connections = nat.connections(now);
            connections.sort_by_key(|connection| format!("{connection:?}"));
            connections
        });
    }
}
