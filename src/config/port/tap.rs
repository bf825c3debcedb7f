//! `--tap`: a TAP whose user side is ours.

use netio::Netns;
use netio::tap::{Layer, TapSpec};

use super::{DeviceConfig, PortConfig, Settings};
use crate::config::ConfigError;
use crate::config::words::{check_name, unknown};

/// Frames that the kernel keeps for us to read, a queue. Its own default (1000) holds 2 ms of small
/// frames; more only adds delay behind super-frames.
const TX_QUEUE_LEN: u32 = 1000;

const KEYS: [&str; 7] = ["vlan", "trunks", "vlan-mode", "mtu", "offload", "gro", "attach"];

const ATTACHMENTS: [&str; 2] = ["own", "auto"];

/// `NAME[@NETNS][:KEY=VALUE...]`.
pub(in crate::config) fn parse_tap(text: &str) -> Result<PortConfig, ConfigError> {
    let place = format!("--tap {text}");
    let (name, netns, pairs) = split(text);
    check_name(&place, "a TAP", name)?;
    if netns.is_some_and(str::is_empty) {
        return Err(ConfigError::new(place, "no namespace after '@': a name under /run/netns, a path, or pid:N"));
    }
    let mut attach = None;
    let settings = Settings::read(&place, pairs, &KEYS, |_, value| match value {
        "own" | "auto" => Ok(attach.replace(value == "auto").is_some()),
        _ => Err(ConfigError::new(&place, unknown("attach", value, &ATTACHMENTS))),
    })?;
    let attach = attach.unwrap_or(false);
    if attach && netns.is_some() {
        let problem = "attach=auto joins a TAP from its network side, in vswitchd's own namespace only: leave out @NETNS, and \
                       start it there";
        return Err(ConfigError::new(place, problem));
    }
    let spec = spec(name, netns.map(Netns::new), Layer::Ethernet, settings.mtu, settings.offload.unwrap_or(true));
    settings.port(&place, name, DeviceConfig::Tap { spec, attach })
}

/// A device that one worker reads.
pub(super) fn spec(name: &str, netns: Option<Netns>, layer: Layer, mtu: Option<u32>, offload: bool) -> TapSpec {
    TapSpec { name: name.to_owned(), netns, layer, queues: 1, mtu, tx_queue_len: TX_QUEUE_LEN, offload }
}

/// Name, namespace and keys. The colon of `pid:N` is part of the namespace.
fn split(text: &str) -> (&str, Option<&str>, impl Iterator<Item = &str>) {
    let (name, netns, rest) = match text.split_once('@') {
        Some((name, rest)) if !name.contains(':') => {
            let from = if rest.starts_with("pid:") { "pid:".len() } else { 0 };
            let end = rest[from..].find(':').map_or(rest.len(), |at| from + at);
            (name, Some(&rest[..end]), &rest[end..])
        }
        _ => {
            let end = text.find(':').unwrap_or(text.len());
            (&text[..end], None, &text[end..])
        }
    };
    (name, netns, rest.split(':').skip(1))
}
