//! A worker that panicked goes on with its next batch: who watches or captures hears nothing of the old one.

use std::io::IoSlice;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use capture::probe::Lost;
use capture::ring::{self, Reader};
use capture::{Direction, Header, Probe, Want};
use packet::batch::USUAL_FRAMES;
use packet::{Batch, MacAddr, VnetHeader};
use vswitch::{Egress, Live, PortId, PortVlan, Step, Transmit, Watch};

use testkit::bridge::{Bridge, port};
use testkit::overlay;

const PORTS: usize = 7;

/// A bridge with two stations and four peers, of which all is seen, and whose far sides panic if they are told to.
struct Stage {
    bridge: Bridge,
    batch: Batch,
    egress: Egress,
    live: Arc<Live>,
    captured: Reader,
}

struct FarSide {
    panics: bool,
}

impl Transmit for FarSide {
    fn send(&mut self, _: PortId, _: &[IoSlice<'_>]) -> Result<(), vswitch::SendError> {
        assert!(!self.panics, "a fault of ours");
        Ok(())
    }
}

impl Stage {
    fn new() -> Stage {
        let links = [port(PortVlan::default()), port(PortVlan::default())];
        let peers = (1..5).map(|peer| (overlay::plain_peer(), overlay::address(peer)));
        let mut bridge = overlay::host_with(links, peers.collect(), overlay::address(0));
        let live = Arc::new(Live::new(u32::MAX, None, None));
        bridge.pipeline.set_watch(Some(Box::new(Watch::new([Arc::clone(&live)]))));
        let (writer, captured) = ring::ring(4, 256 << 10);
        let probe = Probe::new(2, Arc::new(Want::default()), writer, Lost::new(PORTS));
        bridge.pipeline.begin_capture(Box::new(probe)).expect("room");
        Stage { bridge, batch: Batch::new(), egress: Egress::new(PORTS), live, captured }
    }

    fn run(&mut self, frames: &[Vec<u8>], panics: bool) {
        self.batch.clear();
        for frame in frames {
            assert!(self.batch.push(VnetHeader::default(), frame), "the batch is full");
        }
        let Stage { bridge, batch, egress, .. } = self;
        let pipeline = &mut bridge.pipeline;
        let carried = catch_unwind(AssertUnwindSafe(|| {
            pipeline.process(PortId(0), batch, bridge.now, egress);
            pipeline.transmit(batch, egress, FarSide { panics });
        }));
        assert_eq!(carried.is_err(), panics);
    }

    /// What the second capture has as sent.
    fn sent(&mut self) -> Vec<(u16, Vec<u8>)> {
        let mut sent = Vec::new();
        while let Some(chunk) = self.captured.take() {
            let records = chunk.records().map(|record| Header::split(record).expect("a record"));
            let left = records.filter(|(header, _)| header.direction == Direction::Sent);
            sent.extend(left.map(|(header, bytes)| (header.port, bytes.to_vec())));
            self.captured.give_back(chunk);
        }
        sent
    }
}

/// To all.
fn broadcast(fill: u8, len: usize) -> Vec<u8> {
    [&MacAddr::BROADCAST.0[..], &[2, 0, 0, 0, 0, 8, 0x88, 0xb5], &vec![fill; len]].concat()
}

#[test]
fn nothing_of_the_batch_before_is_told_or_captured() {
    let mut stage = Stage::new();
    for _ in 0..2 * USUAL_FRAMES {
        stage.run(&[broadcast(1, 1400), broadcast(2, 1400)], true);
    }
    while stage.live.next_story().is_some() {}
    stage.sent();

    stage.run(&[broadcast(3, 60)], false);
    let story = stage.live.next_story().expect("it is told");
    assert!(stage.live.next_story().is_none(), "and nothing else");
    let sent = story.steps().iter().filter(|step| matches!(step, Step::Sent { .. })).count();
    assert_eq!(sent, 5, "the other station and four peers: {:?}", story.steps());
    let mut captured = stage.sent();
    captured.sort();
    assert_eq!(captured, [1, 3, 4, 5, 6].map(|port| (port, broadcast(3, 60))));
}

/// 64 frames to four peers are more copies than frames that a batch has.
#[test]
fn a_flood_into_tunnels_is_told_to_its_end() {
    let mut stage = Stage::new();
    let frames: Vec<Vec<u8>> = (0..USUAL_FRAMES).map(|fill| broadcast(fill as u8, 60)).collect();
    stage.run(&frames, false);
    for _ in 0..USUAL_FRAMES {
        let story = stage.live.next_story().expect("it is told");
        let sent = story.steps().iter().filter(|step| matches!(step, Step::Sent { .. })).count();
        assert_eq!(sent, 5, "{:?}", story.steps());
    }
    assert_eq!(stage.sent().len(), 5 * USUAL_FRAMES);
}
