//! Round trip: frames coalesced by [`Run`] and split again by `Segments` are unchanged.

use packet::coalesce::{MAX_COALESCED, Run};
use packet::head::Head;
use packet::vlan::TagAction;
use packet::{Features, Headers, Offload, VnetHeader};
use proptest::prelude::*;
use testkit::checksum::add;
use testkit::frames::{Spec, noise};
use testkit::packets::{ACK, FIN, PSH};
use testkit::wire::{judged, on_the_wire};

/// A deviation of one frame of a flow.
#[derive(Clone, Copy, Debug)]
enum Twist {
    None,
    Flags(u8),
    /// Fewer payload bytes: the last of a run.
    Short(usize),
    Empty,
    Longer,
    Padded(usize),
    WrongChecksum,
    WrongIpChecksum,
    NoChecksum,
    /// 0 and 0xffff, both of which verify where the sum is zero.
    OtherZero,
    Partial,
    /// Partial, but different from the sum of the pseudo-header.
    WrongPartial,
    Verified,
    Window,
    Acknowledgment,
    Sequence,
    Id,
    Ttl,
    TrafficClass,
    Options,
    IpOptions,
    Tags,
    Mac,
}

/// A flow that generates frames one by one.
#[derive(Clone, Debug)]
struct Flow {
    spec: Spec,
    size: usize,
}

impl Flow {
    fn next(&mut self, twist: Twist, seed: u64) -> (VnetHeader, Vec<u8>) {
        let mut spec = Spec { payload: noise(seed, self.size), ..self.spec.clone() };
        match twist {
            Twist::Flags(flags) => spec.flags = flags,
            Twist::Short(by) => spec.payload.truncate(self.size - 1 - by % (self.size - 1)),
            Twist::Empty => spec.payload.clear(),
            Twist::Longer => spec.payload.push(7),
            Twist::Window => spec.window ^= 1,
            Twist::Acknowledgment => spec.acknowledgment ^= 1,
            Twist::Sequence => spec.sequence = spec.sequence.wrapping_add(1),
            Twist::Id => spec.id = spec.id.wrapping_add(1),
            Twist::Ttl => spec.ttl ^= 1,
            Twist::TrafficClass => spec.traffic_class ^= 1,
            Twist::Options => spec.options = vec![1; 16],
            Twist::IpOptions => spec.ip_options = 1,
            Twist::Tags => spec.tags.push((0x8100, 10)),
            Twist::Mac => spec.src[5] ^= 1,
            Twist::OtherZero => {
                // The first word becomes the complement of the rest, so that the sum is zero.
                spec.payload[..2].fill(0);
                let bytes = spec.bytes();
                let at = spec.l4() + spec.checksum_offset();
                spec.payload[..2].copy_from_slice(&bytes[at..at + 2]);
            }
            _ => {}
        }
        self.spec.sequence = spec.sequence.wrapping_add(spec.payload.len() as u32);
        self.spec.id = spec.id.wrapping_add(1);
        let (l3, check) = (spec.l3(), spec.l4() + spec.checksum_offset());
        let mut frame = spec.bytes();
        match twist {
            Twist::Padded(by) => frame.resize(frame.len() + 1 + by, 0),
            Twist::WrongChecksum => frame[check] ^= 0x10,
            Twist::WrongIpChecksum if !spec.v6 => frame[l3 + 10] ^= 0x10,
            Twist::NoChecksum if !spec.tcp => frame = spec.unchecked(),
            Twist::OtherZero => {
                let other = if spec.tcp { [0xff, 0xff] } else { [0, 0] };
                frame[check..check + 2].copy_from_slice(&other);
            }
            Twist::Partial => return spec.partial(),
            Twist::WrongPartial => {
                let (vnet, mut frame) = spec.partial();
                frame[check] ^= 0x10;
                return (vnet, frame);
            }
            Twist::Verified => return (VnetHeader { flags: 2, ..VnetHeader::default() }, frame),
            _ => {}
        }
        (VnetHeader::default(), frame)
    }
}

