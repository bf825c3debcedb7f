//! An address that is shared with the host behind a gate, which tells the packets of both apart.
//!
//! The caller keeps packets for marked ports from the host ([`PortMarks`]). The book marks a port when it
//! gives it to a mapping and unmarks it when the mapping ends, both under its lock. So every port may be used at any time,
//! and none has to be asked for in advance ([`Demand`](crate::Demand)).
//!
//! Two kinds of the host's ports are left alone: those on which its programs *wait* for packets of any sender, and those
//! that are *busy* for now, such as those of its connections. The control thread reads both again and again
//! ([`Nat::set_host_ports`]): a new mapping takes none of them. A mapping ends if a program begins to wait on its port;
//! beside a connection of the host it goes on, because the gate knows the host's connections by their peers.

use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use packet::{PortSet, Timestamp};

use crate::config::ExternalKind;
use crate::nat::Nat;
use crate::shares::protocol_index;
use crate::tuple::Protocol;

/// Whose packets to a port of the shared address are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PortOwner {
    /// The host's.
    Host,
    /// A guest's mapping.
    Mapping,
    /// A published port.
    Published,
}

/// Where the owners of TCP and UDP ports are marked. Called with the book's lock held, so it must neither wait nor call
/// the kernel.
pub trait PortMarks: Send + Sync + fmt::Debug {
    /// The port is this one's from now on.
    fn mark(&self, protocol: Protocol, port: u16, owner: PortOwner);
}

/// A gate, and the ports of the host behind it.
#[derive(Debug)]
pub(crate) struct Gate {
    marks: Arc<dyn PortMarks>,
    /// Ports that random choices take last.
    shunned: PortSet,
    /// Ports that no new mapping takes: of TCP, of UDP.
    host: [PortSet; 2],
}

impl Gate {
    pub(crate) fn marks(&self) -> Arc<dyn PortMarks> {
        Arc::clone(&self.marks)
    }

    pub(crate) fn shunned(&self) -> PortSet {
        self.shunned.clone()
    }

    /// Ports of a range that a new mapping may take.
    pub(crate) fn allowed(&self, protocol: Protocol, range: &RangeInclusive<u16>) -> PortSet {
        PortSet::from(range.clone()).without(&self.host[usize::from(protocol == Protocol::UDP)])
    }
}

impl Nat {
    /// Shares addresses behind a gate from now on, to be called before the first one is there. Random choices take `shunned`
    /// ports last: those that the host gives to its own programs.
    pub fn set_gate(&self, marks: Arc<dyn PortMarks>, shunned: PortSet) {
        self.book().gate = Some(Gate { marks, shunned, host: [PortSet::default(), PortSet::default()] });
    }

    /// Sets the ports of the host, TCP's or UDP's: those on which programs wait, and others that are busy. Mappings on a port
    /// on which a program waits end, but for published ports. Returns their ports.
    pub fn set_host_ports(&self, protocol: Protocol, waiting: &PortSet, busy: &PortSet, now: Timestamp) -> Vec<u16> {
        let index = protocol_index(protocol);
        let (mut ports, mut ending) = (Vec::new(), Vec::new());
        {
            let mut book = self.book();
            let range = self.config.ports.clone();
            let Some(gate) = &mut book.gate else { return ports };
            gate.host[usize::from(protocol == Protocol::UDP)] = waiting.clone().with(busy);
            let allowed = gate.allowed(protocol, &range);
            let shared: Vec<u8> = (0..=u8::MAX).filter(|number| book.is_shared(*number)).collect();
            for number in shared {
                let Some(address) = book.address_mut(number) else { continue };
                address.ports[index].allow_only(&allowed);
                for port in waiting.iter() {
                    let mapping = book.mapping_of(number, protocol, port);
                    let Some(mapping) = mapping.filter(|mapping| !book.is_published(*mapping)) else { continue };
                    book.close_mapping(mapping, &self.open_ports);
                    ports.push(port);
                    ending.push(mapping);
                }
            }
        }
        if !ending.is_empty() {
            // The host may have thousands of ports, and the question is asked for each connection.
            ending.sort_unstable();
            self.end_where(now, |book, id| book.mapping_in_use(id).is_some_and(|mapping| ending.binary_search(&mapping).is_ok()));
        }
        ports
    }
}

impl crate::book::Book {
    fn is_shared(&self, number: u8) -> bool {
        self.address(number).is_some_and(|address| address.kind == ExternalKind::Shared)
    }
}
