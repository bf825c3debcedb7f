//! What keeps descriptors while no process of the switch runs: the service manager's descriptor store (`FileDescriptorStoreMax=` in
//! systemd.service(5)), or else a [`holder`], if there is a state directory.
//!
//! | descriptor | name | it keeps |
//! |---|---|---|
//! | a TAP's first queue | `port-`, a hash of the port's name, and the namespace that the device was made in | the carrier, and frames that wait |
//! | the gate on the uplink | `gate` | the host's silence about guests' packets |
//! | the connection table | `connections-` and its generation | connections of guests |
//!
//! Both understand the same messages, those of sd_notify(3): `FDSTORE=1` with a descriptor, and `FDSTOREREMOVE=1`, each with
//! `FDNAME=`. The manager hands its descriptors to the next process (`LISTEN_FDS`), and the holder sends them when it is asked.
//!
//! What is kept has a number that changes with it, so that it is sent once. Messages have a time limit, because nobody who does not
//! read may stop the switch.

use std::collections::{HashMap, HashSet};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::StateDirectory;
use super::holder;
use crate::service;

/// Name of the gate's descriptor.
pub(super) const GATE: &str = "gate";

/// Begins the name of the connection table's descriptor.
pub(super) const CONNECTIONS: &str = "connections-";

/// Time that the service manager gets to close descriptors that it is to forget.
const CLOSE_TIME: Duration = Duration::from_millis(200);

/// Descriptors that an earlier process left, with their names.
pub(crate) type Left = Vec<(String, OwnedFd)>;

/// What keeps descriptors, and what it keeps.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    way: Way,
    held: HashMap<String, u64>,
    /// Number of times that everything had to be sent again.
    round: u64,
    /// The last message since the last look was not taken.
    is_stuck: bool,
}

#[derive(Debug, Default)]
enum Way {
    /// Nothing does.
    #[default]
    None,
    Manager(UnixDatagram),
    /// A holder, reached by this path.
    Holder(UnixDatagram, PathBuf),
}

impl Keeper {
    /// What keeps descriptors for this process, and what it kept.
    pub(crate) fn open(state: Option<&StateDirectory>) -> (Keeper, Left) {
        let mut left = netio::inherited::take();
        let way = match (service::manager(), state) {
            (Some(manager), state) => {
                // The switch may have been started by hand before.
                left.extend(state.map(|state| holder::drain(state.path())).unwrap_or_default());
                Way::Manager(manager)
            }
            (None, Some(state)) => match holder::find_or_start(state.path()) {
                Ok((socket, path, held)) => {
                    left.extend(held);
                    Way::Holder(socket, path)
                }
                Err(error) => {
                    tracing::warn!(%error, "no process holds descriptors; guests see no carrier while this switch does not run");
                    Way::None
                }
            },
            (None, None) => Way::None,
        };
        // Each is replaced or forgotten.
        let held = left.iter().map(|(name, _)| (name.clone(), 0)).collect();
        (Keeper { way, held, round: 0, is_stuck: false }, left)
    }

    /// Changes when everything that is kept has to be handed over again.
    pub(crate) fn round(&self) -> u64 {
        self.round
    }

    /// Keeps a descriptor with this name and number, instead of an earlier one of that name. The number 0 is nobody's.
    pub(crate) fn keep(&mut self, name: &str, number: u64, descriptor: BorrowedFd<'_>) {
        if self.held.get(name) == Some(&number) {
            return;
        }
        self.forget(name);
        // What is not taken now is sent again at the next look.
        if self.tell(&format!("FDSTORE=1\nFDNAME={name}\n"), Some(descriptor)) {
            self.held.insert(name.to_owned(), number);
        }
    }

