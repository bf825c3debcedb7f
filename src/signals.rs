//! Signals, turned into a pipe that the control thread can wait for.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};

/// The signals that the daemon handles, from the moment that this is made.
#[derive(Debug)]
pub(crate) struct Signals {
    pipe: UnixStream,
    end: Arc<AtomicBool>,
    end_for_good: Arc<AtomicBool>,
    report: Arc<AtomicBool>,
    reload: Arc<AtomicBool>,
}

/// The signals that have arrived since the last call of [`Signals::take`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Arrived {
    /// SIGTERM: a restart may follow.
    pub(crate) end: bool,
    /// SIGINT: nothing is to outlive the process.
    pub(crate) end_for_good: bool,
    /// SIGUSR1.
    pub(crate) report: bool,
    /// SIGHUP.
    pub(crate) reload: bool,
}

impl Arrived {
    /// Whether the process is to end.
    pub(crate) fn is_end(self) -> bool {
        self.end || self.end_for_good
    }
}

impl Signals {
    /// Handles the signals from now on.
    pub(crate) fn register() -> io::Result<Signals> {
        let (pipe, writer) = UnixStream::pair()?;
        pipe.set_nonblocking(true)?;
        let signals =
            Signals { pipe, end: Arc::default(), end_for_good: Arc::default(), report: Arc::default(), reload: Arc::default() };
        let flags =
            [(SIGTERM, &signals.end), (SIGINT, &signals.end_for_good), (SIGUSR1, &signals.report), (SIGHUP, &signals.reload)];
        for (signal, flag) in flags {
            // First the flag, then the pipe: a thread that is woken finds the flag set.
            signal_hook::flag::register(signal, Arc::clone(flag))?;
            signal_hook::low_level::pipe::register(signal, writer.try_clone()?)?;
        }
        Ok(signals)
    }

    /// Readable when a signal has arrived.
    pub(crate) fn pipe(&self) -> &UnixStream {
        &self.pipe
    }

    /// The signals since the last call.
    pub(crate) fn take(&self) -> Arrived {
        let mut bytes = [0; 64];
        while matches!((&self.pipe).read(&mut bytes), Ok(1..)) {}
        let take = |flag: &AtomicBool| flag.swap(false, Ordering::Relaxed);
        Arrived {
            end: take(&self.end),
            end_for_good: take(&self.end_for_good),
            report: take(&self.report),
            reload: take(&self.reload),
        }
    }
}
