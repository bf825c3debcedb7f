//! The configuration: what the words mean, checked before anything starts.

mod port;
mod words;

use std::fmt;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;

use thiserror::Error;

use crate::cli::Flags;
pub(crate) use port::PortConfig;
use port::parse_tap;
use words::check_range;
pub(crate) use words::nearest;

/// How many ports a bridge can have.
pub(crate) const MAX_PORTS: usize = 1024;

const MAX_WORKERS: usize = 256;
const AGING_RANGE: RangeInclusive<u32> = 1..=86_400;

/// One bridge and how many threads carry its frames.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) ports: Vec<PortConfig>,
    pub(crate) workers: usize,
    pub(crate) mac_table_size: usize,
    pub(crate) mac_aging_time: u32,
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
