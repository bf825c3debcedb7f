//! The counters of all ports and tables, printed on SIGUSR1 and at the end.

use std::fmt;

use vswitch::mac_table::MacTableStats;
use vswitch::{Counters, PortId, PortTotals};

/// The name under which removed ports are counted together.
const FORMER: &str = "(removed)";

/// The counters of all workers added up, and those of the tables, at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    /// By port number; numbers without a port are hidden.
    pub(crate) ports: Vec<PortReport>,
    /// Counted by ports that were removed.
    former: PortReport,
    /// The MAC table of each bridge, by its name.
    pub(crate) tables: Vec<(String, MacTableStats)>,
    /// Of the translation, if there is one.
    pub(crate) nat: Option<nat::NatStats>,
    /// Frames that the kernel dropped at the uplink before they were read.
    pub(crate) kernel_dropped: u64,
    /// The uplink's number.
    pub(crate) uplink: Option<PortId>,
    /// Frames that the kernel dropped at other ports before they were read, by port number.
    dropped_at_ports: Vec<u64>,
    /// Datagrams of tunnels that the kernel dropped before they were read.
    pub(crate) datagrams_dropped: u64,
    /// Numbers without a port, and places of guests that never came; not shown; by number.
    hidden: Vec<bool>,
    pub(crate) panics: u64,
}

/// The counters of one port.
#[derive(Clone, Debug)]
pub(crate) struct PortReport {
    pub(crate) name: String,
    pub(crate) totals: PortTotals,
}

/// The baseline of each port's counters. Workers' counters only grow; when a number goes to a new port, its counters go on where
/// the former port left them, and that is the new port's zero.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    /// By number, up to the highest one that has had several ports.
    zeros: Vec<Option<Box<PortTotals>>>,
    /// Counted by ports that were removed.
    former: PortReport,
}

impl Ledger {
    /// All ports begin at zero.
    pub(crate) fn new() -> Ledger {
        Ledger { zeros: Vec::new(), former: PortReport::new(FORMER.to_owned()) }
    }

    /// A number gets a new port: everything counted by it so far belongs to removed ports.
    pub(crate) fn begin<'a>(&mut self, id: PortId, workers: impl Iterator<Item = &'a Counters>) {
        let mut now = PortTotals::default();
        workers.filter_map(|counters| counters.port(id)).for_each(|counters| now.add(counters));
        if id.index() >= self.zeros.len() {
            self.zeros.resize(id.index() + 1, None);
        }
        let zero = &mut self.zeros[id.index()];
        let mut former = now.clone();
        if let Some(zero) = zero {
            former.each(zero, u64::wrapping_sub);
        }
        self.former.totals.each(&former, u64::wrapping_add);
        *zero = Some(Box::new(now));
    }
}

impl Report {
    /// `names` are those of the ports by their numbers, empty for numbers without a port.
    pub(crate) fn new<'a>(
        names: Vec<String>,
        workers: impl Iterator<Item = &'a Counters>,
        ledger: &Ledger,
        tables: Vec<(String, MacTableStats)>,
        panics: u64,
    ) -> Report {
        let mut ports: Vec<PortReport> = names.into_iter().map(PortReport::new).collect();
        for counters in workers {
            for (index, port) in ports.iter_mut().enumerate() {
                if let Some(counters) = counters.port(PortId(index as u16)) {
                    port.totals.add(counters);
                }
            }
        }
        let mut former = ledger.former.clone();
        let mut hidden = vec![false; ports.len()];
        let zeros = ledger.zeros.iter().map(Option::as_ref).chain(std::iter::repeat(None));
        for ((port, hidden), zero) in ports.iter_mut().zip(&mut hidden).zip(zeros) {
            if let Some(zero) = zero {
                port.totals.each(zero, u64::wrapping_sub);
            }
            if port.name.is_empty() {
                former.totals.each(&port.totals, u64::wrapping_add);
                *port = PortReport::new(String::new());
                *hidden = true;
            }
        }
        let dropped_at_ports = vec![0; ports.len()];
        Report {
            ports,
            former,
            tables,
            nat: None,
            kernel_dropped: 0,
            uplink: None,
            dropped_at_ports,
            datagrams_dropped: 0,
            hidden,
            panics,
        }
    }

    /// Does not show these ports.
    pub(crate) fn hide(&mut self, ports: impl Iterator<Item = PortId>) {
        for id in ports {
            if let Some(hidden) = self.hidden.get_mut(id.index()) {
                *hidden = true;
            }
        }
    }

    /// Notes the frames that the kernel dropped at these ports before they were read.
    pub(crate) fn note_dropped(&mut self, ports: impl Iterator<Item = (PortId, u64)>) {
        for (id, frames) in ports {
            if let Some(dropped) = self.dropped_at_ports.get_mut(id.index()) {
                *dropped = frames;
            }
        }
    }

    /// The frames that the kernel dropped at a port before they were read.
    pub(crate) fn dropped_at(&self, id: PortId) -> u64 {
        self.dropped_at_ports.get(id.index()).copied().unwrap_or(0)
    }

    /// Frames received, copied and made; sent, dropped and taken in. Both sums are equal when no frame is under way.
    pub(crate) fn balance(&self) -> [[u64; 3]; 2] {
        let sum = |number: fn(&PortTotals) -> u64| self.ports.iter().chain([&self.former]).map(|port| number(&port.totals)).sum();
        let came = [sum(|port| port.rx_frames), sum(|port| port.copies), sum(|port| port.made)];
        [came, [sum(|port| port.tx_frames), sum(PortTotals::dropped), sum(|port| port.taken)]]
    }

    /// The ports that are shown.
    pub(crate) fn shown(&self) -> impl Iterator<Item = (PortId, &PortReport)> {
        let with_ids = self.ports.iter().enumerate().map(|(at, port)| (PortId(at as u16), port));
        with_ids.zip(&self.hidden).filter_map(|(port, hidden)| (!hidden).then_some(port))
    }

    pub(crate) fn port_name(&self, id: PortId) -> &str {
        self.ports.get(id.index()).map_or("?", |port| &port.name)
    }
}

