//! The ports of the host's own address that the translation may use.
//!
//! If the outside address is the host's, the host's stack receives every reply too, and would reset connections that it does
//! not know. So each port is reserved on the host before the translation may use it (see [`Reservation`]): in blocks and in
//! advance, so that a new connection waits for no system call. A block that contains a guest's own port is reserved after
//! the first request for it, so that most of the guests' next connections keep their ports. A quarter of the ports that
//! the host gives to its own programs is never reserved.

use std::collections::HashMap;
use std::io;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use anyhow::Context;
use api::Refusal;
use nat::{BLOCK, Demand, Nat, Protocol, block_of, ports_of_block};
use netio::reservation::{PortProtocol, Reservation, process_of_port};
use rustix::process::{Resource, getrlimit};

/// Ports of each protocol that are reserved at the start.
const AT_START: u32 = 512;
/// Free ports of a protocol below which more are reserved when workers ask.
const ENOUGH: u32 = 2048;
/// Free ports of a protocol above which some are given back to the host.
const TOO_MANY: u32 = 8192;
/// Ports given back at a time.
const GIVEN_BACK: usize = 256;

/// Descriptors that are left: 512 for devices and guests, and some for the control socket, which is opened later. Half of all, where
/// there are fewer than twice as many.
const SPARE_DESCRIPTORS: u64 = 512 + 16;

/// Blocks of ports reserved at a time, for each protocol.
const BLOCKS_AT_ONCE: usize = 8;

/// The range that the host's own programs get their ports from (ip(7)).
const LOCAL_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// Ports of one address of the host that are reserved for translation.
#[derive(Debug)]
pub(crate) struct Reserved {
    address: Ipv4Addr,
    range: RangeInclusive<u16>,
    /// Taken in advance: TCP's, UDP's.
    ports: [HashMap<u16, Reservation>; 2],
    /// Ports of rules, held while a rule publishes them.
    published: HashMap<(Protocol, u16), Kept>,
    /// The range that the host's own programs get ports from, and how many of it may still be reserved, for TCP and for
    /// UDP.
    local: RangeInclusive<u16>,
    local_left: [u32; 2],
    /// Where the next round of giving back begins.
    trimmed: [usize; 2],
    /// Maximum number of ports of a protocol that are taken in advance, by the number of descriptors.
    most: usize,
    /// No descriptors are left for TCP's, for UDP's, until some ports are given back.
    is_exhausted: [bool; 2],
    has_complained: bool,
}

/// A rule's port.
#[derive(Debug)]
struct Kept {
    reservation: Reservation,
    /// It was reserved in advance, for guests.
    in_advance: bool,
}

/// The place of a protocol: TCP's, UDP's.
fn at(protocol: Protocol) -> usize {
    usize::from(protocol == Protocol::UDP)
}

/// Reserves a port of the host.
pub(super) fn take(protocol: Protocol, address: Ipv4Addr, port: u16) -> io::Result<Reservation> {
    if protocol == Protocol::TCP { Reservation::tcp(address, port) } else { Reservation::udp(address, port) }
}

impl Reserved {
    /// No ports yet.
    pub(crate) fn new(address: Ipv4Addr, range: RangeInclusive<u16>) -> Reserved {
        let local = local_ports();
        Reserved {
            address,
            range,
            ports: Default::default(),
            published: HashMap::new(),
            local_left: [u32::from(local.end() - local.start()) / 4 * 3; 2],
            local,
            trimmed: [0; 2],
            most: usize::MAX,
            is_exhausted: [false; 2],
            has_complained: false,
        }
    }

    pub(crate) fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Reserves a port that a rule publishes. The error names the process that has it.
    pub(crate) fn publish(&mut self, protocol: Protocol, port: u16) -> anyhow::Result<()> {
        let reserved = self.reserve(protocol, port)?;
        self.keep(protocol, port, reserved);
        Ok(())
    }

