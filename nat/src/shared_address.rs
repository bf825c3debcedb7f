//! Whose a packet from inside is that goes to an address shared with the host: a guest's, or the host's own.
//!
//! | packet | it is a guest's if |
//! |---|---|
//! | to a published port, or to one that accepts any sender | always |
//! | of a connection | a guest has opened it by its own outside address (hairpin) |
//! | that may begin a connection | a guest's mapping has the port |
//! | a later fragment | the first one of its datagram was |
//! | an ICMP error | the packet that it quotes was |
//!
//! Only the third needs the lock of the book: UDP, and SYNs.

use packet::Timestamp;
use packet::ipv4::Ipv4View;
use packet::tcp::{TcpView, flag};

use crate::Refused;
use crate::nat::Nat;
use crate::tuple::{Protocol, Side, Tuple};
use crate::view::{View, view};

impl Nat {
    /// Whether a packet that came in on the inside, to an outside address shared with the host, is for a guest. Changes nothing.
    #[must_use]
    pub fn is_for_guest(&self, packet: Ipv4View<'_>, owner: u16, now: Timestamp) -> bool {
        match view(packet, Side::Inside) {
            Ok(View::Flow { tuple, .. }) => self.is_flow_for_guest(&tuple, packet),
            Ok(View::Later { key, fragment }) => {
                self.fragments().decide(key, fragment, owner, now).is_ok_and(|accepted| accepted.translation.is_some())
            }
            Ok(View::Error) => !matches!(self.decide_error(Side::Inside, packet, now.secs()), Err(Refused::IcmpUnrelated)),
            // Of a kind that is not translated.
            Err(_) => false,
        }
    }

    fn is_flow_for_guest(&self, tuple: &Tuple, packet: Ipv4View<'_>) -> bool {
        let Some((number, _)) = self.addresses.find(tuple.dst.address) else { return false };
        if self.open_ports.get(number, tuple.protocol, tuple.dst.port) || self.table.find(tuple, self.table.hash(tuple)).is_some()
        {
            return true;
        }
        let may_begin = match tuple.protocol {
            Protocol::UDP => true,
            Protocol::TCP => TcpView::new(packet.payload()).is_some_and(|tcp| tcp.flags() & (flag::SYN | flag::ACK) == flag::SYN),
            _ => false,
        };
        may_begin && self.book().mapping_of(number, tuple.protocol, tuple.dst.port).is_some()
    }
}
