//! From the written form to the meaning: defaults, and the checks between values.
//!
//! A check for something missing is skipped if it may only be missing because it was invalid, so that each fault is reported once.

mod ports;
mod router;
mod routes;
mod uplink;

use std::collections::HashMap;

use crate::bridge::{Bridge, BridgeKeys, DEFAULT_BRIDGE, MAX_BRIDGES, unknown_bridge};
use crate::control::Control;
use crate::document::Document;
use crate::model::Config;
use crate::name::InterfaceName;
use crate::port::Port;
use crate::problem::{At, Origin, Problem, Problems};
use crate::route::open_guards;
use crate::state::StatePath;
use crate::tunnel::{IpTunnel, Tunnel, apart};
use crate::uplink::Uplink;
use crate::value::Text;

const DEFAULT_BUSY_POLL: u32 = 200;

/// Default of `max-ports`.
pub(crate) const DEFAULT_MAX_PORTS: usize = 1024;

/// The meaning of a document. Parts with problems are left out.
pub(crate) fn check(document: &Document, whole: &Origin, problems: &mut Problems) -> Config {
    let mut check = Check { document, whole, problems, warnings: Vec::new() };
    let bridges = check.bridges();
    check.purpose();
    let guests = check.guests(&bridges);
    let mut ports = check.ports(&guests);
    let uplink = check.uplink(&bridges, &ports);
    let (tunnels, ip_tunnels) = check.tunnels(&bridges, &ports);
    let (bridge_uplink, nat_uplink) = match uplink {
        None => (None, None),
        Some(Uplink::Bridge(uplink)) => (Some(uplink), None),
        Some(Uplink::Nat(uplink)) => (None, Some(uplink)),
    };
    let router = check.router(&bridges, nat_uplink, &guests);
    let gateways = router.as_ref().map_or(&[][..], |router| &router.gateways);
    check.settle(&guests, gateways, &mut ports);
    open_guards(router.as_ref().map_or(&[], |router| &router.routes), &mut ports);
    check.counts(&ports, bridge_uplink.is_some(), &tunnels, &ip_tunnels);
    apart::check_against_gateways(&tunnels, &ip_tunnels, gateways, check.problems);
    let control = document.control.as_ref().map_or_else(Control::default, |keys| keys.value.control(check.problems));
    let usual_state = || StatePath::usual(&control);
    let state = document.state.as_ref().map_or_else(usual_state, |keys| keys.value.state(&control, check.problems));
    let metrics = document.metrics.as_ref().and_then(|keys| {
        check.warnings.extend(keys.value.warning());
        keys.value.metrics(&keys.origin, router.as_ref(), check.problems)
    });
    let docker = document.docker.as_ref().and_then(|keys| keys.value.docker(check.problems));
    let warnings = check.warnings.iter().map(Problem::to_string).collect();
    let mut config = Config {
        bridges,
        ports: ports.into_iter().chain(ip_tunnels.iter().map(Port::tun)).collect(),
        guests: guests.into_iter().map(|(_, guest)| guest).collect(),
        bridge_uplink,
        tunnels,
        ip_tunnels,
        router,
        workers: 1,
        busy_poll: document.busy_poll.as_ref().map_or(DEFAULT_BUSY_POLL, |busy_poll| busy_poll.value.get()),
        max_ports: check.max_ports(),
        control,
        state,
        metrics,
        docker,
        warnings,
    };
    tell_apart(&mut config);
    let findings = config.out_of_reach();
    config.warnings.extend(findings.into_iter().map(|finding| match finding.origin {
        Origin::Default => {
            Problem::new(document.uplink.as_ref().map_or(whole, |uplink| &uplink.origin), finding.text).to_string()
        }
        _ => finding.to_string(),
    }));
    config.workers = document.workers.as_ref().map_or_else(|| config.default_workers(), |workers| workers.value.get());
    config
}

struct Check<'a> {
    document: &'a Document,
    /// Origin of problems that no single value has.
    whole: &'a Origin,
    problems: &'a mut Problems,
    warnings: Vec<Problem>,
}

impl<'a> Check<'a> {
    /// The bridges by their numbers.
    fn bridges(&mut self) -> Vec<Bridge> {
        let mut bridges: Vec<Bridge> = Vec::new();
        for (at, (name, keys)) in self.document.bridges().enumerate() {
            if let Err(problem) = InterfaceName::parse(&name.value, "a bridge", &name.origin) {
                self.problems.add(&name.origin, problem);
            }
            if at == MAX_BRIDGES {
                let count = self.document.bridges().count();
                self.problems.add(&name.origin, format!("{count} bridges, but there are at most {MAX_BRIDGES}: leave some out"));
            }
            bridges.push(keys.bridge(at, &name.value));
        }
        bridges
    }

