//! What would become of a packet, if it came now: the same walk, but nothing is opened, followed or refreshed.
//!
//! What is asked here changes no table, no tracker and no timeout, and draws no random number: who asks twice gets
//! the same answer, and the packet that then comes gets it too. One thing is not rehearsed: a first packet ends up
//! to four connections whose time is over, which may make the room that it lacks. Who wants to know to the last
//! entry calls [`Nat::expire`] before.

use std::net::Ipv4Addr;

use packet::Timestamp;
use packet::checksum::Checksum;

use crate::Refused;
use crate::nat::Nat;
use crate::rewrite;
use crate::tuple::{Endpoint, Side, Tuple};
use crate::view::{View, address_at, view};

/// By which right a packet is translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// It belongs to a connection.
    Known,
    /// It opens one, and its inside endpoint has an outside endpoint already.
    KnownMapping,
    /// It opens one, and its inside endpoint gets an outside endpoint.
    NewMapping,
    /// It opens one by a published port.
    Published,
    /// It opens one by a guest's own outside address.
    OneToOne,
    /// It is an ICMP error about a packet of a connection.
    Error,
    /// It is a later fragment of a datagram whose first is known.
    Fragment,
}

/// What would become of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rehearsed {
    /// Where it would go.
    pub dst: Ipv4Addr,
    /// By which right.
    pub manner: Manner,
}

impl Nat {
    /// Translates a packet in place as [`Nat::translate`] would now, and changes nothing else.
    #[cold]
    pub fn rehearse(
        &self,
        side: Side,
        packet: &mut [u8],
        checksum: Checksum,
        owner: u16,
        now: Timestamp,
    ) -> Result<Rehearsed, Refused> {
        match view(packet, side)? {
            View::Flow { tuple, l4, first } => {
                let manner = self.manner_of_flow(&tuple, now).unwrap_or(Manner::Known);
                let is_fragment = first.is_some();
                let (src, dst) = self.target::<false>(None, &tuple, packet, l4, checksum, is_fragment, owner, now)?;
                if let Some((key, fragment)) = first {
                    self.fragments().look(key, fragment, owner, now).map_err(|_| Refused::FragmentRefused)?;
                }
                rewrite::endpoints(packet, l4, tuple.protocol, src, dst, checksum == Checksum::Partial);
                Ok(Rehearsed { dst: dst.address, manner })
            }
            View::Later { key, fragment } => {
                let found = self.fragments().look(key, fragment, owner, now);
                let (src, dst) = found.map_err(|_| Refused::FragmentRefused)?.ok_or(Refused::FragmentEarly)?;
                rewrite::addresses(packet, src, dst);
                Ok(Rehearsed { dst: dst.address, manner: Manner::Fragment })
            }
            // What is asked about an error changes nothing in any case.
            View::Error { l4 } => {
                let translated = self.translate_error(side, packet, l4, now.secs())?;
                Ok(Rehearsed { dst: translated.dst, manner: Manner::Error })
            }
        }
    }

    /// By which right a packet would be translated, if by any.
    #[cold]
    #[must_use]
    pub fn manner(&self, side: Side, packet: &[u8], now: Timestamp) -> Option<Manner> {
        match view(packet, side).ok()? {
            View::Flow { tuple, .. } => self.manner_of_flow(&tuple, now),
            View::Later { .. } => Some(Manner::Fragment),
            View::Error { .. } => Some(Manner::Error),
        }
    }

    fn manner_of_flow(&self, tuple: &Tuple, now: Timestamp) -> Option<Manner> {
        if self.table.find(tuple, self.table.hash(tuple)).is_some_and(|found| !self.is_over(found.id, now.secs())) {
            return Some(Manner::Known);
        }
        self.book().right_of(tuple)
    }

    /// Would a fragment's frame of so many bytes be kept, that [`Nat::rehearse`] found to be early?
    #[must_use]
    pub fn would_hold(&self, frame_len: usize, owner: u16, now: Timestamp) -> bool {
        self.fragments().would_hold(frame_len, owner, now)
    }
}

/// Source and destination of a sound IPv4 packet, as connections have them; without ports, those are 0.
#[must_use]
pub fn endpoints(packet: &[u8]) -> (Endpoint, Endpoint) {
    match view(packet, Side::Inside) {
        Ok(View::Flow { tuple, .. }) => (tuple.src, tuple.dst),
        _ => (Endpoint::new(address_at(packet, 12), 0), Endpoint::new(address_at(packet, 16), 0)),
    }
}
