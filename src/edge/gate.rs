//! The gate on the uplink, and what the host's own programs have of the address behind it.
//!
//! If the outside address is the host's, the host's stack receives every reply too, and would reset connections that it does
//! not know. The gate ([`netio::gate`]) drops packets for guests on their way to the stack. The translation marks a port by
//! one store when it gives it to a mapping, so any port may be used, and the control thread is asked for none.
//!
//! *Programs of the host* keep their ports: once a second the control thread reads which ports they wait on, and which their
//! connections have ([`netio::host_sockets`]). New mappings take neither. A mapping whose port a TCP listener gets ends at
//! once, and one whose port a UDP socket gets when the socket is still there a second later: sockets of resolvers live for
//! one question. Reading connections takes longer the more there are, so it is done less often the longer it took.

use std::io;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use nat::{Nat, Protocol};
use netio::host_sockets::{self, SocketState};
use netio::reservation::PortProtocol;
use packet::{PortSet, Timestamp};

use super::door::{Door, of_host};
use super::reserve::{in_use, local_ports, take};

/// Pause after reading the host's connections, in multiples of the time that it took.
const CONNECTIONS_PAUSE: u32 = 100;

/// Number of failures to put the gate on the uplink again, one a second, before that is told.
const PATIENCE: u32 = 3;

/// A port that a program of the host got, and on which a mapping ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Lost {
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

/// The gate on the uplink.
#[derive(Debug)]
pub(crate) struct UplinkGate {
    door: Door,
    /// Ports that guests may have.
    range: RangeInclusive<u16>,
    address: Option<Ipv4Addr>,
    interface: u32,
    /// Ports that programs waited on at the last look: TCP, UDP.
    waiting: [PortSet; 2],
    /// What the translation knows: ports on which programs wait, and busy ones.
    told: [(PortSet, PortSet); 2],
    connected: PortSet,
    connections_due: Option<Instant>,
    has_complained: bool,
    /// Number of times in a row that the gate could not be put on the uplink again.
    failures: u32,
}

impl UplinkGate {
    /// A gate for guests that may have ports of this range. `interface` is the index of the uplink, if it is there yet.
    pub(super) fn new(door: Door, range: RangeInclusive<u16>, interface: Option<u32>) -> UplinkGate {
        UplinkGate {
            door,
            range,
            address: None,
            interface: interface.unwrap_or(0),
            waiting: Default::default(),
            told: Default::default(),
            connected: PortSet::default(),
            connections_due: None,
            has_complained: false,
            failures: 0,
        }
    }

    /// Which kind it is.
    pub(crate) fn kind(&self) -> api::Gate {
        self.door.kind()
    }

    /// What holds it on the uplink, if the service manager can keep that.
    pub(crate) fn link(&self) -> Option<(u64, BorrowedFd<'_>)> {
        self.door.link()
    }

    /// The translation shares its addresses behind this gate.
    pub(crate) fn serve(&self, nat: &Nat) {
        nat.set_gate(self.door.marks(), PortSet::from(local_ports()));
    }

    /// Follows the uplink: the interface of now, and the address that is shared there. An address that is away keeps its
    /// gate, since its connections may go on.
    pub(crate) fn follow(&mut self, interface: Option<u32>, address: Option<Ipv4Addr>) {
        self.interface = interface.unwrap_or(self.interface);
        if let Some(address) = address.filter(|address| self.address != Some(*address)) {
            self.door.set_address(address);
            self.address = Some(address);
        }
        if let Err(error) = self.door.attach(interface) {
            tracing::warn!(%error, "cannot put the gate on the uplink; the host resets guests' connections");
        }
    }

    /// Published ports have changed.
    pub(crate) fn publish(&mut self) {
        if let Err(error) = self.door.sync() {
            tracing::warn!(%error, "cannot change the filter on the uplink; the host answers for published ports");
        }
    }

