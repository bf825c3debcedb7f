//! The switch's rules compared with the kernel's: segmentation, acceptance of virtio-net headers, coalescing.

use std::fs;

use libtest_mimic::Trial;
use netio::{Queue, Received, Tap};
use packet::batch::MAX_FRAME_LEN;
use packet::coalesce::Run;
use packet::head::Head;
use packet::offload::{Judged, finish_checksum};
use packet::segment::Segments;
use packet::tcp::flag;
use packet::vlan::TagAction;
use packet::{Batch, Features, Headers, MacAddr, Offload, Segmentation, SegmentationKind, VNET_LEN, VnetHeader};
use rustix::io::Errno;
use testkit::frames::Spec;

use crate::frames::{DOT1Q, station};
use crate::host::{Host, Ip};
use crate::monitor::hold_tap;
use crate::random::Random;
use crate::raw::RawSocket;
use crate::{trial, wait};

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        trial("kernel/segments_are_the_kernels", segments_are_the_kernels),
        trial("kernel/accepts_what_we_accept", accepts_what_we_accept),
        trial("kernel/cuts_what_we_coalesced", cuts_what_we_coalesced),
        trial("kernel/delivers_what_we_coalesced", delivers_what_we_coalesced),
    ]
}

/// A TAP held by the test, which acts as its switch; the interface is in a host.
struct Scratch {
    host: Host,
    tap: Tap,
}

impl Scratch {
    fn new(offload: bool) -> Scratch {
        let host = Host::quiet("scratch");
        let tap = hold_tap(&host, host.name(), offload);
        Scratch { host, tap }
    }

    fn queue(&self) -> &Queue {
        &self.tap.queues()[0]
    }

    fn raw_with_vnet(&self) -> RawSocket {
        self.host.inside(|| RawSocket::open_with_vnet(self.host.name()))
    }

    /// Writes a frame with this virtio-net header, as the switch does.
    fn write(&self, vnet: VnetHeader, frame: &[u8]) -> Result<(), Errno> {
        let bytes = [&vnet.to_bytes()[..], frame].concat();
        self.queue().send(&[std::io::IoSlice::new(&bytes)])
    }

    /// The next `count` frames that the interface sends, and no more.
    fn read(&self, count: usize) -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        let mut batch = Batch::new();
        wait::until("frames from the kernel", || {
            loop {
                batch.clear();
                let received = self.queue().recv(&mut batch);
                assert_ne!(received, Received::Gone);
                for span in batch.spans() {
                    assert_eq!(batch.vnet(*span), VnetHeader::default(), "nothing is left to do");
                    frames.push(batch.frame(*span).to_vec());
                }
                if received == Received::Drained {
                    break;
                }
            }
            (frames.len() >= count).then_some(())
        });
        frames
    }
}

const KINDS: [(Ip, bool, SegmentationKind); 4] = [
    (Ip::V4, true, SegmentationKind::TcpV4),
    (Ip::V6, true, SegmentationKind::TcpV6),
    (Ip::V4, false, SegmentationKind::UdpV4),
    (Ip::V6, false, SegmentationKind::UdpV6),
];

fn random_packet(random: &mut Random, ip: Ip, tcp: bool, flags: u8, payload: usize) -> Spec {
    Spec {
        dst: station(2).0,
        src: station(1).0,
        tags: if random.chance(4) { vec![(DOT1Q, 0x600a)] } else { Vec::new() },
        v6: ip == Ip::V6,
        tcp,
        id: random.next() as u16,
        ports: (random.next() as u16 | 1, random.next() as u16 | 1),
        sequence: random.next() as u32,
        flags,
        options: if random.chance(2) { [&[1, 1, 8, 10][..], &random.bytes(8)].concat() } else { Vec::new() },
        payload: random.bytes(payload),
        ..Spec::default()
    }
}

/// The switch's segments of a super-frame.
fn our_segments(frame: &[u8], segmentation: Segmentation) -> Vec<Vec<u8>> {
    let headers = Headers::parse(frame).expect("a frame");
    let mut head = Head::default();
    let mut segments = Segments::new(frame, &headers, segmentation, TagAction::Keep, &mut head).expect("a super-frame");
    let mut ours = Vec::new();
    while let Some(payload) = segments.next(&mut head) {
        ours.push([&head.as_bytes()[VNET_LEN..], payload].concat());
    }
    ours
}

