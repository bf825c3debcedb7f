//! The counters, for people: printed on SIGUSR1 and at the end.

use std::fmt;

use vswitch::mac_table::MacTableStats;
use vswitch::{Counter, Counters, DropReason, PortCounters, PortId};

/// All workers' numbers added up, and the MAC table's, at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) ports: Vec<PortReport>,
    pub(crate) table: MacTableStats,
    /// If there is a translation.
    pub(crate) nat: Option<nat::NatStats>,
    /// Frames from the uplink that the kernel dropped before we read them.
    pub(crate) kernel_dropped: u64,
    /// The same at other ports that share an interface with the host, by their names.
    pub(crate) dropped_at_ports: Vec<(String, u64)>,
    /// Datagrams of tunnels that the kernel dropped before we read them.
    pub(crate) datagrams_dropped: u64,
    /// Places of guests that never came, which nobody is shown.
    hidden: Vec<PortId>,
    pub(crate) panics: u64,
}

/// One port's numbers.
#[derive(Clone, Debug)]
pub(crate) struct PortReport {
    pub(crate) name: String,
    pub(crate) rx_frames: u64,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_frames: u64,
    pub(crate) tx_bytes: u64,
    pub(crate) tx_writes: u64,
    pub(crate) copies: u64,
    pub(crate) made: u64,
    pub(crate) taken: u64,
    pub(crate) offload_refused: u64,
    pub(crate) drops: [u64; DropReason::ALL.len()],
}

impl Report {
    pub(crate) fn new<'a>(
        names: Vec<String>,
        workers: impl Iterator<Item = &'a Counters>,
        table: MacTableStats,
        panics: u64,
    ) -> Report {
        let mut ports: Vec<PortReport> = names.into_iter().map(PortReport::new).collect();
        for counters in workers {
            for (index, port) in ports.iter_mut().enumerate() {
                if let Some(counters) = counters.port(PortId(index as u16)) {
                    port.add(counters);
                }
            }
        }
        Report {
            ports,
            table,
            nat: None,
            kernel_dropped: 0,
            dropped_at_ports: Vec::new(),
            datagrams_dropped: 0,
            hidden: Vec::new(),
            panics,
        }
    }

    /// Leaves these ports out of what is shown.
    pub(crate) fn hide(&mut self, ports: impl Iterator<Item = PortId>) {
        self.hidden.extend(ports);
    }

    /// Received, copied and made; sent, dropped and taken. Equal when no frame is under way.
    pub(crate) fn balance(&self) -> [[u64; 3]; 2] {
        let sum = |number: fn(&PortReport) -> u64| self.ports.iter().map(number).sum();
        let came = [sum(|port| port.rx_frames), sum(|port| port.copies), sum(|port| port.made)];
        [came, [sum(|port| port.tx_frames), sum(PortReport::dropped), sum(|port| port.taken)]]
    }

    /// The ports that are shown.
    pub(crate) fn shown(&self) -> impl Iterator<Item = (PortId, &PortReport)> {
        let with_ids = self.ports.iter().enumerate().map(|(at, port)| (PortId(at as u16), port));
        with_ids.filter(|(id, _)| !self.hidden.contains(id))
    }

    pub(crate) fn port_name(&self, id: PortId) -> &str {
        self.ports.get(id.index()).map_or("?", |port| &port.name)
    }
}

impl PortReport {
    fn new(name: String) -> PortReport {
        PortReport {
            name,
            rx_frames: 0,
            rx_bytes: 0,
            tx_frames: 0,
            tx_bytes: 0,
            tx_writes: 0,
            copies: 0,
            made: 0,
            taken: 0,
            offload_refused: 0,
            drops: [0; DropReason::ALL.len()],
        }
    }

    fn add(&mut self, counters: &PortCounters) {
        let add = |sum: &mut u64, counter: &Counter| *sum += counter.load();
        add(&mut self.rx_frames, &counters.rx_frames);
        add(&mut self.rx_bytes, &counters.rx_bytes);
        add(&mut self.tx_frames, &counters.tx_frames);
        add(&mut self.tx_bytes, &counters.tx_bytes);
        add(&mut self.tx_writes, &counters.tx_writes);
        add(&mut self.copies, &counters.copies);
        add(&mut self.made, &counters.made);
        add(&mut self.taken, &counters.taken);
        add(&mut self.offload_refused, &counters.offload_refused);
        for (sum, reason) in self.drops.iter_mut().zip(DropReason::ALL) {
            *sum += counters.dropped(reason);
        }
    }

    pub(crate) fn dropped(&self) -> u64 {
        self.drops.iter().sum()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = || self.shown().map(|(_, port)| port);
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
                port.rx_frames,
                port.rx_bytes,
                port.tx_frames,
                port.tx_bytes,
                port.tx_writes,
                port.copies,
                port.dropped()
            )?;
        }
        for port in shown() {
            for (reason, frames) in DropReason::ALL.iter().zip(port.drops).filter(|(_, frames)| *frames > 0) {
                writeln!(out, "drop {} {} {frames}", port.name, reason.name())?;
            }
            if port.offload_refused > 0 {
                writeln!(out, "offload refused by {}: {}", port.name, port.offload_refused)?;
            }
        }
        let MacTableStats { learned, moved, evicted, expired, entries, statics } = self.table;
        writeln!(
            out,
            "mac table: entries {entries} static {statics} learned {learned} moved {moved} evicted {evicted} expired {expired}"
        )?;
        if self.panics > 0 {
            writeln!(out, "worker panics: {}", self.panics)?;
        }
        if let Some(nat::NatStats { connections, mappings, opened, expired, flushed }) = self.nat {
            writeln!(
                out,
                "nat: connections {connections} mappings {mappings} opened {opened} expired {expired} flushed {flushed}"
            )?;
        }
        if self.kernel_dropped > 0 {
            writeln!(out, "dropped by the kernel at the uplink: {}", self.kernel_dropped)?;
        }
        for (name, frames) in self.dropped_at_ports.iter().filter(|(_, frames)| *frames > 0) {
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
