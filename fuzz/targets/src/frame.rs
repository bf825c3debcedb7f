//! Frames with correct checksums, and the frames that a write becomes on the wire.

use packet::head::Head;
use packet::offload::{Judged, finish_checksum};
use packet::segment::{self, Segments};
use packet::vlan::TagAction;
use packet::{Checksum, Headers, Network, Offload, Transport, VNET_LEN, VnetHeader};

/// The checksum of RFC 1071, by its definition.
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    bytes.chunks(2).fold(0, |sum, pair| {
        let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        let sum = u32::from(sum) + u32::from(word);
        (sum + (sum >> 16)) as u16
    })
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Corrects all checksums; the transport's becomes partial (the pseudo-header's sum) if `partial`. Returns the
/// virtio-net header that declares it.
pub(crate) fn make_sound(frame: &mut [u8], partial: bool) -> VnetHeader {
    let Ok(headers) = Headers::parse(frame) else { return VnetHeader::default() };
    let (l3, l4, end) = (usize::from(headers.l3), usize::from(headers.l4), headers.end as usize);
    if headers.network == Network::Ipv4 {
        let header_len = usize::from(frame[l3] & 15) * 4;
        put(frame, l3 + 10, 0);
        let check = !sum(&frame[l3..l3 + header_len]);
        put(frame, l3 + 10, check);
    }
    let Some(offset) = headers.transport.checksum_offset() else { return VnetHeader::default() };
    let protocol = if headers.transport == Transport::Tcp { 6 } else { 17 };
    let mut pseudo = headers.addresses(frame).to_vec();
    pseudo.extend(((end - l4) as u32).to_be_bytes());
    pseudo.extend([0, 0, 0, protocol]);
    let pseudo = sum(&pseudo);
    put(frame, l4 + offset, pseudo);
    if partial {
        return VnetHeader { flags: 1, csum_start: headers.l4, csum_offset: offset as u16, ..VnetHeader::default() };
    }
    let check = match (!sum(&frame[l4..end]), headers.transport) {
        (0, Transport::Udp) => 0xffff,
        (check, _) => check,
    };
    put(frame, l4 + offset, check);
    VnetHeader::default()
}

/// The plain frames that a virtio-net header and a frame stand for; `None` if the header is refused.
pub(crate) fn on_the_wire(vnet: VnetHeader, frame: &[u8]) -> Option<Vec<Vec<u8>>> {
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
