//! A pipeline under test. What each port writes is kept, the frame counters must balance after every batch, and a
//! capture of everything must agree with the counters.

use std::cell::RefCell;
use std::io::IoSlice;
use std::sync::Arc;

use capture::probe::Lost;
use capture::ring::{self, Reader};
use capture::{Direction, Header, Probe, Verdict, Want};
use packet::{Batch, Datagram, Features, Timestamp, VNET_LEN, VnetHeader};
use tunnel::{FramingKind, OuterHeader, Train, Trains, train};
use vswitch::{
    BridgeId, Coalesce, Counters, DropReason, Egress, Inbox, MacTable, MacTableConfig, Pipeline, Port, PortCounters, PortId,
    PortKind, PortVlan, SendError, StormLimits, Transmit, Work,
};

/// One write: the port, the virtio-net header and the frame.
pub type Write = (PortId, VnetHeader, Vec<u8>);

/// Decides the outcome of a write.
type Send<'a> = &'a mut dyn FnMut(PortId, VnetHeader, &[u8]) -> Result<(), SendError>;

/// Datagrams of one flow to one peer, sent to a socket in one call.
#[derive(Clone, Debug)]
pub struct Sent {
    /// Port, peer and outer header fields.
    pub outer: OuterHeader,
    /// UDP payloads, in order.
    pub datagrams: Vec<Vec<u8>>,
}

/// One worker's pipeline with its MAC table, counters and clock.
pub struct Bridge {
    /// The pipeline under test.
    pub pipeline: Pipeline,
    /// Its MAC table.
    pub table: Arc<MacTable>,
    /// Counters by port.
    pub counters: Arc<Counters>,
    /// The time passed with each batch; advances only when a test sets it.
    pub now: Timestamp,
    /// Datagrams sent into tunnels, until a test takes them.
    pub sent: Vec<Sent>,
    /// The work of the last transmission.
    pub work: Work,
    /// The most writes of packets that were resumed at once.
    pub most_resumed: usize,
    egress: Egress,
    batch: Batch,
    inbox: Inbox,
    ports: u16,
    captured: RefCell<Captured>,
}

/// What a capture of everything saw, in frames by port.
struct Captured {
    reader: Reader,
    received: Vec<u64>,
    sent: Vec<u64>,
    dropped: Vec<[u64; DropReason::ALL.len()]>,
    /// Floods of which some copies were dropped.
    copies_dropped: Vec<u64>,
}