    /// Reserves a port for a rule that is not in force yet; `None` if it is reserved already. The port goes back to the host when
    /// the result is dropped, and stays with [`Reserved::keep`].
    pub(crate) fn reserve(&self, protocol: Protocol, port: u16) -> anyhow::Result<Option<Reservation>> {
        // One that was taken in advance is as good.
        if self.ports[at(protocol)].contains_key(&port) || self.published.contains_key(&(protocol, port)) {
            return Ok(None);
        }
        take(protocol, self.address, port).map(Some).map_err(|error| in_use(error, self.address, protocol, port))
    }

    /// The port belongs to a rule from now on.
    pub(crate) fn keep(&mut self, protocol: Protocol, port: u16, reserved: Option<Reservation>) {
        // One that was taken in advance stays taken, and counts as the rule's.
        let in_advance = reserved.is_none();
        if let Some(reservation) = reserved.or_else(|| self.ports[at(protocol)].remove(&port)) {
            self.published.insert((protocol, port), Kept { reservation, in_advance });
        }
    }

    /// No rule publishes the port any more: it goes back to the host, unless a guest's mapping uses it.
    pub(crate) fn withdraw(&mut self, nat: &Nat, protocol: Protocol, port: u16) {
        let Some(Kept { reservation, in_advance }) = self.published.remove(&(protocol, port)) else { return };
        if !nat.revoke(self.address, protocol, port) {
            self.ports[at(protocol)].insert(port, reservation);
        } else if in_advance {
            self.local_left[at(protocol)] += u32::from(self.local.contains(&port));
        }
    }

    /// Gives back a port that was reserved in advance. False if a mapping or a rule uses it.
    pub(crate) fn let_go(&mut self, nat: &Nat, protocol: Protocol, port: u16) -> bool {
        if self.published.contains_key(&(protocol, port)) {
            return false;
        }
        if !self.ports[at(protocol)].contains_key(&port) {
            return true;
        }
        if !nat.revoke(self.address, protocol, port) {
            return false;
        }
        self.ports[at(protocol)].remove(&port);
        self.local_left[at(protocol)] += u32::from(self.local.contains(&port));
        true
    }

    /// Reserves the first ports, once everything else that takes descriptors at the start is open.
    pub(crate) fn start(&mut self, nat: &Nat) {
        self.most = spare_descriptors() / 2;
        for protocol in [Protocol::TCP, Protocol::UDP] {
            self.fill(nat, protocol, 0, AT_START);
        }
    }

    /// Reserves ports that workers asked for.
    pub(crate) fn serve(&mut self, nat: &Nat, demand: &Demand) {
        if demand.free < TOO_MANY {
            for block in demand.blocks.iter().take(BLOCKS_AT_ONCE) {
                self.take_block(nat, demand.protocol, *block);
            }
        }
        if demand.free < ENOUGH {
            self.fill(nat, demand.protocol, demand.free, ENOUGH);
        }
    }

    /// Reserves random blocks until `enough` ports are free.
    fn fill(&mut self, nat: &Nat, protocol: Protocol, mut free: u32, enough: u32) {
        let ports = u32::from(self.range.end() - self.range.start()) + 1;
        for _ in 0..BLOCKS_AT_ONCE {
            if free >= enough || self.is_exhausted[at(protocol)] {
                return;
            }
            let Ok(random) = random() else { return };
            let port = self.range.start() + (random % ports) as u16;
            free += self.take_block(nat, protocol, block_of(port));
        }
    }

    /// Reserves the ports of a block that are free on the host. Returns their number.
    fn take_block(&mut self, nat: &Nat, protocol: Protocol, first: u16) -> u32 {
        let mut taken = Vec::with_capacity(usize::from(BLOCK));
        let range = self.range.clone();
        for port in ports_of_block(first).filter(|port| range.contains(port)) {
            let is_local = self.local.contains(&port);
            let left = self.local_left[at(protocol)];
            if self.is_exhausted[at(protocol)] || is_local && left == 0 || self.ports[at(protocol)].contains_key(&port) {
                continue;
            }
            if self.ports[at(protocol)].len() >= self.most {
                self.complain(protocol, &rustix::io::Errno::MFILE.into());
                break;
            }
            match take(protocol, self.address, port) {
                Ok(reservation) => {
                    self.ports[at(protocol)].insert(port, reservation);
                    self.local_left[at(protocol)] -= u32::from(is_local);
                    taken.push(port);
                }
                // A program of the host has it, or the address is missing for a moment.
                Err(error) if is_passing(&error) => {}
                Err(error) => self.complain(protocol, &error),
            }
        }
        nat.grant(self.address, protocol, &taken);
        taken.len() as u32
    }

