//! A virtual machine's monitor without a machine: it holds the guest's network card and carries frames between that
//! and the switch's port. The guest is a namespace.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};

use netio::{Layer, Tap, TapSpec};
use packet::VNET_LEN;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::exchange::Background;
use crate::host::Host;

/// Larger than the longest super-frame with its virtio-net header.
const LONGEST: usize = 128 * 1024;

/// Interval between checks for the end of the test.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };

/// What joins a monitor to the switch.
#[derive(Debug)]
pub(crate) enum Cable {
    /// A TAP in the switch's namespace, whose user side the monitor holds. Super-frames cross whole.
    Tap(Tap),
    /// A stream, with a length before each frame.
    Stream(UnixStream),
    /// One frame in each datagram.
    Dgram(UnixDatagram),
}

/// A running monitor; it closes guest and cable when dropped.
#[derive(Debug)]
pub(crate) struct Monitor {
    _carries: Background,
}

/// Opens the user side of a TAP in a host's namespace, as monitors do.
pub(crate) fn hold_tap(host: &Host, name: &str, offload: bool) -> Tap {
    let spec = TapSpec {
        name: name.to_owned(),
        netns: None,
        layer: Layer::Ethernet,
        queues: 1,
        mtu: None,
        tx_queue_len: 1000,
        offload,
        mac: None,
    };
    host.inside(|| Ok(Tap::open(&spec))).expect("a TAP")
}

impl Monitor {
    /// Gives the host a network card with the host's interface name, on this cable.
    pub(crate) fn of(guest: &Host, cable: Cable) -> Monitor {
        let card = hold_tap(guest, guest.name(), matches!(cable, Cable::Tap(_)));
        let mut carrier = Carrier { card, cable, buffer: vec![0; LONGEST], stream: Vec::new() };
        Monitor { _carries: Background::run(move || carrier.round()) }
    }
}

struct Carrier {
    card: Tap,
    cable: Cable,
    buffer: Vec<u8>,
    /// Bytes of a frame that is not complete yet.
    stream: Vec<u8>,
}

impl Cable {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Cable::Tap(tap) => tap.queues()[0].as_fd(),
            Cable::Stream(stream) => stream.as_fd(),
            Cable::Dgram(socket) => socket.as_fd(),
        }
    }
}

impl Carrier {
    fn round(&mut self) {
        let (card, cable) = (self.card.queues()[0].as_fd(), self.cable.as_fd());
        let mut waiting = [PollFd::new(&card, PollFlags::IN), PollFd::new(&cable, PollFlags::IN)];
        poll(&mut waiting, Some(&PATIENCE)).expect("waited");
        let [card, cable] = waiting.map(|fd| !fd.revents().is_empty());
        if card {
            self.take_from_card();
        }
        if cable {
            self.take_from_cable();
        }
    }

    /// Carries what the card has ready; frames that the switch does not take in time are lost.
    fn take_from_card(&mut self) {
        while let Ok(len) = rustix::io::read(self.card.queues()[0].as_fd(), &mut self.buffer) {
            let frame = &self.buffer[VNET_LEN..len];
            match &mut self.cable {
                Cable::Tap(tap) => drop(rustix::io::write(tap.queues()[0].as_fd(), &self.buffer[..len])),
                Cable::Stream(stream) => {
                    let length = (frame.len() as u32).to_be_bytes();
                    if stream.write_all(&[&length, frame].concat()).is_err() {
                        return;
                    }
                }
                Cable::Dgram(socket) => drop(socket.send(frame)),
            }
        }
    }

    fn take_from_cable(&mut self) {
        match &mut self.cable {
            Cable::Tap(tap) => {
                while let Ok(len) = rustix::io::read(tap.queues()[0].as_fd(), &mut self.buffer) {
                    let _ = rustix::io::write(self.card.queues()[0].as_fd(), &self.buffer[..len]);
                }
            }
            Cable::Dgram(socket) => {
                let len = socket.recv(&mut self.buffer).unwrap_or(0);
                self.to_card(&self.buffer[..len]);
            }
            Cable::Stream(stream) => {
                let len = stream.read(&mut self.buffer).unwrap_or(0);
                self.stream.extend_from_slice(&self.buffer[..len]);
                let mut rest = &self.stream[..];
                while let Some((length, after)) = rest.split_first_chunk()
                    && let Some((frame, after)) = after.split_at_checked(u32::from_be_bytes(*length) as usize)
                {
                    self.to_card(frame);
                    rest = after;
                }
                let left = rest.len();
                self.stream.drain(..self.stream.len() - left);
            }
        }
    }

    fn to_card(&self, frame: &[u8]) {
        let _ = rustix::io::write(self.card.queues()[0].as_fd(), &[&[0; VNET_LEN], frame].concat());
    }
}
