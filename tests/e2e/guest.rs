//! Guests that join by a socket, played by the test: it writes and reads each frame.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::wait::{self, NEVER};

/// A directory for sockets, removed when dropped.
#[derive(Debug)]
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new() -> Directory {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("vswitchd-e2e-{}-{number}", process::id()));
        fs::create_dir_all(&path).expect("a directory");
        Directory(path)
    }

    /// A path in the directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// A path in the directory, as text.
    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A connected stream socket of any kind.
pub(crate) trait Connection: Read + Write {
    /// Sets a time limit for reads and writes.
    fn bound(&self);
}

impl Connection for UnixStream {
    fn bound(&self) {
        self.set_read_timeout(Some(NEVER)).expect("a read timeout");
        self.set_write_timeout(Some(NEVER)).expect("a write timeout");
    }
}

impl Connection for TcpStream {
    fn bound(&self) {
        crate::host::bound_in_time(self);
    }
}

/// A guest whose frames go through a stream, each after its length.
#[derive(Debug)]
pub(crate) struct StreamGuest<S>(pub(crate) S);

impl StreamGuest<UnixStream> {
    pub(crate) fn at(path: &Path) -> StreamGuest<UnixStream> {
        StreamGuest::new(UnixStream::connect(path).expect("connected"))
    }

    /// Whether a frame arrives within this time.
    pub(crate) fn recv_within(&mut self, patience: Duration) -> Option<Vec<u8>> {
        self.0.set_read_timeout(Some(patience)).expect("a read timeout");
        let mut first = [0];
        let received = self.0.read(&mut first);
        self.0.set_read_timeout(Some(NEVER)).expect("a read timeout");
        match received {
            Ok(1) => {
                let mut length = [first[0], 0, 0, 0];
                self.0.read_exact(&mut length[1..]).expect("a length");
                Some(self.rest(length))
            }
            Ok(_) => panic!("the switch has hung up"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                None
            }
        }
    }
}

impl<S: Connection> StreamGuest<S> {
    pub(crate) fn new(stream: S) -> StreamGuest<S> {
        stream.bound();
        StreamGuest(stream)
    }

    pub(crate) fn send(&mut self, frame: &[u8]) {
        self.0.write_all(&framed(frame)).expect("sent");
    }

    /// The next frame.
    pub(crate) fn recv(&mut self) -> Vec<u8> {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).expect("a length in time");
        self.rest(length)
    }

    fn rest(&mut self, length: [u8; 4]) -> Vec<u8> {
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut frame).expect("a frame in time");
        frame
    }

    /// Waits until the switch closes the connection; frames before that are discarded.
    pub(crate) fn is_hung_up_on(&mut self) {
        let mut bytes = [0; 4096];
        wait::until("the end of the connection", || match self.0.read(&mut bytes) {
            Ok(0) => Some(()),
            Ok(_) => None,
            Err(error) => (error.kind() == ErrorKind::ConnectionReset).then_some(()),
        });
    }
}

/// A frame after its length.
pub(crate) fn framed(frame: &[u8]) -> Vec<u8> {
    [&(frame.len() as u32).to_be_bytes(), frame].concat()
}

/// A guest's datagram socket with a path of its own.
pub(crate) fn dgram_guest(path: &Path, switch: &Path) -> UnixDatagram {
    let socket = UnixDatagram::bind(path).expect("bound");
    socket.connect(switch).expect("connected");
    socket.set_read_timeout(Some(NEVER)).expect("a read timeout");
    socket.set_write_timeout(Some(NEVER)).expect("a write timeout");
    socket
}

/// The next frame.
pub(crate) fn recv_dgram(socket: &UnixDatagram) -> Vec<u8> {
    let mut bytes = vec![0; 70_000];
    let len = socket.recv(&mut bytes).expect("a frame in time");
    bytes.truncate(len);
    bytes
}
