//! Frames built by hand, and a reader that keeps what it receives.

use std::io::IoSlice;

use netio::Received;
use netio::packet_socket::{PacketSocket, Receiver, receive::SPARE};
use packet::{MacAddr, Tag, VNET_LEN, VnetHeader};

use crate::host::until;

/// A received frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Frame {
    pub(crate) vnet: VnetHeader,
    pub(crate) bytes: Vec<u8>,
    pub(crate) tag: Option<Tag>,
    /// The frame was too long for its slot.
    pub(crate) cut: bool,
}

/// All frames in a queue of a socket, and the last result.
pub(crate) fn drain(socket: &PacketSocket, queue: usize) -> (Vec<Frame>, Received) {
    drain_into(socket, queue, 64, 70_000)
}

/// [`drain`] with this number and size of slots.
pub(crate) fn drain_into(socket: &PacketSocket, queue: usize, count: usize, size: usize) -> (Vec<Frame>, Received) {
    let mut receiver = Receiver::new();
    let mut slots = vec![vec![0xa5; size]; count];
    let mut frames = Vec::new();
    loop {
        let end = receiver.recv(&socket.queues()[queue], slots.iter_mut().map(Vec::as_mut_slice));
        for (slot, (filled, tag)) in slots.iter_mut().zip(receiver.frames()) {
            assert_eq!(slot[..SPARE], [0xa5; SPARE], "the spare bytes are left alone");
            let filled = &slot[SPARE..SPARE + filled];
            frames.push(match filled.split_first_chunk::<VNET_LEN>() {
                Some((vnet, bytes)) => {
                    assert_eq!(vnet[10..], [0, 0], "num_buffers");
                    Frame { vnet: VnetHeader::from_bytes(vnet), bytes: bytes.to_vec(), tag, cut: false }
                }
                None => Frame { vnet: VnetHeader::default(), bytes: Vec::new(), tag, cut: true },
            });
            slot.fill(0xa5);
        }
        assert_eq!(receiver.unreadable(), 0);
        if end != Received::More {
            return (frames, end);
        }
    }
}

/// Receives exactly this number of frames.
pub(crate) fn expect(socket: &PacketSocket, count: usize) -> Vec<Frame> {
    let mut frames = Vec::new();
    until("frames", || {
        frames.append(&mut drain(socket, 0).0);
        (frames.len() >= count).then_some(())
    });
    assert_eq!(frames.len(), count, "{frames:x?}");
    frames
}

/// Sends one frame without offload.
pub(crate) fn send(socket: &PacketSocket, frame: &[u8]) {
    send_with(socket, VnetHeader::default(), frame).expect("sent");
}

pub(crate) fn send_with(socket: &PacketSocket, vnet: VnetHeader, frame: &[u8]) -> Result<(), rustix::io::Errno> {
    let (front, back) = frame.split_at(frame.len() / 2);
    let front = [&vnet.to_bytes()[..], front].concat();
    socket.writer().send(&[IoSlice::new(&front), IoSlice::new(back)])
}

pub(crate) const FROM: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

/// An Ethernet frame of an unused type.
pub(crate) fn plain(to: MacAddr, number: u8, len: usize) -> Vec<u8> {
    let mut frame = [&to.0[..], &FROM.0, &[0x88, 0xb5, number]].concat();
    frame.resize(len, number);
    frame
}

/// An IPv4 packet in Ethernet.
pub(crate) fn ethernet(to: MacAddr, packet: &[u8]) -> Vec<u8> {
    [&to.0[..], &FROM.0, &[0x08, 0x00], packet].concat()
}
