//! Socket files: ownership and permissions.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use netio::guest::{Dgram, GuestError, Listener, Stream};

use crate::{Directory, accept, unix};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// The errors of both kinds of socket for a path.
fn refused(path: &Path) -> [GuestError; 2] {
    [Listener::open(&unix(path)).expect_err("no listener"), Dgram::open(path, None).expect_err("no socket")]
}

#[test]
fn a_socket_file_has_mode_0660_and_is_removed_on_drop() {
    let directory = Directory::new();
    let path = directory.path("s");
    let listener = Listener::open(&unix(&path)).unwrap();
    assert_eq!(mode(&path), 0o660);
    drop(listener);
    assert!(!path.exists());
    let dgram = Dgram::open(&path, None).unwrap();
    assert_eq!(mode(&path), 0o660);
    drop(dgram);
    assert!(!path.exists());
}

#[test]
fn a_stale_file_is_replaced() {
    let directory = Directory::new();
    let path = directory.path("s");
    // A killed process leaves its file behind.
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let listener = Listener::open(&unix(&path)).unwrap();
    let _guest = Stream::connect(&unix(&path)).unwrap();
    accept(&listener);
    drop(listener);
    drop(UnixDatagram::bind(&path).unwrap());
    Dgram::open(&path, None).unwrap();
}

#[test]
fn a_file_in_use_is_refused_without_disturbing_its_owner() {
    let directory = Directory::new();
    let path = directory.path("s");
    let listener = UnixListener::bind(&path).unwrap();
    listener.set_nonblocking(true).unwrap();
    for refused in refused(&path) {
        assert!(matches!(&refused, GuestError::InUse { process: Some((pid, _)), .. } if *pid == std::process::id()), "{refused}");
        let said = refused.to_string();
        assert!(said.contains(path.to_str().unwrap()) && said.contains("in use by"), "{said}");
    }
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    UnixStream::connect(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let _dgram = UnixDatagram::bind(&path).unwrap();
    for refused in refused(&path) {
        assert!(matches!(refused, GuestError::InUse { .. }));
    }
    fs::remove_file(&path).unwrap();
    // A second switch.
    let _ours = Listener::open(&unix(&path)).unwrap();
    for refused in refused(&path) {
        assert!(matches!(refused, GuestError::InUse { .. }));
    }
}

#[test]
fn other_files_are_not_replaced() {
    let directory = Directory::new();
    let path = directory.path("s");
    fs::write(&path, "precious").unwrap();
    for refused in refused(&path) {
        assert!(matches!(refused, GuestError::NotSocket { .. }), "{refused}");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    // Nor the target of a link.
    let link = directory.path("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(refused(&link)[0], GuestError::NotSocket { .. }));
}

#[test]
fn paths_of_invalid_length_are_refused() {
    let directory = Directory::new();
    for refused in refused(&directory.path("missing/s")) {
        assert!(matches!(refused, GuestError::NoDirectory { .. }));
    }
    let too_long = directory.path(&"s".repeat(108));
    let length = [too_long, PathBuf::new()];
    for refused in length.iter().flat_map(|path| refused(path)) {
        assert!(matches!(refused, GuestError::PathLength { .. }), "{refused}");
    }
    assert!(Stream::connect(&unix(&length[0])).is_err());
    // The longest permitted path.
    let room = 107 - directory.path("").as_os_str().len();
    let longest = directory.path(&"s".repeat(room));
    let listener = Listener::open(&unix(&longest)).unwrap();
    Stream::connect(&unix(&longest)).unwrap();
    drop(listener);
    assert!(Dgram::open(&directory.path("d"), Some(&length[0])).is_err());
    assert!(!directory.path("d").exists());
}

#[test]
fn a_file_of_a_later_socket_is_not_removed() {
    let directory = Directory::new();
    let path = directory.path("s");
    let ours = Listener::open(&unix(&path)).unwrap();
    fs::remove_file(&path).unwrap();
    let theirs = UnixListener::bind(&path).unwrap();
    drop(ours);
    UnixStream::connect(&path).unwrap();
    drop(theirs);
}
