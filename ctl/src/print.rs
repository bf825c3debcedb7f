//! Tables of the switch's views.

use std::fmt::Write as _;
use std::path::Path;

use api::{Phase, Protocol, Side};

use crate::paint::Colour;
use crate::routes;
use crate::table::{Table, plain};

/// Rows of a table of the whole switch. Of longer ones it has the number, and the verb that lists them.
const MOST_ROWS: usize = 40;

fn text<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// Appends a heading and a table, unless the table is empty.
fn section(out: &mut String, what: &str, is_empty: bool, table: &Table) {
    if !is_empty {
        let _ = write!(out, "\n{what}\n{table}");
    }
}

/// Appends a heading and a table, or one line about a table that is too long to be read beside others.
fn short_section(out: &mut String, what: &str, rows: usize, verb: &str, table: &Table) {
    if rows <= MOST_ROWS {
        section(out, what, rows == 0, table);
    } else {
        let _ = write!(out, "\n{what}: {rows}; see 'vswitchctl {verb}'\n");
    }
}

/// The ports; of many only those that are not up.
fn ports_section(out: &mut String, ports: &[api::Port]) {
    short_section(out, "ports", ports.len(), "port list", &port_table(ports));
    if ports.len() > MOST_ROWS {
        let others: Vec<api::Port> = ports.iter().filter(|port| port.state != api::State::Up).cloned().collect();
        short_section(out, "ports that are not up", others.len(), "port list", &port_table(&others));
    }
}

/// The switch that answered at this socket.
pub(crate) fn show(show: &api::Show, socket: &Path) -> String {
    let (version, socket) = (plain(&show.version), plain(&socket.display().to_string()));
    let mut out = format!("vswitchd {version}, pid {}, up {}, at {socket}\n", show.pid, duration(show.uptime));
    // Several are in a table below.
    if let [api::Bridge { name, workers, mac_entries, .. }] = show.bridges.as_slice() {
        let _ = writeln!(out, "bridge {}: workers {workers}, MAC addresses {mac_entries}", plain(name));
    } else if let Some(first) = show.bridges.first() {
        let _ = writeln!(out, "{} bridges, workers {}", show.bridges.len(), first.workers);
    }
    out += &latency(&show.latency);
    match show.problems.as_slice() {
        [] => out.push_str(&format!("health: {}\n", Colour::Green.paint("good"))),
        problems => {
            for problem in problems {
                let _ = writeln!(out, "health: {}", Colour::Red.paint(&plain(problem)));
            }
        }
    }
    if show.bridges.len() > 1 {
        short_section(&mut out, "bridges", show.bridges.len(), "bridge list", &bridge_table(&show.bridges));
    }
    ports_section(&mut out, &show.ports);
    let mut gateways = Table::new(["bridge", ">vlan", "gateway", "mac", "routing"]);
    for gateway in &show.gateways {
        let address = format!("{}/{}", gateway.address, gateway.prefix_len);
        let routing = routing_text(gateway);
        gateways.row([gateway.bridge.clone(), vlan(gateway.vlan), address, gateway.mac.clone(), routing]);
    }
    short_section(&mut out, "gateways", show.gateways.len(), "bridge list", &gateways.without_same("bridge"));
    short_section(&mut out, "routes", show.routes.len(), "route list", &routes::table(&show.routes));
    if let Some(uplink) = &show.uplink {
        let mut table = Table::new(["interface", "mode", "state", ">mtu", "outside address", "gate"]);
        let api::Uplink { interface, mode, state, mtu, outside, gate } = uplink.clone();
        table.row([interface, mode.to_string(), state.to_string(), text(mtu), text(outside), text(gate)]);
        section(&mut out, "uplink", false, &table);
    }
    short_section(&mut out, "tunnels", show.tunnels.len(), "tunnel list", &tunnel_table(&show.tunnels));
    out
}

/// The bridges with their gateways.
#[expect(clippy::ptr_arg, reason = "it is the type that the answer is read as")]
pub(crate) fn bridges(bridges: &Vec<api::Bridge>) -> String {
    bridge_table(bridges).to_string()
}

/// What is routed for the guests of a gateway: `all, host`.
fn routing_text(gateway: &api::Gateway) -> String {
    if gateway.host { format!("{}, host", gateway.routing) } else { gateway.routing.to_string() }
}

