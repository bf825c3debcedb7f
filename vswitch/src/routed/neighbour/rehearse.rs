//! What would be done for a packet, if it came now. Nothing is asked, kept or noted as used.

use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;

use packet::{MacAddr, Timestamp};

use super::{InterfaceId, Neighbours, Resolve, key_of, mac_of};

impl Neighbours {
    /// As [`Neighbours::lookup`], but the neighbour is no more in use by it.
    #[must_use]
    pub fn peek(&self, interface: InterfaceId, address: Ipv4Addr) -> Option<MacAddr> {
        let key = key_of(interface, address);
        let slot = self.bucket(key).iter().find(|slot| slot.key.load(Ordering::Acquire) == key)?;
        let mac = slot.mac.load(Ordering::Acquire);
        (slot.key.load(Ordering::Relaxed) == key).then(|| mac_of(mac))
    }

    /// What [`Neighbours::resolve`] would answer for a packet of so many bytes.
    #[must_use]
    pub fn would_resolve(&self, interface: InterfaceId, address: Ipv4Addr, len: usize, from: u16, now: Timestamp) -> Resolve {
        let book = self.lock();
        let Some(admission) = book.admission(key_of(interface, address), from, len) else {
            return Resolve { ask: false, kept: false };
        };
        // A copy of the bucket gives its token.
        let mut requests = book.requests;
        let ask = admission.is_new && requests.take(now);
        Resolve { ask, kept: admission.has_room && !book.spare.is_empty() }
    }
}
