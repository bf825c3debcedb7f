//! Frames with correct checksums.

use packet::{Headers, Network, Transport, VnetHeader};
use testkit::checksum::{add, sum};

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
    let [a, b, c, d] = ((end - l4) as u32).to_be_bytes();
    let pseudo = add(sum(headers.addresses(frame)), sum(&[a, b, c, d, 0, 0, 0, protocol]));
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
