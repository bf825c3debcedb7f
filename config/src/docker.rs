//! The network driver for Docker: `--docker`, `[docker]`.

use std::fmt;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::address::HostAddress;
use crate::keys::keys;
use crate::problem::{Origin, Problems};
use crate::value::Text;
#[cfg(test)]
use crate::value::string_schema;

/// Where dockerd looks for the driver `vswitch`.
pub const DOCKER_SOCKET: &str = "/run/docker/plugins/vswitch.sock";

/// Where dockerd itself listens.
const ENGINE_SOCKET: &str = "/var/run/docker.sock";

/// The network driver for Docker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Docker {
    /// The socket on which dockerd asks.
    pub socket: PathBuf,
    /// The socket on which dockerd answers; `None` if it is not to be asked.
    pub engine: Option<PathBuf>,
    /// Whether containers of a network reach each other, unless the network's own options say so.
    pub icc: bool,
    /// The address of the uplink for ports that are published without an address; `None` for all.
    pub publish_default: Option<Ipv4Addr>,
}

impl Default for Docker {
    fn default() -> Docker {
        Docker { socket: DOCKER_SOCKET.into(), engine: Some(ENGINE_SOCKET.into()), icc: true, publish_default: None }
    }
}

/// An address of the host, or 0.0.0.0 for all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PublishAddress(Ipv4Addr);

keys! {
    /// The network driver for Docker; without this table there is none.
    struct DockerKeys {
        /// The socket on which dockerd asks, or none. Default: /run/docker/plugins/vswitch.sock.
        "socket" => socket: String,
        /// The socket on which dockerd answers, to find what is left over; or none. Default: /var/run/docker.sock.
        "engine" => engine: String,
        /// Containers of a network reach each other, unless the network's option icc says otherwise. Default: true.
        "icc" => icc: bool,
        /// The address of the uplink for ports that are published without one; 0.0.0.0 is all of them. Default: 0.0.0.0.
        "publish-default" => publish_default: PublishAddress,
    }
}

impl DockerKeys {
    /// The driver; `None` if there is to be none, or the keys are wrong by themselves.
    pub(crate) fn docker(&self, problems: &mut Problems) -> Option<Docker> {
        let mut path = |key: &str, written: &Option<crate::problem::At<String>>, usual: &str| match written {
            None => Some(PathBuf::from(usual)),
            Some(path) if path.value == "none" => None,
            Some(path) if path.value.is_empty() => {
                problems.add(&path.origin, format!("{key} is empty: name a path, such as {usual}, or none"));
                None
            }
            Some(path) => Some(path.value.as_str().into()),
        };
        let engine = path("engine", &self.engine, ENGINE_SOCKET);
        let socket = path("socket", &self.socket, DOCKER_SOCKET)?;
        let address = self.publish_default.as_ref().map(|address| address.value.0);
        Some(Docker {
            socket,
            engine,
            icc: self.icc.as_ref().is_none_or(|icc| icc.value),
            publish_default: address.filter(|address| !address.is_unspecified()),
        })
    }
}

/// Writes where it listens, and its other settings where they are not the usual ones: `/s, engine none, icc off`.
impl fmt::Display for Docker {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.socket.display().fmt(out)?;
        let usual = Docker::default();
        if self.engine != usual.engine {
            let engine = self.engine.as_ref().map_or_else(|| "none".into(), |path| path.to_string_lossy());
            write!(out, ", engine {engine}")?;
        }
        if self.icc != usual.icc {
            out.write_str(", icc off")?;
        }
        self.publish_default.map_or(Ok(()), |address| write!(out, ", publish-default {address}"))
    }
}

impl Text for PublishAddress {
    fn parse(text: &str, key: &str, origin: &Origin) -> Result<PublishAddress, String> {
        if text == Ipv4Addr::UNSPECIFIED.to_string() {
            return Ok(PublishAddress(Ipv4Addr::UNSPECIFIED));
        }
        let address = HostAddress::parse(text, key, origin).map(|HostAddress(address)| PublishAddress(address));
        address.map_err(|_| {
            format!("{key} is an IPv4 address of the uplink, or 0.0.0.0 for all of them, not '{}'", text.escape_debug())
        })
    }
}

#[cfg(test)]
string_schema!(PublishAddress);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::Desired;

    fn docker(text: &str) -> Result<Option<Docker>, String> {
        let text = format!("[[bridge.br0.port]]\ntap = 'a'\n{text}");
        Desired::of_text("v.toml", &text, &[]).map(|desired| desired.config.docker).map_err(|problems| problems.to_string())
    }

    #[test]
    fn keys() {
        assert_eq!(docker("").unwrap(), None);
        let usual = docker("[docker]\n").unwrap().unwrap();
        assert_eq!((usual.to_string().as_str(), usual.icc, usual.publish_default), (DOCKER_SOCKET, true, None));
        assert_eq!(usual.engine, Some(ENGINE_SOCKET.into()));
        assert_eq!(docker("[docker]\nsocket = 'none'\n").unwrap(), None);
        let other = docker("[docker]\nsocket = '/s'\nengine = 'none'\nicc = false\npublish-default = '192.0.2.1'\n");
        let expected =
            Docker { socket: "/s".into(), engine: None, icc: false, publish_default: Some(Ipv4Addr::new(192, 0, 2, 1)) };
        assert_eq!(expected.to_string(), "/s, engine none, icc off, publish-default 192.0.2.1");
        assert_eq!(other.unwrap(), Some(expected));
        for (text, say) in [
            ("socket = ''", "socket is empty: name a path, such as /run/docker/plugins/vswitch.sock, or none"),
            ("engine = ''", "engine is empty: name a path, such as /var/run/docker.sock, or none"),
            ("publish-default = '::'", "publish-default is an IPv4 address of the uplink, or 0.0.0.0"),
            ("publish-default = '127.0.0.1'", "publish-default is an IPv4 address of the uplink, or 0.0.0.0"),
            ("publish-default = '224.0.0.1'", "publish-default is an IPv4 address of the uplink, or 0.0.0.0"),
        ] {
            let said = docker(&format!("[docker]\n{text}\n")).unwrap_err();
            assert!(said.contains(say), "{said}");
        }
    }
}
