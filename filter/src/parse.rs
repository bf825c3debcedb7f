//! The parser of filter expressions. Errors point to the word that is wrong.

use std::fmt;
use std::net::IpAddr;
use std::ops::Range;

use packet::{EtherType, MacAddr, tcp, udp};

use crate::check::{Check, End, Net, Scope};
use crate::expression::Expression;

/// Maximum length of a filter expression, in bytes.
pub const MAX_LEN: usize = 4096;
/// Maximum nesting of parentheses and `not`.
pub const MAX_DEPTH: usize = 32;
/// Maximum number of checks in a filter.
pub const MAX_CHECKS: usize = 128;

/// The words of the language, for suggestions.
const WORDS: [&str; 26] = [
    "and",
    "or",
    "not",
    "src",
    "dst",
    "host",
    "net",
    "port",
    "portrange",
    "proto",
    "ip",
    "ip6",
    "arp",
    "tcp",
    "udp",
    "icmp",
    "icmp6",
    "ether",
    "mac",
    "vlan",
    "vni",
    "broadcast",
    "multicast",
    "sctp",
    "(",
    ")",
];

/// A syntax error in a filter: its position, the reason, and a suggestion.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FilterError {
    text: String,
    at: Range<usize>,
    what: String,
}

impl FilterError {
    /// The position of the wrong word in the text, in bytes.
    #[must_use]
    pub fn at(&self) -> Range<usize> {
        self.at.clone()
    }

    /// The text, and a second line that marks the wrong word, for a terminal.
    #[must_use]
    pub fn drawing(&self) -> String {
        let plain = |text: &str| text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>();
        let (before, word) = (&self.text[..self.at.start], &self.text[self.at.clone()]);
        let marks = "^".repeat(word.chars().count().max(1));
        format!("{}\n{}{marks}", plain(&self.text), " ".repeat(before.chars().count()))
    }
}

impl fmt::Display for FilterError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = &self.text[self.at.clone()];
        match word {
            "" => write!(out, "the filter is incomplete: {}", self.what),
            _ if word.len() > 40 => write!(out, "in the filter at byte {}: {}", self.at.start, self.what),
            _ => write!(out, "in the filter at {word:?}: {}", self.what),
        }
    }
}

impl std::error::Error for FilterError {}

pub(crate) fn parse(text: &str) -> Result<Expression, FilterError> {
    let mut parser = Parser { text, words: Vec::new(), at: 0, checks: 0, last: None };
    if text.len() > MAX_LEN {
        return Err(parser.error(0..0, format!("a filter has at most {MAX_LEN} bytes")));
    }
    parser.words = words_of(text);
    let expression = parser.expression(0)?;
    match parser.peek() {
        "" => Ok(expression),
        ")" => Err(parser.wrong("there is no '(' for it")),
        word if is_value(word) => Err(parser.wrong("'and' or 'or' is missing before it")),
        word => Err(parser.wrong(with_nearest(word, "'and' or 'or' is missing before it"))),
    }
}

/// The ranges of the words in the text.
fn words_of(text: &str) -> Vec<Range<usize>> {
    let mut words: Vec<Range<usize>> = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let len = match first {
            _ if first.is_whitespace() => {
                at += first.len_utf8();
                continue;
            }
            '(' | ')' | '!' => 1,
            '&' | '|' if rest.as_bytes().get(1) == Some(&(first as u8)) => 2,
            _ => {
                let ends = |c: char| c.is_whitespace() || matches!(c, '(' | ')' | '!' | '&' | '|');
                rest.char_indices().skip(1).find(|(_, c)| ends(*c)).map_or(rest.len(), |(end, _)| end)
            }
        };
        words.push(at..at + len);
        at += len;
    }
    words
}

/// The qualifiers before a value.
#[derive(Clone, Copy, Debug)]
struct Words {
    scope: Scope,
    protocol: Option<u8>,
    end: End,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Host,
    Net,
    Port,
    PortRange,
    Mac,
}

struct Parser<'a> {
    text: &'a str,
    words: Vec<Range<usize>>,
    at: usize,
    checks: usize,
    /// The qualifiers of the previous value.
    last: Option<Words>,
}

type Parsed<T> = Result<T, FilterError>;

