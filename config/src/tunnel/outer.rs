//! The headers that the host puts around a tunnel's datagrams.

use std::fmt;

#[cfg(test)]
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use crate::keys::keys;
use crate::problem::Problems;
use crate::raw::{Raw, RawValue};
use crate::value::{Value, words};

/// As many hops as hosts give their own packets by default (RFC 1700), and not the inner packet's, which would show routers on the
/// path that there is a tunnel.
const DEFAULT_TTL: u8 = 64;

words! {
    /// Whether routers between the hosts may fragment the datagrams; of IPv4 alone, as routers never fragment IPv6.
    pub enum DontFragment {
        /// They may not.
        Set = "set",
        /// They may.
        Unset = "unset",
        /// As the packet inside says.
        Inherit = "inherit",
    }
}

words! {
    /// The UDP checksum of the datagrams that are sent.
    pub enum Checksum {
        /// Where it is needed: with IPv6, and where the kernel makes several datagrams of one.
        Auto = "auto",
        /// Always.
        On = "on",
        /// Never.
        Off = "off",
    }
}

/// The outer headers of one tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outer {
    /// Hops, 1 to 255; `None` for as many as the packet inside has left.
    pub ttl: Option<u8>,
    /// Type of service, or traffic class; `None` for that of the packet inside. The ECN bits always follow the packet inside (RFC 6040).
    pub tos: Option<u8>,
    /// Whether routers may fragment the datagrams.
    pub dont_fragment: DontFragment,
    /// The UDP checksum.
    pub checksum: Checksum,
}

/// A byte from `MIN`, or `inherit` for that of the packet inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct ByteOrInherit<const MIN: u8>(Option<u8>);

keys! {
    /// The keys of the outer headers.
    struct OuterKeys {
        /// Hops of the outer header, 1 to 255, or inherit. Default: 64.
        "ttl" => ttl: ByteOrInherit<1>,
        /// Type of service of the outer header, 0 to 255, or inherit. Default: 0.
        "tos" => tos: ByteOrInherit<0>,
        /// Whether routers may not fragment the datagrams: set, unset or inherit. Default: set.
        "df" => dont_fragment: DontFragment,
        /// The outer UDP checksum: auto, on or off. Default: auto.
        "csum" => checksum: Checksum,
    }
}

impl OuterKeys {
    pub(super) fn outer(&self) -> Outer {
        let default = Outer::default();
        Outer {
            ttl: self.ttl.as_ref().map_or(default.ttl, |ttl| ttl.value.0),
            tos: self.tos.as_ref().map_or(default.tos, |tos| tos.value.0),
            dont_fragment: self.dont_fragment.as_ref().map_or(default.dont_fragment, |df| df.value),
            checksum: self.checksum.as_ref().map_or(default.checksum, |checksum| checksum.value),
        }
    }
}

impl Outer {
    /// A warning about a setting that may be a mistake over this address family.
    pub(super) fn warning(&self, is_ipv6: bool) -> Option<&'static str> {
        let text = "IPv6 hosts drop datagrams without a checksum unless they are configured to accept them (RFC 6936; with Linux's vxlan it \
                    is udp6zerocsumrx)";
        (is_ipv6 && self.checksum == Checksum::Off).then_some(text)
    }
}

impl Default for Outer {
    fn default() -> Outer {
        Outer { ttl: Some(DEFAULT_TTL), tos: Some(0), dont_fragment: DontFragment::Set, checksum: Checksum::Auto }
    }
}

/// Differences from the default, in the words of the keys: `, ttl inherit, csum on`.
impl fmt::Display for Outer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default = Outer::default();
        let number = |number: Option<u8>| number.map_or_else(|| "inherit".to_owned(), |number| number.to_string());
        if self.ttl != default.ttl {
            write!(out, ", ttl {}", number(self.ttl))?;
        }
        if self.tos != default.tos {
            write!(out, ", tos {}", number(self.tos))?;
        }
        if self.dont_fragment != default.dont_fragment {
            write!(out, ", df {}", self.dont_fragment.name())?;
        }
        if self.checksum != default.checksum {
            write!(out, ", csum {}", self.checksum.name())?;
        }
        Ok(())
    }
}

impl<const MIN: u8> Value for ByteOrInherit<MIN> {
    fn read(raw: &Raw, key: &str, problems: &mut Problems) -> Option<ByteOrInherit<MIN>> {
        let number = match &raw.value {
            RawValue::Word(text) | RawValue::Text(text) if text == "inherit" => return Some(ByteOrInherit(None)),
            RawValue::Word(text) => text.parse().ok(),
            RawValue::Number(number) => u8::try_from(*number).ok(),
            RawValue::Text(text) => text.parse().ok(),
            _ => None,
        };
        if let Some(number) = number.filter(|number| *number >= MIN) {
            return Some(ByteOrInherit(Some(number)));
        }
        problems.add(&raw.origin, raw.is_not(key, &format!("inherit, or a number from {MIN} to 255")));
        None
    }
}

#[cfg(test)]
impl<const MIN: u8> JsonSchema for ByteOrInherit<MIN> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ByteOrInherit".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": MIN, "maximum": 255 }, { "type": "string" }] })
    }
}
