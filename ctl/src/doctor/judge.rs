//! Findings: pure functions of the plan and the facts.

use std::io::ErrorKind;

use api::{Gate, PortKind};
use serde::Serialize;

use super::facts::{Control, Facts, HostInterface};
use super::plan::{IdlePort, Network, Plan, Tunnel, Uplink};

/// Severity of a finding.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// Nothing to fix.
    Ok,
    /// Works, but less well than it could, or not for all guests.
    Warning,
    /// Does not work.
    Problem,
}

/// One finding.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub(crate) struct Check {
    pub(crate) status: Status,
    /// Subject of the check.
    pub(crate) what: String,
    /// State of the subject, with the reason for the severity.
    pub(crate) why: String,
    /// The fix: a command where possible.
    pub(crate) fix: Option<String>,
}

fn ok(what: impl Into<String>, why: impl Into<String>) -> Check {
    Check { status: Status::Ok, what: what.into(), why: why.into(), fix: None }
}

fn warning(what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Check {
    Check { status: Status::Warning, what: what.into(), why: why.into(), fix: Some(fix.into()) }
}

fn problem(what: impl Into<String>, why: impl Into<String>, fix: impl Into<String>) -> Check {
    Check { status: Status::Problem, what: what.into(), why: why.into(), fix: Some(fix.into()) }
}

/// All findings; causes come before their consequences.
pub(crate) fn judge(plan: &Plan, facts: &Facts) -> Vec<Check> {
    let mut checks = vec![control(facts)];
    checks.extend(plan.has_taps.then(|| tun(facts)));
    checks.extend(rights(plan, facts));
    checks.extend(offloads(plan, facts));
    checks.extend(namespaces(facts));
    if let Some(uplink) = &plan.uplink {
        checks.extend(way_out(plan, uplink, facts));
    }
    checks.extend(networks(plan, facts));
    checks.extend(packet_ports(plan, facts));
    checks.extend(tunnels(plan, facts));
    checks.extend(limits(plan, facts));
    checks.extend(complaints(plan, facts));
    checks
}

fn control(facts: &Facts) -> Check {
    const WHAT: &str = "control socket";
    let place = &facts.place;
    match facts.control {
        Control::Answers => ok(WHAT, format!("a switch answers at {place}")),
        Control::Absent => ok(WHAT, format!("no switch runs at {place}")),
        Control::Stale => warning(
            WHAT,
            format!(
                "{place}: no process listens: a switch was killed, or listens in another namespace; the next switch that starts \
                 replaces it"
            ),
            format!("rm {place}, and start the switch; or name the socket of one that runs with --control"),
        ),
        Control::Denied => warning(
            WHAT,
            format!("{place}: access is limited to its owner and group, so the switch was not queried"),
            "run this with sudo",
        ),
        Control::Other => problem(
            WHAT,
            format!("{place}: the file is not a socket, and the switch does not replace it"),
            "choose another path with --control",
        ),
    }
}

fn tun(facts: &Facts) -> Check {
    const WHAT: &str = "/dev/net/tun";
    match facts.tun {
        Ok(()) => ok(WHAT, "can be opened"),
        Err(ErrorKind::NotFound) => problem(
            WHAT,
            "is missing, so no TAP device can be created",
            "modprobe tun; or mkdir -p /dev/net && mknod -m 0666 /dev/net/tun c 10 200",
        ),
        Err(ErrorKind::PermissionDenied) => problem(
            WHAT,
            "permission denied: check its mode, or the devices that the container may use",
            "chmod 0666 /dev/net/tun",
        ),
        Err(kind) => problem(WHAT, format!("cannot be opened ({kind}): the kernel module is not loaded"), "modprobe tun"),
    }
}

/// Capability numbers, see capabilities(7).
const NET_BIND_SERVICE: u32 = 10;
const NET_ADMIN: u32 = 12;
const NET_RAW: u32 = 13;
const SYS_PTRACE: u32 = 19;
const SYS_ADMIN: u32 = 21;

fn rights(plan: &Plan, facts: &Facts) -> Vec<Check> {
    let shares = plan.shares_an_address();
    let is_packet = plan.uplink.is_some() || !plan.packet_ports.is_empty();
    let is_low = shares && plan.published.iter().any(|(_, port)| *port < 1024);
    let by_number = plan.namespaces.iter().any(|name| name.starts_with("pid:"));
    let wanted = [
        (NET_ADMIN, "CAP_NET_ADMIN", plan.has_taps || shares, "TAP devices and the gate on the uplink"),
        (NET_RAW, "CAP_NET_RAW", is_packet, "the uplink and packet ports"),
        (NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE", is_low, "published ports below 1024"),
        (SYS_ADMIN, "CAP_SYS_ADMIN", !plan.namespaces.is_empty(), "ports in other network namespaces"),
        (SYS_PTRACE, "CAP_SYS_PTRACE", by_number && plan.running.is_none(), "namespaces of other users' processes"),
    ];
    let who = if plan.running.is_some() { "the switch" } else { "a switch started as this user" };
    let missing: Vec<_> = wanted.iter().filter(|(bit, _, wanted, _)| *wanted && facts.rights >> bit & 1 == 0).collect();
    let names = |list: &[&(u32, &'static str, bool, &'static str)]| {
        list.iter().map(|(_, name, ..)| name.to_lowercase()).collect::<Vec<_>>().join(",")
    };
    if missing.is_empty() {
        let held: Vec<&str> = wanted.iter().filter(|(_, _, wanted, _)| *wanted).map(|(_, name, ..)| *name).collect();
        let held = if held.is_empty() { "nothing".to_owned() } else { held.join(", ") };
        return vec![ok("rights", format!("{who} has what it needs: {held}"))];
    }
    let fix = format!("start it as root; or setcap {}+ep $(command -v vswitchd); or unshare -rn", names(&missing));
    missing.iter().map(|(_, name, _, what)| problem("rights", format!("{who} lacks {name}, for {what}"), fix.clone())).collect()
}

fn offloads(plan: &Plan, facts: &Facts) -> Option<Check> {
    const WHAT: &str = "TAP offloads";
    if !plan.has_taps {
        return None;
    }
    let refused = facts.refused_offloads.as_ref()?;
    Some(match refused.as_slice() {
        [] => ok(WHAT, "the kernel supports checksum offload, TSO and USO"),
        // Since Linux 6.2.
        ["uso"] => ok(WHAT, "the kernel supports checksum offload and TSO; UDP is segmented in software (USO needs Linux 6.2)"),
        _ => warning(
            WHAT,
            format!("the kernel refuses {}: frames are segmented in software", refused.join(", ")),
            "run Linux 6.2 or later",
        ),
    })
}

fn namespaces(facts: &Facts) -> Vec<Check> {
    let lost = |(name, kind): &(String, ErrorKind)| match kind {
        ErrorKind::NotFound => {
            let fix = match name.contains(['/', ':']) {
                true => "start the process or container that it belongs to".to_owned(),
                false => format!("ip netns add {name}"),
            };
            problem(format!("namespace {name}"), "does not exist, so its ports cannot be created", fix)
        }
        kind => problem(format!("namespace {name}"), format!("cannot be opened: {kind}"), "run this with sudo"),
    };
    facts.lost_namespaces.iter().map(lost).collect()
}

fn way_out(plan: &Plan, uplink: &Uplink, facts: &Facts) -> Vec<Check> {
    let name = &uplink.interface;
    let what = format!("uplink {name}");
    let Some(interface) = facts.interfaces.get(name) else {
        return vec![problem(what, "there is no such interface", "ip -br link, and name one of them")];
    };
    let mut checks = Vec::new();
    if !interface.up {
        checks.push(problem(&what, "is set down", format!("ip link set {name} up")));
    } else if !interface.has_carrier {
        checks.push(problem(
            &what,
            "has no carrier: check the cable and the device at the other end",
            format!("ip -s link show {name}"),
        ));
    } else {
        checks.push(ok(&what, format!("is up, MTU {}", interface.mtu)));
    }
    checks.extend(lro(name, interface));
    if !uplink.is_nat {
        return checks;
    }
    if let Some(own) = uplink.own.iter().find(|own| interface.addresses.iter().any(|(address, _)| address == *own)) {
        let fix = format!("ip addr del {own} dev {name}; or omit address= to share the host's address");
        checks.push(problem(
            &what,
            format!("{own} is assigned to the host too: host and switch both answer ARP requests for it"),
            fix,
        ));
    }
    if plan.shares_an_address() {
        checks.push(shared(&what, name, interface, facts));
    }
    let has_default = interface.routes.iter().any(|route| route.prefix_len == 0);
    if !has_default && uplink.own.is_empty() {
        let fix = format!("ip route add default via ADDRESS dev {name}; or gateway= of [uplink]");
        checks.push(warning(&what, "the host has no default route through it: guests reach only its own networks", fix));
    }
    checks
}

/// Checks an address that the switch shares with the host. The host's network stack receives replies to guests too. A gate on
/// the interface keeps them from it; then ip_forward, rp_filter and the host's firewall do not affect guests' connections.
/// Sockets on the ports keep the stack silent, but a firewall that rejects answers before they are found.
fn shared(what: &str, name: &str, interface: &HostInterface, facts: &Facts) -> Check {
    if interface.addresses.is_empty() {
        let fix = format!("ip addr add ADDRESS/LEN dev {name}; or address= of [uplink]");
        return problem(what, "has no IPv4 address to translate guests' connections to", fix);
    }
    match facts.silence {
        None | Some(Ok(Gate::Tcx)) => ok(
            what,
            "gate tcx: the host stays silent about guests' connections (no RST); ip_forward, rp_filter and its firewall do not matter",
        ),
        Some(Ok(Gate::Filter)) => ok(
            what,
            "gate filter: the host stays silent about guests' connections (no RST), and its firewall does not matter; guests keep no \
             ports of ip_local_port_range (Linux 6.6 and CAP_BPF lift this)",
        ),
        Some(Ok(Gate::Sockets)) => warning(
            what,
            "gate sockets: the host stays silent about guests' connections by a socket for each port, but a firewall that rejects ends \
             them",
            "Linux 6.6 and CAP_BPF (AmbientCapabilities= in the unit); or address= of [uplink]; or let the firewall drop",
        ),
        Some(Err(ErrorKind::PermissionDenied)) => problem(
            what,
            "no port can be reserved on the host, whose network stack would reset guests' connections: CAP_NET_ADMIN is missing",
            "start it as root; or give the switch an address of its own (address= of [uplink])",
        ),
        Some(Err(kind)) => problem(what, format!("no port can be reserved on the host: {kind}"), "ss -s; and free some ports"),
    }
}

fn lro(name: &str, interface: &HostInterface) -> Option<Check> {
    interface.has_lro.then(|| {
        let why = "large receive offload is on: it merges packets irreversibly, so forwarded packets are damaged or too long";
        warning(format!("interface {name}"), why, format!("ethtool -K {name} lro off"))
    })
}

/// Checks that no network of the guests overlaps with a network of the host.
fn networks(plan: &Plan, facts: &Facts) -> Vec<Check> {
    let mut checks = Vec::new();
    for gateway in &plan.gateways {
        let what = format!("guests' network {gateway}");
        // By its own ports the host is a guest.
        let mut others = facts.interfaces.iter().filter(|(name, _)| !plan.own_links.contains(name));
        let found = others.find_map(|(name, interface)| Some((name, meets(*gateway, interface)?)));
        let is_uplink = |name: &String| plan.uplink.as_ref().is_some_and(|uplink| uplink.is_nat && uplink.interface == *name);
        let fix = "use another network for the guests: gateway = \"10.X.0.1/24\" of the bridge";
        checks.push(match found {
            None => ok(what, "overlaps with no network of this host"),
            Some((name, other)) if is_uplink(name) => {
                problem(what, format!("overlaps with {other} behind the uplink {name}: addresses in both are ambiguous"), fix)
            }
            Some((name, other)) => warning(
                what,
                format!(
                    "overlaps with {other} behind the host's {name}: guests cannot reach that network, nor the host the guests"
                ),
                fix,
            ),
        });
    }
    checks
}

fn meets(gateway: Network, interface: &HostInterface) -> Option<Network> {
    let addresses =
        interface.addresses.iter().map(|(address, prefix_len)| Network { address: *address, prefix_len: *prefix_len });
    let routes = interface.routes.iter().filter(|route| route.prefix_len > 0);
    let routes = routes.map(|route| Network { address: route.prefix, prefix_len: route.prefix_len });
    addresses.chain(routes).find(|other| gateway.overlaps(*other))
}

fn packet_ports(plan: &Plan, facts: &Facts) -> Vec<Check> {
    let mut checks = Vec::new();
    for name in &plan.packet_ports {
        let what = format!("port {name}");
        let Some(interface) = facts.interfaces.get(name) else {
            checks.push(problem(what, "there is no such interface", "ip -br link, and name one of them"));
            continue;
        };
        checks.extend(lro(name, interface));
        if !interface.up {
            checks.push(problem(what, "is set down", format!("ip link set {name} up")));
        } else if interface.forwards && !interface.is_strict {
            // The host still receives frames to the interface's own MAC address (netio/src/silence.rs).
            let fix = format!("sysctl -w net.ipv4.conf.{name}.forwarding=0");
            let why = "the host forwards frames that guests send to this interface's own MAC address, bypassing the switch";
            checks.push(warning(what, why, fix));
        } else {
            checks.push(ok(what, "is up, and the host forwards nothing from it"));
        }
    }
    checks
}

fn tunnels(plan: &Plan, facts: &Facts) -> Vec<Check> {
    let mut checks: Vec<Check> = plan.tunnels.iter().flat_map(|tunnel| device(tunnel, facts)).collect();
    for (at, remote, way) in &facts.ways {
        let Some(tunnel) = plan.tunnels.get(*at) else { continue };
        let what = format!("tunnel {} to {remote}", tunnel.name);
        checks.push(match way {
            Err(error) => problem(what, format!("there is no route: {error}"), format!("ip route get {remote}")),
            Ok(mtu) => fits(plan, tunnel, what, *mtu, if remote.is_ipv4() { 20 } else { 40 }),
        });
    }
    checks
}

fn device(tunnel: &Tunnel, facts: &Facts) -> Option<Check> {
    let name = tunnel.device.as_ref()?;
    let what = format!("tunnel {}", tunnel.name);
    match facts.interfaces.get(name) {
        None => Some(problem(what, format!("there is no interface {name}"), "ip -br link, and name one of them")),
        Some(interface) if !interface.up => Some(problem(what, format!("{name} is set down"), format!("ip link set {name} up"))),
        Some(_) => None,
    }
}

fn fits(plan: &Plan, tunnel: &Tunnel, what: String, way: u32, outer_len: u32) -> Check {
    let inside = way.saturating_sub(outer_len + tunnel.inner_len);
    let mtu = tunnel.mtu.unwrap_or(inside);
    let too_long = plan.mtus.iter().filter(|_| tunnel.is_bridged).find(|(_, port)| *port > mtu.min(inside));
    match too_long {
        _ if mtu > inside => problem(
            what,
            format!("packets of {mtu} bytes need datagrams of {}, and the path MTU is {way}", mtu + outer_len + tunnel.inner_len),
            format!("mtu = {inside} of the tunnel; or raise the MTU of the outgoing interface"),
        ),
        Some((port, mtu_of_port)) => warning(
            what,
            format!(
                "carries packets of {mtu} bytes, and port {port} has MTU {mtu_of_port}: longer packets are fragmented, or refused with an ICMP error"
            ),
            format!("mtu = {mtu} of the port, and the same in its guests"),
        ),
        None => ok(what, format!("carries packets of {mtu} bytes")),
    }
}

/// File descriptors for everything except outside ports. With a shared address, each outside port of TCP and UDP takes one more.
const OTHER_DESCRIPTORS: u64 = 4096;
/// Minimum queue length, in frames, of a guest's socket. The kernel's default of 10 does not hold a burst.
const ENOUGH_DATAGRAMS: u64 = 512;
/// Minimum receive buffer of a socket, in bytes: the kernel's default.
const ENOUGH_BYTES: u64 = 212_992;

fn limits(plan: &Plan, facts: &Facts) -> Vec<Check> {
    let mut checks = Vec::new();
    let takes_sockets = plan.shares_an_address() && matches!(facts.silence, Some(Ok(Gate::Sockets)));
    if let (true, Some(uplink), Some(limit)) = (takes_sockets, &plan.uplink, facts.open_files) {
        let ports = u64::from(uplink.ports.end().saturating_sub(*uplink.ports.start())) + 1;
        let wanted = 2 * ports + OTHER_DESCRIPTORS;
        let text = format!("{limit} descriptors");
        checks.push(if limit >= wanted {
            ok("open files", format!("{text} are enough for all {ports} outside ports of TCP and UDP"))
        } else {
            // With a small limit, ports take what the rest leaves.
            let left = limit.saturating_sub(OTHER_DESCRIPTORS.min(limit / 4)) / 2;
            let why = format!("{text}: NAT with the host's address takes one for each port, and so can use {left} of {ports}");
            warning(
                "open files",
                why,
                format!("LimitNOFILE={wanted} in the unit; or ulimit -Hn {wanted}; or a separate address (address= of [uplink])"),
            )
        });
    }
    if let (true, Some(queue)) = (plan.has_dgram, facts.max_dgram_qlen) {
        checks.push(if queue >= ENOUGH_DATAGRAMS {
            ok("datagrams to guests", format!("{queue} frames may wait for a guest"))
        } else {
            let why = format!("only {queue} frames may wait for a guest, so bursts are dropped");
            warning("datagrams to guests", why, format!("sysctl -w net.unix.max_dgram_qlen={ENOUGH_DATAGRAMS}"))
        });
    }
    let has_sockets = plan.uplink.is_some() || !plan.packet_ports.is_empty() || !plan.tunnels.is_empty();
    if let (true, Some(bytes)) = (has_sockets, facts.rmem_default.filter(|bytes| *bytes < ENOUGH_BYTES)) {
        let why = format!("only {bytes} bytes may wait in a socket, so bursts are dropped");
        checks.push(warning("receive buffers", why, format!("sysctl -w net.core.rmem_default={ENOUGH_BYTES}")));
    }
    for (tcp, port, who) in &facts.taken {
        let protocol = if *tcp { "tcp" } else { "udp" };
        let fix = format!("ss -lp 'sport = {port}', and stop it; or publish another port");
        let what = format!("published {protocol} {port}");
        checks.push(match plan.running {
            None => problem(what, format!("is in use on the host: {who}"), fix),
            Some(_) => {
                warning(what, format!("the guest gets all packets, and nobody reaches the host's program there: {who}"), fix)
            }
        });
    }
    checks
}

/// What the switch or the configuration itself reports.
fn complaints(plan: &Plan, facts: &Facts) -> Vec<Check> {
    let own = plan.complaints.iter().map(|text| match plan.running {
        Some(_) => told(Status::Problem, &subject(text), text, cure_of(plan, text)),
        None => {
            let fix = "correct the file, and see what vswitchd --check --config FILE reports";
            told(Status::Problem, "configuration", text, Some(fix.to_owned()))
        }
    });
    let warnings = plan.warnings.iter().map(|text| told(Status::Warning, "configuration", text, None));
    let idle = plan.idle_ports.iter().filter_map(|port| idle_port(port, facts));
    let unread = plan.unread.iter().map(|(port, frames)| {
        let why = format!("the kernel dropped {frames} frames, which were not read in time");
        let fix = "start with more --workers; or with larger buffers: sysctl -w net.core.rmem_default=4194304";
        warning(format!("port {port}"), why, fix)
    });
    own.chain(warnings).chain(idle).chain(unread).collect()
}

fn told(status: Status, what: &str, why: &str, fix: Option<String>) -> Check {
    Check { status, what: what.to_owned(), why: why.to_owned(), fix }
}

/// The port, tunnel or uplink that a problem of a running switch begins with.
fn subject(problem: &str) -> String {
    let mut words = problem.split([' ', ':']);
    match (words.next(), words.next()) {
        (Some(kind @ ("port" | "tunnel" | "uplink")), Some(name)) if !name.is_empty() => format!("{kind} {name}"),
        _ => "the switch".to_owned(),
    }
}

/// The fix for a problem of a running switch, unless its text has one.
fn cure_of(plan: &Plan, problem: &str) -> Option<String> {
    let uplink = plan.uplink.as_ref().map_or("IFACE", |uplink| uplink.interface.as_str());
    if problem.starts_with("the uplink has no address") {
        return Some(format!("ip addr add ADDRESS/LEN dev {uplink}; or address= of [uplink]"));
    }
    if ["workers", "thread devices"].iter().any(|who| problem.strip_prefix(who).is_some_and(|rest| rest.starts_with(" panicked")))
    {
        return Some("this is a bug: report it with what the log says about the panic".to_owned());
    }
    if problem.contains("is the far end's vni right?") {
        return Some("the same vni= at both ends: tunnel del and tunnel add here, or correct the far end".to_owned());
    }
    problem.contains("no route to").then(|| "ip route get ADDRESS; and add the route that is missing".to_owned())
}

/// A port whose device is down or gone. What is wrong with interfaces of packet ports and with namespaces is found by itself.
fn idle_port(port: &IdlePort, facts: &Facts) -> Option<Check> {
    let (what, link) = (format!("port {}", port.name), port.link());
    let is_lost = |netns: &String| facts.lost_namespaces.iter().any(|(name, _)| name == netns);
    if port.kind == PortKind::Packet || port.namespace.as_ref().is_some_and(is_lost) {
        return None;
    }
    let ip = match port.namespace.as_deref() {
        None => "ip".to_owned(),
        Some(netns) => match netns.strip_prefix("pid:") {
            Some(pid) => format!("nsenter --net=/proc/{pid}/ns/net ip"),
            None if netns.contains('/') => format!("nsenter --net={netns} ip"),
            None => format!("ip -n {netns}"),
        },
    };
    Some(match (port.kind, port.is_gone) {
        (PortKind::Stream | PortKind::Dgram, _) => problem(
            what,
            "its guest does not answer",
            "start the guest, or look why it has ended; the switch tries again by itself",
        ),
        (_, true) => problem(
            what,
            "its device is gone, and could not be made again yet",
            format!("{ip} link show {link}, and remove what else has this name; the switch tries again by itself"),
        ),
        (_, false) => problem(what, "its link is down", format!("{ip} link set {link} up")),
    })
}

#[cfg(test)]
mod tests;