impl<'a> Parser<'a> {
    /// The next word; empty at the end.
    fn peek(&self) -> &'a str {
        self.words.get(self.at).map_or("", |range| &self.text[range.clone()])
    }

    fn next(&mut self) -> &'a str {
        let word = self.peek();
        self.at += 1;
        word
    }

    fn take(&mut self, words: &[&str]) -> bool {
        let is_one = words.contains(&self.peek());
        self.at += usize::from(is_one);
        is_one
    }

    fn error(&self, at: Range<usize>, what: impl Into<String>) -> FilterError {
        // A text that is too long is not kept.
        let text = if self.text.len() > MAX_LEN { "" } else { self.text };
        FilterError { text: text.to_owned(), at, what: what.into() }
    }

    /// An error at the next word.
    fn wrong(&self, what: impl Into<String>) -> FilterError {
        let end = self.text.len();
        self.error(self.words.get(self.at).cloned().unwrap_or(end..end), what)
    }

    /// An error at the word just taken.
    fn wrong_word(&self, what: impl Into<String>) -> FilterError {
        let end = self.text.len();
        let at = self.at.checked_sub(1).and_then(|at| self.words.get(at));
        self.error(at.cloned().unwrap_or(end..end), what)
    }

    fn expression(&mut self, depth: usize) -> Parsed<Expression> {
        let mut left = self.term(depth)?;
        loop {
            let is_and = match self.peek() {
                "and" | "&&" => true,
                "or" | "||" => false,
                _ => return Ok(left),
            };
            self.at += 1;
            let right = self.term(depth)?;
            left = match (left, is_and) {
                (Expression::And(mut all), true) => {
                    all.push(right);
                    Expression::And(all)
                }
                (Expression::Or(mut any), false) => {
                    any.push(right);
                    Expression::Or(any)
                }
                (left, true) => Expression::And(vec![left, right]),
                (left, false) => Expression::Or(vec![left, right]),
            };
        }
    }

    fn term(&mut self, depth: usize) -> Parsed<Expression> {
        if depth == MAX_DEPTH {
            return Err(self.wrong(format!("more than {MAX_DEPTH} levels of parentheses and 'not'")));
        }
        if self.take(&["not", "!"]) {
            return Ok(Expression::Not(Box::new(self.term(depth + 1)?)));
        }
        if self.take(&["("]) {
            let inner = self.expression(depth + 1)?;
            if !self.take(&[")"]) {
                return Err(self.wrong("a ')' is missing"));
            }
            return Ok(inner);
        }
        if self.checks == MAX_CHECKS {
            return Err(self.wrong(format!("more than {MAX_CHECKS} checks in one filter")));
        }
        self.checks += 1;
        self.primitive().map(Expression::Check)
    }

    fn primitive(&mut self) -> Parsed<Check> {
        let word = self.peek();
        if is_value(word) {
            return self.value_alone();
        }
        match self.next() {
            "vlan" => self.number_if_any(4094).map(|vlan| Check::Vlan(vlan.map(|vlan| vlan as u16))),
            "vni" => self.number_if_any((1 << 24) - 1).map(Check::Vni),
            "broadcast" => Ok(Check::Broadcast),
            "multicast" => Ok(Check::Multicast),
            "icmp" => Ok(Check::Protocol(Scope::Ip, 1)),
            "icmp6" => Ok(Check::Protocol(Scope::Ip6, 58)),
            "sctp" => Ok(Check::Protocol(Scope::Any, 132)),
            "proto" => self.protocol(Scope::Any),
            "ether" => self.ether(),
            "ip" => self.scoped(Scope::Ip, EtherType::IPV4),
            "ip6" => self.scoped(Scope::Ip6, EtherType::IPV6),
            "arp" => self.scoped(Scope::Arp, EtherType::ARP),
            "tcp" => self.transport("tcp", tcp::PROTOCOL),
            "udp" => self.transport("udp", udp::PROTOCOL),
            _ => {
                self.at -= 1;
                self.qualified(Scope::Any, None)
            }
        }
    }

    /// Parses `src`, `dst`, or both with `and` or `or`, if present.
    fn end(&mut self) -> Option<End> {
        let first = match self.peek() {
            "src" => End::Src,
            "dst" => End::Dst,
            _ => return None,
        };
        self.at += 1;
        let other = if first == End::Src { "dst" } else { "src" };
        let both = self.peek();
        let is_other = self.words.get(self.at + 1).is_some_and(|range| &self.text[range.clone()] == other);
        Some(match both {
            "or" | "||" | "and" | "&&" if is_other && !self.ends_alone(self.at + 2) => {
                self.at += 2;
                if both == "or" || both == "||" { End::Either } else { End::Both }
            }
            _ => first,
        })
    }

    /// True if the word at this place cannot follow `src` or `dst`.
    fn ends_alone(&self, at: usize) -> bool {
        self.words.get(at).is_none_or(|range| matches!(&self.text[range.clone()], ")" | "and" | "or" | "&&" | "||"))
    }

    /// Parses what follows `ip`, `ip6` or `arp`.
    fn scoped(&mut self, scope: Scope, ether_type: EtherType) -> Parsed<Check> {
        match self.peek() {
            "proto" if scope != Scope::Arp => {
                self.at += 1;
                self.protocol(scope)
            }
            "src" | "dst" | "host" | "net" => self.qualified(scope, None),
            "port" | "portrange" => Err(self.wrong(format!("ports belong to tcp and udp: write '{scope}and port N'"))),
            _ => Ok(Check::EtherType(ether_type)),
        }
    }

    /// Parses what follows `tcp` or `udp`.
    fn transport(&mut self, name: &str, number: u8) -> Parsed<Check> {
        match self.peek() {
            "src" | "dst" | "port" | "portrange" => self.qualified(Scope::Any, Some(number)),
            word @ ("host" | "net") => Err(self.wrong(format!("{name} has ports but no hosts: write '{name} and {word} ..'"))),
            _ => Ok(Check::Protocol(Scope::Any, number)),
        }
    }

    /// Parses what follows `ether`.
    fn ether(&mut self) -> Parsed<Check> {
        match self.peek() {
            "proto" => {
                self.at += 1;
                let number = self.number(0xffff, "an Ethernet type such as 0x0800")?;
                Ok(Check::EtherType(EtherType(number as u16)))
            }
            "broadcast" | "multicast" => self.primitive(),
            "host" | "src" | "dst" => {
                let end = self.end().unwrap_or_default();
                self.take(&["host"]);
                self.value(Words { scope: Scope::Any, protocol: None, end, kind: Kind::Mac })
            }
            _ => Err(self.wrong("'ether' must be followed by host, src, dst, proto, broadcast or multicast")),
        }
    }

    fn protocol(&mut self, scope: Scope) -> Parsed<Check> {
        let known = match self.peek() {
            "icmp" => Some(1),
            "tcp" => Some(6),
            "udp" => Some(17),
            "icmp6" => Some(58),
            "sctp" => Some(132),
            _ => None,
        };
        if let Some(number) = known {
            self.at += 1;
            return Ok(Check::Protocol(scope, number));
        }
        Ok(Check::Protocol(scope, self.number(255, "a number from 0 to 255, tcp, udp, icmp, icmp6 or sctp")? as u8))
    }

    /// Parses a direction, a kind, or both, and a value.
    fn qualified(&mut self, scope: Scope, protocol: Option<u8>) -> Parsed<Check> {
        let end = self.end();
        let kind = match self.peek() {
            "host" => Kind::Host,
            "net" => Kind::Net,
            "port" => Kind::Port,
            "portrange" => Kind::PortRange,
            "mac" => Kind::Mac,
            word if end.is_some() && protocol.is_none() && is_value(word) => {
                let kind = if word.parse::<MacAddr>().is_ok() { Kind::Mac } else { Kind::Host };
                return self.value(Words { scope, protocol, end: end.unwrap_or_default(), kind });
            }
            "" => return Err(self.wrong("a word such as host, net, port, tcp or vlan is expected")),
            word => return Err(self.wrong(with_nearest(word, "unknown word"))),
        };
        let fits = match kind {
            Kind::Host | Kind::Net => protocol.is_none(),
            Kind::Port | Kind::PortRange => scope == Scope::Any,
            Kind::Mac => protocol.is_none() && scope == Scope::Any,
        };
        if !fits {
            return Err(self.wrong("this cannot follow the previous word: put 'and' between them"));
        }
        self.at += 1;
        self.value(Words { scope, protocol, end: end.unwrap_or_default(), kind })
    }

    /// Parses a value without qualifiers, which has those of the previous value if they fit.
    fn value_alone(&mut self) -> Parsed<Check> {
        let word = self.peek();
        let is_address = word.parse::<IpAddr>().is_ok();
        let is_mac = word.parse::<MacAddr>().is_ok();
        let is_number = word.parse::<u32>().is_ok();
        match self.last {
            Some(last) if is_number && matches!(last.kind, Kind::Port | Kind::PortRange) => {
                self.value(Words { kind: Kind::Port, ..last })
            }
            Some(last) if is_address && last.kind == Kind::Host || is_mac && last.kind == Kind::Mac => self.value(last),
            Some(last) if word.contains('/') && last.kind == Kind::Net => self.value(last),
            Some(last) if word.contains('-') && last.kind == Kind::PortRange => self.value(last),
            _ if is_address => self.value(Words { scope: Scope::Any, protocol: None, end: End::Either, kind: Kind::Host }),
            _ if is_mac => Err(self.wrong(format!("write 'ether host {word}'"))),
            _ if is_number => Err(self.wrong(format!("ambiguous number: write 'port {word}', 'vlan {word}' or 'proto {word}'"))),
            _ if word.contains('/') => Err(self.wrong(format!("write 'net {word}'"))),
            _ => Err(self.wrong(with_nearest(word, "unknown word"))),
        }
    }

    fn value(&mut self, words: Words) -> Parsed<Check> {
        let Words { scope, protocol, end, kind } = words;
        self.last = Some(words);
        let word = self.next();
        match kind {
            Kind::Mac => {
                let mac = word.parse().map_err(|error: packet::mac::InvalidMacAddr| self.wrong_word(error.to_string()))?;
                Ok(Check::Mac(end, mac))
            }
            Kind::Host => {
                let address: IpAddr = word.parse().map_err(|_| self.wrong_word(no_address(word)))?;
                let prefix = if address.is_ipv4() { 32 } else { 128 };
                self.address(scope, end, Net { address, prefix })
            }
            Kind::Net => {
                let net = net(word).map_err(|what| self.wrong_word(what))?;
                self.address(scope, end, net)
            }
            Kind::Port => {
                let port = word.parse().map_err(|_| self.wrong_word("a port is a number from 0 to 65535"))?;
                Ok(Check::Ports(protocol, end, port, port))
            }
            Kind::PortRange => {
                let ports = word.split_once('-').and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)));
                let (first, last): (u16, u16) = ports.ok_or_else(|| self.wrong_word("a port range is written as 8000-8080"))?;
                if first > last {
                    return Err(self.wrong_word(format!("the first port is higher than the last: write {last}-{first}")));
                }
                Ok(Check::Ports(protocol, end, first, last))
            }
        }
    }

    fn address(&self, scope: Scope, end: End, net: Net) -> Parsed<Check> {
        match (scope, net.address) {
            (Scope::Ip | Scope::Arp, IpAddr::V6(_)) => Err(self.wrong_word("an IPv6 address, but an IPv4 address is expected")),
            (Scope::Ip6, IpAddr::V4(_)) => Err(self.wrong_word("an IPv4 address, but an IPv6 address is expected")),
            _ => Ok(Check::Address(scope, end, net)),
        }
    }

    /// Parses a decimal number, or with `0x` a hexadecimal one.
    fn number(&mut self, most: u32, what: &str) -> Parsed<u32> {
        let word = self.next();
        let number = match word.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => word.parse().ok(),
        };
        number.filter(|number| *number <= most).ok_or_else(|| self.wrong_word(format!("expected {what}")))
    }

    fn number_if_any(&mut self, most: u32) -> Parsed<Option<u32>> {
        if !self.peek().starts_with(|c: char| c.is_ascii_digit()) {
            return Ok(None);
        }
        self.number(most, &format!("a number from 0 to {most}")).map(Some)
    }
}

