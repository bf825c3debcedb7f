//! What keeps descriptors while no process of the switch runs: the service manager's descriptor store (`FileDescriptorStoreMax=` in
//! systemd.service(5)), or else a [`holder`](super::holder), if there is a state directory.
//!
//! | descriptor | name | it keeps |
//! |---|---|---|
//! | a TAP's first queue | `port-`, a hash of the port's name, and the namespace that the device was made in | the carrier, and frames that wait |
//! | the gate on the uplink | `gate`, or `gate-2` for the next one | the host's silence about guests' packets |
//! | the connection table | `connections-` and its generation | connections of guests |
//!
//! Both understand the same messages, those of sd_notify(3): `FDSTORE=1` with a descriptor, and `FDSTOREREMOVE=1`, each with
//! `FDNAME=`. The manager hands its descriptors to the next process (`LISTEN_FDS`), and the holder sends them when it is asked.
//!
//! What is kept has a number that changes with it, so that it is sent once. Messages have a time limit, because nobody who does not
//! read may stop the switch; what was not taken is sent again at the next look.
//!
//! *No moment without.* What the process before left stays where it is, under its name, if this process has taken it over. The next
//! gate and the next connection table are kept under other names, before the former ones are forgotten. Only a device that is made anew
//! takes the name of the former, which has ended by then.

use std::collections::{HashMap, HashSet};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::StateDirectory;
use super::holder::Holder;
use crate::service;

/// Names of the gate's descriptor, and of that of the next gate.
pub(super) const GATES: [&str; 2] = ["gate", "gate-2"];

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
    held: HashMap<String, Held>,
    /// A holder that holds what the manager is to have.
    former: Option<Holder>,
    /// Number of times that everything had to be sent again.
    round: u64,
    /// The last message since the last look was not taken.
    is_stuck: bool,
}

/// What is kept under a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Held {
    /// What an earlier process left: it is taken over, replaced or forgotten. With the device and number of its file.
    Left(Option<(u64, u64)>),
    /// What an earlier process left and this one has taken over.
    TakenOver,
    /// What has this number.
    Numbered(u64),
    /// What is not to be kept any more, which nobody has been told.
    Unwanted,
}

#[derive(Debug, Default)]
enum Way {
    /// Nothing does.
    #[default]
    None,
    Manager(UnixDatagram),
    Holder(Holder),
}

impl Keeper {
    /// What keeps descriptors for this process, and what it kept.
    pub(crate) fn open(state: Option<&StateDirectory>) -> (Keeper, Left) {
        let mut left = netio::inherited::take();
        let mut keeper = Keeper::default();
        match (service::manager(), state) {
            (Some(manager), state) => {
                keeper.way = Way::Manager(manager);
                keeper.note_left(&left);
                // The switch may have been started by hand before.
                if let Some((former, held)) = state.and_then(|state| Holder::find(state.path())) {
                    left.extend(held);
                    keeper.former = Some(former);
                }
            }
            (None, Some(state)) => match Holder::find_or_start(state.path()) {
                Ok((holder, held)) => {
                    keeper.way = Way::Holder(holder);
                    keeper.note_left(&held);
                    left.extend(held);
                }
                Err(error) => {
                    tracing::warn!(%error, "no process holds descriptors; guests see no carrier while this switch does not run");
                }
            },
            (None, None) => {}
        }
        (keeper, left)
    }

    fn note_left(&mut self, left: &Left) {
        let kept = left.iter().filter(|(name, _)| name != super::DOCKER);
        let held = kept.map(|(name, descriptor)| (name.clone(), Held::Left(identity(descriptor.as_fd()))));
        self.held.extend(held);
    }

    /// Changes when everything that is kept has to be handed over again.
    pub(crate) fn round(&self) -> u64 {
        self.round
    }

    /// Keeps a descriptor with this name and number, instead of an earlier one of that name.
    pub(crate) fn keep(&mut self, name: &str, number: u64, descriptor: BorrowedFd<'_>) {
        let is_kept = match self.held.get(name) {
            Some(Held::Numbered(held)) if *held == number => return,
            Some(Held::TakenOver) => true,
            Some(_) => self.forget(name) && self.store(name, descriptor),
            None => self.store(name, descriptor),
        };
        // What is not taken now is sent again at the next look.
        if is_kept {
            self.held.insert(name.to_owned(), Held::Numbered(number));
        }
    }

    fn store(&mut self, name: &str, descriptor: BorrowedFd<'_>) -> bool {
        self.tell(&format!("FDSTORE=1\nFDNAME={name}\n"), Some(descriptor))
    }

    /// Keeps what has this name no longer. False if nobody could be told yet.
    pub(crate) fn forget(&mut self, name: &str) -> bool {
        if !self.held.contains_key(name) {
            return true;
        }
        let is_told = self.tell(&remove(name), None);
        if is_told {
            self.held.remove(name);
        } else {
            self.held.insert(name.to_owned(), Held::Unwanted);
        }
        is_told
    }

