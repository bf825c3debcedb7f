//! The choice of the way out.

use packet::vlan::VlanId;
use packet::{MacAddr, Timestamp};

use crate::counters::DropReason;
use crate::mac_table::MacTable;
use crate::port::PortId;

/// Where a frame goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Forward {
    /// Out of this port.
    Port(PortId),
    /// Out of every port that carries its VLAN, but not the one that it came from.
    Flood,
    /// Nowhere.
    Drop(DropReason),
}

/// Group addresses and the unknown are flooded; never back (IEEE 802.1D section 7.7).
#[inline]
#[must_use]
pub fn forward(table: &MacTable, vlan: VlanId, dst: MacAddr, ingress: PortId, now: Timestamp) -> Forward {
    if dst.is_multicast() {
        return if dst.is_link_local() { Forward::Drop(DropReason::LinkLocal) } else { Forward::Flood };
    }
    match table.lookup(vlan, dst, now) {
        Some(port) if port == ingress => Forward::Drop(DropReason::SamePort),
        Some(port) => Forward::Port(port),
        None => Forward::Flood,
    }
}
