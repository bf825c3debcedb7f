//! The directory and its lock.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use config::StatePath;
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use rustix::process::geteuid;

/// Name of the lock, which holds the number of the process that has it.
const LOCK: &str = "lock";

/// Name of the file with the number of the directory.
const NUMBER: &str = "id";

/// Longest path of the directory, in bytes: a socket in it has a path of at most 107 (unix(7)).
const LONGEST_PATH: usize = 90;

/// A state directory that is this process's.
#[derive(Debug)]
pub(crate) struct StateDirectory {
    path: PathBuf,
    /// Held while this is open.
    _lock: File,
}

impl StateDirectory {
    /// Makes the directory, if it is missing, and locks it. `None` if there is none. The default one goes with the default control
    /// socket: it is left alone if that is another daemon's, and if it cannot be used, which is logged.
    ///
    /// # Errors
    ///
    /// Another daemon has it, or the directory that the configuration names cannot be used.
    pub(crate) fn open(path: &StatePath, has_socket: bool) -> anyhow::Result<Option<StateDirectory>> {
        match path {
            StatePath::None => Ok(None),
            StatePath::Usual(_) if !has_socket => Ok(None),
            StatePath::At(path) => StateDirectory::at(path).map(Some),
            StatePath::Usual(path) => match StateDirectory::at(path) {
                Err(error) if error.downcast_ref::<Taken>().is_none() => {
                    tracing::warn!("{error:#}; without a state directory, devices and connections end with this process");
                    Ok(None)
                }
                opened => opened.map(Some),
            },
        }
    }

    fn at(path: &Path) -> anyhow::Result<StateDirectory> {
        let name = path.display();
        anyhow::ensure!(
            path.as_os_str().len() <= LONGEST_PATH,
            "state directory {name}: the path is longer than {LONGEST_PATH} bytes: choose a shorter one with --state"
        );
        DirBuilder::new().recursive(true).mode(0o700).create(path).with_context(|| format!("state directory {name}"))?;
        check_owner(path).with_context(|| format!("state directory {name}"))?;
        let lock = path.join(LOCK);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.custom_flags(OFlags::NOFOLLOW.bits() as i32).open(&lock);
        let mut file = file.with_context(|| format!("state directory {name}: {LOCK}"))?;
        match lock_soon(&file) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(Taken { path: path.into(), holder: holder(&mut file) }.into()),
            Err(error) => return Err(error).with_context(|| format!("state directory {name}: locking it")),
        }
        // On a full disk only the number is missing.
        let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
        // Whoever keeps the directory may have given others access to it.
        let path = path.canonicalize().with_context(|| format!("state directory {name}"))?;
        Ok(StateDirectory { path, _lock: file })
    }

    /// A number that all processes with this directory have in common, and hardly any with another one: two containers may have
    /// directories of the same path, so it is drawn and written there. If it cannot be written, it is made of the path.
    pub(crate) fn number(&self) -> u32 {
        let path = self.path.join(NUMBER);
        if let Some(number) = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()) {
            return number;
        }
        let drawn = crate::seed::random_seed().map_or(0, |[number, _]| number as u32);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).custom_flags(OFlags::NOFOLLOW.bits() as i32);
        match options.open(&path).and_then(|mut file| writeln!(file, "{drawn}")) {
            Ok(()) => drawn,
            Err(_) => {
                let hash = super::fnv(self.path.as_os_str().as_bytes());
                (hash ^ hash >> 32) as u32
            }
        }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Takes a lock that another daemon does not have: somebody who [asks](is_locked) has it for a moment.
fn lock_soon(file: &File) -> rustix::io::Result<()> {
    let take = || flock(file, FlockOperation::NonBlockingLockExclusive);
    for _ in 0..2 {
        if take() != Err(Errno::WOULDBLOCK) {
            return take();
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    take()
}

/// Whether a daemon has this directory.
pub(super) fn is_locked(path: &Path) -> bool {
    let lock = File::open(path.join(LOCK));
    lock.is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK))
}

/// Checks that nobody but this user, or root, can put anything into the directory: it is followed with this user's rights.
fn check_owner(path: &Path) -> anyhow::Result<()> {
    let directory = std::fs::metadata(path)?;
    let (owner, own) = (directory.uid(), geteuid().as_raw());
    anyhow::ensure!(
        owner == own || owner == 0,
        "it belongs to user {owner}, and this daemon runs as user {own}: start it as that user, or choose another directory with --state"
    );
    anyhow::ensure!(directory.mode() & 0o022 == 0, "others may write there: take that right away with 'chmod go-w'");
    Ok(())
}

/// Another daemon has the directory.
#[derive(Debug, thiserror::Error)]
#[error("the state directory {} is in use by {}; choose another one with --state, or end that daemon", path.display(), holder_text(*holder))]
struct Taken {
    path: PathBuf,
    holder: Option<u32>,
}

fn holder_text(holder: Option<u32>) -> String {
    holder.map_or_else(|| "another daemon".to_owned(), |pid| format!("another daemon, process {pid}"))
}

/// The number in a lock that somebody else has.
fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.rewind().ok()?;
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn one_daemon_a_directory() {
        let path = std::env::temp_dir().join(format!("vswitchd-state-{}", std::process::id()));
        let first = StateDirectory::open(&StatePath::At(path.clone()), true).unwrap().unwrap();
        let open = || StateDirectory::open(&StatePath::Usual(path.clone()), true);
        let refused = open().unwrap_err().to_string();
        assert!(refused.contains(&format!("in use by another daemon, process {}", std::process::id())), "{refused}");
        assert!(is_locked(&path));
        let number = first.number();
        drop(first);
        assert!(!is_locked(&path));
        assert_eq!(open().unwrap().unwrap().number(), number);
        std::fs::remove_dir_all(&path).unwrap();
    }

    /// What others have put there is not followed.
    #[test]
    fn a_directory_of_others() {
        let path = std::env::temp_dir().join(format!("vswitchd-others-{}", std::process::id()));
        let target = path.join("target");
        std::fs::create_dir_all(&path).unwrap();
        std::fs::write(&target, "as it was").unwrap();
        std::os::unix::fs::symlink(&target, path.join(LOCK)).unwrap();
        let open = || StateDirectory::open(&StatePath::At(path.clone()), true);
        assert!(open().is_err());
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "as it was");
        std::fs::remove_file(path.join(LOCK)).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(format!("{:#}", open().unwrap_err()).contains("chmod go-w"));
        if geteuid().is_root() {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
            std::os::unix::fs::chown(&path, Some(4242), None).unwrap();
            assert!(format!("{:#}", open().unwrap_err()).contains("it belongs to user 4242"));
        }
        std::fs::remove_dir_all(&path).unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be() {
        let path = PathBuf::from("/proc/nowhere");
        assert!(StateDirectory::open(&StatePath::At(path.clone()), true).unwrap_err().to_string().contains("/proc/nowhere"));
        assert!(StateDirectory::open(&StatePath::Usual(path), true).unwrap().is_none());
        assert!(StateDirectory::open(&StatePath::None, true).unwrap().is_none());
        let long = PathBuf::from(format!("/tmp/{}", "x".repeat(LONGEST_PATH)));
        assert!(StateDirectory::open(&StatePath::At(long), true).unwrap_err().to_string().contains("shorter"));
    }
}
