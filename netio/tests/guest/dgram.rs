//! Datagram sockets.

use std::fs;
use std::io::{IoSlice, Read, pipe};
use std::os::fd::AsFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, chown, lchown, symlink};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::thread;
use std::time::Instant;

use netio::Received;
use netio::guest::{Dgram, DgramQueue, DgramReceiver, Refusal};
use packet::batch::MAX_FRAME_LEN;
use packet::{Batch, VNET_LEN, VnetHeader};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::process::{Uid, geteuid};
use rustix::thread::set_thread_res_uid;

use crate::{Directory, LONG, numbered, received, slices, take, wait_for};

const SLOTS: usize = 4;

fn read_all(queue: &DgramQueue) -> Vec<Vec<u8>> {
    let (mut receiver, mut batch) = (DgramReceiver::new(), Batch::strided(SLOTS));
    let mut frames = Vec::new();
    loop {
        let end = queue.recv(&mut receiver, &mut batch, usize::MAX);
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

/// Sends a frame, at first to nobody, until there is a guest.
fn send_once_found(queue: &DgramQueue, frame: &[u8]) {
    wait_for("guest", || match queue.send(&[IoSlice::new(frame)]) {
        Ok(()) => true,
        Err(errno) => {
            assert_eq!(errno, Errno::NXIO);
            false
        }
    });
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
    send_once_found(queue, &frame);
    assert_eq!(guest.recv(&mut [0; 2000]).unwrap(), 60);
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
    send_once_found(queue, &frame);
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

/// Whoever sends from many names is not looked up for each datagram.
#[test]
fn names_are_looked_up_at_a_limited_rate() {
    let directory = Directory::new();
    let ours = directory.path("ours");
    let dgram = Dgram::open(&ours, None).unwrap();
    let queue = dgram.queue();
    let guests = ["one", "two"].map(|name| monitor(&directory, name));
    let mut taken = 0;
    let started = Instant::now();
    for round in 0..1000 {
        guests[round % 2].send_to(&[0; 60], &ours).unwrap();
        assert_eq!(read_all(queue).len(), 1);
        queue.send(&[IoSlice::new(&numbered(1, 60))]).unwrap();
        guests[round % 2].set_nonblocking(true).unwrap();
        taken += usize::from(guests[round % 2].recv(&mut [0; 100]).is_ok());
        while guests[1 - round % 2].set_nonblocking(true).is_ok() && guests[1 - round % 2].recv(&mut [0; 100]).is_ok() {}
    }
    // Every other datagram comes from the guest that was found last.
    let looks = started.elapsed().as_millis() as usize / 100 + 11;
    assert!(taken <= 500 + looks, "{taken} of 1000 senders were found");
}

/// A guest behind a symbolic link is found again when it starts anew, and is not looked up for each frame meanwhile.
#[test]
fn a_guest_behind_a_link_is_looked_up_at_a_limited_rate() {
    let directory = Directory::new();
    let link = directory.path("link");
    symlink(directory.path("guest"), &link).unwrap();
    let dgram = Dgram::open(&directory.path("ours"), Some(&link)).unwrap();
    let (queue, frame) = (dgram.queue(), numbered(1, 60));
    let guest = monitor(&directory, "guest");
    queue.send(&[IoSlice::new(&frame)]).unwrap();
    drop(guest);
    for _ in 0..100 {
        assert_eq!(queue.send(&[IoSlice::new(&frame)]), Err(Errno::NXIO));
    }
    fs::remove_file(directory.path("guest")).unwrap();
    let guest = monitor(&directory, "guest");
    send_once_found(queue, &frame);
    assert_eq!(guest.recv(&mut [0; 100]).unwrap(), 60);
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

/// A user whom no file of a test belongs to otherwise.
const STRANGER: u32 = 64_123;

/// Runs this as another user, on a thread of its own.
fn as_stranger<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    let user = Uid::from_raw(STRANGER);
    let work = || {
        set_thread_res_uid(user, user, user).unwrap();
        work()
    };
    thread::scope(|scope| scope.spawn(work).join().unwrap())
}

/// The switch's socket, which everybody may write to.
fn open_to_all(directory: &Directory, remote: Option<&Path>) -> Dgram {
    let ours = directory.path("ours");
    fs::set_permissions(directory.path(""), fs::Permissions::from_mode(0o777)).unwrap();
    let dgram = Dgram::open(&ours, remote).unwrap();
    fs::set_permissions(&ours, fs::Permissions::from_mode(0o666)).unwrap();
    dgram
}

fn hears_nothing(socket: &UnixDatagram) {
    socket.set_nonblocking(true).unwrap();
    assert!(socket.recv(&mut [0; 2000]).is_err(), "a frame was sent to another user's socket");
}

/// The name of the guest's socket leads to another user's here, as it does for a guest in a mount namespace of its own.
#[test]
fn a_name_that_leads_to_another_users_socket_is_not_taken() {
    if !geteuid().is_root() {
        return;
    }
    let directory = Directory::new();
    let dgram = open_to_all(&directory, None);
    let (queue, frame) = (dgram.queue(), numbered(1, 60));
    let (ours, name, own) = (directory.path("ours"), directory.path("notify"), directory.path("own"));
    let [guest, honest] = as_stranger(|| [&name, &own].map(|path| UnixDatagram::bind(path).unwrap()));
    as_stranger(|| honest.send_to(&[0; 60], &ours).unwrap());
    assert_eq!(read_all(queue).len(), 1);
    assert_eq!(queue.refusal(), None);
    fs::remove_file(&name).unwrap();
    let victim = UnixDatagram::bind(&name).unwrap();
    as_stranger(|| guest.send_to(&[0; 60], &ours).unwrap());
    assert_eq!(read_all(queue).len(), 1, "its frame is received");
    assert!(matches!(queue.refusal(), Some(Refusal::Owner { owner: 0, user: STRANGER, .. })), "{:?}", queue.refusal());
    // Whoever came before stays the guest.
    queue.send(&[IoSlice::new(&frame)]).unwrap();
    assert_eq!(honest.recv(&mut [0; 100]).unwrap(), 60);
    hears_nothing(&victim);
    // A link to it, a file that is no socket, and an abstract name.
    as_stranger(|| {
        let link = directory.path("link");
        let guest = UnixDatagram::bind(&link).unwrap();
        fs::remove_file(&link).unwrap();
        symlink(&name, &link).unwrap();
        guest.send_to(&[0; 60], &ours).unwrap();
        assert_eq!(read_all(queue).len(), 1);
        assert!(matches!(queue.refusal(), Some(Refusal::NotSocket { .. })), "{:?}", queue.refusal());
        let name = SocketAddr::from_abstract_name(format!("vswitchd-{}", std::process::id())).unwrap();
        let guest = UnixDatagram::bind_addr(&name).unwrap();
        guest.send_to(&[0; 60], &ours).unwrap();
        assert_eq!(read_all(queue).len(), 1);
        assert_eq!(queue.refusal(), Some(Refusal::NotPath));
        queue.send(&[IoSlice::new(&frame)]).unwrap();
        hears_nothing(&guest);
    });
    assert_eq!(honest.recv(&mut [0; 100]).unwrap(), 60);
    hears_nothing(&victim);
}

/// What a guest may put on the way to the configured socket leads to no socket but its own.
#[test]
fn a_configured_path_is_not_led_astray() {
    if !geteuid().is_root() {
        return;
    }
    let (directory, outside) = (Directory::new(), Directory::new());
    let home = directory.path("home");
    fs::create_dir(&home).unwrap();
    chown(&home, Some(STRANGER), None).unwrap();
    let remote = home.join("guest");
    let dgram = open_to_all(&directory, Some(&remote));
    let (queue, frame) = (dgram.queue(), numbered(1, 60));
    let victim = monitor(&outside, "notify");
    let leads_to = |path: &Path| {
        let _ = fs::remove_file(&remote);
        symlink(path, &remote).unwrap();
        lchown(&remote, Some(STRANGER), None).unwrap();
    };
    leads_to(&outside.path("notify"));
    assert_eq!(queue.send(&[IoSlice::new(&frame)]), Err(Errno::NXIO));
    assert!(matches!(queue.refusal(), Some(Refusal::Owner { owner: 0, user: STRANGER, .. })), "{:?}", queue.refusal());
    // A socket of root's in a directory of the guest's.
    fs::remove_file(&remote).unwrap();
    let in_home = UnixDatagram::bind(&remote).unwrap();
    assert_eq!(queue.send(&[IoSlice::new(&frame)]), Err(Errno::NXIO));
    hears_nothing(&victim);
    hears_nothing(&in_home);
    // Its own socket behind a link of its own; and root's links are the operator's.
    let own = as_stranger(|| UnixDatagram::bind(home.join("own")).unwrap());
    leads_to(Path::new("../home/own"));
    send_once_found(queue, &frame);
    assert_eq!((own.recv(&mut [0; 100]).unwrap(), queue.refusal()), (60, None));
    let link = outside.path("link");
    symlink(home.join("own"), &link).unwrap();
    drop(dgram);
    let dgram = open_to_all(&directory, Some(&link));
    dgram.queue().send(&[IoSlice::new(&frame)]).unwrap();
    assert_eq!(own.recv(&mut [0; 100]).unwrap(), 60);
}

#[test]
fn a_guest_that_starts_anew_gets_the_next_frame() {
    let directory = Directory::new();
    let dgram = Dgram::open(&directory.path("ours"), None).unwrap();
    let (queue, frames) = (dgram.queue(), [numbered(1, 60), numbered(2, 61)]);
    for round in 0..3 {
        let guest = monitor(&directory, "guest");
        if round == 0 {
            guest.send_to(&[0; 60], directory.path("ours")).unwrap();
            assert_eq!(read_all(queue).len(), 1);
        }
        let mut results = Vec::new();
        queue.send_many(&slices(&frames), |result| results.push(result));
        assert_eq!(results, [Ok(()); 2]);
        let mut room = [0; 100];
        assert_eq!([(); 2].map(|()| guest.recv(&mut room).unwrap()), [60, 61]);
        drop(guest);
        let mut results = Vec::new();
        queue.send_many(&slices(&frames), |result| results.push(result));
        assert_eq!(results, [Err(Errno::NXIO); 2], "nobody is there");
        fs::remove_file(directory.path("guest")).unwrap();
    }
}

/// A descriptor that a guest sends along does not stay open here.
#[test]
fn descriptors_are_not_taken() {
    let directory = Directory::new();
    let dgram = Dgram::open(&directory.path("ours"), None).unwrap();
    let guest = monitor(&directory, "guest");
    guest.connect(directory.path("ours")).unwrap();
    let (mut reader, writer) = pipe().unwrap();
    let descriptors = [writer.as_fd()];
    let mut space = [std::mem::MaybeUninit::uninit(); 64];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&descriptors)));
    sendmsg(&guest, &[IoSlice::new(&[0; 60])], &mut control, SendFlags::empty()).unwrap();
    drop(writer);
    assert_eq!(read_all(dgram.queue()).len(), 1);
    assert_eq!(reader.read(&mut [0]).unwrap(), 0, "nobody has the other end");
    dgram.queue().send(&[IoSlice::new(&numbered(1, 60))]).unwrap();
}