/// The guests.
pub(crate) fn guests(guests: &Vec<api::Guest>) -> String {
    let mut table = Table::new(["guest", "network", "port", "addresses", "mac", "names", "published", "isolated", "labels"]);
    for guest in guests {
        let labels: Vec<String> = guest.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        table.row([
            guest.id.clone(),
            guest.network.clone(),
            guest.port.clone(),
            guest.addresses.join(", "),
            guest.mac.clone().unwrap_or_default(),
            guest.names.join(", "),
            guest.publish.join(", "),
            if guest.isolated { "yes" } else { "no" }.to_owned(),
            labels.join(", "),
        ]);
    }
    table.to_string()
}

fn bridge_table(bridges: &[api::Bridge]) -> Table {
    let mut table = Table::new(["bridge", ">ports", ">mac addresses", ">at most", ">ageing", "routing", "gateways"]);
    for bridge in bridges {
        let gateway = |gateway: &api::Gateway| match gateway.vlan {
            0 => format!("{}/{}", gateway.address, gateway.prefix_len),
            vlan => format!("{}/{} on VLAN {vlan}", gateway.address, gateway.prefix_len),
        };
        let gateways: Vec<String> = bridge.gateways.iter().map(gateway).collect();
        let counts = [bridge.ports, bridge.mac_entries, bridge.mac_table_size].map(|count| count.to_string());
        let [ports, entries, size] = counts;
        let routing = text(bridge.gateways.first().map(routing_text));
        let ageing = format!("{} s", bridge.mac_aging_time);
        table.row([bridge.name.clone(), ports, entries, size, ageing, routing, gateways.join(", ")]);
    }
    table
}

/// The latency of the pipeline; empty before the first measured batch.
fn latency(latency: &api::Latency) -> String {
    let api::Latency { samples, p50_ns, p99_ns, p999_ns, max_ns } = *latency;
    if samples == 0 {
        return String::new();
    }
    let [p50, p99, p999, max] = [p50_ns, p99_ns, p999_ns, max_ns].map(short_time);
    format!("pipeline: p50 {p50}, p99 {p99}, p99.9 {p999}, max {max} ({samples} batches measured)\n")
}

/// A time with its unit: `900ns`, `1.2us`, `35ms`.
pub(crate) fn short_time(nanos: u64) -> String {
    let (unit, name) = match nanos {
        0..1_000 => return format!("{nanos}ns"),
        1_000..1_000_000 => (1e3, "us"),
        1_000_000..1_000_000_000 => (1e6, "ms"),
        _ => (1e9, "s"),
    };
    let value = nanos as f64 / unit;
    if value < 9.95 { format!("{value:.1}{name}") } else { format!("{value:.0}{name}") }
}

/// A duration in its two largest units: `3d 4h`, `5m 6s`.
pub(crate) fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

fn vlan(number: u16) -> String {
    if number == 0 { String::new() } else { number.to_string() }
}

pub(crate) fn ports(ports: &[api::Port]) -> String {
    port_table(ports).to_string()
}

fn port_table(ports: &[api::Port]) -> Table {
    let mut table =
        Table::new(["bridge", "port", "id", "kind", "state", ">mtu", "vlan", "limits", "guard", "namespace", "device"]);
    for port in ports {
        let vlan = port.vlan_text();
        let limits = port.limits.map_or_else(String::new, limits);
        let state = if port.loop_blocked { format!("{}, blocked", port.state) } else { port.state.to_string() };
        let guard = guard(port);
        let api::Port { name, id, bridge, kind, namespace, mtu, device, .. } = port.clone();
        table.row([
            text(bridge),
            name,
            text(id),
            kind.to_string(),
            state,
            text(mtu),
            vlan,
            limits,
            guard,
            text(namespace),
            device,
        ]);
    }
    table.without_same("bridge").without_empty("id").without_empty("limits").without_empty("guard")
}

/// What a port's frames are limited to: `10.0.0.5, isolated`.
fn guard(port: &api::Port) -> String {
    let guard = match (port.guard, port.addresses.as_slice()) {
        (false, _) => None,
        (true, []) => Some(if port.mac.is_some() { "MAC address" } else { "no server" }.to_owned()),
        (true, addresses) => Some(addresses.join("+")),
    };
    guard.into_iter().chain(port.isolated.then(|| "isolated".to_owned())).collect::<Vec<_>>().join(", ")
}

