//! `port stats`: the counters of all ports, or of the one that a name stands for.
//!
//! The names are those that the switch takes too: as printed, `NAME@NETNS`, or the name alone where only one port has it.

use api::{PortStats, Stats};
use config::nearest;

use crate::cli::Output;
use crate::get::Get;
use crate::print;
use crate::table::plain;

/// The counters of all ports, or of the port of this name.
pub(crate) fn stats(get: &Get<'_>, name: Option<&str>) -> anyhow::Result<String> {
    let mut stats: Stats = get.view("/v1/stats")?;
    if let Some(name) = name {
        let at = find(&stats.ports, name)?;
        stats.ports = vec![stats.ports.swap_remove(at)];
    }
    match get.output {
        Output::Json => get.form(&stats.ports, |_| String::new()),
        Output::Table | Output::Conntrack => Ok(print::port_stats(&stats)),
    }
}

/// The place of the port that a name stands for.
fn find(ports: &[PortStats], name: &str) -> anyhow::Result<usize> {
    let is_full = |port: &PortStats| port.namespace.as_ref().is_some_and(|netns| format!("{}@{netns}", bare(port)) == name);
    if let Some(at) = ports.iter().position(|port| port.name == name).or_else(|| ports.iter().position(is_full)) {
        return Ok(at);
    }
    let found: Vec<usize> = (0..ports.len()).filter(|at| bare(&ports[*at]) == name).collect();
    let listed = |ports: Vec<&str>| plain(&ports.join(", "));
    let names = || ports.iter().map(|port| port.name.as_str());
    match found.as_slice() {
        [at] => Ok(*at),
        [] => match nearest(name, names()) {
            Some(close) => anyhow::bail!("there is no port '{}'; did you mean '{}'?", plain(name), plain(close)),
            None => anyhow::bail!("there is no port '{}'; there are {}", plain(name), listed(names().collect())),
        },
        several => {
            let names = several.iter().map(|at| ports[*at].name.as_str()).collect();
            anyhow::bail!("several ports are named '{}': say which of {}", plain(name), listed(names))
        }
    }
}

/// The name without the namespace.
fn bare(port: &PortStats) -> &str {
    let netns = port.namespace.as_deref().unwrap_or_default();
    port.name.strip_suffix(netns).and_then(|name| name.strip_suffix('@')).unwrap_or(&port.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, namespace: Option<&str>) -> PortStats {
        PortStats { name: name.to_owned(), namespace: namespace.map(str::to_owned), ..PortStats::default() }
    }

    #[test]
    fn a_port_answers_to_each_of_its_names() {
        let ports = [
            port("eth0", None),
            port("eth0@a", Some("a")),
            port("net0@a", Some("a")),
            port("net0@b", Some("b")),
            port("tap4", Some("blue")),
        ];
        for (name, at) in [("eth0", 0), ("eth0@a", 1), ("net0@b", 3), ("tap4", 4), ("tap4@blue", 4)] {
            assert_eq!(find(&ports, name).unwrap(), at, "{name}");
        }
        for (name, say) in [
            ("net0", "several ports are named 'net0': say which of net0@a, net0@b"),
            ("tap5", "there is no port 'tap5'; did you mean 'tap4'?"),
            ("nothing", "there is no port 'nothing'; there are eth0, eth0@a, net0@a, net0@b, tap4"),
        ] {
            assert_eq!(find(&ports, name).unwrap_err().to_string(), say);
        }
    }
}
