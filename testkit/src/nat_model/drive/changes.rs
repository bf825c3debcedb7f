//! What happens between packets: passing time, and changes of addresses, ports and connections.

use std::time::Duration;

use nat::{Endpoint, External, ExternalKind, Protocol, Published, Refused, Side, Tuple};
use packet::Timestamp;

use super::{EXTERNALS, GUESTS, PORTS, PROTOCOLS, Pair};
use crate::nat_model::model::Conn;

impl Pair<'_> {
    pub(super) fn wait(&mut self) {
        let millis = match self.choices.below(8) {
            0..=2 => u64::from(self.choices.word()) % 2000,
            3 | 4 => u64::from(self.choices.byte()) * 100,
            5 => u64::from(self.choices.byte() % 64) * 1000,
            _ if !self.choices.rarely(3) => 5,
            6 => {
                1000 * u64::from(self.choices.one_of(&[10u16, 20, 30, 60, 240, 300, 7440]))
                    + u64::from(self.choices.word() % 2000)
            }
            _ => 3_600_000 * u64::from(self.choices.byte() % 8),
        };
        let then = self.model.now.after(Duration::from_millis(millis));
        if !self.has_short_timeouts && self.model.live.iter().any(Conn::is_half_open) {
            self.turn_the_wheel(then);
        }
        self.model.set_now(then);
        let missing = self.missing(&self.nat.connections(then));
        missing.iter().for_each(|original| self.model.ended_early(original));
        assert!(missing.is_empty() || !self.has_short_timeouts, "{missing:?} are gone");
        self.tell(|| "waited".into());
    }

    /// Lets time pass as the control thread does, until no half-open connection can be left: then those that time out early,
    /// under pressure, do so at no other time.
    fn turn_the_wheel(&mut self, then: Timestamp) {
        const LONGEST_SECS: u32 = 700;
        let mut now = self.model.now;
        for _ in 0..LONGEST_SECS {
            if now.secs() >= then.secs() {
                break;
            }
            now = Timestamp::from_secs(u64::from(now.secs()) + 1);
            self.nat.expire(now, 2000);
        }
        self.model.datagrams.expire(now);
    }

    pub(super) fn expire(&mut self) {
        if self.choices.rarely(4) {
            self.nat.expire(self.model.now, 2000);
            // A timeout that became shorter takes effect within a minute.
            let is_late = |conn: &Conn| conn.tracker.is_some() && self.model.now.secs() - conn.used < 7440 + 240 + 64;
            let late = self.model.dead.iter().filter(|conn| is_late(conn)).count();
            assert!(self.nat.stats().connections <= self.model.live.len() + late, "dead connections stay");
            self.model.datagrams.expire(self.model.now);
        } else {
            // No datagrams: which of them are evicted first is up to the table.
            let budget = self.choices.below(8);
            self.model.datagrams.expire(self.model.now);
            while self.nat.expire(self.model.now, budget + 1) && self.choices.rarely(2) {}
            self.nat.expire(self.model.now, 2000);
        }
    }

    /// An outside address is added, removed or changes its kind.
    pub(super) fn change_externals(&mut self) {
        let address = self.choices.one_of(&EXTERNALS);
        let mut externals = self.model.externals.clone();
        externals.retain(|external| external.address != address);
        let kind = match self.choices.below(8) {
            0..=2 => Some(ExternalKind::Own),
            3 => Some(ExternalKind::Shared),
            4 => Some(ExternalKind::OneToOne(self.choices.one_of(&GUESTS))),
            _ => None,
        };
        let is_twice =
            |kind| matches!(kind, ExternalKind::OneToOne(_)) && externals.iter().any(|other: &External| other.kind == kind);
        if let Some(kind) = kind.filter(|kind| !is_twice(*kind)) {
            externals.push(External { address, kind });
        }
        self.set_externals(&externals);
    }

    pub(super) fn set_externals(&mut self, externals: &[External]) {
        self.tell(|| format!("{externals:?}"));
        assert_eq!(self.nat.set_externals(externals, self.model.now), Ok(()));
        self.model.set_externals(externals);
        for address in EXTERNALS {
            assert_eq!(self.nat.is_external(address), self.model.kind(address).is_some());
        }
    }

    pub(super) fn change_ports(&mut self) {
        let address = self.choices.one_of(&EXTERNALS);
        let protocol = self.choices.one_of(&[Protocol::TCP, Protocol::UDP]);
        let port = self.choices.one_of(&PORTS);
        let outside = (protocol, Endpoint::new(address, port));
        match self.choices.below(6) {
            0 | 1 => {
                if matches!(self.model.kind(address), Some(ExternalKind::OneToOne(_))) {
                    return;
                }
                let guest = self.endpoint(&GUESTS);
                let rule = Published { protocol, address, port, guest };
                let answer = self.nat.publish(&rule, self.model.now);
                self.tell(|| format!("{rule:?}: {answer:?}"));
                if answer == Err(Refused::TableFull) && self.model.config.max_connections < 100 {
                    self.model.end(|conn| conn.mapping == Some(outside));
                    return;
                }
                assert_eq!(answer, self.model.publish(outside, guest));
            }
            2 => assert_eq!(self.nat.unpublish(address, protocol, port, self.model.now), self.model.unpublish(outside)),
            3 | 4 => {
                let ports: Vec<u16> = (0..self.choices.below(8)).map(|n| port.saturating_add(n as u16)).collect();
                self.nat.grant(address, protocol, &ports);
                self.model.grant(address, protocol, &ports);
            }
            _ => {
                let answer = self.nat.revoke(address, protocol, port);
                self.model.revoke(address, protocol, port, answer);
            }
        }
    }

    pub(super) fn flush(&mut self) {
        let guest = self.choices.one_of(&GUESTS);
        let protocol = Protocol(self.choices.one_of(&PROTOCOLS));
        let all = self.choices.rarely(8);
        let of = |original: &Tuple, reply: &Tuple| {
            let inside = if original.side == Side::Inside { original.src } else { reply.src };
            all || inside.address == guest && original.protocol == protocol
        };
        let dead = self.model.dead.len();
        let live = self.model.end(|conn| of(&conn.original, &conn.reply));
        self.tell(|| format!("flush {guest} {protocol} all {all}"));
        let ended = self.nat.flush(self.model.now, |connection| of(&connection.original, &connection.reply));
        assert!((live..=live + dead).contains(&ended), "{ended} flushed, {live} lived and {dead} were dead");
    }
}
