//! Senders that are no peers: the last one with an unknown network identifier, and the last one with an unknown address.
//!
//! The counters of dropped datagrams say how many came; to find the fault at the far end, an operator needs to know from where, and
//! with which identifier. Workers note one sender of each kind, and the control thread takes it away, once a second.
//!
//! ```text
//!   empty --(a worker)--> being written --> full --(the control thread)--> empty
//! ```
//!
//! *Cost.* A worker that finds a place that is not empty leaves it as it is: one load. No worker waits.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use crate::framing::Framing;
use crate::peers::Unknown;
use crate::vni::Vni;

const EMPTY: u8 = 0;
const BEING_WRITTEN: u8 = 1;
const FULL: u8 = 2;

/// Stands for a framing without a network identifier, which has 24 bits.
const NO_VNI: u32 = u32::MAX;

/// A sender of datagrams that is not a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stranger {
    /// The network identifier of its datagram; `None` for a framing without.
    pub vni: Option<Vni>,
    /// Its address.
    pub from: IpAddr,
}

/// The last strangers at one receiving socket.
#[derive(Debug, Default)]
pub struct Strangers {
    unknown_vni: LastStranger,
    unknown_peer: LastStranger,
}

#[derive(Debug, Default)]
struct LastStranger {
    state: AtomicU8,
    vni: AtomicU32,
    high: AtomicU64,
    low: AtomicU64,
}

impl Strangers {
    /// Notes a sender, if there is room.
    #[cold]
    pub fn note(&self, unknown: Unknown, framing: Framing, from: IpAddr) {
        self.place(unknown).note(framing, from);
    }

    /// The sender that was noted since the last call.
    pub fn take(&self, unknown: Unknown) -> Option<Stranger> {
        self.place(unknown).take()
    }

    fn place(&self, unknown: Unknown) -> &LastStranger {
        match unknown {
            Unknown::Vni => &self.unknown_vni,
            Unknown::Peer => &self.unknown_peer,
        }
    }
}

impl LastStranger {
    fn note(&self, framing: Framing, from: IpAddr) {
        let state = &self.state;
        if state.load(Ordering::Relaxed) != EMPTY
            || state.compare_exchange(EMPTY, BEING_WRITTEN, Ordering::Acquire, Ordering::Relaxed).is_err()
        {
            return;
        }
        let bits = match from {
            IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            IpAddr::V6(address) => address.to_bits(),
        };
        self.vni.store(framing.vni().map_or(NO_VNI, Vni::number), Ordering::Relaxed);
        self.high.store((bits >> 64) as u64, Ordering::Relaxed);
        self.low.store(bits as u64, Ordering::Relaxed);
        state.store(FULL, Ordering::Release);
    }

    fn take(&self) -> Option<Stranger> {
        if self.state.load(Ordering::Acquire) != FULL {
            return None;
        }
        let bits = u128::from(self.high.load(Ordering::Relaxed)) << 64 | u128::from(self.low.load(Ordering::Relaxed));
        let stranger = Stranger {
            vni: Vni::new(self.vni.load(Ordering::Relaxed)),
            from: IpAddr::V6(Ipv6Addr::from_bits(bits)).to_canonical(),
        };
        self.state.store(EMPTY, Ordering::Release);
        Some(stranger)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_since_the_last_look_is_kept() {
        let strangers = Strangers::default();
        let vxlan = |number| Framing::Vxlan(Vni::new(number).unwrap());
        let [one, other]: [IpAddr; 2] = ["192.0.2.9".parse().unwrap(), "2001:db8::9".parse().unwrap()];
        assert_eq!(strangers.take(Unknown::Vni), None);
        strangers.note(Unknown::Vni, vxlan(43), one);
        strangers.note(Unknown::Vni, vxlan(44), other);
        strangers.note(Unknown::Peer, Framing::Ethernet, other);
        assert_eq!(strangers.take(Unknown::Vni), Some(Stranger { vni: Vni::new(43), from: one }));
        assert_eq!(strangers.take(Unknown::Vni), None);
        assert_eq!(strangers.take(Unknown::Peer), Some(Stranger { vni: None, from: other }));
        strangers.note(Unknown::Vni, vxlan(0xff_ffff), other);
        assert_eq!(strangers.take(Unknown::Vni), Some(Stranger { vni: Vni::new(0xff_ffff), from: other }));
    }
}
