//! Captures, as a stream of pcapng.
//!
//! Records are taken from the rings of all workers as fast as the reader accepts blocks, sorted by time and written as pcapng.
//! If the reader is slow, the rings overflow, and lost records are counted. If it accepts nothing for 30 seconds or
//! disconnects, the capture ends ([`super::lasting`]).
//!
//! *Order.* Records read from the rings in one pass are sorted. Frames of two workers that are read in different passes may be
//! out of order by the duration of a pass.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use ::capture::pcapng::{self, LINKTYPE_ETHERNET, LINKTYPE_RAW, Packet, PacketDirection, Statistics};
use ::capture::probe::Lost;
use ::capture::ring::{Chunk, Reader};
use ::capture::{Direction, Header, Verdict, Want};
use api::query::Captured;
use api::{Problem, Refusal};
use axum::body::Bytes;
use axum::extract::State;
use axum::response::Response;
use filter::Filter;
use tokio::time::sleep;
use vswitch::DropReason;

use super::answer::{Parameters, refused};
use super::ask::Asker;
use super::lasting::Lasting;
use super::query::Query;
use crate::watch::captures::{Begun, Life, PortNow};

/// How often empty rings are read again.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// How often statistics of lost frames are written, and the list of ports is refreshed.
const STATISTICS_INTERVAL: Duration = Duration::from_secs(1);
/// Maximum length of a captured frame, in bytes.
const MAX_SNAPLEN: u32 = 262_144;
const MAX_SAMPLE: u32 = 1_000_000;

/// Capture frames, as a stream in pcapng format
#[utoipa::path(get, path = "/v1/capture", params(Captured), responses(
    (status = 200, description = "The frames, until the reader disconnects or the capture ends", body = String, content_type = "application/x-pcapng"),
    (status = 404, description = "No such port", body = Problem),
    (status = 409, description = "Too many captures", body = Problem),
))]
pub(super) async fn stream(
    State(asker): State<Asker>,
    Parameters(wanted): Parameters<Captured>,
    lasting: Lasting,
) -> Result<Response, Response> {
    let unfit = |field: &str, text: String| refused(Refusal::bad_request(text).of_field(field));
    let filter = wanted.filter.as_deref().filter(|text| !text.trim().is_empty());
    let filter = filter.map(str::parse::<Filter>).transpose().map_err(|error| unfit("filter", format!("filter: {error}")))?;
    let snaplen = wanted.snaplen.unwrap_or(MAX_SNAPLEN);
    if snaplen == 0 || snaplen > MAX_SNAPLEN {
        return Err(unfit("snaplen", format!("snaplen is a number from 1 to {MAX_SNAPLEN}, not {snaplen}")));
    }
    let sample = wanted.sample.unwrap_or(1);
    if sample == 0 || sample > MAX_SAMPLE {
        return Err(unfit("sample", format!("sample is a number from 1 to {MAX_SAMPLE}, not {sample}")));
    }
    let want = Want { port: None, filter, drops_only: wanted.drops, snaplen: snaplen as usize, sample };
    let port = wanted.port.filter(|port| port != "any");
    let begun = asker.change(|reply| Query::BeginCapture { port, want, reply }).await?;
    let writer = Writer::new(begun, snaplen, wanted.count.unwrap_or(u64::MAX));
    let stream = futures_util::stream::unfold((writer, asker), |(mut writer, asker)| async move {
        let bytes = writer.next(&asker).await?;
        Some((bytes, (writer, asker)))
    });
    Ok(lasting.answer("application/x-pcapng", stream))
}

/// A capture in progress.
struct Writer {
    readers: Vec<Reader>,
    lost: Lost,
    /// Zero of the workers' clock, in nanoseconds since 1970.
    zero: u64,
    began: u64,
    snaplen: u32,
    /// Number of packets left to write.
    left: u64,
    ports: Vec<PortNow>,
    /// Indexed by port number.
    interfaces: HashMap<u16, Interface>,
    next_interface: u32,
    out: Vec<u8>,
    next_tell: tokio::time::Instant,
    is_over: bool,
    _life: Life,
}

/// A port with an interface description block in the output.
struct Interface {
    number: u32,
    name: String,
    written: u64,
    /// Frames that were lost for this port number before this port got it.
    lost_before: u64,
    /// The statistics written last.
    told: (u64, u64),
}

impl Writer {
    fn new(begun: Begun, snaplen: u32, count: u64) -> Writer {
        let Begun { readers, lost, now, port, ports, life } = begun;
        let zero = unix_time().saturating_sub(now);
        let mut writer = Writer {
            readers,
            lost,
            zero,
            began: zero + now,
            snaplen,
            left: count,
            ports,
            interfaces: HashMap::new(),
            next_interface: 0,
            out: Vec::new(),
            next_tell: tokio::time::Instant::now() + STATISTICS_INTERVAL,
            is_over: count == 0,
            _life: life,
        };
        pcapng::section(&mut writer.out, concat!("vswitchd ", env!("CARGO_PKG_VERSION")));
        let at_first: Vec<PortNow> = match port {
            Some(id) => writer.ports.iter().filter(|port| port.id == id).cloned().collect(),
            // Ports of the other link type, and those whose guest is not connected, follow with their first frame.
            None => writer.ports.iter().filter(|port| !port.is_raw && port.is_there).cloned().collect(),
        };
        at_first.iter().for_each(|port| writer.describe(port));
        writer
    }

