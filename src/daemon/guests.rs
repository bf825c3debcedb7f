//! Guests that connect to the switch: each gets one of the places that are kept for those of its path or address.

use std::time::Duration;

use anyhow::Context;
use netio::Poller;
use netio::guest::{Address, Listener};
use packet::Timestamp;

use super::Daemon;
use crate::config::PortConfig;
use crate::control_socket::What;

/// So many guests are let in at one entrance in a second; others wait outside. Each costs a word to all workers, a line
/// of the log, and when it goes a walk over the MAC table.
const ACCEPTED_A_SECOND: usize = 64;

/// That there is no place is said so often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// Tokens of listeners begin here.
pub(super) const FIRST_TOKEN: u64 = 1 << 32;

/// Where guests of one path or address connect to.
#[derive(Debug)]
pub(super) struct Entrance {
    listener: Listener,
    /// What the poller calls it; no other had it before.
    token: u64,
    /// Its guests' places are among the ports with this address.
    address: Address,
    /// Guests that came in since the last tick.
    accepted: usize,
    /// No descriptors are left for more guests, or too many came: not listened to until the next tick.
    is_shut: bool,
    complain_at: Timestamp,
}

/// Opens all entrances.
pub(super) fn open(ports: &[PortConfig], first_token: u64, now: Timestamp) -> anyhow::Result<Vec<Entrance>> {
    let first_places = ports.iter().filter_map(PortConfig::slot).filter(|(_, slot)| slot.number == 1);
    let open = |(token, address): (u64, &Address)| {
        let listener = Listener::open(address)?;
        Ok(Entrance { listener, token, address: address.clone(), accepted: 0, is_shut: false, complain_at: now })
    };
    (first_token..).zip(first_places.map(|(address, _)| address)).map(open).collect()
}

impl Entrance {
    /// Is it the one of this port's place?
    pub(super) fn is_of(&self, port: &PortConfig) -> bool {
        port.slot().is_some_and(|(address, _)| *address == self.address)
    }

    /// The control thread hears of no more guests here.
    pub(super) fn close(self, poller: &Poller) {
        if !self.is_shut {
            let _ = poller.remove(&self.listener);
        }
    }
}

/// The control thread hears of guests from now on.
pub(super) fn watch(entrances: &[Entrance], poller: &Poller) -> anyhow::Result<()> {
    for entrance in entrances {
        poller.add(&entrance.listener, entrance.token).context("waiting for guests")?;
    }
    Ok(())
}

impl Daemon {
    /// Lets guests in that wait at the entrance of this token.
    pub(super) fn let_in(&mut self, token: u64) {
        loop {
            let Some(entrance) = self.entrances.iter_mut().find(|entrance| entrance.token == token) else { return };
            if entrance.accepted == ACCEPTED_A_SECOND {
                let _ = self.poller.remove(&entrance.listener);
                entrance.is_shut = true;
                return;
            }
            entrance.accepted += 1;
            let guest = match entrance.listener.accept() {
                Ok(Some(guest)) => guest,
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!("{}: no guest can come in: {error}", entrance.address);
                    let _ = self.poller.remove(&entrance.listener);
                    entrance.is_shut = true;
                    return;
                }
            };
            let now = self.clock.now();
            let who = guest.peer().map_or_else(|| "a guest".to_owned(), |peer| peer.to_string().escape_debug().to_string());
            let mine = |address: &Address| *address == entrance.address;
            let place = self
                .ports
                .iter_mut()
                .enumerate()
                .find(|(_, port)| port.is_free() && port.config.slot().is_some_and(|(address, _)| mine(address)));
            let Some((place, port)) = place else {
                if now >= entrance.complain_at {
                    entrance.complain_at = now.after(COMPLAIN_EVERY);
                    tracing::warn!("{}: no place for {who}: all are taken; raise guests=", entrance.address);
                }
                continue;
            };
            port.seat(guest, now);
            let port = port.name().to_owned();
            tracing::info!("{port}: {who} is here");
            self.attach(place);
            self.tell(What::GuestCame { port, guest: who });
        }
    }

    /// Listens again where there was no room, or too many came.
    pub(super) fn open_shut_entrances(&mut self) {
        self.entrances.iter_mut().for_each(|entrance| entrance.accepted = 0);
        for entrance in self.entrances.iter_mut().filter(|entrance| entrance.is_shut) {
            entrance.is_shut = self.poller.add(&entrance.listener, entrance.token).is_err();
        }
    }
}
