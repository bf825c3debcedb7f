//! Address prefixes of both families (RFC 4632 section 3.1, RFC 4291 section 2.3).
//!
//! A prefix is kept as its first address and its mask, so that "does this address match?", which is asked for each
//! routed packet, is one AND and one comparison. (The `ipnet` crate compares with both ends of the range and keeps
//! host bits.)

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

macro_rules! prefix {
    ($(#[$doc:meta])* $name:ident, $address:ty, $bits:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name {
            network: $bits,
            mask: $bits,
        }

        impl $name {
            /// Number of bits in an address.
            pub const MAX_LEN: u8 = <$bits>::BITS as u8;

            /// The prefix that an address belongs to. Host bits of the address are cleared; a length above
            #[doc = concat!("[`", stringify!($name), "::MAX_LEN`] counts as that.")]
            #[inline]
            #[must_use]
            pub const fn new(address: $address, prefix_len: u8) -> $name {
                let host_bits = <$bits>::BITS.saturating_sub(prefix_len as u32);
                let mask = match <$bits>::MAX.checked_shl(host_bits) {
                    Some(mask) => mask,
                    None => 0,
                };
                $name { network: address.to_bits() & mask, mask }
            }

            /// The first address, with all host bits 0.
            #[inline]
            #[must_use]
            pub const fn network(self) -> $address {
                <$address>::from_bits(self.network)
            }

            /// The last address, with all host bits 1.
            #[inline]
            #[must_use]
            pub const fn last(self) -> $address {
                <$address>::from_bits(self.network | !self.mask)
            }

            /// The length in bits.
            #[inline]
            #[must_use]
            pub const fn prefix_len(self) -> u8 {
                self.mask.count_ones() as u8
            }

            /// Whether the address matches the prefix.
            #[inline]
            #[must_use]
            pub const fn contains(self, address: $address) -> bool {
                address.to_bits() & self.mask == self.network
            }

            /// Whether any address matches both prefixes.
            #[inline]
            #[must_use]
            pub const fn overlaps(self, other: $name) -> bool {
                (self.network ^ other.network) & self.mask & other.mask == 0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(out, "{}/{}", self.network(), self.prefix_len())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, out)
            }
        }
    };
}

prefix!(
    /// An IPv4 prefix.
    Ipv4Prefix,
    Ipv4Addr,
    u32
);

prefix!(
    /// An IPv6 prefix.
    Ipv6Prefix,
    Ipv6Addr,
    u128
);

impl Ipv4Prefix {
    /// The mask of the shortest prefix without a network and a broadcast address: with 31 bits both addresses are hosts
    /// (RFC 3021), and 32 bits are a single host.
    const POINT_TO_POINT: u32 = u32::MAX << 1;

    /// Whether the prefix has a network and a broadcast address, which no host can have.
    #[inline]
    #[must_use]
    pub const fn has_broadcast(self) -> bool {
        self.mask < Ipv4Prefix::POINT_TO_POINT
    }

    /// Whether a host in this network can have the address.
    #[inline]
    #[must_use]
    pub fn is_host(self, address: Ipv4Addr) -> bool {
        self.contains(address) && (!self.has_broadcast() || address != self.network() && address != self.last())
    }

    /// The lowest address that a host in this network can have.
    #[must_use]
    pub const fn first_host(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.network + self.has_broadcast() as u32)
    }
}

/// A prefix of either family.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub enum Prefix {
    /// IPv4.
    V4(Ipv4Prefix),
    /// IPv6.
    V6(Ipv6Prefix),
}

impl Prefix {
    /// The prefix that an address belongs to; see [`Ipv4Prefix::new`].
    #[must_use]
    pub const fn new(address: IpAddr, prefix_len: u8) -> Prefix {
        match address {
            IpAddr::V4(address) => Prefix::V4(Ipv4Prefix::new(address, prefix_len)),
            IpAddr::V6(address) => Prefix::V6(Ipv6Prefix::new(address, prefix_len)),
        }
    }

    /// The first address, with all host bits 0.
    #[must_use]
    pub const fn network(self) -> IpAddr {
        match self {
            Prefix::V4(prefix) => IpAddr::V4(prefix.network()),
            Prefix::V6(prefix) => IpAddr::V6(prefix.network()),
        }
    }

    /// The length in bits.
    #[must_use]
    pub const fn prefix_len(self) -> u8 {
        match self {
            Prefix::V4(prefix) => prefix.prefix_len(),
            Prefix::V6(prefix) => prefix.prefix_len(),
        }
    }

