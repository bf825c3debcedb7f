//! The judge of virtio-net headers, and segmentation and completion by its verdicts.

use packet::head::Head;
use packet::offload::{BadVnetHeader, Judged, MAX_HEADERS_LEN, MAX_TCP_SEGMENTS, MAX_UDP_SEGMENTS, finish_checksum};
use packet::segment::{self, Segments};
use packet::vlan::TagAction;
use packet::{Checksum, Headers, Offload, Tag, Transport, VNET_LEN, VlanId, VnetHeader};

use crate::Reader;

/// A virtio-net header of twelve bytes and a frame: an accepted offload is within limits, can be carried out, and is
/// written as a header with the same verdict.
pub fn vnet_header(data: &[u8]) {
    let mut input = Reader(data);
    let vnet = VnetHeader::from_bytes(&input.array::<VNET_LEN>());
    let mut frame = input.0.to_vec();
    let Ok(headers) = Headers::parse(&frame) else { return };
    match Offload::judge(vnet, &headers, frame.len()) {
        Err(BadVnetHeader) => assert!(vnet.gso_type != 0 || vnet.flags & 1 != 0),
        Ok(Judged::Finish { start, at }) => {
            assert!(start <= at && at + 2 <= frame.len() && vnet.gso_type == 0);
            finish_checksum(&mut frame, start, at);
        }
        Ok(Judged::Accept(offload)) => accepted(offload, &headers, &frame),
    }
}

fn accepted(offload: Offload, headers: &Headers, frame: &[u8]) {
    let passed_on = offload.to_vnet(headers, 0);
    assert_eq!(Offload::judge(passed_on, headers, frame.len()), Ok(Judged::Accept(offload)));
    let push = TagAction::Push(Tag::of(VlanId::new(10).unwrap_or_default()));
    let mut actions = vec![TagAction::Keep, push];
    if headers.tag.is_some() {
        actions.push(TagAction::Pop);
    }
    let mut head = Head::default();
    for action in actions {
        if let Some(segmentation) = offload.segmentation {
            let most = if headers.transport == Transport::Tcp { MAX_TCP_SEGMENTS } else { MAX_UDP_SEGMENTS };
            assert!(headers.payload_len() > usize::from(segmentation.size) && offload.checksum == Checksum::Partial);
            let Some(mut segments) = Segments::new(frame, headers, segmentation, action, &mut head) else {
                panic!("accepted, but cannot be cut")
            };
            let (mut count, mut bytes) = (0, 0);
            while let Some(payload) = segments.next(&mut head) {
                let growth = action.growth() + VNET_LEN as isize;
                assert_eq!(Some(head.as_bytes().len()), usize::from(headers.payload).checked_add_signed(growth));
                (count, bytes) = (count + 1, bytes + payload.len());
            }
            assert!((2..=most).contains(&count));
            assert_eq!(bytes, headers.payload_len());
        } else if offload.checksum == Checksum::Partial {
            let fits = usize::from(headers.payload) <= MAX_HEADERS_LEN;
            assert_eq!(segment::complete(frame, headers, action, &mut head), fits);
        }
    }
}
