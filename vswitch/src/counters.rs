//! What is counted: frames and bytes by port, and every drop by its reason.
//!
//! Each worker counts for itself, into numbers that only it writes; who shows them adds the workers
//! up. The unit is a frame as the ingress port delivered it: a super-frame is one, whether it leaves
//! whole or in segments, and frames that leave as one super-frame still count each. So over all ports
//!
//! ```text
//! received + copied + made = sent + dropped + taken
//! ```
//!
//! where a flood to n ports has made n - 1 copies, and the router makes frames (ARP, ICMP, packets that
//! waited) and takes frames in (what it answers, packets that wait).

use std::sync::atomic::{AtomicU64, Ordering};

use crate::port::PortId;

/// Why a frame went no further. Each has one counter, by the port that it came from (first part) or
/// the one that it should have left through (second part).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum DropReason {
    /// Shorter than an Ethernet header.
    Runt,
    /// Ends within a VLAN tag.
    TruncatedTag,
    /// Its virtio-net header contradicts the frame or itself, or is of a kind not negotiated.
    BadVnetHeader,
    /// To 01:80:c2:00:00:0x, which bridges do not forward.
    LinkLocal,
    /// The ingress port does not carry its VLAN.
    VlanNotAllowed,
    /// Its destination is behind the port that it came from.
    SamePort,
    /// No other port carries its VLAN.
    NoDestination,
    /// Its destination's port does not carry its VLAN.
    VlanNotCarried,
    /// Longer than the egress port's MTU.
    TooLong,
    /// From the gateway's own address, which only we have.
    GatewaySpoofed,
    /// To the gateway's MAC address, but nothing that is routed: not IPv4, or behind several tags.
    NotRouted,
    /// An IPv4 header that contradicts itself, or with a wrong checksum.
    BadIpHeader,
    /// Source routed, or with malformed options.
    IpOptions,
    /// From an address that nobody there can have.
    MartianSource,
    /// To an address that is no single host's.
    MartianDestination,
    /// To the gateway's own address, where only ping is answered.
    NotServed,
    /// No way there, or the uplink is down.
    NoRoute,
    /// Its time to live ran out.
    TtlExceeded,
    /// Too long for the way out, and it may not be cut.
    FragmentationNeeded,
    /// Its next hop did not answer.
    NeighbourUnresolved,
    /// Too many packets wait for their next hop.
    NeighbourQueueFull,
    /// From the uplink, and the host's own or nobody's.
    NotForUs,
    /// The transport header is not whole.
    NatMalformed,
    /// The transport checksum of a first packet, or that of an ICMP error, is wrong.
    NatBadChecksum,
    /// TCP of no connection that does not open one.
    NatNotOpening,
    /// TCP outside of its connection's window, or with impossible flags.
    NatOutOfWindow,
    /// From outside, and nobody asked for it.
    NatNoMapping,
    /// ICMP that is not passed on.
    NatIcmpIgnored,
    /// An ICMP error about no packet of ours.
    NatIcmpUnrelated,
    /// As many connections as there may be.
    NatTableFull,
    /// As many connections as its port may have.
    NatPortShare,
    /// As many outside ports as its guest may have.
    NatGuestShare,
    /// No outside port is free.
    NatPortsExhausted,
    /// There is no outside address now.
    NatNoAddress,
    /// Another guest talks to the same peer with a protocol that has no ports.
    NatClash,
    /// A protocol without ports, where the outside address is the host's.
    NatNotShared,
    /// A fragment that overlaps others or is of no legal size, or there are too many.
    FragmentRefused,
    /// A datagram that ends before its VXLAN header or inner frame does.
    TunnelTruncated,
    /// A VXLAN header whose flags say that it is none.
    TunnelBadFlags,
    /// Of a VXLAN network that is not ours.
    TunnelUnknownVni,
    /// From a host that is no peer of its tunnel.
    TunnelUnknownPeer,
    /// A tunnel in a tunnel in a tunnel, or one that leads back to us.
    TunnelNested,
    /// Congestion was experienced on the way, and the packet inside cannot say so (RFC 6040 section 4.2).
    TunnelEcn,
    /// From a tunnel, and its destination is behind a tunnel.
    SplitHorizon,
    /// The kernel knows no way to the peer, or may not send there.
    PeerUnreachable,
    /// The egress port's link is down.
    PortDown,
    /// The egress port's device is gone.
    PortGone,
    /// The egress port's queue is full.
    QueueFull,
    /// The kernel refused the write for another reason.
    WriteFailed,
}

