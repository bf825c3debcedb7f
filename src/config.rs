//! The configuration: what the words mean, checked before anything starts.

use std::fmt;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;

use netio::Netns;
use netio::tap::{MAX_NAME_LEN, TapSpec};
use packet::vlan::VlanId;
use thiserror::Error;
use vswitch::{PortVlan, VlanMode, VlanSet};

use crate::cli::Flags;

/// Frames that the kernel keeps for us to read, a queue. Its own default (1000) holds 2 ms of small
/// frames; more only adds delay behind super-frames.
const TX_QUEUE_LEN: u32 = 1000;

/// From the least that IPv4 allows (RFC 791) to the most that a TAP allows.
const MTU_RANGE: RangeInclusive<u32> = 68..=65_521;

/// How many ports a bridge can have.
pub(crate) const MAX_PORTS: usize = 1024;

const MAX_WORKERS: usize = 256;
const AGING_RANGE: RangeInclusive<u32> = 1..=86_400;
const KEYS: [&str; 6] = ["vlan", "trunks", "vlan-mode", "mtu", "offload", "gro"];
const MODES: [(&str, VlanMode); 4] = [
    ("access", VlanMode::Access),
    ("trunk", VlanMode::Trunk),
    ("native-tagged", VlanMode::NativeTagged),
    ("native-untagged", VlanMode::NativeUntagged),
];

/// One bridge and how many threads carry its frames.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) ports: Vec<PortConfig>,
    pub(crate) workers: usize,
    pub(crate) mac_table_size: usize,
    pub(crate) mac_aging_time: u32,
}

/// One port.
#[derive(Debug)]
pub(crate) struct PortConfig {
    pub(crate) tap: TapSpec,
    pub(crate) vlan: PortVlan,
    /// The VLAN setting in words.
    pub(crate) vlan_text: String,
    pub(crate) coalesce: bool,
}

/// A configuration that cannot be, and the fix.
#[derive(Debug, Error)]
#[error("{place}: {problem}")]
pub(crate) struct ConfigError {
    place: String,
    problem: String,
}

impl ConfigError {
    fn new(place: impl fmt::Display, problem: impl Into<String>) -> ConfigError {
        ConfigError { place: place.to_string(), problem: problem.into() }
    }
}

impl Config {
    /// From the command line alone.
    pub(crate) fn from_flags(flags: &Flags) -> Result<Config, ConfigError> {
        let mut ports = Vec::new();
        for text in flags.tap.iter().flat_map(|list| list.split(',')) {
            ports.push(parse_tap(text)?);
        }
        if ports.is_empty() {
            return Err(ConfigError::new("--tap", "a switch needs a port: name at least one, such as --tap tap0,tap1"));
        }
        if ports.len() > MAX_PORTS {
            return Err(ConfigError::new("--tap", format!("{} ports, but a bridge has at most {MAX_PORTS}", ports.len())));
        }
        for (at, port) in ports.iter().enumerate() {
            if ports[..at].iter().any(|other| other.tap.name == port.tap.name && other.tap.netns == port.tap.netns) {
                return Err(ConfigError::new("--tap", format!("{} is named twice", port.tap.name)));
            }
        }
        let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let workers = flags.workers.unwrap_or(cores.min(ports.len()));
        check_range("--workers", workers, 1..=MAX_WORKERS)?;
        check_range("--mac-table-size", flags.mac_table_size, vswitch::mac_table::SIZE_RANGE)?;
        check_range("--mac-aging-time", flags.mac_aging_time, AGING_RANGE)?;
        share_queues(&mut ports, workers);
        Ok(Config { ports, workers, mac_table_size: flags.mac_table_size, mac_aging_time: flags.mac_aging_time })
    }
}

/// Each worker reads one queue of one port in turn; only where there are more workers than ports is
/// a port read by several, each with a queue of its own.
fn share_queues(ports: &mut [PortConfig], workers: usize) {
    let count = ports.len();
    for (index, port) in ports.iter_mut().enumerate() {
        port.tap.queues = workers.saturating_sub(index).div_ceil(count).max(1);
    }
}

/// `NAME[@NETNS][:KEY=VALUE...]`.
fn parse_tap(text: &str) -> Result<PortConfig, ConfigError> {
    let place = format!("--tap {text}");
    let (name, netns, keys) = split_tap(text);
    check_name(&place, name)?;
    if netns.is_some_and(str::is_empty) {
        return Err(ConfigError::new(place, "no namespace after '@': a name under /run/netns, a path, or pid:N"));
    }
    let mut settings = Settings::default();
    for pair in keys {
        settings.read(&place, pair)?;
    }
    let (vlan, vlan_text) = settings.vlan(&place)?;
    Ok(PortConfig {
        tap: TapSpec {
            name: name.to_owned(),
            netns: netns.map(Netns::new),
            queues: 1,
            mtu: settings.mtu,
            tx_queue_len: TX_QUEUE_LEN,
            offload: settings.offload.unwrap_or(true),
        },
        vlan,
        vlan_text,
        coalesce: settings.gro.unwrap_or(true),
    })
}

