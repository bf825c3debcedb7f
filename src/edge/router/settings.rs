//! The settings of the translation in the types of `nat`.

use config::{Dependence, MssClamp, Nat, Timeouts};
use vswitch::RoutingSettings;

use super::PortNumbers;

/// When connections end.
pub(super) fn timeouts(settings: &Nat) -> nat::Timeouts {
    let Timeouts { tcp_established, tcp_transitory, tcp_opening, udp, icmp, other } = settings.timeouts;
    nat::Timeouts { tcp_established, tcp_opening, tcp_transitory, udp, icmp, other }
}

/// The settings of the routes.
pub(super) fn routing(settings: &Nat) -> RoutingSettings {
    let mss_clamp = match settings.mss_clamp {
        MssClamp::Off => vswitch::MssClamp::Off,
        MssClamp::Fit => vswitch::MssClamp::Fit,
        MssClamp::To(most) => vswitch::MssClamp::To(most),
    };
    RoutingSettings { mss_clamp, forwards_link_local: settings.forward_link_local }
}

/// For a switch with these ports, the uplink among them.
pub(super) fn nat_config(settings: &Nat, ports: PortNumbers) -> nat::NatConfig {
    nat::NatConfig {
        max_connections: settings.max_connections,
        max_connections_per_port: settings.max_connections_per_port,
        max_ports_per_guest: settings.max_ports_per_guest.into(),
        ports_of_bridge: ports.at_start,
        port_numbers: ports.capacity,
        ports: settings.ports.clone(),
        mapping: match settings.mapping {
            Dependence::EndpointIndependent => nat::Mapping::EndpointIndependent,
            Dependence::AddressAndPortDependent => nat::Mapping::AddressAndPortDependent,
        },
        filtering: match settings.filtering {
            Dependence::EndpointIndependent => nat::Filtering::EndpointIndependent,
            Dependence::AddressAndPortDependent => nat::Filtering::AddressAndPortDependent,
        },
        timeouts: timeouts(settings),
        tcp_loose: settings.tcp_loose,
        tcp_liberal: settings.tcp_liberal,
    }
}
