//! Receive buffers that are limited in frames rather than in bytes.
//!
//! The kernel limits a socket's receive queue by `SO_RCVBUF`, in bytes of memory: a frame of 60 bytes is charged 768, and one of 64 KiB
//! about 68,000. A buffer for a burst of TCP super-frames holds 20,000 small frames, for which a worker needs 50 ms and more; a
//! flood of them fills it, and everybody's packets wait behind them. So the size follows the frames that come: room for about
//! [`FRAMES`] of them, at least [`SMALLEST`] and at most [`LARGEST`].
//!
//! ```text
//!  frames of      60 bytes     1514 bytes     64 KiB
//!  SO_RCVBUF      0.9 MB       3.8 MB         8 MiB       (the kernel allows twice of it)
//!  room for       2,300        2,000 - 3,300  250
//! ```
//!
//! *The size rises at once and falls slowly.* A call that brings longer frames than expected moves the mean by a quarter of the
//! difference; shorter ones move it by a thousandth each, so that the acknowledgements between two bursts do not take the room from
//! the second one. Under a flood the size is down after some thousand frames, a few milliseconds.
//!
//! The frames that are in the queue when its size falls stay there.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use rustix::net::sockopt;

/// Number of frames that a receive buffer has room for, if they are of the mean size.
const FRAMES: u32 = 2000;

/// The smallest buffer, in bytes.
const SMALLEST: u32 = 768 << 10;

/// The largest one: 100 super-frames and more.
const LARGEST: u32 = 8 << 20;

/// What the kernel charges for the shortest frame: `struct sk_buff` and the smallest block of data with `struct skb_shared_info`.
const OVERHEAD: u32 = 768;

/// Each frame that is shorter than the mean moves it by this fraction of the difference: 1/1024.
const FALL: u32 = 1024;

/// The size of one socket's receive buffer. One thread receives from the socket.
#[derive(Debug)]
pub(crate) struct ReceiveBuffer {
    /// Mean charge of recent frames, in bytes.
    mean: AtomicU32,
    size: AtomicU32,
}

impl ReceiveBuffer {
    /// Gives a socket the largest buffer.
    pub(crate) fn set_up(socket: impl AsFd) -> ReceiveBuffer {
        resize(socket.as_fd(), LARGEST);
        ReceiveBuffer { mean: AtomicU32::new(2 * LARGEST / FRAMES), size: AtomicU32::new(LARGEST) }
    }

    /// Notes that a call received this number of frames, with this number of bytes in total, and resizes the buffer if needed.
    #[inline]
    pub(crate) fn note(&self, socket: BorrowedFd<'_>, frames: usize, bytes: usize) {
        if let Some(size) = self.follow(frames as u32, bytes as u32) {
            self.size.store(size, Relaxed);
            resize(socket, size);
        }
    }

    /// The size from now on, if it changes.
    #[inline]
    fn follow(&self, frames: u32, bytes: u32) -> Option<u32> {
        // A call returns at most 64 frames of 64 KiB. The kernel rounds up to pages, or to powers of two.
        let charge = frames * OVERHEAD + 2 * bytes;
        let mean = self.mean.load(Relaxed);
        let expected = mean.saturating_mul(frames);
        let mean =
            if charge > expected { mean + (charge - expected) / frames.max(1) / 4 } else { mean - (expected - charge) / FALL };
        self.mean.store(mean, Relaxed);
        let wanted = (mean.saturating_mul(FRAMES) / 2).clamp(SMALLEST, LARGEST);
        let size = self.size.load(Relaxed);
        (wanted > size || wanted < size / 4 * 3).then_some(wanted)
    }
}

#[cold]
fn resize(socket: BorrowedFd<'_>, size: u32) {
    // A larger buffer than net.core.rmem_max takes CAP_NET_ADMIN; without it the kernel grants less.
    let _ = sockopt::set_socket_recv_buffer_size_force(socket, size as usize)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(socket, size as usize));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The size after this number of calls, each with 32 frames of this length.
    fn after(buffer: &ReceiveBuffer, calls: usize, len: usize) -> u32 {
        for _ in 0..calls {
            if let Some(size) = buffer.follow(32, 32 * len as u32) {
                buffer.size.store(size, Relaxed);
            }
        }
        buffer.size.load(Relaxed)
    }

    fn buffer() -> ReceiveBuffer {
        ReceiveBuffer { mean: AtomicU32::new(2 * LARGEST / FRAMES), size: AtomicU32::new(LARGEST) }
    }

    #[test]
    fn a_flood_of_small_frames_finds_room_for_some_thousand() {
        let buffer = buffer();
        let small = after(&buffer, 300, 60);
        assert!(u64::from(small) * 2 / 768 < 4000, "{small}");
        assert!(u64::from(small) * 2 / 768 >= 2000, "{small}");
        assert!(after(&buffer, 100_000, 60) >= SMALLEST);
    }

    #[test]
    fn super_frames_have_room_at_once() {
        let buffer = buffer();
        after(&buffer, 100_000, 60);
        assert_eq!(after(&buffer, 1, 65_000), LARGEST);
        let between = after(&buffer, 20, 60);
        assert_eq!(between, LARGEST, "acknowledgements between two bursts");
    }

    #[test]
    fn full_frames_have_room_for_a_burst() {
        let buffer = buffer();
        after(&buffer, 100_000, 60);
        let size = after(&buffer, 50, 1514);
        assert!((3_000_000..5_000_000).contains(&size), "{size}");
    }

    #[test]
    fn the_kernel_is_told() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let buffer = ReceiveBuffer::set_up(&socket);
        let granted = || sockopt::socket_recv_buffer_size(&socket).unwrap();
        let before = granted();
        for _ in 0..1000 {
            buffer.note(socket.as_fd(), 32, 32 * 60);
        }
        assert!(granted() <= before && granted() <= 2_500_000, "{} of {before}", granted());
        buffer.note(socket.as_fd(), 0, 0);
    }
}
