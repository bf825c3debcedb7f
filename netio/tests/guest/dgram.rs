//! Datagram sockets.

use std::io::IoSlice;
use std::os::unix::net::UnixDatagram;

use netio::Received;
use netio::guest::{Dgram, DgramQueue, DgramReceiver};
use packet::batch::MAX_FRAME_LEN;
use packet::{Batch, VNET_LEN, VnetHeader};
use rustix::io::Errno;

use crate::{Directory, LONG, numbered, received, slices, take};

const SLOTS: usize = 4;

fn read_all(queue: &DgramQueue) -> Vec<Vec<u8>> {
    let (mut receiver, mut batch) = (DgramReceiver::new(), Batch::strided(SLOTS));
    let mut frames = Vec::new();
    loop {
        let end = queue.recv(&mut receiver, &mut batch);
        let spans = batch.spans().to_vec();
        let some = take(&mut batch);
        // The pipeline may have written to this memory before.
        spans.iter().for_each(|span| batch.set_vnet(*span, VnetHeader { flags: 1, gso_type: 4, ..VnetHeader::default() }));
        assert_eq!(end == Received::More, some.len() == SLOTS);
        frames.extend(some);
        if end == Received::Drained {
            return frames;
        }
    }
}

fn monitor(directory: &Directory, name: &str) -> UnixDatagram {
    let monitor = UnixDatagram::bind(directory.path(name)).unwrap();
    monitor.set_read_timeout(Some(LONG)).unwrap();
    monitor
}

#[test]
fn frames_are_exchanged_with_a_configured_guest() {
    let directory = Directory::new();
    let ours = directory.path("ours");
    let dgram = Dgram::open(&ours, Some(&directory.path("guest"))).unwrap();
    let queue = dgram.queue();
    assert!(queue.has_guest());
    let frame = numbered(1, 60);
    assert_eq!(queue.send(&[IoSlice::new(&frame)]), Err(Errno::NXIO), "it is not there yet");
    let guest = monitor(&directory, "guest");
    let frames: Vec<_> = (0..9).map(|at| numbered(at, 60 + at as usize)).collect();
    let mut results = Vec::new();
    queue.send_many(&slices(&frames), |result| results.push(result));
    assert_eq!(results, [Ok(()); 9]);
    let (head, tail) = frame.split_at(VNET_LEN + 14);
    queue.send(&[IoSlice::new(head), IoSlice::new(tail)]).unwrap();
    let mut room = [0; 2000];
    for frame in frames.iter().chain([&frame]) {
        let len = guest.recv(&mut room).unwrap();
        assert_eq!(room[..len], frame[VNET_LEN..]);
    }
    for frame in &frames {
        guest.send_to(&frame[VNET_LEN..], &ours).unwrap();
    }
    assert_eq!(read_all(queue), frames.iter().map(|frame| received(frame)).collect::<Vec<_>>());
    // Frames of another sender are received, but none are sent to it.
    let other = monitor(&directory, "other");
    other.send_to(&frame[VNET_LEN..], &ours).unwrap();
    assert_eq!(read_all(queue).len(), 1);
    queue.send(&[IoSlice::new(&frame)]).unwrap();
    assert_eq!(guest.recv(&mut room).unwrap(), 60);
    // The guest exits and restarts.
    drop(guest);
    assert_eq!(queue.send(&[IoSlice::new(&frame)]), Err(Errno::NXIO));
    std::fs::remove_file(directory.path("guest")).unwrap();
    let guest = monitor(&directory, "guest");
    queue.send(&[IoSlice::new(&frame)]).unwrap();
    assert_eq!(guest.recv(&mut room).unwrap(), 60);
}

