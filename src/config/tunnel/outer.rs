//! What the headers say that the host puts around a tunnel's datagrams.

use std::fmt;

use crate::config::ConfigError;
use crate::config::words::{parse_number, unknown};

/// As many hops as hosts give their own packets by default (RFC 1700), and not the inner packet's: that
/// would tell routers between the hosts where a tunnel is.
const DEFAULT_TTL: u8 = 64;

const DONT_FRAGMENT: [(&str, DontFragment); 3] =
    [("set", DontFragment::Set), ("unset", DontFragment::Unset), ("inherit", DontFragment::Inherit)];

const CHECKSUM: [(&str, Checksum); 3] = [("auto", Checksum::Auto), ("on", Checksum::On), ("off", Checksum::Off)];

/// May routers between the hosts cut the datagrams? Of IPv4 alone: IPv6 is never cut on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum DontFragment {
    /// They may not.
    Set,
    /// They may.
    Unset,
    /// As the packet inside says.
    Inherit,
}

/// The UDP checksum of the datagrams that are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Checksum {
    /// Where it is needed: with IPv6, and where the kernel makes many datagrams of one.
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

/// The outer headers of one tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Outer {
    /// Hops, 1 to 255; `None` for as many as the packet inside has left.
    pub(crate) ttl: Option<u8>,
    /// Type of service, or traffic class; `None` for that of the packet inside. The ECN bits always follow
    /// the packet inside (RFC 6040).
    pub(crate) tos: Option<u8>,
    pub(crate) dont_fragment: DontFragment,
    pub(crate) checksum: Checksum,
}

impl Default for Outer {
    fn default() -> Outer {
        Outer { ttl: Some(DEFAULT_TTL), tos: Some(0), dont_fragment: DontFragment::Set, checksum: Checksum::Auto }
    }
}

/// What differs from the default, in the words of the flag: `, ttl inherit, csum on`.
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
            write!(out, ", df {}", name_of(self.dont_fragment, &DONT_FRAGMENT))?;
        }
        if self.checksum != default.checksum {
            write!(out, ", csum {}", name_of(self.checksum, &CHECKSUM))?;
        }
        Ok(())
    }
}

/// The keys as they were given.
#[derive(Debug, Default)]
pub(super) struct OuterKeys {
    ttl: Option<Option<u8>>,
    tos: Option<Option<u8>>,
    dont_fragment: Option<DontFragment>,
    checksum: Option<Checksum>,
}

impl OuterKeys {
    /// Was it given before? `None` if it is a key of something else.
    pub(super) fn read(&mut self, place: &str, key: &str, value: &str) -> Result<Option<bool>, ConfigError> {
        Ok(Some(match key {
            "ttl" => self.ttl.replace(parse_or_inherit(place, key, value, 1)?).is_some(),
            "tos" => self.tos.replace(parse_or_inherit(place, key, value, 0)?).is_some(),
            "df" => self.dont_fragment.replace(parse_word(place, key, value, &DONT_FRAGMENT)?).is_some(),
            "csum" => self.checksum.replace(parse_word(place, key, value, &CHECKSUM)?).is_some(),
            _ => return Ok(None),
        }))
    }

    /// Over this family; what is odd but allowed goes to `warnings`.
    pub(super) fn setting(&self, place: &str, is_ipv6: bool, warnings: &mut Vec<String>) -> Outer {
        let default = Outer::default();
        let outer = Outer {
            ttl: self.ttl.unwrap_or(default.ttl),
            tos: self.tos.unwrap_or(default.tos),
            dont_fragment: self.dont_fragment.unwrap_or(default.dont_fragment),
            checksum: self.checksum.unwrap_or(default.checksum),
        };
        if is_ipv6 && outer.checksum == Checksum::Off {
            warnings.push(format!(
                "{place}: IPv6 hosts drop datagrams without a checksum unless they are told to take them \
                 (RFC 6936; with Linux's vxlan it is udp6zerocsumrx)"
            ));
        }
        outer
    }
}

fn parse_or_inherit(place: &str, key: &str, text: &str, least: u8) -> Result<Option<u8>, ConfigError> {
    match text {
        "inherit" => Ok(None),
        _ => parse_number(place, &format!("{key} is inherit, or"), text, least..=u8::MAX).map(Some),
    }
}

fn parse_word<T: Copy>(place: &str, key: &str, text: &str, words: &[(&str, T)]) -> Result<T, ConfigError> {
    let known = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    let all = || words.iter().map(|(word, _)| *word).collect::<Vec<_>>();
    known.ok_or_else(|| ConfigError::new(place, unknown(key, text, &all())))
}

fn name_of<T: PartialEq>(value: T, words: &[(&'static str, T)]) -> &'static str {
    words.iter().find(|(_, other)| *other == value).map_or("", |(word, _)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_told() {
        for (pairs, say) in [
            (&[][..], ""),
            (&[("ttl", "64"), ("tos", "0"), ("df", "set"), ("csum", "auto")], ""),
            (&[("ttl", "inherit"), ("tos", "inherit")], ", ttl inherit, tos inherit"),
            (&[("ttl", "1"), ("tos", "255"), ("df", "unset"), ("csum", "off")], ", ttl 1, tos 255, df unset, csum off"),
            (&[("df", "inherit"), ("csum", "on")], ", df inherit, csum on"),
        ] {
            let mut keys = OuterKeys::default();
            for (key, value) in pairs {
                assert_eq!(keys.read("here", key, value).unwrap(), Some(false));
            }
            let mut warnings = Vec::new();
            assert_eq!(keys.setting("here", false, &mut warnings).to_string(), say);
            assert!(warnings.is_empty(), "{warnings:?}");
        }
    }
}
