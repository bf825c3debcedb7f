//! The parser of flags, and of the control socket's verbs, into a [`Document`].
//!
//! Two grammars. A port is `NAME[:KEY=VALUE...]`, where a piece without `=` continues the value before it, so that values may
//! have colons: `mac=02:42:0a:47:00:02`. A tunnel is `KEY=VALUE[,KEY=VALUE...]`. In both, a value with a separator in it stands in
//! double quotes, and lists have `+` between their items; of a port's VLANs, commas do as well.

use ::tunnel::FramingKind;

use crate::bridge::{BridgeKeys, GatewayVlan, unknown_bridge};
use crate::document::Document;
use crate::keys::{Keys, list_of};
use crate::nat::TimeoutKeys;
use crate::port::{Kind, PortKeys};
use crate::problem::{At, Origin, Problems, unknown};
use crate::publish::{PublishKeys, split_rule};
use crate::raw::{Entry, Raw, RawValue};
use crate::route::RouteKeys;
use crate::tunnel::TunnelKeys;
use crate::value::{Pairs, Text, Value};

/// Keys of tunnels and of metrics that take several values.
const LISTS: &[&str] = &["remote", "peers", "trunks", "mac", "route", "host"];

/// One flag of the command line.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flag {
    /// Its name with dashes: `--tap`.
    pub name: &'static str,
    /// Its value.
    pub value: String,
}

impl Flag {
    /// A flag with its value.
    pub fn new(name: &'static str, value: impl Into<String>) -> Flag {
        Flag { name, value: value.into() }
    }
}

/// Adds a flag: a repeatable flag is appended, another replaces the value of the file.
pub(crate) fn add(document: &mut Document, flag: &Flag, problems: &mut Problems) {
    let text = flag.value.as_str();
    let alone = Origin::flag(flag.name, "");
    if let Some(kind) = flag.name.strip_prefix("--").and_then(FramingKind::named) {
        return tunnel(document, kind, text, problems);
    }
    match flag.name {
        "--tap" => taps(document, text, problems),
        "--port" => port(document, text, problems),
        "--gateway" => gateways(document, text, problems),
        "--publish" => publish(document, text, problems),
        "--route" => list_of(&mut document.routes).push(route(text, problems)),
        "--nat" => nat(document, text, problems),
        "--workers" => replace(&mut document.workers, "workers", text, &alone, problems),
        "--busy-poll" => replace(&mut document.busy_poll, "busy-poll", text, &alone, problems),
        "--max-ports" => replace(&mut document.max_ports, "max-ports", text, &alone, problems),
        "--mac-table-size" => {
            replace(&mut document.default_bridge().mac_table_size, "mac-table-size", text, &alone, problems);
        }
        "--mac-aging-time" => {
            replace(&mut document.default_bridge().mac_aging_time, "mac-aging-time", text, &alone, problems);
        }
        "--metrics" => metrics(document, text, problems),
        "--docker" => replace(&mut table(&mut document.docker, &alone).socket, "socket", text, &alone, problems),
        "--state" => replace(&mut table(&mut document.state, &alone).path, "path", text, &alone, problems),
        _ if flag.name.starts_with("--uplink") => uplink(document, flag, problems),
        _ if flag.name.starts_with("--control") => control(document, flag, problems),
        _ => problems.add(&alone, "this flag says nothing of the configuration"),
    }
}

/// Replaces a value by that of a flag.
fn replace<T: Value>(slot: &mut Option<At<T>>, key: &str, text: &str, origin: &Origin, problems: &mut Problems) {
    let raw = Raw::word(text, origin);
    if let Some(value) = T::read(&raw, key, problems) {
        *slot = Some(At::of(value, &raw));
    }
}

fn table<'a, T: Keys>(slot: &'a mut Option<At<T>>, origin: &Origin) -> &'a mut T {
    &mut slot.get_or_insert_with(|| At::new(T::default(), origin)).value
}