    /// Waits for the next blocks; `None` at the end of the capture.
    async fn next(&mut self, asker: &Asker) -> Option<Bytes> {
        loop {
            if self.is_over && self.out.is_empty() {
                return None;
            }
            if !self.is_over {
                self.look(asker).await;
            }
            if !self.out.is_empty() {
                return Some(Bytes::from(std::mem::take(&mut self.out)));
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Writes the records that the rings have now, at most a chunk of each.
    async fn look(&mut self, asker: &Asker) {
        let is_ended = self.readers.iter().all(Reader::is_ended);
        let chunks: Vec<Option<Chunk>> = self.readers.iter_mut().map(Reader::take).collect();
        let is_empty = chunks.iter().all(Option::is_none);
        let mut records: Vec<(Header, &[u8])> =
            chunks.iter().flatten().flat_map(Chunk::records).filter_map(Header::split).collect();
        records.sort_by_key(|(header, _)| header.time);
        let is_time = tokio::time::Instant::now() >= self.next_tell;
        if is_time || records.iter().any(|(header, _)| !self.interfaces.contains_key(&header.port)) {
            self.ask_for_ports(asker).await;
        }
        for (header, bytes) in &records {
            if self.left == 0 {
                break;
            }
            self.left -= 1;
            self.packet(header, bytes);
        }
        for (reader, chunk) in self.readers.iter_mut().zip(chunks) {
            if let Some(chunk) = chunk {
                reader.give_back(chunk);
            }
        }
        self.is_over = self.left == 0 || is_ended && is_empty;
        if is_time || self.is_over {
            self.next_tell = tokio::time::Instant::now() + STATISTICS_INTERVAL;
            self.tell();
        }
    }

    /// Refreshes the list of ports.
    async fn ask_for_ports(&mut self, asker: &Asker) {
        let Some(ports) = asker.ask(Query::CapturePorts).await else { return };
        let is_other = |port: &PortNow| self.interfaces.get(&port.id).is_some_and(|known| known.name != port.name);
        // A port that reuses a number is described again with its first frame.
        let others: Vec<u16> = ports.iter().filter(|port| is_other(port)).map(|port| port.id).collect();
        for id in others {
            self.interfaces.remove(&id);
        }
        self.ports = ports;
    }

    fn describe(&mut self, port: &PortNow) {
        let link_type = if port.is_raw { LINKTYPE_RAW } else { LINKTYPE_ETHERNET };
        pcapng::interface(&mut self.out, link_type, self.snaplen, &port.name, &port.description);
        let lost_before = if self.next_interface == 0 { 0 } else { self.lost.of(port.id) };
        let interface = Interface { number: self.next_interface, name: port.name.clone(), written: 0, lost_before, told: (0, 0) };
        self.interfaces.insert(port.id, interface);
        self.next_interface += 1;
    }

    fn packet(&mut self, header: &Header, bytes: &[u8]) {
        if !self.interfaces.contains_key(&header.port) {
            let unknown = || PortNow {
                id: header.port,
                name: format!("port {}", header.port),
                description: String::new(),
                is_raw: false,
                is_there: true,
            };
            let port = self.ports.iter().find(|port| port.id == header.port).cloned().unwrap_or_else(unknown);
            self.describe(&port);
        }
        let Some(interface) = self.interfaces.get_mut(&header.port) else { return };
        interface.written += 1;
        let packet = Packet {
            interface: interface.number,
            time: self.zero.saturating_add(header.time),
            direction: match header.direction {
                Direction::Received => PacketDirection::Inbound,
                Direction::Sent => PacketDirection::Outbound,
                Direction::Within => PacketDirection::Unknown,
            },
            original_len: header.original_len,
            bytes,
            comment: &comment(header.verdict),
        };
        pcapng::packet(&mut self.out, &packet);
    }

    /// Writes the statistics of ports where they have changed; at the end those of all ports.
    fn tell(&mut self) {
        let to = unix_time().max(self.began);
        for (id, interface) in &mut self.interfaces {
            let lost = self.lost.of(*id).saturating_sub(interface.lost_before);
            let now = (interface.written, lost);
            if now == interface.told && !self.is_over {
                continue;
            }
            interface.told = now;
            let (received, dropped) = (interface.written + lost, lost);
            pcapng::statistics(
                &mut self.out,
                &Statistics { interface: interface.number, from: self.began, to, received, dropped },
            );
        }
    }
}

fn comment(verdict: Verdict) -> String {
    let name = |reason: u8| DropReason::ALL.get(usize::from(reason)).map_or("unknown", |reason| reason.name());
    match verdict {
        Verdict::Passed => String::new(),
        Verdict::Dropped(reason) => format!("dropped: {}", name(reason)),
        Verdict::CopiesDropped(reason) => format!("dropped for some ports: {}", name(reason)),
    }
}

fn unix_time() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