/// Name, namespace and keys. The colon of `pid:N` is part of the namespace.
fn split_tap(text: &str) -> (&str, Option<&str>, impl Iterator<Item = &str>) {
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

/// What the kernel takes for an interface's name (`dev_valid_name`).
fn check_name(place: &str, name: &str) -> Result<(), ConfigError> {
    if name.is_empty() {
        return Err(ConfigError::new(place, "a TAP needs a name"));
    }
    if name.len() > MAX_NAME_LEN {
        let problem = format!("'{name}' is {} bytes long; the kernel takes at most {MAX_NAME_LEN}", name.len());
        return Err(ConfigError::new(place, problem));
    }
    if name == "." || name == ".." || name.contains(|c: char| c == '/' || c == '%' || c.is_whitespace() || c.is_control()) {
        return Err(ConfigError::new(place, format!("'{}' cannot be an interface's name", name.escape_debug())));
    }
    Ok(())
}

/// The keys of one port as they were given.
#[derive(Debug, Default)]
struct Settings {
    vlan: Option<VlanId>,
    trunks: Option<Vec<VlanId>>,
    mode: Option<VlanMode>,
    mtu: Option<u32>,
    offload: Option<bool>,
    gro: Option<bool>,
}

impl Settings {
    fn read(&mut self, place: &str, pair: &str) -> Result<(), ConfigError> {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(ConfigError::new(place, format!("'{pair}' is not KEY=VALUE")));
        };
        let twice = match key {
            "vlan" => self.vlan.replace(parse_vlan(place, value, 1..=4094)?).is_some(),
            "trunks" => {
                let trunks: Result<_, _> = value.split('+').map(|vlan| parse_vlan(place, vlan, 0..=4094)).collect();
                self.trunks.replace(trunks?).is_some()
            }
            "vlan-mode" => self.mode.replace(parse_mode(place, value)?).is_some(),
            "mtu" => self.mtu.replace(parse_number(place, key, value, MTU_RANGE)?).is_some(),
            "offload" => self.offload.replace(parse_switch(place, key, value)?).is_some(),
            "gro" => self.gro.replace(parse_switch(place, key, value)?).is_some(),
            _ => return Err(ConfigError::new(place, unknown("key", key, &KEYS))),
        };
        if twice { Err(ConfigError::new(place, format!("'{key}' is given twice"))) } else { Ok(()) }
    }

    /// Open vSwitch's rules: a VLAN alone makes an access port, nothing or trunks alone a trunk.
    fn vlan(&self, place: &str) -> Result<(PortVlan, String), ConfigError> {
        let mode = self.mode.unwrap_or(if self.vlan.is_some() { VlanMode::Access } else { VlanMode::Trunk });
        let trunks = self.trunks.as_ref().map_or_else(VlanSet::all, |trunks| trunks.iter().copied().collect());
        let listed = match &self.trunks {
            Some(trunks) => trunks.iter().map(ToString::to_string).collect::<Vec<_>>().join("+"),
            None => "all".to_owned(),
        };
        match (mode, self.vlan) {
            (VlanMode::Access, Some(_)) if self.trunks.is_some() => Err(ConfigError::new(
                place,
                "an access port has no trunks: leave out trunks=, or add vlan-mode=native-tagged or native-untagged",
            )),
            (VlanMode::Access, Some(vlan)) => Ok((PortVlan::access(vlan), format!("access VLAN {vlan}"))),
            (VlanMode::Trunk, None) if self.trunks.is_none() => Ok((PortVlan::trunk(trunks), "all VLANs".to_owned())),
            (VlanMode::Trunk, None) => Ok((PortVlan::trunk(trunks), format!("trunk VLANs {listed}"))),
            (VlanMode::Trunk, Some(_)) => Err(ConfigError::new(
                place,
                "a trunk has no VLAN of its own: leave out vlan=, or use vlan-mode=native-tagged or native-untagged",
            )),
            (VlanMode::NativeTagged, Some(vlan)) => {
                Ok((PortVlan::native_tagged(vlan, trunks), format!("native VLAN {vlan} tagged, trunk VLANs {listed}")))
            }
            (VlanMode::NativeUntagged, Some(vlan)) => {
                Ok((PortVlan::native_untagged(vlan, trunks), format!("native VLAN {vlan} untagged, trunk VLANs {listed}")))
            }
            (_, None) => Err(ConfigError::new(place, "this vlan-mode needs a VLAN: add vlan=10 or whichever it is")),
        }
    }
}

fn parse_vlan(place: &str, text: &str, range: RangeInclusive<u16>) -> Result<VlanId, ConfigError> {
    let number = parse_number(place, "VLAN", text, range)?;
    VlanId::new(number).ok_or_else(|| ConfigError::new(place, format!("no VLAN {number}")))
}

fn parse_mode(place: &str, text: &str) -> Result<VlanMode, ConfigError> {
    let known = MODES.iter().find(|(name, _)| *name == text);
    known.map(|(_, mode)| *mode).ok_or_else(|| ConfigError::new(place, unknown("vlan-mode", text, &MODES.map(|(name, _)| name))))
}

