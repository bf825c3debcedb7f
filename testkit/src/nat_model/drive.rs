//! The driver: derives packets and changes from any bytes, applies them to translation and model, and compares.

use std::cell::RefCell;
use std::net::Ipv4Addr;

use nat::{
    Connection, Endpoint, External, ExternalKind, Filtering, Mapping, Nat, NatConfig, NatStats, Refused, Timeouts, Translated,
    Tuple,
};

use super::choices::Choices;
use super::model::Model;
use crate::packets::{ICMP, TCP, UDP, word};

mod changes;
mod errors;
mod flows;
mod pieces;

/// Multiplier of the hash by Fowler, Noll and Vo, of 64 bits.
const FNV_PRIME: u64 = 0x100_0000_01b3;

/// Limit of the steps of one input.
const MAX_STEPS: usize = 600;

/// Number of connections in a small table.
const FEW: usize = 12;

const GUESTS: [Ipv4Addr; 4] =
    [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2), Ipv4Addr::new(10, 0, 1, 3), Ipv4Addr::new(10, 0, 1, 4)];
const PEERS: [Ipv4Addr; 3] = [Ipv4Addr::new(198, 51, 100, 1), Ipv4Addr::new(198, 51, 100, 2), Ipv4Addr::new(8, 8, 8, 8)];
const EXTERNALS: [Ipv4Addr; 4] =
    [Ipv4Addr::new(203, 0, 113, 1), Ipv4Addr::new(203, 0, 113, 2), Ipv4Addr::new(203, 0, 113, 3), Ipv4Addr::new(203, 0, 113, 4)];
const PORTS: [u16; 10] = [1024, 1025, 1026, 1027, 5000, 80, 81, 600, 601, 0];
const PROTOCOLS: [u8; 16] = [TCP, TCP, TCP, TCP, TCP, TCP, UDP, UDP, UDP, UDP, UDP, UDP, ICMP, ICMP, 47, 132];

/// The translation and its model.
struct Pair<'a> {
    nat: &'a mut Nat,
    model: Model,
    choices: Choices<'a>,
    /// No half-open connection lives longer than under pressure.
    has_short_timeouts: bool,
    /// For debugging: each step is printed.
    tells: bool,
    /// Hash of all answers of the translation so far.
    answers: u64,
}

/// What became of an input: the same whenever it is run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// Hash of all packets after translation, and reasons for refusals.
    pub answers: u64,
    /// The translation's counters at the end.
    pub stats: NatStats,
}

thread_local! {
    /// The translations of the last inputs, by whether they are small, whose memory the next one uses.
    static LAST: RefCell<[Option<Nat>; 2]> = const { RefCell::new([None, None]) };
    static TELLS: bool = std::env::var_os("NAT_MODEL_TELLS").is_some();
}

/// Takes any bytes as a sequence of packets, rule changes and passing time, and panics where translation and model
/// differ.
pub fn drive(data: &[u8]) -> Outcome {
    // What a panic leaves is not used again.
    let mut nat = LAST.take();
    let outcome = drive_with(&mut nat, data);
    LAST.set(nat);
    outcome
}

fn drive_with(nats: &mut [Option<Nat>; 2], data: &[u8]) -> Outcome {
    let mut choices = Choices(data);
    let config = config(&mut choices);
    let nat = &mut nats[usize::from(config.max_connections == FEW)];
    let seed = [u64::from(choices.byte()), 7];
    match nat {
        Some(nat) => nat.reset(config.clone(), seed).unwrap(),
        None => *nat = Nat::new(config.clone(), seed),
    }
    let nat = nat.as_mut().unwrap();
    let has_short_timeouts = config.timeouts != Timeouts::default();
    let tells = TELLS.with(|tells| *tells);
    let mut pair = Pair { nat, model: Model::new(config), choices, has_short_timeouts, tells, answers: 0 };
    let own = |address| External { address, kind: ExternalKind::Own };
    pair.set_externals(&[own(EXTERNALS[0]), own(EXTERNALS[1])]);
    for step in 0..MAX_STEPS {
        if pair.choices.is_empty() {
            break;
        }
        pair.step();
        pair.model.note_count(pair.nat.stats().connections);
        pair.model.tidy();
        if step % 16 == 0 {
            pair.compare();
        }
    }
    pair.compare();
    Outcome { answers: pair.answers, stats: pair.nat.stats() }
}

