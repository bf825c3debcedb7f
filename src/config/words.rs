//! Words to values: what each word may be, and what is said where it is something else.

use std::fmt;
use std::ops::RangeInclusive;

use netio::tap::MAX_NAME_LEN;
use packet::vlan::VlanId;

use super::ConfigError;

/// What the kernel takes for an interface's name (`dev_valid_name`).
pub(super) fn check_name(place: &str, what: &str, name: &str) -> Result<(), ConfigError> {
    if name.is_empty() {
        return Err(ConfigError::new(place, format!("{what} needs a name")));
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

/// `KEY=VALUE`.
pub(super) fn split_pair<'a>(place: &str, pair: &'a str) -> Result<(&'a str, &'a str), ConfigError> {
    pair.split_once('=').ok_or_else(|| ConfigError::new(place, format!("'{pair}' is not KEY=VALUE")))
}

/// A second value would silently win over the first.
pub(super) fn check_once(place: &str, key: &str, twice: bool) -> Result<(), ConfigError> {
    if twice { Err(ConfigError::new(place, format!("'{key}' is given twice"))) } else { Ok(()) }
}

pub(super) fn parse_vlan(place: &str, text: &str, range: RangeInclusive<u16>) -> Result<VlanId, ConfigError> {
    let number = parse_number(place, "VLAN", text, range)?;
    VlanId::new(number).ok_or_else(|| ConfigError::new(place, format!("no VLAN {number}")))
}

/// `PORT` or `PORT-PORT`.
pub(super) fn parse_ports(place: &str, text: &str) -> Result<RangeInclusive<u16>, ConfigError> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text| parse_number(place, "a port", text, 1..=u16::MAX);
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(ConfigError::new(place, format!("{first}-{last} ends before it begins: write {last}-{first}")));
    }
    Ok(first..=last)
}

pub(super) fn parse_switch(place: &str, key: &str, text: &str) -> Result<bool, ConfigError> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(ConfigError::new(place, format!("{key} is on or off, not '{text}'"))),
    }
}

pub(super) fn parse_number<T>(place: &str, what: &str, text: &str, range: RangeInclusive<T>) -> Result<T, ConfigError>
where
    T: std::str::FromStr + PartialOrd + fmt::Display + Copy,
{
    match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(ConfigError::new(place, format!("{what} is a number from {} to {}, not '{text}'", range.start(), range.end()))),
    }
}

pub(super) fn check_range<T: PartialOrd + fmt::Display>(
    flag: &str,
    value: T,
    range: RangeInclusive<T>,
) -> Result<(), ConfigError> {
    if range.contains(&value) {
        return Ok(());
    }
    Err(ConfigError::new(flag, format!("{value} is out of range: {} to {}", range.start(), range.end())))
}

/// "unknown key 'vlna': did you mean 'vlan'?"
pub(super) fn unknown(what: &str, text: &str, known: &[&str]) -> String {
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
        .filter(|(distance, word)| *distance <= 2 && *distance <= word.len() / 2)
        .map(|(_, word)| word)
}
