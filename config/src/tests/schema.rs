//! The schema for editors, the example and the reference have the keys that are read.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::document::Document;

const EXAMPLE: &str = include_str!("../../../docs/vswitchd.example.toml");
const REFERENCE: &str = include_str!("../../../docs/config.md");
const SCHEMA: &str = include_str!("../../../docs/vswitchd.schema.json");

/// The schema for editors is what the types say; `VSWITCHD_WRITE_SCHEMA=1` writes it.
#[test]
fn the_schema_is_that_of_the_types() {
    let mut schema = schemars::schema_for!(Document).to_value();
    remove_null(&mut schema);
    schema["title"] = "vswitchd.toml".into();
    if std::env::var_os("VSWITCHD_WRITE_SCHEMA").is_some() {
        std::fs::write(
            concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/vswitchd.schema.json"),
            serde_json::to_string_pretty(&schema).unwrap() + "\n",
        )
        .unwrap();
    } else {
        assert_eq!(schema, serde_json::from_str::<Value>(SCHEMA).unwrap(), "run this test with VSWITCHD_WRITE_SCHEMA=1");
    }
}

/// The words that editors offer are taken, and what is not among them is not.
#[test]
fn the_schema_knows_the_words() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let uplink = format!("{PORT}[uplink]\ninterface = 'e'\n");
    for (table, key, file) in [
        ("Port", "vlan-mode", PORT.to_owned()),
        ("Port", "attach", PORT.to_owned()),
        ("Port", "mode", "[[bridge.br0.port]]\nstream = '/a'\n".to_owned()),
        ("UplinkKeys", "mode", uplink.clone()),
        ("NatKeys", "mapping", format!("{uplink}[nat]\n")),
        ("NatKeys", "filtering", format!("{uplink}[nat]\n")),
        ("PublishKeys", "protocol", format!("{uplink}[[publish]]\nlisten = 1\nto = '10.77.0.2:1'\n")),
        ("Tunnel", "type", format!("{PORT}[[tunnel]]\n")),
        ("Tunnel", "vlan-mode", format!("{PORT}[[tunnel]]\ntype = 'udp'\n")),
        ("Tunnel", "df", format!("{PORT}[[tunnel]]\ntype = 'udp'\n")),
        ("Tunnel", "csum", format!("{PORT}[[tunnel]]\ntype = 'udp'\n")),
    ] {
        let says_unknown = |word: &str| {
            let said = super::file(&format!("{file}{key} = '{word}'\n")).err().unwrap_or_default();
            said.contains("unknown")
        };
        let words = schema["$defs"][table]["properties"][key]["enum"].as_array().expect(key);
        assert!(words.len() > 1 && says_unknown("else"), "{table} {key}");
        assert!(!words.iter().any(|word| says_unknown(word.as_str().unwrap())), "{table} {key} {words:?}");
    }
}

#[test]
fn every_key_is_explained_and_shown() {
    let mut keys = BTreeSet::new();
    collect(&serde_json::from_str(SCHEMA).unwrap(), &mut keys);
    assert!(keys.len() > 50 && keys.contains("vlan-mode") && keys.contains("tcp-opening"), "{keys:?}");
    for key in keys {
        let shown = EXAMPLE.contains(&format!("{key} = "))
            || EXAMPLE.contains(&format!("[{key}"))
            || EXAMPLE.contains(&format!(".{key}]"));
        assert!(shown, "{key} is not in the example");
        let explained = REFERENCE.contains(&format!("`{key}`"))
            || REFERENCE.contains(&format!("[{key}"))
            || REFERENCE.contains(&format!(".{key}]"));
        assert!(explained, "{key} is not in docs/config.md");
    }
}

/// A key that can be left out is no key that can be null, which TOML has not.
fn remove_null(schema: &mut Value) {
    let is_null = |value: &Value| *value == "null" || value.is_null() || value["type"] == "null";
    match schema {
        Value::Object(object) => {
            for key in ["type", "enum", "anyOf"] {
                let Some(Value::Array(list)) = object.get_mut(key) else { continue };
                list.retain(|value| !is_null(value));
                let [one] = list.as_slice() else { continue };
                match (key, one.clone()) {
                    ("type", one) => drop(object.insert(key.to_owned(), one)),
                    ("anyOf", Value::Object(one)) => {
                        object.remove(key);
                        object.extend(one);
                    }
                    _ => {}
                }
            }
            object.values_mut().for_each(remove_null);
        }
        Value::Array(list) => list.iter_mut().for_each(remove_null),
        _ => {}
    }
}

/// The names of all properties.
fn collect(schema: &Value, keys: &mut BTreeSet<String>) {
    match schema {
        Value::Object(object) => {
            if let Some(Value::Object(properties)) = object.get("properties") {
                keys.extend(properties.keys().cloned());
            }
            object.values().for_each(|value| collect(value, keys));
        }
        Value::Array(list) => list.iter().for_each(|value| collect(value, keys)),
        _ => {}
    }
}