/// Super-frames sent through an interface without offloads: the kernel segments them before the switch reads them. The
/// switch's own segments must be the same, byte for byte.
fn segments_are_the_kernels() {
    let scratch = Scratch::new(false);
    let socket = scratch.raw_with_vnet();
    let mut random = Random::new(1);
    let mut compared = 0;
    for (ip, tcp, kind) in KINDS {
        for flags in [flag::ACK, flag::ACK | flag::PSH, flag::ACK | flag::FIN | flag::PSH, flag::ACK | flag::CWR, 0xd9, 0xff] {
            if !tcp && flags != flag::ACK {
                continue;
            }
            for (size, payload) in
                [(1, 2), (1, 100), (7, 896), (100, 101), (536, 60_000), (1000, 64_000), (1448, 14_480), (1448, 65_000)]
            {
                let (vnet, frame) = random_packet(&mut random, ip, tcp, flags, payload).super_frame(size as u16);
                let ecn = tcp && flags & flag::CWR != 0;
                socket.send_with_vnet(vnet, &frame).expect("sent");
                let ours = our_segments(&frame, Segmentation { kind, ecn, size: size as u16 });
                let theirs = scratch.read(ours.len());
                assert_eq!(theirs.len(), payload.div_ceil(size));
                assert_eq!(ours.len(), theirs.len());
                for (n, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
                    assert_eq!(ours, theirs, "segment {n} of {kind:?} flags {flags:#x} size {size} payload {payload}");
                }
                compared += ours.len();
            }
        }
    }
    assert!(compared > 5000, "{compared}");
}

/// The kernel must accept whatever the switch passes on; the converse does not hold, since the switch is stricter.
fn accepts_what_we_accept() {
    const CASES: usize = 6000;
    let scratch = Scratch::new(true);
    assert!(scratch.tap.refused().is_empty() && scratch.tap.features() == Features::ALL, "{:?}", scratch.tap);
    let mut random = Random::new(2);
    let (mut accepted, mut super_frames, mut finished, mut refused) = (0, 0, 0, 0);
    for case in 0..CASES {
        let (vnet, mut frame) = random_case(&mut random);
        let Ok(headers) = Headers::parse(&frame) else { continue };
        let passed_on = match Offload::judge(vnet, &headers, frame.len()) {
            Ok(Judged::Accept(offload)) => {
                accepted += 1;
                super_frames += usize::from(offload.segmentation.is_some());
                offload.to_vnet(&headers, 0)
            }
            Ok(Judged::Finish { start, at }) => {
                finished += 1;
                finish_checksum(&mut frame, start, at);
                VnetHeader::default()
            }
            Err(_) => {
                refused += 1;
                continue;
            }
        };
        let written = scratch.write(passed_on, &frame);
        assert_eq!(written, Ok(()), "case {case}: {passed_on:?} before {:02x?}", &frame[..frame.len().min(120)]);
    }
    // Each verdict occurred often enough.
    assert!(accepted > CASES / 5 && super_frames > CASES / 20 && finished > CASES / 50 && refused > CASES / 5);
}

/// A packet, mostly valid, with a header that mostly matches.
fn random_case(random: &mut Random) -> (VnetHeader, Vec<u8>) {
    let (ip, tcp, _) = KINDS[random.below(KINDS.len())];
    let payload = if random.chance(2) { random.below(100) } else { random.below(60_000) };
    let flags = random.next() as u8;
    let mut packet = random_packet(random, ip, tcp, flags, payload);
    packet.dst = if random.chance(2) { MacAddr::BROADCAST.0 } else { station(3).0 };
    let size = [0, 1, 536, 1448, 9000, 65_535][random.below(6)];
    let (mut vnet, mut frame) = if size == 0 { packet.partial() } else { packet.super_frame(size) };
    if random.chance(2) {
        vnet.gso_type &= !packet::vnet::gso::ECN;
    }
    if random.chance(3) {
        frame.truncate(14 + random.below(frame.len() - 13));
    }
    if random.chance(4) {
        // Somewhere in the headers, after the addresses.
        let at = 12 + random.below(packet.payload_at() - 12);
        if let Some(byte) = frame.get_mut(at) {
            *byte = random.next() as u8;
        }
    }
    if random.chance(8) {
        let padding = 1 + random.below(40);
        frame.extend(random.bytes(padding));
    }
    if random.chance(3) {
        let any = [0, 1, 34, 54, frame.len() as u16, random.next() as u16][random.below(6)];
        match random.below(6) {
            0 => vnet.flags = random.next() as u8,
            1 => vnet.gso_type = [0, 1, 3, 4, 5, 0x81, 0x85, random.next() as u8][random.below(8)],
            2 => vnet.hdr_len = any,
            3 => vnet.gso_size = any,
            4 => vnet.csum_start = any,
            _ => vnet.csum_offset = any,
        }
    }
    if random.chance(6) {
        vnet = VnetHeader { gso_type: 0, csum_start: 14 + random.below(30) as u16, csum_offset: random.below(20) as u16, ..vnet };
    }
    assert!(frame.len() <= MAX_FRAME_LEN);
    (vnet, frame)
}

