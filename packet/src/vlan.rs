//! VLAN tags (IEEE 802.1Q, 802.1ad).
//!
//! ```text
//!  12      14              16
//! +-------+---+-+---------+-------
//! | TPID  |PCP|D|   VID   | type
//! +-------+---+-+---------+-------
//!          3   1  12 bits
//! ```

use std::fmt;

use crate::ethernet::EtherType;

/// Length of one tag.
pub const TAG_LEN: usize = 4;

/// A 12-bit VLAN identifier. 0 stands for "no VLAN": untagged and priority-tagged frames.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct VlanId(u16);

impl VlanId {
    /// Untagged, or with a priority tag only.
    pub const NONE: VlanId = VlanId(0);

    /// Number of identifiers.
    pub const COUNT: usize = 4096;

    /// The identifier of this number; `None` above 4095.
    #[must_use]
    pub const fn new(id: u16) -> Option<VlanId> {
        if id < VlanId::COUNT as u16 { Some(VlanId(id)) } else { None }
    }

    /// The identifier as a number.
    #[inline]
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl fmt::Debug for VlanId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// One VLAN tag: protocol, priority, drop eligibility and VLAN.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tag {
    /// [`EtherType::VLAN`] or [`EtherType::SERVICE_VLAN`].
    pub protocol: EtherType,
    tci: u16,
}

impl Tag {
    /// A tag from its two fields.
    #[inline]
    #[must_use]
    pub fn new(protocol: EtherType, tci: u16) -> Tag {
        Tag { protocol, tci }
    }

    /// An 802.1Q tag of this VLAN with priority 0.
    #[must_use]
    pub fn of(vlan: VlanId) -> Tag {
        Tag { protocol: EtherType::VLAN, tci: vlan.0 }
    }

    /// The VLAN; [`VlanId::NONE`] in a priority tag.
    #[inline]
    #[must_use]
    pub fn vlan(self) -> VlanId {
        VlanId(self.tci & 0x0fff)
    }

    /// Priority code point, 0 to 7.
    #[must_use]
    pub fn priority(self) -> u8 {
        (self.tci >> 13) as u8
    }

    /// The same priority and drop eligibility in another VLAN.
    #[must_use]
    pub fn with_vlan(self, vlan: VlanId) -> Tag {
        Tag { tci: self.tci & 0xf000 | vlan.0, ..self }
    }

    /// The tag as 4 bytes.
    #[inline]
    #[must_use]
    pub fn to_bytes(self) -> [u8; TAG_LEN] {
        let [a, b] = self.protocol.0.to_be_bytes();
        let [c, d] = self.tci.to_be_bytes();
        [a, b, c, d]
    }
}

/// What happens to the outermost tag at an egress port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TagAction {
    /// The frame leaves unchanged.
    #[default]
    Keep,
    /// A tag is inserted behind the addresses.
    Push(Tag),
    /// The outermost tag is removed.
    Pop,
    /// The outermost tag is replaced: a priority tag gets its VLAN.
    Replace(Tag),
}

impl TagAction {
    /// Number of bytes by which the frame grows, or shrinks if negative.
    #[inline]
    #[must_use]
    pub fn growth(self) -> isize {
        match self {
            TagAction::Keep | TagAction::Replace(_) => 0,
            TagAction::Push(_) => TAG_LEN as isize,
            TagAction::Pop => -(TAG_LEN as isize),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_literal_bytes() {
        let tag = Tag::new(EtherType::VLAN, 0xb00a);
        assert_eq!((tag.priority(), tag.vlan().get()), (5, 10));
        assert_eq!(tag.to_bytes(), [0x81, 0x00, 0xb0, 0x0a]);
        assert_eq!(tag.with_vlan(VlanId::new(12).unwrap()).to_bytes(), [0x81, 0x00, 0xb0, 0x0c]);
        assert_eq!(VlanId::new(4096), None);
    }
}
