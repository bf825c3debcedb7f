//! The Ethernet II header.
//!
//! ```text
//!  0           6           12      14
//! +-----------+-----------+-------+----------
//! | dst       | src       | type  | payload ...
//! +-----------+-----------+-------+----------
//! ```

use std::fmt;

/// Length of an Ethernet header without a VLAN tag.
pub const ETHERNET_LEN: usize = 14;

/// Both addresses: where a VLAN tag is inserted.
pub const ADDRESSES_LEN: usize = 12;

/// The type field of Ethernet II; below 0x0600 it is a length (IEEE 802.3 clause 3.2.6).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4 (RFC 894).
    pub const IPV4: EtherType = EtherType(0x0800);
    /// ARP (RFC 826).
    pub const ARP: EtherType = EtherType(0x0806);
    /// IEEE 802.1Q customer tag.
    pub const VLAN: EtherType = EtherType(0x8100);
    /// IPv6 (RFC 2464).
    pub const IPV6: EtherType = EtherType(0x86dd);
    /// IEEE 802.1ad service tag.
    pub const SERVICE_VLAN: EtherType = EtherType(0x88a8);

    /// Whether this is one of the two tag protocol identifiers.
    #[inline]
    #[must_use]
    pub fn is_vlan(self) -> bool {
        self == EtherType::VLAN || self == EtherType::SERVICE_VLAN
    }
}

impl fmt::Debug for EtherType {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:#06x}", self.0)
    }
}

/// The big-endian 16 bits at `at`; the caller has checked that they are there.
#[inline(always)]
#[must_use]
pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    // One check of the length, one load.
    let bytes = &bytes[at..at + 2];
    u16::from_be_bytes([bytes[0], bytes[1]])
}

/// The big-endian 32 bits at `at`; the caller has checked that they are there.
#[inline(always)]
#[must_use]
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let bytes = &bytes[at..at + 4];
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// Writes big-endian 16 bits at `at`; the caller has checked that they are there.
#[inline(always)]
pub fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}