    /// Keeps what holds the gate on the uplink, and after that nothing that it kept before.
    pub(crate) fn keep_gate(&mut self, gate: Option<(u64, BorrowedFd<'_>)>) {
        let Some((number, link)) = gate else {
            return GATES.iter().for_each(|name| {
                self.forget(name);
            });
        };
        if GATES.iter().any(|name| self.has(name, number)) {
            return;
        }
        let name = GATES.into_iter().find(|name| !self.held.contains_key(*name)).unwrap_or(GATES[0]);
        self.keep(name, number, link);
        if self.has(name, number) {
            GATES.iter().filter(|other| **other != name).for_each(|other| {
                self.forget(other);
            });
        }
    }

    /// Keeps what holds the connection table of this generation, and after that no other.
    pub(crate) fn keep_connections(&mut self, table: Option<(u64, BorrowedFd<'_>)>) {
        let Some((generation, table)) = table else { return };
        let name = connections_of(generation);
        if self.has(&name, 1) {
            return;
        }
        if self.held.get(&name).is_some_and(|held| matches!(held, Held::Left(Some(left)) if identity(table) == Some(*left))) {
            self.held.insert(name.clone(), Held::TakenOver);
        }
        self.keep(&name, 1, table);
        if self.has(&name, 1) {
            self.forget_all(|other, _| other.starts_with(CONNECTIONS) && other != name);
        }
    }

    /// Forgets what an earlier process left and this one has not taken up.
    pub(crate) fn forget_left(&mut self) {
        self.forget_all(|_, held| matches!(held, Held::Left(_) | Held::TakenOver));
        if let Some(former) = self.former.take() {
            former.end();
        }
    }

    fn forget_all(&mut self, is_it: impl Fn(&str, Held) -> bool) -> bool {
        let names: Vec<String> =
            self.held.iter().filter(|(name, held)| is_it(name, **held)).map(|(name, _)| name.clone()).collect();
        names.iter().for_each(|name| {
            self.forget(name);
        });
        !names.is_empty()
    }

    /// Whether something is kept under this name and number.
    pub(crate) fn has(&self, name: &str, number: u64) -> bool {
        self.held.get(name) == Some(&Held::Numbered(number))
    }

    /// The ports' descriptors of these names have been taken over. Forgets the others that an earlier process left, and waits until
    /// they are closed.
    pub(crate) fn forget_ports_but(&mut self, taken: &HashSet<String>) {
        for (name, held) in &mut self.held {
            if matches!(held, Held::Left(_)) && taken.contains(name) {
                *held = Held::TakenOver;
            }
        }
        if let Some(former) = &self.former {
            former.forget(|name| name.starts_with(super::PORT) && !taken.contains(name));
        }
        if !self.forget_all(|name, held| matches!(held, Held::Left(_)) && name.starts_with(super::PORT)) {
            return;
        }
        match &self.way {
            Way::None => {}
            // It obeys in order, so they are closed when it answers.
            Way::Holder(holder) => holder.wait(),
            // It does not answer.
            Way::Manager(_) => std::thread::sleep(CLOSE_TIME),
        }
    }

    /// Once a second: starts the holder again if somebody has ended it, and tells what could not be told before.
    pub(crate) fn look(&mut self) {
        self.is_stuck = false;
        if let Way::Holder(holder) = &mut self.way {
            match holder.look() {
                Ok(false) => {}
                Ok(true) => {
                    tracing::warn!("somebody ended the process that holds descriptors for the next start; there is another one");
                    self.held.clear();
                    self.round += 1;
                }
                Err(error) => tracing::debug!(%error, "cannot start a process that holds descriptors"),
            }
        }
        self.forget_all(|_, held| held == Held::Unwanted);
    }

    /// Keeps nothing any more: the switch has ended for good.
    pub(crate) fn end(&mut self) {
        self.forget_all(|_, _| true);
        if let Way::Holder(holder) = std::mem::take(&mut self.way) {
            holder.end();
        }
    }

    /// Sends a message. False if it was not taken: then no other is sent before the next look, so that somebody who does not read
    /// costs the time of one.
    fn tell(&mut self, text: &str, descriptor: Option<BorrowedFd<'_>>) -> bool {
        let socket = match &self.way {
            Way::None => return true,
            _ if self.is_stuck => return false,
            Way::Manager(socket) => socket,
            Way::Holder(holder) => holder.socket(),
        };
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

/// The message to keep nothing of this name any more.
pub(super) fn remove(name: &str) -> String {
    format!("FDSTOREREMOVE=1\nFDNAME={name}\n")
}

/// The device and number of a file, which tell memory from other memory; devices have them in common.
fn identity(file: BorrowedFd<'_>) -> Option<(u64, u64)> {
    rustix::fs::fstat(file).ok().map(|file| (file.st_dev, file.st_ino))
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

    fn keeper(left: &[(&str, Held)]) -> (Keeper, UnixDatagram) {
        let (ours, manager) = UnixDatagram::pair().unwrap();
        let held = left.iter().map(|(name, held)| ((*name).to_owned(), *held)).collect();
        (Keeper { way: Way::Manager(ours), held, ..Keeper::default() }, manager)
    }

    fn stored(name: &str) -> Option<String> {
        Some(format!("FDSTORE=1\nFDNAME={name}\n"))
    }

    fn removed(name: &str) -> Option<String> {
        Some(remove(name))
    }

    #[test]
    fn each_is_kept_once() {
        let (mut keeper, manager) = keeper(&[("port-1", Held::Left(None))]);
        let (first, second) = (std::fs::File::open("/dev/null").unwrap(), std::fs::File::open("/dev/zero").unwrap());
        keeper.keep_gate(None);
        assert_eq!(heard(&manager), None);
        // The next gate is kept before the former is forgotten.
        for (number, file, name, before) in
            [(1, &first, GATES[0], None), (2, &second, GATES[1], Some(GATES[0])), (3, &first, GATES[0], Some(GATES[1]))]
        {
            for _ in 0..2 {
                keeper.keep_gate(Some((number, file.as_fd())));
            }
            assert_eq!(heard(&manager), stored(name));
            assert_eq!(heard(&manager), before.and_then(removed));
        }
        keeper.forget_left();
        assert_eq!(heard(&manager), removed("port-1"));
        keeper.keep_gate(None);
        assert_eq!(heard(&manager), removed(GATES[0]));
        keeper.forget_left();
        assert_eq!(heard(&manager), None);
    }

    #[test]
    fn what_is_taken_over_stays_where_it_is() {
        let (mut keeper, manager) = keeper(&[("port-1", Held::Left(None)), ("port-2", Held::Left(None))]);
        let file = std::fs::File::open("/dev/null").unwrap();
        keeper.forget_ports_but(&HashSet::from(["port-1".to_owned()]));
        assert_eq!(heard(&manager), removed("port-2"));
        keeper.keep("port-1", 7, file.as_fd());
        keeper.forget_left();
        assert_eq!((heard(&manager), keeper.has("port-1", 7)), (None, true));
        // Another device of that name.
        keeper.keep("port-1", 8, file.as_fd());
        assert_eq!((heard(&manager), heard(&manager)), (removed("port-1"), stored("port-1")));
    }

    #[test]
    fn a_table_is_forgotten_when_the_next_is_kept() {
        let (left, own) = (std::fs::File::open("/dev/null").unwrap(), std::fs::File::open("/dev/zero").unwrap());
        let (mut keeper, manager) =
            keeper(&[("connections-7", Held::Left(identity(left.as_fd()))), ("connections-6", Held::Left(None))]);
        keeper.keep_connections(Some((7, left.as_fd())));
        assert_eq!(heard(&manager), removed("connections-6"));
        keeper.forget_left();
        keeper.keep_connections(Some((7, left.as_fd())));
        assert_eq!(heard(&manager), None);
        keeper.keep_connections(Some((8, own.as_fd())));
        assert_eq!((heard(&manager), heard(&manager)), (stored("connections-8"), removed("connections-7")));
        // One of that generation that is another memory.
        keeper.held = HashMap::from([("connections-9".to_owned(), Held::Left(identity(left.as_fd())))]);
        keeper.keep_connections(Some((9, own.as_fd())));
        assert_eq!((heard(&manager), heard(&manager)), (removed("connections-9"), stored("connections-9")));
    }

    /// Nothing is believed to be told that was not taken.
    #[test]
    fn what_could_not_be_told_is_told_later() {
        let (mut keeper, manager) = keeper(&[("port-1", Held::Numbered(1))]);
        let file = std::fs::File::open("/dev/null").unwrap();
        let Way::Manager(ours) = &keeper.way else { unreachable!() };
        ours.set_nonblocking(true).unwrap();
        let filled = (0..100_000).take_while(|_| ours.send(b"x").is_ok()).count();
        assert!(!keeper.forget("port-1") && !keeper.has("port-1", 1));
        keeper.keep("port-1", 2, file.as_fd());
        keeper.keep("port-3", 3, file.as_fd());
        assert!(!keeper.has("port-1", 2) && !keeper.has("port-3", 3));
        (0..filled).for_each(|_| assert_eq!(heard(&manager).as_deref(), Some("x")));
        keeper.look();
        assert_eq!((heard(&manager), heard(&manager)), (removed("port-1"), None));
        assert!(keeper.held.is_empty());
    }
}
