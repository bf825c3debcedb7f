//! The desired configuration of a switch: read from file and flags, or derived from another one by a verb.

use std::fmt;
use std::path::Path;

use crate::bridge::BridgeKeys;
use crate::check::check;
use crate::document::Document;
use crate::file;
use crate::flags::{self, Flag};
use crate::model::Config;
use crate::port::{Kind, Port};
use crate::problem::{Origin, Problem, Problems, nearest};
use crate::publish::Publish;
use crate::tunnel::{self, Position};
use crate::written;
use crate::{IpTunnel, Tunnel};

/// Maximum number of names that an error lists.
const SHOWN: usize = 8;

/// A configuration in its written form, and its meaning.
#[derive(Clone, Debug)]
pub struct Desired {
    pub(crate) document: Document,
    /// The meaning.
    pub config: Config,
    /// Origin of problems that concern no single value: the file, or the flags.
    pub(crate) whole: Origin,
}

/// Why a verb cannot change a configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum EditError {
    /// The object to remove does not exist.
    NoSuch(Problem),
    /// The resulting configuration is invalid.
    Refused(Problems),
}

impl fmt::Display for EditError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EditError::NoSuch(problem) => problem.fmt(out),
            EditError::Refused(problems) => problems.fmt(out),
        }
    }
}

impl std::error::Error for EditError {}

impl From<Problems> for EditError {
    fn from(problems: Problems) -> EditError {
        EditError::Refused(problems)
    }
}

impl EditError {
    /// A change for which another object is in the way.
    pub(crate) fn taken(name: &str, text: impl Into<String>, in_the_way: impl Into<String>) -> EditError {
        let problem = Problem { in_the_way: Some(in_the_way.into()), ..Problem::new(&named(name), text) };
        EditError::Refused(problem.into())
    }

    pub(crate) fn refused(name: &str, text: impl Into<String>) -> EditError {
        EditError::Refused(Problem::new(&named(name), text).into())
    }
}

impl Config {
    /// Reads a file as far as possible: invalid parts are reported and left out of the configuration.
    pub fn load(path: &Path) -> std::io::Result<(Config, Problems)> {
        let text = std::fs::read_to_string(path)?;
        Ok(Config::of_text(&path.display().to_string(), &text))
    }

    /// Reads a file's text; `path` names it in problems.
    #[must_use]
    pub fn of_text(path: &str, text: &str) -> (Config, Problems) {
        let mut problems = Problems::default();
        let mut document = file::read(path, text, &mut problems);
        document.ensure_own_bridge();
        let config = check(&document, &file::whole(path), &mut problems);
        (config, problems.sorted())
    }
}

impl Desired {
    /// Reads a file, if there is one, and the flags that add to it.
    pub fn read(path: Option<&Path>, flags: &[Flag]) -> Result<Desired, Problems> {
        let Some(path) = path else { return Desired::of_flags(flags) };
        let (name, text) = read_file(path)?;
        Desired::of_text(&name, &text, flags)
    }

    /// Reads the file and the flags again while the switch runs; see [`Desired::beside`].
    pub fn read_again(&self, path: &Path, flags: &[Flag]) -> Result<Desired, Problems> {
        let (name, text) = read_file(path)?;
        self.beside(&name, &text, flags)
    }

    /// Reads a file's text, and the flags that add to it, for a switch that runs with this configuration. Bridges, guests, and ports with
    /// an id that verbs added stay as they are; they are not the file's.
    pub fn beside(&self, path: &str, text: &str, flags: &[Flag]) -> Result<Desired, Problems> {
        let mut problems = Problems::default();
        let mut document = file::read(path, text, &mut problems);
        document.take_over(&self.document, &mut problems);
        add_flags(&mut document, flags, &mut problems);
        document.keep_limits_of(&self.document);
        let whole = file::whole(path);
        document.take_over_ports(&self.document, &whole, &mut problems);
        document.take_over_guests(&self.document, &whole, &mut problems);
        Desired::finish(document, whole, problems)
    }

    /// Reads a file's text for a switch that runs with this configuration, of which nothing stays that is not the file's.
    pub fn replaced_by(&self, path: &str, text: &str) -> Result<Desired, Problems> {
        let mut problems = Problems::default();
        let mut document = file::read(path, text, &mut problems);
        document.keep_limits_of(&self.document);
        Desired::complete(document, &[], file::whole(path), problems)
    }

    /// Reads a file's text, and the flags that add to it: repeatable flags are appended to the file's values, the others replace
    /// them. `path` names the file in problems.
    pub fn of_text(path: &str, text: &str, flags: &[Flag]) -> Result<Desired, Problems> {
        let mut problems = Problems::default();
        let document = file::read(path, text, &mut problems);
        Desired::complete(document, flags, file::whole(path), problems)
    }

