//! The types that values have, whatever they are the value of.
//!
//! A [`Value`] is read from its written form ([`Raw`]), in a file or in a flag. A number in a file is an integer, in a flag it is text; a
//! list in a file is an array, in a flag it has `+` between its items. A value that cannot be read is reported, and reading
//! continues.

use std::fmt;

#[cfg(test)]
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::problem::{At, Origin, Problems};
use crate::raw::{Raw, RawValue};
use crate::written;

/// A type that the value of a key can have.
pub(crate) trait Value: Sized + PartialEq {
    /// Reads the value of this key; reports the problem if it cannot be read.
    fn read(raw: &Raw, key: &str, problems: &mut Problems) -> Option<Self>;

    /// The value as it stands in a file, if it was written as this; a value of several parts knows that of each.
    fn in_file(&self, written: Option<&RawValue>) -> Option<RawValue> {
        written::in_file(self, written?)
    }
}

/// A type whose values are written as text.
pub(crate) trait Text: Sized + PartialEq {
    /// Reads the text; the error describes the problem in the words of the file or flag that it is from.
    fn parse(text: &str, key: &str, origin: &Origin) -> Result<Self, String>;
}

impl<T: Text> Value for T {
    fn read(raw: &Raw, key: &str, problems: &mut Problems) -> Option<T> {
        let Some(text) = raw.text() else {
            problems.add(&raw.origin, raw.is_not(key, "text in quotes"));
            return None;
        };
        T::parse(text, key, &raw.origin).map_err(|problem| problems.add(&raw.origin, problem)).ok()
    }
}

impl Text for String {
    fn parse(text: &str, _: &str, _: &Origin) -> Result<String, String> {
        Ok(text.to_owned())
    }
}

