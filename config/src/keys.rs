//! The keys of one table, in the words of the file and in those of flags.
//!
//! A table of keys is declared once, by [`keys!`]: the struct that holds the values, the reading of a TOML table or of the
//! pairs of a flag, the names for "did you mean", and the schema for editors all come from it. All keys are optional here;
//! required keys, combinations and defaults are checked where the table is turned into a model.

use crate::problem::{At, Origin, Problems, nearest, unknown};
use crate::raw::{Entry, Raw, RawValue};
use crate::value::Value;
use crate::written;

/// The keys that a table was written with.
pub(crate) trait Keys: Default {
    /// The names of all keys, in a file or in a flag.
    fn names(in_file: bool) -> Vec<&'static str>;

    /// Sets a key. Returns false if there is no such key.
    fn set(&mut self, entry: &Entry, problems: &mut Problems) -> bool;

    /// Takes a key of a flag away. Returns false if there is no such key.
    fn clear(&mut self, key: &str) -> bool;

    /// The keys that were set, with their values as they stand in a file.
    fn entries(&self) -> Vec<(String, RawValue)>;

    /// Notes that a key could not be read. Combinations of keys are not checked in such a table, since a value may only be missing
    /// because it was invalid.
    fn mark_faulty(&mut self);

    /// Reads a whole table.
    fn of(entries: &[Entry], problems: &mut Problems) -> Self {
        Self::of_table("", entries, problems)
    }

    /// Reads the table of this name.
    fn of_table(table: &str, entries: &[Entry], problems: &mut Problems) -> Self {
        let mut keys = Self::default();
        for entry in entries {
            if !keys.set(entry, problems) {
                let origin = &entry.raw.origin;
                let known = Self::names(origin.is_file());
                let problem = match elsewhere(&entry.key, &known).filter(|_| origin.is_file()) {
                    Some(place) => format!("'{}' is a key of {place}: write it there", entry.key),
                    None if table.is_empty() || !origin.is_file() || nearest(&entry.key, known.iter().copied()).is_some() => {
                        unknown("key", &entry.key, &known)
                    }
                    None => format!("unknown key '{}' of {table}; there are {}", entry.key.escape_debug(), known.join(", ")),
                };
                problems.add(origin, problem);
                keys.mark_faulty();
            }
        }
        keys
    }
}

/// Keys that are often written in another table than theirs, and their tables.
const PLACES: &[(&[&str], &str)] = &[
    (&["tap", "packet", "stream", "dgram"], "a port, [[bridge.br0.port]]"),
    (&["port", "ports", "mac-table-size", "mac-aging-time", "gateway", "gateways"], "a bridge, [bridge.br0]"),
    (&["tcp-established", "tcp-transitory", "tcp-opening", "udp", "icmp", "other"], "[nat.timeouts]"),
    (&["mapping", "filtering", "max-connections", "timeouts"], "[nat]"),
    (&["interface"], "[uplink]"),
    (&["listen", "to"], "a rule, [[publish]]"),
    (&["workers", "busy-poll", "max-ports"], "the file itself, above all tables"),
    (&["publish"], "the file itself, [[publish]]"),
    (&["guest"], "the file itself, [[guest]]"),
    (&["tunnel"], "the file itself, [[tunnel]]"),
    (&["route"], "the file itself, [[route]]"),
];

/// The table that a key belongs to, unless it is much like one of the known keys.
fn elsewhere(key: &str, known: &[&str]) -> Option<&'static str> {
    let is_close = nearest(key, known.iter().copied()).is_some();
    PLACES.iter().find(|(keys, _)| keys.contains(&key)).map(|(_, place)| *place).filter(|_| !is_close)
}

/// Sets a value that may be given only once. Returns false if it was given before or cannot be read.
pub(crate) fn set_once<T: Value>(slot: &mut Option<At<T>>, entry: &Entry, problems: &mut Problems) -> bool {
    if slot.is_some() {
        problems.add(&entry.raw.origin, format!("'{}' is given twice: leave one of both out", entry.key));
        return false;
    }
    *slot = T::read(&entry.raw, &entry.key, problems).map(|value| At::of(value, &entry.raw));
    slot.is_some()
}

/// Reads a value that must be a table.
pub(crate) fn read_table<T: Keys>(raw: &Raw, key: &str, problems: &mut Problems) -> Option<T> {
    match &raw.value {
        RawValue::Table(entries) => Some(T::of_table(key, entries, problems)),
        _ => {
            problems.add(&raw.origin, raw.is_not(key, "a table"));
            None
        }
    }
}

/// An array of tables: `[[publish]]`.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Tables<T>(pub(crate) Vec<At<T>>);

impl<T: Value> Value for Tables<T> {
    fn read(raw: &Raw, key: &str, problems: &mut Problems) -> Option<Tables<T>> {
        let RawValue::List(items) = &raw.value else {
            problems.add(&raw.origin, raw.is_not(key, &format!("a list of tables: write [[{key}]]")));
            return None;
        };
        let read = |item: &Raw| T::read(item, key, problems).map(|table| At::new(table, &item.origin));
        Some(Tables(items.iter().filter_map(read).collect()))
    }

    fn in_file(&self, _: Option<&RawValue>) -> Option<RawValue> {
        Some(written::list(self.0.iter().filter_map(written::of)))
    }
}

