//! What the station behind a port has and may do: `mac`, `addresses`, `guard`, `isolated`.
//!
//! `guard=ADDR+ADDR` is short for `addresses=ADDR+ADDR:guard=on`. A port with an id is guarded unless its keys say otherwise: who
//! gives it an id makes it for somebody else.

use std::fmt::Write as _;
use std::net::IpAddr;

use packet::{MacAddr, Prefix};

use crate::keys::keys;
use crate::problem::{At, Origin, Problems};
use crate::raw::{Raw, RawValue};
#[cfg(test)]
use crate::value::string_schema;
use crate::value::{List, Text, Value};
use crate::written;

/// Maximum number of addresses of a port.
const MAX_ADDRESSES: usize = 256;

/// Maximum number of networks behind a station that are shown.
const SHOWN_BEHIND: usize = 4;

/// The station behind a port, as far as the configuration knows it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Station {
    /// Its MAC address; a TAP that the switch makes gets it.
    pub mac: Option<MacAddr>,
    /// Its addresses, and the networks behind it.
    pub addresses: Vec<Prefix>,
    /// What static routes lead to by the station: it may send from there, too.
    pub behind: Vec<Prefix>,
    /// Whether frames that claim other addresses are dropped.
    pub guard: bool,
    /// Whether it reaches only ports that are not isolated.
    pub isolated: bool,
}

/// The MAC address of one station.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mac(pub(crate) MacAddr);

/// An address of a station, or a network behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct StationAddress(Prefix);

/// Whether a port is guarded, or the addresses for which it is.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Guarded {
    Switch(bool),
    For(List<StationAddress>),
}

keys! {
    /// The keys of a port about its station.
    struct StationKeys {
        /// The MAC address of the station; a TAP that the switch makes gets it. Default: the TAP's.
        "mac" => mac: Mac,
        /// The addresses of the station, and networks behind it.
        "addresses" => addresses: List<StationAddress>,
        /// Whether frames that claim other addresses than these are dropped, and those of DHCP servers and routers; or a list of
        /// addresses. Default: true for a port with an id.
        "guard" => guard: Guarded,
        /// The station reaches only ports that are not isolated, the gateway, and a bridged uplink. Default: that of the bridge.
        "isolated" => isolated: bool,
    }
}

impl Station {
    /// The keys in words: `, mac 52:54:00:00:00:01, addresses 10.0.0.5, guarded, isolated`.
    pub(crate) fn keys_text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        if let Some(mac) = self.mac {
            let _ = write!(text, ", mac {mac}");
        }
        if !self.addresses.is_empty() {
            let addresses: Vec<String> = self.addresses.iter().map(|prefix| shown(*prefix)).collect();
            let _ = write!(text, ", addresses {}", addresses.join("+"));
        }
        text += &behind_text(&self.behind);
        text += if self.guard { ", guarded" } else { "" };
        text + if self.isolated { ", isolated" } else { "" }
    }
}

/// `, and what is behind: 10.9.0.0/16+10.10.0.0/16 and 3 more`; empty if nothing is.
fn behind_text(behind: &[Prefix]) -> String {
    if behind.is_empty() {
        return String::new();
    }
    let networks: Vec<String> = behind.iter().take(SHOWN_BEHIND).map(Prefix::to_string).collect();
    let more = match behind.len().saturating_sub(SHOWN_BEHIND) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(", behind it {}{more}", networks.join("+"))
}

/// An address alone, or a network with its prefix length.
#[must_use]
pub fn shown(prefix: Prefix) -> String {
    let full = if prefix.network().is_ipv4() { 32 } else { 128 };
    if prefix.prefix_len() == full { prefix.network().to_string() } else { prefix.to_string() }
}

impl StationKeys {
    /// Of two ways to say which addresses the station has, the one of this key holds.
    pub(crate) fn keep_last(&mut self, key: &str) {
        let Some(At { value: guard @ Guarded::For(_), .. }) = &mut self.guard else { return };
        match key {
            "guard" => self.addresses = None,
            "addresses" => *guard = Guarded::Switch(true),
            _ => {}
        }
    }

