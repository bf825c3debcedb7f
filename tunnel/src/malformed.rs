//! Why a datagram carries nothing that a tunnel could forward.

/// Why a datagram is not decapsulated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Malformed {
    /// The datagram ends within the tunnel header or within the inner Ethernet header.
    Truncated,
    /// The tunnel header has no valid VNI, or announces another payload than an Ethernet frame.
    BadFlags,
    /// The payload is not a valid IP packet, in a tunnel that carries nothing else.
    NotIp,
}
