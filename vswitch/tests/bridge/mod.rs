//! A bridge on a bench: ports whose writes are kept, books that must balance, and a capture of everything that must
//! say the same as the books.
#![allow(dead_code, reason = "each test uses some of it")]

use std::cell::RefCell;
use std::io::IoSlice;
use std::sync::Arc;

use capture::ring::{self, Reader};
use capture::tap::Lost;
use capture::{Direction, Header, Tap, Verdict, Want};
use packet::{Batch, Datagram, Features, Timestamp, VNET_LEN, VnetHeader};
use tunnel::{Arrivals, Protocol, Train, Trains, Way, train};
use vswitch::{
    BridgeId, Counters, DropReason, Egress, Inbox, MacTable, MacTableConfig, Pipeline, Port, PortCounters, PortId, PortKind,
    PortVlan, SendError, Transmit,
};

/// One write: its virtio-net header and its frame.
pub(crate) type Write = (PortId, VnetHeader, Vec<u8>);

/// Says what becomes of a write.
type Send<'a> = &'a mut dyn FnMut(PortId, VnetHeader, &[u8]) -> Result<(), SendError>;

/// What one call gives to a socket: datagrams of one flow to one peer.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) way: Way,
    pub(crate) datagrams: Vec<Vec<u8>>,
}

pub(crate) struct Bridge {
    pub(crate) pipeline: Pipeline,
    pub(crate) table: Arc<MacTable>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) now: Timestamp,
    /// What went into tunnels, until it is taken.
    pub(crate) sent: Vec<Sent>,
    egress: Egress,
    batch: Batch,
    inbox: Inbox,
    ports: u16,
    captured: RefCell<Captured>,
}

/// What a capture of everything saw: frames by port.
struct Captured {
    reader: Reader,
    received: Vec<u64>,
    sent: Vec<u64>,
    dropped: Vec<[u64; DropReason::ALL.len()]>,
    /// Floods of which some copies were dropped.
    copies_dropped: Vec<u64>,
}

impl Captured {
    /// Of a pipeline of so many ports.
    fn of(pipeline: &mut Pipeline, ports: usize) -> Captured {
        let (writer, reader) = ring::ring(4, 256 << 10);
        let want = Want { snaplen: 64, ..Want::default() };
        pipeline.begin_capture(Box::new(Tap::new(1, Arc::new(want), writer, Lost::new(ports)))).expect("the first");
        let none = || vec![0; ports];
        Captured { reader, received: none(), sent: none(), dropped: vec![[0; 49]; ports], copies_dropped: none() }
    }

    fn take_in(&mut self) {
        while let Some(chunk) = self.reader.take() {
            for record in chunk.records() {
                let (Header { port, direction, verdict, .. }, _) = Header::split(record).expect("a record");
                let port = usize::from(port);
                self.received[port] += u64::from(direction == Direction::Received);
                self.sent[port] += u64::from(direction == Direction::Sent && verdict == Verdict::Passed);
                match verdict {
                    Verdict::Passed => {}
                    Verdict::Dropped(reason) => self.dropped[port][usize::from(reason)] += 1,
                    Verdict::CopiesDropped(_) => self.copies_dropped[port] += 1,
                }
            }
            self.reader.give_back(chunk);
        }
        assert_eq!(self.reader.lost(), 0);
    }
}

pub(crate) fn port(vlan: PortVlan) -> Port {
    Port {
        bridge: BridgeId::default(),
        vlan,
        mtu: 1500,
        features: Features::ALL,
        coalesce: false,
        bursts: false,
        kind: PortKind::Link,
    }
}

impl Bridge {
    pub(crate) fn new(ports: impl IntoIterator<Item = Port>) -> Bridge {
        let ports: Vec<Port> = ports.into_iter().collect();
        let table = Arc::new(MacTable::new(MacTableConfig { ports: ports.len(), ..MacTableConfig::default() }));
        let counters = Arc::new(Counters::new(ports.len()));
        let mut pipeline = Pipeline::new(Arc::clone(&table), ports.len(), Arc::clone(&counters));
        let count = ports.len() as u16;
        for (index, port) in ports.into_iter().enumerate() {
            pipeline.set_port(PortId(index as u16), Some(port));
        }
        let (egress, now) = (Egress::new(usize::from(count)), Timestamp::from_secs(1));
        let (batch, inbox) = (Batch::new(), Inbox::new());
        let captured = RefCell::new(Captured::of(&mut pipeline, usize::from(count)));
        Bridge { pipeline, table, counters, now, sent: Vec::new(), egress, batch, inbox, ports: count, captured }
    }

    /// So many ports that carry everything.
    pub(crate) fn open(ports: usize) -> Bridge {
        Bridge::new(std::iter::repeat_with(|| port(PortVlan::default())).take(ports))
    }

