//! The ports in the order in which they were added, and their indices by number.
//!
//! Numbers are reused, so a later port may have a lower one. Whatever is done for each port of a list of numbers (news of devices,
//! statistics) finds it without a walk over all.

use std::ops::{Deref, DerefMut};

use config::Port;
use vswitch::PortId;

use super::ManagedPort;

/// All ports. Their numbers do not change while they are in the list.
#[derive(Debug, Default)]
pub(super) struct PortList {
    ports: Vec<ManagedPort>,
    /// The index of each number's port.
    by_number: Vec<Option<u16>>,
}

impl PortList {
    pub(super) fn new(ports: Vec<ManagedPort>) -> PortList {
        let mut list = PortList { ports, by_number: Vec::new() };
        list.index();
        list
    }

    /// The port of this number, if one has it.
    pub(super) fn of(&self, id: PortId) -> Option<&ManagedPort> {
        self.ports.get(self.position_of(id)?)
    }

    /// The port of this number, to be changed.
    pub(super) fn of_mut(&mut self, id: PortId) -> Option<&mut ManagedPort> {
        let at = self.position_of(id)?;
        self.ports.get_mut(at)
    }

    fn position_of(&self, id: PortId) -> Option<usize> {
        self.by_number.get(id.index()).copied().flatten().map(usize::from)
    }

    /// The index of the port with the device or socket of this configuration.
    pub(super) fn position(&self, config: &Port) -> Option<usize> {
        self.ports.iter().position(|port| port.config.is_same_port(config))
    }

    /// Adds ports at the end.
    pub(super) fn extend(&mut self, ports: Vec<ManagedPort>) {
        self.ports.extend(ports);
        self.index();
    }

    /// Takes the ports of these configurations out; of two with one device, the older.
    pub(super) fn take(&mut self, configs: &[Port]) -> Vec<ManagedPort> {
        let taken = configs.iter().filter_map(|config| Some(self.ports.remove(self.position(config)?))).collect();
        self.index();
        taken
    }

    pub(super) fn into_iter(self) -> impl Iterator<Item = ManagedPort> {
        self.ports.into_iter()
    }

    fn index(&mut self) {
        let end = self.ports.iter().map(|port| port.id.index() + 1).max().unwrap_or(0);
        self.by_number.clear();
        self.by_number.resize(end, None);
        for (at, port) in self.ports.iter().enumerate() {
            self.by_number[port.id.index()] = Some(at as u16);
        }
    }
}

impl Deref for PortList {
    type Target = [ManagedPort];

    fn deref(&self) -> &[ManagedPort] {
        &self.ports
    }
}

impl DerefMut for PortList {
    fn deref_mut(&mut self) -> &mut [ManagedPort] {
        &mut self.ports
    }
}

#[cfg(test)]
mod tests {
    use packet::Timestamp;

    use super::super::managed::tests::port;
    use super::*;

    #[test]
    fn ports_are_found_by_their_numbers_whatever_came_and_went() {
        let (now, path) = (Timestamp::default(), |name: &str| port(&format!("dgram:/run/{name}")));
        let at = |id: u16, name: &str| ManagedPort::later(PortId(id), path(name), None, now);
        let names = |list: &PortList| (0..5).map(|id| list.of(PortId(id)).map(|port| port.name().to_owned())).collect::<Vec<_>>();
        let some = |name: &str| Some(format!("/run/{name}"));
        let mut list = PortList::new(vec![at(0, "a"), at(3, "b"), at(1, "c")]);
        assert_eq!(names(&list), [some("a"), some("c"), None, some("b"), None]);
        let taken = list.take(&[path("b"), path("other"), path("a")]);
        assert_eq!(taken.iter().map(|port| port.id.0).collect::<Vec<_>>(), [3, 0]);
        list.extend(vec![at(0, "d")]);
        assert_eq!(names(&list), [some("d"), some("c"), None, None, None]);
        assert_eq!(list.iter().map(|port| port.id.0).collect::<Vec<_>>(), [1, 0], "in the order in which they came");
    }
}
