//! Configuration files: TOML to a [`Document`], with the line of each value.
//!
//! Reading continues after an error, in the TOML syntax too, so that all problems of a file are reported at once.

use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue, Error};

use crate::document::Document;
use crate::keys::Keys;
use crate::problem::{Origin, Problems};
use crate::raw::{Entry, Raw, RawValue};

/// A file's text as a document; `path` names it in problems.
pub(crate) fn read(path: &str, text: &str, problems: &mut Problems) -> Document {
    let lines = Lines { path: path.into(), starts: text.match_indices('\n').map(|(at, _)| at + 1).collect() };
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        problems.add(&lines.origin_of(error), in_words(error, text));
    }
    let mut document = Document::of(&lines.entries(table.get_ref()), problems);
    if !errors.is_empty() {
        document.mark_faulty();
    }
    check_gateways(&document, problems);
    document
}

/// The origin of a file as a whole.
pub(crate) fn whole(path: &str) -> Origin {
    Origin::File { path: path.into(), line: 0 }
}

fn check_gateways(document: &Document, problems: &mut Problems) {
    document.bridges().for_each(|(_, bridge)| bridge.check_gateways(problems));
}

/// Offsets of the lines of a file.
struct Lines {
    path: Arc<str>,
    /// Offset of each line but the first.
    starts: Vec<usize>,
}

impl Lines {
    fn origin(&self, at: usize) -> Origin {
        Origin::File { path: Arc::clone(&self.path), line: self.starts.partition_point(|start| *start <= at) + 1 }
    }

    fn origin_of(&self, error: &Error) -> Origin {
        error.span().map_or_else(|| whole(&self.path), |span| self.origin(span.start))
    }

    fn entries(&self, table: &DeTable) -> Vec<Entry> {
        let entry = |(key, value): (&Spanned<DeString>, &Spanned<DeValue>)| Entry {
            key: key.get_ref().to_string(),
            raw: self.raw(value, key.span().start),
        };
        table.iter().map(entry).collect()
    }

    /// A value. Problems name the line of `at`: the offset of its key, or its own in a list.
    fn raw(&self, value: &Spanned<DeValue>, at: usize) -> Raw {
        let value = match value.get_ref() {
            DeValue::String(text) => RawValue::Text(text.to_string()),
            DeValue::Integer(number) => {
                let parsed = i64::from_str_radix(number.as_str(), number.radix());
                parsed.map_or(RawValue::Other("a number that is too large"), RawValue::Number)
            }
            DeValue::Boolean(is_on) => RawValue::Switch(*is_on),
            DeValue::Array(list) => RawValue::List(list.iter().map(|item| self.raw(item, item.span().start)).collect()),
            DeValue::Table(table) => RawValue::Table(self.entries(table)),
            DeValue::Float(_) => RawValue::Other("a number with a fraction"),
            DeValue::Datetime(_) => RawValue::Other("a date or time"),
        };
        Raw { origin: self.origin(at), value }
    }
}

/// The TOML parser's message, in one line, with the key that is written twice.
fn in_words(error: &Error, text: &str) -> String {
    let message = error.message().lines().collect::<Vec<_>>().join(": ");
    let key = error.span().and_then(|span| text.get(span)).and_then(|key| key.lines().next()).filter(|key| !key.is_empty());
    match key {
        Some(key) if message == "duplicate key" => format!("'{}' is written twice: leave one of both out", key.escape_debug()),
        _ => message,
    }
}
