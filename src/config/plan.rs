//! From one configuration to another: what is to be done, and what cannot be done while frames pass.
//!
//! A [`Desired`] configuration is kept with the words that say it, which are those of the flags, whether they came from a file,
//! the command line or a verb. So a verb is a configuration of which one word is another, and there is one way of checking
//! and one way of changing: the difference of two configurations is a [`Plan`], from the switch that runs to the one that
//! is wanted.
//!
//! *What is the same?* A port is known by its place, of which there is one in the world: the link's name and namespace, the
//! socket's path or address (and there the guest's place). Two of one place with other keys are one port that changes;
//! where the device has to be another for it, the port is taken away and added. A rule is known by all that it says, and
//! so is a tunnel.
//!
//! *What is fixed.* Threads, bridges with their tables, and the way out are made at the start. Whoever says nothing of them leaves them as they
//! are; whoever says something else is told that it needs a restart, before anything is touched.

use std::fmt;

use thiserror::Error;
use vswitch::BridgeId;

use super::bridge::words_of;
use super::nat::NatSettings;
use super::port::{parse_port, parse_tap};
use super::publish::parse_rule;
use super::tunnel::TunnelConfig;
use super::{Config, ConfigError, PortConfig, Publish};
use crate::cli::Flags;
use crate::control_socket::describe;

/// A configuration, and the words that say it.
#[derive(Clone, Debug)]
pub(crate) struct Desired {
    /// Lists are written out: each word is one thing.
    flags: Flags,
    pub(crate) config: Config,
}

/// What is to be done.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) removed_ports: Vec<PortConfig>,
    /// In the order in which they are named.
    pub(crate) added_ports: Vec<PortConfig>,
    /// As they are to be.
    pub(crate) altered_ports: Vec<PortConfig>,
    /// By their names.
    pub(crate) removed_tunnels: Vec<String>,
    pub(crate) added_tunnels: Vec<TunnelConfig>,
    pub(crate) withdrawn: Vec<Publish>,
    pub(crate) published: Vec<Publish>,
    /// Other timeouts, or another MSS.
    pub(crate) nat: Option<NatSettings>,
    pub(crate) changes: Vec<Change>,
}

/// One line of a plan, for people.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Change {
    pub(crate) action: Action,
    /// `port`, `rule` ..
    pub(crate) kind: &'static str,
    pub(crate) name: String,
    /// How it is, and how it will be where it changes.
    pub(crate) text: String,
}

/// What becomes of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Action {
    Add,
    Remove,
    /// It stays, with other keys.
    Alter,
    /// It goes and comes again.
    Replace,
}

impl Action {
    /// For programs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Action::Add => "add",
            Action::Remove => "remove",
            Action::Alter => "alter",
            Action::Replace => "replace",
        }
    }
}

/// `+ port tap3: access VLAN 10`.
impl fmt::Display for Change {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = match self.action {
            Action::Add => '+',
            Action::Remove => '-',
            Action::Alter => '~',
            Action::Replace => '!',
        };
        write!(out, "{sign} {} {}", self.kind, self.name)?;
        if self.text.is_empty() { Ok(()) } else { write!(out, ": {}", self.text) }
    }
}

/// Why a word cannot be taken out.
#[derive(Debug, Error)]
pub(crate) enum NotTaken {
    /// There is no such thing.
    #[error(transparent)]
    Unknown(ConfigError),
    /// Without it the configuration cannot be, or it is not alone.
    #[error(transparent)]
    Refused(#[from] ConfigError),
}

/// What cannot be changed while it runs, each with its key.
#[derive(Debug, Error)]
#[error("this needs a restart: {}", .0.join("; "))]
pub(crate) struct NeedsRestart(Vec<String>);

impl Desired {
    /// What flags say alone.
    pub(crate) fn of_flags(mut flags: Flags) -> Result<Desired, ConfigError> {
        let config = Config::from_flags(&flags)?;
        for list in [&mut flags.tap, &mut flags.gateway] {
            *list = list.iter().flat_map(|list| list.split(',')).map(str::to_owned).collect();
        }
        Ok(Desired { flags, config })
    }

