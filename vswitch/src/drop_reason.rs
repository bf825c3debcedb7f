//! Drop reasons: why a frame goes no further. Each has one counter per port.
//!
//! A reason is one row of the table below, plus its line in `docs/switch.md` or `docs/tunnel.md`, which begins with the
//! same text, and a case in `tests/drops.rs`.

/// Declares the reasons: variant, name, meaning.
macro_rules! drop_reasons {
    ($($variant:ident $name:literal $meaning:literal)*) => {
        /// Why a frame was dropped. Counted at the port that it came from; those from `PeerUnreachable` on, at the port
        /// that it should have left through.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[repr(u8)]
        pub enum DropReason {
            $(#[doc = $meaning] $variant,)*
        }

        impl DropReason {
            /// All reasons, in the order of their counters.
            pub const ALL: [DropReason; [$($name),*].len()] = [$(DropReason::$variant),*];

            /// The reason's name in metrics, on the control socket and in the documentation.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(DropReason::$variant => $name,)*
                }
            }

            /// What is wrong with the frame, as a phrase.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self {
                    $(DropReason::$variant => $meaning,)*
                }
            }
        }
    };
}

drop_reasons! {
    Runt "runt"
        "shorter than an Ethernet header"
    TruncatedTag "truncated_tag"
        "ends within a VLAN tag"
    BadVnetHeader "bad_vnet_hdr"
        "its virtio-net header contradicts the frame or itself, or has a type that was not negotiated"
    MulticastSource "multicast_source"
        "its source is a group address, which no station has"
    GuardMac "guard_mac"
        "sent from another MAC address than that of the guarded port's station"
    GuardIp "guard_ip"
        "from an IP address that the guarded port's station does not have, or IP that cannot be checked"
    GuardArp "guard_arp"
        "an ARP message that claims an address which the guarded port's station does not have"
    GuardNd "guard_nd"
        "a neighbour discovery message that claims an address which the guarded port's station does not have"
    GuardDhcp "guard_dhcp"
        "a DHCP server's message from a guarded port"
    GuardRa "guard_ra"
        "a router advertisement or redirect from a guarded port"
    LinkLocal "link_local"
        "addressed to 01:80:c2:00:00:0x, which bridges do not forward"
    VlanNotAllowed "vlan_not_allowed"
        "the ingress port does not carry its VLAN"
    SamePort "same_port"
        "its destination is behind the port that it came from"
    NoDestination "no_destination"
        "it would be flooded, but no other port carries its VLAN"
    LoopBlocked "loop_blocked"
        "it came back through a loop, or would be flooded through a port that the loop guard has blocked in its VLAN"
    StormBroadcast "storm_broadcast"
        "a broadcast beyond the port's limit"
    StormMulticast "storm_multicast"
        "a multicast beyond the port's limit"
    StormUnknown "storm_unknown"
        "to an unknown station, beyond the port's limit"
    PortIsolated "port_isolated"
        "it came from an isolated port, and only isolated ports could take it"
    VlanNotCarried "vlan_not_carried"
        "the port of its destination does not carry its VLAN"
    TooLong "too_long"
        "longer than the MTU of the egress port"
    TooManySegments "too_many_segments"
        "a super-frame of more than 64 segments, or of more than 2048 through all ports, flooded to a port that takes only segments"
    GatewaySpoofed "gateway_spoofed"
        "sent from the gateway's MAC address, or an ARP message that claims an address of the router"
    NotRouted "not_routed"
        "addressed to the gateway's MAC address, but not IPv4 or behind more than one VLAN tag"
    BadIpHeader "bad_ip_header"
        "its IPv4 header contradicts itself or the frame, or has a wrong checksum"
    IpOptions "ip_options"
        "source-routed, or its options contradict themselves"
    MartianSource "martian_source"
        "its source address is impossible on that network"
    MartianDestination "martian_destination"
        "its destination is not the address of a single host"
    LinkLocalAddress "link_local_address"
        "its source or destination is in 169.254.0.0/16, which routers do not forward"
    NotServed "not_served"
        "addressed to the gateway itself, which answers only ping"
    NotFromHost "not_from_host"
        "came from the host's routes, but its source is not an address of the host"
    NotAllowed "not_allowed"
        "the network of its source or destination does not route there"
    NoRoute "no_route"
        "no route to the destination, or the uplink is down"
    TtlExceeded "ttl_exceeded"
        "its time to live ran out"
    FragmentationNeeded "fragmentation_needed"
        "too long for the next link, and must not be fragmented"
    NeighbourUnresolved "neighbour_unresolved"
        "its next hop did not answer ARP"
    NeighbourQueueFull "neighbour_queue_full"
        "it is too long to wait for its next hop, or its port has too much that waits: 64 addresses, 128 packets of at most 2 KiB each"
    NotForUs "not_for_us"
        "came in through the uplink, but is for the host or for no known address"
    NatMalformed "nat_malformed"
        "its transport header is incomplete"
    NatBadChecksum "nat_bad_checksum"
        "wrong checksum, in a first packet, an ICMP error, or a ping to the router"
    NatNotOpening "nat_not_opening"
        "TCP that belongs to no connection and does not open one"
    NatOutOfWindow "nat_out_of_window"
        "TCP outside its connection's window, or with impossible flags"
    NatNoMapping "nat_no_mapping"
        "from outside, and no connection or published port expects it"
    NatIcmpIgnored "nat_icmp_ignored"
        "an ICMP type that is not passed on"
    NatIcmpUnrelated "nat_icmp_unrelated"
        "an ICMP error about a packet of no known connection"
    NatTableFull "nat_table_full"
        "the limit of connections is reached, and no half-open one gives way"
    NatPortShare "nat_port_share"
        "the limit of connections or ports for its bridge port is reached, and no half-open one gives way"
    NatGuestShare "nat_guest_share"
        "the limit of outside ports for its guest is reached, and no half-open connection gives way"
    NatPortsExhausted "nat_ports_exhausted"
        "no outside port is free, and no half-open connection gives way"
    NatNoAddress "nat_no_address"
        "there is no outside address"
    NatClash "nat_clash"
        "another guest already uses this protocol, which has no ports, with the same peer"
    NatNotShared "nat_not_shared"
        "a protocol without ports, which needs an own address instead of the host's"
    FragmentRefused "fragment_refused"
        "a fragment that overlaps another, has an illegal size, or exceeds a limit"
    TunnelTruncated "tunnel_truncated"
        "the datagram ends before its tunnel header or inner Ethernet header does"
    TunnelBadFlags "tunnel_bad_flags"
        "its tunnel header has no VNI, or announces another protocol"
    TunnelUnknownVni "tunnel_unknown_vni"
        "its VNI is not configured on that socket"
    TunnelUnknownPeer "tunnel_unknown_peer"
        "its sender is not a peer of the tunnel"
    TunnelNested "tunnel_nested"
        "a tunnel within a tunnel within a tunnel, or addressed to vswitchd's own socket"
    TunnelEcn "tunnel_ecn"
        "it was marked as congested, and the inner packet cannot carry the mark"
    SplitHorizon "split_horizon"
        "it came from a tunnel, and its destination is behind a tunnel"
    PeerUnreachable "peer_unreachable"
        "the kernel has no route to the tunnel's peer, or may not send there"
    PortDown "port_down"
        "the link of the port is down"
    PortGone "port_gone"
        "the device of the port is gone"
    QueueFull "queue_full"
        "the queue of the port is full"
    WriteFailed "write_failed"
        "the kernel refused the write for another reason"
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_reason_has_its_own_name() {
        let names: BTreeSet<&str> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
        assert!(DropReason::ALL.into_iter().enumerate().all(|(at, reason)| reason as usize == at));
    }

    #[test]
    fn each_reason_is_documented_by_its_own_text() {
        let pages = concat!(include_str!("../../docs/switch.md"), include_str!("../../docs/tunnel.md"));
        for reason in DropReason::ALL {
            let row = format!("| `{}` | {}", reason.name(), reason.meaning());
            let is_there = pages.lines().any(|line| line.starts_with(&row));
            assert!(is_there, "docs/switch.md or docs/tunnel.md must have a row that begins with\n{row}");
        }
    }
}
