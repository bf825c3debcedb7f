//! Values of the configuration in the types of the switch and of the kernel's edge.

use packet::MacAddr;
use vswitch::{BridgeId, Coalesce, Guard, PortVlan, StormLimits, VlanSet};

/// Bridges that come take numbers besides those that go with the same change, and each number has a place in the workers' tables.
const _: () =
    assert!(2 * config::MAX_BRIDGES <= vswitch::domain::MAX_BRIDGES && vswitch::domain::MAX_BRIDGES <= u16::MAX as usize);

/// The same for networks inside.
const _: () = assert!(2 * config::MAX_GATEWAYS <= vswitch::routing::MAX_INTERFACES);

/// Each static route is one of the router's.
const _: () = assert!(config::MAX_ROUTES <= vswitch::MAX_GUEST_ROUTES);

/// The number of a bridge.
pub(crate) fn bridge_id(number: usize) -> BridgeId {
    BridgeId(number as u16)
}

/// The VLANs of a port.
pub(crate) fn port_vlan(vlans: &config::Vlans) -> PortVlan {
    match vlans {
        config::Vlans::Access(vlan) => PortVlan::access(*vlan),
        config::Vlans::Trunk(trunks) => PortVlan::trunk(vlan_set(trunks)),
        config::Vlans::NativeTagged(vlan, trunks) => PortVlan::native_tagged(*vlan, vlan_set(trunks)),
        config::Vlans::NativeUntagged(vlan, trunks) => PortVlan::native_untagged(*vlan, vlan_set(trunks)),
    }
}

/// The storm control of a port.
pub(crate) fn storm_limits(limits: config::Limits) -> StormLimits {
    let config::Limits { broadcast, multicast, unknown } = limits;
    StormLimits { broadcast, multicast, unknown }
}

/// What a station may send whose device has this MAC address.
pub(crate) fn guard(station: &config::Station, of_device: Option<MacAddr>) -> Guard {
    let mac = station.mac.or(of_device);
    // Without addresses, all are its own.
    if station.addresses.is_empty() || station.behind.is_empty() {
        return Guard::new(mac, &station.addresses);
    }
    Guard::new(mac, &[&station.addresses[..], &station.behind].concat())
}

/// Which frames are coalesced on their way to a port.
pub(crate) fn coalesce(gro: config::Gro) -> Coalesce {
    match gro {
        config::Gro::Off => Coalesce::Off,
        config::Gro::Neighbours => Coalesce::Neighbours,
        config::Gro::Flows => Coalesce::Flows,
    }
}

fn vlan_set(trunks: &config::Trunks) -> VlanSet {
    match trunks {
        config::Trunks::All => VlanSet::all(),
        config::Trunks::Listed(vlans) => vlans.iter().copied().collect::<VlanSet>(),
    }
}

/// A network namespace.
pub(crate) fn netns(netns: &config::Netns) -> netio::Netns {
    netio::Netns::new(netns.as_str())
}

/// The namespace of a port, if that is named by the number of a process.
pub(crate) fn netns_of_process(port: &config::Port) -> Option<netio::Netns> {
    port.link()?.1.map(netns).filter(netio::Netns::is_of_process)
}

/// Where guests are met.
pub(crate) fn guest_address(address: &config::port::Address) -> netio::guest::Address {
    match address {
        config::port::Address::Unix(path) => netio::guest::Address::Unix(path.clone()),
        config::port::Address::Tcp(address) => netio::guest::Address::Tcp(*address),
    }
}