    /// Reads flags alone.
    pub fn of_flags(flags: &[Flag]) -> Result<Desired, Problems> {
        Desired::complete(Document::default(), flags, Origin::flag("--tap", ""), Problems::default())
    }

    fn complete(mut document: Document, flags: &[Flag], whole: Origin, mut problems: Problems) -> Result<Desired, Problems> {
        add_flags(&mut document, flags, &mut problems);
        Desired::finish(document, whole, problems)
    }

    /// The meaning of a document that is complete.
    pub(crate) fn finish(mut document: Document, whole: Origin, mut problems: Problems) -> Result<Desired, Problems> {
        document.ensure_own_bridge();
        let config = check(&document, &whole, &mut problems);
        problems.none_or(Desired { document, config, whole })
    }

    /// The configuration as a file that `--config` reads.
    #[must_use]
    pub fn to_toml(&self) -> String {
        written::toml_of(&self.document)
    }

    /// Whether nothing would change from the one configuration to the other.
    #[cfg(test)]
    pub(crate) fn plan_to_itself(&self, other: &Desired) -> bool {
        let mut other = other.clone();
        other.plan_from(self).is_ok_and(|plan| plan.is_empty())
    }

    /// This configuration with one more port, in the syntax of `--tap` or `--port`. If it has an id, the verb is its owner.
    pub fn with_port(&self, word: &str) -> Result<Desired, EditError> {
        let flag = port_flag(word);
        let new = self.ports_of_word(word);
        let verb = format!("port add {}", word.escape_debug());
        if let Some(there) = new.iter().find_map(|port| self.config.ports.iter().find(|other| other.clashes_with(port))) {
            let (name, full) = (there.where_it_is(), there.full_name());
            let cure = format!("remove it first with 'port del {name}', or change its keys with 'port set {name} KEY=VALUE'");
            return Err(EditError::taken(&verb, format!("there is a port {name} already: {cure}"), full));
        }
        let uplink = self.config.uplink_interface();
        if let Some(name) = uplink.filter(|name| new.iter().any(|port| port.link() == Some((name, None)))) {
            return Err(EditError::taken(&verb, format!("{name} is the uplink: name another interface"), name));
        }
        let id = new.iter().find_map(|port| port.identity.id.as_deref());
        if let Some((id, there)) = id.and_then(|id| Some((id, self.with_id(id).next()?))) {
            let problem =
                format!("id {id} is that of port {}: use another id, or remove it first with 'port del --id'", there.full_name());
            return Err(EditError::taken(&verb, problem, there.full_name()));
        }
        let (name, mut document, mut problems) = (flag.name, self.document.clone(), Problems::default());
        add_flags(&mut document, &[flag], &mut problems);
        document.give_to_verb(&verb, &self.document);
        let done = Desired::finish(document, self.whole.clone(), problems);
        done.map_err(|problems| problems.of_verb(name, "port add").into())
    }

    /// This configuration with one more published port, in the syntax of `--publish`.
    pub fn with_rule(&self, word: &str) -> Result<Desired, EditError> {
        self.with(Flag::new("--publish", word), "nat publish")
    }

    /// This configuration with one more tunnel, in the syntax of `--vxlan`, `--udp-ip` or `--udp`.
    pub fn with_tunnel(&self, word: &str) -> Result<Desired, EditError> {
        self.with(Flag::new(tunnel::flag_of(word), word), "tunnel add")
    }

    /// This configuration with one more flag. Problems name the verb and its argument in place of the flag.
    pub(crate) fn with(&self, flag: Flag, verb: &str) -> Result<Desired, EditError> {
        let name = flag.name;
        let done = Desired::complete(self.document.clone(), &[flag], self.whole.clone(), Problems::default());
        done.map_err(|problems| problems.of_verb(name, verb).into())
    }

    pub(crate) fn of_document(&self, document: Document) -> Result<Desired, EditError> {
        Ok(Desired::complete(document, &[], self.whole.clone(), Problems::default())?)
    }

    /// The name of the tunnel that says what a word says in the syntax of its flag.
    fn tunnel_of_word(&self, word: &str) -> Option<String> {
        let mut alone = self.document.clone();
        alone.tunnels = None;
        let mut problems = Problems::default();
        flags::add(&mut alone, &Flag::new(tunnel::flag_of(word), word), &mut problems);
        let Config { tunnels, ip_tunnels, .. } = check(&alone, &self.whole, &mut problems);
        let bridged = tunnels.first().and_then(|added| {
            let is_it = |there: &&Tunnel| **there == Tunnel { name: there.name.clone(), place: there.place, ..added.clone() };
            self.config.tunnels.iter().find(is_it).map(|there| there.name.clone())
        });
        let ip = || {
            let added = ip_tunnels.first()?;
            let is_it = |there: &&IpTunnel| **there == IpTunnel { name: there.name.clone(), place: there.place, ..added.clone() };
            self.config.ip_tunnels.iter().find(is_it).map(|there| there.name.clone())
        };
        bridged.or_else(ip)
    }

