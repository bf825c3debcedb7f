//! Tunnels from frames to datagrams and back, on switches in simulated time. The books of each balance
//! after every batch.

#[path = "../bridge/mod.rs"]
mod bridge;
mod fit;
mod forwarding;
#[path = "../../../packet/tests/frames/mod.rs"]
mod frames;
mod ip;
#[path = "../overlay/mod.rs"]
mod overlay;
mod properties;
mod segment_size;

use frames::Spec;
use packet::MacAddr;
use packet::vlan::VlanId;

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
