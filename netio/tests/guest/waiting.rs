//! Paths of guests on a file system that never answers.

use std::fs::{self, File};
use std::io::IoSlice;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::thread;

use netio::guest::{Dgram, DgramQueue, DgramReceiver, Refusal};
use packet::Batch;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::{Directory, LONG, numbered};

/// A file system in a process (FUSE) that reads no request.
struct Silent {
    point: PathBuf,
    _requests: File,
}

impl Silent {
    /// Mounts it. `None` without the right to do so.
    fn mount(point: &Path) -> Option<Silent> {
        let requests = File::options().read(true).write(true).open("/dev/fuse").ok()?;
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", requests.as_raw_fd());
        let options = std::ffi::CString::new(options).unwrap();
        mount("silent", point, "fuse", MountFlags::empty(), options.as_c_str()).ok()?;
        Some(Silent { point: point.to_owned(), _requests: requests })
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // Whoever waits goes on when the other end of the requests is closed.
        let _ = unmount(&self.point, UnmountFlags::DETACH);
    }
}

/// Runs what must not wait. False if it does.
fn is_quick(work: impl FnOnce() + Send + 'static) -> bool {
    let (done, is_done) = channel();
    thread::spawn(move || {
        work();
        let _ = done.send(());
    });
    is_done.recv_timeout(LONG / 4).is_ok()
}

fn receive(queue: &DgramQueue) {
    queue.recv(&mut DgramReceiver::new(), &mut Batch::strided(4), usize::MAX);
}

fn waits(queue: &DgramQueue) -> bool {
    matches!(queue.refusal(), Some(Refusal::Waits { .. }))
}

#[test]
fn a_senders_name_on_a_silent_file_system_is_refused() {
    let directory = Directory::new();
    let (ours, above) = (directory.path("ours"), directory.path("above"));
    let point = above.join("silent");
    fs::create_dir_all(&point).unwrap();
    let dgram = Dgram::open(&ours, None).unwrap();
    // The name is good where the guest is: here, before something is mounted there.
    let guest = UnixDatagram::bind(point.join("guest")).unwrap();
    let Some(mut silent) = Silent::mount(&point) else { return };
    for round in 0..2 {
        guest.send_to(&[0; 60], &ours).unwrap();
        let queue = dgram.queue().clone();
        assert!(is_quick(move || receive(&queue)), "the worker waits in round {round}");
        assert!(waits(dgram.queue()), "{:?}", dgram.queue().refusal());
        // The same with another directory above the mount point, of which nobody is told.
        let moved = directory.path("moved");
        if round == 0 {
            fs::rename(&above, &moved).unwrap();
            symlink(&moved, &above).unwrap();
            silent.point = moved.join("silent");
        }
    }
}

#[test]
fn a_configured_path_over_a_silent_file_system_is_refused() {
    let directory = Directory::new();
    let point = directory.path("silent");
    fs::create_dir(&point).unwrap();
    let Some(_silent) = Silent::mount(&point) else { return };
    let link = directory.path("link");
    symlink("silent/../silent/guest", &link).unwrap();
    for path in [point.join("guest"), point.join("../guest"), point.clone(), link] {
        let dgram = Dgram::open(&directory.path("ours"), Some(&path)).unwrap();
        let queue = dgram.queue().clone();
        assert!(
            is_quick(move || assert!(queue.send(&[IoSlice::new(&numbered(1, 60))]).is_err())),
            "{} makes the worker wait",
            path.display()
        );
        assert!(waits(dgram.queue()), "{:?}", dgram.queue().refusal());
    }
}
