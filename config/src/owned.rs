//! What verbs made and own, written down and read by the next process.
//!
//! The text is a configuration file of the verbs' bridges, with their ports, tunnels and routes, of the verbs' ports on other bridges, and of
//! the verbs' guests. The names of the verbs' bridges stand beside it, as a file cannot say who owns what. Whatever else verbs have added
//! is the configuration's, and is not written.
//!
//! *The next start* takes them over one by one, [the bridges](Part) first, since its configuration may be another: what clashes is left
//! out, and told.

use std::fmt;

use crate::bridge::BridgeKeys;
use crate::desired::Desired;
use crate::document::Document;
use crate::file;
use crate::guest::GuestKeys;
use crate::identity::Id;
use crate::keys::{Named, Tables, list_of};
use crate::port::{Port, PortKeys};
use crate::problem::{At, Origin, Problems};
use crate::route::RouteKeys;
use crate::tunnel::TunnelKeys;
use crate::written;

/// What verbs own, as text.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Owned {
    /// Names of their bridges.
    pub bridges: Vec<String>,
    /// The bridges with their ports, tunnels and routes, as a configuration file.
    pub toml: String,
}

impl Owned {
    /// Whether verbs own nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.toml.is_empty()
    }
}

/// A configuration with what verbs own.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The configuration.
    pub desired: Desired,
    /// What did not come back.
    pub left_out: Vec<LeftOut>,
}

/// A part of what verbs own that is not in the configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeftOut {
    /// What it is: `guest web`.
    pub part: String,
    /// Why.
    pub reason: String,
    /// It clashes with the configuration, which may be mended; otherwise it can never come back.
    pub is_clash: bool,
}

impl fmt::Display for LeftOut {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}: {}", self.part, self.reason)
    }
}

/// What comes back or not.
#[derive(Clone, Debug)]
enum Part {
    /// A bridge without its ports.
    Bridge(At<String>, Box<BridgeKeys>),
    /// A port of the bridge of this name.
    Port(At<String>, At<PortKeys>),
    /// A tunnel of one of these bridges.
    Tunnel(At<TunnelKeys>),
    /// A route by a guest of one of these bridges.
    Route(At<RouteKeys>),
    Guest(Box<At<GuestKeys>>),
}

impl Desired {
    /// What verbs own in this configuration.
    #[must_use]
    pub fn owned(&self) -> Owned {
        let mut document = Document::default();
        let mut bridges = Vec::new();
        let mut written = Vec::new();
        for (name, keys) in self.document.bridges() {
            if name.origin.is_verb() {
                bridges.push(name.value.clone());
                written.push((name.clone(), keys.clone()));
                continue;
            }
            let ports = keys.ports.iter().flat_map(|ports| &ports.value.0);
            let made: Vec<_> = ports.filter(|port| port.origin.is_verb()).cloned().collect();
            if !made.is_empty() {
                let ports = Some(At::new(Tables(made), &Origin::Default));
                written.push((name.clone(), BridgeKeys { ports, ..BridgeKeys::default() }));
            }
        }
        let guests: Vec<_> = self.document.guests().iter().filter(|guest| guest.origin.is_verb()).cloned().collect();
        if written.is_empty() && guests.is_empty() {
            return Owned::default();
        }
        document.guests = (!guests.is_empty()).then(|| At::new(Tables(guests), &Origin::Default));
        document.bridges = (!written.is_empty()).then(|| At::new(Named(written), &Origin::Default));
        let is_theirs = |name: &str| bridges.iter().any(|bridge| bridge == name);
        let tunnels = self.document.tunnels().iter();
        let made: Vec<_> =
            tunnels.filter(|tunnel| tunnel.value.bridge().is_some_and(|name| is_theirs(&name.value))).cloned().collect();
        document.tunnels = (!made.is_empty()).then(|| At::new(Tables(made), &Origin::Default));
        let routes: Vec<_> =
            self.document.routes().iter().filter(|route| is_theirs(route.value.bridge_name())).cloned().collect();
        document.routes = (!routes.is_empty()).then(|| At::new(Tables(routes), &Origin::Default));
        Owned { bridges, toml: written::toml_of(&document) }
    }

