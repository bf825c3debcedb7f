//! The content of the screen, computed from successive readings of the counters. Nothing here knows of terminals.
//!
//! A rate is the difference of two readings divided by the time between them. A counter that is less than before has
//! restarted at 0, as it does for a port that was added again. After a restart of the daemon there are no rates before
//! the second reading.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use api::{Connection, Latency, PortStats, Protocol, Show, State, Stats};
use packet::EtherType;

use super::sampler::{Count, Flow, Sampled};

/// Number of rates kept of each port, for its graph.
pub(super) const HISTORY: usize = 160;

/// One reading of everything.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    /// Time on the reader's clock.
    pub(super) at: Duration,
    pub(super) show: Show,
    pub(super) stats: Stats,
    /// The router's connections; empty without NAT, or if flows were sampled.
    pub(super) connections: Vec<Connection>,
    /// Sampled flows, or the reason why there are none; the reason is empty while a capture is about to begin.
    pub(super) sampled: Result<Sampled, String>,
}

/// Identity of a port: its name and namespace.
type PortKey = (String, Option<String>);

/// The content of the screen at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct View {
    pub(super) title: String,
    pub(super) problems: Vec<String>,
    pub(super) uptime: u64,
    pub(super) workers: usize,
    pub(super) latency: Latency,
    pub(super) ports: Vec<PortRow>,
    pub(super) flows: Vec<FlowRow>,
    pub(super) flows_by: By,
    pub(super) drops: Vec<DropRow>,
}

/// A port with its rates per second.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct PortRow {
    pub(super) name: String,
    pub(super) namespace: Option<String>,
    pub(super) state: Option<State>,
    /// Kind, VLANs, MTU and namespace; empty for peers of tunnels.
    pub(super) about: String,
    pub(super) rx_bits: f64,
    pub(super) rx_frames: f64,
    pub(super) tx_bits: f64,
    pub(super) tx_frames: f64,
    pub(super) drops: f64,
    /// Bits per second in both directions, the latest last.
    pub(super) history: Vec<u64>,
}

/// Source of the flows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum By {
    /// A capture that samples one in this number of frames.
    Sample(u32),
    /// The router's connections, because a capture was refused for this reason.
    Connections(String),
}

impl Default for By {
    fn default() -> By {
        By::Connections(String::new())
    }
}

/// A flow from one endpoint to another, or the connections of one guest with one port of a server.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) struct FlowRow {
    pub(super) protocol: String,
    pub(super) from: String,
    pub(super) to: String,
    /// Bits per second, estimated from a sample.
    pub(super) bits: f64,
    pub(super) frames: f64,
    /// Number of connections with packets since the previous reading.
    pub(super) active: usize,
    pub(super) connections: usize,
}

/// A drop reason with its counts.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct DropRow {
    pub(super) reason: String,
    pub(super) rate: f64,
    pub(super) total: u64,
}

/// Sort order of the ports: numbers from the greatest, names from a to z.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Sort {
    #[default]
    Port,
    Receive,
    Transmit,
    Drops,
}

impl Sort {
    pub(super) fn next(self) -> Sort {
        match self {
            Sort::Port => Sort::Receive,
            Sort::Receive => Sort::Transmit,
            Sort::Transmit => Sort::Drops,
            Sort::Drops => Sort::Port,
        }
    }
}

/// The state that is needed from earlier readings.
#[derive(Debug, Default)]
pub(super) struct Model {
    last: Option<Reading>,
    history: HashMap<PortKey, VecDeque<u64>>,
    view: View,
}

