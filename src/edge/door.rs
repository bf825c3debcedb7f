//! The two kinds of gate: a BPF program that reads marks, and a filter of traffic control that has the ports in it.
//!
//! | | program | filter |
//! |---|---|---|
//! | ports that guests may use | all of `ports=` | those of them that the host does not give to its own programs |
//! | a mapping begins or ends | one store | nothing: the filter drops packets to all these ports |
//! | a port is published, or a program of the host gets one | one store | another filter |
//! | connections of the host from these ports | go on | none can begin by itself: the host does not choose these ports |

use std::io;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use config::GateMode;
use nat::{PortMarks, PortOwner, Protocol};
use netio::Gate;
use netio::gate::{MAX_RANGES, Marks, Owner, TrafficFilter};
use netio::reservation::PortProtocol;
use packet::PortSet;

use super::reserve::local_ports;

/// What drops packets for guests on their way to the host's stack.
#[derive(Debug)]
pub(super) enum Door {
    Program(Gate),
    Filter(FilterDoor),
}

/// A filter, and what is in it.
#[derive(Debug)]
pub(super) struct FilterDoor {
    filter: Option<TrafficFilter>,
    address: Ipv4Addr,
    published: Arc<Published>,
    /// Ports that guests may use: TCP's, UDP's.
    allowed: [PortSet; 2],
    /// What the filter drops now.
    set: Option<(Ipv4Addr, [PortSet; 2])>,
}

/// The published ports, one bit each: TCP's, UDP's.
#[derive(Debug)]
pub(super) struct Published([Box<[AtomicU64]>; 2]);

/// Marks of a program for the translation.
#[derive(Debug)]
struct ProgramMarks(Marks);

impl PortMarks for ProgramMarks {
    fn mark(&self, protocol: Protocol, port: u16, owner: PortOwner) {
        let owner = match owner {
            PortOwner::Host => Owner::Host,
            PortOwner::Mapping => Owner::Mapping,
            PortOwner::Published => Owner::Published,
        };
        if let Some(protocol) = of_host(protocol) {
            self.0.set(protocol, port, owner);
        }
    }
}

impl PortMarks for Published {
    fn mark(&self, protocol: Protocol, port: u16, owner: PortOwner) {
        let word = self.0[usize::from(protocol == Protocol::UDP)].get(usize::from(port / 64));
        let (Some(word), bit) = (word, 1 << (port % 64)) else { return };
        match owner {
            PortOwner::Published => word.fetch_or(bit, Ordering::Relaxed),
            PortOwner::Host => word.fetch_and(!bit, Ordering::Relaxed),
            PortOwner::Mapping => 0,
        };
    }
}

impl Published {
    fn new() -> Published {
        Published([(); 2].map(|()| (0..65_536 / 64).map(|_| AtomicU64::new(0)).collect()))
    }

    fn ports(&self, at: usize) -> PortSet {
        let is_set = |port: &u16| self.0[at][usize::from(port / 64)].load(Ordering::Relaxed) >> (port % 64) & 1 != 0;
        (0..=u16::MAX).filter(is_set).collect()
    }
}

/// The protocol as the host's sockets have it.
pub(super) fn of_host(protocol: Protocol) -> Option<PortProtocol> {
    match protocol {
        Protocol::TCP => Some(PortProtocol::Tcp),
        Protocol::UDP => Some(PortProtocol::Udp),
        _ => None,
    }
}

impl Door {
    /// Puts one of this kind on the interface with this index, if it is there yet.
    pub(super) fn open(mode: GateMode, interface: Option<u32>) -> io::Result<Door> {
        if mode == GateMode::Filter { Door::filter(interface) } else { Door::program(interface) }
    }

    fn program(interface: Option<u32>) -> io::Result<Door> {
        let mut gate = Gate::load()?;
        if let Some(interface) = interface {
            TrafficFilter::remove_left(interface);
            gate.attach(interface)?;
        }
        Ok(Door::Program(gate))
    }

