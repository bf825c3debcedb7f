//! The state directory: what outlives the process is found again by it.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::control::{Control, ControlPath, usual_path};
use crate::keys::keys;
use crate::problem::Problems;

/// Environment variable of systemd that names the state directories of a unit (`StateDirectory=`), with colons between. Empty: none.
const DIRECTORY_VARIABLE: &str = "STATE_DIRECTORY";

/// The default directory of root's daemon on the default control socket.
const USUAL_DIRECTORY: &str = "/var/lib/vswitchd";

/// Where the state of the switch is kept while no process runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum StatePath {
    /// Nowhere: everything ends with the process.
    None,
    /// The default directory, which goes with the default control socket; none if one of them cannot be used.
    Usual(PathBuf),
    /// A directory that was named; the switch does not start if it cannot be used.
    At(PathBuf),
}

keys! {
    /// What outlives the process.
    struct StateKeys {
        /// A directory, or none. Default: $STATE_DIRECTORY; or else /var/lib/vswitchd for root on the default control socket; or else none.
        "path" => path: String,
    }
}

impl StateKeys {
    pub(crate) fn state(&self, control: &Control, problems: &mut Problems) -> StatePath {
        let Some(path) = &self.path else { return StatePath::usual(control) };
        match path.value.as_str() {
            "none" => StatePath::None,
            "" => {
                problems.add(&path.origin, "the path of the state directory is empty: name one, or none");
                StatePath::None
            }
            path => StatePath::At(path.into()),
        }
    }
}

impl StatePath {
    /// The directory, if there is one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            StatePath::None => None,
            StatePath::Usual(path) | StatePath::At(path) => Some(path),
        }
    }

    /// The default beside this control socket.
    pub(crate) fn usual(control: &Control) -> StatePath {
        let list = std::env::var_os(DIRECTORY_VARIABLE);
        StatePath::usual_in(list.as_ref().map(|list| list.to_string_lossy()).as_deref(), control)
    }

    /// The same, where a unit has these directories.
    fn usual_in(list: Option<&str>, control: &Control) -> StatePath {
        if let Some(list) = list {
            return list.split(':').find(|path| path.starts_with('/')).map_or(StatePath::None, |path| StatePath::At(path.into()));
        }
        let is_usual = match &control.path {
            ControlPath::None => false,
            ControlPath::Usual => true,
            ControlPath::At(path) => usual_path().as_ref() == Some(path),
        };
        let is_root = rustix::process::geteuid().is_root();
        if is_usual && is_root { StatePath::Usual(Path::new(USUAL_DIRECTORY).into()) } else { StatePath::None }
    }
}

/// Writes the directory, or `none`.
impl fmt::Display for StatePath {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StatePath::None => out.write_str("none"),
            StatePath::Usual(path) | StatePath::At(path) => path.display().fmt(out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Desired, Flag};

    fn state(words: &[(&'static str, &str)]) -> Result<StatePath, String> {
        let flags: Vec<Flag> = words.iter().map(|(name, value)| Flag::new(name, *value)).collect();
        Desired::of_flags(&flags).map(|desired| desired.config.state).map_err(|problems| problems.to_string())
    }

    #[test]
    fn the_default_belongs_to_the_default_socket() {
        let usual = |path| StatePath::usual_in(None, &Control { path, ..Control::default() });
        assert_eq!(usual(ControlPath::At("/run/other.sock".into())), StatePath::None);
        assert_eq!(usual(ControlPath::None), StatePath::None);
        let is_root = rustix::process::geteuid().is_root();
        let of_root = if is_root { StatePath::Usual(USUAL_DIRECTORY.into()) } else { StatePath::None };
        assert_eq!(usual(ControlPath::Usual), of_root);
    }

    #[test]
    fn a_unit_names_its_directory() {
        let of_unit = |list| StatePath::usual_in(Some(list), &Control::default());
        assert_eq!(of_unit("/var/lib/blue:/var/lib/red"), StatePath::At("/var/lib/blue".into()));
        assert_eq!(of_unit(""), StatePath::None);
    }

    #[test]
    fn a_directory_or_none() {
        assert_eq!(state(&[("--tap", "a"), ("--state", "none")]), Ok(StatePath::None));
        assert_eq!(state(&[("--tap", "a"), ("--state", "/run/x")]), Ok(StatePath::At("/run/x".into())));
        assert!(state(&[("--tap", "a"), ("--state", "")]).unwrap_err().contains("name one, or none"));
    }
}
