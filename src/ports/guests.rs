//! Guests that connect to the switch: each gets one of the places that are kept for those of its path or address.

use std::time::Duration;

use anyhow::Context;
use api::What;
use config::Port;
use config::port::Address;
use netio::Poller;
use netio::guest::Listener;
use packet::Timestamp;

use super::attach::attach;
use super::managed::ManagedPort;
use crate::fabric::Fabric;
use crate::model::guest_address;

/// Guests accepted at one entrance per second; others wait in the kernel. Each costs a command to all workers, a line of the log,
/// and a walk over the MAC table when it leaves.
const ACCEPTED_A_SECOND: usize = 64;

/// Pause between two warnings that all places are taken.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// The poller's tokens of entrances begin here.
pub(crate) const FIRST_TOKEN: u64 = 1 << 32;

/// Where guests of one path or address connect to.
#[derive(Debug)]
pub(super) struct Entrance {
    listener: Listener,
    /// Its token in the poller; never used before.
    token: u64,
    /// Guests are seated at the ports with this address.
    address: Address,
    /// Guests accepted since the last tick.
    accepted: usize,
    /// Not listened to until the next tick: accept(2) failed, or too many guests came.
    is_shut: bool,
    complain_at: Timestamp,
}

/// All entrances.
#[derive(Debug, Default)]
pub(super) struct Entrances {
    entrances: Vec<Entrance>,
    /// How many there have been; no token is used twice.
    opened: u64,
}

impl Entrance {
    /// Whether this is the entrance of the port's place.
    fn is_of(&self, port: &Port) -> bool {
        port.slot().is_some_and(|(address, _)| *address == self.address)
    }

    /// Listens no more until the next tick.
    fn shut(&mut self, poller: &Poller) {
        let _ = poller.remove(&self.listener);
        self.is_shut = true;
    }

    /// The control thread hears of no more guests here.
    fn close(self, poller: &Poller) {
        if !self.is_shut {
            let _ = poller.remove(&self.listener);
        }
    }
}

impl Entrances {
    /// Opens an entrance for the guests of each of these ports that has none yet.
    pub(super) fn prepare<'a>(&self, ports: impl Iterator<Item = &'a Port>, now: Timestamp) -> anyhow::Result<Vec<Entrance>> {
        let new = ports.filter(|port| !self.entrances.iter().any(|entrance| entrance.is_of(port)));
        let first_places = new.filter_map(Port::slot).filter(|(_, slot)| slot.number == 1);
        let open = |(token, (address, _)): (u64, (&Address, _))| {
            let listener = Listener::open(&guest_address(address))?;
            Ok(Entrance { listener, token, address: address.clone(), accepted: 0, is_shut: false, complain_at: now })
        };
        (FIRST_TOKEN + self.opened..).zip(first_places).map(open).collect()
    }

    /// Adds the prepared entrances.
    pub(super) fn add(&mut self, entrances: Vec<Entrance>) {
        self.opened += entrances.len() as u64;
        self.entrances.extend(entrances);
    }

    /// Waits with this poller for guests at all entrances.
    pub(super) fn watch(&self, poller: &Poller) -> anyhow::Result<()> {
        watch(&self.entrances, poller)
    }

    /// Closes the entrances that belong to none of these ports.
    pub(super) fn close_unused(&mut self, ports: &[ManagedPort], poller: &Poller) {
        let is_unused = |entrance: &mut Entrance| !ports.iter().any(|port| entrance.is_of(&port.config));
        self.entrances.extract_if(.., is_unused).for_each(|entrance| entrance.close(poller));
    }

    /// Lets guests in that wait at the entrance of this token.
    pub(super) fn let_in(&mut self, token: u64, ports: &mut [ManagedPort], poller: &Poller, fabric: &mut Fabric) {
        let Some(entrance) = self.entrances.iter_mut().find(|entrance| entrance.token == token) else { return };
        loop {
            if entrance.accepted == ACCEPTED_A_SECOND {
                return entrance.shut(poller);
            }
            entrance.accepted += 1;
            let guest = match entrance.listener.accept() {
                Ok(Some(guest)) => guest,
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(address = %entrance.address, %error, "cannot accept guests; trying again in a second");
                    return entrance.shut(poller);
                }
            };
            let now = fabric.now();
            let name = guest.peer().map_or_else(|| "a guest".to_owned(), |peer| peer.to_string().escape_debug().to_string());
            let Some(port) = ports.iter_mut().find(|port| port.is_free() && entrance.is_of(&port.config)) else {
                if now >= entrance.complain_at {
                    entrance.complain_at = now.after(COMPLAIN_EVERY);
                    tracing::warn!(
                        address = %entrance.address,
                        guest = name,
                        "a guest was turned away: all places are taken; raise guests="
                    );
                }
                continue;
            };
            port.seat(guest, now);
            tracing::info!(port = port.name(), guest = name, "a guest connected");
            attach(port, fabric);
            fabric.events.tell(What::GuestCame { port: port.name().to_owned(), guest: name });
        }
    }

    /// Reopens entrances that were shut because too many guests connected or none could be accepted. Called once per second.
    pub(super) fn open_shut(&mut self, poller: &Poller) {
        for entrance in &mut self.entrances {
            entrance.accepted = 0;
            if entrance.is_shut {
                entrance.is_shut = poller.add(&entrance.listener, entrance.token).is_err();
            }
        }
    }
}

/// Waits with this poller for guests at these entrances.
pub(super) fn watch(entrances: &[Entrance], poller: &Poller) -> anyhow::Result<()> {
    for entrance in entrances {
        poller.add(&entrance.listener, entrance.token).context("waiting for guests")?;
    }
    Ok(())
}