    /// Looks whether the gate is still there, and reads which ports the host's programs have. Returns those on which mappings ended.
    pub(crate) fn look(&mut self, nat: &Nat, now: Timestamp) -> Vec<Lost> {
        self.keep();
        let Some(address) = self.address else { return Vec::new() };
        match self.try_look(nat, address, now) {
            Ok(lost) => lost,
            Err(error) => {
                if !std::mem::replace(&mut self.has_complained, true) {
                    tracing::warn!(%error, "cannot read the host's sockets; guests may get ports that its programs use");
                }
                Vec::new()
            }
        }
    }

    fn keep(&mut self) {
        match self.door.keep() {
            Ok(was_gone) => {
                if was_gone {
                    tracing::warn!("somebody removed the gate from the uplink; it is there again");
                }
                self.failures = 0;
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                // The uplink may be about to go.
                if self.failures == PATIENCE {
                    tracing::warn!(%error, "cannot keep the gate on the uplink; the host resets guests' connections");
                }
            }
        }
    }

    fn try_look(&mut self, nat: &Nat, address: Ipv4Addr, now: Timestamp) -> io::Result<Vec<Lost>> {
        self.look_at_connections(address)?;
        let mut lost = Vec::new();
        for (at, protocol) in [Protocol::TCP, Protocol::UDP].into_iter().enumerate() {
            let Some(of_host) = of_host(protocol) else { continue };
            let mut waiting = PortSet::default();
            host_sockets::collect(of_host, SocketState::Waiting, address, self.interface, &mut waiting)?;
            let before = std::mem::replace(&mut self.waiting[at], waiting.clone());
            let (waiting, busy) = match protocol {
                Protocol::TCP => (waiting.clone(), waiting.with(&self.connected)),
                _ => (waiting.clone().and(&before), waiting),
            };
            let busy = self.door.busy(protocol, &self.range, busy)?;
            lost.extend(self.tell(nat, protocol, (waiting, busy), now));
        }
        Ok(lost)
    }

    fn tell(&mut self, nat: &Nat, protocol: Protocol, told: (PortSet, PortSet), now: Timestamp) -> Vec<Lost> {
        let before = &mut self.told[usize::from(protocol == Protocol::UDP)];
        if *before == told {
            return Vec::new();
        }
        let ports = nat.set_host_ports(protocol, &told.0, &told.1, now);
        *before = told;
        ports.into_iter().map(|port| Lost { protocol, port }).collect()
    }

    fn look_at_connections(&mut self, address: Ipv4Addr) -> io::Result<()> {
        let start = Instant::now();
        if self.connections_due.is_some_and(|due| start < due) {
            return Ok(());
        }
        let mut connected = PortSet::default();
        host_sockets::collect(PortProtocol::Tcp, SocketState::Connected, address, self.interface, &mut connected)?;
        self.connected = connected;
        self.connections_due = Some(start + start.elapsed().saturating_mul(CONNECTIONS_PAUSE).max(Duration::from_millis(500)));
        Ok(())
    }

    /// Checks that no program of the host has a port that a rule is to publish. The error names the process.
    pub(crate) fn check_free(&self, protocol: Protocol, port: u16) -> anyhow::Result<()> {
        let Some(address) = self.address else { return Ok(()) };
        match take(protocol, address, port) {
            // A port below 1024 need not be bound, so the right to bind it is not needed.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            Err(error) => Err(in_use(error, address, protocol, port)),
            Ok(_) => Ok(()),
        }
    }

    /// A socket of ours is to receive by this UDP port of the host: a mapping that has it ends.
    pub(crate) fn let_go(&mut self, nat: &Nat, port: u16, now: Timestamp) {
        let (mut waiting, mut busy) = self.told[1].clone();
        waiting.insert(port);
        busy.insert(port);
        self.waiting[1].insert(port);
        match self.door.busy(Protocol::UDP, &self.range, busy.clone()) {
            Ok(all) => busy = all,
            Err(error) => tracing::warn!(%error, port, "cannot change the filter on the uplink"),
        }
        self.tell(nat, Protocol::UDP, (waiting, busy), now);
    }
}