fn uplink(document: &mut Document, flag: &Flag, problems: &mut Problems) {
    let text = flag.value.as_str();
    let alone = Origin::flag(flag.name, "");
    let with_value = Origin::flag(flag.name, text);
    let uplink = table(&mut document.uplink, &alone);
    let before = problems.len();
    match flag.name {
        "--uplink" => replace(&mut uplink.interface, "the uplink", text, &alone, problems),
        "--uplink-mode" => replace(&mut uplink.mode, "mode", text, &alone, problems),
        "--uplink-address" => replace(&mut uplink.address, "address", text, &with_value, problems),
        "--uplink-gate" => replace(&mut uplink.gate, "gate", text, &alone, problems),
        _ => replace(&mut uplink.gateway, "gateway", text, &with_value, problems),
    }
    uplink.is_faulty |= problems.len() > before;
}

fn control(document: &mut Document, flag: &Flag, problems: &mut Problems) {
    let (text, alone) = (flag.value.as_str(), Origin::flag(flag.name, ""));
    let control = table(&mut document.control, &alone);
    match flag.name {
        "--control" => replace(&mut control.path, "path", text, &alone, problems),
        "--control-group" => replace(&mut control.group, "group", text, &alone, problems),
        _ => {
            let is_on = text == "true";
            control.read_only_others = Some(At::of(is_on, &Raw { origin: alone, value: RawValue::Switch(is_on) }));
        }
    }
}

/// Parses `--tap NAME[@NETNS][:KEY=VALUE...][,...]`.
fn taps(document: &mut Document, list: &str, problems: &mut Problems) {
    let Some(texts) = or_tell(pieces(list, ','), &Origin::flag("--tap", list), problems) else { return };
    for text in with_vlans(&texts) {
        let text = text.as_str();
        let origin = Origin::flag("--tap", text);
        let Some((head, pairs)) = or_tell(head_and_pairs(text, &origin), &origin, problems) else { continue };
        let (name, netns) = match head.split_once('@') {
            Some((name, netns)) if !name.contains(':') => (name, Some(netns)),
            _ => (head.as_str(), None),
        };
        let mut entries = vec![Entry::word("tap", name, &origin)];
        entries.extend(netns.map(|netns| Entry::word("netns", netns, &origin)));
        // The colon of `pid:N` is part of the namespace.
        let rest = netns.map_or(name, |netns| netns.strip_prefix("pid:").unwrap_or(netns));
        if let Some((_, piece)) = rest.split_once(':') {
            problems.add(&origin, not_a_pair(piece));
            push_keys(document.default_bridge(), &origin, Some(PortKeys::Unknown));
            continue;
        }
        entries.extend(pairs);
        push_port(document, &origin, entries, problems);
    }
}

/// Joins the pieces of a list of TAPs that belong to one list of VLANs: in `tap0:trunks=10,20` a number behind VLANs is a VLAN. (A TAP
/// whose name is a number is named first, or by a flag of its own.)
fn with_vlans(pieces: &[&str]) -> Vec<String> {
    let mut taps: Vec<String> = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let head = piece.split(':').next().unwrap_or_default();
        let is_number = !head.is_empty() && head.bytes().all(|byte| byte.is_ascii_digit());
        let ends_with_vlans = |tap: &String| {
            let last = tap.rsplit(':').next().unwrap_or_default();
            last.starts_with("trunks=") || last.starts_with("vlan=")
        };
        match taps.last_mut().filter(|tap| is_number && ends_with_vlans(tap)) {
            Some(tap) => *tap += &format!(",{piece}"),
            None => taps.push((*piece).to_owned()),
        }
    }
    taps
}