impl DropReason {
    /// All reasons, in the order of their counters.
    pub const ALL: [DropReason; 49] = [
        DropReason::Runt,
        DropReason::TruncatedTag,
        DropReason::BadVnetHeader,
        DropReason::LinkLocal,
        DropReason::VlanNotAllowed,
        DropReason::SamePort,
        DropReason::NoDestination,
        DropReason::VlanNotCarried,
        DropReason::TooLong,
        DropReason::GatewaySpoofed,
        DropReason::NotRouted,
        DropReason::BadIpHeader,
        DropReason::IpOptions,
        DropReason::MartianSource,
        DropReason::MartianDestination,
        DropReason::NotServed,
        DropReason::NoRoute,
        DropReason::TtlExceeded,
        DropReason::FragmentationNeeded,
        DropReason::NeighbourUnresolved,
        DropReason::NeighbourQueueFull,
        DropReason::NotForUs,
        DropReason::NatMalformed,
        DropReason::NatBadChecksum,
        DropReason::NatNotOpening,
        DropReason::NatOutOfWindow,
        DropReason::NatNoMapping,
        DropReason::NatIcmpIgnored,
        DropReason::NatIcmpUnrelated,
        DropReason::NatTableFull,
        DropReason::NatPortShare,
        DropReason::NatGuestShare,
        DropReason::NatPortsExhausted,
        DropReason::NatNoAddress,
        DropReason::NatClash,
        DropReason::NatNotShared,
        DropReason::FragmentRefused,
        DropReason::TunnelTruncated,
        DropReason::TunnelBadFlags,
        DropReason::TunnelUnknownVni,
        DropReason::TunnelUnknownPeer,
        DropReason::TunnelNested,
        DropReason::TunnelEcn,
        DropReason::SplitHorizon,
        DropReason::PeerUnreachable,
        DropReason::PortDown,
        DropReason::PortGone,
        DropReason::QueueFull,
        DropReason::WriteFailed,
    ];