    fn filter(interface: Option<u32>) -> io::Result<Door> {
        Ok(Door::Filter(FilterDoor {
            filter: interface.map(TrafficFilter::attach).transpose()?,
            address: Ipv4Addr::UNSPECIFIED,
            published: Arc::new(Published::new()),
            allowed: Default::default(),
            set: None,
        }))
    }

    /// Where the translation marks the owners of ports.
    pub(super) fn marks(&self) -> Arc<dyn PortMarks> {
        match self {
            Door::Program(gate) => Arc::new(ProgramMarks(gate.marks().clone())),
            Door::Filter(door) => Arc::clone(&door.published) as Arc<dyn PortMarks>,
        }
    }

    pub(super) fn kind(&self) -> api::Gate {
        match self {
            Door::Program(_) => api::Gate::Tcx,
            Door::Filter(_) => api::Gate::Filter,
        }
    }

    /// Follows the interface; `None` while it is away.
    pub(super) fn attach(&mut self, interface: Option<u32>) -> io::Result<()> {
        match (self, interface) {
            (Door::Program(gate), Some(interface)) => {
                if gate.interface() != Some(interface) {
                    TrafficFilter::remove_left(interface);
                }
                gate.attach(interface)
            }
            (Door::Program(gate), None) => {
                gate.detach();
                Ok(())
            }
            (Door::Filter(door), interface) => {
                if door.filter.as_ref().map(TrafficFilter::interface) != interface {
                    (door.filter, door.set) = (None, None);
                    door.filter = interface.map(TrafficFilter::attach).transpose()?;
                }
                door.sync()
            }
        }
    }

    pub(super) fn set_address(&mut self, address: Ipv4Addr) {
        match self {
            Door::Program(gate) => gate.set_address(Some(address)),
            Door::Filter(door) => door.address = address,
        }
    }

    /// The ports of a range that guests cannot have, whatever the host's programs do, besides `busy` ones.
    pub(super) fn busy(&mut self, protocol: Protocol, range: &RangeInclusive<u16>, busy: PortSet) -> io::Result<PortSet> {
        let Door::Filter(door) = self else { return Ok(busy) };
        let busy = busy.with(&PortSet::from(local_ports()));
        let mut ranges = PortSet::from(range.clone()).without(&busy).ranges();
        // Room for published ports is left.
        ranges.sort_by_key(|range| std::cmp::Reverse(range.len()));
        let allowed: PortSet = ranges.into_iter().take(MAX_RANGES / 2).flatten().collect();
        door.allowed[usize::from(protocol == Protocol::UDP)] = allowed.clone();
        door.sync()?;
        Ok(PortSet::from(0..=u16::MAX).without(&allowed))
    }

    /// Puts published ports in force that were marked.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        match self {
            Door::Program(_) => Ok(()),
            Door::Filter(door) => door.sync(),
        }
    }
}

impl Door {
    /// What holds a program on its interface, with a number that changes with it.
    pub(super) fn link(&self) -> Option<(u64, BorrowedFd<'_>)> {
        match self {
            Door::Program(gate) => gate.link(),
            Door::Filter(_) => None,
        }
    }

    /// Puts the gate on its interface again if somebody has removed it. Returns whether that was so.
    pub(super) fn keep(&mut self) -> io::Result<bool> {
        match self {
            Door::Program(gate) => gate.keep(),
            Door::Filter(FilterDoor { filter: Some(filter), set: Some((address, ports)), .. }) => {
                filter.keep(*address, [&ports[0], &ports[1]])
            }
            Door::Filter(_) => Ok(false),
        }
    }
}

impl FilterDoor {
    fn sync(&mut self) -> io::Result<()> {
        let Some(filter) = &self.filter else { return Ok(()) };
        let ports = [0, 1].map(|at| self.published.ports(at).with(&self.allowed[at]));
        let wanted = (self.address, ports);
        if self.set.as_ref() == Some(&wanted) {
            return Ok(());
        }
        filter.set(wanted.0, [&wanted.1[0], &wanted.1[1]])?;
        self.set = Some(wanted);
        Ok(())
    }
}
