//! Where inside addresses belong: to networks, and to guests within them. Two processes agree on a connection only if its inside address
//! belongs where it did.
//!
//! ```text
//!   before:  10.71.0.0/24 blue   10.71.0.2 web      -->  10.71.0.2    another guest's:  ends
//!   now:     10.71.0.0/24 blue   10.71.0.2 mail          10.71.0.3    the same network: goes on
//! ```
//!
//! A network behind a guest belongs where the guest's network does. A network is known by the name of its bridge, its VLAN and its gateway's address; a guest by its id and its bridge. Numbers of
//! bridges are other ones in the next process. Networks that reach nothing have no connections, and are left out.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use config::{Config, Reach};
use packet::Ipv4Prefix;

/// A network, or a guest's address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Place {
    prefix: Ipv4Prefix,
    /// A hash of what identifies it.
    identity: u64,
}

/// The networks and guests of a configuration.
pub(crate) fn places_of(config: &Config) -> Vec<Place> {
    let name_of = |bridge| config.bridge(bridge).map_or("", |bridge| bridge.name.as_str());
    let gateways = config.router.iter().flat_map(|router| &router.gateways).filter(|gateway| gateway.reach != Reach::Nothing);
    let networks = gateways.map(|gateway| {
        let (name, vlan, address) = (name_of(gateway.bridge), gateway.vlan.get(), gateway.address.address);
        Place::new(gateway.address.network(), &format!("network {name} {vlan} {address}"))
    });
    let routes = config.router.iter().flat_map(|router| &router.routes).filter_map(|route| {
        let is_its = |gateway: &&config::Gateway| gateway.bridge == route.bridge && gateway.address.network().contains(route.via);
        let gateway = config.router.iter().flat_map(|router| &router.gateways).find(is_its)?;
        let (name, vlan) = (name_of(route.bridge), gateway.vlan.get());
        (gateway.reach != Reach::Nothing).then(|| Place::new(route.to, &format!("behind {name} {vlan}")))
    });
    let guests = config.guests.iter().flat_map(|guest| {
        let identity = format!("guest {} {}", guest.network, guest.id);
        let addresses = guest.ipv4().filter(|address| config.is_routed(guest, *address));
        addresses.map(move |address| Place::new(Ipv4Prefix::new(address, 32), &identity))
    });
    networks.chain(routes).chain(guests).collect()
}

impl Place {
    pub(crate) fn new(prefix: Ipv4Prefix, identity: &str) -> Place {
        Place { prefix, identity: crate::state::fnv(identity.as_bytes()) }
    }

    pub(crate) fn to_words(self) -> [u64; 2] {
        [u64::from(self.prefix.network().to_bits()) << 8 | u64::from(self.prefix.prefix_len()), self.identity]
    }

    pub(crate) fn from_words([prefix, identity]: [u64; 2]) -> Place {
        let prefix_len = (prefix as u8).min(32);
        Place { prefix: Ipv4Prefix::new(Ipv4Addr::from_bits((prefix >> 8) as u32), prefix_len), identity }
    }
}

/// The addresses that belong where they did.
#[derive(Debug)]
pub(crate) struct Unchanged {
    same: Prefixes,
    others: Prefixes,
}

impl Unchanged {
    pub(crate) fn between(before: &[Place], now: &[Place]) -> Unchanged {
        let [before, now]: [HashSet<Place>; 2] = [before, now].map(|places| places.iter().copied().collect());
        Unchanged { same: Prefixes::new(before.intersection(&now)), others: Prefixes::new(before.symmetric_difference(&now)) }
    }

    pub(crate) fn contains(&self, address: Ipv4Addr) -> bool {
        self.same.contains(address) && !self.others.contains(address)
    }
}

/// Prefixes, to be searched by their lengths.
#[derive(Debug)]
struct Prefixes {
    lengths: Vec<u8>,
    all: HashSet<Ipv4Prefix>,
}