    /// The reason's name for people and programs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            DropReason::Runt => "runt",
            DropReason::TruncatedTag => "truncated_tag",
            DropReason::BadVnetHeader => "bad_vnet_hdr",
            DropReason::LinkLocal => "link_local",
            DropReason::VlanNotAllowed => "vlan_not_allowed",
            DropReason::SamePort => "same_port",
            DropReason::NoDestination => "no_destination",
            DropReason::VlanNotCarried => "vlan_not_carried",
            DropReason::TooLong => "too_long",
            DropReason::GatewaySpoofed => "gateway_spoofed",
            DropReason::NotRouted => "not_routed",
            DropReason::BadIpHeader => "bad_ip_header",
            DropReason::IpOptions => "ip_options",
            DropReason::MartianSource => "martian_source",
            DropReason::MartianDestination => "martian_destination",
            DropReason::NotServed => "not_served",
            DropReason::NoRoute => "no_route",
            DropReason::TtlExceeded => "ttl_exceeded",
            DropReason::FragmentationNeeded => "fragmentation_needed",
            DropReason::NeighbourUnresolved => "neighbour_unresolved",
            DropReason::NeighbourQueueFull => "neighbour_queue_full",
            DropReason::NotForUs => "not_for_us",
            DropReason::NatMalformed => "nat_malformed",
            DropReason::NatBadChecksum => "nat_bad_checksum",
            DropReason::NatNotOpening => "nat_not_opening",
            DropReason::NatOutOfWindow => "nat_out_of_window",
            DropReason::NatNoMapping => "nat_no_mapping",
            DropReason::NatIcmpIgnored => "nat_icmp_ignored",
            DropReason::NatIcmpUnrelated => "nat_icmp_unrelated",
            DropReason::NatTableFull => "nat_table_full",
            DropReason::NatPortShare => "nat_port_share",
            DropReason::NatGuestShare => "nat_guest_share",
            DropReason::NatPortsExhausted => "nat_ports_exhausted",
            DropReason::NatNoAddress => "nat_no_address",
            DropReason::NatClash => "nat_clash",
            DropReason::NatNotShared => "nat_not_shared",
            DropReason::FragmentRefused => "fragment_refused",
            DropReason::TunnelTruncated => "tunnel_truncated",
            DropReason::TunnelBadFlags => "tunnel_bad_flags",
            DropReason::TunnelUnknownVni => "tunnel_unknown_vni",
            DropReason::TunnelUnknownPeer => "tunnel_unknown_peer",
            DropReason::TunnelNested => "tunnel_nested",
            DropReason::TunnelEcn => "tunnel_ecn",
            DropReason::SplitHorizon => "split_horizon",
            DropReason::PeerUnreachable => "peer_unreachable",
            DropReason::PortDown => "port_down",
            DropReason::PortGone => "port_gone",
            DropReason::QueueFull => "queue_full",
            DropReason::WriteFailed => "write_failed",
        }
    }

    /// What it means, for people.
    #[must_use]
    pub fn meaning(self) -> &'static str {
        match self {
            DropReason::Runt => "shorter than an Ethernet header",
            DropReason::TruncatedTag => "ends within a VLAN tag",
            DropReason::BadVnetHeader => "its virtio-net header contradicts the frame or itself, or is of a kind not negotiated",
            DropReason::LinkLocal => "to 01:80:c2:00:00:0x, which bridges do not forward",
            DropReason::VlanNotAllowed => "the ingress port does not carry its VLAN",
            DropReason::SamePort => "its destination is behind the port that it came from",
            DropReason::NoDestination => "no other port carries its VLAN",
            DropReason::VlanNotCarried => "its destination's port does not carry its VLAN",
            DropReason::TooLong => "longer than the egress port's MTU",
            DropReason::GatewaySpoofed => "from the gateway's own address, which only we have",
            DropReason::NotRouted => "to the gateway's MAC address, but nothing that is routed: not IPv4, or behind several tags",
            DropReason::BadIpHeader => "an IPv4 header that contradicts itself, or with a wrong checksum",
            DropReason::IpOptions => "source routed, or with malformed options",
            DropReason::MartianSource => "from an address that nobody there can have",
            DropReason::MartianDestination => "to an address that is no single host's",
            DropReason::NotServed => "to the gateway's own address, where only ping is answered",
            DropReason::NoRoute => "no way there, or the uplink is down",
            DropReason::TtlExceeded => "its time to live ran out",
            DropReason::FragmentationNeeded => "too long for the way out, and it may not be cut",
            DropReason::NeighbourUnresolved => "its next hop did not answer",
            DropReason::NeighbourQueueFull => "too many packets wait for their next hop",
            DropReason::NotForUs => "from the uplink, and the host's own or nobody's",
            DropReason::NatMalformed => "the transport header is not whole",
            DropReason::NatBadChecksum => "the transport checksum of a first packet, or that of an ICMP error, is wrong",
            DropReason::NatNotOpening => "TCP of no connection that does not open one",
            DropReason::NatOutOfWindow => "TCP outside of its connection's window, or with impossible flags",
            DropReason::NatNoMapping => "from outside, and nobody asked for it",
            DropReason::NatIcmpIgnored => "ICMP that is not passed on",
            DropReason::NatIcmpUnrelated => "an ICMP error about no packet of ours",
            DropReason::NatTableFull => "as many connections as there may be",
            DropReason::NatPortShare => "as many connections as its port may have",
            DropReason::NatGuestShare => "as many outside ports as its guest may have",
            DropReason::NatPortsExhausted => "no outside port is free",
            DropReason::NatNoAddress => "there is no outside address now",
            DropReason::NatClash => "another guest talks to the same peer with a protocol that has no ports",
            DropReason::NatNotShared => "a protocol without ports, where the outside address is the host's",
            DropReason::FragmentRefused => "a fragment that overlaps others or is of no legal size, or there are too many",
            DropReason::TunnelTruncated => "a datagram that ends before its VXLAN header or inner frame does",
            DropReason::TunnelBadFlags => "a VXLAN header whose flags say that it is none",
            DropReason::TunnelUnknownVni => "of a VXLAN network that is not ours",
            DropReason::TunnelUnknownPeer => "from a host that is no peer of its tunnel",
            DropReason::TunnelNested => "a tunnel in a tunnel in a tunnel, or one that leads back to us",
            DropReason::TunnelEcn => "congestion was experienced on the way, and the packet inside cannot say so",
            DropReason::SplitHorizon => "from a tunnel, and its destination is behind a tunnel",
            DropReason::PeerUnreachable => "the kernel knows no way to the peer, or may not send there",
            DropReason::PortDown => "the egress port's link is down",
            DropReason::PortGone => "the egress port's device is gone",
            DropReason::QueueFull => "the egress port's queue is full",
            DropReason::WriteFailed => "the kernel refused the write for another reason",
        }
    }
}

