//! What is said of a file that is no configuration at all: broken TOML, an unknown key, a value of another kind.

use std::fmt::Write as _;
use std::path::Path;

use crate::config::ConfigError;
use crate::config::words::unknown;

/// The kinds of values as serde names them, and as people do.
const KINDS: [(&str, &str); 9] = [
    ("expected i64", "expected a number"),
    ("expected a sequence", "expected a list"),
    ("expected a map", "expected a table"),
    ("expected a boolean", "expected true or false"),
    ("invalid type: sequence", "invalid type: a list"),
    ("invalid type: map", "invalid type: a table"),
    ("expected struct ", "expected a table: "),
    ("invalid type: ", "this is "),
    ("invalid value: ", "this is "),
];

/// `vswitchd.toml:7`.
pub(super) fn place(path: &Path, text: &str, at: usize) -> String {
    let line = text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1;
    format!("{}:{line}", path.display())
}

/// An error of the parser, or of the types.
pub(super) fn of_toml(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let place = match error.span() {
        Some(span) => place(path, text, span.start),
        None => path.display().to_string(),
    };
    ConfigError::new(place, in_words(error.message()))
}

fn in_words(message: &str) -> String {
    if let Some((key, known)) = message.strip_prefix("unknown field `").and_then(|rest| rest.split_once('`')) {
        let known: Vec<&str> = known.split('`').skip(1).step_by(2).collect();
        return unknown("key", key, &known);
    }
    let mut said = String::new();
    for line in message.lines() {
        let _ = write!(said, "{}{line}", if said.is_empty() { "" } else { ": " });
    }
    KINDS.iter().fold(said, |said, (theirs, ours)| said.replace(theirs, ours))
}
