//! `--udp`: a tunnel of a bridge with bare Ethernet in UDP.

use tunnel::Framing;

use super::TunnelType;
use super::bridged::{BridgedKeys, Tunnel};
use crate::keys::keys;
use crate::problem::{Origin, Problems};

keys! {
    /// A tunnel of bare Ethernet.
    struct UdpKeys {
        /// vxlan; udp: bare Ethernet in UDP; udp-ip: the IPv4 packets of a TUN device in UDP, as flannel's.
        "type" => kind: TunnelType,
        ..bridged: BridgedKeys,
    }
}

impl UdpKeys {
    pub(super) fn tunnel(&self, table: &Origin, problems: &mut Problems) -> Option<Tunnel> {
        if self.is_faulty {
            return None;
        }
        if self.bridged.socket.port.is_none() {
            problems.add(
                table,
                table.say("on which port? Add port, the same at both ends", "on which port? Add port=, the same at both ends"),
            );
        }
        if self.bridged.remotes.is_none() {
            let as_flag = "where to? Add remote=, the address of the other host";
            problems.add(table, table.say("where to? Add remotes = [\"192.0.2.2\"], or whichever hosts these are", as_flag));
            return None;
        }
        self.bridged.tunnel(table, Framing::Ethernet, None, problems)
    }
}