    /// The ports that a word describes in the syntax of `--tap` or `--port`.
    pub(crate) fn ports_of_word(&self, word: &str) -> Vec<Port> {
        let mut alone = self.document.clone();
        alone.bridges_mut().for_each(|bridge| bridge.ports = None);
        flags::add(&mut alone, &port_flag(word), &mut Problems::default());
        alone.bridges_mut().flat_map(|bridge| ports_of(bridge)).flatten().collect()
    }

    /// This configuration without a rule, given in the syntax of `--publish` or as it is listed.
    pub fn without_rule(&self, text: &str) -> Result<Desired, EditError> {
        let mut ignored = Problems::default();
        let wanted = flags::rule(text, &mut ignored);
        let wanted = wanted.value.rule(&wanted.origin, &mut ignored);
        self.refuse_part(text, |guest| {
            guest.publish.iter().any(|rule| wanted.as_ref() == Some(rule) || rule.to_string() == text)
        })?;
        let mut document = self.document.clone();
        let rules = document.publish.iter_mut().map(|rules| &mut rules.value.0);
        let mut is_found = false;
        for rules in rules {
            rules.retain(|rule| {
                let rule = rule.value.rule(&rule.origin, &mut ignored);
                let is_it = rule.is_some() && (rule == wanted || rule.is_some_and(|rule| rule.to_string() == text));
                is_found |= is_it;
                !is_it
            });
        }
        if !is_found {
            let rules = self.config.router.iter().flat_map(|router| &router.publish);
            return Err(no_such("rule", text, rules.map(Publish::to_string)));
        }
        self.of_document(document)
    }

    /// This configuration without the tunnel of this name, which may be given in the syntax of `--vxlan`, `--udp-ip` or `--udp`, too.
    pub fn without_tunnel(&self, word: &str) -> Result<Desired, EditError> {
        let added = self.tunnel_of_word(word);
        let name = added.as_deref().unwrap_or(word);
        let bridged = self.config.tunnels.iter().map(|tunnel| (&tunnel.name, tunnel.place));
        let ip = self.config.ip_tunnels.iter().map(|tunnel| (&tunnel.name, tunnel.place));
        let all = bridged.chain(ip);
        let Some((_, Position(at))) = all.clone().find(|(known, _)| *known == name) else {
            return Err(no_such("tunnel", name, all.map(|(known, _)| known.clone())));
        };
        let mut document = self.document.clone();
        if let Some(tunnels) = &mut document.tunnels {
            tunnels.value.0.remove(at);
        }
        self.of_document(document)
    }
}

fn add_flags(document: &mut Document, flags: &[Flag], problems: &mut Problems) {
    flags.iter().for_each(|flag| flags::add(document, flag, problems));
}

/// A file's name, as problems say it, and its text.
fn read_file(path: &Path) -> Result<(String, String), Problems> {
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => Ok((name, text)),
        Err(error) => {
            let problem = format!("the file cannot be read: {error}");
            Err(Problem::new(&Origin::flag("--config", &name), problem).into())
        }
    }
}

/// The flag that adds a port in the syntax of `--tap` or `--port`.
fn port_flag(word: &str) -> Flag {
    let kind = word.split_once(':').map_or("", |(kind, _)| kind);
    let is_other_kind = Kind::named(kind).is_some_and(|kind| kind != Kind::Tap);
    Flag::new(if is_other_kind { "--port" } else { "--tap" }, word)
}

/// The ports that each `port` table of a bridge describes.
pub(crate) fn ports_of(bridge: &BridgeKeys) -> Vec<Vec<Port>> {
    let tables = bridge.ports.iter().flat_map(|ports| &ports.value.0);
    tables.map(|keys| keys.value.ports(&keys.origin, &mut Problems::default())).collect()
}

pub(crate) fn is_named(port: &Port, name: &str) -> bool {
    port.name == name || port.where_it_is() == name || port.title().as_deref() == Some(name) || port.full_name() == name
}

pub(crate) fn no_such(what: &str, name: &str, there: impl Iterator<Item = String>) -> EditError {
    let there: Vec<String> = there.collect();
    let problem = match nearest(name, there.iter().map(String::as_str)) {
        Some(close) => format!("there is no such {what}; did you mean '{close}'?"),
        None if there.is_empty() => format!("there is no such {what}, and no other"),
        None => {
            let shown = there.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join("; ");
            let more = there.len().saturating_sub(SHOWN);
            let more = if more > 0 { format!("; and {more} more") } else { String::new() };
            format!("there is no such {what}; there are: {shown}{more}")
        }
    };
    EditError::NoSuch(Problem::new(&named(name), problem))
}

/// Origin of a problem with an object that a verb names.
pub(crate) fn named(name: &str) -> Origin {
    Origin::flag(&name.escape_debug().to_string(), "")
}
