//! Socket files: whose they are, and who may use them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use netio::guest::{Dgram, GuestError, Listener, Stream};

use crate::{Directory, accept, unix};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// Why neither kind can have it.
fn refused(path: &Path) -> [GuestError; 2] {
    [Listener::open(&unix(path)).expect_err("no listener"), Dgram::open(path, None).expect_err("no socket")]
}

#[test]
fn owner_and_group_may_use_it_and_it_goes_with_its_socket() {
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
fn a_file_that_nobody_listens_to_is_replaced() {
    let directory = Directory::new();
    let path = directory.path("s");
    // A process that was killed leaves its file.
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
fn a_file_in_use_is_left_alone_and_its_owner_is_named_and_hears_nothing() {
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
fn what_is_no_socket_is_left_alone() {
    let directory = Directory::new();
    let path = directory.path("s");
    fs::write(&path, "precious").unwrap();
    for refused in refused(&path) {
        assert!(matches!(refused, GuestError::NotSocket { .. }), "{refused}");
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    // Nor what a link leads to.
    let link = directory.path("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(refused(&link)[0], GuestError::NotSocket { .. }));
}

#[test]
fn paths_that_cannot_be() {
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
    // The longest is one that fits.
    let room = 107 - directory.path("").as_os_str().len();
    let longest = directory.path(&"s".repeat(room));
    let listener = Listener::open(&unix(&longest)).unwrap();
    Stream::connect(&unix(&longest)).unwrap();
    drop(listener);
    assert!(Dgram::open(&directory.path("d"), Some(&length[0])).is_err());
    assert!(!directory.path("d").exists());
}

#[test]
fn the_file_of_who_came_after_is_not_removed() {
    let directory = Directory::new();
    let path = directory.path("s");
    let ours = Listener::open(&unix(&path)).unwrap();
    fs::remove_file(&path).unwrap();
    let theirs = UnixListener::bind(&path).unwrap();
    drop(ours);
    UnixStream::connect(&path).unwrap();
    drop(theirs);
}
