//! Coalescing on the way to a port: `gro = true`, `gro = "neighbours"`, `gro=off`.

use crate::problem::Problems;
use crate::raw::{Raw, RawValue};
use crate::value::Value;

/// Which frames of a batch are coalesced on their way to a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Gro {
    /// None.
    Off,
    /// Those that are next to each other. All frames leave in the order in which they arrived.
    Neighbours,
    /// All of one flow. Frames of different flows may leave in another order than they arrived in.
    #[default]
    Flows,
}

impl Gro {
    /// What the words say of a port: `, no gro`; nothing if it is the default.
    pub(crate) fn keys_text(self) -> &'static str {
        match self {
            Gro::Off => ", no gro",
            Gro::Neighbours => ", gro of neighbours",
            Gro::Flows => "",
        }
    }
}

impl Value for Gro {
    fn read(raw: &Raw, key: &str, problems: &mut Problems) -> Option<Gro> {
        match &raw.value {
            RawValue::Switch(true) => return Some(Gro::Flows),
            RawValue::Switch(false) => return Some(Gro::Off),
            RawValue::Word(text) if text == "on" => return Some(Gro::Flows),
            RawValue::Word(text) if text == "off" => return Some(Gro::Off),
            RawValue::Word(text) | RawValue::Text(text) if text == "neighbours" => return Some(Gro::Neighbours),
            _ => {}
        }
        let wanted = raw.origin.say("true, false or \"neighbours\"", "on, off or neighbours");
        problems.add(&raw.origin, raw.is_not(key, wanted));
        None
    }
}

#[cfg(test)]
impl schemars::JsonSchema for Gro {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Gro".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "anyOf": [{ "type": "boolean" }, { "type": "string", "enum": ["neighbours"] }] })
    }
}