impl Model {
    /// Processes a reading.
    pub(super) fn take(&mut self, reading: Reading) {
        let is_another = |last: &Reading| last.stats.start_time != reading.stats.start_time;
        if self.last.as_ref().is_some_and(is_another) {
            (self.last, self.history) = (None, HashMap::new());
        }
        let before = self.last.as_ref();
        let seconds = before.map_or(0.0, |before| reading.at.saturating_sub(before.at).as_secs_f64());
        let ports: Vec<PortRow> = reading.stats.ports.iter().map(|port| port_row(port, &reading.show, before, seconds)).collect();
        self.remember(&ports, before.is_some());
        self.view = View {
            title: format!("vswitchd {}, pid {}", reading.show.version, reading.show.pid),
            problems: reading.show.problems.clone(),
            uptime: reading.show.uptime,
            workers: reading.stats.workers.len(),
            latency: reading.stats.latency.clone(),
            flows: match &reading.sampled {
                Ok(sampled) => sampled_flows(sampled, seconds),
                Err(_) => flows(&reading, self.last.as_ref()),
            },
            flows_by: match &reading.sampled {
                Ok(sampled) => By::Sample(sampled.sample),
                Err(why) => By::Connections(why.clone()),
            },
            drops: drops(&reading, self.last.as_ref(), seconds),
            ports: ports.into_iter().map(|port| self.with_history(port)).collect(),
        };
        self.last = Some(reading);
    }

    /// The current content of the screen.
    pub(super) fn view(&self) -> &View {
        &self.view
    }

    /// Updates the history of each port, and drops that of removed ports.
    fn remember(&mut self, ports: &[PortRow], has_rates: bool) {
        self.history.retain(|key, _| ports.iter().any(|port| key_of(port) == *key));
        for port in ports.iter().filter(|_| has_rates) {
            let history = self.history.entry(key_of(port)).or_default();
            if history.len() == HISTORY {
                history.pop_front();
            }
            history.push_back((port.rx_bits + port.tx_bits) as u64);
        }
    }

    fn with_history(&self, port: PortRow) -> PortRow {
        let history = self.history.get(&key_of(&port)).map_or_else(Vec::new, |history| history.iter().copied().collect());
        PortRow { history, ..port }
    }
}

impl View {
    /// The ports in this order.
    pub(super) fn sorted(&self, sort: Sort, is_reversed: bool) -> Vec<&PortRow> {
        let mut ports: Vec<&PortRow> = self.ports.iter().collect();
        let number = |port: &PortRow| match sort {
            Sort::Port => 0.0,
            Sort::Receive => port.rx_bits,
            Sort::Transmit => port.tx_bits,
            Sort::Drops => port.drops,
        };
        ports.sort_by(|a, b| number(b).total_cmp(&number(a)).then_with(|| (&a.name, &a.namespace).cmp(&(&b.name, &b.namespace))));
        if is_reversed {
            ports.reverse();
        }
        ports
    }
}

fn key_of(port: &PortRow) -> PortKey {
    (port.name.clone(), port.namespace.clone())
}

fn port_row(port: &PortStats, show: &Show, before: Option<&Reading>, seconds: f64) -> PortRow {
    let same = |other: &&PortStats| (&other.name, &other.namespace) == (&port.name, &port.namespace);
    let was = before.and_then(|before| before.stats.ports.iter().find(same));
    let rate = |number: fn(&PortStats) -> u64| was.map_or(0.0, |was| rate(number(was), number(port), seconds));
    PortRow {
        name: port.name.clone(),
        namespace: port.namespace.clone(),
        state: port.state,
        about: show
            .ports
            .iter()
            .find(|other| (&other.name, &other.namespace) == (&port.name, &port.namespace))
            .map_or_else(String::new, about),
        rx_bits: 8.0 * rate(|port| port.rx_bytes),
        rx_frames: rate(|port| port.rx_frames),
        tx_bits: 8.0 * rate(|port| port.tx_bytes),
        tx_frames: rate(|port| port.tx_frames),
        drops: rate(|port| port.dropped.saturating_add(port.kernel_dropped)),
        history: Vec::new(),
    }
}

fn about(port: &api::Port) -> String {
    let mtu = port.mtu.map(|mtu| format!("MTU {mtu}"));
    let namespace = port.namespace.as_ref().map(|namespace| format!("in {namespace}"));
    let parts = [Some(port.kind.to_string()), Some(port.vlan_text()).filter(|text| !text.is_empty()), mtu, namespace];
    parts.into_iter().flatten().collect::<Vec<String>>().join(", ")
}

fn rate(was: u64, is: u64, seconds: f64) -> f64 {
    let new = is.checked_sub(was).unwrap_or(is);
    if seconds > 0.0 { new as f64 / seconds } else { 0.0 }
}

