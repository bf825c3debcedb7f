//! `--port stream:` and `--port dgram:`: guests that hold their end of a cable as a socket.

use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use netio::guest::{Address, MAX_PATH_LEN};

use super::{DeviceConfig, DgramConfig, PortConfig, Settings, Slot, StreamConfig};
use crate::config::ConfigError;
use crate::config::words::{parse_number, unknown};

const STREAM_KEYS: [&str; 6] = ["vlan", "trunks", "vlan-mode", "mtu", "mode", "guests"];
const DGRAM_KEYS: [&str; 5] = ["vlan", "trunks", "vlan-mode", "mtu", "remote"];

const MODES: [&str; 2] = ["server", "client"];

/// Guests that a path or port is ready for, if it is not said.
const GUESTS: u16 = 16;
const GUESTS_RANGE: RangeInclusive<u16> = 1..=1000;

/// Of a guest's network card, if it is not said.
const MTU: u32 = 1500;

/// `PATH[:KEY=VALUE...]` or `ADDR:PORT[:KEY=VALUE...]`: a port for each guest that it is ready for, or one where the
/// guest is the one that listens.
pub(super) fn parse_stream(place: &str, text: &str) -> Result<Vec<PortConfig>, ConfigError> {
    let (address, pairs) = split_address(place, text)?;
    let (mut mode, mut guests) = (None, None);
    let settings = Settings::read(place, pairs, &STREAM_KEYS, |key, value| match key {
        "guests" => Ok(guests.replace(parse_number(place, key, value, GUESTS_RANGE)?).is_some()),
        _ if MODES.contains(&value) => Ok(mode.replace(value == "client").is_some()),
        _ => Err(ConfigError::new(place, unknown("mode", value, &MODES))),
    })?;
    let mtu = settings.mtu.unwrap_or(MTU);
    if mode == Some(true) {
        if guests.is_some() {
            let problem = "a client has the one guest that it connects to: leave out guests=, or mode=client";
            return Err(ConfigError::new(place, problem));
        }
        let name = address.to_string();
        let device = DeviceConfig::Stream(StreamConfig { address, mtu, slot: None });
        return settings.port(place, &name, device).map(|port| vec![port]);
    }
    let count = guests.unwrap_or(GUESTS);
    let slot = |number| {
        let slot = Some(Slot { number, count });
        let device = DeviceConfig::Stream(StreamConfig { address: address.clone(), mtu, slot });
        settings.port(place, &format!("{address}#{number}"), device)
    };
    (1..=count).map(slot).collect()
}

/// `PATH[:KEY=VALUE...]`.
pub(super) fn parse_dgram(place: &str, text: &str) -> Result<PortConfig, ConfigError> {
    let mut pairs = text.split(':');
    let path = check_path(place, pairs.next().unwrap_or_default())?;
    let mut remote = None;
    let settings = Settings::read(place, pairs, &DGRAM_KEYS, |_, value| Ok(remote.replace(check_path(place, value)?).is_some()))?;
    if remote.as_ref() == Some(&path) {
        return Err(ConfigError::new(place, "remote= is the guest's own socket, and this is ours: give it another path"));
    }
    let name = path.display().to_string();
    let mtu = settings.mtu.unwrap_or(MTU);
    settings.port(place, &name, DeviceConfig::Dgram(DgramConfig { path, remote, mtu }))
}

/// Where guests are met, and the keys behind it.
fn split_address<'a>(place: &str, text: &'a str) -> Result<(Address, impl Iterator<Item = &'a str>), ConfigError> {
    // The colons of an IPv6 address are between brackets.
    let host_end = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, _)) => host.len() + 2,
        None => text.find(':').unwrap_or(text.len()),
    };
    let (host, rest) = text.split_at(host_end);
    let mut pairs = rest.split(':');
    pairs.next();
    if !host.starts_with('[') && host.parse::<Ipv4Addr>().is_err() {
        let is_port = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !host.contains('/') && pairs.clone().next().is_some_and(is_port) {
            let problem = format!("'{host}' is not an address: write it in numbers, such as 127.0.0.1:5555 or [::1]:5555");
            return Err(ConfigError::new(place, problem));
        }
        return Ok((Address::Unix(check_path(place, host)?), pairs));
    }
    let port = parse_number(place, "a port", pairs.next().unwrap_or_default(), 1..=u16::MAX)?;
    let address: SocketAddr = format!("{host}:{port}")
        .parse()
        .map_err(|_| ConfigError::new(place, format!("'{host}' is not an address, such as 127.0.0.1 or [::1]")))?;
    if address.ip().is_multicast() {
        return Err(ConfigError::new(place, format!("{} is no single host's address", address.ip())));
    }
    Ok((Address::Tcp(address), pairs))
}

/// It is the port's name too.
fn check_path(place: &str, text: &str) -> Result<PathBuf, ConfigError> {
    let problem = if text.is_empty() {
        "there is no path: name the socket, such as /run/vswitchd/guests".to_owned()
    } else if text.len() > MAX_PATH_LEN {
        format!("'{text}' is {} bytes long; a socket's path has at most {MAX_PATH_LEN}", text.len())
    } else if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        format!("'{}' is a port's name too, and has no spaces: choose another path", text.escape_debug())
    } else {
        return Ok(Path::new(text).to_owned());
    };
    Err(ConfigError::new(place, problem))
}