    /// This configuration with what verbs own, read from the file of this name. Each part comes back that does not clash with this
    /// configuration or with another part, and that `refuse`, which is asked about each port, has nothing against.
    ///
    /// # Errors
    ///
    /// The text as a whole cannot be read.
    pub fn with_owned(&self, path: &str, owned: &Owned, refuse: &dyn Fn(&Port) -> Option<String>) -> Result<Restored, Problems> {
        let mut problems = Problems::default();
        let document = file::read(path, &owned.toml, &mut problems);
        let mut left_out = Vec::new();
        let mut parts = parts_of(problems.none_or(document)?, owned);
        parts.retain(|part| {
            let reason = part.ports().iter().find_map(refuse);
            let is_refused = reason.is_some();
            left_out.extend(reason.map(|reason| LeftOut { part: part.name(), reason, is_clash: false }));
            !is_refused
        });
        let mut admitted = Vec::with_capacity(parts.len());
        self.admit(&parts, &mut admitted, &mut left_out);
        Ok(Restored { desired: self.with_parts(&admitted)?, left_out })
    }

    /// Admits those of the parts with which the configuration is a valid one. Usually these are all of them; otherwise each half is
    /// tried.
    fn admit(&self, parts: &[Part], admitted: &mut Vec<Part>, left_out: &mut Vec<LeftOut>) {
        let before = admitted.len();
        admitted.extend_from_slice(parts);
        let Err(problems) = self.with_parts(admitted) else { return };
        admitted.truncate(before);
        if let [part] = parts {
            left_out.push(LeftOut { part: part.name(), reason: problems.to_string(), is_clash: true });
        } else if !parts.is_empty() {
            let (first, second) = parts.split_at(parts.len() / 2);
            self.admit(first, admitted, left_out);
            self.admit(second, admitted, left_out);
        }
    }

    fn with_parts(&self, parts: &[Part]) -> Result<Desired, Problems> {
        let mut problems = Problems::default();
        let mut running = Document::default();
        let mut bridges: Vec<(At<String>, BridgeKeys)> = Vec::new();
        for part in parts {
            match part {
                Part::Bridge(name, keys) => bridges.push((name.clone(), (**keys).clone())),
                Part::Port(bridge, keys) => match bridges.iter_mut().find(|(name, _)| name.value == bridge.value) {
                    Some((_, of_bridge)) => list_of(&mut of_bridge.ports).push(keys.clone()),
                    None if bridge.origin.is_verb() => problems.add(&keys.origin, gone(bridge)),
                    None => {
                        let ports = Some(At::new(Tables(vec![keys.clone()]), &Origin::Default));
                        bridges.push((bridge.clone(), BridgeKeys { ports, ..BridgeKeys::default() }));
                    }
                },
                Part::Tunnel(keys) => {
                    let bridge = keys.value.bridge().map(|name| &name.value);
                    if !bridges.iter().any(|(name, _)| Some(&name.value) == bridge) {
                        problems.add(&keys.origin, "its bridge does not come back");
                    }
                    list_of(&mut running.tunnels).push(keys.clone());
                }
                Part::Route(keys) => {
                    if !bridges.iter().any(|(name, _)| name.value == keys.value.bridge_name()) {
                        problems.add(&keys.origin, "its bridge does not come back");
                    }
                    list_of(&mut running.routes).push(keys.clone());
                }
                Part::Guest(keys) => list_of(&mut running.guests).push((**keys).clone()),
            }
        }
        running.bridges = (!bridges.is_empty()).then(|| At::new(Named(bridges), &Origin::Default));
        let mut document = self.document.clone();
        document.take_over(&running, &mut problems);
        document.take_over_ports(&running, &self.whole, &mut problems);
        document.take_over_guests(&running, &self.whole, &mut problems);
        Desired::finish(document, self.whole.clone(), problems)
    }
}

