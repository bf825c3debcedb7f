//! The written form of a configuration: a document as TOML that `--config` reads.
//!
//! Each value is kept as it was written ([`At::written`]). What a file says is written again; the word of a flag has no types, so the
//! TOML value is the first of its readings, as a number, a switch, text or a list, that gives the same value. A document whose keys
//! all came from files or flags is thereby read again as itself, which a test checks for each key.

use std::fmt::Write as _;

use crate::document::Document;
use crate::keys::Keys;
use crate::problem::{At, Problems};
use crate::raw::{Entry, Raw, RawValue};
use crate::value::Value;

/// A document as TOML.
pub(crate) fn toml_of(document: &Document) -> String {
    let mut document = document.clone();
    for bridge in document.bridges_mut() {
        bridge.join_gateways();
    }
    let mut out = String::new();
    write_table(&mut out, "", &document.entries());
    out
}

/// How a value that was written as this stands in a file; `None` if it cannot be written.
pub(crate) fn in_file<T: Value>(value: &T, written: &RawValue) -> Option<RawValue> {
    let RawValue::Word(word) = written else { return Some(written.clone()) };
    readings(word).into_iter().find(|reading| {
        let raw = Raw { origin: crate::file::whole(""), value: reading.clone() };
        let mut problems = Problems::default();
        T::read(&raw, "", &mut problems).is_some_and(|read| read == *value) && problems.is_empty()
    })
}

/// What the word of a flag can be in a file, numbers before texts.
fn readings(word: &str) -> Vec<RawValue> {
    let scalar = |word: &str| word.parse().map_or_else(|_| RawValue::Text(word.to_owned()), RawValue::Number);
    let mut readings = vec![scalar(word)];
    match word {
        "on" => readings.push(RawValue::Switch(true)),
        "off" => readings.push(RawValue::Switch(false)),
        _ => {}
    }
    readings.push(RawValue::Text(word.to_owned()));
    let origin = crate::file::whole("");
    let list = |item: fn(&str) -> RawValue| {
        let items = word.split(['+', ',']).map(|word| Raw { origin: origin.clone(), value: item(word) });
        RawValue::List(items.collect())
    };
    readings.push(list(|word| word.parse().map_or_else(|_| RawValue::Text(word.to_owned()), RawValue::Number)));
    readings.push(list(|word| RawValue::Text(word.to_owned())));
    readings
}

/// The value of a key as it stands in a file.
pub(crate) fn of<T: Value>(at: &At<T>) -> Option<RawValue> {
    at.value.in_file(at.written.0.as_deref())
}

/// A table of entries.
pub(crate) fn table(entries: impl Iterator<Item = (String, RawValue)>) -> RawValue {
    let origin = crate::file::whole("");
    RawValue::Table(entries.map(|(key, value)| Entry { key, raw: Raw { origin: origin.clone(), value } }).collect())
}

/// A list of values.
pub(crate) fn list(items: impl Iterator<Item = RawValue>) -> RawValue {
    let origin = crate::file::whole("");
    RawValue::List(items.map(|value| Raw { origin: origin.clone(), value }).collect())
}

/// Writes the values of a table first, then the tables in it.
fn write_table(out: &mut String, path: &str, entries: &[(String, RawValue)]) {
    let is_table = |value: &RawValue| match value {
        RawValue::Table(_) => true,
        RawValue::List(items) => items.iter().any(|item| matches!(item.value, RawValue::Table(_))),
        _ => false,
    };
    // Writing to a string cannot fail.
    for (key, value) in entries.iter().filter(|(_, value)| !is_table(value)) {
        let _ = writeln!(out, "{} = {}", key_text(key), value_text(value));
    }
    for (key, value) in entries {
        let path = if path.is_empty() { key_text(key) } else { format!("{path}.{}", key_text(key)) };
        let inner =
            |entries: &[Entry]| entries.iter().map(|entry| (entry.key.clone(), entry.raw.value.clone())).collect::<Vec<_>>();
        match value {
            RawValue::Table(entries) => {
                let entries = inner(entries);
                // A table of tables needs no heading of its own.
                if entries.is_empty() || entries.iter().any(|(_, value)| !is_table(value)) {
                    let _ = writeln!(out, "\n[{path}]");
                }
                write_table(out, &path, &entries);
            }
            RawValue::List(items) if is_table(value) => {
                for item in items {
                    let _ = writeln!(out, "\n[[{path}]]");
                    if let RawValue::Table(entries) = &item.value {
                        write_table(out, &path, &inner(entries));
                    }
                }
            }
            _ => {}
        }
    }
}

