//! Parameters and bodies of requests, read into their types with serde.
//!
//! serde's own errors speak of Rust's types and name no parameter. Here an error is a [`Misfit`]: it knows the parameter or member
//! at which reading stopped, and becomes a sentence with the reason and the fix.
//!
//! A value is an [`Input`]: the text of a parameter, whose type is the one that is asked for, or a value in JSON. Objects keep
//! all their members, so that a member given twice is an error. A body is as long as the server accepts (256 KiB) and as deep as
//! serde_json accepts.

use std::fmt;

use api::{Refusal, RefusalKind};
use config::unknown;
use serde::de::value::MapAccessDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess, SeqAccess, Unexpected, Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};

/// Reads the parameters of a query.
pub(super) fn parameters<T: DeserializeOwned>(query: &str) -> Result<T, Refusal> {
    let words: Vec<(String, String)> = serde_urlencoded::from_str(query)
        .map_err(|_| Refusal::bad_request("the query is not a list of parameters: write NAME=VALUE&NAME=VALUE"))?;
    let input = Input::Members(words.into_iter().map(|(name, word)| (name, Input::Word(word))).collect());
    T::deserialize(input).map_err(|misfit| misfit.refusal(RefusalKind::BadRequest, "parameter", "the query"))
}

/// Reads a body in JSON.
pub(super) fn body<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let input: Input = serde_json::from_slice(bytes).map_err(|error| {
        let what = if error.is_eof() { "ends too early" } else { "is not JSON" };
        Refusal::bad_request(format!("the request body {what}: line {}, column {}", error.line(), error.column()))
    })?;
    T::deserialize(input).map_err(|misfit| misfit.refusal(RefusalKind::Unprocessable, "member", "the request body"))
}

/// A value as it was given.
#[derive(Clone, Debug)]
enum Input {
    /// The text of a parameter.
    Word(String),
    Null,
    Switch(bool),
    Natural(u64),
    Negative(i64),
    Fraction(f64),
    Text(String),
    List(Vec<Input>),
    Members(Vec<(String, Input)>),
}

/// A value that does not fit its type.
#[derive(Debug)]
struct Misfit {
    /// Names of the members that lead to it, the outermost last.
    path: Vec<String>,
    fault: Fault,
}

#[derive(Debug)]
enum Fault {
    Wrong { wanted: String, found: String },
    Unknown { name: String, known: &'static [&'static str] },
    Missing(&'static str),
    Twice(&'static str),
    Other(String),
}

impl Misfit {
    fn new(fault: Fault) -> Misfit {
        Misfit { path: Vec::new(), fault }
    }

    fn wrong(wanted: &dyn Expected, found: impl Into<String>) -> Misfit {
        Misfit::new(Fault::Wrong { wanted: in_words(&wanted.to_string()), found: found.into() })
    }

    fn under(mut self, name: impl Into<String>) -> Misfit {
        self.path.push(name.into());
        self
    }

    /// The refusal of a request with this misfit in a `part` (a parameter or member) of `whole`.
    fn refusal(&self, kind: RefusalKind, part: &str, whole: &str) -> Refusal {
        let refusal = Refusal::new(kind, self.sentence(part, whole));
        match self.field() {
            Some(field) => refusal.of_field(field),
            None => refusal,
        }
    }

    /// The parameter or member, with those that lead to it: `interface.name`.
    fn field(&self) -> Option<String> {
        let last = match &self.fault {
            Fault::Unknown { name, .. } => Some(name.as_str()),
            Fault::Missing(name) | Fault::Twice(name) => Some(*name),
            Fault::Wrong { .. } | Fault::Other(_) => None,
        };
        let names: Vec<&str> = self.path.iter().rev().map(String::as_str).chain(last).collect();
        (!names.is_empty()).then(|| names.join("."))
    }

    /// The problem as a sentence.
    fn sentence(&self, part: &str, whole: &str) -> String {
        let field = self.field().map(|field| field.escape_debug().to_string());
        let subject = field.as_deref().unwrap_or(whole);
        match &self.fault {
            Fault::Wrong { wanted, found } => format!("{subject} is {wanted}, not {found}"),
            Fault::Unknown { name, known: [] } => {
                format!("unknown {part} '{}': {whole} has none, leave it out", name.escape_debug())
            }
            Fault::Unknown { name, known } => unknown(part, name, known),
            Fault::Missing(_) => format!("'{subject}' is missing: add this {part} to {whole}"),
            Fault::Twice(_) => format!("'{subject}' is given twice: leave one of both out"),
            Fault::Other(text) if field.is_some() => format!("{subject}: {text}"),
            Fault::Other(text) => text.clone(),
        }
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.sentence("member", "the request"))
    }
}