/// Parses `--port KIND:WHERE[:KEY=VALUE...]`.
fn port(document: &mut Document, text: &str, problems: &mut Problems) {
    let origin = Origin::flag("--port", text);
    let kinds = || Kind::WORDS.iter().copied().filter(|kind| *kind != Kind::Tap.name()).collect::<Vec<_>>();
    let problem = match text.split_once(':') {
        None if kinds().contains(&text) => format!("{text} of what? write {text}:WHERE"),
        None => format!(
            "a port is KIND:WHERE, such as packet:veth0; kinds are {}, and a TAP that the switch makes is --tap",
            kinds().join(", ")
        ),
        Some(("tap", rest)) => format!("a TAP that the switch makes is --tap {rest}"),
        Some((kind, _)) if !kinds().contains(&kind) => unknown("kind of port", kind, &kinds()),
        Some((kind, rest)) => {
            let Some((head, pairs)) = or_tell(head_and_pairs(rest, &origin), &origin, problems) else { return };
            let mut entries = vec![Entry::word(kind, head, &origin)];
            entries.extend(pairs);
            return push_port(document, &origin, entries, problems);
        }
    };
    problems.add(&origin, problem);
    push_keys(document.default_bridge(), &origin, Some(PortKeys::Unknown));
}

/// Adds a port to the bridge that `bridge=` among its keys names, or else to br0.
fn push_port(document: &mut Document, origin: &Origin, mut entries: Vec<Entry>, problems: &mut Problems) {
    let named = entries.iter().position(|entry| entry.key == "bridge").map(|at| entries.remove(at));
    let name = named.as_ref().and_then(|entry| entry.raw.text());
    let is_there = |name: &str| document.bridges().any(|(bridge, _)| bridge.value == name);
    let missing = name
        .filter(|name| !is_there(name))
        .map(|name| unknown_bridge(name, document.bridges().map(|(bridge, _)| bridge.value.as_str())));
    let bridge = match name.filter(|_| missing.is_none()) {
        Some(name) => document.bridge_named(name),
        None => Some(document.default_bridge()),
    };
    let keys = PortKeys::read(&Raw { origin: origin.clone(), value: RawValue::Table(entries) }, "port", problems);
    if let Some(bridge) = bridge {
        push_keys(bridge, origin, keys);
    }
    if let Some(problem) = missing {
        problems.add(origin, problem);
    }
}

fn push_keys(bridge: &mut BridgeKeys, origin: &Origin, keys: Option<PortKeys>) {
    list_of(&mut bridge.ports).extend(keys.map(|keys| At::new(keys, origin)));
}

/// Parses the argument of `bridge add` and `bridge set`, `NAME[:KEY=VALUE...]`: the name and the pairs.
pub(crate) fn bridge(text: &str, origin: &Origin, problems: &mut Problems) -> Option<(String, Vec<Entry>)> {
    or_tell(head_and_pairs(text, origin), origin, problems)
}

/// Parses the keys of `port set`, `KEY=VALUE[:KEY=VALUE...]`.
pub(crate) fn port_keys(text: &str, origin: &Origin, problems: &mut Problems) -> Vec<Entry> {
    // Before the first pair stands a name, which is empty here.
    match or_tell(head_and_pairs(&format!(":{text}"), origin), origin, problems) {
        Some((head, entries)) if head.trim_start_matches(':').is_empty() => entries,
        Some((head, _)) => {
            problems.add(origin, not_a_pair(head.trim_start_matches(':')));
            Vec::new()
        }
        None => Vec::new(),
    }
}

/// Parses `--gateway [VLAN=]CIDR[,...]`.
fn gateways(document: &mut Document, list: &str, problems: &mut Problems) {
    for text in list.split(',') {
        let origin = Origin::flag("--gateway", text);
        let (vlan, address) = text.split_once('=').unwrap_or(("0", text));
        let raw = (Raw::word(vlan, &origin), Raw::word(address, &origin));
        let vlan = or_tell(GatewayVlan::parse(vlan, "VLAN", &origin), &origin, problems);
        let address = Value::read(&raw.1, "gateway", problems);
        let bridge = document.default_bridge();
        match (vlan, address) {
            (Some(vlan), Some(address)) => {
                let gateways = bridge.gateways.get_or_insert_with(|| At::new(Pairs(Vec::new()), &origin));
                gateways.value.0.push((At::of(vlan, &raw.0), At::of(address, &raw.1)));
            }
            _ => bridge.is_faulty = true,
        }
    }
}