    /// Reports a switch without a port that cannot get one later either.
    fn purpose(&mut self) {
        let has_port = |keys: &BridgeKeys| keys.is_faulty || keys.ports.as_ref().is_some_and(|ports| !ports.value.0.is_empty());
        let document = self.document;
        let is_closed =
            document.control.as_ref().and_then(|control| control.value.path.as_ref()).is_some_and(|path| path.value == "none");
        if !is_closed
            || document.is_faulty
            || document.bridges().any(|(_, keys)| has_port(keys))
            || !document.tunnels().is_empty()
        {
            return;
        }
        let example = self.whole.say("tap = \"tap0\" in [[bridge.br0.port]]", "--tap tap0,tap1");
        let problem =
            format!("a switch without a control socket needs a port from the start: name at least one, such as {example}");
        self.problems.add(self.whole, problem);
    }

    /// The number of the named bridge, or of the default bridge.
    fn find_bridge(&mut self, name: Option<&At<String>>, bridges: &[Bridge], which: &str, origin: &Origin) -> Option<usize> {
        let wanted = name.map_or(DEFAULT_BRIDGE, |name| name.value.as_str());
        let found = bridges.iter().position(|bridge| bridge.name == wanted);
        if found.is_none() {
            let names = bridges.iter().map(|bridge| bridge.name.as_str());
            let first = names.clone().next().unwrap_or(DEFAULT_BRIDGE);
            let problem = match name {
                Some(name) => unknown_bridge(&name.value, names),
                None => format!("{which} There is no {DEFAULT_BRIDGE}: add bridge = \"{first}\""),
            };
            self.problems.add(name.map_or(origin, |name| &name.origin), problem);
        }
        found
    }

    fn max_ports(&self) -> usize {
        self.document.max_ports.as_ref().map_or(DEFAULT_MAX_PORTS, |most| most.value.get())
    }

    /// Checks the number of ports, including the uplink and the hosts of tunnels.
    fn counts(&mut self, ports: &[Port], has_uplink: bool, tunnels: &[Tunnel], ip_tunnels: &[IpTunnel]) {
        let peers: usize = tunnels.iter().map(Tunnel::port_count).chain(ip_tunnels.iter().map(|ip| ip.remotes().len())).sum();
        let count = ports.len() + usize::from(has_uplink) + peers;
        let most = self.max_ports();
        if count <= most {
            return;
        }
        let hosts = if peers == 0 { "" } else { "; each remote of a tunnel is one, and a group is 65" };
        let has_slots = ports.iter().any(|port| port.slot().is_some());
        let guests =
            if has_slots { "; a guest's place is one, of which a stream has 16 unless guests says otherwise" } else { "" };
        let fix = self.whole.say("max-ports at the top of the file", "--max-ports");
        self.problems
            .add(self.whole, format!("{count} ports, but there are at most {most}{hosts}{guests}; {fix} sets another limit"));
    }
}

/// Gives each port a name of its own: where interfaces in several namespaces have the same name, the name with the namespace. A port
/// in vswitchd's own namespace keeps its name. So does a TUN device beside ports, since its tunnel has that name too.
fn tell_apart(config: &mut Config) {
    let mut count: HashMap<(String, bool), usize> = HashMap::new();
    let uplink = config.uplink_interface().map(|name| (name.to_owned(), true));
    for key in config.ports.iter().map(|port| (port.name.clone(), port.is_bridged())).chain(uplink) {
        *count.entry(key).or_default() += 1;
    }
    let with = |port: &Port, is_bridged: bool| count.get(&(port.name.clone(), is_bridged)).copied().unwrap_or(0);
    for port in &mut config.ports {
        let namesakes = with(port, port.is_bridged()) + if port.is_bridged() { with(port, false) } else { 0 };
        if namesakes > 1 {
            port.name = port.full_name();
        }
    }
}

/// The usual name if it is free, or else the name with the first number from 2 that is not taken.
pub(crate) fn free_name(usual: &str, taken: &[String]) -> String {
    let numbered = (2..).map(|number: u32| format!("{usual}-{number}"));
    let mut names = [usual.to_owned()].into_iter().chain(numbered);
    names.find(|name| !taken.contains(name)).unwrap_or_default()
}
