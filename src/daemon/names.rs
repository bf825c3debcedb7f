//! The ports that a name stands for.
//!
//! A port is printed under one name everywhere: that of its interface, or `NAME@NETNS` if another port's interface has the same
//! name in another namespace ([`config::Port::name`]). Every verb takes
//!
//! 1. the name that is printed,
//! 2. `NAME@NETNS`, also where the name alone would do,
//! 3. the name alone where only one port has it; otherwise it is refused, with the names to choose from.

use api::Refusal;
use config::nearest;
use vswitch::PortId;

/// Maximum number of names in a refusal.
const LISTED: usize = 16;

/// A port with its names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Named {
    pub(super) id: PortId,
    /// As it is printed.
    pub(super) name: String,
    /// With its namespace, if it has one.
    pub(super) full: String,
    /// Without its namespace.
    pub(super) bare: String,
}

impl Named {
    /// A port with one name.
    pub(super) fn plain(id: PortId, name: String) -> Named {
        Named { id, full: name.clone(), bare: name.clone(), name }
    }
}

/// The port of this name.
pub(super) fn find(ports: &[Named], name: &str) -> Result<PortId, Refusal> {
    let exact = ports.iter().find(|port| port.name == name).or_else(|| ports.iter().find(|port| port.full == name));
    if let Some(port) = exact {
        return Ok(port.id);
    }
    let said = name.escape_debug();
    let found: Vec<&Named> = ports.iter().filter(|port| port.bare == name).collect();
    match found.as_slice() {
        [port] => Ok(port.id),
        [] => Err(Refusal::not_found(match nearest(name, ports.iter().map(|port| port.name.as_str())) {
            Some(close) => format!("there is no port '{said}'; did you mean '{close}'?"),
            None => format!("there is no port '{said}'; there are {}", listed(ports.iter())),
        })),
        several => {
            Err(Refusal::conflict(format!("several ports are named '{said}': say which of {}", listed(several.iter().copied()))))
        }
    }
}

/// Names in one line, as many as fit.
fn listed<'a>(ports: impl ExactSizeIterator<Item = &'a Named>) -> String {
    let more = ports.len().saturating_sub(LISTED);
    let names = ports.take(LISTED).map(|port| port.name.as_str()).collect::<Vec<_>>().join(", ");
    if more == 0 { names } else { format!("{names} and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports() -> Vec<Named> {
        let tap = |id, name: &str, full: &str, bare: &str| Named {
            id: PortId(id),
            name: name.to_owned(),
            full: full.to_owned(),
            bare: bare.to_owned(),
        };
        vec![
            Named::plain(PortId(0), "eth0".to_owned()),
            tap(1, "eth0@a", "eth0@a", "eth0"),
            tap(2, "net0@a", "net0@a", "net0"),
            tap(3, "net0@b", "net0@b", "net0"),
            tap(4, "tap4", "tap4@blue", "tap4"),
            Named::plain(PortId(5), "vxlan42/192.0.2.1".to_owned()),
        ]
    }

    #[test]
    fn a_port_answers_to_each_of_its_names() {
        for (name, id) in [("eth0", 0), ("eth0@a", 1), ("net0@b", 3), ("tap4", 4), ("tap4@blue", 4), ("vxlan42/192.0.2.1", 5)] {
            assert_eq!(find(&ports(), name), Ok(PortId(id)), "{name}");
        }
    }

    #[test]
    fn others_are_refused_with_the_names_that_there_are() {
        let refused = |name: &str| find(&ports(), name).unwrap_err();
        let several = "several ports are named 'net0': say which of net0@a, net0@b";
        assert_eq!(refused("net0"), Refusal::conflict(several));
        for (name, say) in [
            ("tap5", "there is no port 'tap5'; did you mean 'tap4'?"),
            ("eth0@b", "did you mean 'eth0@a'?"),
            ("tap4@red", "there is no port 'tap4@red'; there are eth0, eth0@a, net0@a, net0@b, tap4, vxlan42/192.0.2.1"),
            ("x\u{1b}", "there is no port 'x\\u{1b}'; there are eth0,"),
            ("", "there is no port ''"),
        ] {
            let said = refused(name);
            assert!(said.status() == 404 && said.text.contains(say), "{said:?}");
        }
        let many: Vec<Named> = (0..100).map(|id| Named::plain(PortId(id), format!("guest-{id}"))).collect();
        let said = find(&many, "nothing").unwrap_err().text;
        assert!(said.ends_with("guest-15 and 84 more"), "{said}");
    }
}
