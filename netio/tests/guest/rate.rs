//! Throughput: run with `cargo test --release -p netio --test guest -- --ignored --nocapture`.

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use netio::Received;
use packet::Batch;
use rustix::event::{PollFd, PollFlags, poll};

use crate::{cable, numbered, on_the_wire, slices};

const LEN: usize = 1500;
const BURST: usize = 64;
const TIME: Duration = Duration::from_secs(2);

/// Prints frames per second and Gbit/s.
fn report(what: &str, frames: usize, began: Instant) -> f64 {
    let rate = frames as f64 / began.elapsed().as_secs_f64();
    println!("{what:24} {:7.0} thousand frames/s {:6.2} Gbit/s", rate / 1e3, rate * LEN as f64 * 8e-9);
    rate
}

/// Baseline for receiving: the same bytes through a bare socket, in reads of the same size.
fn bare_receiving() -> f64 {
    let (_directory, reader, _writer, mut monitor) = cable();
    let burst: Vec<_> = (0..BURST as u32).map(|at| on_the_wire(&numbered(at, LEN))).collect();
    let began = Instant::now();
    let writing = thread::spawn(move || {
        let burst: Vec<_> = burst.iter().flat_map(|frame| [IoSlice::new(&frame[..4]), IoSlice::new(&frame[4..])]).collect();
        while began.elapsed() < TIME {
            // A blocking socket accepts all bytes.
            let written = monitor.write_vectored(&burst).unwrap();
            assert_eq!(written, BURST * (4 + LEN));
        }
    });
    let mut room = vec![0; 96 << 10];
    let mut bytes = 0;
    loop {
        poll(&mut [PollFd::new(&reader, PollFlags::IN)], None).unwrap();
        match rustix::io::readv(&reader, &mut [IoSliceMut::new(&mut room)]).unwrap() {
            0 => break,
            len => bytes += len,
        }
    }
    writing.join().unwrap();
    report("bare loop, reading", bytes / (4 + LEN), began)
}

/// Receiving from a guest.
fn receiving() -> f64 {
    let (_directory, mut reader, _writer, mut monitor) = cable();
    let burst: Vec<_> = (0..BURST as u32).map(|at| on_the_wire(&numbered(at, LEN))).collect();
    let began = Instant::now();
    let writing = thread::spawn(move || {
        let burst: Vec<_> = burst.iter().flat_map(|frame| [IoSlice::new(&frame[..4]), IoSlice::new(&frame[4..])]).collect();
        while began.elapsed() < TIME {
            assert_eq!(monitor.write_vectored(&burst).unwrap(), BURST * (4 + LEN));
        }
    });
    let mut batch = Batch::new();
    let mut frames = 0;
    loop {
        poll(&mut [PollFd::new(&reader, PollFlags::IN)], None).unwrap();
        let end = loop {
            batch.clear();
            let end = reader.recv(&mut batch);
            frames += batch.spans().len();
            if end != Received::More {
                break end;
            }
        };
        if end == Received::Gone {
            break;
        }
    }
    writing.join().unwrap();
    report("our reader", frames, began)
}

/// A guest that reads everything. Returns the number of frames.
fn guest(mut monitor: UnixStream) -> usize {
    let mut room = vec![0; 96 << 10];
    let mut bytes = 0;
    loop {
        match monitor.read(&mut room).unwrap() {
            0 => return bytes / (4 + LEN),
            len => bytes += len,
        }
    }
}

/// Baseline for sending: a bare socket.
fn bare_sending() -> f64 {
    let (_directory, reader, writer, monitor) = cable();
    let reading = thread::spawn(|| guest(monitor));
    let burst: Vec<_> = (0..BURST as u32).map(|at| on_the_wire(&numbered(at, LEN))).collect();
    let burst: Vec<_> = burst.iter().flat_map(|frame| [IoSlice::new(&frame[..4]), IoSlice::new(&frame[4..])]).collect();
    let began = Instant::now();
    while began.elapsed() < TIME {
        // Bytes that the socket does not take are ignored.
        if rustix::io::writev(&writer, &burst).is_err() {
            poll(&mut [PollFd::new(&writer, PollFlags::OUT)], None).unwrap();
        }
    }
    drop(reader);
    report("bare loop, writing", reading.join().unwrap(), began)
}

/// Sending to a guest.
fn sending() -> f64 {
    let (_directory, reader, writer, monitor) = cable();
    let reading = thread::spawn(|| guest(monitor));
    let burst: Vec<_> = (0..BURST as u32).map(|at| numbered(at, LEN)).collect();
    let burst = slices(&burst);
    let began = Instant::now();
    while began.elapsed() < TIME {
        writer.send_many(&burst, |result| result.unwrap());
        // A worker would drop frames here; the test waits.
        while writer.has_backlog() {
            poll(&mut [PollFd::new(&writer, PollFlags::OUT)], None).unwrap();
            writer.flush().unwrap();
        }
    }
    drop(reader);
    report("our writer", reading.join().unwrap(), began)
}

#[test]
#[ignore = "a measurement"]
fn frames_a_second() {
    for _ in 0..3 {
        let (bare_receiving, receiving) = (bare_receiving(), receiving());
        let (bare_sending, sending) = (bare_sending(), sending());
        println!("reader {:.0} %, writer {:.0} % of it", 100.0 * receiving / bare_receiving, 100.0 * sending / bare_sending);
    }
}