    /// The same with one port more, in the words of `--tap` or `--port`.
    pub(crate) fn with_port(&self, word: &str) -> Result<Desired, ConfigError> {
        let mut flags = self.flags.clone();
        let is_other_kind = ["packet:", "stream:", "dgram:"].iter().any(|kind| word.starts_with(kind));
        if is_other_kind { &mut flags.port } else { &mut flags.tap }.push(word.to_owned());
        Desired::of_flags(flags)
    }

    /// The same without the port of this name; `NAME@NETNS` is the one of several that is in that namespace.
    pub(crate) fn without_port(&self, name: &str) -> Result<Desired, NotTaken> {
        let is_it = |port: &PortConfig| {
            let in_its_namespace = port.link().and_then(|(link, netns)| Some(format!("{link}@{}", netns?)));
            port.name == name
                || port.where_it_is() == name
                || port.title().as_deref() == Some(name)
                || in_its_namespace.as_deref() == Some(name)
        };
        let others = || self.flags.bridges.iter();
        let taps = self.flags.tap.iter().chain(others().flat_map(|bridge| &bridge.tap));
        let taps = taps.map(|word| (word, parse_tap(word).into_iter().collect::<Vec<PortConfig>>()));
        let others = self
            .flags
            .port
            .iter()
            .chain(others().flat_map(|bridge| &bridge.port))
            .map(|word| (word, parse_port(word).unwrap_or_default()));
        let found: Vec<(&String, Vec<PortConfig>)> = taps.chain(others).filter(|(_, ports)| ports.iter().any(is_it)).collect();
        let (word, ports) = match found.as_slice() {
            [] if self.config.uplink_interface() == Some(name) => {
                return Err(
                    ConfigError::new(name, "the uplink is there from start to end: change it in the file, and restart").into()
                );
            }
            [] if self.config.ip_tunnels.iter().any(|tunnel| tunnel.name == name) => {
                return Err(ConfigError::new(name, "it is a tunnel's: take the tunnel away").into());
            }
            [] => return Err(self.no_such("port", name, self.config.ports.iter().filter_map(PortConfig::title))),
            [one] => one,
            _ => {
                let problem = format!("there are several of this name: say which, such as {name}@NETNS");
                return Err(ConfigError::new(name, problem).into());
            }
        };
        if let Some(of_all) =
            ports.first().filter(|first| ports.len() > 1 && first.where_it_is() != name && first.title().as_deref() != Some(name))
        {
            let problem =
                format!("it is one of several places for guests: take all away by {}, or change guests=", of_all.where_it_is());
            return Err(ConfigError::new(name, problem).into());
        }
        let mut flags = self.flags.clone();
        let lists = [&mut flags.tap, &mut flags.port].into_iter();
        let of_others = flags.bridges.iter_mut().flat_map(|bridge| [&mut bridge.tap, &mut bridge.port]);
        lists.chain(of_others).for_each(|list| list.retain(|other| other != *word));
        Ok(Desired::of_flags(flags)?)
    }

    /// The same with one published port more, in the words of `--publish`.
    pub(crate) fn with_rule(&self, word: &str) -> Result<Desired, ConfigError> {
        let mut flags = self.flags.clone();
        flags.publish.push(word.to_owned());
        Desired::of_flags(flags)
    }

    /// The same without this rule: in the words of `--publish`, or as it is listed.
    pub(crate) fn without_rule(&self, text: &str) -> Result<Desired, NotTaken> {
        let meant = parse_rule(text, text).ok();
        let is_it =
            |word: &String| parse_rule(word, word).is_ok_and(|rule| Some(&rule) == meant.as_ref() || rule.to_string() == text);
        let mut flags = self.flags.clone();
        flags.publish.retain(|word| !is_it(word));
        if flags.publish.len() == self.flags.publish.len() {
            let rules = self.config.router.iter().flat_map(|router| &router.publish);
            return Err(self.no_such("rule", text, rules.map(Publish::to_string)));
        }
        Ok(Desired::of_flags(flags)?)
    }

