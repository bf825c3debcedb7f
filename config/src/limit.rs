//! Storm control of a port: `limit = { broadcast = 1000, .. }`, `limit-broadcast=1000`.
//!
//! A file has one table with three keys; a flag has a key for each of them, with the table's name before it.

use std::fmt::Write as _;

use crate::keys::{Keys, keys, read_table};
use crate::problem::{At, Problems};
use crate::raw::{Entry, Raw, RawValue};
use crate::value::Value;

/// Maximum rates of the frames of a port that are flooded, in frames per second; `None` is no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Frames to all stations.
    pub broadcast: Option<u32>,
    /// Frames to other group addresses.
    pub multicast: Option<u32>,
    /// Frames to stations that the switch does not know.
    pub unknown: Option<u32>,
}

impl Default for Limits {
    /// More than an honest guest sends: hundreds of ARP requests per second, and a video of 50 Mb/s to a group.
    fn default() -> Limits {
        Limits { broadcast: Some(1000), multicast: Some(10_000), unknown: Some(10_000) }
    }
}

impl Limits {
    /// No limits.
    pub const NONE: Limits = Limits { broadcast: None, multicast: None, unknown: None };

    /// The limits that are not the defaults: `, broadcast 500/s, unknown unlimited`.
    #[must_use]
    pub fn keys_text(self) -> String {
        let usual = Limits::default();
        let all = [
            ("broadcast", self.broadcast, usual.broadcast),
            ("multicast", self.multicast, usual.multicast),
            ("unknown unicast", self.unknown, usual.unknown),
        ];
        let mut text = String::new();
        for (class, rate, usual) in all {
            // Writing to a string cannot fail.
            let _ = match rate {
                _ if rate == usual => Ok(()),
                Some(rate) => write!(text, ", {class} {rate}/s"),
                None => write!(text, ", {class} unlimited"),
            };
        }
        text
    }
}

/// A rate in frames per second, or `off`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Rate(Option<u32>);

/// Largest rate, in frames per second.
const MAX_RATE: u32 = 10_000_000;

impl Value for Rate {
    fn read(raw: &Raw, key: &str, problems: &mut Problems) -> Option<Rate> {
        let number = match &raw.value {
            RawValue::Word(text) | RawValue::Text(text) if text == "off" => return Some(Rate(None)),
            RawValue::Word(text) => text.parse().ok(),
            RawValue::Number(number) => u32::try_from(*number).ok(),
            _ => None,
        };
        let Some(rate) = number.filter(|number| *number <= MAX_RATE) else {
            let off = raw.origin.say("\"off\"", "off");
            problems.add(&raw.origin, raw.is_not(key, &format!("frames per second, 0 to {MAX_RATE}, or {off} for no limit")));
            return None;
        };
        Some(Rate(Some(rate)))
    }
}

keys! {
    /// Maximum rates of the frames of a port that are flooded. 0 drops all of them; "off" is no limit.
    struct LimitTable {
        /// Broadcast frames per second, 0 to 10,000,000, or "off". Default: 1000.
        "broadcast" => broadcast: Rate,
        /// Multicast frames per second, 0 to 10,000,000, or "off". Default: 10000.
        "multicast" => multicast: Rate,
        /// Frames per second to stations that the switch does not know, 0 to 10,000,000, or "off". Default: 10000.
        "unknown" => unknown: Rate,
    }
}

/// The keys of storm control among those of a port.
#[derive(Clone, PartialEq, Debug, Default)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
pub(crate) struct LimitKeys {
    /// Storm control: maximum rates of the frames that are flooded.
    pub(crate) limit: Option<At<LimitTable>>,
    #[cfg_attr(test, schemars(skip))]
    pub(crate) is_faulty: bool,
}

const IN_FLAG: [(&str, &str); 3] =
    [("limit-broadcast", "broadcast"), ("limit-multicast", "multicast"), ("limit-unknown", "unknown")];

impl Keys for LimitKeys {
    fn names(in_file: bool) -> Vec<&'static str> {
        if in_file { vec!["limit"] } else { IN_FLAG.iter().map(|(name, _)| *name).collect() }
    }

    fn set(&mut self, entry: &Entry, problems: &mut Problems) -> bool {
        let origin = &entry.raw.origin;
        if origin.is_file() {
            if entry.key != "limit" {
                return false;
            }
            let table: Option<LimitTable> = read_table(&entry.raw, "limit", problems);
            self.is_faulty |= table.as_ref().is_none_or(|table| table.is_faulty);
            self.limit = table.map(|table| At::new(table, origin));
            return true;
        }
        let Some((_, key)) = IN_FLAG.iter().find(|(name, _)| *name == entry.key) else { return false };
        let table = &mut self.limit.get_or_insert_with(|| At::new(LimitTable::default(), origin)).value;
        let slot = match *key {
            "broadcast" => &mut table.broadcast,
            "multicast" => &mut table.multicast,
            _ => &mut table.unknown,
        };
        self.is_faulty |= !crate::keys::set_once(slot, entry, problems);
        true
    }

    fn clear(&mut self, key: &str) -> bool {
        let Some((_, key)) = IN_FLAG.iter().find(|(name, _)| *name == key) else { return false };
        if let Some(table) = &mut self.limit {
            table.value.clear(key);
        }
        self.limit.take_if(|table| table.value.entries().is_empty());
        true
    }

    fn entries(&self) -> Vec<(String, RawValue)> {
        self.limit.as_ref().and_then(crate::written::of).map(|table| ("limit".to_owned(), table)).into_iter().collect()
    }

    fn mark_faulty(&mut self) {
        self.is_faulty = true;
    }
}

impl LimitKeys {
    /// The limits, with defaults for the keys that are left out.
    pub(crate) fn limits(&self) -> Limits {
        let Some(At { value: LimitTable { broadcast, multicast, unknown, .. }, .. }) = &self.limit else {
            return Limits::default();
        };
        let usual = Limits::default();
        let rate = |key: &Option<At<Rate>>, usual| key.as_ref().map_or(usual, |rate| rate.value.0);
        Limits {
            broadcast: rate(broadcast, usual.broadcast),
            multicast: rate(multicast, usual.multicast),
            unknown: rate(unknown, usual.unknown),
        }
    }
}

#[cfg(test)]
impl schemars::JsonSchema for Rate {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Rate".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "anyOf": [{ "type": "integer", "minimum": 0, "maximum": MAX_RATE }, { "type": "string", "enum": ["off"] }]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_said() {
        assert_eq!(Limits::default().keys_text(), "");
        let limits = Limits { broadcast: Some(500), unknown: None, ..Limits::default() };
        assert_eq!(limits.keys_text(), ", broadcast 500/s, unknown unicast unlimited");
        assert_eq!(Limits { multicast: Some(0), ..Limits::default() }.keys_text(), ", multicast 0/s");
    }
}
