//! Options of a network: `docker network create -o KEY=VALUE`, `--internal`.

use config::{Docker, unknown};

use super::protocol::{GENERIC, INTERNAL, Options};

/// Options of the driver, each with what it becomes: a key of the bridge.
const OPTIONS: [&str; 6] = ["mtu", "icc", "routing", "host", "guard", "mac-table-size"];

/// Names that users of Docker's own bridges know, and ours.
const SYNONYMS: [(&str, &str); 2] = [("com.docker.network.driver.mtu", "mtu"), ("com.docker.network.bridge.enable_icc", "icc")];

/// Names with this beginning are dockerd's own.
const DOCKERS_OWN: &str = "com.docker.network.";

/// The keys of the bridge of a network with these options, as in the words of `bridge add`: `:routing=outside:host=on`.
pub(super) fn bridge_keys(options: &Options, docker: &Docker) -> Result<String, String> {
    let is_internal = options.get(INTERNAL).is_some_and(|value| value.as_bool() == Some(true) || value.as_str() == Some("true"));
    let mut icc = docker.icc;
    let mut host = !is_internal;
    let mut routing = if is_internal { "none" } else { "outside" }.to_owned();
    let mut others = String::new();
    for (name, value) in options.get(GENERIC).and_then(|generic| generic.as_object()).into_iter().flatten() {
        let key = SYNONYMS.iter().find(|(theirs, _)| theirs == name).map_or(name.as_str(), |(_, ours)| ours);
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        match key {
            "icc" => icc = switch(name, &value)?,
            "host" => host = switch(name, &value)?,
            "routing" if is_internal && value != "none" => {
                return Err(format!("an internal network reaches no other: leave --internal or routing={value} out"));
            }
            "routing" => routing = value,
            "guard" => others += if switch(name, &value)? { ":guard=on" } else { ":guard=off" },
            "mtu" | "mac-table-size" => others += &format!(":{key}={}", number(name, &value)?),
            _ if name.starts_with(DOCKERS_OWN) => {}
            _ => return Err(unknown("option", name, &OPTIONS)),
        }
    }
    let on = |is_on: bool| if is_on { "on" } else { "off" };
    Ok(format!(":routing={}:host={}:isolated={}{others}", word("routing", &routing)?, on(host), on(!icc)))
}

fn switch(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "true" | "on" | "1" => Ok(true),
        "false" | "off" | "0" => Ok(false),
        _ => Err(format!("{name} is true or false, not '{}'", value.escape_debug())),
    }
}

fn number(name: &str, value: &str) -> Result<u32, String> {
    value.parse().map_err(|_| format!("{name} is a number, not '{}'", value.escape_debug()))
}

/// A value that is one word of the verb.
fn word<'v>(name: &str, value: &'v str) -> Result<&'v str, String> {
    let is_word = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_lowercase());
    if is_word { Ok(value) } else { Err(format!("{name} is one of all, outside and none, not '{}'", value.escape_debug())) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn keys(options: serde_json::Value) -> Result<String, String> {
        let docker = Docker { socket: "/s".into(), engine: None, icc: true, publish_default: None };
        bridge_keys(&serde_json::from_value(options).unwrap(), &docker)
    }

    fn with(name: &str, value: &str) -> Result<String, String> {
        keys(json!({ GENERIC: { name: value } }))
    }

    #[test]
    fn options_become_keys() {
        assert_eq!(keys(json!({})).unwrap(), ":routing=outside:host=on:isolated=off");
        assert_eq!(keys(json!({ INTERNAL: true, GENERIC: {} })).unwrap(), ":routing=none:host=off:isolated=off");
        assert_eq!(with("icc", "false").unwrap(), ":routing=outside:host=on:isolated=on");
        assert_eq!(with("com.docker.network.driver.mtu", "1400").unwrap(), ":routing=outside:host=on:isolated=off:mtu=1400");
        assert_eq!(with("com.docker.network.enable_ipv6", "true").unwrap(), ":routing=outside:host=on:isolated=off");
        assert_eq!(with("guard", "off").unwrap(), ":routing=outside:host=on:isolated=off:guard=off");
        for (name, value, say) in [
            ("mut", "1400", "unknown option 'mut': did you mean 'mtu'?"),
            ("mtu", "1400:host=on", "mtu is a number, not '1400:host=on'"),
            ("icc", "yes", "icc is true or false, not 'yes'"),
            ("routing", "all:host=on", "routing is one of all, outside and none, not 'all:host=on'"),
        ] {
            assert_eq!(with(name, value).unwrap_err(), say);
        }
        assert!(keys(json!({ INTERNAL: true, GENERIC: { "routing": "all" } })).unwrap_err().starts_with("an internal network"));
    }
}
