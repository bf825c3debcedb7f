//! Ethernet addresses (IEEE 802, 48 bits).

use std::fmt;
use std::str::FromStr;

/// A 48-bit Ethernet address, in the order of the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);

    /// The first six bytes of `bytes`; the caller has checked that they are there.
    #[inline(always)]
    pub(crate) fn read(bytes: &[u8]) -> MacAddr {
        let bytes = &bytes[..6];
        MacAddr([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5]])
    }

    /// Whether the group bit is set: multicast or broadcast.
    #[inline(always)]
    #[must_use]
    pub fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether all bits are 0. No station has this address.
    #[inline]
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.0 == [0; 6]
    }

    /// Whether this can be the address of a single station: neither a group address nor zero.
    #[inline]
    #[must_use]
    pub fn is_station(self) -> bool {
        !self.is_multicast() && !self.is_zero()
    }

    /// Whether the address is in 01:80:c2:00:00:00 to :0f, which a bridge must not forward (IEEE 802.1D table 7-10).
    /// Spanning tree, PAUSE, LACP, LLDP and similar protocols use them to address the directly connected device only.
    #[inline]
    #[must_use]
    pub fn is_link_local(self) -> bool {
        let [a, b, c, d, e, f] = self.0;
        [a, b, c, d, e] == [0x01, 0x80, 0xc2, 0, 0] && f & 0xf0 == 0
    }

    /// The address in the low 48 bits, first byte most significant.
    #[inline(always)]
    #[must_use]
    pub fn to_u64(self) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        u64::from_be_bytes([0, 0, a, b, c, d, e, f])
    }

    /// The inverse of [`MacAddr::to_u64`]; the upper 16 bits are ignored.
    #[inline]
    #[must_use]
    pub fn from_u64(value: u64) -> MacAddr {
        let [_, _, a, b, c, d, e, f] = value.to_be_bytes();
        MacAddr([a, b, c, d, e, f])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// The text was not six hexadecimal bytes with colons between them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InvalidMacAddr;

impl fmt::Display for InvalidMacAddr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("not an Ethernet address such as 52:54:00:12:34:56")
    }
}

impl std::error::Error for InvalidMacAddr {}

impl FromStr for MacAddr {
    type Err = InvalidMacAddr;

    fn from_str(text: &str) -> Result<MacAddr, InvalidMacAddr> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().ok_or(InvalidMacAddr)?;
            if part.is_empty() || part.len() > 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(InvalidMacAddr);
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| InvalidMacAddr)?;
        }
        if parts.next().is_some() {
            return Err(InvalidMacAddr);
        }
        Ok(MacAddr(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_there_and_back() {
        let mac: MacAddr = "52:54:00:12:34:56".parse().unwrap();
        assert_eq!(mac, MacAddr([0x52, 0x54, 0, 0x12, 0x34, 0x56]));
        assert_eq!(mac.to_string(), "52:54:00:12:34:56");
        assert_eq!(MacAddr::from_u64(mac.to_u64()), mac);
        for bad in ["", "52:54:00:12:34", "52:54:00:12:34:56:78", "52-54-00-12-34-56", "+1:0:0:0:0:0", "123:0:0:0:0:0"] {
            assert_eq!(bad.parse::<MacAddr>(), Err(InvalidMacAddr), "{bad:?}");
        }
    }

    #[test]
    fn kinds() {
        assert!(MacAddr::BROADCAST.is_multicast());
        assert!(!MacAddr::default().is_station());
        assert!(MacAddr([0x01, 0x80, 0xc2, 0, 0, 0x0f]).is_link_local());
        assert!(!MacAddr([0x01, 0x80, 0xc2, 0, 0, 0x10]).is_link_local());
        assert!(!MacAddr([0x01, 0x80, 0xc2, 0, 1, 0x00]).is_link_local());
    }
}
