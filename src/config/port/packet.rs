//! `--port packet:IFNAME`: the network side of a device, which a monitor or the host uses too.

use super::{DeviceConfig, PacketConfig, PortConfig, Settings};
use crate::config::ConfigError;
use crate::config::words::check_name;

const KEYS: [&str; 6] = ["vlan", "trunks", "vlan-mode", "mtu", "offload", "gro"];

/// `IFNAME[:KEY=VALUE...]`.
pub(super) fn parse(place: &str, text: &str) -> Result<PortConfig, ConfigError> {
    let mut parts = text.split(':');
    let interface = parts.next().unwrap_or_default();
    if let Some((name, _)) = interface.split_once('@') {
        let problem =
            format!("a packet port is an interface of vswitchd's own namespace: write packet:{name}, and start it there");
        return Err(ConfigError::new(place, problem));
    }
    check_name(place, "an interface", interface)?;
    let settings = Settings::read(place, parts, &KEYS, |_, _| Ok(false))?;
    let device = DeviceConfig::Packet(PacketConfig {
        interface: interface.to_owned(),
        queues: 1,
        mtu: settings.mtu,
        offload: settings.offload.unwrap_or(true),
    });
    settings.port(place, interface, device)
}