/// The parts of what verbs own, whose owners they are again; the bridges come first.
fn parts_of(document: Document, owned: &Owned) -> Vec<Part> {
    let id_of = |id: Option<&At<Id>>| id.map_or_else(String::new, |id| format!(" {}", id.value.0.escape_debug()));
    let (mut bridges, mut ports) = (Vec::new(), Vec::new());
    for (mut name, mut keys) in document.bridges.into_iter().flat_map(|bridges| bridges.value.0) {
        let is_theirs = owned.bridges.contains(&name.value);
        if is_theirs {
            name.origin = Origin::Verb(format!("bridge add {}", name.value.escape_debug()).into());
        }
        for mut port in keys.ports.take().into_iter().flat_map(|ports| ports.value.0) {
            port.origin = Origin::Verb(format!("port add{}", id_of(port.value.id())).into());
            ports.push(Part::Port(name.clone(), port));
        }
        if is_theirs {
            bridges.push(Part::Bridge(name, Box::new(keys)));
        }
    }
    let tunnels = document.tunnels.into_iter().flat_map(|tunnels| tunnels.value.0).map(|mut tunnel| {
        tunnel.origin = Origin::Verb("tunnel add".into());
        Part::Tunnel(tunnel)
    });
    let routes = document.routes.into_iter().flat_map(|routes| routes.value.0).map(|mut route| {
        route.origin = Origin::Verb("route add".into());
        Part::Route(route)
    });
    let guests = document.guests.into_iter().flat_map(|guests| guests.value.0).map(|mut guest| {
        guest.origin = Origin::Verb(format!("guest add{}", id_of(guest.value.id.as_ref())).into());
        Part::Guest(Box::new(guest))
    });
    bridges.into_iter().chain(ports).chain(tunnels).chain(routes).chain(guests).collect()
}

fn gone(bridge: &At<String>) -> String {
    format!("its bridge {} does not come back", bridge.value)
}

impl Part {
    /// What it is: `guest web`.
    fn name(&self) -> String {
        let first = |id: Option<&At<Id>>| {
            let name = || self.ports().first().map_or_else(String::new, Port::full_name);
            id.map_or_else(name, |id| id.value.0.escape_debug().to_string())
        };
        match self {
            Part::Bridge(name, _) => format!("bridge {}", name.value.escape_debug()),
            Part::Port(_, keys) => format!("port {}", first(keys.value.id())),
            Part::Tunnel(keys) => {
                let bridge = keys.value.bridge().map_or("", |bridge| bridge.value.as_str());
                format!("a tunnel of bridge {}", bridge.escape_debug())
            }
            Part::Route(keys) => {
                let to = keys.value.to.as_ref().map_or_else(String::new, |to| to.value.0.to_string());
                format!("route {to}")
            }
            Part::Guest(keys) => format!("guest {}", first(keys.value.id.as_ref())),
        }
    }