    pub(crate) fn port(&mut self, id: u16) -> &mut Port {
        self.pipeline.port_mut(PortId(id)).unwrap()
    }

    pub(crate) fn counts(&self, id: u16) -> &PortCounters {
        self.counters.port(PortId(id)).unwrap()
    }

    /// Plain frames in through one port; what was written, by port and in its order.
    pub(crate) fn run(&mut self, ingress: u16, frames: &[Vec<u8>]) -> Vec<Write> {
        let frames: Vec<_> = frames.iter().map(|frame| (VnetHeader::default(), frame.clone())).collect();
        self.run_with(ingress, &frames, |_, _, _| Ok(()))
    }

    /// Frames in through one port. `send` says what becomes of a write; refused ones are not kept.
    pub(crate) fn run_with(
        &mut self,
        ingress: u16,
        frames: &[(VnetHeader, Vec<u8>)],
        mut send: impl FnMut(PortId, VnetHeader, &[u8]) -> Result<(), SendError>,
    ) -> Vec<Write> {
        self.batch.clear();
        for (vnet, frame) in frames {
            assert!(self.batch.push(*vnet, frame), "the batch is full");
        }
        let mut writes = Vec::new();
        self.pipeline.process(PortId(ingress), &mut self.batch, self.now, &mut self.egress);
        self.transmit(&mut writes, &mut send);
        self.go_on(&mut writes, &mut send);
        self.assert_balance();
        writes.sort_by_key(|(port, ..)| *port);
        writes
    }

