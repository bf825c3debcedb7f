//! Named namespaces under `/run/netns`, as `ip netns add` makes them, in a mount namespace of the test's own.

use std::fs::{self, File};
use std::io;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use netio::netns::{self, NAMED};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount};

use crate::raw::leave_mounts;

/// Runs `work` on a thread with an empty `/run` of its own, which daemons started there share.
pub(crate) fn in_own_mounts(work: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            prepare().expect("mounts of its own");
            work();
        });
        if let Err(panic) = worker.join() {
            resume_unwind(panic);
        }
    });
}

fn prepare() -> io::Result<()> {
    leave_mounts()?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    hide("/run")?;
    fs::create_dir(NAMED)
}

/// Mounts an empty directory over this one.
pub(crate) fn hide(directory: &str) -> io::Result<()> {
    Ok(mount("tmpfs", directory, "tmpfs", MountFlags::empty(), None)?)
}

/// Names a namespace, which then outlives its file descriptor.
pub(crate) fn name(name: &str, namespace: &File) {
    let place = place(name);
    File::create(&place).expect("a place for the name");
    mount_bind(netns::path_of(namespace), &place).expect("a name for the namespace");
}

/// Removes the name, and with it the namespace if nothing else refers to it.
pub(crate) fn unname(name: &str) {
    unmount(place(name), UnmountFlags::DETACH).expect("it was named");
    fs::remove_file(place(name)).expect("it was named");
}

fn place(name: &str) -> PathBuf {
    Path::new(NAMED).join(name)
}