fn publish(document: &mut Document, text: &str, problems: &mut Problems) {
    let rule = rule(text, problems);
    list_of(&mut document.publish).push(rule);
}

/// Parses `--publish [ADDR:]PORT[-PORT]:GUEST:PORT[-PORT][/PROTOCOL]`, or `ADDR:GUEST`.
pub(crate) fn rule(text: &str, problems: &mut Problems) -> At<PublishKeys> {
    let origin = Origin::flag("--publish", text);
    let keys = match or_tell(split_rule(text, &origin), &origin, problems) {
        Some(entries) => PublishKeys::of(&entries, problems),
        None => PublishKeys { is_faulty: true, ..PublishKeys::default() },
    };
    At::new(keys, &origin)
}

/// Parses `--route NETWORK:via=ADDRESS[:KEY=VALUE...]`.
pub(crate) fn route(text: &str, problems: &mut Problems) -> At<RouteKeys> {
    let origin = Origin::flag("--route", text);
    let keys = match or_tell(head_and_pairs(text, &origin), &origin, problems) {
        Some((network, pairs)) => RouteKeys::of(&[vec![Entry::word("to", network, &origin)], pairs].concat(), problems),
        None => RouteKeys { is_faulty: true, ..RouteKeys::default() },
    };
    At::new(keys, &origin)
}

/// Parses `--nat KEY=VALUE[,...]`, which includes the keys of `[nat.timeouts]`.
fn nat(document: &mut Document, list: &str, problems: &mut Problems) {
    let nat = table(&mut document.nat, &Origin::flag("--nat", ""));
    for pair in list.split(',') {
        let origin = Origin::flag("--nat", pair);
        let Some((key, value)) = pair.split_once('=') else {
            problems.add(&origin, not_a_pair(pair));
            continue;
        };
        let entry = Entry::word(key, value, &origin);
        let of_timeouts = TimeoutKeys::names(false);
        if of_timeouts.contains(&key) {
            let timeouts = table(&mut nat.timeouts, &origin);
            timeouts.set(&entry, problems);
        } else if key == "timeouts" || !nat.set(&entry, problems) {
            let mut known = <crate::nat::NatKeys as Keys>::names(false);
            known.retain(|key| *key != "timeouts");
            known.extend(of_timeouts);
            problems.add(&origin, unknown("key", key, &known));
        }
    }
}

/// Parses the flag with the name of a framing, `KEY=VALUE[,...]`.
fn tunnel(document: &mut Document, kind: FramingKind, text: &str, problems: &mut Problems) {
    let origin = Origin::flag(&format!("--{}", kind.name()), text);
    let keys = match or_tell(pairs(text, ',', &origin), &origin, problems) {
        Some(mut pairs) => {
            split_device(&mut pairs);
            let entries = [vec![Entry::word("type", kind.name(), &origin)], pairs].concat();
            TunnelKeys::read(&Raw { origin: origin.clone(), value: RawValue::Table(entries) }, "tunnel", problems)
        }
        None => Some(TunnelKeys::Unknown),
    };
    list_of(&mut document.tunnels).extend(keys.map(|keys| At::new(keys, &origin)));
    // Tunnels of flags belong to br0.
    if kind.carries_ethernet() && document.bridges.is_none() {
        document.default_bridge();
    }
}

