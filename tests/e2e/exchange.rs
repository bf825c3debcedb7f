//! Requests and replies between two hosts, and hosts that send at full speed.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::host::{Host, Ip};
use crate::wait::NEVER;

/// A thread that is stopped when this is dropped.
#[derive(Debug)]
pub(crate) struct Background {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Background {
    /// Calls `round` repeatedly; [`Background::end`] propagates its panic.
    pub(crate) fn run(mut round: impl FnMut() + Send + 'static) -> Background {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&rounds));
        let thread = thread::spawn(move || {
            // A limit for tests that fail.
            let end = Instant::now() + 3 * NEVER;
            while !stopped.load(Ordering::Relaxed) && Instant::now() < end {
                round();
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Background { stop, rounds, thread: Some(thread) }
    }

    /// Number of rounds so far.
    pub(crate) fn rounds(&self) -> u64 {
        self.rounds.load(Ordering::Relaxed)
    }

    /// Stops the thread.
    pub(crate) fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it was started");
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A UDP echo server.
#[derive(Debug)]
pub(crate) struct Echo {
    address: SocketAddr,
    _answers: Background,
}

impl Echo {
    /// An echo server on host `number`.
    pub(crate) fn on(host: &Host, ip: Ip, number: u8) -> Echo {
        let socket = host.udp(ip, number);
        let address = socket.local_addr().expect("its address");
        socket.set_read_timeout(Some(Duration::from_millis(50))).expect("a read timeout");
        let answers = Background::run(move || {
            let mut bytes = [0; 2048];
            if let Ok((len, from)) = socket.recv_from(&mut bytes) {
                let _ = socket.send_to(&bytes[..len], from);
            }
        });
        Echo { address, _answers: answers }
    }

    /// A client on host `number`.
    pub(crate) fn asked_from(&self, host: &Host, ip: Ip, number: u8) -> Asker {
        let socket = host.udp(ip, number);
        socket.connect(self.address).expect("connected");
        Asker { socket, question: 0 }
    }
}

/// Sends one request after another.
#[derive(Debug)]
pub(crate) struct Asker {
    socket: UdpSocket,
    question: u64,
}

impl Asker {
    /// One request, sent once; its reply must arrive.
    pub(crate) fn ask(&mut self) {
        self.ask_within(NEVER, 1);
    }

    /// One request, sent at most `attempts` times.
    pub(crate) fn ask_within(&mut self, patience: Duration, times: usize) {
        self.question += 1;
        let question = self.question.to_be_bytes();
        self.socket.set_read_timeout(Some(patience)).expect("a read timeout");
        for _ in 0..times {
            self.socket.send(&question).expect("asked");
            let mut bytes = [0; 2048];
            loop {
                match self.socket.recv(&mut bytes) {
                    Ok(len) if bytes[..len] == question => return,
                    // A late reply to an earlier request.
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => panic!("question {}: {error}", self.question),
                }
            }
        }
        panic!("no answer to question {}, asked {times} times", self.question);
    }
}

/// Sends full-sized datagrams as fast as the host can.
pub(crate) fn full_speed(from: &Host, ip: Ip, number: u8, to: SocketAddr) -> Background {
    let socket = from.udp(ip, number);
    let bytes = [0x55; 1400];
    Background::run(move || {
        // A full queue is not an error.
        let _ = socket.send_to(&bytes, to);
    })
}
