//! The control socket: its path and the rights of its users.

use std::fmt;
use std::path::{Path, PathBuf};

#[cfg(test)]
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::keys::keys;
use crate::problem::{At, Problems, nearest};
use crate::raw::{Raw, RawValue};
use crate::value::Value;

/// File with the names of groups. Groups from other sources (LDAP, systemd-homed) are given by number.
const GROUPS: &str = "/etc/group";

const SOCKET_NAME: &str = "vswitchd.sock";

/// Environment variable that names the socket, for the daemon and for its tool, where no flag does.
pub const CONTROL_VARIABLE: &str = "VSWITCHD_SOCKET";

/// The configuration of the control socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Control {
    /// Its path.
    pub path: ControlPath,
    /// The group whose members have all rights, like the owner.
    pub group: Option<UserGroup>,
    /// Whether all other users of the machine have read-only access.
    pub read_only_others: bool,
}

/// The path of the control socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ControlPath {
    /// No control socket.
    None,
    /// The default path; the switch runs without a socket if that is impossible.
    Usual,
    /// This path; the switch does not start if that is impossible.
    At(PathBuf),
}

/// A group of users.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UserGroup {
    /// The name or number as it was written.
    pub name: String,
    /// Its number.
    pub number: u32,
}

/// A group by its name, or by its number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct GroupName(String);

keys! {
    /// The control socket.
    struct ControlKeys {
        /// Its path, or none. Default: /run/vswitchd.sock as root, $XDG_RUNTIME_DIR/vswitchd.sock otherwise.
        "path" => path: String,
        /// The group, by name or number, whose members may do everything. Default: only root and the daemon's own user.
        "group" => group: GroupName,
        /// Other users may read. Default: false.
        "read-only-others" => read_only_others: bool,
    }
}

impl fmt::Display for UserGroup {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(out)
    }
}

impl Default for Control {
    fn default() -> Control {
        Control { path: ControlPath::Usual, group: None, read_only_others: false }
    }
}

impl ControlKeys {
    pub(crate) fn control(&self, problems: &mut Problems) -> Control {
        let path = self.path.as_ref().map_or(ControlPath::Usual, |path| match path.value.as_str() {
            "none" => ControlPath::None,
            "" => {
                problems.add(&path.origin, "the path of the control socket is empty: name one, or none");
                ControlPath::None
            }
            path => ControlPath::At(path.into()),
        });
        let group = self.group.as_ref().and_then(|group| {
            let groups = std::fs::read_to_string(GROUPS).unwrap_or_default();
            find_group(&group.value.0, &groups).map_err(|problem| problems.add(&group.origin, problem)).ok()
        });
        let read_only_others = self.read_only_others.as_ref().is_some_and(|others| others.value);
        Control { path, group, read_only_others }
    }
}

impl Control {
    /// Takes the settings that `keys`, from which this one was made, leave out from another one.
    pub(crate) fn completed_by(&self, other: &Control, keys: Option<&At<ControlKeys>>) -> Control {
        let of = |is_said: Option<bool>| if is_said == Some(true) { self } else { other };
        Control {
            path: of(keys.map(|keys| keys.value.path.is_some())).path.clone(),
            group: of(keys.map(|keys| keys.value.group.is_some())).group.clone(),
            read_only_others: of(keys.map(|keys| keys.value.read_only_others.is_some())).read_only_others,
        }
    }

    /// The rights of users other than the owner, as text: `, group netdev, others may read`.
    #[must_use]
    pub fn rights(&self) -> String {
        let group = self.group.as_ref().map_or_else(String::new, |group| format!(", group {group}"));
        group + if self.read_only_others { ", others may read" } else { "" }
    }
}

/// Writes path and rights: `/run/vswitchd.sock, group netdev`, or `none`.
impl fmt::Display for Control {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = match &self.path {
            ControlPath::None => return out.write_str("none"),
            ControlPath::At(path) => path.clone(),
            ControlPath::Usual => match usual_path() {
                Some(path) => path,
                None => return out.write_str("none, as XDG_RUNTIME_DIR is not set"),
            },
        };
        write!(out, "{}{}", path.display(), self.rights())
    }
}

/// The default path: in `/run` for root, in the user's own directory for others.
#[must_use]
pub fn usual_path() -> Option<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Some(Path::new("/run").join(SOCKET_NAME));
    }
    let directory = PathBuf::from(std::env::var_os("XDG_RUNTIME_DIR")?);
    directory.is_absolute().then(|| directory.join(SOCKET_NAME))
}

/// A group by its name or number, where `groups` is the text of group(5).
fn find_group(name: &str, groups: &str) -> Result<UserGroup, String> {
    let named = groups.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some((fields.next()?, fields.nth(1)?.parse::<u32>().ok()?))
    });
    let by_name = named.clone().find(|(known, _)| *known == name).map(|(_, number)| number);
    // The highest number means "do not change the group" (chown(2)).
    let number = by_name.or_else(|| name.parse().ok()).filter(|number| *number != u32::MAX);
    if let Some(number) = number {
        return Ok(UserGroup { name: name.to_owned(), number });
    }
    let close = nearest(name, named.map(|(known, _)| known));
    let hint = close.map_or_else(String::new, |close| format!(": did you mean '{close}'?"));
    Err(format!("there is no group '{}' in {GROUPS}{hint}; write a name from there, or a number", name.escape_debug()))
}

impl Value for GroupName {
    fn read(raw: &Raw, key: &str, problems: &mut Problems) -> Option<GroupName> {
        match &raw.value {
            RawValue::Number(number) => Some(GroupName(number.to_string())),
            RawValue::Word(text) | RawValue::Text(text) => Some(GroupName(text.clone())),
            _ => {
                problems.add(&raw.origin, raw.is_not(key, "a number, or text in quotes"));
                None
            }
        }
    }
}

#[cfg(test)]
impl JsonSchema for GroupName {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "GroupName".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string" }] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "root:x:0:\nbroken\nnetdev:x:109:alice,bob\n1000:x:7:\nbad:x:y:\n";

    #[test]
    fn groups_by_name_and_number() {
        let number = |name| find_group(name, TEXT).map(|group| group.number);
        assert_eq!((number("netdev"), number("root"), number("109"), number("4711")), (Ok(109), Ok(0), Ok(109), Ok(4711)));
        assert_eq!(number("1000"), Ok(7), "a name comes first, as in chown(1)");
        assert!(number("netdv").unwrap_err().contains("did you mean 'netdev'?"));
        for bad in ["", "bad", "-1", "4294967295", "4294967296", "a\nb"] {
            assert!(number(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn rights_of_others() {
        let group = UserGroup { name: "4711".to_owned(), number: 4711 };
        assert_eq!(Control::default().rights(), "");
        let control = Control { path: ControlPath::At("/run/x".into()), group: Some(group), read_only_others: true };
        assert_eq!(control.to_string(), "/run/x, group 4711, others may read");
    }
}
