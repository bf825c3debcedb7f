//! Guest sockets. The other end is a plain socket of the standard library, as a virtual machine monitor has, or our own.

mod dgram;
mod files;
mod hostile;
mod rate;
mod stream;
mod waiting;

use std::fs;
use std::io::IoSlice;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netio::Received;
use netio::guest::{Address, Listener, Stream, StreamReader, StreamWriter};
use packet::{Batch, VNET_LEN};

/// Time limit of each wait, so that a test fails instead of hanging.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// A temporary directory, removed on drop.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Directory {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("guest-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Directory(path)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

pub(crate) fn unix(path: &Path) -> Address {
    Address::Unix(path.to_owned())
}

/// Accepts a connection, and waits for it if necessary.
pub(crate) fn accept(listener: &Listener) -> Stream {
    let mut accepted = None;
    wait_for("a connection", || {
        accepted = listener.accept().unwrap();
        accepted.is_some()
    });
    accepted.unwrap()
}

pub(crate) fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + LONG;
    while !done() {
        assert!(Instant::now() < end, "no {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A guest connection, and its other end as a virtual machine monitor has it.
pub(crate) fn cable() -> (Directory, StreamReader, StreamWriter, std::os::unix::net::UnixStream) {
    let directory = Directory::new();
    let listener = Listener::open(&unix(&directory.path("s"))).unwrap();
    let monitor = std::os::unix::net::UnixStream::connect(directory.path("s")).unwrap();
    monitor.set_read_timeout(Some(LONG)).unwrap();
    let (reader, writer) = accept(&listener).split();
    (directory, reader, writer, monitor)
}

/// A frame that contains a number, after a virtio-net header with arbitrary bytes, as the pipeline sends it.
pub(crate) fn numbered(number: u32, len: usize) -> Vec<u8> {
    let mut frame = vec![0xa5; VNET_LEN];
    frame.extend(number.to_be_bytes().iter().chain(std::iter::repeat(&(number as u8))).take(len));
    frame
}

/// The frame as it is sent, after its length.
pub(crate) fn on_the_wire(frame: &[u8]) -> Vec<u8> {
    let body = &frame[VNET_LEN..];
    [&(body.len() as u32).to_be_bytes(), body].concat()
}

pub(crate) fn slices(frames: &[Vec<u8>]) -> Vec<IoSlice<'_>> {
    frames.iter().map(|frame| IoSlice::new(frame)).collect()
}

/// Takes the frames out of a batch, with their virtio-net headers.
pub(crate) fn take(batch: &mut Batch) -> Vec<Vec<u8>> {
    let frames = batch.spans().iter().map(|span| batch.arena()[span.range_with_vnet()].to_vec()).collect();
    batch.clear();
    frames
}

/// Reads this number of frames, or until the connection ends.
pub(crate) fn read_frames(reader: &mut StreamReader, count: usize) -> Vec<Vec<u8>> {
    let mut batch = Batch::new();
    let mut frames = Vec::new();
    wait_for("frames", || {
        let received = reader.recv(&mut batch);
        frames.extend(take(&mut batch));
        frames.len() >= count || received == Received::Gone
    });
    frames
}

/// A received frame: after an all-zero virtio-net header.
pub(crate) fn received(frame: &[u8]) -> Vec<u8> {
    [&[0; VNET_LEN], &frame[VNET_LEN..]].concat()
}
