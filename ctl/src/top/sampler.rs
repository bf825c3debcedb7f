//! Flows with their rates, from a capture of the first bytes of one received frame in N.
//!
//! ```text
//!   GET /v1/capture --pcapng--> sampler thread --counts--> Book <--taken, once a reading-- reader thread
//! ```
//!
//! Each captured frame stands for N frames, so a flow's rate is correct on average, and within some 20 % for 100 sampled
//! frames. N follows the traffic, so that about a thousand frames per second are captured whatever the load; on a quiet
//! switch all frames are. Only received frames count, because sent frames are the same ones again. Beyond [`MAX_FLOWS`]
//! flows between two readings, the rest are counted as one.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use ::capture::pcapng::{Block, LINKTYPE_RAW, PacketDirection};
use anyhow::{Context, bail};
use api::query::{Captured, target};
use packet::ipv4::Ipv4View;
use packet::{EtherType, Headers, MacAddr};

use crate::follow::{Came, Follow};

/// Maximum number of separate flows between two readings.
const MAX_FLOWS: usize = 4096;
/// Maximum number of interfaces in a capture: as many as a switch can have ports.
const MAX_INTERFACES: usize = 1 << 16;

/// Captured length of each frame, in bytes: enough for the headers that are parsed.
const SNAPLEN: u32 = 96;

/// Initial sampling: one frame in 64. N changes by a factor of four if the number of captured frames per second leaves the
/// range below.
const FIRST_SAMPLE: u32 = 64;
const MOST_SAMPLE: u32 = 1 << 18;
const MIN_FRAMES_PER_SEC: f64 = 500.0;
const MAX_FRAMES_PER_SEC: f64 = 4000.0;

/// Interval between two checks of the sampling rate, and before a refused capture is retried.
const RATE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// Identity of a flow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) enum Flow {
    /// An IP flow; ports are 0 for protocols without ports.
    Ip {
        protocol: u8,
        from: (IpAddr, u16),
        to: (IpAddr, u16),
    },
    Other {
        ether_type: u16,
        from: MacAddr,
        to: MacAddr,
    },
    /// All flows for which there was no room.
    Rest,
}

/// Estimated traffic of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Count {
    pub(super) frames: u64,
    pub(super) bytes: u64,
}

/// Flows counted since the previous reading.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Sampled {
    /// One in this number of frames was captured.
    pub(super) sample: u32,
    pub(super) flows: Vec<(Flow, Count)>,
}

/// Flows counted until they are taken, or the reason why there are none.
#[derive(Debug)]
struct Book {
    counts: HashMap<Flow, Count>,
    sample: u32,
    refused: Option<String>,
}

/// The thread that samples.
#[derive(Clone, Debug)]
pub(super) struct Sampler {
    book: Arc<Mutex<Book>>,
}

impl Sampler {
    /// Starts the thread, which samples as long as the process runs.
    pub(super) fn start(socket: PathBuf) -> anyhow::Result<Sampler> {
        let book = Book { counts: HashMap::new(), sample: FIRST_SAMPLE, refused: Some(String::new()) };
        let sampler = Sampler { book: Arc::new(Mutex::new(book)) };
        let other = sampler.clone();
        thread::Builder::new().name("sampler".to_owned()).spawn(move || other.go_on(&socket)).context("starting the sampler")?;
        Ok(sampler)
    }

