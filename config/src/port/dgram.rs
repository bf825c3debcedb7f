//! `--port dgram:PATH`, `dgram = "PATH"`: a socket with a frame in each datagram.

use std::path::PathBuf;

use super::stream::DEFAULT_GUEST_MTU;
use super::{CommonKeys, Port, PortKind};
use crate::keys::keys;
use crate::problem::{Origin, Problems};
use crate::value::Text;
#[cfg(test)]
use crate::value::string_schema;

/// The longest path of a socket, in bytes (`sockaddr_un` without its zero byte).
const MAX_PATH_LEN: usize = 107;

/// A guest that sends and receives datagrams.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dgram {
    /// The switch's socket.
    pub path: PathBuf,
    /// The guest's socket; `None` stands for the one that sent last.
    pub remote: Option<PathBuf>,
}

/// The path of a socket, which is its port's name too.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SocketPath(pub(super) PathBuf);

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

impl Text for SocketPath {
    fn parse(text: &str, key: &str, origin: &Origin) -> Result<SocketPath, String> {
        let said = text.escape_debug();
        // In a flag what follows the path's colon is meant as a key; in a file it may be one that was copied from there.
        let after = text.split_once(':').map(|(_, after)| after).filter(|_| key != "remote");
        match after {
            Some(after) if !origin.is_file() => return Err(format!("'{}' is not KEY=VALUE", after.escape_debug())),
            Some(after) if after.contains('=') => {
                return Err(format!("'{said}' has a key of a flag in it: write '{}' as a key of its own", after.escape_debug()));
            }
            _ => {}
        }
        if text.is_empty() {
            return Err("there is no path: name the socket, such as /run/vswitchd/guests".to_owned());
        }
        if text.len() > MAX_PATH_LEN {
            let len = text.len();
            return Err(format!(
                "'{said}' is {len} bytes long; a socket's path has at most {MAX_PATH_LEN}: choose a shorter one"
            ));
        }
        if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(format!("'{said}' is a port's name too, which has no spaces: choose another path"));
        }
        Ok(SocketPath(text.into()))
    }
}

#[cfg(test)]
string_schema!(SocketPath);