/// True if the word looks like an address or a number.
fn is_value(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_digit()) || word.contains([':', '.', '/'])
}

fn net(word: &str) -> Result<Net, String> {
    let Some((address, prefix)) = word.split_once('/') else {
        let hint = if word.parse::<IpAddr>().is_ok() { format!("; for one host write 'host {word}'") } else { String::new() };
        return Err(format!("a network is written as 10.0.0.0/8{hint}"));
    };
    let address: IpAddr = address.parse().map_err(|_| no_address(address))?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.parse().ok().filter(|prefix| *prefix <= most);
    let net = Net { address, prefix: prefix.ok_or_else(|| format!("a prefix is a number from 0 to {most}"))? };
    if net.masked() != address {
        return Err(format!("host bits are set; write {}/{}", net.masked(), net.prefix));
    }
    Ok(net)
}

fn no_address(word: &str) -> String {
    if word.contains('/') {
        return format!("a network, but a host is expected: write 'net {word}'");
    }
    "an address is expected (names are not resolved)".to_owned()
}

/// Appends the most similar word of the language, if there is one.
fn with_nearest(word: &str, what: &str) -> String {
    let word = word.to_ascii_lowercase();
    let near = WORDS.into_iter().map(|known| (strsim::damerau_levenshtein(known, &word), known)).min();
    match near {
        Some((distance, known)) if distance <= known.len() / 2 && distance < word.chars().count() => {
            format!("{what}; did you mean '{known}'?")
        }
        _ => what.to_owned(),
    }
}
