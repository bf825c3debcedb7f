//! The common form of TOML tables and flag words, before each value has its type.

use crate::problem::Origin;

/// A value as it was written.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    pub(crate) origin: Origin,
    pub(crate) value: RawValue,
}

#[derive(Clone, Debug)]
pub(crate) enum RawValue {
    /// The text of a flag, which has no types.
    Word(String),
    Text(String),
    Number(i64),
    Switch(bool),
    List(Vec<Raw>),
    Table(Vec<Entry>),
    /// A value of a type that no key accepts, such as a date.
    Other(&'static str),
}

/// A key with its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) raw: Raw,
}

impl Raw {
    /// One word of a flag, or a part of it.
    pub(crate) fn word(text: impl Into<String>, origin: &Origin) -> Raw {
        Raw { origin: origin.clone(), value: RawValue::Word(text.into()) }
    }

    /// The text, if the value is a text.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            RawValue::Word(text) | RawValue::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The problem with a value of the wrong type: "key is a number, not the text \"10\"".
    pub(crate) fn is_not(&self, key: &str, wanted: &str) -> String {
        format!("{key} is {wanted}, not {}", self.described())
    }

    fn described(&self) -> String {
        match &self.value {
            RawValue::Word(text) => format!("'{}'", text.escape_debug()),
            RawValue::Text(text) => format!("the text \"{}\"", text.escape_debug()),
            RawValue::Number(number) => format!("the number {number}"),
            RawValue::Switch(is_on) => is_on.to_string(),
            RawValue::List(_) => "a list".to_owned(),
            RawValue::Table(_) => "a table".to_owned(),
            RawValue::Other(what) => (*what).to_owned(),
        }
    }
}

impl Entry {
    /// A key and value of a flag.
    pub(crate) fn word(key: &str, text: impl Into<String>, origin: &Origin) -> Entry {
        Entry { key: key.to_owned(), raw: Raw::word(text, origin) }
    }
}
