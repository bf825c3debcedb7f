//! What the maker of a port knows it by: an id, and labels.
//!
//! A port has a name that its device gives it, and that may be another one tomorrow or stand in several namespaces. Its *id* is of its
//! maker's choosing, such as the endpoint id of a container engine, and no two ports have the same. *Labels* are the maker's notes;
//! the switch only shows them.

use crate::keys::keys;
use crate::problem::{At, Origin};
#[cfg(test)]
use crate::value::string_schema;
use crate::value::{PairKey, Pairs, Text};

/// Maximum length of an id and of a label's value, in bytes.
const MAX_LEN: usize = 255;

/// Maximum length of a label's name, in bytes.
const MAX_LABEL_NAME_LEN: usize = 63;

/// What a port's maker knows it by.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Identity {
    /// The name that its maker gave it; no other port has it.
    pub id: Option<String>,
    /// Names and values of its labels, in the order in which they were written.
    pub labels: Vec<(String, String)>,
}

keys! {
    /// The keys that say what a port's maker knows it by.
    struct IdentityKeys {
        /// A name that the maker of the port gives it, 1 to 255 printable ASCII characters; no other port has it.
        "id" => id: Id,
        /// Notes of the maker of the port: names with their values.
        "labels" => labels: Pairs<LabelName, LabelValue>,
    }
}

/// The id of a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Id(pub(crate) String);

/// The name of a label.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LabelName(pub(crate) String);

/// The value of a label, which may be empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct LabelValue(pub(crate) String);

impl Identity {
    /// The keys in words: `, id web, label app=web`.
    pub(crate) fn keys_text(&self) -> String {
        let id = self.id.iter().map(|id| format!(", id {id}"));
        let labels = self.labels.iter().map(|(name, value)| format!(", label {name}={value}"));
        id.chain(labels).collect()
    }
}

impl IdentityKeys {
    pub(crate) fn identity(&self) -> Identity {
        Identity { id: self.id.as_ref().map(|id| id.value.0.clone()), labels: names_and_values(self.labels.as_ref()) }
    }
}

/// The names and values of labels.
pub(crate) fn names_and_values(labels: Option<&At<Pairs<LabelName, LabelValue>>>) -> Vec<(String, String)> {
    let labels = labels.iter().flat_map(|labels| &labels.value.0);
    labels.map(|(name, value)| (name.value.0.clone(), value.value.0.clone())).collect()
}

/// The problem with a text that is not of 1 to `max` printable characters.
fn not_printable(what: &str, text: &str, max: usize) -> Option<String> {
    let is_printable = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
    match text.len() {
        0 => Some(format!("{what} is empty: write 1 to {max} characters, or leave it out")),
        len if len > max => Some(format!("{what} has {len} bytes, and there is room for {max}: use a shorter one")),
        _ if !text.bytes().all(is_printable) => {
            Some(format!("'{}' has a character that is not printable ASCII: leave it out of {what}", text.escape_debug()))
        }
        _ => None,
    }
}

impl Text for Id {
    fn parse(text: &str, key: &str, _: &Origin) -> Result<Id, String> {
        not_printable(key, text, MAX_LEN).map_or_else(|| Ok(Id(text.to_owned())), Err)
    }
}

impl Text for LabelName {
    fn parse(text: &str, _: &str, _: &Origin) -> Result<LabelName, String> {
        not_printable("the name of a label", text, MAX_LABEL_NAME_LEN).map_or_else(|| Ok(LabelName(text.to_owned())), Err)
    }
}

impl PairKey for LabelName {
    const SHAPE: &str = "NAME@VALUE, such as app@web";
}

impl Text for LabelValue {
    fn parse(text: &str, _: &str, _: &Origin) -> Result<LabelValue, String> {
        let problem = (!text.is_empty()).then(|| not_printable("the value of a label", text, MAX_LEN)).flatten();
        problem.map_or_else(|| Ok(LabelValue(text.to_owned())), Err)
    }
}

#[cfg(test)]
string_schema!(Id, LabelName, LabelValue);
