//! What verbs made and own, written down and read by the next process.
//!
//! The text is a configuration file of the verbs' bridges, with their ports and tunnels, of the verbs' ports on other bridges, and of
//! the verbs' guests. The names of the verbs' bridges stand beside it, as a file cannot say who owns what. Whatever else verbs have added
//! is the configuration's, and is not written.

use crate::bridge::BridgeKeys;
use crate::desired::Desired;
use crate::document::Document;
use crate::file;
use crate::keys::{Named, Tables};
use crate::problem::{At, Origin, Problems};
use crate::written;

/// What verbs own, as text.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Owned {
    /// Names of their bridges.
    pub bridges: Vec<String>,
    /// The bridges with their ports and tunnels, as a configuration file.
    pub toml: String,
}

impl Owned {
    /// Whether verbs own nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.toml.is_empty()
    }
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
        Owned { bridges, toml: written::toml_of(&document) }
    }

    /// This configuration with what verbs own, read from the file of this name.
    pub fn with_owned(&self, path: &str, owned: &Owned) -> Result<Desired, Problems> {
        let mut problems = Problems::default();
        let mut running = file::read(path, &owned.toml, &mut problems);
        for (name, keys) in running.bridges.iter_mut().flat_map(|bridges| &mut bridges.value.0) {
            if owned.bridges.contains(&name.value) {
                name.origin = Origin::Verb(format!("bridge add {}", name.value.escape_debug()).into());
                continue;
            }
            for port in keys.ports.iter_mut().flat_map(|ports| &mut ports.value.0) {
                let id = port.value.id().map_or_else(String::new, |id| format!(" {}", id.value.0.escape_debug()));
                port.origin = Origin::Verb(format!("port add{id}").into());
            }
        }
        for guest in running.guests.iter_mut().flat_map(|guests| &mut guests.value.0) {
            let id = guest.value.id.as_ref().map_or_else(String::new, |id| format!(" {}", id.value.0.escape_debug()));
            guest.origin = Origin::Verb(format!("guest add{id}").into());
        }
        for tunnel in running.tunnels.iter_mut().flat_map(|tunnels| &mut tunnels.value.0) {
            tunnel.origin = Origin::Verb("tunnel add".into());
        }
        let running = problems.none_or(running)?;
        let mut problems = Problems::default();
        let mut document = self.document.clone();
        document.take_over(&running, &mut problems);
        document.take_over_ports(&running, &self.whole, &mut problems);
        document.take_over_guests(&running, &self.whole, &mut problems);
        Desired::finish(document, self.whole.clone(), problems)
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
        let next = start().with_owned("state.json", &owned).unwrap();
        assert_eq!(next.owned(), owned, "as it was");
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

    #[test]
    fn a_file_that_claims_the_same_is_refused() {
        let owned = start().with_bridge("blue").unwrap().with_port("web0:id=web").unwrap().owned();
        let other = Desired::of_text("v.toml", &format!("{FILE}[bridge.blue]\n"), &[]).unwrap();
        let said = other.with_owned("state.json", &owned).unwrap_err().to_string();
        assert!(said.contains("made by 'bridge add blue'"), "{said}");
        let other = Desired::of_text("v.toml", "[[bridge.br0.port]]\ntap = \"web0\"\n", &[]).unwrap();
        assert!(other.with_owned("state.json", &owned).is_err());
        for toml in ["[bridge.blue", "[bridge.blue]\nnonsense = 1\n", "[nonsense]\n", "\0"] {
            assert!(start().with_owned("state.json", &Owned { bridges: vec!["blue".into()], toml: toml.into() }).is_err());
        }
    }
}