impl PortReport {
    fn new(name: String) -> PortReport {
        PortReport { name, totals: PortTotals::default() }
    }

    fn is_zero(&self) -> bool {
        let PortTotals { rx_frames, tx_frames, copies, .. } = self.totals;
        rx_frames == 0 && tx_frames == 0 && copies == 0 && self.totals.dropped() == 0
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let former = (!self.former.is_zero()).then_some(&self.former);
        let shown = || self.shown().map(|(_, port)| port).chain(former);
        // Paths are longer than interfaces' names.
        let width = shown().map(|port| port.name.len()).max().unwrap_or(0).max(16);
        writeln!(
            out,
            "{:<width$} {:>12} {:>15} {:>12} {:>15} {:>12} {:>10} {:>10}",
            "port", "rx frames", "rx bytes", "tx frames", "tx bytes", "tx writes", "copies", "dropped"
        )?;
        for port in shown() {
            writeln!(
                out,
                "{:<width$} {:>12} {:>15} {:>12} {:>15} {:>12} {:>10} {:>10}",
                port.name,
                port.totals.rx_frames,
                port.totals.rx_bytes,
                port.totals.tx_frames,
                port.totals.tx_bytes,
                port.totals.tx_writes,
                port.totals.copies,
                port.totals.dropped()
            )?;
        }
        for port in shown() {
            for (reason, frames) in port.totals.drops() {
                writeln!(out, "drop {} {} {frames}", port.name, reason.name())?;
            }
            if port.totals.offload_refused > 0 {
                writeln!(out, "offload refused by {}: {}", port.name, port.totals.offload_refused)?;
            }
        }
        for (name, MacTableStats { learned, moved, evicted, expired, entries, statics }) in &self.tables {
            let of = if self.tables.len() > 1 { format!(" of {name}") } else { String::new() };
            writeln!(
                out,
                "mac table{of}: entries {entries} static {statics} learned {learned} moved {moved} evicted {evicted} expired \
                 {expired}"
            )?;
        }
        if self.panics > 0 {
            writeln!(out, "worker panics: {}", self.panics)?;
        }
        if let Some(nat::NatStats { connections, mappings, opened, expired, flushed, evicted }) = self.nat {
            writeln!(
                out,
                "nat: connections {connections} mappings {mappings} opened {opened} expired {expired} flushed {flushed} evicted \
                 {evicted}"
            )?;
        }
        if self.kernel_dropped > 0 {
            writeln!(out, "dropped by the kernel at the uplink: {}", self.kernel_dropped)?;
        }
        for (PortReport { name, .. }, frames) in self.ports.iter().zip(&self.dropped_at_ports).filter(|(_, frames)| **frames > 0)
        {
            writeln!(out, "dropped by the kernel at {name}: {frames}")?;
        }
        if self.datagrams_dropped > 0 {
            writeln!(out, "dropped by the kernel before tunnels: {}", self.datagrams_dropped)?;
        }
        let [[received, copied, made], [sent, dropped, taken]] = self.balance();
        writeln!(
            out,
            "frames: received {received} + copied {copied} + made {made} = sent {sent} + dropped {dropped} + taken {taken}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_begins_at_zero_for_each_port_and_the_sum_stays() {
        let workers = [Counters::new(2), Counters::new(2)];
        let count = |worker: usize, frames| workers[worker].port(PortId(1)).unwrap().rx_frames.add(frames);
        let report = |ledger: &Ledger, second: &str| {
            let names = vec!["tap0".to_owned(), second.to_owned()];
            Report::new(names, workers.iter(), ledger, Vec::new(), 0)
        };
        let mut ledger = Ledger::new();
        count(0, 5);
        count(1, 2);
        assert_eq!(report(&ledger, "tap1").ports[1].totals.rx_frames, 7);
        let free = report(&ledger, "");
        assert_eq!((free.ports[1].totals.rx_frames, free.shown().count(), free.balance()[0][0]), (0, 1, 7));
        ledger.begin(PortId(1), workers.iter());
        count(1, 3);
        let now = report(&ledger, "tap2");
        assert_eq!((now.ports[1].totals.rx_frames, now.balance()[0][0]), (3, 10));
        ledger.begin(PortId(1), workers.iter());
        let again = report(&ledger, "tap2");
        assert_eq!((again.ports[1].totals.rx_frames, again.balance()[0][0]), (0, 10));
        assert!(again.to_string().contains("(removed)                  10"), "{again}");
    }
}
