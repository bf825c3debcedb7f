//! The file systems on which the path of a guest's socket may lead, so that no worker waits for one of them.
//!
//! Opening a path blocks until its file system answers, and some file systems never do: an NFS server that is down, an automounter
//! (autofs), a process of any user (FUSE). A guest chooses the name of its own socket, and a worker that is to send frames there
//! follows it. So a path is followed one step at a time, and only on file systems whose answers come from this kernel: those in
//! [`LOCAL`], that of `/`, and that of the switch's own socket, without which the daemon would not run.
//!
//! *Before* a step is opened, its path is compared with the mount points: opening the root of a file system may already ask its
//! server. *After* it, the descriptor's mount is looked up by its number (`fdinfo` in proc_pid_fdinfo(5)), because the owner of
//! a directory can rename what is above a mount point.
//!
//! *The table* of mounts is that of `/proc/self/mountinfo`. It is read again when poll(2) says that a file system has been mounted
//! or unmounted since.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read, Seek};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// File systems on a disk or in memory of this machine.
const LOCAL: [&str; 22] = [
    "aufs", "bcachefs", "btrfs", "devtmpfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "iso9660", "jffs2", "jfs", "nilfs2",
    "overlay", "ramfs", "reiserfs", "rootfs", "squashfs", "tmpfs", "ubifs", "xfs", "zfs",
];

/// A mounted file system.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Mount {
    id: u64,
    point: PathBuf,
    is_local: bool,
}

/// The mounts of this process, as they were a moment ago.
#[derive(Clone, Debug)]
pub(super) struct Mounts(Arc<[Mount]>);

/// The table as last read, and the file that it is read from.
struct Table {
    file: File,
    mounts: Mounts,
}

impl Mounts {
    /// The mounts of this process. Empty without `/proc`.
    pub(super) fn now() -> Mounts {
        static TABLE: Mutex<Option<Table>> = Mutex::new(None);
        let mut table = TABLE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Table { file, mounts }) = &mut *table {
            if has_changed(file) {
                *mounts = Mounts::read(file);
            }
            return mounts.clone();
        }
        let Ok(mut file) = File::open("/proc/self/mountinfo") else { return Mounts(Arc::default()) };
        let mounts = Mounts::read(&mut file);
        table.insert(Table { file, mounts }).mounts.clone()
    }

    fn read(file: &mut File) -> Mounts {
        let mut text = Vec::new();
        let read = file.rewind().and_then(|()| file.read_to_end(&mut text));
        Mounts(text.split(|byte| *byte == b'\n').filter(|_| read.is_ok()).filter_map(Mount::parse).collect())
    }

    /// Whether the root of a file system that may make a worker wait is at this path.
    pub(super) fn waits_at(&self, path: &Path, trusted: &[Option<u64>]) -> bool {
        self.0.iter().any(|mount| !mount.is_local && mount.point == path && !trusted.contains(&Some(mount.id)))
    }

    /// Whether an open file is on a file system that makes nobody wait.
    pub(super) fn is_local(&self, file: impl AsFd, trusted: &[Option<u64>]) -> bool {
        let id = mount_of(file);
        id.is_some() && (trusted.contains(&id) || self.0.iter().any(|mount| mount.is_local && Some(mount.id) == id))
    }
}

/// Whether a file system was mounted or unmounted since the last call (proc_pid_mounts(5)).
fn has_changed(file: &File) -> bool {
    let mut polled = [PollFd::new(file, PollFlags::PRI)];
    loop {
        match poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Err(Errno::INTR) => {}
            Err(_) => return true,
            Ok(_) => return polled[0].revents().intersects(PollFlags::PRI | PollFlags::ERR),
        }
    }
}

/// The number of the mount that an open file is on.
pub(super) fn mount_of(file: impl AsFd) -> Option<u64> {
    let said = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_fd().as_raw_fd())).ok()?;
    said.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

impl Mount {
    /// Reads a line: `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`.
    fn parse(line: &[u8]) -> Option<Mount> {
        let mut words = line.split(|byte| *byte == b' ');
        let id = str::from_utf8(words.next()?).ok()?.parse().ok()?;
        let point = PathBuf::from(OsString::from_vec(unescaped(words.nth(3)?)));
        let kind = words.skip_while(|word| *word != b"-").nth(1)?;
        Some(Mount { id, point, is_local: LOCAL.iter().any(|local| local.as_bytes() == kind) })
    }
}

/// Replaces `\040` and the like by the byte of this octal number.
fn unescaped(escaped: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    while let Some((first, behind)) = rest.split_first() {
        let octal = behind.get(..3).filter(|_| *first == b'\\').and_then(|digits| str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &behind[3..];
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let mount = |line: &str| Mount::parse(line.as_bytes()).map(|mount| (mount.id, mount.point, mount.is_local));
        let line = "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue";
        assert_eq!(mount(line), Some((36, PathBuf::from("/mnt2"), true)));
        let line = r"7 1 0:42 / /home/a\040b\134040 rw - fuse.sshfs a@b:/ rw,user_id=0";
        assert_eq!(mount(line), Some((7, PathBuf::from(r"/home/a b\040"), false)));
        for broken in ["", "36", "x 35 98:0 / / rw - ext4 a b", "36 35 98:0 / / rw ext4", r"36 35 98:0 / /\9 rw -"] {
            assert_eq!(mount(broken), None, "{broken}");
        }
    }

    #[test]
    fn this_process_has_its_own_mounts() {
        let mounts = Mounts::now();
        let (root, proc) = (File::open("/").unwrap(), File::open("/proc").unwrap());
        assert!(mounts.is_local(&root, &[mount_of(&root)]) && !mounts.is_local(&proc, &[mount_of(&root)]));
        assert!(mounts.waits_at(Path::new("/proc"), &[]) && !mounts.waits_at(Path::new("/proc"), &[mount_of(&proc)]));
    }
}