/// The storm limits that are not the usual ones.
fn limits(limits: api::Limits) -> String {
    let api::Limits { broadcast, multicast, unknown } = limits;
    config::Limits { broadcast, multicast, unknown }.keys_text().trim_start_matches(", ").to_owned()
}

pub(crate) fn port_stats(stats: &api::Stats) -> String {
    let headings = ["port", ">rx frames", ">rx bytes", ">tx frames", ">tx bytes", ">tx writes", ">dropped", ">dropped by kernel"];
    let mut table = Table::new(headings);
    let mut drops = Table::new(["port", "reason of the drop", ">frames"]);
    for port in &stats.ports {
        let numbers =
            [port.rx_frames, port.rx_bytes, port.tx_frames, port.tx_bytes, port.tx_writes, port.dropped, port.kernel_dropped];
        let [a, b, c, d, e, f, g] = numbers.map(|number| number.to_string());
        table.row([port.name.clone(), a, b, c, d, e, f, g]);
        for (reason, frames) in &port.drops {
            drops.row([port.name.clone(), reason.clone(), frames.to_string()]);
        }
    }
    let mut out = table.to_string();
    if stats.ports.iter().any(|port| !port.drops.is_empty()) {
        let _ = write!(out, "\n{drops}");
    }
    out
}

pub(crate) fn fdb(entries: &[api::MacEntry]) -> String {
    let mut table = Table::new(["bridge", ">vlan", "mac", "port", ">age"]);
    for entry in entries {
        let age = entry.age.map_or_else(|| "static".to_owned(), |age| format!("{age}s"));
        table.row([entry.bridge.clone(), vlan(entry.vlan), entry.mac.clone(), entry.port.clone(), age]);
    }
    table.without_same("bridge").to_string()
}

/// The number of removed entries, as a sentence.
pub(crate) fn flushed(done: &api::Flushed, one: &str, many: &str) -> String {
    format!("{} {} flushed\n", done.flushed, if done.flushed == 1 { one } else { many })
}

/// Names and numbers, one line each.
fn numbers<const N: usize>(numbers: [(&str, u64); N]) -> String {
    let mut table = Table::new(["counter", ">value"]);
    for (name, number) in numbers {
        table.row([name.to_owned(), number.to_string()]);
    }
    table.to_string()
}

pub(crate) fn fdb_stats(stats: &api::MacTableStats) -> String {
    numbers([
        ("entries", stats.entries as u64),
        ("static", stats.statics as u64),
        ("max", stats.size as u64),
        ("learned", stats.learned),
        ("moved", stats.moved),
        ("evicted", stats.evicted),
        ("expired", stats.expired),
    ])
}

pub(crate) fn nat_stats(stats: &api::NatStats) -> String {
    let counters = numbers([
        ("connections", stats.connections as u64),
        ("mappings", stats.mappings as u64),
        ("opened", stats.opened),
        ("expired", stats.expired),
        ("flushed", stats.flushed),
        ("evicted", stats.evicted),
        ("max connections", stats.max_connections as u64),
    ]);
    let mut ports = Table::new(["outside address", "protocol", ">ports used", ">ports free"]);
    for api::NatPorts { address, protocol, used, free } in &stats.ports {
        ports.row([address.clone(), protocol.to_string(), used.to_string(), free.to_string()]);
    }
    if stats.ports.is_empty() { counters } else { format!("{counters}\n{ports}") }
}

pub(crate) fn neighbours(neighbours: &[api::Neighbour]) -> String {
    let mut table = Table::new(["bridge", "network", "address", "mac", ">age"]);
    for neighbour in neighbours {
        let api::Neighbour { bridge, vlan, address, mac, age } = neighbour.clone();
        let network = match vlan {
            None => "uplink".to_owned(),
            Some(0) => "untagged".to_owned(),
            Some(vlan) => format!("vlan {vlan}"),
        };
        table.row([text(bridge), network, address, mac.unwrap_or_else(|| "incomplete".to_owned()), format!("{age}s")]);
    }
    table.without_same("bridge").to_string()
}