    /// Whether the address matches the prefix; one of the other family does not.
    #[must_use]
    pub const fn contains(self, address: IpAddr) -> bool {
        match (self, address) {
            (Prefix::V4(prefix), IpAddr::V4(address)) => prefix.contains(address),
            (Prefix::V6(prefix), IpAddr::V6(address)) => prefix.contains(address),
            _ => false,
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Prefix::V4(prefix) => prefix.fmt(out),
            Prefix::V6(prefix) => prefix.fmt(out),
        }
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(address: [u8; 4], prefix_len: u8) -> Ipv4Prefix {
        Ipv4Prefix::new(address.into(), prefix_len)
    }

    #[test]
    fn first_and_last_address_of_literal_prefixes() {
        for (address, len, network, last) in [
            ([10, 0, 0, 1], 24, [10, 0, 0, 0], [10, 0, 0, 255]),
            ([10, 77, 130, 9], 18, [10, 77, 128, 0], [10, 77, 191, 255]),
            ([192, 0, 2, 5], 30, [192, 0, 2, 4], [192, 0, 2, 7]),
            ([192, 0, 2, 5], 31, [192, 0, 2, 4], [192, 0, 2, 5]),
            ([192, 0, 2, 5], 32, [192, 0, 2, 5], [192, 0, 2, 5]),
            ([192, 0, 2, 5], 40, [192, 0, 2, 5], [192, 0, 2, 5]),
            ([192, 0, 2, 5], 0, [0; 4], [255; 4]),
        ] {
            let prefix = v4(address, len);
            assert_eq!((prefix.network(), prefix.last()), (network.into(), last.into()), "{address:?}/{len}");
            assert_eq!(prefix.prefix_len(), len.min(32));
        }
        assert_eq!(v4([10, 0, 0, 77], 24).to_string(), "10.0.0.0/24");
    }

    #[test]
    fn hosts_exclude_network_and_broadcast_address() {
        let network = v4([10, 0, 0, 77], 24);
        assert!(network.contains([10, 0, 0, 255].into()) && !network.contains([10, 0, 1, 0].into()));
        assert_eq!([0, 1, 254, 255].map(|last| network.is_host([10, 0, 0, last].into())), [false, true, true, false]);
        assert!(!network.is_host([10, 0, 1, 1].into()));
        assert_eq!(network.first_host(), Ipv4Addr::new(10, 0, 0, 1));
        let link = v4([192, 0, 2, 4], 31);
        assert!(link.is_host([192, 0, 2, 4].into()) && link.is_host([192, 0, 2, 5].into()));
        assert_eq!(link.first_host(), Ipv4Addr::new(192, 0, 2, 4));
        assert!(v4([0; 4], 0).contains([8, 8, 8, 8].into()));
    }

    #[test]
    fn overlap_is_mutual() {
        for (one, other, overlap) in [
            (v4([10, 0, 0, 1], 24), v4([10, 0, 0, 200], 25), true),
            (v4([10, 0, 0, 1], 24), v4([10, 200, 0, 1], 8), true),
            (v4([10, 0, 0, 1], 24), v4([10, 0, 0, 77], 32), true),
            (v4([10, 0, 0, 1], 24), v4([0; 4], 0), true),
            (v4([10, 0, 0, 1], 25), v4([10, 0, 0, 129], 25), false),
            (v4([10, 0, 0, 1], 24), v4([10, 0, 1, 1], 24), false),
        ] {
            assert_eq!((one.overlaps(other), other.overlaps(one)), (overlap, overlap), "{one} {other}");
        }
    }

    #[test]
    fn a_prefix_of_either_family() {
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        let v6 = Prefix::new(address("2001:db8:1:2::3"), 48);
        assert_eq!((v6.network(), v6.prefix_len(), v6.to_string()), (address("2001:db8:1::"), 48, "2001:db8:1::/48".to_owned()));
        assert!(v6.contains(address("2001:db8:1:ffff::1")) && !v6.contains(address("2001:db8:2::1")));
        let v4 = Prefix::new(address("192.0.2.77"), 24);
        assert!(
            v4.contains(address("192.0.2.1")) && !v4.contains(address("::ffff:192.0.2.1")) && !v6.contains(address("10.0.0.1"))
        );
        assert_eq!(v4, Prefix::V4(Ipv4Prefix::new([192, 0, 2, 0].into(), 24)));
    }
}