impl std::error::Error for Misfit {}

impl de::Error for Misfit {
    fn custom<T: fmt::Display>(text: T) -> Misfit {
        Misfit::new(Fault::Other(text.to_string()))
    }

    fn invalid_type(found: Unexpected<'_>, wanted: &dyn Expected) -> Misfit {
        Misfit::wrong(wanted, described(found))
    }

    fn invalid_value(found: Unexpected<'_>, wanted: &dyn Expected) -> Misfit {
        Misfit::wrong(wanted, described(found))
    }

    fn unknown_variant(found: &str, known: &'static [&'static str]) -> Misfit {
        Misfit::new(Fault::Wrong { wanted: format!("one of {}", known.join(", ")), found: quoted(found) })
    }

    fn unknown_field(name: &str, known: &'static [&'static str]) -> Misfit {
        Misfit::new(Fault::Unknown { name: name.to_owned(), known })
    }

    fn missing_field(name: &'static str) -> Misfit {
        Misfit::new(Fault::Missing(name))
    }

    fn duplicate_field(name: &'static str) -> Misfit {
        Misfit::new(Fault::Twice(name))
    }
}

/// What serde calls a type, in words.
fn in_words(wanted: &str) -> String {
    let numbers = |last: u64| format!("a number from 0 to {last}");
    match wanted {
        "u8" => numbers(u8::MAX.into()),
        "u16" => numbers(u16::MAX.into()),
        "u32" => numbers(u32::MAX.into()),
        "u64" | "usize" => "a number from 0".to_owned(),
        "i8" | "i16" | "i32" | "i64" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" => "text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "IPv4 address" => "an IPv4 address such as 10.77.0.2".to_owned(),
        "IPv6 address" => "an IPv6 address such as fd00::2".to_owned(),
        "IP address" => "an IP address".to_owned(),
        _ if wanted.starts_with("enum ") => "one of its words".to_owned(),
        _ if wanted.starts_with("struct ") => "an object".to_owned(),
        other => other.to_owned(),
    }
}

fn described(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(is_on) => is_on.to_string(),
        Unexpected::Unsigned(number) => number.to_string(),
        Unexpected::Signed(number) => number.to_string(),
        Unexpected::Float(number) => number.to_string(),
        Unexpected::Str(text) => quoted(text),
        Unexpected::Unit | Unexpected::Option => "null".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map => "an object".to_owned(),
        other => other.to_string(),
    }
}

/// Text of a client, which an error repeats at no more than this number of characters.
const LONGEST_QUOTE: usize = 60;

fn quoted(text: &str) -> String {
    let mut start: String = text.chars().take(LONGEST_QUOTE).collect();
    if start.len() < text.len() {
        start.push_str("...");
    }
    format!("'{}'", start.escape_debug())
}

/// Numbers and switches of a parameter's text.
macro_rules! parsed {
    ($($method:ident => $visit:ident: $type:ty,)+) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
            match &self {
                Input::Word(word) => match word.parse::<$type>() {
                    Ok(value) => visitor.$visit(value),
                    Err(_) => Err(Misfit::wrong(&visitor, quoted(word))),
                },
                _ => self.deserialize_any(visitor),
            }
        }
    )+};
}