fn config(choices: &mut Choices<'_>) -> NatConfig {
    let flags = choices.byte();
    let is = |bit: u8| flags >> bit & 1 != 0;
    let ports = choices.one_of(&[(1024, 65_535), (1024, 1029), (1, 65_535), (600, 1026)]);
    let short = Timeouts { tcp_established: 100, tcp_opening: 20, tcp_transitory: 10, udp: 30, icmp: 15, other: 25 };
    NatConfig {
        max_connections: if is(0) { FEW } else { 1024 },
        max_connections_per_port: if is(1) { 5 } else { 1000 },
        max_ports_per_guest: if is(2) { 3 } else { 1000 },
        ports_of_bridge: 4,
        port_numbers: 4,
        ports: ports.0..=ports.1,
        mapping: if is(3) { Mapping::AddressAndPortDependent } else { Mapping::EndpointIndependent },
        filtering: if is(4) { Filtering::EndpointIndependent } else { Filtering::AddressAndPortDependent },
        timeouts: if is(5) { short } else { Timeouts::default() },
        tcp_loose: !is(6),
        tcp_liberal: is(7),
    }
}

impl Pair<'_> {
    fn step(&mut self) {
        match self.choices.below(32) {
            0..=6 => self.first_packet(),
            7..=16 => self.next_packet(),
            17..=19 => self.stranger(),
            20..=22 => self.error(),
            23..=25 => self.piece(),
            26 => self.garbage(),
            27 | 28 => self.wait(),
            _ => match self.choices.below(16) {
                0 => self.flush(),
                1..=4 => self.change_externals(),
                5..=12 => self.change_ports(),
                _ => self.expire(),
            },
        }
    }

    fn endpoint(&mut self, of: &[Ipv4Addr]) -> Endpoint {
        Endpoint::new(self.choices.one_of(of), self.choices.one_of(&PORTS))
    }

    fn owner(&mut self) -> u16 {
        u16::from(self.choices.byte() % 9 / 2)
    }

    /// The original tuples of connections that should be among these.
    fn missing(&self, connections: &[Connection]) -> Vec<Tuple> {
        let is_there = |original: &Tuple| connections.iter().any(|connection| connection.original == *original);
        self.model.live.iter().map(|conn| conn.original).filter(|original| !is_there(original)).collect()
    }

    /// Notes an answer of the translation, and the packet after it.
    fn note(&mut self, answer: Result<Translated, Refused>, packet: &[u8]) {
        let answer = answer.map_or_else(|refused| refused as u32, |translated| translated.dst.to_bits());
        let bytes = packet.iter().copied().chain(answer.to_ne_bytes());
        self.answers = bytes.fold(self.answers, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME));
    }

    /// Prints a step if the variable `NAT_MODEL_TELLS` is set.
    fn tell(&self, what: impl FnOnce() -> String) {
        if self.tells {
            eprintln!("{:?} {}", self.model.now, what());
        }
    }

    /// Compares the lists of connections and mappings, and the counters.
    fn compare(&self) {
        let now = self.model.now;
        let shown = self.nat.connections(now);
        assert_eq!(shown.len(), self.model.live.len(), "{shown:?}, and {:?} live", self.model.live);
        for conn in &self.model.live {
            let expires_in = self.model.timeout(conn) - (now.secs() - conn.used);
            let expected = Connection { original: conn.original, reply: conn.reply, phase: conn.phase(), expires_in };
            assert!(shown.contains(&expected), "{expected:?} is not among {shown:?}");
        }
        let _ = self.nat.demand();
    }
}

fn ports_of(protocol: u8, transport: &[u8]) -> Result<(u16, u16), Refused> {
    match protocol {
        TCP | UDP => Ok((word(transport, 0), word(transport, 2))),
        ICMP => match transport[0] {
            kind @ (8 | 13) => Ok((word(transport, 4), u16::from(kind))),
            0 => Ok((8, word(transport, 4))),
            14 => Ok((13, word(transport, 4))),
            _ => Err(Refused::IcmpIgnored),
        },
        _ => Ok((0, 0)),
    }
}