pub(crate) fn connections(list: &api::Connections) -> String {
    let mut table = Table::new(["protocol", "state", ">expires", "from", "to", "outside"]);
    for connection in &list.connections {
        let api::Connection { original, reply, opened_by, .. } = connection;
        let outside = match opened_by {
            Side::Inside => format!("{}:{}", reply.dst, reply.dst_port),
            Side::Outside => format!("for {}:{}", reply.src, reply.src_port),
        };
        table.row([
            connection.protocol.to_string(),
            text(connection.phase),
            format!("{}s", connection.expires_in),
            format!("{}:{}", original.src, original.src_port),
            format!("{}:{}", original.dst, original.dst_port),
            outside,
        ]);
    }
    let mut out = table.to_string();
    if list.connections.len() < list.total {
        let _ = writeln!(out, "{} of {}; see --limit", list.connections.len(), list.total);
    }
    out
}

/// Connections in the format of conntrack(8), for scripts that read it.
pub(crate) fn conntrack(list: &api::Connections) -> String {
    list.connections.iter().map(conntrack_line).collect()
}

fn conntrack_line(connection: &api::Connection) -> String {
    let api::Connection { protocol, protocol_number, phase, expires_in, original, reply, .. } = connection;
    let state = phase.map_or_else(String::new, |phase| format!(" {}", conntrack_state(phase)));
    let name = match *protocol {
        Protocol::TCP => "tcp",
        Protocol::UDP => "udp",
        Protocol::ICMP => "icmp",
        _ => "unknown",
    };
    format!(
        "{:<8} {protocol_number} {expires_in}{state} {} {}\n",
        name,
        conntrack_flow(*protocol, original, true),
        conntrack_flow(*protocol, reply, false)
    )
}

/// The kernel's name for a state.
fn conntrack_state(phase: Phase) -> &'static str {
    match phase {
        Phase::Opening => "SYN_SENT",
        Phase::Established => "ESTABLISHED",
        Phase::Closing => "TIME_WAIT",
        Phase::Reset => "CLOSE",
    }
}

/// A flow in the format of conntrack(8). ICMP flows have a type and an identifier: the source port of a request is its
/// identifier, the other port its type.
fn conntrack_flow(protocol: Protocol, flow: &api::Flow, is_original: bool) -> String {
    let api::Flow { src, src_port, dst, dst_port } = flow;
    let addresses = format!("src={} dst={}", plain(src), plain(dst));
    match protocol {
        Protocol::TCP | Protocol::UDP => format!("{addresses} sport={src_port} dport={dst_port}"),
        Protocol::ICMP => {
            let (id, request) = if is_original { (src_port, dst_port) } else { (dst_port, src_port) };
            // The reply to an echo request has type 0, the reply to a timestamp request type 14 (RFC 792).
            let kind = match (is_original, request) {
                (true, request) => *request,
                (false, 8) => 0,
                (false, request) => request + 1,
            };
            format!("{addresses} type={kind} code=0 id={id}")
        }
        _ => addresses,
    }
}

pub(crate) fn nat(nat: &api::Nat) -> String {
    let mut out = String::new();
    let mut addresses = Table::new(["outside address", "kind", "guest"]);
    for address in &nat.addresses {
        addresses.row([address.address.clone(), address.kind.to_string(), text(address.guest.as_ref())]);
    }
    let _ = write!(out, "{addresses}");
    let mut published = Table::new(["published"]);
    nat.published.iter().for_each(|rule| published.row([rule.clone()]));
    let mut mappings = Table::new(["protocol", "inside", "outside", ">connections", "by"]);
    for mapping in &nat.mappings {
        let api::Mapping { protocol, inside, outside, connections, published } = mapping.clone();
        let by = if published { "rule" } else { "guest" }.to_owned();
        mappings.row([protocol.to_string(), inside, outside, connections.to_string(), by]);
    }
    for (is_empty, table) in [(nat.published.is_empty(), &published), (nat.mappings.is_empty(), &mappings)] {
        if !is_empty {
            let _ = write!(out, "\n{table}");
        }
    }
    if nat.mappings.len() < nat.total {
        let _ = writeln!(out, "{} of {}; see --limit", nat.mappings.len(), nat.total);
    }
    out
}

pub(crate) fn tunnels(tunnels: &[api::Tunnel]) -> String {
    tunnel_table(tunnels).to_string()
}

