//! Coalescing, and segmentation of the result.

use packet::coalesce::Run;
use packet::head::Head;
use packet::offload::Judged;
use packet::vlan::TagAction;
use packet::{Features, Headers, Network, Offload, Transport, VNET_LEN, VnetHeader};
use testkit::wire::plain_frames;

use crate::Reader;
use crate::frame::make_sound;

/// Limit of the frames in one input.
const MAX_FRAMES: usize = 80;

struct Parsed {
    vnet: VnetHeader,
    bytes: Vec<u8>,
    headers: Headers,
    offload: Offload,
}

/// A stream of frames: neighbours are coalesced greedily and segmented again, and must be unchanged.
///
/// Each record is a control byte and then, by its lowest bit, a frame (length, bytes) or the continuation of the last
/// one; some bytes are changed before checksums are corrected, or after.
pub fn coalesce(data: &[u8]) {
    let frames = read_frames(&mut Reader(data));
    let mut head = Head::default();
    let mut at = 0;
    while let Some(first) = frames.get(at) {
        let Some(mut run) = Run::start(&first.bytes, &first.headers, first.offload, Features::ALL) else {
            at += 1;
            continue;
        };
        while let Some(next) = frames.get(at + run.frames())
            && run.extend(&next.bytes, &next.headers, next.offload)
        {}
        let members = &frames[at..at + run.frames()];
        at += members.len();
        if members.len() > 1 {
            assert!(run.write_head(TagAction::Keep, &mut head));
            check_run(members, &head);
        }
    }
}

fn check_run(members: &[Parsed], head: &Head) {
    let mut write = head.as_bytes().to_vec();
    for Parsed { bytes, headers, .. } in members {
        write.extend(&bytes[usize::from(headers.payload)..headers.end as usize]);
    }
    let vnet = VnetHeader::from_bytes(write[..VNET_LEN].try_into().unwrap_or(&[0; VNET_LEN]));
    let Some(split) = plain_frames(vnet, &write[VNET_LEN..]) else { panic!("our own header is refused") };
    assert_eq!(split.len(), members.len());
    let unset_ids = members[0].headers.network == Network::Ipv4 && members.iter().all(|member| id_of(member) == [0, 0]);
    for (frame, member) in split.into_iter().zip(members) {
        let Some(mut expected) = plain_frames(member.vnet, &member.bytes) else { panic!("merged, but refused") };
        let (frame, expected) = (comparable(frame, member, unset_ids), comparable(expected.remove(0), member, unset_ids));
        assert_eq!(frame, expected);
    }
}

fn id_of(member: &Parsed) -> [u8; 2] {
    let l3 = usize::from(member.headers.l3);
    [member.bytes[l3 + 4], member.bytes[l3 + 5]]
}

/// The frame without what may differ: identifications where all were zero, and the representation of a zero TCP
/// checksum.
fn comparable(mut frame: Vec<u8>, member: &Parsed, unset_ids: bool) -> Vec<u8> {
    let l3 = usize::from(member.headers.l3);
    if unset_ids {
        frame[l3 + 4..l3 + 6].fill(0);
        frame[l3 + 10..l3 + 12].fill(0);
    }
    let at = usize::from(member.headers.l4) + 16;
    if member.headers.transport == Transport::Tcp && member.vnet.flags & 1 != 0 && frame[at..at + 2] == [0, 0] {
        frame[at..at + 2].fill(0xff);
    }
    frame
}

fn read_frames(input: &mut Reader<'_>) -> Vec<Parsed> {
    let mut frames = Vec::new();
    let mut last = Vec::new();
    while !input.is_empty() && frames.len() < MAX_FRAMES {
        let control = input.u8();
        let mut bytes = if control & 1 == 0 || last.is_empty() {
            let len = usize::from(input.u16());
            input.bytes(len).to_vec()
        } else {
            continued(&last)
        };
        if control & 2 != 0 && !bytes.is_empty() {
            for _ in 0..=control >> 6 {
                let at = usize::from(input.u8()) % bytes.len();
                bytes[at] = input.u8();
            }
        }
        let partial = control & 4 != 0;
        let mut vnet = VnetHeader::default();
        if partial || control & 8 == 0 {
            vnet = make_sound(&mut bytes, partial);
        }
        last.clone_from(&bytes);
        if control & 16 != 0 && !bytes.is_empty() {
            let at = usize::from(input.u8()) % bytes.len();
            bytes[at] ^= input.u8();
        }
        let Ok(headers) = Headers::parse(&bytes) else { continue };
        let Ok(Judged::Accept(offload)) = Offload::judge(vnet, &headers, bytes.len()) else { continue };
        frames.push(Parsed { vnet, bytes, headers, offload });
    }
    frames
}

/// The frame that continues this one: next identification, next sequence number.
fn continued(last: &[u8]) -> Vec<u8> {
    let mut bytes = last.to_vec();
    let Ok(headers) = Headers::parse(last) else { return bytes };
    let (l3, l4) = (usize::from(headers.l3), usize::from(headers.l4));
    if headers.network == Network::Ipv4 && bytes[l3 + 4..l3 + 6] != [0, 0] {
        let id = u16::from_be_bytes([bytes[l3 + 4], bytes[l3 + 5]]).wrapping_add(1);
        bytes[l3 + 4..l3 + 6].copy_from_slice(&id.to_be_bytes());
    }
    if headers.transport == Transport::Tcp {
        let sequence = u32::from_be_bytes([bytes[l4 + 4], bytes[l4 + 5], bytes[l4 + 6], bytes[l4 + 7]]);
        let sequence = sequence.wrapping_add(headers.payload_len() as u32);
        bytes[l4 + 4..l4 + 8].copy_from_slice(&sequence.to_be_bytes());
    }
    bytes
}