/// Tables by their names: `[bridge.br0]`.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Named<T>(pub(crate) Vec<(At<String>, T)>);

impl<T: Value> Value for Named<T> {
    fn read(raw: &Raw, key: &str, problems: &mut Problems) -> Option<Named<T>> {
        let RawValue::Table(entries) = &raw.value else {
            problems.add(&raw.origin, raw.is_not(key, &format!("a table of tables: write [{key}.NAME]")));
            return None;
        };
        let read = |entry: &Entry| {
            let table = T::read(&entry.raw, &format!("{key}.{}", entry.key), problems)?;
            Some((At::new(entry.key.clone(), &entry.raw.origin), table))
        };
        Some(Named(entries.iter().filter_map(read).collect()))
    }

    fn in_file(&self, _: Option<&RawValue>) -> Option<RawValue> {
        let table = |(name, table): &(At<String>, T)| Some((name.value.clone(), table.in_file(None)?));
        Some(written::table(self.0.iter().filter_map(table)))
    }
}

/// The array of tables of a key, created if it does not exist.
pub(crate) fn list_of<T>(slot: &mut Option<At<Tables<T>>>) -> &mut Vec<At<T>> {
    &mut slot.get_or_insert_with(|| At::new(Tables(Vec::new()), &Origin::Default)).value.0
}

/// Declares the keys of a table: `"name in the file" / "name in a flag" => field: type`, and groups of keys that it shares
/// with other tables.
macro_rules! keys {
    (
        $(#[$doc:meta])*
        struct $name:ident {
            $( $(#[$key_doc:meta])* $key:literal $(/ $flag:literal)? => $field:ident: $type:ty, )*
            $( ..$group:ident: $group_type:ty, )*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Debug, Default)]
        #[cfg_attr(test, derive(schemars::JsonSchema), schemars(deny_unknown_fields))]
        pub(crate) struct $name {
            $( $(#[$key_doc])* #[cfg_attr(test, schemars(rename = $key))] pub(crate) $field: Option<$crate::problem::At<$type>>, )*
            $( #[cfg_attr(test, schemars(flatten))] pub(crate) $group: $group_type, )*
            /// Whether a key could not be read.
            #[cfg_attr(test, schemars(skip))]
            pub(crate) is_faulty: bool,
        }

        impl $crate::keys::Keys for $name {
            fn names(in_file: bool) -> Vec<&'static str> {
                let keys: &[(&str, &[&str])] = &[$( ($key, &[$($flag)?]) ),*];
                let name = |(key, flag): &(&'static str, &[&'static str])| if in_file { *key } else { flag.first().unwrap_or(key) };
                #[allow(unused_mut, reason = "not every table has groups")]
                let mut names: Vec<&'static str> = keys.iter().map(name).collect();
                $( names.extend(<$group_type as $crate::keys::Keys>::names(in_file)); )*
                names
            }

            fn set(&mut self, entry: &$crate::raw::Entry, problems: &mut $crate::problem::Problems) -> bool {
                let in_file = entry.raw.origin.is_file();
                $( {
                    let flag: &[&str] = &[$($flag)?];
                    let name = if in_file { $key } else { flag.first().unwrap_or(&$key) };
                    if entry.key == name {
                        self.is_faulty |= !$crate::keys::set_once(&mut self.$field, entry, problems);
                        return true;
                    }
                } )*
                $( if $crate::keys::Keys::set(&mut self.$group, entry, problems) {
                    self.is_faulty |= self.$group.is_faulty;
                    return true;
                } )*
                false
            }

            fn clear(&mut self, key: &str) -> bool {
                $( {
                    let flag: &[&str] = &[$($flag)?];
                    if key == *flag.first().unwrap_or(&$key) {
                        self.$field = None;
                        return true;
                    }
                } )*
                $( if $crate::keys::Keys::clear(&mut self.$group, key) {
                    return true;
                } )*
                false
            }

            fn entries(&self) -> Vec<(String, $crate::raw::RawValue)> {
                let values = [$( self.$field.as_ref().and_then($crate::written::of).map(|value| ($key.to_owned(), value)) ),*];
                #[allow(unused_mut, reason = "not every table has groups")]
                let mut entries: Vec<(String, $crate::raw::RawValue)> = values.into_iter().flatten().collect();
                $( entries.extend($crate::keys::Keys::entries(&self.$group)); )*
                entries
            }

            fn mark_faulty(&mut self) {
                self.is_faulty = true;
            }
        }

        impl $crate::value::Value for $name {
            fn read(raw: &$crate::raw::Raw, key: &str, problems: &mut $crate::problem::Problems) -> Option<$name> {
                $crate::keys::read_table(raw, key, problems)
            }

            fn in_file(&self, _: Option<&$crate::raw::RawValue>) -> Option<$crate::raw::RawValue> {
                Some($crate::written::table($crate::keys::Keys::entries(self).into_iter()))
            }
        }
    };
}
pub(crate) use keys;

#[cfg(test)]
impl<T: schemars::JsonSchema> schemars::JsonSchema for Tables<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Tables".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "array", "items": generator.subschema_for::<T>() })
    }
}

#[cfg(test)]
impl<T: schemars::JsonSchema> schemars::JsonSchema for Named<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Named".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "object", "additionalProperties": generator.subschema_for::<T>() })
    }
}
