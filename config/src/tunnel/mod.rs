//! Tunnels: other hosts that are reached in UDP datagrams, `--vxlan`, `--udp`, `--udp-ip` and `[[tunnel]]`.
//!
//! Those of a bridge ([`Tunnel`]) carry Ethernet, with a VXLAN header or without one; each other host is a port of the bridge. Those
//! of a TUN device ([`IpTunnel`]) carry IP packets beside the bridges. The types of tunnels are the framings of the `tunnel` crate; the
//! keys of a further one are a file of its own, and the arms here that the compiler asks for.

pub(crate) mod address;
pub(crate) mod apart;
mod bridged;
mod ip;
mod outer;
#[cfg(test)]
mod tests;
mod udp;
mod vxlan;

use std::net::IpAddr;

use tunnel::FramingKind;

pub use bridged::{Group, Tunnel};
pub use ip::IpTunnel;
pub use outer::{Checksum, DontFragment, Outer};

use crate::keys::{keys, read_table};
use crate::name::InterfaceName;
use crate::problem::{At, Origin, Problems, unknown};
use crate::raw::{Raw, RawValue};
use crate::value::{Mtu, Number, Text, Value};
use address::{Local, is_of_one_link};
use bridged::BridgedKeys;
use ip::UdpIpKeys;
use outer::OuterKeys;
use udp::UdpKeys;
use vxlan::VxlanKeys;

/// Ports that are kept for the hosts that a tunnel finds in its multicast group.
pub const GROUP_PORTS: usize = 64;

/// The type of a tunnel, by the name of its framing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TunnelType(FramingKind);

/// The keys of a tunnel, by its type.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum TunnelKeys {
    Vxlan(VxlanKeys),
    Udp(UdpKeys),
    UdpIp(UdpIpKeys),
    /// A table without a valid type.
    Unknown,
}

/// The place of a tunnel's table among those of its document.
///
/// All places compare equal, as all origins do: a tunnel is the same wherever it was written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Position(pub(crate) usize);

impl PartialEq for Position {
    fn eq(&self, _: &Position) -> bool {
        true
    }
}

impl Eq for Position {}

/// A tunnel of a bridge or beside them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum AnyTunnel {
    Bridged(Tunnel),
    Ip(IpTunnel),
}

keys! {
    /// The keys of the sockets that carry a tunnel.
    struct SocketKeys {
        /// This host's address. Default: any.
        "local" => local: Local,
        /// The UDP port here and there. Default: 4789 of vxlan, 8285 of udp-ip.
        "port" => port: Number<1, 65_535>,
        /// The host's interface that datagrams go through. Default: as the host's routes say.
        "dev" => device: InterfaceName,
        /// The longest packet inside, in bytes, 68 to 65,521. Default: the path MTU minus the tunnel's headers.
        "mtu" => mtu: Mtu,
        ..outer: OuterKeys,
    }
}

impl TunnelKeys {
    /// The tunnel; `None` if its keys are wrong by themselves.
    pub(crate) fn tunnel(&self, table: &Origin, problems: &mut Problems) -> Option<AnyTunnel> {
        match self {
            TunnelKeys::Vxlan(keys) => keys.tunnel(table, problems).map(AnyTunnel::Bridged),
            TunnelKeys::Udp(keys) => keys.tunnel(table, problems).map(AnyTunnel::Bridged),
            TunnelKeys::UdpIp(keys) => keys.tunnel(table, problems).map(AnyTunnel::Ip),
            TunnelKeys::Unknown => None,
        }
    }

    fn bridged(&self) -> Option<&BridgedKeys> {
        match self {
            TunnelKeys::Vxlan(keys) => Some(&keys.bridged),
            TunnelKeys::Udp(keys) => Some(&keys.bridged),
            TunnelKeys::UdpIp(_) | TunnelKeys::Unknown => None,
        }
    }

    /// The name of its bridge, if one was written.
    pub(crate) fn bridge(&self) -> Option<&At<String>> {
        self.bridged()?.bridge.as_ref()
    }

    pub(crate) fn is_bridged(&self) -> bool {
        self.bridged().is_some()
    }
}