    fn complain(&mut self, protocol: Protocol, error: &io::Error) {
        self.is_exhausted[at(protocol)] = true;
        if !std::mem::replace(&mut self.has_complained, true) {
            tracing::warn!(
                reserved = self.ports.iter().map(HashMap::len).sum::<usize>(),
                %error,
                "cannot reserve more of the host's ports for NAT; raise `ulimit -n`, or give the router an address of its own \
                 with --uplink-address"
            );
        }
    }

    /// Gives some ports back to the host where many are free.
    pub(crate) fn trim(&mut self, nat: &Nat) {
        for protocol in [Protocol::TCP, Protocol::UDP] {
            if nat.free_ports(self.address, protocol) <= TOO_MANY {
                continue;
            }
            let some: Vec<u16> =
                self.ports[at(protocol)].keys().skip(self.trimmed[at(protocol)]).take(GIVEN_BACK).copied().collect();
            // From the start again, once all were looked at.
            let trimmed = &mut self.trimmed[at(protocol)];
            *trimmed = if some.len() < GIVEN_BACK { 0 } else { *trimmed + GIVEN_BACK };
            for port in some {
                if nat.revoke(self.address, protocol, port) {
                    self.ports[at(protocol)].remove(&port);
                    self.local_left[at(protocol)] += u32::from(self.local.contains(&port));
                    self.is_exhausted[at(protocol)] = false;
                }
            }
        }
    }
}

/// Number of descriptors that ports may take, besides those that are open and those that are left for others.
fn spare_descriptors() -> usize {
    let Some(limit) = getrlimit(Resource::Nofile).current else { return usize::MAX };
    let open = std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) as u64;
    limit.saturating_sub(SPARE_DESCRIPTORS.min(limit / 2)).saturating_sub(open) as usize
}

/// The range of local ports that the host gives to its programs; the kernel's default if it cannot be read.
pub(super) fn local_ports() -> RangeInclusive<u16> {
    let text = std::fs::read_to_string(LOCAL_PORTS).unwrap_or_default();
    let mut numbers = text.split_whitespace().filter_map(|number| number.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(first), Some(last)) if first <= last => first..=last,
        _ => 32_768..=60_999,
    }
}

/// The process that uses a port: `name (process 7)`.
pub(super) fn program_of(protocol: &str, port: u16) -> Option<String> {
    let protocol = if protocol == "tcp" { PortProtocol::Tcp } else { PortProtocol::Udp };
    process_of_port(protocol, port).map(|(pid, name)| format!("{} (process {pid})", name.escape_debug()))
}

fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrInUse, AddrNotAvailable, PermissionDenied};
    matches!(error.kind(), AddrInUse | AddrNotAvailable | PermissionDenied)
}

/// The error of a rule whose port cannot be taken; names the program that has it.
pub(super) fn in_use(error: io::Error, address: Ipv4Addr, protocol: Protocol, port: u16) -> anyhow::Error {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            let who = program_of(&protocol.to_string(), port).unwrap_or_else(|| "a program of this host".to_owned());
            let text = format!(
                "--publish: {protocol} port {port} of {address} is in use by {who}; publish another port, or end that program"
            );
            Refusal::conflict(text).in_the_way(who).into()
        }
        _ => anyhow::Error::from(error).context(format!("--publish: taking {protocol} port {port} of {address}")),
    }
}

fn random() -> anyhow::Result<u32> {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).context("drawing random numbers")?;
    Ok(u32::from_ne_bytes(bytes))
}