impl Captured {
    /// A capture of a pipeline with `ports` ports.
    fn of(pipeline: &mut Pipeline, ports: usize) -> Captured {
        let (writer, reader) = ring::ring(4, 256 << 10);
        let want = Want { snaplen: 64, ..Want::default() };
        pipeline.begin_capture(Box::new(Probe::new(1, Arc::new(want), writer, Lost::new(ports)))).expect("the first");
        let none = || vec![0; ports];
        Captured {
            reader,
            received: none(),
            sent: none(),
            dropped: vec![[0; DropReason::ALL.len()]; ports],
            copies_dropped: none(),
        }
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

/// A link port with all offloads and an MTU of 1500.
pub fn port(vlan: PortVlan) -> Port {
    Port {
        bridge: BridgeId::default(),
        vlan,
        mtu: 1500,
        features: Features::ALL,
        coalesce: Coalesce::Off,
        bursts: false,
        kind: PortKind::Link,
        // A guest's port has limits; these are never reached.
        limits: StormLimits { broadcast: Some(10_000_000), ..StormLimits::NONE },
        guard: None,
        isolated: false,
    }
}

impl Bridge {
    /// A bridge with these ports, numbered from 0.
    pub fn new(ports: impl IntoIterator<Item = Port>) -> Bridge {
        let ports: Vec<Port> = ports.into_iter().collect();
        let table = Arc::new(MacTable::new(MacTableConfig { ports: ports.len(), ..MacTableConfig::default() }));
        let counters = Arc::new(Counters::new(ports.len()));
        let mut pipeline = Pipeline::new(Arc::clone(&table), ports.len(), Arc::clone(&counters));
        let count = ports.len() as u16;
        for (index, port) in ports.into_iter().enumerate() {
            table.set_leads_to_network(PortId(index as u16), port.leads_to_network());
            pipeline.set_port(PortId(index as u16), Some(port));
        }
        let (egress, now) = (Egress::new(usize::from(count)), Timestamp::from_secs(1));
        let (batch, inbox) = (Batch::new(), Inbox::new());
        let captured = RefCell::new(Captured::of(&mut pipeline, usize::from(count)));
        Bridge {
            pipeline,
            table,
            counters,
            now,
            sent: Vec::new(),
            work: Work::default(),
            most_resumed: 0,
            egress,
            batch,
            inbox,
            ports: count,
            captured,
        }
    }

    /// A bridge with this number of ports, each a member of every VLAN.
    pub fn open(ports: usize) -> Bridge {
        Bridge::new(std::iter::repeat_with(|| port(PortVlan::default())).take(ports))
    }

    /// The configuration of a port.
    pub fn port(&mut self, id: u16) -> &mut Port {
        self.pipeline.port_mut(PortId(id)).unwrap()
    }

    /// The counters of a port.
    pub fn counts(&self, id: u16) -> &PortCounters {
        self.counters.port(PortId(id)).unwrap()
    }

    /// Plain frames into one port. Returns the writes, ordered by port and then by time.
    pub fn run(&mut self, ingress: u16, frames: &[Vec<u8>]) -> Vec<Write> {
        let frames: Vec<_> = frames.iter().map(|frame| (VnetHeader::default(), frame.clone())).collect();
        self.run_with(ingress, &frames, |_, _, _| Ok(()))
    }

    /// Frames into one port. `send` decides the outcome of each write; refused writes are not returned.
    pub fn run_with(
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

    /// Datagrams into a receiving socket, in batches as a worker makes them. Returns the writes.
    pub fn receive(&mut self, endpoint: u16, kind: FramingKind, mtu: u32, datagrams: &[Datagram<'_>]) -> Vec<Write> {
        let mut writes = Vec::new();
        let mut inbox = std::mem::take(&mut self.inbox);
        inbox.clear();
        for datagram in datagrams {
            inbox.decapsulate(*datagram, kind, mtu, |full| self.carry(endpoint, full, &mut writes));
        }
        self.carry(endpoint, &mut inbox, &mut writes);
        self.inbox = inbox;
        writes.sort_by_key(|(port, ..)| *port);
        writes
    }

    fn carry(&mut self, endpoint: u16, inbox: &mut Inbox, writes: &mut Vec<Write>) {
        self.pipeline.process_tunnel(PortId(endpoint), inbox, self.now, &mut self.egress);
        let out = Out { send: &mut |_, _, _| Ok(()), writes, sent: &mut self.sent };
        self.pipeline.transmit(inbox.batch(), &mut self.egress, out);
        self.go_on(writes, &mut |_, _, _| Ok(()));
        self.assert_balance();
    }

    /// Resumes the packets that the last batch released.
    fn go_on(&mut self, writes: &mut Vec<Write>, send: Send<'_>) {
        while self.pipeline.has_deferred() {
            self.pipeline.resume(&mut self.batch, self.now, &mut self.egress);
            let before = writes.len();
            self.transmit(writes, send);
            self.most_resumed = self.most_resumed.max(writes.len() - before);
        }
    }

    /// Datagrams into a receiving socket, at most one batch. Returns the number of writes; allocates nothing itself.
    pub fn count_received(&mut self, endpoint: u16, kind: FramingKind, mtu: u32, datagrams: &[Datagram<'_>]) -> usize {
        self.inbox.clear();
        for datagram in datagrams {
            self.inbox.decapsulate(*datagram, kind, mtu, |_| panic!("the batch is full"));
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

    /// Frames into one port. Returns the number of writes; allocates nothing itself.
    pub fn count(&mut self, ingress: u16, frames: &[(VnetHeader, Vec<u8>)]) -> usize {
        self.batch.clear();
        for (vnet, frame) in frames {
            assert!(self.batch.push(*vnet, frame), "the batch is full");
        }
        self.pipeline.process(PortId(ingress), &mut self.batch, self.now, &mut self.egress);
        let mut writes = self.count_writes();
        while self.pipeline.has_deferred() {
            self.pipeline.resume(&mut self.batch, self.now, &mut self.egress);
            writes += self.count_writes();
        }
        self.assert_balance();
        writes
    }

    /// Runs timers. Returns the number of writes; allocates nothing itself.
    pub fn count_due(&mut self) -> usize {
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

    /// Runs timers. Returns the writes.
    pub fn poll(&mut self) -> Vec<Write> {
        let mut writes = Vec::new();
        self.pipeline.poll(&mut self.batch, self.now, &mut self.egress);
        self.transmit(&mut writes, &mut |_, _, _| Ok(()));
        self.assert_balance();
        writes
    }

    fn transmit(&mut self, writes: &mut Vec<Write>, send: Send<'_>) {
        let out = Out { send, writes, sent: &mut self.sent };
        self.work = self.pipeline.transmit(&self.batch, &mut self.egress, out);
    }

    /// Frames dropped for this reason, over all ports.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        (0..self.ports).map(|port| self.counts(port).dropped(reason)).sum()
    }

    /// Every reason for which frames were dropped, with their number.
    #[must_use]
    pub fn drops(&self) -> Vec<(DropReason, u64)> {
        let counted = DropReason::ALL.into_iter().map(|reason| (reason, self.dropped(reason)));
        counted.filter(|(_, count)| *count > 0).collect()
    }

    /// Frames that the capture saw dropped for this reason, up to the last [`Bridge::assert_balance`].
    pub fn captured(&self, reason: DropReason) -> u64 {
        self.captured.borrow().dropped.iter().map(|port| port[reason as usize]).sum()
    }

    fn sum(&self, count: impl Fn(&PortCounters) -> u64) -> u64 {
        (0..self.ports).map(|port| count(self.counts(port))).sum()
    }

    /// Asserts that frames received, copied and made equal frames sent, dropped and taken, and that the capture agrees.
    pub fn assert_balance(&self) {
        let entered = self.sum(|port| port.rx_frames.load() + port.copies.load() + port.made.load());
        let drops = |port: &PortCounters| DropReason::ALL.into_iter().map(|reason| port.dropped(reason)).sum::<u64>();
        let left = self.sum(|port| port.tx_frames.load() + port.taken.load());
        assert_eq!(entered, left + self.sum(drops), "frames in + copies + made differ from frames out + drops + taken");
        let mut captured = self.captured.borrow_mut();
        captured.take_in();
        for (port, dropped) in captured.dropped.iter().enumerate() {
            let counts = self.counts(port as u16);
            let books = (counts.rx_frames.load(), counts.tx_frames.load());
            assert_eq!((captured.received[port], captured.sent[port]), books, "received and sent by port {port}");
            for (reason, seen) in DropReason::ALL.into_iter().zip(dropped) {
                let is_same = match captured.copies_dropped[port] {
                    some if some > 0 && matches!(reason, DropReason::TooLong | DropReason::TooManySegments) => {
                        counts.dropped(reason) >= *seen
                    }
                    _ => counts.dropped(reason) == *seen,
                };
                assert!(is_same, "{} at port {port}: {seen} seen, {} counted", reason.name(), counts.dropped(reason));
            }
        }
    }
}

/// A [`Transmit`] that keeps writes and trains.
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

    /// Checks that the kernel would accept each train whole: at most 64 datagrams that fit into 64 KiB with their
    /// headers, all of one size except the last, which may be shorter.
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
            let outcome = (self.send)(PortId(train.outer.port), VnetHeader::default(), &pieces);
            if outcome.is_ok() {
                self.sent.push(Sent { outer: train.outer, datagrams });
            }
            sent(train, outcome);
        }
    }
}