impl From<tunnel::Malformed> for DropReason {
    fn from(malformed: tunnel::Malformed) -> DropReason {
        match malformed {
            tunnel::Malformed::Truncated => DropReason::TunnelTruncated,
            tunnel::Malformed::BadFlags => DropReason::TunnelBadFlags,
            tunnel::Malformed::NotIp => DropReason::BadIpHeader,
        }
    }
}

impl From<nat::Refused> for DropReason {
    fn from(refused: nat::Refused) -> DropReason {
        match refused {
            nat::Refused::Malformed => DropReason::NatMalformed,
            nat::Refused::BadChecksum => DropReason::NatBadChecksum,
            nat::Refused::NotOpening => DropReason::NatNotOpening,
            nat::Refused::OutOfWindow => DropReason::NatOutOfWindow,
            nat::Refused::NoMapping => DropReason::NatNoMapping,
            nat::Refused::IcmpIgnored => DropReason::NatIcmpIgnored,
            nat::Refused::IcmpUnrelated => DropReason::NatIcmpUnrelated,
            nat::Refused::TableFull => DropReason::NatTableFull,
            nat::Refused::PortShare => DropReason::NatPortShare,
            nat::Refused::GuestShare => DropReason::NatGuestShare,
            nat::Refused::PortsExhausted => DropReason::NatPortsExhausted,
            nat::Refused::NoAddress => DropReason::NatNoAddress,
            nat::Refused::Clash => DropReason::NatClash,
            nat::Refused::NotShared => DropReason::NatNotShared,
            nat::Refused::FragmentEarly | nat::Refused::FragmentRefused => DropReason::FragmentRefused,
        }
    }
}

/// A number that one worker writes and anybody reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds. Only one thread may: a load and a store are cheaper than an atomic addition.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// The number now.
    #[inline]
    #[must_use]
    pub fn load(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// One worker's numbers of one port.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct PortCounters {
    /// Frames received.
    pub rx_frames: Counter,
    /// Their bytes, without virtio-net headers.
    pub rx_bytes: Counter,
    /// Frames sent.
    pub tx_frames: Counter,
    /// Their bytes, as they were received.
    pub tx_bytes: Counter,
    /// Writes that succeeded: fewer than frames where frames were coalesced, more where they were
    /// segmented.
    pub tx_writes: Counter,
    /// Copies made of frames received here, beyond the first.
    pub copies: Counter,
    /// Frames that the router made.
    pub made: Counter,
    /// Frames that the router took in.
    pub taken: Counter,
    /// Super-frames that the kernel refused and that went out in segments.
    pub offload_refused: Counter,
    drops: Drops,
}

#[derive(Debug)]
struct Drops([Counter; DropReason::ALL.len()]);

impl Default for Drops {
    fn default() -> Drops {
        Drops(std::array::from_fn(|_| Counter::default()))
    }
}

impl PortCounters {
    /// Counts dropped frames.
    #[inline]
    pub fn drop(&self, reason: DropReason, frames: u64) {
        self.drops.0[reason as usize].add(frames);
    }

    /// How many frames were dropped for this reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.0[reason as usize].load()
    }
}

/// One worker's numbers of all ports of a bridge.
#[derive(Debug)]
pub struct Counters(Box<[PortCounters]>);

impl Counters {
    /// All zero.
    #[must_use]
    pub fn new(ports: usize) -> Counters {
        Counters(std::iter::repeat_with(PortCounters::default).take(ports).collect())
    }

    /// A port's numbers; `None` if there are none of this port.
    #[inline]
    #[must_use]
    pub fn port(&self, port: PortId) -> Option<&PortCounters> {
        self.0.get(port.index())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_counter_and_name() {
        let counters = PortCounters::default();
        for (n, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, n);
            counters.drop(reason, n as u64 + 1);
        }
        let mut names: Vec<&str> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::ALL.len());
        assert!(DropReason::ALL.into_iter().all(|reason| counters.dropped(reason) == reason as u64 + 1));
    }
}
