//! `--check`, and the text that it shares with the summary at the start.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use config::{Config, Port};
use netio::{PacketError, TapError};
use vswitch::BridgeId;

use super::warn;
use crate::hints::without_interface;
use crate::model;
use crate::ports::device::DeviceError;
use crate::say;

/// Prints what would run and whether it could, without starting or creating anything.
pub(crate) fn check(config: &Config) -> anyhow::Result<()> {
    say(&[&summary_head(config), &config.router_summary(), &config.tunnel_summary()].map(String::as_str).concat());
    warn(&config.warnings);
    let uplink = config.uplink_interface();
    if let Some(name) = uplink {
        check_interface(name)?;
    }
    for port in &config.ports {
        if let Some(title) = port.title() {
            let bridge = config.name_among_several(port.bridge).filter(|_| port.is_bridged());
            let on = bridge.map_or_else(String::new, |name| format!(" on {name}"));
            say(&format!("port {title}{}{on}: {}\n", place_of(port), port.vlan_text()));
        }
        if port.absence.waits {
            continue;
        }
        if let Some((_, Some(netns))) = port.link() {
            let netns = model::netns(netns);
            let error = |error| DeviceError::from(TapError::Namespace { netns: netns.clone(), error });
            netns.id().map_err(error).map_err(|error| error.with_hint(&port.origin))?;
        }
        if let Some(name) = port.shared_interface() {
            check_interface(name)?;
        }
    }
    say(&format!("control socket {}\n", config.control));
    if let Some(path) = config.state.path() {
        say(&format!("state in {}\n", path.display()));
    }
    let warnings = match config.warnings.len() {
        0 => String::new(),
        count => format!(", with {} above", count_of(count, "warning")),
    };
    say(&format!("the configuration is good{warnings}; nothing was started\n"));
    Ok(())
}

pub(super) fn check_interface(name: &str) -> anyhow::Result<()> {
    let checked = netio::link::get(name).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => PacketError::NoInterface { name: name.to_owned() },
        _ => PacketError::Io { name: name.to_owned(), what: "finding its link", error },
    });
    checked.map(drop).map_err(without_interface)
}

pub(super) fn summary_head(config: &Config) -> String {
    let workers = count_of(config.workers, "worker");
    let mut text = String::new();
    for config::Bridge { number, name, mac_table_size, mac_aging_time } in &config.bridges {
        let is_of_it = |port: &&Port| port.is_bridged() && port.bridge == *number;
        let ports = count_of(config.ports.iter().filter(is_of_it).count(), "port");
        let workers = if config.bridges.len() == 1 { format!(" {workers},") } else { String::new() };
        let _ =
            writeln!(text, "bridge {name}: {ports},{workers} MAC table of {mac_table_size} entries, ageing {mac_aging_time} s");
    }
    if config.bridges.len() > 1 {
        let _ = writeln!(text, "{workers} for {} bridges", config.bridges.len());
    }
    text
}

/// "1 port", "2 ports".
pub(super) fn count_of(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// " in namespace blue"; empty for the daemon's own namespace, and for a port whose name says it.
pub(super) fn place_of(port: &Port) -> String {
    let netns = port.link().filter(|(link, _)| *link == port.name).and_then(|(_, netns)| netns);
    netns.map_or_else(String::new, |netns| format!(" in namespace {netns}"))
}

/// Checks that no tunnel of a bridge goes out by an interface that is a port of the same bridge: what leaves there would come in
/// again and be sent into the tunnel once more. `leaves_from` names the tunnel whose path begins at one of the addresses that it gets.
pub(super) fn check_way_out<'t>(
    bridge: BridgeId,
    name: &str,
    leaves_from: impl FnOnce(BridgeId, &[Ipv4Addr]) -> Option<&'t str>,
) -> anyhow::Result<()> {
    let addresses = netio::link::get(name).and_then(|link| netio::route::addresses(link.index));
    let addresses: Vec<Ipv4Addr> = addresses.unwrap_or_default().into_iter().map(|(address, _)| address).collect();
    match leaves_from(bridge, &addresses) {
        Some(tunnel) => anyhow::bail!(
            "tunnel {tunnel} goes out by {name}, which is a port of the bridge: its datagrams would be bridged into it again; \
             give the tunnel another interface, or let guests be routed out by this one (--uplink {name} --uplink-mode nat)"
        ),
        None => Ok(()),
    }
}
