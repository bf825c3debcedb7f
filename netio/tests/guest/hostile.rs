//! Misbehaving peers.

use std::io::{IoSlice, Read, Write};
use std::thread;

use netio::Received;
use netio::guest::stream::MAX_BACKLOG;
use packet::batch::{MAX_FRAME_LEN, USUAL_FRAMES};
use packet::{Batch, VNET_LEN};
use rustix::io::Errno;

use crate::{cable, numbered, on_the_wire, read_frames, received, slices, take};

#[test]
fn an_impossible_length_ends_the_connection_after_earlier_frames() {
    for length in [MAX_FRAME_LEN as u32 + 1, 1 << 24, 1 << 31, u32::MAX] {
        let (_directory, mut reader, _writer, mut monitor) = cable();
        let mut bytes = on_the_wire(&numbered(1, 60));
        bytes.extend(on_the_wire(&numbered(2, 60)));
        bytes.extend(length.to_be_bytes());
        bytes.extend(on_the_wire(&numbered(3, 60)));
        monitor.write_all(&bytes).unwrap();
        let mut batch = Batch::new();
        assert_eq!(reader.recv(&mut batch), Received::Gone, "{length}");
        assert_eq!(take(&mut batch), [received(&numbered(1, 60)), received(&numbered(2, 60))]);
        monitor.write_all(&on_the_wire(&numbered(4, 60))).unwrap();
        for _ in 0..3 {
            assert_eq!(reader.recv(&mut batch), Received::Gone, "and stays gone");
            assert!(batch.spans().is_empty());
        }
        drop(reader);
        assert!(monitor.write_all(&[0]).is_err());
    }
}

#[test]
fn the_longest_frame_and_the_empty_one() {
    let (_directory, mut reader, _writer, mut monitor) = cable();
    let longest = numbered(1, MAX_FRAME_LEN);
    let bytes = [vec![0; 4 * 200], on_the_wire(&longest), vec![0; 4]].concat();
    let writing = thread::spawn(move || monitor.write_all(&bytes).map(|()| monitor).unwrap());
    let frames = read_frames(&mut reader, 202);
    let empty = vec![0; VNET_LEN];
    assert_eq!(frames.len(), 202);
    assert!(frames[..200].iter().all(|frame| *frame == empty));
    assert!(frames[200] == received(&longest));
    assert_eq!(frames[201], empty);
    drop(writing.join().unwrap());
}

#[test]
fn frames_are_reassembled_from_single_bytes() {
    let (_directory, mut reader, _writer, mut monitor) = cable();
    let mut batch = Batch::new();
    for number in 0..3 {
        let bytes = on_the_wire(&numbered(number, 30));
        for (at, byte) in bytes.iter().enumerate() {
            monitor.write_all(&[*byte]).unwrap();
            assert_eq!(reader.recv(&mut batch), Received::Drained);
            assert_eq!(batch.spans().len(), usize::from(at + 1 == bytes.len()));
        }
        assert_eq!(take(&mut batch), [received(&numbered(number, 30))]);
    }
    // And split anywhere.
    let frames: Vec<_> = (0..50).map(|at| numbered(at, 100)).collect();
    let bytes: Vec<u8> = frames.iter().flat_map(|frame| on_the_wire(frame)).collect();
    let mut seen = Vec::new();
    for piece in bytes.chunks(73) {
        monitor.write_all(piece).unwrap();
        assert_eq!(reader.recv(&mut batch), Received::Drained);
        seen.extend(take(&mut batch));
    }
    assert!(seen == frames.iter().map(|frame| received(frame)).collect::<Vec<_>>());
}

#[test]
fn a_peer_may_stop_or_close_within_a_frame() {
    for cut in [0, 1, 3, 4, 5, 63] {
        let (_directory, mut reader, _writer, mut monitor) = cable();
        monitor.write_all(&on_the_wire(&numbered(1, 60))).unwrap();
        monitor.write_all(&on_the_wire(&numbered(2, 60))[..cut]).unwrap();
        let mut batch = Batch::new();
        assert_eq!(reader.recv(&mut batch), Received::Drained);
        assert_eq!(take(&mut batch), [received(&numbered(1, 60))]);
        // The rest is never sent.
        for _ in 0..3 {
            assert_eq!(reader.recv(&mut batch), Received::Drained);
        }
        drop(monitor);
        assert_eq!(reader.recv(&mut batch), Received::Gone);
        assert!(batch.spans().is_empty());
    }
}

#[test]
fn a_peer_that_never_reads_costs_a_bounded_backlog() {
    let (_directory, _reader, writer, mut monitor) = cable();
    let frames: Vec<_> = (0..USUAL_FRAMES as u32).map(|at| numbered(at, 1500)).collect();
    let mut taken = Vec::new();
    let mut refused = 0;
    for _ in 0..200 {
        let mut at = 0;
        writer.send_many(&slices(&frames), |result| {
            match result {
                Ok(()) => taken.push(at),
                Err(errno) => {
                    assert_eq!(errno, Errno::AGAIN);
                    refused += 1;
                }
            }
            at += 1;
        });
    }
    assert!(writer.has_backlog());
    assert_eq!(writer.send(&[IoSlice::new(&numbered(0, 1500))]), Err(Errno::AGAIN));
    assert_eq!(taken.len() + refused, 200 * USUAL_FRAMES);
    writer.flush().unwrap();
    assert!(writer.has_backlog());
    // Accepted frames arrive whole and in order, although most were written partly or later.
    let bytes = taken.len() * 1504;
    let reading = thread::spawn(move || {
        let mut seen = vec![0; bytes];
        monitor.read_exact(&mut seen).unwrap();
        (seen, monitor)
    });
    crate::wait_for("flush", || {
        writer.flush().unwrap();
        !writer.has_backlog()
    });
    let (seen, monitor) = reading.join().unwrap();
    for (seen, number) in seen.chunks_exact(1504).zip(&taken) {
        assert!(*seen == on_the_wire(&frames[*number]), "frame {number}");
    }
    // The socket's memory is counted in whole pages; our backlog is limited.
    let held = rustix::net::sockopt::socket_send_buffer_size(&writer).unwrap();
    assert!((MAX_BACKLOG - 1504..held + MAX_BACKLOG).contains(&bytes), "{bytes} of {held}");
    // There is room in the backlog again.
    writer.send(&[IoSlice::new(&numbered(0, 1500))]).unwrap();
    assert!(!writer.has_backlog());
    drop(monitor);
}

#[test]
fn a_backlog_is_discarded_when_the_peer_closes() {
    let (_directory, mut reader, writer, monitor) = cable();
    while writer.send(&[IoSlice::new(&numbered(0, 1500))]).is_ok() {}
    assert!(writer.has_backlog());
    drop(monitor);
    assert_eq!(writer.flush(), Err(Errno::NXIO));
    assert!(!writer.has_backlog(), "no backlog without a peer");
    assert_eq!(writer.send(&[IoSlice::new(&numbered(0, 1500))]), Err(Errno::NXIO));
    // A peer that has not read everything resets the connection.
    assert_eq!(reader.recv(&mut Batch::new()), Received::Gone);
}