fn twists() -> impl Strategy<Value = Twist> {
    prop_oneof![
        30 => Just(Twist::None),
        3 => prop_oneof![Just(ACK | PSH), Just(ACK | FIN), Just(ACK | 0x80), Just(ACK | 0x40), Just(ACK | 0x20), any::<u8>()].prop_map(Twist::Flags),
        2 => (0usize..100).prop_map(Twist::Short),
        10 => prop_oneof![
            Just(Twist::Empty), Just(Twist::Longer), (0usize..10).prop_map(Twist::Padded), Just(Twist::WrongChecksum),
            Just(Twist::WrongIpChecksum), Just(Twist::NoChecksum), Just(Twist::OtherZero), Just(Twist::Window), Just(Twist::Acknowledgment),
            Just(Twist::Sequence), Just(Twist::Id), Just(Twist::Ttl), Just(Twist::TrafficClass), Just(Twist::Options),
            Just(Twist::IpOptions), Just(Twist::Tags), Just(Twist::Mac),
        ],
        5 => prop_oneof![2 => Just(Twist::Partial), 1 => Just(Twist::WrongPartial), 2 => Just(Twist::Verified)],
    ]
}

fn flows() -> impl Strategy<Value = Vec<Flow>> {
    let flow =
        (any::<(bool, bool, u16, u32)>(), 2usize..2000, 0usize..=2).prop_map(|((v6, tcp, id, sequence), size, tags)| Flow {
            // The exception: identifications of 0 have their own test.
            spec: Spec { v6, tcp, id: id | 1, sequence, tags: vec![(0x8100, 5); tags], ..Spec::default() },
            size,
        });
    prop::collection::vec(flow, 1..=3).prop_map(|mut flows| {
        for (index, flow) in flows.iter_mut().enumerate() {
            flow.spec.ports.0 += index as u16;
        }
        flows
    })
}

type Frames = Vec<(VnetHeader, Vec<u8>)>;

/// Frames of some flows, several of each in turn.
fn streams() -> impl Strategy<Value = Frames> {
    let turn = (any::<prop::sample::Index>(), prop::collection::vec((twists(), any::<u64>()), 1..12));
    (flows(), prop::collection::vec(turn, 1..8)).prop_map(|(mut flows, turns)| {
        let mut frames = Vec::new();
        for (flow, twists) in turns {
            let flow = flow.get_mut_of(&mut flows);
            frames.extend(twists.into_iter().map(|(twist, seed)| flow.next(twist, seed)));
        }
        frames
    })
}

trait PickMut {
    fn get_mut_of(self, flows: &mut [Flow]) -> &mut Flow;
}

impl PickMut for prop::sample::Index {
    fn get_mut_of(self, flows: &mut [Flow]) -> &mut Flow {
        let at = self.index(flows.len());
        &mut flows[at]
    }
}

/// Merges neighbours greedily, as the egress does. Returns the writes and the number of frames in each.
fn coalesce(frames: &Frames, features: Features) -> Vec<(Vec<u8>, usize)> {
    let parsed: Vec<(Headers, Offload)> = frames.iter().map(|(vnet, frame)| judged(*vnet, frame)).collect();
    let mut writes = Vec::new();
    let mut at = 0;
    let mut head = Head::default();
    while at < frames.len() {
        let (vnet, frame) = &frames[at];
        let (headers, offload) = &parsed[at];
        let run = Run::start(frame, headers, *offload, features).and_then(|mut run| {
            while let Some((_, next)) = frames.get(at + run.frames())
                && let (headers, offload) = &parsed[at + run.frames()]
                && run.extend(next, headers, *offload)
            {}
            (run.frames() > 1).then_some(run)
        });
        let Some(run) = run else {
            writes.push(([&vnet.to_bytes()[..], frame].concat(), 1));
            at += 1;
            continue;
        };
        assert!(run.write_head(TagAction::Keep, &mut head));
        let mut write = head.as_bytes().to_vec();
        for at in at..at + run.frames() {
            let headers = &parsed[at].0;
            write.extend(&frames[at].1[usize::from(headers.payload)..headers.end as usize]);
        }
        writes.push((write, run.frames()));
        at += run.frames();
    }
    writes
}

