//! Waiting: level-triggered epoll over a worker's ports, and a way to wake it.

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

/// Tells which of many descriptors can be read.
#[derive(Debug)]
pub struct Poller {
    epoll: Arc<OwnedFd>,
    wake: Arc<OwnedFd>,
}

/// Wakes a [`Poller`] from another thread.
#[derive(Clone, Debug)]
pub struct Waker(Arc<OwnedFd>);

impl Waker {
    /// The poller's present or next wait ends at once.
    pub fn wake(&self) {
        // A full counter wakes as well as one more.
        let _ = write(&self.0, &1u64.to_ne_bytes());
    }
}

/// A descriptor of which a [`Poller`] tells once that it can be written to, each time that it is asked to. Any thread
/// may ask.
#[derive(Debug)]
pub struct Writable {
    epoll: Arc<OwnedFd>,
    /// One of its own: the poller may watch the original for something to read.
    fd: OwnedFd,
    token: u64,
}

impl Writable {
    /// The poller tells when it can next be written to, or has failed.
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
    /// A poller of nothing but its own waker.
    pub fn new() -> io::Result<Poller> {
        let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC)?);
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        epoll::add(&epoll, &wake, epoll::EventData::new_u64(WAKER), epoll::EventFlags::IN)?;
        Ok(Poller { epoll, wake })
    }

    /// What wakes this poller.
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker(Arc::clone(&self.wake))
    }

    /// Watches a descriptor for something to read. `token` is any number but `u64::MAX`.
    pub fn add(&self, fd: impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?)
    }

    /// Tells once, with this token, that a descriptor can be written to, and then when it is [`armed`](Writable::arm).
    pub fn add_writable(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<Writable> {
        let watch = Writable { epoll: Arc::clone(&self.epoll), fd: fd.try_clone_to_owned()?, token };
        epoll::add(&self.epoll, &watch.fd, epoll::EventData::new_u64(token), ONCE_WRITABLE)?;
        Ok(watch)
    }

    /// Watches it no more.
    pub fn remove(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    /// Waits until a descriptor can be read (or has failed), the waker is used, or the time is over;
    /// `None` waits for ever. Calls `ready` with the token of each such descriptor. Returns whether
    /// the waker was used.
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
