//! The control socket: where it is, and whose it is.

use std::fmt;
use std::path::PathBuf;

use super::{ConfigError, nearest};
use crate::cli::Flags;

/// Where groups have their names. Groups from elsewhere (LDAP, systemd-homed) are given by number.
const GROUPS: &str = "/etc/group";

/// What the control socket is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ControlConfig {
    pub(crate) path: ControlPath,
    /// Its members may do everything, as the owner may.
    pub(crate) group: Option<Group>,
    /// All other users of the machine may read.
    pub(crate) read_only_others: bool,
}

/// Where the control socket is to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum ControlPath {
    /// Nowhere.
    None,
    /// Where it usually is, if it can be.
    Usual,
    /// There and nowhere else.
    At(PathBuf),
}

/// A group of users, as it was named.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Group {
    pub(crate) name: String,
    pub(crate) number: u32,
}

impl fmt::Display for Group {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.name.fmt(out)
    }
}

impl ControlConfig {
    /// `--control`, `--control-group` and `--control-read-only-others`.
    pub(super) fn from_flags(flags: &Flags) -> Result<ControlConfig, ConfigError> {
        let path = match flags.control.as_deref() {
            None => ControlPath::Usual,
            Some("none") => ControlPath::None,
            Some("") => return Err(ConfigError::new("--control", "a path, or none")),
            Some(path) => ControlPath::At(path.into()),
        };
        let group = flags.control_group.as_deref().map(|name| {
            let groups = std::fs::read_to_string(GROUPS).unwrap_or_default();
            find_group(name, &groups).map_err(|problem| ConfigError::new("--control-group", problem))
        });
        Ok(ControlConfig { path, group: group.transpose()?, read_only_others: flags.control_read_only_others.unwrap_or(false) })
    }

    /// With what another one is where these flags, which it is made of, say nothing.
    pub(super) fn completed_by(&self, other: &ControlConfig, said: &Flags) -> ControlConfig {
        let of = |is_said: bool| if is_said { self } else { other };
        ControlConfig {
            path: of(said.control.is_some()).path.clone(),
            group: of(said.control_group.is_some()).group.clone(),
            read_only_others: of(said.control_read_only_others.is_some()).read_only_others,
        }
    }

    /// Who may do what besides the owner, for people; empty if nobody else may.
    pub(crate) fn rights(&self) -> String {
        let group = self.group.as_ref().map_or_else(String::new, |group| format!(", group {group}"));
        group + if self.read_only_others { ", others may read" } else { "" }
    }
}

/// A group by its name or number, where `groups` is the text of group(5).
fn find_group(name: &str, groups: &str) -> Result<Group, String> {
    let named = groups.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some((fields.next()?, fields.nth(1)?.parse::<u32>().ok()?))
    });
    let by_name = named.clone().find(|(known, _)| *known == name).map(|(_, number)| number);
    // The last number stands for "do not change it" (chown(2)).
    let number = by_name.or_else(|| name.parse().ok()).filter(|number| *number != u32::MAX);
    if let Some(number) = number {
        return Ok(Group { name: name.to_owned(), number });
    }
    let close = nearest(name, named.map(|(known, _)| known));
    let hint = close.map_or_else(String::new, |close| format!(": did you mean '{close}'?"));
    Err(format!("there is no group '{}' in {GROUPS}{}; a name from there, or a number", name.escape_debug(), hint))
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
    fn who_may() {
        let config = |group: Option<&str>, others_may_read| {
            let control_read_only_others = Some(others_may_read);
            let control_group = group.map(str::to_owned);
            ControlConfig::from_flags(&Flags { control_group, control_read_only_others, ..Flags::default() }).unwrap()
        };
        assert_eq!(config(None, false).rights(), "");
        assert_eq!(config(Some("4711"), true).rights(), ", group 4711, others may read");
    }
}
