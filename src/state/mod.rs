//! What outlives the process.
//!
//! ```text
//!   DIR/lock         held by the daemon as long as it runs
//!   DIR/state.json   what verbs made and own
//!   DIR/id           the number by which devices are known as this switch's
//!   DIR/holder       socket of the process that holds descriptors, without a service manager
//! ```
//!
//! With a [state directory](StateDirectory), the devices that the switch made stay when its process ends, however it ends, and a
//! [`Keeper`] holds their descriptors. The next process finds all of it as its [`Past`], and goes on.
//!
//! *The end for good* (SIGINT, `vswitchctl stop`) deletes the devices and keeps nothing. SIGTERM is what a restart begins with.
//!
//! *One daemon a directory.* The lock belongs to the process, so it is free again however that ends.

mod content;
mod directory;
mod file;
pub(crate) mod holder;
mod keeper;
pub(crate) mod upgrade;

use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};

use config::{Desired, Port};
use netio::netns::{Began, NetnsId};
use netio::tap::keep;

use crate::model;
pub(crate) use directory::StateDirectory;
use file::{Prepared, StateFile};
pub(crate) use keeper::Keeper;
use upgrade::Upgrade;

/// Name of the descriptor of the Docker driver's socket, which the service manager passes (`FileDescriptorName=` in systemd.socket(5)).
pub(crate) const DOCKER: &str = "docker";

/// Begins the names of ports' descriptors.
const PORT: &str = "port-";
/// The namespace in such a name, if it is the daemon's own.
const OWN: &str = "own";

/// Where the state is, and what keeps descriptors.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) directory: Option<StateDirectory>,
    pub(crate) keeper: Keeper,
    /// The program that is to go on.
    pub(crate) next: Option<Upgrade>,
    file: Option<StateFile>,
}

/// What an earlier process of this switch left.
#[derive(Debug, Default)]
pub(crate) struct Past {
    /// The first queue of each port's device, by the port's part of the name.
    ports: HashMap<String, LeftDevice>,
    connections: Vec<OwnedFd>,
    /// When the processes began in whose namespaces ports of verbs are, by the ports' full names.
    processes: HashMap<String, Began>,
    /// The socket on which dockerd asks.
    docker: Option<OwnedFd>,
    /// Everything else, which works as long as it is open.
    rest: Vec<OwnedFd>,
}

/// A descriptor of a device, and the namespace that it was made in, if that is not the daemon's own.
#[derive(Debug)]
pub(crate) struct LeftDevice {
    pub(crate) descriptor: OwnedFd,
    pub(crate) made_in: Option<NetnsId>,
}

impl State {
    /// The state of this process in this directory, and what an earlier one left.
    pub(crate) fn open(directory: Option<StateDirectory>) -> (State, Past) {
        if let Some(directory) = &directory {
            keep::use_group(directory.number());
        }
        let (keeper, left) = Keeper::open(directory.as_ref());
        let mut past = Past::default();
        for (name, descriptor) in left {
            // Without a directory, devices are ended, so that they can be made anew.
            match port_of(&name) {
                Some((port, made_in)) => drop(past.ports.insert(port.to_owned(), LeftDevice { descriptor, made_in })),
                None if name.starts_with(keeper::CONNECTIONS) => past.connections.push(descriptor),
                None if name == DOCKER => past.docker = Some(descriptor),
                None => past.rest.push(descriptor),
            }
        }
        (State { directory, keeper, next: None, file: None }, past)
    }

    /// The configuration with what verbs of earlier processes made and own.
    pub(crate) fn restore(&mut self, desired: Desired, past: &mut Past) -> Desired {
        let Some(directory) = &self.directory else { return desired };
        let (file, restored) = StateFile::open(directory.path(), desired);
        past.processes = file.processes().clone();
        self.file = Some(file);
        restored
    }

    /// Writes what is to be kept of a new configuration, before anything is changed. [`State::commit`] follows when it is in force.
    pub(crate) fn prepare(&self, desired: &Desired) -> anyhow::Result<Option<Prepared>> {
        self.file.as_ref().map_or(Ok(None), |file| file.prepare(desired))
    }

    /// What was prepared is in force.
    pub(crate) fn commit(&mut self, prepared: Option<Prepared>) {
        if let (Some(file), Some(prepared)) = (&mut self.file, prepared) {
            file.commit(prepared);
        }
    }

