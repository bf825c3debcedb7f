//! The control socket's file: made, found in use, left behind by a daemon that was killed, and removed at the end.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use config::{Control, ControlPath, usual_path};
use netio::guest::{Address, GuestError, Listener};
use rustix::fs::{FlockOperation, flock};

use super::rights::Guard;

/// Pause between two attempts to lock the directory, and the number of attempts.
const PAUSE: Duration = Duration::from_millis(10);
const ATTEMPTS: u32 = 100;

/// The control socket, listening; its file is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct ControlListener {
    listener: Listener,
    guard: Guard,
    /// Who may connect besides the owner, in words.
    rights: String,
}

impl ControlListener {
    /// Opens the socket where the configuration wants it. Where nobody named a path, the usual one is a convenience: what keeps
    /// us from it is a warning; but it `is_needed` by a switch in the background, which nobody could reach otherwise.
    pub(crate) fn open(wanted: &Control, is_needed: bool) -> anyhow::Result<Option<ControlListener>> {
        match &wanted.path {
            ControlPath::None => Ok(None),
            ControlPath::At(path) => {
                ControlListener::at(path, wanted).map(Some).with_context(|| format!("--control {}", path.display()))
            }
            ControlPath::Usual => {
                let opened = match usual_path() {
                    Some(path) => ControlListener::at(&path, wanted)
                        .map_err(|error| anyhow::anyhow!("no control socket at {}: {error:#}", path.display())),
                    None => Err(anyhow::anyhow!("no control socket: XDG_RUNTIME_DIR is not set")),
                };
                match opened {
                    Ok(listener) => Ok(Some(listener)),
                    Err(error) if is_needed => {
                        Err(error.context("a switch in the background must be reachable: name a path with --control, or none"))
                    }
                    Err(error) => {
                        tracing::warn!("{error:#}; this switch cannot be controlled: name another path with --control");
                        Ok(None)
                    }
                }
            }
        }
    }

    fn at(path: &Path, wanted: &Control) -> anyhow::Result<ControlListener> {
        let guard = Guard::new(wanted);
        let _lock = lock_directory(path);
        let opened = Listener::open_to(&Address::Unix(path.to_owned()), guard.access());
        opened.map(|listener| ControlListener { listener, guard, rights: wanted.rights() }).map_err(|error| match error {
            GuestError::InUse { .. } => anyhow::anyhow!("another process listens there; is a vswitchd running?"),
            error => error.into(),
        })
    }

    /// Where the socket is, and who may connect besides the owner.
    pub(super) fn summary(&self) -> String {
        format!("{}{}", self.listener.address(), self.rights)
    }

    pub(super) fn guard(&self) -> &Guard {
        &self.guard
    }

    /// The socket, to accept connections by.
    pub(super) fn socket(&self) -> io::Result<UnixListener> {
        Ok(self.listener.as_fd().try_clone_to_owned()?.into())
    }
}

/// Keeps two daemons that start at once from removing each other's sockets. Whoever else holds the directory is
/// not waited for long.
fn lock_directory(path: &Path) -> Option<File> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = File::open(parent).ok()?;
    for _ in 0..ATTEMPTS {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(directory),
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(PAUSE),
            Err(_) => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::path::PathBuf;

    use super::*;
    use config::UserGroup;

    /// A directory that goes with the test.
    struct TestDirectory(PathBuf);

    impl TestDirectory {
        fn new(name: &str) -> TestDirectory {
            let path = std::env::temp_dir().join(format!("vswitchd-{}-{name}", std::process::id()));
            fs::create_dir(&path).unwrap();
            TestDirectory(path)
        }

        fn socket(&self) -> PathBuf {
            self.0.join("s")
        }
    }

    impl Drop for TestDirectory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn config(path: ControlPath, group: Option<u32>, read_only_others: bool) -> Control {
        let group = group.map(|number| UserGroup { name: number.to_string(), number });
        Control { path, group, read_only_others }
    }

    fn open(path: &Path) -> anyhow::Result<Option<ControlListener>> {
        ControlListener::open(&config(ControlPath::At(path.to_owned()), None, false), false)
    }

    #[test]
    fn one_daemon_a_path_and_nothing_is_left() {
        let place = TestDirectory::new("one");
        let opened = open(&place.socket()).unwrap();
        assert_eq!(fs::metadata(place.socket()).unwrap().permissions().mode() & 0o777, 0o660);
        let error = format!("{:#}", open(&place.socket()).unwrap_err());
        assert!(error.contains("is a vswitchd running?"), "{error}");
        drop(opened);
        assert!(!place.socket().exists());
    }

    #[test]
    fn what_was_left_behind_is_replaced_and_other_files_are_not() {
        let place = TestDirectory::new("left");
        drop(UnixListener::bind(place.socket()).unwrap());
        let opened = open(&place.socket()).unwrap();
        // Another of that name is not ours to remove.
        fs::remove_file(place.socket()).unwrap();
        fs::write(place.socket(), "precious").unwrap();
        drop(opened);
        assert!(format!("{:#}", open(&place.socket()).unwrap_err()).contains("not a socket"));
        assert_eq!(fs::read(place.socket()).unwrap(), b"precious");
    }

    /// A group that we are in can be given the file by whoever runs the test.
    #[test]
    fn the_files_mode_and_group_follow() {
        let place = TestDirectory::new("group");
        let group = rustix::process::getegid().as_raw();
        let opened = ControlListener::open(&config(ControlPath::At(place.socket()), Some(group), true), false).unwrap().unwrap();
        let file = fs::metadata(place.socket()).unwrap();
        assert_eq!((file.permissions().mode() & 0o777, file.gid()), (0o666, group));
        assert_eq!(opened.summary(), format!("{}, group {group}, others may read", place.socket().display()));
    }

    #[test]
    fn nowhere() {
        assert!(ControlListener::open(&config(ControlPath::None, None, false), false).unwrap().is_none());
        let error = format!("{:#}", open(Path::new("/nonexistent/s")).unwrap_err());
        assert!(error.starts_with("--control /nonexistent/s: "), "{error}");
    }
}