impl Value for bool {
    fn read(raw: &Raw, key: &str, problems: &mut Problems) -> Option<bool> {
        match &raw.value {
            RawValue::Switch(is_on) => return Some(*is_on),
            RawValue::Word(text) if text == "on" => return Some(true),
            RawValue::Word(text) if text == "off" => return Some(false),
            _ => {}
        }
        problems.add(&raw.origin, raw.is_not(key, raw.origin.say("true or false", "on or off")));
        None
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Number<const MIN: i64, const MAX: i64>(i64);

impl<const MIN: i64, const MAX: i64> Number<MIN, MAX> {
    /// The number, in a type that holds `MIN` and `MAX`.
    pub(crate) fn get<T: TryFrom<i64> + Default>(self) -> T {
        T::try_from(self.0).unwrap_or_default()
    }

    pub(crate) fn of_text(text: &str, what: &str) -> Result<Self, String> {
        let number = text.parse().ok().filter(|number| (MIN..=MAX).contains(number));
        number.map(Number).ok_or_else(|| format!("{what} is a number from {MIN} to {MAX}, not '{}'", text.escape_debug()))
    }
}

impl<const MIN: i64, const MAX: i64> fmt::Display for Number<MIN, MAX> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

impl<const MIN: i64, const MAX: i64> Value for Number<MIN, MAX> {
    fn read(raw: &Raw, key: &str, problems: &mut Problems) -> Option<Self> {
        let problem = match &raw.value {
            RawValue::Word(text) => match Number::of_text(text, key) {
                Ok(number) => return Some(number),
                Err(problem) => problem,
            },
            RawValue::Number(number) if (MIN..=MAX).contains(number) => return Some(Number(*number)),
            RawValue::Number(number) => format!("{key} is a number from {MIN} to {MAX}, not {number}"),
            _ => raw.is_not(key, "a number"),
        };
        problems.add(&raw.origin, problem);
        None
    }
}

/// Bytes of a packet, from the least that IPv4 allows (RFC 791) to the most that a TAP allows.
pub(crate) type Mtu = Number<68, 65_521>;

/// Several values, at least one: an array, or text with `+` or commas between.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct List<T>(pub(crate) Vec<At<T>>);

impl<T: Value> Value for List<T> {
    fn read(raw: &Raw, key: &str, problems: &mut Problems) -> Option<List<T>> {
        let items = match &raw.value {
            RawValue::List(items) if items.is_empty() => {
                problems.add(&raw.origin, format!("{key} is empty: name at least one, or leave it out"));
                return None;
            }
            RawValue::List(items) => items.clone(),
            RawValue::Word(text) => text.split(['+', ',']).map(|item| Raw::word(item, &raw.origin)).collect(),
            _ => {
                problems.add(&raw.origin, raw.is_not(key, "a list in square brackets"));
                return None;
            }
        };
        // A list without what was wrong in it would mean something else.
        let read: Vec<Option<At<T>>> = items.iter().map(|item| Some(At::of(T::read(item, key, problems)?, item))).collect();
        read.into_iter().collect::<Option<Vec<_>>>().map(List)
    }

    fn in_file(&self, _: Option<&RawValue>) -> Option<RawValue> {
        Some(written::list(self.0.iter().filter_map(written::of)))
    }
}

/// Pairs in the order of their keys: a table, or text as `KEY@VALUE` with `+` between.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Pairs<K, V>(pub(crate) Vec<(At<K>, At<V>)>);

/// The type of the first half of a pair.
pub(crate) trait PairKey: Text {
    /// The form of a pair in a flag, with an example.
    const SHAPE: &str;
}

impl<K: PairKey, V: Value> Value for Pairs<K, V> {
    fn read(raw: &Raw, key: &str, problems: &mut Problems) -> Option<Pairs<K, V>> {
        let mut pairs: Vec<(String, Raw)> = Vec::new();
        match &raw.value {
            RawValue::Table(entries) if entries.is_empty() => {
                problems.add(&raw.origin, format!("{key} is empty: name at least one, or leave it out"));
                return None;
            }
            RawValue::Table(entries) => pairs.extend(entries.iter().map(|entry| (entry.key.clone(), entry.raw.clone()))),
            RawValue::Word(text) => {
                for pair in text.split('+') {
                    let Some((left, right)) = pair.split_once('@') else {
                        problems.add(&raw.origin, format!("'{}' is not {}", pair.escape_debug(), K::SHAPE));
                        return None;
                    };
                    pairs.push((left.to_owned(), Raw::word(right, &raw.origin)));
                }
            }
            _ => {
                problems.add(&raw.origin, raw.is_not(key, "a table in braces"));
                return None;
            }
        }
        let mut read_pair = |(left, right): &(String, Raw)| {
            let origin = &right.origin;
            let (word, raw) = (Raw::word(left, origin), right);
            let left = K::parse(left, key, origin).map_err(|problem| problems.add(origin, problem)).ok();
            let right = V::read(right, key, problems);
            Some((At::of(left?, &word), At::of(right?, raw)))
        };
        let read: Vec<Option<_>> = pairs.iter().map(&mut read_pair).collect();
        read.into_iter().collect::<Option<Vec<_>>>().map(Pairs)
    }

    fn in_file(&self, _: Option<&RawValue>) -> Option<RawValue> {
        let pair = |(left, right): &(At<K>, At<V>)| match left.written.0.as_deref() {
            Some(RawValue::Word(key)) => Some((key.clone(), written::of(right)?)),
            _ => None,
        };
        Some(written::table(self.0.iter().filter_map(pair)))
    }
}

/// Declares an enum whose values are words of the configuration.
macro_rules! words {
    (
        $(#[$doc:meta])*
        $vis:vis enum $name:ident { $( $(#[$variant_doc:meta])* $variant:ident = $word:literal, )+ }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        $vis enum $name { $( $(#[$variant_doc])* $variant, )+ }

        impl $name {
            /// All words, in their order.
            pub(crate) const WORDS: &[&str] = &[$($word),+];

            /// The word for it.
            #[must_use]
            $vis fn name(self) -> &'static str {
                match self { $( $name::$variant => $word, )+ }
            }

            /// The value with this word, if there is one.
            pub(crate) fn named(word: &str) -> Option<$name> {
                [$($name::$variant),+].into_iter().find(|known| known.name() == word)
            }
        }

        impl $crate::value::Text for $name {
            fn parse(text: &str, key: &str, _: &$crate::problem::Origin) -> Result<$name, String> {
                $name::named(text).ok_or_else(|| $crate::problem::unknown(key, text, $name::WORDS))
            }
        }

        #[cfg(test)]
        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "enum": $name::WORDS })
            }
        }
    };
}
pub(crate) use words;

/// Describes types as strings in the schema for editors.
#[cfg(test)]
macro_rules! string_schema {
    ($($name:ident),+) => {
        $(impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string" })
            }
        })+
    };
}
#[cfg(test)]
pub(crate) use string_schema;

#[cfg(test)]
impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

#[cfg(test)]
impl<const MIN: i64, const MAX: i64> JsonSchema for Number<MIN, MAX> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Number".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

#[cfg(test)]
impl<T: JsonSchema> JsonSchema for List<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "List".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "array", "items": generator.subschema_for::<T>(), "minItems": 1 })
    }
}

#[cfg(test)]
impl<K, V: JsonSchema> JsonSchema for Pairs<K, V> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Pairs".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "additionalProperties": generator.subschema_for::<V>() })
    }
}
