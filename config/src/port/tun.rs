//! The TUN device of a tunnel of IP packets. It has the number of a port, and is no port of a bridge.

use crate::address::Cidr;
use crate::name::Netns;

/// A TUN device that the switch makes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tun {
    /// The interface's name.
    pub name: String,
    /// Where the interface is, if not in vswitchd's own namespace.
    pub netns: Option<Netns>,
    /// The interface's address; `None` leaves it to others.
    pub address: Option<Cidr>,
}