/// One row per peer.
fn tunnel_table(tunnels: &[api::Tunnel]) -> Table {
    let headings = [
        "bridge",
        "tunnel",
        "kind",
        ">vni",
        ">port",
        "from",
        "peer",
        ">mtu",
        ">heard",
        ">rx frames",
        ">tx frames",
        ">dropped",
        "problem",
    ];
    let mut table = Table::new(headings);
    for tunnel in tunnels {
        for peer in &tunnel.peers {
            table.row([
                text(tunnel.bridge.as_ref()),
                tunnel.name.clone(),
                tunnel.kind.to_string(),
                text(tunnel.vni),
                tunnel.port.to_string(),
                text(tunnel.local.as_ref().or(peer.source.as_ref())),
                peer.address.clone(),
                peer.mtu.to_string(),
                peer.last_heard.map_or_else(|| "never".to_owned(), duration),
                peer.rx_frames.to_string(),
                peer.tx_frames.to_string(),
                peer.dropped.to_string(),
                text(peer.problem.as_ref()),
            ]);
        }
    }
    table.without_same("bridge")
}

/// One row per part: its own level, or the common one.
pub(crate) fn log(log: &api::Log) -> String {
    let mut table = Table::new(["part", "level"]);
    table.row(["all".to_owned(), log.level.to_string()]);
    for part in &log.known {
        let level = log.parts.get(part).map_or_else(|| format!("({})", log.level), ToString::to_string);
        table.row([part.clone(), level]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(src: &str, src_port: u16, dst: &str, dst_port: u16) -> api::Flow {
        api::Flow { src: src.to_owned(), src_port, dst: dst.to_owned(), dst_port }
    }

    #[test]
    fn many_ports_are_a_number_and_those_that_are_not_up() {
        let port = |n: usize| {
            serde_json::from_value(serde_json::json!({
                "name": format!("tap{n}"), "id": null, "labels": {}, "bridge": "br0", "kind": "tap", "namespace": null,
                "vlan_mode": "trunk", "vlan": 0, "trunks": null, "state": if n == 7 { "gone" } else { "up" }, "loop_blocked": false,
                "mtu": 1500, "device": ""
            }))
        };
        let ports: Vec<api::Port> = (0..200).map(port).collect::<Result<_, _>>().unwrap();
        let section = |ports| {
            let mut out = String::new();
            ports_section(&mut out, ports);
            out
        };
        let few = section(&ports[..MOST_ROWS]);
        assert_eq!(few.lines().count(), MOST_ROWS + 3, "{few}");
        let many = section(&ports);
        assert!(many.starts_with("\nports: 200; see 'vswitchctl port list'\n\nports that are not up\n"), "{many}");
        assert!(many.lines().count() == 6 && many.contains("tap7"), "{many}");
    }

    #[test]
    fn lines_are_those_of_conntrack() {
        let mut connection = api::Connection {
            protocol: Protocol::TCP,
            protocol_number: 6,
            opened_by: Side::Inside,
            phase: Some(Phase::Established),
            expires_in: 7440,
            original: flow("10.77.0.2", 40_000, "198.51.100.7", 443),
            reply: flow("198.51.100.7", 443, "203.0.113.1", 50_000),
        };
        let line = "tcp      6 7440 ESTABLISHED src=10.77.0.2 dst=198.51.100.7 sport=40000 dport=443 \
            src=198.51.100.7 dst=203.0.113.1 sport=443 dport=50000\n";
        assert_eq!(conntrack_line(&connection), line);
        (connection.protocol, connection.protocol_number, connection.phase) = (Protocol::ICMP, 1, None);
        connection.original = flow("10.77.0.2", 77, "198.51.100.7", 8);
        connection.reply = flow("198.51.100.7", 8, "203.0.113.1", 78);
        let line = "icmp     1 7440 src=10.77.0.2 dst=198.51.100.7 type=8 code=0 id=77 \
            src=198.51.100.7 dst=203.0.113.1 type=0 code=0 id=78\n";
        assert_eq!(conntrack_line(&connection), line);
    }

    #[test]
    fn durations() {
        assert_eq!([0, 999, 1234, 35_000_000, 2_000_000_000].map(short_time), ["0ns", "999ns", "1.2us", "35ms", "2.0s"]);
        assert_eq!([59, 61, 7260, 90_000].map(duration), ["59s", "1m 1s", "2h 1m", "1d 1h"]);
    }
}