    /// What is wrong with the state of before.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.file.as_ref()?.problem()
    }

    /// Whether devices stay when the process ends.
    pub(crate) fn outlives(&self) -> bool {
        self.directory.is_some()
    }
}

impl Past {
    /// The device that a port had: that of its full name, or else the one that has its interface's name in its namespace, which
    /// may have been written in another way.
    pub(crate) fn device_of(&mut self, port: &Port) -> Option<LeftDevice> {
        if let Some(left) = self.ports.remove(&hash(&port.full_name())) {
            return Some(left);
        }
        let (name, netns) = port.link()?;
        let process = self.process_of(port);
        let made_in = netns.map(|netns| model::netns(netns).of(process).id()).transpose().ok()?;
        let is_it = |left: &LeftDevice| {
            left.made_in == made_in
                && keep::device_behind(&left.descriptor)
                    .is_ok_and(|(there, is_in)| there == name && made_in.is_none_or(|id| id == is_in))
        };
        let key = self.ports.iter().find(|(_, left)| is_it(left)).map(|(key, _)| key.clone())?;
        self.ports.remove(&key)
    }

    /// When the process began in whose namespace a port of a verb was made.
    pub(crate) fn process_of(&self, port: &Port) -> Option<Began> {
        self.processes.get(&port.full_name()).copied()
    }

    /// Ends the devices that no port has taken over. Their names are free when the keeper has forgotten them, too.
    pub(crate) fn end_devices(&mut self) -> usize {
        let left = std::mem::take(&mut self.ports);
        let count = left.len();
        left.into_values().for_each(|left| keep::discard(left.descriptor));
        count
    }

    /// The socket on which dockerd asks, if it was passed.
    pub(crate) fn docker(&mut self) -> Option<OwnedFd> {
        self.docker.take()
    }

    /// The connection tables that were left: the last one, or the last two.
    pub(crate) fn connections(&mut self) -> Vec<OwnedFd> {
        std::mem::take(&mut self.connections)
    }

    /// Ends what nobody has taken up.
    pub(crate) fn end(mut self) {
        self.end_devices();
    }
}

/// The names and descriptors of what is kept besides ports.
pub(crate) fn others<'f>(
    gate: Option<(u64, BorrowedFd<'f>)>,
    table: Option<(u64, BorrowedFd<'f>)>,
) -> impl Iterator<Item = (String, BorrowedFd<'f>)> {
    let gate = gate.map(|(_, gate)| (keeper::GATES[0].to_owned(), gate));
    let table = table.map(|(generation, table)| (keeper::connections_of(generation), table));
    gate.into_iter().chain(table)
}

/// The name under which the descriptor of a port's device is kept.
pub(crate) fn name_of(full_name: &str, made_in: Option<NetnsId>) -> String {
    let namespace = made_in.map_or_else(|| OWN.to_owned(), |id| id.to_string());
    format!("{PORT}{}-{namespace}", hash(full_name))
}

/// The port's part and the namespace of such a name.
fn port_of(name: &str) -> Option<(&str, Option<NetnsId>)> {
    let (port, namespace) = name.strip_prefix(PORT)?.split_once('-')?;
    let made_in = if namespace == OWN { None } else { Some(namespace.parse().ok()?) };
    Some((port, made_in))
}

/// The names of descriptors are short, and without colons.
fn hash(text: &str) -> String {
    format!("{:016x}", fnv(text.as_bytes()))
}

/// A hash that is the same in all builds: FNV-1a.
pub(crate) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_descriptors() {
        let own = name_of("tap0", None);
        assert_eq!(port_of(&own), Some((hash("tap0").as_str(), None)));
        let id: NetnsId = "4-4026531840".parse().unwrap();
        let other = name_of("eth0@/proc/3974/ns/net", Some(id));
        assert_eq!(port_of(&other), Some((hash("eth0@/proc/3974/ns/net").as_str(), Some(id))));
        assert!(!other.contains(':') && other.len() < 64, "{other}");
        for nonsense in ["gate", "port-", "port-x", "port-x-y", "port-x-1-", "port-x-1-y"] {
            assert_eq!(port_of(nonsense), None, "{nonsense}");
        }
        assert_eq!(hash(""), "cbf29ce484222325");
    }
}