/// The flag in whose syntax a tunnel is written, by the keys that only one type has.
pub(crate) fn flag_of(text: &str) -> &'static str {
    let has = |key: &str| text.split(',').any(|pair| pair.starts_with(key));
    if has("vni=") {
        "--vxlan"
    } else if has("tun=") {
        "--udp-ip"
    } else {
        "--udp"
    }
}

impl Value for TunnelKeys {
    fn read(raw: &Raw, key: &str, problems: &mut Problems) -> Option<TunnelKeys> {
        let RawValue::Table(entries) = &raw.value else {
            problems.add(&raw.origin, raw.is_not(key, "a table"));
            return None;
        };
        let Some(kind) = entries.iter().find(|entry| entry.key == "type") else {
            problems.add(&raw.origin, "which kind? Add type = \"vxlan\", or \"udp\" or \"udp-ip\"");
            return Some(TunnelKeys::Unknown);
        };
        let Some(TunnelType(kind)) = TunnelType::read(&kind.raw, "type", problems) else { return Some(TunnelKeys::Unknown) };
        Some(match kind {
            FramingKind::Vxlan => TunnelKeys::Vxlan(read_table(raw, key, problems)?),
            FramingKind::Ethernet => TunnelKeys::Udp(read_table(raw, key, problems)?),
            FramingKind::Ip => TunnelKeys::UdpIp(read_table(&without_bridge(raw, problems), key, problems)?),
        })
    }

    fn in_file(&self, _: Option<&RawValue>) -> Option<RawValue> {
        match self {
            TunnelKeys::Vxlan(keys) => keys.in_file(None),
            TunnelKeys::Udp(keys) => keys.in_file(None),
            TunnelKeys::UdpIp(keys) => keys.in_file(None),
            TunnelKeys::Unknown => None,
        }
    }
}

impl Text for TunnelType {
    fn parse(text: &str, key: &str, _: &Origin) -> Result<TunnelType, String> {
        let known = FramingKind::ALL.map(FramingKind::name);
        FramingKind::named(text).map(TunnelType).ok_or_else(|| unknown(key, text, &known))
    }
}

/// The table without a bridge, which a tunnel of IP packets has not.
fn without_bridge(raw: &Raw, problems: &mut Problems) -> Raw {
    let RawValue::Table(entries) = &raw.value else { return raw.clone() };
    if let Some(bridge) = entries.iter().find(|entry| entry.key == "bridge") {
        problems.add(&bridge.raw.origin, "a tunnel of IP packets is beside the bridges: leave bridge out");
    }
    let others = entries.iter().filter(|entry| entry.key != "bridge").cloned().collect();
    Raw { origin: raw.origin.clone(), value: RawValue::Table(others) }
}

impl SocketKeys {
    fn local(&self) -> Option<IpAddr> {
        self.local.as_ref().map(|local| local.value.0)
    }

    fn port(&self) -> Option<u16> {
        self.port.as_ref().map(|port| port.value.get())
    }

    fn device(&self) -> Option<String> {
        self.device.as_ref().map(|device| device.value.0.clone())
    }

    fn mtu(&self) -> Option<u32> {
        self.mtu.as_ref().map(|mtu| mtu.value.get())
    }

    /// Whether a link-local address comes with its interface; reports the problem if not.
    fn has_device_for(&self, address: IpAddr, origin: &Origin, problems: &mut Problems) -> bool {
        if self.device.is_some() || !is_of_one_link(address) {
            return true;
        }
        let cure = origin.say("add dev = \"eth0\", or whichever it is", "say which, such as dev=eth0");
        problems.add(origin, format!("{address} is of one link: {cure}"));
        false
    }
}

#[cfg(test)]
impl schemars::JsonSchema for TunnelType {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TunnelType".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "enum": FramingKind::ALL.map(FramingKind::name) })
    }
}

/// The keys of all types, since editors are to offer each of them until the type is known.
#[cfg(test)]
impl schemars::JsonSchema for TunnelKeys {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Tunnel".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let types = [VxlanKeys::json_schema(generator), UdpKeys::json_schema(generator), UdpIpKeys::json_schema(generator)];
        crate::document::merged("A way to other hosts.", &types)
    }
}
