//! The tables that the demo shows at its end, in columns.

use std::fmt;

use nat::tcp::Phase;
use nat::{Connection, Endpoint, Protocol, Side};
use vswitch::MacEntry;

use crate::fabric::report::Report;

/// The router's connections: the guest, the outside endpoint that stands for it, and the remote host.
pub(super) struct ConnectionTable(pub(super) Vec<Connection>);

impl fmt::Display for ConnectionTable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let row = |out: &mut fmt::Formatter<'_>, cells: [&str; 6]| {
            let [protocol, inside, outside, remote, state, expires] = cells;
            writeln!(out, "  {protocol:<8}  {inside:<17}  {outside:<19}  {remote:<19}  {state:<17}  {expires:>10}")
        };
        row(out, ["protocol", "inside", "outside", "remote", "state", "expires in"])?;
        for connection in &self.0 {
            let Ends { inside, outside, remote } = Ends::of(connection);
            let protocol = connection.original.protocol;
            let [inside, outside] = [inside, outside].map(|end| end.to_string());
            // ICMP has an identifier in place of a port, and it is the guest's.
            let remote = if protocol == Protocol::ICMP { remote.address.to_string() } else { remote.to_string() };
            let opened = if connection.original.side == Side::Inside { "out" } else { "in" };
            let state = connection.phase.map_or_else(|| opened.to_owned(), |phase| format!("{opened}, {}", phase_name(phase)));
            let expires = format!("{} s", connection.expires_in);
            row(out, [&protocol.to_string(), &inside, &outside, &remote, &state, &expires])?;
        }
        Ok(())
    }
}

/// A connection's three endpoints, whichever side opened it.
struct Ends {
    inside: Endpoint,
    outside: Endpoint,
    remote: Endpoint,
}

impl Ends {
    fn of(Connection { original, reply, .. }: &Connection) -> Ends {
        match original.side {
            Side::Inside => Ends { inside: original.src, outside: reply.dst, remote: original.dst },
            Side::Outside => Ends { inside: reply.src, outside: original.dst, remote: original.src },
        }
    }
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Opening => "opening",
        Phase::Established => "established",
        Phase::Closing => "closing",
        Phase::Reset => "reset",
    }
}

/// The port behind which each station was learned.
pub(super) struct StationTable<'a>(pub(super) &'a Report, pub(super) Vec<MacEntry>);

impl fmt::Display for StationTable<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StationTable(report, entries) = self;
        writeln!(out, "  {:<8}  {:>4}  {:<17}  {:>6}", "port", "VLAN", "MAC", "age")?;
        for entry in entries {
            let age = entry.age.map_or_else(|| "static".to_owned(), |age| format!("{age} s"));
            writeln!(out, "  {:<8}  {:>4}  {}  {age:>6}", report.port_name(entry.port), entry.vlan, entry.mac)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::Ipv4Addr;

    use nat::Tuple;

    fn end(last: u8, port: u16) -> Endpoint {
        Endpoint::new(Ipv4Addr::new(192, 0, 2, last), port)
    }

    #[test]
    fn inside_is_inside_whoever_opened() {
        let tuple = |side, src, dst| Tuple { side, protocol: Protocol::TCP, src, dst };
        let connection = |original, reply, phase| Connection { original, reply, phase, expires_in: 240 };
        let (guest, outside, remote) = (end(1, 1000), end(2, 2000), end(3, 80));
        let opened_by_guest =
            connection(tuple(Side::Inside, guest, remote), tuple(Side::Outside, remote, outside), Some(Phase::Closing));
        let opened_by_stranger =
            connection(tuple(Side::Outside, remote, outside), tuple(Side::Inside, guest, remote), Some(Phase::Established));
        let ping = Connection {
            original: Tuple { protocol: Protocol::ICMP, ..opened_by_guest.original },
            phase: None,
            ..opened_by_guest
        };
        let text = ConnectionTable(vec![opened_by_guest, opened_by_stranger, ping]).to_string();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_ascii_whitespace().collect()).collect();
        assert_eq!(lines[1], ["tcp", "192.0.2.1:1000", "192.0.2.2:2000", "192.0.2.3:80", "out,", "closing", "240", "s"]);
        assert_eq!(lines[2], ["tcp", "192.0.2.1:1000", "192.0.2.2:2000", "192.0.2.3:80", "in,", "established", "240", "s"]);
        assert_eq!(lines[3], ["icmp", "192.0.2.1:1000", "192.0.2.2:2000", "192.0.2.3", "out", "240", "s"]);
    }
}