impl Prefixes {
    fn new<'p>(places: impl Iterator<Item = &'p Place>) -> Prefixes {
        let all: HashSet<Ipv4Prefix> = places.map(|place| place.prefix).collect();
        let mut lengths: Vec<u8> = all.iter().map(|prefix| prefix.prefix_len()).collect();
        lengths.sort_unstable();
        lengths.dedup();
        Prefixes { lengths, all }
    }

    fn contains(&self, address: Ipv4Addr) -> bool {
        self.lengths.iter().any(|prefix_len| self.all.contains(&Ipv4Prefix::new(address, *prefix_len)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(text: &str) -> Vec<Place> {
        places_of(&config::Desired::of_text("v.toml", text, &[]).unwrap_or_else(|problems| panic!("{problems}")).config)
    }

    const BEFORE: &str = "[uplink]\ninterface = 'eth0'\n\
        [bridge.blue]\ngateway = '10.71.0.1/24'\n\
        [bridge.red]\ngateways = { 0 = '10.72.0.1/24', 5 = '10.73.0.1/24' }\n\
        [[guest]]\nid = 'web'\nnetwork = 'blue'\naddress = ['10.71.0.2/24']\n";

    #[test]
    fn what_belongs_where_it_did() {
        let before = places(BEFORE);
        assert_eq!(before.len(), 4);
        assert_eq!(before.iter().map(|place| Place::from_words(place.to_words())).collect::<Vec<_>>(), before);
        let addresses = ["10.71.0.2", "10.71.0.3", "10.72.0.2", "10.73.0.2", "10.74.0.2"];
        let same = |now: &str| {
            let unchanged = Unchanged::between(&before, &places(now));
            addresses.map(|address| u8::from(unchanged.contains(address.parse().unwrap())))
        };
        assert_eq!(same(BEFORE), [1, 1, 1, 1, 0], "what is in no network is nobody's");
        // Bridges in another order have other numbers.
        let reordered = BEFORE.replace("[bridge.blue]", "[bridge.aaa]\n[bridge.blue]");
        assert_eq!(same(&reordered), [1, 1, 1, 1, 0]);
        for (from, to, expected) in [
            ("blue", "azure", [0, 0, 1, 1, 0]),
            ("5 =", "6 =", [1, 1, 1, 0, 0]),
            ("10.72.0.1/24", "10.72.0.1/25", [1, 1, 0, 1, 0]),
            ("10.72.0.1/24", "10.72.0.254/24", [1, 1, 0, 1, 0]),
            ("10.72.0.1/24", "10.74.0.1/24", [1, 1, 0, 1, 0]),
            ("[bridge.red]", "[bridge.red]\nrouting = 'none'", [1, 1, 0, 0, 0]),
            ("[bridge.red]", "[bridge.red]\nrouting = 'outside'", [1, 1, 1, 1, 0]),
            ("'web'", "'mail'", [0, 1, 1, 1, 0]),
            ("10.71.0.2/24", "10.71.0.3/24", [0, 0, 1, 1, 0]),
        ] {
            assert!(BEFORE.contains(from));
            assert_eq!(same(&BEFORE.replace(from, to)), expected, "{from} -> {to}");
        }
        // Behind a guest.
        let route = |via: &str| format!("{BEFORE}[[route]]\nto = '10.9.0.0/16'\nvia = '{via}'\nbridge = 'red'\n");
        let stays =
            |before: &str, now: &str| Unchanged::between(&places(before), &places(now)).contains("10.9.0.5".parse().unwrap());
        assert!(stays(&route("10.72.0.9"), &route("10.72.0.8")));
        assert!(!stays(&route("10.72.0.9"), &route("10.73.0.9")) && !stays(&route("10.72.0.9"), BEFORE));
        // The other way around.
        let unchanged = Unchanged::between(&places(&BEFORE.replace("red]", "red]\nrouting = 'none'")), &before);
        assert!(!unchanged.contains("10.72.0.2".parse().unwrap()) && unchanged.contains("10.71.0.2".parse().unwrap()));
    }
}
