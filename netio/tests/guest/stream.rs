//! Stream connections.

use std::io::{IoSlice, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::thread;

use netio::guest::{Address, Listener, Peer, Stream};
use netio::{Poller, Received};
use packet::batch::{MAX_FRAME_LEN, MAX_FRAMES};
use packet::{Batch, VNET_LEN};
use rustix::io::Errno;

use crate::{Directory, LONG, accept, cable, numbered, on_the_wire, read_frames, received, slices, take, unix, wait_for};

#[test]
fn frames_are_exchanged_in_order() {
    let directory = Directory::new();
    let address = unix(&directory.path("s"));
    let listener = Listener::open(&address).unwrap();
    let guest = Stream::connect(&address).unwrap();
    assert!(guest.is_connected().unwrap());
    let (mut reader, writer) = accept(&listener).split();
    let (mut far_reader, far_writer) = guest.split();
    let lens = [60, 1514, 1, 14, 9000, MAX_FRAME_LEN, 61, 1514, 4, 3];
    let frames: Vec<_> = (0..200).map(|at| numbered(at, lens[at as usize % lens.len()])).collect();
    let expected: Vec<_> = frames.iter().map(|frame| received(frame)).collect();
    thread::scope(|threads| {
        // Both directions at once: bytes that do not fit into the socket wait in the backlog.
        for (writer, reader) in [(&writer, &mut far_reader), (&far_writer, &mut reader)] {
            let (frames, expected) = (&frames, &expected);
            threads.spawn(move || {
                for some in frames.chunks(70) {
                    for frame in some {
                        wait_for("room", || writer.send(&[IoSlice::new(frame)]) != Err(Errno::AGAIN));
                    }
                }
                wait_for("flush", || {
                    writer.flush().unwrap();
                    !writer.has_backlog()
                });
            });
            threads.spawn(move || assert!(read_frames(reader, expected.len()) == *expected));
        }
    });
}

#[test]
fn frames_are_sent_without_their_virtio_net_header() {
    let (_directory, _reader, writer, mut monitor) = cable();
    let frames: Vec<_> = (0..150).map(|at| numbered(at, 60 + at as usize)).collect();
    let mut results = Vec::new();
    writer.send_many(&slices(&frames), |result| results.push(result));
    assert_eq!(results, vec![Ok(()); 150]);
    // One frame in pieces, one of which is empty.
    let last = numbered(150, 1000);
    let (head, tail) = last.split_at(VNET_LEN + 14);
    writer.send(&[IoSlice::new(head), IoSlice::new(&[]), IoSlice::new(tail)]).unwrap();
    let expected = frames.iter().chain([&last]).flat_map(|frame| on_the_wire(frame)).collect::<Vec<_>>();
    let mut seen = vec![0; expected.len()];
    monitor.read_exact(&mut seen).unwrap();
    assert!(seen == expected);
}

#[test]
fn an_invalid_frame_is_refused_and_others_are_sent() {
    let (_directory, _reader, writer, mut monitor) = cable();
    let frames = [
        numbered(1, 60),
        vec![0; VNET_LEN - 1],
        numbered(2, 60),
        numbered(0, 0),
        numbered(0, MAX_FRAME_LEN + 1),
        numbered(3, 60),
    ];
    let mut results = Vec::new();
    writer.send_many(&slices(&frames), |result| results.push(result));
    let expected = [Ok(()), Err(Errno::INVAL), Ok(()), Err(Errno::INVAL), Err(Errno::MSGSIZE), Ok(())];
    assert_eq!(results, expected);
    let singly: Vec<_> = frames.iter().map(|frame| writer.send(&[IoSlice::new(frame)])).collect();
    assert_eq!(singly, expected);
    assert_eq!(writer.send(&[]), Err(Errno::INVAL));
    assert_eq!(writer.send(&[IoSlice::new(&frames[0]); 128]), Err(Errno::INVAL));
    let mut seen = [0; 6 * 64];
    monitor.read_exact(&mut seen).unwrap();
    let numbers: Vec<u8> = seen.chunks_exact(64).map(|frame| frame[7]).collect();
    assert_eq!(numbers, [1, 2, 3, 1, 2, 3]);
}

#[test]
fn frames_of_one_read_fill_several_batches() {
    let (_directory, mut reader, _writer, mut monitor) = cable();
    let frames: Vec<_> = (0..1000).map(|at| numbered(at, 20)).collect();
    monitor.write_all(&frames.iter().flat_map(|frame| on_the_wire(frame)).collect::<Vec<_>>()).unwrap();
    let mut batch = Batch::new();
    let mut seen = Vec::new();
    loop {
        let end = reader.recv(&mut batch);
        let some = take(&mut batch);
        assert_eq!(some.len(), MAX_FRAMES.min(1000 - seen.len()));
        seen.extend(some);
        if end != Received::More {
            assert_eq!(end, Received::Drained);
            break;
        }
    }
    assert!(seen == frames.iter().map(|frame| received(frame)).collect::<Vec<_>>());
    assert_eq!(reader.recv(&mut batch), Received::Drained);
}

#[test]
fn frames_of_two_threads_are_not_interleaved() {
    let (_directory, _reader, writer, mut monitor) = cable();
    const FRAMES: u32 = 20_000;
    // The reader pauses now and then, so that many frames are written partly.
    let reading = thread::spawn(move || {
        let mut last = [None::<u32>; 2];
        let mut seen = [0; 2];
        let mut length = [0; 4];
        while monitor.read_exact(&mut length).is_ok() {
            let mut frame = vec![0; u32::from_be_bytes(length) as usize];
            monitor.read_exact(&mut frame).unwrap();
            let number = u32::from_be_bytes(*frame.first_chunk().unwrap());
            assert!(frame[4..].iter().all(|byte| *byte == number as u8), "interleaved frames");
            let whose = (number >> 31) as usize;
            assert!(last[whose] < Some(number), "order");
            (last[whose], seen[whose]) = (Some(number), seen[whose] + 1);
            if number % 1000 == 0 {
                thread::sleep(std::time::Duration::from_millis(1));
            }
        }
        seen
    });
    let sent = thread::scope(|threads| {
        let single = threads.spawn(|| {
            let mut sent = 0;
            for number in 1..FRAMES {
                let frame = numbered(number, 60 + (number as usize * 37) % 3000);
                let (head, tail) = frame.split_at(VNET_LEN + 20);
                sent += u32::from(writer.send(&[IoSlice::new(head), IoSlice::new(tail)]).is_ok());
            }
            sent
        });
        let many = threads.spawn(|| {
            let mut sent = 0;
            for first in (1 << 31..(1 << 31) + FRAMES).step_by(40) {
                let frames: Vec<_> =
                    (first..first + 40).map(|number| numbered(number, 60 + (number as usize * 53) % 3000)).collect();
                writer.send_many(&slices(&frames), |result| sent += u32::from(result.is_ok()));
            }
            sent
        });
        [single.join().unwrap(), many.join().unwrap()]
    });
    wait_for("flush", || {
        writer.flush().unwrap();
        !writer.has_backlog()
    });
    rustix::net::shutdown(&writer, rustix::net::Shutdown::Write).unwrap();
    assert!(sent.iter().all(|sent| *sent > 100), "{sent:?}");
    assert_eq!(reading.join().unwrap(), sent, "all accepted frames were received");
}

#[test]
fn the_backlog_is_sent_before_the_next_frame() {
    let (_directory, _reader, writer, mut monitor) = cable();
    let first: Vec<_> =
        (0..).map(|at| numbered(at, 9000)).take_while(|frame| writer.send(&[IoSlice::new(frame)]).is_ok()).collect();
    assert!(writer.has_backlog());
    let reading = thread::spawn(move || {
        let mut seen = Vec::new();
        monitor.read_to_end(&mut seen).map(|_| seen).unwrap()
    });
    // Without a call of `flush`.
    let next = numbered(7, 60);
    let mut sent = 0;
    wait_for("room", || {
        writer.send_many(&slices(std::slice::from_ref(&next)), |result| sent += usize::from(result.is_ok()));
        !writer.has_backlog()
    });
    rustix::net::shutdown(&writer, rustix::net::Shutdown::Write).unwrap();
    let expected = first.iter().chain(std::iter::repeat_n(&next, sent)).flat_map(|frame| on_the_wire(frame));
    assert!(reading.join().unwrap() == expected.collect::<Vec<_>>());
}

#[test]
fn a_poller_reports_when_the_backlog_can_be_sent() {
    let (_directory, _reader, writer, mut monitor) = cable();
    let poller = Poller::new().unwrap();
    writer.watch(&poller, 7).unwrap();
    let mut told = 0;
    let mut wait = |writer: &netio::guest::StreamWriter, time| {
        let before = told;
        poller.wait(Some(time), |token| told += token).unwrap();
        writer.flush().unwrap();
        told > before
    };
    let short = std::time::Duration::from_millis(20);
    assert!(wait(&writer, LONG), "one spurious report");
    assert!(!wait(&writer, short), "the backlog is empty");
    let frame = numbered(1, 60_000);
    writer.send(&[IoSlice::new(&frame)]).unwrap();
    assert!(!writer.has_backlog() && !wait(&writer, short), "the backlog is empty");
    let mut sent = 1;
    while writer.send(&[IoSlice::new(&frame)]).is_ok() {
        sent += 1;
    }
    assert!(writer.has_backlog());
    assert!(!wait(&writer, short), "the monitor does not read");
    let reading = thread::spawn(move || {
        let mut seen = vec![0; sent * 60_004];
        monitor.read_exact(&mut seen).unwrap();
        (seen, monitor)
    });
    while writer.has_backlog() {
        assert!(wait(&writer, LONG), "the monitor reads");
    }
    let (seen, mut monitor) = reading.join().unwrap();
    assert!(seen.chunks_exact(60_004).all(|seen| *seen == on_the_wire(&frame)));
    // From another thread, while the poller sleeps.
    thread::scope(|threads| {
        threads.spawn(|| {
            thread::sleep(short);
            let mut sent = 0;
            while writer.send(&[IoSlice::new(&frame)]).is_ok() {
                sent += 1;
            }
            monitor.read_exact(&mut vec![0; (sent - 4) * 60_004]).unwrap();
        });
        assert!(wait(&writer, LONG));
    });
    writer.unwatch();
    while writer.send(&[IoSlice::new(&frame)]).is_ok() {}
    drop(monitor);
    assert!(!poller.wait(Some(short), |_| panic!("no longer watched")).unwrap());
}

#[test]
fn guests_on_one_path_are_independent() {
    let directory = Directory::new();
    let path = directory.path("s");
    let listener = Listener::open(&unix(&path)).unwrap();
    assert!(listener.accept().unwrap().is_none());
    let monitors: Vec<_> = (0..20).map(|_| UnixStream::connect(&path).unwrap()).collect();
    let mut guests: Vec<_> = (0..20).map(|_| accept(&listener).split()).collect();
    assert!(listener.accept().unwrap().is_none());
    for (number, mut monitor) in monitors.iter().enumerate() {
        monitor.write_all(&on_the_wire(&numbered(number as u32, 60))).unwrap();
    }
    for (number, (reader, _)) in guests.iter_mut().enumerate() {
        assert_eq!(read_frames(reader, 1), [received(&numbered(number as u32, 60))]);
    }
    // One guest disconnects,
    let mut monitors = monitors.into_iter();
    drop(monitors.next());
    assert_eq!(guests[0].0.recv(&mut Batch::new()), Received::Gone);
    assert_eq!(guests[0].1.send(&[IoSlice::new(&numbered(0, 60))]), Err(Errno::NXIO));
    let mut results = Vec::new();
    let frames = [numbered(0, 60), numbered(0, 60)];
    guests[0].1.send_many(&slices(&frames), |result| results.push(result));
    assert_eq!(results, [Err(Errno::NXIO), Err(Errno::NXIO)]);
    // one is disconnected while a worker still has its writer;
    let (reader, writer) = guests.remove(1);
    drop(reader);
    let mut second = monitors.next().unwrap();
    assert_eq!(second.read(&mut [0; 10]).unwrap(), 0);
    assert_eq!(writer.send(&[IoSlice::new(&numbered(0, 60))]), Err(Errno::NXIO));
    // the others stay connected, and further ones can connect.
    guests[1].1.send(&[IoSlice::new(&numbered(2, 60))]).unwrap();
    let mut seen = [0; 64];
    monitors.next().unwrap().read_exact(&mut seen).unwrap();
    assert_eq!(seen, *on_the_wire(&numbered(2, 60)));
    let again = Stream::connect(&unix(&path)).unwrap();
    let peer = accept(&listener).peer().unwrap();
    assert!(matches!(&peer, Peer::Process { pid, name } if *pid == std::process::id() && !name.is_empty()), "{peer}");
    drop(again);
}

#[test]
fn a_client_reconnects_after_a_restart() {
    let directory = Directory::new();
    let address = unix(&directory.path("s"));
    assert_eq!(Stream::connect(&address).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    for number in 0..3 {
        let listener = Listener::open(&address).unwrap();
        let (mut reader, writer) = Stream::connect(&address).unwrap().split();
        let (far_reader, far_writer) = accept(&listener).split();
        far_writer.send(&[IoSlice::new(&numbered(number, 60))]).unwrap();
        drop((listener, far_reader));
        // Frames sent before the end are still received.
        let mut batch = Batch::new();
        assert_eq!(reader.recv(&mut batch), Received::Drained);
        assert_eq!(take(&mut batch), [received(&numbered(number, 60))]);
        assert_eq!(reader.recv(&mut batch), Received::Gone);
        drop(writer);
        assert!(Stream::connect(&address).is_err());
    }
}

#[test]
fn frames_over_tcp() {
    for local in ["127.0.0.1:0", "[::1]:0"] {
        let local: SocketAddr = local.parse().unwrap();
        let Ok(listener) = Listener::open(&Address::Tcp(local)) else {
            assert!(local.is_ipv6(), "no IPv4");
            continue;
        };
        let Address::Tcp(bound) = *listener.address() else { panic!("an address") };
        assert_ne!(bound.port(), 0);
        let refused = Listener::open(listener.address()).unwrap_err().to_string();
        assert!(refused.contains("in use by") && refused.contains(&std::process::id().to_string()), "{refused}");

        let guest = Stream::connect(listener.address()).unwrap();
        wait_for("connection", || guest.is_connected().unwrap());
        assert_eq!(guest.peer(), Some(Peer::Host(bound)));
        let (mut reader, writer) = guest.split();
        let (mut far_reader, far_writer) = accept(&listener).split();
        let frames: Vec<_> = (0..40).map(|at| numbered(at, 1514)).collect();
        for writer in [&writer, &far_writer] {
            writer.send_many(&slices(&frames), |result| result.unwrap());
        }
        let expected: Vec<_> = frames.iter().map(|frame| received(frame)).collect();
        assert!(read_frames(&mut far_reader, 40) == expected);
        assert!(read_frames(&mut reader, 40) == expected);
        drop(far_reader);
        wait_for("end", || reader.recv(&mut Batch::new()) == Received::Gone);
        // No listener: connecting fails at once or later.
        drop((listener, far_writer));
        if let Ok(late) = Stream::connect(&Address::Tcp(bound)) {
            let mut failed = false;
            wait_for("refusal", || {
                failed = failed || late.is_connected().is_err();
                failed
            });
        }
        // A new listener can use the port at once, whatever connections the old one had.
        Listener::open(&Address::Tcp(bound)).unwrap();
    }
}