impl<'de> Deserializer<'de> for Input {
    type Error = Misfit;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self {
            Input::Null => visitor.visit_unit(),
            Input::Switch(is_on) => visitor.visit_bool(is_on),
            Input::Natural(number) => visitor.visit_u64(number),
            Input::Negative(number) => visitor.visit_i64(number),
            Input::Fraction(number) => visitor.visit_f64(number),
            Input::Word(text) | Input::Text(text) => visitor.visit_string(text),
            Input::List(items) => visitor.visit_seq(Items { items: items.into_iter(), next: 0 }),
            Input::Members(members) => visitor.visit_map(Members::new(members)),
        }
    }

    parsed! {
        deserialize_bool => visit_bool: bool,
        deserialize_u8 => visit_u8: u8,
        deserialize_u16 => visit_u16: u16,
        deserialize_u32 => visit_u32: u32,
        deserialize_u64 => visit_u64: u64,
        deserialize_i8 => visit_i8: i8,
        deserialize_i16 => visit_i16: i16,
        deserialize_i32 => visit_i32: i32,
        deserialize_i64 => visit_i64: i64,
        deserialize_f32 => visit_f32: f32,
        deserialize_f64 => visit_f64: f64,
    }

    /// A text with a notation of its own, such as an address, says what it wants if it cannot be read.
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        let (Input::Word(text) | Input::Text(text)) = self else { return self.deserialize_any(visitor) };
        let wanted = in_words(&(&visitor as &dyn Expected).to_string());
        let is_plain = wanted == "text";
        let found = quoted(&text);
        visitor.visit_string(text).map_err(|misfit: Misfit| match misfit.fault {
            Fault::Other(_) if !is_plain => Misfit::new(Fault::Wrong { wanted, found }),
            _ => misfit,
        })
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Misfit> {
        match self {
            Input::Null => visitor.visit_none(),
            some => visitor.visit_some(some),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Misfit> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Misfit> {
        match self {
            Input::Word(word) | Input::Text(word) => visitor.visit_enum(IntoDeserializer::<Misfit>::into_deserializer(word)),
            Input::Members(members) => visitor.visit_enum(MapAccessDeserializer::new(Members::new(members))),
            other => other.deserialize_any(visitor),
        }
    }

    forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct seq tuple tuple_struct map struct identifier ignored_any
    }
}

struct Members {
    rest: std::vec::IntoIter<(String, Input)>,
    current: Option<(String, Input)>,
}

impl Members {
    fn new(members: Vec<(String, Input)>) -> Members {
        Members { rest: members.into_iter(), current: None }
    }
}

impl<'de> MapAccess<'de> for Members {
    type Error = Misfit;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Misfit> {
        self.current = self.rest.next();
        let Some((name, _)) = &self.current else { return Ok(None) };
        seed.deserialize(IntoDeserializer::<Misfit>::into_deserializer(name.clone())).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Misfit> {
        let (name, input) = self.current.take().unwrap_or((String::new(), Input::Null));
        seed.deserialize(input).map_err(|misfit| misfit.under(name))
    }
}

struct Items {
    items: std::vec::IntoIter<Input>,
    next: usize,
}

impl<'de> SeqAccess<'de> for Items {
    type Error = Misfit;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Misfit> {
        let Some(item) = self.items.next() else { return Ok(None) };
        let at = self.next;
        self.next += 1;
        seed.deserialize(item).map(Some).map_err(|misfit| misfit.under(at.to_string()))
    }
}

/// Reads any JSON.
impl<'de> Deserialize<'de> for Input {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Input, D::Error> {
        struct AnyJson;

        impl<'de> Visitor<'de> for AnyJson {
            type Value = Input;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("JSON")
            }

            fn visit_unit<E>(self) -> Result<Input, E> {
                Ok(Input::Null)
            }

            fn visit_bool<E>(self, is_on: bool) -> Result<Input, E> {
                Ok(Input::Switch(is_on))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Input, E> {
                Ok(Input::Natural(number))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Input, E> {
                Ok(Input::Negative(number))
            }

            fn visit_f64<E>(self, number: f64) -> Result<Input, E> {
                Ok(Input::Fraction(number))
            }

            fn visit_str<E>(self, text: &str) -> Result<Input, E> {
                Ok(Input::Text(text.to_owned()))
            }

            fn visit_string<E>(self, text: String) -> Result<Input, E> {
                Ok(Input::Text(text))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Input, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Input::List(items))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Input, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Input::Members(members))
            }
        }

        deserializer.deserialize_any(AnyJson)
    }
}

#[cfg(test)]
mod tests {
    use api::LogChange;
    use api::query::{Apply, ConnectionList, Followed, MacFilter, NewPort};

    use super::*;

    fn refused<T: DeserializeOwned + fmt::Debug>(result: Result<T, Refusal>) -> (u16, String, Option<String>) {
        let refusal = result.unwrap_err();
        (refusal.status(), refusal.text, refusal.field)
    }

