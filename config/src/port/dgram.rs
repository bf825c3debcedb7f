//! `--port dgram:PATH`, `dgram = "PATH"`: a socket with a frame in each datagram.

use std::path::PathBuf;

use super::socket_path::SocketPath;
use super::stream::DEFAULT_GUEST_MTU;
use super::{CommonKeys, KindHelp, Port, PortKind};
use crate::keys::keys;
use crate::problem::{Origin, Problems};

pub(super) const HELP: KindHelp = KindHelp {
    place: "dgram:PATH: a socket with one frame per datagram (QEMU's -netdev dgram, vfkit).",
    keys: "of dgram: remote=PATH, the guest's socket [default: the last sender]",
};

/// A guest that sends and receives datagrams.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dgram {
    /// The switch's socket.
    pub path: PathBuf,
    /// The guest's socket; `None` stands for the one that sent last.
    pub remote: Option<PathBuf>,
}

keys! {
    /// A socket with a frame a datagram.
    struct DgramKeys {
        /// The path of a socket with a frame a datagram.
        "dgram" => dgram: SocketPath,
        /// The guest's own socket, of dgram. Default: the one that sent last.
        "remote" => remote: SocketPath,
        ..common: CommonKeys,
    }
}

impl DgramKeys {
    pub(super) fn ports(&self, table: &Origin, problems: &mut Problems) -> Option<Vec<Port>> {
        if self.is_faulty {
            return None;
        }
        let path = self.dgram.as_ref()?.value.0.clone();
        if let Some(remote) = self.remote.as_ref().filter(|remote| remote.value.0 == path) {
            let problem = "remote is the guest's own socket, and this one is the switch's: give it another path";
            problems.add(&remote.origin, problem);
            return None;
        }
        let name = path.display().to_string();
        let kind = PortKind::Dgram(Dgram { path, remote: self.remote.as_ref().map(|remote| remote.value.0.clone()) });
        let port = self.common.port(table, &name, kind, problems)?;
        Some(vec![Port { mtu: port.mtu.or(Some(DEFAULT_GUEST_MTU)), ..port }])
    }
}

impl Dgram {
    pub(super) fn keys_text(&self) -> String {
        self.remote.as_ref().map_or_else(String::new, |remote| format!(", remote {}", remote.display()))
    }
}