/// The frames as they are on the wire without coalescing.
fn plain(frames: &Frames) -> Vec<Vec<u8>> {
    frames.iter().flat_map(|(vnet, frame)| on_the_wire(&[&vnet.to_bytes()[..], frame].concat())).collect()
}

fn flow_of(frame: &[u8]) -> Vec<u8> {
    let headers = Headers::parse(frame).unwrap();
    let l4 = usize::from(headers.l4);
    [headers.addresses(frame), &frame[l4..l4 + 4], &frame[..usize::from(headers.l3)]].concat()
}

/// A finished checksum of zero may be written either way: `skb_checksum_help` writes 0xffff, TCP
/// segmentation 0. Both verify.
fn with_one_zero(mut frame: Vec<u8>) -> Vec<u8> {
    let headers = Headers::parse(&frame).unwrap();
    if let Some(offset) = headers.transport.checksum_offset().filter(|offset| *offset == 16) {
        let at = usize::from(headers.l4) + offset;
        if frame[at..at + 2] == [0, 0] {
            frame[at..at + 2].fill(0xff);
        }
    }
    frame
}

proptest! {
    #[test]
    fn there_and_back(stream in streams()) {
        let expected = plain(&stream);
        let mut at = 0;
        for (write, count) in coalesce(&stream, Features::ALL) {
            let split = on_the_wire(&write);
            prop_assert_eq!(split.len(), count);
            for frame in split {
                let finished = stream[at].0.flags & 1 != 0;
                if finished {
                    prop_assert_eq!(with_one_zero(frame.clone()), with_one_zero(expected[at].clone()), "frame {}", at);
                } else {
                    prop_assert_eq!(&frame, &expected[at], "frame {}", at);
                }
                at += 1;
            }
        }
        prop_assert_eq!(at, stream.len());
    }

    #[test]
    fn nothing_is_merged_across_flows(stream in streams()) {
        let mut at = 0;
        for (_, count) in coalesce(&stream, Features::ALL) {
            prop_assert!(count <= MAX_COALESCED);
            let flow = flow_of(&stream[at].1);
            prop_assert!(stream[at..at + count].iter().all(|(_, frame)| count == 1 || flow_of(frame) == flow));
            at += count;
        }
    }

    #[test]
    fn a_port_without_the_feature_gets_no_super_frames(stream in streams(), tso4: bool, tso6: bool, uso: bool) {
        let features = Features { tso4, tso6, uso, ..Features::ALL };
        for (write, count) in coalesce(&stream, features) {
            if count > 1 {
                prop_assert!([(1, tso4), (4, tso6), (5, uso)].contains(&(write[1], true)));
            }
        }
        let no_checksums = Features { checksum: false, ..Features::ALL };
        prop_assert!(coalesce(&stream, no_checksums).iter().all(|(_, count)| *count == 1));
    }

    /// A regular flow is merged as far as the limits allow; without this test, merging nothing would pass.
    #[test]
    fn bulk_is_merged(v6: bool, tcp: bool, size in 2usize..1448, frames in 2usize..150, id: u16, sequence: u32) {
        let spec = Spec { v6, tcp, id: id.max(1), sequence, ..Spec::default() };
        let mut flow = Flow { spec: spec.clone(), size };
        let stream: Frames = (0..frames).map(|n| flow.next(Twist::None, n as u64)).collect();
        let headers = spec.payload_at() - spec.l3();
        let most = MAX_COALESCED.min((65_535 - headers) / size);
        let counts: Vec<usize> = coalesce(&stream, Features::ALL).iter().map(|(_, count)| *count).collect();
        let ids_wrap_to_zero = !v6 && usize::from(spec.id) + frames > 0x1_0000;
        prop_assume!(!ids_wrap_to_zero);
        prop_assert_eq!(counts, stream.chunks(most).map(<[_]>::len).collect::<Vec<_>>());
    }

    /// Frames with IPv4 identification 0 are merged, and come out numbered from 0.
    #[test]
    fn unset_identifications(tcp: bool, frames in 2usize..20, then in prop::option::of(1u16..5)) {
        let mut stream: Frames = Vec::new();
        let mut flow = Flow { spec: Spec { tcp, id: 0, ..Spec::default() }, size: 100 };
        for n in 0..frames {
            stream.push(flow.next(Twist::None, n as u64));
            flow.spec.id = 0;
        }
        if let Some(id) = then {
            flow.spec.id = id;
            stream.push(flow.next(Twist::None, 99));
        }
        let writes = coalesce(&stream, Features::ALL);
        prop_assert_eq!(writes[0].1, frames, "and no frame with another identification");
        let expected = plain(&stream);
        for (n, frame) in on_the_wire(&writes[0].0).into_iter().enumerate() {
            let mut with_zero = frame.clone();
            let id = u16::from_be_bytes([frame[18], frame[19]]);
            prop_assert_eq!(usize::from(id), n);
            with_zero[18..20].fill(0);
            let check = add(u16::from_be_bytes([frame[24], frame[25]]), id);
            with_zero[24..26].copy_from_slice(&check.to_be_bytes());
            prop_assert_eq!(&with_zero, &expected[n]);
        }
    }
}

