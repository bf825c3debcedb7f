//! Writing the log without waiting for its reader.
//!
//! ```text
//!   any thread --push--> queue: at most 1024 lines, 1 MiB --> thread "log" --write--> standard error
//!                          |
//!                          +-- full: the line is lost, and counted
//! ```
//!
//! Standard error may be a pipe that nobody reads, or a terminal that has been stopped, and write(2) then waits. Until
//! [`detach`] is called a line is written by the thread that logs it, so that a failure at start is seen in any case.
//! Afterwards a thread of its own writes, and is the only one that waits. Once the reader reads again and the queue is
//! empty, one line tells how many were lost.
//!
//! *The end.* [`finish`] waits until the queue is empty, at most [`PATIENCE`].
//!
//! *Threads.* Whoever logs takes the lock of the queue for one copy of a pointer; it is not held while a line is written.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use tracing_subscriber::fmt::MakeWriter;

/// Maximum number of lines that wait to be written, and of bytes in them.
const MAX_LINES: usize = 1024;
const MAX_BYTES: usize = 1 << 20;

/// How long the end of the process waits for lines to be written.
const PATIENCE: Duration = Duration::from_millis(500);

/// Set once the thread writes.
static QUEUE: OnceLock<Queue> = OnceLock::new();

/// Lines that wait to be written.
#[derive(Debug, Default)]
struct Queue {
    state: Mutex<State>,
    /// There are lines to be written.
    filled: Condvar,
    /// All lines have been written.
    emptied: Condvar,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Box<[u8]>>,
    /// Bytes in them.
    bytes: usize,
    /// The thread has taken a line and is writing it.
    is_writing: bool,
    lost: u64,
    /// Lost lines that a line of the log has told of.
    told: u64,
}

/// Where the log's lines go.
#[derive(Clone, Copy, Debug)]
pub(super) struct StandardError;

impl<'a> MakeWriter<'a> for StandardError {
    type Writer = StandardError;

    fn make_writer(&'a self) -> StandardError {
        StandardError
    }
}

impl Write for StandardError {
    /// Takes a whole line: the formatter writes each in one call.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        write(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a line, or gives it to the thread that writes.
pub(super) fn write(line: &[u8]) {
    match QUEUE.get() {
        Some(queue) => queue.push(line),
        None => drop(io::stderr().write_all(line)),
    }
}

/// From now on a thread of its own writes.
pub(super) fn detach() -> io::Result<()> {
    let (started, is_started) = std::sync::mpsc::channel();
    thread::Builder::new().name("log".to_owned()).spawn(move || {
        // Not before the queue is there for everybody.
        if let Ok(queue) = is_started.recv() {
            Queue::run(queue, &mut Patient(io::stderr()));
        }
    })?;
    let _ = started.send(QUEUE.get_or_init(Queue::default));
    Ok(())
}

/// Lines that were lost because standard error was not read.
pub(super) fn lost() -> u64 {
    QUEUE.get().map_or(0, |queue| queue.lock().lost)
}

/// Waits for a limited time until all lines are written.
pub(super) fn finish() {
    if let Some(queue) = QUEUE.get() {
        queue.wait_until_empty(PATIENCE);
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.lines.len() == MAX_LINES || state.bytes + line.len() > MAX_BYTES {
            state.lost += 1;
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line.into());
        self.filled.notify_one();
    }

    /// Writes lines for ever.
    fn run(&self, out: &mut impl Write) {
        loop {
            let line = self.next();
            let written = out.write_all(&line);
            let mut state = self.lock();
            state.is_writing = false;
            state.lost += u64::from(written.is_err());
            let untold = state.lost - state.told;
            // A reader that is gone is told nothing.
            if state.lines.is_empty() && written.is_ok() && untold > 0 {
                state.told = state.lost;
                drop(state);
                tracing::warn!(lines = untold, "lines of the log were lost: standard error was not read");
                state = self.lock();
            }
            if state.lines.is_empty() {
                self.emptied.notify_all();
            }
        }
    }

    /// Waits for a line.
    fn next(&self) -> Box<[u8]> {
        let mut state = self.lock();
        loop {
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.len();
                state.is_writing = true;
                return line;
            }
            state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wait_until_empty(&self, patience: Duration) {
        let is_busy = |state: &mut State| state.is_writing || !state.lines.is_empty();
        let end = Instant::now() + patience;
        drop(self.emptied.wait_timeout_while(self.lock(), end.saturating_duration_since(Instant::now()), is_busy));
    }
}

/// Standard error, waited for if another process has made it non-blocking.
struct Patient(io::Stderr);

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.0.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None)?;
                }
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use super::*;

    /// Far more than the queue and the socket hold.
    const MANY: usize = 4 * MAX_LINES;

    #[test]
    fn a_reader_that_does_not_read_costs_lines_and_no_time() {
        let queue: &Queue = Box::leak(Box::default());
        let (mut reader, mut out) = UnixStream::pair().unwrap();
        thread::spawn(move || queue.run(&mut out));
        let line = [b'x'; 1023];
        for _ in 0..MANY {
            queue.push(&[&line[..], b"\n"].concat());
        }
        let lost = queue.lock().lost;
        assert!(lost > 0 && (lost as usize) < MANY - MAX_BYTES / 1024 + 1, "{lost}");
        // Nobody reads, so the end does not wait for long.
        queue.wait_until_empty(Duration::from_millis(10));
        assert!(!queue.lock().lines.is_empty());
        let mut bytes = vec![0; (MANY - lost as usize) * 1024];
        reader.read_exact(&mut bytes).unwrap();
        assert!(bytes.chunks(1024).all(|chunk| chunk[..1023] == line && chunk[1023] == b'\n'), "whole lines");
        queue.wait_until_empty(Duration::from_secs(20));
        let state = queue.lock();
        assert_eq!((state.lines.len(), state.bytes, state.told), (0, 0, lost), "and the loss is told");
    }

    #[test]
    fn a_reader_that_is_gone_is_no_reason_to_end() {
        let queue: &Queue = Box::leak(Box::default());
        let (reader, mut out) = UnixStream::pair().unwrap();
        drop(reader);
        let written = Arc::new(());
        let held = Arc::clone(&written);
        thread::spawn(move || {
            let _held = held;
            queue.run(&mut out);
        });
        for _ in 0..3 {
            queue.push(b"unheard\n");
        }
        queue.wait_until_empty(Duration::from_secs(20));
        assert_eq!(queue.lock().lost, 3);
        assert_eq!(Arc::strong_count(&written), 2, "the thread goes on");
    }
}
