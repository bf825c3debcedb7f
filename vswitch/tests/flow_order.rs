//! Coalescing by flow changes the order of flows, and nothing else.

use packet::ethernet::EtherType;
use packet::{Headers, Transport, VnetHeader};
use proptest::prelude::*;
use testkit::bridge::{Bridge, Write};
use testkit::frames::{Spec, noise};
use testkit::packets::{ACK, PSH};
use testkit::wire::on_the_wire;
use vswitch::Coalesce;

/// Frames of a batch.
const MOST: usize = packet::batch::MAX_FRAMES;

fn station(n: u8) -> [u8; 6] {
    [2, 0, 0, 0, 0, n]
}

/// A flow between station 0, behind port 0, and station 1, behind port 1.
fn flow(n: usize, v6: bool, tcp: bool) -> Spec {
    let ports = (1000 + (n / 3) as u16, 443);
    Spec { src: station(0), dst: station(1), v6, tcp, ports, hosts: (1, 2 + (n % 3) as u8), options: vec![], ..Spec::default() }
}

/// The next frame of a flow. `kind` varies it.
fn next(spec: &mut Spec, kind: u8, seed: u64) -> Vec<u8> {
    let size = [100, 100, 100, 100, 100, 100, 40, 0][usize::from(kind % 8)];
    let flags = if kind % 16 == 9 { ACK | PSH } else { ACK };
    let frame = Spec { payload: noise(seed, size), flags, ..spec.clone() }.bytes();
    spec.sequence = spec.sequence.wrapping_add(size as u32);
    spec.id += 1;
    frame
}

/// A frame that belongs to no TCP or UDP flow: a fragment, another protocol over IP, or ARP.
fn other(kind: u8, seed: u64) -> Vec<u8> {
    let spec = flow(0, false, false);
    let mut frame = Spec { payload: noise(seed, 100), ..spec.clone() }.bytes();
    match kind % 3 {
        0 => frame[spec.l3() + 6] |= 0x20,
        1 => frame[spec.l3() + 9] = 50,
        _ => frame[12..14].copy_from_slice(&EtherType::ARP.0.to_be_bytes()),
    }
    frame
}

/// Frames of up to twelve flows, and others among them.
fn batches() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let one = prop_oneof![20 => (0usize..12).prop_map(Some), 1 => Just(None)];
    let kinds = prop::collection::vec((one, any::<u8>(), any::<u64>()), 1..=MOST);
    (kinds, 1usize..=12, any::<[(bool, bool); 12]>()).prop_map(|(frames, count, families)| {
        let mut flows: Vec<Spec> = families.iter().enumerate().map(|(n, (v6, tcp))| flow(n, *v6, *tcp)).collect();
        let frame = |(flow, kind, seed): (Option<usize>, u8, u64)| match flow {
            Some(flow) => next(&mut flows[flow % count], kind, seed),
            None => other(kind, seed),
        };
        frames.into_iter().map(frame).collect()
    })
}

/// Addresses, protocol and ports; nothing for frames of no flow.
fn flow_of(frame: &[u8]) -> Option<(Vec<u8>, Transport, Vec<u8>)> {
    let headers = Headers::parse(frame).unwrap();
    let l4 = usize::from(headers.l4);
    let flow = || (headers.addresses(frame).to_vec(), headers.transport, frame[l4..l4 + 4].to_vec());
    (headers.transport != Transport::Other).then(flow)
}

/// A bridge whose port 1 coalesces so, with both stations learned.
fn bridge(coalesce: Coalesce) -> Bridge {
    let mut bridge = Bridge::open(2);
    bridge.port(1).coalesce = coalesce;
    bridge.run(1, &[Spec { src: station(1), dst: station(0), ..Spec::default() }.bytes()]);
    bridge
}

fn wire(writes: &[Write]) -> Vec<Vec<u8>> {
    writes.iter().flat_map(|(_, vnet, frame)| on_the_wire(&[&vnet.to_bytes()[..], frame].concat())).collect()
}

fn run(coalesce: Coalesce, frames: &[Vec<u8>]) -> Vec<Write> {
    bridge(coalesce).run(0, frames)
}

proptest! {
    /// The frames of each flow leave byte for byte and in their order, and so do those of no flow, which none overtakes.
    #[test]
    fn what_leaves_is_what_came(frames in batches()) {
        let writes = run(Coalesce::Flows, &frames);
        let left = wire(&writes);
        prop_assert_eq!(left.len(), frames.len());
        let flows: Vec<_> = frames.iter().map(|frame| flow_of(frame)).collect();
        for flow in &flows {
            let of_flow = |frames: &[Vec<u8>]| frames.iter().filter(|frame| flow_of(frame) == *flow).cloned().collect::<Vec<_>>();
            prop_assert_eq!(of_flow(&left), of_flow(&frames));
        }
        // Between two frames of no flow are the same frames as before.
        let parts = |frames: &[Vec<u8>]| -> Vec<Vec<Vec<u8>>> {
            let mut parts: Vec<Vec<_>> = frames.split(|frame| flow_of(frame).is_none()).map(<[_]>::to_vec).collect();
            parts.iter_mut().for_each(|part| part.sort());
            parts
        };
        prop_assert_eq!(parts(&left), parts(&frames));
        // Bringing flows together does not take more writes.
        prop_assert!(writes.len() <= run(Coalesce::Neighbours, &frames).len());
    }

    /// For users who need the order of arrival.
    #[test]
    fn neighbours_leave_in_the_order_of_arrival(frames in batches()) {
        prop_assert_eq!(wire(&run(Coalesce::Neighbours, &frames)), frames.clone());
        prop_assert_eq!(wire(&run(Coalesce::Off, &frames)), frames);
    }

    /// Flows in turn are one write each, however many there are: without this test, rearranging nothing would pass.
    #[test]
    fn flows_in_turn_are_one_write_each(count in 1usize..=16, v6: bool, tcp: bool) {
        let mut flows: Vec<Spec> = (0..count).map(|n| flow(n, v6, tcp)).collect();
        let frames: Vec<_> = (0..MOST).map(|n| next(&mut flows[n % count], 0, n as u64)).collect();
        let longest = MOST.div_ceil(count).div_ceil(packet::coalesce::MAX_COALESCED);
        prop_assert_eq!(run(Coalesce::Flows, &frames).len(), count * longest);
        prop_assert_eq!(run(Coalesce::Neighbours, &frames).len(), if count == 1 { longest } else { MOST });
    }
}

/// A super-frame and a frame that another kernel left incomplete keep their places in their flow.
#[test]
fn super_frames_stay_in_their_flow() {
    let (mut a, mut b) = (flow(0, false, true), flow(1, false, true));
    let plain = |frame| (VnetHeader::default(), frame);
    let mut frames = vec![plain(next(&mut a, 0, 1)), plain(next(&mut b, 0, 2))];
    frames.push(Spec { payload: noise(3, 3000), ..a.clone() }.super_frame(1000));
    frames.push(plain(next(&mut b, 0, 4)));
    a.sequence += 3000;
    frames.push(Spec { payload: noise(5, 50), ..a.clone() }.partial());
    let expected: Vec<Vec<u8>> = [0, 2, 4, 1, 3]
        .iter()
        .flat_map(|at: &usize| on_the_wire(&[&frames[*at].0.to_bytes()[..], &frames[*at].1].concat()))
        .collect();
    let writes = bridge(Coalesce::Flows).run_with(0, &frames, |_, _, _| Ok(()));
    assert_eq!(wire(&writes), expected);
}
