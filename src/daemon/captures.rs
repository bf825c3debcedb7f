//! Captures: begun at all workers, and ended there when nobody reads them any more.
//!
//! ```text
//!  control socket --Capture--> here --Command--> each worker: a Probe
//!        ^                      |                    |
//!        +--- readers of rings -+                    +-- records --> ring --> control socket --> pcapng
//! ```
//!
//! The rings' memory is allocated here and let go of here: what a worker had of a capture comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use capture::probe::Lost;
use capture::ring::{Reader, ring};
use capture::{Probe, Want};
use netio::Waker;
use vswitch::MAX_CAPTURES;
use vswitch::PortId;

use super::Daemon;
use super::queries::kind_of;
use crate::control_socket::Refusal;
use crate::worker::Command;

/// One worker's ring: records find room in it for as long as their reader pauses.
const CHUNKS: usize = 16;
const CHUNK_BYTES: usize = 256 << 10;

/// A capture that runs.
#[derive(Debug)]
pub(crate) struct Begun {
    /// One for each worker.
    pub(crate) readers: Vec<Reader>,
    pub(crate) lost: Lost,
    /// The workers' clock, when this was made.
    pub(crate) now: u64,
    pub(crate) ports: Vec<PortNow>,
    /// Ends it when dropped.
    pub(crate) life: Life,
}

/// A port that frames can be captured at.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct PortNow {
    pub(crate) id: u16,
    pub(crate) name: String,
    /// Its kind and VLANs.
    pub(crate) description: String,
    /// Its packets have no Ethernet header.
    pub(crate) is_raw: bool,
    /// It is, or was, more than a place for what may come.
    pub(crate) is_there: bool,
}

/// The reader's hold on a capture.
#[derive(Debug)]
pub(crate) struct Life {
    is_over: Arc<AtomicBool>,
    control: Waker,
}

impl Drop for Life {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        self.control.wake();
    }
}

/// All that run.
#[derive(Debug, Default)]
pub(super) struct Captures {
    running: Vec<Running>,
    next_id: u64,
}

#[derive(Debug)]
struct Running {
    id: u64,
    /// The only port, if it is not all.
    port: Option<u16>,
    is_over: Arc<AtomicBool>,
}

impl Daemon {
    /// Begins a capture at this port, or at all.
    pub(super) fn begin_capture(&mut self, port: Option<&str>, want: Want) -> Result<Begun, Refusal> {
        self.end_captures();
        if self.captures.running.len() == MAX_CAPTURES {
            return Err(Refusal::Conflict(format!("{MAX_CAPTURES} captures run already; end one of them")));
        }
        let ports = self.capture_ports();
        let port = port.map(|name| find(&ports, name)).transpose()?;
        let want = Arc::new(Want { port, ..want });
        let (id, lost, is_over) = (self.captures.next_id, Lost::new(self.slots.capacity()), Arc::new(AtomicBool::new(false)));
        let (mut taps, readers): (Vec<_>, Vec<_>) = (0..self.workers.len())
            .map(|_| {
                let (writer, reader) = ring(CHUNKS, CHUNK_BYTES);
                (Some(Box::new(Probe::new(id, Arc::clone(&want), writer, lost.clone()))), reader)
            })
            .unzip();
        self.tell_workers(|worker| Command::BeginCapture(taps.get_mut(worker).and_then(Option::take)));
        self.captures.next_id += 1;
        self.captures.running.push(Running { id, port: want.port, is_over: Arc::clone(&is_over) });
        let life = Life { is_over, control: self.poller.waker() };
        Ok(Begun { readers, lost, now: self.clock.nanoseconds(), ports, life })
    }

    /// Ends those whose readers are gone.
    pub(super) fn end_captures(&mut self) {
        let is_over = |running: &mut Running| running.is_over.load(Ordering::Acquire);
        for over in self.captures.running.extract_if(.., is_over).collect::<Vec<Running>>() {
            self.tell_workers(|_| Command::EndCapture(over.id));
        }
    }

    /// The numbers of these ports are soon those of others: whoever reads a capture of one of them hears its end.
    pub(super) fn end_captures_of(&mut self, ids: &[PortId]) {
        let of_these = |running: &&Running| running.port.is_some_and(|port| ids.contains(&PortId(port)));
        self.captures.running.iter().filter(of_these).for_each(|running| running.is_over.store(true, Ordering::Release));
        self.end_captures();
    }

    /// All ports that can have frames, by their numbers.
    pub(super) fn capture_ports(&self) -> Vec<PortNow> {
        let mut ports: Vec<PortNow> = Vec::new();
        for port in &self.ports {
            let (kind, vlan) = (kind_of(port), &port.config.vlan_text);
            let is_raw = !port.config.is_bridged();
            let description = if is_raw || vlan.is_empty() { kind.to_owned() } else { format!("{kind}, {vlan}") };
            ports.push(PortNow { id: port.id.0, name: port.name().to_owned(), description, is_raw, is_there: !port.is_unused() });
        }
        let uplink = |uplink: &crate::edge::uplink::UplinkPort| {
            let description = if uplink.is_bridged() { "uplink, bridged" } else { "uplink, routed" };
            PortNow {
                id: uplink.id.0,
                name: uplink.interface.clone(),
                description: description.to_owned(),
                is_raw: false,
                is_there: true,
            }
        };
        ports.extend(self.uplink.as_ref().map(uplink));
        for (id, name) in self.tunnels.names() {
            let peer = self.tunnels.peers().iter().find(|peer| peer.id == id);
            let line = peer.map(|peer| self.tunnels.line_of(peer));
            let is_raw = line.is_some_and(|line| !line.framing.kind().carries_ethernet());
            let vni = line.and_then(|line| line.framing.vni()).map_or_else(String::new, |vni| format!(", VNI {vni}"));
            let description = match line {
                Some(line) => format!("peer of tunnel {}{vni}", line.name),
                None => "datagrams of no peer".to_owned(),
            };
            ports.push(PortNow { id: id.0, name, description, is_raw, is_there: line.is_some() });
        }
        ports.sort_by_key(|port| port.id);
        ports
    }
}

fn find(ports: &[PortNow], name: &str) -> Result<u16, Refusal> {
    let mut found = ports.iter().filter(|port| port.name == name);
    match (found.next(), found.next()) {
        (Some(port), None) => Ok(port.id),
        (Some(_), Some(_)) => Err(Refusal::Conflict(format!("there are two ports '{name}', in different namespaces"))),
        (None, _) => {
            let near = ports.iter().map(|port| (strsim::damerau_levenshtein(&port.name, name), &port.name)).min();
            let near = near
                .filter(|(distance, _)| *distance <= 2)
                .map_or_else(String::new, |(_, near)| format!("; did you mean '{near}'?"));
            Err(Refusal::NotFound(format!("there is no port '{name}'{near}")))
        }
    }
}
