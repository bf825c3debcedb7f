//! Segmentation in software, for ports that do not accept super-frames.
//!
//! The kernel's rules (`tcp_gso_segment`, `__udp_gso_segment`, `inet_gso_segment`): every segment
//! gets a copy of all headers; IPv4's identification counts up; TCP's sequence number advances, CWR
//! stays on the first segment only, FIN and PSH on the last only; lengths and checksums are made
//! anew. A UDP checksum of 0 is sent as 0xffff.

use crate::checksum;
use crate::ethernet::{put_u16, u16_at};
use crate::head::Head;
use crate::headers::{Headers, Network, Transport};
use crate::ipv4;
use crate::offload::Segmentation;
use crate::tcp::{self, TcpView, flag};
use crate::udp;
use crate::vlan::TagAction;

/// Segments one super-frame; see [`Segments::next`].
#[derive(Debug)]
pub struct Segments<'a> {
    headers: &'a Headers,
    addresses: &'a [u8],
    payload: &'a [u8],
    size: usize,
    sent: usize,
    index: u16,
    id: u16,
    sequence: u32,
    flags: u8,
}

impl<'a> Segments<'a> {
    /// `headers` are the frame's own and `segmentation` was judged with them. `head` keeps the
    /// headers from here to the last call of [`Segments::next`]. `None` if the headers are longer
    /// than any that [`Offload::judge`](crate::Offload::judge) accepts.
    #[must_use]
    pub fn new(
        frame: &'a [u8],
        headers: &'a Headers,
        segmentation: Segmentation,
        action: TagAction,
        head: &mut Head,
    ) -> Option<Segments<'a>> {
        if headers.transport == Transport::Other || !head.copy(frame, usize::from(headers.payload), action) {
            return None;
        }
        let tcp = TcpView::new(&frame[usize::from(headers.l4)..]).filter(|_| headers.transport == Transport::Tcp);
        Some(Segments {
            headers,
            addresses: headers.addresses(frame),
            payload: &frame[usize::from(headers.payload)..headers.end as usize],
            size: usize::from(segmentation.size).max(1),
            sent: 0,
            index: 0,
            id: match headers.network {
                Network::Ipv4 => u16_at(frame, usize::from(headers.l3) + ipv4::field::ID),
                _ => 0,
            },
            sequence: tcp.map_or(0, TcpView::sequence),
            flags: tcp.map_or(0, TcpView::flags),
        })
    }

    /// Writes the next segment's headers into `head` and returns its payload; `None` after the last.
    pub fn next(&mut self, head: &mut Head) -> Option<&'a [u8]> {
        self.next_with(head, checksum::sum)
    }

    /// The same, with a function that returns the [`checksum::sum`] of the payload. It is the same whatever happens to the VLAN tag,
    /// so that it need not be computed again for each port.
    pub fn next_with(&mut self, head: &mut Head, sum: impl FnOnce(&[u8]) -> u16) -> Option<&'a [u8]> {
        let rest = &self.payload[self.sent..];
        if rest.is_empty() {
            return None;
        }
        let payload = &rest[..rest.len().min(self.size)];
        let is_last = payload.len() == rest.len();
        let l4_len = head.set_ip(self.headers, payload.len(), self.id.wrapping_add(self.index));
        let transport = head.headers_from(self.headers.l4);
        let at = if self.headers.transport == Transport::Tcp {
            let sequence = self.sequence.wrapping_add(self.sent as u32);
            transport[tcp::field::SEQUENCE..][..4].copy_from_slice(&sequence.to_be_bytes());
            let mut flags = self.flags;
            if self.index > 0 {
                flags &= !flag::CWR;
            }
            if !is_last {
                flags &= !(flag::FIN | flag::PSH);
            }
            transport[tcp::field::FLAGS] = flags;
            tcp::field::CHECKSUM
        } else {
            put_u16(transport, udp::field::LENGTH, l4_len as u16);
            udp::field::CHECKSUM
        };
        let check = transport_checksum(self.headers, self.addresses, transport, at, payload.len(), sum(payload));
        put_u16(transport, at, check);
        self.sent += payload.len();
        self.index = self.index.wrapping_add(1);
        Some(payload)
    }
}

/// Completes the partial checksum of a single frame in a copy of its headers, for a port without checksum offload. The
/// payload behind the head is `frame[headers.payload..]`. Works like the kernel's `skb_checksum_help`. Returns false if
/// the headers do not fit into `head`.
#[must_use]
pub fn complete(frame: &[u8], headers: &Headers, action: TagAction, head: &mut Head) -> bool {
    let Some(at) = headers.transport.checksum_offset() else { return false };
    let from = usize::from(headers.payload);
    if !head.copy(frame, from, action) {
        return false;
    }
    let transport = head.headers_from(headers.l4);
    let check = !checksum::add(checksum::sum(transport), checksum::sum(&frame[from..]));
    put_u16(transport, at, if check == 0 { 0xffff } else { check });
    true
}

/// The complete checksum of a TCP or UDP header, which is zeroed at `at`, and a payload of this length and sum.
fn transport_checksum(headers: &Headers, addresses: &[u8], transport: &mut [u8], at: usize, payload_len: usize, sum: u16) -> u16 {
    put_u16(transport, at, 0);
    let pseudo = checksum::pseudo_header(addresses, headers.transport.protocol().unwrap_or(0), transport.len() + payload_len);
    let check = !checksum::add(checksum::add(pseudo, checksum::sum(transport)), sum);
    match (check, headers.transport) {
        (0, Transport::Udp) => 0xffff,
        _ => check,
    }
}