    /// Keeps what has this name no longer.
    pub(crate) fn forget(&mut self, name: &str) {
        if self.held.remove(name).is_some() {
            self.tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}\n"), None);
        }
    }

    /// Keeps what holds the gate on the uplink, and nothing that it kept before.
    pub(crate) fn keep_gate(&mut self, gate: Option<(u64, BorrowedFd<'_>)>) {
        match gate {
            Some((number, link)) => self.keep(GATE, number, link),
            None => self.forget(GATE),
        }
    }

    /// Keeps what holds the connection table of this generation.
    pub(crate) fn keep_connections(&mut self, table: Option<(u64, BorrowedFd<'_>)>) {
        if let Some((generation, table)) = table {
            self.keep(&connections_of(generation), 1, table);
        }
    }

    /// Forgets what an earlier process left and this one has not taken up.
    pub(crate) fn forget_left(&mut self) {
        let left: Vec<String> = self.held.iter().filter(|(_, number)| **number == 0).map(|(name, _)| name.clone()).collect();
        left.iter().for_each(|name| self.forget(name));
    }

    /// Whether something is kept under this name and number.
    pub(crate) fn has(&self, name: &str, number: u64) -> bool {
        self.held.get(name) == Some(&number)
    }

    /// Forgets the ports' descriptors that an earlier process left, except those of these names, and waits until they are closed.
    pub(crate) fn forget_ports_but(&mut self, taken: &HashSet<String>) {
        let is_left = |(name, number): &(&String, &u64)| **number == 0 && name.starts_with(super::PORT) && !taken.contains(*name);
        let left: Vec<String> = self.held.iter().filter(is_left).map(|(name, _)| name.clone()).collect();
        if left.is_empty() {
            return;
        }
        left.iter().for_each(|name| self.forget(name));
        match &self.way {
            Way::None => {}
            // It obeys in order, so they are closed when it answers.
            Way::Holder(socket, _) => drop(holder::fetch(socket)),
            // It does not answer.
            Way::Manager(_) => std::thread::sleep(CLOSE_TIME),
        }
    }

    /// Once a second: starts the holder again if somebody has ended it.
    pub(crate) fn look(&mut self) {
        self.is_stuck = false;
        let Way::Holder(socket, path) = &self.way else { return };
        if socket.send(b"\n").is_ok() {
            return;
        }
        match holder::start(path) {
            Ok(socket) => {
                tracing::warn!("somebody ended the process that holds descriptors for the next start; there is another one");
                self.way = Way::Holder(socket, path.clone());
                self.held.clear();
                self.round += 1;
            }
            Err(error) => tracing::debug!(%error, "cannot start a process that holds descriptors"),
        }
    }

    /// Keeps nothing any more: the switch has ended for good.
    pub(crate) fn end(&mut self) {
        let names: Vec<String> = self.held.keys().cloned().collect();
        names.iter().for_each(|name| self.forget(name));
        if let Way::Holder(socket, path) = &self.way {
            let _ = socket.send(holder::END);
            let _ = std::fs::remove_file(path);
        }
        self.way = Way::None;
    }

    /// Sends a message. False if it was not taken: then no other is sent before the next look, so that somebody who does not read
    /// costs the time of one.
    fn tell(&mut self, text: &str, descriptor: Option<BorrowedFd<'_>>) -> bool {
        let (Way::Manager(socket) | Way::Holder(socket, _)) = &self.way else { return true };
        if self.is_stuck {
            return false;
        }
        let sent = match descriptor {
            Some(descriptor) => send_descriptor(socket, text, descriptor),
            None => socket.send(text.as_bytes()).map(drop),
        };
        if let Err(error) = sent {
            tracing::debug!(%error, message = text.lines().last(), "not all descriptors are kept over a restart");
            self.is_stuck = true;
        }
        !self.is_stuck
    }
}

/// The name of the connection table of this generation.
pub(super) fn connections_of(generation: u64) -> String {
    format!("{CONNECTIONS}{generation}")
}

/// Sends a message with a descriptor.
pub(super) fn send_descriptor(socket: &UnixDatagram, text: &str, descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let descriptors = [descriptor];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    sendmsg(socket, &[IoSlice::new(text.as_bytes())], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn heard(socket: &UnixDatagram) -> Option<String> {
        let mut bytes = [0; 256];
        socket.set_nonblocking(true).unwrap();
        socket.recv(&mut bytes).ok().map(|len| String::from_utf8_lossy(&bytes[..len]).into_owned())
    }

    #[test]
    fn each_is_kept_once() {
        let (ours, manager) = UnixDatagram::pair().unwrap();
        let mut keeper =
            Keeper { way: Way::Manager(ours), held: HashMap::from([("port-1".to_owned(), 0)]), round: 0, is_stuck: false };
        let (first, second) = (std::fs::File::open("/dev/null").unwrap(), std::fs::File::open("/dev/zero").unwrap());
        keeper.keep_gate(None);
        assert_eq!(heard(&manager), None);
        for (number, file, before) in [(1, &first, false), (2, &second, true)] {
            for _ in 0..2 {
                keeper.keep_gate(Some((number, file.as_fd())));
            }
            if before {
                assert_eq!(heard(&manager).unwrap(), "FDSTOREREMOVE=1\nFDNAME=gate\n");
            }
            assert_eq!(heard(&manager).unwrap(), "FDSTORE=1\nFDNAME=gate\n");
            assert_eq!(heard(&manager), None);
        }
        keeper.forget_left();
        assert_eq!(heard(&manager).unwrap(), "FDSTOREREMOVE=1\nFDNAME=port-1\n");
        keeper.keep_gate(None);
        assert_eq!(heard(&manager).unwrap(), "FDSTOREREMOVE=1\nFDNAME=gate\n");
        keeper.forget_left();
        assert_eq!(heard(&manager), None);
    }
}
