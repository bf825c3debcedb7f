//! Log levels.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::words;

/// Log levels in force.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Log {
    /// Level of all parts that have no own one.
    pub level: Level,
    /// Levels of single parts.
    pub parts: BTreeMap<String, Level>,
    /// All parts that can have an own level.
    pub known: Vec<String>,
}

words! {
    /// A log level.
    Level {
        /// Nothing.
        Off = "off",
        /// Failures.
        Error = "error",
        /// Conditions that need attention.
        Warn = "warn",
        /// Changes of state.
        Info = "info",
        /// Details of what was decided.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

/// A log level to set.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogChange {
    /// The part; without it, all parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub part: Option<String>,
    /// off, error, warn, info, debug or trace.
    pub level: String,
}
