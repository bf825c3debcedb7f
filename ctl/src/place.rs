//! Where the control socket is: named by the command line or the environment, or found at one of the usual places.
//!
//! | place | the switch was started by | looked at by |
//! |---|---|---|
//! | `$XDG_RUNTIME_DIR/vswitchd.sock` | this user | users other than root |
//! | `/run/vswitchd.sock` | root | everyone |
//! | `/run/vswitchd/vswitchd.sock` | the service manager | everyone |
//!
//! The first place with a socket counts. Where several have one, the first at which a switch listens counts, because a switch
//! that was killed leaves its socket behind.

use std::fmt;
use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use config::CONTROL_VARIABLE;
use rustix::process::geteuid;

/// The socket of a switch that root started.
const OF_ROOT: &str = "/run/vswitchd.sock";

/// The socket of the daemon as a systemd service.
const OF_SERVICE: &str = "/run/vswitchd/vswitchd.sock";

/// No usual place has a socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NoSocket {
    /// The places that were looked at.
    tried: Vec<PathBuf>,
}

impl NoSocket {
    /// The places that were looked at, in one line.
    pub(crate) fn places(&self) -> String {
        self.tried.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for NoSocket {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "no switch found: there is no socket at {}; is vswitchd running? --control PATH or {CONTROL_VARIABLE} names its socket",
            self.places()
        )
    }
}

impl std::error::Error for NoSocket {}

/// The socket that the command line names, or else the environment, or else the first one found.
pub(crate) fn socket(named: Option<&Path>) -> Result<PathBuf, NoSocket> {
    let by_environment = || std::env::var_os(CONTROL_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from);
    match named.map(Path::to_owned).or_else(by_environment) {
        Some(path) => Ok(path),
        None => first(usual(geteuid().is_root(), std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from)), is_there, listens),
    }
}

/// The usual places in their order.
fn usual(is_root: bool, own_directory: Option<PathBuf>) -> Vec<PathBuf> {
    let own = own_directory.filter(|directory| !is_root && directory.is_absolute()).map(|path| path.join("vswitchd.sock"));
    own.into_iter().chain([OF_ROOT, OF_SERVICE].map(PathBuf::from)).collect()
}

/// The first place with a socket; of several, the first at which a switch listens.
fn first(tried: Vec<PathBuf>, is_there: fn(&Path) -> bool, listens: fn(&Path) -> bool) -> Result<PathBuf, NoSocket> {
    let there: Vec<&PathBuf> = tried.iter().filter(|path| is_there(path)).collect();
    let found = match there.as_slice() {
        [] => return Err(NoSocket { tried }),
        [one] => one,
        [first, ..] => there.iter().find(|path| listens(path)).unwrap_or(first),
    };
    Ok(PathBuf::clone(found))
}

/// Whether a file is there; also where only its directory's owner may know.
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().map_or_else(|error| error.kind() == ErrorKind::PermissionDenied, |_| true)
}

/// Whether a switch listens there that this user may ask.
fn listens(path: &Path) -> bool {
    UnixStream::connect(path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_look_at_their_own_directory_first_and_then_where_root_does() {
        let places = |is_root, own: Option<&str>| {
            let places = usual(is_root, own.map(PathBuf::from));
            places.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
        };
        let of_all = "/run/vswitchd.sock /run/vswitchd/vswitchd.sock";
        assert_eq!(places(false, Some("/run/user/7")), format!("/run/user/7/vswitchd.sock {of_all}"));
        for (is_root, own) in [(true, Some("/run/user/0")), (true, None), (false, None), (false, Some("relative"))] {
            assert_eq!(places(is_root, own), of_all);
        }
    }

    #[test]
    fn the_first_socket_counts_unless_nobody_listens_there() {
        let tried = || ["/a", "/b", "/c"].map(PathBuf::from).to_vec();
        let not_a: fn(&Path) -> bool = |path| path != Path::new("/a");
        let found = |is_there, listens| first(tried(), is_there, listens).map(|path| path.display().to_string());
        assert_eq!(found(|_| true, |_| true).unwrap(), "/a");
        assert_eq!(found(|_| true, not_a).unwrap(), "/b");
        assert_eq!(found(|_| true, |_| false).unwrap(), "/a", "the error names the first");
        assert_eq!(found(not_a, |path| path == Path::new("/c")).unwrap(), "/c");
        assert_eq!(found(|path| path == Path::new("/c"), |_| panic!("the only one is not tried")).unwrap(), "/c");
        let none = found(|_| false, |_| true).unwrap_err().to_string();
        assert!(none.starts_with("no switch found: there is no socket at /a, /b, /c; is vswitchd running?"), "{none}");
    }
}