fn parse_switch(place: &str, key: &str, text: &str) -> Result<bool, ConfigError> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(ConfigError::new(place, format!("{key} is on or off, not '{text}'"))),
    }
}

fn parse_number<T>(place: &str, what: &str, text: &str, range: RangeInclusive<T>) -> Result<T, ConfigError>
where
    T: std::str::FromStr + PartialOrd + fmt::Display + Copy,
{
    match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(ConfigError::new(place, format!("{what} is a number from {} to {}, not '{text}'", range.start(), range.end()))),
    }
}

fn check_range<T: PartialOrd + fmt::Display>(flag: &str, value: T, range: RangeInclusive<T>) -> Result<(), ConfigError> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(ConfigError::new(flag, format!("{value} is out of range: {} to {}", range.start(), range.end())))
}

/// "unknown key 'vlna': did you mean 'vlan'?"
fn unknown(what: &str, text: &str, known: &[&str]) -> String {
    match nearest(text, known.iter().copied()) {
        Some(close) => format!("unknown {what} '{text}': did you mean '{close}'?"),
        None => format!("unknown {what} '{text}'; there are {}", known.join(", ")),
    }
}

/// The word that was probably meant.
pub(crate) fn nearest<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
        .map(|word| (strsim::damerau_levenshtein(text, word), word))
        .min()
        .filter(|(distance, word)| *distance <= 2 && *distance < word.len())
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(taps: &[&str]) -> Result<Config, String> {
        let flags = Flags {
            tap: taps.iter().map(ToString::to_string).collect(),
            workers: Some(2),
            mac_table_size: 8192,
            mac_aging_time: 300,
            check: false,
        };
        Config::from_flags(&flags).map_err(|error| error.to_string())
    }

    #[test]
    fn ports_namespaces_and_keys() {
        let config =
            config(&["tap0,tap1@blue:vlan=10", "t@pid:7:trunks=10+20:mtu=9000:gro=off", "u@/proc/1/ns/net:offload=off"]).unwrap();
        let netns = |at: usize| config.ports[at].tap.netns.clone().map(|netns| netns.to_string());
        assert_eq!(config.ports.iter().map(|port| port.tap.name.as_str()).collect::<Vec<_>>(), ["tap0", "tap1", "t", "u"]);
        assert_eq!((netns(0), netns(1), netns(2)), (None, Some("blue".into()), Some("pid:7".into())));
        assert_eq!(netns(3), Some("/proc/1/ns/net".into()));
        assert_eq!(config.ports[1].vlan_text, "access VLAN 10");
        assert_eq!((config.ports[2].vlan_text.as_str(), config.ports[2].tap.mtu), ("trunk VLANs 10+20", Some(9000)));
        assert!(!config.ports[2].coalesce && !config.ports[3].tap.offload);
    }

    #[test]
    fn queues_follow_workers() {
        let queues = |ports: usize, workers| {
            let mut ports: Vec<PortConfig> = (0..ports).map(|n| parse_tap(&format!("tap{n}")).unwrap()).collect();
            share_queues(&mut ports, workers);
            ports.iter().map(|port| port.tap.queues).collect::<Vec<_>>()
        };
        assert_eq!(queues(3, 2), [1, 1, 1]);
        assert_eq!(queues(2, 2), [1, 1]);
        assert_eq!(queues(2, 5), [3, 2]);
        assert_eq!(queues(1, 4), [4]);
    }

    #[test]
    fn bad_input_is_answered_with_the_fix() {
        for (tap, say) in [
            ("tap0:vlna=10", "--tap tap0:vlna=10: unknown key 'vlna': did you mean 'vlan'?"),
            ("tap0:vlan=4095", "VLAN is a number from 1 to 4094, not '4095'"),
            ("tap0:vlan=10:trunks=20", "an access port has no trunks"),
            ("tap0:vlan-mode=native", "unknown vlan-mode 'native'; there are access, trunk"),
            ("tap0:vlan-mode=native-tagged", "needs a VLAN"),
            ("tap0:vlan-mode=trunk:vlan=10", "a trunk has no VLAN of its own"),
            ("tap0:vlan=10:vlan=11", "'vlan' is given twice"),
            ("tap0:mtu=67", "mtu is a number from 68 to 65521, not '67'"),
            ("tap0:gro=yes", "gro is on or off, not 'yes'"),
            ("tap0:vlan", "'vlan' is not KEY=VALUE"),
            ("tap0,tap0", "tap0 is named twice"),
            ("tap0,,tap1", "a TAP needs a name"),
            ("tap0@", "no namespace after '@'"),
            ("averyveryverylongname", "'averyveryverylongname' is 21 bytes long; the kernel takes at most 15"),
            ("a b", "'a b' cannot be an interface's name"),
        ] {
            let said = config(&[tap]).expect_err(tap);
            assert!(said.contains(say), "{tap}: {said}");
        }
        assert!(config(&[]).unwrap_err().contains("name at least one"));
    }
}