    /// Its ports, as far as they are known without the rest.
    fn ports(&self) -> Vec<Port> {
        let mut problems = Problems::default();
        match self {
            Part::Bridge(..) | Part::Tunnel(_) | Part::Route(_) => Vec::new(),
            Part::Port(_, keys) => keys.value.ports(&keys.origin, &mut problems),
            Part::Guest(keys) => keys.value.guest(&keys.origin, &mut problems).iter().map(|guest| guest.port(0)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest_verbs::GuestWords;

    const FILE: &str = "[[bridge.br0.port]]\ntap = \"a\"\n[uplink]\ninterface = \"eth0\"\n";

    fn start() -> Desired {
        Desired::of_text("v.toml", FILE, &[]).unwrap()
    }

    #[test]
    fn what_verbs_own_comes_back_as_theirs() {
        assert!(start().owned().is_empty());
        let now = start().with_bridge("blue:gateway=10.71.0.1/24:routing=none").unwrap();
        let now = now.with_bridge_set("blue:mac-aging-time=60").unwrap();
        let now = now.with_port("b1:bridge=blue:vlan=7").unwrap().with_port("web0:id=web").unwrap();
        let now = now.with_port("lost").unwrap().with_tunnel("vni=7,remote=192.0.2.9,bridge=blue").unwrap();
        let guest = GuestWords {
            network: Some("blue".to_owned()),
            addresses: Some(vec!["10.71.0.2/24".to_owned()]),
            publish: Some(vec!["8080:80".to_owned()]),
            ..GuestWords::default()
        };
        let now = now.with_guest("g", &guest).unwrap();
        let owned = now.owned();
        assert_eq!(owned.bridges, ["blue"]);
        let next = restored(&start(), &owned);
        assert_eq!(next.left_out, []);
        let next = next.desired;
        assert_eq!(next.owned(), owned, "as it was");
        let is_a_verbs = |port: &&Port| matches!(port.origin, Origin::Verb(_));
        assert_eq!(next.config.ports.iter().filter(is_a_verbs).count(), next.config.ports.len() - 1, "all but that of the file");
        assert_eq!(next.config.guests, now.config.guests);
        let next = next.without_guest("g").unwrap();
        let owned = next.owned();
        let names = |desired: &Desired| desired.config.ports.iter().map(|port| port.name.clone()).collect::<Vec<_>>();
        assert_eq!((names(&next), next.config.tunnels.len()), (vec!["a".to_owned(), "web0".to_owned(), "b1".to_owned()], 1));
        // A file that is applied does not touch it.
        let applied = next.beside("v.toml", FILE, &[]).unwrap();
        assert_eq!(applied.owned(), owned);
        // And the verbs remove it.
        let rest = applied.without_port("b1").unwrap().without_port("web0").unwrap();
        let name = rest.config.tunnels[0].name.clone();
        assert!(rest.without_tunnel(&name).unwrap().without_bridge("blue").unwrap().owned().is_empty());
    }

    fn restored(desired: &Desired, owned: &Owned) -> Restored {
        desired.with_owned("state.json", owned, &|_| None).unwrap()
    }

    fn names(left_out: &[LeftOut]) -> Vec<&str> {
        left_out.iter().map(|left| left.part.as_str()).collect()
    }

    /// Two bridges with a port each, two ports on the file's bridge, and two guests there.
    fn much() -> Owned {
        let now = start().with_bridge("blue").unwrap().with_bridge("red").unwrap();
        let now = now.with_port("b1:bridge=blue").unwrap().with_port("r1:bridge=red:id=r").unwrap();
        let now = now.with_tunnel("vni=7,remote=192.0.2.9,bridge=blue").unwrap();
        let now = now.with_port("web0:id=web").unwrap().with_port("db0@pid:7:id=db").unwrap();
        let guest = |interface: &str| GuestWords { interface: Some(interface.to_owned()), ..GuestWords::default() };
        now.with_guest("g", &guest("g0@pid:8")).unwrap().with_guest("h", &guest("h0")).unwrap().owned()
    }

    #[test]
    fn only_what_clashes_is_left_out() {
        let owned = much();
        assert_eq!(restored(&start(), &owned).left_out, []);
        for (file, expected, say) in [
            ("[bridge.blue]\n", &["bridge blue", "port b1", "a tunnel of bridge blue"][..], "made by 'bridge add blue'"),
            ("[[bridge.br0.port]]\ntap = \"web0\"\n", &["port web"], "web0"),
            ("[[bridge.br0.port]]\ntap = \"x\"\nid = \"web\"\n[[guest]]\nid = \"h\"\n", &["port web", "guest h"], "web"),
        ] {
            let desired = Desired::of_text("v.toml", &format!("{file}{FILE}"), &[]).unwrap();
            let Restored { desired, left_out } = restored(&desired, &owned);
            assert_eq!(names(&left_out), expected, "{left_out:?}");
            assert!(left_out[0].reason.contains(say) && left_out.iter().all(|left| left.is_clash), "{left_out:?}");
            // The rest is there, and is all that is written from now on.
            let rest = desired.owned();
            assert!(rest != owned && !rest.is_empty());
            let again = Desired::of_text("v.toml", &format!("{file}{FILE}"), &[]).unwrap();
            assert_eq!(restored(&again, &rest).left_out, []);
        }
        // Without the bridge that all the rest is on.
        let desired = Desired::of_text("v.toml", "[[bridge.other.port]]\ntap = \"a\"\n", &[]).unwrap();
        let left = restored(&desired, &owned);
        assert_eq!(names(&left.left_out), ["port web", "port db", "guest g", "guest h"]);
        assert_eq!(left.desired.owned().bridges, ["blue", "red"]);
    }

    #[test]
    fn what_is_refused_is_left_out() {
        let refuse = |port: &Port| {
            let netns = port.link()?.1?.as_str();
            netns.starts_with("pid:").then(|| format!("{netns} is another process now"))
        };
        let Restored { desired, left_out } = start().with_owned("state.json", &much(), &refuse).unwrap();
        assert_eq!(names(&left_out), ["port db", "guest g"]);
        assert_eq!(left_out[1].to_string(), "guest g: pid:8 is another process now");
        assert!(left_out.iter().all(|left| !left.is_clash));
        assert!(desired.config.ports.iter().all(|port| refuse(port).is_none()));
    }

    #[test]
    fn a_text_that_cannot_be_read() {
        for toml in ["[bridge.blue", "[bridge.blue]\nnonsense = 1\n", "[nonsense]\n", "\0"] {
            let owned = Owned { bridges: vec!["blue".into()], toml: toml.into() };
            assert!(start().with_owned("state.json", &owned, &|_| None).is_err());
        }
    }
}
