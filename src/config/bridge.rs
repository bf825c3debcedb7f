//! The bridges: what each is named, and what is said of it.
//!
//! Flags speak of `br0`. Other bridges are in the file alone, in the same words; see [`BridgeWords`]. A bridge's number is its
//! place here: `br0`, if there is one, and behind it the others by their names.

use vswitch::BridgeId;
use vswitch::domain::MAX_BRIDGES;

use super::words::{check_name, check_range, nearest};
use super::{AGING_RANGE, ConfigError};
use crate::cli::{BridgeWords, Flags};

/// The one that flags speak of.
pub(crate) const BRIDGE: &str = "br0";

/// What holds if it is not said, as `--help` has it.
const MAC_TABLE_SIZE: usize = 8192;
const MAC_AGING_TIME: u32 = 300;

/// One bridge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct BridgeConfig {
    pub(crate) name: String,
    /// In entries.
    pub(crate) mac_table_size: usize,
    /// In seconds.
    pub(crate) mac_aging_time: u32,
}

/// The words of all bridges, by their numbers.
pub(super) fn words_of(flags: &Flags) -> Vec<BridgeWords> {
    let first = BridgeWords {
        name: BRIDGE.to_owned(),
        tap: flags.tap.clone(),
        port: flags.port.clone(),
        gateway: flags.gateway.clone(),
        vxlan: flags.vxlan.clone(),
        udp: flags.udp.clone(),
        mac_table_size: flags.mac_table_size,
        mac_aging_time: flags.mac_aging_time,
    };
    let is_there = flags.bridges.is_empty() || flags.bridges.iter().any(|bridge| bridge.name == BRIDGE) || !first.is_empty();
    let others = flags.bridges.iter().filter(|bridge| bridge.name != BRIDGE).cloned();
    is_there.then_some(first).into_iter().chain(others).collect()
}

/// The bridges by their numbers.
pub(super) fn parse_bridges(words: &[BridgeWords]) -> Result<Vec<BridgeConfig>, ConfigError> {
    if let Some(bridge) = words.get(MAX_BRIDGES) {
        let problem = format!("{} bridges, but there are at most {MAX_BRIDGES}", words.len());
        return Err(ConfigError::new(place_of(&bridge.name), problem));
    }
    words.iter().map(parse_bridge).collect()
}

fn parse_bridge(words: &BridgeWords) -> Result<BridgeConfig, ConfigError> {
    check_name(&place_of(&words.name), "a bridge", &words.name)?;
    let mac_table_size = words.mac_table_size.unwrap_or(MAC_TABLE_SIZE);
    check_range(&place_of_key(&words.name, "mac-table-size"), mac_table_size, vswitch::mac_table::SIZE_RANGE)?;
    let mac_aging_time = words.mac_aging_time.unwrap_or(MAC_AGING_TIME);
    check_range(&place_of_key(&words.name, "mac-aging-time"), mac_aging_time, AGING_RANGE)?;
    Ok(BridgeConfig { name: words.name.clone(), mac_table_size, mac_aging_time })
}

/// As errors name a bridge, until the file's line is found.
pub(super) fn place_of(name: &str) -> String {
    format!("--bridge {name}")
}

/// As errors name one of its keys: by the flag, if it has one.
pub(super) fn place_of_key(name: &str, key: &str) -> String {
    if name == BRIDGE { format!("--{key}") } else { format!("{} {key}", place_of(name)) }
}

/// The number of a bridge by its name.
pub(super) fn find(words: &[BridgeWords], name: &str) -> Option<BridgeId> {
    words.iter().position(|bridge| bridge.name == name).map(|at| BridgeId(at as u8))
}

/// "there is no bridge 'br1': did you mean 'br0'?"
pub(crate) fn unknown_bridge<'a>(name: &str, known: impl Iterator<Item = &'a str> + Clone) -> String {
    let name = name.escape_debug();
    match nearest(&name.to_string(), known.clone()) {
        Some(close) => format!("there is no bridge '{name}': did you mean '{close}'?"),
        None => format!("there is no bridge '{name}'; there are {}", known.collect::<Vec<_>>().join(", ")),
    }
}