/// Splits `tun=NAME@NETNS` into two keys.
fn split_device(pairs: &mut Vec<Entry>) {
    let Some(tun) = pairs.iter_mut().find(|entry| entry.key == "tun") else { return };
    let Some((name, netns)) = tun.raw.text().and_then(|text| text.split_once('@')) else { return };
    let (name, netns, origin) = (name.to_owned(), netns.to_owned(), tun.raw.origin.clone());
    *tun = Entry::word("tun", name, &origin);
    pairs.push(Entry::word("netns", netns, &origin));
}

/// Parses `--metrics ADDR:PORT[,host=NAME[+NAME...]]`.
fn metrics(document: &mut Document, text: &str, problems: &mut Problems) {
    let origin = Origin::flag("--metrics", "");
    let (address, rest) = text.split_once(',').map_or((text, None), |(address, rest)| (address, Some(rest)));
    let mut entries = vec![Entry::word("listen", address, &origin)];
    if let Some(more) = rest.map(|rest| pairs(rest, ',', &origin)) {
        entries.extend(or_tell(more, &origin, problems).unwrap_or_default());
    }
    document.metrics = Some(At::new(Keys::of(&entries, problems), &origin));
}

fn or_tell<T>(result: Result<T, String>, origin: &Origin, problems: &mut Problems) -> Option<T> {
    result.map_err(|problem| problems.add(origin, problem)).ok()
}

pub(crate) fn not_a_pair(text: &str) -> String {
    format!("'{}' is not KEY=VALUE", text.escape_debug())
}

/// Splits a port's flag into the text before the first pair, and the pairs. A piece without `=` continues the text before it.
fn head_and_pairs(text: &str, origin: &Origin) -> Result<(String, Vec<Entry>), String> {
    let pieces = pieces(text, ':')?;
    let mut pieces = pieces.into_iter();
    let mut head = pieces.next().unwrap_or_default().to_owned();
    let mut pairs: Vec<(&str, String)> = Vec::new();
    for piece in pieces {
        match (piece.split_once('='), pairs.last_mut()) {
            (Some((key, value)), _) => pairs.push((key, unquoted(value).to_owned())),
            (None, Some((_, value))) => *value = format!("{value}:{piece}"),
            (None, None) => head = format!("{head}:{piece}"),
        }
    }
    Ok((head, pairs.into_iter().map(|(key, value)| Entry::word(key, value, origin)).collect()))
}

fn pairs(text: &str, separator: char, origin: &Origin) -> Result<Vec<Entry>, String> {
    let mut pairs: Vec<Entry> = Vec::new();
    for piece in pieces(text, separator)? {
        let Some((key, value)) = piece.split_once('=') else {
            // Several values of one key, joined as in other tools.
            let before = pairs.last().and_then(|pair| Some((pair.key.as_str(), pair.raw.text()?)));
            return Err(match before.filter(|(key, _)| LISTS.contains(key)) {
                Some((key, value)) => {
                    let (value, piece) = (value.escape_debug(), piece.escape_debug());
                    format!("'{piece}' is not KEY=VALUE: several values have '+' between, {key}={value}+{piece}")
                }
                None => not_a_pair(piece),
            });
        };
        pairs.push(Entry::word(key, unquoted(value), origin));
    }
    Ok(pairs)
}

/// Splits a text at separators. A separator in double quotes after a `=` is part of the text.
fn pieces(text: &str, separator: char) -> Result<Vec<&str>, String> {
    let (mut pieces, mut start, mut before, mut is_quoted) = (Vec::new(), 0, ' ', false);
    for (at, c) in text.char_indices() {
        match c {
            '"' if is_quoted => is_quoted = false,
            '"' if before == '=' => is_quoted = true,
            _ if c == separator && !is_quoted => {
                pieces.push(&text[start..at]);
                start = at + c.len_utf8();
            }
            _ => {}
        }
        before = c;
    }
    if is_quoted {
        return Err("a value in double quotes has no end: add '\"' behind it".to_owned());
    }
    pieces.push(&text[start..]);
    Ok(pieces)
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(value)
}
