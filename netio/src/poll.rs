//! Level-triggered epoll over a worker's ports, and a waker for other threads.
//!
//! mio is edge-triggered: after a wake-up every port would have to be read until it is empty. A worker reads a bounded
//! batch from each port in turn, so a port with unread frames must be reported again.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, Timespec, epoll, eventfd};
use rustix::io::{Errno, read, write};

const EVENTS: usize = 64;
const WAKER: u64 = u64::MAX;
const ONCE_WRITABLE: epoll::EventFlags = epoll::EventFlags::OUT.union(epoll::EventFlags::ONESHOT);

/// An epoll instance: reports which descriptors are readable.
#[derive(Debug)]
pub struct Poller {
    epoll: Arc<OwnedFd>,
    wake: Arc<OwnedFd>,
}

/// Ends the wait of a [`Poller`], from any thread.
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// Ends the current wait, or if the poller is not waiting, its next one.
    pub fn wake(&self) {
        // The write fails only if the counter is at its maximum, and then the poller wakes anyway.
        let _ = write(&self.0, &1u64.to_ne_bytes());
    }
}

/// A descriptor that a [`Poller`] watches for writability, one report at a time. Any thread may request the next report
/// with [`arm`](Writable::arm).
#[derive(Debug)]
pub struct Writable {
    epoll: Arc<OwnedFd>,
    /// A duplicate, since the poller may watch the original descriptor for readability.
    fd: OwnedFd,
    token: u64,
}

impl Writable {
    /// Requests one report: when the descriptor is writable, or has failed.
    pub fn arm(&self) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, &self.fd, epoll::EventData::new_u64(self.token), ONCE_WRITABLE)?)
    }
}

impl Drop for Writable {
    fn drop(&mut self) {
        let _ = epoll::delete(&self.epoll, &self.fd);
    }
}

impl Poller {
    /// A poller that watches only its own waker.
    pub fn new() -> io::Result<Poller> {
        let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKER), epoll::EventFlags::IN)?;
        Ok(Poller { epoll, wake })
    }

    /// The waker of this poller.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.wake))
    }

    /// Watches a descriptor for readability. `token` is any number except `u64::MAX`.
    pub fn add(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?)
    }

    /// Starts or stops reporting that a descriptor which was added is readable. That it has failed is reported all the same.
    pub fn watch_readable(&self, fd: impl AsFd, token: u64, is_watched: bool) -> io::Result<()> {
        let flags = if is_watched { epoll::EventFlags::IN } else { epoll::EventFlags::empty() };
        Ok(epoll::modify(&self.epoll, fd, epoll::EventData::new_u64(token), flags)?)
    }

    /// Watches a descriptor for writability: one report with this token, and one more after each [`arm`](Writable::arm).
    pub fn add_writable(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<Writable> {
        let watch = Writable { epoll: Arc::clone(&self.epoll), fd: fd.try_clone_to_owned()?, token };
        epoll::add(&self.epoll, &watch.fd, epoll::EventData::new_u64(token), ONCE_WRITABLE)?;
        Ok(watch)
    }

    /// Stops watching a descriptor.
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    /// Waits until a descriptor is ready or has failed, the waker is used, or the timeout expires; `None` is no timeout.
    /// Calls `ready` with the token of each ready descriptor. Returns true if the waker was used.
    pub fn wait(&self, timeout: Option<Duration>, mut ready: impl FnMut(u64)) -> io::Result<bool> {
        let timeout = timeout.map(|timeout| Timespec {
            tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); EVENTS];
        let events = match epoll::wait(&self.epoll, &mut events, timeout.as_ref()) {
            Ok((events, _)) => events,
            Err(Errno::INTR) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        let mut woken = false;
        for event in events {
            match event.data.u64() {
                WAKER => {
                    woken = true;
                    let _ = read(&self.wake, &mut [0; 8]);
                }
                token => ready(token),
            }
        }
        Ok(woken)
    }
}