    /// The same with one tunnel more, in the words of `--vxlan`, `--udp-ip` or `--udp`.
    pub(crate) fn with_tunnel(&self, word: &str) -> Result<Desired, ConfigError> {
        let mut flags = self.flags.clone();
        let has = |key: &str| word.split(',').any(|pair| pair.starts_with(key));
        let list = match (has("vni="), has("tun=")) {
            (true, _) => &mut flags.vxlan,
            (_, true) => &mut flags.udp_ip,
            (false, false) => &mut flags.udp,
        };
        list.push(word.to_owned());
        Desired::of_flags(flags)
    }

    /// The same without the tunnel of this name.
    pub(crate) fn without_tunnel(&self, name: &str) -> Result<Desired, NotTaken> {
        let Desired { mut flags, config } = self.clone();
        // Those of bridges are in the order of their words.
        let bridged = config.tunnels.iter().position(|tunnel| tunnel.name == name);
        let ip = config.ip_tunnels.iter().position(|tunnel| tunnel.name == name);
        match (bridged, ip) {
            (Some(at), _) => take_word(flags.tunnels_mut(), at),
            (None, Some(at)) => drop(flags.udp_ip.remove(at)),
            (None, None) => {
                let bridged = config.tunnels.iter().map(|tunnel| tunnel.name.clone());
                return Err(self.no_such(
                    "tunnel",
                    name,
                    bridged.chain(config.ip_tunnels.iter().map(|tunnel| tunnel.name.clone())),
                ));
            }
        }
        Ok(Desired::of_flags(flags)?)
    }

    fn no_such(&self, what: &str, name: &str, there: impl Iterator<Item = String>) -> NotTaken {
        let there: Vec<String> = there.collect();
        let problem = match super::nearest(name, there.iter().map(String::as_str)) {
            Some(close) => format!("there is no such {what}; did you mean '{close}'?"),
            None => format!("there is no such {what}"),
        };
        NotTaken::Unknown(ConfigError::new(name.escape_debug(), problem))
    }
}

impl Plan {
    /// From the switch as it runs to the one that is desired, which takes over what is fixed and not said.
    pub(crate) fn between(now: &Desired, desired: &mut Desired) -> Result<Plan, NeedsRestart> {
        check_fixed(now, desired)?;
        let (old, new) = (&now.config, &mut desired.config);
        new.workers = old.workers;
        new.readers = old.readers;
        new.busy_poll = old.busy_poll;
        new.bridges.clone_from(&old.bridges);
        new.control.clone_from(&old.control);
        new.metrics.clone_from(&old.metrics);
        let mut plan = Plan::default();
        plan.ports(old, new);
        plan.tunnels(old, new);
        plan.rules(old, new);
        if let (Some(old), Some(new)) = (&old.router, &new.router)
            && old.nat != new.nat
        {
            plan.note(Action::Alter, "setting", "nat", format!("{} -> {}", old.nat, new.nat));
            plan.nat = Some(new.nat.clone());
        }
        Ok(plan)
    }

    /// Is all as it is to be?
    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    fn note(&mut self, action: Action, kind: &'static str, name: impl ToString, text: impl Into<String>) {
        self.changes.push(Change { action, kind, name: name.to_string(), text: text.into() });
    }

    fn ports(&mut self, old: &Config, new: &Config) {
        let bridges = new;
        let text_of = |port: &PortConfig| port.keys_text() + &bridges.on(port.bridge);
        let of = |config: &Config| config.ports.iter().filter(|port| port.is_bridged()).cloned().collect::<Vec<_>>();
        let (old, new) = (of(old), of(new));
        for port in &old {
            if !new.iter().any(|other| other.is_same_port(port)) {
                self.note_port(Action::Remove, port, text_of(port));
                self.removed_ports.push(port.clone());
            }
        }
        for port in new {
            match old.iter().find(|other| other.is_same_port(&port)) {
                None => {
                    self.note_port(Action::Add, &port, text_of(&port));
                    self.added_ports.push(port);
                }
                Some(before) if is_same(before, &port) => {}
                Some(before) => {
                    let text = format!("{} -> {}", text_of(before), text_of(&port));
                    if before.keeps_device(&port) {
                        self.note_port(Action::Alter, &port, text);
                        self.altered_ports.push(port);
                    } else {
                        self.note_port(Action::Replace, &port, text);
                        self.removed_ports.push(before.clone());
                        self.added_ports.push(port);
                    }
                }
            }
        }
    }