/// One case for each reason not to merge, so that no reason hides another.
#[test]
fn each_difference_keeps_frames_apart() {
    use Twist::*;
    let tcp_only = [Flags(ACK | 0x80), Flags(ACK | 0x20), Flags(0), Flags(ACK | 0x40), Window, Acknowledgment, Sequence, Options];
    let v4_only = [WrongIpChecksum, Id];
    let all = [Empty, Longer, Padded(3), WrongChecksum, WrongPartial, OtherZero, Ttl, TrafficClass, IpOptions, Tags, Mac];
    for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
        let mut cases = all.to_vec();
        cases.extend(tcp_only.iter().filter(|_| tcp));
        cases.extend(v4_only.iter().filter(|_| !v6));
        cases.extend([NoChecksum].iter().filter(|_| !tcp));
        for twist in cases {
            for at in 0..2 {
                let mut flow = Flow { spec: Spec { v6, tcp, ..Spec::default() }, size: 200 };
                let stream: Frames = (0..2).map(|n| flow.next(if n == at { twist } else { None }, n)).collect();
                let short_last = at == 0 && matches!(twist, Longer);
                // A jump before the first of two frames is not between them.
                let start = at == 0 && matches!(twist, Sequence | Id);
                let merged = coalesce(&stream, Features::ALL).len() == 1;
                assert_eq!(merged, short_last || start, "{twist:?} of frame {at}, v6 {v6}, TCP {tcp}");
            }
        }
    }
}

#[test]
fn the_last_of_a_run_may_push_and_finish() {
    let mut flow = Flow { spec: Spec::default(), size: 100 };
    let twists =
        [Twist::None, Twist::Flags(ACK | PSH), Twist::None, Twist::Short(10), Twist::None, Twist::Flags(ACK | FIN | PSH)];
    let stream: Frames = twists.into_iter().enumerate().map(|(n, twist)| flow.next(twist, n as u64)).collect();
    let counts: Vec<usize> = coalesce(&stream, Features::ALL).iter().map(|(_, count)| *count).collect();
    assert_eq!(counts, [2, 2, 2]);
}