#[test]
fn the_last_sender_is_the_guest() {
    let directory = Directory::new();
    let ours = directory.path("ours");
    let dgram = Dgram::open(&ours, None).unwrap();
    let queue = dgram.queue();
    let frames = [numbered(1, 60), numbered(2, 61)];
    let mut results = Vec::new();
    assert!(!queue.has_guest());
    assert_eq!(queue.send(&[IoSlice::new(&frames[0])]), Err(Errno::NXIO));
    queue.send_many(&slices(&frames), |result| results.push(result));
    assert_eq!(results, [Err(Errno::NXIO); 2]);
    let mut room = [0; 2000];
    for name in ["first", "second, started anew"] {
        let guest = monitor(&directory, name);
        guest.connect(&ours).unwrap();
        guest.send(b"VFKT").unwrap();
        assert_eq!(read_all(queue), [[&[0; VNET_LEN], &b"VFKT"[..]].concat()]);
        queue.send(&[IoSlice::new(&frames[1])]).unwrap();
        assert_eq!(guest.recv(&mut room).unwrap(), 61);
        // Of several senders the last one counts.
        let old = monitor(&directory, &format!("before the {name}"));
        old.send_to(&[0; 60], &ours).unwrap();
        guest.send(&[0; 60]).unwrap();
        assert_eq!(read_all(queue).len(), 2);
        // A sender without a path cannot be the guest.
        UnixDatagram::unbound().unwrap().send_to(&[0; 60], &ours).unwrap();
        assert_eq!(read_all(queue).len(), 1);
        queue.send(&[IoSlice::new(&frames[0])]).unwrap();
        assert_eq!(guest.recv(&mut room).unwrap(), 60);
    }
}

#[test]
fn invalid_frames_are_dropped() {
    let directory = Directory::new();
    let ours = directory.path("ours");
    let dgram = Dgram::open(&ours, None).unwrap();
    let guest = monitor(&directory, "guest");
    for len in [0, 1, MAX_FRAME_LEN, MAX_FRAME_LEN + 1, 100_000] {
        guest.send_to(&numbered(7, len)[VNET_LEN..], &ours).unwrap();
    }
    let lens: Vec<_> = read_all(dgram.queue()).iter().map(|frame| frame.len() - VNET_LEN).collect();
    assert_eq!(lens, [0, 1, MAX_FRAME_LEN, 0, 0]);
    // Nor are they sent.
    let frames = [
        numbered(1, 60),
        numbered(0, 0),
        vec![0; 11],
        numbered(2, MAX_FRAME_LEN),
        numbered(3, MAX_FRAME_LEN + 1),
        numbered(4, 60),
    ];
    let expected = [Ok(()), Err(Errno::INVAL), Err(Errno::INVAL), Ok(()), Err(Errno::MSGSIZE), Ok(())];
    let mut results = Vec::new();
    dgram.queue().send_many(&slices(&frames), |result| results.push(result));
    assert_eq!(results, expected);
    let mut room = vec![0; MAX_FRAME_LEN + 1];
    for len in [60, MAX_FRAME_LEN, 60] {
        assert_eq!(guest.recv(&mut room).unwrap(), len);
    }
    let singly: Vec<_> = frames.iter().map(|frame| dgram.queue().send(&[IoSlice::new(frame)])).collect();
    assert_eq!(singly, expected);
}

#[test]
fn a_guest_that_does_not_read_loses_frames_without_blocking() {
    let directory = Directory::new();
    let dgram = Dgram::open(&directory.path("ours"), Some(&directory.path("guest"))).unwrap();
    let guest = monitor(&directory, "guest");
    let frames: Vec<_> = (0..1000).map(|at| numbered(at, 1500)).collect();
    let mut taken = Vec::new();
    let mut at = 0;
    dgram.queue().send_many(&slices(&frames), |result| {
        match result {
            Ok(()) => taken.push(at),
            Err(errno) => assert_eq!(errno, Errno::AGAIN),
        }
        at += 1;
    });
    assert_eq!(at, 1000);
    assert!((1..1000).contains(&taken.len()), "{}", taken.len());
    assert_eq!(dgram.queue().send(&[IoSlice::new(&frames[0])]), Err(Errno::AGAIN));
    let mut room = [0; 2000];
    for number in taken {
        assert_eq!(guest.recv(&mut room).unwrap(), 1500);
        assert_eq!(room[..1500], frames[number][VNET_LEN..]);
    }
    dgram.queue().send(&[IoSlice::new(&frames[0])]).unwrap();
}