    #[test]
    fn parameters_have_the_types_that_are_asked_for() {
        let list: ConnectionList = parameters("address=10.0.0.1&port=80&protocol=tcp&limit=7").unwrap();
        assert_eq!((list.port, list.limit), (Some(80), Some(7)));
        assert_eq!((list.address, list.protocol), (Some([10, 0, 0, 1].into()), Some(api::Protocol::TCP)));
        assert!(parameters::<Apply>("dry-run=true").unwrap().dry_run);
        assert_eq!(parameters::<MacFilter>("").unwrap().port, None);
        assert_eq!(parameters::<MacFilter>("port=7").unwrap().port.as_deref(), Some("7"), "a text of digits");
    }

    #[test]
    fn parameters_that_do_not_fit_are_named_with_the_fix() {
        let of = |query: &str| refused(parameters::<ConnectionList>(query));
        let say = |field: &str, text: &str| (400, text.to_owned(), Some(field.to_owned()));
        assert_eq!(of("prot=80"), say("prot", "unknown parameter 'prot': did you mean 'port'?"));
        assert_eq!(of("port=70000"), say("port", "port is a number from 0 to 65535, not '70000'"));
        assert_eq!(of("port="), say("port", "port is a number from 0 to 65535, not ''"));
        let address = "address is an IPv4 address such as 10.77.0.2, not 'x'";
        assert_eq!(of("address=x"), say("address", address));
        assert_eq!(of("port=1&port=2"), say("port", "'port' is given twice: leave one of both out"));
        let protocol = "protocol: 'sctp' is not a protocol: write tcp, udp, icmp, or a number from 0 to 255";
        assert_eq!(of("protocol=sctp"), say("protocol", protocol));
        let missing = "'count' is missing: add this parameter to the query";
        assert_eq!(refused(parameters::<Followed>("port=a")), say("count", missing));
        let long = "x".repeat(200);
        assert!(of(&format!("port={long}")).1.len() < 120, "an error repeats the start only");
    }

    #[test]
    fn bodies_that_do_not_fit_are_named_with_the_fix() {
        let of = |body: &str| refused(super::body::<NewPort>(body.as_bytes()));
        let say = |field: &str, text: &str| (422, text.to_owned(), Some(field.to_owned()));
        assert_eq!(of("{\"port\": 7}"), say("port", "port is text, not 7"));
        assert_eq!(of("{\"port\": null}"), say("port", "port is text, not null"));
        assert_eq!(of("{}"), say("port", "'port' is missing: add this member to the request body"));
        assert_eq!(of("{\"port\": \"a\", \"prot\": 1}"), say("prot", "unknown member 'prot': did you mean 'port'?"));
        assert_eq!(of("{\"port\": \"a\", \"port\": \"b\"}"), say("port", "'port' is given twice: leave one of both out"));
        assert_eq!(of("7"), (422, "the request body is an object, not 7".to_owned(), None));
        assert_eq!(of("{\"port\": "), (400, "the request body ends too early: line 1, column 9".to_owned(), None));
        assert_eq!(of("{port: 1}"), (400, "the request body is not JSON: line 1, column 2".to_owned(), None));
        let deep = "[".repeat(100_000);
        assert_eq!(of(&deep).0, 400, "no stack is deep enough");
        let change: LogChange = super::body(b"{\"part\": null, \"level\": \"info\"}").unwrap();
        assert_eq!((change.part, change.level.as_str()), (None, "info"));
    }

    #[test]
    fn members_of_members_are_named_by_their_path() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Outer {
            #[allow(dead_code, reason = "only read")]
            guests: Vec<Inner>,
        }
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Inner {
            #[allow(dead_code, reason = "only read")]
            vlan: u16,
        }
        let of = |body: &str| refused(super::body::<Outer>(body.as_bytes()));
        let (_, text, field) = of("{\"guests\": [{\"vlan\": 1}, {\"vlan\": -1}]}");
        assert_eq!(
            (text.as_str(), field.as_deref()),
            ("guests.1.vlan is a number from 0 to 65535, not -1", Some("guests.1.vlan"))
        );
        assert_eq!(of("{\"guests\": [{}]}").2.as_deref(), Some("guests.0.vlan"));
        assert_eq!(of("{\"guests\": {}}").1, "guests is a list, not an object");
    }
}