    /// Several places for guests are told of once, by the first.
    fn note_port(&mut self, action: Action, port: &PortConfig, text: String) {
        if let Some(title) = port.title() {
            let place = port.link().and_then(|(_, netns)| netns).map_or_else(String::new, |netns| format!("@{netns}"));
            self.note(action, "port", title + &place, text);
        }
    }

    /// A tunnel that stays keeps its name, which it got when another may have been there.
    fn tunnels(&mut self, old: &Config, new: &mut Config) {
        let on = |tunnel: &TunnelConfig| old.on(tunnel.bridge);
        let mut left = old.tunnels.clone();
        let mut names: Vec<String> = new.ports.iter().map(|port| port.name.clone()).collect();
        let mut added = Vec::new();
        for (at, tunnel) in new.tunnels.iter_mut().enumerate() {
            let renamed = |other: &TunnelConfig| TunnelConfig { name: tunnel.name.clone(), ..other.clone() };
            match left.iter().position(|other| renamed(other) == *tunnel) {
                Some(stays) => {
                    tunnel.name = left.remove(stays).name;
                    names.push(tunnel.name.clone());
                }
                None => added.push(at),
            }
        }
        for tunnel in left {
            self.note(Action::Remove, "tunnel", &tunnel.name, tunnel.keys_text() + &on(&tunnel));
            self.removed_tunnels.push(tunnel.name);
        }
        for at in added {
            let tunnel = &mut new.tunnels[at];
            let usual = tunnel.usual_name();
            let numbered = (2..).map(|number: u32| format!("{usual}-{number}"));
            let free = [usual.clone()].into_iter().chain(numbered).find(|name| !names.contains(name));
            tunnel.name = free.unwrap_or_default();
            names.push(tunnel.name.clone());
            self.note(Action::Add, "tunnel", &tunnel.name, tunnel.keys_text() + &on(tunnel));
            self.added_tunnels.push(tunnel.clone());
        }
    }

    fn rules(&mut self, old: &Config, new: &Config) {
        let of = |config: &Config| config.router.as_ref().map_or_else(Vec::new, |router| router.publish.clone());
        let (old, new) = (of(old), of(new));
        for rule in old.iter().filter(|rule| !new.contains(rule)) {
            self.note(Action::Remove, "rule", rule, "");
            self.withdrawn.push(rule.clone());
        }
        for rule in new.iter().filter(|rule| !old.contains(rule)) {
            self.note(Action::Add, "rule", rule, "");
            self.published.push(rule.clone());
        }
    }
}

/// Takes the word of this number out of these lists, one behind the other.
fn take_word<'a>(lists: impl Iterator<Item = &'a mut Vec<String>>, mut at: usize) {
    for list in lists {
        if at < list.len() {
            list.remove(at);
            return;
        }
        at -= list.len();
    }
}

fn is_same(one: &PortConfig, other: &PortConfig) -> bool {
    let by_one_worker = |port: &PortConfig| {
        let mut port = port.clone();
        port.set_queues(1);
        port
    };
    by_one_worker(one) == by_one_worker(other)
}

/// These settings, with what can be changed while packets flow from the others.
fn with_live_of(settings: &NatSettings, other: &NatSettings) -> NatSettings {
    NatSettings { timeouts: other.timeouts, mss_clamp: other.mss_clamp, ..settings.clone() }
}

