//! Filters: expressions in tcpdump's language, compiled to checks on a parsed frame.
//!
//! ```text
//!  expression = term { ("and" | "&&" | "or" | "||") term }     equal precedence, from the left, as in tcpdump
//!  term       = ("not" | "!") term | "(" expression ")" | primitive
//!  primitive  = [SCOPE] [END] host ADDRESS | [SCOPE] [END] net CIDR | [END] ADDRESS | SCOPE
//!             | [tcp | udp] [END] port N | [tcp | udp] [END] portrange N-M
//!             | [ip | ip6] proto N | ether [END] MAC | ether host MAC | [END] mac MAC | ether proto N
//!             | tcp | udp | icmp | icmp6 | vlan [N] | vni [N] | broadcast | multicast
//!  SCOPE      = ip | ip6 | arp
//!  END        = src | dst | src or dst | src and dst
//! ```
//!
//! After `and` and `or`, a bare value repeats the qualifiers of the one before: `port 53 or 80`.
//!
//! *Semantics* are those of tcpdump (pcap-filter(7)), with these differences:
//!
//! - VLAN tags are transparent: `host A` matches A in frames with up to two tags. In tcpdump it matches
//!   untagged frames only, and `vlan` changes the meaning of all later primitives.
//! - `vlan N` is the frame's VLAN at the port: that of its outermost tag, or without one the port's own. `vlan` alone
//!   matches any tag.
//! - `vni N` does not exist in tcpdump. It matches frames from and to a tunnel with this VNI, and VXLAN datagrams with it.
//! - IPv6 extension headers are skipped to find protocol and ports; tcpdump uses the first header only.
//! - Names of hosts, ports and protocols are not resolved, because that could wait for the network.
//!
//! As in tcpdump, a later fragment has a protocol and no ports, a first one has both, and IPv4 `host` and `net` also match
//! ARP messages with that sender or target. Addresses are read from invalid headers too, if there are enough bytes:
//! such frames are of particular interest in a capture.
//!
//! *Limits.* 4096 bytes of text, 32 levels of parentheses and `not`, 128 checks. A frame costs at most 128 checks and
//! allocates nothing.

mod check;
mod parse;

use std::fmt;
use std::str::FromStr;

use packet::Headers;

pub use check::Subject;
use check::{ACCEPT, Check, REJECT, Step};
pub use parse::FilterError;

/// Maximum length of a filter's text, in bytes.
pub const MAX_LEN: usize = 4096;
/// Maximum number of nested parentheses and `not`.
pub const MAX_DEPTH: usize = 32;
/// Maximum number of checks in a filter.
pub const MAX_CHECKS: usize = 128;

/// A compiled filter. It is displayed as an equivalent expression with explicit parentheses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    expression: Expression,
    /// Each step continues with an earlier one, so a frame takes at most as many steps as there are.
    steps: Box<[Step]>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Expression {
    Check(Check),
    Not(Box<Expression>),
    And(Vec<Expression>),
    Or(Vec<Expression>),
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Filter, FilterError> {
        let expression = parse::parse(text)?;
        let mut steps = Vec::new();
        emit(&expression, ACCEPT, REJECT, &mut steps);
        Ok(Filter { expression, steps: steps.into() })
    }
}

impl Filter {
    /// Whether the frame matches.
    #[inline]
    #[must_use]
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        let mut at = self.steps.len() as u16 - 1;
        loop {
            let step = &self.steps[usize::from(at)];
            at = if step.check.holds(subject) { step.then } else { step.otherwise };
            match at {
                ACCEPT => return true,
                REJECT => return false,
                _ => {}
            }
        }
    }
}

/// Appends the steps of an expression, which continue with `then` if it matches and with `otherwise` if not. The first
/// step to be checked is appended last.
fn emit(expression: &Expression, then: u16, otherwise: u16, steps: &mut Vec<Step>) -> u16 {
    match expression {
        Expression::Check(check) => {
            steps.push(Step { check: *check, then, otherwise });
            steps.len() as u16 - 1
        }
        Expression::Not(inner) => emit(inner, otherwise, then, steps),
        Expression::And(all) => all.iter().rev().fold(then, |next, one| emit(one, next, otherwise, steps)),
        Expression::Or(any) => any.iter().rev().fold(otherwise, |next, one| emit(one, then, next, steps)),
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.expression.fmt(out)
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (list, word) = match self {
            Expression::Check(check) => return check.fmt(out),
            Expression::Not(inner) => return write!(out, "not {}", Part(inner)),
            Expression::And(list) => (list, "and"),
            Expression::Or(list) => (list, "or"),
        };
        for (at, part) in list.iter().enumerate() {
            if at > 0 {
                write!(out, " {word} ")?;
            }
            Part(part).fmt(out)?;
        }
        Ok(())
    }
}

/// An expression within another one, displayed in parentheses where needed.
struct Part<'a>(&'a Expression);

impl fmt::Display for Part<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Expression::And(_) | Expression::Or(_) => write!(out, "({})", self.0),
            inner => inner.fmt(out),
        }
    }
}

/// The subject for a frame with an Ethernet header that belongs to no VLAN and no tunnel.
#[must_use]
pub fn plain<'a>(headers: Option<&'a Headers>, bytes: &'a [u8]) -> Subject<'a> {
    Subject { headers, bytes, vlan: None, vni: None }
}
