//! The virtual network identifier of VXLAN (RFC 7348 section 5), in Geneve the same (RFC 8926 section 3.3).

use std::fmt;

/// A virtual network identifier, in the range of 0 to 2^24 - 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Vni(u32);

impl Vni {
    /// The highest identifier, 16,777,215.
    pub const MAX: u32 = 0xff_ffff;

    /// The identifier of this number; `None` above [`Vni::MAX`].
    #[must_use]
    pub const fn new(number: u32) -> Option<Vni> {
        if number <= Vni::MAX { Some(Vni(number)) } else { None }
    }

    /// The identifier in the three bytes of a tunnel header, in network byte order.
    #[inline]
    #[must_use]
    pub const fn from_bytes([a, b, c]: [u8; 3]) -> Vni {
        Vni(u32::from_be_bytes([0, a, b, c]))
    }

    /// The three bytes of a tunnel header, in network byte order.
    #[inline]
    #[must_use]
    pub const fn to_bytes(self) -> [u8; 3] {
        let [_, a, b, c] = self.0.to_be_bytes();
        [a, b, c]
    }

    /// The identifier as a number.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

impl fmt::Display for Vni {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_24_bits() {
        assert_eq!(Vni::new(0x12_3456).map(Vni::to_bytes), Some([0x12, 0x34, 0x56]));
        for number in [0, 1, Vni::MAX] {
            assert_eq!(Vni::new(number).map(|vni| Vni::from_bytes(vni.to_bytes()).number()), Some(number));
        }
        assert_eq!(Vni::new(Vni::MAX + 1), None);
    }
}