/// Frames that continue one another.
fn train(random: &mut Random, ip: Ip, tcp: bool, size: usize, count: usize) -> Vec<Vec<u8>> {
    let last = if random.chance(2) { size } else { 1 + random.below(size) };
    let whole = random_packet(random, ip, tcp, flag::ACK, size * (count - 1) + last);
    let pieces = whole.payload.chunks(size).enumerate();
    let frames = pieces.map(|(n, payload)| {
        let packet = Spec {
            payload: payload.to_vec(),
            id: whole.id.wrapping_add(n as u16),
            sequence: whole.sequence.wrapping_add((n * size) as u32),
            flags: whole.flags | if n + 1 == count { flag::PSH } else { 0 },
            ..whole.clone()
        };
        packet.bytes()
    });
    frames.collect()
}

/// The header and frame that [`Run`] makes of frames that continue one another.
fn coalesce(frames: &[Vec<u8>]) -> (VnetHeader, Vec<u8>) {
    let headers: Vec<Headers> = frames.iter().map(|frame| Headers::parse(frame).expect("a frame")).collect();
    let mut run = Run::start(&frames[0], &headers[0], Offload::default(), Features::ALL).expect("can be continued");
    for (frame, headers) in frames.iter().zip(&headers).skip(1) {
        assert!(run.extend(frame, headers, Offload::default()), "continues the run");
    }
    let mut head = Head::default();
    assert!(run.write_head(TagAction::Keep, &mut head));
    let (vnet, front) = head.as_bytes().split_first_chunk().expect("a header");
    let payloads = frames.iter().zip(&headers).flat_map(|(frame, headers)| &frame[usize::from(headers.payload)..]);
    (VnetHeader::from_bytes(vnet), front.iter().chain(payloads).copied().collect())
}

/// A coalesced super-frame goes in through a TAP, is seen there whole, and leaves through another TAP without
/// offloads: what comes out are the frames that were coalesced, byte for byte.
fn cuts_what_we_coalesced() {
    let (inward, outward) = (Scratch::new(true), Scratch::new(false));
    let (seen, sent_on) = (inward.raw_with_vnet(), outward.raw_with_vnet());
    let mut random = Random::new(3);
    for (ip, tcp, _) in KINDS {
        for (size, count) in [(1448, 2), (1448, 44), (1000, 64), (1, 64), (536, 10), (100, 33), (9000, 7), (37, 5)] {
            let frames = train(&mut random, ip, tcp, size, count);
            let (vnet, super_frame) = coalesce(&frames);
            inward.write(vnet, &super_frame).expect("the kernel takes it");
            let (vnet, whole) = wait::until("the super-frame", || seen.recv_with_vnet());
            assert_eq!(whole, super_frame);
            assert_eq!(usize::from(vnet.gso_size), size);
            // The kernel counts from the start of the frame, after a tag that it removed.
            let tag = whole.len() - untagged_len(&whole);
            let vnet = VnetHeader { csum_start: super_frame_l4(&whole), hdr_len: vnet.hdr_len + tag as u16, ..vnet };
            sent_on.send_with_vnet(vnet, &whole).expect("sent");
            assert_eq!(outward.read(count), frames, "{ip:?} tcp {tcp} size {size} count {count}");
        }
    }
}

fn super_frame_l4(frame: &[u8]) -> u16 {
    Headers::parse(frame).expect("a frame").l4
}

fn untagged_len(frame: &[u8]) -> usize {
    frame.len() - if Headers::parse(frame).expect("a frame").tag.is_some() { packet::vlan::TAG_LEN } else { 0 }
}

/// Coalesced datagrams reach a socket one by one, as they were sent.
fn delivers_what_we_coalesced() {
    let scratch = Scratch::new(true);
    scratch.host.inside(|| fs::write("/proc/sys/net/ipv6/conf/scratch/disable_ipv6", "0"));
    scratch.host.configure(2);
    let mac = scratch.host.mac();
    let mut random = Random::new(4);
    for ip in [Ip::V4, Ip::V6] {
        let socket = scratch.host.udp(ip, 2);
        let port = socket.local_addr().expect("its address").port();
        for (size, count) in [(1448_usize, 44), (1000, 64), (1, 64), (512, 2)] {
            let payload = random.bytes(size * (count - 1) + size.div_ceil(2));
            let packets = payload.chunks(size).enumerate().map(|(n, payload)| Spec {
                dst: mac.0,
                src: station(1).0,
                v6: ip == Ip::V6,
                tcp: false,
                id: n as u16 + 100,
                ports: (4000, port),
                payload: payload.to_vec(),
                ..Spec::default()
            });
            let frames: Vec<Vec<u8>> = packets.map(|packet| packet.bytes()).collect();
            let (vnet, super_frame) = coalesce(&frames);
            scratch.write(vnet, &super_frame).expect("the kernel takes it");
            for expected in payload.chunks(size) {
                let mut bytes = [0; 2048];
                let len = socket.recv(&mut bytes).expect("each arrives");
                assert_eq!(bytes[..len], *expected);
            }
        }
    }
}
