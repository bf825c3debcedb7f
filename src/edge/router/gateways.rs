//! Gateways that come and go while packets flow.
//!
//! A network has a number, by which neighbours and waiting packets know it. It keeps the number for as long as its gateway exists; the
//! number of a gateway that is gone is free with the next change, when no worker uses the routes with the old one any more.

use anyhow::ensure;
use config::Gateway;
use nat::Connection;
use packet::{Ipv4Prefix, Timestamp};
use vswitch::routing::MAX_INTERFACES;
use vswitch::{InterfaceId, Routing};

use super::{RouterControl, interface_of, settings};

impl RouterControl {
    /// Checks gateways that are to be added: their number, and that their networks are not the uplink's.
    pub(crate) fn check_gateways(&self, removed: &[Gateway], added: &[Gateway]) -> anyhow::Result<()> {
        let count = self.interfaces.iter().flatten().count() + added.len();
        ensure!(
            count - removed.len() <= MAX_INTERFACES,
            "{} gateways, but there are at most {MAX_INTERFACES}",
            count - removed.len()
        );
        let new = config::Router { gateways: added.to_vec(), ..self.config.clone() };
        for (address, prefix_len) in &self.networks {
            new.check_uplink_network(Ipv4Prefix::new(*address, *prefix_len))?;
        }
        Ok(())
    }

    /// Removes and adds gateways; `all` are those from now on. Connections of guests whose network is gone, or reaches nothing from now
    /// on, end.
    pub(crate) fn set_gateways(&mut self, removed: &[Gateway], added: &[Gateway], all: Vec<Gateway>, now: Timestamp) {
        let mut freed = Vec::new();
        // A network that stays, and forwards other packets from now on, keeps its number and all that is known of it.
        let stays = |gateway: &Gateway, others: &[Gateway]| others.iter().any(|other| other.is_same_network(gateway));
        for gateway in added.iter().filter(|gateway| stays(gateway, removed)) {
            let now = interface_of(gateway);
            let before = self.interfaces.iter_mut().flatten().find(|one| one.domain == now.domain);
            before.into_iter().for_each(|interface| *interface = now);
        }
        for gateway in removed.iter().filter(|gateway| !stays(gateway, added)) {
            let gone = interface_of(gateway);
            let Some(number) = self.interfaces.iter().position(|interface| *interface == Some(gone)) else { continue };
            self.interfaces[number] = None;
            freed.push(number);
        }
        for gateway in added.iter().filter(|gateway| !stays(gateway, removed)) {
            let is_free = |number: &usize| !freed.contains(number) && self.interfaces.get(*number).is_none_or(Option::is_none);
            let Some(number) = (0..).find(is_free) else { continue };
            if number >= self.interfaces.len() {
                self.interfaces.resize(number + 1, None);
            }
            // A worker may have resolved an address for the one before since it was removed.
            self.neighbours.flush(InterfaceId(number as u16));
            self.interfaces[number] = Some(interface_of(gateway));
        }
        for number in freed {
            self.neighbours.flush(InterfaceId(number as u16));
        }
        self.config.gateways = all;
        self.routing = Routing::new(self.interfaces.clone(), self.routing.uplink().cloned(), settings::routing(&self.config.nat));
        if let Some(nat) = &self.nat {
            let is_cut_off = |gateway: &&Gateway| {
                let later = added.iter().find(|other| other.is_same_network(gateway));
                later.is_none_or(|later| later.reach == config::Reach::Nothing)
            };
            let networks: Vec<Ipv4Prefix> = removed.iter().filter(is_cut_off).map(|gateway| gateway.address.network()).collect();
            let is_inside = |address| networks.iter().any(|network| network.contains(address));
            // The guest is the one who opened it, or the one that answers.
            nat.flush(now, |Connection { original, reply, .. }: &Connection| {
                is_inside(original.src.address) || is_inside(reply.src.address)
            });
        }
    }
}