    /// What the keys mean together. `guards` is whether the port is guarded if no key says so, and `has_mac` whether its device tells the
    /// station's MAC address.
    pub(crate) fn station(&self, guards: bool, has_mac: bool, problems: &mut Problems) -> Option<Station> {
        let short = self.guard.as_ref().and_then(|guard| match &guard.value {
            Guarded::For(list) => Some((&guard.origin, list)),
            Guarded::Switch(_) => None,
        });
        if let (Some((origin, _)), Some(_)) = (short, &self.addresses) {
            problems.add(origin, "guard and addresses both name addresses: name them in addresses, and set guard to on or off");
            return None;
        }
        let list = short.map(|(_, list)| list).or(self.addresses.as_ref().map(|addresses| &addresses.value));
        let addresses: Vec<Prefix> = list.iter().flat_map(|list| &list.0).map(|address| address.value.0).collect();
        if let (Some(list), true) = (list, addresses.len() > MAX_ADDRESSES) {
            let at = list.0.first().map_or(Origin::Default, |first| first.origin.clone());
            problems.add(&at, format!("{} addresses, and there is room for {MAX_ADDRESSES}: name networks", addresses.len()));
            return None;
        }
        let mac = self.mac.as_ref().map(|mac| mac.value.0);
        let guard = self.guard.as_ref().map(|guard| !matches!(guard.value, Guarded::Switch(false)));
        if let (Some(true), Some(written)) = (guard, &self.guard)
            && mac.is_none()
            && addresses.is_empty()
            && !has_mac
        {
            let problem = "what is its station to be guarded for? Only a TAP that the switch makes tells its MAC address: add mac or \
                           addresses";
            problems.add(&written.origin, problem);
            return None;
        }
        let isolated = self.isolated.as_ref().is_some_and(|isolated| isolated.value);
        Some(Station { mac, addresses, behind: Vec::new(), guard: guard.unwrap_or(guards), isolated })
    }
}

impl Text for Mac {
    fn parse(text: &str, key: &str, _: &Origin) -> Result<Mac, String> {
        let mac = text.parse().ok().filter(|mac: &MacAddr| mac.is_station());
        mac.map(Mac).ok_or_else(|| {
            format!("{key} is the MAC address of one station, such as 52:54:00:12:34:56, not '{}'", text.escape_debug())
        })
    }
}

impl Text for StationAddress {
    fn parse(text: &str, _: &str, _: &Origin) -> Result<StationAddress, String> {
        let shown = text.escape_debug();
        let not_one = || format!("'{shown}' is not an address such as 10.0.0.5 or fd00::5, nor a network such as 10.9.0.0/16");
        let (address, len) = text.split_once('/').map_or((text, None), |(address, len)| (address, Some(len)));
        let address: IpAddr = address.parse().map_err(|_| not_one())?;
        let full = if address.is_ipv4() { 32 } else { 128 };
        let len = match len {
            None => full,
            Some(len) => len.parse::<u8>().ok().filter(|len| (1..=full).contains(len)).ok_or_else(not_one)?,
        };
        let prefix = Prefix::new(address, len);
        if prefix.network() != address {
            return Err(format!(
                "'{shown}' is an address with its network: write {address} for the station, or {prefix} for all of it"
            ));
        }
        if address.is_unspecified() || address.is_multicast() || address == IpAddr::from([255; 4]) {
            return Err(format!("'{shown}' is not the address of a station"));
        }
        Ok(StationAddress(prefix))
    }
}

impl Value for Guarded {
    fn read(raw: &Raw, key: &str, problems: &mut Problems) -> Option<Guarded> {
        match &raw.value {
            RawValue::Switch(_) => bool::read(raw, key, problems).map(Guarded::Switch),
            RawValue::Word(text) if text == "on" || text == "off" => bool::read(raw, key, problems).map(Guarded::Switch),
            RawValue::Word(_) | RawValue::List(_) => List::read(raw, key, problems).map(Guarded::For),
            _ => {
                problems.add(&raw.origin, raw.is_not(key, "true, false, or a list of addresses in square brackets"));
                None
            }
        }
    }

    fn in_file(&self, _: Option<&RawValue>) -> Option<RawValue> {
        match self {
            Guarded::Switch(is_on) => Some(RawValue::Switch(*is_on)),
            Guarded::For(list) => Some(written::list(list.0.iter().filter_map(written::of))),
        }
    }
}

#[cfg(test)]
string_schema!(Mac, StationAddress);

#[cfg(test)]
impl schemars::JsonSchema for Guarded {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Guarded".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "anyOf": [{ "type": "boolean" }, { "type": "array", "items": { "type": "string" }, "minItems": 1 }]
        })
    }
}

#[cfg(test)]
mod tests {
    use crate::desired::Desired;
    use crate::flags::Flag;

