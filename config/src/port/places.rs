//! The ports of a list by their places: a list of thousands need not be searched for each of them.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::Port;

/// Positions in a list of ports, by the interface, path or address of the port there.
#[derive(Debug, Default)]
pub(crate) struct PortPlaces(HashMap<u64, Vec<usize>>);

impl PortPlaces {
    /// The places of these ports.
    pub(crate) fn of(ports: &[Port]) -> PortPlaces {
        let mut places = PortPlaces::default();
        ports.iter().enumerate().for_each(|(at, port)| places.note(at, port));
        places
    }

    /// A port is at this position.
    pub(crate) fn note(&mut self, at: usize, port: &Port) {
        self.0.entry(hash_of(port)).or_default().push(at);
    }

    /// The first port of the list that is the same port.
    pub(crate) fn same<'p>(&self, ports: &'p [Port], port: &Port) -> Option<&'p Port> {
        self.near(ports, port).find(|other| other.is_same_port(port))
    }

    /// The first port of the list that is for the same interface, path or address.
    pub(crate) fn clashing<'p>(&self, ports: &'p [Port], port: &Port) -> Option<&'p Port> {
        self.near(ports, port).find(|other| other.clashes_with(port))
    }

    fn near<'p>(&self, ports: &'p [Port], port: &Port) -> impl Iterator<Item = &'p Port> {
        self.0.get(&hash_of(port)).into_iter().flatten().filter_map(|at| ports.get(*at))
    }
}

fn hash_of(port: &Port) -> u64 {
    let mut hasher = DefaultHasher::new();
    port.place().hash(&mut hasher);
    hasher.finish()
}