fn check_fixed(now: &Desired, desired: &Desired) -> Result<(), NeedsRestart> {
    let (old, new, said) = (&now.config, &desired.config, &desired.flags);
    let mut problems = Vec::new();
    let mut fixed = |key: &str, is_other: bool, old: String, new: String| {
        if is_other {
            problems.push(format!("{key} is {old}, not {new}"));
        }
    };
    let number = |key: &str, said: Option<usize>, old: usize| {
        (key.to_owned(), said.is_some_and(|said| said != old), old, said.unwrap_or(old))
    };
    for (key, is_other, old, new) in [
        number("workers", said.workers, old.workers),
        number("busy-poll", said.busy_poll.map(|micros| micros as usize), old.busy_poll as usize),
    ] {
        fixed(&key, is_other, old.to_string(), new.to_string());
    }
    let names = |config: &Config| config.bridges.iter().map(|bridge| bridge.name.as_str()).collect::<Vec<_>>().join(", ");
    fixed("bridge", names(old) != names(new), names(old), names(new));
    for ((id, old), (words, new)) in old.bridges.iter().enumerate().zip(words_of(said).iter().zip(&new.bridges)) {
        let of = now.config.name_among_several(BridgeId(id as u8)).map_or_else(String::new, |name| format!(" of {name}"));
        let (key, is_other, size, said) = number(&format!("mac-table-size{of}"), words.mac_table_size, old.mac_table_size);
        fixed(&key, is_other && old.name == new.name, size.to_string(), said.to_string());
        let is_other = old.mac_aging_time != new.mac_aging_time && old.name == new.name;
        let (time, said) = (old.mac_aging_time.to_string(), new.mac_aging_time.to_string());
        fixed(&format!("mac-aging-time{of}"), is_other, time, said);
    }
    let control = new.control.completed_by(&old.control, said);
    fixed("control", control != old.control, describe(&old.control), describe(&control));
    let metrics = |config: &Config| config.metrics.as_ref().map_or_else(|| "none".to_owned(), ToString::to_string);
    fixed("metrics", said.metrics.is_some() && old.metrics != new.metrics, metrics(old), metrics(new));
    let bridged = |config: &Config| config.bridge_uplink.clone();
    let routed = |config: &Config| config.router.as_ref().and_then(|router| router.uplink.as_ref()).map(ToString::to_string);
    let uplink = |config: &Config| {
        let bridged = bridged(config).map(|uplink| {
            let on = config.name_among_several(uplink.bridge).map_or_else(String::new, |name| format!(" on {name}"));
            format!("{}, bridged{on}", uplink.interface)
        });
        bridged.or(routed(config)).unwrap_or_else(|| "none".to_owned())
    };
    fixed("uplink", uplink(old) != uplink(new), uplink(old), uplink(new));
    let gateways = |config: &Config| {
        let gateways = config.router.iter().flat_map(|router| &router.gateways);
        let gateways: Vec<String> = gateways.map(|gateway| gateway.on(config.name_among_several(gateway.bridge))).collect();
        if gateways.is_empty() { "none".to_owned() } else { gateways.join(", ") }
    };
    fixed("gateway", gateways(old) != gateways(new), gateways(old), gateways(new));
    if let (Some(old), Some(new)) = (&old.router, &new.router) {
        fixed("nat", with_live_of(&old.nat, &new.nat) != new.nat, old.nat.to_string(), new.nat.to_string());
        let whole = |rules: &[Publish]| {
            let rules = rules.iter().filter(|rule| matches!(rule, Publish::Address { .. }));
            rules.map(Publish::to_string).collect::<Vec<String>>().join(", ")
        };
        fixed("publish", whole(&old.publish) != whole(&new.publish), whole(&old.publish), whole(&new.publish));
    }
    let of_packets = |config: &Config| {
        let tunnels: Vec<String> = config.ip_tunnels.iter().map(ToString::to_string).collect();
        if tunnels.is_empty() { "none".to_owned() } else { tunnels.join("; ") }
    };
    fixed("udp-ip", old.ip_tunnels != new.ip_tunnels, of_packets(old), of_packets(new));
    if problems.is_empty() { Ok(()) } else { Err(NeedsRestart(problems)) }
}

#[cfg(test)]
mod tests;