    fn text_of(word: &str) -> Result<String, String> {
        let flag = if word.starts_with("packet") { "--port" } else { "--tap" };
        let desired = Desired::of_flags(&[Flag::new(flag, word)]).map_err(|problems| problems.to_string())?;
        assert!(Desired::of_text("v.toml", &desired.to_toml(), &[]).unwrap().plan_to_itself(&desired), "{}", desired.to_toml());
        Ok(desired.config.ports[0].keys_text())
    }

    #[test]
    fn what_a_station_has() {
        for (word, text) in [
            ("a:guard=on", "all VLANs, guarded"),
            ("a:id=web", "all VLANs, guarded, id web"),
            ("a:id=web:guard=off", "all VLANs, id web"),
            ("packet:a:id=web", "all VLANs, guarded, id web"),
            (
                "a:mac=52:54:00:00:00:01:addresses=10.0.0.5+fd00::5:guard=on",
                "all VLANs, mac 52:54:00:00:00:01, addresses 10.0.0.5+fd00::5, guarded",
            ),
            ("a:addresses=fd00::5", "all VLANs, addresses fd00::5"),
            ("a:guard=10.0.0.5+10.9.0.0/16", "all VLANs, addresses 10.0.0.5+10.9.0.0/16, guarded"),
            ("packet:a:guard=10.0.0.5", "all VLANs, addresses 10.0.0.5, guarded"),
            ("a:isolated=on", "all VLANs, isolated"),
        ] {
            assert_eq!(text_of(word).unwrap(), text, "{word}");
        }
        for (word, say) in [
            (
                "a:mac=01:00:5e:00:00:01",
                "mac is the MAC address of one station, such as 52:54:00:12:34:56, not '01:00:5e:00:00:01'",
            ),
            (
                "a:addresses=10.0.0.5/24",
                "'10.0.0.5/24' is an address with its network: write 10.0.0.5 for the station, or 10.0.0.0/24",
            ),
            ("a:addresses=224.0.0.1", "'224.0.0.1' is not the address of a station"),
            ("a:addresses=web", "'web' is not an address such as 10.0.0.5 or fd00::5"),
            ("a:addresses=10.0.0.0/33", "'10.0.0.0/33' is not an address"),
            ("a:guard=10.0.0.5:addresses=10.0.0.6", "guard and addresses both name addresses"),
            ("a:guard=yes", "'yes' is not an address"),
            ("packet:a:guard=on", "what is its station to be guarded for?"),
            ("a:isolated=yes", "isolated is on or off, not 'yes'"),
        ] {
            let said = text_of(word).unwrap_err();
            assert!(said.contains(say), "{said}");
        }
        let many: Vec<String> = (0..257).map(|host| format!("10.0.{}.{}", host / 250, host % 250 + 1)).collect();
        let said = text_of(&format!("a:addresses={}", many.join("+"))).unwrap_err();
        assert!(said.ends_with("257 addresses, and there is room for 256: name networks"), "{said}");
    }

    #[test]
    fn a_bridge_says_what_its_ports_are_by_default() {
        let file = "[bridge.br0]\nmtu = 1400\nguard = false\nisolated = true\n[[bridge.br0.port]]\ntap = 'a'\nid = 'a'\n\
                    [[bridge.br0.port]]\ntap = 'b'\nid = 'b'\nguard = true\nmtu = 1300\n[[bridge.br0.port]]\nstream = '/s'\n[[guest]]\nid = 'g'\n";
        let desired = Desired::of_text("v.toml", file, &[]).unwrap();
        let is = |port: &crate::Port| (port.mtu, port.station.guard, port.station.isolated);
        let ports: Vec<_> = desired.config.ports.iter().map(is).collect();
        assert_eq!(ports[..3], [(Some(1400), false, true), (Some(1300), true, true), (Some(1400), false, true)]);
        assert!(ports[3..].iter().all(|port| *port == (Some(1500), false, true)), "a socket has its own: {ports:?}");
    }

    #[test]
    fn a_bridge_says_whether_its_ports_are_isolated() {
        let file =
            "[bridge.br0]\nisolated = true\n[[bridge.br0.port]]\ntap = 'a'\n[[bridge.br0.port]]\ntap = 'b'\nisolated = false\n";
        let now = Desired::of_text("v.toml", file, &[]).unwrap();
        let isolated = |desired: &Desired| desired.config.ports.iter().map(|port| port.station.isolated).collect::<Vec<_>>();
        assert_eq!(isolated(&now), [true, false]);
        let mut free = now.with_bridge_set("br0:isolated=off").unwrap();
        assert_eq!(isolated(&free), [false, false]);
        let lines: Vec<String> = free.plan_from(&now).unwrap().changes.iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["~ port a: all VLANs, isolated -> all VLANs"]);
    }
}