fn key_text(key: &str) -> String {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if !key.is_empty() && key.chars().all(is_bare) { key.to_owned() } else { quoted(key) }
}

fn value_text(value: &RawValue) -> String {
    match value {
        RawValue::Word(text) | RawValue::Text(text) => quoted(text),
        RawValue::Number(number) => number.to_string(),
        RawValue::Switch(is_on) => is_on.to_string(),
        RawValue::List(items) => {
            let items: Vec<String> = items.iter().map(|item| value_text(&item.value)).collect();
            format!("[{}]", items.join(", "))
        }
        // Tables have headings, and what no key accepts was never taken.
        RawValue::Table(_) | RawValue::Other(_) => "{}".to_owned(),
    }
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out + "\""
}

#[cfg(test)]
mod tests {
    use crate::{Desired, Flag};

    #[track_caller]
    fn assert_read_again(desired: &Desired) {
        let text = desired.to_toml();
        let again = Desired::of_text("again.toml", &text, &[]).unwrap_or_else(|problems| panic!("{problems}\n{text}"));
        assert_eq!(again.to_toml(), text);
        let config = |desired: &Desired| (desired.config.ports.len(), desired.config.workers, desired.config.bridges.clone());
        assert_eq!(config(&again), config(desired), "{text}");
        assert!(desired.plan_to_itself(&again), "{text}");
    }

    #[test]
    fn the_example_file_is_read_again() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/vswitchd.example.toml");
        let text = std::fs::read_to_string(path).unwrap();
        assert_read_again(&Desired::of_text(path, &text, &[]).unwrap());
    }

    #[test]
    fn what_flags_say_is_written_as_a_file() {
        let sets: &[&[(&'static str, &str)]] = &[
            &[("--tap", "tap0,tap1@blue:vlan=10:mtu=1400,tap2:trunks=10+20:vlan-mode=trunk:gro=off,10:offload=off")],
            &[("--tap", "tap0:limit-broadcast=5:limit-unknown=off:gro=neighbours"), ("--workers", "2"), ("--max-ports", "9")],
            &[
                ("--port", "packet:lo"),
                ("--port", "stream:/run/a-b"),
                ("--port", "dgram:/run/vm1:vlan=7"),
                ("--port", "stream:127.0.0.1:5558"),
            ],
            &[
                ("--tap", "tap0"),
                ("--uplink", "eth0"),
                ("--uplink-address", "198.51.100.3/24,198.51.100.4"),
                ("--gateway", "10.0.0.1/24,10=10.0.10.1/24"),
                ("--publish", "8080:10.0.0.2:80"),
                ("--publish", "198.51.100.4:9000-9010:10.0.0.3:9000-9010/udp"),
                ("--nat", "ports=2000-3000,udp=30,filtering=endpoint-independent,mss-clamp=off"),
                ("--mac-table-size", "100"),
                ("--mac-aging-time", "60"),
            ],
            &[("--tap", "tap0"), ("--vxlan", "vni=42,remote=192.0.2.2+192.0.2.3,local=192.0.2.1,ttl=inherit,csum=off")],
            &[("--tap", "tap0"), ("--udp", "remote=192.0.2.2,port=7000")],
            &[("--tap", "tap0"), ("--udp-ip", "tun=flannel0,route=10.1.0.0/16@192.0.2.2,address=10.0.0.1/16")],
            &[("--tap", "tap0"), ("--metrics", "127.0.0.1:9100,host=a+b"), ("--control", "/run/x"), ("--control-group", "0")],
        ];
        for set in sets {
            let flags: Vec<Flag> = set.iter().map(|(name, value)| Flag::new(name, *value)).collect();
            let desired = Desired::of_flags(&flags).unwrap_or_else(|problems| panic!("{set:?}: {problems}"));
            assert_read_again(&desired);
        }
    }

    #[test]
    fn what_verbs_changed_is_written_too() {
        let file = "[bridge.br0]\ngateway = '10.0.0.1/24'\n[[bridge.br0.port]]\ntap = 'a'\n[uplink]\ninterface = 'eth0'\n";
        let desired = Desired::of_text("x", file, &[Flag::new("--gateway", "10=10.0.10.1/24")]).unwrap();
        let desired = desired.with_port("b@blue:vlan=10").unwrap().with_rule("8080:10.0.0.2:80/udp").unwrap();
        assert_read_again(&desired);
        assert_read_again(&desired.without_port("a").unwrap());
        let text = desired.to_toml();
        assert!(text.contains("[[bridge.br0.port]]\ntap = \"b\"\nnetns = \"blue\"\nvlan = 10\n"), "{text}");
    }
}
