//! What the receiver of a write sees.
//!
//! Uses `packet` itself, so it belongs in tests of what is built on top: the judge, segmentation and completion have
//! tests of their own.

use packet::head::Head;
use packet::offload::{Judged, finish_checksum};
use packet::segment::{self, Segments};
use packet::vlan::TagAction;
use packet::{Checksum, Headers, Offload, VNET_LEN, VnetHeader};

/// Parses and judges a frame, as the pipeline does.
///
/// Panics on a frame or header that the pipeline would refuse.
#[must_use]
pub fn judged(vnet: VnetHeader, frame: &[u8]) -> (Headers, Offload) {
    let headers = Headers::parse(frame).unwrap();
    match Offload::judge(vnet, &headers, frame.len()) {
        Ok(Judged::Accept(offload)) => (headers, offload),
        other => panic!("{vnet:?} was {other:?}"),
    }
}

/// The plain frames that one write (virtio-net header and frame) becomes on the wire.
///
/// Panics if the receiver would refuse it.
#[must_use]
pub fn on_the_wire(write: &[u8]) -> Vec<Vec<u8>> {
    let (vnet, frame) = write.split_first_chunk().expect("a virtio-net header");
    plain_frames(VnetHeader::from_bytes(vnet), frame).expect("a virtio-net header that is accepted")
}

/// The plain frames that a virtio-net header and a frame stand for; `None` if the header is refused.
#[must_use]
pub fn plain_frames(vnet: VnetHeader, frame: &[u8]) -> Option<Vec<Vec<u8>>> {
    let headers = Headers::parse(frame).ok()?;
    let mut head = Head::default();
    let offload = match Offload::judge(vnet, &headers, frame.len()).ok()? {
        Judged::Accept(offload) => offload,
        Judged::Finish { start, at } => {
            let mut frame = frame.to_vec();
            finish_checksum(&mut frame, start, at);
            return Some(vec![frame]);
        }
    };
    if let Some(segmentation) = offload.segmentation {
        let mut segments = Segments::new(frame, &headers, segmentation, TagAction::Keep, &mut head).unwrap();
        let next = || segments.next(&mut head).map(|payload| [&head.as_bytes()[VNET_LEN..], payload].concat());
        return Some(std::iter::from_fn(next).collect());
    }
    if offload.checksum == Checksum::Partial {
        if !segment::complete(frame, &headers, TagAction::Keep, &mut head) {
            return None;
        }
        return Some(vec![[&head.as_bytes()[VNET_LEN..], &frame[usize::from(headers.payload)..]].concat()]);
    }
    Some(vec![frame.to_vec()])
}