    /// Takes the flows counted since the last call, or the reason why there are none; the reason is empty while a capture
    /// is about to begin.
    pub(super) fn take(&self) -> Result<Sampled, String> {
        let mut book = self.book();
        if let Some(why) = &book.refused {
            return Err(why.clone());
        }
        Ok(Sampled { sample: book.sample, flows: book.counts.drain().collect() })
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn go_on(&self, socket: &Path) {
        let mut sample = FIRST_SAMPLE;
        loop {
            match self.capture(socket, sample) {
                Ok(next) => sample = next,
                Err(error) => {
                    self.book().refused = Some(format!("{error:#}"));
                    thread::sleep(RETRY_INTERVAL);
                }
            }
        }
    }

    /// Captures until a different N fits better. Returns that N.
    fn capture(&self, socket: &Path, sample: u32) -> anyhow::Result<u32> {
        let captured = Captured { snaplen: Some(SNAPLEN), sample: Some(sample), ..Captured::default() };
        let mut follow = Follow::get(socket, &target("/v1/capture", &captured)?)?;
        self.begin(sample);
        let (mut bytes, mut interfaces) = (Vec::new(), Vec::new());
        let (mut since, mut seen) = (Instant::now(), 0);
        loop {
            if follow.read(&mut bytes)? == Came::End {
                bail!("the switch ended the capture");
            }
            let (whole, frames) = self.book().count(&bytes, &mut interfaces)?;
            bytes.drain(..whole);
            seen += frames;
            let passed = since.elapsed();
            if passed >= RATE_CHECK_INTERVAL {
                let next = next_sample(sample, seen as f64 / passed.as_secs_f64());
                if next != sample {
                    return Ok(next);
                }
                (since, seen) = (Instant::now(), 0);
            }
        }
    }

    fn begin(&self, sample: u32) {
        let mut book = self.book();
        (book.sample, book.refused) = (sample, None);
    }
}

fn next_sample(sample: u32, seen: f64) -> u32 {
    match seen {
        ..MIN_FRAMES_PER_SEC => (sample / 4).max(1),
        MAX_FRAMES_PER_SEC.. => (sample * 4).min(MOST_SAMPLE),
        _ => sample,
    }
}

impl Book {
    /// Counts the frames of all complete blocks. Returns the length of these blocks and the number of frames. `interfaces`
    /// are the link types so far.
    fn count(&mut self, bytes: &[u8], interfaces: &mut Vec<u16>) -> anyhow::Result<(usize, u64)> {
        let (mut at, mut frames) = (0, 0);
        loop {
            let Ok(block) = Block::first(&bytes[at..]) else { bail!("the switch sent something other than pcapng") };
            let Some(block) = block else { return Ok((at, frames)) };
            at += block.bytes.len();
            if let Some(link_type) = block.link_type().filter(|_| interfaces.len() < MAX_INTERFACES) {
                interfaces.push(link_type);
            }
            let Some(packet) = block.packet() else { continue };
            frames += 1;
            let is_raw = interfaces.get(packet.interface as usize) == Some(&LINKTYPE_RAW);
            if packet.direction == PacketDirection::Inbound {
                self.add(flow_of(packet.bytes, is_raw), packet.original_len);
            }
        }
    }

    fn add(&mut self, flow: Flow, len: u32) {
        let has_room = self.counts.len() < MAX_FLOWS || self.counts.contains_key(&flow);
        let count = self.counts.entry(if has_room { flow } else { Flow::Rest }).or_default();
        count.frames += u64::from(self.sample);
        count.bytes += u64::from(len) * u64::from(self.sample);
    }
}

/// The flow of a frame. Lengths are not checked, because the frame may be truncated.
fn flow_of(bytes: &[u8], is_raw: bool) -> Flow {
    let (start, ether_type, ends) = match Headers::parse(bytes) {
        _ if is_raw => match bytes.first().map(|byte| byte >> 4) {
            Some(4) => (0, EtherType::IPV4, Default::default()),
            Some(6) => (0, EtherType::IPV6, Default::default()),
            _ => return Flow::Rest,
        },
        Ok(headers) => (usize::from(headers.l3), headers.ether_type, (headers.src, headers.dst)),
        Err(_) => return Flow::Rest,
    };
    let packet = bytes.get(start..).unwrap_or_default();
    let flow = match ether_type {
        EtherType::IPV4 => ipv4_flow(packet),
        EtherType::IPV6 => ipv6_flow(packet),
        _ => None,
    };
    flow.unwrap_or(Flow::Other { ether_type: ether_type.0, from: ends.0, to: ends.1 })
}

/// The flow of an IPv4 packet (RFC 791 section 3.1).
fn ipv4_flow(packet: &[u8]) -> Option<Flow> {
    let ip = Ipv4View::quoted(packet)?;
    let (from, to) = ports(ip.protocol(), (ip.fragment_offset() == 0).then(|| ip.payload()));
    Some(Flow::Ip { protocol: ip.protocol(), from: (ip.src().into(), from), to: (ip.dst().into(), to) })
}

/// The flow of an IPv6 packet (RFC 8200 section 3). With extension headers, the protocol is that of the first one.
fn ipv6_flow(packet: &[u8]) -> Option<Flow> {
    let header: &[u8; 40] = packet.first_chunk()?;
    let address = |at: usize| Some(IpAddr::from(Ipv6Addr::from(*header[at..].first_chunk::<16>()?)));
    let (from, to) = ports(header[6], packet.get(40..));
    Some(Flow::Ip { protocol: header[6], from: (address(8)?, from), to: (address(24)?, to) })
}

fn ports(protocol: u8, header: Option<&[u8]>) -> (u16, u16) {
    let ports = header.and_then(|header| header.first_chunk::<4>());
    match (protocol, ports) {
        (packet::tcp::PROTOCOL | packet::udp::PROTOCOL, Some([a, b, c, d])) => {
            (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]))
        }
        _ => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use ::capture::pcapng::{self, LINKTYPE_ETHERNET, Packet};

