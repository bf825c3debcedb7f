//! Tunnels from frames to datagrams and back, on switches in simulated time. The books of each balance
//! after every batch.

mod fit;
mod forwarding;
mod ip;
mod properties;
mod segment_size;

use packet::MacAddr;
use packet::vlan::VlanId;
use testkit::frames::Spec;

fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

/// A frame between two stations.
fn between(src: u8, dst: u8) -> Spec {
    Spec { src: mac(src).0, dst: mac(dst).0, ..Spec::default() }
}

fn vlan(id: u16) -> VlanId {
    VlanId::new(id).unwrap()
}
