//! `--port packet:NAME`, `packet = "NAME"`: the network side of an interface, which a monitor or the host uses too.

use super::{CommonKeys, DeviceKeys, KindHelp, Port, PortKind};
use crate::keys::keys;
use crate::name::InterfaceName;
use crate::problem::{Origin, Problems};

pub(super) const HELP: KindHelp = KindHelp {
    place: "packet:IFNAME: the network side of a device, such as a TAP that a virtual machine's monitor holds, a veth or a NIC.",
    keys: "of packet: offload= and gro= too",
};

/// An interface that another process or the host uses too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// The interface, in vswitchd's own namespace.
    pub interface: String,
    /// False: plain frames with complete checksums only.
    pub offload: bool,
}

keys! {
    /// The network side of an interface.
    struct PacketKeys {
        /// The name of an interface whose network side is the port.
        "packet" => packet: InterfaceName,
        ..common: CommonKeys,
        ..device: DeviceKeys,
    }
}

impl PacketKeys {
    pub(super) fn ports(&self, table: &Origin, problems: &mut Problems) -> Option<Vec<Port>> {
        if self.is_faulty {
            return None;
        }
        let packet = self.packet.as_ref()?;
        let interface = &packet.value.0;
        if let Some((name, _)) = interface.split_once('@') {
            let write = packet.origin.say("packet = ", "packet:");
            let problem = format!(
                "a packet port is an interface of vswitchd's own namespace: write {write}{name}, and start vswitchd there"
            );
            problems.add(&packet.origin, problem);
            return None;
        }
        let kind = Packet { interface: interface.clone(), offload: self.device.offload() };
        let port = self.common.port(table, interface, PortKind::Packet(kind), problems)?;
        Some(vec![self.device.port(port)])
    }
}

impl Packet {
    pub(super) fn keys_text(&self) -> String {
        if self.offload { String::new() } else { ", no offload".to_owned() }
    }
}