    use super::*;

    /// UDP from 10.0.0.2:1000 to 10.0.0.3:53, in this VLAN if it is one, of which 4 bytes behind IP are there.
    fn frame(port: u16, is_tagged: bool) -> Vec<u8> {
        let tag: &[u8] = if is_tagged { &[0x81, 0, 0, 10] } else { &[] };
        let ip = [0x45, 0, 5, 220, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 2, 10, 0, 0, 3];
        [&[2; 12], tag, &[8, 0], &ip, &port.to_be_bytes(), &[0, 53]].concat()
    }

    fn udp(port: u16) -> Flow {
        let address = |last| IpAddr::from([10, 0, 0, last]);
        Flow::Ip { protocol: 17, from: (address(2), port), to: (address(3), 53) }
    }

    fn book(sample: u32) -> Book {
        Book { counts: HashMap::new(), sample, refused: None }
    }

    #[test]
    fn each_frame_that_came_in_stands_for_as_many() {
        let mut bytes = Vec::new();
        pcapng::section(&mut bytes, "");
        pcapng::interface(&mut bytes, LINKTYPE_ETHERNET, SNAPLEN, "tap0", "");
        pcapng::interface(&mut bytes, LINKTYPE_RAW, SNAPLEN, "tun0", "");
        let (plain, tagged) = (frame(1000, false), frame(1000, true));
        for (interface, direction, frame) in [
            (0, PacketDirection::Inbound, &plain[..]),
            (0, PacketDirection::Outbound, &plain),
            (0, PacketDirection::Inbound, &tagged),
            (1, PacketDirection::Inbound, &plain[14..]),
            (0, PacketDirection::Unknown, &plain),
        ] {
            pcapng::packet(&mut bytes, &Packet { interface, time: 0, direction, original_len: 1514, bytes: frame, comment: "" });
        }
        // However it comes in pieces.
        for cut in [0, 10, bytes.len() / 2, bytes.len() - 1, bytes.len()] {
            let (mut book, mut interfaces) = (book(64), Vec::new());
            let (whole, before) = book.count(&bytes[..cut], &mut interfaces).unwrap();
            let (rest, frames) = book.count(&bytes[whole..], &mut interfaces).unwrap();
            assert_eq!((whole + rest, before + frames), (bytes.len(), 5));
            assert_eq!(book.counts, HashMap::from([(udp(1000), Count { frames: 3 * 64, bytes: 3 * 64 * 1514 })]));
        }
        assert!(book(1).count(&[0; 12], &mut Vec::new()).is_err());
    }

    #[test]
    fn frames_cut_anywhere_are_of_some_flow() {
        let whole = frame(7, true);
        for end in 0..whole.len() {
            assert!(flow_of(&whole[..end], false) != udp(7));
            let _ = flow_of(&whole[..end], true);
        }
        assert_eq!(flow_of(&whole, false), udp(7));
        // A later fragment has no ports.
        let mut fragment = frame(7, false);
        fragment[14 + 7] = 1;
        assert!(matches!(flow_of(&fragment, false), Flow::Ip { from: (_, 0), to: (_, 0), .. }));
        let arp = [&[2; 12][..], &[8, 6, 0, 1]].concat();
        assert!(matches!(flow_of(&arp, false), Flow::Other { ether_type: 0x806, .. }));
    }

    #[test]
    fn flows_have_an_end() {
        let mut book = book(1);
        for port in 0..=u16::MAX {
            book.add(udp(port), 100);
        }
        assert_eq!(book.counts.len(), MAX_FLOWS + 1);
        assert_eq!(book.counts.values().map(|count| count.frames).sum::<u64>(), 1 << 16);
    }

    #[test]
    fn the_part_follows_the_traffic() {
        assert_eq!([0.0, 499.0, 500.0, 3999.0, 4000.0, 1e9].map(|seen| next_sample(64, seen)), [16, 16, 64, 64, 256, 256]);
        assert_eq!((next_sample(1, 0.0), next_sample(MOST_SAMPLE, 1e9)), (1, MOST_SAMPLE));
    }
}
