//! `--tap NAME[@NETNS]`, `tap = "NAME"`: a TAP whose user side is the switch's.

use std::net::{IpAddr, Ipv4Addr};

use super::{CommonKeys, DeviceKeys, Port, PortKind};
use crate::keys::keys;
use crate::name::{InterfaceName, Netns};
use crate::problem::{Origin, Problems};
use crate::value::words;

/// A TAP that the switch makes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tap {
    /// The interface's name.
    pub name: String,
    /// Where the interface is, if not in vswitchd's own namespace.
    pub netns: Option<Netns>,
    /// Whether a TAP that another process holds is joined from its network side.
    pub attach: bool,
    /// False: plain frames with complete checksums only.
    pub offload: bool,
    /// What the switch sets on it.
    pub setup: Setup,
}

/// Addresses and the route that the switch sets on a guest's interface. On other interfaces it sets none.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Setup {
    /// Its addresses with the lengths of their prefixes.
    pub addresses: Vec<(IpAddr, u8)>,
    /// The next hop of a default route.
    pub gateway: Option<Ipv4Addr>,
    /// It stays down, for somebody who takes it to another namespace.
    pub stays_down: bool,
}

words! {
    /// Whether the TAP may be held by another process.
    pub(crate) enum Attach {
        Own = "own",
        Auto = "auto",
    }
}

keys! {
    /// A TAP.
    struct TapKeys {
        /// The name of a TAP that the switch makes.
        "tap" => tap: InterfaceName,
        /// Where a TAP is made: a name under /run/netns, a path, or pid:N. Default: where vswitchd runs.
        "netns" => netns: Netns,
        /// own, or auto: a TAP that another process holds is joined from its network side. Default: own.
        "attach" => attach: Attach,
        ..common: CommonKeys,
        ..device: DeviceKeys,
    }
}

impl TapKeys {
    pub(super) fn ports(&self, table: &Origin, problems: &mut Problems) -> Option<Vec<Port>> {
        if self.is_faulty {
            return None;
        }
        let tap = self.tap.as_ref()?;
        let name = &tap.value.0;
        if let Some((name, netns)) = name.split_once('@') {
            problems.add(&tap.origin, format!("write tap = \"{name}\" and netns = \"{netns}\""));
            return None;
        }
        if name.contains(',') {
            problems.add(&tap.origin, format!("'{name}' has a ',' in it: give each TAP a table of its own"));
            return None;
        }
        let attach = self.attach.as_ref().filter(|attach| attach.value == Attach::Auto);
        if let (Some(attach), Some(_)) = (attach, &self.netns) {
            let netns = attach.origin.say("netns", "@NETNS");
            let problem = format!(
                "attach=auto joins a TAP from its network side, in vswitchd's own namespace only: leave out {netns}, and start \
                 vswitchd in that namespace"
            );
            problems.add(&attach.origin, problem);
            return None;
        }
        let netns = self.netns.as_ref().map(|netns| netns.value.clone());
        let offload = self.device.offload();
        let kind = Tap { name: name.clone(), netns, attach: attach.is_some(), offload, setup: Setup::default() };
        let port = self.common.port(table, name, PortKind::Tap(kind), problems)?;
        Some(vec![self.device.port(port)])
    }
}

impl Tap {
    pub(super) fn keys_text(&self) -> String {
        let offload = if self.offload { "" } else { ", no offload" };
        let attach = if self.attach { ", or joined from its network side" } else { "" };
        format!("{offload}{attach}")
    }
}
