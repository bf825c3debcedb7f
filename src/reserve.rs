//! The ports of the host's own address that the translation may use.
//!
//! Where the address is the host's, its stack sees every reply too, and would reset what it knows
//! nothing of. So each port is taken with the host before the translation may give it out (see
//! [`Reservation`]): in blocks and in advance, so that a new connection waits for no system call. A
//! block in which a guest's own ports lie is taken as soon as one was asked for, so that most
//! guests' next connections keep their ports.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use anyhow::{Context, anyhow};
use nat::{BLOCK, Demand, Nat, Protocol, block_of, ports_of_block};
use netio::reservation::{PortProtocol, Reservation, process_of_port};

/// So many ports of each protocol are free at the start, and
const AT_START: u32 = 512;
/// so many when they ran low.
const ENOUGH: u32 = 2048;
/// Above so many free ports some are given back,
const TOO_MANY: u32 = 8192;
/// so many at a time.
const GIVEN_BACK: usize = 256;

/// Protocols without ports which the host's stack would refuse: IP in IP, IPv6 in IPv4, GRE, ESP, AH,
/// SCTP, UDP-Lite.
const OTHER_PROTOCOLS: [u8; 7] = [4, 41, 47, 50, 51, 132, 136];

/// Ports taken with the host, on one address.
#[derive(Debug)]
pub(crate) struct Reserved {
    address: Ipv4Addr,
    range: RangeInclusive<u16>,
    ports: HashMap<(Protocol, u16), Reservation>,
    /// Held for as long as a rule publishes them.
    published: Vec<Reservation>,
    /// Held so that the host's stack refuses no protocol that guests use.
    _protocols: Vec<Reservation>,
    /// No more descriptors, until some ports are given back.
    is_exhausted: bool,
    has_complained: bool,
}

fn take(protocol: Protocol, address: Ipv4Addr, port: u16) -> io::Result<Reservation> {
    if protocol == Protocol::TCP { Reservation::tcp(address, port) } else { Reservation::udp(address, port) }
}

impl Reserved {
    /// No ports yet.
    pub(crate) fn new(address: Ipv4Addr, range: RangeInclusive<u16>) -> Reserved {
        Reserved {
            address,
            range,
            ports: HashMap::new(),
            published: Vec::new(),
            // One that cannot be had is one that the host answers for.
            _protocols: OTHER_PROTOCOLS.iter().filter_map(|protocol| Reservation::raw(*protocol).ok()).collect(),
            is_exhausted: false,
            has_complained: false,
        }
    }

    pub(crate) fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Takes a port that a rule publishes; an error tells who has it.
    pub(crate) fn publish(&mut self, protocol: Protocol, port: u16) -> anyhow::Result<()> {
        // One that was taken in advance is as good.
        if let Some(reservation) = self.ports.remove(&(protocol, port)) {
            self.published.push(reservation);
            return Ok(());
        }
        let reservation = take(protocol, self.address, port).map_err(|error| in_use(error, self.address, protocol, port));
        self.published.push(reservation?);
        Ok(())
    }

    /// The first ports.
    pub(crate) fn start(&mut self, nat: &Nat) {
        for protocol in [Protocol::TCP, Protocol::UDP] {
            self.fill(nat, protocol, 0, AT_START);
        }
    }

    /// Takes what workers asked for.
    pub(crate) fn serve(&mut self, nat: &Nat, demand: &Demand) {
        for block in &demand.blocks {
            self.take_block(nat, demand.protocol, *block);
        }
        if demand.free < ENOUGH {
            self.fill(nat, demand.protocol, demand.free, ENOUGH);
        }
    }

    /// Blocks at random until enough are free.
    fn fill(&mut self, nat: &Nat, protocol: Protocol, mut free: u32, enough: u32) {
        let ports = u32::from(self.range.end() - self.range.start()) + 1;
        // Most of the host's ports are free; who has none to spare is asked for no more than these.
        for _ in 0..=ports / u32::from(BLOCK) {
            if free >= enough || self.is_exhausted {
                return;
            }
            let Ok(random) = random() else { return };
            let port = self.range.start() + (random % ports) as u16;
            free += self.take_block(nat, protocol, block_of(port));
        }
    }

    /// The ports of a block that can be had. Returns how many that were.
    fn take_block(&mut self, nat: &Nat, protocol: Protocol, first: u16) -> u32 {
        let mut taken = Vec::with_capacity(usize::from(BLOCK));
        let range = self.range.clone();
        for port in ports_of_block(first).filter(|port| range.contains(port)) {
            if self.is_exhausted || self.ports.contains_key(&(protocol, port)) {
                continue;
            }
            match take(protocol, self.address, port) {
                Ok(reservation) => {
                    self.ports.insert((protocol, port), reservation);
                    taken.push(port);
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied) => {}
                Err(error) => self.complain(&error),
            }
        }
        nat.grant(self.address, protocol, &taken);
        taken.len() as u32
    }

    fn complain(&mut self, error: &io::Error) {
        self.is_exhausted = true;
        if !std::mem::replace(&mut self.has_complained, true) {
            tracing::warn!(
                "no more ports for NAT than {} can be taken with the host: {error}; raise `ulimit -n`, or give the router an \
                 address of its own with --uplink-address",
                self.ports.len()
            );
        }
    }

    /// Gives some ports back where many are free, so that the host has them.
    pub(crate) fn trim(&mut self, nat: &Nat) {
        for demand in nat.demand() {
            if demand.address == self.address && demand.free > TOO_MANY {
                let of_protocol = self.ports.keys().filter(|(protocol, _)| *protocol == demand.protocol);
                let some: Vec<(Protocol, u16)> = of_protocol.copied().take(GIVEN_BACK).collect();
                for (protocol, port) in some {
                    if nat.revoke(self.address, protocol, port) {
                        self.ports.remove(&(protocol, port));
                        self.is_exhausted = false;
                    }
                }
            }
        }
    }
}

fn in_use(error: io::Error, address: Ipv4Addr, protocol: Protocol, port: u16) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let of = if protocol == Protocol::TCP { PortProtocol::Tcp } else { PortProtocol::Udp };
            let who = process_of_port(of, port).map_or_else(
                || "a program of this host".to_owned(),
                |(pid, name)| format!("{} (process {pid})", name.escape_debug()),
            );
            anyhow!(
                "--publish: {protocol} port {port} of {address} is in use by {who}; publish another port, or end that program"
            )
        }
        _ => anyhow::Error::from(error).context(format!("--publish: taking {protocol} port {port} of {address}")),
    }
}

fn random() -> anyhow::Result<u32> {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).context("drawing random numbers")?;
    Ok(u32::from_ne_bytes(bytes))
}