/// Drops of all ports by reason, the most frequent first. Drops by the kernel are one reason.
fn drops(reading: &Reading, before: Option<&Reading>, seconds: f64) -> Vec<DropRow> {
    let was = before.map_or_else(BTreeMap::new, totals);
    let row = |(reason, total): (String, u64)| {
        let was = before.map(|_| was.get(&reason).copied().unwrap_or(0));
        DropRow { rate: was.map_or(0.0, |was| rate(was, total, seconds)), reason, total }
    };
    let mut rows: Vec<DropRow> = totals(reading).into_iter().map(row).collect();
    rows.sort_by(|a, b| b.rate.total_cmp(&a.rate).then(b.total.cmp(&a.total)).then_with(|| a.reason.cmp(&b.reason)));
    rows
}

fn totals(reading: &Reading) -> BTreeMap<String, u64> {
    let mut totals: BTreeMap<String, u64> = BTreeMap::new();
    let by_kernel: u64 = reading.stats.ports.iter().map(|port| port.kernel_dropped).sum();
    for (reason, frames) in reading.stats.ports.iter().flat_map(|port| &port.drops) {
        *totals.entry(reason.clone()).or_default() += frames;
    }
    if by_kernel + reading.stats.datagrams_dropped > 0 {
        totals.insert("(by the kernel)".to_owned(), by_kernel + reading.stats.datagrams_dropped);
    }
    totals
}

/// The sampled flows, those with the most bytes first.
fn sampled_flows(sampled: &Sampled, seconds: f64) -> Vec<FlowRow> {
    let mut flows = sampled.flows.clone();
    flows.sort_by_key(|(flow, count)| (Reverse(count.bytes), *flow));
    let row = |(flow, count): (Flow, Count)| {
        let (protocol, from, to) = match flow {
            Flow::Ip { protocol, from, to } => (protocol_name(protocol), end(from), end(to)),
            Flow::Other { ether_type: ARP, from, to } => ("arp".to_owned(), from.to_string(), to.to_string()),
            Flow::Other { ether_type, from, to } => (format!("{ether_type:04x}"), from.to_string(), to.to_string()),
            Flow::Rest => (String::new(), "others".to_owned(), String::new()),
        };
        let [bits, frames] = [8 * count.bytes, count.frames].map(|number| rate(0, number, seconds));
        FlowRow { protocol, from, to, bits, frames, ..FlowRow::default() }
    };
    flows.into_iter().map(row).collect()
}

const ARP: u16 = EtherType::ARP.0;

fn protocol_name(number: u8) -> String {
    match number {
        1 => "icmp".to_owned(),
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        58 => "icmp6".to_owned(),
        number => number.to_string(),
    }
}

fn end((address, port): (IpAddr, u16)) -> String {
    if port == 0 { address.to_string() } else { SocketAddr::from((address, port)).to_string() }
}

/// The router's connections by guest and server, the most active first. A connection has been active if its remaining
/// time has not decreased since the previous reading.
fn flows(reading: &Reading, before: Option<&Reading>) -> Vec<FlowRow> {
    let name = |connection: &Connection| {
        let original = &connection.original;
        (connection.protocol, original.src.clone(), original.src_port, original.dst.clone(), original.dst_port)
    };
    let was: HashMap<_, u32> =
        before.iter().flat_map(|before| &before.connections).map(|one| (name(one), one.expires_in)).collect();
    let mut rows: BTreeMap<(Protocol, String, String), FlowRow> = BTreeMap::new();
    for connection in &reading.connections {
        let is_active = match was.get(&name(connection)) {
            Some(left) => connection.expires_in >= *left,
            None => before.is_some(),
        };
        let (protocol, from) = (connection.protocol, connection.original.src.clone());
        let to = match protocol {
            Protocol::TCP | Protocol::UDP => format!("{}:{}", connection.original.dst, connection.original.dst_port),
            _ => connection.original.dst.clone(),
        };
        let new = FlowRow { protocol: protocol.to_string(), from: from.clone(), to: to.clone(), ..FlowRow::default() };
        let row = rows.entry((protocol, from, to)).or_insert(new);
        row.active += usize::from(is_active);
        row.connections += 1;
    }
    let mut rows: Vec<FlowRow> = rows.into_values().collect();
    rows.sort_by_key(|row| Reverse((row.active, row.connections)));
    rows
}
