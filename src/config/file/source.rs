//! Which line of the file a word of a flag comes from.

use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::message::place;
use crate::cli::Flags;
use crate::config::ConfigError;

/// What the flags' errors say to those who gave flags, and what it is in a file.
const IN_FILE: [(&str, &str); 8] = [
    ("such as --tap tap0,tap1", "such as tap = \"tap0\" in [[bridge.br0.port]]"),
    ("such as --uplink eth0", "such as interface = \"eth0\" in [uplink]"),
    ("leave this flag out, or use --uplink-mode nat", "leave this out, or use mode = \"nat\""),
    ("--uplink-address", "address in [uplink]"),
    ("write [ADDR:]PORT[-PORT]:GUEST:PORT[-PORT][/tcp|udp|tcp+udp]", "listen is [ADDR:]PORT[-PORT], to is GUEST:PORT[-PORT]"),
    ("no namespace after '@'", "no namespace"),
    ("@NETNS", "netns"),
    ("write packet:", "write packet = "),
];

/// The same of tunnels.
const IN_TUNNELS: [(&str, &str); 3] = [("remote=", "remotes="), ("route=", "routes="), ("behind '@'", "in routes")];

/// The file, and what was made of its tables.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    text: String,
    /// Where each key is: its names from the top, with the number of a table in its list among them.
    keys: Vec<(String, usize)>,
    origins: Vec<Origin>,
}

/// A flag that a table or key of the file stands for.
#[derive(Debug)]
struct Origin {
    /// As errors name it: `--tap tap0:vlan=10`.
    place: String,
    flag: &'static str,
    /// Of the table or key: `bridge.br0.port.2`.
    path: String,
    /// Keys of the table, in the words of the flag and of the file, and their values one by one.
    values: Vec<(String, String, Vec<String>)>,
}

impl Source {
    pub(super) fn new(path: &Path, text: &str) -> Result<Source, toml::de::Error> {
        let mut keys = Vec::new();
        walk(DeTable::parse(text)?.get_ref(), "", &mut keys);
        Ok(Source { path: path.to_owned(), text: text.to_owned(), keys, origins: Vec::new() })
    }

    /// An error at this table or key, such as `bridge.br0`; at the nearest around it that is there.
    pub(super) fn error(&self, path: &str, problem: impl Into<String>) -> ConfigError {
        ConfigError::new(self.place(path), problem)
    }

    /// What errors call so is this table or key.
    pub(super) fn note_place(&mut self, place: String, path: &str) {
        self.origins.push(Origin { place, flag: "", path: path.to_owned(), values: Vec::new() });
    }

    /// A flag was written for a table or key.
    pub(super) fn note(&mut self, flag: &'static str, text: &str, path: &str, values: Vec<(String, String, Vec<String>)>) {
        let place = if text.is_empty() { flag.to_owned() } else { format!("{flag} {text}") };
        self.origins.push(Origin { place, flag, path: path.to_owned(), values });
    }

    /// The same error, where the file is what caused it; `flags` are those of the command line.
    pub(super) fn locate(&self, error: ConfigError, flags: &Flags) -> ConfigError {
        let ConfigError { place, problem } = &error;
        // Of two that say the same the second is one too many.
        let exact = self.origins.iter().rev().find(|origin| origin.place == *place && origin.place != origin.flag);
        // Errors of several flags together name none of them, but what is wrong with one.
        let of_flag = || self.origins.iter().filter(|origin| origin.flag == place);
        let named = exact.or_else(|| of_flag().find(|origin| origin.is_named_in(problem)));
        let place = match named.or_else(|| of_flag().next()) {
            _ if named.is_none() && (place.contains(' ') || flags.has(place)) => return error,
            Some(origin) => self.place(&origin.path_of_key(problem)),
            None => self.path.display().to_string(),
        };
        ConfigError::new(place, in_words_of_file(problem, named.map_or("", |origin| origin.flag)))
    }

    /// The same for what is allowed but odd.
    pub(super) fn locate_warning(&self, warning: &mut String) {
        let found =
            self.origins.iter().find_map(|origin| Some((origin, warning.strip_prefix(&origin.place)?.strip_prefix(": ")?)));
        if let Some((origin, said)) = found {
            *warning = format!("{}: {}", self.place(&origin.path_of_key(said)), in_words_of_file(said, origin.flag));
        }
    }

    fn place(&self, path: &str) -> String {
        let mut path = path;
        loop {
            if let Some((_, at)) = self.keys.iter().find(|(key, _)| key == path) {
                return place(&self.path, &self.text, *at);
            }
            match path.rsplit_once('.') {
                Some((around, _)) => path = around,
                None => return self.path.display().to_string(),
            }
        }
    }
}

impl Origin {
    fn is_named_in(&self, problem: &str) -> bool {
        let mut words = problem.split(|c: char| c.is_whitespace() || c == '\'' || c == ',');
        words.any(|word| self.values.iter().any(|(.., values)| values.iter().any(|value| value == word.trim_end_matches(':'))))
    }

    /// Of the key that the problem is about, as far as it says; else of the table.
    fn path_of_key(&self, problem: &str) -> String {
        let starts = |key: &str| {
            let rest = problem.strip_prefix("unknown ").unwrap_or(problem);
            let named = rest.strip_prefix("key '").unwrap_or(rest);
            named.get(..key.len()).is_some_and(|start| start.eq_ignore_ascii_case(key))
                && named[key.len()..].starts_with([' ', '=', '\''])
        };
        let about = |value: &String| {
            !value.is_empty()
                && (problem.contains(&format!("'{value}'"))
                    || problem.strip_prefix(value.as_str()).is_some_and(|rest| rest.starts_with([' ', ':', '/'])))
        };
        let by_key = self.values.iter().find(|(key, ..)| starts(key));
        let key = by_key.or_else(|| self.values.iter().find(|(.., values)| values.iter().any(about)));
        key.map_or_else(|| self.path.clone(), |(_, key, _)| format!("{}.{key}", self.path))
    }
}

fn in_words_of_file(problem: &str, flag: &str) -> String {
    let of_tunnels: &[_] = if matches!(flag, "--vxlan" | "--udp" | "--udp-ip") { &IN_TUNNELS } else { &[] };
    IN_FILE.iter().chain(of_tunnels).fold(problem.to_owned(), |said, (flag, key)| said.replace(flag, key))
}

/// Where each key and table of this one is.
fn walk(table: &DeTable, path: &str, keys: &mut Vec<(String, usize)>) {
    for (key, value) in table {
        let name = if path.is_empty() { key.get_ref().to_string() } else { format!("{path}.{}", key.get_ref()) };
        keys.push((name.clone(), key.span().start));
        walk_value(value, &name, keys);
    }
}

fn walk_value(value: &Spanned<DeValue>, name: &str, keys: &mut Vec<(String, usize)>) {
    match value.get_ref() {
        DeValue::Table(table) => walk(table, name, keys),
        DeValue::Array(list) => {
            for (number, item) in list.iter().enumerate() {
                let name = format!("{name}.{number}");
                keys.push((name.clone(), item.span().start));
                walk_value(item, &name, keys);
            }
        }
        _ => {}
    }
}
