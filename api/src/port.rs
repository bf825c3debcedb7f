//! Ports and their counters.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::words;

/// A port of a bridge, or a TUN device, to which packets are routed.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// The name that its maker gave it, which no other port has; `null` for ports without.
    pub id: Option<String>,
    /// Notes of its maker, by name.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Name of its bridge; `null` for a TUN device.
    pub bridge: Option<String>,
    /// Kind of device.
    pub kind: PortKind,
    /// Network namespace of its device; `null` for the daemon's own.
    pub namespace: Option<String>,
    /// How it carries VLANs; `null` for a TUN device.
    pub vlan_mode: Option<VlanMode>,
    /// The VLAN of an access port, or the native VLAN; `null` for a trunk and a TUN device.
    pub vlan: Option<u16>,
    /// The VLANs of a trunk or of a port with a native VLAN, 0 for untagged frames; `null` for all of them, and for other ports.
    pub trunks: Option<Vec<u16>>,
    /// State of its link.
    pub state: State,
    /// True while the loop guard keeps frames from being flooded to and from it.
    pub loop_blocked: bool,
    /// Maximum length of a packet, in bytes; `null` if not known.
    pub mtu: Option<u32>,
    /// Offloads of its device, as text.
    pub device: String,
    /// Storm control; `null` for ports without.
    pub limits: Option<Limits>,
    /// MAC address of the station behind it, as configured or that of its TAP; `null` if not known.
    pub mac: Option<String>,
    /// Addresses of the station, and networks behind it.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Whether frames are dropped that claim other addresses, or are those of a DHCP server or router.
    #[serde(default)]
    pub guard: bool,
    /// Whether it reaches only ports that are not isolated.
    #[serde(default)]
    pub isolated: bool,
    /// Whether it waits for a device or namespace that is not there yet.
    #[serde(default)]
    pub wait: bool,
    /// Whether it is removed when its device or namespace is gone.
    #[serde(default)]
    pub transient: bool,
}

/// Storm control of a port: maximum rates of frames that are flooded, in frames per second.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
pub struct Limits {
    /// Broadcast frames; `null` is no limit.
    pub broadcast: Option<u32>,
    /// Multicast frames; `null` is no limit.
    pub multicast: Option<u32>,
    /// Frames to unknown stations; `null` is no limit.
    pub unknown: Option<u32>,
}

impl Port {
    /// Its VLANs as text: `access VLAN 10`; empty for a TUN device.
    pub fn vlan_text(&self) -> String {
        let trunks = match &self.trunks {
            None => "all".to_owned(),
            Some(vlans) => vlans.iter().map(u16::to_string).collect::<Vec<_>>().join("+"),
        };
        let vlan = self.vlan.unwrap_or_default();
        match self.vlan_mode {
            None => String::new(),
            Some(VlanMode::Access) => format!("access VLAN {vlan}"),
            Some(VlanMode::Trunk) if self.trunks.is_none() => "all VLANs".to_owned(),
            Some(VlanMode::Trunk) => format!("trunk VLANs {trunks}"),
            Some(VlanMode::NativeTagged) => format!("native VLAN {vlan} tagged, trunk VLANs {trunks}"),
            Some(VlanMode::NativeUntagged) => format!("native VLAN {vlan} untagged, trunk VLANs {trunks}"),
        }
    }
}

words! {
    /// How a port carries VLANs, in the words of Open vSwitch.
    VlanMode {
        /// One VLAN, untagged.
        Access = "access",
        /// Several VLANs, tagged.
        Trunk = "trunk",
        /// Several VLANs, tagged; untagged frames received are in the native VLAN.
        NativeTagged = "native-tagged",
        /// Several VLANs, tagged, but the native VLAN untagged.
        NativeUntagged = "native-untagged",
    }

    /// Kind of a port's device.
    PortKind {
        /// TAP device.
        Tap = "tap",
        /// TUN device.
        Tun = "tun",
        /// Packet socket on an interface of the host.
        Packet = "packet",
        /// Stream socket of a guest, Unix or TCP (QEMU, passt).
        Stream = "stream",
        /// Unix datagram socket of a guest.
        Dgram = "dgram",
        /// Uplink in bridge mode.
        Uplink = "uplink",
        /// TUN device by which the host is a neighbour of its guests.
        Host = "host",
    }

    /// State of a link.
    State {
        /// The link is up.
        Up = "up",
        /// The link is down.
        Down = "down",
        /// The device is gone.
        Gone = "gone",
        /// No guest is connected, or the device has not come yet.
        Waiting = "waiting",
    }
}

/// Counters of a port since the daemon started. A super-frame counts as one frame.
#[derive(Clone, Debug, Default, Serialize, Deserialize, ToSchema)]
pub struct PortStats {
    /// Name of the port; `NAME@NETNS` if several interfaces have the name.
    pub name: String,
    /// Name of its bridge; `null` for ports that are only routed to.
    pub bridge: Option<String>,
    /// Network namespace of its device; `null` for the daemon's own.
    pub namespace: Option<String>,
    /// State of its link; `null` for peers of tunnels.
    pub state: Option<State>,
    /// Whether the loop guard has blocked it, in any VLAN.
    pub loop_blocked: bool,
    /// Frames received.
    pub rx_frames: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Frames sent.
    pub tx_frames: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Successful writes of frames: fewer than frames where they were coalesced, more where they were cut.
    pub tx_writes: u64,
    /// Copies of frames received here, beyond the first.
    pub copies: u64,
    /// Frames that the router made because of a frame received here.
    pub made: u64,
    /// Frames received here that the router consumed.
    pub taken: u64,
    /// Super-frames that the kernel refused and that were sent in segments.
    pub offload_refused: u64,
    /// Frames dropped: the sum of `drops`.
    pub dropped: u64,
    /// Frames dropped by reason; only reasons with a count.
    pub drops: BTreeMap<String, u64>,
    /// Frames that the kernel dropped before they were read.
    pub kernel_dropped: u64,
    /// Kernel memory in use by frames not read yet, in bytes; `null` where the kernel does not report it.
    pub rx_queue_bytes: Option<u64>,
    /// Bytes queued for a guest that does not read; `null` where nothing is queued.
    pub tx_queue_bytes: Option<u64>,
    /// Maximum of `tx_queue_bytes`.
    pub tx_queue_limit_bytes: Option<u64>,
}