    /// Datagrams in through a receiving socket, as a worker gives them in; what was written.
    pub(crate) fn receive(&mut self, endpoint: u16, protocol: Protocol, mtu: u32, datagrams: &[Datagram<'_>]) -> Vec<Write> {
        let mut writes = Vec::new();
        self.inbox.clear();
        for datagram in datagrams {
            for arrival in Arrivals::new(*datagram, protocol, mtu) {
                if !self.inbox.push(datagram, arrival) {
                    self.carry(endpoint, &mut writes);
                    assert!(self.inbox.push(datagram, arrival), "an empty batch has room for any frame");
                }
            }
        }
        self.carry(endpoint, &mut writes);
        writes.sort_by_key(|(port, ..)| *port);
        writes
    }

    fn carry(&mut self, endpoint: u16, writes: &mut Vec<Write>) {
        self.pipeline.process_tunnel(PortId(endpoint), &mut self.inbox, self.now, &mut self.egress);
        let out = Out { send: &mut |_, _, _| Ok(()), writes, sent: &mut self.sent };
        self.pipeline.transmit(self.inbox.batch(), &mut self.egress, out);
        self.inbox.clear();
        self.go_on(writes, &mut |_, _, _| Ok(()));
        self.assert_balance();
    }

    /// What the last batch left.
    fn go_on(&mut self, writes: &mut Vec<Write>, send: Send<'_>) {
        while self.pipeline.has_left() {
            self.pipeline.resume(&mut self.batch, self.now, &mut self.egress);
            self.transmit(writes, send);
        }
    }

    /// Datagrams in, a batch's worth; how many writes they became. Allocates nothing itself.
    pub(crate) fn count_received(&mut self, endpoint: u16, protocol: Protocol, mtu: u32, datagrams: &[Datagram<'_>]) -> usize {
        self.inbox.clear();
        for datagram in datagrams {
            for arrival in Arrivals::new(*datagram, protocol, mtu) {
                assert!(self.inbox.push(datagram, arrival), "the batch is full");
            }
        }
        self.pipeline.process_tunnel(PortId(endpoint), &mut self.inbox, self.now, &mut self.egress);
        let mut writes = 0;
        self.pipeline.transmit(self.inbox.batch(), &mut self.egress, |_: PortId, _: &[IoSlice<'_>]| {
            writes += 1;
            Ok(())
        });
        self.assert_balance();
        writes
    }

    /// Frames in through one port; how many writes they became. Allocates nothing itself.
    pub(crate) fn count(&mut self, ingress: u16, frames: &[(VnetHeader, Vec<u8>)]) -> usize {
        self.batch.clear();
        for (vnet, frame) in frames {
            assert!(self.batch.push(*vnet, frame), "the batch is full");
        }
        self.pipeline.process(PortId(ingress), &mut self.batch, self.now, &mut self.egress);
        let mut writes = self.count_writes();
        while self.pipeline.has_left() {
            self.pipeline.resume(&mut self.batch, self.now, &mut self.egress);
            writes += self.count_writes();
        }
        self.assert_balance();
        writes
    }

    /// What is due by time, counted.
    pub(crate) fn count_due(&mut self) -> usize {
        self.pipeline.poll(&mut self.batch, self.now, &mut self.egress);
        let writes = self.count_writes();
        self.assert_balance();
        writes
    }

    fn count_writes(&mut self) -> usize {
        let mut writes = 0;
        self.pipeline.transmit(&self.batch, &mut self.egress, |_: PortId, _: &[IoSlice<'_>]| {
            writes += 1;
            Ok(())
        });
        writes
    }

    /// What is due by time.
    pub(crate) fn poll(&mut self) -> Vec<Write> {
        let mut writes = Vec::new();
        self.pipeline.poll(&mut self.batch, self.now, &mut self.egress);
        self.transmit(&mut writes, &mut |_, _, _| Ok(()));
        self.assert_balance();
        writes
    }

    fn transmit(&mut self, writes: &mut Vec<Write>, send: Send<'_>) {
        let out = Out { send, writes, sent: &mut self.sent };
        self.pipeline.transmit(&self.batch, &mut self.egress, out);
    }

    pub(crate) fn dropped(&self, reason: DropReason) -> u64 {
        (0..self.ports).map(|port| self.counts(port).dropped(reason)).sum()
    }

    /// How many frames a capture of everything has seen dropped for this reason, until the books were last balanced.
    pub(crate) fn captured(&self, reason: DropReason) -> u64 {
        self.captured.borrow().dropped.iter().map(|port| port[reason as usize]).sum()
    }

    fn sum(&self, count: impl Fn(&PortCounters) -> u64) -> u64 {
        (0..self.ports).map(|port| count(self.counts(port))).sum()
    }

    /// Frames in, copies and what was made are frames out, drops and what was taken.
    pub(crate) fn assert_balance(&self) {
        let entered = self.sum(|port| port.rx_frames.load() + port.copies.load() + port.made.load());
        let drops = |port: &PortCounters| DropReason::ALL.into_iter().map(|reason| port.dropped(reason)).sum::<u64>();
        let left = self.sum(|port| port.tx_frames.load() + port.taken.load());
        assert_eq!(entered, left + self.sum(drops), "the books do not balance");
        let mut captured = self.captured.borrow_mut();
        captured.take_in();
        for (port, dropped) in captured.dropped.iter().enumerate() {
            let counts = self.counts(port as u16);
            let books = (counts.rx_frames.load(), counts.tx_frames.load());
            assert_eq!((captured.received[port], captured.sent[port]), books, "received and sent by port {port}");
            for (reason, seen) in DropReason::ALL.into_iter().zip(dropped) {
                let is_same = match captured.copies_dropped[port] {
                    some if some > 0 && reason == DropReason::TooLong => counts.dropped(reason) >= seen + some,
                    _ => counts.dropped(reason) == *seen,
                };
                assert!(is_same, "{} at port {port}: {seen} seen, {} counted", reason.name(), counts.dropped(reason));
            }
        }
    }
}

/// Where frames leave: writes and trains are kept.
struct Out<'a> {
    send: Send<'a>,
    writes: &'a mut Vec<Write>,
    sent: &'a mut Vec<Sent>,
}

impl Transmit for Out<'_> {
    fn send(&mut self, port: PortId, pieces: &[IoSlice<'_>]) -> Result<(), SendError> {
        let bytes: Vec<u8> = pieces.iter().flat_map(|piece| piece.iter().copied()).collect();
        let (vnet, frame) = bytes.split_at(VNET_LEN);
        let vnet = VnetHeader::from_bytes(vnet.try_into().unwrap());
        (self.send)(port, vnet, frame)?;
        self.writes.push((port, vnet, frame.to_vec()));
        Ok(())
    }

    /// Each train is one that the kernel takes whole: at most 64 datagrams that fit into 64 KiB with their
    /// headers, all of one size but the last, which may be shorter.
    fn send_trains(&mut self, trains: &Trains, arena: &[u8], mut sent: impl FnMut(&Train, Result<(), SendError>)) {
        for train in trains.trains() {
            let datagrams: Vec<Vec<u8>> = trains.datagrams(train, arena).map(|pieces| pieces.concat()).collect();
            let pieces: Vec<u8> = trains.pieces(train, arena).flatten().copied().collect();
            assert_eq!(pieces, datagrams.concat(), "one call or many");
            assert_eq!((pieces.len(), datagrams.len()), (train.bytes as usize, usize::from(train.datagrams)));
            let most = if datagrams.len() > 1 { train::MAX_TRAIN_BYTES } else { train::MAX_BYTES };
            assert!(pieces.len() <= most && (1..=train::MAX_DATAGRAMS).contains(&datagrams.len()));
            let (last, others) = datagrams.split_last().unwrap();
            assert!(others.iter().all(|datagram| datagram.len() == usize::from(train.size)));
            assert!(last.len() <= usize::from(train.size));
            let outcome = (self.send)(PortId(train.way.port), VnetHeader::default(), &pieces);
            if outcome.is_ok() {
                self.sent.push(Sent { way: train.way, datagrams });
            }
            sent(train, outcome);
        }
    }
}
