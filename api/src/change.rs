//! Differences between two configurations.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::words;

/// One difference between the running configuration and another one.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Change {
    /// What is done.
    pub action: Action,
    /// Kind of thing: `port`, `rule`, `tunnel`, or the name of a setting.
    pub kind: String,
    /// Name of the thing.
    pub name: String,
    /// Its keys; where they change, before and after.
    pub text: String,
    /// All of it in one line of text.
    pub line: String,
}

words! {
    /// What a change does to a thing.
    Action {
        /// It is added.
        Add = "add",
        /// It is removed.
        Remove = "remove",
        /// It stays, with other keys.
        Alter = "alter",
        /// It is removed and added again.
        Replace = "replace",
    }
}

/// The configuration in force, as a file.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
pub struct Configuration {
    /// TOML that `vswitchd --config` reads, with what flags and verbs added; defaults are left out.
    pub toml: String,
}
