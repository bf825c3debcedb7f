//! Verbs that make the switch another: ports, rules, tunnels, and all of it.

use std::fs;
use std::io::{self, Read as _};
use std::path::Path;

use anyhow::Context;

use crate::client::{escape, with_parameters};
use crate::{Get, table, views};

/// Adds what this word says, which is `key` of the request.
pub(crate) fn add(get: &Get<'_>, path: &str, key: &str, word: &str) -> anyhow::Result<String> {
    let body = serde_json::json!({ key: word }).to_string();
    get.changed("POST", path, Some(&body), lines)
}

/// Takes away what has this name.
pub(crate) fn delete(get: &Get<'_>, path: &str, name: &str) -> anyhow::Result<String> {
    get.changed("DELETE", &format!("{path}/{}", escape(name)), None, lines)
}

pub(crate) fn unpublish(get: &Get<'_>, rule: &str) -> anyhow::Result<String> {
    get.changed("DELETE", &with_parameters("/v1/nat/publish", [("rule", Some(rule.to_owned()))]), None, lines)
}

/// The file is read here, so that it may be one that the switch cannot read.
pub(crate) fn apply(get: &Get<'_>, file: &Path, dry_run: bool) -> anyhow::Result<String> {
    let name = file.display().to_string();
    let text = if name == "-" {
        let mut text = String::new();
        io::stdin().lock().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(file)
    };
    let text = text.with_context(|| format!("{}: reading the configuration", table::plain(&name)))?;
    let path = with_parameters("/v1/apply", [("file", Some(name)), ("dry-run", dry_run.then(|| "true".to_owned()))]);
    get.changed("POST", &path, Some(&text), lines)
}

/// A line for each change.
#[expect(clippy::ptr_arg, reason = "it is what is read from the answer")]
fn lines(changes: &Vec<views::Change>) -> String {
    if changes.is_empty() {
        return "nothing changes\n".to_owned();
    }
    changes.iter().map(|change| table::plain(&change.line) + "\n").collect()
}
