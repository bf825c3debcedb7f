//! Ethernet frames as bytes.

use packet::MacAddr;

/// IEEE 802 Local Experimental EtherType 1 (RFC 9542): no stack replies to it.
const EXPERIMENTAL: [u8; 2] = [0x88, 0xb5];

/// A locally administered MAC address of station `n`, which exists in tests only.
pub(crate) fn station(n: u32) -> MacAddr {
    let [a, b, c, d] = n.to_be_bytes();
    MacAddr([0x02, 0xe2, a, b, c, d])
}

/// An Ethernet frame with this payload.
pub(crate) fn frame(dst: MacAddr, src: MacAddr, payload: &[u8]) -> Vec<u8> {
    let mut frame = [&dst.0[..], &src.0, &EXPERIMENTAL, payload].concat();
    frame.resize(frame.len().max(60), 0);
    frame
}

/// The frame with an outer VLAN tag of this TPID and TCI.
pub(crate) fn tagged(frame: &[u8], protocol: u16, control: u16) -> Vec<u8> {
    [&frame[..12], &protocol.to_be_bytes(), &control.to_be_bytes(), &frame[12..]].concat()
}

/// TPID of 802.1Q.
pub(crate) const DOT1Q: u16 = 0x8100;

/// TPID of 802.1ad.
pub(crate) const DOT1AD: u16 = 0x88a8;

/// Whether it is one of [`frame`]'s, tagged or not.
pub(crate) fn is_ours(frame: &[u8]) -> bool {
    frame.len() >= 12 && frame[6..8] == [0x02, 0xe2]
}
