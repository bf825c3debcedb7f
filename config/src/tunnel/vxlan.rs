//! `--vxlan`: a tunnel of a bridge with VXLAN headers (RFC 7348).

use tunnel::{Framing, Vni};

use super::TunnelType;
use super::address::{Block, GroupAddress};
use super::bridged::{BridgedKeys, Group, Tunnel};
use crate::keys::keys;
use crate::problem::{At, Origin, Problems};
use crate::value::{List, Number};

keys! {
    /// A tunnel with VXLAN headers.
    struct VxlanKeys {
        /// vxlan; udp: bare Ethernet in UDP; udp-ip: the IPv4 packets of a TUN device in UDP, as flannel's.
        "type" => kind: TunnelType,
        /// The network, 0 to 16,777,215; of vxlan.
        "vni" => vni: Number<0, 16_777_215>,
        /// A multicast group in which other hosts are found; of vxlan, instead of remotes.
        "group" => group: GroupAddress,
        /// Which hosts in the group are accepted: address blocks.
        "peers" => peers: List<Block>,
        ..bridged: BridgedKeys,
    }
}

impl VxlanKeys {
    pub(super) fn tunnel(&self, table: &Origin, problems: &mut Problems) -> Option<Tunnel> {
        if self.is_faulty {
            return None;
        }
        let is_complete = self.check_hosts(table, problems);
        let Some(vni) = &self.vni else {
            problems.add(table, "which network? Add vni, a number from 0 to 16777215");
            return None;
        };
        if !is_complete {
            return None;
        }
        let peers = self.peers.iter().flat_map(|peers| &peers.value.0).map(|peer| peer.value.0).collect();
        let group = self.group.as_ref().map(|group| At::new(Group { address: group.value.0, peers }, &group.origin));
        self.bridged.tunnel(table, Framing::Vxlan(Vni::new(vni.value.get())?), group, problems)
    }

    /// Checks that the other hosts are either named or found in a group.
    fn check_hosts(&self, table: &Origin, problems: &mut Problems) -> bool {
        let (remotes, statics) = (&self.bridged.remotes, &self.bridged.statics);
        let key = |name, in_file| table.say(in_file, name);
        let (origin, problem) = match (remotes, &self.group, &self.peers) {
            (None, None, _) => {
                let as_flag = "where to? Add remote=, the address of the other host, or group= with peers=";
                (table, table.say("where to? Add remotes = [\"192.0.2.2\"], or group with peers", as_flag).to_owned())
            }
            (Some(_), Some(group), _) => {
                let leave = format!("leave out {} or group", key("remote", "remotes"));
                (&group.origin, format!("either the other hosts are named or they are found: {leave}"))
            }
            (None, Some(group), None) => {
                let add = key("peers=192.0.2.0/24", "peers = [\"192.0.2.0/24\"]");
                (&group.origin, format!("anything can send to a group: add the addresses of the tunnel's hosts, such as {add}"))
            }
            (Some(_), None, Some(peers)) => {
                (&peers.origin, "only the named hosts are accepted: leave peers out, or use group".to_owned())
            }
            (None, Some(_), Some(_)) if statics.is_some() => {
                let use_instead = key("remote", "remotes");
                (table, format!("a static entry is for a named host: leave mac out, or use {use_instead}"))
            }
            _ => return true,
        };
        problems.add(origin, problem);
        false
    }
}
